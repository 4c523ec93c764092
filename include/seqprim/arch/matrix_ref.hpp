// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>

#include <type_traits>

namespace seqprim::arch {

/// A matrix in memory: rows lie `ld` elements apart (the leading dimension of BLAS), columns are contiguous. Its extents
/// are passed separately.
template <class T> struct matrix_ref {
  using element = std::remove_const_t<T>;

  T* data = nullptr;
  index_t ld = 0;

  constexpr matrix_ref() noexcept = default;
  SEQPRIM_HD constexpr matrix_ref(T* first, index_t leading) noexcept : data(first), ld(leading) {}
  /// Read-only matrix of a mutable one.
  template <class Other>
  requires(std::is_same_v<const Other, T> && !std::is_const_v<Other>)
      SEQPRIM_HD constexpr matrix_ref(const matrix_ref<Other>& other) noexcept
      : data(other.data), ld(other.ld) {}

  [[nodiscard]] SEQPRIM_HD constexpr T* row(index_t i) const noexcept { return data + i * ld; }
  [[nodiscard]] SEQPRIM_HD constexpr T& operator()(index_t i, index_t j) const noexcept { return data[i * ld + j]; }
  /// The part that begins at row i and column j.
  [[nodiscard]] SEQPRIM_HD constexpr matrix_ref from(index_t i, index_t j = 0) const noexcept {
    return {data + i * ld + j, ld};
  }
};
template <class T> matrix_ref(T*, index_t) -> matrix_ref<T>;

/// A matrix with any strides: what an operand that is read element by element may be.
template <class T> struct strided_ref {
  using element = std::remove_const_t<T>;

  T* data;
  index_t row_stride, column_stride;

  SEQPRIM_HD constexpr strided_ref(T* first, index_t rows, index_t columns) noexcept
      : data(first), row_stride(rows), column_stride(columns) {}
  template <class Other>
  requires std::is_same_v<std::remove_const_t<T>, std::remove_const_t<Other>> SEQPRIM_HD constexpr strided_ref(
      const matrix_ref<Other>& matrix) noexcept  // NOLINT: a matrix_ref is one
      : data(matrix.data), row_stride(matrix.ld), column_stride(1) {}
  template <class Other>
  requires(std::is_same_v<const Other, T> && !std::is_const_v<Other>)
      SEQPRIM_HD constexpr strided_ref(const strided_ref<Other>& other) noexcept
      : data(other.data), row_stride(other.row_stride), column_stride(other.column_stride) {}

  [[nodiscard]] SEQPRIM_HD constexpr strided_ref from(index_t i, index_t j = 0) const noexcept {
    return {data + i * row_stride + j * column_stride, row_stride, column_stride};
  }
};

/// The matrix whose element (i, j) is element (j, i) of the given one.
template <class T> [[nodiscard]] SEQPRIM_HD constexpr strided_ref<T> transposed(const matrix_ref<T>& matrix) noexcept {
  return {matrix.data, 1, matrix.ld};
}

/// Extents of a product c [rows, columns] = a [rows, depth] b [depth, columns].
struct product_shape {
  index_t rows, columns, depth;
};

}  // namespace seqprim::arch
