// SPDX-License-Identifier: Apache-2.0
// expect-error: an attention operator is an 'attention::softmax{mask, score, position}'
#include <seqprim/attention/forward.hpp>

using namespace seqprim;

void attend(tensor_view<const float, 4> q, tensor_view<const float, 4> k, tensor_view<const float, 4> v,
            tensor_view<float, 4> out) {
#if defined(FIXED)
  attention::forward(cpu{}, attention::softmax{mask::full{}}, q, k, v, out);
#else
  attention::forward(cpu{}, mask::full{}, q, k, v, out);
#endif
}
