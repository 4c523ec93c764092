// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/position/rule.hpp>

namespace seqprim::position {

/// An encoding that reads its tables from memory: made by `table::view`, used like the encoding itself. Positions are integers
/// in [0, positions of the table).
template <encoding E> struct tabled : E {
  using coordinate = index_t;

  tensor_view<const float, 2> values;  ///< [positions, table_size]

  template <std::floating_point Angle>
  SEQPRIM_HD constexpr void table(index_t position, Angle* numbers) const noexcept {
    for (index_t i = 0; i < values.extent(1); ++i) numbers[i] = static_cast<Angle>(values(position, i));
  }
  [[nodiscard]] SEQPRIM_HD constexpr bool covers(index_t position) const noexcept {
    return 0 <= position && position < values.extent(0);
  }
  [[nodiscard]] SEQPRIM_HD constexpr tabled for_head_dim(index_t) const noexcept { return *this; }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(subject{"position::tabled", "position/table"}, "values", values);
  }
};

/// The tables of all positions in [0, positions), computed once for all layers, heads and steps. For any encoding of integer
/// positions with one table for all heads.
///
/// Types   float tables; with double data the numbers are float ones.
/// Errors  precondition_error: the encoding's own rules are broken or its width is left open, positions < 0.
/// Repeat  bit for bit the tables that the encoding computes itself, for any number of threads.
/// Cost    memory: 4 table_size bytes per position (rotary: 4 rotary_dim).
/// Page    docs/reference/position/table.md
template <encoding E> class table {
  static_assert(encodes<E> && coordinate_for<index_t, typename E::coordinate> && !per_head<E>,
                "seqprim: a position::table is for encodings of integer positions with one table for all heads. See "
                "docs/reference/position/table.md");

 public:
  table(const cpu& executor, const E& encoding, index_t positions) : encoding_(encoding) {
    executor.validate();
    position::validate(encoding);
    SEQPRIM_EXPECTS(encoding.table_size() > 0,
                    "position::table: the encoding does not know its width; take encoding.for_head_dim(head_dim). See "
                    "docs/reference/position/table.md");
    SEQPRIM_EXPECTS(positions >= 0, "position::table: positions (", positions,
                    ") must be >= 0. See docs/reference/position/table.md");
    values_ = tensor<float, 2>(positions, encoding.table_size());
    constexpr index_t block = 64;
    parallel_for(executor, ceil_div(positions, block), [&](index_t piece, int) {
      for (index_t n = piece * block; n < min((piece + 1) * block, positions); ++n)
        encoding_.table(static_cast<typename E::coordinate>(n), &values_(n, 0));
    });
  }

  [[nodiscard]] index_t positions() const noexcept { return values_.extent(0); }
  [[nodiscard]] tensor_view<const float, 2> values() const noexcept { return values_.view(); }

  /// The encoding that reads this table; valid while the table lives.
  [[nodiscard]] tabled<E> view() const noexcept { return {encoding_, values_.view()}; }

 private:
  E encoding_;
  tensor<float, 2> values_;
};

}  // namespace seqprim::position
