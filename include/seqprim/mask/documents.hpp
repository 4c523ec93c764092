// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

namespace detail {

/// 0 = offsets[0] < offsets[1] < ... (or <=, where empty runs are allowed).
constexpr void expect_offsets(const index_array& offsets, bool allow_empty, const char* name, const char* page) {
  SEQPRIM_EXPECTS(offsets.size() >= 1, name, " is empty; n documents need n + 1 offsets. See ", page);
  if (!offsets.host_readable()) return;
  SEQPRIM_EXPECTS(offsets[0] == 0, name, "[0] (", offsets[0], ") must be 0. See ", page);
  for (index_t d = 1; d < offsets.size(); ++d)
    SEQPRIM_EXPECTS(offsets[d - 1] < offsets[d] || (allow_empty && offsets[d - 1] == offsets[d]), name, "[", d, "] (",
                    offsets[d], ") must be ", allow_empty ? ">= " : "> ", name, "[", d - 1, "] (", offsets[d - 1],
                    "). See ", page);
}

constexpr void expect_end(const index_array& offsets, index_t length, const char* name, const char* what,
                          const char* page) {
  if (!offsets.host_readable()) return;
  SEQPRIM_EXPECTS(offsets[offsets.size() - 1] == length, name, " ends at ", offsets[offsets.size() - 1], " but ", what,
                  " is ", length, ". See ", page);
}

}  // namespace detail

/// Packed documents: several sequences in one row of tokens; a query sees the keys of its own document.
///
///     visible(q, k)  <=>  document(q) = document(k),   document(i) = d with offsets[d] <= i < offsets[d + 1]
///
/// Compose with `causal`, `causal_window`, ... for what holds inside a document. A closing end-of-document token belongs
/// to the document that it closes. Queries outside of [0, last offset) see nothing.
///
/// Errors  precondition_error: offsets do not start at 0, do not increase, or do not end at k_len.
/// Cost    O(log documents) per pair, row and tile, no table of size k_len; classify() is exact for tiles of any size.
/// Source  spec masks-text 4.7; golden masks-text/doc_full_*, doc_causal_*, doc_causal_window_*.
struct documents {
  index_array offsets;  ///< [documents + 1], 0 = offsets[0] < offsets[1] < ... = k_len

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept { return visible_keys(q).contains(k); }

  SEQPRIM_HD constexpr range visible_keys(index_t q) const noexcept {
    const index_t p = q;
    const index_t end = offsets[offsets.size() - 1];
    if (p < 0) return {0, 0};
    if (p >= end) return {end, end};
    const index_t d = find_segment(offsets, p);
    return {offsets[d], offsets[d + 1]};
  }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept { return classify_ranges(*this, q, k); }

  SEQPRIM_HD constexpr range query_bounds(range k, index_t) const noexcept {
    const range keys = intersect(k, {0, offsets[offsets.size() - 1]});
    if (keys.empty()) return {0, 0};
    return {offsets[find_segment(offsets, keys.begin)], offsets[find_segment(offsets, keys.end - 1) + 1]};
  }

  SEQPRIM_HD constexpr index_t tile_end(range q) const noexcept {
    return detail::join_groups(q, [&](index_t row) {
      const index_t p = row;
      if (p < 0 || p >= offsets[offsets.size() - 1]) return detail::row_group{p < 0 ? 0 : q.end, {0, 0}};
      const index_t d = find_segment(offsets, p);
      return detail::row_group{offsets[d + 1], {offsets[d], offsets[d + 1]}};
    });
  }

  constexpr void validate() const {
    detail::expect_offsets(offsets, false, "mask::documents: offsets", "docs/reference/mask/documents.md");
  }
  constexpr void validate(const shape& problem) const {
    detail::expect_end(offsets, problem.k_len, "mask::documents: offsets", "k_len", "docs/reference/mask/documents.md");
  }
};
static_assert(rule<documents> && one_range_per_row<documents>);

}  // namespace seqprim::mask
