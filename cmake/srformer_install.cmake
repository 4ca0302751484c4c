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

# One file for each companion that pkg-config can describe, as the targets of srformer_targets.cmake. OpenMP goes by the flag
# of g++ and clang; oneDNN has no file of its own.
function(srformer_add_pc name what requires cflags libs)
  set(srformer_pc_name "${name}")
  set(srformer_pc_what "${what}")
  set(srformer_pc_requires "${requires}")
  set(srformer_pc_cflags "${cflags}")
  set(srformer_pc_libs "${libs}")
  configure_file(cmake/srformer.pc.in "${CMAKE_CURRENT_BINARY_DIR}/${name}.pc" @ONLY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/${name}.pc" DESTINATION "${CMAKE_INSTALL_DATADIR}/pkgconfig")
endfunction()
set(openmp_flag)
if(SRFORMER_OPENMP AND OpenMP_CXX_FOUND)
  set(openmp_flag " -fopenmp")
endif()
srformer_add_pc(srformer "" "eigen3 >= 3.4" "-I\${includedir} -pthread${openmp_flag}" "-pthread${openmp_flag}")
srformer_add_pc(srformer-io ", with files" "srformer = ${PROJECT_VERSION}, nlohmann_json >= 3.9" "" "")
srformer_add_pc(srformer-gzip ", with compressed files" "srformer-io = ${PROJECT_VERSION}, zlib" "-DSRF_HAS_ZLIB=1" "")
srformer_add_pc(srformer-text ", with tokenizers" "srformer-io = ${PROJECT_VERSION}, icu-i18n, icu-uc, sentencepiece" "" "")
srformer_add_pc(srformer-mpi ", over many processes" "srformer = ${PROJECT_VERSION}, mpi-cxx" "-DSRF_HAS_MPI=1 -DOMPI_SKIP_MPICXX -DMPICH_SKIP_MPICXX" "")

install(DIRECTORY include/srformer DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILES_MATCHING PATTERN "*.hpp" PATTERN "*.py")
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/srformerConfig.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/srformerConfigVersion.cmake"
              cmake/srformer_targets.cmake DESTINATION "${package_dir}")
