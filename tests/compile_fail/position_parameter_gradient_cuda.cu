// SPDX-License-Identifier: Apache-2.0
// expect-error: the gradients of the parameters of a position encoding are computed on the CPU only
#include <seqprim/position/encode.cuh>
#include <seqprim/position/rotary.hpp>

using namespace seqprim;

void differentiate(tensor_view<const float, 4> x, tensor_view<float, 4> y, tensor_view<float, 1> sums) {
  const position::rotary<position::half_split> rope{};
#if defined(FIXED)
  position::encode_backward(gpu{}, rope, position::sequential{}, x, y);
  (void)sums;
#else
  position::parameter_gradient(gpu{}, rope, position::sequential{}, position::side::query, x, y, sums);
#endif
}
