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

Work work_of(const PaperVariants::Options& o) {
  const double L = static_cast<double>(o.value_or<index_t>("segment_size", N)), S = N / L;
  const double m = M, n = N, d = D, heads = B * H;
  if (o.is<Full>()) return {heads * 4 * m * n * d, 2.5};
  if (o.is<Segmented>()) return {heads * 4 * m * L * d, 2.5};
  if (o.is<SegmentedRecurrent>()) {
    const double local = 4 * m * L * d,
                 rest = 2 * d * d * (m + n + (L < d ? n : std::min(m, S) * d));
    return {heads * (local + rest), (2.5 * local + 3 * rest) / (local + rest)};
  }
  if (o.is<TransformerXl>()) {
    const double local = heads * 8 * m * L * d, rnn = B * 8 * n * (H * d) * (H * d);
    return {local + rnn, (2.5 * local + 2 * rnn) / (local + rnn)};
  }
  if (o.is<GlobalTokens>()) {
    const double local = 4 * m * (L + S) * d, means = 2 * n * d;
    return {heads * (local + means), (2.5 * local + 3 * means) / (local + means)};
  }
  return {heads * 2 * (m + n) * d * d, 3};  // linear
}

/// What a cross-attention reads and writes.
struct Arguments {
  using Numbers = Tensor<EigenBackend, float, 1>;
  Tensor<EigenBackend, float, 4> q, k, v, out, d_q, d_k, d_v;
  std::vector<Numbers> learned, d_learned;
  LearnedPointers<float> p, d_p;
  PaperVariants::Saved<EigenBackend, float> saved;

  Arguments(const Timing& t, const PaperVariants::Options& options)
      : q(t.made<4>({B, H, M, D})),
        k(t.made<4>({B, H, N, D})),
        v(t.made<4>({B, H, N, D})),
        out(t.made<4>({B, H, M, D})),
        d_q(t.made<4>({B, H, M, D})),
        d_k(t.made<4>({B, H, N, D})),
        d_v(t.made<4>({B, H, N, D})) {
    PaperVariants::visit_learned(options, {H, D}, [&](const LearnedInfo& info) {
      const index_t count = info.rows * std::max<index_t>(info.columns, 1);
      const float factor = info.rows > D ? 0.02f : 1;  // those of the RNNs
      p.add(learned.emplace_back(t.made<1>({count})).data());
      d_p.add(d_learned.emplace_back(t.made<1>({count})).data());
      t.be.for_each(count, [x = learned.back().data(), role = info.role, factor](index_t i) {
        x[i] = role == Role::scalar ? 0.125f : x[i] * factor;
      });
    });
  }

  void forward(EigenBackend& be, const PaperVariants::Options& options) {
    PaperVariants::forward<EigenBackend, float>(be, {q, k, v}, p, options, saved, out.view());
  }
  void backward(EigenBackend& be, const PaperVariants::Options& options) {
    PaperVariants::backward<EigenBackend, float>(be, {q, k, v}, p, options, saved,
                                                 {out, d_q.view(), d_k.view(), d_v.view()}, d_p);
  }
};

void add(bench::BenchmarkRun& run, std::string_view variant, index_t segment_size) {
  auto options = PaperVariants::Options::named(variant);
  const bool segments = options.set("segment_size", segment_size);
  const std::string name =
      std::string(variant) + (segments ? " L " + std::to_string(segment_size) : "");
  const Work work = work_of(options);
  constexpr double query_bytes = 4.0 * B * H * M * D, key_bytes = 4.0 * B * H * N * D;
  run.add(name + " forward", [=](const Timing& t) {
    Arguments a(t, options);
    t.of(work.forward, 2 * query_bytes + 2 * key_bytes, [&] { a.forward(t.be, options); });
  });
  run.add(name + " backward", [=](const Timing& t) {
    Arguments a(t, options);
    a.forward(t.be, options);
    t.of(work.forward * work.backward_over_forward, 4 * query_bytes + 6 * key_bytes,
         [&] { a.backward(t.be, options); });
  });
}

}  // namespace

int main(int argc, char** argv) {
  bench::BenchmarkRun run("The rates of every cross-attention", argc, argv);
  for (const VariantDescription& variant : PaperVariants::describe()) add(run, variant.name, 64);
  add(run, Segmented::name, 8);
  add(run, SegmentedRecurrent::name, 8);
  run.run();
}
