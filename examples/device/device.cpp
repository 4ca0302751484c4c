// SPDX-License-Identifier: Apache-2.0
#include "device.hpp"

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

namespace srformer::program {

// built_devices.inc is written by CMake: SRF_DEVICE("thrust-cpp", "float32", open_thrust_cpp_float32)
// for everything that this machine can build.
#define SRF_DEVICE(device, dtype, open) std::unique_ptr<Device> open(int threads, int number);
#include "built_devices.inc"
#undef SRF_DEVICE

namespace {

struct Built {
  const char *device, *dtype;
  std::unique_ptr<Device> (*open)(int threads, int number);
};

const Built built[] = {
#define SRF_DEVICE(device, dtype, open) {device, dtype, open},
#include "built_devices.inc"
#undef SRF_DEVICE
};

/// Holds a flag to the names that any build has; --help shows those of this one.
CLI::Validator one_of(const std::vector<std::string>& all, const std::vector<std::string>& here) {
  std::string shown = "{";
  for (const std::string& name : here) shown += (shown.size() > 1 ? "," : "") + name;
  return CLI::Validator(
      [all](std::string& word) {
        return std::ranges::find(all, word) != all.end() ? std::string() : word + " is not known";
      },
      shown + "}");
}

/// What `field` is in the devices of this build, each once.
std::vector<std::string> built_names(const char* Built::*field) {
  std::vector<std::string> names;
  for (const Built& b : built)
    if (std::ranges::find(names, b.*field) == names.end()) names.emplace_back(b.*field);
  return names;
}

}  // namespace

void DeviceFlags::add_to(CLI::App& app) {
  std::vector<std::string> dtypes = built_names(&Built::dtype);
  if (std::ranges::find(dtypes, "float32") != dtypes.end()) dtypes.emplace_back("int8");
  app.add_option("--device", device, "Where to run")
      ->capture_default_str()
      ->check(one_of({"cpu", "thrust-cpp", "thrust-omp", "thrust-tbb", "cuda"},
                     built_names(&Built::device)));
  app.add_option("--dtype", dtype,
                 "In which numbers are stored; 16 bits are computed in 32; int8: weights alone, to "
                 "generate")
      ->capture_default_str()
      ->check(one_of({"float32", "float64", "bfloat16", "float16", "int8"}, dtypes));
  app.add_option("--threads", threads, "0: as many as the machine has")
      ->capture_default_str()
      ->check(CLI::Range(0, 4096));
}

std::unique_ptr<Device> open_device(const DeviceFlags& flags) {
  if (flags.threads > 1 && (flags.device == "thrust-cpp" || flags.device == "cuda"))
    throw usage_error("--threads does not apply to --device " + flags.device +
                      ", which has one; leave it out");
  const bool eight_bits = flags.dtype == "int8";
  if (eight_bits && flags.device != "cpu")
    throw usage_error("--dtype int8 is for --device cpu; give --device " + flags.device +
                      " another --dtype");
  const std::string dtype = eight_bits ? "float32" : flags.dtype;
  const auto found = std::ranges::find_if(
      built, [&](const Built& b) { return b.device == flags.device && b.dtype == dtype; });
  if (found == std::end(built))
    throw usage_error("--device " + flags.device + " --dtype " + dtype +
                      " is not in this build; see SRFORMER_DEVICES and SRFORMER_DTYPES, and what "
                      "cmake says of absent packages");
  auto device = found->open(flags.threads, flags.number);
  if (eight_bits) device->store_in_eight_bits();
  return device;
}

}  // namespace srformer::program
