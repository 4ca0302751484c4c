// SPDX-License-Identifier: Apache-2.0
// A scalar that offers what docs/custom_scalar.md lists and nothing else, through every cross-attention: forward,
// backward and decoder steps give what double gives.
#include <srformer/attention/cross_attention.hpp>
#include <srformer/backend/eigen.hpp>
#include <srformer/core/random.hpp>
#include <srformer/testing/conformance.hpp>

#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace srformer;

namespace {

/// No +=, no comparison except <, no conversion to anything, and only an explicit one from double.
class Minimal {
 public:
  Minimal() = default;
  explicit Minimal(double x) : x_(x) {}

  friend Minimal operator+(Minimal a, Minimal b) { return Minimal(a.x_ + b.x_); }
  friend Minimal operator-(Minimal a, Minimal b) { return Minimal(a.x_ - b.x_); }
  friend Minimal operator*(Minimal a, Minimal b) { return Minimal(a.x_ * b.x_); }
  friend Minimal operator/(Minimal a, Minimal b) { return Minimal(a.x_ / b.x_); }
  friend Minimal operator-(Minimal a) { return Minimal(-a.x_); }
  friend bool operator<(Minimal a, Minimal b) { return a.x_ < b.x_; }
  friend Minimal exp(Minimal a) { return Minimal(std::exp(a.x_)); }
  friend Minimal log(Minimal a) { return Minimal(std::log(a.x_)); }
  friend Minimal sqrt(Minimal a) { return Minimal(std::sqrt(a.x_)); }
  friend Minimal tanh(Minimal a) { return Minimal(std::tanh(a.x_)); }

  static double look(double x) { return x; }
  static double look(Minimal a) { return a.x_; }

 private:
  double x_ = 0;
};

constexpr index_t minimal_batch = 2, minimal_heads = 2, minimal_queries = 7, minimal_keys = 20,
                  minimal_size = 4;

/// Everything that one variant computes, in T, one number after another.
template <class T>
std::vector<double> everything(const PaperVariants::Options& options) {
  using List = PaperVariants;
  using B = EigenBackend;
  const std::array q_shape{minimal_batch, minimal_heads, minimal_queries, minimal_size};
  const std::array k_shape{minimal_batch, minimal_heads, minimal_keys, minimal_size};
  std::vector<std::vector<T>> x, d;
  const auto add = [&](index_t size, double center, double scale) {
    const RandomStream random = RandomStream{5, 3}.substream(x.size());
    x.emplace_back(), d.emplace_back(static_cast<std::size_t>(size), T(0.0));
    for (std::uint64_t i = 0; i < std::uint64_t(size); ++i)
      x.back().push_back(T(center + scale * normal(random, i)));
  };
  const index_t of_q = View<T, 4>(nullptr, q_shape).size(),
                of_k = View<T, 4>(nullptr, k_shape).size();
  for (const index_t size : {of_q, of_q, of_k, of_k}) add(size, 0, 1);
  List::visit_learned(options, {minimal_heads, minimal_size}, [&](const LearnedInfo& info) {
    const bool scalar = info.role == Role::scalar;
    add(info.rows * std::max<index_t>(info.columns, 1), scalar ? info.initial.value + 0.25 : 0,
        0.25);
  });
  const index_t lengths[] = {minimal_keys, 9};
  AttentionInputs<B, T> in{
      {x[1].data(), q_shape}, {x[2].data(), k_shape}, {x[3].data(), k_shape}, {}};
  in.context.mask.lengths = lengths;
  LearnedPointers<T> learned, d_learned;
  for (std::size_t i = 4; i < x.size(); ++i) learned.add(x[i].data()), d_learned.add(d[i].data());

  B be(1);
  std::vector<double> all;
  const auto keep = [&](const std::vector<T>& values) {
    for (const T& value : values) all.push_back(Minimal::look(value));
  };
  List::Saved<B, T> saved;
  std::vector<T> out(x[0].size());
  const View<T, 4> y(out.data(), q_shape);
  List::forward(be, in, learned, options, saved, y);
  keep(out);
  List::backward(be, in, learned, options, saved,
                 {View<const T, 4>(x[0].data(), q_shape), View<T, 4>(d[1].data(), q_shape),
                  View<T, 4>(d[2].data(), k_shape), View<T, 4>(d[3].data(), k_shape)},
                 d_learned);
  for (const auto& gradient : d) keep(gradient);
  const auto prepared = List::prepare<B, T>(
      be, clone<B, const T, 4>(be, in.k), clone<B, const T, 4>(be, in.v), in.context, learned,
      options, {.steps = minimal_queries, .horizon = minimal_queries});
  for (index_t i = 0; i < minimal_queries; ++i)
    List::step(be, in.q.slice(2, i, 1), in.context, learned, prepared, {.step = i},
               y.slice(2, i, 1));
  keep(out);
  return all;
}

}  // namespace

TEST_CASE("a scalar of what is listed computes every cross-attention as double does") {
  using Options = PaperVariants::Options;
  const Options cases[] = {
      Options::of<Full>(),
      Options::of<Segmented>({.segment_size = 6}),
      Options::of<SegmentedRecurrent>({.segment_size = 6}),
      Options::of<SegmentedRecurrent>({.segment_size = 3, .clamp = 2, .sigma = true, .gate = true}),
      Options::of<TransformerXl>({.segment_size = 6}),
      Options::of<GlobalTokens>({.segment_size = 6}),
      Options::of<Linear>()};
  for (const Options& options : cases) {
    INFO(options.name());
    const std::vector<double> got = everything<Minimal>(options);
    CHECK(testing::relative_error(got, everything<double>(options)) < 1e-12);
  }
}

TEST_CASE("check_scalar looks at a scalar that only compares, and names the functions it has not") {
  const ConformanceReport report = check_scalar<Minimal>();
  INFO(report.text());
  CHECK(report.ok());
  CHECK(report.absent == std::vector<std::string>{"erf"});
  CHECK(report.text() == "storage, arithmetic, order, functions conform; there is no erf\n");
  EigenBackend be(1);
  const ConformanceReport on_backend = check_backend<Minimal>(be);
  INFO(on_backend.text());
  CHECK(on_backend.ok());
}
