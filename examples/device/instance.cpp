// SPDX-License-Identifier: Apache-2.0
// One backend and scalar of device.cpp, as CMakeLists.txt says: SRF_DEVICE_HEADER, SRF_DEVICE_BACKEND,
// SRF_DEVICE_SCALAR, and the name SRF_DEVICE_OPEN of the function that opens it.
#include SRF_DEVICE_HEADER

#include "device_of.hpp"

namespace srformer::program {

std::unique_ptr<Device> SRF_DEVICE_OPEN(int threads, int) {
  return std::make_unique<DeviceOf<SRF_DEVICE_BACKEND, SRF_DEVICE_SCALAR>>(threads);
}

}  // namespace srformer::program
