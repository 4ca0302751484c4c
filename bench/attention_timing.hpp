// SPDX-License-Identifier: Apache-2.0
// Times one cross-attention on a backend, forward and backward together or as steps of decoding, float32.
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
  index_t steps = 0, beams = 4;  ///< of decoding; 0 steps: forward and backward are timed instead

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
    app.add_option("--steps", steps, "Time this many steps of decoding instead");
    app.add_option("--beams", beams, "Rows that decoding has for each source");
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

/// What is timed, on a backend: inputs, parameters and gradients of a variant of List.
template <class List, class Backend>
struct TimedAttention {
  using Values = Tensor<Backend, float, 4>;
  Backend& be;
  const AttentionSizes& s;
  typename List::Options options;
  std::array<index_t, 4> queries{s.B, s.H, s.M, s.D}, keys{s.B, s.H, s.N, s.D};
  Values k = made(keys, 2), v = made(keys, 3);
  std::vector<Tensor<Backend, float, 1>> learned, d_learned;
  LearnedPointers<float> p, d_p;

  TimedAttention(Backend& backend, const AttentionSizes& sizes)
      : be(backend), s(sizes), options(List::Options::named(sizes.variant)) {
    options.set("segment_size", s.L);
    List::visit_learned(options, {s.H, s.D}, [&](const LearnedInfo& info) {
      const index_t count = info.rows * std::max<index_t>(info.columns, 1);
      auto values = made_numbers(count, 5);
      for (float& value : values) value = info.role == Role::scalar ? 0.125f : value * 0.25f;
      p.add(learned.emplace_back(from_host<float, 1>(be, {count}, values)).data());
      d_p.add(d_learned.emplace_back(zeros<float, 1>(be, {count})).data());
    });
  }

  Values made(const std::array<index_t, 4>& shape, std::uint32_t seed) {
    return from_host<float, 4>(be, shape,
                               made_numbers(shape[0] * shape[1] * shape[2] * shape[3], seed));
  }

  /// Seconds that f takes, until the backend is done.
  template <class F>
  double seconds_of(F f) {
    be.synchronize();
    const auto start = std::chrono::steady_clock::now();
    f();
    be.synchronize();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  /// Seconds of each repetition of forward and backward.
  std::vector<double> together() {
    const auto q = made(queries, 1), d_out = made(queries, 4);
    auto out = zeros<float, 4>(be, queries), d_q = zeros<float, 4>(be, queries),
         d_k = zeros<float, 4>(be, keys), d_v = zeros<float, 4>(be, keys);
    const AttentionInputs<Backend, float> in{q, k, v};
    const AttentionGradients<Backend, float> d{d_out, d_q.view(), d_k.view(), d_v.view()};
    typename List::template Saved<Backend, float> saved;
    std::vector<double> seconds;
    for (index_t i = 0; i <= s.repetitions; ++i) {
      const double taken = seconds_of([&] {
        List::forward(be, in, p, options, saved, out.view());
        List::backward(be, in, p, options, saved, d, d_p);
      });
      if (i > 0) seconds.push_back(taken);
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

  /// Seconds of each repetition of preparing the sources, and of all steps over them.
  std::array<std::vector<double>, 2> decoding() {
    const auto q = made({s.B, s.H, s.beams, s.D}, 1);
    auto out = zeros<float, 4>(be, q.view().extents);
    std::array<std::vector<double>, 2> seconds;
    for (index_t i = 0; i <= s.repetitions; ++i) {
      typename List::template Prepared<Backend, float> prepared;
      const double preparing = seconds_of([&] {
        prepared = List::template prepare<Backend, float>(
            be, clone(be, k.view()), clone(be, v.view()), {}, p, options, {.steps = s.steps});
      });
      const double stepping = seconds_of([&] {
        for (index_t step = 0; step < s.steps; ++step)
          List::template step<Backend, float>(be, q, {}, p, prepared, {.step = step}, out.view());
      });
      if (i > 0) seconds[0].push_back(preparing), seconds[1].push_back(stepping);
    }
    return seconds;
  }
};

/// Seconds of each repetition of forward and backward.
template <class Backend>
std::vector<double> attention_seconds(Backend& be, const AttentionSizes& s) {
  return TimedAttention<PaperVariants, Backend>(be, s).together();
}

/// Prints one line of JSON: seconds of each repetition.
template <class List = PaperVariants, class Backend>
void time_attention(Backend& be, const AttentionSizes& s) {
  const auto print = [](const char* name, const std::vector<double>& seconds) {
    std::printf("\"%s\": [", name);
    for (std::size_t i = 0; i < seconds.size(); ++i)
      std::printf("%s%.6f", i > 0 ? ", " : "", seconds[i]);
    std::printf("]");
  };
  TimedAttention<List, Backend> timed(be, s);
  std::printf("{");
  if (s.steps > 0) {
    const auto [preparing, stepping] = timed.decoding();
    print("prepare_seconds", preparing), std::printf(", "), print("steps_seconds", stepping);
  } else {
    print("seconds", timed.together());
  }
  std::printf("}\n");
}

}  // namespace srformer::bench
