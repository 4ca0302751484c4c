// SPDX-License-Identifier: Apache-2.0
// Three parts of one program, compiled for this processor, for any x86-64, and without OpenMP: each runs its own code on
// views of the others, whatever the order in which they are linked.
#include <srformer/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "part.hpp"

using namespace srformer;

namespace {

int faults = 0;
void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("wrong: %s\n", what);
  ++faults;
}

std::vector<float> random_floats(index_t size, std::uint64_t seed, double scale = 1) {
  std::vector<float> x(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(scale * normal({seed}, i));
  return x;
}

/// The largest |a - b| over the largest |a|.
double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0, largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::abs(double{a[i]} - b[i]));
    largest = std::max(largest, std::abs(double{a[i]}));
  }
  return largest > 0 && std::isfinite(most) ? most / largest : HUGE_VAL;
}

}  // namespace

int main() {
  const Part parts[] = {part_native(), part_baseline(), part_one_thread()};
  const Part &native = parts[0], &baseline = parts[1], &one_thread = parts[2];
  for (const Part& part : parts)
    std::printf("%s: vectors of %d bytes, %d threads\n", part.target, part.vector_bytes(),
                part.threads());
  expect(baseline.vector_bytes() == 16, "the part for any x86-64 uses registers of 16 bytes");
  if (native.avx)
    expect(native.vector_bytes() > 16, "the part for this processor uses its registers");
  expect(baseline.threads() == 3, "a part with OpenMP has the threads it asks for");
  expect(one_thread.threads() == 1, "a part without OpenMP has one thread");

  const index_t B = 2, H = 2, M = 12, N = 40, D = 16, n = 96;
  const auto q = random_floats(B * H * M * D, 1), k = random_floats(B * H * N * D, 2),
             v = random_floats(B * H * N * D, 3), w = random_floats(D * D, 4, 0.1),
             a = random_floats(n * n, 5), b = random_floats(n * n, 6);
  const float leak = 0.2f, threshold = 0.1f;
  const PartInputs in{{q.data(), {B, H, M, D}},
                      {k.data(), {B, H, N, D}},
                      {v.data(), {B, H, N, D}},
                      w.data(),
                      &leak,
                      &threshold};
  std::vector<float> out[3], product[3];
  for (int i = 0; i < 3; ++i) {
    out[i].resize(q.size()), product[i].resize(a.size());
    parts[i].attend(in, View<float, 4>(out[i].data(), in.q.extents));
    parts[i].multiply(n, a.data(), b.data(), product[i].data());
    expect(difference(out[i], out[0]) < 1e-5, "attention of the parts agrees");
    expect(difference(product[i], product[0]) < 1e-5, "products of the parts agree");
    const View<float, 4> half =
        parts[i].half(parts[(i + 1) % 3].half({out[i].data(), {8, 1, 1, 4}}));
    expect(half.extent(0) == 2 && half.data == out[i].data(), "a view comes back from two parts");
  }
  expect(difference(out[2], out[1]) == 0, "the number of threads changes no bit");
  if (native.fma) {
    expect(difference(out[0], out[1]) > 0, "attention for this processor has fused multiply-add");
    expect(difference(product[0], product[1]) > 0, "products for it as well");
  }
  // 77 tells ctest that there was nothing to see: this processor has no more than any other.
  return faults > 0 ? 1 : native.avx ? 0 : 77;
}
