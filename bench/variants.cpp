// SPDX-License-Identifier: Apache-2.0
// The rates of every cross-attention, forward and backward, at the sizes of T5-small: B 4, H 8, M 128,
// N 1024, D 64.
//
//   variants --threads 2 --benchmark_filter=segmented
#include <srformer/attention/cross_attention.hpp>

#include "benchmark_run.hpp"

namespace {

using namespace srformer;
using bench::Timing;

constexpr index_t B = 4, H = 8, M = 128, N = 1024, D = 64;

/// FLOP of all heads and sources, forward, as docs/variants.md counts them; backward has
/// `backward_over_forward` times as many.
struct Work {
  double forward, backward_over_forward;
};

Work work_of(const CrossAttentionOptions& o) {
  const double L = static_cast<double>(o.segment_size), S = N / L, heads = B * H;
  const double m = M, n = N, d = D;
  switch (o.variant) {
    case Variant::full:
      return {heads * 4 * m * n * d, 2.5};
    case Variant::segmented:
      return {heads * 4 * m * L * d, 2.5};
    case Variant::segmented_recurrent: {
      const double local = 4 * m * L * d,
                   rest = 2 * d * d * (m + n + (L < d ? n : std::min(m, S) * d));
      return {heads * (local + rest), (2.5 * local + 3 * rest) / (local + rest)};
    }
    case Variant::transformer_xl: {
      const double local = heads * 8 * m * L * d, rnn = B * 8 * n * (H * d) * (H * d);
      return {local + rnn, (2.5 * local + 2 * rnn) / (local + rnn)};
    }
    case Variant::global_tokens: {
      const double local = 4 * m * (L + S) * d, means = 2 * n * d;
      return {heads * (local + means), (2.5 * local + 3 * means) / (local + means)};
    }
    case Variant::linear:
      return {heads * 2 * (m + n) * d * d, 3};
  }
  return {};
}

/// What a cross-attention reads and writes.
struct Arguments {
  using Heads = Tensor<EigenBackend, float, 4>;
  using Matrix = Tensor<EigenBackend, float, 2>;
  Heads q, k, v, out, d_q, d_k, d_v, memory;
  Matrix weight, d_weight, rnn, d_rnn;
  float scalars[2] = {0.125f, 0.125f}, d_scalars[2] = {};

  Arguments(const Timing& t, const CrossAttentionOptions& options)
      : q(t.made<4>({B, H, M, D})),
        k(t.made<4>({B, H, N, D})),
        v(t.made<4>({B, H, N, D})),
        out(t.made<4>({B, H, M, D})),
        d_q(t.made<4>({B, H, M, D})),
        d_k(t.made<4>({B, H, N, D})),
        d_v(t.made<4>({B, H, N, D})),
        memory(options.has_memory() ? t.made<4>(memory_shape(options, k.view())) : Heads()),
        weight(t.made<2>({D, D})),
        d_weight(t.made<2>({D, D})),
        rnn(t.made<2>({2 * H * D + 2, H * D})),
        d_rnn(t.made<2>({2 * H * D + 2, H * D})) {
    t.be.for_each(rnn.size(), [x = rnn.data()](index_t i) { x[i] *= 0.02f; });
  }

  template <class T>
  static CrossAttentionParameters<T> parameters(T* weight, T* scalars, T* rnn) {
    constexpr index_t E = H * D;
    const RnnParameters<T> one{rnn, rnn + E * E, rnn + 2 * E * E, rnn + 2 * E * E + E};
    return {RecurrentParameters<T>{weight, scalars, scalars + 1}, one, one};
  }
  auto parameters() { return parameters<const float>(weight.data(), scalars, rnn.data()); }
  auto d_parameters() { return parameters<float>(d_weight.data(), d_scalars, d_rnn.data()); }
};

void add(bench::BenchmarkRun& run, Variant variant, index_t segment_size) {
  CrossAttentionOptions options;
  options.variant = variant, options.segment_size = segment_size;
  const bool segments = variant != Variant::full && variant != Variant::linear;
  const std::string name =
      variant_name(variant) + (segments ? " L " + std::to_string(segment_size) : "");
  const Work work = work_of(options);
  constexpr double query_bytes = 4.0 * B * H * M * D, key_bytes = 4.0 * B * H * N * D;
  run.add(name + " forward", [=](const Timing& t) {
    Arguments a(t, options);
    t.of(work.forward, 2 * query_bytes + 2 * key_bytes, [&] {
      cross_attention_forward(t.be, a.q, a.k, a.v, a.parameters(), {}, options, a.out.view(),
                              a.memory.view());
    });
  });
  run.add(name + " backward", [=](const Timing& t) {
    Arguments a(t, options);
    cross_attention_forward(t.be, a.q, a.k, a.v, a.parameters(), {}, options, a.out.view(),
                            a.memory.view());
    t.of(work.forward * work.backward_over_forward, 4 * query_bytes + 6 * key_bytes, [&] {
      cross_attention_backward(t.be, a.q, a.k, a.v, a.parameters(), {}, options, a.out,
                               a.d_q.view(), a.d_k.view(), a.d_v.view(), a.d_parameters(),
                               a.memory);
    });
  });
}

}  // namespace

int main(int argc, char** argv) {
  bench::BenchmarkRun run("The rates of every cross-attention", argc, argv);
  for (const Variant variant : all_variants) add(run, variant, 64);
  add(run, Variant::segmented, 8);
  add(run, Variant::segmented_recurrent, 8);
  run.run();
}
