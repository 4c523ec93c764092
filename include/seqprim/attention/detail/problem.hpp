// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/isa.hpp>
#include <seqprim/attention/detail/rows.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/core/element.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/tensor_view.hpp>
#include <seqprim/position/on_read.hpp>
#include <seqprim/position/shifted.hpp>

#include <type_traits>
#include <utility>

namespace seqprim::attention::detail {
inline namespace SEQPRIM_TARGET_NAMESPACE {

/// The lengths of one attention problem, after validation.
struct problem {
  index_t batch, heads, kv_heads, q_len, k_len, head_dim, value_dim;
  head_order order;
  row_starts starts;  ///< where the queries of each batch row are

  /// Query heads that share a key head.
  [[nodiscard]] SEQPRIM_HD constexpr index_t group() const noexcept { return kv_heads > 0 ? heads / kv_heads : 1; }
  /// The key head of a query head.
  [[nodiscard]] SEQPRIM_HD constexpr index_t kv_head(index_t head) const noexcept {
    return order == head_order::tiled ? head % kv_heads : head / group();
  }
  /// The n-th query head that uses key head g; 0 <= n < group(), in ascending order.
  [[nodiscard]] SEQPRIM_HD constexpr index_t query_head(index_t g, index_t n) const noexcept {
    return order == head_order::tiled ? n * kv_heads + g : g * group() + n;
  }
};

/// Page that error messages point to.
inline constexpr const char* see[] = {
    ". See docs/reference/attention/forward.md", ". See docs/reference/attention/backward.md",
    ". See docs/reference/attention/decode.md",  ". See docs/reference/attention/append.md",
    ". See docs/reference/attention/merge.md",   ". See docs/reference/attention/weights.md"};
enum class entry { forward, backward, decode, append, merge, weights };
inline constexpr const char* entry_name[] = {"attention::forward", "attention::backward", "attention::decode",
                                             "attention::append",  "attention::merge",    "attention::weights"};

template <entry Entry, class View>
void expect_shape(const char* operand, const View& view,
                  const index_t (&expected)[static_cast<std::size_t>(View::rank)]) {
  for (int axis = 0; axis < View::rank; ++axis) {
    SEQPRIM_EXPECTS(view.extent(axis) == expected[axis], entry_name[static_cast<int>(Entry)], ": axis ", axis, " of ",
                    operand, " is ", view.extent(axis), ", expected ", expected[axis], see[static_cast<int>(Entry)]);
  }
}

template <entry Entry, class View> void expect_contiguous_dim(const char* operand, const View& view) {
  static_assert(element<typename View::value_type>,
                "seqprim: attention reads and writes float, float16 and bfloat16 (double for gradient checks). See "
                "docs/reference/attention/forward.md");
  constexpr int last = View::rank - 1;
  SEQPRIM_EXPECTS(view.stride(last) == 1 || view.extent(last) <= 1, entry_name[static_cast<int>(Entry)],
                  ": the last axis of ", operand, " must be contiguous, its stride is ", view.stride(last),
                  see[static_cast<int>(Entry)]);
}

template <entry Entry, class Out, class In>
void expect_apart(const char* out_name, const Out& out, const char* in_name, const In& in) {
  SEQPRIM_EXPECTS(!may_overlap(out, in), entry_name[static_cast<int>(Entry)], ": ", out_name, " overlaps ", in_name,
                  see[static_cast<int>(Entry)]);
}

/// Named requirements of the operands: one sentence when a type does not fit.
template <class X, int Rank> consteval bool require_operand() {
  static_assert(
      viewable<X, Rank>,
      "seqprim: an operand of attention is a tensor or tensor_view of 4 axes (batch, heads, len, dim); lse has 3 "
      "(batch, heads, len)");
  if constexpr (viewable<X, Rank>)
    static_assert(element<element_of<X>>, "seqprim: tensors of attention hold float, float16, bfloat16, or all double");
  return true;
}
template <class X, int Rank> consteval bool require_result() {
  require_operand<X, Rank>();
  if constexpr (viewable<X, Rank>)
    static_assert(!std::is_const_v<typename std::remove_cvref_t<decltype(as_view(std::declval<X&>()))>::element_type>,
                  "seqprim: a result of attention is written to: pass a tensor or view that is not const");
  return true;
}
/// All double or none: sums are kept in one type.
template <class First, class... Rest> consteval bool require_one_precision() {
  static_assert((std::is_same_v<accumulator<element_of<First>>, accumulator<element_of<Rest>>> && ...),
                "seqprim: operands of attention are all double, or none of them is");
  return true;
}

/// The encoding of an op's position part.
template <class Position> struct encoding_in { using type = Position; };
template <class E, class Q, class K> struct encoding_in<position::placed<E, Q, K>> { using type = E; };
template <class Op> using encoding_of = typename encoding_in<decltype(Op::position)>::type;
template <class Op> inline constexpr bool encodes_positions = position::encodes<encoding_of<Op>>;
/// True where a cache holds keys as they came, and decode encodes them as it reads them.
template <class Op> inline constexpr bool encodes_on_read = position::is_on_read<encoding_of<Op>>;

/// The width of keys in a cache for queries of head_dim elements; an encoding whose keys must not be cached is refused.
template <entry Entry, class Op> [[nodiscard]] index_t cached_dim(const Op& op, index_t head_dim) {
  if constexpr (encodes_positions<Op> && !encodes_on_read<Op>) {
    const auto encoding = position::for_head_dim(position::place(op.position).encoding, head_dim);
    SEQPRIM_EXPECTS(
        position::keys_may_be_cached(encoding), entry_name[static_cast<int>(Entry)],
        ": encoded keys of this encoding must not be cached, because they change as the sequence grows; wrap it in "
        "position::on_read. See docs/reference/position/on_read.md");
    return position::encoded_dim(encoding, head_dim);
  } else {
    return head_dim;
  }
}

/// The common part of every entry point: lengths of q, k, v agree, heads divide, dims are contiguous, the op is valid.
template <entry Entry, class Op, class Q, class K, class V>
[[nodiscard]] problem validate_inputs(const cpu& executor, const Op& op, const Q& q, const K& k, const V& v,
                                      const index_array& lengths = {}) {
  static_assert(arch::require_infinities<Op>());
  executor.validate();
  op.validate();
  const problem p{q.extent(0), q.extent(1), k.extent(1),
                  q.extent(2), k.extent(2), q.extent(3),
                  v.extent(3), op.order,    starts_of(op, q.extent(2), k.extent(2), lengths)};
  constexpr const char* name = entry_name[static_cast<int>(Entry)];
  constexpr const char* page = see[static_cast<int>(Entry)];
  SEQPRIM_EXPECTS(p.kv_heads > 0 || p.heads == 0, name, ": heads (", p.heads, ") need at least one kv_head", page);
  SEQPRIM_EXPECTS(p.kv_heads == 0 || p.heads % p.kv_heads == 0, name, ": heads (", p.heads,
                  ") must be a multiple of kv_heads (", p.kv_heads, ")", page);
  const index_t key_dim = Entry == entry::decode ? cached_dim<Entry>(op, p.head_dim) : p.head_dim;
  expect_shape<Entry>("k", k, {p.batch, p.kv_heads, p.k_len, key_dim});
  expect_shape<Entry>("v", v, {p.batch, p.kv_heads, p.k_len, p.value_dim});
  expect_contiguous_dim<Entry>("q", q);
  expect_contiguous_dim<Entry>("k", k);
  expect_contiguous_dim<Entry>("v", v);
  SEQPRIM_EXPECTS(op.sinks.data == nullptr || op.sinks.extent(0) == p.heads, name, ": the op has ", op.sinks.extent(0),
                  " sinks for ", p.heads, " heads", page);
  SEQPRIM_EXPECTS(op.starts.size() == 0 || op.starts.size() >= p.batch, name, ": the op has ", op.starts.size(),
                  " starting positions for ", p.batch, " batch rows", page);
  SEQPRIM_EXPECTS(op.starts.size() > 0 || op.start != last_query_at_last_key ||
                      mask::places_alike(op.mask, p.batch, p.q_len, p.k_len),
                  name, ": a part of the mask counts rows of the call or of a buffer, another positions up to k_len (",
                  p.k_len, "); say where the first query is with starting_at", page);
  const range first = p.starts.bounds(p.batch);
  op.validate(
      mask::shape{p.batch, p.heads, p.q_len + (first.empty() ? 0 : first.end - 1 - first.begin), p.k_len, first.begin});
  const auto at = position::place(op.position);
  position::validate(at.encoding, p.head_dim);
  position::validate_map(position::shifted_rows{at.queries, p.starts}, p.batch, p.q_len);
  if constexpr (Entry != entry::decode || encodes_on_read<Op>) position::validate_map(at.keys, p.batch, p.k_len);
  return p;
}

/// A result whose elements do not overlap: no axis steps within the reach of another, so no two threads write one address.
template <entry Entry, class View> void expect_distinct(const char* operand, const View& view) {
  if (view.size() == 0) return;
  bool taken[View::rank] = {};
  index_t reach = 0;  // of the axes taken so far, shortest steps first
  for (int n = 0; n < View::rank; ++n) {
    int next = -1;
    for (int axis = 0; axis < View::rank; ++axis)
      if (!taken[axis] && (next < 0 || view.stride(axis) < view.stride(next))) next = axis;
    taken[next] = true;
    if (view.extent(next) <= 1) continue;
    SEQPRIM_EXPECTS(view.stride(next) > reach, entry_name[static_cast<int>(Entry)], ": elements of ", operand,
                    " share memory: axis ", next, " steps by ", view.stride(next), see[static_cast<int>(Entry)]);
    reach += (view.extent(next) - 1) * view.stride(next);
  }
}

/// Replaces an lse that was not requested: the right shape, no memory.
template <class Q> [[nodiscard]] auto no_lse(const Q& q) noexcept {
  tensor_view<accumulator<element_of<Q>>, 3> none;
  for (int axis = 0; axis < 3; ++axis) none.extents[axis] = q.extent(axis);
  return none;
}

/// What forward and decode write: shapes, layout, and no overlap with any other operand.
template <entry Entry, class Q, class K, class V, class Out, class Lse>
void expect_results(const problem& p, const Q& q, const K& k, const V& v, const Out& out, const Lse& lse) {
  expect_shape<Entry>("out", out, {p.batch, p.heads, p.q_len, p.value_dim});
  expect_shape<Entry>("lse", lse, {p.batch, p.heads, p.q_len});
  expect_contiguous_dim<Entry>("out", out);
  expect_distinct<Entry>("out", out);
  expect_apart<Entry>("out", out, "q", q);
  expect_apart<Entry>("out", out, "k", k);
  expect_apart<Entry>("out", out, "v", v);
  if (lse.data == nullptr) return;
  expect_distinct<Entry>("lse", lse);
  expect_apart<Entry>("lse", lse, "q", q);
  expect_apart<Entry>("lse", lse, "k", k);
  expect_apart<Entry>("lse", lse, "v", v);
  expect_apart<Entry>("lse", lse, "out", out);
}

/// What backward is given and what it writes: shapes, contiguous dims, gradients that overlap nothing.
template <entry Entry, class Q, class K, class V, class Out, class Lse, class Dout, class Dq, class Dk, class Dv>
void expect_gradients(const problem& p, const Q& q, const K& k, const V& v, const Out& out, const Lse& lse,
                      const Dout& dout, const Dq& dq, const Dk& dk, const Dv& dv) {
  expect_shape<Entry>("out", out, {p.batch, p.heads, p.q_len, p.value_dim});
  expect_shape<Entry>("lse", lse, {p.batch, p.heads, p.q_len});
  expect_shape<Entry>("dout", dout, {p.batch, p.heads, p.q_len, p.value_dim});
  expect_shape<Entry>("dq", dq, {p.batch, p.heads, p.q_len, p.head_dim});
  expect_shape<Entry>("dk", dk, {p.batch, p.kv_heads, p.k_len, p.head_dim});
  expect_shape<Entry>("dv", dv, {p.batch, p.kv_heads, p.k_len, p.value_dim});
  expect_contiguous_dim<Entry>("out", out);
  expect_contiguous_dim<Entry>("dout", dout);
  const auto expect_fresh = [&](const char* name, const auto& gradient) {
    expect_contiguous_dim<Entry>(name, gradient);
    expect_distinct<Entry>(name, gradient);
    expect_apart<Entry>(name, gradient, "q", q);
    expect_apart<Entry>(name, gradient, "k", k);
    expect_apart<Entry>(name, gradient, "v", v);
    expect_apart<Entry>(name, gradient, "out", out);
    expect_apart<Entry>(name, gradient, "lse", lse);
    expect_apart<Entry>(name, gradient, "dout", dout);
  };
  expect_fresh("dq", dq);
  expect_fresh("dk", dk);
  expect_fresh("dv", dv);
  expect_apart<Entry>("dq", dq, "dk", dk);
  expect_apart<Entry>("dq", dq, "dv", dv);
  expect_apart<Entry>("dk", dk, "dv", dv);
}

}  // namespace SEQPRIM_TARGET_NAMESPACE
}  // namespace seqprim::attention::detail
