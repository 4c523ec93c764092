// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/simd.hpp>
#include <seqprim/arch/unrolled.hpp>
#include <seqprim/core/index.hpp>

#include <cstdint>
#include <type_traits>

/// The engine of decode for few query rows: vectors along head_dim, up to one register of rows at once, so that each key and
/// value is read from memory and widened once for all of them.
///
/// Keys and values come as lists of row addresses, so that pages and hidden keys cost nothing further in. `Rows` is a power of
/// two, at most the lanes of a register; logits and weights lie as [keys, Rows]: a register holds lanes / Rows keys.
///
/// Each logit is one chain of fma for each lane and one tree over the lanes; each weighted value is one chain of fma over the keys
/// in ascending order. Neither depends on where rows and keys lie in their blocks.
namespace seqprim::attention::detail {

/// Rows of numbers.
template <class X> struct number_list {
  using element = X;
  static constexpr bool blocked = false;
  const X** row;
};

/// Rows of codes. With `Blocked`, scales[j] are the scales of row j, one for each `block` channels; otherwise a row has one
/// scale, which the caller gives to the logit or the weight.
template <bool Blocked> struct code_list {
  using element = std::int8_t;
  static constexpr bool blocked = Blocked;
  const std::int8_t** row;
  const float** scales;
  index_t block, step;
};

/// Asks memory for the first rows of a list, 4 KiB of them: the processor's own prefetch starts only after a few misses.
template <class List> void prefetch(const List& list, index_t count, index_t dim) noexcept {
  constexpr index_t line = 64;
  const index_t bytes = dim * static_cast<index_t>(sizeof(typename List::element));
  for (index_t j = 0, asked = 0; j < count && asked < 4096; ++j, asked += bytes)
    for (index_t at = 0; at < bytes; at += line) __builtin_prefetch(reinterpret_cast<const char*>(list.row[j]) + at);
}

template <class Isa, int Rows, int Keys, class List>
[[gnu::always_inline]] inline void add_dots(const float* queries, const List& list, index_t first, index_t dim,
                                            typename arch::simd<Isa, float>::reg* sums) noexcept {
  using v = arch::simd<Isa, float>;
  const typename List::element* row[Keys];
  arch::unrolled<Keys>([&](auto c) { row[c] = list.row[first + c]; });
  typename v::reg sum[Keys][Rows];
  arch::unrolled<Keys>([&](auto c) { arch::unrolled<Rows>([&](auto r) { sum[c][r] = v::zero(); }); });
  const auto add = [&](index_t d, const auto& load) __attribute__((always_inline)) {
    typename v::reg key[Keys];
    arch::unrolled<Keys>([&](auto c) { key[c] = load(c); });
    const float* const query = queries + d * Rows;
    arch::unrolled<Rows>([&](auto r) {
      const auto q = v::load(query + r * v::lanes);
      arch::unrolled<Keys>([&](auto c) { sum[c][r] = v::fma(q, key[c], sum[c][r]); });
    });
  };
  if constexpr (List::blocked) {
    for (index_t begin = 0, n = 0; begin < dim; begin += list.block, n += list.step) {
      typename v::reg scale[Keys];
      arch::unrolled<Keys>([&](auto c) { scale[c] = v::set(list.scales[first + c][n]); });
      for (index_t d = begin; d < begin + list.block; d += v::lanes)
        add(d, [&](auto c) { return v::mul(v::load(row[c] + d), scale[c]); });
    }
  } else {
    index_t d = 0;
    for (; d + v::lanes <= dim; d += v::lanes) add(d, [&](auto c) { return v::load(row[c] + d); });
    if (d < dim) add(d, [&](auto c) { return v::load_partial(row[c] + d, static_cast<int>(dim - d)); });
  }
  arch::unrolled<Keys>([&](auto c) { arch::unrolled<Rows>([&](auto r) { sums[c * Rows + r] = sum[c][r]; }); });
}

/// logits[j, r] = <query r, row j> for `count` keys, rounded up to whole registers: the list goes on that far.
/// queries [ceil(dim / lanes), Rows, lanes], zeros beyond dim.
template <class Isa, int Rows, class List>
[[gnu::noinline]] void dots(const float* queries, const List& list, index_t count, index_t dim,
                            float* logits) noexcept {
  using v = arch::simd<Isa, float>;
  constexpr int keys = v::lanes / Rows;
  // Keys whose chains run side by side. One row reads memory as fast as it can if keys come one after the other.
  constexpr int step = Rows == 1 ? 1 : keys > 4 ? 4 : keys;
  for (index_t j = 0; j < count; j += keys) {
    typename v::reg sums[v::lanes];
    arch::unrolled<keys / step>(
        [&](auto n) { add_dots<Isa, Rows, step>(queries, list, j + n * step, dim, sums + n * step * Rows); });
    if constexpr (v::lanes > 1) {
      v::transpose(sums);
      arch::unrolled<v::lanes / 2>([&](auto n) { sums[n] = v::add(sums[n], sums[n + v::lanes / 2]); });
      if constexpr (v::lanes == 16) arch::unrolled<4>([&](auto n) { sums[n] = v::add(sums[n], sums[n + 4]); });
      arch::unrolled<2>([&](auto n) { sums[n] = v::add(sums[n], sums[n + 2]); });
      sums[0] = v::add(sums[0], sums[1]);
    }
    v::store(logits + j * Rows, sums[0]);
  }
}

/// acc[r, d ..) += sum over keys j of weights[j, r] row_j[d ..), for `Registers` registers of channels; a partial one has `live`.
template <class Isa, int Rows, int Registers, bool Partial, class List>
[[gnu::always_inline]] inline void add_channels(const List& list, range keys, const float* weights, index_t d, int live,
                                                float* acc, index_t acc_row) noexcept {
  using v = arch::simd<Isa, float>;
  typename v::reg sum[Rows][Registers];
  arch::unrolled<Rows>([&](auto r) {
    arch::unrolled<Registers>([&](auto n) { sum[r][n] = v::load(acc + r * acc_row + d + n * v::lanes); });
  });
  index_t scale_at[Registers] = {};
  if constexpr (List::blocked)
    for (int n = 0; n < Registers; ++n) scale_at[n] = (d + n * v::lanes) / list.block * list.step;
  for (index_t j = keys.begin; j < keys.end; ++j) {
    const auto* const row = list.row[j] + d;
    typename v::reg value[Registers];
    arch::unrolled<Registers>([&](auto n) {
      value[n] = Partial ? v::load_partial(row + n * v::lanes, live) : v::load(row + n * v::lanes);
      if constexpr (List::blocked) value[n] = v::mul(value[n], v::set(list.scales[j][scale_at[n]]));
    });
    arch::unrolled<Rows>([&](auto r) {
      const auto p = v::set(weights[j * Rows + r]);
      arch::unrolled<Registers>([&](auto n) { sum[r][n] = v::fma(p, value[n], sum[r][n]); });
    });
  }
  arch::unrolled<Rows>([&](auto r) {
    arch::unrolled<Registers>([&](auto n) { v::store(acc + r * acc_row + d + n * v::lanes, sum[r][n]); });
  });
}

/// acc[r, d] += sum over keys j of weights[j, r] row_j[d]. Rows of acc are padded to whole registers.
template <class Isa, int Rows, class List>
[[gnu::noinline]] void add_weighted(const List& list, range keys, const float* weights, index_t dim, float* acc,
                                    index_t acc_row) noexcept {
  using v = arch::simd<Isa, float>;
  constexpr int most = Isa::registers / 2 / Rows;
  constexpr int registers = most < 1 ? 1 : most > 8 ? 8 : most;
  // Where channels need several passes, the second finds the values of so many keys in the first-level cache.
  constexpr index_t step = 64;
  for (range part{keys.begin, keys.begin}; part.begin < keys.end; part.begin = part.end) {
    part.end = min(part.begin + step, keys.end);
    index_t d = 0;
    for (; d + registers * v::lanes <= dim; d += registers * v::lanes)
      add_channels<Isa, Rows, registers, false>(list, part, weights, d, 0, acc, acc_row);
    if constexpr (registers > 1)
      for (; d + v::lanes <= dim; d += v::lanes)
        add_channels<Isa, Rows, 1, false>(list, part, weights, d, 0, acc, acc_row);
    if (d < dim) add_channels<Isa, Rows, 1, true>(list, part, weights, d, static_cast<int>(dim - d), acc, acc_row);
  }
}

/// numbers *= factor, for `count` numbers in whole registers.
template <class Isa> void multiply_all(float* numbers, index_t count, float factor) noexcept {
  using v = arch::simd<Isa, float>;
  for (index_t i = 0; i < count; i += v::lanes) v::store(numbers + i, v::mul(v::load(numbers + i), v::set(factor)));
}

/// logits (units of log 2) -> weights 2^(logit - top), for `count` numbers [keys, Rows], padded with -inf to whole registers.
/// top and sum [Rows]; a row that sees nothing has top = -inf, sum = 0. A NaN reaches the sum through its own weight.
template <class Isa, int Rows>
[[gnu::noinline]] void exponentiate_rows(float* logits, index_t count, float* top, float* sum) noexcept {
  using v = arch::simd<Isa, float>;
  constexpr float infinity = __builtin_huge_valf();
  float lanes[v::lanes];
  auto largest = v::set(-infinity);
  for (index_t i = 0; i < count; i += v::lanes) largest = v::max(v::load(logits + i), largest);
  v::store(lanes, largest);
  for (int r = 0; r < Rows; ++r) {
    top[r] = -infinity;
    for (int lane = r; lane < v::lanes; lane += Rows) top[r] = lanes[lane] > top[r] ? lanes[lane] : top[r];
    // Where nothing is visible, a finite stand-in keeps -inf - top from becoming NaN.
    for (int lane = r; lane < v::lanes; lane += Rows) lanes[lane] = top[r] == -infinity ? 0.0f : top[r];
  }
  const auto shift = v::load(lanes);
  auto sums = v::zero();
  for (index_t i = 0; i < count; i += v::lanes) {
    const auto p = v::exp2(v::sub(v::load(logits + i), shift));
    v::store(logits + i, p);
    sums = v::add(sums, p);
  }
  v::store(lanes, sums);
  for (int r = 0; r < Rows; ++r) {
    sum[r] = lanes[r];
    for (int lane = r + Rows; lane < v::lanes; lane += Rows) sum[r] += lanes[lane];
  }
}

}  // namespace seqprim::attention::detail
