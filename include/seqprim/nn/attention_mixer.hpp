// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/backward.hpp>
#include <seqprim/attention/decode.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/next_cut.hpp>
#include <seqprim/nn/linear.hpp>
#include <seqprim/nn/rms_norm.hpp>
#include <seqprim/position/encode.hpp>
#include <seqprim/position/none.hpp>
#include <seqprim/position/rotary.hpp>
#include <seqprim/position/sequential.hpp>
#include <seqprim/score/rule.hpp>

#include <type_traits>

namespace seqprim::nn {

/// The softmax attention mixer of a decoder: projections, optional QK-norm, position encoding, attention, output
/// projection.
///
///     q, k, v = x Wq^T, x Wk^T, x Wv^T (+ biases)      q, k = encode(norm(q)), encode(norm(k))
///     y = concat over heads(softmax attention(q, k, v)) Wo^T
///
/// Mask, score and encoding are types of the mask/, score/ and position/ families; their values are in the config.
/// Token t of a row has position t.
///
/// Shapes  x, y [batch, len, dim]; q_proj [heads * head_dim, dim], k_proj, v_proj [kv_heads * head_dim, dim], o_proj
///         [dim, heads * head_dim], q_norm, k_norm [head_dim] shared by the heads.
/// Layout  dense. Heads are strided views of the projections; nothing is copied. dx may overlap neither x nor dy.
/// Errors  precondition_error before anything is written: heads is not a multiple of kv_heads, dim not a multiple of
///         heads, the encoding does not fit head_dim, shapes disagree, the cache is full, backward without its forward;
///         decoding when the mask lets an earlier token attend to a new one, or when keys of the encoding must not be cached.
/// Repeat  same bits for any number of threads.
/// Cost    projections 4 rows dim (heads + kv_heads) head_dim flop, and the attention; twice and 3.5 times that
///         backward. backward consumes the saved activations: call it once per forward.
/// Source  Vaswani et al., "Attention is all you need"; Ainslie et al., "GQA"; Henry et al., "Query-key normalization
///         for transformers".  Page docs/reference/nn/attention_mixer.md
template <class Mask = mask::causal, class Score = score::identity,
          class Encoding = position::rotary<position::half_split>, class T = float, class Isa = arch::native_isa>
class attention_mixer {
 public:
  using value_type = T;
  using isa = Isa;
  static constexpr const char* name = "self_attn";  ///< in the parameter names of a block

  struct config {
    index_t heads = 0;
    index_t kv_heads = 0;  ///< 0: as many as heads
    index_t head_dim = 0;  ///< 0: dim / heads
    bool qkv_bias = false;
    bool out_bias = false;
    bool qk_norm = false;
    double qk_norm_eps = 1e-6;
    float scale = 0;  ///< of <q, k>; 0: 1 / sqrt(head_dim)
    Mask mask = {};
    Score score = {};
    Encoding encoding = {};  ///< what follows from head_dim may be left out
  };

  struct activations {
    buffer<T> raw_q, raw_k;       ///< before QK-norm
    buffer<T> q, k, v, out, lse;  ///< of attention
    buffer<T> dout, dq, dk, dv;   ///< their gradients
    typename rms_norm<T, Isa>::activations q_norm, k_norm;
    typename linear<T, Isa>::activations projections;
    index_t batch = -1, len = -1;  ///< of the forward whose backward is due
  };

  /// The key-value cache of `batch` sequences: encoded keys, and values.
  struct state {
    tensor<T, 4> keys, values;  ///< [batch, kv_heads, capacity, head_dim]
    activations scratch;

    state() = default;
    state(const attention_mixer& mixer, index_t batch, index_t capacity)
        : keys(batch, mixer.kv_heads_, capacity, mixer.head_dim_),
          values(batch, mixer.kv_heads_, capacity, mixer.head_dim_) {}
  };

  linear<T, Isa> q_proj, k_proj, v_proj, o_proj;
  rms_norm<T, Isa> q_norm, k_norm;

  attention_mixer() = default;
  attention_mixer(index_t dim, const config& options)
      : op_(attention::softmax<Mask, Score>(options.mask, options.score).scaled(options.scale).starting_at(0)),
        encoding_(options.encoding),
        heads_(options.heads),
        kv_heads_(options.kv_heads != 0 ? options.kv_heads : options.heads),
        head_dim_(options.head_dim) {
    constexpr const char* page = ". See docs/reference/nn/attention_mixer.md";
    SEQPRIM_EXPECTS(dim >= 1 && heads_ >= 1, "nn::attention_mixer: dim (", dim, ") and heads (", heads_,
                    ") must be >= 1", page);
    SEQPRIM_EXPECTS(kv_heads_ >= 1 && heads_ % kv_heads_ == 0, "nn::attention_mixer: heads (", heads_,
                    ") must be a multiple of kv_heads (", kv_heads_, ")", page);
    if (head_dim_ == 0) {
      SEQPRIM_EXPECTS(dim % heads_ == 0, "nn::attention_mixer: dim (", dim, ") must be a multiple of heads (", heads_,
                      "), or head_dim must be given", page);
      head_dim_ = dim / heads_;
    }
    SEQPRIM_EXPECTS(head_dim_ >= 1, "nn::attention_mixer: head_dim (", head_dim_, ") must be >= 1", page);
    encoding_ = position::for_head_dim(encoding_, head_dim_);
    op_.validate();
    position::validate(encoding_, head_dim_);
    q_proj = linear<T, Isa>(dim, heads_ * head_dim_, {.bias = options.qkv_bias});
    k_proj = linear<T, Isa>(dim, kv_heads_ * head_dim_, {.bias = options.qkv_bias});
    v_proj = linear<T, Isa>(dim, kv_heads_ * head_dim_, {.bias = options.qkv_bias});
    o_proj = linear<T, Isa>(heads_ * head_dim_, dim, {.bias = options.out_bias, .role = role::residual_projection});
    if (options.qk_norm) {
      q_norm = rms_norm<T, Isa>(head_dim_, {.eps = options.qk_norm_eps});
      k_norm = rms_norm<T, Isa>(head_dim_, {.eps = options.qk_norm_eps});
    }
  }

  [[nodiscard]] index_t dim() const noexcept { return q_proj.in(); }
  [[nodiscard]] index_t heads() const noexcept { return heads_; }
  [[nodiscard]] index_t kv_heads() const noexcept { return kv_heads_; }
  [[nodiscard]] index_t head_dim() const noexcept { return head_dim_; }

  template <viewable<3> X, viewable<3> Y>
  void forward(const cpu& executor, const X& input, Y&& output, activations& saved) const {
    const auto x = checked("x", input, as_view(input));
    const auto y = checked("y", output, x);
    project(executor, x, 0, saved);
    const index_t batch = x.extent(0), len = x.extent(1);
    attention::forward<Isa>(executor, op_, split(saved.q, batch, len, heads_), split(saved.k, batch, len, kv_heads_),
                            split(saved.v, batch, len, kv_heads_), split(saved.out, batch, len, heads_),
                            saved.lse.view(batch, heads_, len));
    o_proj.forward(executor, joined(saved.out, x, heads_), y);
    saved.batch = batch;
    saved.len = len;
  }

  /// dx = gradient of x (overwritten); parameter gradients are added to. saved is from the forward of the same x.
  template <viewable<3> X, viewable<3> Dy, viewable<3> Dx>
  void backward(const cpu& executor, const X& input, const Dy& output_gradient, Dx&& input_gradient,
                activations& saved) {
    const auto x = checked("x", input, as_view(input));
    const auto dy = checked("dy", output_gradient, x);
    const auto dx = checked("dx", input_gradient, x);
    const index_t batch = x.extent(0), len = x.extent(1);
    SEQPRIM_EXPECTS(!may_overlap(dx, x) && !may_overlap(dx, dy),
                    "nn::attention_mixer: dx overlaps x or dy. See docs/reference/nn/attention_mixer.md");
    SEQPRIM_EXPECTS(
        saved.batch == batch && saved.len == len, "nn::attention_mixer: backward of [", batch, ", ", len,
        "] requires the activations of a forward pass over the same tokens, not used by another backward. See "
        "docs/reference/nn/attention_mixer.md");
    saved.batch = -1;
    o_proj.backward(executor, joined(saved.out, x, heads_), dy, joined(saved.dout, x, heads_), saved.projections);
    const auto dq = split(saved.dq, batch, len, heads_), dk = split(saved.dk, batch, len, kv_heads_);
    attention::backward<Isa>(executor, op_, split(saved.q, batch, len, heads_), split(saved.k, batch, len, kv_heads_),
                             split(saved.v, batch, len, kv_heads_), split(saved.out, batch, len, heads_),
                             saved.lse.view(batch, heads_, len), split(saved.dout, batch, len, heads_),
                             attention::gradients{}.dq(dq).dk(dk).dv(split(saved.dv, batch, len, kv_heads_)));
    if constexpr (encodes) {
      const position::sequential map{};
      position::encode_backward<Isa>(executor, encoding_, map, dq, dq);
      position::encode_backward<Isa>(executor, encoding_, map, dk, dk);
    }
    if (q_norm.dim() > 0) {
      const index_t q_rows = batch * len * heads_, k_rows = batch * len * kv_heads_;
      const auto flat_dq = saved.dq.view(q_rows, head_dim_), flat_dk = saved.dk.view(k_rows, head_dim_);
      q_norm.backward(executor, saved.raw_q.view(q_rows, head_dim_), flat_dq, flat_dq, saved.q_norm);
      k_norm.backward(executor, saved.raw_k.view(k_rows, head_dim_), flat_dk, flat_dk, saved.k_norm);
    }
    q_proj.backward(executor, x, joined(saved.dq, x, heads_), dx, saved.projections);
    k_proj.backward(executor, x, joined(saved.dk, x, kv_heads_), dx, saved.projections, linalg::store::accumulate);
    v_proj.backward(executor, x, joined(saved.dv, x, kv_heads_), dx, saved.projections, linalg::store::accumulate);
  }

  /// What extend() expects: a state made for a mixer of this shape and for `batch` sequences, with room for the tokens before
  /// `end`; a mask and a score that fit; and that no token before `start` attends to one of the new tokens. A model checks
  /// all its layers before the first one writes.
  void validate_extend(const state& cache, index_t batch, index_t start, index_t len, index_t end) const {
    self.expects(start >= 0 && len >= 0 && start + len <= end, "tokens [", start, ", ", start + len,
                 ") must be in [0, end (", end, "))");
    for (const auto* part : {&cache.keys, &cache.values}) {
      self.expects(part->extent(1) == kv_heads_ && part->extent(3) == head_dim_, "the state has ", part->extent(1),
                   " key-value heads of dim ", part->extent(3), ", but the mixer has kv_heads (", kv_heads_,
                   ") and head_dim (", head_dim_, "): it was made for another mixer");
      self.expects(part->extent(0) == batch, "x holds ", batch, " sequences, but the state was made for ",
                   part->extent(0));
      self.expects(end <= part->extent(2), end - start, " tokens after ", start, " exceed the capacity (",
                   part->extent(2), ") of the state");
    }
    self.expects(
        position::keys_may_be_cached(encoding_),
        "the state holds encoded keys, which this encoding does not allow because they change as the sequence grows");
    op_.starting_at(start).validate(mask::shape{batch, heads_, len, end, start});
    const mask::shape earlier{batch, heads_, start, start + len, 0};
    const index_t cut = mask::next_cut(op_.mask, earlier, start);
    self.expects(cut == start, "the mask lets a token before ", start,
                 ", which the state holds already, attend to token ", cut - 1,
                 "; what looks ahead must be read in one call");
  }

  /// A call that brings the tokens [begin, end) may be read in chunks: where the next chunk may begin, at `from` or later. The
  /// mask may be cut there (mask::next_cut), and at `begin`.
  [[nodiscard]] index_t next_cut(index_t batch, index_t begin, index_t from, index_t end) const {
    return mask::next_cut(op_.mask, mask::shape{batch, heads_, end - begin, end, begin}, from);
  }

  /// Decode: x holds the next tokens of each sequence, at positions start, start + 1, ...; the cache holds the `start`
  /// tokens before them and receives these. y is what forward over the whole sequence gives for these tokens, up to
  /// rounding. Mask and score are evaluated at absolute positions; a mask under which an earlier token attends to one of these
  /// is refused.
  template <viewable<3> X, viewable<3> Y>
  void extend(const cpu& executor, const X& input, Y&& output, state& cache, index_t start) const {
    extend(executor, input, output, cache, start, start + as_view(input).extent(1));
  }

  /// The same for one chunk of a call that ends at `end`: later chunks bring the tokens from start + len on, to which no token of
  /// this one attends. The mask is evaluated for k_len = end.
  template <viewable<3> X, viewable<3> Y>
  void extend(const cpu& executor, const X& input, Y&& output, state& cache, index_t start, index_t end) const {
    const auto x = checked("x", input, as_view(input));
    const auto y = checked("y", output, x);
    const index_t batch = x.extent(0), len = x.extent(1);
    executor.validate();
    validate_extend(cache, batch, start, len, end);
    activations& saved = cache.scratch;
    project(executor, x, start, saved);
    const auto keys = cache.keys.view().slice(2, {0, end});
    const auto values = cache.values.view().slice(2, {0, end});
    const auto new_keys = split(saved.k, batch, len, kv_heads_), new_values = split(saved.v, batch, len, kv_heads_);
    parallel_for(executor, batch * kv_heads_, [&](index_t piece, int) {
      const index_t b = piece / kv_heads_, h = piece % kv_heads_;
      for (index_t t = 0; t < len; ++t)
        for (index_t d = 0; d < head_dim_; ++d) {
          keys(b, h, start + t, d) = new_keys(b, h, t, d);
          values(b, h, start + t, d) = new_values(b, h, t, d);
        }
    });
    const auto op = op_.starting_at(start);
    const auto q = split(saved.q, batch, len, heads_), out = split(saved.out, batch, len, heads_);
    if constexpr (std::is_same_v<T, float>) {
      constexpr index_t few_rows = 8;  // below, splitting the keys keeps more threads busy than tiles of queries
      if (len < few_rows) {
        attention::decode<Isa>(executor, op, q, keys, values, out);
      } else {
        attention::forward<Isa>(executor, op, q, keys, values, out);
      }
    } else {
      attention::forward<Isa>(executor, op, q, keys, values, out);
    }
    o_proj.forward(executor, joined(saved.out, x, heads_), y);
  }

  template <class Visit> void visit_parameters(Visit&& visit) { visit_all(*this, visit); }
  template <class Visit> void visit_parameters(Visit&& visit) const { visit_all(*this, visit); }

 private:
  static constexpr bool encodes = position::encodes<Encoding>;
  static constexpr subject self{"nn::attention_mixer", "nn/attention_mixer"};

  template <class X, class Like> [[nodiscard]] auto checked(const char* operand, X&& x, const Like& like) const {
    const auto view = as_view(x);
    self.expects_lengths(operand, view);
    SEQPRIM_EXPECTS(view.extent(0) == like.extent(0) && view.extent(1) == like.extent(1) && view.extent(2) == dim(),
                    "nn::attention_mixer: ", operand, " [", view.extent(0), ", ", view.extent(1), ", ", view.extent(2),
                    "] must be [", like.extent(0), ", ", like.extent(1), ", dim (", dim(),
                    ")]. See docs/reference/nn/attention_mixer.md");
    SEQPRIM_EXPECTS(view.contiguous(), "nn::attention_mixer: ", operand,
                    " must be dense. See docs/reference/nn/attention_mixer.md");
    return view;
  }

  /// The projections of x, normalized and encoded, as attention wants them.
  template <class X> void project(const cpu& executor, const X& x, index_t start, activations& saved) const {
    const index_t batch = x.extent(0), len = x.extent(1);
    const bool normalizes = q_norm.dim() > 0;
    const auto raw_q = joined(normalizes ? saved.raw_q : saved.q, x, heads_);
    const auto raw_k = joined(normalizes ? saved.raw_k : saved.k, x, kv_heads_);
    q_proj.forward(executor, x, raw_q);
    k_proj.forward(executor, x, raw_k);
    v_proj.forward(executor, x, joined(saved.v, x, kv_heads_));
    if (normalizes) {
      const index_t q_rows = batch * len * heads_, k_rows = batch * len * kv_heads_;
      q_norm.forward(executor, saved.raw_q.view(q_rows, head_dim_), saved.q.view(q_rows, head_dim_), saved.q_norm);
      k_norm.forward(executor, saved.raw_k.view(k_rows, head_dim_), saved.k.view(k_rows, head_dim_), saved.k_norm);
    }
    if constexpr (encodes) {
      const position::sequential map{.start = start};
      const auto q = split(saved.q, batch, len, heads_), k = split(saved.k, batch, len, kv_heads_);
      position::encode<Isa>(executor, encoding_, map, q, q);
      position::encode<Isa>(executor, encoding_, map, k, k);
    }
  }

  /// The memory of a projection as [batch, len, heads * head_dim], and as [batch, heads, len, head_dim].
  template <class X> [[nodiscard]] auto joined(buffer<T>& memory, const X& x, index_t heads) const {
    return memory.view(x.extent(0), x.extent(1), heads * head_dim_);
  }
  [[nodiscard]] auto split(buffer<T>& memory, index_t batch, index_t len, index_t heads) const {
    return memory.view(batch, len, heads, head_dim_).transposed(1, 2);
  }

  template <class Self, class Visit> static void visit_all(Self& mixer, Visit& visit) {
    mixer.q_proj.visit_parameters(nested("q_proj", visit));
    mixer.k_proj.visit_parameters(nested("k_proj", visit));
    mixer.v_proj.visit_parameters(nested("v_proj", visit));
    mixer.o_proj.visit_parameters(nested("o_proj", visit));
    mixer.q_norm.visit_parameters(nested("q_norm", visit));
    mixer.k_norm.visit_parameters(nested("k_norm", visit));
  }

  attention::softmax<Mask, Score> op_;
  Encoding encoding_ = {};
  index_t heads_ = 0, kv_heads_ = 0, head_dim_ = 0;
};

}  // namespace seqprim::nn
