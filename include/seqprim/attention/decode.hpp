// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/append.hpp>
#include <seqprim/attention/detail/cache.hpp>
#include <seqprim/attention/detail/cpu/decode_split.hpp>
#include <seqprim/attention/detail/cpu/read_keys.hpp>
#include <seqprim/attention/detail/encoded.hpp>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/paged.hpp>
#include <seqprim/attention/quantized.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/attention/tuning.hpp>
#include <seqprim/core/scratch.hpp>
#include <seqprim/core/tensor.hpp>

#include <cmath>
#include <cstddef>
#include <limits>
#include <type_traits>

namespace seqprim::attention {

namespace detail {

/// Queries that decode works on at once; more are processed in batches, so that the partial results stay small.
inline constexpr index_t decode_queries = 64;

/// The largest logit of a row, in units of log 2, and the sum of its weights 2^(logit - top).
struct row_total {
  float top, sum;
};

/// Merges the parts of one row in order into total[value_dim]. Parts hold sums that are not yet divided, so that large
/// logits cost no accuracy, as they would in (out, lse).
template <class Isa>
row_total merge_parts(const float* parts, index_t count, index_t record, index_t value_dim, float* total) noexcept {
  using v = arch::simd<Isa, float>;
  float top = -std::numeric_limits<float>::infinity(), sum = 0;
  for (index_t n = 0; n < count; ++n) top = max(top, parts[n * record + value_dim]);
  for (index_t d = 0; d < value_dim; ++d) total[d] = 0;
  for (index_t n = 0; n < count; ++n) {
    const float* const part = parts + n * record;
    if (part[value_dim + 1] == 0) continue;  // sees nothing
    // Where nothing but NaN is visible, top is -inf.
    const float weight = part[value_dim] == top ? 1.0f : std::exp2(part[value_dim] - top);
    sum += weight * part[value_dim + 1];
    for (index_t d = 0; d < value_dim; d += v::lanes) {
      const int live = static_cast<int>(min<index_t>(v::lanes, value_dim - d));
      v::store_partial(total + d,
                       v::fma(v::set(weight), v::load_partial(part + d, live), v::load_partial(total + d, live)), live);
    }
  }
  return {top, sum};
}

/// Everything after validation, with positions encoded.
template <class Isa, class Policy, class Op, class Q, class Keys, class Values, class Out>
void decode_splits(const cpu& executor, const Op& op, const problem& p, const tensor_view<const Q, 4>& q,
                   const Keys& keys, const Values& values, const tensor_view<Out, 4>& out,
                   const tensor_view<float, 3>& lse) {
  constexpr tile_policy policy = Policy::template choose<Isa>();
  static_assert(policy.split_keys > 0, "seqprim: split_keys of an attention policy must be positive");
  using readable_keys = decltype(read_keys(keys, 0, 0, range{}, std::declval<workspace&>()));
  using engine = row_engine<Isa, readable_keys, Values>;
  const double scale = op.scale_for(p.head_dim);
  const index_t splits = max<index_t>(1, ceil_div(p.k_len, policy.split_keys)), record = part_rows::size(p.value_dim);
  const index_t most_queries = min(p.q_len, decode_queries);
  const scratch<float> parts(1, p.batch * p.heads * most_queries * splits * record);
  const index_t pieces = p.batch * p.kv_heads * splits;
  const index_t longest = min<index_t>(policy.split_keys, p.k_len);
  const scratch<std::byte> slabs(static_cast<int>(min<index_t>(pieces, thread_count(executor))),
                                 engine::memory_size(longest, p.head_dim, p.value_dim) + read_memory(keys, longest));
  const scratch<float> totals(thread_count(executor), p.value_dim);
  for (index_t begin = 0; begin < p.q_len; begin += most_queries) {
    const range queries{begin, min(begin + most_queries, p.q_len)};
    // parts [batch, kv_heads, rows, splits, record]
    const index_t rows_per_head = p.group() * queries.size();
    parallel_for(executor, pieces, [&](index_t piece, int thread) {
      const index_t split = piece % splits, g = piece / splits % p.kv_heads, b = piece / splits / p.kv_heads;
      const range run{split * policy.split_keys, min((split + 1) * policy.split_keys, keys.length(b))};
      if (run.empty()) return;
      const folded_rows rows{p, b, g, queries};
      const part_rows to{parts.slab(0) + ((b * p.kv_heads + g) * rows_per_head * splits + split) * record,
                         splits * record};
      workspace memory(slabs.slab(thread));
      engine rows_of_split(memory, longest, p.head_dim, p.value_dim);
      rows_of_split.run(op, scale, rows, q, read_keys(keys, b, g, rows.seen_by_any(op.mask, run), memory), values, run,
                        to);
    });
    parallel_for(executor, p.batch * p.kv_heads * rows_per_head, [&](index_t n, int thread) {
      const index_t r = n % rows_per_head, g = n / rows_per_head % p.kv_heads, b = n / rows_per_head / p.kv_heads;
      const folded_rows rows{p, b, g, queries};
      const index_t used = ceil_div(keys.length(b), policy.split_keys), h = rows.head(r), i = rows.query(r);
      const float* const part = parts.slab(0) + n * splits * record;
      float* const total = totals.slab(thread);
      const auto [top, sum] = merge_parts<Isa>(part, used, record, p.value_dim, total);
      const row_end<float> end = end_row<Isa>(top, sum, op.sink_of(h) * static_cast<float>(log2_e));
      for (index_t d = 0; d < p.value_dim; ++d) out(b, h, i, d) = static_cast<Out>(total[d] * end.factor);
      if (lse.data != nullptr) lse(b, h, i) = end.lse;
    });
  }
}

}  // namespace detail

/// Attention of a few new queries against a KV cache, contiguous or in pages, of float, 16-bit or int8 values.
///
///     attention::append(executor, op, k_new, v_new, n_past, k_cache, v_cache);
///     attention::decode(executor, op, q_new, k_cache [.. n_past + new), v_cache [..), out, lse);
///     attention::decode(executor, op, q_new, paged{k_pages, table}, paged{v_pages, table}, out, lse);
///     attention::decode(executor, op, q_new, quantized{k_codes, k_scales}, quantized{v_codes, v_scales}, out, lse);
///
/// The same as forward up to rounding, with work divided into ranges of keys instead of tiles of queries: it keeps all
/// threads busy for one query against a long cache. Query heads that share a key head are processed together. Keys in
/// the cache already carry their positions (append encodes them); op.position is applied to the queries alone. For
/// sequences of unequal length on pages the last query of each is at its last key, unless op places them elsewhere.
///
/// Shapes  q [batch, heads, q_len, head_dim]; k, v [batch, kv_heads, k_len, dim] views of the filled part of the cache
///         (its strides span the capacity), quantized views of that shape, or paged; out [batch, heads, q_len,
///         value_dim]; lse [batch, heads, q_len]. Sequences of unequal length: pages, or mask::key_padding. On pages
///         k_len is that of the longest sequence, and keys beyond the end of a shorter one do not exist.
/// Types   as forward, without double; int8 values with float scales.
/// Edge    as forward. Keys and values that a query does not attend to are never used; those that no query of the call
///         attends to are not read. A scale that is NaN or infinite affects only the queries that attend to its row.
/// Errors  precondition_error before anything is written, as forward; what page_table and quantized reject; k and v of
///         different lengths.
/// Repeat  same bits for any number of threads, any batch, pages of any size, and however many query rows share a key
///         head: the cache is always divided at the same tokens (every policy.split_keys), parts are merged in order,
///         and every row has the same order of sums. (Within a part, tokens that none of the up to 16 rows taken
///         together attends to are left out of that order.)
/// Cost    reads the visible cache once per key head, and again from the second-level cache for each 16 rows (8 with
///         AVX2). Rows with disjoint visible ranges are processed separately, so each pays only for its own keys.
///         Allocates the partial results of at most 64 queries, 4 (value_dim + 2) bytes for each query row and range of
///         keys, and about 150 KiB per thread; copies the queries if op.position encodes. Queries are processed in
///         batches of 64: correct for any number, but forward is faster where keys are contiguous.
/// Source  Dao et al., "Flash-Decoding for long-context inference"; Kwon et al., "Efficient memory management for large
///         language model serving with PagedAttention".  Page docs/reference/attention/decode.md
template <class Isa = arch::native_isa, class Policy = default_policy, class Op, class Q, class K, class V, class Out,
          class Lse>
void decode(const cpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, Out&& result,
            Lse&& log_sum_exp) {
  static_assert(require_op<Op>() && detail::require_operand<Q, 4>() && detail::require_cache<K>() &&
                detail::require_cache<V>() && detail::require_result<Out, 4>() && detail::require_result<Lse, 3>());
  const auto q = tensor_view<const element_of<Q>, 4>(as_view(queries));
  const auto out = tensor_view<element_of<Out>, 4>(as_view(result));
  const auto lse = tensor_view<element_of<Lse>, 3>(as_view(log_sum_exp));
  const auto k = detail::readable(keys);
  const auto v = detail::readable(values);
  using key = detail::cache_element<decltype(k)>;
  using value = detail::cache_element<decltype(v)>;
  static_assert(!std::is_same_v<element_of<Q>, double> && !std::is_same_v<key, double> &&
                    !std::is_same_v<value, double> && !std::is_same_v<element_of<Out>, double> &&
                    std::is_same_v<element_of<Lse>, float>,
                "seqprim: attention::decode works on float, float16 and bfloat16 with float lse");
  constexpr auto self = detail::entry::decode;
  executor.validate();
  k.validate(q.extent(0));
  v.validate(q.extent(0));
  const auto k_outline = detail::outline(k, q.extent(0)), v_outline = detail::outline(v, q.extent(0));
  const detail::problem p = detail::validate_inputs<self>(executor, op, q, k_outline, v_outline, k.lengths());
  for (index_t b = 0; b < p.batch; ++b)
    SEQPRIM_EXPECTS(k.length(b) == v.length(b), "attention::decode: sequence ", b, " has ", k.length(b), " keys and ",
                    v.length(b), " values. See docs/reference/attention/decode.md");
  detail::expect_results<self>(p, q, detail::rows_of(k.store), detail::rows_of(v.store), out, lse);
  const auto expect_scales_apart = [&](const char* name, const auto& cache) {
    if constexpr (is_quantized<std::remove_cvref_t<decltype(cache.store)>>) {
      detail::expect_apart<self>("out", out, name, cache.store.scales);
      detail::expect_apart<self>("lse", lse, name, cache.store.scales);
    }
  };
  expect_scales_apart("the scales of k", k);
  expect_scales_apart("the scales of v", v);
  if (p.batch * p.heads * p.q_len == 0) return;
  const detail::encoded_problem<Op> encoded(op, p);
  const auto run = [&](const auto& q_in, const auto& k_in) {
    detail::decode_splits<Isa, Policy>(executor, encoded.op, encoded.shape, q_in, k_in, v, out, lse);
  };
  if constexpr (detail::encodes_positions<Op>) {
    using element = element_of<Q>;
    const auto at = position::place(op.position);
    const scratch<element> memory(1, p.batch * p.heads * p.q_len * encoded.shape.head_dim);
    const tensor_view<element, 4> q_in(memory.slab(0), p.batch, p.heads, p.q_len, encoded.shape.head_dim);
    const position::shifted_rows query_map{at.queries, p.starts};
    position::encode<Isa>(executor, at.encoding, query_map, position::side::query, q, q_in);
    if constexpr (detail::encodes_on_read<Op>) {
      const auto encoding = position::for_head_dim(at.encoding, p.head_dim);
      run(tensor_view<const element, 4>(q_in),
          detail::unencoded_cache<Isa, std::remove_const_t<decltype(k)>, std::remove_const_t<decltype(encoding)>,
                                  std::remove_const_t<decltype(at.keys)>>(k, encoding, at.keys, p.head_dim));
    } else {
      run(tensor_view<const element, 4>(q_in), k);
    }
  } else {
    run(q, k);
  }
}

/// The same without lse.
template <class Isa = arch::native_isa, class Policy = default_policy, class Op, class Q, class K, class V, class Out>
void decode(const cpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, Out&& result) {
  static_assert(detail::require_operand<Q, 4>());
  decode<Isa, Policy>(executor, op, queries, keys, values, result, detail::no_lse(as_view(queries)));
}

}  // namespace seqprim::attention
