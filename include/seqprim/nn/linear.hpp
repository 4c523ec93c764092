// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/linalg/matmul.hpp>
#include <seqprim/linalg/reduce.hpp>
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
    self.expects(in >= 1 && out >= 1, "in (", in, ") and out (", out, ") must be >= 1");
    weight = parameter<T, 2>(options.role, out, in);
    if (options.bias) bias = parameter<T, 1>(nn::role::bias, out);
  }

  [[nodiscard]] index_t in() const noexcept { return weight.value.extent(1); }
  [[nodiscard]] index_t out() const noexcept { return weight.value.extent(0); }

  /// y = x W^T + b, or y += x W^T + b.
  template <row_viewable X, row_viewable Y>
  void forward(const cpu& executor, const X& input, Y&& output, linalg::store mode = linalg::store::overwrite) const {
    const auto x = detail::rows_of(self, "x", input);
    const auto y = detail::rows_of(self, "y", output);
    detail::expect_features(self, "x", x, "in", in());
    detail::expect_features(self, "y", y, "out", out());
    detail::expect_same_rows(self, "y", y, "x", x);
    executor.validate();
    self.expects_apart("y", y, "x", x);
    if (bias.present()) {
      linalg::for_rows(executor, y.extent(0), [&](index_t i) {
        T* const row = y.data + i * y.strides[0];
        linalg::for_lanes<arch::lanes<Isa, T>>(out(), [&](index_t j, auto part) {
          const auto b = part.load(bias.value.data() + j);
          part.store(row + j, mode == linalg::store::overwrite ? b : part.load(row + j) + b);
        });
      });
      mode = linalg::store::accumulate;
    }
    linalg::matmul<Isa>(executor, x, weight.value.view().transposed(0, 1), y, mode);
  }

  /// Both parts of the backward pass.
  template <row_viewable X, row_viewable Dy, row_viewable Dx>
  void backward(const cpu& executor, const X& input, const Dy& dy, Dx&& dx, activations& saved,
                linalg::store mode = linalg::store::overwrite) {
    const auto rows = detail::rows_of(self, "dx", dx);
    detail::expect_features(self, "dx", rows, "in", in());
    detail::expect_same_rows(self, "dx", rows, "dy", detail::rows_of(self, "dy", dy));
    executor.validate();
    self.expects_apart("dx", rows, "dy", detail::rows_of(self, "dy", dy));
    backward_parameters(executor, input, dy, saved);
    backward_input(executor, dy, dx, mode);
  }

  /// dW += dy^T x, db += sum of the rows of dy.
  template <row_viewable X, row_viewable Dy>
  void backward_parameters(const cpu& executor, const X& input, const Dy& output_gradient, activations& saved) {
    const auto x = detail::rows_of(self, "x", input);
    const auto dy = detail::rows_of(self, "dy", output_gradient);
    detail::expect_features(self, "x", x, "in", in());
    detail::expect_features(self, "dy", dy, "out", out());
    detail::expect_same_rows(self, "dy", dy, "x", x);
    linalg::matmul<Isa>(executor, dy.transposed(0, 1), x, weight.grad, linalg::store::accumulate);
    if (bias.present()) linalg::add_column_sums<Isa, T>(executor, dy, bias.grad.data(), saved.sums);
  }

  /// dx = dy W, or dx += dy W.
  template <row_viewable Dy, row_viewable Dx>
  void backward_input(const cpu& executor, const Dy& output_gradient, Dx&& input_gradient,
                      linalg::store mode = linalg::store::overwrite) const {
    const auto dy = detail::rows_of(self, "dy", output_gradient);
    const auto dx = detail::rows_of(self, "dx", input_gradient);
    detail::expect_features(self, "dy", dy, "out", out());
    detail::expect_features(self, "dx", dx, "in", in());
    detail::expect_same_rows(self, "dx", dx, "dy", dy);
    linalg::matmul<Isa>(executor, dy, weight.value, dx, mode);
  }

  template <class Visit> void visit_parameters(Visit&& visit) { visit_all(*this, visit); }
  template <class Visit> void visit_parameters(Visit&& visit) const { visit_all(*this, visit); }

 private:
  static constexpr subject self{"nn::linear", "nn/linear"};

  template <class Self, class Visit> static void visit_all(Self& layer, Visit& visit) {
    visit(std::string("weight"), layer.weight);
    if (layer.bias.present()) visit(std::string("bias"), layer.bias);
  }
};

}  // namespace seqprim::nn
