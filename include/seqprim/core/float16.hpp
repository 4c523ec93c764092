// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/bits.hpp>
#include <seqprim/core/config.hpp>

#include <cstdint>

namespace seqprim {

/// IEEE 754 binary16: 1 sign, 5 exponent, 10 fraction bits. A storage type: arithmetic happens in float.
///
/// From float (explicit): round to nearest, ties to even; magnitudes >= 65520 become infinity, those <= 2^-25 zero;
/// subnormals are exact; a NaN stays a NaN (made quiet, upper payload bits kept). To float (implicit): exact. Same bits
/// on host and device. Page: docs/reference/core/numbers.md
struct float16 {
  std::uint16_t bits = 0;

  float16() = default;
  SEQPRIM_HD constexpr explicit float16(float value) noexcept : bits(round(value)) {}
  SEQPRIM_HD constexpr operator float() const noexcept { return widen(bits); }  // NOLINT: widening loses nothing

  [[nodiscard]] SEQPRIM_HD static constexpr float16 from_bits(std::uint16_t bits) noexcept {
    float16 result;
    result.bits = bits;
    return result;
  }

 private:
  SEQPRIM_HD static constexpr std::uint16_t round(float value) noexcept {
    const auto f = bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = (f >> 16) & 0x8000u;
    const std::uint32_t magnitude = f & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // >= 65520
    if (magnitude < 0x38800000u) {                                                    // below 2^-14: subnormal result
      if (magnitude < 0x33000000u)
        return static_cast<std::uint16_t>(sign);             // below 2^-25; 2^-25 itself is a tie and goes to 0
      const std::uint32_t shift = 126u - (magnitude >> 23);  // 14 .. 24
      const std::uint32_t fraction = (magnitude & 0x7fffffu) | 0x800000u;
      const std::uint32_t kept = fraction >> shift;
      const std::uint32_t rest = fraction & ((1u << shift) - 1u);
      const std::uint32_t tie = 1u << (shift - 1u);
      const std::uint32_t up = (rest > tie || (rest == tie && (kept & 1u))) ? 1u : 0u;
      return static_cast<std::uint16_t>(sign | (kept + up));
    }
    const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
  }

  SEQPRIM_HD static constexpr float widen(std::uint16_t h) noexcept {
    const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
    const std::uint32_t exponent = (h >> 10) & 0x1fu;
    const std::uint32_t fraction = h & 0x3ffu;
    if (exponent == 0x1fu) return bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
    if (exponent != 0) return bit_cast<float>(sign | ((exponent + 112u) << 23) | (fraction << 13));
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // zero and subnormals, exact
    return bit_cast<float>(sign | bit_cast<std::uint32_t>(magnitude));
  }
};
static_assert(sizeof(float16) == 2);

}  // namespace seqprim
