// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/packing.hpp>
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/full.hpp>
#include <seqprim/mask/rule.hpp>

#include <concepts>

namespace seqprim::mask {

template <class Inner> struct packed;

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
template <class M> concept ordered_inside = requires(const M& m) {
  { detail::rule_inside(m, index_t{}) } -> ordered_ranges;
};

/// Packs one part of a composition.
struct pack_part {
  packing sequences;
  template <class M> SEQPRIM_HD constexpr auto operator()(const M& m) const noexcept { return packed<M>{sequences, m}; }
};

}  // namespace detail

/// A packed (varlen) batch as a mask: a query attends to the keys of its own sequence subject to `inner`. Attention over the
/// packed rows is then attention over each sequence alone, forward, backward and decode, and tiles between two sequences
/// are skipped.
///
///     visible(q, k)  <=>  q and k lie in one sequence d, and inner(position of q, position of k) within it
///
/// Positions are those of `packing`: with alignment::bottom_right, the default, the last query of each sequence is at its
/// last key, so that `inner` = causal{} serves prefill, chunks behind a cache and decoding in one call; an offset of the
/// inner mask counts on top. An inner mask that depends on the batch row gets the sequence as its batch row:
/// prefix_per_batch{lengths} is a prefix length for each sequence. Where a sequence has more queries than keys, bottom_right asks
/// `inner` about rows below 0.
///
/// Rows of a sequence without keys have no visible key. Where `inner` has one range per row, so has the packed mask.
///
/// Errors  precondition_error: as packing::validate; the offsets do not end at q_len and k_len; `inner` does not fit a sequence.
/// Cost    O(log sequences) per pair and row. A tile costs O(log sequences) for each sequence that is tried until one is
///         visible, most often the first. classify() is as exact as that of `inner`.
template <class Inner> struct packed {
  static_assert(
      bindable<Inner> || detail::is_by_sequence<Inner>,
      "seqprim: the inner part of 'mask::packed{packing, inner}' is a mask. See docs/reference/mask/packed.md");

  packing sequences;
  Inner inner{};

  static constexpr bool settled = !depends_on_batch_or_head<Inner>;
  static constexpr bool ordered = detail::ordered_inside<Inner>;

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
    return {min_of(keys.begin + max_of<index_t>(run.begin, 0), keys.end),
            min_of(keys.begin + max_of<index_t>(run.end, 0), keys.end)};
  }

  /// Compositions are packed part by part, so that kernels can compare with the ranges of the parts.
  SEQPRIM_HD constexpr auto composition() const noexcept requires composed<Inner> {
    return map_parts(composition_of(inner), detail::pack_part{sequences});
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

  SEQPRIM_HD constexpr row_group group_at(index_t q) const noexcept requires settled {
    if (q < 0 || q >= sequences.q_len()) return {q < 0 ? 0 : unlimited, {0, 0}};
    const index_t d = sequences.sequence_of_query(q);
    return {sequences.queries(d).end, sequences.keys(d)};
  }

  SEQPRIM_HD constexpr auto bind(index_t, index_t head) const noexcept requires depends_on_batch_or_head<Inner> {
    return packed<detail::by_sequence<Inner>>{sequences, {inner, head}};
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    sequences.for_arrays(visit);
    seqprim::for_arrays(inner, visit);
  }

  constexpr void validate() const {
    sequences.validate();
    if constexpr (bindable<Inner>) mask::validate(inner);
  }
  constexpr void validate(const shape& problem) const {
    sequences.validate(problem.start, problem.q_len, problem.k_len);
    if (!sequences.q_offsets.host_readable() || !sequences.k_offsets.host_readable()) return;
    // What `inner` is really asked about: the positions of the queries of each sequence.
    range positions{unlimited, -unlimited};
    index_t most_keys = 0;
    for (index_t d = 0; d < sequences.sequences(); ++d) {
      const range queries = moved(sequences.queries(d), sequences.shift(d) - sequences.q_offsets[d]);
      const index_t keys = sequences.keys(d).size();
      if (queries.empty() || keys == 0) continue;
      if constexpr (rule<Inner>) mask::validate(inner, {1, problem.heads, queries.size(), keys, queries.begin});
      positions = {min_of(positions.begin, queries.begin), max_of(positions.end, queries.end)};
      most_keys = max_of(most_keys, keys);
    }
    if (positions.empty()) positions = {0, 0};
    if constexpr (depends_on_batch_or_head<Inner>)
      mask::validate(inner, {sequences.sequences(), problem.heads, positions.size(), most_keys, positions.begin});
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

  /// Bounds of the keys visible to the rows of sequence d.
  SEQPRIM_HD constexpr range keys_seen(index_t d, range q) const noexcept {
    const range rows = intersect(q, sequences.queries(d)), keys = sequences.keys(d);
    return moved(mask::key_bounds(inside(d), positions(d, rows), keys.size()), keys.begin);
  }
  /// Bounds of the rows of sequence d that attend to some of the keys.
  SEQPRIM_HD constexpr range rows_seeing(index_t d, range k) const noexcept {
    const range rows = sequences.queries(d), keys = moved(intersect(k, sequences.keys(d)), -sequences.k_offsets[d]);
    return moved(mask::query_bounds(inside(d), keys, positions(d, rows)), rows.begin - sequences.shift(d));
  }
};
template <class Inner> packed(packing, Inner) -> packed<Inner>;

static_assert(rule<packed<causal>> && one_range_per_row<packed<causal>>);

}  // namespace seqprim::mask
