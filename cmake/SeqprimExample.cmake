# SPDX-License-Identifier: Apache-2.0
# seqprim_add_example(NAME stem SOURCES a.cpp ... [LIBRARIES ...] [ARGUMENTS of the test run ...])
#
# One program built for this machine; as a test it runs with ARGUMENTS, must end with status 0 and checks its own result.
include_guard()

function(seqprim_add_example)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME" "SOURCES;LIBRARIES;ARGUMENTS")
  add_executable(${arg_NAME} ${arg_SOURCES})
  target_link_libraries(${arg_NAME} PRIVATE seqprim::seqprim seqprim_build_flags ${arg_LIBRARIES})
  target_compile_options(${arg_NAME} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${SEQPRIM_FLAGS_native}>")
  if(SEQPRIM_TESTS)
    add_test(NAME example.${arg_NAME} COMMAND ${arg_NAME} ${arg_ARGUMENTS})
    set_tests_properties(example.${arg_NAME} PROPERTIES LABELS example TIMEOUT 300)
  endif()
endfunction()
