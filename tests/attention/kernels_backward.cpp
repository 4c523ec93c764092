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
void compiled_backward_dscore(const cpu& executor, const pairs_op& op, const operand<T>& q, const operand<T>& k,
                              const operand<T>& v, const operand<T>& out, const tensor_view<const float, 3>& lse,
                              const operand<T>& dout, const result<T>& dq, const result<T>& dk, const result<T>& dv,
                              const tensor_view<float, 2>& dscore) {
  attention::backward(executor, op, q, k, v, out, lse, dout,
                      attention::gradients{}.dq(dq).dk(dk).dv(dv).dscore(dscore));
}

template <class Op, class T>
void compiled_naive_gradients(const Op& op, const attention_problem<T>& p, const tensor<T, 4>& out,
                              const tensor<float, 3>& lse, const tensor<T, 4>& dout, tensor<float, 4>& dq,
                              tensor<float, 4>& dk, tensor<float, 4>& dv, tensor<float, 2>* dscore) {
  bind_any(op, p);
  test::naive_gradients(op, p, out, lse, dout, dq, dk, dv, dscore);
}

#define SEQPRIM_COMPILED(Op, T)                                                                                    \
  template void compiled_backward<Op, T>(const cpu&, const Op&, const operand<T>&, const operand<T>&,              \
                                         const operand<T>&, const operand<T>&, const tensor_view<const float, 3>&, \
                                         const operand<T>&, const result<T>&, const result<T>&, const result<T>&); \
  template void compiled_naive_gradients<Op, T>(const Op&, const attention_problem<T>&, const tensor<T, 4>&,       \
                                                const tensor<float, 3>&, const tensor<T, 4>&, tensor<float, 4>&,   \
                                                tensor<float, 4>&, tensor<float, 4>&, tensor<float, 2>*);
#define SEQPRIM_COMPILED_DSCORE(T)                                                                                    \
  template void compiled_backward_dscore<T>(const cpu&, const pairs_op&, const operand<T>&, const operand<T>&,        \
                                            const operand<T>&, const operand<T>&, const tensor_view<const float, 3>&, \
                                            const operand<T>&, const result<T>&, const result<T>&, const result<T>&,  \
                                            const tensor_view<float, 2>&);
SEQPRIM_COMPILED(ranges_op, float)
SEQPRIM_COMPILED(ranges_op, float16)
SEQPRIM_COMPILED(ranges_op, bfloat16)
SEQPRIM_COMPILED(pairs_op, float)
SEQPRIM_COMPILED(pairs_op, float16)
SEQPRIM_COMPILED(pairs_op, bfloat16)
SEQPRIM_COMPILED_DSCORE(float)
SEQPRIM_COMPILED_DSCORE(float16)
SEQPRIM_COMPILED_DSCORE(bfloat16)

}  // namespace seqprim::test::kernels
