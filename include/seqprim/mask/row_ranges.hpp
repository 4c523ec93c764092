// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// A range of keys for each query, read from two arrays, in any order: a look-ahead that differs from frame to frame, and,
/// `transposed`, the ancestors in a tree.
///
///     visible(q, k)  <=>  begin[q] <= k < end[q]
///
/// Edge    end[q] <= begin[q]: query q attends to nothing. A range may reach beyond the keys that exist.
/// Errors  precondition_error: the arrays differ in length; queries of the call at positions that they do not have.
/// Cost    two loads per row; a tile and its bounds cost O(rows). classify() is exact.
/// Source  the column-sparse masks of Wang et al., "FlashMask: Efficient and rich mask extension of FlashAttention", by row.
struct row_ranges {
  index_array begin;  ///< [queries] first visible key
  index_array end;    ///< [queries] one past the last visible key

  static constexpr subject self{"mask::row_ranges", "mask/row_ranges"};

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept { return visible_keys(q).contains(k); }
  SEQPRIM_HD constexpr range visible_keys(index_t q) const noexcept { return {begin[q], end[q]}; }
  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept { return classify_ranges(*this, q, k); }
  SEQPRIM_HD constexpr limits table_limits() const noexcept { return {.queries = {0, begin.size()}}; }

  /// The last query of a call is the last one of the table.
  SEQPRIM_HD constexpr row_starts query_starts(index_t q_len, index_t) const noexcept {
    return {.common = begin.size() - q_len};
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(self, "begin", begin);
    visit(self, "end", end);
  }

  constexpr void validate() const {
    self.expects(begin.size() == end.size(), "begin has ", begin.size(), " entries, end ", end.size(),
                 "; they must agree");
  }
  constexpr void validate(const shape& problem) const { expect_in_table(self, table_limits(), problem); }
};
static_assert(one_range_per_row<row_ranges> && !ordered_ranges<row_ranges>);

}  // namespace seqprim::mask
