// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/mask/algebra.hpp>
#include <seqprim/mask/rule.hpp>

namespace seqprim::mask {

/// The side of the problem along which two masks follow each other.
enum class side : unsigned char { queries, keys };

/// Two masks one after the other, made by `key_concat` and `query_concat`: `first` decides about the keys (queries) before `length`,
/// `second`, which counts from there, about the rest. A cache and the words of a draft tree; the content and the query stream of a
/// two-stream model.
///
///     key_concat(first, n, second):    visible(q, k)  <=>  k < n ? first(q, k) : second(q, k - n)
///     query_concat(first, n, second):  visible(q, k)  <=>  q < n ? first(q, k) : second(q - n, k)
///
/// Errors  precondition_error: length < 0; those of the parts for their side of the border.
/// Cost    that of the part that is evaluated; a tile across the border evaluates both. As exact as the parts.
template <side Along, bindable First, bindable Second> struct concat {
  First first;
  index_t length;  ///< keys, or queries, that `first` decides about [tokens]
  Second second;

  static constexpr bool along_keys = Along == side::keys;
  static constexpr bool settled = rule<First> && rule<Second>;
  static constexpr subject self{"mask::concat", "mask/concat"};

  SEQPRIM_HD constexpr bool operator()(index_t q, index_t k) const noexcept requires settled {
    if ((along_keys ? k : q) < length) return first(q, k);
    return along_keys ? second(q, k - length) : second(q - length, k);
  }

  SEQPRIM_HD constexpr tile_kind classify(range q, range k) const noexcept requires settled {
    const range before = before_border(along_keys ? k : q), behind = behind_border(along_keys ? k : q);
    const auto of_first = [&] { return along_keys ? first.classify(q, before) : first.classify(before, k); };
    const auto of_second = [&] { return along_keys ? second.classify(q, behind) : second.classify(behind, k); };
    if (before.empty()) return of_second();
    const tile_kind kind = of_first();
    return behind.empty() || of_second() == kind ? kind : tile_kind::partial;
  }

  SEQPRIM_HD constexpr range key_bounds(range q, index_t k_len) const noexcept requires settled {
    if constexpr (along_keys) {
      return bounding_range(mask::key_bounds(first, q, min_of(k_len, length)),
                            moved(mask::key_bounds(second, q, max_of<index_t>(k_len - length, 0))));
    } else {
      const range before = before_border(q), behind = behind_border(q);
      return bounding_range(before.empty() ? range{0, 0} : mask::key_bounds(first, before, k_len),
                            behind.empty() ? range{0, 0} : mask::key_bounds(second, behind, k_len));
    }
  }
  SEQPRIM_HD constexpr range query_bounds(range k, index_t q_len) const noexcept requires settled {
    if constexpr (along_keys) {
      const range before = before_border(k), behind = behind_border(k), all{-unlimited, q_len};
      return bounding_range(before.empty() ? range{0, 0} : mask::query_bounds(first, before, all),
                            behind.empty() ? range{0, 0} : mask::query_bounds(second, behind, all));
    } else {
      return bounding_range(mask::query_bounds(first, k, range{-unlimited, min_of(q_len, length)}),
                            moved(mask::query_bounds(second, k, range{0, max_of<index_t>(q_len - length, 0)})));
    }
  }

  SEQPRIM_HD constexpr limits table_limits() const noexcept requires(reads_table<First> || reads_table<Second>) {
    const limits a = mask::table_limits(first), b = mask::table_limits(second);
    if constexpr (along_keys) return {intersect(a.queries, b.queries), {a.keys.begin, b.keys.end + length}};
    return {{a.queries.begin, b.queries.end + length}, intersect(a.keys, b.keys)};
  }

  /// A mask that places the queries of a call places those of both masks.
  SEQPRIM_HD constexpr row_starts query_starts(index_t q_len, index_t k_len) const noexcept
      requires(along_keys && (places_queries<First> || places_queries<Second>)) {
    return places_queries<First> ? mask::query_starts(first, q_len, k_len) : mask::query_starts(second, q_len, k_len);
  }
  constexpr bool places_alike(index_t batch, index_t q_len, index_t k_len) const noexcept requires along_keys {
    return mask::places_alike(first | second, batch, q_len, k_len);
  }

  SEQPRIM_HD constexpr auto bind(index_t batch, index_t head) const noexcept requires(!settled) {
    return concat<Along, bound<First>, bound<Second>>{mask::bind(first, batch, head), length,
                                                      mask::bind(second, batch, head)};
  }

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    seqprim::for_arrays(first, visit);
    seqprim::for_arrays(second, visit);
  }

  constexpr void validate() const {
    self.expects(length >= 0, "length (", length, ") must be >= 0");
    mask::validate(first);
    mask::validate(second);
  }
  constexpr void validate(const shape& problem) const {
    shape a = problem, b = problem;
    if constexpr (along_keys) {
      a.k_len = min_of(problem.k_len, length);
      b.k_len = problem.k_len - a.k_len;
    } else {
      const range queries{problem.start, problem.start + problem.q_len};
      a.q_len = before_border(queries).size();
      b.q_len = behind_border(queries).size();
      b.start = behind_border(queries).begin;
    }
    mask::validate(first, a);
    mask::validate(second, b);
  }

  /// The part of a range that `first` decides about, and that of `second`, counted from the border.
  [[nodiscard]] SEQPRIM_HD constexpr range before_border(range r) const noexcept {
    return {r.begin, min_of(r.end, length)};
  }
  [[nodiscard]] SEQPRIM_HD constexpr range behind_border(range r) const noexcept {
    return {max_of(r.begin, length) - length, r.end - length};
  }

 private:
  SEQPRIM_HD constexpr range moved(range r) const noexcept { return {r.begin + length, r.end + length}; }
};

/// `first` for the keys before `length`, `second` for those behind, counted from `length`.
template <bindable First, bindable Second>
[[nodiscard]] SEQPRIM_HD constexpr auto key_concat(const First& first, index_t length, const Second& second) noexcept {
  return concat<side::keys, First, Second>{first, length, second};
}

/// `first` for the queries before `length`, `second` for those behind, counted from `length`.
template <bindable First, bindable Second>
[[nodiscard]] SEQPRIM_HD constexpr auto query_concat(const First& first, index_t length,
                                                     const Second& second) noexcept {
  return concat<side::queries, First, Second>{first, length, second};
}

}  // namespace seqprim::mask
