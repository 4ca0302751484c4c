// SPDX-License-Identifier: Apache-2.0
// Version, index type, and the one macro that lets a functor be C++ and CUDA at once.
#pragma once

// Every public header reads this one before it uses C++20. MSVC leaves __cplusplus at 199711 unless it is told not to.
#if (defined(_MSVC_LANG) ? _MSVC_LANG : __cplusplus) < 202002L
#error "srformer needs C++20: compile with -std=c++20 or newer (in CMake, link srformer::srformer)"
// Compilers go on after an #error, into hundreds of errors that follow from it, and stop at an include that is not there.
#include <srformer_needs_cxx20>
#endif

#include <cstddef>

#include <srformer/core/target.hpp>

#define SRFORMER_VERSION_MAJOR 0
#define SRFORMER_VERSION_MINOR 1
#define SRFORMER_VERSION_PATCH 0

/// Marks what runs on the host and, when compiled by nvcc, on the device as well.
#if defined(__CUDACC__)
#define SRF_HD __host__ __device__
#else
#define SRF_HD
#endif

/// Marks what is called for each element of a loop: on the host it becomes part of the loop, as a call would keep
/// that from being vectorised.
#if defined(__CUDACC__)
#define SRF_IN_LOOP __host__ __device__ inline
#else
#define SRF_IN_LOOP [[gnu::always_inline]] inline
#endif

/// Says of the loop that follows that its rounds do not depend on each other.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDA_ARCH__)
#define SRF_INDEPENDENT _Pragma("GCC ivdep")
#else
#define SRF_INDEPENDENT
#endif

namespace srformer {

/// Extents, strides and positions are signed, as differences of them are taken.
using index_t = std::ptrdiff_t;

}  // namespace srformer
