// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/math.hpp>
#include <seqprim/core/constants.hpp>
#include <seqprim/linalg/rows.hpp>
#include <seqprim/nn/detail/rows.hpp>

#include <concepts>

/// Pointwise activations: types with `value(x)` and `derivative(x)`, templates over a number, so that one formula serves every
/// instruction set (arch::lanes), devices, and double.
///
///     relu          max(x, 0)                    relu2     max(x, 0)^2
///     gelu_erf      x (1 + erf(x / sqrt 2)) / 2  silu      x sigma(x)
///     gelu_tanh     x sigma(2 c (x + 0.044715 x^3)), c = sqrt(2 / pi); equal to 0.5 x (1 + tanh(...))
///     gelu_quick    x sigma(1.702 x)             sigmoid, tanh, softplus, identity as usual
///
/// Types    float: values accurate to 2e-6, derivatives to 4e-6 (absolute, or relative beyond 1). double for gradient checks.
/// Edge     relu'(0) = 0. Finite for |x| <= 1e9. NaN in, NaN out.
/// Cost     10 to 50 operations per element, in registers; double calls the C library.
/// Source   Hendrycks and Gimpel, "Gaussian error linear units"; Ramachandran et al., "Searching for activation functions"
///          (silu); So et al., "Primer" (relu2).  Page docs/reference/nn/activation.md
namespace seqprim::nn {

namespace detail {

/// A constant in the type of a number.
template <class X> [[nodiscard]] SEQPRIM_HD constexpr X constant(double value) noexcept {
  return X(static_cast<arch::real_of<X>>(value));
}

/// The derivative of x sigmoid(u(x)), for u with derivative du: s (1 + x du (1 - s)).
template <class X> [[nodiscard]] SEQPRIM_HD X gated_derivative(X x, X u, X du) noexcept {
  const X s = arch::sigmoid(u), one = constant<X>(1);
  return s * arch::fma(x * du, one - s, one);
}

}  // namespace detail

struct identity {
  template <class X> SEQPRIM_HD static X value(X x) noexcept { return x; }
  template <class X> SEQPRIM_HD static X derivative(X) noexcept { return detail::constant<X>(1); }
};

struct relu {
  template <class X> SEQPRIM_HD static X value(X x) noexcept { return max_of(x, detail::constant<X>(0)); }
  template <class X> SEQPRIM_HD static X derivative(X x) noexcept {
    const X zero = detail::constant<X>(0);
    return arch::if_larger(x, zero, detail::constant<X>(1), arch::if_larger(zero, x, zero, x));  // 0 and NaN stay
  }
};

struct relu2 {
  template <class X> SEQPRIM_HD static X value(X x) noexcept { return relu::value(x) * relu::value(x); }
  template <class X> SEQPRIM_HD static X derivative(X x) noexcept { return detail::constant<X>(2) * relu::value(x); }
};

struct gelu_erf {
  template <class X> SEQPRIM_HD static X value(X x) noexcept { return x * normal_cdf(x); }
  template <class X> SEQPRIM_HD static X derivative(X x) noexcept {
    const X density = detail::constant<X>(constants::inv_sqrt_2pi) * arch::exp(x * x * detail::constant<X>(-0.5));
    return arch::fma(x, density, normal_cdf(x));
  }

 private:
  // erfc keeps its digits where 1 + erf would cancel.
  template <class X> SEQPRIM_HD static X normal_cdf(X x) noexcept {
    return detail::constant<X>(0.5) * arch::erfc(x * detail::constant<X>(-constants::sqrt_half));
  }
};

struct gelu_tanh {
  template <class X> SEQPRIM_HD static X value(X x) noexcept { return x * arch::sigmoid(argument(x)); }
  template <class X> SEQPRIM_HD static X derivative(X x) noexcept {
    return detail::gated_derivative(
        x, argument(x), arch::fma(detail::constant<X>(3 * 0.044715 * two_c), x * x, detail::constant<X>(two_c)));
  }

 private:
  static constexpr double two_c = 1.5957691216057308;  // 2 sqrt(2 / pi)
  template <class X> SEQPRIM_HD static X argument(X x) noexcept {
    return x * arch::fma(detail::constant<X>(0.044715 * two_c), x * x, detail::constant<X>(two_c));
  }
};

struct gelu_quick {
  template <class X> SEQPRIM_HD static X value(X x) noexcept {
    return x * arch::sigmoid(x * detail::constant<X>(slope));
  }
  template <class X> SEQPRIM_HD static X derivative(X x) noexcept {
    return detail::gated_derivative(x, x * detail::constant<X>(slope), detail::constant<X>(slope));
  }

 private:
  static constexpr double slope = 1.702;
};

struct silu {
  template <class X> SEQPRIM_HD static X value(X x) noexcept { return x * arch::sigmoid(x); }
  template <class X> SEQPRIM_HD static X derivative(X x) noexcept {
    return detail::gated_derivative(x, x, detail::constant<X>(1));
  }
};

struct sigmoid {
  template <class X> SEQPRIM_HD static X value(X x) noexcept { return arch::sigmoid(x); }
  template <class X> SEQPRIM_HD static X derivative(X x) noexcept {
    const X s = arch::sigmoid(x);
    return s * (detail::constant<X>(1) - s);
  }
};

struct tanh {
  template <class X> SEQPRIM_HD static X value(X x) noexcept { return arch::tanh(x); }
  template <class X> SEQPRIM_HD static X derivative(X x) noexcept {
    const X y = arch::tanh(x);
    return detail::constant<X>(1) - y * y;
  }
};

struct softplus {
  template <class X> SEQPRIM_HD static X value(X x) noexcept {
    return relu::value(x) + arch::log1p(arch::exp(-arch::abs(x)));
  }
  template <class X> SEQPRIM_HD static X derivative(X x) noexcept { return arch::sigmoid(x); }
};

/// An activation type, for layers that take one.
template <class A> concept activation = requires(float x, arch::lanes<arch::native_isa, float> y) {
  { A::value(x) } -> std::same_as<float>;
  { A::derivative(x) } -> std::same_as<float>;
  { A::value(y) } -> std::same_as<arch::lanes<arch::native_isa, float>>;
  { A::derivative(y) } -> std::same_as<arch::lanes<arch::native_isa, float>>;
};

/// Named requirement of what takes an activation.
template <class A> consteval bool require_activation() {
  static_assert(
      activation<A>,
      "seqprim: an activation needs static templates 'X value(X x)' and 'X derivative(X x)' for float, double and "
      "arch::lanes. See docs/reference/nn/activation.md");
  return true;
}

/// y = activation(x), element by element, for tensors [..., n] of one shape. y may be x.
///
/// Errors  precondition_error: shapes disagree.
/// Repeat  same bits for any number of threads.
template <class Activation, class Isa = arch::native_isa, row_viewable X, row_viewable Y>
void activate(const cpu& executor, const X& input, Y&& output) {
  static_assert(require_activation<Activation>());
  constexpr subject self{"nn::activate", "nn/activation"};
  const auto x = detail::rows_of(self, "x", input);
  const auto y = detail::rows_of(self, "y", output);
  detail::expect_same_shape(self, "y", y, "x", x);
  executor.validate();
  parallel_for(executor, x.extent(0), [&](index_t row, int) {
    const auto* const from = x.data + row * x.strides[0];
    auto* const to = y.data + row * y.strides[0];
    linalg::for_lanes<arch::lanes<Isa, element_of<X>>>(
        x.extent(1), [&](index_t j, auto part) { part.store(to + j, Activation::value(part.load(from + j))); });
  });
}

/// dx = dy * activation'(x), element by element. dx may be dy.
template <class Activation, class Isa = arch::native_isa, row_viewable X, row_viewable Dy, row_viewable Dx>
void activate_backward(const cpu& executor, const X& input, const Dy& output_gradient, Dx&& input_gradient) {
  static_assert(require_activation<Activation>());
  constexpr subject self{"nn::activate_backward", "nn/activation"};
  const auto x = detail::rows_of(self, "x", input);
  const auto dy = detail::rows_of(self, "dy", output_gradient);
  const auto dx = detail::rows_of(self, "dx", input_gradient);
  detail::expect_same_shape(self, "dy", dy, "x", x);
  detail::expect_same_shape(self, "dx", dx, "x", x);
  executor.validate();
  parallel_for(executor, x.extent(0), [&](index_t row, int) {
    linalg::for_lanes<arch::lanes<Isa, element_of<X>>>(x.extent(1), [&](index_t j, auto part) {
      const auto slope = Activation::derivative(part.load(x.data + row * x.strides[0] + j));
      part.store(dx.data + row * dx.strides[0] + j, part.load(dy.data + row * dy.strides[0] + j) * slope);
    });
  });
}

}  // namespace seqprim::nn
