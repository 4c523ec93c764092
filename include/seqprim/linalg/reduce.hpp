// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/unrolled.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/linalg/buffer.hpp>
#include <seqprim/linalg/rows.hpp>

/// Sums over rows and columns, in an order that depends on the extents alone.
/// Page docs/reference/linalg/reduce.md
namespace seqprim::linalg {

/// sum_k a[k] b[k] over contiguous elements, in four independent sums.
template <class Isa, class T, class A, class B> [[nodiscard]] T dot(const A* a, const B* b, index_t count) noexcept {
  using v = arch::simd<Isa, T>;
  typename v::reg sum[4] = {v::zero(), v::zero(), v::zero(), v::zero()};
  index_t k = 0;
  for (; k + 4 * v::lanes <= count; k += 4 * v::lanes) {
    arch::unrolled<4>(
        [&](auto i) { sum[i] = v::fma(v::load(a + k + i * v::lanes), v::load(b + k + i * v::lanes), sum[i]); });
  }
  for (; k < count; k += v::lanes) {
    const int live = static_cast<int>(min_of<index_t>(v::lanes, count - k));
    sum[0] = v::fma(v::load_partial(a + k, live), v::load_partial(b + k, live), sum[0]);
  }
  return v::sum(v::add(v::add(sum[0], sum[1]), v::add(sum[2], sum[3])));
}

/// total[j] += x[0, j] + x[1, j] + ... in this order: for few rows, such as partial sums. x contiguous in j.
template <class Isa, class T>
void add_rows(const cpu& executor, const tensor_view<T, 2>& x, std::remove_const_t<T>* total) {
  using lanes = arch::lanes<Isa, std::remove_const_t<T>>;
  constexpr index_t piece = 256;
  parallel_for(executor, ceil_div(x.extent(1), piece), [&](index_t p, int) {
    const index_t begin = p * piece;
    for_lanes<lanes>(min_of(piece, x.extent(1) - begin), [&](index_t j, auto part) {
      auto sum = part.load(total + begin + j);
      for (index_t i = 0; i < x.extent(0); ++i) sum += part.load(x.data + i * x.strides[0] + begin + j);
      part.store(total + begin + j, sum);
    });
  });
}

/// total[j] += sum over rows of x[row, j], for many rows: each task sums its rows, the partial sums are added in their order.
template <class Isa, class T>
void add_column_sums(const cpu& executor, const tensor_view<const T, 2>& x, T* total, buffer<T>& memory) {
  using lanes = arch::lanes<Isa, T>;
  const index_t rows = x.extent(0), columns = x.extent(1);
  const auto partial = memory.view(ceil_div(rows, rows_per_task), columns);
  parallel_for(executor, partial.extent(0), [&](index_t task, int) {
    const index_t begin = task * rows_per_task, end = min_of(begin + rows_per_task, rows);
    T* const out = partial.data + task * columns;
    for_lanes<lanes>(columns, [&](index_t j, auto part) {
      lanes sum(T{0});
      for (index_t i = begin; i < end; ++i) sum += part.load(x.data + i * x.strides[0] + j);
      part.store(out + j, sum);
    });
  });
  add_rows<Isa>(executor, partial, total);
}

}  // namespace seqprim::linalg
