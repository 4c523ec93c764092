// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/mask/rule.hpp>
#include <seqprim/score/rule.hpp>

#include <concepts>

/// Decoding with a cache: row 0 of the queries is token `start` of the sequence. These wrappers ask the mask and the score
/// of the whole sequence about the rows from `start` on.
namespace seqprim::nn::detail {

template <class Mask> struct shifted_mask {
  Mask mask;
  index_t start = 0;

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept requires(mask::rule<Mask>) {
    return mask(q + start, k);
  }
  SEQPRIM_HD constexpr mask::tile_kind classify(range q, range k) const noexcept requires(mask::rule<Mask>) {
    return mask.classify(moved(q), k);
  }
  SEQPRIM_HD constexpr range visible_keys(index_t q) const noexcept requires(mask::one_run_per_row<Mask>) {
    return mask.visible_keys(q + start);
  }
  SEQPRIM_HD constexpr range key_hull(range q, index_t k_len) const noexcept requires(mask::rule<Mask>) {
    return mask::key_hull(mask, moved(q), k_len);
  }
  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept
      requires(mask::depends_on_batch_or_head<Mask>) {
    return shifted_mask<mask::bound<Mask>>{mask.bind(batch, head), start};
  }
  constexpr void validate() const { mask::validate(mask); }
  constexpr void validate(const mask::shape& p) const {
    mask::validate(mask, mask::shape{p.batch, p.heads, p.q_len + start, p.k_len});
  }

 private:
  SEQPRIM_HD constexpr range moved(range q) const noexcept { return {q.begin + start, q.end + start}; }
};

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
