// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/matmul.hpp>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/detail/tile.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/attention/merge.hpp>
#include <seqprim/core/scratch.hpp>
#include <seqprim/core/tensor.hpp>

#include <cmath>

namespace seqprim::attention {

namespace detail {

/// One run of keys for a few query rows, vectors along head_dim: the keys and values of the run are read once for each row
/// that sees them, straight from the cache. out[value_dim] and lse of the run, normalised.
template <class Isa, class T, class Mask, class Score, class Q, class K, class V>
void decode_row(const Mask& mask, const Score& score, double scale, index_t row, range keys, bool partial,
                const Q* query, const tensor_view<const K, 2>& k, const tensor_view<const V, 2>& v, T* logits, T* out,
                T* lse) noexcept {
  using simd = arch::simd<Isa, T>;
  const index_t head_dim = k.extent(1), value_dim = v.extent(1);
  const T infinity = std::numeric_limits<T>::infinity();
  T top = -infinity;
  for (index_t j = keys.begin; j < keys.end; ++j) {
    T& logit = logits[j - keys.begin];
    if (partial && !mask(row, j)) {
      logit = -infinity;
      continue;
    }
    logit = arch::dot<Isa, T>(query, k.data + j * k.stride(0), head_dim) * static_cast<T>(scale);
    logit = static_cast<T>(score(logit, score::site{row, j})) * static_cast<T>(log2_e);
    if (!(logit <= top)) top = logit;  // a NaN reaches the sum of weights through its own weight
  }
  const index_t count = keys.size();
  const T safe = top == -infinity ? T{0} : top;
  auto sums = simd::zero();
  for (index_t j = 0; j < count; j += simd::lanes) {
    const int live = static_cast<int>(min<index_t>(simd::lanes, count - j));
    auto p = simd::exp2(simd::sub(simd::load_partial(logits + j, live), simd::set(safe)));
    p = simd::select(simd::lanes_in(0, live), p, simd::zero());
    simd::store_partial(logits + j, p, live);
    sums = simd::add(sums, p);
  }
  const T sum = simd::sum(sums);
  const T inverse = sum == T{0} ? T{0} : T{1} / sum;
  *lse = sum == T{0} ? -infinity : (top + std::log2(sum)) * static_cast<T>(ln_2);

  constexpr int wide = 4;
  for (index_t d = 0; d < value_dim; d += wide * simd::lanes) {
    typename simd::reg acc[wide];
    arch::unrolled<wide>([&](auto n) { acc[n] = simd::zero(); });
    const bool whole = d + wide * simd::lanes <= value_dim;
    for (index_t j = 0; j < count; ++j) {
      // A hidden value is never read: it may be padding.
      if (partial && !mask(row, keys.begin + j)) continue;
      const V* const value = v.data + (keys.begin + j) * v.stride(0) + d;
      const auto p = simd::set(logits[j]);
      if (whole) {
        arch::unrolled<wide>([&](auto n) { acc[n] = simd::fma(p, simd::load(value + n * simd::lanes), acc[n]); });
      } else {
        arch::unrolled<wide>([&](auto n) {
          const index_t left = max<index_t>(0, min<index_t>(simd::lanes, value_dim - d - n * simd::lanes));
          if (left > 0)
            acc[n] = simd::fma(p, simd::load_partial(value + n * simd::lanes, static_cast<int>(left)), acc[n]);
        });
      }
    }
    arch::unrolled<wide>([&](auto n) {
      const index_t left = max<index_t>(0, min<index_t>(simd::lanes, value_dim - d - n * simd::lanes));
      if (left > 0)
        simd::store_partial(out + d + n * simd::lanes, simd::mul(acc[n], simd::set(inverse)), static_cast<int>(left));
    });
  }
}

}  // namespace detail

/// Attention of a few new queries against a cache of keys and values.
///
///     attention::append(executor, op, k_new, v_new, n_past, k_cache, v_cache);
///     attention::decode(executor, op, q_new, k_cache [.. n_past + new), v_cache [..), out, lse);
///
/// The same as forward up to rounding, with work split over runs of keys instead of tiles of queries: it keeps all threads
/// busy for one query against a long cache. Keys in the cache already carry their positions (append encodes them);
/// op.position is applied to the queries alone.
///
/// Shapes   q [batch, heads, q_len, head_dim]; k, v [batch, kv_heads, k_len, dim] views of the filled part of the cache (its
///          strides span the capacity); out [batch, heads, q_len, value_dim]; lse [batch, heads, q_len]. Sequences of unequal
///          length: mask::key_padding.
/// Types    as forward, without double.
/// Edge     as forward. Keys and values beyond what a query sees are never read.
/// Errors   precondition_error before anything is written, as forward.
/// Repeat   same bits for any number of threads and any batch: the cache is always cut at the same places (every
///          policy.split_keys keys) and parts are merged in order.
/// Cost     reads the visible cache once for each query head; allocates the partial results, 4 (value_dim + 1) bytes for each
///          query row and run of keys.
/// Source   spec masks-text 3, 5.5.  Page docs/reference/attention/decode.md
template <class Isa = arch::native_isa, class Policy = default_policy, class Op, class Q, class K, class V, class Out,
          class Lse>
void decode(const cpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, Out&& result,
            Lse&& log_sum_exp) {
  static_assert(require_op<Op>() && detail::require_operand<Q, 4>() && detail::require_operand<K, 4>() &&
                detail::require_operand<V, 4>() && detail::require_result<Out, 4>() &&
                detail::require_result<Lse, 3>());
  static_assert(detail::require_one_precision<Q, K, V, Out>());
  using T = accumulator<element_of<Q>>;
  static_assert(std::is_same_v<T, float> && std::is_same_v<element_of<Lse>, float>,
                "seqprim: attention::decode works on float, half and bfloat16 with float lse");
  const auto q = tensor_view<const element_of<Q>, 4>(as_view(queries));
  const auto k = tensor_view<const element_of<K>, 4>(as_view(keys));
  const auto v = tensor_view<const element_of<V>, 4>(as_view(values));
  const auto out = tensor_view<element_of<Out>, 4>(as_view(result));
  const auto lse = tensor_view<T, 3>(as_view(log_sum_exp));
  constexpr auto self = detail::entry::decode;
  const detail::problem p = detail::validate_inputs<self>(executor, op, q, k, v);
  detail::expect_results<self>(p, q, k, v, out, lse);
  const index_t rows = p.batch * p.heads * p.q_len;
  if (rows == 0) return;

  // The queries, positions encoded, as dense float rows.
  tensor<T, 4> encoded(p.batch, p.heads, p.q_len, p.head_dim);
  for (index_t b = 0; b < p.batch; ++b)
    for (index_t h = 0; h < p.heads; ++h)
      for (index_t i = 0; i < p.q_len; ++i)
        for (index_t d = 0; d < p.head_dim; ++d) encoded(b, h, i, d) = static_cast<T>(q(b, h, i, d));
  if constexpr (detail::encodes_positions<Op>) {
    const auto at = position::place(op.position, p.q_len, p.k_len);
    position::encode<Isa>(executor, at.encoding, at.queries, encoded, encoded);
  }

  constexpr tile_policy policy = Policy::template choose<Isa>();
  static_assert(policy.split_keys > 0, "seqprim: split_keys of an attention policy must be positive");
  const double scale = op.scale_for(p.head_dim);
  const index_t splits = max<index_t>(1, ceil_div(p.k_len, policy.split_keys));
  const index_t record = p.value_dim + 1;
  tensor<T, 3> parts(rows, splits, record);
  const index_t pieces = p.batch * p.kv_heads * splits;
  const scratch<T> slabs(static_cast<int>(min<index_t>(pieces, thread_count(executor))), policy.split_keys);
  parallel_for(executor, pieces, [&](index_t piece, int thread) {
    const index_t split = piece % splits, g = piece / splits % p.kv_heads, b = piece / splits / p.kv_heads;
    const range run{split * policy.split_keys, min<index_t>((split + 1) * policy.split_keys, p.k_len)};
    for (index_t n = 0; n < p.group(); ++n) {
      const index_t h = p.query_head(g, n);
      const auto mask = mask::bind(op.mask, b, h);
      const auto score = score::bind(op.score, b, h);
      for (index_t i = 0; i < p.q_len; ++i) {
        T* const part = &parts((b * p.heads + h) * p.q_len + i, split, 0);
        const auto kind = run.empty() ? mask::tile_kind::empty : mask.classify(range{i, i + 1}, run);
        if (kind == mask::tile_kind::empty) {
          part[p.value_dim] = -std::numeric_limits<T>::infinity();
          continue;
        }
        detail::decode_row<Isa>(mask, score, scale, i, run, kind == mask::tile_kind::partial, &encoded(b, h, i, 0),
                                k[b][g], v[b][g], slabs.slab(thread), part, part + p.value_dim);
      }
    }
  });
  parallel_for(executor, rows, [&](index_t row, int) {
    const index_t i = row % p.q_len, h = row / p.q_len % p.heads, b = row / p.q_len / p.heads;
    T* const total = &parts(row, 0, 0);
    for (index_t split = 1; split < splits; ++split) {
      const T* const part = &parts(row, split, 0);
      const merge_weights w = weigh(total[p.value_dim], part[p.value_dim]);
      for (index_t d = 0; d < p.value_dim; ++d)
        total[d] = (w.first == 0 ? T{0} : w.first * total[d]) + (w.second == 0 ? T{0} : w.second * part[d]);
      total[p.value_dim] = w.lse;
    }
    // The sink is one more part, without values.
    const merge_weights w = weigh(total[p.value_dim], op.sink_of(h));
    for (index_t d = 0; d < p.value_dim; ++d)
      out(b, h, i, d) = static_cast<element_of<Out>>(w.first == 0 ? T{0} : w.first * total[d]);
    if (lse.data != nullptr) lse(b, h, i) = w.lse;
  });
}

/// The same without lse.
template <class Isa = arch::native_isa, class Policy = default_policy, class Op, class Q, class K, class V, class Out>
void decode(const cpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, Out&& result) {
  static_assert(detail::require_operand<Q, 4>());
  decode<Isa, Policy>(executor, op, queries, keys, values, result, detail::no_lse(as_view(queries)));
}

/// Writes new keys and values into a cache, keys with their positions encoded: the cache is then ready for decode.
///
/// Shapes   k_new, v_new [batch, kv_heads, new_len, dim]; k_cache, v_cache [batch, kv_heads, capacity, dim]; row r goes to
///          cache row start + r and, if op.position has no maps of its own, stands at position start + r.
/// Types    float, half, bfloat16 on either side; encoded in float, rounded once to the type of the cache.
/// Errors   precondition_error before anything is written: shapes disagree, start < 0, start + new_len > capacity.
/// Source   spec positions 1.5.  Page docs/reference/attention/decode.md
template <class Isa = arch::native_isa, class Op, class NewK, class NewV, class CacheK, class CacheV>
void append(const cpu& executor, const Op& op, const NewK& new_keys, const NewV& new_values, index_t start,
            CacheK&& key_cache, CacheV&& value_cache) {
  static_assert(require_op<Op>() && detail::require_operand<NewK, 4>() && detail::require_operand<NewV, 4>() &&
                detail::require_result<CacheK, 4>() && detail::require_result<CacheV, 4>());
  const auto k = tensor_view<const element_of<NewK>, 4>(as_view(new_keys));
  const auto v = tensor_view<const element_of<NewV>, 4>(as_view(new_values));
  const auto k_cache = tensor_view<element_of<CacheK>, 4>(as_view(key_cache));
  const auto v_cache = tensor_view<element_of<CacheV>, 4>(as_view(value_cache));
  executor.validate();
  constexpr const char* page = ". See docs/reference/attention/decode.md";
  const index_t count = k.extent(2), capacity = k_cache.extent(2);
  for (const int axis : {0, 1, 2})
    SEQPRIM_EXPECTS(k.extent(axis) == v.extent(axis) && k_cache.extent(axis) == v_cache.extent(axis) &&
                        (axis == 2 || k.extent(axis) == k_cache.extent(axis)),
                    "attention::append: axis ", axis, " disagrees: k_new ", k.extent(axis), ", v_new ", v.extent(axis),
                    ", k_cache ", k_cache.extent(axis), ", v_cache ", v_cache.extent(axis), page);
  SEQPRIM_EXPECTS(k.extent(3) == k_cache.extent(3) && v.extent(3) == v_cache.extent(3),
                  "attention::append: dims disagree: k_new ", k.extent(3), ", k_cache ", k_cache.extent(3), ", v_new ",
                  v.extent(3), ", v_cache ", v_cache.extent(3), page);
  SEQPRIM_EXPECTS(start >= 0 && count <= capacity && start <= capacity - count, "attention::append: ", count,
                  " rows from row ", start, " on do not fit a cache of ", capacity, page);
  SEQPRIM_EXPECTS(!may_overlap(k_cache, v_cache), "attention::append: k_cache overlaps v_cache", page);
  SEQPRIM_EXPECTS(
      !may_overlap(k_cache, k) && !may_overlap(k_cache, v) && !may_overlap(v_cache, k) && !may_overlap(v_cache, v),
      "attention::append: a cache overlaps the new keys or values", page);
  const auto rows = k_cache.slice(2, {start, start + count});
  const auto store = [&](const auto& from, const auto& to) {
    using element = typename std::remove_cvref_t<decltype(to)>::element_type;
    parallel_for(executor, from.extent(0) * from.extent(1), [&](index_t piece, int) {
      const index_t b = piece / from.extent(1), h = piece % from.extent(1);
      for (index_t i = 0; i < count; ++i)
        for (index_t d = 0; d < from.extent(3); ++d)
          to(b, h, i, d) = static_cast<element>(static_cast<float>(from(b, h, i, d)));
    });
  };
  if constexpr (detail::encodes_positions<Op>) {
    const auto at = position::place(op.position, count, start + count);
    tensor<float, 4> encoded(k.extent(0), k.extent(1), count, k.extent(3));
    position::validate(at.encoding, k.extent(3));
    for (index_t b = 0; b < k.extent(0); ++b)
      for (index_t h = 0; h < k.extent(1); ++h)
        for (index_t i = 0; i < count; ++i)
          for (index_t d = 0; d < k.extent(3); ++d) encoded(b, h, i, d) = static_cast<float>(k(b, h, i, d));
    if constexpr (position::is_placed<decltype(Op::position)>) {
      position::validate_map(at.keys, k.extent(0), count);
      position::encode<Isa>(executor, at.encoding, at.keys, encoded, encoded);
    } else {
      position::encode<Isa>(executor, at.encoding, position::sequential{.start = start}, encoded, encoded);
    }
    store(as_view(encoded), rows);
  } else {
    store(k, rows);
  }
  store(v, v_cache.slice(2, {start, start + count}));
}

}  // namespace seqprim::attention
