// SPDX-License-Identifier: Apache-2.0
// The flags --device, --threads and --dtype, and the Device that they name.
#pragma once

#include <string>
#include <vector>

#include "../program.hpp"
#include "any_model.hpp"

namespace srformer::program {

struct DeviceFlags {
  std::string device = "cpu", dtype = "float32";
  int threads = 0;
  int number = 0;  ///< which of the machine's CUDA devices

  void add_to(CLI::App& app);
};

/// The device that the flags name; int8 is float32 whose models store their weights in eight bits. Throws
/// usage_error for one that this build lacks, for int8 elsewhere than on the CPU and for threads where there
/// is but one, backend_error where there is no CUDA device.
std::unique_ptr<Device> open_device(const DeviceFlags& flags);

}  // namespace srformer::program
