// SPDX-License-Identifier: Apache-2.0
// expect-error: a score modifier needs 'float derivative(float logit, score::site at) const'
#include <seqprim/attention/forward.hpp>

using namespace seqprim;

struct halved {
  template <class T> SEQPRIM_HD constexpr T operator()(T logit, score::site) const noexcept { return logit / 2; }
#if defined(FIXED)
  template <class T> SEQPRIM_HD constexpr T derivative(T, score::site) const noexcept { return T(0.5); }
#endif
};

void attend(tensor_view<const float, 4> q, tensor_view<const float, 4> k, tensor_view<const float, 4> v,
            tensor_view<float, 4> out) {
  attention::forward(cpu{}, attention::softmax{mask::full{}, halved{}}, q, k, v, out);
}
