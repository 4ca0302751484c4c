// SPDX-License-Identifier: Apache-2.0
// The errors this library throws, and the checks that throw them.
//
//   shape_error    a size or a value at a public entry is not what the formula needs
//   io_error       a file cannot be used as it is
//   backend_error  a device or a library under a backend refused
//   nonfinite_error  NaN or infinity came out where numbers are needed
//
// Every message is one sentence that says what was expected, what came, and where.
#pragma once

#include <initializer_list>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include <srformer/core/config.hpp>

namespace srformer {

/// A shape or value does not fit: function, argument, expected in letters and numbers, got.
class shape_error : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// A file cannot be used: path, byte offset or line where there is one, and what to do next.
class io_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A device, driver or vendor library refused a call.
class backend_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// NaN or infinity in a loss, a gradient or scores: the step, and the first parameter or layer affected.
class nonfinite_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// "[2,8,64]", as shapes are written in every message; of more than 8 axes, which only a damaged file has, the first 8 and
/// how many there are.
inline std::string shape_text(std::span<const index_t> extents) {
  constexpr std::size_t shown = 8;
  std::string text = "[";
  for (std::size_t i = 0; i < extents.size() && i < shown; ++i) {
    if (i > 0) text += ',';
    text += std::to_string(extents[i]);
  }
  if (extents.size() > shown) text += ",... " + std::to_string(extents.size()) + " axes";
  return text + "]";
}

/// Throws unless `got` equals `expected`; `letters` names the axes as in "[B,H,M,D]".
inline void check_shape(std::string_view function, std::string_view argument,
                        std::string_view letters, std::span<const index_t> got,
                        std::span<const index_t> expected) {
  bool same = got.size() == expected.size();
  for (std::size_t i = 0; same && i < got.size(); ++i) same = got[i] == expected[i];
  if (same) return;
  throw shape_error(std::string(function) + ": " + std::string(argument) + " is " +
                    shape_text(got) + ", expected " + std::string(letters) + " = " +
                    shape_text(expected));
}

/// Throws `function: message` unless `holds`.
inline void require(bool holds, std::string_view function, std::string_view message) {
  if (holds) return;
  throw shape_error(std::string(function) + ": " + std::string(message));
}

}  // namespace srformer
