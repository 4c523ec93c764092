// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/arch/cuda/launch.cuh>
#include <seqprim/arch/cuda/mma_sync.cuh>
#include <seqprim/attention/detail/cuda/backward_block.hpp>
#include <seqprim/attention/detail/cuda/backward_rows.cuh>
#include <seqprim/attention/detail/cuda/block_dims.cuh>
#include <seqprim/attention/detail/cuda/block_softmax.hpp>
#include <seqprim/attention/detail/cuda/encoded.cuh>
#include <seqprim/attention/detail/problem.hpp>
#include <seqprim/attention/gradients.hpp>
#include <seqprim/attention/softmax.hpp>
#include <seqprim/core/arrays.cuh>
#include <seqprim/core/gpu.cuh>

#include <cuda_runtime.h>

namespace seqprim::attention {

namespace detail {

/// Tensor cores: see detail/backward_block.hpp.
template <class Shape, class Engine, class Operands>
__global__ void __launch_bounds__(Shape::key_threads) backward_key_block_kernel(const __grid_constant__ Operands in) {
  extern __shared__ uint4 block_memory[];
  backward_key_block<Shape>(Engine{}, in, blockIdx.x, reinterpret_cast<std::byte*>(block_memory));
}
template <class Shape, class Engine, class Operands>
__global__ void __launch_bounds__(Shape::query_threads)
    backward_query_block_kernel(const __grid_constant__ Operands in) {
  extern __shared__ uint4 block_memory[];
  backward_query_block<Shape>(Engine{}, in, blockIdx.x, reinterpret_cast<std::byte*>(block_memory));
}

template <class Shape, class Engine, class Operands>
void launch_backward_blocks(const gpu& executor, const Operands& in, const auto& launch_statistics) {
  constexpr const char* self = "attention::backward";
  const problem& p = in.sizes;
  const auto keys = arch::cuda::prepare(
      self, backward_key_block_kernel<Shape, Engine, Operands>,
      {p.batch * p.kv_heads * ceil_div(p.k_len, Shape::key_tile), Shape::key_threads, Shape::key_shared});
  const auto queries = arch::cuda::prepare(self, backward_query_block_kernel<Shape, Engine, Operands>,
                                           {query_blocks(p, in.learned, Shape::query_tile), Shape::query_threads,
                                            Shape::template query_shared_for<decltype(Operands::learned)>});
  launch_backward_passes(executor, in, keys, queries, launch_statistics);
}

}  // namespace detail

/// Floats that backward on CUDA needs as workspace for queries [batch, heads, q_len, head_dim].
template <class Q> [[nodiscard]] index_t backward_workspace(const Q& queries) {
  static_assert(detail::require_operand<Q, 4>());
  const auto q = as_view(queries);
  return 2 * q.extent(0) * q.extent(1) * q.extent(2);
}

/// The same where gradients of what the score learns are requested, too: 8 bytes for each parameter and entry of the table, times the
/// warps that sum for one head: as many as have 16 rows, at most 4096 for all heads and what fits 64 MiB, at least 16.
template <class Q, class Gradients>
[[nodiscard]] index_t backward_workspace(const Q& queries, const Gradients& wanted) {
  static_assert(require_gradients<Gradients>());
  const auto q = as_view(queries);
  index_t width = 0;
  if constexpr (is_wanted<decltype(Gradients::score)>) width += wanted.score.extent(1);
  if constexpr (is_wanted<decltype(Gradients::table)>) width += wanted.table.extent(1);
  const index_t heads = q.extent(1);
  return backward_workspace(q) + 2 * heads * width * detail::summing_warps(heads, q.extent(0) * q.extent(2), width);
}

/// The same for any operator: with a position also copies of queries and keys that carry it, and of their gradients where encoded
/// vectors are wider. The copies need a workspace at a multiple of 16 bytes.
template <class Op, class Q, class K, class Gradients>
[[nodiscard]] index_t backward_workspace(const Op& op, const Q& queries, const K& keys, const Gradients& wanted) {
  static_assert(require_op<Op>() && detail::require_operand<Q, 4>() && detail::require_operand<K, 4>());
  const index_t floats = backward_workspace(queries, wanted);
  const auto q = as_view(queries);
  const auto k = as_view(keys);
  if constexpr (detail::keeps_width<Op>) {
    return detail::with_copies(floats, detail::encoded_floats(op, q.extent(3), q, k));
  } else {
    return detail::with_copies(
        floats, detail::encoded_floats(op, q.extent(3), q, k, as_view(wanted.query), as_view(wanted.key)));
  }
}

/// Attention backward on CUDA: the same operator value, shapes, edge values and errors as on the CPU; the definition is the same.
/// Views point to device memory, and so do arrays inside the operator (index_array::on_device()).
///
/// q, k, v and dout of one 16-bit type with dims up to 256 go through the tensor cores; weights and logit gradients are rounded to
/// that type before their products. Everything else goes through simple kernels, one warp per row. Two passes, one owner for each
/// row of a result: each pass recomputes the weights. A view whose last extent is part of its type (`tensor_view<T, 4, 128>`)
/// compiles one size of kernels instead of five. `Engine` and `Policy` choose instructions and tile sizes.
///
/// Gradients of what the score learns come from the pass over the queries: drow from the owner of the row, dscore and dtable from sums
/// in double that every warp keeps for itself in the workspace and a third kernel adds up in the order of the warps.
///
/// Shapes   as on the CPU; workspace [>= backward_workspace(queries)], or [>= backward_workspace(queries, gradients)] where those of
///          the score are among them, or [>= backward_workspace(op, queries, keys, gradients)], which serves any call; overwritten.
/// Types    q, k, v, out, dout, dq, dk, dv: float, float16, bfloat16, each its own. lse, workspace, dscore, dtable, drow: float.
/// Limits   head_dim and value_dim up to 512; tables up to 2^31 - 1 entries. All dims are those of encoded vectors.
/// Layout   as on the CPU; fast where rows of q, k, v and dout begin at multiples of 16 bytes. The workspace at one of 8 bytes, of 16
///          with a position.
/// Edge     as on the CPU, except that a NaN or an infinity in a visible row of dout, q or k may turn a whole row of the gradients
///          that attend to it into NaN. Other rows stay untouched.
/// Errors   precondition_error before the launch; cuda_error when a launch fails. Errors inside the kernels surface at
///          the caller's next synchronization.
/// Repeat   same bits in every run, and in any batch but for dscore and dtable, which are sums over it.
/// Cost     tensor cores: 4 head_dim + 3 value_dim multiply-adds per visible pair and head. No allocation, no synchronization; can be
///          captured into a graph. op.position: a kernel each that encodes q and k before, and takes dq and dk back after. Gradients of
///          the score: its derivatives once per visible pair; for a table its index too, and
///          one addition in memory wherever the entry changes along a column of a tile, or a diagonal where entries follow the
///          distance.
/// Page     docs/reference/attention/backward.md
template <class Engine = arch::cuda::mma_sync, class Policy = default_backward_policy, class Op, class Q, class K,
          class V, class Out, class Lse, class Dout, class Gradients, class Workspace>
void backward(const gpu& executor, const Op& op, const Q& queries, const K& keys, const V& values, const Out& result,
              const Lse& log_sum_exp, const Dout& result_gradient, const Gradients& wanted, Workspace&& workspace) {
  static_assert(require_gradients<Gradients>());
  using Dq = decltype(Gradients::query);
  using Dk = decltype(Gradients::key);
  using Dv = decltype(Gradients::value);
  static_assert(require_op<Op>() && detail::require_operand<Q, 4>() && detail::require_operand<K, 4>() &&
                detail::require_operand<V, 4>() && detail::require_operand<Out, 4>() &&
                detail::require_operand<Lse, 3>() && detail::require_operand<Dout, 4>() &&
                detail::require_result<Dq, 4>() && detail::require_result<Dk, 4>() && detail::require_result<Dv, 4>() &&
                detail::require_result<Workspace, 1>());
  constexpr auto single = [](auto... x) { return (!std::is_same_v<decltype(x), double> && ...); };
  static_assert(single(element_of<Q>{}, element_of<K>{}, element_of<V>{}, element_of<Out>{}, element_of<Dout>{},
                       element_of<Dq>{}, element_of<Dk>{}, element_of<Dv>{}) &&
                    std::is_same_v<element_of<Lse>, float> && std::is_same_v<element_of<Workspace>, float>,
                "seqprim: attention on CUDA takes float, float16 and bfloat16, and float lse and workspace");
  using T = element_of<Q>;
  const auto q = tensor_view<const T, 4>(as_view(queries));
  const auto k = tensor_view<const element_of<K>, 4>(as_view(keys));
  const auto v = tensor_view<const element_of<V>, 4>(as_view(values));
  const auto out = tensor_view<const element_of<Out>, 4>(as_view(result));
  const auto lse = tensor_view<const float, 3>(as_view(log_sum_exp));
  const auto dout = tensor_view<const element_of<Dout>, 4>(as_view(result_gradient));
  const auto dq = tensor_view<element_of<Dq>, 4>(wanted.query);
  const auto dk = tensor_view<element_of<Dk>, 4>(wanted.key);
  const auto dv = tensor_view<element_of<Dv>, 4>(wanted.value);
  const auto space = tensor_view<float, 1>(as_view(workspace));
  constexpr auto self = detail::entry::backward;
  constexpr const char* page = ". See docs/reference/attention/backward.md";
  const detail::problem p = detail::validate_inputs<self>(executor, op, q, k, v);
  const detail::backward_inputs given{q, k, v, out, lse, dout};
  const auto learned = detail::requested_score_gradients<Op, float>(wanted);
  const detail::backward_results written{dq, dk, dv, learned};
  detail::expect_gradients<self>(p, given, written);
  detail::expect_score_gradients<self>(p, op, given, written);
  SEQPRIM_EXPECTS(learned.dtable.extent(1) <= 0x7fffffff, "attention::backward: the table of the score has ",
                  learned.dtable.extent(1), " entries, more than the 2^31 - 1 of CUDA", page);
  const auto expect_on_device = [&](const char* name, const auto& operand) {
    expect_memory(executor, detail::subject_of<self>, name, operand);
  };
  detail::for_operands(given, expect_on_device);
  detail::for_results(written, expect_on_device);
  detail::for_score_gradients(learned, expect_on_device);
  expect_on_device("workspace", space);
  const detail::encoded_problem<Op> encoded(op, p);
  const auto& rows = encoded.op;
  const detail::problem& sizes = encoded.shape;
  SEQPRIM_EXPECTS(sizes.head_dim <= detail::largest_backward_dim && p.value_dim <= detail::largest_backward_dim,
                  "attention::backward: head_dim (", sizes.head_dim, ") and value_dim (", p.value_dim,
                  ") must be <= ", detail::largest_backward_dim, " on CUDA", page);
  constexpr const subject& subject = detail::subject_of<self>;
  subject.expects_workspace(space, backward_workspace(op, q, k, wanted), "floats",
                            detail::encodes_positions<Op> ? 16 : int{alignof(detail::row_statistics)});
  const auto expect_apart_from_workspace = [&](const char* name, const auto& operand) {
    detail::expect_apart<self>("workspace", space, name, operand);
  };
  detail::for_operands(given, expect_apart_from_workspace);
  detail::for_results(written, expect_apart_from_workspace);
  detail::for_score_gradients(learned, expect_apart_from_workspace);

  seqprim::workspace memory = detail::memory_behind(space, backward_workspace(q, wanted));
  const auto q_in = detail::encoded_queries(executor, subject, op, p, q, memory);
  const auto k_in = detail::encoded_keys(executor, subject, op, p, k, memory);
  const auto dq_in = detail::encoded_query_gradient(executor, subject, op, p, dq, memory);
  const auto dk_in = detail::encoded_key_gradient(executor, subject, op, p, dk, memory);
  const auto take_back = [&] {
    dq_in.launch(executor);
    dk_in.launch(executor);
  };
  auto* const statistics = reinterpret_cast<detail::row_statistics*>(space.data);
  auto* const sums = reinterpret_cast<double*>(space.data + backward_workspace(q));
  const auto scale = static_cast<float>(rows.scale_for(sizes.head_dim));
  using learned_type = detail::learned_by<std::remove_const_t<decltype(learned)>>;
  const auto launch_first = [&] {
    detail::launch_row_statistics(executor, p, out, lse, dout, statistics);
    q_in.launch(executor);
    k_in.launch(executor);
  };
  constexpr index_t head_dim = detail::encoded_extent<Op, decltype(as_view(queries))::last_extent>,
                    value_dim = decltype(as_view(values))::last_extent;
  constexpr bool one_type =
      detail::block_elements<T, element_of<K>, element_of<V>> && std::is_same_v<T, element_of<Dout>>;
  if constexpr (one_type && head_dim <= detail::largest_block_dim && value_dim <= detail::largest_block_dim) {
    if (sizes.head_dim <= detail::largest_block_dim && p.value_dim <= detail::largest_block_dim) {
      using operands = detail::backward_operands<decltype(rows.mask), decltype(rows.score), T, element_of<Dq>,
                                                 element_of<Dk>, element_of<Dv>, learned_type>;
      const bool wide = detail::rows_are_aligned(q_in.rows) && detail::rows_are_aligned(k_in.rows) &&
                        detail::rows_are_aligned(v) && detail::rows_are_aligned(dout);
      detail::with_dims<head_dim, value_dim>(sizes.head_dim, p.value_dim, [&](auto dims) {
        using shape = detail::backward_shape<decltype(dims)::head, decltype(dims)::value, Engine, Policy>;
        const operands in{
            rows.mask,  rows.score,
            sizes,      scale,
            wide,       q_in.rows,
            k_in.rows,  v,
            dout,       statistics,
            dq_in.rows, dk_in.rows,
            dv,         detail::learned_in(learned, sums, p, shape::policy.query_warps, shape::query_tile)};
        detail::launch_backward_blocks<shape, Engine>(executor, in, launch_first);
      });
      take_back();
      return;
    }
  }
  constexpr bool always_blocks = one_type && head_dim != dynamic_extent && value_dim != dynamic_extent &&
                                 head_dim <= detail::largest_block_dim && value_dim <= detail::largest_block_dim;
  if constexpr (!always_blocks) {
    using operands =
        detail::backward_rows_operands<decltype(rows.mask), decltype(rows.score), T, element_of<K>, element_of<V>,
                                       element_of<Dout>, element_of<Dq>, element_of<Dk>, element_of<Dv>, learned_type>;
    const operands in{rows.mask,
                      rows.score,
                      sizes,
                      scale,
                      q_in.rows,
                      k_in.rows,
                      v,
                      dout,
                      statistics,
                      dq_in.rows,
                      dk_in.rows,
                      dv,
                      detail::learned_in(learned, sums, p, detail::backward_warps, detail::backward_warps)};
    detail::launch_backward_rows<Engine>(executor, in, launch_first);
    take_back();
  }
}

}  // namespace seqprim::attention
