# SPDX-License-Identifier: Apache-2.0
# The compilers whose messages and warnings the tests look at: the one that builds the tests, and g++, clang++ and nvcc
# where they are found. For each id in SEQPRIM_CHECK_COMPILERS, SEQPRIM_CHECK_<id> is the program and
# SEQPRIM_CHECK_<id>_FLAGS runs its front end only, as C++20 without OpenMP. nvcc (for .cu files) is not in the list.
include_guard()

find_program(SEQPRIM_GXX NAMES g++ g++-14 g++-13 g++-12)
find_program(SEQPRIM_CLANGXX NAMES clang++ clang++-19 clang++-18 clang++-17 clang++-16 clang++-15 clang++-14)
mark_as_advanced(SEQPRIM_GXX SEQPRIM_CLANGXX)

set(SEQPRIM_CHECK_COMPILERS "")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(SEQPRIM_CHECK_gcc "${CMAKE_CXX_COMPILER}")
elseif(SEQPRIM_GXX)
  set(SEQPRIM_CHECK_gcc "${SEQPRIM_GXX}")
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  set(SEQPRIM_CHECK_clang "${CMAKE_CXX_COMPILER}")
elseif(SEQPRIM_CLANGXX)
  set(SEQPRIM_CHECK_clang "${SEQPRIM_CLANGXX}")
endif()
foreach(id gcc clang)
  if(SEQPRIM_CHECK_${id})
    list(APPEND SEQPRIM_CHECK_COMPILERS ${id})
    set(SEQPRIM_CHECK_${id}_FLAGS -std=c++20 -fsyntax-only)
  endif()
endforeach()
if(NOT SEQPRIM_CHECK_clang)
  message(STATUS "seqprim: clang++ not found, messages and warnings are checked with g++ only")
endif()

if(CMAKE_CUDA_COMPILER)
  set(SEQPRIM_CHECK_nvcc "${CMAKE_CUDA_COMPILER}")
  set(SEQPRIM_CHECK_nvcc_FLAGS -std=c++20 -arch=sm_80 -ptx -o /dev/null)
endif()
