// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cpu/logits.hpp>
#include <seqprim/attention/tuning.hpp>

#include <limits>

namespace seqprim::attention::detail {

/// Ends a tile of queries: out = acc / sum turned back into rows, lse = ln 2 (top + log2 sum), the sink (in units of log 2)
/// counted in. Rows that saw no key get zeros and lse = sink.
template <class Isa, class T, class Out, class Lse>
void write_result(range rows, index_t padded, index_t value_dim, index_t width, bool empty, T* top, T* sum, T sink,
                  T* inverse, T* acc, Out* out, index_t out_row, Lse* lse, index_t lse_step) noexcept {
  for (index_t i = 0; i < padded; ++i) {
    const row_end<T> end = end_row<Isa>(top[i], sum[i], sink);
    inverse[i] = end.factor;
    if (lse != nullptr && i < rows.size()) lse[i * lse_step] = static_cast<Lse>(end.lse);
  }
  if (empty) {
    for (index_t d = 0; d < value_dim; ++d)
      for (index_t i = 0; i < padded; ++i) acc[d * width + i] = T{0};
  }
  arch::transpose_into<Isa, T>(arch::matrix_ref{acc, width}, value_dim, rows.size(), arch::matrix_ref{out, out_row},
                               value_dim, inverse);
}

/// Online softmax over one tile of queries: the running maximum, sum and weighted values of each query, in units of log 2.
/// Queries run along the lanes, so a row of numbers per query is a vector and nothing is ever summed across lanes.
template <class Isa, class T> class online_softmax {
  using v = arch::simd<Isa, T>;

 public:
  /// Numbers of scratch for tiles of this size.
  [[nodiscard]] static index_t scratch_size(const tile_policy& policy, index_t head_dim, index_t value_dim) noexcept {
    const index_t dims = round_up(head_dim, 64) + 2 * round_up(value_dim, 64);
    return policy.q_tile * (head_dim + value_dim + policy.k_tile + 4) + policy.k_tile * dims;
  }

  online_softmax(const tile_policy& policy, index_t head_dim, index_t value_dim, T* scratch) noexcept
      : width_(policy.q_tile), head_dim_(head_dim), value_dim_(value_dim) {
    queries_ = scratch;
    logits_ = queries_ + width_ * head_dim;
    out_ = logits_ + width_ * policy.k_tile;
    top_ = out_ + width_ * value_dim;
    sum_ = top_ + width_;
    rescale_ = sum_ + width_;
    key_buffer_ = rescale_ + 2 * width_;
    value_buffer_ = key_buffer_ + policy.k_tile * round_up(head_dim, 64);
    clean_buffer_ = value_buffer_ + policy.k_tile * round_up(value_dim, 64);
  }

  /// Starts a tile with the queries q[rows, head_dim], whose logits will be multiplied by `factor`. Only a negative one goes
  /// into the queries, its sign, so that maxima stay maxima.
  template <class Q> void begin(const Q* q, index_t q_row, range rows, T factor) noexcept {
    rows_ = rows;
    padded_ = round_up(rows.size(), v::lanes);
    arch::transpose_into<Isa, T>(arch::matrix_ref{q, q_row}, rows.size(), head_dim_, arch::matrix_ref{queries_, width_},
                                 padded_);
    scale_ = factor < T{0} ? -factor : factor;
    if (factor < T{0}) scale_tile<Isa>(queries_, width_, head_dim_, padded_, T{-1});
    for (index_t i = 0; i < padded_; i += v::lanes) {
      v::store(top_ + i, v::set(-std::numeric_limits<T>::infinity()));
      v::store(sum_ + i, v::zero());
    }
    empty_ = true;
  }

  /// Adds a tile of keys and their values.
  template <class K, class V, class Mask, class Score>
  void add(const K* k, index_t k_row, const V* values, index_t v_row, range keys, const Mask& mask, const Score& score,
           bool partial) noexcept {
    const arch::matrix_ref logits{logits_, width_}, out{out_, width_};
    const auto key = widen<Isa>(arch::matrix_ref<const K>{k, k_row}, keys.size(), head_dim_, key_buffer_);
    arch::multiply<Isa, arch::start::zero>(logits, key, arch::matrix_ref{queries_, width_},
                                           {keys.size(), padded_, head_dim_});
    modify<Isa, columns_are::queries>(score, scale_, keys, rows_, logits_, width_);
    if (partial)
      apply_mask<Isa, T, columns_are::queries>(mask, keys, rows_, logits_, width_, -std::numeric_limits<T>::infinity());
    exponentiate(keys.size(), std::is_same_v<Score, score::identity> ? scale_ * static_cast<T>(log2_e) : T{1});
    const auto value = widen<Isa>(arch::matrix_ref<const V>{values, v_row}, keys.size(), value_dim_, value_buffer_);
    const arch::product_shape shape{value_dim_, padded_, keys.size()};
    const auto visible = [&](index_t j, index_t i) { return mask(rows_.begin + i, keys.begin + j); };
    if (empty_) {
      weighted_sum<Isa, arch::start::zero, T>(partial, rows_.size(), out, value, logits, shape, rescale_, clean_buffer_,
                                              visible);
    } else {
      weighted_sum<Isa, arch::start::rescale, T>(partial, rows_.size(), out, value, logits, shape, rescale_,
                                                 clean_buffer_, visible);
    }
    empty_ = false;
  }

  /// Writes out[rows, value_dim] and, unless null, lse[rows] (natural log).
  template <class Out, class Lse> void finish(T sink, Out* out, index_t out_row, Lse* lse, index_t lse_step) noexcept {
    write_result<Isa>(rows_, padded_, value_dim_, width_, empty_, top_, sum_, sink, rescale_, out_, out, out_row, lse,
                      lse_step);
  }

 private:
  /// logits -> weights 2^(scale logit - top); moves top and sum along and leaves the factor for the old out in rescale_.
  void exponentiate(index_t keys, T factor) noexcept {
    const auto lowest = v::set(std::numeric_limits<T>::lowest());
    const auto scale = v::set(factor);
    for (index_t i = 0; i < padded_; i += v::lanes) {
      const auto old_top = v::load(top_ + i);
      auto largest = v::load(logits_ + i);
      for (index_t j = 1; j < keys; ++j) largest = v::max(largest, v::load(logits_ + j * width_ + i));
      const auto top = v::max(old_top, v::mul(largest, scale));
      // Where nothing is visible yet, top is -inf; a finite stand-in keeps -inf - top from becoming NaN.
      const auto shift = v::sub(v::zero(), v::max(top, lowest));
      const auto rescale = v::exp2(v::add(old_top, shift));
      auto sum = v::mul(v::load(sum_ + i), rescale);
      for (index_t j = 0; j < keys; ++j) {
        const auto p = v::exp2(v::fma(v::load(logits_ + j * width_ + i), scale, shift));
        v::store(logits_ + j * width_ + i, p);
        sum = v::add(sum, p);
      }
      v::store(top_ + i, top);
      v::store(sum_ + i, sum);
      v::store(rescale_ + i, rescale);
    }
  }

  index_t width_, head_dim_, value_dim_;
  range rows_{};
  index_t padded_ = 0;
  bool empty_ = true;
  T scale_ = 1;
  T *queries_, *logits_, *out_, *top_, *sum_, *rescale_, *key_buffer_, *value_buffer_, *clean_buffer_;
};

}  // namespace seqprim::attention::detail
