// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cpu/online_softmax.hpp>
#include <seqprim/attention/detail/cpu/online_softmax_amx.hpp>
#include <seqprim/attention/detail/cpu/online_softmax_bf16.hpp>
#include <seqprim/attention/detail/cpu/row_groups.hpp>
#include <seqprim/attention/detail/encoded.hpp>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/attention/tuning.hpp>
#include <seqprim/core/scratch.hpp>

namespace seqprim::attention {

namespace detail {

template <class... X> inline constexpr bool all_bfloat16 = (std::is_same_v<X, bfloat16> && ...);

/// The online softmax for these element types on this instruction set.
template <class Isa, class T, class Q, class K, class V>
using online_softmax_for = std::conditional_t<
    arch::pair_products<Isa>::available && all_bfloat16<Q, K, V>,
    std::conditional_t<arch::tile_unit<Isa>::available, online_softmax_tiles<Isa, T>, online_softmax_pairs<Isa, T>>,
    online_softmax<Isa, T>>;

/// The values of all key heads as the engine reads them: in place, or transposed once for all tiles of queries.
template <class Isa, class Q, class K, class V> class prepared_values {
  static constexpr bool turned = arch::tile_unit<Isa>::available && all_bfloat16<Q, K, V>;

 public:
  prepared_values(const cpu& executor, const tensor_view<const V, 4>& values)
      : values_(values),
        pairs_(turned ? heads() : 0, turned_values::channels(values.extent(3)) * row()),
        marked_(turned ? heads() : 0, values.extent(2) + 1) {
    if constexpr (turned) {
      parallel_for(executor, heads(), [&](index_t n, int) {
        turn_values<Isa>(values_[n / values_.extent(1)][n % values_.extent(1)], pairs_.slab(static_cast<int>(n)),
                         marked_.slab(static_cast<int>(n)));
      });
    }
  }

  [[nodiscard]] auto of(index_t b, index_t g) const noexcept {
    if constexpr (turned) {
      const auto n = static_cast<int>(b * values_.extent(1) + g);
      return turned_values{pairs_.slab(n), row(), marked_.slab(n), values_[b][g]};
    } else {
      return values_[b][g];
    }
  }

 private:
  [[nodiscard]] int heads() const noexcept { return static_cast<int>(values_.extent(0) * values_.extent(1)); }
  [[nodiscard]] index_t row() const noexcept { return turned_values::pairs_for(values_.extent(2)); }

  tensor_view<const V, 4> values_;
  scratch<arch::bfloat16_pair> pairs_;
  scratch<unsigned char> marked_;
};

/// One tile of queries of one head against all keys. Keys are the inner stream: K and V are read once per tile of queries.
template <class Isa, class T, class Mask, class Score, class Q, class K, class Values, class V, class Out, class Lse>
void forward_tile(const tile_policy& policy, const Mask& mask, const Score& score, double scale, T sink, range rows,
                  const tensor_view<const Q, 2>& q, const tensor_view<const K, 2>& k, const Values& values,
                  const tensor_view<const V, 2>& v, const tensor_view<Out, 2>& out, Lse* lse, index_t lse_step,
                  T* scratch) noexcept {
  const arch::tile_session<Isa> session;
  online_softmax_for<Isa, T, Q, K, V> softmax(policy, q.extent(1), v.extent(1), scratch);
  softmax.begin(q.data + rows.begin * q.stride(0), q.stride(0), rows, static_cast<T>(scale));
  const auto classify = [&](range keys) { return mask.classify(rows, keys); };
  range bounds = mask::key_bounds(mask, rows, k.extent(0));
  Out* const first = out.data + rows.begin * out.stride(0);
  if constexpr (std::is_same_v<Values, turned_values>) {
    bounds.begin = bounds.begin / tile_keys * tile_keys;
    for_visible_tiles(bounds, round_up(policy.k_tile, tile_keys), classify,
                      [&](range keys, bool partial) { softmax.add(k, values, keys, mask, score, partial); });
    softmax.finish(values, mask, sink, first, out.stride(0), lse, lse_step);
  } else {
    for_visible_tiles(bounds, policy.k_tile, classify, [&](range keys, bool partial) {
      softmax.add(k.data + keys.begin * k.stride(0), k.stride(0), v.data + keys.begin * v.stride(0), v.stride(0), keys,
                  mask, score, partial);
    });
    softmax.finish(sink, first, out.stride(0), lse, lse_step);
  }
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
  const prepared_values<Isa, Q, K, V> values(executor, v);
  const scratch<T> slabs(static_cast<int>(min<index_t>(pieces, thread_count(executor))),
                         online_softmax_for<Isa, T, Q, K, V>::scratch_size(policy, p.head_dim, p.value_dim));
  parallel_for(executor, pieces, [&](index_t piece, int thread) {
    // The last tile of a causal mask has most to do: start with it.
    const index_t tile = q_tiles - 1 - piece % q_tiles;
    const index_t b = piece / q_tiles / p.heads, h = piece / q_tiles % p.heads, g = p.kv_head(h);
    const index_t begin = tile * policy.q_tile;
    const range rows{begin, min<index_t>(begin + policy.q_tile, p.q_len)};
    const auto mask = mask::bind(op.mask, b, h);
    for (range rest = rows; !rest.empty();) {
      const range part{rest.begin, first_tile_end(policy, mask, rest, p.k_len)};
      rest.begin = part.end;
      Lse* const row_lse = lse.data == nullptr ? nullptr : &lse(b, h, part.begin);
      forward_tile<Isa, T>(policy, mask, score::bind(op.score, b, h), scale,
                           static_cast<T>(op.sink_of(h)) * static_cast<T>(log2_e), part, q[b][h], k[b][g],
                           values.of(b, g), v[b][g], out[b][h], row_lse, lse.strides[2], slabs.slab(thread));
    }
  });
}

}  // namespace detail

/// Attention forward: out = softmax(score(scale * q k^T) where the mask allows) v, in one pass over the keys (online
/// softmax).
///
/// Shapes  q [batch, heads, q_len, head_dim]; k [batch, kv_heads, k_len, head_dim]; v [batch, kv_heads, k_len,
///         value_dim]; out [batch, heads, q_len, value_dim]; lse [batch, heads, q_len], the log-sum-exp of the logits.
///         Any length may be 0. Query head h uses key head h / (heads / kv_heads), or h % kv_heads for
///         op.tiled_heads().
/// Types   q, k, v, out: float, float16, bfloat16, each its own; logits, sums and lse float. All double for gradient
///         checks.
/// Layout  the last axis contiguous, other strides free; out and lse may not overlap an input or each other.
/// Edge    a row without visible key: out = 0, lse = -inf (the logit of the sink, if op has one). A NaN in a visible
///         logit: NaN in that row only. Keys and values that no query attends to are never used, whatever they hold.
///         Logits must stay below 2^30, where float steps by 128, values below 2^128 / k_len: weighted sums are float
///         (with AMX 2^120 / k_len: weights reach 2^8 there).
/// Errors  precondition_error before anything is written: shapes disagree, heads is not a multiple of kv_heads, a last
///         axis is not contiguous, an output overlaps, a part of the op is invalid or does not fit the lengths.
/// Repeat  same bits for any number of threads and any position in the batch, for one build, instruction set and
///         policy.
/// Cost    head_dim + value_dim multiply-adds per visible pair and head; empty tiles cost nothing, full ones no test
///         per pair. Allocates tile scratch for each thread (about 4 (192 head_dim + 320 value_dim + 8500) bytes),
///         encoded copies of q and k if op.position encodes, and with AMX a transposed copy of v.
/// Source  Milakov and Gimelshein, "Online normalizer calculation for softmax"; Dao et al., "FlashAttention".  Page
///         docs/reference/attention/forward.md
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
                "seqprim: lse is float (double when the queries are double). See docs/reference/attention/forward.md");
  constexpr auto self = detail::entry::forward;
  const detail::problem p = detail::validate_inputs<self>(executor, op, q, k, v);
  detail::expect_results<self>(p, q, k, v, out, lse);
  detail::with_encoded<Isa>(
      executor, op, p, q, k,
      [&](const auto& plain_op, const detail::problem& shape, const auto& q_in, const auto& k_in) {
        arch::with_supported_isa<Isa>([&](auto isa) {
          detail::forward_tiles<decltype(isa), Policy>(executor, plain_op, shape, q_in, k_in, v, out, lse);
        });
      });
}

/// The same without lse.
template <class Isa = arch::native_isa, class Policy = default_policy, class Op, class Q, class K, class V, class Out>
void forward(const cpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, Out&& result) {
  static_assert(detail::require_operand<Q, 4>());
  forward<Isa, Policy>(executor, op, queries, keys, values, result, detail::no_lse(as_view(queries)));
}

}  // namespace seqprim::attention
