// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/softmax.hpp>
#include <seqprim/core/element.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/tensor_view.hpp>

namespace seqprim::attention::detail {

/// The lengths of one attention problem, after validation.
struct problem {
  index_t batch, heads, kv_heads, q_len, k_len, head_dim, value_dim;

  [[nodiscard]] index_t group() const noexcept { return kv_heads > 0 ? heads / kv_heads : 1; }
};

/// Page that error messages point to.
inline constexpr const char* see[] = {". See docs/reference/attention/forward.md",
                                      ". See docs/reference/attention/backward.md",
                                      ". See docs/reference/attention/decode.md"};
enum class entry { forward, backward, decode };
inline constexpr const char* entry_name[] = {"attention::forward", "attention::backward", "attention::decode"};

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
                "seqprim: attention reads and writes float, half and bfloat16 (double for gradient checks). See "
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

/// The common part of every entry point: lengths of q, k, v agree, heads divide, dims are contiguous, the op is valid.
template <entry Entry, class Op, class Q, class K, class V>
[[nodiscard]] problem validate_inputs(const cpu& executor, const Op& op, const Q& q, const K& k, const V& v) {
  executor.validate();
  op.validate();
  const problem p{q.extent(0), q.extent(1), k.extent(1), q.extent(2), k.extent(2), q.extent(3), v.extent(3)};
  constexpr const char* name = entry_name[static_cast<int>(Entry)];
  constexpr const char* page = see[static_cast<int>(Entry)];
  SEQPRIM_EXPECTS(p.kv_heads > 0 || p.heads == 0, name, ": heads (", p.heads, ") need at least one kv_head", page);
  SEQPRIM_EXPECTS(p.kv_heads == 0 || p.heads % p.kv_heads == 0, name, ": heads (", p.heads,
                  ") must be a multiple of kv_heads (", p.kv_heads, ")", page);
  expect_shape<Entry>("k", k, {p.batch, p.kv_heads, p.k_len, p.head_dim});
  expect_shape<Entry>("v", v, {p.batch, p.kv_heads, p.k_len, p.value_dim});
  expect_contiguous_dim<Entry>("q", q);
  expect_contiguous_dim<Entry>("k", k);
  expect_contiguous_dim<Entry>("v", v);
  mask::validate(op.mask, mask::shape{p.batch, p.heads, p.q_len, p.k_len});
  score::validate(op.score, p.batch, p.heads);
  const auto at = position::place(op.position, p.q_len, p.k_len);
  position::validate(at.encoding, p.head_dim);
  position::validate_map(at.queries, p.batch, p.q_len);
  position::validate_map(at.keys, p.batch, p.k_len);
  return p;
}

}  // namespace seqprim::attention::detail
