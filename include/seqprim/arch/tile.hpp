// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/simd.hpp>
#include <seqprim/arch/tile_unit.hpp>
#include <seqprim/arch/unrolled.hpp>

#include <type_traits>
#include <utility>

/// The tile engine: products of small matrices that fit the caches. Every matrix product of the library - linear layers,
/// scores, weighted sums, their gradients - ends here.
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

template <class Isa, class T, start Start, int Rows, int Registers, class In>
[[gnu::always_inline]] inline void multiply_block(index_t depth, const In* a, index_t a_row, index_t a_depth,
                                                  const In* b, index_t b_depth, T* c, index_t c_row,
                                                  const T* factor) noexcept {
  using v = simd<Isa, T>;
  using product = products<Isa, T, In>;
  typename v::reg sum[Rows][Registers];
  unrolled<Rows>([&](auto i) {
    unrolled<Registers>([&](auto j) {
      if constexpr (Start == start::zero) {
        sum[i][j] = v::zero();
      } else if constexpr (Start == start::keep) {
        sum[i][j] = v::load(c + i * c_row + j * v::lanes);
      } else {
        sum[i][j] = v::mul(v::load(c + i * c_row + j * v::lanes), v::load(factor + j * v::lanes));
      }
    });
  });
  for (index_t k = 0; k < depth; ++k) {
    typename product::reg row[Registers];
    unrolled<Registers>([&](auto j) { row[j] = product::load(b + j * v::lanes); });
    unrolled<Rows>([&](auto i) {
      const auto x = product::set(a[i * a_row]);
      unrolled<Registers>([&](auto j) { sum[i][j] = product::add_products(x, row[j], sum[i][j]); });
    });
    a += a_depth;
    b += b_depth;
  }
  unrolled<Rows>(
      [&](auto i) { unrolled<Registers>([&](auto j) { v::store(c + i * c_row + j * v::lanes, sum[i][j]); }); });
}

template <class Isa, class T, start Start, int Registers, class In>
inline void multiply_columns(index_t rows, index_t depth, const In* a, index_t a_row, index_t a_depth, const In* b,
                             index_t b_depth, T* c, index_t c_row, const T* factor) noexcept {
  constexpr int block = block_rows<Isa>;
  index_t i = 0;
  for (; i + block <= rows; i += block) {
    multiply_block<Isa, T, Start, block, Registers>(depth, a + i * a_row, a_row, a_depth, b, b_depth, c + i * c_row,
                                                    c_row, factor);
  }
  a += i * a_row;
  c += i * c_row;
  switch (rows - i) {
    case 5: multiply_block<Isa, T, Start, 5, Registers>(depth, a, a_row, a_depth, b, b_depth, c, c_row, factor); break;
    case 4: multiply_block<Isa, T, Start, 4, Registers>(depth, a, a_row, a_depth, b, b_depth, c, c_row, factor); break;
    case 3: multiply_block<Isa, T, Start, 3, Registers>(depth, a, a_row, a_depth, b, b_depth, c, c_row, factor); break;
    case 2: multiply_block<Isa, T, Start, 2, Registers>(depth, a, a_row, a_depth, b, b_depth, c, c_row, factor); break;
    case 1: multiply_block<Isa, T, Start, 1, Registers>(depth, a, a_row, a_depth, b, b_depth, c, c_row, factor); break;
    default: break;
  }
}

}  // namespace detail

namespace detail {

/// multiply() by registers.
template <class Isa, class T, start Start, class In>
void multiply_registers(index_t rows, index_t columns, index_t depth, const In* a, index_t a_row, index_t a_depth,
                        const In* b, index_t b_depth, T* c, index_t c_row, const T* factor) noexcept {
  constexpr int lanes = simd<Isa, T>::lanes;
  constexpr int width = block_columns<Isa, T>;
  index_t j = 0;
  for (; j + width <= columns; j += width) {
    detail::multiply_columns<Isa, T, Start, block_registers<Isa>>(
        rows, depth, a, a_row, a_depth, b + j, b_depth, c + j, c_row, Start == start::rescale ? factor + j : nullptr);
  }
  for (; j < columns; j += lanes) {
    detail::multiply_columns<Isa, T, Start, 1>(rows, depth, a, a_row, a_depth, b + j, b_depth, c + j, c_row,
                                               Start == start::rescale ? factor + j : nullptr);
  }
}

/// c[i, j] *= factor[j].
template <class Isa, class T>
void scale_columns(index_t rows, index_t columns, T* c, index_t c_row, const T* factor) noexcept {
  using v = simd<Isa, T>;
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < columns; j += v::lanes)
      v::store(c + i * c_row + j, v::mul(v::load(c + i * c_row + j), v::load(factor + j)));
}

/// multiply() by matrix registers as far as whole tiles go, the rest by registers. Rows of a are contiguous (a_depth = 1), or its
/// columns are (a_row = 1) and it is turned on the way.
template <class Isa, start Start>
void multiply_with_tiles(index_t rows, index_t columns, index_t depth, const bfloat16_pair* a, index_t a_row,
                         index_t a_depth, const bfloat16_pair* b, index_t b_depth, float* c, index_t c_row,
                         const float* factor) noexcept {
  const index_t tall = rows / tile_edge * tile_edge, deep = depth / tile_edge * tile_edge;
  if (tall == 0 || deep == 0 || (a_depth != 1 && a_row != 1)) {
    multiply_registers<Isa, float, Start>(rows, columns, depth, a, a_row, a_depth, b, b_depth, c, c_row, factor);
    return;
  }
  const auto nothing = [] {};
  const auto add = [&](bool zero, index_t count, index_t length, const bfloat16_pair* left, index_t left_row,
                       const bfloat16_pair* right, float* sums) {
    if (zero) {
      multiply_tiles<Isa, true>(count, columns, length, left, left_row, right, b_depth, sums, c_row, nothing);
    } else {
      multiply_tiles<Isa, false>(count, columns, length, left, left_row, right, b_depth, sums, c_row, nothing);
    }
  };
  if constexpr (Start == start::rescale) scale_columns<Isa>(tall, columns, c, c_row, factor);
  if (a_depth == 1) {
    add(Start == start::zero, tall, deep, a, a_row, b, c);
  } else {
    constexpr index_t most = 64;
    alignas(64) bfloat16_pair turned[2 * tile_edge * most];
    for (index_t i = 0; i < tall; i += 2 * tile_edge) {
      const index_t count = min(2 * tile_edge, tall - i);
      for (index_t k = 0; k < deep; k += most) {
        const index_t length = min(most, deep - k);
        for (index_t y = 0; y < count; y += tile_edge)
          for (index_t x = 0; x < length; x += tile_edge)
            transpose_pairs<Isa>(a + i + y + (k + x) * a_depth, a_depth, turned + y * most + x, most);
        add(Start == start::zero && k == 0, count, length, turned, most, b + k * b_depth, c + i * c_row);
      }
    }
  }
  if (deep < depth) {
    multiply_registers<Isa, float, start::keep>(tall, columns, depth - deep, a + deep * a_depth, a_row, a_depth,
                                                b + deep * b_depth, b_depth, c, c_row, nullptr);
  }
  if (tall < rows) {
    multiply_registers<Isa, float, Start>(rows - tall, columns, depth, a + tall * a_row, a_row, a_depth, b, b_depth,
                                          c + tall * c_row, c_row, factor);
  }
}

}  // namespace detail

/// c[m, n] = start + sum_k a[m, k] b[k, n] for small matrices that the caller holds in cache.
///
/// a is read one number at a time, with any strides; rows of b and c are contiguous and both are padded: `columns` is a
/// multiple of the lanes. Of numbers of type T each c[m, n] is one chain of fma over k in ascending order, wherever it lies in
/// the tile; matrix registers add pairs in an order of their own, and rows and depth beyond whole tiles do not use them.
///
/// Operands are numbers of type T, or bfloat16_pair where the instruction set multiplies them: depth then counts pairs. Matrix
/// registers are used where Isa has them: the caller then holds a tile_session.
template <class Isa, class T, start Start, class In>
void multiply(index_t rows, index_t columns, index_t depth, const In* a, index_t a_row, index_t a_depth, const In* b,
              index_t b_depth, T* c, index_t c_row, const T* factor = nullptr) noexcept {
  if constexpr (std::is_same_v<In, bfloat16_pair> && tile_unit<Isa>::available) {
    detail::multiply_with_tiles<Isa, Start>(rows, columns, depth, a, a_row, a_depth, b, b_depth, c, c_row, factor);
  } else {
    detail::multiply_registers<Isa, T, Start>(rows, columns, depth, a, a_row, a_depth, b, b_depth, c, c_row, factor);
  }
}

namespace detail {

/// out[j * out_row + i] = in[i * in_row + j] for one block of lanes x lanes, of which `rows` x `columns` exist in `in` (the
/// rest counts as zero) and `out_rows` x `out_columns` in `out`.
template <class Isa, class T, class X, class Y>
[[gnu::always_inline]] inline void transpose_block(const X* in, index_t in_row, int rows, int columns, Y* out,
                                                   index_t out_row, int out_rows, int out_columns,
                                                   const T* factor) noexcept {
  using v = simd<Isa, T>;
  typename v::reg block[v::lanes];
  if (rows >= v::lanes && columns >= v::lanes) {
    unrolled<v::lanes>([&](auto i) { block[i] = v::load(in + i * in_row); });
  } else {
    unrolled<v::lanes>([&](auto i) { block[i] = i < rows ? v::load_partial(in + i * in_row, columns) : v::zero(); });
  }
  if constexpr (v::lanes > 1) v::transpose(block);
  unrolled<v::lanes>([&](auto j) {
    if (j < out_rows) {
      auto x = block[j];
      if (factor != nullptr) x = v::mul(x, v::set(factor[j]));
      if (out_columns >= v::lanes) {
        v::store(out + j * out_row, x);
      } else {
        v::store_partial(out + j * out_row, x, out_columns);
      }
    }
  });
}

}  // namespace detail

/// out[j, i] = in[i, j]: rows of `in` ([rows, columns], contiguous columns) become columns of `out` ([columns, out_columns]);
/// columns of `out` from `rows` on are zero; row j of `out` is multiplied by factor[j], if there are factors. Either side may be float16 or bfloat16; T is the type in registers.
template <class Isa, class T, class X, class Y>
void transpose_into(const X* in, index_t in_row, index_t rows, index_t columns, Y* out, index_t out_row,
                    index_t out_columns, const T* factor = nullptr) noexcept {
  constexpr int lanes = simd<Isa, T>::lanes;
  const auto part = [](index_t left) { return static_cast<int>(max<index_t>(0, min<index_t>(lanes, left))); };
  for (index_t i = 0; i < out_columns; i += lanes) {
    for (index_t j = 0; j < columns; j += lanes) {
      detail::transpose_block<Isa, T>(in + i * in_row + j, in_row, part(rows - i), part(columns - j),
                                      out + j * out_row + i, out_row, part(columns - j), part(out_columns - i),
                                      factor == nullptr ? nullptr : factor + j);
    }
  }
}

/// out[i, 0 .. padded_columns) = in[i, 0 .. columns) widened to T, zeros beyond `columns`.
template <class Isa, class T, class X>
void copy_into(const X* in, index_t in_row, index_t rows, index_t columns, T* out, index_t out_row,
               index_t padded_columns) noexcept {
  using v = simd<Isa, T>;
  for (index_t i = 0; i < rows; ++i) {
    const X* from = in + i * in_row;
    T* to = out + i * out_row;
    for (index_t j = 0; j < padded_columns; j += v::lanes) {
      const index_t left = columns - j;
      v::store(to + j, left >= v::lanes ? v::load(from + j)
                                        : v::load_partial(from + j, static_cast<int>(max<index_t>(left, 0))));
    }
  }
}

}  // namespace seqprim::arch
