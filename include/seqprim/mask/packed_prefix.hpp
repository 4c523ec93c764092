// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/mask/documents.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// Packed prefix LM: documents in one row of tokens, each with its own bidirectional prefix.
///
///     visible(q, k)  <=>  document(q) = document(k)  and  (k <= q or k < prefix_ends[document(q)])
///
/// prefix_ends are absolute positions, each from the start to the end of its document; the start means plain causal.
///
/// Errors  precondition_error: offsets as for `documents`; not one prefix end per document; a prefix end outside of its
///         document.
/// Cost    O(log documents) per pair, row and tile; classify() is exact for tiles of any size.
/// Source  spec masks-text 4.7; golden masks-text/doc_prefix_*.
struct packed_prefix {
  index_array offsets;      ///< [documents + 1], 0 = offsets[0] < offsets[1] < ... = k_len
  index_array prefix_ends;  ///< [documents], one past the last prefix token, counted from the start of the row

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept { return visible_keys(q).contains(k); }

  SEQPRIM_HD constexpr range visible_keys(index_t q) const noexcept {
    const index_t p = q;
    const index_t end = offsets[offsets.size() - 1];
    if (p < 0) return {0, 0};
    if (p >= end) return {end, end};
    const index_t d = find_segment(offsets, p);
    return {offsets[d], max(p + 1, prefix_ends[d])};
  }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept { return classify_ranges(*this, q, k); }

  SEQPRIM_HD constexpr range query_bounds(range k, index_t) const noexcept {
    const range keys = intersect(k, {0, offsets[offsets.size() - 1]});
    if (keys.empty()) return {0, 0};
    const index_t d = find_segment(offsets, keys.begin);
    return {keys.begin < prefix_ends[d] ? offsets[d] : keys.begin, offsets[find_segment(offsets, keys.end - 1) + 1]};
  }

  constexpr void validate() const {
    const char* page = "docs/reference/mask/packed_prefix.md";
    detail::expect_offsets(offsets, false, "mask::packed_prefix: offsets", page);
    SEQPRIM_EXPECTS(prefix_ends.size() == offsets.size() - 1, "mask::packed_prefix: ", prefix_ends.size(),
                    " prefix_ends for ", offsets.size() - 1, " documents. See ", page);
    if (!offsets.host_readable() || !prefix_ends.host_readable()) return;
    for (index_t d = 0; d < prefix_ends.size(); ++d)
      SEQPRIM_EXPECTS(offsets[d] <= prefix_ends[d] && prefix_ends[d] <= offsets[d + 1],
                      "mask::packed_prefix: prefix_ends[", d, "] (", prefix_ends[d], ") is outside of its document [",
                      offsets[d], ", ", offsets[d + 1], "]. See ", page);
  }
  constexpr void validate(const shape& problem) const {
    detail::expect_end(offsets, problem.k_len, "mask::packed_prefix: offsets", "k_len",
                       "docs/reference/mask/packed_prefix.md");
  }
};
static_assert(rule<packed_prefix> && one_range_per_row<packed_prefix>);

}  // namespace seqprim::mask
