# SPDX-License-Identifier: Apache-2.0
# Which engines this processor can run; tests of the others are built but not run, and CTest names them as disabled.
foreach(isa avx2 avx512 avx512_bf16 amx_bf16)
  if(NOT DEFINED SEQPRIM_RUNS_${isa})
    set(isa_source "${CMAKE_CURRENT_BINARY_DIR}/runs_${isa}.cpp")
    file(WRITE "${isa_source}" "#include <seqprim/arch/isa.hpp>
int main() { return seqprim::arch::runs_here<seqprim::arch::${isa}>() ? 0 : 1; }")
    try_run(ran compiled "${CMAKE_CURRENT_BINARY_DIR}" "${isa_source}"
            CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${CMAKE_CURRENT_SOURCE_DIR}/../include" CXX_STANDARD 20)
    if(compiled AND ran EQUAL 0)
      set(SEQPRIM_RUNS_${isa} ON CACHE INTERNAL "")
    else()
      set(SEQPRIM_RUNS_${isa} OFF CACHE INTERNAL "")
    endif()
  endif()
endforeach()

# Where each program leaves the names of the golden tensors that it read; tests/golden/coverage_test.cpp adds them up.
set(SEQPRIM_GOLDEN_READS "${PROJECT_BINARY_DIR}/golden_reads")
file(MAKE_DIRECTORY "${SEQPRIM_GOLDEN_READS}")

# Puts those of the sources into `var` that read golden files: they include support/golden.hpp themselves.
function(seqprim_golden_sources var)
  set(found "")
  foreach(source IN LISTS ARGN)
    if(source MATCHES "\\.(cpp|cu)$")
      file(STRINGS "${source}" includes REGEX "^#include <support/golden.hpp>")
      if(includes)
        list(APPEND found "${source}")
      endif()
    endif()
  endforeach()
  set(${var} ${found} PARENT_SCOPE)
endfunction()

# seqprim_add_test(NAME stem SOURCES a_test.cpp ... [LABELS unit ...] [ISA scalar|avx2|avx512|native] [LIBRARIES ...])
#
# One Catch2 binary and one CTest entry. ISA chooses the instruction-set flags of the sources (default native). Sources that
# read golden files are left out where there is no JSON parser.
function(seqprim_add_test)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME;ISA" "SOURCES;LABELS;LIBRARIES;ARGUMENTS")
  if(NOT arg_ISA)
    set(arg_ISA native)
  endif()
  if(NOT arg_LABELS)
    set(arg_LABELS unit)
  endif()
  seqprim_golden_sources(golden ${arg_SOURCES})
  if(golden AND NOT TARGET seqprim::io)
    list(REMOVE_ITEM arg_SOURCES ${golden})
    set(golden "")
    if(NOT arg_SOURCES)
      return()
    endif()
  endif()
  add_executable(${arg_NAME} ${arg_SOURCES})
  target_link_libraries(${arg_NAME} PRIVATE seqprim::seqprim seqprim_build_flags seqprim_test_main ${arg_LIBRARIES})
  target_compile_options(${arg_NAME} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${SEQPRIM_FLAGS_${arg_ISA}}>")
  add_test(NAME ${arg_NAME} COMMAND ${arg_NAME} --order rand --warn NoAssertions ${arg_ARGUMENTS})
  set_tests_properties(${arg_NAME} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT 900)
  if(DEFINED SEQPRIM_RUNS_${arg_ISA} AND NOT SEQPRIM_RUNS_${arg_ISA})
    set_tests_properties(${arg_NAME} PROPERTIES DISABLED ON)
  elseif(golden)
    set_tests_properties(${arg_NAME} PROPERTIES FIXTURES_SETUP golden_reads ENVIRONMENT
                                                "SEQPRIM_GOLDEN_RECORD=${SEQPRIM_GOLDEN_READS}/${arg_NAME}.txt")
    set_property(GLOBAL APPEND PROPERTY SEQPRIM_GOLDEN_PROGRAMS ${arg_NAME})
  endif()
endfunction()

# seqprim_add_family_tests(family [EXCEPT a_test.cpp ...] [ISAS scalar avx2 ... PER_ISA b_test.cpp ...] [LABELS ...] [LIBRARIES ...])
#
# Registers all *_test.cpp of the folder, so that a new one needs no line of CMake:
#   <family>_<isa>_test   the files of PER_ISA, once for each instruction set of ISAS
#   <family>_golden_test  golden_test.cpp and *_golden_test.cpp
#   <family>_test         all others, natively
# but for those of EXCEPT, which the folder registers itself.
function(seqprim_add_family_tests family)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "EXCEPT;ISAS;PER_ISA;LABELS;LIBRARIES")
  if(NOT arg_LABELS)
    set(arg_LABELS unit property)
  endif()
  file(GLOB sources RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" CONFIGURE_DEPENDS "*_test.cpp")
  list(REMOVE_ITEM sources ${arg_EXCEPT} ${arg_PER_ISA})
  foreach(isa IN LISTS arg_ISAS)
    seqprim_add_test(NAME ${family}_${isa}_test SOURCES ${arg_PER_ISA} ISA ${isa} LABELS ${arg_LABELS} LIBRARIES ${arg_LIBRARIES})
  endforeach()
  set(golden ${sources})
  list(FILTER golden INCLUDE REGEX "(^|_)golden_test\\.cpp$")
  list(REMOVE_ITEM sources ${golden})
  if(golden)
    seqprim_add_test(NAME ${family}_golden_test SOURCES ${golden} LABELS golden LIBRARIES ${arg_LIBRARIES})
  endif()
  if(sources)
    seqprim_add_test(NAME ${family}_test SOURCES ${sources} LABELS ${arg_LABELS} LIBRARIES ${arg_LIBRARIES})
  endif()
endfunction()
