// SPDX-License-Identifier: Apache-2.0
// expect-error: this score modifier has no parameters to learn
#include <seqprim/attention/backward.hpp>
#include <seqprim/score/soft_cap.hpp>

using namespace seqprim;

#if defined(FIXED)
using modifier = score::soft_cap;
#else
struct modifier {
  float factor;
  template <class T> SEQPRIM_HD constexpr T operator()(T logit, score::site) const noexcept {
    return logit * T(factor);
  }
  template <class T> SEQPRIM_HD constexpr T derivative(T, score::site) const noexcept { return T(factor); }
};
#endif

void differentiate(tensor_view<const float, 4> x, tensor_view<const float, 3> lse, tensor_view<float, 4> dq,
                   tensor_view<float, 4> dk, tensor_view<float, 4> dv, tensor_view<float, 2> dscore) {
  attention::backward(cpu{}, attention::softmax{mask::full{}, modifier{2.0f}}, x, x, x, x, lse, x,
                      attention::gradients{}.dq(dq).dk(dk).dv(dv).dscore(dscore));
}
