// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/philox.hpp>

#include <cstdint>

/// What cuRAND makes of the same Philox words, for comparison with peers and with golden files.
namespace seqprim::test {

/// Uniform in [0, 1); exact in float.
[[nodiscard]] SEQPRIM_HD constexpr float uniform_half_open(std::uint32_t word) noexcept {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

/// Uniform in (0, 1] by the rule of cuRAND: float(word) * 2^-32 + 2^-33, for comparison with GPU peers.
[[nodiscard]] SEQPRIM_HD constexpr float uniform_curand(std::uint32_t word) noexcept {
  return static_cast<float>(word) * 0x1p-32f + 0x1p-33f;
}

/// The words that cuRAND's Philox generator yields after curand_init(seed, subsequence, offset): word(i) is what the i-th
/// call of curand() returns.
struct curand_stream {
  std::uint64_t seed = 0;
  std::uint64_t subsequence = 0;
  std::uint64_t offset = 0;

  [[nodiscard]] SEQPRIM_HD constexpr std::uint32_t word(std::uint64_t i) const noexcept {
    const std::uint64_t position = offset + i;
    const philox_words counter{{static_cast<std::uint32_t>(position >> 2), static_cast<std::uint32_t>(position >> 34),
                                static_cast<std::uint32_t>(subsequence),
                                static_cast<std::uint32_t>(subsequence >> 32)}};
    return philox(counter, static_cast<std::uint32_t>(seed),
                  static_cast<std::uint32_t>(seed >> 32))[static_cast<int>(position & 3u)];
  }
};

}  // namespace seqprim::test
