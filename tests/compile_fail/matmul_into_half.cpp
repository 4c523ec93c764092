// SPDX-License-Identifier: Apache-2.0
// expect-error: matmul sums float, half and bfloat16 into float, and double into double
#include <seqprim/arch/matmul.hpp>

using namespace seqprim;

#if defined(FIXED)
using result = float;
#else
using result = half;
#endif
void multiply(tensor_view<const half, 2> a, tensor_view<const half, 2> b, tensor_view<result, 2> c) {
  arch::matmul(cpu{}, a, b, c);
}
