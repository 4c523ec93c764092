// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/core/packing.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/mask/full.hpp>
#include <seqprim/mask/packed.hpp>
#include <seqprim/mask/prefix.hpp>

/// Names for `packed` masks that need no packing to be spelled out.
namespace seqprim::mask {

/// Packed documents: several sequences in one row of tokens; a query attends to the keys of its own document.
///
///     visible(q, k)  <=>  document(q) = document(k),   document(i) = d with offsets[d] <= i < offsets[d + 1]
///
/// Compose with `causal`, `causal_window`, ... for what holds inside a document. A closing end-of-document token belongs to the
/// document that it closes. offsets [documents + 1] begin with 0, never decrease, and end at k_len.
///
/// Errors  precondition_error: as packing::validate.
/// Cost    that of packed<full>: O(log documents) per pair, row and tile, no table of size k_len; classify() is exact.
/// Source  the cu_seqlens of Dao, "FlashAttention-2: Faster attention with better parallelism and work partitioning".
[[nodiscard]] SEQPRIM_HD constexpr packed<full> documents(const index_array& offsets) noexcept {
  return {packing{offsets, offsets}, {}};
}

/// Cross attention between two packed rows: queries of sequence d attend to all keys of sequence d.
///
///     visible(q, k)  <=>  q_offsets[d] <= q < q_offsets[d + 1]  and  k_offsets[d] <= k < k_offsets[d + 1] for one d
///
/// A sequence may have no query or no key; its queries then attend to nothing.
///
/// Errors  precondition_error: as packing::validate.
[[nodiscard]] SEQPRIM_HD constexpr packed<full> cross_documents(const index_array& q_offsets,
                                                                const index_array& k_offsets) noexcept {
  return {packing{q_offsets, k_offsets, alignment::top_left}, {}};
}

namespace detail {

/// A prefix per sequence, whose end is counted from the start of the row of tokens.
struct prefix_by_end {
  index_array ends, offsets;

  SEQPRIM_HD constexpr prefix bind(index_t d, index_t) const noexcept { return {.length = ends[d] - offsets[d]}; }

  static constexpr subject self{"mask::packed_prefix", "mask/documents"};

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(self, "prefix_ends", ends);
    visit(self, "offsets", offsets);
  }

  constexpr void validate() const {
    self.expects(ends.size() + 1 == offsets.size(), ends.size(), " prefix_ends for ", offsets.size() - 1, " documents");
    if (!offsets.host_readable() || !ends.host_readable()) return;
    for (index_t d = 0; d < ends.size(); ++d)
      self.expects(offsets[d] <= ends[d] && ends[d] <= offsets[d + 1], "prefix_ends[", d, "] (", ends[d],
                   ") is outside of its document [", offsets[d], ", ", offsets[d + 1], "]");
  }
};

}  // namespace detail

/// Packed prefix LM: documents in one row of tokens, each with its own bidirectional prefix.
///
///     visible(q, k)  <=>  document(q) = document(k)  and  (k <= q or k < prefix_ends[document(q)])
///
/// prefix_ends [documents] are positions in the row, each from the start to the end of its document; the start means plain causal.
/// For lengths instead of ends: packed{packing{offsets, offsets}, prefix_per_batch{lengths}}.
///
/// Errors  precondition_error: as packing::validate; not one prefix end per document, or one outside of its document.
[[nodiscard]] SEQPRIM_HD constexpr packed<detail::prefix_by_end> packed_prefix(
    const index_array& offsets, const index_array& prefix_ends) noexcept {
  return {packing{offsets, offsets}, {prefix_ends, offsets}};
}

}  // namespace seqprim::mask
