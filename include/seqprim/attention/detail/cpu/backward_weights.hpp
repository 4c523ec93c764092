// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cpu/apply_mask.hpp>
#include <seqprim/attention/detail/cpu/logits.hpp>
#include <seqprim/score/rule.hpp>

#include <limits>
#include <type_traits>

namespace seqprim::attention::detail {

/// The factors of a tile of logits: logit = <q, k> * logit, in units of log 2 where there is no score modifier; the
/// gradient of <q, k> is that of the logit times `scale`.
template <class T> struct backward_scale {
  T logit, scale;

  template <class Score> [[nodiscard]] static backward_scale of(double scale) noexcept {
    return {static_cast<T>(logit_factor<Score>(scale)), static_cast<T>(scale)};
  }
};

/// A tile of pairs in backward: matrices [rows, keys] whose rows are `ld` elements apart, and what belongs to the rows.
template <class T> struct pair_tile {
  range rows, keys;
  bool partial;
  const T *lse, *delta;  ///< [rows]: lse in units of log 2, delta = <dout, out>
  T* logits;             ///< products <q, k>, then weights
  T* gradients;          ///< products <dout, v>, then gradients of the products <q, k>
  T* raw;                ///< used by score modifiers
  index_t ld;

  /// A row without a visible key, or none whose logit is above -inf: its weights are 0, and whatever it holds stays out.
  [[nodiscard]] bool blank(index_t i) const noexcept { return lse[i] == std::numeric_limits<T>::infinity(); }
};

/// Sets what the mask hides to zero.
template <class Isa, class T, class Mask> void clear_hidden(const Mask& mask, const pair_tile<T>& tile) noexcept {
  using v = arch::simd<Isa, T>;
  const range rows = tile.rows, keys = tile.keys;
  for (index_t j = 0; j < keys.size(); j += v::lanes) {
    const mask_lanes<Isa, T, columns_are::keys, Mask> visible(mask, rows, keys.begin + j,
                                                              min<index_t>(v::lanes, keys.size() - j));
    for (index_t i = 0; i < rows.size(); ++i) {
      const auto here = visible.at(i);
      T *const weight = tile.logits + i * tile.ld + j, *const gradient = tile.gradients + i * tile.ld + j;
      v::store(weight, v::select(here, v::load(weight), v::zero()));
      v::store(gradient, v::select(here, v::load(gradient), v::zero()));
    }
  }
}

/// Gradients with respect to what a score learns, summed over tiles: parameters, entries of a table, one value for each row of a
/// tile. All in double; empty where not requested.
template <int Parameters, bool Table, bool Rows> struct score_sums {
  static constexpr int parameters = Parameters;
  static constexpr bool table = Table, rows = Rows, any = Parameters > 0 || Table || Rows;

  double of_parameter[Parameters > 0 ? Parameters : 1] = {};
  double* of_entry = nullptr;  ///< [table_size]
  double* of_row = nullptr;    ///< [rows of a tile]
};

/// Adds over visible pairs: gradient * d score / d parameter, entry, row; `gradients` are those of the logits.
template <class Isa, class T, class Mask, class Score, class Sums>
void add_score_gradients(const Mask& mask, const Score& score, const pair_tile<T>& tile, Sums& sums) noexcept {
  using v = arch::simd<Isa, T>;
  using X = arch::lanes<Isa, T>;
  using lane_site = score::lane_site<X, score::along::keys>;
  T of_parameter[Sums::parameters > 0 ? Sums::parameters : 1][v::lanes] = {};
  const X step = lane_step<Isa, columns_are::keys, T>();
  const range rows = tile.rows, keys = tile.keys;
  const T *const raw = tile.raw, *const gradients = tile.gradients;
  for (index_t j = 0; j < keys.size(); j += v::lanes) {
    const int live = static_cast<int>(min<index_t>(v::lanes, keys.size() - j));
    const mask_lanes<Isa, T, columns_are::keys, Mask> visible(mask, rows, keys.begin + j, live);
    const auto exist = v::lanes_in(0, live);
    for (index_t i = 0; i < rows.size(); ++i) {
      if (tile.blank(i)) continue;
      const index_t at = i * tile.ld + j;
      const score::site first{rows.begin + i, keys.begin + j};
      // Hidden pairs may hold anything; they are left out rather than multiplied by 0.
      const auto here = tile.partial ? v::both(exist, visible.at(i)) : exist;
      const auto times = [&]<bool InLanes>(std::bool_constant<InLanes>, const auto& slope) {
        if constexpr (InLanes) {
          const X slopes = slope(X(v::load(raw + at)), lane_site{first, step, live});
          return v::select(here, v::mul(v::load(gradients + at), slopes.reg), v::zero());
        } else {
          T terms[v::lanes] = {};
          for (int lane = 0; lane < live; ++lane)
            terms[lane] =
                gradients[at + lane] * static_cast<T>(slope(raw[at + lane], score::site{first.q, first.k + lane}));
          return v::select(here, v::load(terms), v::zero());
        }
      };
      arch::unrolled<Sums::parameters>([&](auto n) {
        constexpr bool in_lanes = v::lanes > 1 && score::differentiable_by_parameter<Score, n, X, lane_site>;
        const auto term = times(std::bool_constant<in_lanes>{},
                                [&](auto x, auto pair) { return score.template parameter_derivative<n>(x, pair); });
        v::store(of_parameter[n], v::add(v::load(of_parameter[n]), term));
      });
      if constexpr (Sums::rows) {
        constexpr bool in_lanes = v::lanes > 1 && score::differentiable_by_row<Score, X, lane_site>;
        sums.of_row[i] += static_cast<double>(v::sum(
            times(std::bool_constant<in_lanes>{}, [&](auto x, auto pair) { return score.row_derivative(x, pair); })));
      }
      if constexpr (Sums::table) {
        constexpr bool in_lanes = v::lanes > 1 && score::differentiable_by_table<Score, X, lane_site>;
        T terms[v::lanes], seen[v::lanes];
        v::store(terms, times(std::bool_constant<in_lanes>{},
                              [&](auto x, auto pair) { return score.table_derivative(x, pair); }));
        v::store(seen, v::select(here, v::set(T{1}), v::zero()));
        for (int lane = 0; lane < live; ++lane) {
          if (seen[lane] == T{0}) continue;
          const index_t entry = score.table_index({first.q, first.k + lane});
          if (entry >= 0) sums.of_entry[entry] += static_cast<double>(terms[lane]);
        }
      }
    }
  }
  for (int n = 0; n < Sums::parameters; ++n)
    for (const T sum : of_parameter[n]) sums.of_parameter[n] += static_cast<double>(sum);
}

/// Converts products <q, k> and dp = <dout, v> into weights p and gradients of the products <q, k>, in place:
///
///     p = 2^(logit - lse)        ds = p (dp - delta) d logit / d product        both 0 where hidden
template <class Isa, class T, class Mask, class Score, class Sums>
void weights_and_gradients(const Mask& mask, const Score& score, const backward_scale<T>& factors,
                           const pair_tile<T>& tile, Sums& sums) noexcept {
  using v = arch::simd<Isa, T>;
  constexpr bool identity = std::is_same_v<Score, score::identity>;
  const range rows = tile.rows, keys = tile.keys;
  const index_t padded = round_up(keys.size(), v::lanes);
  if constexpr (!identity) {
    for (index_t i = 0; i < rows.size(); ++i)
      for (index_t j = 0; j < padded; j += v::lanes)
        v::store(tile.raw + i * tile.ld + j, v::mul(v::load(tile.logits + i * tile.ld + j), v::set(factors.logit)));
    modify<Isa, columns_are::keys>(score, factors.logit, rows, keys, tile.logits, tile.ld);
  }
  const auto factor = v::set(identity ? factors.logit : T{1});
  const auto scale = v::set(Sums::any ? T{1} : factors.scale);
  for (index_t i = 0; i < rows.size(); ++i) {
    T* const logit = tile.logits + i * tile.ld;
    T* const gradient = tile.gradients + i * tile.ld;
    const auto row_lse = v::set(-tile.lse[i]), row_delta = v::set(tile.delta[i]);
    for (index_t j = 0; j < padded; j += v::lanes) {
      const auto p = v::exp2(v::fma(v::load(logit + j), factor, row_lse));
      v::store(logit + j, p);
      v::store(gradient + j, v::mul(v::mul(p, scale), v::sub(v::load(gradient + j), row_delta)));
    }
  }
  if constexpr (Sums::any) {
    add_score_gradients<Isa, T>(mask, score, tile, sums);
    scale_tile<Isa>(tile.gradients, tile.ld, rows.size(), padded, factors.scale);
  }
  multiply_by_derivative<Isa, columns_are::keys>(score, rows, keys, tile.raw, tile.gradients, tile.ld);
  // Last, because hidden pairs may hold anything: NaN where lse or dp is NaN, or what a score makes of padding.
  if (tile.partial) clear_hidden<Isa, T>(mask, tile);
  for (index_t i = 0; i < rows.size(); ++i)
    for (index_t j = 0; j < padded && tile.blank(i); j += v::lanes) {
      v::store(tile.logits + i * tile.ld + j, v::zero());
      v::store(tile.gradients + i * tile.ld + j, v::zero());
    }
}

}  // namespace seqprim::attention::detail
