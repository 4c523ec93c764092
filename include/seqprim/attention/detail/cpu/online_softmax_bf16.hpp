// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cpu/online_softmax.hpp>

#include <cstdint>

namespace seqprim::attention::detail {

/// The same online softmax for bfloat16 queries, keys and values on processors that multiply bfloat16 pairs: products of
/// pairs with float sums, weights rounded to bfloat16 before they meet the values (sums of weights stay float).
template <class Isa, class T> class online_softmax_pairs {
  using v = arch::simd<Isa, T>;
  using pairs = arch::pair_products<Isa>;
  using pair = arch::bfloat16_pair;

 public:
  /// Numbers of scratch for tiles of this size.
  [[nodiscard]] static index_t scratch_size(const tile_policy& policy, index_t head_dim, index_t value_dim) noexcept {
    const index_t key_pairs = ceil_div(policy.k_tile, 2);
    return policy.q_tile * (ceil_div(head_dim, 2) + value_dim + policy.k_tile + key_pairs + 4) +
           policy.k_tile * ceil_div(head_dim, 2) + key_pairs * value_dim;
  }

  online_softmax_pairs(const tile_policy& policy, index_t head_dim, index_t value_dim, T* scratch) noexcept
      : width_(policy.q_tile), head_dim_(head_dim), value_dim_(value_dim), head_pairs_(ceil_div(head_dim, 2)) {
    logits_ = scratch;
    out_ = logits_ + width_ * policy.k_tile;
    top_ = out_ + width_ * value_dim;
    sum_ = top_ + width_;
    rescale_ = sum_ + width_;
    // float and bfloat16_pair have one size; each part of the scratch keeps one type.
    queries_ = reinterpret_cast<pair*>(rescale_ + 2 * width_);
    weights_ = queries_ + width_ * head_pairs_;
    keys_ = weights_ + width_ * ceil_div(policy.k_tile, 2);
    values_ = keys_ + policy.k_tile * head_pairs_;
  }

  void begin(const bfloat16* q, index_t q_row, range rows, T factor) noexcept {
    rows_ = rows;
    padded_ = round_up(rows.size(), v::lanes);
    scale_ = factor < T{0} ? -factor : factor;
    pairs::transpose_rows({q, q_row}, rows.size(), head_dim_, factor < T{0}, {queries_, width_}, padded_);
    for (index_t i = 0; i < padded_; i += v::lanes) {
      v::store(top_ + i, v::set(-std::numeric_limits<T>::infinity()));
      v::store(sum_ + i, v::zero());
    }
    empty_ = true;
  }

  template <class Mask, class Score>
  void add(const bfloat16* k, index_t k_row, const bfloat16* values, index_t v_row, range keys, const Mask& mask,
           const Score& score, bool partial) noexcept {
    const arch::matrix_ref logits{logits_, width_};
    const arch::matrix_ref queries{queries_, width_};
    const arch::product_shape shape{keys.size(), padded_, head_pairs_};
    // Keys are read in place, two elements at a time, where pairs are whole words.
    if (head_dim_ % 2 == 0 && k_row % 2 == 0 && reinterpret_cast<std::uintptr_t>(k) % sizeof(pair) == 0) {
      arch::multiply<Isa, arch::start::zero>(logits, arch::matrix_ref{reinterpret_cast<const pair*>(k), k_row / 2},
                                             queries, shape);
    } else {
      for (index_t j = 0; j < keys.size(); ++j)
        for (index_t n = 0; n < head_pairs_; ++n) {
          const std::uint32_t low = k[j * k_row + 2 * n].bits;
          const std::uint32_t high = 2 * n + 1 < head_dim_ ? k[j * k_row + 2 * n + 1].bits : 0u;
          keys_[j * head_pairs_ + n] = {low | high << 16};
        }
      arch::multiply<Isa, arch::start::zero>(logits, arch::matrix_ref{keys_, head_pairs_}, queries, shape);
    }
    modify<Isa, columns_are::queries>(score, scale_, keys, rows_, logits_, width_);
    if (partial)
      apply_mask<Isa, T, columns_are::queries>(mask, keys, rows_, logits_, width_, -std::numeric_limits<T>::infinity());
    exponentiate(keys.size(), std::is_same_v<Score, score::identity> ? scale_ * static_cast<T>(log2_e) : T{1});
    add_values(values, v_row, keys, mask, partial);
    empty_ = false;
  }

  template <class Out, class Lse> void finish(T sink, Out* out, index_t out_row, Lse* lse, index_t lse_step) noexcept {
    write_result<Isa>(rows_, padded_, value_dim_, width_, empty_, top_, sum_, sink, rescale_, out_, out, out_row, lse,
                      lse_step);
  }

 private:
  /// logits -> weights 2^(scale * logit - top) as pairs of keys; moves top and sum along, as online_softmax does.
  void exponentiate(index_t keys, T scale) noexcept {
    const auto lowest = v::set(std::numeric_limits<T>::lowest());
    const auto factor = v::set(scale);
    for (index_t i = 0; i < padded_; i += v::lanes) {
      const auto old_top = v::load(top_ + i);
      auto largest = v::set(-std::numeric_limits<T>::infinity());
      for (index_t j = 0; j < keys; ++j) largest = v::max(largest, v::load(logits_ + j * width_ + i));
      const auto top = v::max(old_top, v::mul(largest, factor));
      const auto safe = v::max(top, lowest);
      const auto shift = v::sub(v::zero(), safe);
      const auto rescale = v::exp2(v::sub(old_top, safe));
      auto sum = v::mul(v::load(sum_ + i), rescale);
      for (index_t j = 0; j < keys; j += 2) {
        const auto low = v::exp2(v::fma(v::load(logits_ + j * width_ + i), factor, shift));
        sum = v::add(sum, low);
        auto high = v::zero();
        if (j + 1 < keys) {
          high = v::exp2(v::fma(v::load(logits_ + (j + 1) * width_ + i), factor, shift));
          sum = v::add(sum, high);
        }
        pairs::store_rounded(weights_ + j / 2 * width_ + i, low, high);
      }
      v::store(top_ + i, top);
      v::store(sum_ + i, sum);
      v::store(rescale_ + i, rescale);
    }
  }

  /// out^T = out^T * rescale + values^T weights, over pairs of keys. Values that are not finite are added pair by pair where
  /// they are visible, as weighted_sum does.
  template <class Mask>
  void add_values(const bfloat16* values, index_t v_row, range keys, const Mask& mask, bool partial) noexcept {
    const auto usable = [&](index_t j) { return !partial || finite<Isa, T>(values + j * v_row, value_dim_); };
    // A row of zeros replaces a row that must not be multiplied; short of that, any finite row would do.
    const index_t key_pairs = ceil_div(keys.size(), 2);
    bool clean = true;
    for (index_t n = 0; n < key_pairs; ++n) {
      const index_t j = 2 * n;
      const bool first = usable(j), second = j + 1 < keys.size() && usable(j + 1);
      clean = clean && first && (second || j + 1 >= keys.size());
      pair* const row = values_ + n * value_dim_;
      pairs::interleave_rows(values + j * v_row, second ? values + (j + 1) * v_row : nullptr, value_dim_, row);
      if (!first)
        for (index_t d = 0; d < value_dim_; ++d) row[d].bits &= 0xffff0000u;
    }
    const arch::matrix_ref out{out_, width_};
    const arch::matrix_ref weights{weights_, width_};
    const auto transposed_values = arch::transposed(arch::matrix_ref{values_, value_dim_});
    const arch::product_shape shape{value_dim_, padded_, key_pairs};
    if (empty_) {
      arch::multiply<Isa, arch::start::zero>(out, transposed_values, weights, shape);
    } else {
      arch::multiply<Isa, arch::start::rescale>(out, transposed_values, weights, shape, rescale_);
    }
    if (clean) return;
    for (index_t j = 0; j < keys.size(); ++j) {
      if (usable(j)) continue;
      for (index_t i = 0; i < rows_.size(); ++i) {
        if (!mask(rows_.begin + i, keys.begin + j)) continue;
        const std::uint32_t bits = weights_[j / 2 * width_ + i].bits;
        const auto weight =
            static_cast<T>(bfloat16::from_bits(static_cast<std::uint16_t>(j % 2 == 0 ? bits : bits >> 16)));
        for (index_t d = 0; d < value_dim_; ++d) out_[d * width_ + i] += weight * static_cast<T>(values[j * v_row + d]);
      }
    }
  }

  index_t width_, head_dim_, value_dim_, head_pairs_;
  range rows_{};
  index_t padded_ = 0;
  bool empty_ = true;
  T scale_ = 1;
  T *logits_, *out_, *top_, *sum_, *rescale_;
  pair *queries_, *weights_, *keys_, *values_;
};

}  // namespace seqprim::attention::detail
