// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/hide.hpp>
#include <seqprim/attention/detail/tile.hpp>
#include <seqprim/score/rule.hpp>

#include <type_traits>

namespace seqprim::attention::detail {

/// The factors of a tile of logits: logit = <q, k> * logit, in units of log 2 where no score modifier stands between; the
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
    const lane_rule<Isa, T, columns_are::keys, Mask> visible(mask, rows, keys.begin + j,
                                                             min<index_t>(v::lanes, keys.size() - j));
    for (index_t i = 0; i < rows.size(); ++i) {
      const auto here = visible.at(i);
      const index_t at = i * step + j;
      v::store(weights + at, v::select(here, v::load(weights + at), v::zero()));
      v::store(gradients + at, v::select(here, v::load(gradients + at), v::zero()));
    }
  }
}

/// Turns tiles [rows, keys] of products <q, k> and of dp = <dout, v> into weights p and gradients of the products, in place:
///
///     p = 2^(logit - lse)        ds = p (dp - delta) d logit / d product        both 0 where hidden
///
/// lse (in units of log 2) and delta = <dout, out> belong to the rows. `raw` is a third tile, used by score modifiers.
template <class Isa, class T, class Mask, class Score>
void weights_and_gradients(const Mask& mask, const Score& score, const backward_scale<T>& factors, range rows,
                           range keys, index_t padded_keys, const T* lse, const T* delta, bool partial, T* logits,
                           T* gradients, T* raw, index_t step) noexcept {
  using v = arch::simd<Isa, T>;
  constexpr bool identity = std::is_same_v<Score, score::identity>;
  if constexpr (!identity) {
    for (index_t i = 0; i < rows.size(); ++i)
      for (index_t j = 0; j < padded_keys; j += v::lanes)
        v::store(raw + i * step + j, v::mul(v::load(logits + i * step + j), v::set(factors.logit)));
    modify<Isa, columns_are::keys>(score, factors.logit, rows, keys, logits, step);
  }
  const auto factor = v::set(identity ? factors.logit : T{1});
  const auto scale = v::set(factors.scale);
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
  multiply_by_derivative<Isa, columns_are::keys>(score, rows, keys, raw, gradients, step);
  // Last, because hidden pairs may hold anything: NaN where lse or dp is NaN, or what a score makes of padding.
  if (partial) clear_hidden<Isa, T>(mask, rows, keys, logits, gradients, step);
}

}  // namespace seqprim::attention::detail
