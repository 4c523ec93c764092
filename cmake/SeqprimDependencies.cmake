# SPDX-License-Identifier: Apache-2.0
# Packages that tests and benchmarks need: what the system has first, a pinned download second. For machines without a
# network, SEQPRIM_DEPS_DIR may hold them installed (its cmake files are found first) or as unpacked source folders.
include_guard()

# Lets FetchContent take a package from SEQPRIM_DEPS_DIR/<one of the names>[-version] instead of the network.
function(seqprim_offline_source package)
  if(NOT SEQPRIM_DEPS_DIR)
    return()
  endif()
  string(TOUPPER "${package}" upper)
  foreach(name IN LISTS ARGN)
    file(GLOB folders LIST_DIRECTORIES ON "${SEQPRIM_DEPS_DIR}/${name}" "${SEQPRIM_DEPS_DIR}/${name}-[0-9v]*")
    foreach(folder IN LISTS folders)
      if(EXISTS "${folder}/CMakeLists.txt")
        set(FETCHCONTENT_SOURCE_DIR_${upper} "${folder}" PARENT_SCOPE)
        return()
      endif()
    endforeach()
  endforeach()
endfunction()

# Target seqprim_catch2: Catch2 3 (preferred) or the 2.13 of Debian 12; tests include <support/catch.hpp>, which knows.
function(seqprim_require_catch2)
  find_package(Catch2 QUIET)
  if(NOT Catch2_FOUND)
    include(FetchContent)
    seqprim_offline_source(Catch2 Catch2 catch2)
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
    seqprim_offline_source(benchmark benchmark google-benchmark)
    FetchContent_Declare(benchmark URL https://github.com/google/benchmark/archive/refs/tags/v1.9.1.tar.gz)
    FetchContent_MakeAvailable(benchmark)
  endif()
endfunction()
