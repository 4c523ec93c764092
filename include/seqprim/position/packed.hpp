// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/packing.hpp>
#include <seqprim/position/rule.hpp>

namespace seqprim::position {

/// Positions of packed queries: they restart with every sequence, and the last query of a sequence is at its last key
/// (alignment::bottom_right) or the first at its first key (top_left).
///
///     const packing sequences{q_offsets, k_offsets};
///     attention::softmax op{mask::packed{sequences, mask::causal{}}, score::identity{},
///                           position::placed{rope, position::packed_queries{sequences}, position::packed_keys{sequences}}};
///
/// Errors  precondition_error: as packing::validate; the offsets do not end at the last row.
/// Cost    O(log sequences) for each token.
struct packed_queries {
  packing sequences;

  SEQPRIM_HD constexpr index_t operator()(index_t row) const noexcept { return sequences.query_position(row); }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const { sequences.for_arrays(visit); }

  constexpr void validate(index_t, index_t len) const {
    sequences.validate();
    packing::expect_rows("q_offsets", sequences.q_offsets, "queries", len);
  }
};
static_assert(map<packed_queries>);

/// Positions of packed keys: 0, 1, 2 ... in every sequence.
///
/// Errors  precondition_error: as packing::validate; the offsets do not end at the last row.
struct packed_keys {
  packing sequences;

  SEQPRIM_HD constexpr index_t operator()(index_t row) const noexcept { return sequences.key_position(row); }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const { sequences.for_arrays(visit); }

  constexpr void validate(index_t, index_t len) const {
    sequences.validate();
    packing::expect_rows("k_offsets", sequences.k_offsets, "keys", len);
  }
};
static_assert(map<packed_keys>);

}  // namespace seqprim::position
