// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/rows.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/core/element.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/tensor.hpp>
#include <seqprim/position/encode.hpp>
#include <seqprim/position/shifted.hpp>

namespace seqprim::attention::detail {

/// The encoding of an op's position part.
template <class Position> struct encoding_in { using type = Position; };
template <class E, class Q, class K> struct encoding_in<position::placed<E, Q, K>> { using type = E; };
template <class Op>
inline constexpr bool encodes_positions = position::encodes<typename encoding_in<decltype(Op::position)>::type>;

/// Calls body(op in rows, q, k) with the positions of op encoded into copies of q and k, in the accumulation type; without a
/// position the originals go through.
template <class Isa, class Op, class Q, class K, class Body>
void with_encoded(const cpu& executor, const Op& op, const row_starts& starts, const tensor_view<const Q, 4>& q,
                  const tensor_view<const K, 4>& k, const Body& body) {
  if constexpr (encodes_positions<Op>) {
    const auto at = position::place(op.position);
    const auto widened = [&](const auto& x) {
      using element = std::remove_const_t<typename std::remove_cvref_t<decltype(x)>::element_type>;
      tensor<accumulator<element>, 4> copy(x.extent(0), x.extent(1), x.extent(2), x.extent(3));
      parallel_for(executor, x.extent(0) * x.extent(1), [&](index_t piece, int) {
        const index_t b = piece / x.extent(1), h = piece % x.extent(1);
        for (index_t i = 0; i < x.extent(2); ++i)
          for (index_t d = 0; d < x.extent(3); ++d) copy(b, h, i, d) = static_cast<accumulator<element>>(x(b, h, i, d));
      });
      return copy;
    };
    auto q_encoded = widened(q);
    auto k_encoded = widened(k);
    position::encode<Isa>(executor, at.encoding, position::shifted_rows{at.queries, starts}, q_encoded, q_encoded);
    position::encode<Isa>(executor, at.encoding, at.keys, k_encoded, k_encoded);
    body(in_rows(op, starts), tensor_view<const accumulator<Q>, 4>(q_encoded.view()),
         tensor_view<const accumulator<K>, 4>(k_encoded.view()));
  } else {
    body(in_rows(op, starts), q, k);
  }
}

/// Converts gradients with respect to encoded queries and keys into gradients with respect to the plain ones, in place.
template <class Isa, class Op, class Dq, class Dk>
void gradients_before_encoding(const cpu& executor, const Op& op, const row_starts& starts,
                               const tensor_view<Dq, 4>& dq, const tensor_view<Dk, 4>& dk) {
  if constexpr (encodes_positions<Op>) {
    const auto at = position::place(op.position);
    position::encode_backward<Isa>(executor, at.encoding, position::shifted_rows{at.queries, starts}, dq, dq);
    position::encode_backward<Isa>(executor, at.encoding, at.keys, dk, dk);
  }
}

}  // namespace seqprim::attention::detail
