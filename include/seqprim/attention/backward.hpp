// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cpu/key_tile.hpp>
#include <seqprim/attention/detail/cpu/ordered_sum.hpp>
#include <seqprim/attention/detail/encoded.hpp>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/detail/score_gradients.hpp>
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

/// Everything after validation and position encoding.
///
/// A task is one tile of keys: it owns dk and dv there, and adds to dq of the queries that attend to it, in order, and likewise
/// to the gradients of the score. The tiles of one key head are a chain; tasks of different chains share nothing. Chains are worked on
/// together, so that threads seldom wait for each other; a few at a time bound the memory.
template <class Isa, class Policy, class Op, class Inputs, class Results> class backward_pass {
  using Q = element_of<decltype(Inputs::q)>;
  using Dout = element_of<decltype(Inputs::dout)>;
  using Dq = element_of<decltype(Results::dq)>;
  using T = accumulator<Q>;
  using engine =
      key_tile<Isa, T, products_for<Isa, T, Q, element_of<decltype(Inputs::k)>, element_of<decltype(Inputs::v)>, Dout>>;
  using learned_sums = score_sums<decltype(Results::learned)::parameters, decltype(Results::learned)::table,
                                  decltype(Results::learned)::rows>;
  static constexpr tile_policy policy = Policy::template choose<Isa>();
  static_assert(policy.backward_keys > 0 && policy.backward_keys % 64 == 0 && policy.backward_rows > 0,
                "seqprim: backward_keys of an attention policy must be a multiple of 64, and backward_rows positive");

 public:
  backward_pass(const cpu& executor, const Op& op, const problem& p, const Inputs& in, const Results& to)
      : executor_(executor),
        op_(op),
        p_(p),
        in_(in),
        to_(to),
        group_(p.group()),
        chains_(p.batch * p.kv_heads),
        q_tiles_(ceil_div(p.q_len, policy.backward_rows)),
        k_tiles_(ceil_div(p.k_len, policy.backward_keys)),
        padded_dim_(round_up(p.head_dim, arch::simd<Isa, T>::lanes)),
        in_place_(std::is_same_v<Dq, T> && padded_dim_ == p.head_dim),
        table_size_(to.learned.dtable.extent(1)),
        together_(min(chains_,
                      max<index_t>(thread_count(executor), enough / max<index_t>(1, group_ * p.q_len * padded_dim_)))),
        threads_(static_cast<int>(min<index_t>(max<index_t>(1, together_ * k_tiles_), thread_count(executor)))),
        statistics_(2, together_ * group_ * p.q_len),
        sums_(1, in_place_ ? 0 : together_ * group_ * p.q_len * padded_dim_),
        slabs_(threads_, engine::scratch_size(policy, p.head_dim, p.value_dim)),
        score_slabs_(learned_sums::any ? threads_ : 0, table_size_ + policy.backward_rows),
        chain_sums_(together_ * group_, learned_sums::parameters + table_size_),
        head_sums_(p.heads, learned_sums::parameters + table_size_) {}

  void run() {
    for (first_ = 0; first_ < chains_; first_ += together_) {
      count_ = min(together_, chains_ - first_);
      parallel_for(executor_, count_ * group_ * q_tiles_, [&](index_t piece, int) { prepare(piece); });
      run_key_tiles();
      for (index_t slot = 0; slot < count_ * group_; ++slot)
        for (index_t i = 0; i < chain_sums_.extent(1); ++i)
          head_sums_(at(slot).h, i) += std::exchange(chain_sums_(slot, i), 0.0);
      if (!in_place_) parallel_for(executor_, count_ * group_ * q_tiles_, [&](index_t piece, int) { store_dq(piece); });
    }
    for (index_t h = 0; h < p_.heads; ++h) {
      for (int i = 0; i < learned_sums::parameters; ++i) to_.learned.dscore(h, i) = static_cast<T>(head_sums_(h, i));
      for (index_t i = 0; i < table_size_; ++i)
        to_.learned.dtable(h, i) = static_cast<T>(head_sums_(h, learned_sums::parameters + i));
    }
  }

 private:
  static constexpr index_t enough = index_t{1} << 20;  ///< elements of dq that are summed beside it at a time

  struct head_index {
    index_t b, h;
  };
  /// The query head of a slot: slot n + group * chain is the n-th query head of a chain.
  [[nodiscard]] head_index at(index_t slot) const noexcept {
    const index_t chain = first_ + slot / group_;
    return {chain / p_.kv_heads, p_.query_head(chain % p_.kv_heads, slot % group_)};
  }
  [[nodiscard]] range rows_of(index_t tile) const noexcept {
    return {tile * policy.backward_rows, min<index_t>((tile + 1) * policy.backward_rows, p_.q_len)};
  }
  [[nodiscard]] query_head_rows<T, Q, Dout> rows_of_head(index_t slot) const noexcept {
    const auto [b, h] = at(slot);
    query_head_rows<T, Q, Dout> head{.q = in_.q[b][h],
                                     .dout = in_.dout[b][h],
                                     .lse = statistics_.slab(0) + slot * p_.q_len,
                                     .delta = statistics_.slab(1) + slot * p_.q_len,
                                     .dq = sums_.slab(0) + slot * p_.q_len * padded_dim_,
                                     .dq_row = padded_dim_};
    // dq is summed where it lies when its type and rows allow it, else beside.
    if constexpr (std::is_same_v<Dq, T>) {
      if (in_place_) {
        head.dq = to_.dq[b][h].data;
        head.dq_row = to_.dq.strides[2];
      }
    }
    return head;
  }

  /// One tile of queries before the products: computes what belongs to its rows and zeroes what is added to.
  void prepare(index_t piece) const noexcept {
    const index_t slot = piece / q_tiles_;
    const auto [b, h] = at(slot);
    const range rows = rows_of(piece % q_tiles_);
    prepare_rows<Isa, T>(in_.out[b][h], in_.dout[b][h], in_.lse[b][h], rows, statistics_.slab(0) + slot * p_.q_len,
                         statistics_.slab(1) + slot * p_.q_len);
    const auto head = rows_of_head(slot);
    for (index_t i = rows.begin; i < rows.end; ++i)
      for (index_t d = 0; d < padded_dim_; ++d) head.dq[i * head.dq_row + d] = T{0};
    if constexpr (learned_sums::rows)
      for (index_t i = rows.begin; i < rows.end; ++i) to_.learned.drow(b, h, i) = T{0};
  }

  void run_key_tiles() {
    turns order(count_, k_tiles_);
    std::atomic<index_t> started{0};
    const index_t pieces = count_ * k_tiles_;
    parallel_for(executor_, min<index_t>(pieces, thread_count(executor_)), [&](index_t, int thread) {
      const arch::tile_session<Isa> session;
      // Taken in ascending order by whichever threads there are: a piece only ever waits for one that has been taken.
      for (index_t piece = started++; piece < pieces; piece = started++) {
        const index_t chain = piece % count_, tile = piece / count_;
        const index_t b = (first_ + chain) / p_.kv_heads, g = (first_ + chain) % p_.kv_heads;
        const range keys{tile * policy.backward_keys, min<index_t>((tile + 1) * policy.backward_keys, p_.k_len)};
        workspace memory(slabs_.slab(thread));
        engine gradients(policy, p_.head_dim, p_.value_dim, op_.scale_for(p_.head_dim), memory);
        gradients.begin(in_.k[b][g], in_.v[b][g], keys);
        auto turn = order.of(chain, tile);
        for (index_t n = 0; n < group_; ++n) add_head(gradients, turn, chain * group_ + n, keys, thread);
        turn.finish();
        gradients.finish(to_.dk[b][g], to_.dv[b][g]);
      }
    });
  }

  /// What one query head gives to a tile of keys, and the tile to the head.
  template <class Turn> void add_head(engine& gradients, Turn& turn, index_t slot, range keys, int thread) noexcept {
    const index_t b = at(slot).b, h = at(slot).h;
    const auto mask = mask::bind(op_.mask, b, h);
    const auto score = score::bind(op_.score, b, h);
    const auto head = rows_of_head(slot);
    const tensor_view<const element_of<decltype(Inputs::k)>, 2> k = in_.k[b][p_.kv_head(h)];
    const index_t before = slot % group_ * p_.q_len;  // rows of the heads that came first
    learned_sums of_score;
    if constexpr (learned_sums::any) {
      of_score.of_entry = score_slabs_.slab(thread);
      of_score.of_row = of_score.of_entry + table_size_;
      for (index_t i = 0; i < table_size_ + policy.backward_rows; ++i) of_score.of_entry[i] = 0;
    }
    const auto add_rows = [&](range rows, bool partial) {
      turn.begin(before + rows.begin);
      gradients.add(mask, score, head, k, rows, partial, of_score, [&] {
        turn.wait(before + rows.end);
        if constexpr (learned_sums::rows)
          for (index_t i = 0; i < rows.size(); ++i)
            to_.learned.drow(b, h, rows.begin + i) += static_cast<T>(std::exchange(of_score.of_row[i], 0.0));
      });
    };
    for_visible_tiles(
        mask::query_bounds(mask, keys, p_.q_len), policy.backward_rows,
        [&](range rows) { return mask.classify(rows, keys); }, add_rows);
    if constexpr (learned_sums::parameters > 0 || learned_sums::table) {
      turn.wait(before + p_.q_len);
      double* const to = &chain_sums_(slot, 0);
      for (int i = 0; i < learned_sums::parameters; ++i) to[i] += of_score.of_parameter[i];
      for (index_t i = 0; i < table_size_; ++i) to[learned_sums::parameters + i] += of_score.of_entry[i];
    }
  }

  void store_dq(index_t piece) const noexcept {
    const index_t slot = piece / q_tiles_;
    const auto [b, h] = at(slot);
    const tensor_view<Dq, 2> result = to_.dq[b][h];
    const range rows = rows_of(piece % q_tiles_);
    const T* const from = sums_.slab(0) + slot * p_.q_len * padded_dim_;
    for (index_t i = rows.begin; i < rows.end; ++i)
      store_row<Isa>(from + i * padded_dim_, p_.head_dim, result.data + i * result.stride(0));
  }

  const cpu& executor_;
  const Op& op_;
  const problem& p_;
  const Inputs& in_;
  const Results& to_;
  index_t group_, chains_, q_tiles_, k_tiles_, padded_dim_;
  bool in_place_;
  index_t table_size_, together_;
  int threads_;
  index_t first_ = 0, count_ = 0;  ///< the chains at hand
  scratch<T> statistics_, sums_;
  scratch<std::byte> slabs_;
  scratch<double> score_slabs_;
  tensor<double, 2> chain_sums_, head_sums_;  ///< of parameters and table: of the chains at hand, of each head
};

/// Checks everything, then runs.
template <class Isa, class Policy, class Op, class Inputs, class Results>
void run_backward(const cpu& executor, const Op& op, const Inputs& in, const Results& to) {
  constexpr auto self = entry::backward;
  const problem p = validate_inputs<self>(executor, op, in.q, in.k, in.v);
  expect_gradients<self>(p, in, to);
  expect_score_gradients<self>(p, op, in, to);
  with_encoded<Isa>(
      executor, op, p, in.q, in.k, [&](const auto& plain_op, const problem& shape, const auto& q_in, const auto& k_in) {
        with_encoded_gradients<Isa>(executor, op, p, to.dq, to.dk, [&](const auto& dq_in, const auto& dk_in) {
          const backward_inputs plain{q_in, k_in, in.v, in.out, in.lse, in.dout};
          const backward_results results{dq_in, dk_in, to.dv, to.learned};
          arch::with_supported_isa<Isa>([&](auto isa) {
            backward_pass<decltype(isa), Policy, std::remove_cvref_t<decltype(plain_op)>,
                          std::remove_const_t<decltype(plain)>, std::remove_const_t<decltype(results)>>(
                executor, plain_op, shape, plain, results)
                .run();
          });
        });
      });
}

}  // namespace detail

/// Attention backward: gradients of sum(out * dout) with respect to q, k and v, given out and lse of the forward pass.
/// Weights are recomputed tile by tile; nothing of size q_len x k_len is ever stored, and empty tiles cost nothing.
///
///     attention::backward(executor, op, q, k, v, out, lse, dout, attention::gradients{}.dq(dq).dk(dk).dv(dv));
///
/// `.dscore(dscore)` requests the gradients with respect to the parameters of the score: dscore(h, n) belongs to the n-th
/// parameter of the modifier of head h, summed over the batch. `.dtable(dtable)` requests those of its table, dtable(h, n) of
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
///         float with head_dim a multiple of the lanes (16 with AVX-512); encoded copies of q and k if op.position
///         encodes. Gradients of the score take one more evaluation of the modifier per visible pair and 8 bytes for
///         each parameter and entry of the table, times the threads and twice the heads; dtable one scattered addition
///         per visible pair, and one pass over the table for each query head and 64 keys.
/// Source  Dao et al., "FlashAttention".  Page docs/reference/attention/backward.md
template <class Isa = arch::native_isa, class Policy = default_policy, class Op, class Q, class K, class V, class Out,
          class Lse, class Dout, class Gradients>
void backward(const cpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, const Out& result,
              const Lse& log_sum_exp, const Dout& result_gradient, const Gradients& wanted) {
  static_assert(require_op<Op>() && detail::require_operand<Q, 4>() && require_gradients<Gradients>());
  using T = accumulator<element_of<Q>>;
  const auto learned = detail::requested_score_gradients<Op, T>(wanted);
  static_assert(detail::require_operand<K, 4>() && detail::require_operand<V, 4>() &&
                detail::require_operand<Out, 4>() && detail::require_operand<Lse, 3>() &&
                detail::require_operand<Dout, 4>() && detail::require_result<decltype(Gradients::query), 4>() &&
                detail::require_result<decltype(Gradients::key), 4>() &&
                detail::require_result<decltype(Gradients::value), 4>());
  static_assert(detail::require_one_precision<Q, K, V, Out, Dout, decltype(Gradients::query), decltype(Gradients::key),
                                              decltype(Gradients::value)>());
  static_assert(std::is_same_v<element_of<Lse>, T>,
                "seqprim: lse is float (double when the queries are double). See docs/reference/attention/backward.md");
  const detail::backward_inputs in{tensor_view<const element_of<Q>, 4>(as_view(queries)),
                                   tensor_view<const element_of<K>, 4>(as_view(keys)),
                                   tensor_view<const element_of<V>, 4>(as_view(values)),
                                   tensor_view<const element_of<Out>, 4>(as_view(result)),
                                   tensor_view<const element_of<Lse>, 3>(as_view(log_sum_exp)),
                                   tensor_view<const element_of<Dout>, 4>(as_view(result_gradient))};
  const detail::backward_results to{tensor_view<element_of<decltype(Gradients::query)>, 4>(as_view(wanted.query)),
                                    tensor_view<element_of<decltype(Gradients::key)>, 4>(as_view(wanted.key)),
                                    tensor_view<element_of<decltype(Gradients::value)>, 4>(as_view(wanted.value)),
                                    learned};
  detail::run_backward<Isa, Policy>(executor, op, in, to);
}

}  // namespace seqprim::attention
