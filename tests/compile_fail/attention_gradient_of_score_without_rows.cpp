// SPDX-License-Identifier: Apache-2.0
// expect-error: this score modifier has no values of rows to learn
#include <seqprim/attention/backward.hpp>
#include <seqprim/score/query_scale.hpp>

using namespace seqprim;

#if defined(FIXED)
using modifier = score::scale_of_queries;
#else
struct modifier {
  const float* values;
  template <class X, class Site = score::site> SEQPRIM_HD constexpr X operator()(X logit, Site at) const noexcept {
    return logit * at.template of_query<X>(values);
  }
  template <class X, class Site = score::site> SEQPRIM_HD constexpr X derivative(X, Site at) const noexcept {
    return at.template of_query<X>(values);
  }
};
#endif

void differentiate(tensor_view<const float, 4> x, tensor_view<const float, 3> lse, tensor_view<float, 4> dq,
                   tensor_view<float, 4> dk, tensor_view<float, 4> dv, tensor_view<float, 3> drow,
                   const float* values) {
  attention::backward(cpu{}, attention::softmax{mask::full{}, modifier{values}}, x, x, x, x, lse, x,
                      attention::gradients{}.dq(dq).dk(dk).dv(dv).drow(drow));
}
