// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/index.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/core/subject.hpp>

#include <type_traits>

namespace seqprim {

/// How the queries of a sequence are aligned with its keys, when there are more of one than of the other.
enum class alignment : unsigned char {
  bottom_right,  ///< the last query is aligned with the last key: the keys before the queries are a cache
  top_left,      ///< the first query is aligned with the first key
};

/// A packed (varlen) batch: sequences of unequal length, concatenated in one row of tokens without padding. Queries and
/// keys have offsets of their own (`cu_seqlens_q` and `cu_seqlens_k` of other libraries): sequence d holds the queries
/// [q_offsets[d], q_offsets[d + 1]) and the keys [k_offsets[d], k_offsets[d + 1]).
///
///     position of query q  =  q - q_offsets[d] + shift(d)         shift(d) = keys of d - queries of d, or 0 for top_left
///     position of key k    =  k - k_offsets[d]
///
/// The arrays are borrowed; training and prefill without a cache have one array on both sides: packing{offsets,
/// offsets}.
///
/// Edge    either side of a sequence may be empty, and there may be no sequence at all. A sequence with more queries
///         than keys has negative query positions at bottom_right.
/// Errors  validate() throws precondition_error: the arrays differ in length, are empty, do not start at 0, decrease,
///         or (in a call) do not end at q_len and k_len. Arrays on_device() are not read.
/// Cost    O(log sequences) to find a sequence.  Page docs/reference/core/packing.md
struct packing {
  index_array q_offsets;                      ///< [sequences + 1], 0 = q_offsets[0] <= q_offsets[1] <= ... = q_len
  index_array k_offsets;                      ///< [sequences + 1], 0 = k_offsets[0] <= k_offsets[1] <= ... = k_len
  alignment align = alignment::bottom_right;  ///< which corners of each sequence meet

  [[nodiscard]] SEQPRIM_HD constexpr index_t sequences() const noexcept { return q_offsets.size() - 1; }
  [[nodiscard]] SEQPRIM_HD constexpr index_t q_len() const noexcept { return q_offsets[q_offsets.size() - 1]; }
  [[nodiscard]] SEQPRIM_HD constexpr index_t k_len() const noexcept { return k_offsets[k_offsets.size() - 1]; }

  [[nodiscard]] SEQPRIM_HD constexpr range queries(index_t d) const noexcept {
    return {q_offsets[d], q_offsets[d + 1]};
  }
  [[nodiscard]] SEQPRIM_HD constexpr range keys(index_t d) const noexcept { return {k_offsets[d], k_offsets[d + 1]}; }

  /// The sequence of query q in [0, q_len()), of key k in [0, k_len()).
  [[nodiscard]] SEQPRIM_HD constexpr index_t sequence_of_query(index_t q) const noexcept {
    return find_segment(q_offsets, q);
  }
  [[nodiscard]] SEQPRIM_HD constexpr index_t sequence_of_key(index_t k) const noexcept {
    return find_segment(k_offsets, k);
  }

  /// The position of the first query of sequence d; negative where bottom_right has more queries than keys.
  [[nodiscard]] SEQPRIM_HD constexpr index_t shift(index_t d) const noexcept {
    return align == alignment::bottom_right ? keys(d).size() - queries(d).size() : 0;
  }

  [[nodiscard]] SEQPRIM_HD constexpr index_t query_position(index_t q) const noexcept {
    const index_t d = sequence_of_query(q);
    return q - q_offsets[d] + shift(d);
  }
  [[nodiscard]] SEQPRIM_HD constexpr index_t key_position(index_t k) const noexcept {
    return k - k_offsets[sequence_of_key(k)];
  }

  static constexpr subject self{"packing", "core/packing"};

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(self, "q_offsets", q_offsets);
    visit(self, "k_offsets", k_offsets);
  }

  constexpr void validate() const {
    self.expects(q_offsets.size() == k_offsets.size(), "q_offsets has ", q_offsets.size(), " entries, k_offsets ",
                 k_offsets.size(), "; they must agree");
    self.expects_offsets("q_offsets", q_offsets);
    self.expects_offsets("k_offsets", k_offsets);
  }
  /// The same, and that the sequences hold the rows [start, start + q_len) of a call and end where its keys end. A call that does
  /// not bring all rows (a later chunk, start > 0) has one array on both sides.
  constexpr void validate(index_t start, index_t call_q_len, index_t call_k_len) const {
    validate();
    if (same_array(q_offsets, k_offsets) && q_offsets.host_readable()) {
      SEQPRIM_EXPECTS(0 <= start && start + call_q_len <= q_len(), "packing: the queries of the call are rows [", start,
                      ", ", start + call_q_len, "), the sequences have ", q_len(),
                      " rows. See docs/reference/core/packing.md");
    } else {
      SEQPRIM_EXPECTS(start == 0, "packing: the first query of the call is row ", start,
                      ", but sequences with own q_offsets begin at row 0. See docs/reference/core/packing.md");
      expect_end("q_offsets", q_offsets, "q_len", call_q_len);
    }
    expect_end("k_offsets", k_offsets, "k_len", call_k_len);
  }

  /// That one side has at least so many rows.
  static constexpr void expect_rows(const char* name, const index_array& offsets, const char* what, index_t rows) {
    if (!offsets.host_readable()) return;
    SEQPRIM_EXPECTS(rows <= offsets[offsets.size() - 1], "packing: ", name, " ends at ", offsets[offsets.size() - 1],
                    ", but there are ", rows, " ", what, ". See docs/reference/core/packing.md");
  }
  /// That one side ends where the rows of a call end.
  static constexpr void expect_end(const char* name, const index_array& offsets, const char* what, index_t length) {
    if (!offsets.host_readable()) return;
    const index_t end = offsets[offsets.size() - 1];
    self.expects(end == length, name, " ends at ", end, " but ", what, " is ", length);
  }
};
static_assert(std::is_trivially_copyable_v<packing>);

}  // namespace seqprim
