# SPDX-License-Identifier: Apache-2.0
# cmake -DPKG_CONFIG=... -DPREFIX=... -DVERSION=... -DCOMPILER=... -DSOURCE=... -DOUTPUT=... -P pkg_config.cmake
# Builds the user's program the way a Makefile would.
cmake_minimum_required(VERSION 3.25)
set(ENV{PKG_CONFIG_PATH} "${PREFIX}/share/pkgconfig")

execute_process(COMMAND "${PKG_CONFIG}" --modversion seqprim OUTPUT_VARIABLE version OUTPUT_STRIP_TRAILING_WHITESPACE
                COMMAND_ERROR_IS_FATAL ANY)
if(NOT version STREQUAL VERSION)
  message(FATAL_ERROR "pkg-config says version ${version}, the project is ${VERSION}")
endif()
execute_process(COMMAND "${PKG_CONFIG}" --cflags seqprim OUTPUT_VARIABLE flags OUTPUT_STRIP_TRAILING_WHITESPACE
                COMMAND_ERROR_IS_FATAL ANY)
separate_arguments(flags UNIX_COMMAND "${flags}")
execute_process(COMMAND "${COMPILER}" -std=c++20 ${flags} "${SOURCE}/main.cpp" "${SOURCE}/other.cpp" -o "${OUTPUT}"
                COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${OUTPUT}" COMMAND_ERROR_IS_FATAL ANY)
