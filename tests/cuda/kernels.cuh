// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/bfloat16.hpp>
#include <seqprim/core/gpu.cuh>
#include <seqprim/core/tensor_view.hpp>

/// Kernels that several groups start. Each is compiled once, in the file of the group that tests its results; the others call it
/// from here. All are causal; row i sees the keys up to start + i.
namespace seqprim::test {

inline constexpr index_t kernel_dim = 128;
/// [batch, heads, len, kernel_dim]; one size of kernels is compiled.
template <class T> using kernel_rows = tensor_view<T, 4, kernel_dim>;

/// The last extent becomes part of the type.
template <index_t Last, class T, int Rank> tensor_view<T, Rank, Last> with_last(const tensor_view<T, Rank>& view) {
  return tensor_view<T, Rank, Last>(view.data, view.extents, view.strides);
}

// forward_test.cu
void causal_forward(const gpu& executor, index_t start, const kernel_rows<const bfloat16>& q,
                    const kernel_rows<const bfloat16>& k, const kernel_rows<const bfloat16>& v,
                    const kernel_rows<bfloat16>& out, const tensor_view<float, 3>& lse);
/// One warp per row, in float.
void causal_forward_by_rows(const gpu& executor, index_t start, const tensor_view<const float, 4>& q,
                            const tensor_view<const float, 4>& k, const tensor_view<const float, 4>& v,
                            const tensor_view<float, 4>& out, const tensor_view<float, 3>& lse);

// backward_test.cu
struct backward_views {
  kernel_rows<const bfloat16> q, k, v, out, dout;
  tensor_view<const float, 3> lse;
  kernel_rows<bfloat16> dq, dk, dv;
  tensor_view<float, 1> workspace;
};
void causal_backward(const gpu& executor, index_t start, const backward_views& views);
/// One warp per row.
void causal_backward_by_rows(const gpu& executor, index_t start, const backward_views& views);

// decode_test.cu
/// Floats.
index_t causal_decode_workspace(const kernel_rows<const bfloat16>& q, const kernel_rows<const bfloat16>& k,
                                const kernel_rows<const bfloat16>& v);
/// Without a workspace (data == nullptr) it comes from the pool of the stream.
void causal_decode(const gpu& executor, index_t start, const kernel_rows<const bfloat16>& q,
                   const kernel_rows<const bfloat16>& k, const kernel_rows<const bfloat16>& v,
                   const kernel_rows<bfloat16>& out, const tensor_view<float, 3>& lse,
                   const tensor_view<float, 1>& workspace);

}  // namespace seqprim::test
