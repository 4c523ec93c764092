// SPDX-License-Identifier: Apache-2.0
// expect-error: this score modifier has no table to learn
#include <seqprim/attention/backward.hpp>
#include <seqprim/score/relative_bias.hpp>

using namespace seqprim;

#if defined(FIXED)
using modifier = score::bias_of_distances;
#else
struct modifier {
  const float* values;
  range held;
  template <class X, class Site = score::site> SEQPRIM_HD constexpr X operator()(X logit, Site at) const noexcept {
    return logit + at.template by_distance<X>(values, held);
  }
  template <class X, class Site = score::site> SEQPRIM_HD constexpr X derivative(X, Site) const noexcept {
    return X(1.0f);
  }
};
#endif

void differentiate(tensor_view<const float, 4> x, tensor_view<const float, 3> lse, tensor_view<float, 4> dq,
                   tensor_view<float, 4> dk, tensor_view<float, 4> dv, tensor_view<float, 2> dtable,
                   const float* values) {
  attention::backward(cpu{}, attention::softmax{mask::full{}, modifier{values, {-4, 5}}}, x, x, x, x, lse, x,
                      attention::gradients{}.dq(dq).dk(dk).dv(dv).dtable(dtable));
}
