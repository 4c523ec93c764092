// SPDX-License-Identifier: Apache-2.0
// expect-error: lse is float (double when the queries are double)
#include <seqprim/attention/forward.hpp>

using namespace seqprim;

#if defined(FIXED)
using log_sums = tensor_view<float, 3>;
#else
using log_sums = tensor_view<double, 3>;
#endif
void attend(tensor_view<const float, 4> q, tensor_view<const float, 4> k, tensor_view<const float, 4> v,
            tensor_view<float, 4> out, log_sums lse) {
  attention::forward(cpu{}, attention::softmax{mask::full{}}, q, k, v, out, lse);
}
