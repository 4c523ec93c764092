// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/isa.hpp>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/core/parallel.hpp>
#include <seqprim/core/subject.hpp>
#include <seqprim/core/tensor_view.hpp>

#include <cmath>

namespace seqprim::attention {

/// The weights of two partial results in their merge: out = first * out1 + second * out2.
struct merge_weights {
  float first = 0;
  float second = 0;
  float lse = 0;  ///< log-sum-exp of the merged part

  /// One element of the merged part. An empty part may hold anything: a NaN is not multiplied by its weight 0.
  [[nodiscard]] SEQPRIM_HD constexpr float join(float one, float other) const noexcept {
    return (first == 0 ? 0.0f : first * one) + (second == 0 ? 0.0f : second * other);
  }
};

/// The weights of two parts with log-sum-exps `lse1` and `lse2` (natural log). An empty part (lse = -inf) has weight 0; two
/// empty parts give an empty one. NaN stays NaN.
[[nodiscard]] SEQPRIM_HD merge_weights weigh(float lse1, float lse2) noexcept {
  const float infinity = __builtin_huge_valf();
  if (lse1 == -infinity && lse2 == -infinity) return {0.0f, 0.0f, -infinity};
  const float top = lse1 > lse2 ? lse1 : lse2;
  const float a = ::expf(lse1 - top), b = ::expf(lse2 - top);
  const float total = a + b;
  return {a / total, b / total, top + ::logf(total)};
}

namespace detail {
inline namespace SEQPRIM_TARGET_NAMESPACE {

/// The operands of a merge as views, checked.
struct merge_views {
  tensor_view<float, 4> out;
  tensor_view<float, 3> lse;
  tensor_view<const float, 4> part;
  tensor_view<const float, 3> part_lse;
};
template <class Out, class Lse, class PartOut, class PartLse>
[[nodiscard]] merge_views merge_operands(Out&& out_view, Lse&& lse_view, const PartOut& part_out_view,
                                         const PartLse& part_lse_view) {
  static_assert(require_result<Out, 4>() && require_result<Lse, 3>() && require_operand<PartOut, 4>() &&
                require_operand<PartLse, 3>());
  static_assert(std::is_same_v<element_of<Out>, float> && std::is_same_v<element_of<Lse>, float> &&
                    std::is_same_v<element_of<PartOut>, float> && std::is_same_v<element_of<PartLse>, float>,
                "seqprim: attention::merge joins parts in float");
  const auto out = tensor_view<float, 4>(as_view(out_view));
  const auto lse = tensor_view<float, 3>(as_view(lse_view));
  const auto part = tensor_view<const float, 4>(as_view(part_out_view));
  const auto part_lse = tensor_view<const float, 3>(as_view(part_lse_view));
  constexpr const subject& self = subject_of<entry::merge>;
  const axis_length shape[] = {{out.extent(0), "batch", "out"},
                               {out.extent(1), "heads", "out"},
                               {out.extent(2), "q_len", "out"},
                               {out.extent(3), "dim", "out"}};
  self.expects_lengths("out", out);
  self.expects_shape("part_out", part, shape);
  self.expects_shape("lse", lse, {shape[0], shape[1], shape[2]});
  self.expects_shape("part_lse", part_lse, {shape[0], shape[1], shape[2]});
  self.expects_distinct("out", out);
  self.expects_distinct("lse", lse);
  self.expects_apart("out", out, "lse", lse);
  self.expects_apart("out", out, "part_out", part);
  self.expects_apart("out", out, "part_lse", part_lse);
  self.expects_apart("lse", lse, "part_out", part);
  self.expects_apart("lse", lse, "part_lse", part_lse);
  return {out, lse, part, part_lse};
}

}  // namespace SEQPRIM_TARGET_NAMESPACE
}  // namespace detail

/// Merges partial attention over two disjoint sets of keys into the result over both, in place of the first:
/// (out, lse) <- (out, lse) + (part_out, part_lse).
///
///     weight_i = exp(lse_i - lse),   lse = log(exp(lse_1) + exp(lse_2)),   out = weight_1 out_1 + weight_2 out_2
///
/// Associative and commutative up to rounding, with (0, -inf) as the neutral
/// element: one monoid for splits of keys, threads, blocks and ranks.
///
/// Shapes  out, part_out [batch, heads, q_len, dim]; lse, part_lse [batch, heads, q_len]
/// Types   float, natural-log lse.
/// Edge    an empty part (lse = -inf) adds nothing, even if its out holds NaN; two empty parts give 0 and -inf.
/// Errors  precondition_error: shapes disagree, out or lse overlaps anything, itself included.
/// Repeat  same bits for any number of threads; another order of merging may round differently.
/// Cost    one pass over both parts, 3 flop per element; two exponentials and a logarithm per row. Allocates nothing.
/// Source  Rabe and Staats, "Self-attention does not need O(n^2) memory"; Milakov and Gimelshein, "Online normalizer
///         calculation for softmax".  Page docs/reference/attention/merge.md
template <class Isa = arch::native_isa, class Out, class Lse, class PartOut, class PartLse>
void merge(const cpu& executor, Out&& out_view, Lse&& lse_view, const PartOut& part_out_view,
           const PartLse& part_lse_view) {
  executor.validate();
  // Copied one by one: clang 14 cannot capture structured bindings.
  const detail::merge_views views = detail::merge_operands(out_view, lse_view, part_out_view, part_lse_view);
  const auto out = views.out;
  const auto lse = views.lse;
  const auto part = views.part;
  const auto part_lse = views.part_lse;
  const index_t heads = out.extent(1);
  parallel_for(executor, out.extent(0) * heads, [&](index_t piece, int) {
    const index_t b = piece / heads, h = piece % heads;
    for (index_t i = 0; i < out.extent(2); ++i) {
      const merge_weights w = weigh(lse(b, h, i), part_lse(b, h, i));
      for (index_t d = 0; d < out.extent(3); ++d) out(b, h, i, d) = w.join(out(b, h, i, d), part(b, h, i, d));
      lse(b, h, i) = w.lse;
    }
  });
}

}  // namespace seqprim::attention
