// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/element.hpp>
#include <seqprim/core/index.hpp>

#include <concepts>
#include <type_traits>
#include <utility>

/// Where a token is. Two independent halves:
///
///     a map       token -> position                     sequential{}(token) = token
///     an encoding vector, position -> encoded vector    rotary<half_split>{.rotary_dim = 64}
///
/// Positions are explicit: queries and keys have maps of their own, so caches, chunks and ranks work unchanged. An encoding
/// computes a table of cosines and sines once per token and applies it to the vector of every head.
/// Page: docs/reference/position/rule.md
namespace seqprim::position {

/// A map gives each token of a sequence, counted from 0, its position.
template <class P> concept map = std::is_trivially_copyable_v<P> && requires(const P& p, index_t row) {
  { p(row) } -> std::same_as<index_t>;
};

/// A map that differs between batch rows: p.bind(batch) is the map of one of them.
template <class P> concept depends_on_batch = requires(const P& p, index_t batch) {
  { p.bind(batch) } -> map;
};

template <class P> concept bindable_map = map<P> || depends_on_batch<P>;

/// The map of one batch row. Maps that do not depend on it bind to themselves.
template <bindable_map P> [[nodiscard]] SEQPRIM_HD constexpr auto bind(const P& p, index_t batch) noexcept {
  if constexpr (depends_on_batch<P>) {
    return p.bind(batch);
  } else {
    return p;
  }
}

/// An encoding of positions into query and key vectors that acts on pairs of channels: pairs() is the width of its table,
/// angles() fills the table of one token, rotate() applies it to one vector of head_dim numbers and rotate_back() applies
/// the transpose, which is what gradients need. Vectors may be encoded in place. Tables are float, or double for double.
template <class E>
concept encoding = std::is_trivially_copyable_v<E> &&
    requires(const E& e, index_t n, float* table, const float* cosines, const float* sines, const float* x, float* y) {
  { e.pairs() } -> std::same_as<index_t>;
  e.angles(n, table, table);
  e.rotate(x, y, cosines, sines, n);
  e.rotate_back(x, y, cosines, sines, n);
  e.validate();
  e.validate(n);
};

/// The map type that P binds to.
template <bindable_map P> using bound_map = decltype(position::bind(std::declval<const P&>(), index_t{}));

/// False where one table of angles serves all batch rows.
template <bindable_map P> [[nodiscard]] constexpr bool varies_by_batch(const P& p) noexcept {
  if constexpr (requires { p.varies_by_batch(); }) {
    return p.varies_by_batch();
  } else {
    return depends_on_batch<P>;
  }
}

/// Checks the parameters of an encoding: throws precondition_error.
template <encoding E> constexpr void validate(const E& e) { e.validate(); }

/// The same, and that the encoding fits vectors of head_dim numbers. Every entry point calls it before it touches data.
template <encoding E> constexpr void validate(const E& e, index_t head_dim) {
  e.validate();
  e.validate(head_dim);
}

/// Checks the parameters of a map, if it has any, and that it knows `len` rows of `batch` batch rows.
template <bindable_map P> constexpr void validate_map(const P& p, index_t batch, index_t len) {
  if constexpr (requires { p.validate(batch, len); }) p.validate(batch, len);
}

/// Named requirements of the entry points: one sentence when a type is not an encoding or not a map.
template <class E> consteval bool require_encoding() {
  static_assert(
      encoding<E>,
      "seqprim: a position encoding needs 'pairs', 'angles', 'rotate', 'rotate_back' and 'validate', and must be "
      "trivially copyable. See docs/reference/position/rule.md");
  return true;
}
template <class P> consteval bool require_map() {
  static_assert(
      bindable_map<P>,
      "seqprim: a position map needs 'index_t operator()(index_t row) const', and must be trivially copyable. See "
      "docs/reference/position/rule.md");
  return true;
}

}  // namespace seqprim::position
