// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cpu/online_softmax.hpp>
#include <seqprim/core/tensor_view.hpp>

#include <cstdint>
#include <cstring>

namespace seqprim::attention::detail {

/// Keys of one step of a tile product, and what key ranges are aligned to: 16 pairs.
inline constexpr index_t tile_keys = 2 * arch::tile_edge;

/// The values of one key head, transposed for tile products: pair [d, n] holds keys 2 n and 2 n + 1 of channel d, zeros
/// beyond the last key. Keys whose values are not finite are zeros here and marked: a hidden pair has weight 0, and 0
/// times infinity must not reach a row that does not attend to it.
struct turned_values {
  const arch::bfloat16_pair* pairs;  ///< [channels, row]
  index_t row;                       ///< pairs of a channel
  const unsigned char* marked;       ///< [k_len], 1 where the values are not finite; [k_len]: whether any is marked
  tensor_view<const bfloat16, 2> plain;

  [[nodiscard]] static index_t channels(index_t value_dim) noexcept { return round_up(value_dim, arch::tile_edge); }
  [[nodiscard]] static index_t pairs_for(index_t k_len) noexcept { return round_up(k_len, tile_keys) / 2; }
};

/// Fills `pairs` [channels, pairs_for(k_len)] and `marked` [k_len + 1] from values [k_len, value_dim].
template <class Isa>
void turn_values(const tensor_view<const bfloat16, 2>& values, arch::bfloat16_pair* pairs,
                 unsigned char* marked) noexcept {
  using products = arch::pair_products<Isa>;
  const index_t k_len = values.extent(0), dim = values.extent(1);
  const index_t channels = turned_values::channels(dim), row = turned_values::pairs_for(k_len);
  alignas(64) arch::bfloat16_pair block[arch::tile_edge * arch::tile_edge];
  marked[k_len] = 0;
  for (index_t j = 0; j < k_len; ++j) {
    marked[j] = !finite<Isa, float>(values.data + j * values.stride(0), dim);
    if (marked[j]) marked[k_len] = 1;
  }
  for (index_t n = 0; n < row; n += arch::tile_edge)
    for (index_t d = 0; d < channels; d += arch::tile_edge) {
      std::memset(block, 0, sizeof block);
      const index_t live = min(arch::tile_edge, dim - d);
      for (index_t i = 0; i < arch::tile_edge; ++i) {
        const auto usable = [&](index_t j) { return j < k_len && !marked[j]; };
        const index_t j = 2 * (n + i);
        arch::bfloat16_pair* const out = block + i * arch::tile_edge;
        if (usable(j)) {
          products::interleave_rows(values.data + j * values.stride(0) + d,
                                    usable(j + 1) ? values.data + (j + 1) * values.stride(0) + d : nullptr, live, out);
        } else if (usable(j + 1)) {
          products::interleave_rows(values.data + (j + 1) * values.stride(0) + d, nullptr, live, out);
          for (index_t c = 0; c < live; ++c) out[c].bits <<= 16;
        }
      }
      arch::transpose_pairs<Isa>({block, arch::tile_edge}, {pairs + d * row + n, row});
    }
}

/// The online softmax for bfloat16 on matrix registers. Tile products and vector work run on different units of the
/// processor, so the weights of one range of keys are computed between the tile products of the next range's logits.
///
/// The running maximum is only moved when a logit exceeds it by more than 2^8: until then weights grow beyond 1, which neither
/// bfloat16 nor the float sums of values below 2^120 / k_len mind, and the old sums need no new scale.
template <class Isa, class T> class online_softmax_tiles {
  using v = arch::simd<Isa, T>;
  using products = arch::pair_products<Isa>;
  using pair = arch::bfloat16_pair;
  static constexpr T patience = 8;  ///< in units of log 2

 public:
  /// Numbers of scratch for tiles of this size.
  [[nodiscard]] static index_t scratch_size(const tile_policy& policy, index_t head_dim, index_t value_dim) noexcept {
    const index_t keys = round_up(policy.k_tile, tile_keys), depth = head_pairs(head_dim);
    return policy.q_tile * (2 * keys + turned_values::channels(value_dim) + 4 + depth + keys / 2) + keys * depth;
  }

  online_softmax_tiles(const tile_policy& policy, index_t head_dim, index_t value_dim, T* scratch) noexcept
      : width_(policy.q_tile),
        head_dim_(head_dim),
        value_dim_(value_dim),
        channels_(turned_values::channels(value_dim)),
        depth_(head_pairs(head_dim)) {
    const index_t keys = round_up(policy.k_tile, tile_keys);
    logits_ = scratch;
    waiting_ = logits_ + width_ * keys;
    out_ = waiting_ + width_ * keys;
    top_ = out_ + width_ * channels_;
    sum_ = top_ + width_;
    rescale_ = sum_ + width_;
    // float and bfloat16_pair have one size; each part of the scratch keeps one type.
    queries_ = reinterpret_cast<pair*>(rescale_ + 2 * width_);
    weights_ = queries_ + width_ * depth_;
    keys_ = weights_ + width_ * keys / 2;
  }

  void begin(const bfloat16* q, index_t q_row, range rows, T factor) noexcept {
    rows_ = rows;
    padded_ = round_up(rows.size(), v::lanes);
    scale_ = factor < T{0} ? -factor : factor;
    products::transpose_rows({q, q_row}, rows.size(), head_dim_, factor < T{0}, {queries_, width_}, padded_);
    for (index_t n = ceil_div(head_dim_, 2); n < depth_; ++n)
      for (index_t i = 0; i < padded_; ++i) queries_[n * width_ + i] = {0};
    for (index_t i = 0; i < padded_; i += v::lanes) {
      v::store(top_ + i, v::set(-std::numeric_limits<T>::infinity()));
      v::store(sum_ + i, v::zero());
    }
    empty_ = true;
    work_ = {};
  }

  /// Adds keys [begin, end), begin a multiple of tile_keys; k holds all keys of the head.
  template <class Mask, class Score>
  void add(const tensor_view<const bfloat16, 2>& k, const turned_values& values, range keys, const Mask& mask,
           const Score& score, bool partial) noexcept {
    multiply_logits(k, keys);
    modify<Isa, columns_are::queries>(score, scale_, keys, rows_, logits_, width_);
    if (partial)
      apply_mask<Isa, T, columns_are::queries>(mask, keys, rows_, logits_, width_, -std::numeric_limits<T>::infinity());
    flush(values, mask);
    move_top(keys.size(), std::is_same_v<Score, score::identity> ? scale_ * static_cast<T>(log2_e) : T{1});
    work_.keys = keys;
    work_.partial = partial;
    work_.done = 0;
    work_.units = padded_ / v::lanes * (round_up(keys.size(), tile_keys) / 2);
    T* const swap = logits_;
    logits_ = waiting_;
    waiting_ = swap;
  }

  template <class Mask, class Out, class Lse>
  void finish(const turned_values& values, const Mask& mask, T sink, Out* out, index_t out_row, Lse* lse,
              index_t lse_step) noexcept {
    flush(values, mask);
    write_result<Isa>(rows_, padded_, value_dim_, width_, empty_, top_, sum_, sink, rescale_, out_, out, out_row, lse,
                      lse_step);
  }

 private:
  [[nodiscard]] static index_t head_pairs(index_t head_dim) noexcept {
    return round_up(ceil_div(head_dim, 2), arch::tile_edge);
  }

  /// logits = keys queries, with a share of the waiting weights after each step of tile products.
  void multiply_logits(const tensor_view<const bfloat16, 2>& k, range keys) noexcept {
    const index_t rows = round_up(keys.size(), arch::tile_edge);
    const index_t steps = arch::tile_steps(rows, padded_, depth_);
    const index_t share = ceil_div(work_.units - work_.done, max<index_t>(steps, 1));
    const auto between = [&] { make_weights(share); };
    const auto multiply = [&](const bfloat16* from, index_t from_row, index_t first, index_t count) {
      // A row of keys is a row of pairs; tiles are loaded from any address, but their rows are whole pairs apart.
      arch::multiply_tiles<Isa, true>({logits_ + first * width_, width_},
                                      {reinterpret_cast<const pair*>(from), from_row / 2}, {queries_, width_},
                                      {count, padded_, depth_}, between);
    };
    const index_t k_row = k.stride(0);
    const bfloat16* const first = k.data + keys.begin * k_row;
    const bool in_place = head_dim_ == 2 * depth_ && k_row % 2 == 0;
    const index_t whole = in_place ? keys.size() / arch::tile_edge * arch::tile_edge : 0;
    if (whole > 0) multiply(first, k_row, 0, whole);
    if (whole < rows) {
      // The last rows, or odd ones: copied and padded with zeros.
      auto* const copy = reinterpret_cast<bfloat16*>(keys_);
      for (index_t j = whole; j < rows; ++j) {
        bfloat16* const row = copy + (j - whole) * 2 * depth_;
        const index_t live = j < keys.size() ? head_dim_ : 0;
        if (live > 0) std::memcpy(row, first + j * k_row, static_cast<std::size_t>(live) * sizeof(bfloat16));
        std::memset(static_cast<void*>(row + live), 0, static_cast<std::size_t>(2 * depth_ - live) * sizeof(bfloat16));
      }
      multiply(copy, 2 * depth_, whole, rows - whole);
    }
  }

  /// Moves the maximum of each query along, if it must, and notes the factor for what was summed before.
  void move_top(index_t keys, T factor) noexcept {
    const auto lowest = v::set(std::numeric_limits<T>::lowest());
    work_.factor = factor;
    work_.moved = false;
    for (index_t i = 0; i < padded_; i += v::lanes) {
      const auto old_top = v::load(top_ + i);
      auto largest = v::set(-std::numeric_limits<T>::infinity());
      for (index_t j = 0; j < keys; ++j) largest = v::max(largest, v::load(logits_ + j * width_ + i));
      largest = v::mul(largest, v::set(factor));
      const auto higher = v::larger(largest, v::add(old_top, v::set(patience)));
      const auto top = v::select(higher, largest, old_top);
      const auto rescale = v::exp2(v::sub(old_top, v::max(top, lowest)));
      work_.moved = work_.moved || v::any(higher);
      v::store(top_ + i, top);
      v::store(rescale_ + i, rescale);
      v::store(sum_ + i, v::mul(v::load(sum_ + i), rescale));
    }
  }

  /// The next `count` units of waiting weights: unit u is one register of queries and one pair of keys.
  [[gnu::always_inline]] void make_weights(index_t count) noexcept {
    const index_t key_pairs = round_up(work_.keys.size(), tile_keys) / 2, keys = work_.keys.size();
    const auto factor = v::set(work_.factor);
    const auto lowest = v::set(std::numeric_limits<T>::lowest());
    const index_t end = min(work_.done + count, work_.units);
    while (work_.done < end) {
      const index_t i = work_.done / key_pairs * v::lanes, first = work_.done % key_pairs;
      const index_t last = min(key_pairs, first + end - work_.done);
      const auto shift = v::sub(v::zero(), v::max(v::load(top_ + i), lowest));
      auto sum = v::load(sum_ + i);
      for (index_t n = first; n < last; ++n) {
        auto low = v::zero(), high = v::zero();
        if (2 * n < keys) {
          low = v::exp2(v::fma(v::load(waiting_ + 2 * n * width_ + i), factor, shift));
          sum = v::add(sum, low);
        }
        if (2 * n + 1 < keys) {
          high = v::exp2(v::fma(v::load(waiting_ + (2 * n + 1) * width_ + i), factor, shift));
          sum = v::add(sum, high);
        }
        products::store_rounded(weights_ + n * width_ + i, low, high);
      }
      v::store(sum_ + i, sum);
      work_.done += last - first;
    }
  }

  /// Ends the waiting range of keys: the rest of its weights, and out += values weights.
  template <class Mask> void flush(const turned_values& values, const Mask& mask) noexcept {
    if (work_.units == 0) return;
    make_weights(work_.units);
    const index_t key_pairs = round_up(work_.keys.size(), tile_keys) / 2;
    const pair* const left = values.pairs + work_.keys.begin / 2;
    const auto nothing = [] {};
    const arch::product_shape shape{channels_, padded_, key_pairs};
    if (empty_) {
      arch::multiply_tiles<Isa, true>({out_, width_}, {left, values.row}, {weights_, width_}, shape, nothing);
    } else {
      if (work_.moved) arch::detail::scale_columns<Isa>(arch::matrix_ref{out_, width_}, channels_, padded_, rescale_);
      arch::multiply_tiles<Isa, false>({out_, width_}, {left, values.row}, {weights_, width_}, shape, nothing);
    }
    empty_ = false;
    if (values.marked[values.plain.extent(0)]) add_marked(values, mask);
    work_.units = 0;
  }

  /// Values that are not finite, pair by pair where they are visible.
  template <class Mask> void add_marked(const turned_values& values, const Mask& mask) noexcept {
    for (index_t j = 0; j < work_.keys.size(); ++j) {
      const index_t key = work_.keys.begin + j;
      if (!values.marked[key]) continue;
      const bfloat16* const value = values.plain.data + key * values.plain.stride(0);
      for (index_t i = 0; i < rows_.size(); ++i) {
        if (work_.partial && !mask(rows_.begin + i, key)) continue;
        const std::uint32_t bits = weights_[j / 2 * width_ + i].bits;
        const auto weight =
            static_cast<T>(bfloat16::from_bits(static_cast<std::uint16_t>(j % 2 == 0 ? bits : bits >> 16)));
        for (index_t d = 0; d < value_dim_; ++d) out_[d * width_ + i] += weight * static_cast<T>(value[d]);
      }
    }
  }

  /// A range of keys whose logits are known (in waiting_) and whose weights are not, or not all.
  struct waiting_work {
    range keys{};
    bool partial = false, moved = false;
    T factor = 1;
    index_t units = 0, done = 0;
  };

  index_t width_, head_dim_, value_dim_, channels_, depth_;
  range rows_{};
  index_t padded_ = 0;
  bool empty_ = true;
  T scale_ = 1;
  waiting_work work_;
  T *logits_, *waiting_, *out_, *top_, *sum_, *rescale_;
  pair *queries_, *weights_, *keys_;
};

}  // namespace seqprim::attention::detail
