// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// How the tiles of a problem are classified. A kernel does work for `visited()` of `total()` tiles.
struct tile_counts {
  index_t empty = 0;
  index_t partial = 0;
  index_t full = 0;

  [[nodiscard]] constexpr index_t visited() const noexcept { return partial + full; }
  [[nodiscard]] constexpr index_t total() const noexcept { return empty + partial + full; }
  friend constexpr bool operator==(const tile_counts&, const tile_counts&) = default;
};

/// Cuts [q_len, k_len] into tiles of q_tile x k_tile from (0, 0), the last ones clipped, and counts their classes. Proves
/// that a mask lets kernels skip work: a causal square of n x n tiles has n (n - 1) / 2 empty ones.
///
/// Errors  precondition_error: a length < 0, a tile edge < 1, or the mask's own rules are broken.
/// Cost    one classify() per tile.
template <rule M>
[[nodiscard]] constexpr tile_counts count_tiles(const M& m, index_t q_len, index_t k_len, index_t q_tile,
                                                index_t k_tile) {
  SEQPRIM_EXPECTS(q_len >= 0 && k_len >= 0, "mask::count_tiles: q_len (", q_len, ") and k_len (", k_len,
                  ") must be >= 0. See docs/reference/mask/count_tiles.md");
  SEQPRIM_EXPECTS(q_tile >= 1 && k_tile >= 1, "mask::count_tiles: q_tile (", q_tile, ") and k_tile (", k_tile,
                  ") must be >= 1. See docs/reference/mask/count_tiles.md");
  mask::validate(m, {.q_len = q_len, .k_len = k_len});
  tile_counts counts;
  for (index_t q = 0; q < q_len; q += q_tile)
    for (index_t k = 0; k < k_len; k += k_tile) {
      const tile_kind kind = m.classify({q, min_of(q + q_tile, q_len)}, {k, min_of(k + k_tile, k_len)});
      ++(kind == tile_kind::empty ? counts.empty : kind == tile_kind::full ? counts.full : counts.partial);
    }
  return counts;
}

}  // namespace seqprim::mask
