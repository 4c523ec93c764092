// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cpu/backward_weights.hpp>
#include <seqprim/attention/detail/cpu/logits.hpp>
#include <seqprim/attention/tuning.hpp>
#include <seqprim/core/tensor_view.hpp>

namespace seqprim::attention::detail {

/// One query head in backward: the operands, values per row, and the sums of dq.
template <class T, class Q, class Dout> struct query_head_rows {
  tensor_view<const Q, 2> q;
  tensor_view<const Dout, 2> dout;
  const T* lse;    ///< units of log 2; +inf for rows without a visible key, so that their weights are 0
  const T* delta;  ///< <dout, out>
  T* dq;           ///< [q_len, dq_row], head_dim elements padded to whole registers
  index_t dq_row;
};

/// dq += ds k over the keys that are not finite, pair by pair where they are visible.
template <class Isa, class T, class K, class Visible, class Gradient>
void add_keys_not_finite(const tensor_view<const K, 2>& k, range keys, index_t rows, bool partial,
                         const Visible& visible, T* dq, index_t dq_row, const Gradient& gradient) noexcept {
  for (index_t j = 0; j < keys.size(); ++j) {
    const K* const key = k.data + (keys.begin + j) * k.stride(0);
    if (finite<Isa, T>(key, k.extent(1))) continue;
    for (index_t i = 0; i < rows; ++i) {
      if (partial && !visible(i, j)) continue;
      for (index_t d = 0; d < k.extent(1); ++d) dq[i * dq_row + d] += gradient(i, j) * static_cast<T>(key[d]);
    }
  }
}

/// One tile of keys and the queries that attend to it, five products a tile of queries:
///
///     s = q k^T,  dp = dout v^T,  dv^T += dout^T p,  dk^T += q^T ds,  dq += ds k
///
/// Keys run along the lanes; their tile is transposed once and stays, as do dk and dv. dq belongs to all tiles of keys.
template <class Isa, class T> class key_tile {
  using simd = arch::simd<Isa, T>;

 public:
  /// Numbers of scratch for tiles of this size.
  [[nodiscard]] static index_t scratch_size(const tile_policy& policy, index_t head_dim, index_t value_dim) noexcept {
    const index_t dims = round_up(head_dim, 64) + round_up(value_dim, 64);
    return policy.backward_keys * (2 * (head_dim + value_dim) + round_up(head_dim, 64)) +
           3 * policy.backward_rows * policy.backward_keys + 2 * policy.backward_rows * dims;
  }

  key_tile(const tile_policy& policy, index_t head_dim, index_t value_dim, T* scratch) noexcept
      : width_(policy.backward_keys),
        head_dim_(head_dim),
        value_dim_(value_dim),
        padded_dim_(round_up(head_dim, simd::lanes)) {
    const index_t rows = policy.backward_rows;
    keys_ = scratch;
    values_ = keys_ + width_ * head_dim;
    dk_ = values_ + width_ * value_dim;
    dv_ = dk_ + width_ * head_dim;
    key_rows_ = dv_ + width_ * value_dim;
    logits_ = key_rows_ + width_ * round_up(head_dim, 64);
    gradients_ = logits_ + width_ * rows;
    raw_ = gradients_ + width_ * rows;
    query_buffer_ = raw_ + width_ * rows;
    dout_buffer_ = query_buffer_ + rows * round_up(head_dim, 64);
    clean_buffer_ = dout_buffer_ + rows * round_up(value_dim, 64);
  }

  template <class K, class V>
  void begin(const tensor_view<const K, 2>& k, const tensor_view<const V, 2>& v, range keys) noexcept {
    span_ = keys;
    padded_ = round_up(keys.size(), simd::lanes);
    const K* const key = k.data + keys.begin * k.stride(0);
    arch::transpose_into<Isa, T>(arch::matrix_ref{key, k.stride(0)}, keys.size(), head_dim_,
                                 arch::matrix_ref{keys_, width_}, padded_);
    arch::transpose_into<Isa, T>(arch::matrix_ref{v.data + keys.begin * v.stride(0), v.stride(0)}, keys.size(),
                                 value_dim_, arch::matrix_ref{values_, width_}, padded_);
    // Rows that are not finite stay out of the product dq += ds k, where hidden pairs would meet them.
    arch::copy_into<Isa>(arch::matrix_ref{key, k.stride(0)}, keys.size(), head_dim_,
                         arch::matrix_ref{key_rows_, padded_dim_}, padded_dim_);
    finite_ = true;
    for (index_t j = 0; j < keys.size(); ++j) {
      if (finite<Isa, T>(key + j * k.stride(0), head_dim_)) continue;
      finite_ = false;
      for (index_t d = 0; d < head_dim_; ++d) key_rows_[j * padded_dim_ + d] = T{0};
    }
    for (index_t i = 0; i < width_ * head_dim_; ++i) dk_[i] = T{0};
    for (index_t i = 0; i < width_ * value_dim_; ++i) dv_[i] = T{0};
  }

  /// Adds what the queries `rows` of one head give; `wait()` returns when dq of these rows may be added to.
  template <class Mask, class Score, class Q, class Dout, class K, class Sums, class Wait>
  void add(const Mask& mask, const Score& score, const backward_scale<T>& factors,
           const query_head_rows<T, Q, Dout>& head, const tensor_view<const K, 2>& k, range rows, bool partial,
           Sums& sums, const Wait& wait) noexcept {
    const arch::matrix_ref logits{logits_, width_}, gradients{gradients_, width_};
    const auto query =
        widen<Isa>(arch::matrix_ref<const Q>{head.q.data + rows.begin * head.q.stride(0), head.q.stride(0)},
                   rows.size(), head_dim_, query_buffer_);
    const auto dout =
        widen<Isa>(arch::matrix_ref<const Dout>{head.dout.data + rows.begin * head.dout.stride(0), head.dout.stride(0)},
                   rows.size(), value_dim_, dout_buffer_);
    arch::multiply<Isa, arch::start::zero>(logits, query, arch::matrix_ref{keys_, width_},
                                           {rows.size(), padded_, head_dim_});
    arch::multiply<Isa, arch::start::zero>(gradients, dout, arch::matrix_ref{values_, width_},
                                           {rows.size(), padded_, value_dim_});
    weights_and_gradients<Isa, T>(mask, score, factors, rows, span_, padded_, head.lse + rows.begin,
                                  head.delta + rows.begin, partial, logits_, gradients_, raw_, width_, sums);
    const auto visible = [&](index_t i, index_t j) { return mask(rows.begin + i, span_.begin + j); };
    weighted_sum<Isa, arch::start::keep, T>(partial, span_.size(), {dv_, width_}, dout, logits,
                                            {value_dim_, padded_, rows.size()}, nullptr, clean_buffer_, visible);
    weighted_sum<Isa, arch::start::keep, T>(partial, span_.size(), {dk_, width_}, query, gradients,
                                            {head_dim_, padded_, rows.size()}, nullptr, clean_buffer_, visible);
    wait();
    T* const dq = head.dq + rows.begin * head.dq_row;
    arch::multiply<Isa, arch::start::keep>(arch::matrix_ref{dq, head.dq_row}, gradients,
                                           arch::matrix_ref{key_rows_, padded_dim_},
                                           {rows.size(), padded_dim_, span_.size()});
    if (!finite_) {
      add_keys_not_finite<Isa>(k, span_, rows.size(), partial, visible, dq, head.dq_row,
                               [&](index_t i, index_t j) { return gradients_[i * width_ + j]; });
    }
  }

  template <class Dk, class Dv> void finish(const tensor_view<Dk, 2>& dk, const tensor_view<Dv, 2>& dv) noexcept {
    arch::transpose_into<Isa, T>(arch::matrix_ref{dk_, width_}, head_dim_, span_.size(),
                                 arch::matrix_ref{dk.data + span_.begin * dk.stride(0), dk.stride(0)}, head_dim_);
    arch::transpose_into<Isa, T>(arch::matrix_ref{dv_, width_}, value_dim_, span_.size(),
                                 arch::matrix_ref{dv.data + span_.begin * dv.stride(0), dv.stride(0)}, value_dim_);
  }

 private:
  index_t width_, head_dim_, value_dim_, padded_dim_;
  range span_{};
  index_t padded_ = 0;
  bool finite_ = true;
  T *keys_, *values_, *dk_, *dv_, *key_rows_, *logits_, *gradients_, *raw_, *query_buffer_, *dout_buffer_,
      *clean_buffer_;
};

}  // namespace seqprim::attention::detail
