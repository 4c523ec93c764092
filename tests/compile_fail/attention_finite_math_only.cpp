// SPDX-License-Identifier: Apache-2.0
// expect-error: attention needs infinities and NaN
#if !defined(FIXED)
#  undef __FINITE_MATH_ONLY__
#  define __FINITE_MATH_ONLY__ 1  // as -ffinite-math-only does, a part of -ffast-math
#endif
#include <seqprim/attention/forward.hpp>
#include <seqprim/mask/causal.hpp>

using namespace seqprim;

void run(tensor_view<const float, 4> q, tensor_view<float, 4> out) {
  attention::forward(cpu{}, attention::softmax{mask::causal{}}, q, q, q, out);
}
