// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/sampling/det_math.hpp>
#include <seqprim/sampling/stage.hpp>

namespace seqprim::sampling {

namespace detail {

/// Never below gumbel(word), at a fraction of its cost: -log of the uniform, with the logarithm of base 2 replaced by the
/// line through the powers of two. The margin covers all roundings on both sides.
[[nodiscard]] SEQPRIM_HD constexpr float gumbel_bound(std::uint32_t word) noexcept {
  const float x = static_cast<float>(word) + 0.5f;
  const float log2_below = static_cast<float>(bit_cast<std::uint32_t>(x)) * 0x1p-23f - 127.0f;
  return 0.6931472f * (32.0f - log2_below) + 1e-3f;
}

}  // namespace detail

/// The noise of each token: word v belongs to token v.
inline constexpr random_domain token_noise{0};

/// Terminal stage: draws a token from the softmax of the row without forming it, as the argmax of
///
///     key(v) = logit(v) + gumbel(word v of domain token_noise)
///
/// Noise belongs to token ids: filtering first gives the draw from the renormalized kept tokens, with the noise they
/// had. Temperature acts on the logits, never on the noise.
///
/// Repeat  bit exact: the token depends on the logits and on (seed, request, step) only.
/// Cost    a quarter of a Philox evaluation per candidate; two logarithms only where a cheap bound shows that the key
///         may win.
/// Source  Maddison, Tarlow and Minka, "A* sampling" (the Gumbel-max trick).
struct gumbel_max {
  /// The key of one token; the token with the largest key wins, ties to the lower id.
  [[nodiscard]] SEQPRIM_HD static constexpr float key(float logit, std::uint32_t word) noexcept {
    return detail::add(logit, gumbel(word));
  }

  SEQPRIM_HD constexpr index_t choose(const candidates& row, const random_stream& stream) const noexcept {
    index_t best_token = row.summary.argmax;
    float best = 0;
    bool found = false;
    index_t block = -1;
    philox_words words{};
    for (index_t i = 0; i < row.count; ++i) {
      const float logit = row.logit(i);
      const index_t token = row.token(i);
      if (token >> 2 != block) {
        block = token >> 2;
        words = stream.four(token_noise, static_cast<std::uint32_t>(block));
      }
      const std::uint32_t word = words[static_cast<int>(token & 3)];
      // Rounding is monotone: a bound that loses after rounding belongs to a key that loses.
      if (excluded(logit) || (found && detail::add(logit, detail::gumbel_bound(word)) < best)) continue;
      const float candidate = key(logit, word);
      if (!found || candidate > best) {
        best = candidate;
        best_token = token;
        found = true;
      }
    }
    return best_token;
  }

  /// The softmax of the row: e^(logit - max) in float, divided by its sum in double, in the order of token ids.
  SEQPRIM_HD constexpr void law(const candidates& row, tensor_view<float, 1> out) const noexcept {
    double sum = 0;
    for (index_t i = 0; i < row.count; ++i)
      sum += excluded(row.logit(i)) ? 0.0 : static_cast<double>(det_exp(detail::add(row.logit(i), -row.summary.max)));
    const double scale = 1.0 / sum;
    for (index_t i = 0; i < row.count; ++i)
      out(row.token(i)) =
          excluded(row.logit(i))
              ? 0.0f
              : static_cast<float>(static_cast<double>(det_exp(detail::add(row.logit(i), -row.summary.max))) * scale);
  }
};
static_assert(terminal<gumbel_max>);

}  // namespace seqprim::sampling
