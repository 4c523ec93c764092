# SPDX-License-Identifier: Apache-2.0
# One source file, compiled once for each instruction set, in one program: the build side of seqprim/arch/dispatch.hpp.
# seqprim_compile_per_isa(target SOURCES a.cpp ... [ISAS scalar avx2 avx512 avx512_bf16 amx_bf16])
#
# Adds the sources to the target once for each instruction set. Call it in the folder that creates the target; the sources
# inherit the include directories, definitions, options and libraries of the target.
#
# x86-64 with GNU binutils only. Each object of a newer instruction set is sealed: functions that the compiler shares between object files under one name
# (templates and inline functions of the standard library, for one) become private to it. Otherwise the linker could keep the
# copy with the newest instructions for the whole program, and older processors would stop at it.
function(seqprim_compile_per_isa target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;ISAS")
  include("${CMAKE_CURRENT_FUNCTION_LIST_DIR}/SeqprimIsa.cmake")
  set(seal "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/SeqprimSeal.cmake")
  if(NOT TARGET ${target} OR NOT arg_SOURCES OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "seqprim_compile_per_isa(target SOURCES a.cpp ... [ISAS scalar avx2 avx512 avx512_bf16 amx_bf16]): "
                        "got (${ARGV})")
  endif()
  if(NOT arg_ISAS)
    set(arg_ISAS ${SEQPRIM_ISAS})
  endif()
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    message(FATAL_ERROR "seqprim_compile_per_isa: '${CMAKE_SYSTEM_PROCESSOR}' is no x86-64; add the sources as they are")
  endif()
  get_target_property(type ${target} TYPE)
  get_target_property(pic ${target} POSITION_INDEPENDENT_CODE)
  if(type MATCHES "SHARED|MODULE")
    set(pic ON)
  endif()
  # Only GNU ld takes objects out of their groups.
  set(linker "${CMAKE_LINKER}")
  if(linker MATCHES "(lld|mold|gold)")
    find_program(SEQPRIM_GNU_LD NAMES ld.bfd)
    mark_as_advanced(SEQPRIM_GNU_LD)
    set(linker "${SEQPRIM_GNU_LD}")
  endif()
  foreach(isa IN LISTS arg_ISAS)
    if(NOT DEFINED SEQPRIM_FLAGS_${isa})
      message(FATAL_ERROR "seqprim_compile_per_isa: unknown instruction set '${isa}'; there are: ${SEQPRIM_ISAS}")
    endif()
    foreach(source IN LISTS arg_SOURCES)
      get_filename_component(stem "${source}" NAME_WE)
      set(object ${target}_${stem}_${isa})
      add_library(${object} OBJECT "${source}")
      target_link_libraries(${object} PRIVATE "$<TARGET_PROPERTY:${target},LINK_LIBRARIES>")
      target_include_directories(${object} PRIVATE "$<TARGET_PROPERTY:${target},INCLUDE_DIRECTORIES>")
      target_compile_definitions(${object} PRIVATE "$<TARGET_PROPERTY:${target},COMPILE_DEFINITIONS>")
      # The flags of the set come last, on the baseline of the architecture: -march=native above would mean one set for all.
      target_compile_options(${object} PRIVATE "$<TARGET_PROPERTY:${target},COMPILE_OPTIONS>" -march=x86-64
                                               ${SEQPRIM_FLAGS_${isa}})
      if(pic)
        set_target_properties(${object} PROPERTIES POSITION_INDEPENDENT_CODE ON)
      endif()
      if(isa STREQUAL "scalar")
        target_sources(${target} PRIVATE $<TARGET_OBJECTS:${object}>)
        continue()
      endif()
      set_target_properties(${object} PROPERTIES INTERPROCEDURAL_OPTIMIZATION OFF)
      # What is sealed is machine code, and a "unique" symbol cannot be made private.
      target_compile_options(${object} PRIVATE -fno-lto $<$<CXX_COMPILER_ID:GNU>:-fno-gnu-unique>)
      set(sealed "${CMAKE_CURRENT_BINARY_DIR}/${object}.sealed.o")
      add_custom_command(
        OUTPUT "${sealed}"
        COMMAND
          "${CMAKE_COMMAND}" "-DOBJECT=$<TARGET_OBJECTS:${object}>" "-DSEALED=${sealed}" -DISA=${isa}
          "-DLINKER=${linker}" "-DNM=${CMAKE_NM}" "-DOBJCOPY=${CMAKE_OBJCOPY}" -P "${seal}"
        DEPENDS $<TARGET_OBJECTS:${object}> "${seal}"
        COMMENT "Sealing ${object}"
        VERBATIM)
      # Makefiles know no rule for an object of another target: it has to be there before.
      add_dependencies(${target} ${object})
      target_sources(${target} PRIVATE "${sealed}")
      set_source_files_properties("${sealed}" PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
    endforeach()
  endforeach()
endfunction()
