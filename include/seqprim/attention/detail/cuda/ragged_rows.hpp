// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/rows.hpp>
#include <seqprim/core/index_array.hpp>
#include <seqprim/core/tensor_view.hpp>

/// Ragged rows for the block of position/encode.cuh: their tokens, where they are in their sequences, and a copy of them.
namespace seqprim::attention::detail {

/// The tokens of ragged rows.
struct ragged_tokens {
  index_array offsets;
  index_t tokens;
  struct place {
    index_t first, row;
  };

  [[nodiscard]] SEQPRIM_HD constexpr index_t count() const noexcept { return tokens; }
  [[nodiscard]] SEQPRIM_HD constexpr place of(index_t n) const noexcept {
    const index_t b = find_segment(offsets, n);
    return {b, n - offsets[b]};
  }
  [[nodiscard]] SEQPRIM_HD constexpr place source(index_t n) const noexcept { return {0, n}; }
};

/// Where ragged queries are: as the operator says, or the last one of each sequence at its last key.
struct ragged_query_starts {
  row_starts given;
  ragged_starts at_ends;  ///< without lengths `given` holds

  [[nodiscard]] SEQPRIM_HD constexpr index_t operator()(index_t b) const noexcept {
    return at_ends.lengths.size() == 0 ? given(b) : at_ends(b);
  }
};
template <class Op>
[[nodiscard]] ragged_query_starts ragged_starts_of(const Op& op, const index_array& lengths,
                                                   const index_array& offsets) noexcept {
  if (op.starts.size() > 0) return {row_starts{.common = 0, .ends = op.starts, .len = 0}, {}};
  if (op.start != last_query_at_last_key) return {row_starts{.common = op.start}, {}};
  return {{}, {lengths, offsets}};
}

/// A copy of ragged queries as results of an encode block.
template <class T> struct ragged_results {
  tensor_view<T, 4> rows;
  bool aligned;
  index_array offsets;

  template <class Place>
  [[nodiscard]] SEQPRIM_HD constexpr bool place(index_t batch, index_t row, Place& to) const noexcept {
    to = {0, offsets[batch] + row};
    return true;
  }
};

}  // namespace seqprim::attention::detail
