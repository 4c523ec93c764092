// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/matmul.hpp>
#include <seqprim/nn/detail/rows.hpp>
#include <seqprim/nn/parameter.hpp>

namespace seqprim::nn {

/// Linear layer: y = x W^T + b.
///
/// Shapes  x [..., in], y [..., out]; weight [out, in], bias [out]. Leading axes are rows.
/// Types   float; double for gradient checks.
/// Layout  x, y and their gradients dense (two-axis views: contiguous rows, any distance between them). y may not
///         overlap x.
/// Edge    no rows: nothing happens.
/// Errors  precondition_error before anything is written: in or out < 1, shapes disagree, operands overlap.
/// Repeat  same bits for any number of threads. The bias gradient is summed over blocks of 64 rows, then over the
///         blocks in their order.
/// Cost    2 rows in out flop forward, twice that backward. Allocates the packing scratch of matmul.
/// Page docs/reference/nn/linear.md
template <class T = float, class Isa = arch::native_isa> class linear {
 public:
  using value_type = T;
  using isa = Isa;

  struct config {
    bool bias = false;
    nn::role role = nn::role::projection;
  };

  /// What backward needs besides x: scratch for the sums of the bias gradient.
  struct activations {
    buffer<T> sums;
  };

  parameter<T, 2> weight;
  parameter<T, 1> bias;

  linear() = default;
  linear(index_t in, index_t out, const config& options = {}) {
    SEQPRIM_EXPECTS(in >= 1 && out >= 1, "nn::linear: in (", in, ") and out (", out,
                    ") must be >= 1. See docs/reference/nn/linear.md");
    weight = parameter<T, 2>(options.role, out, in);
    if (options.bias) bias = parameter<T, 1>(nn::role::bias, out);
  }

  [[nodiscard]] index_t in() const noexcept { return weight.value.extent(1); }
  [[nodiscard]] index_t out() const noexcept { return weight.value.extent(0); }

  /// y = x W^T + b, or y += x W^T + b.
  template <row_viewable X, row_viewable Y>
  void forward(const cpu& executor, const X& input, Y&& output, arch::store mode = arch::store::overwrite) const {
    const auto x = detail::rows_of("nn::linear: x", input);
    const auto y = detail::rows_of("nn::linear: y", output);
    detail::expect_shape(x, "nn::linear: x", x.extent(0), in(), "linear.md");
    detail::expect_shape(y, "nn::linear: y", x.extent(0), out(), "linear.md");
    executor.validate();
    SEQPRIM_EXPECTS(!may_overlap(x, y), "nn::linear: y overlaps x. See docs/reference/nn/linear.md");
    SEQPRIM_EXPECTS(y.strides[1] == 1 || y.extent(1) <= 1,
                    "nn::linear: the last axis of y must be contiguous. See docs/reference/nn/linear.md");
    if (bias.present()) {
      using v = arch::simd<Isa, T>;
      constexpr index_t piece = 32;
      parallel_for(executor, ceil_div(y.extent(0), piece), [&](index_t p, int) {
        for (index_t i = p * piece; i < min((p + 1) * piece, y.extent(0)); ++i) {
          T* const row = y.data + i * y.strides[0];
          detail::for_lanes<v>(out(), [&](index_t j, auto part) {
            const auto b = part.load(bias.value.data() + j);
            part.store(row + j, mode == arch::store::overwrite ? b : v::add(part.load(row + j), b));
          });
        }
      });
      mode = arch::store::accumulate;
    }
    arch::matmul<Isa>(executor, x, weight.value.view().transposed(0, 1), y, mode);
  }

  /// Both parts of the backward pass.
  template <row_viewable X, row_viewable Dy, row_viewable Dx>
  void backward(const cpu& executor, const X& input, const Dy& dy, Dx&& dx, activations& saved,
                arch::store mode = arch::store::overwrite) {
    const auto rows = detail::rows_of("nn::linear: dx", dx);
    detail::expect_shape(rows, "nn::linear: dx", detail::rows_of("nn::linear: dy", dy).extent(0), in(), "linear.md");
    executor.validate();
    SEQPRIM_EXPECTS(!may_overlap(rows, detail::rows_of("nn::linear: dy", dy)),
                    "nn::linear: dx overlaps dy. See docs/reference/nn/linear.md");
    SEQPRIM_EXPECTS(rows.strides[1] == 1 || rows.extent(1) <= 1,
                    "nn::linear: the last axis of dx must be contiguous. See docs/reference/nn/linear.md");
    backward_parameters(executor, input, dy, saved);
    backward_input(executor, dy, dx, mode);
  }

  /// dW += dy^T x, db += sum of the rows of dy.
  template <row_viewable X, row_viewable Dy>
  void backward_parameters(const cpu& executor, const X& input, const Dy& output_gradient, activations& saved) {
    const auto x = detail::rows_of("nn::linear: x", input);
    const auto dy = detail::rows_of("nn::linear: dy", output_gradient);
    detail::expect_shape(x, "nn::linear: x", x.extent(0), in(), "linear.md");
    detail::expect_shape(dy, "nn::linear: dy", x.extent(0), out(), "linear.md");
    arch::matmul<Isa>(executor, dy.transposed(0, 1), x, weight.grad, arch::store::accumulate);
    if (bias.present()) detail::add_column_sums<Isa, T>(executor, dy, bias.grad.data(), saved.sums);
  }

  /// dx = dy W, or dx += dy W.
  template <row_viewable Dy, row_viewable Dx>
  void backward_input(const cpu& executor, const Dy& output_gradient, Dx&& input_gradient,
                      arch::store mode = arch::store::overwrite) const {
    const auto dy = detail::rows_of("nn::linear: dy", output_gradient);
    const auto dx = detail::rows_of("nn::linear: dx", input_gradient);
    detail::expect_shape(dy, "nn::linear: dy", dy.extent(0), out(), "linear.md");
    detail::expect_shape(dx, "nn::linear: dx", dy.extent(0), in(), "linear.md");
    arch::matmul<Isa>(executor, dy, weight.value, dx, mode);
  }

  template <class Visit> void visit_parameters(Visit&& visit) { visit_all(*this, visit); }
  template <class Visit> void visit_parameters(Visit&& visit) const { visit_all(*this, visit); }

 private:
  template <class Self, class Visit> static void visit_all(Self& self, Visit& visit) {
    visit(std::string("weight"), self.weight);
    if (self.bias.present()) visit(std::string("bias"), self.bias);
  }
};

}  // namespace seqprim::nn
