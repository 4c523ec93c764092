// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/mask/documents.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// Cross attention between two packed rows: queries of sequence d see all keys of sequence d.
///
///     visible(q, k)  <=>  q_offsets[d] <= q < q_offsets[d + 1]  and  k_offsets[d] <= k < k_offsets[d + 1] for one d
///
/// A sequence may have no query or no key; its rows then see nothing.
///
/// Errors  precondition_error: the arrays differ in length, do not start at 0, decrease, or do not end at q_len, k_len.
/// Cost    O(log sequences) per pair, row and tile; full is exact, empty may be reported as partial where a tile touches
///         a sequence without keys.
/// Source  spec masks-text 4.7.
struct cross_documents {
  index_array q_offsets;  ///< [sequences + 1], 0 = q_offsets[0] <= q_offsets[1] <= ... = q_len
  index_array k_offsets;  ///< [sequences + 1], 0 = k_offsets[0] <= k_offsets[1] <= ... = k_len

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept { return visible_keys(q).contains(k); }

  SEQPRIM_HD constexpr range visible_keys(index_t q) const noexcept {
    const index_t last = q_offsets.size() - 1;
    if (q < 0) return {0, 0};
    if (q >= q_offsets[last]) return {k_offsets[last], k_offsets[last]};
    const index_t d = find_segment(q_offsets, q);
    return {k_offsets[d], k_offsets[d + 1]};
  }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept { return classify_ranges(*this, q, k); }

  SEQPRIM_HD constexpr range query_bounds(range k, index_t) const noexcept {
    const range keys = intersect(k, {0, k_offsets[k_offsets.size() - 1]});
    if (keys.empty()) return {0, 0};
    return {q_offsets[find_segment(k_offsets, keys.begin)], q_offsets[find_segment(k_offsets, keys.end - 1) + 1]};
  }

  constexpr void validate() const {
    const char* page = "docs/reference/mask/cross_documents.md";
    detail::expect_offsets(q_offsets, true, "mask::cross_documents: q_offsets", page);
    detail::expect_offsets(k_offsets, true, "mask::cross_documents: k_offsets", page);
    SEQPRIM_EXPECTS(q_offsets.size() == k_offsets.size(), "mask::cross_documents: q_offsets has ", q_offsets.size(),
                    " entries, k_offsets ", k_offsets.size(), "; they must agree. See ", page);
  }
  constexpr void validate(const shape& problem) const {
    const char* page = "docs/reference/mask/cross_documents.md";
    detail::expect_end(q_offsets, problem.q_len, "mask::cross_documents: q_offsets", "q_len", page);
    detail::expect_end(k_offsets, problem.k_len, "mask::cross_documents: k_offsets", "k_len", page);
  }
};
static_assert(rule<cross_documents> && one_range_per_row<cross_documents>);

}  // namespace seqprim::mask
