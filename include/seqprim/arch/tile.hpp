// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/matrix_ref.hpp>
#include <seqprim/arch/simd.hpp>
#include <seqprim/arch/tile_unit.hpp>
#include <seqprim/arch/unrolled.hpp>

#include <type_traits>
#include <utility>

/// The tile engine: products of small matrices that fit the caches. Every matrix product of the library - linear layers,
/// scores, weighted sums, their gradients - ends in multiply().
namespace seqprim::arch {

/// Rows x columns of the register block, in lanes: 24 (AVX-512) or 12 (AVX2) independent sums hide the latency of fma and
/// leave registers for one row of b.
template <class Isa> inline constexpr int block_rows = 6;
template <class Isa> inline constexpr int block_registers = Isa::registers == 32 ? 4 : 2;

/// Columns of a register block.
template <class Isa, class T> inline constexpr int block_columns = block_registers<Isa>* simd<Isa, T>::lanes;

/// What happens to the old content of c.
enum class start {
  zero,     ///< c  =            a b
  keep,     ///< c  = c        + a b
  rescale,  ///< c  = c * f[n] + a b, one factor for each column n
};

/// c[i, j] *= factor[j].
template <class Isa, class T>
void scale_columns(matrix_ref<T> c, index_t rows, index_t columns, const T* factor) noexcept {
  using v = simd<Isa, T>;
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < columns; j += v::lanes) v::store(&c(i, j), v::mul(v::load(&c(i, j)), v::load(factor + j)));
}

namespace detail {

/// How two operands of type In add to a sum of type T: by fma, or two bfloat16 products at once.
template <class Isa, class T, class In> struct products : pair_products<Isa> {
  static_assert(std::is_same_v<In, bfloat16_pair> && pair_products<Isa>::available,
                "seqprim: this instruction set has no product of these operands");
};
template <class Isa, class T> struct products<Isa, T, T> : simd<Isa, T> {
  using typename simd<Isa, T>::reg;
  [[gnu::always_inline]] static reg add_products(reg a, reg b, reg sum) noexcept {
    return simd<Isa, T>::fma(a, b, sum);
  }
};

/// Rows x Registers registers of c, whose sums stay in registers over the whole depth.
template <class Isa, start Start, int Rows, int Registers, class T, class In>
[[gnu::always_inline]] inline void multiply_block(matrix_ref<T> c, strided_ref<const In> a, matrix_ref<const In> b,
                                                  index_t depth, const T* factor) noexcept {
  using v = simd<Isa, T>;
  using product = products<Isa, T, In>;
  typename v::reg sum[Rows][Registers];
  unrolled<Rows>([&](auto i) {
    unrolled<Registers>([&](auto j) {
      if constexpr (Start == start::zero) {
        sum[i][j] = v::zero();
      } else if constexpr (Start == start::keep) {
        sum[i][j] = v::load(&c(i, j * v::lanes));
      } else {
        sum[i][j] = v::mul(v::load(&c(i, j * v::lanes)), v::load(factor + j * v::lanes));
      }
    });
  });
  for (index_t k = 0; k < depth; ++k) {
    typename product::reg row[Registers];
    unrolled<Registers>([&](auto j) { row[j] = product::load(b.data + j * v::lanes); });
    unrolled<Rows>([&](auto i) {
      const auto x = product::set(a.data[i * a.row_stride]);
      unrolled<Registers>([&](auto j) { sum[i][j] = product::add_products(x, row[j], sum[i][j]); });
    });
    a.data += a.column_stride;
    b.data += b.ld;
  }
  unrolled<Rows>([&](auto i) { unrolled<Registers>([&](auto j) { v::store(&c(i, j * v::lanes), sum[i][j]); }); });
}

/// All rows of a few registers of columns.
template <class Isa, start Start, int Registers, class T, class In>
inline void multiply_columns(matrix_ref<T> c, strided_ref<const In> a, matrix_ref<const In> b, index_t rows,
                             index_t depth, const T* factor) noexcept {
  constexpr int block = block_rows<Isa>;
  index_t i = 0;
  for (; i + block <= rows; i += block)
    multiply_block<Isa, Start, block, Registers>(c.from(i), a.from(i), b, depth, factor);
  const auto rest = [&](auto count) {
    multiply_block<Isa, Start, decltype(count)::value, Registers>(c.from(i), a.from(i), b, depth, factor);
  };
  switch (rows - i) {
    case 5: return rest(std::integral_constant<int, 5>{});
    case 4: return rest(std::integral_constant<int, 4>{});
    case 3: return rest(std::integral_constant<int, 3>{});
    case 2: return rest(std::integral_constant<int, 2>{});
    case 1: return rest(std::integral_constant<int, 1>{});
    default: return;
  }
}

/// multiply() by vector registers.
template <class Isa, start Start, class T, class In>
void multiply_registers(matrix_ref<T> c, strided_ref<const In> a, matrix_ref<const In> b, product_shape shape,
                        const T* factor) noexcept {
  constexpr int lanes = simd<Isa, T>::lanes;
  constexpr int width = block_columns<Isa, T>;
  const auto factor_at = [&](index_t j) { return Start == start::rescale ? factor + j : nullptr; };
  index_t j = 0;
  for (; j + width <= shape.columns; j += width)
    multiply_columns<Isa, Start, block_registers<Isa>>(c.from(0, j), a, b.from(0, j), shape.rows, shape.depth,
                                                       factor_at(j));
  for (; j < shape.columns; j += lanes)
    multiply_columns<Isa, Start, 1>(c.from(0, j), a, b.from(0, j), shape.rows, shape.depth, factor_at(j));
}

/// multiply() with AMX tiles for full 16 x 16 blocks and vector registers for the remainder. Rows of a are contiguous, or its
/// columns are and it is transposed while it is packed.
template <class Isa, start Start>
void multiply_with_tiles(matrix_ref<float> c, strided_ref<const bfloat16_pair> a, matrix_ref<const bfloat16_pair> b,
                         product_shape shape, const float* factor) noexcept {
  const index_t tall = shape.rows / tile_edge * tile_edge, deep = shape.depth / tile_edge * tile_edge;
  if (tall == 0 || deep == 0 || (a.column_stride != 1 && a.row_stride != 1))
    return multiply_registers<Isa, Start>(c, a, b, shape, factor);
  const auto add = [&](bool zero, matrix_ref<float> sums, matrix_ref<const bfloat16_pair> left,
                       matrix_ref<const bfloat16_pair> right, product_shape part) {
    if (zero) {
      multiply_tiles<Isa, true>(sums, left, right, part);
    } else {
      multiply_tiles<Isa, false>(sums, left, right, part);
    }
  };
  if constexpr (Start == start::rescale) scale_columns<Isa>(c, tall, shape.columns, factor);
  if (a.column_stride == 1) {
    add(Start == start::zero, c, {a.data, a.row_stride}, b, {tall, shape.columns, deep});
  } else {
    constexpr index_t most = 64;
    alignas(64) bfloat16_pair packed[2 * tile_edge * most];
    const matrix_ref left{packed, most};
    for (index_t i = 0; i < tall; i += 2 * tile_edge) {
      const index_t count = min(2 * tile_edge, tall - i);
      for (index_t k = 0; k < deep; k += most) {
        const index_t length = min(most, deep - k);
        for (index_t y = 0; y < count; y += tile_edge)
          for (index_t x = 0; x < length; x += tile_edge)
            transpose_pairs<Isa>({a.from(i + y, k + x).data, a.column_stride}, left.from(y, x));
        add(Start == start::zero && k == 0, c.from(i), left, b.from(k), {count, shape.columns, length});
      }
    }
  }
  if (deep < shape.depth)
    multiply_registers<Isa, start::keep>(c, a.from(0, deep), b.from(deep), {tall, shape.columns, shape.depth - deep},
                                         factor);
  if (tall < shape.rows)
    multiply_registers<Isa, Start>(c.from(tall), a.from(tall), b, {shape.rows - tall, shape.columns, shape.depth},
                                   factor);
}

}  // namespace detail

/// c = start + a b for small matrices that the caller holds in cache.
///
/// a is read one element at a time, with any strides (a matrix_ref, or transposed() of one); rows of b and c are contiguous and
/// both are padded: `columns` is a multiple of the lanes. Of elements of type T each c(m, n) is one chain of fma over the depth in
/// ascending order, wherever it is in the tile; AMX tiles add pairs in an order of their own, and rows and depth beyond whole
/// tiles do not use them.
///
/// Operands are of type T, or bfloat16_pair where the instruction set multiplies them: the depth then counts pairs. AMX tiles
/// are used where Isa has them: the caller then holds a tile_session.
template <class Isa, start Start, class T, class A, class B>
void multiply(matrix_ref<T> c, const A& left, matrix_ref<B> right, product_shape shape,
              const T* factor = nullptr) noexcept {
  using In = std::remove_const_t<B>;
  const strided_ref<const In> a = left;
  const matrix_ref<const In> b = right;
  if constexpr (std::is_same_v<In, bfloat16_pair> && tile_unit<Isa>::available) {
    detail::multiply_with_tiles<Isa, Start>(c, a, b, shape, factor);
  } else {
    detail::multiply_registers<Isa, Start>(c, a, b, shape, factor);
  }
}

namespace detail {

/// Rows and columns of a block that exist.
struct block_extents {
  int rows, columns;
};

/// out(j, i) = in(i, j) for one block of lanes x lanes, of which `have` exists in `in` (the rest counts as zero) and `want`
/// in `out`.
template <class Isa, class T, class X, class Y>
[[gnu::always_inline]] inline void transpose_block(matrix_ref<const X> in, block_extents have, matrix_ref<Y> out,
                                                   block_extents want, const T* factor) noexcept {
  using v = simd<Isa, T>;
  typename v::reg block[v::lanes];
  if (have.rows >= v::lanes && have.columns >= v::lanes) {
    unrolled<v::lanes>([&](auto i) { block[i] = v::load(in.row(i)); });
  } else {
    unrolled<v::lanes>(
        [&](auto i) { block[i] = i < have.rows ? v::load_partial(in.row(i), have.columns) : v::zero(); });
  }
  if constexpr (v::lanes > 1) v::transpose(block);
  unrolled<v::lanes>([&](auto j) {
    if (j < want.rows) {
      auto x = block[j];
      if (factor != nullptr) x = v::mul(x, v::set(factor[j]));
      if (want.columns >= v::lanes) {
        v::store(out.row(j), x);
      } else {
        v::store_partial(out.row(j), x, want.columns);
      }
    }
  });
}

}  // namespace detail

/// out(j, i) = in(i, j): rows of `in` [rows, columns] become columns of `out` [columns, out_columns]; columns of `out` from `rows`
/// on are zero; row j of `out` is multiplied by factor[j], if there are factors. Either side may be float16 or bfloat16; T is
/// the type in registers.
template <class Isa, class T, class X, class Y>
void transpose_into(matrix_ref<X> in, index_t rows, index_t columns, matrix_ref<Y> out, index_t out_columns,
                    const T* factor = nullptr) noexcept {
  constexpr int lanes = simd<Isa, T>::lanes;
  const auto part = [](index_t left) { return static_cast<int>(max<index_t>(0, min<index_t>(lanes, left))); };
  for (index_t i = 0; i < out_columns; i += lanes)
    for (index_t j = 0; j < columns; j += lanes)
      detail::transpose_block<Isa, T, std::remove_const_t<X>>(
          in.from(i, j), {part(rows - i), part(columns - j)}, out.from(j, i),
          {part(columns - j), part(out_columns - i)}, factor == nullptr ? nullptr : factor + j);
}

/// out(i, 0 .. padded_columns) = in(i, 0 .. columns) widened to T, zeros beyond `columns`.
template <class Isa, class T, class X>
void copy_into(matrix_ref<X> in, index_t rows, index_t columns, matrix_ref<T> out, index_t padded_columns) noexcept {
  using v = simd<Isa, T>;
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < padded_columns; j += v::lanes) {
      const index_t left = columns - j;
      v::store(&out(i, j), left >= v::lanes ? v::load(&in(i, j))
                                            : v::load_partial(&in(i, j), static_cast<int>(max<index_t>(left, 0))));
    }
}

}  // namespace seqprim::arch
