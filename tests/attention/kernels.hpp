// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/backward.hpp>
#include <seqprim/attention/decode.hpp>
#include <seqprim/attention/forward.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/tensor.hpp>

#include <attention/naive_backward.hpp>
#include <attention/problem.hpp>
#include <support/any_mask.hpp>
#include <support/any_score.hpp>
#include <type_traits>

/// Attention compiled once for each instruction set (kernels_*.cpp), for operators whose mask and score are chosen at run time.
/// The tests call these like the entry points themselves, and are compiled once for all instruction sets. Masks by themselves,
/// types of masks and of scores in lanes, and positions have tests of their own.
namespace seqprim::test::kernels {

/// The two operators that the kernels are compiled for: a range of keys for each row and logits as they are; and a mask that
/// is asked pair by pair with a modifier.
using ranges_op = attention::softmax<any_mask<any_ranges>>;
using pairs_op = attention::softmax<any_mask<any_rule>, any_score>;

/// f(operator) of those two that can stand for `op` while the call lasts.
template <class Mask, class Score, class F>
void with_any(const attention::softmax<Mask, Score>& op, index_t q_len, index_t k_len, const F& f) {
  const auto settle = [&](auto any) {
    any = attention::detail::with_settings_of(any, op);
    if constexpr (mask::places_queries<Mask>)
      if (op.starts.size() == 0 && op.start == attention::last_query_at_last_key)
        any = any.starting_at(mask::query_starts(op.mask, q_len, k_len).common);
    f(any);
  };
  if constexpr (mask::one_range_per_row<mask::bound<Mask>> && std::is_same_v<Score, score::identity>) {
    any_mask_of<Mask, any_ranges> mask(op.mask);
    settle(ranges_op{mask.view()});
  } else {
    any_mask_of<Mask, any_rule> mask(op.mask);
    any_score_of<Score> score(op.score);
    settle(pairs_op{mask.view(), score.view()});
  }
}

/// Binds mask and score of an operator as validation in an entry point does.
template <class Op, class T> void bind_any(const Op& op, const attention_problem<T>& p) {
  const range starts = attention::detail::starts_of(op, p.q_len, p.k_len).bounds(p.batch);
  const index_t positions = p.q_len + max<index_t>(starts.size() - 1, 0);
  op.mask.validate({p.batch, p.heads, positions, p.k_len, starts.begin});
  score::validate(op.score, {p.batch, p.heads, positions, p.k_len, starts.begin});
}

/// Decode cuts a cache often, so that small tests merge many parts.
struct short_splits {
  template <class Isa> static constexpr attention::tile_policy choose() noexcept { return {.split_keys = 32}; }
};
inline constexpr index_t split_keys = 32;

/// The tile sizes of forward.
[[nodiscard]] attention::tile_policy policy();

template <class T> using operand = tensor_view<const T, 4>;
template <class T> using result = tensor_view<T, 4>;
using lse_result = tensor_view<float, 3>;

// Defined in kernels_forward.cpp, kernels_backward.cpp and kernels_decode.cpp.
template <class Op, class T>
void compiled_forward(const cpu&, const Op&, const operand<T>& q, const operand<T>& k, const operand<T>& v,
                      const result<T>& out, const lse_result& lse);
template <class Op, class T>
void compiled_backward(const cpu&, const Op&, const operand<T>& q, const operand<T>& k, const operand<T>& v,
                       const operand<T>& out, const tensor_view<const float, 3>& lse, const operand<T>& dout,
                       const result<T>& dq, const result<T>& dk, const result<T>& dv);
/// The same with gradients of the score: dscore [heads, 2], dtable as long as the table, drow [batch, heads, q_len].
template <class T>
void compiled_backward_learned(const cpu&, const pairs_op&, const operand<T>& q, const operand<T>& k,
                               const operand<T>& v, const operand<T>& out, const tensor_view<const float, 3>& lse,
                               const operand<T>& dout, const result<T>& dq, const result<T>& dk, const result<T>& dv,
                               const tensor_view<float, 2>& dscore, const tensor_view<float, 2>& dtable,
                               const tensor_view<float, 3>& drow);
template <class Op, class Q, class Cache, class Out>
void compiled_decode(const cpu&, const Op&, const operand<Q>& q, const Cache& k, const Cache& v, const result<Out>& out,
                     const lse_result& lse);

// The naive loops in the precision of the kernels, compiled with the same flags: their errors are what kernels are measured by.
template <class Op, class T>
void compiled_naive_forward(const Op&, const attention_problem<T>&, tensor<float, 4>& out, tensor<float, 3>& lse);
template <class Op, class T>
void compiled_naive_gradients(const Op&, const attention_problem<T>&, const tensor<T, 4>& out,
                              const tensor<float, 3>& lse, const tensor<T, 4>& dout, tensor<float, 4>& dq,
                              tensor<float, 4>& dk, tensor<float, 4>& dv, const naive_sums&);

namespace detail {

/// The lse that a test did not ask for.
template <class Q> tensor<float, 3> some_lse(const Q& q) {
  return tensor<float, 3>(q.extent(0), q.extent(1), q.extent(2));
}

/// One type for caches of each kind.
template <class T> operand<std::remove_const_t<T>> cache_of(const tensor_view<T, 4>& rows) { return rows; }
template <class T> operand<T> cache_of(const tensor<T, 4>& rows) { return rows.view(); }
template <class C, class S>
attention::quantized<const std::int8_t, const float> cache_of(const attention::quantized<C, S>& x) {
  return {x.codes, x.scales};
}
template <class Store> auto cache_of(const attention::paged<Store>& x) {
  const auto store = cache_of(x.pages);
  return attention::paged<std::remove_const_t<decltype(store)>>(store, x.table);
}
template <class C> index_t longest(const C& cache, index_t batch) {
  if constexpr (attention::is_paged<C>)
    return cache.table.longest(batch);
  else
    return cache.extent(2);
}

}  // namespace detail

/// Operators with positions, and all in double, are compiled where they are called.
template <class Op, class Q>
inline constexpr bool is_compiled =
    std::is_same_v<decltype(Op::position), position::none> && !std::is_same_v<element_of<Q>, double>;

template <class Op, class Q, class K, class V, class Out, class Lse>
void forward(const cpu& executor, const Op& op, const Q& q, const K& k, const V& v, Out&& out, Lse&& lse) {
  if constexpr (is_compiled<Op, Q>) {
    with_any(op, as_view(q).extent(2), as_view(k).extent(2), [&]<class Any>(const Any& any) {
      compiled_forward<Any, element_of<Q>>(executor, any, as_view(q), as_view(k), as_view(v), as_view(out),
                                           as_view(lse));
    });
  } else {
    attention::forward(executor, op, q, k, v, out, lse);
  }
}
template <class Op, class Q, class K, class V, class Out>
void forward(const cpu& executor, const Op& op, const Q& q, const K& k, const V& v, Out&& out) {
  if constexpr (is_compiled<Op, Q>)
    kernels::forward(executor, op, q, k, v, out, detail::some_lse(as_view(out)));
  else
    attention::forward(executor, op, q, k, v, out);
}

template <class Op, class Q, class K, class V, class Out, class Lse, class Dout, class Gradients>
void backward(const cpu& executor, const Op& op, const Q& q, const K& k, const V& v, const Out& out, const Lse& lse,
              const Dout& dout, const Gradients& wanted) {
  if constexpr (!is_compiled<Op, Q>) {
    attention::backward(executor, op, q, k, v, out, lse, dout, wanted);
  } else if constexpr (attention::is_wanted<decltype(wanted.score)> || attention::is_wanted<decltype(wanted.table)> ||
                       attention::is_wanted<decltype(wanted.row)>) {
    // All three are compiled together; those not asked for go nowhere.
    const index_t batch = as_view(q).extent(0), heads = as_view(q).extent(1);
    index_t entries = 0;
    if constexpr (score::differentiable_by_table<attention::detail::bound_score<Op>>)
      entries = score::bind(op.score, 0, 0).table_size();
    tensor<float, 2> both(heads, 2), table(heads, entries);  // parameters of the score: one or two
    tensor<float, 3> rows(batch, heads, as_view(q).extent(2));
    tensor_view<float, 2> dtable = table.view();
    tensor_view<float, 3> drow = rows.view();
    if constexpr (attention::is_wanted<decltype(wanted.table)>) dtable = wanted.table;
    if constexpr (attention::is_wanted<decltype(wanted.row)>) drow = wanted.row;
    with_any(op, as_view(q).extent(2), as_view(k).extent(2), [&](const auto& any) {
      compiled_backward_learned<element_of<Q>>(executor, any, as_view(q), as_view(k), as_view(v), as_view(out),
                                               as_view(lse), as_view(dout), wanted.query, wanted.key, wanted.value,
                                               both.view(), dtable, drow);
    });
    if constexpr (attention::is_wanted<decltype(wanted.score)>)
      for (index_t h = 0; h < heads; ++h)
        for (index_t n = 0; n < wanted.score.extent(1); ++n) wanted.score(h, n) = both(h, n);
  } else {
    with_any(op, as_view(q).extent(2), as_view(k).extent(2), [&]<class Any>(const Any& any) {
      compiled_backward<Any, element_of<Q>>(executor, any, as_view(q), as_view(k), as_view(v), as_view(out),
                                            as_view(lse), as_view(dout), wanted.query, wanted.key, wanted.value);
    });
  }
}

template <class Op, class Q, class K, class V, class Out, class Lse>
void decode(const cpu& executor, const Op& op, const Q& q, const K& k, const V& v, Out&& out, Lse&& lse) {
  if constexpr (is_compiled<Op, Q>) {
    const auto keys = detail::cache_of(k), values = detail::cache_of(v);
    with_any(op, as_view(q).extent(2), detail::longest(keys, as_view(q).extent(0)), [&]<class Any>(const Any& any) {
      compiled_decode<Any, element_of<Q>, std::remove_const_t<decltype(keys)>, element_of<Out>>(
          executor, any, as_view(q), keys, values, as_view(out), as_view(lse));
    });
  } else {
    attention::decode<arch::native_isa, short_splits>(executor, op, q, k, v, out, lse);
  }
}
template <class Op, class Q, class K, class V, class Out>
void decode(const cpu& executor, const Op& op, const Q& q, const K& k, const V& v, Out&& out) {
  kernels::decode(executor, op, q, k, v, out, detail::some_lse(as_view(out)));
}

template <class Op, class T>
void naive_forward(const Op& op, const attention_problem<T>& p, tensor<float, 4>& out, tensor<float, 3>& lse) {
  with_any(op, p.q_len, p.k_len, [&]<class Any>(const Any& any) { compiled_naive_forward<Any, T>(any, p, out, lse); });
}
template <class Op, class T>
void naive_gradients(const Op& op, const attention_problem<T>& p, const tensor<T, 4>& out, const tensor<float, 3>& lse,
                     const tensor<T, 4>& dout, tensor<float, 4>& dq, tensor<float, 4>& dk, tensor<float, 4>& dv,
                     const naive_sums& learned = {}) {
  tensor<float, 2> both(p.heads, 2);
  with_any(op, p.q_len, p.k_len, [&]<class Any>(const Any& any) {
    compiled_naive_gradients<Any, T>(any, p, out, lse, dout, dq, dk, dv, {&both, learned.dtable, learned.drow});
  });
  if (learned.dscore == nullptr) return;
  for (index_t h = 0; h < p.heads; ++h)
    for (index_t n = 0; n < learned.dscore->extent(1); ++n) (*learned.dscore)(h, n) = both(h, n);
}

}  // namespace seqprim::test::kernels
