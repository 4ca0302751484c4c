// SPDX-License-Identifier: Apache-2.0
// The CUDA device, for tests that need one and say that they were skipped where there is none.
#pragma once

#include <cstdio>
#include <srformer/backend/eigen.hpp>
#include <srformer/backend/thrust_cuda.hpp>

#include "support/catch.hpp"
#include "support/traces.hpp"

namespace tests {

using CudaBackend = srformer::ThrustBackend<srformer::thrust_cuda>;

inline bool has_device() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

/// Calls test(backend), or says that it was skipped.
template <class Test>
void on_device(Test test) {
  if (!has_device()) {
    std::puts("skipped: no CUDA device");
    SUCCEED("no CUDA device");
    return;
  }
  CudaBackend cuda;
  test(cuda);
}

template <class Trace>
void compare_device(CudaBackend& cuda, const char* what, double tolerance, Trace trace) {
  srformer::EigenBackend eigen(1);
  compare(what, trace(cuda), trace(eigen), tolerance);
}

}  // namespace tests
