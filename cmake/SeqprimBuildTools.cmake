# Conveniences of this project's own build; a project that uses seqprim never sees them.
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG" CACHE STRING "Flags of release builds")
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_program(SEQPRIM_CCACHE ccache)
mark_as_advanced(SEQPRIM_CCACHE)
if(SEQPRIM_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${SEQPRIM_CCACHE}")
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${SEQPRIM_CCACHE}")
endif()

# Flags of our own targets: warnings, sanitizers.
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
