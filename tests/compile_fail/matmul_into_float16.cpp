// SPDX-License-Identifier: Apache-2.0
// expect-error: matmul sums float, float16 and bfloat16 into float, and double into double
#include <seqprim/linalg/matmul.hpp>

using namespace seqprim;

#if defined(FIXED)
using result = float;
#else
using result = float16;
#endif
void multiply(tensor_view<const float16, 2> a, tensor_view<const float16, 2> b, tensor_view<result, 2> c) {
  linalg::matmul(cpu{}, a, b, c);
}
