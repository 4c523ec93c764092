// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/lanes.hpp>
#include <seqprim/core/constants.hpp>
#include <seqprim/core/index.hpp>

#include <cmath>
#include <concepts>
#include <type_traits>

/// Functions of one number that mean the same for a float, a double and a register of either (arch::lanes), on host and
/// device: a formula is written once, as a template over its number.
///
///     template <class X> static X value(X x) { return x * arch::sigmoid(x); }
///
/// min_of and max_of (core/index.hpp) belong to them. In float and in lanes the functions are polynomials without branch or
/// library call; in double they are those of the C library, for references and gradient checks.
///
/// Edge    NaN stays NaN. exp(-inf) = 0, log(0) = -inf, log of a negative number NaN; tanh, erfc and sigmoid reach their limits.
/// Cost    float: 8 to 20 multiply-adds each, and a division in tanh, sigmoid, erfc and log1p.
/// Page docs/reference/arch/math.md
namespace seqprim::arch {

namespace detail {

template <class X> struct number_traits {
  using real = X;
  static constexpr bool single = false;  // arithmetic of one number in disguise
};
template <class Isa, class T> struct number_traits<lanes<Isa, T>> {
  using real = T;
  static constexpr bool single = lanes<Isa, T>::count == 1;
};
template <class X> inline constexpr bool single_lane = number_traits<X>::single;

}  // namespace detail

/// The real type behind a number: float or double.
template <class X> using real_of = typename detail::number_traits<X>::real;

/// a b + c; rounded once where the instruction set has it.
template <class X> [[nodiscard]] SEQPRIM_HD constexpr X fma(X a, X b, X c) noexcept {
  if constexpr (std::floating_point<X>) {
    // Where there is an instruction it is named: a * b + c may become the difference of two equal products.
#if defined(__CUDA_ARCH__)
    return ::fma(a, b, c);
#elif defined(__FMA__)
    if constexpr (std::same_as<X, float>) {
      return __builtin_fmaf(a, b, c);
    } else {
      return __builtin_fma(a, b, c);
    }
#else
    return a * b + c;
#endif
  } else {
    return X::v::fma(a.reg, b.reg, c.reg);
  }
}

template <class X> [[nodiscard]] SEQPRIM_HD constexpr X abs(X x) noexcept { return max_of(x, -x); }

template <class X> [[nodiscard]] SEQPRIM_HD X sqrt(X x) noexcept {
  if constexpr (std::floating_point<X>) {
#if defined(__CUDA_ARCH__)
    return ::sqrt(x);
#else
    return std::sqrt(x);
#endif
  } else {
    return X::v::sqrt(x.reg);
  }
}

/// x where a > b, elsewhere `otherwise`; with NaN in a or b, `otherwise`.
template <class X> [[nodiscard]] SEQPRIM_HD constexpr X if_larger(X a, X b, X x, X otherwise) noexcept {
  if constexpr (std::floating_point<X>) {
    return a > b ? x : otherwise;
  } else {
    return X::v::select(X::v::larger(a.reg, b.reg), x.reg, otherwise.reg);
  }
}

namespace detail {

/// coefficients[0] + coefficients[1] x + coefficients[2] x^2 ...
template <class X, int N>
[[nodiscard]] SEQPRIM_HD constexpr X polynomial(X x, const float (&coefficients)[N]) noexcept {
  X sum(coefficients[N - 1]);
  for (int i = N - 2; i >= 0; --i) sum = fma(sum, x, X(coefficients[i]));
  return sum;
}

/// x = m 2^exponent with m in [sqrt(1/2), sqrt(2)), for x > 0 and finite.
template <class X> [[nodiscard]] SEQPRIM_HD X split(X x, X& exponent) noexcept {
  if constexpr (std::same_as<X, float>) {
    return split_float(x, exponent);
  } else {
    return X::v::split(x.reg, exponent.reg);
  }
}

/// The logarithm of a positive number as ln m + exponent ln 2; and what it is of the others.
template <class X, class Combine> [[nodiscard]] SEQPRIM_HD X logarithm(X x, const Combine& combine) noexcept {
  // log(1 + t) = t - t^2 / 2 + t^3 q(t), minimax in relative error: 6e-9 before rounding.
  constexpr float q[] = {0x1.555554p-2f, -0x1.000232p-2f, 0x1.99a060p-3f, -0x1.546f28p-3f,
                         0x1.22cf44p-3f, -0x1.0d9a42p-3f, 0x1.05b798p-3f, -0x1.392fbap-4f};
  constexpr float infinity = __builtin_huge_valf();
  X exponent(0.0f);
  const X t = split(x, exponent) - X(1.0f);
  const X square = t * t;
  const X result = combine(t, fma(square, X(-0.5f), t * square * polynomial(t, q)), exponent);
  const X finite = if_larger(x, X(0x1.fffffep127f), x, result);
  // 0 and NaN by the same sum; below 0, NaN.
  return if_larger(x, X(0.0f), finite, if_larger(X(0.0f), x, X(__builtin_nanf("")), x - X(infinity)));
}

}  // namespace detail

/// 2^x: relative error below 2e-7, 2^0 = 1 exactly; results below 2^-126 may become 0.
template <class X> [[nodiscard]] SEQPRIM_HD X exp2(X x) noexcept {
  if constexpr (std::same_as<X, double>) {
#if defined(__CUDA_ARCH__)
    return ::exp2(x);
#else
    return std::exp2(x);
#endif
  } else if constexpr (std::same_as<X, float>) {
    return detail::exp2_float(x);
  } else {
    return X::v::exp2(x.reg);
  }
}

/// e^x: relative error below 3e-7 where multiply-adds round once, else |x| 1e-7 more.
template <class X> [[nodiscard]] SEQPRIM_HD X exp(X x) noexcept {
  if constexpr (std::same_as<X, double>) {
#if defined(__CUDA_ARCH__)
    return ::exp(x);
#else
    return std::exp(x);
#endif
  } else if constexpr (detail::single_lane<X>) {
    return X(exp(x.reg));
  } else {
    constexpr float high = static_cast<float>(constants::log2_e);
    constexpr float low = static_cast<float>(constants::log2_e - static_cast<double>(high));
    const X y = min_of(max_of(x, X(-104.0f)), X(89.0f));
    const X product = y * X(high);
    const X rest = fma(y, X(low), fma(y, X(high), -product));
    return exp2(product) * fma(rest, X(static_cast<float>(constants::ln_2)), X(1.0f));
  }
}

/// The natural logarithm: relative error below 3e-7.
template <class X> [[nodiscard]] SEQPRIM_HD X log(X x) noexcept {
  if constexpr (std::same_as<X, double>) {
#if defined(__CUDA_ARCH__)
    return ::log(x);
#else
    return std::log(x);
#endif
  } else if constexpr (detail::single_lane<X>) {
    return X(log(x.reg));
  } else {
    // ln 2 in two parts: the first times an exponent is exact.
    return detail::logarithm(x, [](X t, X rest, X exponent) {
      return fma(exponent, X(0.693359375f), t + fma(exponent, X(-2.12194440e-4f), rest));
    });
  }
}

/// The logarithm of base 2: relative error below 4e-7.
template <class X> [[nodiscard]] SEQPRIM_HD X log2(X x) noexcept {
  if constexpr (std::same_as<X, double>) {
#if defined(__CUDA_ARCH__)
    return ::log2(x);
#else
    return std::log2(x);
#endif
  } else if constexpr (detail::single_lane<X>) {
    return X(log2(x.reg));
  } else {
    return detail::logarithm(
        x, [](X t, X rest, X exponent) { return fma(t + rest, X(static_cast<float>(constants::log2_e)), exponent); });
  }
}

/// log(1 + x), with its digits where 1 + x loses them.
template <class X> [[nodiscard]] SEQPRIM_HD X log1p(X x) noexcept {
  if constexpr (std::same_as<X, double>) {
#if defined(__CUDA_ARCH__)
    return ::log1p(x);
#else
    return std::log1p(x);
#endif
  } else if constexpr (detail::single_lane<X>) {
    return X(log1p(x.reg));
  } else {
    const X sum = X(1.0f) + x;
    return log(sum) + (x - (sum - X(1.0f))) / sum;
  }
}

/// 1 / (1 + e^-x).
template <class X> [[nodiscard]] SEQPRIM_HD X sigmoid(X x) noexcept {
  constexpr auto minus_log2_e = static_cast<real_of<X>>(-constants::log2_e);
  return X(1.0f) / (X(1.0f) + exp2(x * X(minus_log2_e)));
}

/// tanh(x), to a few units in the last place: x p(x^2) / q(x^2), minimax in relative error (2e-8 before rounding) on
/// |x| <= 9.02, where tanh becomes 1. From there on the quotient grows past 1 and is cut off.
template <class X> [[nodiscard]] SEQPRIM_HD constexpr X tanh(X x) noexcept {
  if constexpr (std::same_as<X, double>) {
#if defined(__CUDA_ARCH__)
    return ::tanh(x);
#else
    return __builtin_tanh(x);
#endif
  } else if constexpr (std::same_as<real_of<X>, double>) {
    return X(tanh(x.reg));
  } else {
    constexpr float p[] = {1.0f, 0x1.120458p-3f, 0x1.c9f902p-9f, 0x1.5956a6p-16f, 0x1.c9a6e2p-27f};
    constexpr float q[] = {1.0f, 0x1.de5776p-2f, 0x1.a7df78p-6f, 0x1.5842b0p-12f, 0x1.a0ba88p-21f};
    const X s = min_of(x * x, X(1e8f));
    return min_of(max_of(x * detail::polynomial(s, p) / detail::polynomial(s, q), X(-1.0f)), X(1.0f));
  }
}

/// The complementary error function, 1 - erf(x), with its digits where it is small: relative error below 5e-7 while results are
/// above 2^-126.
template <class X> [[nodiscard]] SEQPRIM_HD X erfc(X x) noexcept {
  if constexpr (std::same_as<X, double>) {
#if defined(__CUDA_ARCH__)
    return ::erfc(x);
#else
    return std::erfc(x);
#endif
  } else if constexpr (detail::single_lane<X>) {
    return X(erfc(x.reg));
  } else {
    // e^(z^2) erfc(z) = t p(t) with t = 1 / (1 + 0.3 z), minimax in relative error on [0, 10.2]: 2e-8 before rounding.
    constexpr float p[] = {0x1.5a7f14p-3f, 0x1.5da25cp-3f,  0x1.2fbd9ap-3f, 0x1.b85df0p-3f, -0x1.8483f2p-4f,
                           0x1.18911cp-1f, -0x1.066492p-1f, 0x1.f14faap-2f, -0x1.094c82p-3f};
    const X z = min_of(abs(x), X(10.2f));
    const X t = X(1.0f) / fma(z, X(0.3f), X(1.0f));
    const X square = z * z, rest = fma(z, z, -square);  // the digits of z^2 that do not fit one number
    const X tail = t * detail::polynomial(t, p) * (exp(-square) * (X(1.0f) - rest));
    return if_larger(X(0.0f), x, X(2.0f) - tail, tail);
  }
}

/// The error function: relative error below 3e-7.
template <class X> [[nodiscard]] SEQPRIM_HD X erf(X x) noexcept {
  if constexpr (std::same_as<X, double>) {
#if defined(__CUDA_ARCH__)
    return ::erf(x);
#else
    return std::erf(x);
#endif
  } else if constexpr (detail::single_lane<X>) {
    return X(erf(x.reg));
  } else {
    // erf(x) / x on |x| <= 1 as a polynomial in x^2, minimax in relative error: 1.3e-9 before rounding.
    constexpr float p[] = {0x1.20dd74p+0f, -0x1.81273ep-2f,  0x1.ce2cf8p-4f, -0x1.b7f90ep-6f,
                           0x1.5405b4p-8f, -0x1.a3f710p-11f, 0x1.496a5ep-14f};
    return if_larger(abs(x), X(1.0f), X(1.0f) - erfc(x), x * detail::polynomial(x * x, p));
  }
}

}  // namespace seqprim::arch
