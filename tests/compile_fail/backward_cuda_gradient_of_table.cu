// SPDX-License-Identifier: Apache-2.0
// expect-error: attention on CUDA does not compute gradients of what a score learns (dscore, dtable, drow) yet
#include <seqprim/attention/backward.cuh>
#include <seqprim/score/relative_bias.hpp>

using namespace seqprim;

void differentiate(tensor_view<const float, 4> x, tensor_view<const float, 3> lse, tensor_view<float, 4> dq,
                   tensor_view<float, 4> dk, tensor_view<float, 4> dv, tensor_view<float, 2> dtable,
                   tensor_view<float, 1> workspace) {
  const attention::softmax op{mask::full{}, score::relative_bias{}};
#if defined(FIXED)
  const auto wanted = attention::gradients{}.dq(dq).dk(dk).dv(dv);
  (void)dtable;
#else
  const auto wanted = attention::gradients{}.dq(dq).dk(dk).dv(dv).dtable(dtable);
#endif
  attention::backward(gpu{}, op, x, x, x, x, lse, x, wanted, workspace);
}
