// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// Everybody sees everybody.
///
/// Cost    nothing: every tile is full.
/// Source  spec masks-text 4.1.
struct full {
  static constexpr bool ignores_queries = true;
  SEQPRIM_HD constexpr bool operator()(index_t, index_t) const noexcept { return true; }
  SEQPRIM_HD constexpr tile_kind classify(range, range) const noexcept { return tile_kind::full; }
  SEQPRIM_HD constexpr range visible_keys(index_t) const noexcept { return {0, unlimited}; }
};
static_assert(rule<full> && one_range_per_row<full>);

}  // namespace seqprim::mask
