# SPDX-License-Identifier: Apache-2.0
# cmake -DBUILD=... -DFIRST=... -DMOVED=... -P install_and_move.cmake
# Installs into one folder and renames it: a package that remembers where it was installed does not survive this.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE "${FIRST}" "${MOVED}")
execute_process(COMMAND "${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${FIRST}" --component seqprim
                COMMAND_ERROR_IS_FATAL ANY OUTPUT_QUIET)
file(RENAME "${FIRST}" "${MOVED}")
foreach(file include/seqprim/seqprim.hpp share/cmake/seqprim/seqprimConfig.cmake share/pkgconfig/seqprim.pc)
  if(NOT EXISTS "${MOVED}/${file}")
    message(FATAL_ERROR "${file} was not installed")
  endif()
endforeach()
file(GLOB_RECURSE texts "${MOVED}/share/*")
foreach(text IN LISTS texts)
  file(READ "${text}" content)
  foreach(place "${FIRST}" "${BUILD}")
    string(FIND "${content}" "${place}" position)
    if(NOT position EQUAL -1)
      message(FATAL_ERROR "${text} remembers ${place}")
    endif()
  endforeach()
endforeach()
