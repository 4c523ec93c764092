// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

template <rule M> [[nodiscard]] SEQPRIM_HD constexpr auto shifted(const M& m, index_t start) noexcept;

/// A mask evaluated in rows of a call: row 0 is the query at position `start`. Attention wraps the mask of an operator in it, so
/// that kernels work in rows; `shifted(rule, start)` makes it and keeps compositions visible.
///
///     visible(row, k)  <=>  inner(row + start, k)
///
/// Cost    that of `inner`; every hint of `inner` is kept.
template <rule Inner> struct shifted_rows {
  Inner inner;
  index_t start = 0;  ///< position of row 0 [tokens]; may be negative

  static constexpr bool ordered = ordered_ranges<Inner>;

  SEQPRIM_HD constexpr bool operator()(index_t row, index_t k) const noexcept { return inner(row + start, k); }
  SEQPRIM_HD constexpr tile_kind classify(range rows, range k) const noexcept {
    return inner.classify(positions(rows), k);
  }
  SEQPRIM_HD constexpr range visible_keys(index_t row) const noexcept requires one_range_per_row<Inner> {
    return inner.visible_keys(row + start);
  }
  SEQPRIM_HD constexpr range visible_labels(index_t row) const noexcept requires requires(const Inner& m) {
    m.visible_labels(row);
  }
  { return inner.visible_labels(row + start); }
  SEQPRIM_HD constexpr index_t key_label(index_t k) const noexcept requires requires(const Inner& m) { m.key_label(k); }
  { return inner.key_label(k); }
  SEQPRIM_HD constexpr range key_bounds(range rows, index_t k_len) const noexcept {
    return mask::key_bounds(inner, positions(rows), k_len);
  }
  SEQPRIM_HD constexpr range query_bounds(range k, index_t rows) const noexcept {
    const range queries = mask::query_bounds(inner, k, range{-unlimited, rows + start});
    return {queries.begin - start, queries.end - start};
  }
  SEQPRIM_HD constexpr row_group group_at(index_t row) const noexcept requires groups_rows<Inner> {
    const row_group group = mask::group_at(inner, row + start);
    return {group.end - start, group.keys};
  }
  SEQPRIM_HD constexpr limits table_limits() const noexcept requires reads_table<Inner> {
    const limits table = inner.table_limits();
    return {{table.queries.begin - start, table.queries.end - start}, table.keys};
  }
  SEQPRIM_HD constexpr auto composition() const noexcept requires requires(const Inner& m) { m.composition(); }
  { return shifted(inner.composition(), start); }

 private:
  SEQPRIM_HD constexpr range positions(range rows) const noexcept { return {rows.begin + start, rows.end + start}; }
};

namespace detail {
// A functor, not a lambda: nvcc rejects lambdas in functions of both sides without a flag.
struct shift_part {
  index_t start;
  template <rule M> SEQPRIM_HD constexpr auto operator()(const M& m) const noexcept {
    if constexpr (mask::ignores_queries<M>) {
      return m;
    } else {
      return shifted_rows<M>{m, start};
    }
  }
};
}  // namespace detail

/// `m` evaluated in rows, of which row 0 is the query at position `start`. Compositions are shifted part by part; rules that do not
/// depend on the query stay as they are.
template <rule M> [[nodiscard]] SEQPRIM_HD constexpr auto shifted(const M& m, index_t start) noexcept {
  return map_parts(m, detail::shift_part{start});
}

}  // namespace seqprim::mask
