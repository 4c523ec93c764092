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

/// Gradients with respect to the parameters of a score, summed in double over tiles; empty where not requested.
template <int Parameters> struct parameter_sums {
  double total[Parameters > 0 ? Parameters : 1] = {};
};

/// dscore[n] += sum over visible pairs of gradient * d score / d parameter n, from the gradients of the logits.
template <class Isa, class T, class Mask, class Score, int Parameters>
void add_parameter_gradients(const Mask& mask, const Score& score, range rows, range keys, bool partial, const T* raw,
                             const T* gradients, index_t step, parameter_sums<Parameters>& dscore) noexcept {
  using v = arch::simd<Isa, T>;
  using X = arch::lanes<Isa, T>;
  T sums[Parameters][v::lanes] = {};
  for (index_t j = 0; j < keys.size(); j += v::lanes) {
    const index_t live = min<index_t>(v::lanes, keys.size() - j);
    const mask_lanes<Isa, T, columns_are::keys, Mask> visible(mask, rows, keys.begin + j, live);
    const auto exist = v::lanes_in(0, static_cast<std::int32_t>(live));
    for (index_t i = 0; i < rows.size(); ++i) {
      const index_t at = i * step + j;
      const score::site first{rows.begin + i, keys.begin + j};
      // Hidden pairs may hold anything; they are left out rather than multiplied by 0.
      const auto here = partial ? v::both(exist, visible.at(i)) : exist;
      arch::unrolled<Parameters>([&](auto n) {
        using lane_site = score::lane_site<X, score::along::keys>;
        if constexpr (v::lanes > 1 && score::differentiable_by_parameter<Score, n, X, lane_site>) {
          const X steps = lane_step<Isa, columns_are::keys, T>();
          const lane_site site{first, steps, static_cast<int>(live)};
          const X slope = score.template parameter_derivative<n>(X(v::load(raw + at)), site);
          const auto term = v::select(here, v::mul(v::load(gradients + at), slope.reg), v::zero());
          v::store(sums[n], v::add(v::load(sums[n]), term));
        } else {
          T terms[v::lanes] = {};
          for (index_t lane = 0; lane < live; ++lane)
            terms[lane] = gradients[at + lane] * static_cast<T>(score.template parameter_derivative<n>(
                                                     raw[at + lane], score::site{first.q, first.k + lane}));
          v::store(sums[n], v::add(v::load(sums[n]), v::select(here, v::load(terms), v::zero())));
        }
      });
    }
  }
  for (int n = 0; n < Parameters; ++n)
    for (const T sum : sums[n]) dscore.total[n] += static_cast<double>(sum);
}

/// Converts tiles [rows, keys] of products <q, k> and of dp = <dout, v> into weights p and gradients of the products, in place:
///
///     p = 2^(logit - lse)        ds = p (dp - delta) d logit / d product        both 0 where hidden
///
/// lse (in units of log 2) and delta = <dout, out> belong to the rows. `raw` is a third tile, used by score modifiers.
template <class Isa, class T, class Mask, class Score, int Parameters>
void weights_and_gradients(const Mask& mask, const Score& score, const backward_scale<T>& factors, range rows,
                           range keys, index_t padded_keys, const T* lse, const T* delta, bool partial, T* logits,
                           T* gradients, T* raw, index_t step, parameter_sums<Parameters>& dscore) noexcept {
  using v = arch::simd<Isa, T>;
  constexpr bool identity = std::is_same_v<Score, score::identity>;
  if constexpr (!identity) {
    for (index_t i = 0; i < rows.size(); ++i)
      for (index_t j = 0; j < padded_keys; j += v::lanes)
        v::store(raw + i * step + j, v::mul(v::load(logits + i * step + j), v::set(factors.logit)));
    modify<Isa, columns_are::keys>(score, factors.logit, rows, keys, logits, step);
  }
  const auto factor = v::set(identity ? factors.logit : T{1});
  const auto scale = v::set(Parameters > 0 ? T{1} : factors.scale);
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
  if constexpr (Parameters > 0) {
    add_parameter_gradients<Isa, T>(mask, score, rows, keys, partial, raw, gradients, step, dscore);
    scale_tile<Isa>(gradients, step, rows.size(), padded_keys, factors.scale);
  }
  multiply_by_derivative<Isa, columns_are::keys>(score, rows, keys, raw, gradients, step);
  // Last, because hidden pairs may hold anything: NaN where lse or dp is NaN, or what a score makes of padding.
  if (partial) clear_hidden<Isa, T>(mask, rows, keys, logits, gradients, step);
}

}  // namespace seqprim::attention::detail
