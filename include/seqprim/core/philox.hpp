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

/// What a random word is for: streams of different domains never share a word. Each part of the library declares its domains
/// where it draws, as constants below 1 << 16 (`sampling::token_noise`, `sampling::inverse_cdf`, `nn::initial_weights`);
/// callers start at `caller`, further ones are `random_domain{(1 << 16) + n}`.
enum class random_domain : std::uint32_t { caller = 1u << 16 };

/// One stream of random words: word(domain, element) is lane element % 4 of philox(counter = (element / 4, step, request,
/// domain), key = seed). The words of (seed, request, step, domain) depend on nothing else - not on batch
/// position, batch size, thread count, vector width or device.
struct random_stream {
  std::uint64_t seed = 0;
  std::uint32_t request = 0;  ///< stream id, chosen by the caller (one per sequence)
  std::uint32_t step = 0;     ///< absolute position of the token being drawn

  /// The word of `element` (a token id, a draft index ...).
  [[nodiscard]] SEQPRIM_HD constexpr std::uint32_t word(random_domain domain, std::uint32_t element) const noexcept {
    return four(domain, element >> 2)[static_cast<int>(element & 3u)];
  }

  /// The words of elements 4 * block .. 4 * block + 3 from one evaluation.
  [[nodiscard]] SEQPRIM_HD constexpr philox_words four(random_domain domain, std::uint32_t block) const noexcept {
    return philox({{block, step, request, static_cast<std::uint32_t>(domain)}}, static_cast<std::uint32_t>(seed),
                  static_cast<std::uint32_t>(seed >> 32));
  }
};

/// Uniform in [2^-24, 1 - 2^-24], never 0 or 1; exact in float. The default for accept tests and initialization.
[[nodiscard]] SEQPRIM_HD constexpr float uniform_open(std::uint32_t word) noexcept {
  return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f;
}

}  // namespace seqprim
