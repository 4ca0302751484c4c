// SPDX-License-Identifier: Apache-2.0
// Runs one target under libFuzzer:  fuzz --target=NAME [libFuzzer's options] [folders]
#include <cstring>

#include "fuzz.hpp"

namespace {
srformer::fuzz::Function chosen = nullptr;
}

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments) {
  constexpr std::string_view option = "--target=";
  for (int i = 1; i < *count; ++i) {
    const std::string_view argument = (*arguments)[i];
    if (!argument.starts_with(option)) continue;
    const auto found = srformer::fuzz::targets().find(std::string(argument.substr(option.size())));
    if (found != srformer::fuzz::targets().end()) chosen = found->second;
  }
  if (chosen != nullptr) return 0;
  std::fprintf(stderr, "fuzz: give --target=NAME with one of:");
  for (const auto& [name, function] : srformer::fuzz::targets())
    std::fprintf(stderr, " %s", name.c_str());
  std::fprintf(stderr, "\n");
  std::exit(2);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  chosen({reinterpret_cast<const char*>(data), size});
  return 0;
}
