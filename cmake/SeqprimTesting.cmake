# seqprim_add_test(NAME stem SOURCES a_test.cpp ... [LABELS unit ...] [ISA scalar|avx2|avx512|native] [LIBRARIES ...])
#
# One Catch2 binary and one CTest entry. ISA chooses the instruction-set flags of the sources (default native). A binary
# built for more than the processor offers reports itself as skipped.
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
  set_tests_properties(${arg_NAME} PROPERTIES LABELS "${arg_LABELS}" SKIP_RETURN_CODE 77 TIMEOUT 900)
endfunction()
