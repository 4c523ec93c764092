// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/isa.hpp>
#include <seqprim/attention/detail/problem.hpp>

#include <cmath>

namespace seqprim::attention {

namespace detail {
inline namespace SEQPRIM_TARGET_NAMESPACE {

inline constexpr subject sink_gradient_subject{"attention::sink_gradient", "attention/sink_gradient"};

/// Everything but the arrays of the operator: shapes agree, and dsinks overlaps nothing.
template <class Op, class Out, class Lse, class Dout, class Dsinks>
void expect_sink_gradient(const Op& op, const Out& out, const Lse& lse, const Dout& dout, const Dsinks& dsinks) {
  constexpr const subject& self = sink_gradient_subject;
  const index_t batch = out.extent(0), heads = out.extent(1), rows = out.extent(2), dim = out.extent(3);
  self.expects_lengths("out", out);
  self.expects_shape(
      "dout", dout,
      {{batch, "batch", "out"}, {heads, "heads", "out"}, {rows, "q_len", "out"}, {dim, "value_dim", "out"}});
  self.expects_shape("lse", lse, {{batch, "batch", "out"}, {heads, "heads", "out"}, {rows, "q_len", "out"}});
  self.expects_shape("dsinks", dsinks, {{heads, "heads", "out"}});
  self.expects(op.sinks.data == nullptr || op.sinks.extent(0) == heads, "the op has ", op.sinks.extent(0),
               " sinks for ", heads, " heads");
  self.expects_apart("dsinks", dsinks, "out", out);
  self.expects_apart("dsinks", dsinks, "lse", lse);
  self.expects_apart("dsinks", dsinks, "dout", dout);
  self.expects_apart("dsinks", dsinks, "the sinks", op.sinks);
  self.expects_distinct("dsinks", dsinks);
}

}  // namespace SEQPRIM_TARGET_NAMESPACE
}  // namespace detail

/// Gradients of sum(out * dout) with respect to the logits of the sinks, given out and lse of the forward pass:
///
///     dsinks(h) = - sum over batch and rows of exp(sink(h) - lse) * <dout, out>
///
/// A sink that all heads share has the sum of dsinks as its gradient.
///
/// Shapes  out, dout [batch, heads, q_len, value_dim]; lse [batch, heads, q_len]; dsinks [heads], overwritten.
/// Types   out, dout: float, float16, bfloat16 or double; lse and dsinks float (double with double); sums in double.
/// Edge    no sink (-inf): 0. A row whose lse is -inf adds nothing.
/// Errors  precondition_error before anything is written: shapes disagree, dsinks overlaps an input (the sinks are one)
///         or itself.
/// Repeat  same bits for any number of threads.
/// Cost    one pass over out and dout. Allocates nothing.
/// Page docs/reference/attention/sink_gradient.md
template <class Isa = arch::native_isa, class Op, class Out, class Lse, class Dout, class Dsinks>
void sink_gradient(const cpu& executor, const Op& op, const Out& result, const Lse& log_sum_exp,
                   const Dout& result_gradient, Dsinks&& sink_gradients) {
  static_assert(require_op<Op>() && detail::require_operand<Out, 4>() && detail::require_operand<Lse, 3>() &&
                detail::require_operand<Dout, 4>() && detail::require_result<Dsinks, 1>());
  const auto out = tensor_view<const element_of<Out>, 4>(as_view(result));
  const auto lse = tensor_view<const element_of<Lse>, 3>(as_view(log_sum_exp));
  const auto dout = tensor_view<const element_of<Dout>, 4>(as_view(result_gradient));
  const auto dsinks = tensor_view<element_of<Dsinks>, 1>(as_view(sink_gradients));
  executor.validate();
  op.validate();
  op.validate_sinks();
  detail::expect_sink_gradient(op, out, lse, dout, dsinks);
  const index_t batch = out.extent(0), heads = out.extent(1), rows = out.extent(2), dim = out.extent(3);
  parallel_for(executor, heads, [&](index_t h, int) {
    const auto sink = static_cast<double>(op.sink_of(h));
    double total = 0;
    for (index_t b = 0; b < batch && sink != -HUGE_VAL; ++b)
      for (index_t i = 0; i < rows; ++i) {
        const auto row_lse = static_cast<double>(lse(b, h, i));
        if (row_lse == -HUGE_VAL) continue;
        double delta = 0;
        for (index_t d = 0; d < dim; ++d)
          delta += static_cast<double>(out(b, h, i, d)) * static_cast<double>(dout(b, h, i, d));
        total -= std::exp(sink - row_lse) * delta;
      }
    dsinks(h) = static_cast<element_of<Dsinks>>(total);
  });
}

}  // namespace seqprim::attention
