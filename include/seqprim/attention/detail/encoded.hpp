// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/detail/rows.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/scratch.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/position/encode.hpp>
#include <seqprim/position/shifted.hpp>

#include <cstddef>
#include <utility>

namespace seqprim::attention::detail {

/// The operator in rows of the call, and the shape, for vectors that carry their positions in the width that the encoding gives
/// them: the softmax scale stays that of the width before.
template <class Op> struct encoded_problem {
  decltype(in_rows(std::declval<const Op&>(), row_starts{})) op;
  problem shape;

  encoded_problem(const Op& given, const problem& p) : op(in_rows(given, p.starts)), shape(p) {
    if constexpr (encodes_positions<Op>) {
      const auto encoding = position::for_head_dim(position::place(given.position).encoding, p.head_dim);
      shape.head_dim = position::encoded_dim(encoding, p.head_dim);
      if (shape.head_dim != p.head_dim) op.scale = static_cast<float>(given.scale_for(p.head_dim));
      if constexpr (position::per_head<encoding_of<Op>>)
        SEQPRIM_EXPECTS(p.heads == p.kv_heads,
                        "attention: an encoding with a table for each head needs as many key heads (", p.kv_heads,
                        ") as heads (", p.heads, "). See docs/reference/position/rule.md");
    }
  }
};

/// Memory for encoded queries and keys, [batch, heads, len, dim], in the storage type of their operands: bfloat16 operands keep
/// their kernels. One block, which an allocator can keep for the next call.
template <class Q, class K> class encoded_copies {
 public:
  template <class QueryView, class KeyView>
  encoded_copies(const QueryView& q, const KeyView& k, index_t dim)
      : memory_(1, round_up(bytes_of<Q>(q, dim), index_t{64}) + bytes_of<K>(k, dim)),
        queries_(reinterpret_cast<Q*>(memory_.slab(0)), q.extent(0), q.extent(1), q.extent(2), dim),
        keys_(reinterpret_cast<K*>(memory_.slab(0) + round_up(bytes_of<Q>(q, dim), index_t{64})), k.extent(0),
              k.extent(1), k.extent(2), dim) {}
  [[nodiscard]] tensor_view<Q, 4> queries() const noexcept { return queries_; }
  [[nodiscard]] tensor_view<K, 4> keys() const noexcept { return keys_; }

 private:
  template <class T, class View> [[nodiscard]] static index_t bytes_of(const View& like, index_t dim) noexcept {
    return like.extent(0) * like.extent(1) * like.extent(2) * dim * static_cast<index_t>(sizeof(T));
  }

  scratch<std::byte> memory_;
  tensor_view<Q, 4> queries_;
  tensor_view<K, 4> keys_;
};

/// Calls body(op in rows, shape, q, k) with the positions of op encoded into copies of q and k; without a position the originals
/// go through.
template <class Isa, class Op, class Q, class K, class Body>
void with_encoded(const cpu& executor, const Op& op, const problem& p, const tensor_view<const Q, 4>& q,
                  const tensor_view<const K, 4>& k, const Body& body) {
  const encoded_problem<Op> encoded(op, p);
  if constexpr (encodes_positions<Op>) {
    using position::detail::direction;
    const auto at = position::place(op.position);
    const auto encoding = position::for_head_dim(at.encoding, p.head_dim);
    const encoded_copies<Q, K> copies(q, k, encoded.shape.head_dim);
    const position::shifted_rows query_map{at.queries, p.starts};
    const auto part = [&](position::side which, const auto& map, const auto& x, const auto& y) {
      return position::detail::checked_part<direction::forward>(executor, "attention", encoding, which, map, p.head_dim,
                                                                x, y);
    };
    const auto keys = part(position::side::key, at.keys, k, copies.keys());
    auto queries = part(position::side::query, query_map, q, copies.queries());
    // Most queries have a key at their own position: the two are worked on together.
    if (p.starts.one_for_all() && 0 <= p.starts.common && p.starts.common < p.k_len) queries.first = p.starts.common;
    position::detail::encode_parts<Isa, direction::forward>(executor, encoding, p.head_dim, keys, queries);
    body(encoded.op, encoded.shape, tensor_view<const Q, 4>(copies.queries()), tensor_view<const K, 4>(copies.keys()));
  } else {
    body(encoded.op, encoded.shape, q, k);
  }
}

/// Calls body(dq, dk) with memory for the gradients with respect to encoded queries and keys, and converts these into gradients
/// with respect to the plain ones. Where the encoding keeps the width that is the memory of the results.
template <class Isa, class Op, class Dq, class Dk, class Body>
void with_encoded_gradients(const cpu& executor, const Op& op, const problem& p, const tensor_view<Dq, 4>& dq,
                            const tensor_view<Dk, 4>& dk, const Body& body) {
  if constexpr (encodes_positions<Op>) {
    const auto at = position::place(op.position);
    const index_t dim = encoded_problem<Op>(op, p).shape.head_dim, copied = dim == p.head_dim ? 0 : dim;
    const encoded_copies<Dq, Dk> copies(dq, dk, copied);
    const tensor_view<Dq, 4> dq_encoded = copied == 0 ? dq : copies.queries();
    const tensor_view<Dk, 4> dk_encoded = copied == 0 ? dk : copies.keys();
    body(dq_encoded, dk_encoded);
    const position::shifted_rows query_map{at.queries, p.starts};
    position::encode_backward<Isa>(executor, at.encoding, query_map, position::side::query, dq_encoded, dq);
    position::encode_backward<Isa>(executor, at.encoding, at.keys, position::side::key, dk_encoded, dk);
  } else {
    body(dq, dk);
  }
}

}  // namespace seqprim::attention::detail
