// SPDX-License-Identifier: Apache-2.0
// A program of another project that uses srformer; CMakeLists.txt beside it shows the three ways to find it.
#include <array>
#include <cstdio>

#include <srformer/core/view.hpp>

int main() {
  std::array<float, 6> numbers{1, 2, 3, 4, 5, 6};
  const srformer::View<float, 2> matrix(numbers.data(), {2, 3});
  std::printf("%g\n", static_cast<double>(matrix(1, 2)));
  return matrix(1, 2) == 6 ? 0 : 1;
}
