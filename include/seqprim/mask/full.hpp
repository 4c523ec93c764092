// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// Full attention: every query attends to every key.
///
/// Cost    nothing: every tile is full.
struct full {
  static constexpr bool ignores_queries = true;
  static constexpr bool ordered = true;  // neither end of visible_keys decreases

  SEQPRIM_HD constexpr bool operator()(index_t, index_t) const noexcept { return true; }
  SEQPRIM_HD constexpr tile_kind classify(range, range) const noexcept { return tile_kind::full; }
  SEQPRIM_HD constexpr range visible_keys(index_t) const noexcept { return everywhere; }
};
static_assert(rule<full> && one_range_per_row<full>);

}  // namespace seqprim::mask
