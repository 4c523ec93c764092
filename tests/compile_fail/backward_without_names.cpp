// SPDX-License-Identifier: Apache-2.0
// expect-error: attention::backward writes dq, dk and dv: name all three
#include <seqprim/attention/backward.hpp>

using namespace seqprim;

void train(tensor_view<const float, 4> x, tensor_view<const float, 3> lse, tensor_view<float, 4> a,
           tensor_view<float, 4> b, tensor_view<float, 4> c) {
#if defined(FIXED)
  const auto wanted = attention::gradients{}.dq(a).dk(b).dv(c);
#else
  const auto wanted = attention::gradients{}.dq(a).dk(b).dk(c);  // a swapped name leaves one out
#endif
  attention::backward(cpu{}, attention::softmax{mask::full{}}, x, x, x, x, lse, x, wanted);
}
