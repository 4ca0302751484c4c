# Installs the headers, the CMake package and the pkg-config file; all of it can be moved after installation.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# A header-only library belongs to no architecture.
set(package_dir "${CMAKE_INSTALL_DATADIR}/cmake/srformer")

configure_package_config_file(
  cmake/srformerConfig.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/srformerConfig.cmake"
  INSTALL_DESTINATION "${package_dir}" PATH_VARS CMAKE_INSTALL_INCLUDEDIR)
write_basic_package_version_file(
  "${CMAKE_CURRENT_BINARY_DIR}/srformerConfigVersion.cmake"
  VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
configure_file(cmake/srformer.pc.in "${CMAKE_CURRENT_BINARY_DIR}/srformer.pc" @ONLY)

install(DIRECTORY include/srformer DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILES_MATCHING PATTERN "*.hpp" PATTERN "*.py")
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/srformerConfig.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/srformerConfigVersion.cmake"
              cmake/srformer_targets.cmake DESTINATION "${package_dir}")
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/srformer.pc"
        DESTINATION "${CMAKE_INSTALL_DATADIR}/pkgconfig")
