// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// Sliding window: a query attends to the keys within an inclusive reach to both sides of its own position.
///
///     visible(q, k)  <=>  -left <= k - q <= right
///
/// `unlimited` opens a side. A window of W tokens that ends at the query is `causal_window(W)`, that is left = W - 1.
///
/// Errors  precondition_error: a reach is negative or above `unlimited`.
/// Cost    O(1) per pair and per tile; classify() is exact for tiles of any size.
/// Source  Beltagy et al., "Longformer: The long-document transformer".
struct sliding_window {
  static constexpr bool ordered = true;  // neither end of visible_keys decreases
  index_t left;                          ///< how many earlier keys are in reach [tokens]
  index_t right = 0;                     ///< how many later keys are in reach [tokens]

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept {
    const index_t distance = k - q;
    return -left <= distance && distance <= right;
  }

  SEQPRIM_HD constexpr range visible_keys(index_t q) const noexcept { return {q - left, q + right + 1}; }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept { return classify_ranges(*this, q, k); }

  SEQPRIM_HD constexpr range query_bounds(range k, index_t) const noexcept { return {k.begin - right, k.end + left}; }

  constexpr void validate() const {
    SEQPRIM_EXPECTS(0 <= left && left <= unlimited, "mask::sliding_window: left (", left,
                    ") must be >= 0, or mask::unlimited. See docs/reference/mask/sliding_window.md");
    SEQPRIM_EXPECTS(0 <= right && right <= unlimited, "mask::sliding_window: right (", right,
                    ") must be >= 0, or mask::unlimited. See docs/reference/mask/sliding_window.md");
  }
};
static_assert(rule<sliding_window> && one_range_per_row<sliding_window>);

/// The window of the newest `width` >= 1 keys, the query's own included.
[[nodiscard]] SEQPRIM_HD constexpr sliding_window causal_window(index_t width) noexcept {
  return {.left = width - 1, .right = 0};
}

}  // namespace seqprim::mask
