// SPDX-License-Identifier: Apache-2.0
// Catch2 under one set of names, those of version 3; version 2.13 gets the few it lacks.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>

namespace Catch::Matchers {

inline auto ContainsSubstring(const std::string& part,
                              CaseSensitive::Choice sensitivity = CaseSensitive::Yes) {
  return Contains(part, sensitivity);
}

inline auto MessageMatches(StdString::ContainsMatcher matcher) {
  return Predicate<std::exception>(
      [matcher](const std::exception& error) { return matcher.match(error.what()); },
      matcher.toString());
}

}  // namespace Catch::Matchers
#endif
