# SPDX-License-Identifier: Apache-2.0
# Packages that tests and benchmarks need: what the system has first, a pinned download second.
include_guard()

# Target seqprim_catch2: Catch2 3 (preferred) or the 2.13 of Debian 12; tests include <support/catch.hpp>, which knows.
function(seqprim_require_catch2)
  find_package(Catch2 QUIET)
  if(NOT Catch2_FOUND)
    include(FetchContent)
    FetchContent_Declare(Catch2 URL https://github.com/catchorg/Catch2/archive/refs/tags/v3.7.1.tar.gz
                         URL_HASH SHA256=c991b247a1a0d7bb9c39aa35faf0fe9e19764213f28ffba3109388e62ee0269c)
    FetchContent_MakeAvailable(Catch2)
  endif()
  add_library(seqprim_catch2 INTERFACE)
  target_link_libraries(seqprim_catch2 INTERFACE Catch2::Catch2)
  if(NOT Catch2_FOUND OR Catch2_VERSION VERSION_GREATER_EQUAL 3)
    target_compile_definitions(seqprim_catch2 INTERFACE SEQPRIM_CATCH2_V3)
  endif()
endfunction()

# Target benchmark::benchmark.
function(seqprim_require_benchmark)
  find_package(benchmark QUIET)
  if(NOT benchmark_FOUND)
    include(FetchContent)
    set(BENCHMARK_ENABLE_TESTING OFF)
    set(BENCHMARK_ENABLE_INSTALL OFF)
    FetchContent_Declare(benchmark URL https://github.com/google/benchmark/archive/refs/tags/v1.9.1.tar.gz)
    FetchContent_MakeAvailable(benchmark)
  endif()
endfunction()
