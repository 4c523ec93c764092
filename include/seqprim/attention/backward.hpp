// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cpu/key_tile.hpp>
#include <seqprim/attention/detail/cpu/ordered_sum.hpp>
#include <seqprim/attention/detail/encoded.hpp>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/gradients.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/attention/tuning.hpp>
#include <seqprim/core/scratch.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/linalg/reduce.hpp>

#include <atomic>
#include <limits>
#include <type_traits>
#include <utility>

namespace seqprim::attention {

namespace detail {

/// Values per query before the products: lse in units of log 2 and delta = <dout, out>. Rows without a visible key get weights of 0.
template <class Isa, class T, class Out, class Dout, class Lse>
void prepare_rows(const tensor_view<const Out, 2>& out, const tensor_view<const Dout, 2>& dout,
                  const tensor_view<const Lse, 1>& lse, range rows, T* row_lse, T* delta) noexcept {
  for (index_t i = rows.begin; i < rows.end; ++i) {
    const T natural = lse(i);
    const bool empty = natural == -std::numeric_limits<T>::infinity();
    row_lse[i] = empty ? std::numeric_limits<T>::infinity() : natural * static_cast<T>(log2_e);
    delta[i] =
        empty ? T{0} : linalg::dot<Isa, T>(out.data + i * out.stride(0), dout.data + i * dout.stride(0), out.extent(1));
  }
}

/// out[0 .. count) = in[0 .. count), rounded to the type of out.
template <class Isa, class T, class X> void store_row(const T* in, index_t count, X* out) noexcept {
  using v = arch::simd<Isa, T>;
  index_t d = 0;
  for (; d + v::lanes <= count; d += v::lanes) v::store(out + d, v::load(in + d));
  if (d < count) v::store_partial(out + d, v::load(in + d), static_cast<int>(count - d));
}

/// Where the gradients of what the score learns go: views without data where they are not requested.
template <class T, int Parameters, bool Table, bool Rows> struct score_gradients {
  using sums = score_sums<Parameters, Table, Rows>;

  tensor_view<T, 2> dscore;  ///< [heads, Parameters]
  tensor_view<T, 2> dtable;  ///< [heads, table_size]
  tensor_view<T, 3> drow;    ///< [batch, heads, q_len]
};

/// Everything after validation and position encoding.
///
/// A task is one tile of keys: it owns dk and dv there, and adds to dq of the queries that attend to it, in order; so it does to the
/// gradients of the score. The tiles of one key head are a chain; tasks of different chains share nothing.
template <class Isa, class Policy, class Op, class Q, class K, class V, class Out, class Lse, class Dout, class Dq,
          class Dk, class Dv, class Learned>
void backward_tiles(const cpu& executor, const Op& op, const problem& p, const tensor_view<const Q, 4>& q,
                    const tensor_view<const K, 4>& k, const tensor_view<const V, 4>& v,
                    const tensor_view<const Out, 4>& out, const tensor_view<const Lse, 3>& lse,
                    const tensor_view<const Dout, 4>& dout, const tensor_view<Dq, 4>& dq, const tensor_view<Dk, 4>& dk,
                    const tensor_view<Dv, 4>& dv, const Learned& learned) {
  using T = accumulator<Q>;
  using engine = key_tile<Isa, T, products_for<Isa, T, Q, K, V, Dout>>;
  constexpr tile_policy policy = Policy::template choose<Isa>();
  static_assert(policy.backward_keys > 0 && policy.backward_keys % 64 == 0 && policy.backward_rows > 0,
                "seqprim: backward_keys of an attention policy must be a multiple of 64, and backward_rows positive");
  const double scale = op.scale_for(p.head_dim);
  const index_t group = p.group(), chains = p.batch * p.kv_heads;
  const index_t q_tiles = ceil_div(p.q_len, policy.backward_rows), k_tiles = ceil_div(p.k_len, policy.backward_keys);
  // dq is summed where it lies when its type and rows allow it, else beside.
  const index_t padded_dim = round_up(p.head_dim, arch::simd<Isa, T>::lanes);
  const bool in_place = std::is_same_v<Dq, T> && padded_dim == p.head_dim;
  // The gradients of parameters and of the table: of the chains that are worked on, and of each head.
  using learned_sums = typename Learned::sums;
  const index_t table_size = learned.dtable.extent(1), learned_size = learned_sums::parameters + table_size;

  // Chains are worked on together, so that threads seldom wait for each other; a few at a time bound the memory.
  constexpr index_t enough = index_t{1} << 20;  // numbers
  const index_t chain_size = max<index_t>(1, group * p.q_len * padded_dim);
  const index_t together = min(chains, max<index_t>(thread_count(executor), enough / chain_size));
  const index_t heads = together * group;
  const scratch<T> statistics(2, heads * p.q_len);
  const scratch<T> sums(1, in_place ? 0 : heads * p.q_len * padded_dim);
  const auto threads = static_cast<int>(min<index_t>(max<index_t>(1, together * k_tiles), thread_count(executor)));
  const scratch<std::byte> slabs(threads, engine::scratch_size(policy, p.head_dim, p.value_dim));
  tensor<double, 2> chain_sums(heads, learned_size), head_sums(p.heads, learned_size);
  const scratch<double> score_slabs(learned_sums::any ? threads : 0, table_size + policy.backward_rows);
  const auto rows_of = [&](index_t tile) {
    return range{tile * policy.backward_rows, min<index_t>((tile + 1) * policy.backward_rows, p.q_len)};
  };

  for (index_t first = 0; first < chains; first += together) {
    const index_t count = min(together, chains - first);
    // The n-th query head of a chain.
    const auto head_of = [&](index_t chain, index_t n) { return p.query_head((first + chain) % p.kv_heads, n); };
    const auto rows_of_head = [&](index_t chain, index_t n) {
      const index_t b = (first + chain) / p.kv_heads, h = head_of(chain, n), slot = chain * group + n;
      query_head_rows<T, Q, Dout> head{.q = q[b][h],
                                       .dout = dout[b][h],
                                       .lse = statistics.slab(0) + slot * p.q_len,
                                       .delta = statistics.slab(1) + slot * p.q_len,
                                       .dq = sums.slab(0) + slot * p.q_len * padded_dim,
                                       .dq_row = padded_dim};
      if constexpr (std::is_same_v<Dq, T>) {
        if (in_place) {
          head.dq = dq[b][h].data;
          head.dq_row = dq.strides[2];
        }
      }
      return head;
    };
    parallel_for(executor, count * group * q_tiles, [&](index_t piece, int) {
      const index_t slot = piece / q_tiles, chain = slot / group, n = slot % group;
      const index_t b = (first + chain) / p.kv_heads, h = head_of(chain, n);
      const range rows = rows_of(piece % q_tiles);
      prepare_rows<Isa, T>(out[b][h], dout[b][h], lse[b][h], rows, statistics.slab(0) + slot * p.q_len,
                           statistics.slab(1) + slot * p.q_len);
      const auto head = rows_of_head(chain, n);
      for (index_t i = rows.begin; i < rows.end; ++i)
        for (index_t d = 0; d < padded_dim; ++d) head.dq[i * head.dq_row + d] = T{0};
      if constexpr (learned_sums::rows)
        for (index_t i = rows.begin; i < rows.end; ++i) learned.drow(b, h, i) = T{0};
    });

    turns order(count, k_tiles);
    std::atomic<index_t> started{0};
    parallel_for(executor, min<index_t>(count * k_tiles, thread_count(executor)), [&](index_t, int thread) {
      const arch::tile_session<Isa> session;
      // Taken in ascending order by whichever threads there are: a piece only ever waits for one that has been taken.
      for (index_t piece = started++; piece < count * k_tiles; piece = started++) {
        const index_t chain = piece % count, tile = piece / count;
        const index_t b = (first + chain) / p.kv_heads, g = (first + chain) % p.kv_heads;
        const range keys{tile * policy.backward_keys, min<index_t>((tile + 1) * policy.backward_keys, p.k_len)};
        workspace memory(slabs.slab(thread));
        engine gradients(policy, p.head_dim, p.value_dim, scale, memory);
        gradients.begin(k[b][g], v[b][g], keys);
        auto turn = order.of(chain, tile);
        for (index_t n = 0; n < group; ++n) {
          const index_t h = head_of(chain, n);
          const auto mask = mask::bind(op.mask, b, h);
          const auto score = score::bind(op.score, b, h);
          const auto head = rows_of_head(chain, n);
          learned_sums of_score;
          if constexpr (learned_sums::any) {
            of_score.of_entry = score_slabs.slab(thread);
            of_score.of_row = of_score.of_entry + table_size;
            for (index_t i = 0; i < table_size + policy.backward_rows; ++i) of_score.of_entry[i] = 0;
          }
          for_visible_tiles(
              mask::query_bounds(mask, keys, p.q_len), policy.backward_rows,
              [&](range rows) { return mask.classify(rows, keys); },
              [&](range rows, bool partial) {
                turn.begin(n * p.q_len + rows.begin);
                gradients.add(mask, score, head, k[b][g], rows, partial, of_score, [&] {
                  turn.wait(n * p.q_len + rows.end);
                  if constexpr (learned_sums::rows)
                    for (index_t i = 0; i < rows.size(); ++i)
                      learned.drow(b, h, rows.begin + i) += static_cast<T>(std::exchange(of_score.of_row[i], 0.0));
                });
              });
          if constexpr (learned_sums::parameters > 0 || learned_sums::table) {
            turn.wait((n + 1) * p.q_len);
            double* const to = &chain_sums(chain * group + n, 0);
            for (int i = 0; i < learned_sums::parameters; ++i) to[i] += of_score.of_parameter[i];
            for (index_t i = 0; i < table_size; ++i) to[learned_sums::parameters + i] += of_score.of_entry[i];
          }
        }
        turn.finish();
        gradients.finish(dk[b][g], dv[b][g]);
      }
    });

    for (index_t slot = 0; slot < count * group; ++slot)
      for (index_t i = 0; i < learned_size; ++i)
        head_sums(head_of(slot / group, slot % group), i) += std::exchange(chain_sums(slot, i), 0.0);

    if (in_place) continue;
    parallel_for(executor, count * group * q_tiles, [&](index_t piece, int) {
      const index_t slot = piece / q_tiles, chain = slot / group, n = slot % group;
      const tensor_view<Dq, 2> result = dq[(first + chain) / p.kv_heads][head_of(chain, n)];
      const range rows = rows_of(piece % q_tiles);
      const T* const from = sums.slab(0) + slot * p.q_len * padded_dim;
      for (index_t i = rows.begin; i < rows.end; ++i)
        store_row<Isa>(from + i * padded_dim, p.head_dim, result.data + i * result.stride(0));
    });
  }
  for (index_t h = 0; h < p.heads; ++h) {
    for (int i = 0; i < learned_sums::parameters; ++i) learned.dscore(h, i) = static_cast<T>(head_sums(h, i));
    for (index_t i = 0; i < table_size; ++i)
      learned.dtable(h, i) = static_cast<T>(head_sums(h, learned_sums::parameters + i));
  }
}

/// Checks everything, then runs.
template <class Isa, class Policy, class Op, class Q, class K, class V, class Out, class Lse, class Dout, class Dq,
          class Dk, class Dv, class Learned>
void run_backward(const cpu& executor, const Op& op, const Q& queries, const K& keys, const V& values,
                  const Out& result, const Lse& log_sum_exp, const Dout& result_gradient, const Dq& query_gradient,
                  const Dk& key_gradient, const Dv& value_gradient, const Learned& learned) {
  static_assert(require_op<Op>() && require_operand<Q, 4>() && require_operand<K, 4>() && require_operand<V, 4>() &&
                require_operand<Out, 4>() && require_operand<Lse, 3>() && require_operand<Dout, 4>() &&
                require_result<Dq, 4>() && require_result<Dk, 4>() && require_result<Dv, 4>());
  static_assert(require_one_precision<Q, K, V, Out, Dout, Dq, Dk, Dv>());
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
                "seqprim: lse is float (double when the queries are double). See docs/reference/attention/backward.md");
  constexpr auto self = entry::backward;
  const problem p = validate_inputs<self>(executor, op, q, k, v);
  expect_gradients<self>(p, q, k, v, out, lse, dout, dq, dk, dv);
  const auto expect_own_memory = [&](const char* name, const auto& gradient, const auto&... others) {
    expect_distinct<self>(name, gradient);
    const auto apart = [&](const char* other, const auto& operand) {
      expect_apart<self>(name, gradient, other, operand);
    };
    apart("q", q);
    apart("k", k);
    apart("v", v);
    apart("out", out);
    apart("lse", lse);
    apart("dout", dout);
    apart("dq", dq);
    apart("dk", dk);
    apart("dv", dv);
    (apart("another gradient of the score", others), ...);
  };
  if constexpr (Learned::sums::parameters > 0) {
    expect_shape<self>("dscore", learned.dscore,
                       {p.heads_axis(), {Learned::sums::parameters, "parameters", "the score"}});
    expect_own_memory("dscore", learned.dscore, learned.dtable, learned.drow);
  }
  if constexpr (Learned::sums::table) {
    const auto expect_entries = [&](index_t table_size) {
      expect_shape<self>("dtable", learned.dtable, {p.heads_axis(), {table_size, "entries", "the table of the score"}});
    };
    if (p.batch * p.heads == 0) expect_entries(learned.dtable.extent(1));
    for (index_t b = 0; b < p.batch; ++b)
      for (index_t h = 0; h < p.heads; ++h) expect_entries(score::bind(op.score, b, h).table_size());
    expect_own_memory("dtable", learned.dtable, learned.drow);
  }
  if constexpr (Learned::sums::rows) {
    expect_shape<self>("drow", learned.drow, {p.batch_axis(), p.heads_axis(), p.q_len_axis()});
    expect_own_memory("drow", learned.drow);
  }
  with_encoded<Isa>(executor, op, p, q, k,
                    [&](const auto& plain_op, const problem& shape, const auto& q_in, const auto& k_in) {
                      with_encoded_gradients<Isa>(executor, op, p, dq, dk, [&](const auto& dq_in, const auto& dk_in) {
                        arch::with_supported_isa<Isa>([&](auto isa) {
                          backward_tiles<decltype(isa), Policy>(executor, plain_op, shape, q_in, k_in, v, out, lse,
                                                                dout, dq_in, dk_in, dv, learned);
                        });
                      });
                    });
}

/// The score modifier of one head.
template <class Op>
using bound_score = std::remove_cvref_t<decltype(score::bind(std::declval<const Op&>().score, 0, 0))>;

}  // namespace detail

/// Attention backward: gradients of sum(out * dout) with respect to q, k and v, given out and lse of the forward pass.
/// Weights are recomputed tile by tile; nothing of size q_len x k_len is ever stored, and empty tiles cost nothing.
///
///     attention::backward(executor, op, q, k, v, out, lse, dout, attention::gradients{}.dq(dq).dk(dk).dv(dv));
///
/// `.dscore(dscore)` adds the gradients with respect to the parameters of the score: dscore(h, n) belongs to the n-th
/// parameter of the modifier of head h, summed over the batch. `.dtable(dtable)` adds those of its table, dtable(h, n) of
/// entry n, also summed over the batch; `.drow(drow)` those of the value of each row. What heads share has the sum over
/// them as its gradient.
///
/// Shapes  as forward; dout like out, dq like q, dk like k, dv like v; dscore [heads, score::parameters];
///         dtable [heads, table_size()]; drow [batch, heads, q_len]. Gradients of k and v are summed over the query heads
///         that share them.
/// Types   q, k, v, out, dout, dq, dk, dv: float, float16, bfloat16, each its own; lse, dscore, dtable, drow and
///         sums float. All double for gradient checks.
/// Layout  the last axis contiguous, other strides free. Results are overwritten; dq, dk and dv may be slices of one
///         interleaved buffer (the gradient of a fused projection), but overlap nothing else.
/// Edge    a row without visible key (lse = -inf) has dq = 0 and adds nothing to dk and dv, whatever dout holds there.
///         Hidden keys get 0 and are never used.
/// Errors  precondition_error before anything is written, as forward.
/// Repeat  same bits for any number of threads, for one build and policy: dq and drow are accumulated in the order
///         of the keys, dscore and dtable in double, tile after tile.
/// Cost    3 head_dim + 2 value_dim multiply-adds per visible pair and head (forward: head_dim + value_dim). Where q,
///         k, v and dout are bfloat16 and the processor multiplies pairs of them, products run on pairs with float
///         sums, and p and the gradients of the logits are rounded to bfloat16. Allocates tile scratch for each thread;
///         for at least as many key heads as there are threads 8 bytes per query row, and 4 head_dim more unless dq is
///         float with head_dim a multiple of 16; encoded copies of q and k if op.position encodes; with gradients of
///         the score 8 bytes for each parameter and entry of each thread, head, and head of the key heads that are worked on
///         together, and one more evaluation of the modifier per visible pair; with dtable one scattered addition per
///         visible pair.
/// Source  Dao et al., "FlashAttention".  Page docs/reference/attention/backward.md
template <class Isa = arch::native_isa, class Policy = default_policy, class Op, class Q, class K, class V, class Out,
          class Lse, class Dout, class Gradients>
void backward(const cpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, const Out& result,
              const Lse& log_sum_exp, const Dout& result_gradient, const Gradients& wanted) {
  static_assert(require_op<Op>() && detail::require_operand<Q, 4>() && require_gradients<Gradients>());
  using T = accumulator<element_of<Q>>;
  using score_type = detail::bound_score<Op>;
  constexpr bool by_parameter = is_wanted<decltype(Gradients::score)>, by_table = is_wanted<decltype(Gradients::table)>,
                 by_row = is_wanted<decltype(Gradients::row)>;
  constexpr int parameters = score::parameters<score_type>;
  static_assert(!by_parameter || parameters > 0,
                "seqprim: this score modifier has no parameters to learn: it lacks 'static constexpr int "
                "parameters' and 'parameter_derivative'. See docs/reference/score/rule.md");
  static_assert(
      !by_table || score::differentiable_by_table<score_type>,
      "seqprim: this score modifier has no table to learn: it lacks 'static constexpr bool learns_table = true', "
      "'table_size', 'table_index' and 'table_derivative', or two of its parts have a table. See "
      "docs/reference/score/rule.md");
  static_assert(!by_row || score::differentiable_by_row<score_type>,
                "seqprim: this score modifier has no values of rows to learn: it lacks 'row_derivative', or two of its "
                "parts have one. See docs/reference/score/rule.md");
  detail::score_gradients<T, by_parameter ? parameters : 0, by_table, by_row> learned{};
  const auto take = [](auto& to, const auto& from) {
    using View = std::remove_cvref_t<decltype(to)>;
    using Given = std::remove_cvref_t<decltype(from)>;
    static_assert(detail::require_result<Given, View::rank>());
    static_assert(std::is_same_v<element_of<Given>, T>,
                  "seqprim: the gradients of what a score learns are float (double when the queries are double). See "
                  "docs/reference/attention/backward.md");
    to = View(from);
  };
  if constexpr (by_parameter) take(learned.dscore, wanted.score);
  if constexpr (by_table) take(learned.dtable, wanted.table);
  if constexpr (by_row) take(learned.drow, wanted.row);
  detail::run_backward<Isa, Policy>(executor, op, queries, keys, values, result, log_sum_exp, result_gradient,
                                    wanted.query, wanted.key, wanted.value, learned);
}

}  // namespace seqprim::attention
