// SPDX-License-Identifier: Apache-2.0
// Version, index type, and the one macro that lets a functor be C++ and CUDA at once.
#pragma once

#include <cstddef>

#define SRFORMER_VERSION_MAJOR 0
#define SRFORMER_VERSION_MINOR 1
#define SRFORMER_VERSION_PATCH 0

/// Marks what runs on the host and, when compiled by nvcc, on the device as well.
#if defined(__CUDACC__)
#define SRF_HD __host__ __device__
#else
#define SRF_HD
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
