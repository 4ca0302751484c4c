// SPDX-License-Identifier: Apache-2.0
// Times one cross-attention, forward and backward together, float32.
//
//   attention segmented_recurrent --batch 4 --keys 1024 --queries 128 --segment_size 64
//
// Prints one line of JSON: seconds of each repetition. compare.py runs it beside its peers.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <srformer/attention/cross_attention.hpp>
#include <srformer/backend/eigen.hpp>
#include <srformer/core/random.hpp>

namespace {

using namespace srformer;

Tensor<EigenBackend, float, 4> random_heads(EigenBackend& be, const std::array<index_t, 4>& shape,
                                            std::uint64_t seed) {
  Tensor<EigenBackend, float, 4> x(be, shape);
  for (index_t i = 0; i < x.size(); ++i) {
    x.data()[i] = static_cast<float>(normal({seed, 0}, static_cast<std::uint64_t>(i)));
  }
  return x;
}

}  // namespace

int main(int argc, char** argv) try {
  std::string variant = "segmented_recurrent";
  index_t B = 4, H = 8, D = 64, M = 128, N = 1024, L = 64, repetitions = 5;
  int threads = 0;
  CLI::App app("Time one cross-attention, forward and backward");
  app.add_option("variant", variant, "Which cross-attention");
  app.add_option("--batch", B, "B");
  app.add_option("--heads", H, "H");
  app.add_option("--head_size", D, "D");
  app.add_option("--queries", M, "M");
  app.add_option("--keys", N, "N");
  app.add_option("--segment_size", L, "L");
  app.add_option("--repetitions", repetitions, "Timed ones, after one that is not");
  app.add_option("--threads", threads, "Threads; 0: all");
  CLI11_PARSE(app, argc, argv);

  EigenBackend be(threads);
  CrossAttentionOptions options;
  options.variant = variant_from_name(variant);
  options.segment_size = L;
  const auto q = random_heads(be, {B, H, M, D}, 1), k = random_heads(be, {B, H, N, D}, 2),
             v = random_heads(be, {B, H, N, D}, 3), d_out = random_heads(be, {B, H, M, D}, 4);
  auto weight = random_heads(be, {1, 1, D, D}, 5);
  auto out = random_heads(be, q.view().extents, 6);
  auto d_q = zeros<float, 4>(be, q.view().extents), d_k = zeros<float, 4>(be, k.view().extents),
       d_v = zeros<float, 4>(be, v.view().extents);
  auto d_weight = zeros<float, 4>(be, weight.view().extents);
  float leak = 0.1f, threshold = 0.1f, d_leak = 0, d_threshold = 0;
  const RecurrentParameters<float> p{weight.data(), &leak, &threshold};
  const RecurrentParameters<float> d_p{d_weight.data(), &d_leak, &d_threshold};
  std::printf("{\"seconds\": [");
  for (index_t i = 0; i <= repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    cross_attention_forward(be, q, k, v, p, {}, options, out.view());
    cross_attention_backward(be, q, k, v, p, {}, options, d_out, d_q.view(), d_k.view(), d_v.view(),
                             d_p);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    if (i > 0) std::printf("%s%.6f", i > 1 ? ", " : "", taken.count());
  }
  std::printf("]}\n");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
