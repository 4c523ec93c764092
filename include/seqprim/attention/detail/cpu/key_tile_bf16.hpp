// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cpu/key_tile.hpp>

#include <cstdint>

namespace seqprim::attention::detail {

/// key_tile for bfloat16 operands on processors that multiply bfloat16 pairs: products of pairs with float sums; p and ds are
/// rounded to bfloat16 before they meet dout, q and k.
template <class Isa, class T> class key_tile_pairs {
  using simd = arch::simd<Isa, T>;
  using pairs = arch::pair_products<Isa>;
  using pair = arch::bfloat16_pair;
  using matrix = tensor_view<const bfloat16, 2>;
  static_assert(sizeof(T) == sizeof(pair));

 public:
  [[nodiscard]] static index_t scratch_size(const tile_policy& policy, index_t head_dim, index_t value_dim) noexcept {
    const index_t dims = head_dim + value_dim, pair_dims = ceil_div(head_dim, 2) + ceil_div(value_dim, 2);
    return policy.backward_keys * (dims + pair_dims + ceil_div(head_dim, 2)) +
           policy.backward_rows * (3 * policy.backward_keys + policy.backward_keys / 2) +
           2 * ceil_div(policy.backward_rows, 2) * policy.backward_keys + policy.backward_rows * max(pair_dims, dims) +
           policy.backward_keys * round_up(head_dim, simd::lanes);
  }

  key_tile_pairs(const tile_policy& policy, index_t head_dim, index_t value_dim, T* scratch) noexcept
      : width_(policy.backward_keys),
        head_dim_(head_dim),
        value_dim_(value_dim),
        padded_dim_(round_up(head_dim, simd::lanes)),
        head_pairs_(ceil_div(head_dim, 2)),
        value_pairs_(ceil_div(value_dim, 2)) {
    const index_t rows = policy.backward_rows, row_pairs = ceil_div(rows, 2);
    dk_ = scratch;
    dv_ = dk_ + width_ * head_dim;
    logits_ = dv_ + width_ * value_dim;
    gradients_ = logits_ + width_ * rows;
    raw_ = gradients_ + width_ * rows;
    // T and bfloat16_pair have one size; each part of the scratch keeps one type.
    keys_ = reinterpret_cast<pair*>(raw_ + width_ * rows);
    values_ = keys_ + width_ * head_pairs_;
    key_rows_ = values_ + width_ * value_pairs_;
    weight_pairs_ = key_rows_ + ceil_div(width_, 2) * padded_dim_;
    gradient_pairs_ = weight_pairs_ + row_pairs * width_;
    gradient_rows_ = gradient_pairs_ + row_pairs * width_;
    buffer_ = gradient_rows_ + rows * (width_ / 2);
  }

  void begin(const matrix& k, const matrix& v, range keys) noexcept {
    span_ = keys;
    padded_ = round_up(keys.size(), simd::lanes);
    pairs::transpose_rows({k.data + keys.begin * k.stride(0), k.stride(0)}, keys.size(), head_dim_, false,
                          {keys_, width_}, padded_);
    pairs::transpose_rows({v.data + keys.begin * v.stride(0), v.stride(0)}, keys.size(), value_dim_, false,
                          {values_, width_}, padded_);
    // Rows that are not finite stay out of the product dq += ds k, where hidden pairs would meet them.
    finite_ = !pair_finite_rows(k, keys, key_rows_, padded_dim_);
    for (index_t i = 0; i < width_ * head_dim_; ++i) dk_[i] = T{0};
    for (index_t i = 0; i < width_ * value_dim_; ++i) dv_[i] = T{0};
  }

  template <class Mask, class Score, class Sums, class Wait>
  void add(const Mask& mask, const Score& score, const backward_scale<T>& factors,
           const query_head_rows<T, bfloat16, bfloat16>& head, const matrix& k, range rows, bool partial, Sums& sums,
           const Wait& wait) noexcept {
    multiply_rows(head.q, rows, head_pairs_, keys_, logits_);
    multiply_rows(head.dout, rows, value_pairs_, values_, gradients_);
    weights_and_gradients<Isa, T>(mask, score, factors, rows, span_, padded_, head.lse + rows.begin,
                                  head.delta + rows.begin, partial, logits_, gradients_, raw_, width_, sums);
    round(rows.size());
    const auto visible = [&](index_t i, index_t j) { return mask(rows.begin + i, span_.begin + j); };
    add_rows(head.dout, rows, partial, visible, weight_pairs_, dv_);
    add_rows(head.q, rows, partial, visible, gradient_pairs_, dk_);
    wait();
    T* const dq = head.dq + rows.begin * head.dq_row;
    arch::multiply<Isa, arch::start::keep>(
        arch::matrix_ref{dq, head.dq_row}, arch::matrix_ref{gradient_rows_, width_ / 2},
        arch::matrix_ref{key_rows_, padded_dim_}, {rows.size(), padded_dim_, ceil_div(span_.size(), 2)});
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
  /// out[n, :] = rows 2n and 2n + 1 of x, pair by pair; a last row without partner is paired with zeros.
  static void pair_rows(const matrix& x, range rows, pair* out) noexcept {
    const index_t dim = x.extent(1);
    for (index_t i = rows.begin; i < rows.end; i += 2, out += dim) {
      const bfloat16* const first = x.data + i * x.stride(0);
      pairs::interleave_rows(first, i + 1 < rows.end ? first + x.stride(0) : nullptr, dim, out);
    }
  }

  /// The same with zeros for rows that are not finite, out_row elements apart; returns whether there is such a row.
  static bool pair_finite_rows(const matrix& x, range rows, pair* out, index_t out_row) noexcept {
    const index_t dim = x.extent(1);
    bool dropped = false;
    for (index_t i = rows.begin; i < rows.end; i += 2, out += out_row) {
      const bfloat16* const first = x.data + i * x.stride(0);
      const bfloat16* const second = i + 1 < rows.end ? first + x.stride(0) : nullptr;
      const bool keep_first = finite<Isa, T>(first, dim);
      const bool keep_second = second != nullptr && finite<Isa, T>(second, dim);
      pairs::interleave_rows(first, keep_second ? second : nullptr, dim, out);
      if (!keep_first)
        for (index_t d = 0; d < dim; ++d) out[d].bits &= 0xffff0000u;
      for (index_t d = dim; d < out_row; ++d) out[d] = pair{0};
      dropped = dropped || !keep_first || (second != nullptr && !keep_second);
    }
    return dropped;
  }

  /// out[rows, keys] = x[rows, :] times the transposed keys or values. Rows are read in place where pairs are whole words.
  void multiply_rows(const matrix& x, range rows, index_t depth, const pair* turned, T* out) noexcept {
    const bfloat16* const first = x.data + rows.begin * x.stride(0);
    const index_t dim = x.extent(1);
    const pair* words = reinterpret_cast<const pair*>(first);
    index_t step = x.stride(0) / 2;
    if (dim % 2 != 0 || x.stride(0) % 2 != 0 || reinterpret_cast<std::uintptr_t>(first) % sizeof(pair) != 0) {
      for (index_t i = 0; i < rows.size(); ++i)
        for (index_t n = 0; n < depth; ++n) {
          const bfloat16* const at = first + i * x.stride(0) + 2 * n;
          const std::uint32_t low = at[0].bits, high = 2 * n + 1 < dim ? at[1].bits : 0u;
          buffer_[i * depth + n] = {low | high << 16};
        }
      words = buffer_;
      step = depth;
    }
    arch::multiply<Isa, arch::start::zero>(arch::matrix_ref{out, width_}, arch::matrix_ref{words, step},
                                           arch::matrix_ref{turned, width_}, {rows.size(), padded_, depth});
  }

  /// p and ds as pairs of rows, and ds as pairs of keys.
  void round(index_t rows) noexcept {
    for (index_t i = 0; i < rows; i += 2)
      for (index_t j = 0; j < padded_; j += simd::lanes) {
        const index_t at = i * width_ + j, to = i / 2 * width_ + j;
        const bool alone = i + 1 == rows;
        pairs::store_rounded(weight_pairs_ + to, simd::load(logits_ + at),
                             alone ? simd::zero() : simd::load(logits_ + at + width_));
        pairs::store_rounded(gradient_pairs_ + to, simd::load(gradients_ + at),
                             alone ? simd::zero() : simd::load(gradients_ + at + width_));
      }
    for (index_t i = 0; i < rows; ++i) {
      const T* const row = gradients_ + i * width_;
      pair* const out = gradient_rows_ + i * (width_ / 2);
      for (index_t j = 0; j < padded_; j += 2 * simd::lanes)
        pairs::store_rounded_row(out + j / 2, simd::load(row + j),
                                 j + simd::lanes < padded_ ? simd::load(row + j + simd::lanes) : simd::zero());
      if (span_.size() % 2 != 0) out[span_.size() / 2].bits &= 0xffffu;  // padding may have become anything
    }
  }

  /// acc[d, key] += sum over rows of x[row, d] weight[row, key]. Rows that are not finite are added pair by pair where they are
  /// visible, as weighted_sum does.
  template <class Visible>
  void add_rows(const matrix& x, range rows, bool partial, const Visible& visible, const pair* weights,
                T* acc) noexcept {
    const index_t dim = x.extent(1);
    const auto usable = [&](index_t i) { return finite<Isa, T>(x.data + (rows.begin + i) * x.stride(0), dim); };
    bool clean = true;
    if (partial) {
      clean = !pair_finite_rows(x, rows, buffer_, dim);
    } else {
      pair_rows(x, rows, buffer_);
    }
    arch::multiply<Isa, arch::start::keep>(arch::matrix_ref{acc, width_},
                                           arch::transposed(arch::matrix_ref{buffer_, dim}),
                                           arch::matrix_ref{weights, width_}, {dim, padded_, ceil_div(rows.size(), 2)});
    if (clean) return;
    for (index_t i = 0; i < rows.size(); ++i) {
      if (usable(i)) continue;
      for (index_t j = 0; j < span_.size(); ++j) {
        if (!visible(i, j)) continue;
        const std::uint32_t bits = weights[i / 2 * width_ + j].bits;
        const auto weight =
            static_cast<T>(bfloat16::from_bits(static_cast<std::uint16_t>(i % 2 == 0 ? bits : bits >> 16)));
        for (index_t d = 0; d < dim; ++d) acc[d * width_ + j] += weight * static_cast<T>(x(rows.begin + i, d));
      }
    }
  }

  index_t width_, head_dim_, value_dim_, padded_dim_, head_pairs_, value_pairs_;
  range span_{};
  index_t padded_ = 0;
  bool finite_ = true;
  T *dk_, *dv_, *logits_, *gradients_, *raw_;
  pair *keys_, *values_, *key_rows_, *weight_pairs_, *gradient_pairs_, *gradient_rows_, *buffer_;
};

}  // namespace seqprim::attention::detail
