// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/linalg/matmul.hpp>
#include <seqprim/linalg/reduce.hpp>
#include <seqprim/linalg/rows.hpp>
#include <seqprim/nn/detail/rows.hpp>
#include <seqprim/nn/parameter.hpp>

#include <cmath>

namespace seqprim::nn {

/// Root-mean-square normalization (RMSNorm), with a weight (`rms_norm`) or without (`srms_norm`).
///
///     r = 1 / sqrt(mean(x^2) + eps)        y = x r (offset + weight)        srms_norm: y = x r
///
/// The weight starts at 1 - offset, so that a new layer multiplies by one. `forward_add` first adds the residual
/// stream: sum = x + scale * residual, y = norm(sum), in one pass and with the same bits as two.
///
/// Shapes  x, residual, sum, y and their gradients [..., dim]; weight [dim]. Leading axes are rows.
/// Types   float; double for gradient checks. Sums of a row in the type itself, over vector lanes.
/// Layout  dense (two-axis views: contiguous rows, any distance between them). y may be x; dx may be dy; sum may be x
///         or residual.
/// Edge    a row of zeros gives zeros, and dx = dy (offset + weight) / sqrt(eps); eps = 0 is allowed, such a row is
///         then NaN. NaN stays in its row.
/// Errors  precondition_error before anything is written: dim < 1, eps negative or not finite, shapes disagree,
///         backward without a forward pass over the same number of rows.
/// Repeat  same bits for any number of threads: the weight gradient is summed over blocks of 64 rows, in order.
/// Cost    memory bound: reads x and writes y; backward reads x and dy and writes dx. No allocation after first use.
/// Source  Zhang and Sennrich, "Root mean square layer normalization"; Qin et al., "TransNormerLLM" (without weight).
///         Page docs/reference/nn/rms_norm.md
template <bool Weighted, class T = float, class Isa = arch::native_isa> class root_mean_square_norm {
 public:
  using value_type = T;
  using isa = Isa;

  struct config {
    double eps = 1e-6;
    T offset = 0;  ///< 1 in Gemma-like models
  };

  /// Saved from forward to backward: r of each row; and the partial sums of the weight gradient.
  struct activations {
    buffer<T> inverse;
    buffer<T> sums;
    index_t rows = -1;  ///< of that forward
  };

  parameter<T, 1> weight;

  root_mean_square_norm() = default;
  explicit root_mean_square_norm(index_t dim, const config& options = {}) : options_(options), dim_(dim) {
    self.expects(dim >= 1, "dim (", dim, ") must be >= 1");
    self.expects(options.eps >= 0 && std::isfinite(options.eps), "eps (", options.eps, ") must be finite and >= 0");
    if constexpr (Weighted) {
      weight = parameter<T, 1>(role::scale, dim);
      weight.value.fill(T{1} - options.offset);
    }
  }

  [[nodiscard]] index_t dim() const noexcept { return dim_; }

  template <row_viewable X, row_viewable Y>
  void forward(const cpu& executor, const X& input, Y&& output, activations& saved) const {
    const auto x = checked("x", input);
    const auto y = checked("y", output, x);
    executor.validate();
    T* const inverse = saved.inverse.view(x.extent(0)).data;
    saved.rows = x.extent(0);
    linalg::for_rows(executor, x.extent(0), [&](index_t row) {
      const T* const from = x.data + row * x.strides[0];
      inverse[row] = normalize(from, y.data + row * y.strides[0]);
    });
  }

  /// sum = x + scale * residual, y = norm(sum).
  template <row_viewable X, row_viewable Residual, row_viewable Sum, row_viewable Y>
  void forward_add(const cpu& executor, const X& input, const Residual& stream, Sum&& total, Y&& output,
                   activations& saved, T scale = 1) const {
    const auto x = checked("x", input);
    const auto residual = checked("residual", stream, x);
    const auto sum = checked("sum", total, x);
    const auto y = checked("y", output, x);
    self.expects_apart("y", y, "sum", sum);
    executor.validate();
    T* const inverse = saved.inverse.view(x.extent(0)).data;
    saved.rows = x.extent(0);
    const lanes factor(scale);
    linalg::for_rows(executor, x.extent(0), [&](index_t row) {
      const T* const a = x.data + row * x.strides[0];
      const T* const b = residual.data + row * residual.strides[0];
      T* const s = sum.data + row * sum.strides[0];
      linalg::for_lanes<lanes>(dim_, [&](index_t j, auto part) {
        part.store(s + j, arch::fma(factor, part.load(b + j), part.load(a + j)));
      });
      inverse[row] = normalize(s, y.data + row * y.strides[0]);
    });
  }

  /// dx = gradient of the input, or dx += it: with `accumulate`, dx holds the other contributions to the gradient
  /// of `sum` of forward_add. weight.grad is added to. x is the input (after forward_add: the sum), saved is from that forward.
  template <row_viewable X, row_viewable Dy, row_viewable Dx>
  void backward(const cpu& executor, const X& input, const Dy& output_gradient, Dx&& input_gradient, activations& saved,
                linalg::store mode = linalg::store::overwrite) {
    const auto x = checked("x", input);
    const auto dy = checked("dy", output_gradient, x);
    const auto dx = checked("dx", input_gradient, x);
    executor.validate();
    detail::expect_saved(self, saved.rows, x.extent(0));
    const index_t rows = x.extent(0), blocks = ceil_div(rows, linalg::rows_per_task);
    const T* const inverse = saved.inverse.view(rows).data;
    const auto sums = saved.sums.view(blocks, Weighted ? dim_ : 0);
    parallel_for(executor, blocks, [&](index_t block, int) {
      const index_t begin = block * linalg::rows_per_task, end = min_of(begin + linalg::rows_per_task, rows);
      T* const dw = sums.data + block * sums.strides[0];
      if constexpr (Weighted)
        for (index_t j = 0; j < dim_; ++j) dw[j] = 0;
      for (index_t row = begin; row < end; ++row)
        backward_row(x.data + row * x.strides[0], dy.data + row * dy.strides[0], dx.data + row * dx.strides[0],
                     inverse[row], dw, mode);
    });
    if constexpr (Weighted) linalg::add_rows<Isa>(executor, sums, weight.grad.data());
  }

  template <class Visit> void visit_parameters(Visit&& visit) {
    if (weight.present()) visit(std::string("weight"), weight);
  }
  template <class Visit> void visit_parameters(Visit&& visit) const {
    if (weight.present()) visit(std::string("weight"), weight);
  }

 private:
  using lanes = arch::lanes<Isa, T>;
  static constexpr subject self{"nn::rms_norm", "nn/rms_norm"};

  /// [..., dim] as rows.
  template <class X> [[nodiscard]] auto checked(const char* operand, X&& x) const {
    const auto view = detail::rows_of(self, operand, x);
    detail::expect_features(self, operand, view, "dim", dim_);
    return view;
  }
  /// The same, as many rows as x.
  template <class View, class X> [[nodiscard]] auto checked(const char* operand, View&& other, const X& x) const {
    const auto view = checked(operand, other);
    detail::expect_same_rows(self, operand, view, "x", x);
    return view;
  }

  template <class Part> [[nodiscard, gnu::always_inline]] lanes factor(index_t j, Part part) const noexcept {
    if constexpr (Weighted) {
      return lanes(options_.offset) + part.load(weight.value.data() + j);
    } else {
      return lanes(T{1});
    }
  }

  [[nodiscard]] T normalize(const T* x, T* y) const noexcept {
    const T mean = linalg::dot<Isa, T>(x, x, dim_) / static_cast<T>(dim_);
    const T inverse = T{1} / std::sqrt(mean + static_cast<T>(options_.eps));
    const lanes r(inverse);
    linalg::for_lanes<lanes>(dim_,
                             [&](index_t j, auto part) { part.store(y + j, part.load(x + j) * r * factor(j, part)); });
    return inverse;
  }

  // With xh = x r and g = dy (offset + weight): dx = r (g - xh mean(g xh)), dw += dy xh.
  void backward_row(const T* x, const T* dy, T* dx, T inverse, [[maybe_unused]] T* dw,
                    linalg::store mode) const noexcept {
    const lanes r(inverse);
    lanes sum(T{0});
    linalg::for_lanes<lanes>(dim_, [&](index_t j, auto part) {
      const lanes xh = part.load(x + j) * r, d = part.load(dy + j);
      sum = arch::fma(d * factor(j, part), xh, sum);
      if constexpr (Weighted) part.store(dw + j, arch::fma(d, xh, part.load(dw + j)));
    });
    const lanes mean(arch::sum(sum) / static_cast<T>(-dim_));
    linalg::for_lanes<lanes>(dim_, [&](index_t j, auto part) {
      const lanes xh = part.load(x + j) * r;
      const lanes g = arch::fma(mean, xh, part.load(dy + j) * factor(j, part)) * r;
      part.store(dx + j, mode == linalg::store::overwrite ? g : part.load(dx + j) + g);
    });
  }

  config options_;
  index_t dim_ = 0;
};

template <class T = float, class Isa = arch::native_isa> using rms_norm = root_mean_square_norm<true, T, Isa>;
template <class T = float, class Isa = arch::native_isa> using srms_norm = root_mean_square_norm<false, T, Isa>;

}  // namespace seqprim::nn
