// SPDX-License-Identifier: Apache-2.0
// Times one cross-attention on a backend, forward and backward together, float32.
#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <srformer/attention/cross_attention.hpp>
#include <srformer/core/random.hpp>
#include <string>

namespace srformer::bench {

struct AttentionSizes {
  std::string variant = "segmented_recurrent";
  index_t B = 4, H = 8, D = 64, M = 128, N = 1024, L = 64, repetitions = 5;

  void add_to(CLI::App& app) {
    app.add_option("variant", variant, "Which cross-attention");
    app.add_option("--batch", B, "B");
    app.add_option("--heads", H, "H");
    app.add_option("--head_size", D, "D");
    app.add_option("--queries", M, "M");
    app.add_option("--keys", N, "N");
    app.add_option("--segment_size", L, "L");
    app.add_option("--repetitions", repetitions, "Timed ones, after one that is not");
  }
};

/// Prints one line of JSON: seconds of each repetition.
template <class Backend>
void time_attention(Backend& be, const AttentionSizes& s) {
  const auto random = [&](const std::array<index_t, 4>& shape, std::uint64_t seed) {
    std::vector<float> x(static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(normal({seed, 0}, i));
    return from_host<float, 4>(be, shape, x);
  };
  CrossAttentionOptions options;
  options.variant = variant_from_name(s.variant);
  options.segment_size = s.L;
  const std::array queries{s.B, s.H, s.M, s.D}, keys{s.B, s.H, s.N, s.D};
  const auto q = random(queries, 1), k = random(keys, 2), v = random(keys, 3),
             d_out = random(queries, 4), weight = random({1, 1, s.D, s.D}, 5);
  const auto scalars = from_host<float, 1>(be, {2}, {0.1f, 0.1f});  // leak, threshold
  auto out = random(queries, 6);
  auto d_q = zeros<float, 4>(be, queries), d_k = zeros<float, 4>(be, keys),
       d_v = zeros<float, 4>(be, keys), d_weight = zeros<float, 4>(be, weight.view().extents);
  auto d_scalars = zeros<float, 1>(be, {2});
  const RecurrentParameters<const float> p{weight.data(), scalars.data(), scalars.data() + 1};
  const RecurrentParameters<float> d_p{d_weight.data(), d_scalars.data(), d_scalars.data() + 1};
  std::printf("{\"seconds\": [");
  for (index_t i = 0; i <= s.repetitions; ++i) {
    be.synchronize();
    const auto start = std::chrono::steady_clock::now();
    cross_attention_forward(be, q, k, v, p, {}, options, out.view());
    cross_attention_backward(be, q, k, v, p, {}, options, d_out, d_q.view(), d_k.view(), d_v.view(),
                             d_p);
    be.synchronize();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    if (i > 0) std::printf("%s%.6f", i > 1 ? ", " : "", taken.count());
  }
  std::printf("]}\n");
}

}  // namespace srformer::bench
