# SPDX-License-Identifier: Apache-2.0
# Flags of the targets this project builds: warnings, sanitizers, instruction sets. Nothing of this is global.
add_library(seqprim_build_flags INTERFACE)
target_compile_options(
  seqprim_build_flags INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wconversion;-Wshadow>"
                                "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>")
if(SEQPRIM_SANITIZE)
  set(seqprim_sanitizers -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_compile_options(seqprim_build_flags INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${seqprim_sanitizers}>")
  target_link_options(seqprim_build_flags INTERFACE "$<$<LINK_LANGUAGE:CXX>:${seqprim_sanitizers}>")
endif()

# Instruction-set flags of a translation unit: seqprim picks its engine from what the compiler is allowed to use.
set(SEQPRIM_FLAGS_scalar "")
set(SEQPRIM_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(SEQPRIM_FLAGS_avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c)
set(SEQPRIM_FLAGS_native -march=native)
