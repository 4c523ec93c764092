// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/launch.cuh>
#include <seqprim/attention/merge.hpp>
#include <seqprim/core/arrays.cuh>
#include <seqprim/core/gpu.cuh>

namespace seqprim::attention {

namespace detail {

inline constexpr int merge_row_lanes = 128;

/// One block per row. A template so that the header may be in many translation units.
template <int Lanes>
__global__ void __launch_bounds__(Lanes)
    merge_rows_kernel(const tensor_view<float, 4> out, const tensor_view<float, 3> lse,
                      const tensor_view<const float, 4> part, const tensor_view<const float, 3> part_lse) {
  const index_t row = blockIdx.x, q_len = out.extent(2), heads = out.extent(1);
  const index_t i = row % q_len, h = row / q_len % heads, b = row / q_len / heads;
  const merge_weights w = weigh(lse(b, h, i), part_lse(b, h, i));
  __syncthreads();  // all lanes have read lse
  for (index_t d = threadIdx.x; d < out.extent(3); d += Lanes)
    out(b, h, i, d) = w.join(out(b, h, i, d), part(b, h, i, d));
  if (threadIdx.x == 0) lse(b, h, i) = w.lse;
}

}  // namespace detail

/// Merges partial attention over two disjoint sets of keys on CUDA: the same rule, shapes, errors and edge values as on the CPU.
/// A kernel of your own may do the same row by row: weigh(lse1, lse2), then join() for each channel.
///
/// Cost    one launch; no allocation, no synchronization; can be captured into a graph.
/// Page    docs/reference/attention/merge.md
template <class Out, class Lse, class PartOut, class PartLse>
void merge(const gpu& executor, Out&& out_view, Lse&& lse_view, const PartOut& part_out_view,
           const PartLse& part_lse_view) {
  const auto [out, lse, part, part_lse] = detail::merge_operands(out_view, lse_view, part_out_view, part_lse_view);
  constexpr const subject& self = detail::subject_of<detail::entry::merge>;
  expect_memory(executor, self, "out", out);
  expect_memory(executor, self, "lse", lse);
  expect_memory(executor, self, "part", part);
  expect_memory(executor, self, "part_lse", part_lse);
  const index_t rows = out.extent(0) * out.extent(1) * out.extent(2);
  arch::cuda::launch(executor, "attention::merge", detail::merge_rows_kernel<detail::merge_row_lanes>,
                     {rows, detail::merge_row_lanes}, out, lse, part, part_lse);
}

}  // namespace seqprim::attention
