// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/config.hpp>

#include <concepts>

/// Functions for score modifiers that are written once for a float, a double and a register of floats (arch::lanes, which
/// brings its own under the same names).
namespace seqprim::score {

/// a b + c.
template <std::floating_point T> [[nodiscard]] SEQPRIM_HD constexpr T multiply_add(T a, T b, T c) noexcept {
  return a * b + c;
}
/// The larger and the smaller; where x is NaN, NaN.
template <std::floating_point T> [[nodiscard]] SEQPRIM_HD constexpr T at_least(T x, T low) noexcept {
  return x < low ? low : x;
}
template <std::floating_point T> [[nodiscard]] SEQPRIM_HD constexpr T at_most(T x, T high) noexcept {
  return x > high ? high : x;
}
template <std::floating_point T> [[nodiscard]] SEQPRIM_HD constexpr T magnitude(T x) noexcept { return x < 0 ? -x : x; }

/// tanh(x) for float-like numbers, to a few units in the last place: x p(x^2) / q(x^2), minimax in relative error (2e-8
/// before rounding) on |x| <= 9.02, where tanh becomes 1. From there on the quotient grows past 1 and is cut off.
/// No branch, no library call: the same on host, device and in vector code, up to contraction of a b + c.
template <class X> [[nodiscard]] SEQPRIM_HD constexpr X tanh_of(X x) noexcept {
  const X s = at_most(x * x, X(1e8f));
  X p = X(0x1.c9a6e2p-27f);
  p = multiply_add(p, s, X(0x1.5956a6p-16f));
  p = multiply_add(p, s, X(0x1.c9f902p-9f));
  p = multiply_add(p, s, X(0x1.120458p-3f));
  p = multiply_add(p, s, X(1.0f));
  X q = X(0x1.a0ba88p-21f);
  q = multiply_add(q, s, X(0x1.5842b0p-12f));
  q = multiply_add(q, s, X(0x1.a7df78p-6f));
  q = multiply_add(q, s, X(0x1.de5776p-2f));
  q = multiply_add(q, s, X(1.0f));
  return at_most(at_least(x * p / q, X(-1.0f)), X(1.0f));
}

}  // namespace seqprim::score
