// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>
#include <seqprim/core/row_starts.hpp>

#include <concepts>
#include <type_traits>

/// A mask says who sees whom. It is a small value with two answers: is this (query, key) pair visible, and is this whole
/// tile of pairs empty, full or mixed. Kernels ask nothing else to skip work, forward and backward, CPU and GPU.
///
/// Queries q and keys k are absolute positions in the sequence [tokens], and a mask answers at any integer; masks that read a
/// table say where it ends and refuse to be asked beyond. Where the queries of a call are is the operator's concern
/// (attention::softmax::starting_at), never the mask's.
/// Page: docs/reference/mask/rule.md
namespace seqprim::mask {

/// What a tile of pairs looks like. `empty` and `full` are proofs; `partial` may be pessimistic.
enum class tile_kind : unsigned char { empty = 0, partial = 1, full = 2 };

/// A reach or a bound that no index meets; sums with indices stay far from overflow.
inline constexpr index_t unlimited = index_t{1} << 61;

template <class M> concept answers_per_element = requires(const M& m, index_t q, index_t k) {
  { m(q, k) } -> std::same_as<bool>;
};
template <class M> concept classifies_tiles = requires(const M& m, range q, range k) {
  { m.classify(q, k) } -> std::same_as<tile_kind>;
};

/// A mask: answers one (query, key) pair and classifies whole, non-empty tiles.
template <class M> concept rule = std::is_trivially_copyable_v<M> && answers_per_element<M> && classifies_tiles<M>;

/// A mask that differs between batch rows or heads: m.bind(batch, head) is the rule of one of them.
template <class M> concept depends_on_batch_or_head = requires(const M& m, index_t batch, index_t head) {
  { m.bind(batch, head) } -> rule;
};

/// What attention accepts: a rule, or something that binds to one.
template <class M> concept bindable = rule<M> || depends_on_batch_or_head<M>;

/// A rule whose every row sees one run of keys: visible(q, k) <=> m.visible_keys(q).contains(k), for k in [0, k_len).
/// Both ends of the run never decrease as q grows. The run may reach past [0, k_len) and is empty when end <= begin.
/// Kernels then compare with two numbers a row instead of asking for each pair.
template <class M> concept one_range_per_row = rule<M> && requires(const M& m, index_t q) {
  { m.visible_keys(q) } -> std::same_as<range>;
};

/// The rule of one (batch, head). Masks that depend on neither bind to themselves.
template <bindable M> [[nodiscard]] SEQPRIM_HD constexpr auto bind(const M& m, index_t batch, index_t head) noexcept {
  if constexpr (depends_on_batch_or_head<M>) {
    return m.bind(batch, head);
  } else {
    return m;
  }
}

/// The rule type that M binds to.
template <bindable M> using bound = decltype(mask::bind(std::declval<const M&>(), index_t{}, index_t{}));

/// The problem that a mask is asked about: queries at positions [start, start + q_len), keys at [0, k_len).
struct shape {
  index_t batch = 1;
  index_t heads = 1;
  index_t q_len = 0;
  index_t k_len = 0;
  index_t start = 0;  ///< position of the first query [tokens]
};

/// A mask that says where the q_len queries of a call are, unless the operator does: the rows of a packed buffer, of a matrix.
/// For every other mask the last query is at the last key.
template <class M> concept places_queries = requires(const M& m, index_t length) {
  { m.query_starts(length, length) } -> std::same_as<row_starts>;
};

/// A mask whose answers do not depend on the query; it says so by `static constexpr bool ignores_queries = true`.
template <class M> inline constexpr bool ignores_queries = false;
template <class M>
requires requires { requires M::ignores_queries; }
inline constexpr bool ignores_queries<M> = true;

/// Where the queries of a call are, by default: what the mask says, or the last one at the last of k_len keys (bottom-right
/// alignment).
template <class M>
[[nodiscard]] SEQPRIM_HD constexpr row_starts query_starts(const M& m, index_t q_len, index_t k_len) noexcept {
  if constexpr (places_queries<M>) {
    return m.query_starts(q_len, k_len);
  } else {
    return {.common = k_len - q_len};
  }
}

/// Checks the parameters of a mask, if it has any: throws precondition_error.
template <bindable M> constexpr void validate(const M& m) {
  if constexpr (requires { m.validate(); }) m.validate();
}

/// The same, and that the mask fits the problem: enough batch rows, offsets that end where the keys end. Every entry
/// point calls it before it touches data, so that no kernel reads past a mask's arrays.
template <bindable M> constexpr void validate(const M& m, const shape& problem) {
  mask::validate(m);
  if constexpr (requires { m.validate(problem); }) m.validate(problem);
}

/// classify() for a rule with one run per row, from the runs of the first and the last row (rule family R2). Full is
/// exact; empty is exact when the runs of neighboring rows touch.
template <class M> [[nodiscard]] SEQPRIM_HD constexpr tile_kind classify_ranges(const M& m, range q, range k) noexcept {
  const range first = m.visible_keys(q.begin);
  const range last = m.visible_keys(q.end - 1);
  if (intersect(k, range{first.begin, last.end}).empty()) return tile_kind::empty;
  if (k.begin >= last.begin && k.end <= first.end) return tile_kind::full;
  return tile_kind::partial;
}

/// A run of keys that holds every key visible to the rows, within [0, k_len). Bounds the key loop of forward passes.
template <rule M> [[nodiscard]] SEQPRIM_HD constexpr range key_bounds(const M& m, range q, index_t k_len) noexcept {
  const range all{0, k_len};
  if constexpr (requires { m.key_bounds(q, k_len); }) {
    return intersect(m.key_bounds(q, k_len), all);
  } else if constexpr (one_range_per_row<M>) {
    return intersect(range{m.visible_keys(q.begin).begin, m.visible_keys(q.end - 1).end}, all);
  } else {
    return all;
  }
}

/// A range that holds every query of `queries` that attends to one of the keys. Bounds the query loop of dK and dV.
template <rule M> [[nodiscard]] SEQPRIM_HD constexpr range query_bounds(const M& m, range k, range queries) noexcept {
  if constexpr (requires { m.query_bounds(k, queries.end); }) {
    return intersect(m.query_bounds(k, queries.end), queries);
  } else {
    return queries;
  }
}
template <rule M> [[nodiscard]] SEQPRIM_HD constexpr range query_bounds(const M& m, range k, index_t q_len) noexcept {
  return mask::query_bounds(m, k, range{0, q_len});
}

/// Where the first tile of these rows should end, in (rows.begin, rows.end]: a mask that keeps runs of rows apart (packed
/// sequences) cuts there, so that a tile does not meet the keys of all of them. A hint; it changes no answer.
template <rule M> [[nodiscard]] SEQPRIM_HD constexpr index_t tile_end(const M& m, range rows) noexcept {
  if constexpr (requires { m.tile_end(rows); }) {
    return min(m.tile_end(rows), rows.end);
  } else {
    return rows.end;
  }
}

namespace detail {

/// Rows that see one run of keys, as far as tiles are concerned.
struct row_group {
  index_t end;  ///< of the rows
  range keys;
};

/// tile_end() for rows in groups: the next group joins a tile while the pairs of the joint tile, its rows counted in whole
/// registers, are no more than those of two tiles and what a tile costs beside its pairs. group_at(row) is the group of a row.
template <class GroupAt>
[[nodiscard]] SEQPRIM_HD constexpr index_t join_groups(range rows, const GroupAt& group_at) noexcept {
  constexpr index_t lanes = 16, cost_of_a_tile = 32 * lanes;
  row_group tile = group_at(rows.begin);
  while (tile.end < rows.end) {
    const row_group next = group_at(tile.end);
    const index_t end = min(next.end, rows.end);
    const range keys = bounding_range(tile.keys, next.keys);
    const index_t apart = round_up(tile.end - rows.begin, lanes) * tile.keys.size() +
                          round_up(end - tile.end, lanes) * next.keys.size() + cost_of_a_tile;
    if (round_up(end - rows.begin, lanes) * keys.size() > apart) break;
    tile = {end, keys};
  }
  return min(tile.end, rows.end);
}

}  // namespace detail

/// Named requirement of the entry points: one sentence when a type is not a mask.
template <class M> consteval bool require_mask() {
  if constexpr (!depends_on_batch_or_head<M>) {
    static_assert(
        answers_per_element<M>,
        "seqprim: a mask needs 'bool operator()(index_t q, index_t k) const'. See docs/reference/mask/rule.md");
    static_assert(classifies_tiles<M>,
                  "seqprim: a mask needs 'tile_kind classify(range q, range k) const'; wrap a bare predicate in "
                  "'mask::where'. See docs/reference/mask/rule.md");
    static_assert(std::is_trivially_copyable_v<M>,
                  "seqprim: a mask must be trivially copyable so that it can travel to a kernel; hold views, not "
                  "containers. See docs/reference/mask/rule.md");
  }
  return true;
}

}  // namespace seqprim::mask
