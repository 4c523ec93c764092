// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/error.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/position/rule.hpp>

#include <type_traits>

namespace seqprim::position {

/// Coordinates that the caller lists, N values per row: row and column of a patch, time, height and width of a video
/// token, fractional times. With N = 1 they are numbers, else points.
///
/// Errors  precondition_error: fewer rows than the call has, or not N axes.
template <int N> struct coordinates {
  tensor_view<const double, 2> values;  ///< [len, N], any strides

  SEQPRIM_HD constexpr auto operator()(index_t row) const noexcept {
    if constexpr (N == 1) {
      return values(row, 0);
    } else {
      point<N> result{};
      for (int axis = 0; axis < N; ++axis) result.at[axis] = values(row, axis);
      return result;
    }
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(subject{"position::coordinates", "position/coordinates"}, "values", values);
  }

  constexpr void validate(index_t, index_t len) const {
    SEQPRIM_EXPECTS(values.extent(0) >= len && values.extent(1) == N, "position::coordinates: values are [",
                    values.extent(0), ", ", values.extent(1), "] but [len, axes] is [", len, ", ", N,
                    "]. See docs/reference/position/coordinates.md");
  }
};

/// The same with a list for each batch row.
///
/// Errors  precondition_error: fewer lists than batch rows, fewer rows than the call has, or not N axes.
template <int N> struct coordinates_per_batch {
  tensor_view<const double, 3> values;  ///< [batch, len, N], any strides

  SEQPRIM_HD constexpr coordinates<N> bind(index_t batch) const noexcept { return {.values = values[batch]}; }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    visit(subject{"position::coordinates_per_batch", "position/coordinates"}, "values", values);
  }

  constexpr void validate(index_t batch, index_t len) const {
    SEQPRIM_EXPECTS(values.extent(0) >= batch && values.extent(1) >= len && values.extent(2) == N,
                    "position::coordinates_per_batch: values are [", values.extent(0), ", ", values.extent(1), ", ",
                    values.extent(2), "] but [batch, len, axes] is [", batch, ", ", len, ", ", N,
                    "]. See docs/reference/position/coordinates.md");
  }
};
static_assert(map<coordinates<1>> && map<coordinates<2>> && depends_on_batch<coordinates_per_batch<3>>);

}  // namespace seqprim::position
