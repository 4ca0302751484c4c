// SPDX-License-Identifier: Apache-2.0
// Time and memory of the cross-attentions against the length of the source and of its segments, one
// thread, float32, one source, forward and backward:
//
//   cost --rounds 5 --json cost.json
//
// Rounds take the sizes in turn, and the median of each size's CPU time counts, so that other work on
// the machine weighs on all of them alike. Prints tables in Markdown, with the exponent of N that fits
// the time.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <srformer/attention/cross_attention.hpp>
#include <srformer/backend/eigen.hpp>
#include <srformer/core/random.hpp>

namespace {

using namespace srformer;
using Heads = Tensor<EigenBackend, float, 4>;

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

/// The backend of one thread, writing down the scratch it is asked for.
class MeasuringBackend : public EigenBackend {
 public:
  index_t scratch = 0;
  MeasuringBackend() : EigenBackend(1) {}
  template <class F>
  void for_each_row(index_t rows, index_t scratch_bytes, F f) {
    scratch = std::max(scratch, scratch_bytes);
    EigenBackend::for_each_row(rows, scratch_bytes, f);
  }
};

struct Size {
  std::string_view variant;
  index_t N, L;
  std::vector<double> seconds{};
  index_t scratch = 0;

  double median() {
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  }
};

struct Bench {
  index_t H, D, M;
  MeasuringBackend be;

  Tensor<MeasuringBackend, float, 4> random(index_t rows, std::uint64_t seed) {
    Tensor<MeasuringBackend, float, 4> x(be, {1, H, rows, D});
    for (index_t i = 0; i < x.size(); ++i) {
      x.data()[i] = static_cast<float>(2 * uniform({seed, 0}, static_cast<std::uint64_t>(i)) - 1);
    }
    return x;
  }

  void run(Size& size) {
    const auto q = random(M, 1), k = random(size.N, 2), v = random(size.N, 3), d_out = random(M, 4);
    auto out = random(M, 5), d_q = random(M, 6), d_k = random(size.N, 7), d_v = random(size.N, 8);
    std::vector<float> weight(static_cast<std::size_t>(D * D), 0.01f), d_weight(weight.size());
    float leak = 0.1f, threshold = 0.1f, d_leak = 0, d_threshold = 0;
    auto options = PaperVariants::Options::named(size.variant);
    options.set("segment_size", size.L);
    LearnedPointers<float> p, d_p;
    if (options.is<SegmentedRecurrent>()) {
      for (float* x : {weight.data(), &leak, &threshold}) p.add(x);
      for (float* x : {d_weight.data(), &d_leak, &d_threshold}) d_p.add(x);
    }
    const AttentionInputs<std::remove_reference_t<decltype(be)>, float> in{q, k, v};
    PaperVariants::Saved<std::remove_reference_t<decltype(be)>, float> saved;
    be.scratch = 0;
    const double start = cpu_seconds();
    PaperVariants::forward(be, in, p, options, saved, out.view());
    PaperVariants::backward(be, in, p, options, saved, {d_out, d_q.view(), d_k.view(), d_v.view()},
                            d_p);
    size.seconds.push_back(cpu_seconds() - start);
    size.scratch = be.scratch;
  }
};

/// The slope of log seconds over log N.
double exponent(std::vector<Size*> sizes) {
  double x = 0, y = 0, xx = 0, xy = 0;
  const auto n = static_cast<double>(sizes.size());
  for (Size* s : sizes) {
    const double a = std::log(double(s->N)), b = std::log(s->median());
    x += a, y += b, xx += a * a, xy += a * b;
  }
  return (n * xy - x * y) / (n * xx - x * x);
}

}  // namespace

int main(int argc, char** argv) try {
  index_t H = 2, D = 64, M = 128, longest = 65536, rounds = 5;
  std::string json;
  CLI::App app("Time and memory of the cross-attentions against N and L");
  app.add_option("--heads", H, "H");
  app.add_option("--head_size", D, "D");
  app.add_option("--queries", M, "M");
  app.add_option("--longest", longest, "The last N, from 1024 in powers of two");
  app.add_option("--rounds", rounds, "Timed ones, after one that is not");
  app.add_option("--json", json, "Also write every size to this file");
  CLI11_PARSE(app, argc, argv);

  std::vector<Size> sizes;
  for (const std::string_view v : {Full::name, Segmented::name, SegmentedRecurrent::name}) {
    for (index_t N = 1024; N <= longest; N *= 2) sizes.push_back({v, N, 64});
  }
  const std::size_t by_segment = sizes.size();
  for (const index_t L : {64, 32, 16, 8}) {
    sizes.push_back({SegmentedRecurrent::name, 1024, L});
  }
  Bench bench{H, D, M, {}};
  for (index_t round = 0; round <= rounds; ++round) {
    for (Size& s : sizes) {
      bench.run(s);
      if (round == 0) s.seconds.clear();
    }
  }

  std::printf("M %td, D %td, L 64, forward and backward of one head, CPU time of one thread\n\n", M,
              D);
  std::printf(
      "| N | full ms | segmented ms | segmented recurrent ms | full over recurrent | scratch "
      "KiB: full | segmented | recurrent |\n|---|---|---|---|---|---|---|---|\n");
  const std::size_t lengths = by_segment / 3;
  const auto ms = [&](Size& s) { return 1e3 * s.median() / double(H); };
  for (std::size_t i = 0; i < lengths; ++i) {
    Size &a = sizes[i], &b = sizes[lengths + i], &c = sizes[2 * lengths + i];
    std::printf("| %td | %.2f | %.3f | %.2f | %.2f | %td | %td | %td |\n", a.N, ms(a), ms(b), ms(c),
                ms(a) / ms(c), a.scratch / 1024, b.scratch / 1024, c.scratch / 1024);
  }
  std::printf("| exponent of N |");
  for (std::size_t v = 0; v < 3; ++v) {
    std::vector<Size*> of;
    for (std::size_t i = 0; i < lengths; ++i) of.push_back(&sizes[v * lengths + i]);
    std::printf(" %.2f |", exponent(of));
  }
  std::printf(
      " | | | |\n\n| L | segmented recurrent ms | over L 64 | scratch KiB |\n|---|---|---|---|\n");
  for (std::size_t i = by_segment; i < sizes.size(); ++i) {
    std::printf("| %td | %.2f | %.2f | %td |\n", sizes[i].L, ms(sizes[i]),
                ms(sizes[i]) / ms(sizes[by_segment]), sizes[i].scratch / 1024);
  }
  if (!json.empty()) {
    std::ofstream file(json);
    file << "[";
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      file << (i > 0 ? ",\n " : "") << "{\"variant\": \"" << sizes[i].variant
           << "\", \"N\": " << sizes[i].N << ", \"L\": " << sizes[i].L
           << ", \"milliseconds\": " << ms(sizes[i]) << ", \"scratch_bytes\": " << sizes[i].scratch
           << ", \"saved_bytes\": 0}";
    }
    file << "]\n";
    if (!file) throw io_error(json + ": cannot be written");
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
