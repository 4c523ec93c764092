// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/row_starts.hpp>
#include <seqprim/position/rule.hpp>

namespace seqprim::position {

/// A map of token indices evaluated in rows of a call: row r of batch row b is token starts(b) + r.
template <bindable_map Map, class Starts = row_starts> struct shifted_rows {
  Map map;
  Starts starts;

  struct of_one_row {
    bound_map<Map> map;
    index_t start;
    SEQPRIM_HD constexpr auto operator()(index_t row) const noexcept { return map(start + row); }
  };
  SEQPRIM_HD constexpr of_one_row bind(index_t b) const noexcept requires(!depends_on_head<Map>) {
    return {position::bind(map, b), starts(b)};
  }
  SEQPRIM_HD constexpr of_one_row bind(index_t b, index_t h) const noexcept requires depends_on_head<Map> {
    return {position::bind(map, b, h), starts(b)};
  }

  /// False where one table serves all batch rows.
  [[nodiscard]] constexpr bool varies_by_batch() const noexcept {
    return position::varies_by_batch(map) || !starts.one_for_all();
  }
  template <class Visit> constexpr void for_arrays(const Visit& visit) const { seqprim::for_arrays(map, visit); }
  constexpr void validate(index_t batch, index_t len) const {
    if constexpr (requires { map.validate(batch, len); }) {
      const range first = starts.bounds(batch);
      if (first.empty()) return;
      SEQPRIM_EXPECTS(first.begin >= 0, "position: row 0 of a call is token ", first.begin,
                      ", but the position map lists tokens from 0 on. See docs/reference/position/rule.md");
      map.validate(batch, first.end - 1 + len);
    }
  }
};

template <class Map, class Starts> shifted_rows(Map, Starts) -> shifted_rows<Map, Starts>;

}  // namespace seqprim::position
