// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cpu/online_softmax.hpp>
#include <seqprim/attention/detail/cpu/row_groups.hpp>
#include <seqprim/attention/detail/encoded.hpp>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/attention/tuning.hpp>
#include <seqprim/core/scratch.hpp>

namespace seqprim::attention {

namespace detail {

/// Adds all keys that one of `rows` sees to a tile of queries. Keys are the inner stream: K and V are read once per tile.
template <class Softmax, class Mask, class Score, class K, class Values>
void add_visible_keys(Softmax& softmax, const Mask& mask, const Score& score, range rows,
                      const tensor_view<const K, 2>& k, const Values& values, index_t step) noexcept {
  range bounds = mask::key_bounds(mask, rows, k.extent(0));
  if constexpr (std::is_same_v<Values, value_panels>) bounds.begin = bounds.begin / step * step;
  for_visible_tiles(
      bounds, step, [&](range keys) { return mask.classify(rows, keys); },
      [&](range keys, bool partial) { softmax.add(k, values, keys, mask, score, partial); });
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
  using engine = online_softmax<Isa, T, products_for<Isa, T, Q, K, V>>;
  constexpr index_t step = engine::key_step(policy);
  const prepared_values<Isa, V, engine::tiles> values(executor, v, step);
  const scratch<std::byte> slabs(static_cast<int>(min<index_t>(pieces, thread_count(executor))),
                                 engine::scratch_size(policy, p.head_dim, p.value_dim));
  parallel_for(executor, pieces, [&](index_t piece, int thread) {
    // The last tile of a causal mask has most to do: start with it.
    const index_t tile = q_tiles - 1 - piece % q_tiles;
    const index_t b = piece / q_tiles / p.heads, h = piece / q_tiles % p.heads, g = p.kv_head(h);
    const index_t begin = tile * policy.q_tile;
    const auto mask = mask::bind(op.mask, b, h);
    const auto score = score::bind(op.score, b, h);
    const T sink = static_cast<T>(op.sink_of(h)) * static_cast<T>(log2_e);
    const arch::tile_session<Isa> session;
    workspace memory(slabs.slab(thread));
    engine softmax(policy, p.head_dim, p.value_dim, memory);
    for (range rest{begin, min<index_t>(begin + policy.q_tile, p.q_len)}; !rest.empty();) {
      const range rows{rest.begin, first_tile_end(policy, mask, rest, p.k_len)};
      rest.begin = rows.end;
      softmax.begin(q[b][h], rows, static_cast<T>(scale));
      add_visible_keys(softmax, mask, score, rows, k[b][g], values.of(b, g), step);
      softmax.finish(sink, out[b][h], lse.data == nullptr ? nullptr : &lse(b, h, rows.begin), lse.strides[2]);
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
///         per pair. Allocates tile scratch for each thread (at most about 4 (192 head_dim + 320 value_dim + 8500)
///         bytes), encoded copies of q and k if op.position encodes; with AMX and bfloat16 operands 2 value_dim bytes
///         for each key and KV head, filled in every call: decode is for few queries.
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
