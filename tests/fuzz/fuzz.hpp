// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets do alike. A reader of any bytes returns, or throws an error of this library that is one short line.
//
//   Target     names a function of any bytes; the program fuzz runs that of --target=NAME
//   tolerate   calls a reader, and ends the run on anything but such an error
//   sections   several files in one input: lines "=== NAME" before each
//   folder     a folder of this process, in memory
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>

#include <unistd.h>

#include <srformer/core/error.hpp>

namespace srformer::fuzz {

using Function = void (*)(std::string_view bytes);

inline std::map<std::string, Function>& targets() {
  static std::map<std::string, Function> all;
  return all;
}

/// One of them, made before main.
struct Target {
  Target(const char* name, Function function) { targets()[name] = function; }
};

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

/// Ends the run where what was read is not what it must be.
inline void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
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

/// What stands behind each line "=== NAME"; of a name that is there twice the last counts.
inline std::map<std::string, std::string_view> sections(std::string_view bytes) {
  constexpr std::string_view mark = "=== ";
  std::map<std::string, std::string_view> found;
  while (bytes.starts_with(mark)) {
    const std::size_t line = std::min(bytes.find('\n'), bytes.size());
    const std::string name(bytes.substr(mark.size(), std::max(line, mark.size()) - mark.size()));
    bytes.remove_prefix(std::min(line + 1, bytes.size()));
    std::size_t end = bytes.starts_with(mark) ? 0 : bytes.find("\n=== ");
    if (end == bytes.npos) end = bytes.size();
    found[name] = bytes.substr(0, end);
    bytes.remove_prefix(std::min(end + (bytes.starts_with(mark) ? 0 : 1), bytes.size()));
  }
  return found;
}

/// Writes those sections of `bytes` that are in `names` into folder(), where nothing else stays of them. Returns all.
template <class Names>
std::map<std::string, std::string_view> write_sections(std::string_view bytes, const Names& names) {
  auto found = sections(bytes);
  for (const char* name : names) {
    const auto section = found.find(name);
    if (section == found.end())
      ::unlink((folder() / name).c_str());
    else
      write(folder() / name, section->second);
  }
  return found;
}

}  // namespace srformer::fuzz
