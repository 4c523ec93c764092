// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cpu/apply_mask.hpp>
#include <seqprim/attention/detail/cpu/logits.hpp>
#include <seqprim/score/rule.hpp>

#include <cstdint>
#include <type_traits>

namespace seqprim::attention::detail {

/// The factors of a tile of logits: logit = <q, k> * logit, in units of log 2 where there is no score modifier; the
/// gradient of <q, k> is that of the logit times `scale`.
template <class T> struct backward_scale {
  T logit, scale;

  template <class Score> [[nodiscard]] static backward_scale of(double scale) noexcept {
    return {static_cast<T>(query_factor<Score>(scale)), static_cast<T>(scale)};
  }
};

/// Sets what the mask hides to zero in two tiles [rows, keys].
template <class Isa, class T, class Mask>
void clear_hidden(const Mask& mask, range rows, range keys, T* weights, T* gradients, index_t step) noexcept {
  using v = arch::simd<Isa, T>;
  for (index_t j = 0; j < keys.size(); j += v::lanes) {
    const mask_lanes<Isa, T, columns_are::keys, Mask> visible(mask, rows, keys.begin + j,
                                                              min<index_t>(v::lanes, keys.size() - j));
    for (index_t i = 0; i < rows.size(); ++i) {
      const auto here = visible.at(i);
      const index_t at = i * step + j;
      v::store(weights + at, v::select(here, v::load(weights + at), v::zero()));
      v::store(gradients + at, v::select(here, v::load(gradients + at), v::zero()));
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
void add_score_gradients(const Mask& mask, const Score& score, range rows, range keys, bool partial, const T* raw,
                         const T* gradients, index_t tile_row, Sums& sums) noexcept {
  using v = arch::simd<Isa, T>;
  using X = arch::lanes<Isa, T>;
  using lane_site = score::lane_site<X, score::along::keys>;
  T of_parameter[Sums::parameters > 0 ? Sums::parameters : 1][v::lanes] = {};
  const X step = lane_step<Isa, columns_are::keys, T>();
  for (index_t j = 0; j < keys.size(); j += v::lanes) {
    const int live = static_cast<int>(min<index_t>(v::lanes, keys.size() - j));
    const mask_lanes<Isa, T, columns_are::keys, Mask> visible(mask, rows, keys.begin + j, live);
    const auto exist = v::lanes_in(0, live);
    for (index_t i = 0; i < rows.size(); ++i) {
      const index_t at = i * tile_row + j;
      const score::site first{rows.begin + i, keys.begin + j};
      // Hidden pairs may hold anything; they are left out rather than multiplied by 0.
      const auto here = partial ? v::both(exist, visible.at(i)) : exist;
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

/// Converts tiles [rows, keys] of products <q, k> and of dp = <dout, v> into weights p and gradients of the products, in place:
///
///     p = 2^(logit - lse)        ds = p (dp - delta) d logit / d product        both 0 where hidden
///
/// lse (in units of log 2) and delta = <dout, out> belong to the rows. `raw` is a third tile, used by score modifiers.
template <class Isa, class T, class Mask, class Score, class Sums>
void weights_and_gradients(const Mask& mask, const Score& score, const backward_scale<T>& factors, range rows,
                           range keys, index_t padded_keys, const T* lse, const T* delta, bool partial, T* logits,
                           T* gradients, T* raw, index_t step, Sums& sums) noexcept {
  using v = arch::simd<Isa, T>;
  constexpr bool identity = std::is_same_v<Score, score::identity>;
  if constexpr (!identity) {
    for (index_t i = 0; i < rows.size(); ++i)
      for (index_t j = 0; j < padded_keys; j += v::lanes)
        v::store(raw + i * step + j, v::mul(v::load(logits + i * step + j), v::set(factors.logit)));
    modify<Isa, columns_are::keys>(score, factors.logit, rows, keys, logits, step);
  }
  const auto factor = v::set(identity ? factors.logit : T{1});
  const auto scale = v::set(Sums::any ? T{1} : factors.scale);
  for (index_t i = 0; i < rows.size(); ++i) {
    T* const logit = logits + i * step;
    T* const gradient = gradients + i * step;
    const auto row_lse = v::set(-lse[i]), row_delta = v::set(delta[i]);
    for (index_t j = 0; j < padded_keys; j += v::lanes) {
      const auto p = v::exp2(v::fma(v::load(logit + j), factor, row_lse));
      v::store(logit + j, p);
      v::store(gradient + j, v::mul(v::mul(p, scale), v::sub(v::load(gradient + j), row_delta)));
    }
  }
  if constexpr (Sums::any) {
    add_score_gradients<Isa, T>(mask, score, rows, keys, partial, raw, gradients, step, sums);
    scale_tile<Isa>(gradients, step, rows.size(), padded_keys, factors.scale);
  }
  multiply_by_derivative<Isa, columns_are::keys>(score, rows, keys, raw, gradients, step);
  // Last, because hidden pairs may hold anything: NaN where lse or dp is NaN, or what a score makes of padding.
  if (partial) clear_hidden<Isa, T>(mask, rows, keys, logits, gradients, step);
}

}  // namespace seqprim::attention::detail
