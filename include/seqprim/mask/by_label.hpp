// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/labels.hpp>
#include <seqprim/mask/rule.hpp>
#include <seqprim/mask/transposed.hpp>

#include <concepts>

namespace seqprim::mask {

namespace detail {

template <class Queries, class Keys> struct relabel;

template <class L> [[nodiscard]] SEQPRIM_HD constexpr index_t restart(const L& labels, range tokens) noexcept {
  if constexpr (requires { labels.restart(tokens); }) {
    return labels.restart(tokens);
  } else {
    return tokens.end;
  }
}

/// `all` without the tokens at both ends that kind_of(range) proves to be empty.
template <class KindOf> [[nodiscard]] SEQPRIM_HD constexpr range trimmed(range all, const KindOf& kind_of) noexcept {
  for (const index_t step : {label_view::group, index_t{1}}) {
    while (!all.empty()) {
      const range first{all.begin, min_of(floor_div(all.begin, step) * step + step, all.end)};
      if (kind_of(first) != tile_kind::empty) break;
      all.begin = first.end;
    }
    while (!all.empty()) {
      const range last{max_of(floor_div(all.end - 1, step) * step, all.begin), all.end};
      if (kind_of(last) != tile_kind::empty) break;
      all.end = last.begin;
    }
  }
  return all;
}

}  // namespace detail

/// A mask that compares labels of tokens instead of their positions.
///
///     visible(q, k)  <=>  inner(label of q, label of k)
///
/// inner = causal{} shows a query the keys whose label is not above its own (ranks, frames, scales, rings), sliding_window{.left =
/// 0} those with the same label (documents, residues, cells), sliding_window{.left = n} those up to n labels below (chunks with
/// n chunks to the left), key_range{1, 2} the keys with label 1. Both sides may have labels of their own. A mask or labels that
/// differ between batch rows may be used in each.
///
/// A tile is classified by the bounds of the labels of its two sides: sound for every `inner`, and exact where the labels fill
/// their bounds. Where `inner` has one range per row, kernels compare labels register by register.
///
/// Errors  precondition_error: fewer labels than tokens; the rules of `inner` and of the label maps.
/// Cost    stored labels: a load for each side of a pair; a tile costs one lookup for 32 tokens of each side and the labels at its
///         ends; key_bounds and query_bounds one lookup for 32 tokens of the other side.
/// Source  ranks: Yang et al., "XLNet: Generalized autoregressive pretraining for language understanding"; rings: Xing et al.,
///         "Mitigating object hallucination via concentric causal attention".
template <bindable Inner, label_source Queries = own, label_source Keys = own> struct by_label {
  Inner inner;
  Queries queries{};
  Keys keys{};

  static constexpr subject self{"mask::by_label", "mask/by_label"};
  static constexpr bool settled = rule<Inner> && label_map<Queries> && label_map<Keys>;
  static constexpr bool ignores_queries = mask::ignores_queries<Inner>;
  static constexpr bool ordered = ordered_ranges<Inner> && ordered_labels<Queries>;

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept requires settled {
    return inner(queries(q), keys(k));
  }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept requires settled {
    const index_t q_cut = detail::restart(queries, q), k_cut = detail::restart(keys, k);
    const tile_kind kind = kind_of({q.begin, q_cut}, {k.begin, k_cut});
    if (q_cut < q.end && kind_of({q_cut, q.end}, {k.begin, k_cut}) != kind) return tile_kind::partial;
    if (k_cut < k.end && kind_of({q.begin, q_cut}, {k_cut, k.end}) != kind) return tile_kind::partial;
    if (q_cut < q.end && k_cut < k.end && kind_of({q_cut, q.end}, {k_cut, k.end}) != kind) return tile_kind::partial;
    return kind;
  }

  /// The range of key labels that a query attends to.
  SEQPRIM_HD constexpr range visible_labels(index_t q) const noexcept requires(settled&& one_range_per_row<Inner>) {
    return inner.visible_keys(queries(q));
  }
  SEQPRIM_HD constexpr index_t key_label(index_t k) const noexcept requires settled { return keys(k); }
  /// Where key labels never decrease, a range of labels is a range of keys.
  SEQPRIM_HD constexpr range visible_keys(index_t q) const noexcept
      requires(settled&& one_range_per_row<Inner>&& ordered_labels<Keys>) {
    return keys.tokens(inner.visible_keys(queries(q)));
  }

  /// Compositions compare labels part by part, so that kernels see the ranges of the parts.
  SEQPRIM_HD constexpr auto composition() const noexcept
      requires(settled && (composed<Inner> || is_transposed<Inner>)) {
    if constexpr (is_transposed<Inner>) {
      using exchanged = by_label<decltype(inner.inner), Keys, Queries>;
      return transposed<exchanged>{{inner.inner, keys, queries}};
    } else {
      return map_parts(composition_of(inner), detail::relabel<Queries, Keys>{queries, keys});
    }
  }

  SEQPRIM_HD constexpr range key_bounds(range q, index_t k_len) const noexcept
      requires(settled && !ordered_labels<Keys> && stored_labels<Keys>) {
    const range labels = queries.bounds(q);
    return detail::trimmed(intersect(labeled(keys), {0, k_len}),
                           [&](range k) { return inner.classify(labels, keys.bounds(k)); });
  }
  SEQPRIM_HD constexpr range query_bounds(range k, index_t q_len) const noexcept
      requires(settled && (ordered_labels<Queries> || stored_labels<Queries>)) {
    const range labels = keys.bounds(k);
    if constexpr (ordered_labels<Queries>) {
      return queries.tokens(mask::query_bounds(inner, labels, range{-unlimited, queries(q_len - 1) + 1}));
    } else {
      return detail::trimmed(intersect(labeled(queries), {0, q_len}),
                             [&](range q) { return inner.classify(queries.bounds(q), labels); });
    }
  }

  SEQPRIM_HD constexpr limits table_limits() const noexcept
      requires(settled && (stored_labels<Queries> || stored_labels<Keys> || reads_table<Inner>)) {
    limits table{labeled(queries), labeled(keys)};
    if constexpr (reads_table<Inner> && ordered_labels<Queries>)
      table.queries = intersect(table.queries, queries.tokens(inner.table_limits().queries));
    if constexpr (reads_table<Inner> && ordered_labels<Keys>)
      table.keys = intersect(table.keys, keys.tokens(inner.table_limits().keys));
    return table;
  }

  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept requires(!settled) {
    return detail::relabel{bind_labels(queries, batch, head),
                           bind_labels(keys, batch, head)}(mask::bind(inner, batch, head));
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    seqprim::for_arrays(inner, visit);
    const auto visit_labels = [&](const subject& source, const char* name, borrowed labels) {
      // Where `inner` reads a table, validation asks for the labels that a call has.
      if (settled && reads_table<Inner> && labels.host == host_access::silent) labels.host = host_access::needed;
      visit(source, name, labels);
    };
    seqprim::for_arrays(queries, visit_labels);
    seqprim::for_arrays(keys, visit_labels);
  }

  constexpr void validate() const {
    mask::validate(inner);
    if constexpr (requires { queries.validate(); }) queries.validate();
    if constexpr (requires { keys.validate(); }) keys.validate();
  }
  constexpr void validate(const shape& problem) const {
    if constexpr (requires { queries.validate(problem.batch); }) queries.validate(problem.batch);
    if constexpr (requires { keys.validate(problem.batch); }) keys.validate(problem.batch);
    expect_in_table(self, {labeled(queries), labeled(keys)}, problem);
    if constexpr (rule<Inner> && reads_table<Inner>) expect_labels(problem);
  }

 private:
  SEQPRIM_HD constexpr tile_kind kind_of(range q, range k) const noexcept {
    return inner.classify(queries.bounds(q), keys.bounds(k));
  }

  /// An inner mask that reads a table is evaluated at labels.
  constexpr void expect_labels(const shape& problem) const {
    if (problem.q_len == 0 || problem.k_len == 0) return;
    if constexpr (settled) {
      const range q = queries.bounds({problem.start, problem.start + problem.q_len}),
                  k = keys.bounds({0, problem.k_len});
      mask::validate(inner, shape{problem.batch, problem.heads, q.size(), k.end, q.begin});
    } else {
      const auto readable = [](const auto& l) {
        if constexpr (requires { l.host_readable; }) return l.host_readable;
        return true;
      };
      if (!readable(queries) || !readable(keys)) return;
      for (index_t b = 0; b < problem.batch; ++b) mask::validate(bind(b, 0), problem);
    }
  }
};
template <bindable Inner, label_source Queries, label_source Keys>
by_label(Inner, Queries, Keys) -> by_label<Inner, Queries, Keys>;

namespace detail {

/// A mask evaluated on labels instead of positions; `full` needs none.
template <class Queries, class Keys> struct relabel {
  Queries queries;
  Keys keys;

  template <rule M> SEQPRIM_HD constexpr auto operator()(const M& m) const noexcept {
    if constexpr (std::same_as<M, full>) {
      return m;
    } else {
      return by_label<M, Queries, Keys>{m, queries, keys};
    }
  }
};
template <class Queries, class Keys> relabel(Queries, Keys) -> relabel<Queries, Keys>;

}  // namespace detail

static_assert(ordered_ranges<by_label<causal, blocks_of, blocks_of>>);
static_assert(one_range_per_row<by_label<causal, label_view, own>> &&
              !ordered_ranges<by_label<causal, label_view, own>>);
static_assert(rule<by_label<causal, label_view, label_view>> &&
              depends_on_batch_or_head<by_label<causal, label_rows, label_rows>>);

}  // namespace seqprim::mask
