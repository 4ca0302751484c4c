// SPDX-License-Identifier: Apache-2.0
// instance.cpp for CUDA.
#include <srformer/backend/thrust_cuda.hpp>

#include "device_of.hpp"

namespace srformer::program {

std::unique_ptr<Device> SRF_DEVICE_OPEN(int) {
  return std::make_unique<DeviceOf<ThrustBackend<thrust_cuda>, SRF_DEVICE_SCALAR>>(CudaOptions{});
}

}  // namespace srformer::program
