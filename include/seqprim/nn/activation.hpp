// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/matmul.hpp>
#include <seqprim/nn/detail/rows.hpp>

#include <cmath>

/// Pointwise activations: types with `value<V>(x)` and `derivative<V>(x)` on registers of an arch::simd bundle V, so that
/// one formula serves every instruction set and double.
///
///     relu          max(x, 0)                    relu2     max(x, 0)^2
///     gelu_erf      x (1 + erf(x / sqrt 2)) / 2  silu      x sigma(x)
///     gelu_tanh     x sigma(2 c (x + 0.044715 x^3)), c = sqrt(2 / pi); equal to 0.5 x (1 + tanh(...))
///     gelu_quick    x sigma(1.702 x)             sigmoid, tanh, softplus, identity as usual
///
/// Types    float: values accurate to 2e-6, derivatives to 4e-6 (absolute, or relative beyond 1). double for gradient checks.
/// Edge     relu'(0) = 0. Finite for |x| <= 1e9. NaN in, NaN out.
/// Cost     gelu_erf, tanh and softplus call the C library for each element; the others stay in registers.
/// Source   Hendrycks and Gimpel, "Gaussian error linear units"; Ramachandran et al., "Searching for activation functions"
///          (silu); So et al., "Primer" (relu2).  Page docs/reference/nn/activation.md
namespace seqprim::nn {

/// The element type of V::reg.
template <class V> using lane_type = decltype(V::sum(V::zero()));

namespace detail {

template <class V> [[gnu::always_inline]] inline typename V::reg sigma(typename V::reg x) noexcept {
  const auto one = V::set(1);
  const auto minus_log2e = V::set(static_cast<lane_type<V>>(-1.4426950408889634));
  return V::div(one, V::add(one, V::exp2(V::mul(x, minus_log2e))));
}

/// 1 where x > 0, else 0, exactly and without a comparison; NaN stays.
template <class V> [[gnu::always_inline]] inline typename V::reg positive(typename V::reg x) noexcept {
  using T = lane_type<V>;
  const auto huge = V::set(sizeof(T) == 8 ? static_cast<T>(0x1p1022) : static_cast<T>(0x1p126));
  const auto large = V::mul(V::mul(V::max(V::zero(), x), huge), huge);  // 0, or above 1 even for subnormals
  return V::sub(V::set(1), V::max(V::zero(), V::sub(V::set(1), large)));
}

/// f on each element of a register.
template <class V, class F> [[gnu::always_inline]] inline typename V::reg each(typename V::reg x, F f) noexcept {
  lane_type<V> numbers[V::lanes];
  V::store(numbers, x);
  for (auto& number : numbers) number = f(number);
  return V::load(numbers);
}

/// x sigma(u(x)) and its derivative, for u with derivative du.
template <class V> [[gnu::always_inline]] inline typename V::reg gated(typename V::reg x, typename V::reg u) noexcept {
  return V::mul(x, sigma<V>(u));
}
template <class V>
[[gnu::always_inline]] inline typename V::reg gated_derivative(typename V::reg x, typename V::reg u,
                                                               typename V::reg du) noexcept {
  const auto s = sigma<V>(u);
  const auto one = V::set(1);
  return V::mul(s, V::fma(V::mul(x, du), V::sub(one, s), one));  // s (1 + x du (1 - s))
}

}  // namespace detail

struct identity {
  template <class V> static typename V::reg value(typename V::reg x) noexcept { return x; }
  template <class V> static typename V::reg derivative(typename V::reg) noexcept { return V::set(1); }
};

struct relu {
  template <class V> static typename V::reg value(typename V::reg x) noexcept { return V::max(V::zero(), x); }
  template <class V> static typename V::reg derivative(typename V::reg x) noexcept { return detail::positive<V>(x); }
};

struct relu2 {
  template <class V> static typename V::reg value(typename V::reg x) noexcept {
    const auto r = V::max(V::zero(), x);
    return V::mul(r, r);
  }
  template <class V> static typename V::reg derivative(typename V::reg x) noexcept {
    return V::mul(V::set(2), V::max(V::zero(), x));
  }
};

struct gelu_erf {
  template <class V> static typename V::reg value(typename V::reg x) noexcept {
    using T = lane_type<V>;
    return detail::each<V>(x, [](T t) { return t * normal_cdf(t); });
  }
  template <class V> static typename V::reg derivative(typename V::reg x) noexcept {
    using T = lane_type<V>;
    return detail::each<V>(
        x, [](T t) { return normal_cdf(t) + t * static_cast<T>(0.3989422804014327) * std::exp(t * t * T{-0.5}); });
  }

 private:
  // erfc keeps its digits where 1 + erf would cancel.
  template <class T> static T normal_cdf(T t) noexcept {
    return T{0.5} * std::erfc(t * static_cast<T>(-0.7071067811865476));
  }
};

struct gelu_tanh {
  template <class V> static typename V::reg value(typename V::reg x) noexcept {
    return detail::gated<V>(x, argument<V>(x));
  }
  template <class V> static typename V::reg derivative(typename V::reg x) noexcept {
    using T = lane_type<V>;
    const auto slope =
        V::fma(V::set(static_cast<T>(3 * 0.044715 * two_c)), V::mul(x, x), V::set(static_cast<T>(two_c)));
    return detail::gated_derivative<V>(x, argument<V>(x), slope);
  }

 private:
  static constexpr double two_c = 1.5957691216057308;  // 2 sqrt(2 / pi)
  template <class V> static typename V::reg argument(typename V::reg x) noexcept {
    using T = lane_type<V>;
    return V::mul(x, V::fma(V::set(static_cast<T>(0.044715 * two_c)), V::mul(x, x), V::set(static_cast<T>(two_c))));
  }
};

struct gelu_quick {
  template <class V> static typename V::reg value(typename V::reg x) noexcept {
    return detail::gated<V>(x, V::mul(x, slope<V>()));
  }
  template <class V> static typename V::reg derivative(typename V::reg x) noexcept {
    return detail::gated_derivative<V>(x, V::mul(x, slope<V>()), slope<V>());
  }

 private:
  template <class V> static typename V::reg slope() noexcept { return V::set(static_cast<lane_type<V>>(1.702)); }
};

struct silu {
  template <class V> static typename V::reg value(typename V::reg x) noexcept { return detail::gated<V>(x, x); }
  template <class V> static typename V::reg derivative(typename V::reg x) noexcept {
    return detail::gated_derivative<V>(x, x, V::set(1));
  }
};

struct sigmoid {
  template <class V> static typename V::reg value(typename V::reg x) noexcept { return detail::sigma<V>(x); }
  template <class V> static typename V::reg derivative(typename V::reg x) noexcept {
    const auto s = detail::sigma<V>(x);
    return V::mul(s, V::sub(V::set(1), s));
  }
};

struct tanh {
  template <class V> static typename V::reg value(typename V::reg x) noexcept {
    return detail::each<V>(x, [](auto t) { return std::tanh(t); });
  }
  template <class V> static typename V::reg derivative(typename V::reg x) noexcept {
    const auto y = value<V>(x);
    return V::sub(V::set(1), V::mul(y, y));
  }
};

struct softplus {
  template <class V> static typename V::reg value(typename V::reg x) noexcept {
    return V::add(V::max(V::zero(), x),
                  detail::each<V>(x, [](auto t) { return std::log1p(std::exp(t > 0 ? -t : t)); }));
  }
  template <class V> static typename V::reg derivative(typename V::reg x) noexcept { return detail::sigma<V>(x); }
};

/// An activation type, for layers that take one.
template <class A> concept activation = requires(float x) {
  { A::template value<arch::simd<arch::scalar, float>>(x) } -> std::same_as<float>;
  { A::template derivative<arch::simd<arch::scalar, float>>(x) } -> std::same_as<float>;
};

/// Named requirement of what takes an activation.
template <class A> consteval bool require_activation() {
  static_assert(
      activation<A>,
      "seqprim: an activation needs static 'value<V>(x)' and 'derivative<V>(x)' on registers of an arch::simd "
      "bundle V. See docs/reference/nn/activation.md");
  return true;
}

/// y = activation(x), element by element, for tensors [..., n] of one shape. y may be x.
///
/// Errors  precondition_error: shapes disagree.
/// Repeat  same bits for any number of threads.
template <class Activation, class Isa = arch::native_isa, row_viewable X, row_viewable Y>
void activate(const cpu& executor, const X& input, Y&& output) {
  static_assert(require_activation<Activation>());
  using v = arch::simd<Isa, element_of<X>>;
  const auto x = detail::rows_of("nn::activate: x", input);
  const auto y = detail::rows_of("nn::activate: y", output);
  detail::expect_shape(y, "nn::activate: y", x.extent(0), x.extent(1), "activation.md");
  executor.validate();
  parallel_for(executor, x.extent(0), [&](index_t row, int) {
    const auto* const from = x.data + row * x.strides[0];
    auto* const to = y.data + row * y.strides[0];
    detail::for_lanes<v>(x.extent(1), [&](index_t j, auto part) {
      part.store(to + j, Activation::template value<v>(part.load(from + j)));
    });
  });
}

/// dx = dy * activation'(x), element by element. dx may be dy.
template <class Activation, class Isa = arch::native_isa, row_viewable X, row_viewable Dy, row_viewable Dx>
void activate_backward(const cpu& executor, const X& input, const Dy& output_gradient, Dx&& input_gradient) {
  static_assert(require_activation<Activation>());
  using v = arch::simd<Isa, element_of<X>>;
  const auto x = detail::rows_of("nn::activate: x", input);
  const auto dy = detail::rows_of("nn::activate: dy", output_gradient);
  const auto dx = detail::rows_of("nn::activate: dx", input_gradient);
  detail::expect_shape(dy, "nn::activate: dy", x.extent(0), x.extent(1), "activation.md");
  detail::expect_shape(dx, "nn::activate: dx", x.extent(0), x.extent(1), "activation.md");
  executor.validate();
  parallel_for(executor, x.extent(0), [&](index_t row, int) {
    detail::for_lanes<v>(x.extent(1), [&](index_t j, auto part) {
      const auto slope = Activation::template derivative<v>(part.load(x.data + row * x.strides[0] + j));
      part.store(dx.data + row * dx.strides[0] + j, v::mul(part.load(dy.data + row * dy.strides[0] + j), slope));
    });
  });
}

}  // namespace seqprim::nn
