// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/launch.cuh>
#include <seqprim/arch/cuda/mma_sync.cuh>
#include <seqprim/attention/detail/cuda/backward_rows.hpp>
#include <seqprim/attention/detail/cuda/block_dims.cuh>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/core/gpu.cuh>

#include <cuda_runtime.h>

/// The parts of backward on CUDA that need no tensor cores: the values of each query row, and slow kernels for every type and
/// every dim, one warp per row. Page: docs/reference/attention/backward.md
namespace seqprim::attention::detail {

[[nodiscard]] __device__ __forceinline__ float sum_over_lanes(float x, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

/// delta = <dout, out>, and lse in units of log 2, for every query row. Eight lanes a row.
template <class Out, class Dout>
__global__ void __launch_bounds__(backward_lanes* backward_warps)
    row_statistics_kernel(const index_t heads, const index_t q_len, const index_t rows,
                          const __grid_constant__ tensor_view<const Out, 4> out,
                          const __grid_constant__ tensor_view<const float, 3> lse,
                          const __grid_constant__ tensor_view<const Dout, 4> dout, row_statistics* const statistics) {
  constexpr int share = 8;
  const index_t row = (blockIdx.x * index_t{blockDim.x} + threadIdx.x) / share;
  const int lane = static_cast<int>(threadIdx.x) % share;
  if (blockIdx.x * index_t{blockDim.x} / share >= rows) return;  // whole blocks leave
  const bool live = row < rows;
  const index_t b = live ? row / q_len / heads : 0, h = live ? row / q_len % heads : 0, i = live ? row % q_len : 0;
  const Out* const x = &out(b, h, i, 0);
  const Dout* const y = &dout(b, h, i, 0);
  const index_t dim = out.extent(3);
  float sum = 0;
  // Eight neighbors a lane: the compiler reads them at once where it may.
  for (index_t first = lane * 8; first < dim; first += share * 8)
    for (int n = 0; n < 8; ++n)
      if (first + n < dim) sum = fmaf(static_cast<float>(x[first + n]), static_cast<float>(y[first + n]), sum);
  sum = sum_over_lanes(sum, share);
  if (live && lane == 0) statistics[row] = row_statistics_of(lse(b, h, i), sum);
}

template <class Out, class Dout>
void launch_row_statistics(const gpu& executor, const problem& p, const tensor_view<const Out, 4>& out,
                           const tensor_view<const float, 3>& lse, const tensor_view<const Dout, 4>& dout,
                           row_statistics* statistics) {
  const index_t rows = p.batch * p.heads * p.q_len;
  constexpr int threads = backward_lanes * backward_warps;
  arch::cuda::launch(executor, "attention::backward", row_statistics_kernel<Out, Dout>,
                     {ceil_div(rows, threads / 8), threads}, p.heads, p.q_len, rows, out, lse, dout, statistics);
}

template <class Engine, class Operands>
__global__ void __launch_bounds__(backward_lanes* backward_warps)
    backward_query_rows_kernel(const __grid_constant__ Operands in) {
  extern __shared__ float backward_vectors[];  // [warps, head_dim + value_dim]
  backward_query_rows(Engine{}, in, blockIdx.x, backward_vectors);
}

// One block at least: the compiler would spill a few registers to make room for two.
template <class Engine, class Operands>
__global__ void __launch_bounds__(backward_lanes* backward_warps, 1)
    backward_key_rows_kernel(const __grid_constant__ Operands in) {
  extern __shared__ float backward_vectors[];
  backward_key_rows(Engine{}, in, blockIdx.x, backward_vectors);
}

/// The sums of all warps, added up: dscore and dtable. One thread per element.
template <class Learned>
__global__ void __launch_bounds__(backward_lanes* backward_warps)
    join_score_sums_kernel(const __grid_constant__ Learned in, const index_t elements) {
  const index_t n = blockIdx.x * index_t{blockDim.x} + threadIdx.x;
  if (n < elements) join_score_sums(in, n);
}

/// Starts the kernels of a call; all of them are prepared before the first one.
template <class Operands>
void launch_backward_passes(const gpu& executor, const Operands& in, const auto& keys, const auto& queries,
                            const auto& launch_statistics) {
  using learned = decltype(Operands::learned);
  if constexpr (learned::any) {
    constexpr int threads = backward_lanes * backward_warps;
    const index_t elements = in.sizes.heads * in.learned.width;
    const auto join = arch::cuda::prepare("attention::backward", join_score_sums_kernel<learned>,
                                          {ceil_div(elements, index_t{threads}), threads});
    launch_statistics();
    keys.launch(executor, in);
    queries.launch(executor, in);
    join.launch(executor, in.learned, elements);
  } else {
    launch_statistics();
    keys.launch(executor, in);
    queries.launch(executor, in);
  }
}

template <class Engine, class Operands>
void launch_backward_rows(const gpu& executor, const Operands& in, const auto& launch_statistics) {
  constexpr const char* self = "attention::backward";
  constexpr int threads = backward_lanes * backward_warps;
  const problem& p = in.sizes;
  const auto shared = static_cast<std::size_t>(backward_warps * (p.head_dim + p.value_dim)) * sizeof(float);
  const auto keys = arch::cuda::prepare(self, backward_key_rows_kernel<Engine, Operands>,
                                        {p.batch * p.kv_heads * ceil_div(p.k_len, backward_warps), threads, shared});
  const auto queries = arch::cuda::prepare(self, backward_query_rows_kernel<Engine, Operands>,
                                           {query_blocks(p, in.learned, backward_warps), threads, shared});
  launch_backward_passes(executor, in, keys, queries, launch_statistics);
}

}  // namespace seqprim::attention::detail
