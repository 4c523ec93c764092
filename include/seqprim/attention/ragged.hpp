// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/append.hpp>
#include <seqprim/attention/decode.hpp>

namespace seqprim::attention {

/// New tokens of sequences of unequal length, concatenated: sequence b has the rows [offsets[b], offsets[b + 1]). A batch of
/// requests that read prompts, continue them in chunks and decode, in one call:
///
///     attention::append(executor, op, ragged{k_new, offsets}, ragged{v_new, offsets}, paged{k_pages, table}, paged{v_pages, table});
///     attention::decode(executor, op, ragged{q_new, offsets}, paged{k_pages, table}, paged{v_pages, table}, out, lse);
///
/// A sequence without new rows is an idle slot: nothing is read or written for it.
///
/// Shapes   rows [1, heads, tokens, dim], any strides with a contiguous last axis; offsets [batch + 1], 0 = offsets[0] <=
///          offsets[1] <= ... = tokens
template <class View> struct ragged {
  View rows;
  index_array offsets;

  SEQPRIM_HD constexpr ragged(const std::type_identity_t<View>& view, const index_array& begins) noexcept
      : rows(view), offsets(begins) {}
  template <class Owner>
  requires(!std::is_same_v<std::remove_cvref_t<Owner>, View>) ragged(Owner&& owner, const index_array& begins)
  noexcept : rows(as_view(owner)), offsets(begins) {}

  [[nodiscard]] SEQPRIM_HD constexpr index_t sequences() const noexcept { return offsets.size() - 1; }
  [[nodiscard]] SEQPRIM_HD constexpr range of(index_t b) const noexcept { return {offsets[b], offsets[b + 1]}; }
};
template <class Owner>
ragged(Owner&& owner, const index_array&) -> ragged<std::remove_cvref_t<decltype(as_view(owner))>>;

namespace detail {

/// A mask or a score of which one batch row is asked.
template <class Part> struct batch_row {
  Part part;
  index_t batch;

  SEQPRIM_HD constexpr auto bind(index_t, index_t head) const noexcept { return part.bind(batch, head); }
  constexpr void validate() const {
    if constexpr (requires { part.validate(); }) part.validate();
  }
  template <class Shape> constexpr void validate(Shape problem) const {
    problem.batch = batch + 1;
    if constexpr (requires { part.validate(problem); }) part.validate(problem);
  }
};

/// The operator of batch row b alone.
template <class Mask, class Score, class Position>
[[nodiscard]] auto operator_of(const softmax<Mask, Score, Position>& op, index_t b) noexcept {
  const auto mask = [&] {
    if constexpr (mask::depends_on_batch_or_head<Mask>) {
      return batch_row<Mask>{op.mask, b};
    } else {
      return op.mask;
    }
  }();
  const auto score = [&] {
    if constexpr (score::depends_on_batch_or_head<Score>) {
      return batch_row<Score>{op.score, b};
    } else {
      return op.score;
    }
  }();
  const auto position = [&] {
    if constexpr (position::is_placed<Position>) {
      return position::placed{op.position.encoding, position::bind(op.position.queries, b),
                              position::bind(op.position.keys, b)};
    } else {
      return op.position;
    }
  }();
  auto result = with_settings_of(softmax<std::remove_const_t<decltype(mask)>, std::remove_const_t<decltype(score)>,
                                         std::remove_const_t<decltype(position)>>(mask, score, position),
                                 op);
  if (op.starts.size() > 0) result = result.starting_at(op.starts[b]);
  return result;
}

/// What the offsets say is checked where the host can read them, which the CPU must.
template <class Executor, class View>
void expect_ragged(const Executor& executor, const subject& self, const char* operand, const ragged<View>& x) {
  const bool readable = x.offsets.host_readable();
  self.expects(x.offsets.size() >= 1 && (readable || !std::is_same_v<Executor, cpu>), "the offsets of ", operand,
               " need n + 1 entries for n sequences", std::is_same_v<Executor, cpu> ? ", in host memory" : "");
  if constexpr (!std::is_same_v<Executor, cpu>) expect_memory(executor, self, "offsets", x.offsets);
  self.expects_offsets("offsets", x.offsets);
  self.expects(x.sequences() > 0 || x.rows.extent(2) == 0, operand, " has ", x.rows.extent(2),
               " rows, but no sequences");
  self.expects(x.rows.extent(0) == 1, operand, " has batch ", x.rows.extent(0),
               "; concatenated sequences have batch 1");
  self.expects(!readable || x.offsets[x.sequences()] == x.rows.extent(2), "the offsets of ", operand, " end at ",
               readable ? x.offsets[x.sequences()] : 0, ", but it has ", x.rows.extent(2), " rows");
}

/// Everything that append of ragged rows requires, but what append of one sequence checks.
template <class Executor, class Op, class K, class V, class StoreK, class StoreV>
void expect_ragged_append(const Executor& executor, const Op& op, const ragged<K>& k, const ragged<V>& v,
                          const paged_cache<StoreK>& k_cache, const paged_cache<StoreV>& v_cache) {
  constexpr subject self{"attention::append", "attention/ragged"};
  expect_ragged(executor, self, "k_new", k);
  expect_ragged(executor, self, "v_new", v);
  const index_t batch = k.sequences();
  self.expects(v.sequences() == batch, "k_new has ", batch, " sequences, v_new ", v.sequences());
  expect_append_memory(executor, batch, op, k.rows, v.rows, k_cache, v_cache);
  if (!k.offsets.host_readable() || !v.offsets.host_readable() || !k_cache.table.host_readable() ||
      !v_cache.table.host_readable()) {
    position::validate_map(position::place(op.position).keys, batch, 0);  // it serves every sequence
    return;
  }
  const auto count = [&](index_t b) { return k.of(b).size(); };
  for (index_t b = 0; b < batch; ++b) {
    self.expects(v.of(b).size() == count(b), "sequence ", b, " has ", count(b), " new keys and ", v.of(b).size(),
                 " new values");
    self.expects(count(b) <= k_cache.length(b) && k_cache.length(b) == v_cache.length(b), "sequence ", b, " has ",
                 count(b), " new rows, ", k_cache.length(b), " keys and ", v_cache.length(b), " values");
    if constexpr (position::is_placed<decltype(Op::position)>)
      position::validate_map(position::shifted_rows{position::bind(op.position.keys, b),
                                                    row_starts{.common = k_cache.length(b) - count(b)}},
                             1, count(b));
  }
  expect_own_pages(k_cache, batch, count);
  expect_own_pages(v_cache, batch, count);
}

/// The cache of sequence b alone.
template <class Store> [[nodiscard]] paged<Store> sequence_of(const paged<Store>& cache, index_t b) noexcept {
  return {cache.pages, cache.table.sequence(b)};
}

/// Runs body(b, executor) for every sequence: side by side where there are enough of them, else each on all threads.
template <class Body> void for_sequences(const cpu& executor, index_t batch, const Body& body) {
  if (batch >= 2 * thread_count(executor)) {
    parallel_for(executor, batch, [&](index_t b, int) { body(b, cpu{.threads = 1}); });
  } else {
    for (index_t b = 0; b < batch; ++b) body(b, executor);
  }
}

}  // namespace detail

/// Decode for ragged queries against pages: the last query of each sequence is at its last key, unless op says otherwise.
///
/// Shapes   queries as `ragged`; out [1, heads, tokens, value_dim]; lse [1, heads, tokens]; the page tables have a row for each
///          sequence, and batch-dependent parts of op count sequences.
/// Errors   precondition_error before anything is written: as decode; offsets that do not fit; a sequence with more new rows than
///          tokens.
/// Repeat   same bits as decode of each sequence alone, for any number of threads.
template <class Isa = arch::native_isa, class Policy = default_policy, class Op, class Q, class StoreK, class StoreV,
          class Out, class Lse>
void decode(const cpu& executor, const Op& op, const ragged<Q>& queries, const paged<StoreK>& keys,
            const paged<StoreV>& values, Out&& result, Lse&& log_sum_exp) {
  constexpr subject self{"attention::decode", "attention/ragged"};
  executor.validate();
  expect_arrays(executor, op);
  detail::expect_ragged(executor, self, "q", queries);
  const index_t batch = queries.sequences();
  const auto out = as_view(result);
  const auto lse = as_view(log_sum_exp);
  const auto k = detail::readable(keys);
  const auto v = detail::readable(values);
  k.validate(batch);
  v.validate(batch);
  const auto q = tensor_view<const element_of<Q>, 4>(queries.rows);
  self.expects(out.extent(2) == q.extent(2) && lse.extent(2) == q.extent(2), "q has ", q.extent(2), " rows, out ",
               out.extent(2), " and lse ", lse.extent(2));
  self.expects(op.starts.size() == 0 || op.starts.size() >= batch, "the op has ", op.starts.size(),
               " starting positions for ", batch, " sequences");
  constexpr auto entry = detail::entry::decode;
  const auto of = [&](const auto& view, index_t b) {  // lse may have no memory
    return view.data == nullptr ? view.slice(2, {0, queries.of(b).size()}) : view.slice(2, queries.of(b));
  };
  for (index_t b = 0; b < batch; ++b) {
    const index_t n = queries.of(b).size();
    self.expects(n <= keys.length(b) && keys.length(b) == values.length(b), "sequence ", b, " has ", n, " new rows, ",
                 keys.length(b), " keys and ", values.length(b), " values");
    if (n == 0) continue;
    const auto one_k = detail::readable(detail::sequence_of(keys, b)),
               one_v = detail::readable(detail::sequence_of(values, b));
    const auto p =
        detail::validate_inputs<entry>(executor, detail::operator_of(op, b), of(q, b), detail::outline(one_k, 1),
                                       detail::outline(one_v, 1), one_k.lengths());
    detail::expect_results<entry>(p, of(q, b), detail::rows_of(k.store), detail::rows_of(v.store), of(out, b),
                                  of(lse, b));
  }
  detail::for_sequences(executor, batch, [&](index_t b, const cpu& threads) {
    if (!queries.of(b).empty())
      decode<Isa, Policy>(threads, detail::operator_of(op, b), of(q, b), detail::sequence_of(keys, b),
                          detail::sequence_of(values, b), of(out, b), of(lse, b));
  });
}

/// The same without lse.
template <class Isa = arch::native_isa, class Policy = default_policy, class Op, class Q, class StoreK, class StoreV,
          class Out>
void decode(const cpu& executor, const Op& op, const ragged<Q>& queries, const paged<StoreK>& keys,
            const paged<StoreV>& values, Out&& result) {
  decode<Isa, Policy>(executor, op, queries, keys, values, result, detail::no_lse(queries.rows));
}

/// Append for ragged new keys and values: they become the last tokens of each sequence, whose lengths in the page table count
/// them already.
///
/// Errors   precondition_error before anything is written: as append to pages; offsets that do not fit; a sequence with more new
///          rows than tokens.
template <class Isa = arch::native_isa, class Op, class NewK, class NewV, class StoreK, class StoreV>
void append(const cpu& executor, const Op& op, const ragged<NewK>& new_keys, const ragged<NewV>& new_values,
            const paged<StoreK>& key_cache, const paged<StoreV>& value_cache) {
  executor.validate();
  detail::expect_ragged_append(executor, op, new_keys, new_values, detail::writable(key_cache),
                               detail::writable(value_cache));
  for (index_t b = 0; b < new_keys.sequences(); ++b)
    if (!new_keys.of(b).empty())
      append<Isa>(executor, detail::operator_of(op, b), new_keys.rows.slice(2, new_keys.of(b)),
                  new_values.rows.slice(2, new_values.of(b)), detail::sequence_of(key_cache, b),
                  detail::sequence_of(value_cache, b));
}

}  // namespace seqprim::attention
