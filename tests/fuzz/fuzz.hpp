// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets do alike. A reader of any bytes returns, or throws an error of this library that is one short line.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include <unistd.h>

#include <srformer/core/error.hpp>

namespace srformer::fuzz {

inline void require_one_line(std::string_view message) {
  bool fits = message.size() <= 500;
  for (const char c : message) fits = fits && c != '\n' && c != '\r' && c != '\0';
  if (fits) return;
  std::fprintf(stderr, "an error of %zu bytes or several lines: %.600s\n", message.size(),
               std::string(message).c_str());
  std::abort();
}

/// Calls f; anything else than an error of this library gets through and ends the run.
template <class F>
void tolerate(F f) {
  try {
    f();
  } catch (const io_error& error) {
    require_one_line(error.what());
  } catch (const shape_error& error) {
    require_one_line(error.what());
  }
}

/// A folder of this process, removed when it ends.
inline const std::filesystem::path& folder() {
  struct Folder {
    std::filesystem::path path = in_memory() / ("srformer-fuzz-" + std::to_string(::getpid()));
    Folder() { std::filesystem::create_directories(path); }
    static std::filesystem::path in_memory() {
      const std::filesystem::path memory = "/dev/shm";
      return ::access(memory.c_str(), W_OK) == 0 ? memory : std::filesystem::temp_directory_path();
    }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };
  static const Folder folder;
  return folder.path;
}

inline void write(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace srformer::fuzz
