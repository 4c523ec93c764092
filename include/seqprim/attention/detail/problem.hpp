// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/isa.hpp>
#include <seqprim/attention/detail/rows.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/core/arrays.hpp>
#include <seqprim/core/element.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/subject.hpp>
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

  // The axes, with the operands that set their lengths.
  [[nodiscard]] constexpr axis_length batch_axis() const noexcept { return {batch, "batch", "q"}; }
  [[nodiscard]] constexpr axis_length heads_axis() const noexcept { return {heads, "heads", "q"}; }
  [[nodiscard]] constexpr axis_length kv_heads_axis() const noexcept { return {kv_heads, "kv_heads", "k"}; }
  [[nodiscard]] constexpr axis_length q_len_axis() const noexcept { return {q_len, "q_len", "q"}; }
  [[nodiscard]] constexpr axis_length k_len_axis() const noexcept { return {k_len, "k_len", "k"}; }
  [[nodiscard]] constexpr axis_length head_dim_axis() const noexcept { return {head_dim, "head_dim", "q"}; }
  [[nodiscard]] constexpr axis_length value_dim_axis() const noexcept { return {value_dim, "value_dim", "v"}; }
};

enum class entry { forward, backward, decode, append, merge, weights };
/// What the errors of an entry point speak for.
inline constexpr subject entries[] = {
    {"attention::forward", "attention/forward"}, {"attention::backward", "attention/backward"},
    {"attention::decode", "attention/decode"},   {"attention::append", "attention/append"},
    {"attention::merge", "attention/merge"},     {"attention::weights", "attention/weights"}};
template <entry Entry> inline constexpr const subject& subject_of = entries[static_cast<int>(Entry)];

template <entry Entry, class View>
void expect_shape(const char* operand, const View& view,
                  const axis_length (&expected)[static_cast<std::size_t>(View::rank)]) {
  subject_of<Entry>.expects_shape(operand, view, expected);
}

template <entry Entry, class View> void expect_contiguous_dim(const char* operand, const View& view) {
  static_assert(element<typename View::value_type>,
                "seqprim: attention reads and writes float, float16 and bfloat16 (double for gradient checks). See "
                "docs/reference/attention/forward.md");
  subject_of<Entry>.expects_contiguous(operand, view);
}

template <entry Entry, class Out, class In>
void expect_apart(const char* out_name, const Out& out, const char* in_name, const In& in) {
  subject_of<Entry>.expects_apart(out_name, out, in_name, in);
}

/// A result whose elements do not overlap, so that no two threads write one address.
template <entry Entry, class View> void expect_distinct(const char* operand, const View& view) {
  subject_of<Entry>.expects_distinct(operand, view);
}

/// Named requirements of the operands: one sentence when a type does not fit.
template <class X, int Rank> consteval bool require_operand() {
  static_assert(
      viewable<X, Rank>,
      "seqprim: an operand of attention is a tensor or tensor_view of 4 axes (batch, heads, len, dim); lse has 3 "
      "(batch, heads, len)");
  if constexpr (viewable<X, Rank>)
    static_assert(element<element_of<X>>,
                  "seqprim: tensors of attention hold float, float16, bfloat16, or all double. See "
                  "docs/reference/attention/forward.md");
  return true;
}
template <class X, int Rank> consteval bool require_result() {
  require_operand<X, Rank>();
  if constexpr (viewable<X, Rank>)
    static_assert(!std::is_const_v<typename std::remove_cvref_t<decltype(as_view(std::declval<X&>()))>::element_type>,
                  "seqprim: a result of attention is written to: pass a tensor or view that is not const. See "
                  "docs/reference/attention/forward.md");
  return true;
}
/// All double or none: sums are kept in one type.
template <class First, class... Rest> consteval bool require_one_precision() {
  static_assert(
      (std::is_same_v<accumulator<element_of<First>>, accumulator<element_of<Rest>>> && ...),
      "seqprim: operands of attention are all double, or none of them is. See docs/reference/attention/forward.md");
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
    constexpr subject self{subject_of<Entry>.name, "position/on_read"};
    self.expects(
        position::keys_may_be_cached(encoding),
        "encoded keys of this encoding must not be cached, because they change as the sequence grows; wrap it in "
        "position::on_read");
    return position::encoded_dim(encoding, head_dim);
  } else {
    return head_dim;
  }
}

/// The common part of every entry point: lengths of q, k, v agree, heads divide, dims are contiguous, the op is valid. An
/// executor of the host also reads the sinks.
template <entry Entry, class Executor, class Op, class Q, class K, class V>
[[nodiscard]] problem validate_inputs(const Executor& executor, const Op& op, const Q& q, const K& k, const V& v,
                                      const index_array& lengths = {}) {
  static_assert(arch::require_infinities<Op>());
  constexpr const subject& self = subject_of<Entry>;
  expect_arrays(executor, op);
  expect_memory(executor, self, "q", q);
  expect_memory(executor, self, "k", k);
  expect_memory(executor, self, "v", v);
  op.validate();
  if constexpr (std::is_same_v<Executor, cpu>) {
    executor.validate();
    op.validate_sinks();
  }
  expect_contiguous_dim<Entry>("q", q);
  expect_contiguous_dim<Entry>("k", k);
  expect_contiguous_dim<Entry>("v", v);
  const problem p{q.extent(0), q.extent(1), k.extent(1),
                  q.extent(2), k.extent(2), q.extent(3),
                  v.extent(3), op.order,    starts_of(op, q.extent(2), k.extent(2), lengths)};
  self.expects(p.kv_heads > 0 || p.heads == 0, "heads (", p.heads, ") need at least one kv_head");
  self.expects(p.kv_heads == 0 || p.heads % p.kv_heads == 0, "heads (", p.heads, ") must be a multiple of kv_heads (",
               p.kv_heads, ")");
  axis_length key_dim = p.head_dim_axis();
  if constexpr (Entry == entry::decode) {
    key_dim.length = cached_dim<Entry>(op, p.head_dim);
    if (key_dim.length != p.head_dim) key_dim.set_by = "encoded q";
  }
  expect_shape<Entry>("k", k, {p.batch_axis(), p.kv_heads_axis(), p.k_len_axis(), key_dim});
  expect_shape<Entry>("v", v, {p.batch_axis(), p.kv_heads_axis(), p.k_len_axis(), p.value_dim_axis()});
  self.expects(op.sinks.data == nullptr || op.sinks.extent(0) == p.heads, "the op has ", op.sinks.extent(0),
               " sinks for ", p.heads, " heads");
  self.expects(op.starts.size() == 0 || op.starts.size() >= p.batch, "the op has ", op.starts.size(),
               " starting positions for ", p.batch, " batch rows");
  self.expects(op.starts.size() > 0 || op.start != last_query_at_last_key ||
                   mask::places_alike(op.mask, p.batch, p.q_len, p.k_len),
               "a part of the mask counts rows of the call or of a buffer, another positions up to k_len (", p.k_len,
               "); say where the first query is with starting_at");
  const range first = p.starts.bounds(p.batch);
  op.validate(
      mask::shape{p.batch, p.heads, p.q_len + (first.empty() ? 0 : first.end - 1 - first.begin), p.k_len, first.begin});
  const auto at = position::place(op.position);
  position::validate(at.encoding, p.head_dim);
  position::validate_map(position::shifted_rows{at.queries, p.starts}, p.batch, p.q_len);
  if constexpr (Entry != entry::decode || encodes_on_read<Op>) position::validate_map(at.keys, p.batch, p.k_len);
  return p;
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
  expect_shape<Entry>("out", out, {p.batch_axis(), p.heads_axis(), p.q_len_axis(), p.value_dim_axis()});
  expect_shape<Entry>("lse", lse, {p.batch_axis(), p.heads_axis(), p.q_len_axis()});
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

/// Everything that backward reads.
template <class Q, class K, class V, class Out, class Lse, class Dout> struct backward_inputs {
  Q q;
  K k;
  V v;
  Out out;
  Lse lse;
  Dout dout;
};
template <class Q, class K, class V, class Out, class Lse, class Dout>
backward_inputs(Q, K, V, Out, Lse, Dout) -> backward_inputs<Q, K, V, Out, Lse, Dout>;

/// Everything that it writes; `learned` are the gradients of what the score learns.
template <class Dq, class Dk, class Dv, class Learned> struct backward_results {
  Dq dq;
  Dk dk;
  Dv dv;
  Learned learned;
};
template <class Dq, class Dk, class Dv, class Learned>
backward_results(Dq, Dk, Dv, Learned) -> backward_results<Dq, Dk, Dv, Learned>;

/// body(name, operand) for each of them.
template <class Inputs, class Body> void for_operands(const Inputs& in, const Body& body) {
  body("q", in.q);
  body("k", in.k);
  body("v", in.v);
  body("out", in.out);
  body("lse", in.lse);
  body("dout", in.dout);
}
template <class Results, class Body> void for_results(const Results& to, const Body& body) {
  body("dq", to.dq);
  body("dk", to.dk);
  body("dv", to.dv);
}

/// What backward is given and what it writes: shapes, contiguous dims, gradients that overlap nothing.
template <entry Entry, class Inputs, class Results>
void expect_gradients(const problem& p, const Inputs& in, const Results& to) {
  expect_shape<Entry>("out", in.out, {p.batch_axis(), p.heads_axis(), p.q_len_axis(), p.value_dim_axis()});
  expect_shape<Entry>("lse", in.lse, {p.batch_axis(), p.heads_axis(), p.q_len_axis()});
  expect_shape<Entry>("dout", in.dout, {p.batch_axis(), p.heads_axis(), p.q_len_axis(), p.value_dim_axis()});
  expect_shape<Entry>("dq", to.dq, {p.batch_axis(), p.heads_axis(), p.q_len_axis(), p.head_dim_axis()});
  expect_shape<Entry>("dk", to.dk, {p.batch_axis(), p.kv_heads_axis(), p.k_len_axis(), p.head_dim_axis()});
  expect_shape<Entry>("dv", to.dv, {p.batch_axis(), p.kv_heads_axis(), p.k_len_axis(), p.value_dim_axis()});
  expect_contiguous_dim<Entry>("out", in.out);
  expect_contiguous_dim<Entry>("dout", in.dout);
  for_results(to, [&](const char* name, const auto& gradient) {
    expect_contiguous_dim<Entry>(name, gradient);
    expect_distinct<Entry>(name, gradient);
    for_operands(in, [&](const char* other, const auto& x) { expect_apart<Entry>(name, gradient, other, x); });
  });
  expect_apart<Entry>("dq", to.dq, "dk", to.dk);
  expect_apart<Entry>("dq", to.dq, "dv", to.dv);
  expect_apart<Entry>("dk", to.dk, "dv", to.dv);
}

}  // namespace SEQPRIM_TARGET_NAMESPACE
}  // namespace seqprim::attention::detail
