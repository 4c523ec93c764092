// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// One range of keys, the same for every query. `~key_range{a, b}` removes the keys [a, b) instead.
///
///     visible(q, k)  <=>  begin <= k < end
///
/// Errors  precondition_error: end < begin. begin = end is allowed: no key is visible.
/// Cost    O(1) per pair and per tile; classify() is exact for tiles of any size.
struct key_range {
  static constexpr bool ordered = true;  // neither end of visible_keys decreases
  index_t begin;                         ///< first visible key
  index_t end;                           ///< one past the last visible key

  static constexpr bool ignores_queries = true;

  SEQPRIM_HD constexpr bool operator()(index_t, index_t k) const noexcept { return begin <= k && k < end; }

  SEQPRIM_HD constexpr range visible_keys(index_t) const noexcept { return {begin, end}; }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept { return classify_ranges(*this, q, k); }

  SEQPRIM_HD constexpr range query_bounds(range k, index_t q_len) const noexcept {
    return intersect(k, range{begin, end}).empty() ? range{0, 0} : range{-unlimited, q_len};
  }

  constexpr void validate() const {
    SEQPRIM_EXPECTS(begin <= end, "mask::key_range: begin (", begin, ") must be <= end (", end,
                    "). See docs/reference/mask/key_range.md");
  }
};
static_assert(rule<key_range> && one_range_per_row<key_range>);

}  // namespace seqprim::mask
