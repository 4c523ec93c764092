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

# seqprim_add_test(NAME stem SOURCES a_test.cpp ... [LABELS unit ...] [ISA scalar|avx2|avx512|native] [LIBRARIES ...])
#
# One Catch2 binary and one CTest entry. ISA chooses the instruction-set flags of the sources (default native).
function(seqprim_add_test)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME;ISA" "SOURCES;LABELS;LIBRARIES;ARGUMENTS")
  if(NOT arg_ISA)
    set(arg_ISA native)
  endif()
  if(NOT arg_LABELS)
    set(arg_LABELS unit)
  endif()
  add_executable(${arg_NAME} ${arg_SOURCES})
  target_link_libraries(${arg_NAME} PRIVATE seqprim::seqprim seqprim_build_flags seqprim_test_main ${arg_LIBRARIES})
  target_compile_options(${arg_NAME} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${SEQPRIM_FLAGS_${arg_ISA}}>")
  add_test(NAME ${arg_NAME} COMMAND ${arg_NAME} --order rand --warn NoAssertions ${arg_ARGUMENTS})
  set_tests_properties(${arg_NAME} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT 900)
  if(DEFINED SEQPRIM_RUNS_${arg_ISA} AND NOT SEQPRIM_RUNS_${arg_ISA})
    set_tests_properties(${arg_NAME} PROPERTIES DISABLED ON)
  endif()
endfunction()
