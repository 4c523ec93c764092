// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/bits.hpp>

#include <cmath>
#include <cstdint>
#include <support/catch.hpp>

namespace seqprim::test {

/// A 16-bit floating-point format, spelled out with real arithmetic: nothing here knows the tricks of the library.
struct small_format {
  int exponent_bits;
  int fraction_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  unsigned infinity() const { return ((1u << exponent_bits) - 1u) << fraction_bits; }
  bool is_nan(unsigned pattern) const { return (pattern & 0x7fffu) > infinity(); }

  /// The number that a finite pattern stands for; the pattern after the largest finite one stands for the number that
  /// the next exponent would have, which is where rounding turns to infinity.
  double value(unsigned pattern) const {
    const unsigned magnitude = pattern & 0x7fffu;
    const int exponent = static_cast<int>(magnitude >> fraction_bits);
    const double fraction = magnitude & ((1u << fraction_bits) - 1u);
    const double one = std::ldexp(1.0, fraction_bits);
    const double absolute =
        exponent == 0 ? std::ldexp(fraction / one, 1 - bias()) : std::ldexp(1.0 + fraction / one, exponent - bias());
    return (pattern & 0x8000u) ? -absolute : absolute;
  }

  /// Round to nearest, ties to the even pattern: by bisection over the patterns, which are ordered like their values.
  unsigned nearest(float x) const {
    const double target = std::fabs(static_cast<double>(x));
    const unsigned sign = std::signbit(x) ? 0x8000u : 0u;
    if (std::isinf(x)) return sign | infinity();
    unsigned low = 0, high = infinity();
    if (target >= value(high)) return sign | infinity();
    while (high - low > 1) {
      const unsigned middle = (low + high) / 2;
      (value(middle) <= target ? low : high) = middle;
    }
    const double below = target - value(low), above = value(high) - target;
    if (below != above) return sign | (below < above ? low : high);
    return sign | (low % 2 == 0 ? low : high);
  }
};

template <class T> void require_all_patterns_round_trip(const small_format& format) {
  int wrong = 0;
  for (unsigned pattern = 0; pattern < 0x10000u; ++pattern) {
    const float wide = T::from_bits(static_cast<std::uint16_t>(pattern));
    const unsigned back = T(wide).bits;
    bool right = false;
    if (format.is_nan(pattern)) {
      const unsigned quiet = 1u << (format.fraction_bits - 1);
      right = std::isnan(wide) && back == (pattern | quiet);
    } else if ((pattern & 0x7fffu) == format.infinity()) {
      right = std::isinf(wide) && std::signbit(wide) == (pattern >= 0x8000u) && back == pattern;
    } else {
      right = static_cast<double>(wide) == format.value(pattern) && std::signbit(wide) == (pattern >= 0x8000u) &&
              back == pattern;
    }
    wrong += right ? 0 : 1;
  }
  REQUIRE(wrong == 0);
}

/// Every pattern of the format's grid, the midpoints of the grid and the floats next to both, then a sweep in steps of a
/// prime through all float patterns (subnormals, normals, infinities; both signs).
template <class T> void require_nearest_even(const small_format& format) {
  int wrong = 0;
  std::uint32_t first_wrong = 0;
  const auto check = [&](std::uint32_t bits) {
    const float x = bit_cast<float>(bits);
    if (std::isnan(x)) return;
    if (T(x).bits == format.nearest(x)) return;
    if (wrong++ == 0) first_wrong = bits;
  };
  for (unsigned pattern = 0; pattern < format.infinity(); ++pattern) {
    const double here = format.value(pattern), next = format.value(pattern + 1);
    for (const double exact : {here, 0.5 * (here + next)}) {
      const auto bits = bit_cast<std::uint32_t>(static_cast<float>(exact));  // both are floats
      for (int step = -1; step <= 1; ++step) {
        check(bits + static_cast<std::uint32_t>(step));
        check((bits + static_cast<std::uint32_t>(step)) ^ 0x80000000u);
      }
    }
  }
  for (std::uint64_t bits = 0; bits < 0x100000000u; bits += 1021) check(static_cast<std::uint32_t>(bits));
  CAPTURE(first_wrong);
  REQUIRE(wrong == 0);
}

}  // namespace seqprim::test
