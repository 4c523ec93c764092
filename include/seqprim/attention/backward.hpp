// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/encoded.hpp>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/detail/tile.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/attention/tuning.hpp>
#include <seqprim/core/scratch.hpp>

#include <cstdint>
#include <limits>

namespace seqprim::attention {

namespace detail {

/// Turns tiles of raw logits and of dp = <dout, v> into weights p and logit gradients ds, in place:
///
///     p = 2^(logit - lse)        ds = p (dp - delta) d logit / d raw        both 0 where hidden
///
/// lse (in units of log 2) and delta = <dout, out> belong to the queries, wherever these run.
template <class Isa, class T, columns_are Columns, class Mask, class Score>
void weights_and_gradients(const Mask& mask, const Score& score, range rows, range columns, index_t padded_columns,
                           const T* lse, const T* delta, bool partial, T* logits, T* gradients, T* raw,
                           index_t row_step) noexcept {
  using v = arch::simd<Isa, T>;
  constexpr bool identity = std::is_same_v<Score, score::identity>;
  if constexpr (!identity) {
    for (index_t i = 0; i < rows.size() * row_step; ++i) raw[i] = logits[i];
    modify<Isa, Columns>(score, T{1}, rows, columns, logits, row_step);
  }
  if (partial) hide<Isa, T, Columns>(mask, rows, columns, logits, row_step, -std::numeric_limits<T>::infinity());
  for (index_t i = 0; i < rows.size(); ++i) {
    T* const logit = logits + i * row_step;
    T* const gradient = gradients + i * row_step;
    for (index_t j = 0; j < padded_columns; j += v::lanes) {
      const auto row_lse = Columns == columns_are::queries ? v::load(lse + j) : v::set(lse[i]);
      const auto row_delta = Columns == columns_are::queries ? v::load(delta + j) : v::set(delta[i]);
      const auto p = v::exp2(v::sub(v::load(logit + j), row_lse));
      v::store(logit + j, p);
      v::store(gradient + j, v::mul(p, v::sub(v::load(gradient + j), row_delta)));
    }
  }
  multiply_by_derivative<Isa, Columns>(score, rows, columns, raw, gradients, row_step);
  if (partial) {
    // Where lse or dp is NaN (a query that sees a NaN, padding), 2^(-inf - lse) and 0 * dp are NaN too.
    hide<Isa, T, Columns>(mask, rows, columns, logits, row_step, T{0});
    hide<Isa, T, Columns>(mask, rows, columns, gradients, row_step, T{0});
  }
}

/// Scratch of one piece of backward: two operands turned so that the owned tile runs along the lanes, three tiles of
/// numbers (logits, gradients, raw logits), two results, and rows widened to T.
struct backward_sizes {
  index_t owned, other, head_dim, value_dim;

  [[nodiscard]] index_t total() const noexcept {
    const index_t dims = round_up(head_dim, 64) + round_up(value_dim, 64);
    return owned * 2 * (head_dim + value_dim) + 3 * owned * other + 2 * owned + 4 * max(owned, other) * dims;
  }
};

/// Numbers per query that both passes need: lse in units of log 2 (+inf for rows that see nothing, so that their weights are
/// 0) and delta.
template <class T> struct query_statistics {
  const T* lse;
  const T* delta;
};

/// dq of one tile of queries: for each visible tile of keys, dq^T += k^T ds^T.
template <class Isa, class T, class Mask, class Score, class Q, class K, class V, class Dout, class Dq>
void backward_queries(const tile_policy& policy, const Mask& mask, const Score& score, double scale, range rows,
                      const tensor_view<const Q, 2>& q, const tensor_view<const K, 2>& k,
                      const tensor_view<const V, 2>& v, const tensor_view<const Dout, 2>& dout,
                      const query_statistics<T>& statistics, const tensor_view<Dq, 2>& dq, T* scratch) noexcept {
  using simd = arch::simd<Isa, T>;
  const index_t width = policy.q_tile, head_dim = q.extent(1), value_dim = v.extent(1);
  const index_t padded = round_up(rows.size(), simd::lanes);
  T* const queries = scratch;                                 // [head_dim, width]
  T* const douts = queries + width * head_dim;                // [value_dim, width]
  T* const result = douts + width * value_dim;                // [head_dim, width]
  T* const logits = result + width * (head_dim + value_dim);  // [k_tile, width]
  T* const gradients = logits + width * policy.k_tile;        // [k_tile, width]
  T* const raw = gradients + width * policy.k_tile;           // [k_tile, width]
  T* const statistics_buffer = raw + width * policy.k_tile;   // lse and delta, padded to whole registers
  T* const key_buffer = statistics_buffer + 2 * width;
  T* const value_buffer = key_buffer + policy.k_tile * round_up(head_dim, 64);
  T* const clean_buffer = value_buffer + policy.k_tile * round_up(value_dim, 64);

  arch::transpose_into<Isa, T>(q.data + rows.begin * q.stride(0), q.stride(0), rows.size(), head_dim, queries, width,
                               padded);
  scale_tile<Isa>(queries, width, head_dim, padded, static_cast<T>(query_factor<Score>(scale)));
  arch::transpose_into<Isa, T>(dout.data + rows.begin * dout.stride(0), dout.stride(0), rows.size(), value_dim, douts,
                               width, padded);
  for (index_t i = 0; i < padded; ++i) {
    const bool live = i < rows.size();
    statistics_buffer[i] = live ? statistics.lse[rows.begin + i] : std::numeric_limits<T>::infinity();
    statistics_buffer[width + i] = live ? statistics.delta[rows.begin + i] : T{0};
  }
  for (index_t i = 0; i < width * head_dim; ++i) result[i] = T{0};

  const auto add = [&](range keys, bool partial) {
    const auto key = widen<Isa, T>(k.data + keys.begin * k.stride(0), k.stride(0), keys.size(), head_dim, key_buffer);
    const auto value =
        widen<Isa, T>(v.data + keys.begin * v.stride(0), v.stride(0), keys.size(), value_dim, value_buffer);
    arch::multiply<Isa, T, arch::start::zero>(keys.size(), padded, head_dim, key.data, key.row, 1, queries, width,
                                              logits, width);
    arch::multiply<Isa, T, arch::start::zero>(keys.size(), padded, value_dim, value.data, value.row, 1, douts, width,
                                              gradients, width);
    weights_and_gradients<Isa, T, columns_are::queries>(mask, score, keys, rows, padded, statistics_buffer,
                                                        statistics_buffer + width, partial, logits, gradients, raw,
                                                        width);
    weighted_sum<Isa, arch::start::keep, T>(
        partial, keys.size(), rows.size(), padded, head_dim, key.data, key.row, gradients, width, result, width,
        nullptr, clean_buffer, [&](index_t key_row, index_t i) { return mask(rows.begin + i, keys.begin + key_row); });
  };
  for_visible_tiles(
      mask::key_hull(mask, rows, k.extent(0)), policy.k_tile, [&](range keys) { return mask.classify(rows, keys); },
      add);
  scale_tile<Isa>(result, width, head_dim, padded, static_cast<T>(scale));
  arch::transpose_into<Isa, T>(result, width, head_dim, rows.size(), dq.data + rows.begin * dq.stride(0), dq.stride(0),
                               head_dim);
}

/// The part of a gradient tile of keys that one query head adds: dv^T += dout^T p, dk^T += q^T ds over its visible queries.
/// Keys run along the lanes here; their tile is turned once and stays.
template <class Isa, class T> class key_gradients {
  using simd = arch::simd<Isa, T>;

 public:
  key_gradients(const tile_policy& policy, index_t head_dim, index_t value_dim, T* scratch) noexcept
      : width_(policy.q_tile), step_(policy.k_tile), head_dim_(head_dim), value_dim_(value_dim) {
    keys_ = scratch;
    values_ = keys_ + width_ * head_dim;
    dk_ = values_ + width_ * value_dim;
    dv_ = dk_ + width_ * head_dim;
    logits_ = dv_ + width_ * value_dim;
    gradients_ = logits_ + width_ * step_;
    raw_ = gradients_ + width_ * step_;
    query_buffer_ = raw_ + width_ * step_;
    dout_buffer_ = query_buffer_ + step_ * round_up(head_dim, 64);
    clean_buffer_ = dout_buffer_ + step_ * round_up(value_dim, 64);
  }

  template <class K, class V>
  void begin(const tensor_view<const K, 2>& k, const tensor_view<const V, 2>& v, range keys, T factor) noexcept {
    span_ = keys;
    padded_ = round_up(keys.size(), simd::lanes);
    arch::transpose_into<Isa, T>(k.data + keys.begin * k.stride(0), k.stride(0), keys.size(), head_dim_, keys_, width_,
                                 padded_);
    scale_tile<Isa>(keys_, width_, head_dim_, padded_, factor);
    arch::transpose_into<Isa, T>(v.data + keys.begin * v.stride(0), v.stride(0), keys.size(), value_dim_, values_,
                                 width_, padded_);
    for (index_t i = 0; i < width_ * head_dim_; ++i) dk_[i] = T{0};
    for (index_t i = 0; i < width_ * value_dim_; ++i) dv_[i] = T{0};
  }

  template <class Mask, class Score, class Q, class Dout>
  void add_head(const Mask& mask, const Score& score, const tensor_view<const Q, 2>& q,
                const tensor_view<const Dout, 2>& dout, const query_statistics<T>& statistics) noexcept {
    const auto add = [&](range rows, bool partial) {
      const auto query =
          widen<Isa, T>(q.data + rows.begin * q.stride(0), q.stride(0), rows.size(), head_dim_, query_buffer_);
      const auto gradient =
          widen<Isa, T>(dout.data + rows.begin * dout.stride(0), dout.stride(0), rows.size(), value_dim_, dout_buffer_);
      arch::multiply<Isa, T, arch::start::zero>(rows.size(), padded_, head_dim_, query.data, query.row, 1, keys_,
                                                width_, logits_, width_);
      arch::multiply<Isa, T, arch::start::zero>(rows.size(), padded_, value_dim_, gradient.data, gradient.row, 1,
                                                values_, width_, gradients_, width_);
      weights_and_gradients<Isa, T, columns_are::keys>(mask, score, rows, span_, padded_, statistics.lse + rows.begin,
                                                       statistics.delta + rows.begin, partial, logits_, gradients_,
                                                       raw_, width_);
      const auto visible = [&](index_t row, index_t j) { return mask(rows.begin + row, span_.begin + j); };
      weighted_sum<Isa, arch::start::keep, T>(partial, rows.size(), span_.size(), padded_, value_dim_, gradient.data,
                                              gradient.row, logits_, width_, dv_, width_, nullptr, clean_buffer_,
                                              visible);
      weighted_sum<Isa, arch::start::keep, T>(partial, rows.size(), span_.size(), padded_, head_dim_, query.data,
                                              query.row, gradients_, width_, dk_, width_, nullptr, clean_buffer_,
                                              visible);
    };
    for_visible_tiles(
        mask::query_hull(mask, span_, q.extent(0)), step_, [&](range rows) { return mask.classify(rows, span_); }, add);
  }

  template <class Dk, class Dv>
  void finish(double scale, const tensor_view<Dk, 2>& dk, const tensor_view<Dv, 2>& dv) noexcept {
    scale_tile<Isa>(dk_, width_, head_dim_, padded_, static_cast<T>(scale));
    arch::transpose_into<Isa, T>(dk_, width_, head_dim_, span_.size(), dk.data + span_.begin * dk.stride(0),
                                 dk.stride(0), head_dim_);
    arch::transpose_into<Isa, T>(dv_, width_, value_dim_, span_.size(), dv.data + span_.begin * dv.stride(0),
                                 dv.stride(0), value_dim_);
  }

 private:
  index_t width_, step_, head_dim_, value_dim_;
  range span_{};
  index_t padded_ = 0;
  T *keys_, *values_, *dk_, *dv_, *logits_, *gradients_, *raw_, *query_buffer_, *dout_buffer_, *clean_buffer_;
};

/// Everything after validation and position encoding.
template <class Isa, class Policy, class Op, class Q, class K, class V, class Out, class Lse, class Dout, class Dq,
          class Dk, class Dv>
void backward_tiles(const cpu& executor, const Op& op, const problem& p, const tensor_view<const Q, 4>& q,
                    const tensor_view<const K, 4>& k, const tensor_view<const V, 4>& v,
                    const tensor_view<const Out, 4>& out, const tensor_view<const Lse, 3>& lse,
                    const tensor_view<const Dout, 4>& dout, const tensor_view<Dq, 4>& dq, const tensor_view<Dk, 4>& dk,
                    const tensor_view<Dv, 4>& dv) {
  using T = accumulator<Q>;
  constexpr tile_policy policy = Policy::template choose<Isa>();
  static_assert(policy.q_tile > 0 && policy.q_tile % 64 == 0 && policy.k_tile > 0,
                "seqprim: q_tile of an attention policy must be a multiple of 64, and k_tile positive");
  const double scale = op.scale_for(p.head_dim);
  const index_t rows = p.batch * p.heads * p.q_len;
  const scratch<T> statistics(2, rows);
  const auto of_head = [&](index_t b, index_t h) {
    const index_t at = (b * p.heads + h) * p.q_len;
    return query_statistics<T>{statistics.slab(0) + at, statistics.slab(1) + at};
  };
  parallel_for(executor, p.batch * p.heads, [&](index_t piece, int) {
    const index_t b = piece / p.heads, h = piece % p.heads;
    T* const row_lse = statistics.slab(0) + piece * p.q_len;
    T* const delta = statistics.slab(1) + piece * p.q_len;
    for (index_t i = 0; i < p.q_len; ++i) {
      const T natural = lse(b, h, i);
      const bool empty = natural == -std::numeric_limits<T>::infinity();
      row_lse[i] = empty ? std::numeric_limits<T>::infinity() : natural * static_cast<T>(log2_e);
      T sum = 0;
      for (index_t d = 0; d < p.value_dim; ++d)
        sum += static_cast<T>(out(b, h, i, d)) * static_cast<T>(dout(b, h, i, d));
      delta[i] = empty ? T{0} : sum;
    }
  });

  // Two passes, one owner for each piece of the results: nothing is added up across threads, so no bit depends on them.
  const index_t q_tiles = ceil_div(p.q_len, policy.q_tile), k_tiles = ceil_div(p.k_len, policy.q_tile);
  const index_t q_pieces = p.batch * p.heads * q_tiles, k_pieces = p.batch * p.kv_heads * k_tiles;
  if (q_pieces + k_pieces == 0) return;
  const backward_sizes sizes{policy.q_tile, policy.k_tile, p.head_dim, p.value_dim};
  const scratch<T> slabs(static_cast<int>(min<index_t>(max<index_t>(q_pieces + k_pieces, 1), thread_count(executor))),
                         sizes.total());
  parallel_for(executor, q_pieces + k_pieces, [&](index_t piece, int thread) {
    if (piece < k_pieces) {
      const index_t b = piece / k_tiles / p.kv_heads, g = piece / k_tiles % p.kv_heads;
      const index_t begin = piece % k_tiles * policy.q_tile;
      const range keys{begin, min<index_t>(begin + policy.q_tile, p.k_len)};
      key_gradients<Isa, T> gradients(policy, p.head_dim, p.value_dim, slabs.slab(thread));
      gradients.begin(k[b][g], v[b][g], keys,
                      static_cast<T>(query_factor<decltype(score::bind(op.score, b, b))>(scale)));
      for (index_t n = 0; n < p.group(); ++n) {
        const index_t h = p.query_head(g, n);
        gradients.add_head(mask::bind(op.mask, b, h), score::bind(op.score, b, h), q[b][h], dout[b][h], of_head(b, h));
      }
      gradients.finish(scale, dk[b][g], dv[b][g]);
    } else {
      piece -= k_pieces;
      const index_t b = piece / q_tiles / p.heads, h = piece / q_tiles % p.heads;
      const index_t begin = (q_tiles - 1 - piece % q_tiles) * policy.q_tile;
      const range tile{begin, min<index_t>(begin + policy.q_tile, p.q_len)};
      backward_queries<Isa, T>(policy, mask::bind(op.mask, b, h), score::bind(op.score, b, h), scale, tile, q[b][h],
                               k[b][p.kv_head(h)], v[b][p.kv_head(h)], dout[b][h], of_head(b, h), dq[b][h],
                               slabs.slab(thread));
    }
  });
}

}  // namespace detail

/// Attention backward: the gradients of sum(out * dout) by q, k and v, from what forward left (out, lse). Weights are computed
/// again tile by tile; nothing of size q_len x k_len is ever stored, and empty tiles cost nothing.
///
/// Shapes   as forward; dout like out, dq like q, dk like k, dv like v. Gradients of k and v are summed over the query heads
///          that share them.
/// Types    q, k, v, out, dout, dq, dk, dv: float, half, bfloat16, each its own; lse and sums float. All double for checks.
/// Layout   the last axis contiguous, other strides free; dq, dk, dv may not overlap anything else. They are overwritten.
/// Edge     a row without visible key (lse = -inf) has dq = 0 and adds nothing to dk and dv; neither does dout there, even NaN.
/// Errors   precondition_error before anything is written, as forward.
/// Repeat   same bits for any number of threads, for one build and policy.
/// Cost     4 head_dim + 3 value_dim multiply-adds a visible pair and head (forward: head_dim + value_dim); allocates 8 bytes a
///          query row, tile scratch for each thread, and encoded copies of q and k if op.position encodes.
/// Source   Dao et al., "FlashAttention"; spec layers-losses 1.6.  Page docs/reference/attention/backward.md
template <class Isa = arch::native_isa, class Policy = default_policy, class Op, class Q, class K, class V, class Out,
          class Lse, class Dout, class Dq, class Dk, class Dv>
void backward(const cpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, const Out& result,
              const Lse& log_sum_exp, const Dout& result_gradient, Dq&& query_gradient, Dk&& key_gradient,
              Dv&& value_gradient) {
  static_assert(require_op<Op>() && detail::require_operand<Q, 4>() && detail::require_operand<K, 4>() &&
                detail::require_operand<V, 4>() && detail::require_operand<Out, 4>() &&
                detail::require_operand<Lse, 3>() && detail::require_operand<Dout, 4>() &&
                detail::require_result<Dq, 4>() && detail::require_result<Dk, 4>() && detail::require_result<Dv, 4>());
  static_assert(detail::require_one_precision<Q, K, V, Out, Dout, Dq, Dk, Dv>());
  const auto q = tensor_view<const element_of<Q>, 4>(as_view(queries));
  const auto k = tensor_view<const element_of<K>, 4>(as_view(keys));
  const auto v = tensor_view<const element_of<V>, 4>(as_view(values));
  const auto out = tensor_view<const element_of<Out>, 4>(as_view(result));
  const auto lse = tensor_view<const element_of<Lse>, 3>(as_view(log_sum_exp));
  const auto dout = tensor_view<const element_of<Dout>, 4>(as_view(result_gradient));
  const auto dq = tensor_view<element_of<Dq>, 4>(as_view(query_gradient));
  const auto dk = tensor_view<element_of<Dk>, 4>(as_view(key_gradient));
  const auto dv = tensor_view<element_of<Dv>, 4>(as_view(value_gradient));
  static_assert(std::is_same_v<element_of<Lse>, accumulator<element_of<Q>>>,
                "seqprim: lse is float (double when the queries are double)");
  constexpr auto self = detail::entry::backward;
  const detail::problem p = detail::validate_inputs<self>(executor, op, q, k, v);
  detail::expect_shape<self>("out", out, {p.batch, p.heads, p.q_len, p.value_dim});
  detail::expect_shape<self>("lse", lse, {p.batch, p.heads, p.q_len});
  detail::expect_shape<self>("dout", dout, {p.batch, p.heads, p.q_len, p.value_dim});
  detail::expect_shape<self>("dq", dq, {p.batch, p.heads, p.q_len, p.head_dim});
  detail::expect_shape<self>("dk", dk, {p.batch, p.kv_heads, p.k_len, p.head_dim});
  detail::expect_shape<self>("dv", dv, {p.batch, p.kv_heads, p.k_len, p.value_dim});
  detail::expect_contiguous_dim<self>("out", out);
  detail::expect_contiguous_dim<self>("dout", dout);
  const auto expect_fresh = [&](const char* name, const auto& gradient) {
    detail::expect_contiguous_dim<self>(name, gradient);
    detail::expect_distinct<self>(name, gradient);
    detail::expect_apart<self>(name, gradient, "q", q);
    detail::expect_apart<self>(name, gradient, "k", k);
    detail::expect_apart<self>(name, gradient, "v", v);
    detail::expect_apart<self>(name, gradient, "out", out);
    detail::expect_apart<self>(name, gradient, "lse", lse);
    detail::expect_apart<self>(name, gradient, "dout", dout);
  };
  expect_fresh("dq", dq);
  expect_fresh("dk", dk);
  expect_fresh("dv", dv);
  detail::expect_apart<self>("dq", dq, "dk", dk);
  detail::expect_apart<self>("dq", dq, "dv", dv);
  detail::expect_apart<self>("dk", dk, "dv", dv);
  detail::with_encoded<Isa>(
      executor, op, q, k, [&](const auto& plain_op, const auto& q_encoded, const auto& k_encoded) {
        detail::backward_tiles<Isa, Policy>(executor, plain_op, p, q_encoded, k_encoded, v, out, lse, dout, dq, dk, dv);
      });
  detail::gradients_before_encoding<Isa>(executor, op, dq, dk);
}

}  // namespace seqprim::attention
