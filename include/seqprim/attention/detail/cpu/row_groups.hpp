// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/tuning.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::attention::detail {

/// Where the first tile of `rows` ends, in (rows.begin, rows.end]. A mask that keeps groups of rows apart (packed sequences) is cut
/// between them: the next group joins a tile while the pairs of the joint tile, its rows counted in whole blocks, are no more than
/// those of two tiles and what a tile costs beside its pairs.
template <class Mask>
[[nodiscard]] SEQPRIM_INLINE index_t first_tile_end(const tile_policy& policy, const Mask& mask, range rows,
                                                    index_t k_len) noexcept {
  if constexpr (!mask::groups_rows<Mask>) {
    return rows.end;
  } else {
    const auto group_of = [&](index_t row) {
      const mask::row_group group = mask::group_at(mask, row);
      return mask::row_group{min_of(group.end, rows.end), intersect(group.keys, {0, k_len})};
    };
    mask::row_group tile = group_of(rows.begin);
    while (tile.end < rows.end) {
      const mask::row_group next = group_of(tile.end);
      const range keys = bounding_range(tile.keys, next.keys);
      const index_t apart = round_up(tile.end - rows.begin, policy.row_block) * tile.keys.size() +
                            round_up(next.end - tile.end, policy.row_block) * next.keys.size() + policy.tile_cost;
      if (round_up(next.end - rows.begin, policy.row_block) * keys.size() > apart) break;
      tile = {next.end, keys};
    }
    return tile.end;
  }
}

}  // namespace seqprim::attention::detail
