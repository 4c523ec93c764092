// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// Causal: a query attends to the keys up to its own position.
///
///     visible(q, k)  <=>  k <= q
///
/// Queries at positions below 0 have no visible key; attention writes zeros and lse = -inf there.
///
/// Cost    O(1) per pair and per tile; classify() is exact for tiles of any size.
/// Source  Vaswani et al., "Attention is all you need".
struct causal {
  static constexpr bool ordered = true;  // neither end of visible_keys decreases

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept { return k <= q; }

  SEQPRIM_HD constexpr range visible_keys(index_t q) const noexcept { return {-unlimited, q + 1}; }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept { return classify_ranges(*this, q, k); }

  SEQPRIM_HD constexpr range query_bounds(range k, index_t q_len) const noexcept { return {k.begin, q_len}; }
};
static_assert(rule<causal> && one_range_per_row<causal>);

}  // namespace seqprim::mask
