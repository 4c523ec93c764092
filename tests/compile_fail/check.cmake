# SPDX-License-Identifier: Apache-2.0
# cmake -DCOMPILER=... -DFLAGS=... -DSOURCE=... -DINCLUDE=... -DEXPECT=pass|fail -P check.cmake
# With EXPECT=fail the file is one of self_check/, and the check must reject it for the reason in its
# "// self-check: <text>" line.
cmake_minimum_required(VERSION 3.25)

function(check source result)
  file(STRINGS "${source}" lines REGEX "^// expect-error: ")
  list(LENGTH lines count)
  if(NOT count EQUAL 1)
    set(${result} "needs exactly one line '// expect-error: <text>'" PARENT_SCOPE)
    return()
  endif()
  string(REGEX REPLACE "^// expect-error: " "" text "${lines}")
  string(REPLACE "\\;" ";" text "${text}")  # file(STRINGS) escapes them

  set(command ${COMPILER} ${FLAGS} "-I${INCLUDE}")
  execute_process(COMMAND ${command} "${source}" RESULT_VARIABLE status ERROR_VARIABLE output OUTPUT_VARIABLE output)
  if(status EQUAL 0)
    set(${result} "compiles, but should not" PARENT_SCOPE)
    return()
  endif()
  string(REGEX MATCH "error:[^\n]*" message "${output}")
  string(FIND "${message}" "${text}" position)
  if(position EQUAL -1)
    set(${result} "the first error is not the expected one\n  expected: ${text}\n  first:    ${message}\n\n${output}"
        PARENT_SCOPE)
    return()
  endif()

  execute_process(COMMAND ${command} -DFIXED "${source}" RESULT_VARIABLE status ERROR_VARIABLE output
                  OUTPUT_VARIABLE output)
  if(NOT status EQUAL 0)
    set(${result} "does not compile with -DFIXED either\n\n${output}" PARENT_SCOPE)
    return()
  endif()
  set(${result} "" PARENT_SCOPE)
endfunction()

check("${SOURCE}" problem)
if(EXPECT STREQUAL "pass")
  if(problem)
    message(FATAL_ERROR "${SOURCE} ${problem}")
  endif()
else()
  file(STRINGS "${SOURCE}" expected REGEX "^// self-check: ")
  string(REGEX REPLACE "^// self-check: " "" expected "${expected}")
  string(FIND "${problem}" "${expected}" position)
  if(position EQUAL -1 OR NOT expected)
    message(FATAL_ERROR "the check should say '${expected}' about ${SOURCE}, and says '${problem}'")
  endif()
endif()
