// SPDX-License-Identifier: Apache-2.0
// Any bytes as an .npy file; with an odd first byte the rest as header and values, whose length is then right.
#include <srformer/backend/eigen.hpp>
#include <srformer/interop/npy.hpp>

#include "fuzz.hpp"

namespace {

using namespace srformer;

void run_npy(std::string_view data) {
  static EigenBackend be(1);
  const std::filesystem::path path = fuzz::folder() / "x.npy";
  std::string bytes(data);
  if (!data.empty() && static_cast<std::uint8_t>(data[0]) % 2 == 1) {
    const std::size_t end = bytes.rfind('}');
    const std::size_t length = (end == std::string::npos ? bytes.size() - 1 : end) % 65536;
    bytes = std::string("\x93NUMPY\1\0", 8) + static_cast<char>(length % 256) +
            static_cast<char>(length / 256) + bytes.substr(1);
  }
  fuzz::write(path, bytes);
  fuzz::tolerate([&] { read_npy<float, 1>(be, path.string()); });
  fuzz::tolerate([&] { read_npy<double, 2>(be, path.string()); });
  fuzz::tolerate([&] { read_npy<std::int32_t, 3>(be, path.string()); });
}

const fuzz::Target npy_target("npy", run_npy);

}  // namespace
