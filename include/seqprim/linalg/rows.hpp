// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/math.hpp>
#include <seqprim/core/parallel.hpp>

/// Loops over contiguous elements, a register at a time, and over rows, in parallel. The body is written once: it works on
/// `arch::lanes`, loaded and stored through a part that is a whole register, or what is left at the end of a row.
///
///     using x = arch::lanes<Isa, float>;
///     linalg::for_lanes<x>(dim, [&](index_t j, auto part) { part.store(y + j, factor * part.load(x + j)); });
///
/// Page docs/reference/linalg/rows.md
namespace seqprim::linalg {

/// All lanes of a register X.
template <class X> struct whole {
  template <class Y> [[nodiscard, gnu::always_inline]] X load(const Y* p) const noexcept { return X::load(p); }
  template <class Y> [[gnu::always_inline]] void store(Y* p, X x) const noexcept { x.store(p); }
  /// x; in the lanes that do not exist, `otherwise`.
  [[nodiscard, gnu::always_inline]] X select(X x, X) const noexcept { return x; }
};

/// The first `count` lanes of a register X.
template <class X> struct first_lanes {
  int count;
  template <class Y> [[nodiscard, gnu::always_inline]] X load(const Y* p) const noexcept { return X::load(p, count); }
  template <class Y> [[gnu::always_inline]] void store(Y* p, X x) const noexcept { x.store(p, count); }
  [[nodiscard, gnu::always_inline]] X select(X x, X otherwise) const noexcept {
    return X::v::select(X::v::lanes_in(0, count), x.reg, otherwise.reg);
  }
};

/// body(position, part) for registers X over `count` elements: part.load(p + position) and part.store(p + position, x) touch
/// what exists; lanes beyond read as zero.
template <class X, class Body> [[gnu::always_inline]] inline void for_lanes(index_t count, const Body& body) {
  index_t j = 0;
  for (; j + X::count <= count; j += X::count) body(j, whole<X>{});
  if (j < count) body(j, first_lanes<X>{static_cast<int>(count - j)});
}

/// The same over one long array, in parallel. Elements do not depend on each other, so the cut does not show.
template <class X, class Body> void for_elements(const cpu& executor, index_t count, const Body& body) {
  constexpr index_t piece = 1 << 14;
  parallel_for(executor, ceil_div(count, piece), [&](index_t p, int) {
    const index_t begin = p * piece;
    for_lanes<X>(min_of(piece, count - begin), [&](index_t j, auto part) { body(begin + j, part); });
  });
}

/// Rows of one task; a fixed number, so that sums over the rows of a task do not depend on the threads.
inline constexpr index_t rows_per_task = 64;

/// body(row) for each row, in parallel.
template <class Body> void for_rows(const cpu& executor, index_t rows, const Body& body) {
  parallel_for(executor, ceil_div(rows, rows_per_task), [&](index_t task, int) {
    const index_t end = min_of((task + 1) * rows_per_task, rows);
    for (index_t row = task * rows_per_task; row < end; ++row) body(row);
  });
}

}  // namespace seqprim::linalg
