// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/linalg/rows.hpp>
#include <seqprim/nn/activation.hpp>
#include <seqprim/nn/linear.hpp>

namespace seqprim::nn {

/// Gated multilayer perceptron: y = W_down (act(W_gate x) * (W_up x)).
///
/// act chooses the kind: silu SwiGLU, gelu_erf or gelu_tanh GEGLU, sigmoid GLU, relu ReGLU, identity SGLU.
///
/// Shapes  x, y [..., dim]; gate_proj, up_proj [hidden, dim]; down_proj [dim, hidden].
/// Layout  dense. dx may overlap neither x nor dy.
/// Errors  precondition_error before anything is written: dim or hidden < 1, shapes disagree, operands overlap,
///         backward without its forward.
/// Repeat  same bits for any number of threads.
/// Cost    6 rows dim hidden flop forward, twice that backward. Saves three [rows, hidden] buffers; backward consumes
///         them: call it once per forward.
/// Source  Shazeer, "GLU variants improve transformer".  Page docs/reference/nn/gated_mlp.md
template <class Activation, class T = float, class Isa = arch::native_isa> class gated_mlp {
  static_assert(require_activation<Activation>());

 public:
  using value_type = T;
  using isa = Isa;
  static constexpr const char* name = "mlp";  ///< in the parameter names of a block

  struct config {
    index_t hidden = 0;  ///< 0: 8/3 dim, rounded up to a multiple of 64
  };

  struct activations {
    buffer<T> gate;    ///< W_gate x, then its gradient
    buffer<T> up;      ///< W_up x, then its gradient
    buffer<T> hidden;  ///< act(gate) * up
    typename linear<T, Isa>::activations projections;
    index_t rows = -1;  ///< of the forward whose backward is due
  };

  linear<T, Isa> gate_proj;
  linear<T, Isa> up_proj;
  linear<T, Isa> down_proj;

  gated_mlp() = default;
  explicit gated_mlp(index_t dim, const config& options = {}) {
    const index_t hidden =
        options.hidden != 0 ? options.hidden : round_up(ceil_div(max_of<index_t>(8 * dim, 0), 3), 64);
    self.expects(dim >= 1 && hidden >= 1, "dim (", dim, ") and hidden (", hidden, ") must be >= 1");
    gate_proj = linear<T, Isa>(dim, hidden);
    up_proj = linear<T, Isa>(dim, hidden);
    down_proj = linear<T, Isa>(hidden, dim, {.role = role::residual_projection});
  }

  [[nodiscard]] index_t dim() const noexcept { return gate_proj.in(); }
  [[nodiscard]] index_t hidden() const noexcept { return gate_proj.out(); }

  template <row_viewable X, row_viewable Y>
  void forward(const cpu& executor, const X& input, Y&& output, activations& saved) const {
    const auto x = detail::rows_of(self, "x", input);
    const auto y = detail::rows_of(self, "y", output);
    detail::expect_features(self, "x", x, "dim", dim());
    detail::expect_same_shape(self, "y", y, "x", x);
    const auto gate = saved.gate.view(x.extent(0), hidden());
    const auto up = saved.up.view(x.extent(0), hidden());
    const auto product = saved.hidden.view(x.extent(0), hidden());
    gate_proj.forward(executor, x, gate);
    up_proj.forward(executor, x, up);
    linalg::for_elements<lanes>(executor, gate.size(), [&](index_t i, auto part) {
      part.store(product.data + i, Activation::value(part.load(gate.data + i)) * part.load(up.data + i));
    });
    down_proj.forward(executor, product, y);
    saved.rows = x.extent(0);
  }

  /// dx = gradient of x (overwritten); the weight gradients are added to. saved is from the forward of the same x.
  template <row_viewable X, row_viewable Dy, row_viewable Dx>
  void backward(const cpu& executor, const X& input, const Dy& output_gradient, Dx&& input_gradient,
                activations& saved) {
    const auto x = detail::rows_of(self, "x", input);
    const auto dy = detail::rows_of(self, "dy", output_gradient);
    const auto dx = detail::rows_of(self, "dx", input_gradient);
    detail::expect_features(self, "x", x, "dim", dim());
    detail::expect_same_shape(self, "dy", dy, "x", x);
    detail::expect_same_shape(self, "dx", dx, "x", x);
    self.expects_apart("dx", dx, "x", x);
    self.expects_apart("dx", dx, "dy", dy);
    detail::expect_saved(self, saved.rows, x.extent(0));
    saved.rows = -1;
    const auto gate = saved.gate.view(x.extent(0), hidden());
    const auto up = saved.up.view(x.extent(0), hidden());
    const auto product = saved.hidden.view(x.extent(0), hidden());
    down_proj.backward_parameters(executor, product, dy, saved.projections);
    down_proj.backward_input(executor, dy, product);  // product now holds its own gradient
    linalg::for_elements<lanes>(executor, gate.size(), [&](index_t i, auto part) {
      const lanes g = part.load(gate.data + i), u = part.load(up.data + i), d = part.load(product.data + i);
      part.store(up.data + i, d * Activation::value(g));
      part.store(gate.data + i, d * u * Activation::derivative(g));
    });
    gate_proj.backward(executor, x, gate, dx, saved.projections);
    up_proj.backward(executor, x, up, dx, saved.projections, linalg::store::accumulate);
  }

  template <class Visit> void visit_parameters(Visit&& visit) { visit_all(*this, visit); }
  template <class Visit> void visit_parameters(Visit&& visit) const { visit_all(*this, visit); }

 private:
  using lanes = arch::lanes<Isa, T>;
  static constexpr subject self{"nn::gated_mlp", "nn/gated_mlp"};

  template <class Self, class Visit> static void visit_all(Self& layer, Visit& visit) {
    layer.gate_proj.visit_parameters(nested("gate_proj", visit));
    layer.up_proj.visit_parameters(nested("up_proj", visit));
    layer.down_proj.visit_parameters(nested("down_proj", visit));
  }
};

template <class T = float, class Isa = arch::native_isa> using swiglu = gated_mlp<silu, T, Isa>;
template <class T = float, class Isa = arch::native_isa> using geglu = gated_mlp<gelu_tanh, T, Isa>;

}  // namespace seqprim::nn
