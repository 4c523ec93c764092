// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/simd.hpp>
#include <seqprim/arch/tile_unit.hpp>
#include <seqprim/arch/unrolled.hpp>
#include <seqprim/core/index.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

/// The engine of decode for few query rows: vectors along head_dim, up to one register of rows at once, so that each key and
/// value is read from memory and widened once for all of them.
///
/// `Rows` is a power of two, at most the lanes of a register; logits and weights lie as [keys, Rows]: a register holds
/// lanes / Rows keys.
///
/// Each logit is one chain of sums for each lane and one tree over the lanes; each weighted value is one chain of fma over the
/// keys in ascending order. Neither depends on where rows and keys lie in their blocks, so a run of keys may be cut anywhere.
namespace seqprim::attention::detail {

/// Rows of numbers that lie `step` numbers apart.
template <class X> struct number_rows {
  using element = X;
  static constexpr bool blocked = false;
  const X* data;
  index_t step;

  [[nodiscard]] const X* row(index_t j) const noexcept { return data + j * step; }
};

/// Rows of codes. With `Blocked`, scales(j) are the scales of row j, one for each `block` channels; otherwise a row has one
/// scale, which the caller gives to the logit or the weight.
template <bool Blocked> struct code_rows {
  using element = std::int8_t;
  static constexpr bool blocked = Blocked;
  const std::int8_t* data;
  index_t step;
  const float* scale;
  index_t scale_step, block, block_step;

  [[nodiscard]] const std::int8_t* row(index_t j) const noexcept { return data + j * step; }
  [[nodiscard]] const float* scales(index_t j) const noexcept { return scale + j * scale_step; }
};

/// Rows of a run of a cache that lie one step apart.
template <class X> struct row_segment {
  index_t begin, count;  ///< among the tokens that are used
  const X* row;
  const float* scales;  ///< of codes
};

/// Prefetches the rows of a range some KiB before they are used, a little at a time between the work: out-of-order execution
/// alone sees too few rows to keep memory busy, and what the processor fetches by itself ends with each page. Processors with
/// AMX get the lines into the second-level cache, which has more misses outstanding than the first.
template <class Isa, class X> class read_ahead {
  static constexpr bool second_level = arch::tile_unit<Isa>::available;
  static constexpr index_t distance = second_level ? 12288 : 6144;  ///< bytes

 public:
  read_ahead(const row_segment<X>* first, index_t segments, index_t step, index_t dim) noexcept
      : at_(first),
        end_(first + segments),
        step_(step * static_cast<index_t>(sizeof(X))),
        bytes_(dim * static_cast<index_t>(sizeof(X))) {
    for (index_t asked = 0; asked < distance; asked += max<index_t>(bytes_, 64)) next();
  }
  /// Prefetches one more row.
  [[gnu::always_inline]] void next() noexcept {
    if (left_ == 0) {
      if (at_ == end_) return;
      row_ = reinterpret_cast<const char*>(at_->row);
      left_ = at_->count;
      ++at_;
    }
    for (index_t line = 0; line < bytes_; line += 64) __builtin_prefetch(row_ + line, 0, second_level ? 2 : 3);
    row_ += step_;
    --left_;
  }

 private:
  const row_segment<X>*at_, *end_;
  const char* row_ = nullptr;
  index_t left_ = 0, step_, bytes_;
};

/// How rows are multiplied: in order, woven (arch::woven_load), or as pairs of bfloat16. The last two take whole steps of
/// channels.
enum class weave { none, woven, pairs };

/// Channels of one step.
template <class Isa, weave How, class X> constexpr index_t channels_of_step() noexcept {
  constexpr index_t lanes = arch::simd<Isa, float>::lanes;
  if (How == weave::pairs) return 2 * lanes;
  return How == weave::woven ? lanes * arch::woven_load<Isa, X>::registers : lanes;
}
template <class Isa, weave How, class X> inline constexpr index_t step_of = channels_of_step<Isa, How, X>();

/// sum[r] += query r * key for one register of channels.
template <class Isa, int Rows>
[[gnu::always_inline]] inline void add_products(const float* query, typename arch::simd<Isa, float>::reg key,
                                                typename arch::simd<Isa, float>::reg (&sum)[Rows]) noexcept {
  using v = arch::simd<Isa, float>;
  arch::unrolled<Rows>([&](auto r) { sum[r] = v::fma(v::load(query + r * v::lanes), key, sum[r]); });
}

/// sums[r] = the products of row j with query r, lane by lane.
template <class Isa, int Rows, weave How, class List>
[[gnu::always_inline]] inline void lane_dots(const float* queries, const List& list, index_t j, index_t dim,
                                             typename arch::simd<Isa, float>::reg* sums) noexcept {
  using v = arch::simd<Isa, float>;
  using element = typename List::element;
  const element* const row = list.row(j);
  typename v::reg sum[Rows];
  arch::unrolled<Rows>([&](auto r) { sum[r] = v::zero(); });
  if constexpr (How == weave::pairs) {
    using pairs = arch::pair_products<Isa>;
    using pair = arch::bfloat16_pair;
    const auto* query = reinterpret_cast<const pair*>(queries);
    for (index_t d = 0; d < dim; d += step_of<Isa, How, element>, query += Rows * v::lanes) {
      const auto key = pairs::load(reinterpret_cast<const pair*>(row + d));
      arch::unrolled<Rows>(
          [&](auto r) { sum[r] = pairs::add_products(pairs::load(query + r * v::lanes), key, sum[r]); });
    }
  } else if constexpr (How == weave::woven) {
    using woven = arch::woven_load<Isa, element>;
    for (index_t d = 0; d < dim; d += step_of<Isa, How, element>) {
      typename v::reg key[woven::registers];
      woven::load(row + d, key);
      arch::unrolled<woven::registers>(
          [&](auto n) { add_products<Isa, Rows>(queries + (d + n * v::lanes) * Rows, key[n], sum); });
    }
  } else if constexpr (List::blocked) {
    for (index_t begin = 0, n = 0; begin < dim; begin += list.block, n += list.block_step) {
      const auto scale = v::set(list.scales(j)[n]);
      for (index_t d = begin; d < begin + list.block; d += v::lanes)
        add_products<Isa, Rows>(queries + d * Rows, v::mul(v::load(row + d), scale), sum);
    }
  } else {
    index_t d = 0;
    for (; d + v::lanes <= dim; d += v::lanes) add_products<Isa, Rows>(queries + d * Rows, v::load(row + d), sum);
    if (d < dim) add_products<Isa, Rows>(queries + d * Rows, v::load_partial(row + d, static_cast<int>(dim - d)), sum);
  }
  arch::unrolled<Rows>([&](auto r) { sums[r] = sum[r]; });
}

/// logits[j, r] = <query r, row j> for `count` keys; what follows, up to a whole register, is overwritten.
/// queries [ceil(dim / lanes), Rows, lanes], in the order of the weave, zeros beyond dim.
template <class Isa, int Rows, weave How, class List>
[[gnu::noinline]] void dots(const float* queries, const List& list, index_t count, index_t dim,
                            read_ahead<Isa, typename List::element>& memory, float* logits) noexcept {
  using v = arch::simd<Isa, float>;
  constexpr int keys = v::lanes / Rows;
  for (index_t j = 0; j < count; j += keys) {
    // One key after the other: memory is read fastest in its order. The chains of neighbors run side by side all the same.
    typename v::reg sums[v::lanes];
    arch::unrolled<keys>([&](auto n) {
      if (j + n < count) memory.next();
      lane_dots<Isa, Rows, How>(queries, list, min<index_t>(j + n, count - 1), dim, sums + n * Rows);
    });
    v::store(logits + j * Rows, v::reduce_add(sums));
  }
}

/// acc[r, d ..) += sum over keys j of weights[j, r] row_j[d ..), for `Registers` registers of channels; a partial one has `live`.
/// The first channels ask for the rows to come.
template <class Isa, int Rows, int Registers, bool Partial, weave How, class List>
[[gnu::always_inline]] inline void add_channels(const List& list, range keys, const float* weights, index_t d, int live,
                                                read_ahead<Isa, typename List::element>& memory, float* acc,
                                                index_t acc_row) noexcept {
  using v = arch::simd<Isa, float>;
  using woven = arch::woven_load<Isa, typename List::element>;
  typename v::reg sum[Rows][Registers];
  arch::unrolled<Rows>([&](auto r) {
    arch::unrolled<Registers>([&](auto n) { sum[r][n] = v::load(acc + r * acc_row + d + n * v::lanes); });
  });
  index_t scale_at[Registers] = {};
  if constexpr (List::blocked)
    for (int n = 0; n < Registers; ++n) scale_at[n] = (d + n * v::lanes) / list.block * list.block_step;
  for (index_t j = keys.begin; j < keys.end; ++j) {
    const auto* const row = list.row(j) + d;
    if (d == 0) memory.next();
    typename v::reg value[Registers];
    if constexpr (How == weave::woven) {
      constexpr int group = woven::registers;
      arch::unrolled<Registers / group>([&](auto n) {
        typename v::reg part[group];
        woven::load(row + n * group * v::lanes, part);
        arch::unrolled<group>([&](auto m) { value[n * group + m] = part[m]; });
      });
    } else {
      arch::unrolled<Registers>([&](auto n) {
        value[n] = Partial ? v::load_partial(row + n * v::lanes, live) : v::load(row + n * v::lanes);
        if constexpr (List::blocked) value[n] = v::mul(value[n], v::set(list.scales(j)[scale_at[n]]));
      });
    }
    arch::unrolled<Rows>([&](auto r) {
      const auto p = v::set(weights[j * Rows + r]);
      arch::unrolled<Registers>([&](auto n) { sum[r][n] = v::fma(p, value[n], sum[r][n]); });
    });
  }
  arch::unrolled<Rows>([&](auto r) {
    arch::unrolled<Registers>([&](auto n) { v::store(acc + r * acc_row + d + n * v::lanes, sum[r][n]); });
  });
}

/// Registers of channels that add_weighted holds for each row.
template <class Isa, int Rows> inline constexpr int value_registers = max(1, min(8, Isa::registers / 2 / Rows));

/// The weave of values for so many rows: woven where all registers of a step are held at once.
template <class Isa, int Rows, class List>
inline constexpr weave value_weave =
    !List::blocked && arch::woven_load<Isa, typename List::element>::registers > 1 &&
            value_registers<Isa, Rows> % arch::woven_load<Isa, typename List::element>::registers == 0
        ? weave::woven
        : weave::none;

/// acc[r, d] += sum over keys j of weights[j, r] row_j[d]. Rows of acc are padded to whole registers. A weave other than none takes
/// whole steps and leaves the channels of each step woven: `unweave` ends that.
template <class Isa, int Rows, weave How, class List>
[[gnu::noinline]] void add_weighted(const List& list, range keys, const float* weights, index_t dim,
                                    read_ahead<Isa, typename List::element>& memory, float* acc,
                                    index_t acc_row) noexcept {
  using v = arch::simd<Isa, float>;
  constexpr int registers = value_registers<Isa, Rows>;
  constexpr int group = static_cast<int>(step_of<Isa, How, typename List::element> / v::lanes);
  // Where channels need several passes, those behind the first find the values of so many keys in the first-level cache.
  const index_t step = dim <= registers * v::lanes ? keys.size() : 32;
  for (range part{keys.begin, keys.begin}; part.begin < keys.end; part.begin = part.end) {
    part.end = min(part.begin + step, keys.end);
    index_t d = 0;
    for (; d + registers * v::lanes <= dim; d += registers * v::lanes)
      add_channels<Isa, Rows, registers, false, How>(list, part, weights, d, 0, memory, acc, acc_row);
    if constexpr (registers > group)
      for (; d + group * v::lanes <= dim; d += group * v::lanes)
        add_channels<Isa, Rows, group, false, How>(list, part, weights, d, 0, memory, acc, acc_row);
    if constexpr (How == weave::none)
      if (d < dim)
        add_channels<Isa, Rows, 1, true, How>(list, part, weights, d, static_cast<int>(dim - d), memory, acc, acc_row);
  }
}

/// out[d] = the channels that lie woven in acc, for elements of type X.
template <class Isa, class X> void unweave(const float* acc, index_t dim, float* out) noexcept {
  using woven = arch::woven_load<Isa, X>;
  constexpr index_t lanes = arch::simd<Isa, float>::lanes, step = lanes * woven::registers;
  for (index_t begin = 0; begin < dim; begin += step)
    for (index_t i = 0; i < lanes; ++i)
      for (int n = 0; n < woven::registers; ++n) out[begin + i * woven::registers + n] = acc[begin + n * lanes + i];
}

/// numbers[j, r] *= scales[j * step] for `count` keys.
template <class Isa, int Rows>
void multiply_scales(const float* scales, index_t step, index_t count, float* numbers) noexcept {
  using v = arch::simd<Isa, float>;
  index_t j = 0;
  if (Rows == 1 && step == 1)
    for (; j + v::lanes <= count; j += v::lanes)
      v::store(numbers + j, v::mul(v::load(numbers + j), v::load(scales + j)));
  for (; j < count; ++j)
    for (int r = 0; r < Rows; ++r) numbers[j * Rows + r] *= scales[j * step];
}

/// numbers *= factor, for `count` numbers in whole registers.
template <class Isa> void multiply_all(float* numbers, index_t count, float factor) noexcept {
  using v = arch::simd<Isa, float>;
  for (index_t i = 0; i < count; i += v::lanes) v::store(numbers + i, v::mul(v::load(numbers + i), v::set(factor)));
}

/// logits (units of log 2) -> weights 2^(logit - top), for `count` numbers [keys, Rows], padded with -inf to whole registers.
/// top and sum [Rows]; a row that sees nothing has top = -inf, sum = 0. A NaN reaches the sum through its own weight.
///
/// Weights of keys that are `lanes` apart are added first, then the sums in a tree: the same order for any number of rows.
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
  float sums[v::lanes * Rows] = {};  // [lanes, Rows]: of keys that are as many apart
  for (index_t begin = 0; begin < count; begin += v::lanes * Rows)
    for (index_t i = 0; i < min<index_t>(v::lanes * Rows, count - begin); i += v::lanes) {
      const auto p = v::exp2(v::sub(v::load(logits + begin + i), shift));
      v::store(logits + begin + i, p);
      v::store(sums + i, v::add(v::load(sums + i), p));
    }
  for (int half = v::lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half * Rows; ++i) sums[i] += sums[i + half * Rows];
  for (int r = 0; r < Rows; ++r) sum[r] = sums[r];
}

}  // namespace seqprim::attention::detail
