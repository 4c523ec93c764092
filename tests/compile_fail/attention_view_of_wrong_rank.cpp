// SPDX-License-Identifier: Apache-2.0
// expect-error: an operand of attention is a tensor or tensor_view of 4 axes (batch, heads, len, dim)
#include <seqprim/attention/forward.hpp>

using namespace seqprim;

#if defined(FIXED)
using queries = tensor_view<const float, 4>;
#else
using queries = tensor_view<const float, 3>;
#endif
void attend(queries q, tensor_view<const float, 4> k, tensor_view<const float, 4> v, tensor_view<float, 4> out) {
  attention::forward(cpu{}, attention::softmax{mask::full{}}, q, k, v, out);
}
