// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cpu/logits.hpp>
#include <seqprim/attention/detail/cpu/products.hpp>
#include <seqprim/attention/detail/cpu/value_panels.hpp>
#include <seqprim/attention/tuning.hpp>
#include <seqprim/core/scratch.hpp>

#include <limits>

namespace seqprim::attention::detail {

/// Prefetches consecutive memory into the second-level cache, a few lines at a time.
struct stream_prefetch {
  const char* at = nullptr;
  index_t bytes = 0;  ///< of one step

  stream_prefetch() = default;
  template <class X>
  stream_prefetch(const X* first, index_t count, index_t steps) noexcept
      : at(reinterpret_cast<const char*>(first)), bytes(ceil_div(count * index_t{sizeof(X)}, max<index_t>(steps, 1))) {}
  [[gnu::always_inline]] void step() noexcept {
    for (index_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, 0, 2);
    at += bytes;
  }
};

/// Online softmax over one tile of queries: the running maximum, sum and weighted values of each query, in units of log 2.
/// Queries run along the lanes, so a row of values per query is a vector and nothing is ever summed across lanes.
///
/// With matrix registers the running maximum moves only when a logit exceeds it by more than 8 (in units of log 2): until then
/// weights grow up to 2^8, which float sums of values below 2^120 / k_len hold, and the old sums, which lie in memory between the
/// products, need no new scale.
template <class Isa, class T, class Products> class online_softmax {
  using v = arch::simd<Isa, T>;
  using element = typename Products::element;

 public:
  /// True where matrix registers multiply: values are then value_panels of key_step keys.
  static constexpr bool tiles = arch::tile_unit<Isa>::available && Products::packed == 2;

  /// Keys of one add(): what the policy says, in whole steps of the products.
  [[nodiscard]] static constexpr index_t key_step(const tile_policy& policy) noexcept {
    return round_up(index_t{policy.k_tile}, tiles ? 2 * arch::tile_edge : index_t{1});
  }
  /// Bytes of scratch for tiles of this size.
  [[nodiscard]] static index_t scratch_size(const tile_policy& policy, index_t head_dim, index_t value_dim) noexcept {
    workspace counted;
    online_softmax(policy, head_dim, value_dim, counted);
    return counted.used();
  }

  online_softmax(const tile_policy& policy, index_t head_dim, index_t value_dim, workspace& memory) noexcept
      : width_(policy.q_tile), head_dim_(head_dim), value_dim_(value_dim) {
    constexpr index_t packed = Products::packed;
    const index_t keys = round_up(key_step(policy), 2);
    queries_ = memory.take<element>(width_ * ceil_div(head_dim, packed));
    logits_ = memory.take<T>(width_ * keys);
    // Weights take the place of logits, or are packed beside them.
    weights_ = packed == 1 ? reinterpret_cast<element*>(logits_) : memory.take<element>(width_ * keys / packed);
    out_ = memory.take<T>(width_ * value_dim);
    top_ = memory.take<T>(width_);
    sum_ = memory.take<T>(width_);
    rescale_ = memory.take<T>(width_);
    key_buffer_ = memory.take<element>(Products::read_size(keys, head_dim));
    value_buffer_ = memory.take<element>(Products::read_size(keys, value_dim));
    sum_buffer_ = memory.take<element>(Products::sum_size(keys, value_dim));
  }

  /// Starts a tile with the queries q [rows, head_dim], whose logits will be multiplied by `factor`. Only a negative one goes
  /// into the queries, its sign, so that maxima stay maxima.
  template <class Q> void begin(const tensor_view<const Q, 2>& q, range rows, T factor) noexcept {
    rows_ = rows;
    padded_ = round_up(rows.size(), v::lanes);
    scale_ = factor < T{0} ? -factor : factor;
    Products::transpose(block_of(q, rows), factor < T{0}, {queries_, width_}, padded_);
    for (index_t i = 0; i < padded_; i += v::lanes) {
      v::store(top_ + i, v::set(-std::numeric_limits<T>::infinity()));
      v::store(sum_ + i, v::zero());
    }
    empty_ = true;
  }

  /// Adds a tile of keys and their values; `values` are rows or value_panels.
  template <class K, class Values, class Mask, class Score>
  void add(const tensor_view<const K, 2>& k, const Values& values, range keys, const Mask& mask, const Score& score,
           bool partial) noexcept {
    const auto key_rows = Products::read(block_of(k, keys), key_buffer_);
    arch::multiply<Isa, arch::start::zero>(arch::matrix_ref{logits_, width_}, Products::left(key_rows, key_buffer_),
                                           arch::matrix_ref{queries_, width_},
                                           {keys.size(), padded_, ceil_div(head_dim_, Products::packed)});
    modify<Isa, columns_are::queries>(score, scale_, keys, rows_, logits_, width_);
    if (partial)
      apply_mask<Isa, T, columns_are::queries>(mask, keys, rows_, logits_, width_, -std::numeric_limits<T>::infinity());
    if constexpr (tiles) {
      // Tile products are so fast that memory is the limit: the next keys and values come while weights are computed.
      const index_t next = min(keys.size(), k.extent(0) - keys.end);
      const index_t steps = padded_ / v::lanes * (keys.size() / 2);
      next_keys_ = {k.data + keys.end * k.stride(0), k.stride(0) == head_dim_ ? next * head_dim_ : 0, steps};
      next_values_ = {values.panel(keys.end), next > 0 ? value_dim_ * values.keys / 2 : 0, steps};
    }
    exponentiate(keys.size(), std::is_same_v<Score, score::identity> ? scale_ * static_cast<T>(log2_e) : T{1});
    add_values(values, keys, mask, partial);
    empty_ = false;
  }

  /// Ends the tile: out[rows, value_dim] and, unless null, lse[rows] (natural log), with the sink (in units of log 2) counted in. Rows
  /// that saw no key get zeros and lse = sink.
  template <class Out, class Lse>
  void finish(T sink, const tensor_view<Out, 2>& out, Lse* lse, index_t lse_step) noexcept {
    for (index_t i = 0; i < padded_; ++i) {
      const row_end<T> end = end_row<Isa>(top_[i], sum_[i], sink);
      rescale_[i] = end.factor;
      if (lse != nullptr && i < rows_.size()) lse[i * lse_step] = static_cast<Lse>(end.lse);
    }
    if (empty_) {
      for (index_t d = 0; d < value_dim_; ++d)
        for (index_t i = 0; i < padded_; ++i) out_[d * width_ + i] = T{0};
    }
    arch::transpose_into<Isa, T>(arch::matrix_ref{out_, width_}, value_dim_, rows_.size(),
                                 arch::matrix_ref{out.data + rows_.begin * out.stride(0), out.stride(0)}, value_dim_,
                                 rescale_);
  }

 private:
  /// The largest logits of a register of queries. Several chains, because one would wait for its own latency.
  [[nodiscard]] typename v::reg largest_of(const T* logits, index_t keys) const noexcept {
    typename v::reg top[4];
    for (auto& x : top) x = v::set(-std::numeric_limits<T>::infinity());
    index_t j = 0;
    for (; j + 4 <= keys; j += 4)
      arch::unrolled<4>([&](auto n) { top[n] = v::max(top[n], v::load(logits + (j + n) * width_)); });
    for (; j < keys; ++j) top[0] = v::max(top[0], v::load(logits + j * width_));
    return v::max(v::max(top[0], top[1]), v::max(top[2], top[3]));
  }

  /// logits -> weights 2^(factor logit - top); moves top and sum along and leaves the factor for the old out in rescale_.
  void exponentiate(index_t keys, T factor) noexcept {
    const auto scale = v::set(factor);
    const arch::matrix_ref weights{weights_, width_};
    moved_ = false;
    for (index_t i = 0; i < padded_; i += v::lanes) {
      const T* const logits = logits_ + i;
      const auto old_top = v::load(top_ + i);
      const auto largest = v::mul(largest_of(logits, keys), scale);
      auto top = v::max(old_top, largest);
      if constexpr (tiles) {
        const auto higher = v::larger(largest, v::add(old_top, v::set(slack)));
        top = v::select(higher, largest, old_top);
        moved_ = moved_ || v::any(higher);
      }
      // Where nothing is visible yet, top is -inf; a finite stand-in keeps -inf - top from becoming NaN.
      const auto shift = v::sub(v::zero(), v::max(top, v::set(std::numeric_limits<T>::lowest())));
      const auto rescale = v::exp2(v::add(old_top, shift));
      const auto weight = [&](index_t j) { return v::exp2(v::fma(v::load(logits + j * width_), scale, shift)); };
      auto even = v::mul(v::load(sum_ + i), rescale), odd = v::zero();
      for (index_t n = 0; n < keys / 2; ++n) {
        const auto low = weight(2 * n), high = weight(2 * n + 1);
        Products::store_weights(weights, n, i, low, high);
        if constexpr (tiles) {
          next_keys_.step();
          next_values_.step();
        }
        even = v::add(even, low);
        odd = v::add(odd, high);
      }
      if (keys % 2 != 0) {
        const auto last = weight(keys - 1);
        Products::store_weights(weights, keys / 2, i, last, v::zero());
        even = v::add(even, last);
      }
      v::store(top_ + i, top);
      v::store(sum_ + i, v::add(even, odd));
      v::store(rescale_ + i, rescale);
    }
  }

  /// out^T = out^T * rescale + values^T weights.
  template <class Values, class Mask>
  void add_values(const Values& values, range keys, const Mask& mask, bool partial) noexcept {
    const arch::matrix_ref out{out_, width_};
    const arch::matrix_ref<const element> weights{weights_, width_};
    const arch::product_shape shape{value_dim_, padded_, ceil_div(keys.size(), Products::packed)};
    bool clean = true;
    const auto add = [&](const auto& left, const auto& rows) {
      if (empty_) {
        arch::multiply<Isa, arch::start::zero>(out, left, weights, shape);
      } else if constexpr (tiles) {
        if (moved_) arch::scale_columns<Isa>(out, value_dim_, padded_, rescale_);
        arch::multiply<Isa, arch::start::keep>(out, left, weights, shape);
      } else {
        arch::multiply<Isa, arch::start::rescale>(out, left, weights, shape, rescale_);
      }
      if (clean) return;
      const auto visible = [&](index_t j, index_t i) { return !partial || mask(rows_.begin + i, keys.begin + j); };
      add_not_finite<Isa, Products>(rows, rows_.size(), visible, weights, out);
    };
    if constexpr (std::is_same_v<Values, value_panels>) {
      const auto left = values.sum_operand(keys, clean);
      add(left, block_of(values.rows, keys));
    } else {
      const auto rows = Products::read(block_of(values, keys), value_buffer_);
      const auto left = Products::sum_operand(rows, partial, sum_buffer_, clean);
      add(left, rows);
    }
  }

  static constexpr T slack = 8;  ///< in units of log 2

  index_t width_, head_dim_, value_dim_;
  range rows_{};
  index_t padded_ = 0;
  bool empty_ = true, moved_ = false;
  T scale_ = 1;
  stream_prefetch next_keys_, next_values_;  ///< with matrix registers
  T *logits_, *out_, *top_, *sum_, *rescale_;
  element *queries_, *weights_, *key_buffer_, *value_buffer_, *sum_buffer_;
};

}  // namespace seqprim::attention::detail
