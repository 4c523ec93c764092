// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/tensor.hpp>
#include <seqprim/nn/buffer.hpp>
#include <seqprim/nn/detail/lanes.hpp>

#include <type_traits>

namespace seqprim::nn {

/// What row-wise layers accept: any view whose last axis holds the features. [batch, len, dim] is batch * len rows.
template <class X> concept row_viewable = viewable<X, 2> || viewable<X, 3> || viewable<X, 4>;

namespace detail {

/// [..., dim] as [rows, dim]. `operand` names it in the error when its rows do not lie one after another.
template <row_viewable X> [[nodiscard]] auto rows_of(const char* operand, X&& x) {
  const auto view = as_view(x);
  using view_type = std::remove_cvref_t<decltype(view)>;
  constexpr int rank = view_type::rank;
  const index_t dim = view.extent(rank - 1);
  if constexpr (rank == 2) {
    SEQPRIM_EXPECTS(view.strides[1] == 1 || dim <= 1, operand, " must be contiguous in its last axis, its stride is ",
                    view.strides[1]);
    return tensor_view<typename view_type::element_type, 2>(view);
  } else {
    SEQPRIM_EXPECTS(view.contiguous(), operand, " must be dense");
    index_t rows = 1;
    for (int axis = 0; axis + 1 < rank; ++axis) rows *= view.extent(axis);
    return tensor_view<typename view_type::element_type, 2>(view.data, rows, dim);
  }
}

template <class View>
void expect_shape(const View& x, const char* operand, index_t rows, index_t dim, const char* page) {
  SEQPRIM_EXPECTS(x.extent(0) == rows && x.extent(1) == dim, operand, " [", x.extent(0), ", ", x.extent(1),
                  "] must be [", rows, ", ", dim, "]. See docs/reference/nn/", page);
}

/// Rows that one task sums; a fixed number, so that sums over rows do not depend on the threads.
inline constexpr index_t rows_per_sum = 64;

/// total[j] += partial[0][j] + partial[1][j] + ... in this order; partial [blocks, columns].
template <class Isa, class T> void add_partial_sums(const cpu& executor, const tensor_view<T, 2>& partial, T* total) {
  using v = arch::simd<Isa, T>;
  constexpr index_t piece = 256;
  const index_t blocks = partial.extent(0), columns = partial.extent(1);
  parallel_for(executor, ceil_div(columns, piece), [&](index_t p, int) {
    const index_t begin = p * piece;
    for_lanes<v>(min(piece, columns - begin), [&](index_t j, auto part) {
      auto sum = part.load(total + begin + j);
      for (index_t i = 0; i < blocks; ++i) sum = v::add(sum, part.load(partial.data + i * columns + begin + j));
      part.store(total + begin + j, sum);
    });
  });
}

/// total[j] += sum over rows of x[row, j].
template <class Isa, class T>
void add_column_sums(const cpu& executor, const tensor_view<const T, 2>& x, T* total, buffer<T>& scratch) {
  using v = arch::simd<Isa, T>;
  const index_t rows = x.extent(0), columns = x.extent(1);
  const auto partial = scratch.view(ceil_div(rows, rows_per_sum), columns);
  parallel_for(executor, partial.extent(0), [&](index_t block, int) {
    const index_t begin = block * rows_per_sum, end = min(begin + rows_per_sum, rows);
    T* const out = partial.data + block * columns;
    for_lanes<v>(columns, [&](index_t j, auto part) {
      auto sum = v::zero();
      for (index_t i = begin; i < end; ++i) sum = v::add(sum, part.load(x.data + i * x.strides[0] + j));
      part.store(out + j, sum);
    });
  });
  add_partial_sums<Isa>(executor, partial, total);
}

}  // namespace detail
}  // namespace seqprim::nn
