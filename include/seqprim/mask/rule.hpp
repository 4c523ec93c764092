// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>
#include <seqprim/core/row_starts.hpp>
#include <seqprim/core/subject.hpp>

#include <concepts>
#include <type_traits>

/// A mask says which queries attend to which keys. It is a small value with two answers, its meaning: is this (query, key) pair
/// visible, and is this tile of pairs empty, full or partial. Everything else that it may offer is a hint, which changes speed and no
/// answer; the table below lists them all, every wrapper keeps them, and `check` prints which a mask gives.
///
/// Queries q and keys k are absolute positions in the sequence [tokens], and a mask answers at any integer; a mask that reads a table
/// says where it ends, and is refused where it would be asked beyond. Where the queries of a call are is the operator's concern
/// (attention::softmax::starting_at), never the mask's.
/// Page: docs/reference/mask/rule.md
namespace seqprim::mask {

/// What a tile of pairs looks like. `empty` and `full` are proofs; `partial` may be pessimistic.
enum class tile_kind : unsigned char { empty = 0, partial = 1, full = 2 };

/// A reach or a bound that no index meets; sums with indices stay far from overflow.
inline constexpr index_t unlimited = index_t{1} << 61;
inline constexpr range everywhere{-unlimited, unlimited};

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

/// A rule whose every query attends to one range of keys: visible(q, k) <=> m.visible_keys(q).contains(k). The range may reach
/// beyond the keys that exist and is empty when end <= begin. Kernels then compare with two indices per row instead of evaluating
/// for each pair.
template <class M> concept one_range_per_row = rule<M> && requires(const M& m, index_t q) {
  { m.visible_keys(q) } -> std::same_as<range>;
};

/// The same, and neither end of the range decreases as q grows, which the mask promises with `static constexpr bool ordered = true`.
/// The first and the last row of a tile then speak for all.
template <class M> concept ordered_ranges = one_range_per_row<M> && requires { requires M::ordered; };

/// Where a mask answers that reads a table; every other mask answers at all integers.
struct limits {
  range queries = everywhere;
  range keys = everywhere;
};

template <class M> concept reads_table = rule<M> && requires(const M& m) {
  { m.table_limits() } -> std::same_as<limits>;
};

template <rule M> [[nodiscard]] SEQPRIM_HD constexpr limits table_limits(const M& m) noexcept {
  if constexpr (reads_table<M>) {
    return m.table_limits();
  } else {
    return {};
  }
}

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

/// The problem that a mask is evaluated at: queries at positions [start, start + q_len), keys at [0, k_len).
struct shape {
  index_t batch = 1;
  index_t heads = 1;
  index_t q_len = 0;
  index_t k_len = 0;
  index_t start = 0;  ///< position of the first query [tokens]
};

/// A mask that defines where the q_len queries of a call are, unless the operator does: the rows of a packed buffer, of a matrix.
/// For every other mask the last query is at the last key.
template <class M> concept places_queries = requires(const M& m, index_t length) {
  { m.query_starts(length, length) } -> std::same_as<row_starts>;
};

/// A mask whose answers do not depend on the query; declared by `static constexpr bool ignores_queries = true`.
template <class M> inline constexpr bool ignores_queries = false;
template <class M>
requires requires { requires M::ignores_queries; }
inline constexpr bool ignores_queries<M> = true;

/// Where the queries of a call are, by default: as the mask defines, or the last one at the last of k_len keys (bottom-right
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

/// Rejects a problem that asks a table for more than it has: the validate(shape) of masks that read one.
constexpr void expect_in_table(const subject& self, const limits& table, const shape& problem) {
  const range queries{problem.start, problem.start + problem.q_len};
  self.expects(queries.empty() || (table.queries.begin <= queries.begin && queries.end <= table.queries.end),
               "the table is for queries at [", table.queries.begin, ", ", table.queries.end,
               ") but those of the call are at [", queries.begin, ", ", queries.end,
               "); softmax::starting_at says where they are");
  self.expects(problem.k_len <= table.keys.end, "the table is for ", table.keys.end, " keys but k_len is ",
               problem.k_len);
}

/// classify() for a rule with one range per row: exact on `full`; exact on `empty` where the ranges are not ordered, or those of
/// neighboring rows touch.
///
/// Cost  O(1) where the ranges are ordered, else O(rows).
template <class M> [[nodiscard]] SEQPRIM_HD constexpr tile_kind classify_ranges(const M& m, range q, range k) noexcept {
  if constexpr (ordered_ranges<M>) {
    const range first = m.visible_keys(q.begin);
    const range last = m.visible_keys(q.end - 1);
    if (intersect(k, range{first.begin, last.end}).empty()) return tile_kind::empty;
    return k.begin >= last.begin && k.end <= first.end ? tile_kind::full : tile_kind::partial;
  } else {
    bool any = false, all = true;
    for (index_t row = q.begin; row < q.end && (all || !any); ++row) {
      const range seen = intersect(k, m.visible_keys(row));
      any = any || !seen.empty();
      all = all && seen == k;
    }
    return all ? tile_kind::full : any ? tile_kind::partial : tile_kind::empty;
  }
}

namespace detail {

/// A range that holds what lies within `all` of the ranges of the queries.
template <one_range_per_row M>
[[nodiscard]] SEQPRIM_HD constexpr range visible_bounds(const M& m, range q, range all) noexcept {
  if constexpr (ordered_ranges<M>) {
    return intersect(range{m.visible_keys(q.begin).begin, m.visible_keys(q.end - 1).end}, all);
  } else {
    range bounds{0, 0};
    for (index_t row = q.begin; row < q.end; ++row)
      bounds = bounding_range(bounds, intersect(m.visible_keys(row), all));
    return bounds;
  }
}

}  // namespace detail

/// A range that holds every key visible to the queries, within [0, k_len). Bounds the key loop of forward passes.
template <rule M> [[nodiscard]] SEQPRIM_HD constexpr range key_bounds(const M& m, range q, index_t k_len) noexcept {
  const range all{0, k_len};
  if constexpr (requires { m.key_bounds(q, k_len); }) {
    return intersect(m.key_bounds(q, k_len), all);
  } else if constexpr (one_range_per_row<M>) {
    return detail::visible_bounds(m, q, all);
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

/// True when a sequence may be cut at position c: no query before c attends to a key from c on, so that queries and keys before c
/// can be computed, and cached, before the rest arrives. Sound; a mask without key_bounds and without one range per row may not be cut
/// anywhere.
template <rule M> [[nodiscard]] SEQPRIM_HD constexpr bool may_cut(const M& m, index_t c) noexcept {
  if (c <= 0) return true;
  return c <= mask::table_limits(m).queries.end && mask::key_bounds(m, {0, c}, unlimited).end <= c;
}
/// The same for every batch row and head.
template <bindable M>
[[nodiscard]] constexpr bool may_cut(const M& m, index_t batch, index_t heads, index_t c) noexcept {
  if constexpr (depends_on_batch_or_head<M>) {
    for (index_t b = 0; b < batch; ++b)
      for (index_t h = 0; h < heads; ++h)
        if (!may_cut(m.bind(b, h), c)) return false;
    return true;
  } else {
    return may_cut(m, c);
  }
}

/// Queries that belong together: those before `end` attend to no key outside of `keys`.
struct row_group {
  index_t end;
  range keys;
};

/// A mask that keeps groups of queries apart (packed sequences): m.group_at(q) is the group of query q. Kernels may cut tiles of
/// rows between two groups, so that a tile does not meet the keys of both.
template <class M> concept groups_rows = rule<M> && requires(const M& m, index_t q) {
  { m.group_at(q) } -> std::same_as<row_group>;
};

/// The group of query q: all queries, and all keys, where the mask has no groups. It ends behind q, whatever the mask says.
template <rule M> [[nodiscard]] SEQPRIM_HD constexpr row_group group_at(const M& m, index_t q) noexcept {
  if constexpr (groups_rows<M>) {
    const row_group group = m.group_at(q);
    return {max_of(group.end, q + 1), group.keys};
  } else {
    return {unlimited, everywhere};
  }
}

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
