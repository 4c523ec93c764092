// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// A mask whose tiles were classified beforehand: the mask itself for single pairs, a grid of classes for tiles. For masks
/// whose own classify() is slow, or that have none (`where`, `dense`). Made by `block_grid::over`.
///
/// Tiles need not match the blocks: a tile is empty or full when all blocks that it touches are. Exact for tiles cut from
/// (0, 0) whose edges are multiples of the block edges where the blocks inside are not both pure and of different kinds.
///
/// Cost    classify(): one lookup per touched block. Copies are views; the block_grid must outlive them.
template <rule M> struct block_map {
  M mask;
  tensor_view<const tile_kind, 2> kinds;  ///< [ceil(q_len / q_block), ceil(k_len / k_block)]
  index_t q_block;
  index_t k_block;
  index_t q_len;
  index_t k_len;

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept { return mask(q, k); }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept {
    const range rows = blocks(q, q_block);
    const range columns = blocks(k, k_block);
    const tile_kind corner = kinds(rows.begin, columns.begin);
    for (index_t i = rows.begin; i < rows.end; ++i)
      for (index_t j = columns.begin; j < columns.end; ++j)
        if (kinds(i, j) != corner) return tile_kind::partial;
    return corner;
  }

  SEQPRIM_HD constexpr range key_bounds(range q, index_t) const noexcept {
    const range rows = blocks(q, q_block);
    range columns{0, kinds.extent(1)};
    while (!columns.empty() && empty(rows, {columns.begin, columns.begin + 1})) ++columns.begin;
    while (!columns.empty() && empty(rows, {columns.end - 1, columns.end})) --columns.end;
    return {columns.begin * k_block, columns.end * k_block};
  }

  SEQPRIM_HD constexpr range query_bounds(range k, index_t) const noexcept {
    const range columns = blocks(k, k_block);
    range rows{0, kinds.extent(0)};
    while (!rows.empty() && empty({rows.begin, rows.begin + 1}, columns)) ++rows.begin;
    while (!rows.empty() && empty({rows.end - 1, rows.end}, columns)) --rows.end;
    return {rows.begin * q_block, rows.end * q_block};
  }

  /// The last query of a call is the last one that the map was made for.
  SEQPRIM_HD constexpr row_starts query_starts(index_t call_q_len, index_t) const noexcept {
    return {.common = q_len - call_q_len};
  }

  constexpr void validate() const { mask::validate(mask); }
  constexpr void validate(const shape& problem) const {
    mask::validate(mask, problem);
    SEQPRIM_EXPECTS(0 <= problem.start && problem.start + problem.q_len <= q_len && problem.k_len <= k_len,
                    "mask::block_map: made for [", q_len, ", ", k_len, "], asked for are queries [", problem.start,
                    ", ", problem.start + problem.q_len, ") and ", problem.k_len,
                    " keys. See docs/reference/mask/block_map.md");
  }

 private:
  SEQPRIM_HD static constexpr range blocks(range indices, index_t edge) noexcept {
    return {indices.begin / edge, ceil_div(indices.end, edge)};
  }
  SEQPRIM_HD constexpr bool empty(range rows, range columns) const noexcept {
    for (index_t i = rows.begin; i < rows.end; ++i)
      for (index_t j = columns.begin; j < columns.end; ++j)
        if (kinds(i, j) != tile_kind::empty) return false;
    return true;
  }
};

/// The classes of all blocks of one mask on one problem, owned. Build it once, use it for as many calls as the mask lives:
///
///     const mask::block_grid grid(cpu{}, slow, q_len, k_len, 64, 64);
///     const auto fast = grid.over(slow);  // a mask like any other
///
/// Errors  precondition_error: a length < 0, a block edge < 1, or the mask's own rules are broken.
/// Repeat  the same grid for any number of threads.
/// Cost    building: one classify() per block, and every pair of the blocks that it calls partial. Memory: a byte a block.
class block_grid {
 public:
  template <rule M>
  block_grid(const cpu& executor, const M& mask, index_t q_len, index_t k_len, index_t q_block, index_t k_block)
      : q_block_(q_block), k_block_(k_block), q_len_(q_len), k_len_(k_len) {
    SEQPRIM_EXPECTS(q_len >= 0 && k_len >= 0, "mask::block_grid: q_len (", q_len, ") and k_len (", k_len,
                    ") must be >= 0. See docs/reference/mask/block_map.md");
    SEQPRIM_EXPECTS(q_block >= 1 && k_block >= 1, "mask::block_grid: q_block (", q_block, ") and k_block (", k_block,
                    ") must be >= 1. See docs/reference/mask/block_map.md");
    executor.validate();
    mask::validate(mask, {.q_len = q_len, .k_len = k_len});
    kinds_ = tensor<tile_kind, 2>(ceil_div(q_len, q_block), ceil_div(k_len, k_block));
    parallel_for(executor, kinds_.extent(0), [&](index_t i, int) {
      const range rows{i * q_block, min((i + 1) * q_block, q_len)};
      for (index_t j = 0; j < kinds_.extent(1); ++j)
        kinds_(i, j) = exact_kind(mask, rows, {j * k_block, min((j + 1) * k_block, k_len)});
    });
  }

  /// The mask with this grid. It must be the mask that the grid was built from.
  template <rule M> [[nodiscard]] block_map<M> over(const M& mask) const noexcept {
    return {.mask = mask,
            .kinds = kinds_.view(),
            .q_block = q_block_,
            .k_block = k_block_,
            .q_len = q_len_,
            .k_len = k_len_};
  }

  [[nodiscard]] tensor_view<const tile_kind, 2> kinds() const noexcept { return kinds_.view(); }

 private:
  template <rule M> static tile_kind exact_kind(const M& mask, range q, range k) noexcept {
    const tile_kind kind = mask.classify(q, k);
    if (kind != tile_kind::partial) return kind;
    const bool corner = mask(q.begin, k.begin);
    for (index_t i = q.begin; i < q.end; ++i)
      for (index_t j = k.begin; j < k.end; ++j)
        if (mask(i, j) != corner) return tile_kind::partial;
    return corner ? tile_kind::full : tile_kind::empty;
  }

  tensor<tile_kind, 2> kinds_;
  index_t q_block_;
  index_t k_block_;
  index_t q_len_;
  index_t k_len_;
};

}  // namespace seqprim::mask
