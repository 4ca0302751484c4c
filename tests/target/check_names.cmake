# What is in namespace detail of the layers that compute is a kernel, and is named by its target.
#   cmake -DROOT=include/srformer -P check_names.cmake

cmake_minimum_required(VERSION 3.22)

# What these describe has one name in all files: concepts, and what options and lists of variants are made of.
set(vocabulary backend/concept.hpp backend/tensor.hpp attention/variant.hpp attention/cross_attention.hpp)

set(named 0)
set(faults)
file(GLOB_RECURSE headers RELATIVE "${ROOT}" "${ROOT}/backend/*.hpp" "${ROOT}/ops/*.hpp" "${ROOT}/attention/*.hpp")
foreach(header IN LISTS headers)
  file(STRINGS "${ROOT}/${header}" lines REGEX "^namespace (srformer::)?(detail|SRF_DETAIL)")
  foreach(line IN LISTS lines)
    if(line MATCHES "SRF_DETAIL {$")
      math(EXPR named "${named} + 1")
    elseif(NOT header IN_LIST vocabulary)
      list(APPEND faults "${header}: ${line}")
    endif()
  endforeach()
endforeach()
if(faults OR named EQUAL 0)
  list(JOIN faults "\n  " faults)
  message(FATAL_ERROR "Kernels are in namespace SRF_DETAIL (core/target.hpp):\n  ${faults}")
endif()
message("${named} namespaces of kernels")
