// SPDX-License-Identifier: Apache-2.0
// How far two sets of numbers are apart. Nothing compares equal that is empty or not finite.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <srformer/core/scalar.hpp>

namespace srformer::testing {

/// Largest difference over the largest magnitude of `expected`; infinite for different sizes,
/// nothing at all, and numbers that are not finite.
template <class A, class B>
double relative_error(const std::vector<A>& got, const std::vector<B>& expected) {
  constexpr double never = std::numeric_limits<double>::infinity();
  if (got.size() != expected.size() || got.empty()) return never;
  double difference = 0, scale = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double a = static_cast<double>(got[i]), b = static_cast<double>(expected[i]);
    if (!math::finite(a) || !math::finite(b)) return never;
    difference = std::max(difference, std::abs(a - b));
    scale = std::max(scale, std::abs(b));
  }
  return scale > 0 ? difference / scale : difference;
}

}  // namespace srformer::testing
