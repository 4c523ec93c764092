// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/softmax.hpp>
#include <seqprim/core/row_starts.hpp>
#include <seqprim/mask/shifted_rows.hpp>
#include <seqprim/score/shifted.hpp>

/// Masks and scores are asked about positions, kernels count rows of the call. This is the one place where the one becomes the
/// other.
namespace seqprim::attention::detail {

/// Where the queries of a call are. `lengths` [batch] are the keys of each sequence where they differ (pages).
template <class Op>
[[nodiscard]] SEQPRIM_INLINE row_starts starts_of(const Op& op, index_t q_len, index_t k_len,
                                                  const index_array& lengths = {}) noexcept {
  if (op.starts.size() > 0) return {.common = 0, .ends = op.starts, .len = 0};
  if (op.start != last_query_at_last_key) return {.common = op.start};
  if (lengths.size() > 0 && !mask::places_queries<decltype(op.mask)>) return {.ends = lengths, .len = q_len};
  return mask::query_starts(op.mask, q_len, k_len);
}

/// The first position of each sequence's new rows, where sequences bring unequal numbers of them, as their last tokens.
struct ragged_starts {
  index_array lengths;  ///< [sequences] with the new rows
  index_array offsets;  ///< [sequences + 1] of the new rows

  [[nodiscard]] SEQPRIM_HD constexpr index_t operator()(index_t b) const noexcept {
    return lengths[b] - (offsets[b + 1] - offsets[b]);
  }
};

/// The mask of an operator, asked in rows of the call. `Starts`: the position of row 0 of each batch row.
template <mask::bindable Mask, class Starts = row_starts> struct rows_mask {
  Mask mask;
  Starts starts;

  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept {
    return mask::shifted(mask::bind(mask, batch, head), starts(batch));
  }
};

/// The score of an operator, asked in rows of the call.
template <score::bindable Score, class Starts = row_starts> struct rows_score {
  Score score;
  Starts starts;

  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept {
    return score::shifted(score::bind(score, batch, head), starts(batch));
  }
};

/// True where the heads of one batch row have one mask, or one score.
template <class Part> inline constexpr bool same_for_all_heads = true;
template <class Mask, class Starts>
inline constexpr bool same_for_all_heads<rows_mask<Mask, Starts>> = !mask::depends_on_batch_or_head<Mask>;
template <class Score, class Starts>
inline constexpr bool same_for_all_heads<rows_score<Score, Starts>> = !score::depends_on_batch_or_head<Score>;

/// The operator as kernels take it: asked in rows of the call, for vectors that carry their positions already.
template <class Mask, class Score, class Position, class Starts = row_starts>
[[nodiscard]] SEQPRIM_HD constexpr auto in_rows(const softmax<Mask, Score, Position>& op,
                                                const Starts& starts) noexcept {
  if constexpr (std::is_same_v<Score, score::identity>) {
    return with_settings_of(softmax<rows_mask<Mask, Starts>, Score>({op.mask, starts}), op);
  } else {
    return with_settings_of(
        softmax<rows_mask<Mask, Starts>, rows_score<Score, Starts>>({op.mask, starts}, {op.score, starts}), op);
  }
}

}  // namespace seqprim::attention::detail
