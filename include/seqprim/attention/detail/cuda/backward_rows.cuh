// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/launch.cuh>
#include <seqprim/attention/detail/cuda/backward_block.hpp>
#include <seqprim/attention/detail/cuda/block_dims.cuh>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/core/gpu.cuh>

#include <cuda_runtime.h>

/// The parts of backward on CUDA that need no tensor cores: the values of each query row, and slow kernels for every type and
/// every dim, one warp per row. Page: docs/reference/attention/backward.md
namespace seqprim::attention::detail {

inline constexpr index_t largest_backward_dim = 512;
inline constexpr int backward_lanes = 32, backward_warps = 8;
inline constexpr int backward_chunks = 16;  ///< channels of a row that one lane owns: largest_backward_dim / 32

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

/// Weight and logit gradient of one visible pair, from the vectors of one side in shared memory (a: query or key, c: dout or value)
/// and of the other in global memory.
template <class Score, class X, class Y>
__device__ __forceinline__ pair_weight pair_gradient(const Score& score, float scale, row_statistics row,
                                                     score::site at, const float* a, const X* b, index_t head_dim,
                                                     const float* c, const Y* d, index_t value_dim) {
  float dot = 0, dp = 0;
  for (index_t n = 0; n < head_dim; ++n) dot = fmaf(a[n], static_cast<float>(b[n]), dot);
  for (index_t n = 0; n < value_dim; ++n) dp = fmaf(c[n], static_cast<float>(d[n]), dp);
  const float raw = scale * dot;
  const float weight = exp2f(static_cast<float>(score(raw, at)) * 1.4426950408889634f - row.lse);
  return {weight, weight * static_cast<float>(score.derivative(raw, at)) * (dp - row.delta)};
}

/// dq: a warp owns a query; each lane computes one key of 32, then owns the channels lane, lane + 32, ...
template <class Mask, class Score, class Q, class K, class V, class Dout, class Dq>
__global__ void __launch_bounds__(backward_lanes* backward_warps)
    backward_query_rows_kernel(const __grid_constant__ Mask op_mask, const __grid_constant__ Score op_score,
                               const __grid_constant__ problem p, const float scale,
                               const __grid_constant__ tensor_view<const Q, 4> q,
                               const __grid_constant__ tensor_view<const K, 4> k,
                               const __grid_constant__ tensor_view<const V, 4> v,
                               const __grid_constant__ tensor_view<const Dout, 4> dout,
                               const row_statistics* const statistics, const __grid_constant__ tensor_view<Dq, 4> dq) {
  extern __shared__ float backward_vectors[];  // [warps, head_dim + value_dim]
  const int warp = static_cast<int>(threadIdx.x) / backward_lanes,
            lane = static_cast<int>(threadIdx.x) % backward_lanes;
  const index_t tiles = ceil_div(p.q_len, backward_warps);
  const index_t b = blockIdx.x / tiles / p.heads, h = blockIdx.x / tiles % p.heads, g = p.kv_head(h);
  const index_t first = blockIdx.x % tiles * backward_warps, i = first + warp;
  const range rows{first, min<index_t>(first + backward_warps, p.q_len)};
  if (i >= rows.end) return;  // whole warps leave; the rest synchronizes within warps only
  const auto mask = mask::bind(op_mask, b, h);
  const auto score = score::bind(op_score, b, h);
  float* const query = backward_vectors + warp * (p.head_dim + p.value_dim);
  float* const gradient = query + p.head_dim;
  for (index_t d = lane; d < p.head_dim; d += backward_lanes) query[d] = static_cast<float>(q(b, h, i, d));
  for (index_t d = lane; d < p.value_dim; d += backward_lanes) gradient[d] = static_cast<float>(dout(b, h, i, d));
  __syncwarp();
  const row_statistics row = statistics[(b * p.heads + h) * p.q_len + i];

  float acc[backward_chunks] = {};
  const range bounds = mask::key_bounds(mask, rows, p.k_len);
  for (index_t j0 = bounds.begin / backward_lanes * backward_lanes; j0 < bounds.end; j0 += backward_lanes) {
    const range keys{j0, min<index_t>(j0 + backward_lanes, p.k_len)};
    const mask::tile_kind kind = mask.classify(rows, keys);
    if (kind == mask::tile_kind::empty) continue;
    const index_t j = j0 + lane;
    const bool visible = j < keys.end && (kind == mask::tile_kind::full || mask(i, j));
    pair_weight pair{0, 0};
    if (visible)
      pair = pair_gradient(score, scale, row, score::site{i, j}, query, &k(b, g, j, 0), p.head_dim, gradient,
                           &v(b, g, j, 0), p.value_dim);
    const unsigned seen = __ballot_sync(0xffffffffu, visible);
    for (int n = 0; n < backward_lanes; ++n) {
      const float ds = __shfl_sync(0xffffffffu, pair.factor, n);
      if (!(seen >> n & 1u)) continue;  // a hidden key is never read
#pragma unroll
      for (int c = 0; c < backward_chunks; ++c) {
        const index_t d = lane + c * backward_lanes;
        if (d < p.head_dim) acc[c] = fmaf(ds, static_cast<float>(k(b, g, j0 + n, d)), acc[c]);
      }
    }
  }
#pragma unroll
  for (int c = 0; c < backward_chunks; ++c) {
    const index_t d = lane + c * backward_lanes;
    if (d < p.head_dim) dq(b, h, i, d) = static_cast<Dq>(scale * acc[c]);
  }
}

/// dk and dv: a warp owns a key; each lane computes one query of 32, then owns the channels lane, lane + 32, ...
template <class Mask, class Score, class Q, class K, class V, class Dout, class Dk, class Dv>
__global__ void __launch_bounds__(backward_lanes* backward_warps)
    backward_key_rows_kernel(const __grid_constant__ Mask op_mask, const __grid_constant__ Score op_score,
                             const __grid_constant__ problem p, const float scale,
                             const __grid_constant__ tensor_view<const Q, 4> q,
                             const __grid_constant__ tensor_view<const K, 4> k,
                             const __grid_constant__ tensor_view<const V, 4> v,
                             const __grid_constant__ tensor_view<const Dout, 4> dout,
                             const row_statistics* const statistics, const __grid_constant__ tensor_view<Dk, 4> dk,
                             const __grid_constant__ tensor_view<Dv, 4> dv) {
  extern __shared__ float backward_vectors[];  // [warps, head_dim + value_dim]
  const int warp = static_cast<int>(threadIdx.x) / backward_lanes,
            lane = static_cast<int>(threadIdx.x) % backward_lanes;
  const index_t tiles = ceil_div(p.k_len, backward_warps);
  const index_t b = blockIdx.x / tiles / p.kv_heads, g = blockIdx.x / tiles % p.kv_heads;
  const index_t first = blockIdx.x % tiles * backward_warps, j = first + warp;
  const range keys{first, min<index_t>(first + backward_warps, p.k_len)};
  if (j >= keys.end) return;
  float* const key = backward_vectors + warp * (p.head_dim + p.value_dim);
  float* const value = key + p.head_dim;
  for (index_t d = lane; d < p.head_dim; d += backward_lanes) key[d] = static_cast<float>(k(b, g, j, d));
  for (index_t d = lane; d < p.value_dim; d += backward_lanes) value[d] = static_cast<float>(v(b, g, j, d));
  __syncwarp();

  float key_sums[backward_chunks] = {}, value_sums[backward_chunks] = {};
  for (index_t m = 0; m < p.group(); ++m) {
    const index_t h = p.query_head(g, m);
    const auto mask = mask::bind(op_mask, b, h);
    const auto score = score::bind(op_score, b, h);
    const range bounds = mask::query_bounds(mask, keys, p.q_len);
    for (index_t i0 = bounds.begin / backward_lanes * backward_lanes; i0 < bounds.end; i0 += backward_lanes) {
      const range rows{i0, min<index_t>(i0 + backward_lanes, p.q_len)};
      const mask::tile_kind kind = mask.classify(rows, keys);
      if (kind == mask::tile_kind::empty) continue;
      const index_t i = i0 + lane;
      const bool visible = i < rows.end && (kind == mask::tile_kind::full || mask(i, j));
      pair_weight pair{0, 0};
      if (visible)
        pair = pair_gradient(score, scale, statistics[(b * p.heads + h) * p.q_len + i], score::site{i, j}, key,
                             &q(b, h, i, 0), p.head_dim, value, &dout(b, h, i, 0), p.value_dim);
      const unsigned seen = __ballot_sync(0xffffffffu, visible);
      for (int n = 0; n < backward_lanes; ++n) {
        const float weight = __shfl_sync(0xffffffffu, pair.weight, n), ds = __shfl_sync(0xffffffffu, pair.factor, n);
        if (!(seen >> n & 1u)) continue;
#pragma unroll
        for (int c = 0; c < backward_chunks; ++c) {
          const index_t d = lane + c * backward_lanes;
          if (d < p.head_dim) key_sums[c] = fmaf(ds, static_cast<float>(q(b, h, i0 + n, d)), key_sums[c]);
          if (d < p.value_dim) value_sums[c] = fmaf(weight, static_cast<float>(dout(b, h, i0 + n, d)), value_sums[c]);
        }
      }
    }
  }
#pragma unroll
  for (int c = 0; c < backward_chunks; ++c) {
    const index_t d = lane + c * backward_lanes;
    if (d < p.head_dim) dk(b, g, j, d) = static_cast<Dk>(scale * key_sums[c]);
    if (d < p.value_dim) dv(b, g, j, d) = static_cast<Dv>(value_sums[c]);
  }
}

template <class Op, class Q, class K, class V, class Dout, class Dq, class Dk, class Dv>
void launch_backward_rows(const gpu& executor, const Op& op, const problem& p, const tensor_view<const Q, 4>& q,
                          const tensor_view<const K, 4>& k, const tensor_view<const V, 4>& v,
                          const tensor_view<const Dout, 4>& dout, const row_statistics* statistics,
                          const tensor_view<Dq, 4>& dq, const tensor_view<Dk, 4>& dk, const tensor_view<Dv, 4>& dv,
                          const auto& launch_statistics) {
  constexpr const char* self = "attention::backward";
  constexpr int threads = backward_lanes * backward_warps;
  const auto shared = static_cast<std::size_t>(backward_warps * (p.head_dim + p.value_dim)) * sizeof(float);
  const auto scale = static_cast<float>(op.scale_for(p.head_dim));
  const auto key_pass = arch::cuda::prepare(
      self, backward_key_rows_kernel<decltype(Op::mask), decltype(Op::score), Q, K, V, Dout, Dk, Dv>,
      {p.batch * p.kv_heads * ceil_div(p.k_len, backward_warps), threads, shared});
  const auto query_pass =
      arch::cuda::prepare(self, backward_query_rows_kernel<decltype(Op::mask), decltype(Op::score), Q, K, V, Dout, Dq>,
                          {p.batch * p.heads * ceil_div(p.q_len, backward_warps), threads, shared});
  launch_statistics();
  key_pass.launch(executor, op.mask, op.score, p, scale, q, k, v, dout, statistics, dk, dv);
  query_pass.launch(executor, op.mask, op.score, p, scale, q, k, v, dout, statistics, dq);
}

}  // namespace seqprim::attention::detail
