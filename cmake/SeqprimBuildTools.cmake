# SPDX-License-Identifier: Apache-2.0
# Conveniences of this project's own build; a project that uses seqprim never sees them.
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
# Kernels choose their vector code themselves: -O3 would compile longer for nothing. A value of the user's own stays.
if(CMAKE_CXX_FLAGS_RELEASE STREQUAL "-O3 -DNDEBUG")
  set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_program(SEQPRIM_CCACHE ccache)
mark_as_advanced(SEQPRIM_CCACHE)
if(SEQPRIM_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${SEQPRIM_CCACHE}")
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${SEQPRIM_CCACHE}")
endif()
