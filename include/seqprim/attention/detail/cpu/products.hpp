// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/tile.hpp>
#include <seqprim/attention/detail/cpu/logits.hpp>
#include <seqprim/core/tensor_view.hpp>

#include <cstdint>
#include <type_traits>

/// How forward and backward multiply tiles. The engines are written once; a type of products says what operands look like when they
/// are multiplied: elements widened to T, or pairs of bfloat16 elements that are neighbors along the depth of the product.
namespace seqprim::attention::detail {

/// `count` rows of `dim` elements.
template <class X> struct tile_rows {
  arch::matrix_ref<const X> matrix;
  index_t count, dim;
};

template <class X> [[nodiscard]] tile_rows<X> block_of(const tensor_view<const X, 2>& x, range rows) noexcept {
  return {{x.data + rows.begin * x.stride(0), x.stride(0)}, rows.size(), x.extent(1)};
}

/// Products by fma, of operands of any type.
template <class Isa, class T> struct widened_products {
  using element = T;
  /// Terms of the sum that one element holds.
  static constexpr index_t packed = 1;
  using v = arch::simd<Isa, T>;

  /// Elements of the buffers: read_size for read() and left(), sum_size for sum_operand().
  [[nodiscard]] static index_t read_size(index_t rows, index_t dim) noexcept { return rows * round_up(dim, 64); }
  [[nodiscard]] static index_t sum_size(index_t rows, index_t dim) noexcept { return rows * round_up(dim, v::lanes); }

  /// The rows as the functions below take them.
  template <class X> [[nodiscard]] static tile_rows<T> read(const tile_rows<X>& x, T* buffer) noexcept {
    return {widen<Isa>(x.matrix, x.count, x.dim, buffer), x.count, x.dim};
  }
  /// Rows as left operand of a product over their elements. The buffer is that of read().
  [[nodiscard]] static arch::matrix_ref<const T> left(const tile_rows<T>& x, T*) noexcept { return x.matrix; }

  /// out [dim, columns]: the rows, negated where requested, become columns; zeros beyond the last row.
  template <class X>
  static void transpose(const tile_rows<X>& x, bool negate, arch::matrix_ref<T> out, index_t columns) noexcept {
    arch::transpose_into<Isa, T>(x.matrix, x.count, x.dim, out, columns);
    if (negate) scale_tile<Isa>(out.data, out.ld, x.dim, columns, T{-1});
  }

  /// The transposed rows as left operand of a sum over rows. Where `partial`, rows that are not finite are replaced by zeros
  /// and `clean` is set to false.
  [[nodiscard]] static arch::strided_ref<const T> sum_operand(const tile_rows<T>& x, bool partial, T* buffer,
                                                              bool& clean) noexcept {
    if (partial) {
      for (index_t j = 0; j < x.count; ++j) clean = clean && finite<Isa, T>(x.matrix.row(j), x.dim);
    }
    if (clean) return arch::transposed(x.matrix);
    const index_t padded = round_up(x.dim, v::lanes);
    copy_finite(x, {buffer, padded}, padded);
    return arch::transposed(arch::matrix_ref<const T>{buffer, padded});
  }

  /// out [rows, columns]: the rows as right operand of a sum over rows; zeros beyond `dim`, and in place of rows that are not
  /// finite. Returns whether all rows are.
  template <class X> static bool copy_finite(const tile_rows<X>& x, arch::matrix_ref<T> out, index_t columns) noexcept {
    arch::copy_into<Isa>(x.matrix, x.count, x.dim, out, columns);
    bool clean = true;
    for (index_t j = 0; j < x.count; ++j) {
      if (finite<Isa, T>(x.matrix.row(j), x.dim)) continue;
      clean = false;
      for (index_t d = 0; d < x.dim; ++d) out(j, d) = T{0};
    }
    return clean;
  }

  /// Rows 2n and 2n + 1 of a tile of weights become what a sum over rows takes.
  [[gnu::always_inline]] static void store_weights(arch::matrix_ref<T> weights, index_t n, index_t column,
                                                   typename v::reg low, typename v::reg high) noexcept {
    v::store(&weights(2 * n, column), low);
    v::store(&weights(2 * n + 1, column), high);
  }
  /// The weight of row j.
  [[nodiscard]] static T weight(arch::matrix_ref<const T> weights, index_t j, index_t column) noexcept {
    return weights(j, column);
  }
  /// A tile of weights as operand of a sum over its rows, and of one over its columns; columns beyond the live ones
  /// may hold anything, up to whole registers.
  [[nodiscard]] static arch::matrix_ref<const T> pack_rows(arch::matrix_ref<const T> tile, index_t, index_t,
                                                           T*) noexcept {
    return tile;
  }
  [[nodiscard]] static arch::matrix_ref<const T> pack_columns(arch::matrix_ref<const T> tile, index_t, index_t,
                                                              T*) noexcept {
    return tile;
  }
  /// Elements that these two need.
  [[nodiscard]] static index_t pack_size(index_t, index_t) noexcept { return 0; }
};

/// Products of pairs with float sums, of operands of type bfloat16. Weights are rounded to bfloat16.
template <class Isa, class T> struct paired_products {
  using element = arch::bfloat16_pair;
  static constexpr index_t packed = 2;
  using v = arch::simd<Isa, T>;
  using pairs = arch::pair_products<Isa>;
  static_assert(sizeof(element) == sizeof(T));

  [[nodiscard]] static index_t read_size(index_t rows, index_t dim) noexcept { return rows * ceil_div(dim, 2); }
  [[nodiscard]] static index_t sum_size(index_t rows, index_t dim) noexcept { return ceil_div(rows, 2) * dim; }

  [[nodiscard]] static tile_rows<bfloat16> read(const tile_rows<bfloat16>& x, element*) noexcept { return x; }
  /// In place where pairs are whole words.
  [[nodiscard]] static arch::matrix_ref<const element> left(const tile_rows<bfloat16>& x, element* buffer) noexcept {
    const bfloat16* const first = x.matrix.data;
    if (x.dim % 2 == 0 && x.matrix.ld % 2 == 0 && reinterpret_cast<std::uintptr_t>(first) % sizeof(element) == 0)
      return {reinterpret_cast<const element*>(first), x.matrix.ld / 2};
    const index_t depth = ceil_div(x.dim, 2);
    for (index_t j = 0; j < x.count; ++j)
      for (index_t n = 0; n < depth; ++n) {
        const std::uint32_t low = x.matrix(j, 2 * n).bits;
        const std::uint32_t high = 2 * n + 1 < x.dim ? x.matrix(j, 2 * n + 1).bits : 0u;
        buffer[j * depth + n] = {low | high << 16};
      }
    return {buffer, depth};
  }

  static void transpose(const tile_rows<bfloat16>& x, bool negate, arch::matrix_ref<element> out,
                        index_t columns) noexcept {
    pairs::transpose_rows(x.matrix, x.count, x.dim, negate, out, columns);
  }

  [[nodiscard]] static arch::strided_ref<const element> sum_operand(const tile_rows<bfloat16>& x, bool partial,
                                                                    element* buffer, bool& clean) noexcept {
    const auto all = [](index_t) { return true; };
    const auto finite_only = [&](index_t j) { return finite<Isa, T>(x.matrix.row(j), x.dim); };
    clean = (partial ? interleave(x, {buffer, x.dim}, finite_only) : interleave(x, {buffer, x.dim}, all)) && clean;
    return arch::transposed(arch::matrix_ref<const element>{buffer, x.dim});
  }

  static bool copy_finite(const tile_rows<bfloat16>& x, arch::matrix_ref<element> out, index_t columns) noexcept {
    for (index_t n = 0; n < ceil_div(x.count, 2); ++n)
      for (index_t d = x.dim; d < columns; ++d) out(n, d) = {0};
    return interleave(x, out, [&](index_t j) { return finite<Isa, T>(x.matrix.row(j), x.dim); });
  }

  [[gnu::always_inline]] static void store_weights(arch::matrix_ref<element> weights, index_t n, index_t column,
                                                   typename v::reg low, typename v::reg high) noexcept {
    pairs::store_rounded(&weights(n, column), low, high);
  }
  [[nodiscard]] static T weight(arch::matrix_ref<const element> weights, index_t j, index_t column) noexcept {
    const std::uint32_t bits = weights(j / 2, column).bits;
    return static_cast<T>(bfloat16::from_bits(static_cast<std::uint16_t>(j % 2 == 0 ? bits : bits >> 16)));
  }
  [[nodiscard]] static arch::matrix_ref<const element> pack_rows(arch::matrix_ref<const T> tile, index_t rows,
                                                                 index_t columns, element* buffer) noexcept {
    const index_t padded = round_up(columns, v::lanes);
    for (index_t i = 0; i < rows; i += 2)
      for (index_t j = 0; j < padded; j += v::lanes)
        pairs::store_rounded(buffer + i / 2 * padded + j, v::load(&tile(i, j)),
                             i + 1 == rows ? v::zero() : v::load(&tile(i + 1, j)));
    return {buffer, padded};
  }
  [[nodiscard]] static arch::matrix_ref<const element> pack_columns(arch::matrix_ref<const T> tile, index_t rows,
                                                                    index_t columns, element* buffer) noexcept {
    const index_t step = round_up(ceil_div(columns, 2), v::lanes);
    for (index_t i = 0; i < rows; ++i) {
      element* const out = buffer + i * step;
      for (index_t j = 0; j < columns; j += 2 * v::lanes)
        pairs::store_rounded_row(out + j / 2, v::load(&tile(i, j)),
                                 j + v::lanes < columns ? v::load(&tile(i, j + v::lanes)) : v::zero());
      if (columns % 2 != 0) out[columns / 2].bits &= 0xffffu;  // padding may have become anything
    }
    return {buffer, step};
  }
  [[nodiscard]] static index_t pack_size(index_t rows, index_t columns) noexcept {
    return round_up(rows, 2) / 2 * round_up(columns, 2 * v::lanes);
  }

 private:
  /// out [pairs of rows, dim], with zeros in place of the rows that `keep(j)` refuses. Returns whether it refused none.
  template <class Keep>
  static bool interleave(const tile_rows<bfloat16>& x, arch::matrix_ref<element> out, const Keep& keep) noexcept {
    bool all = true;
    for (index_t j = 0; j < x.count; j += 2) {
      const bool alone = j + 1 == x.count, first = keep(j), second = !alone && keep(j + 1);
      element* const row = out.row(j / 2);
      pairs::interleave_rows(x.matrix.row(j), second ? x.matrix.row(j + 1) : nullptr, x.dim, row);
      if (!first)
        for (index_t d = 0; d < x.dim; ++d) row[d].bits &= 0xffff0000u;
      all = all && first && (second || alone);
    }
    return all;
  }
};

/// The products for operands of these types on this instruction set.
template <class Isa, class T, class... X>
using products_for = std::conditional_t<arch::pair_products<Isa>::available && (std::is_same_v<X, bfloat16> && ...),
                                        paired_products<Isa, T>, widened_products<Isa, T>>;

/// acc[d, column] += sum over the rows j of x that are not finite of x[j, d] weight[j, column] where `visible(j, column)`.
///
/// A hidden pair has weight 0, and 0 times infinity or NaN would leak out of padding into rows that do not see it. Such rows are
/// therefore taken out of products and added here.
template <class Isa, class Products, class T, class X, class Visible>
void add_not_finite(const tile_rows<X>& x, index_t columns, const Visible& visible,
                    arch::matrix_ref<const typename Products::element> weights, arch::matrix_ref<T> acc) noexcept {
  for (index_t j = 0; j < x.count; ++j) {
    if (finite<Isa, T>(x.matrix.row(j), x.dim)) continue;
    for (index_t c = 0; c < columns; ++c) {
      if (!visible(j, c)) continue;
      for (index_t d = 0; d < x.dim; ++d) acc(d, c) += static_cast<T>(x.matrix(j, d)) * Products::weight(weights, j, c);
    }
  }
}

/// acc[d, column] += sum over rows j of x[j, d] weight[j, column], for as many `columns`, in whole registers. Where `partial`,
/// rows that are not finite count only where `visible(j, column)`.
template <class Isa, class Products, class T, class X, class Visible>
void add_weighted_rows(const tile_rows<X>& x, bool partial, index_t columns,
                       arch::matrix_ref<const typename Products::element> weights, arch::matrix_ref<T> acc,
                       typename Products::element* buffer, const Visible& visible) noexcept {
  bool clean = true;
  const auto left = Products::sum_operand(x, partial, buffer, clean);
  arch::multiply<Isa, arch::start::keep>(
      acc, left, weights, {x.dim, round_up(columns, arch::simd<Isa, T>::lanes), ceil_div(x.count, Products::packed)});
  if (!clean) add_not_finite<Isa, Products>(x, columns, visible, weights, acc);
}

}  // namespace seqprim::attention::detail
