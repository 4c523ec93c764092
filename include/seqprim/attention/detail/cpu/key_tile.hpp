// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cpu/backward_weights.hpp>
#include <seqprim/attention/detail/cpu/products.hpp>
#include <seqprim/attention/tuning.hpp>
#include <seqprim/core/scratch.hpp>
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

/// dq += ds k over the keys that are not finite, pair by pair where they are visible; `gradients` are those of the tile.
template <class Isa, class T, class K, class Visible>
void add_keys_not_finite(const tile_rows<K>& k, const pair_tile<T>& tile, const Visible& visible,
                         arch::matrix_ref<T> dq) noexcept {
  for (index_t j = 0; j < k.count; ++j) {
    if (finite<Isa, T>(k.matrix.row(j), k.dim)) continue;
    for (index_t i = 0; i < tile.rows.size(); ++i) {
      if (tile.partial && !visible(i, j)) continue;
      for (index_t d = 0; d < k.dim; ++d) dq(i, d) += tile.gradients[i * tile.ld + j] * static_cast<T>(k.matrix(j, d));
    }
  }
}

/// One tile of keys and the queries that attend to it, five products a tile of queries:
///
///     s = q k^T,  dp = dout v^T,  dv^T += dout^T p,  dk^T += q^T ds,  dq += ds k
///
/// Keys run along the lanes; their tile is transposed once and stays, as do dk and dv. dq belongs to all tiles of keys.
template <class Isa, class T, class Products> class key_tile {
  using simd = arch::simd<Isa, T>;
  using element = typename Products::element;

 public:
  /// Bytes of scratch for tiles of this size.
  [[nodiscard]] static index_t scratch_size(const tile_policy& policy, index_t head_dim, index_t value_dim) noexcept {
    workspace counted;
    key_tile(policy, head_dim, value_dim, 1, counted);
    return counted.used();
  }

  key_tile(const tile_policy& policy, index_t head_dim, index_t value_dim, double scale, workspace& memory) noexcept
      : width_(policy.backward_keys),
        head_dim_(head_dim),
        value_dim_(value_dim),
        padded_dim_(round_up(head_dim, simd::lanes)),
        scale_(scale) {
    constexpr index_t packed = Products::packed;
    const index_t rows = policy.backward_rows;
    keys_ = memory.take<element>(width_ * ceil_div(head_dim, packed));
    values_ = memory.take<element>(width_ * ceil_div(value_dim, packed));
    dk_ = memory.take<T>(width_ * head_dim);
    dv_ = memory.take<T>(width_ * value_dim);
    key_rows_ = memory.take<element>(width_ / packed * padded_dim_);
    logits_ = memory.take<T>(width_ * rows);
    gradients_ = memory.take<T>(width_ * rows);
    raw_ = memory.take<T>(width_ * rows);
    weight_pack_ = memory.take<element>(Products::pack_size(rows, width_));
    gradient_pack_ = memory.take<element>(Products::pack_size(rows, width_));
    query_buffer_ = memory.take<element>(Products::read_size(rows, head_dim));
    dout_buffer_ = memory.take<element>(Products::read_size(rows, value_dim));
    sum_buffer_ = memory.take<element>(Products::sum_size(rows, max(head_dim, value_dim)));
  }

  template <class K, class V>
  void begin(const tensor_view<const K, 2>& k, const tensor_view<const V, 2>& v, range keys) noexcept {
    span_ = keys;
    padded_ = round_up(keys.size(), simd::lanes);
    Products::transpose(block_of(k, keys), false, {keys_, width_}, padded_);
    Products::transpose(block_of(v, keys), false, {values_, width_}, padded_);
    // Rows that are not finite stay out of the product dq += ds k, where hidden pairs would meet them.
    finite_ = Products::copy_finite(block_of(k, keys), {key_rows_, padded_dim_}, padded_dim_);
    for (index_t i = 0; i < width_ * head_dim_; ++i) dk_[i] = T{0};
    for (index_t i = 0; i < width_ * value_dim_; ++i) dv_[i] = T{0};
  }

  /// Adds what the queries `rows` of one head give; `wait()` returns when dq of these rows may be added to.
  template <class Mask, class Score, class Q, class Dout, class K, class Sums, class Wait>
  void add(const Mask& mask, const Score& score, const query_head_rows<T, Q, Dout>& head,
           const tensor_view<const K, 2>& k, range rows, bool partial, Sums& sums, const Wait& wait) noexcept {
    constexpr index_t packed = Products::packed;
    const arch::matrix_ref<T> logits{logits_, width_}, gradients{gradients_, width_};
    const auto query = Products::read(block_of(head.q, rows), query_buffer_);
    const auto dout = Products::read(block_of(head.dout, rows), dout_buffer_);
    arch::multiply<Isa, arch::start::zero>(logits, Products::left(query, query_buffer_),
                                           arch::matrix_ref{keys_, width_},
                                           {rows.size(), padded_, ceil_div(head_dim_, packed)});
    arch::multiply<Isa, arch::start::zero>(gradients, Products::left(dout, dout_buffer_),
                                           arch::matrix_ref{values_, width_},
                                           {rows.size(), padded_, ceil_div(value_dim_, packed)});
    pair_tile<T> tile{.rows = rows,
                      .keys = span_,
                      .partial = partial,
                      .lse = head.lse + rows.begin,
                      .delta = head.delta + rows.begin,
                      .logits = logits_,
                      .gradients = gradients_,
                      .raw = raw_,
                      .ld = width_};
    for (index_t i = 0; i < rows.size(); ++i) tile.partial = tile.partial || tile.blank(i);
    weights_and_gradients<Isa, T>(mask, score, backward_scale<T>::template of<Score>(scale_), tile, sums);
    const auto visible = [&](index_t i, index_t j) { return !tile.blank(i) && mask(rows.begin + i, span_.begin + j); };
    const index_t keys = span_.size();
    add_weighted_rows<Isa, Products, T>(dout, tile.partial, keys,
                                        Products::pack_rows(logits, rows.size(), keys, weight_pack_), {dv_, width_},
                                        sum_buffer_, visible);
    add_weighted_rows<Isa, Products, T>(query, tile.partial, keys,
                                        Products::pack_rows(gradients, rows.size(), keys, gradient_pack_),
                                        {dk_, width_}, sum_buffer_, visible);
    wait();
    const arch::matrix_ref<T> dq{head.dq + rows.begin * head.dq_row, head.dq_row};
    arch::multiply<Isa, arch::start::keep>(dq, Products::pack_columns(gradients, rows.size(), keys, gradient_pack_),
                                           arch::matrix_ref{key_rows_, padded_dim_},
                                           {rows.size(), padded_dim_, ceil_div(keys, packed)});
    if (!finite_) add_keys_not_finite<Isa>(block_of(k, span_), tile, visible, dq);
  }

  template <class Dk, class Dv> void finish(const tensor_view<Dk, 2>& dk, const tensor_view<Dv, 2>& dv) noexcept {
    arch::transpose_into<Isa, T>(arch::matrix_ref{dk_, width_}, head_dim_, span_.size(),
                                 arch::matrix_ref{dk.data + span_.begin * dk.stride(0), dk.stride(0)}, head_dim_);
    arch::transpose_into<Isa, T>(arch::matrix_ref{dv_, width_}, value_dim_, span_.size(),
                                 arch::matrix_ref{dv.data + span_.begin * dv.stride(0), dv.stride(0)}, value_dim_);
  }

 private:
  index_t width_, head_dim_, value_dim_, padded_dim_;
  double scale_;
  range span_{};
  index_t padded_ = 0;
  bool finite_ = true;
  T *dk_, *dv_, *logits_, *gradients_, *raw_;
  element *keys_, *values_, *key_rows_, *weight_pack_, *gradient_pack_, *query_buffer_, *dout_buffer_, *sum_buffer_;
};

}  // namespace seqprim::attention::detail
