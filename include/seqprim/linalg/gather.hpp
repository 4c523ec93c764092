// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor_view.hpp>
#include <seqprim/linalg/rows.hpp>

/// Rows copied by index, and one row copied to many. Views [rows, dim]; `rows` are indices that the caller has checked.
/// Page docs/reference/linalg/gather.md
namespace seqprim::linalg {

/// to[i, :] = from[rows[i], :].
template <class T>
void gather_rows(const cpu& executor, const tensor_view<const T, 2>& from, const index_t* rows,
                 const tensor_view<T, 2>& to) {
  for_rows(executor, to.extent(0), [&](index_t i) {
    for (index_t d = 0; d < to.extent(1); ++d) to(i, d) = from(rows[i], d);
  });
}

/// to[rows[i], :] = from[i, :]; no index twice.
template <class T>
void scatter_rows(const cpu& executor, const tensor_view<const T, 2>& from, const index_t* rows,
                  const tensor_view<T, 2>& to) {
  for_rows(executor, from.extent(0), [&](index_t i) {
    for (index_t d = 0; d < from.extent(1); ++d) to(rows[i], d) = from(i, d);
  });
}

/// to[i, :] = row for every i.
template <class T>
void fill_rows(const cpu& executor, const tensor_view<const T, 1>& row, const tensor_view<T, 2>& to) {
  for_rows(executor, to.extent(0), [&](index_t i) {
    for (index_t d = 0; d < to.extent(1); ++d) to(i, d) = row(d);
  });
}

}  // namespace seqprim::linalg
