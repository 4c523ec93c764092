// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/position/none.hpp>
#include <seqprim/position/rule.hpp>
#include <seqprim/position/sequential.hpp>

#include <type_traits>

namespace seqprim::position {

/// An encoding together with the maps of queries and keys: the position part of an attention operator whose tokens do not
/// stand where they are counted. A bare encoding in an operator means keys at 0, 1, 2 ... and the last query at the last key.
///
///     attention::softmax op{mask::causal{}, score::identity{}, position::placed{rope, token_ids{q_ids}, token_ids{k_ids}}};
///
/// Source  spec positions 0.
template <encoding Encoding, bindable_map Queries, bindable_map Keys> struct placed {
  Encoding encoding;
  Queries queries;
  Keys keys;
};
template <class Encoding, class Queries, class Keys> placed(Encoding, Queries, Keys) -> placed<Encoding, Queries, Keys>;

template <class P> inline constexpr bool is_placed = false;
template <class E, class Q, class K> inline constexpr bool is_placed<placed<E, Q, K>> = true;

/// What the position part of an operator may be.
template <class P> concept part_of_op = encoding<P> || is_placed<P>;

/// Gives a position part its maps: itself, or the default ones for q_len queries that end where k_len keys end.
template <part_of_op P> [[nodiscard]] constexpr auto place(const P& part, index_t q_len, index_t k_len) noexcept {
  if constexpr (is_placed<P>) {
    return part;
  } else {
    return placed<P, sequential, sequential>{part, {.start = k_len - q_len}, {.start = 0}};
  }
}

}  // namespace seqprim::position
