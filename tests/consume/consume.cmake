# SPDX-License-Identifier: Apache-2.0
# cmake -DSOURCE=... -DBINARY=... -DPROGRAM=... -DGENERATOR=... -DFAILS_WITH=text -P consume.cmake -- <cmake arguments>
# Configures, builds and runs the user's project; with FAILS_WITH the configuration must stop and say that text.
cmake_minimum_required(VERSION 3.25)

set(arguments "")
set(after_dashes FALSE)
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(i RANGE ${last})
  if(after_dashes)
    string(REPLACE ";" "\\;" argument "${CMAKE_ARGV${i}}")
    list(APPEND arguments "${argument}")
  elseif(CMAKE_ARGV${i} STREQUAL "--")
    set(after_dashes TRUE)
  endif()
endforeach()

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  message(STATUS "${output}")
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "failed (${status}): ${ARGN}")
  endif()
endfunction()

file(REMOVE_RECURSE "${BINARY}")
set(configure "${CMAKE_COMMAND}" -S "${SOURCE}" -B "${BINARY}" -G "${GENERATOR}" ${arguments})
if(FAILS_WITH)
  execute_process(COMMAND ${configure} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " flat "${output}")  # CMake wraps its messages
  string(FIND "${flat}" "${FAILS_WITH}" position)
  if(status EQUAL 0 OR position EQUAL -1)
    message(FATAL_ERROR "the configuration should fail with '${FAILS_WITH}'; status ${status}:\n${output}")
  endif()
else()
  run(${configure})
  run("${CMAKE_COMMAND}" --build "${BINARY}")
  run("${BINARY}/${PROGRAM}")
endif()
