// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/sampling/det_math.hpp>
#include <seqprim/sampling/stage.hpp>

namespace seqprim::sampling {

/// The weight of a token in draws and probability masses: floor(2^32 * e^(logit - max)), 2^32 for the likeliest token,
/// 0 for an excluded one. Sums of integers do not depend on their order, which makes draws and top_p repeatable.
[[nodiscard]] SEQPRIM_HD constexpr std::uint64_t integer_weight(float logit, float max) noexcept {
  if (excluded(logit)) return 0;
  const float below = detail::add(logit, -max);
  if (below < -22.5f) return 0;  // e^-22.5 < 2^-32
  return static_cast<std::uint64_t>(det_exp(below) * 0x1p32f);
}

namespace detail {

/// The upper half of the 128-bit product.
[[nodiscard]] SEQPRIM_HD constexpr std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) noexcept {
  constexpr std::uint64_t low = 0xffffffffu;
  const std::uint64_t middle = (a >> 32) * (b & low) + (((a & low) * (b & low)) >> 32);
  const std::uint64_t other = (a & low) * (b >> 32) + (middle & low);
  return (a >> 32) * (b >> 32) + (middle >> 32) + (other >> 32);
}

}  // namespace detail

/// The random number of an inverted cumulative sum: words 0 (low) and 1.
inline constexpr random_domain inverse_cdf{1};

/// Terminal stage: draws a token with probability weight / sum of weights, by inverting the cumulative sum of integer
/// weights in the order of token ids.
///
///     weight(v) = floor(2^32 * det_exp(logit(v) - max))
///     target    = floor(X * sum of weights / 2^64),   X: 64 random bits, words 0 and 1 of domain inverse_cdf
///     token     = the first v with weight(0) + ... + weight(v) > target
///
/// Integers add up to the same sum in any order, so any split over threads, registers or devices gives the same token.
///
/// Edge    tokens less likely than 2^-32 times the likeliest have weight 0 and are never drawn.
/// Repeat  bit exact: the token depends on the logits and on (seed, request, step) only.
/// Cost    one exponential per candidate, and a second one in one block of the row.
struct draw {
  SEQPRIM_HD constexpr index_t choose(const candidates& row, const random_stream& stream) const noexcept {
    // Sums of blocks, so that the second look at the row is short.
    constexpr index_t most_blocks = 256;
    std::uint64_t block_sums[most_blocks] = {};
    const index_t block = max<index_t>(ceil_div(row.count, most_blocks), 16);
    std::uint64_t total = 0;
    for (index_t b = 0; b * block < row.count; ++b) {
      const index_t end = min<index_t>((b + 1) * block, row.count);
      std::uint64_t sum = 0;
      for (index_t i = b * block; i < end; ++i) sum += integer_weight(row.logit(i), row.summary.max);
      block_sums[b] = sum;
      total += sum;
    }
    const philox_words words = stream.four(inverse_cdf, 0);
    const std::uint64_t target = detail::multiply_high((std::uint64_t{words[1]} << 32) | words[0], total);
    std::uint64_t sum = 0;
    index_t b = 0;
    while (sum + block_sums[b] <= target) sum += block_sums[b++];
    index_t i = b * block;
    while (true) {  // ends: target < total
      sum += integer_weight(row.logit(i), row.summary.max);
      if (sum > target) return row.token(i);
      ++i;
    }
  }

  /// The exact distribution of choose(): weight / sum of weights, rounded to float.
  SEQPRIM_HD constexpr void law(const candidates& row, tensor_view<float, 1> out) const noexcept {
    std::uint64_t total = 0;
    for (index_t i = 0; i < row.count; ++i) total += integer_weight(row.logit(i), row.summary.max);
    const double scale = 1.0 / static_cast<double>(total);
    for (index_t i = 0; i < row.count; ++i)
      out(row.token(i)) =
          static_cast<float>(static_cast<double>(integer_weight(row.logit(i), row.summary.max)) * scale);
  }
};
static_assert(terminal<draw>);

}  // namespace seqprim::sampling
