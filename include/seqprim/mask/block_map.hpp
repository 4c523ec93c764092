// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/subject.hpp>
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
/// Errors  precondition_error: queries or keys of the call outside of [0, q_len), [0, k_len); fewer grids than batch rows or heads.
/// Cost    classify(): one lookup per touched block. Copies are views; the block_grid must outlive them.
template <bindable M> struct block_map {
  M mask;
  tensor_view<const tile_kind, 4> kinds;  ///< [batch or 1, heads or 1, ceil(q_len / q_block), ceil(k_len / k_block)]
  index_t q_block;
  index_t k_block;
  index_t q_len;
  index_t k_len;

  static constexpr subject self{"mask::block_map", "mask/block_map"};

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept requires rule<M> { return mask(q, k); }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept requires rule<M> {
    const range rows = blocks(q, q_block);
    const range columns = blocks(k, k_block);
    const tile_kind corner = kinds(0, 0, rows.begin, columns.begin);
    for (index_t i = rows.begin; i < rows.end; ++i)
      for (index_t j = columns.begin; j < columns.end; ++j)
        if (kinds(0, 0, i, j) != corner) return tile_kind::partial;
    return corner;
  }

  SEQPRIM_HD constexpr range key_bounds(range q, index_t) const noexcept requires rule<M> {
    const range rows = blocks(q, q_block);
    range columns{0, kinds.extent(3)};
    while (!columns.empty() && empty(rows, {columns.begin, columns.begin + 1})) ++columns.begin;
    while (!columns.empty() && empty(rows, {columns.end - 1, columns.end})) --columns.end;
    return {columns.begin * k_block, columns.end * k_block};
  }

  SEQPRIM_HD constexpr range query_bounds(range k, index_t) const noexcept requires rule<M> {
    const range columns = blocks(k, k_block);
    range rows{0, kinds.extent(2)};
    while (!rows.empty() && empty({rows.begin, rows.begin + 1}, columns)) ++rows.begin;
    while (!rows.empty() && empty({rows.end - 1, rows.end}, columns)) --rows.end;
    return {rows.begin * q_block, rows.end * q_block};
  }

  /// The last query of a call is the last one that the map was made for.
  SEQPRIM_HD constexpr row_starts query_starts(index_t call_q_len, index_t) const noexcept {
    return {.common = q_len - call_q_len};
  }
  SEQPRIM_HD constexpr limits table_limits() const noexcept { return {{0, q_len}, {0, k_len}}; }

  /// The map of one batch row and head.
  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept requires depends_on_batch_or_head<M> {
    block_map<bound<M>> result{.mask = mask::bind(mask, batch, head),
                               .kinds = kinds,
                               .q_block = q_block,
                               .k_block = k_block,
                               .q_len = q_len,
                               .k_len = k_len};
    result.kinds.data = &kinds(kinds.extent(0) == 1 ? 0 : batch, kinds.extent(1) == 1 ? 0 : head, 0, 0);
    return result;
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    seqprim::for_arrays(mask, visit);
    visit(self, "kinds", kinds);
  }

  constexpr void validate() const { mask::validate(mask); }
  constexpr void validate(const shape& problem) const {
    mask::validate(mask, problem);
    if constexpr (depends_on_batch_or_head<M>)
      self.expects(kinds.extent(0) >= problem.batch && kinds.extent(1) >= problem.heads, "made for ", kinds.extent(0),
                   " batch rows and ", kinds.extent(1), " heads, the call has ", problem.batch, " and ", problem.heads);
    expect_in_table(self, table_limits(), problem);
  }

 private:
  SEQPRIM_HD static constexpr range blocks(range indices, index_t edge) noexcept {
    return {indices.begin / edge, ceil_div(indices.end, edge)};
  }
  SEQPRIM_HD constexpr bool empty(range rows, range columns) const noexcept {
    for (index_t i = rows.begin; i < rows.end; ++i)
      for (index_t j = columns.begin; j < columns.end; ++j)
        if (kinds(0, 0, i, j) != tile_kind::empty) return false;
    return true;
  }
};

/// The classes of all blocks of one mask on one problem, owned. Build it once, use it for as many calls as the mask lives:
///
///     const mask::block_grid grid(cpu{}, slow, q_len, k_len, 64, 64);
///     const auto fast = grid.over(slow);  // a mask like any other
///
/// A mask that differs between batch rows or heads has a grid for each: block_grid(cpu{}, slow, mask::shape{batch, heads, q_len,
/// k_len}, 64, 64).
///
/// Errors  precondition_error: a length < 0, a block edge < 1, or the mask's own rules are broken.
/// Repeat  the same grid for any number of threads.
/// Cost    building: one classify() per block, and every pair of the blocks that it calls partial. Memory: a byte a block.
class block_grid {
 public:
  static constexpr subject self{"mask::block_grid", "mask/block_map"};

  template <rule M>
  block_grid(const cpu& executor, const M& mask, index_t q_len, index_t k_len, index_t q_block, index_t k_block)
      : block_grid(executor, mask, shape{.q_len = q_len, .k_len = k_len}, q_block, k_block) {}

  /// Queries at [0, q_len) of the problem. The grid of a mask without batch and head serves them all.
  template <bindable M>
  block_grid(const cpu& executor, const M& mask, const shape& problem, index_t q_block, index_t k_block)
      : q_block_(q_block), k_block_(k_block), q_len_(problem.q_len), k_len_(problem.k_len) {
    self.expects(q_len_ >= 0 && k_len_ >= 0, "q_len (", q_len_, ") and k_len (", k_len_, ") must be >= 0");
    self.expects(q_block >= 1 && k_block >= 1, "q_block (", q_block, ") and k_block (", k_block, ") must be >= 1");
    executor.validate();
    mask::validate(mask, problem);
    constexpr bool one = rule<M>;
    kinds_ = tensor<tile_kind, 4>(one ? 1 : problem.batch, one ? 1 : problem.heads, ceil_div(q_len_, q_block),
                                  ceil_div(k_len_, k_block));
    const index_t heads = kinds_.extent(1), rows = kinds_.extent(2);
    parallel_for(executor, kinds_.extent(0) * heads * rows, [&](index_t task, int) {
      const index_t b = task / rows / heads, h = task / rows % heads, i = task % rows;
      const auto bound_mask = mask::bind(mask, b, h);
      const range q{i * q_block, min_of((i + 1) * q_block, q_len_)};
      for (index_t j = 0; j < kinds_.extent(3); ++j)
        kinds_(b, h, i, j) = exact_kind(bound_mask, q, {j * k_block, min_of((j + 1) * k_block, k_len_)});
    });
  }

  /// The mask with this grid. It must be the mask that the grid was built from.
  template <bindable M> [[nodiscard]] block_map<M> over(const M& mask) const noexcept {
    return {.mask = mask,
            .kinds = kinds_.view(),
            .q_block = q_block_,
            .k_block = k_block_,
            .q_len = q_len_,
            .k_len = k_len_};
  }

  [[nodiscard]] tensor_view<const tile_kind, 4> kinds() const noexcept { return kinds_.view(); }

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

  tensor<tile_kind, 4> kinds_;
  index_t q_block_;
  index_t k_block_;
  index_t q_len_;
  index_t k_len_;
};

}  // namespace seqprim::mask
