// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/math.hpp>

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

/// tanh(x), to a few units in the last place.
template <class X> [[nodiscard]] SEQPRIM_HD constexpr X tanh_of(X x) noexcept { return arch::tanh(x); }

}  // namespace seqprim::score
