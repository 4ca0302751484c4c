# Defines srformer::srformer and those companions whose packages this machine has. Read by the build and by the
# installed package alike, so that both offer the same targets from one list.
#
#   srformer_include_dir   in: the folder that holds srformer/
#   srformer_imported      in: true in the installed package
#   srformer_system        in: SYSTEM where warnings in the headers are not those of who builds, else empty
#   srformer_absent_<name> out: what srformer::<name> lacks, where it is not defined

option(SRFORMER_OPENMP "Run the CPU backends on several threads through OpenMP" ON)
option(SRFORMER_ONEDNN "Use oneDNN for large matrix products where it is found" ON)
option(SRFORMER_MPI "Offer training over many processes where MPI is found" ON)

# Adds srformer::<name>; the names of absent companions are collected with what would provide them.
macro(srformer_add_target name)
  if(srformer_imported)
    add_library(srformer::${name} INTERFACE IMPORTED)
    set(srformer_target srformer::${name})
  else()
    set(srformer_target srformer_${name})
    add_library(${srformer_target} INTERFACE)
    add_library(srformer::${name} ALIAS ${srformer_target})
  endif()
endmacro()

macro(srformer_absent name package)
  set(srformer_absent_${name} "${package} was not found")
  if(NOT srformer_imported)
    message(STATUS "srformer::${name} is off: ${package} was not found")
  endif()
endmacro()

if(NOT TARGET srformer::srformer)
  find_package(Eigen3 3.4 REQUIRED NO_MODULE)
  srformer_add_target(srformer)
  target_include_directories(${srformer_target} ${srformer_system} INTERFACE "${srformer_include_dir}")
  target_compile_features(${srformer_target} INTERFACE cxx_std_20)
  target_link_libraries(${srformer_target} INTERFACE Eigen3::Eigen)

  if(SRFORMER_OPENMP)
    find_package(OpenMP QUIET COMPONENTS CXX)
    if(OpenMP_CXX_FOUND)
      target_link_libraries(${srformer_target} INTERFACE OpenMP::OpenMP_CXX)
    else()
      srformer_absent("srformer, OpenMP" "OpenMP for ${CMAKE_CXX_COMPILER_ID}")
    endif()
  endif()

  if(SRFORMER_ONEDNN)
    # Debian's dnnl-config.cmake ends the configuration where OpenCL's headers are missing. Nothing here uses
    # them, so the library is then taken as it lies.
    find_package(OpenCL QUIET)
    if(OpenCL_FOUND OR dnnl_DIR)
      find_package(dnnl QUIET CONFIG)
    endif()
    if(NOT TARGET DNNL::dnnl)
      find_path(SRFORMER_ONEDNN_INCLUDE_DIR dnnl.hpp)
      find_library(SRFORMER_ONEDNN_LIBRARY dnnl)
      mark_as_advanced(SRFORMER_ONEDNN_INCLUDE_DIR SRFORMER_ONEDNN_LIBRARY)
      if(SRFORMER_ONEDNN_INCLUDE_DIR AND SRFORMER_ONEDNN_LIBRARY)
        add_library(DNNL::dnnl SHARED IMPORTED)
        set_target_properties(DNNL::dnnl PROPERTIES
          IMPORTED_LOCATION "${SRFORMER_ONEDNN_LIBRARY}"
          INTERFACE_INCLUDE_DIRECTORIES "${SRFORMER_ONEDNN_INCLUDE_DIR}")
      endif()
    endif()
    if(TARGET DNNL::dnnl)
      target_compile_definitions(${srformer_target} INTERFACE SRF_HAS_ONEDNN=1)
      target_link_libraries(${srformer_target} INTERFACE DNNL::dnnl)
    else()
      srformer_absent("srformer, oneDNN" "dnnl (libdnnl-dev)")
    endif()
  endif()
endif()

if(NOT TARGET srformer::io)
  find_package(nlohmann_json 3.9 QUIET CONFIG)
  if(nlohmann_json_FOUND)
    srformer_add_target(io)
    target_link_libraries(${srformer_target} INTERFACE srformer::srformer
                                                       nlohmann_json::nlohmann_json)
  else()
    srformer_absent(io "nlohmann_json (nlohmann-json3-dev)")
  endif()
endif()

if(NOT TARGET srformer::gzip)
  find_package(ZLIB QUIET)
  if(NOT TARGET srformer::io)
    srformer_absent(gzip "nlohmann_json (nlohmann-json3-dev)")
  elseif(ZLIB_FOUND)
    srformer_add_target(gzip)
    target_compile_definitions(${srformer_target} INTERFACE SRF_HAS_ZLIB=1)
    target_link_libraries(${srformer_target} INTERFACE srformer::io ZLIB::ZLIB)
  else()
    srformer_absent(gzip "zlib (zlib1g-dev)")
  endif()
endif()

if(NOT TARGET srformer::text)
  find_path(SRFORMER_SENTENCEPIECE_INCLUDE_DIR sentencepiece_processor.h)
  find_library(SRFORMER_SENTENCEPIECE_LIBRARY sentencepiece)
  find_library(SRFORMER_SENTENCEPIECE_TRAIN_LIBRARY sentencepiece_train)
  mark_as_advanced(SRFORMER_SENTENCEPIECE_INCLUDE_DIR SRFORMER_SENTENCEPIECE_LIBRARY
                   SRFORMER_SENTENCEPIECE_TRAIN_LIBRARY)
  find_package(ICU QUIET COMPONENTS i18n uc)
  if(NOT TARGET srformer::io)
    srformer_absent(text "nlohmann_json (nlohmann-json3-dev)")
  elseif(NOT ICU_FOUND)
    srformer_absent(text "ICU (libicu-dev)")
  elseif(SRFORMER_SENTENCEPIECE_INCLUDE_DIR AND SRFORMER_SENTENCEPIECE_LIBRARY)
    srformer_add_target(text)
    target_include_directories(${srformer_target} SYSTEM
                               INTERFACE "${SRFORMER_SENTENCEPIECE_INCLUDE_DIR}")
    if(SRFORMER_SENTENCEPIECE_TRAIN_LIBRARY)
      target_link_libraries(${srformer_target} INTERFACE "${SRFORMER_SENTENCEPIECE_TRAIN_LIBRARY}")
    endif()
    target_link_libraries(${srformer_target} INTERFACE srformer::io ICU::i18n ICU::uc
                                                       "${SRFORMER_SENTENCEPIECE_LIBRARY}")
  else()
    srformer_absent(text "sentencepiece (libsentencepiece-dev)")
  endif()
endif()

if(NOT TARGET srformer::mpi)
  if(SRFORMER_MPI)
    set(MPI_CXX_SKIP_MPICXX ON)  # the interface of C is the one that is used
    find_package(MPI QUIET COMPONENTS CXX)
  endif()
  if(NOT SRFORMER_MPI)
    set(srformer_absent_mpi "SRFORMER_MPI is OFF")
  elseif(MPI_CXX_FOUND)
    srformer_add_target(mpi)
    target_compile_definitions(${srformer_target} INTERFACE SRF_HAS_MPI=1)
    target_link_libraries(${srformer_target} INTERFACE srformer::srformer MPI::MPI_CXX)
  else()
    srformer_absent(mpi "MPI (libopenmpi-dev)")
  endif()
endif()

# Thrust's CPU systems need headers alone: Debian's libthrust-dev, or the CCCL folder of a CUDA toolkit.
if(NOT TARGET srformer::thrust_cpp)
  find_path(SRFORMER_THRUST_DIR thrust/version.h
            HINTS /usr/include /usr/local/cuda/include/cccl /usr/local/cuda/include
            DOC "Folder that holds thrust/: /usr/include, or include/cccl of a CUDA toolkit")
  if(SRFORMER_THRUST_DIR)
    file(STRINGS "${SRFORMER_THRUST_DIR}/thrust/version.h" srformer_thrust_line
         REGEX "^#define THRUST_VERSION [0-9]+")
    string(REGEX MATCH "[0-9]+" srformer_thrust_version "${srformer_thrust_line}")
    if(NOT srformer_imported)
      message(STATUS "Thrust ${srformer_thrust_version} in ${SRFORMER_THRUST_DIR}")
    endif()
    srformer_add_target(thrust_cpp)
    target_compile_definitions(${srformer_target}
                               INTERFACE SRF_HAS_THRUST=1 THRUST_DEVICE_SYSTEM=THRUST_DEVICE_SYSTEM_CPP)
    target_include_directories(${srformer_target} SYSTEM INTERFACE "${SRFORMER_THRUST_DIR}")
    target_link_libraries(${srformer_target} INTERFACE srformer::srformer)

    if(SRFORMER_OPENMP)
      find_package(OpenMP QUIET COMPONENTS CXX)
      if(OpenMP_CXX_FOUND)
        srformer_add_target(thrust_omp)
        target_link_libraries(${srformer_target} INTERFACE srformer::thrust_cpp OpenMP::OpenMP_CXX)
      else()
        srformer_absent(thrust_omp "OpenMP for ${CMAKE_CXX_COMPILER_ID}")
      endif()
    endif()

    find_package(TBB QUIET CONFIG)
    if(TBB_FOUND)
      srformer_add_target(thrust_tbb)
      target_compile_definitions(${srformer_target} INTERFACE SRF_HAS_TBB=1)
      target_link_libraries(${srformer_target} INTERFACE srformer::thrust_cpp TBB::tbb)
    else()
      srformer_absent(thrust_tbb "TBB (libtbb-dev)")
    endif()
  else()
    srformer_absent(thrust_cpp "Thrust (libthrust-dev, or SRFORMER_THRUST_DIR)")
  endif()
endif()

# CUDA is offered to a project that has enabled the CUDA language before.
if(NOT TARGET srformer::cuda AND CMAKE_CUDA_COMPILER)
  find_package(CUDAToolkit QUIET)
  if(TARGET CUDA::cublas)
    srformer_add_target(cuda)
    target_compile_options(
      ${srformer_target} INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>)
    # A CMake older than the toolkit does not know how to ask it for C++20.
    if("cuda_std_20" IN_LIST CMAKE_CUDA_COMPILE_FEATURES)
      target_compile_features(${srformer_target} INTERFACE cuda_std_20)
    else()
      target_compile_options(${srformer_target} INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
    endif()
    # One inline function, one meaning: host code in .cu files is compiled with OpenMP where .cpp files are.
    if(SRFORMER_OPENMP AND OpenMP_CXX_FOUND)
      target_compile_options(
        ${srformer_target} INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${OpenMP_CXX_FLAGS}>")
    endif()
    target_link_libraries(${srformer_target} INTERFACE srformer::srformer CUDA::cudart CUDA::cublas)
  else()
    srformer_absent(cuda "cuBLAS")
  endif()
endif()
