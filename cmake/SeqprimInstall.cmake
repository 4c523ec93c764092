# SPDX-License-Identifier: Apache-2.0
# Install rules: headers, CMake package, pkg-config file. What is installed is the same text wherever it was packed, can be
# moved, and is independent of the architecture.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(seqprim_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/seqprim")
set_target_properties(seqprim PROPERTIES EXPORT_NAME seqprim)
set_target_properties(seqprim_io PROPERTIES EXPORT_NAME io)

install(TARGETS seqprim EXPORT seqprim_targets FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT seqprim)
install(TARGETS seqprim_io EXPORT seqprim_io_targets FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
                                                              COMPONENT seqprim)
install(EXPORT seqprim_targets NAMESPACE seqprim:: FILE seqprimTargets.cmake DESTINATION "${seqprim_package_dir}"
        COMPONENT seqprim)
install(EXPORT seqprim_io_targets NAMESPACE seqprim:: FILE seqprimIoTargets.cmake DESTINATION "${seqprim_package_dir}"
        COMPONENT seqprim)

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/seqprimConfig.cmake.in" seqprimConfig.cmake
                              INSTALL_DESTINATION "${seqprim_package_dir}" NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(seqprimConfigVersion.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/seqprimConfig.cmake" "${CMAKE_CURRENT_BINARY_DIR}/seqprimConfigVersion.cmake"
              "${CMAKE_CURRENT_LIST_DIR}/SeqprimDispatch.cmake" "${CMAKE_CURRENT_LIST_DIR}/SeqprimIsa.cmake" "${CMAKE_CURRENT_LIST_DIR}/SeqprimSeal.cmake"
        DESTINATION "${seqprim_package_dir}" COMPONENT seqprim)

# The file finds its prefix from its own place.
set(seqprim_pkgconfig_dir "${CMAKE_INSTALL_DATADIR}/pkgconfig")
file(RELATIVE_PATH seqprim_prefix_from_pc "${CMAKE_INSTALL_FULL_DATADIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
string(REGEX REPLACE "/$" "" seqprim_prefix_from_pc "${seqprim_prefix_from_pc}")
configure_file("${CMAKE_CURRENT_LIST_DIR}/seqprim.pc.in" seqprim.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/seqprim.pc" DESTINATION "${seqprim_pkgconfig_dir}" COMPONENT seqprim)
