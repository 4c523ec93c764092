// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/arrays.hpp>
#include <seqprim/position/none.hpp>
#include <seqprim/position/rule.hpp>
#include <seqprim/position/sequential.hpp>

#include <type_traits>

namespace seqprim::position {

/// An encoding together with the maps of queries and keys, for tokens whose positions are not their indices. Maps are evaluated at
/// tokens, counted from the start of each sequence: the operator defines which token row 0 of the queries is, and a cache defines
/// which token a row of keys is, so that one value serves forward, chunks and decoding.
///
///     attention::softmax op{mask::causal{}, score::identity{}, position::placed{rope, token_ids{ids}, token_ids{ids}}};
template <encoding Encoding, bindable_map Queries, bindable_map Keys> struct placed {
  Encoding encoding;
  Queries queries;
  Keys keys;

  template <class Visit> constexpr void for_arrays(const Visit& visit) const {
    seqprim::for_arrays(encoding, visit);
    seqprim::for_arrays(queries, visit);
    seqprim::for_arrays(keys, visit);
  }
};
template <class Encoding, class Queries, class Keys> placed(Encoding, Queries, Keys) -> placed<Encoding, Queries, Keys>;

template <class P> inline constexpr bool is_placed = false;
template <class E, class Q, class K> inline constexpr bool is_placed<placed<E, Q, K>> = true;

/// What the position part of an operator may be.
template <class P> concept part_of_op = encoding<P> || is_placed<P>;

/// Gives a position part its maps: its own, or token = position.
template <part_of_op P> [[nodiscard]] constexpr auto place(const P& part) noexcept {
  if constexpr (is_placed<P>) {
    return part;
  } else {
    return placed<P, sequential, sequential>{part, {}, {}};
  }
}

}  // namespace seqprim::position
