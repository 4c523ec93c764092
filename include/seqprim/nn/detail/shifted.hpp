// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/score/rule.hpp>

#include <concepts>

/// Decoding with a cache: row 0 of the queries is token `start` of the sequence. The score of the whole sequence is asked about
/// the rows from `start` on, as mask::shifted_rows asks the mask.
namespace seqprim::nn::detail {

template <class Score> struct shifted_score {
  Score score;
  index_t start = 0;

  template <std::floating_point Number>
  SEQPRIM_HD constexpr Number operator()(Number logit, score::site at) const noexcept requires(score::modifier<Score>) {
    return score(logit, {at.q + start, at.k});
  }
  template <std::floating_point Number>
  SEQPRIM_HD constexpr Number derivative(Number logit, score::site at) const noexcept requires(score::modifier<Score>) {
    return score.derivative(logit, {at.q + start, at.k});
  }
  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept
      requires(score::depends_on_batch_or_head<Score>) {
    auto bound = score.bind(batch, head);
    return shifted_score<decltype(bound)>{bound, start};
  }
  constexpr void validate() const { score::validate(score); }
  constexpr void validate(index_t batch, index_t heads) const { score::validate(score, batch, heads); }
};

/// The identity stays the identity, so that kernels still drop it.
template <class Score> [[nodiscard]] constexpr auto shifted(const Score& score, index_t start) noexcept {
  if constexpr (std::same_as<Score, score::identity>) {
    return score::identity{};
  } else {
    return shifted_score<Score>{score, start};
  }
}

}  // namespace seqprim::nn::detail
