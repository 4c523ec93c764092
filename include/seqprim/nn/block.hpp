// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/math.hpp>
#include <seqprim/linalg/matmul.hpp>
#include <seqprim/linalg/rows.hpp>
#include <seqprim/nn/detail/rows.hpp>
#include <seqprim/nn/parameter.hpp>

#include <concepts>
#include <string>
#include <type_traits>
#include <utility>

namespace seqprim::nn {

namespace detail {

/// What parameters are visited with, for the checks below.
struct any_visitor {
  template <class Parameter> void operator()(const std::string&, Parameter&&) const {}
};

/// A part of a block: made from dim and a config, with an element type, a name and parameters.
template <class L>
concept configured_part = requires(const L& layer, index_t dim, const typename L::config& options, any_visitor visit) {
  typename L::value_type;
  L(dim, options);
  layer.visit_parameters(visit);
};

/// forward and backward over [batch, len, dim].
template <class L, class T = typename L::value_type>
concept differentiable_part = requires(const L& fixed, L& layer, const cpu& executor, tensor_view<const T, 3> x,
                                       tensor_view<T, 3> y, typename L::activations& saved) {
  fixed.forward(executor, x, y, saved);
  layer.backward(executor, x, x, y, saved);
};

/// Decoding: a state of `batch` sequences of at most `capacity` tokens, a function that reads the next tokens into it, and a
/// check of what extend cannot take: a model checks all layers before the first one writes. The last number is where the call
/// ends, of which these tokens may be one chunk.
template <class L, class T = typename L::value_type>
concept decoding_part = requires(const L& fixed, const cpu& executor, tensor_view<const T, 3> x, tensor_view<T, 3> y,
                                 typename L::state& past, index_t n) {
  requires std::constructible_from<typename L::state, const L&, index_t, index_t>;
  fixed.extend(executor, x, y, past, n, n);
  fixed.validate_extend(std::as_const(past), n, n, n, n);
};

}  // namespace detail

/// Mixes the tokens of a sequence: nn::attention_mixer, or a type with the same members.
template <class M>
concept token_mixer =
    detail::configured_part<M> && detail::differentiable_part<M> && detail::decoding_part<M> && requires {
  typename M::isa;
  std::string(M::name);
};

/// Mixes the channels of a token: nn::gated_mlp, or a type with the same members. Has no state.
template <class M>
concept channel_mixer =
    detail::configured_part<M> && detail::differentiable_part<M> && !detail::decoding_part<M> && requires {
  std::string(M::name);
};

/// Normalizes tokens: nn::rms_norm, nn::srms_norm, or a type with the same members.
template <class N, class T = typename N::value_type>
concept token_norm = detail::configured_part<N> && detail::differentiable_part<N> &&
    requires(const N& fixed, N& norm, const cpu& executor, tensor_view<const T, 3> x, tensor_view<T, 3> y,
             typename N::activations& saved, T scale) {
  fixed.forward_add(executor, x, x, y, y, saved, scale);
  norm.backward(executor, x, x, y, saved, linalg::store::accumulate);
  { fixed.dim() } -> std::convertible_to<index_t>;
};

/// Named requirement of the three places of a block.
template <class Mixer, class Mlp, class Norm> consteval bool require_parts_of_block() {
  static_assert(
      token_mixer<Mixer>,
      "seqprim: the first part of a block mixes tokens: nn::attention_mixer, or a type with its 'config', "
      "'activations', 'state', 'forward', 'backward', 'extend' and 'validate_extend'. See docs/reference/nn/block.md");
  static_assert(
      channel_mixer<Mlp>,
      "seqprim: the second part of a block mixes channels and has no 'state' or 'extend': nn::gated_mlp, or a "
      "type with its 'config', 'activations', 'forward' and 'backward'. See docs/reference/nn/block.md");
  static_assert(token_norm<Norm>,
                "seqprim: the third part of a block is a norm: nn::rms_norm, nn::srms_norm, or a type with the same "
                "members. See docs/reference/nn/block.md");
  return true;
}

/// A pre-norm residual block:
///
///     h = x + a mixer(norm(x))        y = h + a mlp(norm(h))        a = residual_scale
///
/// Mixer mixes tokens (attention_mixer, or a recurrence), Mlp mixes channels. A mixer has `config`, `activations`,
/// `state`, `forward`, `backward`, `extend` and `validate_extend` as attention_mixer has them, and `next_cut` where a token may
/// attend to later ones; an mlp the first two and `forward`, `backward`. The concepts token_mixer, channel_mixer and token_norm
/// are the exact requirements.
///
/// Shapes  x, y [batch, len, dim].
/// Layout  dense. dx may be dy.
/// Errors  precondition_error before anything is written: shapes disagree, operands overlap, backward without its
///         forward.
/// Repeat  same bits for any number of threads.
/// Cost    its parts; the first residual addition is fused with the second norm.
/// Source  Xiong et al., "On layer normalization in the transformer architecture" (pre-norm).  Page
///         docs/reference/nn/block.md
template <class Mixer, class Mlp, class Norm> class block {
  static_assert(require_parts_of_block<Mixer, Mlp, Norm>());

 public:
  using value_type = typename Mixer::value_type;
  using isa = typename Mixer::isa;
  using norm_type = Norm;
  static_assert(std::is_same_v<value_type, typename Mlp::value_type> &&
                    std::is_same_v<value_type, typename Norm::value_type>,
                "seqprim: mixer, mlp and norm of a block must compute in one number type");

  struct config {
    typename Mixer::config mixer = {};
    typename Mlp::config mlp = {};
    typename Norm::config norm = {};
    value_type residual_scale = 1;
  };

  struct activations {
    buffer<value_type> normed, mixed, sum, normed_sum;  ///< norm(x), mixer(...), h, norm(h)
    buffer<value_type> gradient, scaled;
    typename Norm::activations input_norm, post_norm;
    typename Mixer::activations mixer;
    typename Mlp::activations mlp;
  };

  /// The decode state: that of the mixer. Everything else has none.
  struct state {
    typename Mixer::state mixer;
    activations scratch;

    state() = default;
    state(const block& b, index_t batch, index_t capacity) : mixer(b.mixer, batch, capacity) {}
  };

  Norm input_norm;
  Mixer mixer;
  Norm post_norm;
  Mlp mlp;

  block() = default;
  block(index_t dim, const config& options)
      : input_norm(dim, options.norm),
        mixer(dim, options.mixer),
        post_norm(dim, options.norm),
        mlp(dim, options.mlp),
        residual_scale_(options.residual_scale) {}

  [[nodiscard]] index_t dim() const noexcept { return input_norm.dim(); }

  template <viewable<3> X, viewable<3> Y>
  void forward(const cpu& executor, const X& input, Y&& output, activations& saved) const {
    run(executor, as_view(input), as_view(output), saved,
        [&](const auto& x, const auto& y) { mixer.forward(executor, x, y, saved.mixer); });
  }

  /// dx = gradient of x (overwritten); dx may be dy. Parameter gradients are added to. saved is from the forward of x.
  template <viewable<3> X, viewable<3> Dy, viewable<3> Dx>
  void backward(const cpu& executor, const X& input, const Dy& output_gradient, Dx&& input_gradient,
                activations& saved) {
    const auto x = as_view(input);
    const auto dy = as_view(output_gradient);
    const auto dx = as_view(input_gradient);
    expect_like("x", x, x);
    expect_like("dy", dy, x);
    expect_like("dx", dx, x);
    SEQPRIM_EXPECTS(!may_overlap(dx, x) && (dx.data == dy.data || !may_overlap(dx, dy)),
                    "nn::block: dx overlaps x, or dy in part. See docs/reference/nn/block.md");
    const auto shaped = [&](auto& memory) { return memory.view(x.extent(0), x.extent(1), dim()); };
    const auto gradient = shaped(saved.gradient);
    mlp.backward(executor, shaped(saved.normed_sum), through_branch(executor, dy, saved), gradient, saved.mlp);
    if (dx.data != dy.data) copy(executor, dy, dx);
    post_norm.backward(executor, shaped(saved.sum), gradient, dx, saved.post_norm, linalg::store::accumulate);
    mixer.backward(executor, shaped(saved.normed), through_branch(executor, dx, saved), gradient, saved.mixer);
    input_norm.backward(executor, x, gradient, dx, saved.input_norm, linalg::store::accumulate);
  }

  /// What extend() expects: a state of this block, for `batch` sequences, with room for the tokens before `end`, and what else
  /// the mixer checks.
  void validate_extend(const state& past, index_t batch, index_t start, index_t len, index_t end) const {
    mixer.validate_extend(past.mixer, batch, start, len, end);
  }

  /// Where the tokens [begin, end) of one call may be cut into chunks, at `from` or later: what the mixer says, `from` if it has no
  /// next_cut.
  [[nodiscard]] index_t next_cut([[maybe_unused]] index_t batch, [[maybe_unused]] index_t begin, index_t from,
                                 [[maybe_unused]] index_t end) const {
    if constexpr (requires { mixer.next_cut(batch, begin, from, end); }) {
      return mixer.next_cut(batch, begin, from, end);
    } else {
      return from;
    }
  }

  /// Decode: the next tokens of each sequence, at positions start, start + 1, ..., a chunk of a call that ends at `end`.
  template <viewable<3> X, viewable<3> Y>
  void extend(const cpu& executor, const X& input, Y&& output, state& past, index_t start, index_t end) const {
    run(executor, as_view(input), as_view(output), past.scratch,
        [&](const auto& x, const auto& y) { mixer.extend(executor, x, y, past.mixer, start, end); });
  }
  /// The same, all tokens of the call.
  template <viewable<3> X, viewable<3> Y>
  void extend(const cpu& executor, const X& input, Y&& output, state& past, index_t start) const {
    extend(executor, input, output, past, start, start + as_view(input).extent(1));
  }

  template <class Visit> void visit_parameters(Visit&& visit) { visit_all(*this, visit); }
  template <class Visit> void visit_parameters(Visit&& visit) const { visit_all(*this, visit); }

 private:
  using lanes = arch::lanes<isa, value_type>;

  template <class View, class Like> void expect_like(const char* operand, const View& view, const Like& like) const {
    constexpr subject self{"nn::block", "nn/block"};
    self.expects_lengths(operand, view);
    SEQPRIM_EXPECTS(view.extent(0) == like.extent(0) && view.extent(1) == like.extent(1) && view.extent(2) == dim() &&
                        view.contiguous(),
                    "nn::block: ", operand, " [", view.extent(0), ", ", view.extent(1), ", ", view.extent(2),
                    "] must be dense [", like.extent(0), ", ", like.extent(1), ", dim (", dim(),
                    ")]. See docs/reference/nn/block.md");
  }

  template <class X, class Y, class Mix>
  void run(const cpu& executor, const X& x, const Y& y, activations& saved, const Mix& mix) const {
    expect_like("x", x, x);
    expect_like("y", y, x);
    SEQPRIM_EXPECTS(!may_overlap(x, y), "nn::block: y overlaps x. See docs/reference/nn/block.md");
    const auto shaped = [&](auto& memory) { return memory.view(x.extent(0), x.extent(1), dim()); };
    const auto normed = shaped(saved.normed), mixed = shaped(saved.mixed), sum = shaped(saved.sum);
    const auto normed_sum = shaped(saved.normed_sum);
    input_norm.forward(executor, x, normed, saved.input_norm);
    mix(normed, mixed);
    post_norm.forward_add(executor, x, mixed, sum, normed_sum, saved.post_norm, residual_scale_);
    mlp.forward(executor, normed_sum, y, saved.mlp);
    const lanes scale(residual_scale_);
    linalg::for_elements<lanes>(executor, y.size(), [&](index_t i, auto part) {
      part.store(y.data + i, arch::fma(scale, part.load(y.data + i), part.load(sum.data + i)));
    });
  }

  /// The gradient that enters a branch: residual_scale * dy.
  template <class Dy>
  [[nodiscard]] tensor_view<const value_type, 3> through_branch(const cpu& executor, const Dy& dy,
                                                                activations& saved) const {
    if (residual_scale_ == value_type{1}) return dy;
    const auto scaled = saved.scaled.view(dy.extent(0), dy.extent(1), dy.extent(2));
    const lanes scale(residual_scale_);
    linalg::for_elements<lanes>(executor, dy.size(), [&](index_t i, auto part) {
      part.store(scaled.data + i, scale * part.load(dy.data + i));
    });
    return scaled;
  }

  template <class From, class To> static void copy(const cpu& executor, const From& from, const To& to) {
    linalg::for_elements<lanes>(executor, from.size(),
                                [&](index_t i, auto part) { part.store(to.data + i, part.load(from.data + i)); });
  }

  // The names of published Llama and Qwen checkpoints.
  template <class Self, class Visit> static void visit_all(Self& self, Visit& visit) {
    self.input_norm.visit_parameters(nested("input_layernorm", visit));
    self.mixer.visit_parameters(nested(Mixer::name, visit));
    self.post_norm.visit_parameters(nested("post_attention_layernorm", visit));
    self.mlp.visit_parameters(nested(Mlp::name, visit));
  }

  value_type residual_scale_ = 1;
};

}  // namespace seqprim::nn
