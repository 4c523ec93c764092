# SPDX-License-Identifier: Apache-2.0
# Instruction sets, in ascending order, and the flags that let the compiler use them: seqprim picks its engine from what a
# translation unit is allowed to use.
set(SEQPRIM_ISAS scalar avx2 avx512 avx512_bf16 amx_bf16)
set(SEQPRIM_FLAGS_scalar "")
set(SEQPRIM_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(SEQPRIM_FLAGS_avx512 ${SEQPRIM_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq)
set(SEQPRIM_FLAGS_avx512_bf16 ${SEQPRIM_FLAGS_avx512} -mavx512bf16)
set(SEQPRIM_FLAGS_amx_bf16 ${SEQPRIM_FLAGS_avx512_bf16} -mamx-tile -mamx-bf16)
