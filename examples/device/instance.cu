// SPDX-License-Identifier: Apache-2.0
// instance.cpp for CUDA.
#include <srformer/backend/thrust_cuda.hpp>

#if defined(SRF_HAS_NCCL)
#include <srformer/train/nccl_communicator.hpp>
#endif

#include "device_of.hpp"

namespace srformer::program {

#if defined(SRF_HAS_NCCL)
/// Devices exchange gradients among themselves; MPI tells them where they are.
template <>
struct CommunicatorOfBackend<ThrustBackend<thrust_cuda>> {
  using type = NcclCommunicator;
  static NcclCommunicator make(ThrustBackend<thrust_cuda>& be, Ranks& ranks) {
    RankCommunicator others(ranks);
    return NcclCommunicator::beside(be, others);
  }
};
#endif

/// The device of that number; where a launcher shows each process one device alone, that one.
std::unique_ptr<Device> SRF_DEVICE_OPEN(int, int number) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 1 && number >= devices)
    throw usage_error("this machine has " + std::to_string(devices) +
                      " CUDA devices and more than " + std::to_string(number) +
                      " ranks; start one rank for each device");
  return std::make_unique<DeviceOf<ThrustBackend<thrust_cuda>, SRF_DEVICE_SCALAR>>(
      CudaOptions{.device = devices > 1 ? number : 0});
}

}  // namespace srformer::program
