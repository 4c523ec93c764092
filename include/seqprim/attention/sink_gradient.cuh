// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/launch.cuh>
#include <seqprim/arch/cuda/mma_sync.cuh>
#include <seqprim/attention/detail/cuda/sink_block.hpp>
#include <seqprim/attention/sink_gradient.hpp>
#include <seqprim/core/arrays.cuh>
#include <seqprim/core/gpu.cuh>

#include <type_traits>

namespace seqprim::attention {

namespace detail {

template <class Engine, class Operands>
__global__ void __launch_bounds__(sink_warps* arch::cuda::warp_lanes)
    sink_gradient_kernel(const __grid_constant__ Operands in) {
  __shared__ double sums[sink_warps];
  sink_block(Engine{}, in, blockIdx.x, sums);
}

}  // namespace detail

/// Gradients of the sinks on CUDA: the same definition, shapes, edge values and errors as on the CPU. Views and the sinks of the
/// operator point to device memory.
///
/// Types   out, dout: float, float16, bfloat16; lse and dsinks float; sums in double.
/// Errors  precondition_error before the launch; cuda_error when the launch fails.
/// Repeat  same bits in every run.
/// Cost    one pass over out and dout, one block for each head: few heads leave most of a device idle. One launch, no allocation, no
///         synchronization; can be captured into a graph.
/// Page    docs/reference/attention/sink_gradient.md
template <class Op, class Out, class Lse, class Dout, class Dsinks>
void sink_gradient(const gpu& executor, const Op& op, const Out& result, const Lse& log_sum_exp,
                   const Dout& result_gradient, Dsinks&& sink_gradients) {
  static_assert(require_op<Op>() && detail::require_operand<Out, 4>() && detail::require_operand<Lse, 3>() &&
                detail::require_operand<Dout, 4>() && detail::require_result<Dsinks, 1>());
  using X = element_of<Out>;
  using Y = element_of<Dout>;
  static_assert(!std::is_same_v<X, double> && !std::is_same_v<Y, double> && std::is_same_v<element_of<Lse>, float> &&
                    std::is_same_v<element_of<Dsinks>, float>,
                "seqprim: attention on CUDA takes float, float16 and bfloat16, and float lse and gradients of sinks");
  const auto out = tensor_view<const X, 4>(as_view(result));
  const auto lse = tensor_view<const float, 3>(as_view(log_sum_exp));
  const auto dout = tensor_view<const Y, 4>(as_view(result_gradient));
  const auto dsinks = tensor_view<float, 1>(as_view(sink_gradients));
  constexpr const subject& self = detail::sink_gradient_subject;
  expect_arrays(executor, op);
  op.validate();
  detail::expect_sink_gradient(op, out, lse, dout, dsinks);
  expect_memory(executor, self, "out", out);
  expect_memory(executor, self, "lse", lse);
  expect_memory(executor, self, "dout", dout);
  expect_memory(executor, self, "dsinks", dsinks);
  using operands = detail::sink_operands<X, Y>;
  arch::cuda::launch(executor, self.name, detail::sink_gradient_kernel<arch::cuda::mma_sync, operands>,
                     {out.extent(1), detail::sink_warps * arch::cuda::warp_lanes},
                     operands{op.sinks, op.sink, out, lse, dout, dsinks});
}

}  // namespace seqprim::attention
