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

include(SeqprimIsa)
set(SEQPRIM_FLAGS_native -march=native)
