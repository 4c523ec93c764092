// SPDX-License-Identifier: Apache-2.0
// expect-error: tensors of attention hold float, float16, bfloat16, or all double
#include <seqprim/attention/forward.hpp>

using namespace seqprim;

#if defined(FIXED)
using outputs = tensor_view<float, 4>;
#else
using outputs = tensor_view<int, 4>;
#endif
void attend(tensor_view<const float, 4> q, tensor_view<const float, 4> k, tensor_view<const float, 4> v, outputs out) {
  attention::forward(cpu{}, attention::softmax{mask::full{}}, q, k, v, out);
}
