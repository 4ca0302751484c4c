// SPDX-License-Identifier: Apache-2.0
// What the benchmarks are measured against: the rate of a large product in the same process.
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>

#include <srformer/ops/linear.hpp>

namespace srformer::bench {

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// FLOP/s of y = x W^T at the sizes of T5-small's feed-forward, 1024x2048x512: the best of ten.
template <class Backend>
double product_rate(Backend& be) {
  const auto x = zeros<float, 2>(be, {1024, 512}), w = zeros<float, 2>(be, {2048, 512});
  auto y = zeros<float, 2>(be, {1024, 2048});
  double best = 1e9;
  for (int i = 0; i < 10; ++i) {
    const double start = now();
    linear_forward(be, x, w, std::nullopt, y.view());
    be.synchronize();
    best = std::min(best, now() - start);
  }
  return 2.0 * 1024 * 2048 * 512 / best;
}

}  // namespace srformer::bench
