// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/isa.hpp>
#include <seqprim/attention/detail/problem.hpp>

#include <cmath>

namespace seqprim::attention {

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
  constexpr const char* page = ". See docs/reference/attention/sink_gradient.md";
  const index_t batch = out.extent(0), heads = out.extent(1), rows = out.extent(2), dim = out.extent(3);
  for (int axis = 0; axis < 4; ++axis)
    SEQPRIM_EXPECTS(dout.extent(axis) == out.extent(axis) && (axis == 3 || lse.extent(axis) == out.extent(axis)),
                    "attention::sink_gradient: axis ", axis, " of out (", out.extent(axis), ") disagrees with dout (",
                    dout.extent(axis), ") or lse", page);
  SEQPRIM_EXPECTS(dsinks.extent(0) == heads && (op.sinks.data == nullptr || op.sinks.extent(0) == heads),
                  "attention::sink_gradient: dsinks (", dsinks.extent(0),
                  ") and the op's sinks must have one entry for each of ", heads, " heads", page);
  SEQPRIM_EXPECTS(!may_overlap(dsinks, out) && !may_overlap(dsinks, lse) && !may_overlap(dsinks, dout) &&
                      !may_overlap(dsinks, op.sinks),
                  "attention::sink_gradient: dsinks overlaps an input", page);
  SEQPRIM_EXPECTS(heads <= 1 || dsinks.stride(0) != 0,
                  "attention::sink_gradient: elements of dsinks share memory: its stride is 0", page);
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
