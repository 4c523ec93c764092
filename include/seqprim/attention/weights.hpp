// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cpu/apply_mask.hpp>
#include <seqprim/attention/detail/cpu/logits.hpp>
#include <seqprim/attention/detail/encoded.hpp>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/core/scratch.hpp>
#include <seqprim/linalg/matmul.hpp>

#include <limits>

namespace seqprim::attention {

namespace detail {

inline constexpr index_t weight_rows = 64, weight_keys = 128;  // one tile of weights

/// The weights of one tile of queries, from the lse of each: p(row, key) = exp(logit - lse), 0 where the mask hides the key.
template <class Isa, class T, class Mask, class Score, class Q, class K, class Weight>
void weigh_rows(const Mask& mask, const Score& score, double scale, range rows, const tensor_view<const Q, 2>& q,
                const tensor_view<const K, 2>& k, const tensor_view<const T, 1>& lse,
                const tensor_view<Weight, 2>& weights, T* tile) {
  using v = arch::simd<Isa, T>;
  constexpr T infinity = std::numeric_limits<T>::infinity();
  for (index_t i = rows.begin; i < rows.end; ++i)
    for (index_t j = 0; j < k.extent(0); ++j) weights(i, j) = Weight(T{0});
  for_visible_tiles(
      mask::key_bounds(mask, rows, k.extent(0)), weight_keys, [&](range keys) { return mask.classify(rows, keys); },
      [&](range keys, bool partial) {
        const tensor_view<T, 2> logits(tile, {rows.size(), keys.size()}, {weight_keys, 1});
        linalg::matmul<Isa>(cpu{.threads = 1}, q.slice(0, rows), k.slice(0, keys).transposed(0, 1), logits);
        if constexpr (std::is_same_v<Score, score::identity>) {
          scale_tile<Isa>(tile, weight_keys, rows.size(), keys.size(), static_cast<T>(scale * log2_e));
        } else {
          modify<Isa, columns_are::keys>(score, static_cast<T>(scale), rows, keys, tile, weight_keys);
        }
        if (partial) apply_mask<Isa, T, columns_are::keys>(mask, rows, keys, tile, weight_keys, -infinity);
        for (index_t i = 0; i < rows.size(); ++i) {
          const T row_lse = lse(rows.begin + i);
          if (row_lse == -infinity) continue;
          const auto shift = v::set(-row_lse * static_cast<T>(log2_e));
          Weight* const to = &weights(rows.begin + i, keys.begin);
          for (index_t j = 0; j < keys.size(); j += v::lanes)
            v::store_partial(to + j, v::exp2(v::add(v::load(tile + i * weight_keys + j), shift)),
                             static_cast<int>(min_of<index_t>(v::lanes, keys.size() - j)));
        }
      });
}

}  // namespace detail

/// The attention weights themselves, given forward's lse: a second pass over queries and keys.
///
///     weights(q, k)  =  exp(logit(q, k) - lse(q))  where the mask allows, else 0
///
/// Dense, for looking at and for small problems: it writes q_len * k_len numbers per head, which attention otherwise never does.
/// With the lse of an operator's own softmax the rows sum to one (less where there is a sink); with the lse of another softmax
/// they are the share that these keys have in it, as when attention over several sets of keys is merged.
///
/// Shapes   q [batch, heads, q_len, head_dim]; k [batch, kv_heads, k_len, head_dim]; lse [batch, heads, q_len]; weights [batch,
///          heads, q_len, k_len], overwritten.
/// Types    q, k, weights: float, float16, bfloat16, each its own; lse float. All double for checks.
/// Layout   the last axis contiguous, other strides free; weights may not overlap an input.
/// Edge     a row whose lse is -inf has weights of 0.
/// Errors   precondition_error before anything is written: as forward.
/// Repeat   same bits for any number of threads.
/// Cost     head_dim multiply-adds and one exponential per visible pair and head. Allocates a tile for each thread, and encoded
///          copies of q and k if op.position encodes.
/// Page     docs/reference/attention/weights.md
template <class Isa = arch::native_isa, class Op, class Q, class K, class Lse, class Weights>
void weights(const cpu& executor, const Op& op, const Q& queries, const K& keys, const Lse& log_sum_exp,
             Weights&& result) {
  static_assert(require_op<Op>() && detail::require_operand<Q, 4>() && detail::require_operand<K, 4>() &&
                detail::require_operand<Lse, 3>() && detail::require_result<Weights, 4>());
  static_assert(detail::require_one_precision<Q, K, Weights>());
  using T = accumulator<element_of<Q>>;
  static_assert(std::is_same_v<element_of<Lse>, T>,
                "seqprim: lse is float (double when the queries are double). See docs/reference/attention/weights.md");
  const auto q = tensor_view<const element_of<Q>, 4>(as_view(queries));
  const auto k = tensor_view<const element_of<K>, 4>(as_view(keys));
  const auto lse = tensor_view<const T, 3>(as_view(log_sum_exp));
  const auto out = tensor_view<element_of<Weights>, 4>(as_view(result));
  constexpr auto self = detail::entry::weights;
  const detail::problem p = detail::validate_inputs<self>(executor, op, q, k, k);
  detail::expect_shape<self>("lse", lse, {p.batch_axis(), p.heads_axis(), p.q_len_axis()});
  detail::expect_shape<self>("weights", out, {p.batch_axis(), p.heads_axis(), p.q_len_axis(), p.k_len_axis()});
  detail::expect_contiguous_dim<self>("weights", out);
  detail::expect_distinct<self>("weights", out);
  detail::expect_apart<self>("weights", out, "q", q);
  detail::expect_apart<self>("weights", out, "k", k);
  detail::expect_apart<self>("weights", out, "lse", lse);
  if (out.size() == 0) return;
  const double scale = op.scale_for(p.head_dim);
  detail::with_encoded<Isa>(
      executor, op, p, q, k, [&](const auto& rows_op, const detail::problem&, const auto& q_rows, const auto& k_rows) {
        const index_t tiles = ceil_div(p.q_len, detail::weight_rows), tasks = p.batch * p.heads * tiles;
        const scratch<T> buffers(static_cast<int>(min_of<index_t>(tasks, thread_count(executor))),
                                 detail::weight_rows * detail::weight_keys);
        parallel_for(executor, tasks, [&](index_t task, int thread) {
          const index_t b = task / tiles / p.heads, h = task / tiles % p.heads,
                        begin = task % tiles * detail::weight_rows;
          const range rows{begin, min_of(begin + detail::weight_rows, p.q_len)};
          arch::with_supported_isa<Isa>([&](auto isa) {
            detail::weigh_rows<decltype(isa), T>(mask::bind(rows_op.mask, b, h), score::bind(rows_op.score, b, h),
                                                 scale, rows, q_rows[b][h], k_rows[b][p.kv_head(h)], lse[b][h],
                                                 out[b][h], buffers.slab(thread));
          });
        });
      });
}

}  // namespace seqprim::attention
