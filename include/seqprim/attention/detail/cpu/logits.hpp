// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/lanes.hpp>
#include <seqprim/arch/tile.hpp>
#include <seqprim/attention/detail/cpu/apply_mask.hpp>
#include <seqprim/score/rule.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

/// Pieces that forward, backward and decode share. A tile of logits or weights is a small matrix whose rows are one side of
/// the problem and whose columns, contiguous and vectorized, are the other side.
namespace seqprim::attention::detail {

inline constexpr double log2_e = 1.4426950408889634;
inline constexpr double ln_2 = 0.6931471805599453;

/// How a row of the online softmax ends: its weighted values times `factor` are the result.
template <class T> struct row_end {
  T factor;
  T lse;  ///< natural log
};

/// From the maximum and the sum of weights 2^(logit - top) of a row's visible keys, and the sink; all logits in units of log 2.
template <class Isa, class T> [[nodiscard]] row_end<T> end_row(T top, T sum, T sink) noexcept {
  const T infinity = std::numeric_limits<T>::infinity();
  T shrink = 1;
  if (sink > -infinity) {
    const T higher = top > sink ? top : sink;
    shrink = std::exp2(top - higher);
    sum = sum * shrink + std::exp2(sink - higher);
    top = higher;
  } else if (sink != sink) {
    sum = sink;
  }
  if (sum == T{0}) return {T{0}, -infinity};
  return {shrink / sum, (top + std::log2(sum)) * static_cast<T>(ln_2)};
}

/// tile[rows, columns] *= factor, in whole registers.
template <class Isa, class T>
void scale_tile(T* tile, index_t tile_row, index_t rows, index_t columns, T factor) noexcept {
  using v = arch::simd<Isa, T>;
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < columns; j += v::lanes) {
      T* const at = tile + i * tile_row + j;
      v::store(at, v::mul(v::load(at), v::set(factor)));
    }
}

/// Calls body(part, partial) for each piece of at most `step` indices of the bounds that classify(part) does not call empty.
template <class Classify, class Body>
void for_visible_tiles(range bounds, index_t step, const Classify& classify, const Body& body) noexcept {
  for (index_t begin = bounds.begin; begin < bounds.end; begin += step) {
    const range part{begin, min(begin + step, bounds.end)};
    const mask::tile_kind kind = classify(part);
    if (kind != mask::tile_kind::empty) body(part, kind == mask::tile_kind::partial);
  }
}

template <columns_are Columns> [[nodiscard]] constexpr score::site site_of(index_t row, index_t column) noexcept {
  return Columns == columns_are::queries ? score::site{column, row} : score::site{row, column};
}
template <columns_are Columns>
inline constexpr score::along score_lanes = Columns == columns_are::keys ? score::along::keys : score::along::queries;

/// What each lane adds to the distance of key and query.
template <class Isa, columns_are Columns, class T> [[nodiscard]] arch::lanes<Isa, T> lane_step() noexcept {
  const auto numbers = arch::iota<Isa, T>();
  return Columns == columns_are::keys ? numbers : -numbers;
}

/// logit = score(raw * factor) * log2(e) for every number of a tile; nothing for the identity. Columns beyond the range, up to
/// whole registers, may change.
template <class Isa, columns_are Columns, class T, class Score>
void modify(const Score& score, T factor, range rows, range columns, T* tile, index_t tile_row) noexcept {
  using v = arch::simd<Isa, T>;
  using X = arch::lanes<Isa, T>;
  if constexpr (std::is_same_v<Score, score::identity>) {
    return;
  } else if constexpr (v::lanes > 1 && score::takes_lanes<Score, X>) {
    const X step = lane_step<Isa, Columns, T>();
    for (index_t j = 0; j < columns.size(); j += v::lanes) {
      const int live = static_cast<int>(min<index_t>(v::lanes, columns.size() - j));
      for (index_t i = 0; i < rows.size(); ++i) {
        T* const at = tile + i * tile_row + j;
        const score::lane_site<X, score_lanes<Columns>> site{site_of<Columns>(rows.begin + i, columns.begin + j), step,
                                                             live};
        const X logits = score(X(v::mul(v::load(at), v::set(factor))), site);
        v::store(at, v::mul(logits.reg, v::set(static_cast<T>(log2_e))));
      }
    }
  } else {
    for (index_t i = rows.begin; i < rows.end; ++i) {
      T* const row = tile + (i - rows.begin) * tile_row;
      for (index_t j = columns.begin; j < columns.end; ++j) {
        T& logit = row[j - columns.begin];
        logit = static_cast<T>(score(logit * factor, site_of<Columns>(i, j))) * static_cast<T>(log2_e);
      }
    }
  }
}

/// gradient *= d score / d raw for every number of a tile, of which `raw` holds the logits before the modifier.
template <class Isa, columns_are Columns, class T, class Score>
void multiply_by_derivative(const Score& score, range rows, range columns, const T* raw, T* gradient,
                            index_t tile_row) noexcept {
  using v = arch::simd<Isa, T>;
  using X = arch::lanes<Isa, T>;
  if constexpr (std::is_same_v<Score, score::identity>) {
    return;
  } else if constexpr (v::lanes > 1 && score::takes_lanes<Score, X>) {
    const X step = lane_step<Isa, Columns, T>();
    for (index_t j = 0; j < columns.size(); j += v::lanes) {
      const int live = static_cast<int>(min<index_t>(v::lanes, columns.size() - j));
      for (index_t i = 0; i < rows.size(); ++i) {
        const index_t at = i * tile_row + j;
        const score::lane_site<X, score_lanes<Columns>> site{site_of<Columns>(rows.begin + i, columns.begin + j), step,
                                                             live};
        const X slope = score.derivative(X(v::load(raw + at)), site);
        v::store(gradient + at, v::mul(v::load(gradient + at), slope.reg));
      }
    }
  } else {
    for (index_t i = 0; i < rows.size(); ++i)
      for (index_t j = 0; j < columns.size(); ++j) {
        const index_t at = i * tile_row + j;
        gradient[at] *= static_cast<T>(score.derivative(raw[at], site_of<Columns>(rows.begin + i, columns.begin + j)));
      }
  }
}

/// The factor from <q, k> to a logit: the scale, in units of log 2 where no score modifier follows.
template <class Score> [[nodiscard]] constexpr double logit_factor(double scale) noexcept {
  return std::is_same_v<Score, score::identity> ? scale * log2_e : scale;
}

/// Rows as the tile engine wants them: in place when they are already of type T, else widened into `buffer`.
template <class Isa, class T, class X>
[[nodiscard]] arch::matrix_ref<const T> widen(arch::matrix_ref<const X> in, index_t rows, index_t columns,
                                              T* buffer) noexcept {
  if constexpr (std::is_same_v<X, T>) {
    return in;
  } else {
    const index_t padded = round_up(columns, arch::simd<Isa, T>::lanes);
    const arch::matrix_ref out{buffer, padded};
    arch::copy_into<Isa>(in, rows, columns, out, padded);
    return out;
  }
}

template <class Isa, class T, class X> [[nodiscard]] bool finite(const X* row, index_t count) noexcept {
  using v = arch::simd<Isa, T>;
  // x - x is 0 for every finite x and NaN for the rest.
  auto sum = v::zero();
  for (index_t i = 0; i < count; i += v::lanes) {
    const auto x = v::load_partial(row + i, static_cast<int>(min<index_t>(v::lanes, count - i)));
    sum = v::add(sum, v::sub(x, x));
  }
  return v::sum(sum) == T{0};
}

}  // namespace seqprim::attention::detail
