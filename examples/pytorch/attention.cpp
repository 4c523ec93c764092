// SPDX-License-Identifier: Apache-2.0
// example-begin library
// Attention for Python: a shared library with one C function, which takes the arrays of PyTorch as DLPack describes them.
//
// Shapes   q, out [batch, heads, q_len, head_dim]; k, v [batch, kv_heads, k_len, head_dim]; head_dim contiguous, other strides free
#include <seqprim/attention/forward.hpp>
#include <seqprim/core/dlpack.hpp>
#include <seqprim/mask/sliding_window.hpp>

#include <cstdio>
#include <exception>

using namespace seqprim;
using dlpack::DLManagedTensor;

namespace {

/// Views of the four arrays, checked, and one call. Nothing is copied.
template <class T>
void forward(const DLManagedTensor& q, const DLManagedTensor& k, const DLManagedTensor& v, const DLManagedTensor& out,
             bool causal) {
  // One type for both masks; position 0 for the first query is what is_causal means in PyTorch.
  const mask::sliding_window mask{.left = mask::unlimited, .right = causal ? 0 : mask::unlimited};
  attention::forward(cpu{}, attention::softmax{mask}.starting_at(0), dlpack::from_dlpack<const T, 4>(q),
                     dlpack::from_dlpack<const T, 4>(k), dlpack::from_dlpack<const T, 4>(v),
                     dlpack::from_dlpack<T, 4>(out));
}

}  // namespace

/// 0, or 1 and the reason in `message`. An exception must not leave a C function.
extern "C" int attention_forward(const DLManagedTensor* q, const DLManagedTensor* k, const DLManagedTensor* v,
                                 const DLManagedTensor* out, int causal, char* message, int capacity) try {
  const bool is_bfloat16 = q->dl_tensor.dtype.code == dlpack::data_type_of<bfloat16>.code;
  (is_bfloat16 ? forward<bfloat16> : forward<float>)(*q, *k, *v, *out, causal != 0);
  return 0;
} catch (const std::exception& error) {
  std::snprintf(message, static_cast<std::size_t>(capacity), "%s", error.what());
  return 1;
}
// example-end library
