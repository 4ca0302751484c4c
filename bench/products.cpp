// SPDX-License-Identifier: Apache-2.0
// Times products on one core of matrices that are in its cache, beside Eigen's of the same sizes in float or double.
//
//   products --milliseconds 5
//
// Prints one line of JSON: a list of {product, seconds, eigen_seconds}, each the best of several runs.
// instruction_sets.py runs it at every level of the processor.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include <srformer/backend/gemm.hpp>
#include <srformer/backend/quantized.hpp>

namespace {

using namespace srformer;

struct Shape {
  Op transpose_a, transpose_b;
  index_t m, n, k;
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Seconds of one call: the least of runs of many, `seconds` in all.
template <class F>
double time_of(double seconds, F f) {
  f();
  index_t calls = 1;
  double best = 1e9;
  for (const double end = now() + seconds; now() < end;) {
    const double start = now();
    for (index_t i = 0; i < calls; ++i) f();
    const double taken = now() - start;
    best = std::min(best, taken / static_cast<double>(calls));
    if (taken < seconds / 50) calls *= 2;
  }
  return best;
}

template <class T>
std::vector<T> numbers(index_t count) {
  std::vector<T> x;
  for (index_t i = 0; i < count; ++i) {
    x.push_back(T(static_cast<float>(i * 7919 % 2001 - 1000) / 1000));
  }
  return x;
}

std::string size_text(const Shape& s) {
  return std::to_string(s.m) + "x" + std::to_string(s.n) + "x" + std::to_string(s.k);
}

class Report {
 public:
  explicit Report(double seconds) : seconds_(seconds) {}

  /// A [m,k] in C times B [k,n] in TB, either or both transposed.
  template <class C, class TB>
  void product(const char* scalar, const Shape& s) {
    const auto a = numbers<C>(s.m * s.k), eigen_b = numbers<C>(s.k * s.n);
    const auto b = numbers<TB>(s.k * s.n);
    auto c = numbers<C>(s.m * s.n);
    const index_t lda = s.transpose_a == Op::none ? s.k : s.m,
                  ldb = s.transpose_b == Op::none ? s.n : s.k;
    const double ours = time_of(seconds_, [&] {
      small_gemm(s.transpose_a, s.transpose_b, s.m, s.n, s.k, C(1), a.data(), lda, b.data(), ldb,
                 C(0), c.data(), s.n);
    });
    const double eigen = time_of(seconds_, [&] {
      detail::eigen_gemm(s.transpose_a, s.transpose_b, s.m, s.n, s.k, C(1), a.data(), lda,
                         eigen_b.data(), ldb, C(0), c.data(), s.n);
    });
    const char *left = s.transpose_a == Op::none ? "A " : "A^T ",
               *right = s.transpose_b == Op::none ? "B" : "B^T";
    add(size_text(s) + " " + left + right + " " + scalar, ours, eigen);
  }

  /// A [m,k] times the transpose of B [n,k] in eight bits.
  void quantized(index_t m, index_t n, index_t k) {
    const auto a = numbers<float>(m * k), b = numbers<float>(n * k);
    auto c = numbers<float>(m * n);
    std::vector<std::int8_t> values(b.size());
    std::vector<float> scales(static_cast<std::size_t>(n)), row_scales(static_cast<std::size_t>(m));
    std::vector<std::int32_t> totals(static_cast<std::size_t>(n));
    std::vector<std::uint8_t> rows(a.size());
    const auto w =
        quantize_matrix("B", n, k, b.data(), values.data(), scales.data(), totals.data());
    const double ours = time_of(seconds_, [&] {
      quantized_gemm(1, m, 1.0f, a.data(), k, w, 0.0f, c.data(), n, rows.data(), row_scales.data());
    });
    const double eigen = time_of(seconds_, [&] {
      detail::eigen_gemm(Op::none, Op::transpose, m, n, k, 1.0f, a.data(), k, b.data(), k, 0.0f,
                         c.data(), n);
    });
    add(size_text({Op::none, Op::transpose, m, n, k}) + " A B^T int8", ours, eigen);
  }

  void print() const { std::printf("[%s]\n", rows_.c_str()); }

 private:
  void add(const std::string& name, double ours, double eigen) {
    char line[200];
    std::snprintf(line, sizeof(line),
                  "%s{\"product\": \"%s\", \"seconds\": %.3e, \"eigen_seconds\": %.3e}",
                  rows_.empty() ? "" : ", ", name.c_str(), ours, eigen);
    rows_ += line;
  }

  double seconds_;
  std::string rows_;
};

}  // namespace

int main(int argc, char** argv) {
  double milliseconds = 5;
  CLI::App app("Time products on one core beside Eigen's");
  app.add_option("--milliseconds", milliseconds, "For each product");
  CLI11_PARSE(app, argc, argv);
  Eigen::setNbThreads(1);
  Report report(milliseconds / 1e3);
  constexpr Op no = Op::none, yes = Op::transpose;
  for (const index_t m : {1, 2, 4, 8, 12, 16, 32, 64}) {
    report.product<float, float>("float", {no, no, m, 64, 64});
    report.product<float, float>("float", {no, yes, m, 64, 64});
    report.product<float, float>("float", {yes, no, m, 64, 64});
  }
  for (const index_t m : {1, 8, 64}) {
    report.product<double, double>("double", {no, no, m, 64, 64});
    report.product<double, double>("double", {no, yes, m, 64, 64});
    report.product<float, Eigen::bfloat16>("bfloat16", {no, yes, m, 64, 64});
    report.product<float, Eigen::half>("half", {no, yes, m, 64, 64});
  }
  report.product<float, float>("float", {yes, no, 64, 64, 8});  // K^T V of a segment of 8 keys
  report.product<float, float>("float", {no, yes, 1, 8, 64});   // scores of one query in it
  report.product<float, float>("float", {no, yes, 8, 8, 64});
  report.product<float, float>("float", {no, no, 8, 64, 8});
  report.product<float, float>("float", {no, yes, 128, 1024, 64});  // scores of full attention
  for (const index_t m : {1, 4, 32}) report.quantized(m, 512, 512);
  report.print();
}
