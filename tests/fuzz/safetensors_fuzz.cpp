// SPDX-License-Identifier: Apache-2.0
// Any bytes as a safetensors file; with an odd first byte the rest as header and values, whose length is then right.
#include <Eigen/Core>
#include <srformer/io/safetensors.hpp>

#include "fuzz.hpp"

namespace {

using namespace srformer;

void run_safetensors(std::string_view data) {
  std::string bytes(data);
  if (!data.empty() && static_cast<std::uint8_t>(data[0]) % 2 == 1) {
    const std::size_t end = bytes.rfind('}');
    const std::uint64_t length = end == std::string::npos ? bytes.size() - 1 : end;
    bytes = std::string(reinterpret_cast<const char*>(&length), sizeof length) + bytes.substr(1);
  }
  fuzz::tolerate([&] {
    const SafetensorsFile file(std::as_bytes(std::span(bytes)), "weights");
    for (const std::string& name : file.names()) {
      fuzz::tolerate([&] { file.read<float>(name); });
      fuzz::tolerate([&] { file.read<Eigen::half>(name); });
      fuzz::tolerate([&] { file.read_ids(name); });
    }
  });
}

const fuzz::Target safetensors_target("safetensors", run_safetensors);

}  // namespace
