// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/attention/detail/cuda/score_sums.hpp>
#include <seqprim/core/tensor_view.hpp>

#include <cmath>

/// Gradients of the sinks, as a block algorithm over an engine (arch/cuda).
namespace seqprim::attention::detail {

inline constexpr int sink_warps = 32;  ///< of a block, which is that of one head

template <class Out, class Dout> struct sink_operands {
  tensor_view<const float, 1> sinks;  ///< [heads]; without data: `sink` for all
  float sink;
  tensor_view<const Out, 4> out;
  tensor_view<const float, 3> lse;
  tensor_view<const Dout, 4> dout;
  tensor_view<float, 1> dsinks;
};

/// dsinks of head h. A warp takes every sink_warps-th row, a lane every 32nd channel of it; sums are joined in the order of lanes and
/// warps. Shared memory: sink_warps doubles.
template <class Engine, class Operands>
SEQPRIM_HD void sink_block(const Engine& engine, const Operands& in, index_t h, double* shared) {
  const index_t q_len = in.out.extent(2), dim = in.out.extent(3), rows = in.out.extent(0) * q_len;
  const float sink = in.sinks.data != nullptr ? in.sinks(h) : in.sink;
  const float none = -__builtin_huge_valf();
  double sum = 0;
  for (index_t row = engine.warp(); row < rows && sink != none; row += sink_warps) {
    const index_t b = row / q_len, i = row % q_len;
    const float lse = in.lse(b, h, i);
    if (lse == none) continue;  // the same for all lanes
    double delta = 0;
    for (index_t d = engine.lane(); d < dim; d += arch::cuda::warp_lanes)
      delta += static_cast<double>(in.out(b, h, i, d)) * static_cast<double>(in.dout(b, h, i, d));
    sum -= std::exp(static_cast<double>(sink) - static_cast<double>(lse)) * delta;
  }
  sum = sum_over_lanes(engine, sum);
  if (engine.lane() == 0) engine.store(shared + engine.warp(), sum);
  engine.sync_block();
  if (engine.warp() != 0 || engine.lane() != 0) return;
  double total = 0;
  for (int warp = 0; warp < sink_warps; ++warp) total += shared[warp];
  in.dsinks(h) = static_cast<float>(total);
}

}  // namespace seqprim::attention::detail
