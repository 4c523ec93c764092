// SPDX-License-Identifier: Apache-2.0
#include <attention/kernels.hpp>

namespace seqprim::test::kernels {

template <class Op, class Q, class Cache, class Out>
void compiled_decode(const cpu& executor, const Op& op, const operand<Q>& q, const Cache& k, const Cache& v,
                     const result<Out>& out, const lse_result& lse) {
  attention::decode<arch::native_isa, short_splits>(executor, op, q, k, v, out, lse);
}

using codes = attention::quantized<const std::int8_t, const float>;
template <class Store> using pages = attention::paged<Store>;

#define SEQPRIM_COMPILED(Op, Q, Cache, Out)                                                                \
  template void compiled_decode<Op, Q, Cache, Out>(const cpu&, const Op&, const operand<Q>&, const Cache&, \
                                                   const Cache&, const result<Out>&, const lse_result&);
SEQPRIM_COMPILED(ranges_op, float, operand<float>, float)
SEQPRIM_COMPILED(ranges_op, float16, operand<float16>, float16)
SEQPRIM_COMPILED(ranges_op, bfloat16, operand<bfloat16>, bfloat16)
SEQPRIM_COMPILED(pairs_op, float, operand<float>, float)
SEQPRIM_COMPILED(pairs_op, float16, operand<float16>, float16)
SEQPRIM_COMPILED(pairs_op, bfloat16, operand<bfloat16>, bfloat16)
SEQPRIM_COMPILED(ranges_op, float, pages<operand<float>>, float)
SEQPRIM_COMPILED(ranges_op, bfloat16, pages<operand<bfloat16>>, bfloat16)
SEQPRIM_COMPILED(pairs_op, float, pages<operand<float>>, float)
SEQPRIM_COMPILED(pairs_op, bfloat16, pages<operand<bfloat16>>, bfloat16)
SEQPRIM_COMPILED(ranges_op, float, codes, float)
SEQPRIM_COMPILED(ranges_op, bfloat16, codes, float)
SEQPRIM_COMPILED(ranges_op, float, pages<codes>, float)

}  // namespace seqprim::test::kernels
