// SPDX-License-Identifier: Apache-2.0
#include <attention/kernels.hpp>

namespace seqprim::test::kernels {

attention::tile_policy policy() { return attention::default_policy::choose<arch::native_isa>(); }

template <class Op, class T>
void compiled_forward(const cpu& executor, const Op& op, const operand<T>& q, const operand<T>& k, const operand<T>& v,
                      const result<T>& out, const lse_result& lse) {
  attention::forward(executor, op, q, k, v, out, lse);
}

template <class Op, class T>
void compiled_naive_forward(const Op& op, const attention_problem<T>& p, tensor<float, 4>& out, tensor<float, 3>& lse) {
  bind_any(op, p);
  test::naive_forward(op, p, out, lse);
}

#define SEQPRIM_COMPILED(Op, T)                                                                          \
  template void compiled_forward<Op, T>(const cpu&, const Op&, const operand<T>&, const operand<T>&,     \
                                        const operand<T>&, const result<T>&, const lse_result&);         \
  template void compiled_naive_forward<Op, T>(const Op&, const attention_problem<T>&, tensor<float, 4>&, \
                                              tensor<float, 3>&);
SEQPRIM_COMPILED(ranges_op, float)
SEQPRIM_COMPILED(ranges_op, float16)
SEQPRIM_COMPILED(ranges_op, bfloat16)
SEQPRIM_COMPILED(pairs_op, float)
SEQPRIM_COMPILED(pairs_op, float16)
SEQPRIM_COMPILED(pairs_op, bfloat16)

}  // namespace seqprim::test::kernels
