// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/full.hpp>
#include <seqprim/mask/rule.hpp>

#include <concepts>

/// Masks compose: `a & b` has the pairs visible in both, `a | b` those visible in either, `~a` the others. The composition is a
/// mask again, of a type that names its parts, and it has the hints of its parts: tiles are classified in three-valued
/// logic, bounds and ranges are combined, bind() binds the parts, validate() checks them.
///
/// The operators are found by argument-dependent lookup as soon as one operand is a mask of this library. To combine two
/// masks of your own namespace, say `using namespace seqprim::mask::operators;` there, or name the type:
/// `mask::both<A, B>{a, b}`.
namespace seqprim::mask {

inline namespace operators {

/// Three-valued logic on tiles: sound for sound operands; exact unless both are partial.
SEQPRIM_HD constexpr tile_kind operator&(tile_kind a, tile_kind b) noexcept { return a < b ? a : b; }
SEQPRIM_HD constexpr tile_kind operator|(tile_kind a, tile_kind b) noexcept { return a < b ? b : a; }
SEQPRIM_HD constexpr tile_kind operator~(tile_kind a) noexcept {
  return static_cast<tile_kind>(2 - static_cast<unsigned char>(a));
}

}  // namespace operators

namespace detail {
template <class A, class B> concept rules = rule<A> && rule<B>;
template <class A, class B> concept range_rules = one_range_per_row<A> && one_range_per_row<B>;
template <class A, class B> concept any_reads_table = rules<A, B> &&(reads_table<A> || reads_table<B>);
template <class A, class B> concept any_binds = depends_on_batch_or_head<A> || depends_on_batch_or_head<B>;
}  // namespace detail

/// Conjunction: what `operator&` makes. Where both parts have one range per row, so has the conjunction, and tiles between
/// two ranges that do not meet are found empty too.
template <bindable A, bindable B> struct both {
  A first;
  B second;

  static constexpr bool ordered = ordered_ranges<A> && ordered_ranges<B>;

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept requires detail::rules<A, B> {
    return first(q, k) && second(q, k);
  }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept requires detail::rules<A, B> {
    if constexpr (ordered) {
      const tile_kind kind = classify_ranges(*this, q, k);
      if (kind != tile_kind::partial) return kind;
    }
    return first.classify(q, k) & second.classify(q, k);
  }

  SEQPRIM_HD constexpr range visible_keys(index_t q) const noexcept requires detail::range_rules<A, B> {
    return intersect(first.visible_keys(q), second.visible_keys(q));
  }

  SEQPRIM_HD constexpr range key_bounds(range q, index_t k_len) const noexcept requires detail::rules<A, B> {
    return intersect(mask::key_bounds(first, q, k_len), mask::key_bounds(second, q, k_len));
  }

  SEQPRIM_HD constexpr range query_bounds(range k, index_t q_len) const noexcept requires detail::rules<A, B> {
    const range all{-unlimited, q_len};
    return intersect(mask::query_bounds(first, k, all), mask::query_bounds(second, k, all));
  }

  SEQPRIM_HD constexpr row_group group_at(index_t q) const noexcept
      requires(detail::rules<A, B> && (groups_rows<A> || groups_rows<B>)) {
    const row_group a = mask::group_at(first, q), b = mask::group_at(second, q);
    return {min_of(a.end, b.end), intersect(a.keys, b.keys)};
  }

  static constexpr bool ignores_queries = mask::ignores_queries<A> && mask::ignores_queries<B>;
  SEQPRIM_HD constexpr row_starts query_starts(index_t q_len, index_t k_len) const noexcept
      requires(places_queries<A> || places_queries<B>) {
    if constexpr (places_queries<A>) {
      return first.query_starts(q_len, k_len);
    } else {
      return second.query_starts(q_len, k_len);
    }
  }

  SEQPRIM_HD constexpr limits table_limits() const noexcept requires detail::any_reads_table<A, B> {
    const limits a = mask::table_limits(first), b = mask::table_limits(second);
    return {intersect(a.queries, b.queries), intersect(a.keys, b.keys)};
  }

  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept requires detail::any_binds<A, B> {
    return mask::bind(first, batch, head) & mask::bind(second, batch, head);
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    seqprim::for_arrays(first, visit);
    seqprim::for_arrays(second, visit);
  }

  constexpr void validate() const {
    mask::validate(first);
    mask::validate(second);
  }
  constexpr void validate(const shape& problem) const {
    mask::validate(first, problem);
    mask::validate(second, problem);
  }
};

/// Disjunction: what `operator|` makes.
template <bindable A, bindable B> struct either {
  A first;
  B second;

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept requires detail::rules<A, B> {
    return first(q, k) || second(q, k);
  }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept requires detail::rules<A, B> {
    return first.classify(q, k) | second.classify(q, k);
  }

  SEQPRIM_HD constexpr range key_bounds(range q, index_t k_len) const noexcept requires detail::rules<A, B> {
    return bounding_range(mask::key_bounds(first, q, k_len), mask::key_bounds(second, q, k_len));
  }

  SEQPRIM_HD constexpr range query_bounds(range k, index_t q_len) const noexcept requires detail::rules<A, B> {
    const range all{-unlimited, q_len};
    return bounding_range(mask::query_bounds(first, k, all), mask::query_bounds(second, k, all));
  }

  SEQPRIM_HD constexpr row_group group_at(index_t q) const noexcept
      requires(detail::rules<A, B>&& groups_rows<A>&& groups_rows<B>) {
    const row_group a = mask::group_at(first, q), b = mask::group_at(second, q);
    return {min_of(a.end, b.end), bounding_range(a.keys, b.keys)};
  }

  static constexpr bool ignores_queries = mask::ignores_queries<A> && mask::ignores_queries<B>;
  SEQPRIM_HD constexpr row_starts query_starts(index_t q_len, index_t k_len) const noexcept
      requires(places_queries<A> || places_queries<B>) {
    if constexpr (places_queries<A>) {
      return first.query_starts(q_len, k_len);
    } else {
      return second.query_starts(q_len, k_len);
    }
  }

  SEQPRIM_HD constexpr limits table_limits() const noexcept requires detail::any_reads_table<A, B> {
    const limits a = mask::table_limits(first), b = mask::table_limits(second);
    return {intersect(a.queries, b.queries), intersect(a.keys, b.keys)};
  }

  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept requires detail::any_binds<A, B> {
    return mask::bind(first, batch, head) | mask::bind(second, batch, head);
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    seqprim::for_arrays(first, visit);
    seqprim::for_arrays(second, visit);
  }

  constexpr void validate() const {
    mask::validate(first);
    mask::validate(second);
  }
  constexpr void validate(const shape& problem) const {
    mask::validate(first, problem);
    mask::validate(second, problem);
  }
};

/// Negation: what `operator~` makes. As exact as its part.
template <bindable A> struct inverse {
  A part;

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept requires rule<A> { return !part(q, k); }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept requires rule<A> {
    return ~part.classify(q, k);
  }

  /// Where every range of the part reaches one end of the keys, the rest is at the other end.
  SEQPRIM_HD constexpr range key_bounds(range q, index_t k_len) const noexcept requires rule<A> {
    range rest{0, k_len};
    if constexpr (ordered_ranges<A>) {
      const range first = part.visible_keys(q.begin);
      const range last = part.visible_keys(q.end - 1);
      if (last.begin <= 0) rest.begin = max_of<index_t>(first.end, 0);
      if (first.end >= k_len) rest.end = min_of(last.begin, k_len);
    }
    return rest;
  }

  static constexpr bool ignores_queries = mask::ignores_queries<A>;
  SEQPRIM_HD constexpr row_starts query_starts(index_t q_len, index_t k_len) const noexcept requires places_queries<A> {
    return part.query_starts(q_len, k_len);
  }

  SEQPRIM_HD constexpr limits table_limits() const noexcept requires reads_table<A> { return part.table_limits(); }

  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept requires depends_on_batch_or_head<A> {
    return ~mask::bind(part, batch, head);
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const { seqprim::for_arrays(part, visit); }

  constexpr void validate() const { mask::validate(part); }
  constexpr void validate(const shape& problem) const { mask::validate(part, problem); }
};

inline namespace operators {

template <bindable A, bindable B> [[nodiscard]] SEQPRIM_HD constexpr auto operator&(const A& a, const B& b) noexcept {
  if constexpr (std::same_as<A, full>) {
    return b;
  } else if constexpr (std::same_as<B, full>) {
    return a;
  } else if constexpr (std::same_as<A, causal> && std::same_as<B, causal>) {
    return a;
  } else {
    return both<A, B>{a, b};
  }
}

template <bindable A, bindable B> [[nodiscard]] SEQPRIM_HD constexpr auto operator|(const A& a, const B& b) noexcept {
  if constexpr (std::same_as<A, full> || std::same_as<B, full>) {
    return full{};
  } else if constexpr (std::same_as<A, causal> && std::same_as<B, causal>) {
    return a;
  } else {
    return either<A, B>{a, b};
  }
}

template <bindable A> [[nodiscard]] SEQPRIM_HD constexpr auto operator~(const A& a) noexcept { return inverse<A>{a}; }
template <bindable A> [[nodiscard]] SEQPRIM_HD constexpr A operator~(const inverse<A>& a) noexcept { return a.part; }

}  // namespace operators

namespace detail {
template <class M> inline constexpr bool is_both = false;
template <class A, class B> inline constexpr bool is_both<both<A, B>> = true;
template <class M> inline constexpr bool is_either = false;
template <class A, class B> inline constexpr bool is_either<either<A, B>> = true;
template <class M> inline constexpr bool is_inverse = false;
template <class A> inline constexpr bool is_inverse<inverse<A>> = true;
template <class M> concept is_composition = is_both<M> || is_either<M> || is_inverse<M>;
}  // namespace detail

/// True when all parts of a composition place the queries of a call alike. A part that places them itself (a matrix of the rows
/// of the call) and one that counts from the last key mean different queries by the same number, unless it is the same place.
template <class M>
[[nodiscard]] constexpr bool places_alike(const M& m, index_t batch, index_t q_len, index_t k_len) noexcept {
  if constexpr (detail::is_both<M> || detail::is_either<M>) {
    if (!places_alike(m.first, batch, q_len, k_len) || !places_alike(m.second, batch, q_len, k_len)) return false;
    if (ignores_queries<decltype(m.first)> || ignores_queries<decltype(m.second)>) return true;
    const row_starts a = query_starts(m.first, q_len, k_len), b = query_starts(m.second, q_len, k_len);
    if (!a.host_readable() || !b.host_readable()) return true;
    for (index_t n = 0; n < batch; ++n)
      if (a(n) != b(n)) return false;
    return true;
  } else if constexpr (detail::is_inverse<M>) {
    return places_alike(m.part, batch, q_len, k_len);
  } else if constexpr (requires { m.places_alike(batch, q_len, k_len); }) {
    return m.places_alike(batch, q_len, k_len);
  } else {
    return true;
  }
}

/// A rule that kernels take part by part: a composition, or one that is the same as m.composition().
template <class M>
concept composed =
    rule<M> && !one_range_per_row<M> && (detail::is_composition<M> || requires(const M& m) { m.composition(); });

/// The composition that a rule is, or is the same as.
template <composed M> [[nodiscard]] SEQPRIM_HD constexpr auto composition_of(const M& m) noexcept {
  if constexpr (detail::is_composition<M>) {
    return m;
  } else {
    return m.composition();
  }
}

/// The composition with f applied to every part: how a wrapper keeps a composition visible to kernels. f is a functor, not a
/// lambda, which nvcc rejects in functions of both sides; f(full{}) is all that the wrapper can show, which negation needs.
template <rule M, class F> [[nodiscard]] SEQPRIM_HD constexpr auto map_parts(const M& m, const F& f) noexcept {
  if constexpr (detail::is_both<M>) {
    return map_parts(m.first, f) & map_parts(m.second, f);
  } else if constexpr (detail::is_either<M>) {
    return map_parts(m.first, f) | map_parts(m.second, f);
  } else if constexpr (detail::is_inverse<M>) {
    return f(full{}) & ~map_parts(m.part, f);
  } else {
    return f(m);
  }
}

}  // namespace seqprim::mask
