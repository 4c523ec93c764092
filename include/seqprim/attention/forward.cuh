// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/launch.cuh>
#include <seqprim/arch/cuda/mma_sync.cuh>
#include <seqprim/attention/detail/cuda/block_dims.cuh>
#include <seqprim/attention/detail/cuda/encoded.cuh>
#include <seqprim/attention/detail/cuda/forward_block.hpp>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/attention/tuning.cuh>
#include <seqprim/core/arrays.cuh>
#include <seqprim/core/gpu.cuh>

#include <cuda_runtime.h>

namespace seqprim::attention {

namespace detail {

inline constexpr int warp_lanes = 32;
inline constexpr int rows_per_block = 8;  // one warp each
inline constexpr index_t largest_cuda_dim = 512;

/// Sum and maximum over the lanes of a warp, in every lane.
__device__ __forceinline__ float warp_sum(float x) {
  for (int step = warp_lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
  for (int step = warp_lanes / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, x, step);
    x = other > x || other != other ? other : x;  // a NaN wins
  }
  return x;
}

struct nothing_before {
  void operator()() const noexcept {}
};

/// One warp owns one query row and walks over the keys, 32 at a time: each lane computes the logit of one key; then each lane
/// owns the value channels lane, lane + 32, ... `Chunks` of them. Tiles that the mask calls empty for the rows of the block
/// are skipped by all its warps.
template <int Chunks, class Op, class Q, class K, class V, class Out>
__global__ void __launch_bounds__(warp_lanes* rows_per_block, 1)
    forward_rows_kernel(const __grid_constant__ Op op, const float scale, const __grid_constant__ problem p,
                        const tensor_view<const Q, 4> q, const tensor_view<const K, 4> k,
                        const tensor_view<const V, 4> v, const tensor_view<Out, 4> out,
                        const tensor_view<float, 3> lse) {
  extern __shared__ float query_rows[];  // [rows_per_block, head_dim]
  const int warp = static_cast<int>(threadIdx.x) / warp_lanes, lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const index_t heads = q.extent(1), q_len = q.extent(2), head_dim = q.extent(3), k_len = k.extent(2),
                value_dim = v.extent(3);
  const index_t row_blocks = (q_len + rows_per_block - 1) / rows_per_block;
  const index_t block = blockIdx.x;
  const index_t b = block / row_blocks / heads, h = block / row_blocks % heads, g = p.kv_head(h);
  const index_t first_row = block % row_blocks * rows_per_block;
  const range rows{first_row, min<index_t>(first_row + rows_per_block, q_len)};
  const index_t i = first_row + warp;
  if (i >= rows.end) return;  // whole warps leave; the rest of the kernel synchronizes within warps only

  const auto mask = mask::bind(op.mask, b, h);
  const auto score = score::bind(op.score, b, h);
  float* const query = query_rows + warp * head_dim;
  for (index_t d = lane; d < head_dim; d += warp_lanes) query[d] = static_cast<float>(q(b, h, i, d));
  __syncwarp();

  constexpr float infinity = __builtin_huge_valf();
  float top = -infinity, sum = 0;
  float acc[Chunks] = {};
  const range bounds = mask::key_bounds(mask, rows, k_len);
  for (index_t j0 = bounds.begin / warp_lanes * warp_lanes; j0 < bounds.end; j0 += warp_lanes) {
    const range keys{j0, min<index_t>(j0 + warp_lanes, k_len)};
    const mask::tile_kind kind = mask.classify(rows, keys);
    if (kind == mask::tile_kind::empty) continue;
    const index_t j = j0 + lane;
    const bool visible = j < keys.end && (kind == mask::tile_kind::full || mask(i, j));
    float logit = -infinity;
    if (visible) {
      const K* const key = &k(b, g, j, 0);
      float dot = 0;
      for (index_t d = 0; d < head_dim; ++d) dot = fmaf(query[d], static_cast<float>(key[d]), dot);
      logit = static_cast<float>(score(scale * dot, score::site{i, j}));
    }
    const float new_top = warp_max(logit > top || logit != logit ? logit : top);
    const float safe = new_top == -infinity ? 0.0f : new_top;
    const float weight = visible ? expf(logit - safe) : 0.0f;
    const float rescale = expf(top - safe);
    sum = sum * rescale + warp_sum(weight);
    top = new_top;
#pragma unroll
    for (int n = 0; n < Chunks; ++n) acc[n] *= rescale;
    const unsigned seen = __ballot_sync(0xffffffffu, visible);
    for (index_t key = 0; key < keys.end - keys.begin; ++key) {
      const float p = __shfl_sync(0xffffffffu, weight, static_cast<int>(key));
      if (!(seen >> key & 1u)) continue;  // a hidden value is never read
#pragma unroll
      for (int n = 0; n < Chunks; ++n) {
        const index_t d = lane + n * warp_lanes;
        if (d < value_dim) acc[n] = fmaf(p, static_cast<float>(v(b, g, j0 + key, d)), acc[n]);
      }
    }
  }
  const float sink = op.sink_of(h);  // one more column of the softmax, without a value
  const float last_top = sink > top ? sink : top, safe = last_top == -infinity ? 0.0f : last_top;
  const float rescale = expf(top - safe);
  sum = sum * rescale + expf(sink - safe);
  const float inverse = sum == 0 ? 0.0f : rescale / sum;
#pragma unroll
  for (int n = 0; n < Chunks; ++n) {
    const index_t d = lane + n * warp_lanes;
    if (d < value_dim) out(b, h, i, d) = static_cast<Out>(acc[n] * inverse);
  }
  if (lse.data != nullptr && lane == 0) lse(b, h, i) = sum == 0 ? -infinity : last_top + logf(sum);
}

/// before() launches what comes before the kernel, when nothing can be refused any more.
template <int Chunks, class Op, class Q, class K, class V, class Out, class Before = nothing_before>
void launch_forward_rows(const gpu& executor, const Op& op, const problem& p, const tensor_view<const Q, 4>& q,
                         const tensor_view<const K, 4>& k, const tensor_view<const V, 4>& v,
                         const tensor_view<Out, 4>& out, const tensor_view<float, 3>& lse, const Before& before = {}) {
  const auto kernel =
      arch::cuda::prepare("attention::forward", forward_rows_kernel<Chunks, Op, Q, K, V, Out>,
                          {p.batch * p.heads * ceil_div(p.q_len, rows_per_block), warp_lanes * rows_per_block,
                           static_cast<std::size_t>(rows_per_block * p.head_dim) * sizeof(float)});
  before();
  kernel.launch(executor, op, static_cast<float>(op.scale_for(p.head_dim)), p, q, k, v, out, lse);
}

/// Tensor cores: see detail/block_softmax.hpp.
template <class Shape, class Engine, class Call>
__global__ void __launch_bounds__(Shape::lanes, 1) forward_block_kernel(const __grid_constant__ Call call) {
  extern __shared__ uint4 block_memory[];
  forward_block<Shape>(Engine{}, call, block_memory);
}

template <class Engine, class Policy, class Dims, class Op, class T, class Out, class Before = nothing_before>
void launch_forward_block(const gpu& executor, const Op& op, const problem& p, const tensor_view<const T, 4>& q,
                          const tensor_view<const T, 4>& k, const tensor_view<const T, 4>& v,
                          const tensor_view<Out, 4>& out, const tensor_view<float, 3>& lse, const Before& before = {}) {
  constexpr block_policy policy = Policy::template forward<Engine, T, Dims::head, Dims::value>();
  using shape = block_shape<T, Dims::head, Dims::value, policy.q_tile, policy.k_tile, policy.warps, policy.stages>;
  const auto kernel =
      arch::cuda::prepare("attention::forward", forward_block_kernel<shape, Engine, forward_call<Op, T, Out>>,
                          {forward_blocks<shape>(p), shape::lanes, shape::shared_bytes});
  before();
  kernel.launch(executor, make_forward_call(op, p, q, k, v, out, lse));
}

}  // namespace detail

/// Floats of workspace that forward on CUDA needs for these operands: copies of queries and keys with their positions, 0 without a
/// position.
template <class Op, class Q, class K>
[[nodiscard]] index_t forward_workspace(const Op& op, const Q& queries, const K& keys) {
  static_assert(require_op<Op>() && detail::require_operand<Q, 4>() && detail::require_operand<K, 4>());
  const auto q = as_view(queries);
  return detail::encoded_floats(op, q.extent(3), q, as_view(keys));
}

/// Attention forward on CUDA: the same operator value, shapes, edge values and errors as on the CPU; the definition is the
/// same. Views point to device memory, and so do arrays inside the operator (index_array::on_device()).
///
/// q, k and v of one 16-bit type with dims up to 256 go through the tensor cores: blocks of 128 query rows, keys and values copied
/// to shared memory while the previous ones are multiplied, weights rounded to the type of v and kept in registers. Everything else goes through a simple kernel, one warp per query row. A view whose last extent is part of its type
/// (`tensor_view<T, 4, 128>`) compiles one kernel instead of five.
///
/// `Engine` and `Policy` choose instructions and tile sizes: attention/tuning.cuh.
///
/// Shapes   as on the CPU; workspace [forward_workspace(op, q, k)] float, or left out: then it comes from the memory pool of the stream
///          (cudaMallocAsync). Without a position in op that is nothing.
/// Limits   encoded head_dim and value_dim up to 512
/// Layout   as on the CPU. Rows at multiples of 16 bytes are copied 16 bytes at a time, others element by element.
/// Errors   precondition_error before the launch; cuda_error when the launch fails. Errors inside the kernel surface at
///          the caller's next synchronization.
/// Repeat   same bits in every run and any batch, for one policy.
/// Cost     op.position: two kernels that encode q and k into the workspace, before the one of attention. No synchronization; can be
///          captured into a graph.
/// Page     docs/reference/attention/forward.md
template <class Engine = arch::cuda::mma_sync, class Policy = default_block_policy, class Op, class Q, class K, class V,
          class Out, class Lse>
void forward(const gpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, Out&& result,
             Lse&& log_sum_exp, const tensor_view<float, 1>& space) {
  static_assert(require_op<Op>() && detail::require_operand<Q, 4>() && detail::require_operand<K, 4>() &&
                detail::require_operand<V, 4>() && detail::require_result<Out, 4>() &&
                detail::require_result<Lse, 3>());
  static_assert(detail::require_one_precision<Q, K, V, Out>());
  using T = element_of<Q>;
  const auto q = tensor_view<const T, 4>(as_view(queries));
  const auto k = tensor_view<const element_of<K>, 4>(as_view(keys));
  const auto v = tensor_view<const element_of<V>, 4>(as_view(values));
  const auto out = tensor_view<element_of<Out>, 4>(as_view(result));
  const auto lse = tensor_view<float, 3>(as_view(log_sum_exp));
  constexpr auto single = [](auto x) { return !std::is_same_v<decltype(x), double>; };
  static_assert(single(element_of<Q>{}) && single(element_of<K>{}) && single(element_of<V>{}) &&
                    single(element_of<Out>{}) && std::is_same_v<element_of<Lse>, float>,
                "seqprim: attention on CUDA takes float, float16 and bfloat16, and float lse");
  constexpr auto self = detail::entry::forward;
  const detail::problem p = detail::validate_inputs<self>(executor, op, q, k, v);
  detail::expect_results<self>(p, q, k, v, out, lse);
  expect_memory(executor, detail::subject_of<self>, "out", out);
  expect_memory(executor, detail::subject_of<self>, "lse", lse);
  constexpr const subject& subject = detail::subject_of<self>;
  expect_memory(executor, subject, "workspace", space);
  subject.expects_workspace(space, forward_workspace(op, q, k), "floats", 16);
  const auto expect_apart_from_workspace = [&](const char* name, const auto& operand) {
    detail::expect_apart<self>("workspace", space, name, operand);
  };
  expect_apart_from_workspace("q", q);
  expect_apart_from_workspace("k", k);
  expect_apart_from_workspace("v", v);
  expect_apart_from_workspace("out", out);
  expect_apart_from_workspace("lse", lse);
  workspace memory = detail::memory_behind(space, 0);
  const detail::encoded_problem<Op> encoded(op, p);
  const detail::problem& shape = encoded.shape;
  const auto q_in = detail::encoded_queries(executor, subject, op, p, q, memory);
  const auto k_in = detail::encoded_keys(executor, subject, op, p, k, memory);
  const auto encode = [&] {
    q_in.launch(executor);
    k_in.launch(executor);
  };
  SEQPRIM_EXPECTS(shape.head_dim <= detail::largest_cuda_dim && p.value_dim <= detail::largest_cuda_dim,
                  "attention::forward: head_dim (", shape.head_dim, ") and value_dim (", p.value_dim,
                  ") must be <= 512 on CUDA. See docs/reference/attention/forward.md");
  constexpr index_t head_dim = detail::encoded_extent<Op, decltype(as_view(queries))::last_extent>,
                    value_dim = decltype(as_view(values))::last_extent;
  if constexpr (detail::block_elements<T, element_of<K>, element_of<V>> && head_dim <= detail::largest_block_dim &&
                value_dim <= detail::largest_block_dim) {
    if (shape.head_dim <= detail::largest_block_dim && p.value_dim <= detail::largest_block_dim) {
      detail::with_dims<head_dim, value_dim>(shape.head_dim, p.value_dim, [&](auto dims) {
        detail::launch_forward_block<Engine, Policy, decltype(dims)>(executor, encoded.op, shape, q_in.rows, k_in.rows,
                                                                     v, out, lse, encode);
      });
      return;
    }
  }
  constexpr bool always_blocks = detail::block_elements<T, element_of<K>, element_of<V>> &&
                                 head_dim != dynamic_extent && value_dim != dynamic_extent &&
                                 head_dim <= detail::largest_block_dim && value_dim <= detail::largest_block_dim;
  if constexpr (!always_blocks) {
    if (p.value_dim <= 128) {
      detail::launch_forward_rows<4>(executor, encoded.op, shape, q_in.rows, k_in.rows, v, out, lse, encode);
    } else {
      detail::launch_forward_rows<16>(executor, encoded.op, shape, q_in.rows, k_in.rows, v, out, lse, encode);
    }
  }
}

/// The same with workspace from the memory pool of the stream.
template <class Engine = arch::cuda::mma_sync, class Policy = default_block_policy, class Op, class Q, class K, class V,
          class Out, class Lse>
void forward(const gpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, Out&& result,
             Lse&& log_sum_exp) {
  const index_t floats = forward_workspace(op, queries, keys);
  const pool_memory<float> memory(executor, floats, "attention::forward");
  forward<Engine, Policy>(executor, op, queries, keys, values, result, log_sum_exp,
                          tensor_view<float, 1>(memory.data(), floats));
}

/// The same without lse.
template <class Engine = arch::cuda::mma_sync, class Policy = default_block_policy, class Op, class Q, class K, class V,
          class Out>
void forward(const gpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, Out&& result) {
  static_assert(detail::require_operand<Q, 4>());
  forward<Engine, Policy>(executor, op, queries, keys, values, result, detail::no_lse(as_view(queries)));
}

}  // namespace seqprim::attention
