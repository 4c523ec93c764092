// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/bits.hpp>
#include <seqprim/core/config.hpp>

#include <cstdint>

namespace seqprim {

/// The upper half of a binary32: 1 sign, 8 exponent, 7 fraction bits. A storage type: arithmetic happens in float.
///
/// From float (explicit): round to nearest, ties to even; overflow becomes infinity; subnormals are kept; a NaN stays a
/// NaN (made quiet, upper payload bits kept). To float (implicit): exact. Same bits on host and device. Page:
/// docs/reference/core/numbers.md
struct bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  SEQPRIM_HD constexpr explicit bfloat16(float value) noexcept : bits(round(value)) {}
  SEQPRIM_HD constexpr operator float() const noexcept {  // NOLINT: widening loses nothing
    return bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }

  [[nodiscard]] SEQPRIM_HD static constexpr bfloat16 from_bits(std::uint16_t bits) noexcept {
    bfloat16 result;
    result.bits = bits;
    return result;
  }

 private:
  SEQPRIM_HD static constexpr std::uint16_t round(float value) noexcept {
    const auto f = bit_cast<std::uint32_t>(value);
    if ((f & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((f >> 16) | 0x40u);
    return static_cast<std::uint16_t>((f + 0x7fffu + ((f >> 16) & 1u)) >> 16);
  }
};
static_assert(sizeof(bfloat16) == 2);

}  // namespace seqprim
