// SPDX-License-Identifier: Apache-2.0
// Times one cross-attention on a backend, forward and backward together, float32.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <srformer/attention/cross_attention.hpp>
#include <string>
#include <vector>

namespace srformer::bench {

struct AttentionSizes {
  std::string variant = "segmented_recurrent", write;
  index_t B = 4, H = 8, D = 64, M = 128, N = 1024, L = 64, repetitions = 5;

  /// Adds the flags of these sizes to a CLI::App.
  template <class App>
  void add_to(App& app) {
    app.add_option("variant", variant, "Which cross-attention");
    app.add_option("--batch", B, "B");
    app.add_option("--heads", H, "H");
    app.add_option("--head_size", D, "D");
    app.add_option("--queries", M, "M");
    app.add_option("--keys", N, "N");
    app.add_option("--segment_size", L, "L");
    app.add_option("--repetitions", repetitions, "Timed ones, after one that is not");
    app.add_option("--write", write, "Output and gradients, float32 one after another, to a file");
  }
};

/// Numbers from -1 to 1 in steps of 1/4 that the peers make alike. Their products, and the sums of those,
/// are exact in float32, so that every implementation fires at the same places.
inline std::vector<float> made_numbers(index_t count, std::uint32_t seed) {
  std::vector<float> x;
  for (index_t i = 0; i < count; ++i) {
    std::uint32_t h = (static_cast<std::uint32_t>(i) + seed * 0x9e3779b9u) * 0x85ebca6bu;
    h = (h ^ (h >> 16)) * 0xc2b2ae35u;
    x.push_back(static_cast<float>(static_cast<int>((h ^ (h >> 16)) % 9) - 4) / 4);
  }
  return x;
}

/// Seconds of each repetition.
template <class Backend>
std::vector<double> attention_seconds(Backend& be, const AttentionSizes& s) {
  const auto made = [&](const std::array<index_t, 4>& shape, std::uint32_t seed, float scale = 1) {
    auto x = made_numbers(shape[0] * shape[1] * shape[2] * shape[3], seed);
    for (float& value : x) value *= scale;
    return from_host<float, 4>(be, shape, x);
  };
  auto options = PaperVariants::Options::named(s.variant);
  options.set("segment_size", s.L);
  const std::array queries{s.B, s.H, s.M, s.D}, keys{s.B, s.H, s.N, s.D};
  const auto q = made(queries, 1), k = made(keys, 2), v = made(keys, 3), d_out = made(queries, 4);
  auto out = zeros<float, 4>(be, queries), d_q = zeros<float, 4>(be, queries),
       d_k = zeros<float, 4>(be, keys), d_v = zeros<float, 4>(be, keys);
  std::vector<Tensor<Backend, float, 1>> learned, d_learned;
  LearnedPointers<float> p, d_p;
  PaperVariants::visit_learned(options, {s.H, s.D}, [&](const LearnedInfo& info) {
    const index_t count = info.rows * std::max<index_t>(info.columns, 1);
    auto values = made_numbers(count, 5);
    for (float& value : values) value = info.role == Role::scalar ? 0.125f : value * 0.25f;
    p.add(learned.emplace_back(from_host<float, 1>(be, {count}, values)).data());
    d_p.add(d_learned.emplace_back(zeros<float, 1>(be, {count})).data());
  });
  const AttentionInputs<Backend, float> in{q, k, v};
  const AttentionGradients<Backend, float> d{d_out, d_q.view(), d_k.view(), d_v.view()};
  PaperVariants::Saved<Backend, float> saved;
  std::vector<double> seconds;
  for (index_t i = 0; i <= s.repetitions; ++i) {
    be.synchronize();
    const auto start = std::chrono::steady_clock::now();
    PaperVariants::forward(be, in, p, options, saved, out.view());
    PaperVariants::backward(be, in, p, options, saved, d, d_p);
    be.synchronize();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    if (i > 0) seconds.push_back(taken.count());
    if (i > 0 || s.write.empty()) continue;
    std::ofstream file(s.write, std::ios::binary);
    const auto write = [&](const auto& x) {
      const auto values = to_host(be, x);
      file.write(reinterpret_cast<const char*>(values.data()),
                 static_cast<std::streamsize>(values.size() * sizeof(float)));
    };
    write(out), write(d_q), write(d_k), write(d_v);
    for (const auto& x : d_learned) write(x);
    if (!file.flush()) throw io_error(s.write + ": cannot be written");
  }
  return seconds;
}

/// Prints one line of JSON: seconds of each repetition.
template <class Backend>
void time_attention(Backend& be, const AttentionSizes& s) {
  const std::vector<double> seconds = attention_seconds(be, s);
  std::printf("{\"seconds\": [");
  for (std::size_t i = 0; i < seconds.size(); ++i)
    std::printf("%s%.6f", i > 0 ? ", " : "", seconds[i]);
  std::printf("]}\n");
}

}  // namespace srformer::bench
