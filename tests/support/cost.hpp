// SPDX-License-Identifier: Apache-2.0
// What a reader takes for an input that was made to be costly: time and memory in proportion to its size.
#pragma once

#include <algorithm>
#include <cstddef>
#include <ctime>
#include <fstream>
#include <string>
#include <string_view>

#include <srformer/core/error.hpp>

#include "support/catch.hpp"

namespace tests {

/// Seconds of this process's processors that f() takes.
template <class F>
double processor_seconds(F f) {
  const auto now = [] {
    std::timespec time{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
  };
  const double start = now();
  f();
  return now() - start;
}

/// A value in bytes from /proc/self/status, 0 where there is none.
inline std::size_t memory_bytes(std::string_view field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(field))
      return std::size_t(std::stoull(line.substr(field.size() + 1))) << 10;
  return 0;
}

/// Bytes that f() holds at most beyond what the process holds before.
template <class F>
std::size_t peak_bytes(F f) {
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak is that of now
  const std::size_t before = memory_bytes("VmRSS:");
  f();
  return memory_bytes("VmHWM:") - std::min(before, memory_bytes("VmHWM:"));
}

/// Checks that read(make(bytes)) takes for 1 MB no more than 8 times as long as for a quarter of it, and at most 200 times
/// the memory. Errors of this library are one of its answers. Quadratic time would be 16 times as long.
template <class Make, class Read>
void require_proportion(const std::string& what, Make make, Read read) {
  INFO(what);
  const auto cost = [&](std::size_t bytes, std::size_t& peak) {
    const std::string input = make(bytes);
    const auto run = [&] {
      try {
        read(input);
      } catch (const srformer::io_error& error) {
        CHECK(std::string_view(error.what()).size() <= 500);
      } catch (const srformer::shape_error& error) {
        CHECK(std::string_view(error.what()).size() <= 500);
      }
    };
    double seconds = 0;
    peak = peak_bytes([&] { seconds = processor_seconds(run); });
    return seconds;
  };
  constexpr std::size_t megabyte = std::size_t{1} << 20, slack = std::size_t{64} << 20;
  std::size_t peak = 0;
  const double quarter = cost(megabyte / 4, peak), whole = cost(megabyte, peak);
  CHECK(whole <= 8 * quarter + 0.2);
  CHECK(whole <= 20);
#if !defined(__SANITIZE_ADDRESS__)
  CHECK(peak <= 200 * megabyte + slack);
#endif
}

/// `part` again and again, between `begin` and `end`, in about `bytes`.
inline std::string repeated(std::size_t bytes, std::string_view part, std::string_view begin = "",
                            std::string_view end = "") {
  std::string text(begin);
  while (text.size() + part.size() + end.size() <= bytes) text += part;
  return text += end;
}

/// part(0), part(1), ... between `begin` and `end`, in about `bytes`.
template <class Part>
std::string counted_parts(std::size_t bytes, Part part, std::string_view begin = "",
                          std::string_view end = "") {
  std::string text(begin);
  for (std::size_t i = 0; text.size() + end.size() < bytes; ++i) text += part(i);
  return text += end;
}

}  // namespace tests
