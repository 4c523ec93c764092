// SPDX-License-Identifier: Apache-2.0
#include <attention/kernels.hpp>

namespace seqprim::test::kernels {

template <class Op, class T>
void compiled_backward(const cpu& executor, const Op& op, const operand<T>& q, const operand<T>& k, const operand<T>& v,
                       const operand<T>& out, const tensor_view<const float, 3>& lse, const operand<T>& dout,
                       const result<T>& dq, const result<T>& dk, const result<T>& dv) {
  attention::backward(executor, op, q, k, v, out, lse, dout, attention::gradients{}.dq(dq).dk(dk).dv(dv));
}
template <class T>
void compiled_backward_learned(const cpu& executor, const pairs_op& op, const operand<T>& q, const operand<T>& k,
                               const operand<T>& v, const operand<T>& out, const tensor_view<const float, 3>& lse,
                               const operand<T>& dout, const result<T>& dq, const result<T>& dk, const result<T>& dv,
                               const tensor_view<float, 2>& dscore, const tensor_view<float, 2>& dtable,
                               const tensor_view<float, 3>& drow) {
  attention::backward(executor, op, q, k, v, out, lse, dout,
                      attention::gradients{}.dq(dq).dk(dk).dv(dv).dscore(dscore).dtable(dtable).drow(drow));
}

template <class Op, class T>
void compiled_naive_gradients(const Op& op, const attention_problem<T>& p, const tensor<T, 4>& out,
                              const tensor<float, 3>& lse, const tensor<T, 4>& dout, tensor<float, 4>& dq,
                              tensor<float, 4>& dk, tensor<float, 4>& dv, const naive_sums& learned) {
  bind_any(op, p);
  test::naive_gradients(op, p, out, lse, dout, dq, dk, dv, learned);
}

#define SEQPRIM_COMPILED(Op, T)                                                                                    \
  template void compiled_backward<Op, T>(const cpu&, const Op&, const operand<T>&, const operand<T>&,              \
                                         const operand<T>&, const operand<T>&, const tensor_view<const float, 3>&, \
                                         const operand<T>&, const result<T>&, const result<T>&, const result<T>&); \
  template void compiled_naive_gradients<Op, T>(const Op&, const attention_problem<T>&, const tensor<T, 4>&,       \
                                                const tensor<float, 3>&, const tensor<T, 4>&, tensor<float, 4>&,   \
                                                tensor<float, 4>&, tensor<float, 4>&, const naive_sums&);
#define SEQPRIM_COMPILED_LEARNED(T)                                                                                \
  template void compiled_backward_learned<T>(                                                                      \
      const cpu&, const pairs_op&, const operand<T>&, const operand<T>&, const operand<T>&, const operand<T>&,     \
      const tensor_view<const float, 3>&, const operand<T>&, const result<T>&, const result<T>&, const result<T>&, \
      const tensor_view<float, 2>&, const tensor_view<float, 2>&, const tensor_view<float, 3>&);
SEQPRIM_COMPILED(ranges_op, float)
SEQPRIM_COMPILED(ranges_op, float16)
SEQPRIM_COMPILED(ranges_op, bfloat16)
SEQPRIM_COMPILED(pairs_op, float)
SEQPRIM_COMPILED(pairs_op, float16)
SEQPRIM_COMPILED(pairs_op, bfloat16)
SEQPRIM_COMPILED_LEARNED(float)
SEQPRIM_COMPILED_LEARNED(float16)
SEQPRIM_COMPILED_LEARNED(bfloat16)

}  // namespace seqprim::test::kernels
