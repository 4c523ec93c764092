// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/packing.hpp>
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/full.hpp>
#include <seqprim/mask/rule.hpp>

#include <concepts>

namespace seqprim::mask {

namespace detail {

/// One head of a mask that differs between sequences.
template <depends_on_batch_or_head M> struct by_sequence {
  M mask;
  index_t head;
};
template <class M> inline constexpr bool is_by_sequence = false;
template <class M> inline constexpr bool is_by_sequence<by_sequence<M>> = true;

/// The rule inside of sequence d.
template <rule M> [[nodiscard]] SEQPRIM_HD constexpr M rule_inside(const M& m, index_t) noexcept { return m; }
template <class M>
[[nodiscard]] SEQPRIM_HD constexpr auto rule_inside(const by_sequence<M>& m, index_t sequence) noexcept {
  return m.mask.bind(sequence, m.head);
}

template <class M> concept ranges_inside = requires(const M& m) {
  { detail::rule_inside(m, index_t{}) } -> one_range_per_row;
};

template <class M> inline constexpr bool is_combination = false;
template <class A, class B> inline constexpr bool is_combination<both<A, B>> = true;
template <class A, class B> inline constexpr bool is_combination<either<A, B>> = true;
template <class A> inline constexpr bool is_combination<inverse<A>> = true;
template <class M>
concept composed = rule<M> && !one_range_per_row<M> && (is_combination<M> || requires(const M& m) { m.composition(); });

template <rule M> [[nodiscard]] SEQPRIM_HD constexpr auto pack_parts(const packing& sequences, const M& m) noexcept;

}  // namespace detail

/// A packed (varlen) batch as a mask: a query sees the keys of its own sequence as far as `inner` lets it. Attention over the
/// packed rows is then attention over each sequence alone, forward, backward and decode, and tiles between two sequences
/// are skipped.
///
///     visible(q, k)  <=>  q and k lie in one sequence d, and inner(position of q, position of k) within it
///
/// Positions are those of `packing`: with alignment::bottom_right, the default, the last query of each sequence stands at its
/// last key, so that `inner` = causal{} serves prefill, chunks behind a cache and decoding in one call; an offset of the
/// inner mask counts on top. An inner mask that depends on the batch row gets the sequence as its batch row:
/// prefix_per_batch{lengths} is a prefix length for each sequence. Where a sequence has more queries than keys, bottom_right asks
/// `inner` about rows below 0.
///
/// Rows of a sequence without keys see nothing. Where `inner` has one run per row, so has the packed mask.
///
/// Errors  precondition_error: as packing::validate; the offsets do not end at q_len and k_len; `inner` does not fit a sequence.
/// Cost    O(log sequences) per pair and row. A tile costs O(log sequences) for each sequence that is tried until one is
///         visible, most often the first. classify() is as exact as that of `inner`.
/// Source  spec masks-text 4.7 (documents, "q and k packed differently") and 1 (alignment); golden masks-text/doc_*.
template <class Inner> struct packed {
  static_assert(
      bindable<Inner> || detail::is_by_sequence<Inner>,
      "seqprim: the inner part of 'mask::packed{packing, inner}' is a mask. See docs/reference/mask/packed.md");

  packing sequences;
  Inner inner{};

  static constexpr bool settled = !depends_on_batch_or_head<Inner>;

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept requires settled {
    if (q < 0 || q >= sequences.q_len()) return false;
    const index_t d = sequences.sequence_of_query(q);
    return sequences.keys(d).contains(k) && inside(d)(position(d, q), k - sequences.k_offsets[d]);
  }

  SEQPRIM_HD constexpr range visible_keys(index_t q) const noexcept requires detail::ranges_inside<Inner> {
    if (q < 0) return {0, 0};
    if (q >= sequences.q_len()) return {sequences.k_len(), sequences.k_len()};
    const index_t d = sequences.sequence_of_query(q);
    const range keys = sequences.keys(d), run = inside(d).visible_keys(position(d, q));
    // Both ends stay in the sequence, so that they never decrease from one sequence to the next.
    return {min(keys.begin + max<index_t>(run.begin, 0), keys.end),
            min(keys.begin + max<index_t>(run.end, 0), keys.end)};
  }

  /// Compositions are packed part by part, so that kernels can compare with the runs of the parts.
  SEQPRIM_HD constexpr auto composition() const noexcept requires detail::composed<Inner> {
    return detail::pack_parts(sequences, inner);
  }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept requires settled {
    // Only rows of the sequences that the keys belong to can see any of them.
    const range rows = intersect(q, {sequences.q_offsets[sequences.sequence_of_key(k.begin)],
                                     sequences.q_offsets[sequences.sequence_of_key(k.end - 1) + 1]});
    for (index_t row = rows.begin; row < rows.end;) {
      const index_t d = sequences.sequence_of_query(row);
      const range own_rows = intersect(q, sequences.queries(d)), own_keys = intersect(k, sequences.keys(d));
      row = own_rows.end;
      if (own_keys.empty()) continue;
      const tile_kind kind = inside(d).classify(positions(d, own_rows), moved(own_keys, -sequences.k_offsets[d]));
      if (kind == tile_kind::empty) continue;
      return own_rows == q && own_keys == k ? kind : tile_kind::partial;
    }
    return tile_kind::empty;
  }

  SEQPRIM_HD constexpr range key_bounds(range q, index_t) const noexcept requires settled {
    const range rows = intersect(q, {0, sequences.q_len()});
    if (rows.empty()) return {0, 0};
    const index_t first = sequences.sequence_of_query(rows.begin), last = sequences.sequence_of_query(rows.end - 1);
    const range oldest = keys_seen(first, rows), newest = keys_seen(last, rows);
    return {oldest.empty() ? sequences.keys(first).end : oldest.begin,
            newest.empty() ? sequences.keys(last).begin : newest.end};
  }

  SEQPRIM_HD constexpr range query_bounds(range k, index_t) const noexcept requires settled {
    const range keys = intersect(k, {0, sequences.k_len()});
    if (keys.empty()) return {0, 0};
    const index_t first = sequences.sequence_of_key(keys.begin), last = sequences.sequence_of_key(keys.end - 1);
    const range oldest = rows_seeing(first, keys), newest = rows_seeing(last, keys);
    return {oldest.empty() ? sequences.queries(first).end : oldest.begin,
            newest.empty() ? sequences.queries(last).begin : newest.end};
  }

  /// Queries are rows of the packed buffer: they end where the sequences end. Where both sides have one array, a call may bring
  /// the last of them only.
  SEQPRIM_HD constexpr row_starts query_starts(index_t q_len, index_t) const noexcept {
    const bool last_ones = same_array(sequences.q_offsets, sequences.k_offsets) && sequences.q_offsets.size() > 0 &&
                           sequences.q_offsets.host_readable();
    return {.common = last_ones ? sequences.q_len() - q_len : 0};
  }

  SEQPRIM_HD constexpr index_t tile_end(range q) const noexcept requires settled {
    return detail::join_groups(intersect(q, {0, sequences.q_len()}), [&](index_t row) {
      const index_t d = sequences.sequence_of_query(row);
      return detail::row_group{sequences.queries(d).end, sequences.keys(d)};
    });
  }

  SEQPRIM_HD constexpr auto bind(index_t, index_t head) const noexcept requires depends_on_batch_or_head<Inner> {
    return packed<detail::by_sequence<Inner>>{sequences, {inner, head}};
  }

  constexpr void validate() const {
    sequences.validate();
    if constexpr (bindable<Inner>) mask::validate(inner);
  }
  constexpr void validate(const shape& problem) const {
    sequences.validate(problem.start, problem.q_len, problem.k_len);
    if (!sequences.q_offsets.host_readable() || !sequences.k_offsets.host_readable()) return;
    index_t most_queries = 0, most_keys = 0;
    for (index_t d = 0; d < sequences.sequences(); ++d) {
      const index_t queries = sequences.queries(d).size(), keys = sequences.keys(d).size();
      if constexpr (rule<Inner>) mask::validate(inner, {1, problem.heads, queries, keys});
      most_queries = max(most_queries, queries);
      most_keys = max(most_keys, keys);
    }
    if constexpr (depends_on_batch_or_head<Inner>)
      mask::validate(inner, {sequences.sequences(), problem.heads, most_queries, most_keys});
  }

 private:
  SEQPRIM_HD constexpr auto inside(index_t d) const noexcept { return detail::rule_inside(inner, d); }

  SEQPRIM_HD constexpr index_t position(index_t d, index_t q) const noexcept {
    return q - sequences.q_offsets[d] + sequences.shift(d);
  }
  SEQPRIM_HD constexpr range positions(index_t d, range q) const noexcept {
    return moved(q, sequences.shift(d) - sequences.q_offsets[d]);
  }
  SEQPRIM_HD static constexpr range moved(range r, index_t by) noexcept { return {r.begin + by, r.end + by}; }

  /// Bounds of the keys that the rows of sequence d see.
  SEQPRIM_HD constexpr range keys_seen(index_t d, range q) const noexcept {
    const range rows = intersect(q, sequences.queries(d)), keys = sequences.keys(d);
    return moved(mask::key_bounds(inside(d), positions(d, rows), keys.size()), keys.begin);
  }
  /// Bounds of the rows that see keys of sequence d. Bounds of queries start at row 0, so they say nothing about rows below.
  SEQPRIM_HD constexpr range rows_seeing(index_t d, range k) const noexcept {
    const range rows = sequences.queries(d);
    const index_t shift = sequences.shift(d);
    if (shift < 0) return rows;
    const range keys = moved(intersect(k, sequences.keys(d)), -sequences.k_offsets[d]);
    return intersect(moved(mask::query_bounds(inside(d), keys, rows.size() + shift), rows.begin - shift), rows);
  }
};
template <class Inner> packed(packing, Inner) -> packed<Inner>;

namespace detail {

/// A mask packed part by part: a composition of packed masks instead of a packed composition.
template <rule M> [[nodiscard]] SEQPRIM_HD constexpr auto pack_parts(const packing& sequences, const M& m) noexcept {
  if constexpr (!composed<M>) {
    return packed<M>{sequences, m};
  } else if constexpr (requires { m.composition(); }) {
    return pack_parts(sequences, m.composition());
  } else if constexpr (requires { m.part; }) {
    return packed<full>{sequences, {}} & ~pack_parts(sequences, m.part);
  } else if constexpr (std::same_as<M, both<decltype(m.first), decltype(m.second)>>) {
    return pack_parts(sequences, m.first) & pack_parts(sequences, m.second);
  } else {
    return pack_parts(sequences, m.first) | pack_parts(sequences, m.second);
  }
}

}  // namespace detail

static_assert(rule<packed<causal>> && one_range_per_row<packed<causal>>);

}  // namespace seqprim::mask
