// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/subject.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// A range of queries, which attend to every key; the others attend to nothing. `a & query_range{...}` restricts a rule to some
/// queries, `a | query_range{...}` opens some to everything.
///
///     visible(q, k)  <=>  begin <= q < end
///
/// Edge    begin = end: no query attends to anything.
/// Errors  precondition_error: end < begin.
/// Cost    O(1) per pair and per tile; classify() is exact for tiles of any size.
struct query_range {
  index_t begin;  ///< first query that attends
  index_t end;    ///< one past the last query that attends

  static constexpr bool ordered = true;
  static constexpr subject self{"mask::query_range", "mask/query_range"};

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t) const noexcept { return begin <= q && q < end; }

  SEQPRIM_HD constexpr range visible_keys(index_t q) const noexcept {
    return {q < end ? -unlimited : unlimited, q < begin ? -unlimited : unlimited};
  }

  SEQPRIM_HD constexpr tile_kind classify(range q, range) const noexcept {
    const range attending = intersect(q, {begin, end});
    return attending.empty() ? tile_kind::empty : attending == q ? tile_kind::full : tile_kind::partial;
  }

  SEQPRIM_HD constexpr range query_bounds(range, index_t) const noexcept { return {begin, end}; }

  constexpr void validate() const { self.expects(begin <= end, "begin (", begin, ") must be <= end (", end, ")"); }
};
static_assert(ordered_ranges<query_range>);

}  // namespace seqprim::mask
