// SPDX-License-Identifier: Apache-2.0
// Files of the tests of text: a tokenizer of BART, and files that they write themselves.
#pragma once

#include <filesystem>
#include <fstream>
#include <string_view>

namespace tests {

inline const std::filesystem::path bart_folder =
    std::filesystem::path(SRF_TESTS_DIR) / "reference/values/models/bart_full";

inline void write_file(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

}  // namespace tests
