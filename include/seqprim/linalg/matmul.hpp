// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/tile.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/scratch.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>

namespace seqprim::linalg {

/// What happens to the old content of a result.
enum class store { overwrite, accumulate };

namespace detail {

/// Sizes of the cache blocks: a packed block of a ([rows, depth], in the second-level cache) meets packed panels of b
/// ([depth, block_columns], in the first-level cache).
template <class Isa, class T> struct matmul_blocks {
  static constexpr index_t depth = 128;
  static constexpr index_t rows = 64 * arch::block_rows<Isa>;
  static constexpr index_t panel = arch::block_columns<Isa, T>;
  static constexpr index_t columns = 4 * panel;

  /// Elements of scratch for a block of so many rows: the packed block of a, a panel of b, an edge of c.
  [[nodiscard]] static constexpr index_t scratch(index_t block_rows) noexcept {
    return block_rows * depth + depth * panel + block_rows * arch::simd<Isa, T>::lanes;
  }
};

/// Packs a[rows, depth] as strips of block_rows rows: strip after strip, and inside a strip depth after depth.
template <class Isa, class T, class X>
void pack_rows(const tensor_view<X, 2>& a, range rows, range depth, T* out) noexcept {
  constexpr int block = arch::block_rows<Isa>;
  for (index_t i = rows.begin; i < rows.end; i += block) {
    const index_t live = min_of<index_t>(block, rows.end - i);
    const X* from = a.data + i * a.strides[0] + depth.begin * a.strides[1];
    if constexpr (std::is_same_v<std::remove_const_t<X>, T>) {
      if (live == block && a.strides[0] == 1) {  // columns of a lie well: whole strips, copied at once
        for (index_t k = depth.begin; k < depth.end; ++k, out += block, from += a.strides[1])
          __builtin_memcpy(out, from, block * sizeof(T));
        continue;
      }
    }
    for (index_t k = depth.begin; k < depth.end; ++k, from += a.strides[1]) {
      for (index_t r = 0; r < live; ++r) out[r] = static_cast<T>(from[r * a.strides[0]]);
      out += live;
    }
  }
}

/// Packs b[depth, columns] as [depth, panel], zeros beyond the columns.
template <class Isa, class T, class X>
void pack_panel(const tensor_view<X, 2>& b, range depth, range columns, T* out, index_t panel) noexcept {
  const X* from = b.data + depth.begin * b.strides[0] + columns.begin * b.strides[1];
  if (b.strides[1] == 1) {
    arch::copy_into<Isa>(arch::matrix_ref{from, b.strides[0]}, depth.size(), columns.size(),
                         arch::matrix_ref{out, panel}, panel);
  } else if (b.strides[0] == 1) {
    arch::transpose_into<Isa, T>(arch::matrix_ref{from, b.strides[1]}, columns.size(), depth.size(),
                                 arch::matrix_ref{out, panel}, panel);
  } else {
    for (index_t k = 0; k < depth.size(); ++k)
      for (index_t j = 0; j < panel; ++j)
        out[k * panel + j] = j < columns.size() ? static_cast<T>(from[k * b.strides[0] + j * b.strides[1]]) : T{0};
  }
}

template <class Isa, class T>
void multiply_panel(store mode, arch::matrix_ref<T> c, arch::matrix_ref<const T> a, arch::matrix_ref<const T> b,
                    arch::product_shape shape) noexcept {
  constexpr int block = arch::block_rows<Isa>;
  for (index_t i = 0; i < shape.rows; i += block) {
    const arch::product_shape strip{min_of<index_t>(block, shape.rows - i), shape.columns, shape.depth};
    // Rows in place are contiguous in depth; packed strips (ld = 0) hold one column after the other.
    const arch::strided_ref<const T> left =
        a.ld == 0 ? arch::transposed(arch::matrix_ref{a.data + i * shape.depth, strip.rows})
                  : arch::strided_ref<const T>(a.from(i));
    if (mode == store::overwrite) {
      arch::multiply<Isa, arch::start::zero>(c.from(i), left, b, strip);
    } else {
      arch::multiply<Isa, arch::start::keep>(c.from(i), left, b, strip);
    }
  }
}

/// The rows and depths of a that a block of c needs: in place, or packed into strips (ld = 0) where the kernel cannot read them
/// in place.
template <class Isa, class T, class A>
[[nodiscard]] arch::matrix_ref<const T> left_operand(const tensor_view<A, 2>& a, range rows, range depth,
                                                     T* scratch) noexcept {
  if constexpr (std::is_same_v<std::remove_const_t<A>, T>) {
    if (a.strides[1] == 1 && a.strides[0] > 0) return {a.data + rows.begin * a.strides[0] + depth.begin, a.strides[0]};
  }
  pack_rows<Isa>(a, rows, depth, scratch);
  return {scratch, 0};
}

/// One block of c: c[rows, columns] (+)= a[rows, :] b[:, columns].
template <class Isa, class T, class A, class B>
void multiply_piece(const tensor_view<A, 2>& a, const tensor_view<B, 2>& b, const tensor_view<T, 2>& c, range rows,
                    range columns, store mode, T* scratch) noexcept {
  using blocks = matmul_blocks<Isa, T>;
  constexpr index_t lanes = arch::simd<Isa, T>::lanes;
  T* const packed_a = scratch;
  T* const packed_b = packed_a + rows.size() * blocks::depth;
  const arch::matrix_ref edge{packed_b + blocks::depth * blocks::panel, lanes};
  const index_t depth = a.extent(1);
  for (index_t k = 0; k < max_of<index_t>(depth, 1); k += blocks::depth) {
    const range ks{k, min_of(k + blocks::depth, depth)};
    const store block_mode = k == 0 ? mode : store::accumulate;
    const arch::matrix_ref<const T> left = left_operand<Isa>(a, rows, ks, packed_a);
    for (index_t j = columns.begin; j < columns.end; j += blocks::panel) {
      const range js{j, min_of(j + blocks::panel, columns.end)};
      pack_panel<Isa>(b, ks, js, packed_b, blocks::panel);
      const arch::matrix_ref out{c.data + rows.begin * c.strides[0] + j, c.strides[0]};
      const arch::matrix_ref<const T> right{packed_b, blocks::panel};
      const index_t whole = js.size() / lanes * lanes;
      if (whole > 0) {
        multiply_panel<Isa>(block_mode, out, left, right, {rows.size(), whole, ks.size()});
      }
      const index_t rest = js.size() - whole;
      if (rest > 0) {  // the last lanes of c do not exist: compute beside, copy what does
        if (block_mode == store::accumulate) arch::copy_into<Isa>(out.from(0, whole), rows.size(), rest, edge, lanes);
        multiply_panel<Isa>(block_mode, edge, left, right.from(0, whole), {rows.size(), lanes, ks.size()});
        for (index_t i = 0; i < rows.size(); ++i)
          for (index_t n = 0; n < rest; ++n) out(i, whole + n) = edge(i, n);
      }
    }
  }
}

/// c[Rows, columns] (+)= a b for a few rows, where columns of b are contiguous: blocks of b are transposed in registers and used
/// at once. Packing would cost more than the arithmetic; the sums are the same chains as everywhere.
template <class Isa, class T, int Rows, class A, class B>
void multiply_few_rows(const tensor_view<A, 2>& a, const tensor_view<B, 2>& b, const tensor_view<T, 2>& c,
                       range columns, store mode) noexcept {
  using v = arch::simd<Isa, T>;
  const index_t depth = a.extent(1);
  for (index_t j = columns.begin; j < columns.end; j += v::lanes) {
    const auto live = static_cast<int>(min_of<index_t>(v::lanes, columns.end - j));
    typename v::reg sum[Rows];
    arch::unrolled<Rows>([&](auto r) {
      sum[r] = mode == store::overwrite ? v::zero() : v::load_partial(c.data + r * c.strides[0] + j, live);
    });
    for (index_t k = 0; k < depth; k += v::lanes) {
      const auto count = static_cast<int>(min_of<index_t>(v::lanes, depth - k));
      const B* const from = b.data + j * b.strides[1] + k;
      typename v::reg block[v::lanes];
      if (live == v::lanes && count == v::lanes) {
        arch::unrolled<v::lanes>([&](auto i) { block[i] = v::load(from + i * b.strides[1]); });
      } else {
        arch::unrolled<v::lanes>(
            [&](auto i) { block[i] = i < live ? v::load_partial(from + i * b.strides[1], count) : v::zero(); });
      }
      if constexpr (v::lanes > 1) v::transpose(block);
      const A* const left = a.data + k * a.strides[1];
      arch::unrolled<v::lanes>([&](auto i) {
        if (i < count) {
          arch::unrolled<Rows>([&](auto r) {
            const auto x = v::set(static_cast<T>(left[r * a.strides[0] + i * a.strides[1]]));
            sum[r] = v::fma(x, block[i], sum[r]);
          });
        }
      });
    }
    arch::unrolled<Rows>([&](auto r) { v::store_partial(c.data + r * c.strides[0] + j, sum[r], live); });
  }
}

}  // namespace detail

/// Matrix product: c = a b, or c += a b.
///
/// Shapes  a [m, k], b [k, n], c [m, n]. Any length may be 0; k = 0 makes the product 0.
/// Types   a, b: float, float16, bfloat16 with c float; or all double. Sums in the type of c.
/// Layout  a and b with any strides: a transposed operand is x.transposed(0, 1). The last axis of c is contiguous.
/// Errors  precondition_error: shapes disagree, c is not contiguous in its last axis, c overlaps a or b.
/// Repeat  same bits for any number of threads, and a row of c depends on no other row: every sum runs over k in one
///         order, ascending.
/// Cost    2 m n k flop; allocates packing scratch for each thread, a few hundred KiB.
template <class Isa = arch::native_isa, viewable<2> A, viewable<2> B, viewable<2> C>
void matmul(const cpu& executor, const A& left, const B& right, C&& result, store mode = store::overwrite) {
  const tensor_view<const element_of<A>, 2> a = as_view(left);
  const tensor_view<const element_of<B>, 2> b = as_view(right);
  const auto c = tensor_view<element_of<C>, 2>(as_view(result));
  using T = element_of<C>;
  static_assert(std::is_same_v<T, accumulator<element_of<A>>> && std::is_same_v<T, accumulator<element_of<B>>>,
                "seqprim: matmul sums float, float16 and bfloat16 into float, and double into double");
  executor.validate();
  const index_t m = c.extent(0), n = c.extent(1), k = a.extent(1);
  constexpr subject self{"linalg::matmul", "linalg/matmul"};
  self.expects_lengths("a", a);
  self.expects(b.extent(0) == k, "inner lengths differ: a is [", a.extent(0), ", ", k, "], b is [", b.extent(0), ", ",
               b.extent(1), "]");
  self.expects(a.extent(0) == m, "rows differ: a has ", a.extent(0), " rows, c has ", m);
  self.expects(b.extent(1) == n, "columns differ: b has ", b.extent(1), " columns, c has ", n);
  self.expects_contiguous("c", c);
  self.expects_apart("c", c, "a", a);
  self.expects_apart("c", c, "b", b);
  if (m == 0 || n == 0) return;

  constexpr index_t few_rows = 4;
  if (m <= few_rows && b.strides[0] == 1) {
    constexpr index_t piece = 4 * arch::simd<Isa, T>::lanes;
    parallel_for(executor, ceil_div(n, piece), [&](index_t p, int) {
      const range columns{p * piece, min_of(n, (p + 1) * piece)};
      switch (m) {
        case 1: detail::multiply_few_rows<Isa, T, 1>(a, b, c, columns, mode); break;
        case 2: detail::multiply_few_rows<Isa, T, 2>(a, b, c, columns, mode); break;
        case 3: detail::multiply_few_rows<Isa, T, 3>(a, b, c, columns, mode); break;
        default: detail::multiply_few_rows<Isa, T, 4>(a, b, c, columns, mode);
      }
    });
    return;
  }

  using blocks = detail::matmul_blocks<Isa, T>;
  // Blocks of rows as large as the packed panels of b deserve, but a few pieces for each thread. Where c is cut does not
  // show in its bits.
  const int threads = thread_count(executor);
  constexpr index_t pieces_per_thread = 6, least_rows = 8 * arch::block_rows<Isa>;
  const index_t column_blocks = ceil_div(n, blocks::columns);
  const index_t wanted = threads > 1 ? ceil_div(pieces_per_thread * threads, column_blocks) : 1;
  const index_t row_blocks = max_of(ceil_div(m, blocks::rows), min_of(wanted, ceil_div(m, least_rows)));
  const index_t rows = round_up(ceil_div(m, row_blocks), arch::block_rows<Isa>);
  const index_t pieces = ceil_div(m, rows) * column_blocks;
  const scratch<T> slabs(static_cast<int>(min_of<index_t>(pieces, threads)), blocks::scratch(min_of(rows, m)));
  parallel_for(executor, pieces, [&](index_t piece, int thread) {
    const index_t i = piece / column_blocks * rows;
    const index_t j = piece % column_blocks * blocks::columns;
    detail::multiply_piece<Isa, T>(a, b, c, {i, min_of(i + rows, m)}, {j, min_of(j + blocks::columns, n)}, mode,
                                   slabs.slab(thread));
  });
}

}  // namespace seqprim::linalg
