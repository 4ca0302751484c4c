// SPDX-License-Identifier: Apache-2.0
// A program of another project that uses srformer; CMakeLists.txt beside it shows the ways to find it.
#include <cstdio>
#include <srformer/srformer.hpp>

int main() {
  using namespace srformer;
  const index_t B = 2, H = 4, M = 12, N = 100, D = 16;  // batch, heads, queries, keys, head size
  const auto random = [](index_t size, std::uint64_t seed, double scale = 1) {
    std::vector<float> x(static_cast<std::size_t>(size));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(scale * normal({seed}, i));
    return x;
  };
  const auto q = random(B * H * M * D, 1), k = random(B * H * N * D, 2),
             v = random(B * H * N * D, 3);
  const auto weight = random(D * D, 4, 0.02);  // learned, in a model, as the two scalars
  const float leak = 0.1f, threshold = 0.1f;
  std::vector<float> out(q.size());

  EigenBackend backend;  // threads and workspace; views say where the numbers lie
  const AttentionInputs<EigenBackend, float> in{
      {q.data(), {B, H, M, D}}, {k.data(), {B, H, N, D}}, {v.data(), {B, H, N, D}}};
  segmented_recurrent_forward(backend, in, {weight.data(), &leak, &threshold}, {.segment_size = 16},
                              View<float, 4>(out.data(), {B, H, M, D}));
  std::printf("%.3f %.3f ... %.3f\n", double{out[0]}, double{out[1]}, double{out.back()});
}
