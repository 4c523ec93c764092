# SPDX-License-Identifier: Apache-2.0
# cmake -DOBJECT=in.o -DSEALED=out.o -DISA=avx2 -DLINKER=ld -DNM=nm -DOBJCOPY=objcopy -P SeqprimSeal.cmake
#
# Writes a copy of an object file in which every shared (weak) symbol is private, but for those whose name carries the type of
# the instruction set: seqprim::arch::avx2 is mangled as 4avx2 and the end of a nested name, E.
cmake_minimum_required(VERSION 3.25)
foreach(tool LINKER NM OBJCOPY)
  if(NOT ${tool})
    message(FATAL_ERROR "seqprim_compile_per_isa needs GNU ld, nm and objcopy (binutils); ${tool} was not found")
  endif()
endforeach()

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "failed (${status}): ${ARGN}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# The linker drops duplicates by group; without groups each copy stays with its own object.
run("${LINKER}" -r --force-group-allocation -o "${SEALED}.whole" "${OBJECT}")
run("${NM}" --defined-only --format=posix "${SEALED}.whole")
string(LENGTH "${ISA}" length)
string(REPLACE "\n" ";" lines "${output}")
set(private "")
foreach(line IN LISTS lines)
  if(line MATCHES "^([^ ]+) [WwVvu] ")
    set(symbol "${CMAKE_MATCH_1}")
    string(FIND "${symbol}" "${length}${ISA}E" place)
    if(place EQUAL -1)
      string(APPEND private "${symbol}\n")
    endif()
  endif()
endforeach()
file(WRITE "${SEALED}.private" "${private}")
if(private)
  run("${OBJCOPY}" "--localize-symbols=${SEALED}.private" "${SEALED}.whole" "${SEALED}")
else()  # objcopy fails on an empty list
  file(COPY_FILE "${SEALED}.whole" "${SEALED}")
endif()
file(REMOVE "${SEALED}.whole")
