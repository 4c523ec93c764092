// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/config.hpp>

#include <cstdint>

namespace seqprim {

/// Four 32-bit random words.
struct philox_words {
  std::uint32_t word[4];

  [[nodiscard]] SEQPRIM_HD constexpr std::uint32_t operator[](int lane) const noexcept { return word[lane]; }
};

/// Philox4x32-10: a pure function from (counter, key) to four random words; no state, so any word can be recomputed at any
/// time, on any device.
///
/// Source  Salmon et al., "Parallel random numbers: as easy as 1, 2, 3".
[[nodiscard]] SEQPRIM_HD constexpr philox_words philox(philox_words counter, std::uint32_t key0,
                                                       std::uint32_t key1) noexcept {
  std::uint32_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * c0;
    const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(b >> 32) ^ c1 ^ key0;
    c1 = static_cast<std::uint32_t>(b);
    c2 = static_cast<std::uint32_t>(a >> 32) ^ c3 ^ key1;
    c3 = static_cast<std::uint32_t>(a);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

/// What a random word is for. Different purposes never share a word; caller-defined ones start at 7.
enum class purpose : std::uint32_t {
  token_noise = 0,
  inverse_cdf = 1,
  acceptance = 2,
  residual = 3,
  draft_noise = 4,
  unmask = 5,
  xtc = 6,
  caller = 7,
};

/// One stream of random words: word(purpose, element) is lane element % 4 of philox(counter = (element / 4, step, request,
/// purpose), key = seed). The words of (seed, request, step, purpose) depend on nothing else - not on batch
/// position, batch size, thread count, vector width or device.
struct random_stream {
  std::uint64_t seed = 0;
  std::uint32_t request = 0;  ///< stream id, chosen by the caller (one per sequence)
  std::uint32_t step = 0;     ///< absolute position of the token being drawn

  /// The word of `element` (a token id, a draft index ...).
  [[nodiscard]] SEQPRIM_HD constexpr std::uint32_t word(purpose use, std::uint32_t element) const noexcept {
    return four(use, element >> 2)[static_cast<int>(element & 3u)];
  }

  /// The words of elements 4 * block .. 4 * block + 3 from one evaluation.
  [[nodiscard]] SEQPRIM_HD constexpr philox_words four(purpose use, std::uint32_t block) const noexcept {
    return philox({{block, step, request, static_cast<std::uint32_t>(use)}}, static_cast<std::uint32_t>(seed),
                  static_cast<std::uint32_t>(seed >> 32));
  }
};

/// The words that cuRAND's Philox generator yields after curand_init(seed, subsequence, offset): word(i) is what the i-th
/// call of curand() returns. For comparison with GPU peers; the library itself draws from `random_stream`.
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

/// Uniform in [2^-24, 1 - 2^-24], never 0 or 1; exact in float. The default for accept tests and initialization.
[[nodiscard]] SEQPRIM_HD constexpr float uniform_open(std::uint32_t word) noexcept {
  return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f;
}

/// Uniform in [0, 1); exact in float.
[[nodiscard]] SEQPRIM_HD constexpr float uniform_half_open(std::uint32_t word) noexcept {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

/// Uniform in (0, 1] by the rule of cuRAND: float(word) * 2^-32 + 2^-33, for comparison with GPU peers.
[[nodiscard]] SEQPRIM_HD constexpr float uniform_curand(std::uint32_t word) noexcept {
  return static_cast<float>(word) * 0x1p-32f + 0x1p-33f;
}

/// Uniform in (0, 1) from 64 bits; exact in double.
[[nodiscard]] SEQPRIM_HD constexpr double uniform_open64(std::uint32_t high, std::uint32_t low) noexcept {
  const std::uint64_t bits = (std::uint64_t{high} << 32) | low;
  return (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52;
}

}  // namespace seqprim
