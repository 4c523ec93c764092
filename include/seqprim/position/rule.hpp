// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/index.hpp>
#include <seqprim/position/none.hpp>

#include <concepts>
#include <type_traits>
#include <utility>

/// Where a token is. Two independent halves:
///
///     a map       token -> coordinate                     sequential{}(token) = token
///     an encoding vector, coordinate -> encoded vector    rotary<half_split>{}
///
/// Coordinates are explicit: queries and keys have maps of their own, so caches, chunks and ranks work unchanged. An encoding
/// fills a table once per token and applies it to the vector of every head.
/// Page: docs/reference/position/rule.md
namespace seqprim::position {

/// The coordinate of a token on N axes: row and column of an image patch; time, height and width of a video token.
template <int N> struct point {
  static_assert(N >= 1, "seqprim: a point has at least one axis");
  double at[N];

  friend constexpr bool operator==(const point&, const point&) = default;
};
template <class C> inline constexpr bool is_point = false;
template <int N> inline constexpr bool is_point<point<N>> = true;

/// What a map returns: an integer, a number, or a point of several numbers.
template <class C> concept coordinate = std::same_as<C, index_t> || std::same_as<C, double> || is_point<C>;

/// Coordinates of one type that another can be read from: the same, or integers where numbers are expected. A number is not a
/// point: on which axes it is meant must be said.
template <class From, class To>
concept coordinate_for = std::same_as<From, To> ||(std::same_as<From, index_t>&& std::same_as<To, double>);

/// A map gives each token of a sequence, counted from 0, its coordinate.
template <class P> concept map = std::is_trivially_copyable_v<P> && requires(const P& p, index_t row) {
  { p(row) } -> coordinate;
};

/// A map that differs between batch rows, p.bind(batch), or between heads as well, p.bind(batch, head).
template <class P> concept depends_on_batch = requires(const P& p, index_t batch) {
  { p.bind(batch) } -> map;
};
template <class P> concept depends_on_head = requires(const P& p, index_t batch, index_t head) {
  { p.bind(batch, head) } -> map;
};

template <class P> concept bindable_map = map<P> || depends_on_batch<P> || depends_on_head<P>;

/// The map of one batch row and head. Maps that depend on neither bind to themselves.
template <bindable_map P>
[[nodiscard]] SEQPRIM_HD constexpr auto bind(const P& p, index_t batch, [[maybe_unused]] index_t head) noexcept {
  if constexpr (depends_on_head<P>) {
    return p.bind(batch, head);
  } else if constexpr (depends_on_batch<P>) {
    return p.bind(batch);
  } else {
    return p;
  }
}
/// The same for maps that do not depend on the head.
template <bindable_map P>
requires(!depends_on_head<P>) [[nodiscard]] SEQPRIM_HD constexpr auto bind(const P& p, index_t batch) noexcept {
  return position::bind(p, batch, index_t{0});
}

/// The coordinate that a map returns.
template <bindable_map P>
using coordinate_of =
    std::remove_cvref_t<decltype(position::bind(std::declval<const P&>(), index_t{}, index_t{})(index_t{}))>;

/// The map type that P binds to.
template <bindable_map P> using bound_map = decltype(position::bind(std::declval<const P&>(), index_t{}, index_t{}));

/// False where one table serves all batch rows.
template <bindable_map P> [[nodiscard]] constexpr bool varies_by_batch(const P& p) noexcept {
  if constexpr (requires { p.varies_by_batch(); }) {
    return p.varies_by_batch();
  } else {
    return depends_on_batch<P> || depends_on_head<P>;
  }
}

/// Which side of the product <q, k> a vector belongs to.
enum class side : unsigned char { query, key };

namespace detail {

template <class E> concept fills_one_table = requires(const E& e, const typename E::coordinate& c, float* table) {
  e.table(c, table);
};
template <class E> concept fills_tables_by_head = requires(const E& e, const typename E::coordinate& c, float* table) {
  e.table(c, index_t{}, table);
};
template <class E> concept applies_to_both = requires(const E& e, const float* x, float* y, const float* table) {
  e.apply(x, y, table, index_t{});
  e.apply_transposed(x, y, table, index_t{});
};
template <class E> concept applies_by_side = requires(const E& e, const float* x, float* y, const float* table) {
  e.apply(side::query, x, y, table, index_t{});
  e.apply_transposed(side::query, x, y, table, index_t{});
};

}  // namespace detail

/// An encoding of coordinates into query and key vectors:
///
///     using coordinate = ...;                                                   index_t, double or point<N>
///     index_t table_size() const;                                               elements per token
///     void table(coordinate, Angle* table) const;                               fills them: float, or double for double data
///     void apply(const Angle* x, Angle* y, const Angle* table, index_t head_dim) const;             one vector
///     void apply_transposed(const Angle* dy, Angle* dx, const Angle* table, index_t head_dim) const;  its gradient
///
/// These five are enough. An encoding that differs between heads takes the head, `table(coordinate, head, Angle*)`; one that
/// differs between queries and keys takes the side first, `apply(side, x, y, ...)`. Further members, each with a default:
///
///     index_t encoded_dim(index_t head_dim) const;      width of encoded vectors                     head_dim
///     bool keys_may_be_cached() const;                  encoded keys stay right as a cache grows     true
///     E for_head_dim(index_t head_dim) const;           with what follows from head_dim filled in    the same
///     bool covers(coordinate) const;                    the table can be filled for it               true
///     void validate() const, validate(index_t head_dim) const;                  throw precondition_error
///     index_t parameters() const, add_parameter_gradient(...)                   see parameter_gradient.hpp
///
/// x may be y where the width stays. Encodings need not handle 16-bit elements: encode() converts.
template <class E>
concept encoding = std::same_as<E, none> ||
    (std::is_trivially_copyable_v<E>&& coordinate<typename E::coordinate>&& requires(const E& e) {
      { e.table_size() } -> std::same_as<index_t>;
    } &&
     (detail::fills_one_table<E> || detail::fills_tables_by_head<E>)&&(detail::applies_to_both<E> ||
                                                                       detail::applies_by_side<E>));

/// False for `none`; what it guards costs nothing then.
template <encoding E> inline constexpr bool encodes = !std::same_as<E, none>;
/// An encoding with a table for each head.
template <encoding E> inline constexpr bool per_head = detail::fills_tables_by_head<E>;
/// An encoding that treats queries and keys differently.
template <encoding E> inline constexpr bool sided = detail::applies_by_side<E>;

/// The members of an encoding with their defaults.
template <encoding E> [[nodiscard]] SEQPRIM_HD constexpr index_t encoded_dim(const E& e, index_t head_dim) noexcept {
  if constexpr (requires { e.encoded_dim(head_dim); }) {
    return e.encoded_dim(head_dim);
  } else {
    return head_dim;
  }
}
template <encoding E> [[nodiscard]] SEQPRIM_HD constexpr bool keys_may_be_cached(const E& e) noexcept {
  if constexpr (requires { e.keys_may_be_cached(); }) {
    return e.keys_may_be_cached();
  } else {
    return true;
  }
}
template <encoding E> [[nodiscard]] SEQPRIM_HD constexpr E for_head_dim(const E& e, index_t head_dim) noexcept {
  if constexpr (requires { e.for_head_dim(head_dim); }) {
    return e.for_head_dim(head_dim);
  } else {
    return e;
  }
}
template <encoding E, class Angle>
SEQPRIM_HD constexpr void fill_table(const E& e, const typename E::coordinate& at, [[maybe_unused]] index_t head,
                                     Angle* table) noexcept {
  if constexpr (per_head<E>) {
    e.table(at, head, table);
  } else {
    e.table(at, table);
  }
}
template <encoding E, class T, class Angle>
SEQPRIM_HD constexpr void apply(const E& e, [[maybe_unused]] side which, const T* x, T* y, const Angle* table,
                                index_t head_dim) noexcept {
  if constexpr (sided<E>) {
    e.apply(which, x, y, table, head_dim);
  } else {
    e.apply(x, y, table, head_dim);
  }
}
template <encoding E, class T, class Angle>
SEQPRIM_HD constexpr void apply_transposed(const E& e, [[maybe_unused]] side which, const T* dy, T* dx,
                                           const Angle* table, index_t head_dim) noexcept {
  if constexpr (sided<E>) {
    e.apply_transposed(which, dy, dx, table, head_dim);
  } else {
    e.apply_transposed(dy, dx, table, head_dim);
  }
}

/// Checks the parameters of an encoding: throws precondition_error.
template <encoding E> constexpr void validate(const E& e) {
  if constexpr (requires { e.validate(); }) e.validate();
}

/// The same, and that the encoding fits vectors of head_dim channels. Every entry point calls it before it touches data.
template <encoding E> constexpr void validate(const E& encoding, index_t head_dim) {
  const E e = position::for_head_dim(encoding, head_dim);
  position::validate(e);
  if constexpr (requires { e.validate(head_dim); }) e.validate(head_dim);
}

/// Checks the parameters of a map, if it has any, and that it has `len` rows of `batch` batch rows.
template <bindable_map P> constexpr void validate_map(const P& p, index_t batch, index_t len) {
  if constexpr (requires { p.validate(batch, len); }) p.validate(batch, len);
}

/// Named requirements of the entry points: one sentence when a type is not an encoding or not a map.
template <class E> consteval bool require_encoding() {
  static_assert(encoding<E>,
                "seqprim: a position encoding needs 'coordinate', 'table_size', 'table', 'apply' and "
                "'apply_transposed', and must be trivially copyable. See docs/reference/position/rule.md");
  return true;
}
template <class P> consteval bool require_map() {
  static_assert(bindable_map<P>,
                "seqprim: a position map needs 'operator()(index_t row) const' that returns an index_t, a double or a "
                "position::point, and must be trivially copyable. See docs/reference/position/rule.md");
  return true;
}
template <class E, class P> consteval bool require_coordinates() {
  if constexpr (encoding<E> && bindable_map<P>) {
    if constexpr (encodes<E>)
      static_assert(
          coordinate_for<coordinate_of<P>, typename E::coordinate>,
          "seqprim: the map returns other coordinates than the encoding takes: integers serve where numbers do, "
          "but a number is no point and a point no number. See docs/reference/position/rule.md");
  }
  return true;
}

}  // namespace seqprim::position
