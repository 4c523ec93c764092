// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/encoded.hpp>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/detail/tile.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/attention/tuning.hpp>
#include <seqprim/core/scratch.hpp>

#include <cmath>
#include <cstdint>

namespace seqprim::attention {

namespace detail {

/// Ends a tile of queries: out = acc / sum turned back into rows, lse = ln 2 (top + log2 sum), the sink (in units of log 2)
/// counted in. Rows that saw no key get zeros and lse = sink.
template <class Isa, class T, class Out, class Lse>
void write_result(range rows, index_t padded, index_t value_dim, index_t width, bool empty, T* top, T* sum, T sink,
                  T* inverse, T* acc, Out* out, index_t out_row, Lse* lse, index_t lse_step) noexcept {
  for (index_t i = 0; i < padded; ++i) {
    const row_end<T> end = end_row(top[i], sum[i], sink);
    inverse[i] = end.factor;
    if (lse != nullptr && i < rows.size()) lse[i * lse_step] = static_cast<Lse>(end.lse);
  }
  if (empty) {
    for (index_t d = 0; d < value_dim; ++d)
      for (index_t i = 0; i < padded; ++i) acc[d * width + i] = T{0};
  }
  arch::transpose_into<Isa, T>(acc, width, value_dim, rows.size(), out, out_row, value_dim, inverse);
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
    arch::transpose_into<Isa, T>(q, q_row, rows.size(), head_dim_, queries_, width_, padded_);
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
    const auto key = widen<Isa, T>(k, k_row, keys.size(), head_dim_, key_buffer_);
    arch::multiply<Isa, T, arch::start::zero>(keys.size(), padded_, head_dim_, key.data, key.row, 1, queries_, width_,
                                              logits_, width_);
    modify<Isa, columns_are::queries>(score, scale_, keys, rows_, logits_, width_);
    if (partial)
      hide<Isa, T, columns_are::queries>(mask, keys, rows_, logits_, width_, -std::numeric_limits<T>::infinity());
    exponentiate(keys.size(), std::is_same_v<Score, score::identity> ? scale_ * static_cast<T>(log2_e) : T{1});
    const auto value = widen<Isa, T>(values, v_row, keys.size(), value_dim_, value_buffer_);
    const auto visible = [&](index_t j, index_t i) { return mask(rows_.begin + i, keys.begin + j); };
    if (empty_) {
      weighted_sum<Isa, arch::start::zero>(partial, keys.size(), rows_.size(), padded_, value_dim_, value.data,
                                           value.row, logits_, width_, out_, width_, rescale_, clean_buffer_, visible);
    } else {
      weighted_sum<Isa, arch::start::rescale>(partial, keys.size(), rows_.size(), padded_, value_dim_, value.data,
                                              value.row, logits_, width_, out_, width_, rescale_, clean_buffer_,
                                              visible);
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
    pairs::transpose_rows(q, q_row, rows.size(), head_dim_, factor < T{0}, queries_, width_, padded_);
    for (index_t i = 0; i < padded_; i += v::lanes) {
      v::store(top_ + i, v::set(-std::numeric_limits<T>::infinity()));
      v::store(sum_ + i, v::zero());
    }
    empty_ = true;
  }

  template <class Mask, class Score>
  void add(const bfloat16* k, index_t k_row, const bfloat16* values, index_t v_row, range keys, const Mask& mask,
           const Score& score, bool partial) noexcept {
    // Keys are read in place, two numbers at a time, where pairs are whole words.
    if (head_dim_ % 2 == 0 && k_row % 2 == 0 && reinterpret_cast<std::uintptr_t>(k) % sizeof(pair) == 0) {
      arch::multiply<Isa, T, arch::start::zero>(keys.size(), padded_, head_pairs_, reinterpret_cast<const pair*>(k),
                                                k_row / 2, index_t{1}, queries_, width_, logits_, width_);
    } else {
      for (index_t j = 0; j < keys.size(); ++j)
        for (index_t n = 0; n < head_pairs_; ++n) {
          const std::uint32_t low = k[j * k_row + 2 * n].bits;
          const std::uint32_t high = 2 * n + 1 < head_dim_ ? k[j * k_row + 2 * n + 1].bits : 0u;
          keys_[j * head_pairs_ + n] = {low | high << 16};
        }
      arch::multiply<Isa, T, arch::start::zero>(keys.size(), padded_, head_pairs_, static_cast<const pair*>(keys_),
                                                head_pairs_, index_t{1}, queries_, width_, logits_, width_);
    }
    modify<Isa, columns_are::queries>(score, scale_, keys, rows_, logits_, width_);
    if (partial)
      hide<Isa, T, columns_are::queries>(mask, keys, rows_, logits_, width_, -std::numeric_limits<T>::infinity());
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
    // A row of zeros stands for a row that must not be multiplied; short of that, any finite row would do.
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
    if (empty_) {
      arch::multiply<Isa, T, arch::start::zero>(value_dim_, padded_, key_pairs, static_cast<const pair*>(values_),
                                                index_t{1}, value_dim_, weights_, width_, out_, width_);
    } else {
      arch::multiply<Isa, T, arch::start::rescale>(value_dim_, padded_, key_pairs, static_cast<const pair*>(values_),
                                                   index_t{1}, value_dim_, weights_, width_, out_, width_, rescale_);
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

/// The online softmax for these element types on this instruction set.
template <class Isa, class T, class Q, class K, class V>
using online_softmax_for = std::conditional_t<arch::pair_products<Isa>::available && std::is_same_v<Q, bfloat16> &&
                                                  std::is_same_v<K, bfloat16> && std::is_same_v<V, bfloat16>,
                                              online_softmax_pairs<Isa, T>, online_softmax<Isa, T>>;

/// One tile of queries of one head against all keys. Keys are the inner stream: K and V are read once per tile of queries.
template <class Isa, class Policy, class T, class Mask, class Score, class Q, class K, class V, class Out, class Lse>
void forward_tile(const tile_policy& policy, const Mask& mask, const Score& score, double scale, T sink, range rows,
                  const tensor_view<const Q, 2>& q, const tensor_view<const K, 2>& k, const tensor_view<const V, 2>& v,
                  const tensor_view<Out, 2>& out, Lse* lse, index_t lse_step, T* scratch) noexcept {
  online_softmax_for<Isa, T, Q, K, V> softmax(policy, q.extent(1), v.extent(1), scratch);
  softmax.begin(q.data + rows.begin * q.stride(0), q.stride(0), rows, static_cast<T>(scale));
  for_visible_tiles(
      mask::key_hull(mask, rows, k.extent(0)), policy.k_tile, [&](range keys) { return mask.classify(rows, keys); },
      [&](range keys, bool partial) {
        softmax.add(k.data + keys.begin * k.stride(0), k.stride(0), v.data + keys.begin * v.stride(0), v.stride(0),
                    keys, mask, score, partial);
      });
  softmax.finish(sink, out.data + rows.begin * out.stride(0), out.stride(0), lse, lse_step);
}

/// Everything after validation and position encoding.
template <class Isa, class Policy, class Op, class Q, class K, class V, class Out, class Lse>
void forward_tiles(const cpu& executor, const Op& op, const problem& p, const tensor_view<const Q, 4>& q,
                   const tensor_view<const K, 4>& k, const tensor_view<const V, 4>& v, const tensor_view<Out, 4>& out,
                   const tensor_view<Lse, 3>& lse) {
  using T = accumulator<Q>;
  constexpr tile_policy policy = Policy::template choose<Isa>();
  static_assert(policy.q_tile > 0 && policy.q_tile % 64 == 0 && policy.k_tile > 0,
                "seqprim: q_tile of an attention policy must be a multiple of 64, and k_tile positive");
  const index_t q_tiles = ceil_div(p.q_len, policy.q_tile);
  const index_t pieces = p.batch * p.heads * q_tiles;
  if (pieces == 0) return;
  const double scale = op.scale_for(p.head_dim);
  const scratch<T> slabs(static_cast<int>(min<index_t>(pieces, thread_count(executor))),
                         online_softmax_for<Isa, T, Q, K, V>::scratch_size(policy, p.head_dim, p.value_dim));
  parallel_for(executor, pieces, [&](index_t piece, int thread) {
    // The last tile of a causal mask has most to do: start with it.
    const index_t tile = q_tiles - 1 - piece % q_tiles;
    const index_t b = piece / q_tiles / p.heads, h = piece / q_tiles % p.heads;
    const index_t begin = tile * policy.q_tile;
    const range rows{begin, min<index_t>(begin + policy.q_tile, p.q_len)};
    Lse* const row_lse = lse.data == nullptr ? nullptr : &lse(b, h, begin);
    forward_tile<Isa, Policy, T>(policy, mask::bind(op.mask, b, h), score::bind(op.score, b, h), scale,
                                 static_cast<T>(op.sink_of(h)) * static_cast<T>(log2_e), rows, q[b][h],
                                 k[b][p.kv_head(h)], v[b][p.kv_head(h)], out[b][h], row_lse, lse.strides[2],
                                 slabs.slab(thread));
  });
}

}  // namespace detail

/// Attention forward: out = softmax(score(scale * q k^T) where the mask allows) v, one pass over the keys.
///
/// Shapes   q [batch, heads, q_len, head_dim]; k [batch, kv_heads, k_len, head_dim]; v [batch, kv_heads, k_len, value_dim];
///          out [batch, heads, q_len, value_dim]; lse [batch, heads, q_len]. Any length may be 0. Query head h uses key
///          head h / (heads / kv_heads), or h % kv_heads for op.tiled_heads().
/// Types    q, k, v, out: float, half, bfloat16, each its own; sums and lse float. All double for gradient checks.
/// Layout   the last axis contiguous, other strides free; out and lse may not overlap an input or each other.
/// Edge     a row without visible key: out = 0, lse = -inf (the sink's logit, if op has one). A NaN in a visible logit: NaN in that row only. Keys and values
///          that no query sees are never used, whatever they hold. Logits must stay below 2^127 (they are held in units of
///          log 2).
/// Errors   precondition_error before anything is written: shapes disagree, heads % kv_heads != 0, a last axis is not
///          contiguous, an output overlaps, the op is invalid.
/// Repeat   same bits for any number of threads and any place in the batch, for one build and policy.
/// Cost     head_dim + value_dim multiply-adds a visible pair and head; empty tiles cost nothing. Allocates tile scratch for each
///          thread (about 4 (160 head_dim + 256 value_dim + 6400) bytes), and encoded copies of q and k if op.position encodes.
/// Source   Milakov and Gimelshein, "Online normalizer calculation for softmax"; Dao et al., "FlashAttention"; spec masks-text
///          1 and 3; golden masks-text/attn_*.  Page docs/reference/attention/forward.md
template <class Isa = arch::native_isa, class Policy = default_policy, class Op, class Q, class K, class V, class Out,
          class Lse>
void forward(const cpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, Out&& result,
             Lse&& log_sum_exp) {
  static_assert(require_op<Op>() && detail::require_operand<Q, 4>() && detail::require_operand<K, 4>() &&
                detail::require_operand<V, 4>() && detail::require_result<Out, 4>() &&
                detail::require_result<Lse, 3>());
  static_assert(detail::require_one_precision<Q, K, V, Out>());
  const auto q = tensor_view<const element_of<Q>, 4>(as_view(queries));
  const auto k = tensor_view<const element_of<K>, 4>(as_view(keys));
  const auto v = tensor_view<const element_of<V>, 4>(as_view(values));
  const auto out = tensor_view<element_of<Out>, 4>(as_view(result));
  const auto lse = tensor_view<element_of<Lse>, 3>(as_view(log_sum_exp));
  static_assert(std::is_same_v<element_of<Lse>, accumulator<element_of<Q>>>,
                "seqprim: lse is float (double when the queries are double)");
  constexpr auto self = detail::entry::forward;
  const detail::problem p = detail::validate_inputs<self>(executor, op, q, k, v);
  detail::expect_results<self>(p, q, k, v, out, lse);
  detail::with_encoded<Isa>(
      executor, op, q, k, [&](const auto& plain_op, const auto& q_encoded, const auto& k_encoded) {
        detail::forward_tiles<Isa, Policy>(executor, plain_op, p, q_encoded, k_encoded, v, out, lse);
      });
}

/// The same without lse.
template <class Isa = arch::native_isa, class Policy = default_policy, class Op, class Q, class K, class V, class Out>
void forward(const cpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, Out&& result) {
  static_assert(detail::require_operand<Q, 4>());
  forward<Isa, Policy>(executor, op, queries, keys, values, result, detail::no_lse(as_view(queries)));
}

}  // namespace seqprim::attention
