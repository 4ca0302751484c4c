// SPDX-License-Identifier: Apache-2.0
// Every attention on random shapes and options, forward and backward: all host backends agree to rounding with one
// thread of the Eigen backend.
#include <srformer/core/random.hpp>

#include "support/backends.hpp"
#include "support/catch.hpp"
#include "support/paper_options.hpp"

using namespace srformer;

namespace {

constexpr std::uint64_t shape_draws = 200;

/// One shape with its options, drawn by its number.
struct DrawnShape {
  std::uint64_t number;
  index_t B, H, M, N, D;
  CrossAttentionOptions options;
  std::vector<index_t> lengths;  ///< empty: no padding

  explicit DrawnShape(std::uint64_t n) : number(n) {
    std::uint64_t uses = 0;
    const auto below = [&](index_t bound) {
      const RandomStream random{2611, 4};
      return static_cast<index_t>(
          random_below(random.substream(n), ++uses, static_cast<std::uint64_t>(bound)));
    };
    const auto coin = [&] { return below(2) == 0; };
    const index_t sizes[] = {1, 2, 3, 4, 5, 8, 17};
    B = 1 + below(3), H = 1 + below(3), M = 1 + below(coin() ? 3 : 24), N = 1 + below(20);
    D = sizes[below(7)];
    options.variant = coin() ? Variant::segmented_recurrent : all_variants[n % 6];
    options.segment_size = 1 + below(8);
    options.horizon = coin() ? 0 : 1 + below(2 * M);
    options.padding = coin() ? Padding::masked : Padding::upstream;
    for (index_t b = coin() ? B : 0; b > 0; --b) lengths.push_back(1 + below(N));
    // One ablation at most, as in the paper.
    const index_t ablation = below(8);
    options.normalize = ablation != 0, options.recurrence = ablation != 1;
    options.local = ablation != 2;
    options.product = ablation == 3 ? Product::segment : Product::complement;
    options.advance = below(4) == 0 ? Advance::token : Advance::segment;
    options.clamp = below(4) == 0 ? 0.7 : 0;
    options.sigma = coin(), options.gate = coin();
    options.binary_firing = below(6) == 0;
  }

  index_t segments() const { return (N + options.segment_size - 1) / options.segment_size; }

  std::string text() const {
    const CrossAttentionOptions& o = options;
    std::string all = "draw " + std::to_string(number) + ": " + variant_name(o.variant);
    const auto add = [&](const char* name, auto value) {
      all += std::string(", ") + name + " " + std::to_string(value);
    };
    add("B", B), add("H", H), add("M", M), add("N", N), add("D", D);
    add("segment_size", o.segment_size), add("horizon", o.horizon), add("clamp", o.clamp);
    add("normalize", o.normalize), add("recurrence", o.recurrence), add("local", o.local);
    add("sigma", o.sigma), add("gate", o.gate);
    all += o.padding == Padding::masked ? ", masked" : ", upstream";
    all += o.product == Product::segment ? ", product of the segment" : "";
    all += o.advance == Advance::token ? ", a step per token" : "";
    all += o.binary_firing ? ", binary firing" : "";
    return all + ", lengths " + shape_text(lengths);
  }
};

struct Result {
  const char* name;
  std::vector<double> values;
};

/// out and every gradient of a draw, on a backend; gradients start from what is not zero.
template <class B>
std::vector<Result> run(B& be, const DrawnShape& d) {
  const CrossAttentionOptions& o = d.options;
  const index_t F = o.has_memory() ? d.H * d.D : 1;
  std::uint64_t made = 0;
  const auto random = [&](const std::array<index_t, 4>& shape, double scale = 1,
                          double center = 0) {
    std::vector<double> values(static_cast<std::size_t>(View<double, 4>(nullptr, shape).size()));
    const RandomStream stream = RandomStream{d.number, 1}.substream(++made);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = center + scale * normal(stream, i);
    return from_host<double, 4>(be, shape, values);
  };
  const std::array<index_t, 4> queries{d.B, d.H, d.M, d.D}, keys{d.B, d.H, d.N, d.D};
  const double small = 1 / std::sqrt(double(d.D));
  const auto q = random(queries, small), k = random(keys), v = random(keys);
  const auto d_out = random(queries), weight = random({1, 1, d.D, d.D}, small);
  const auto leak = random({1, 1, 1, 1}, 0, 0.6), threshold = random({1, 1, 1, 1}, 0, 0.4);
  const auto sigma = random({1, 1, 1, 1}, 0, 0.3), gate = random({1, 1, 1, d.H}, 0.5, 1);
  const auto matrix = random({1, 1, F, F}, small), bias = random({1, 1, 1, F});
  const RnnParameters<const double> rnn{matrix.data(), matrix.data(), bias.data(), bias.data()};
  const CrossAttentionParameters<const double> parameters(
      RecurrentParameters<const double>{weight.data(), leak.data(), threshold.data(),
                                        o.sigma ? sigma.data() : nullptr,
                                        o.gate ? gate.data() : nullptr},
      rnn, rnn);
  auto out = random(queries), d_q = random(queries), d_k = random(keys), d_v = random(keys);
  auto d_weight = random({1, 1, d.D, d.D}), d_scalars = random({1, 1, 1, 3});
  auto d_gate = random({1, 1, 1, d.H}), d_key = random({1, 1, 2 * F + 2, F});
  auto d_value = random({1, 1, 2 * F + 2, F});
  const auto d_rnn = [=](double* p) {
    return RnnParameters<double>{p, p + F * F, p + 2 * F * F, p + 2 * F * F + F};
  };
  double* scalars = d_scalars.data();
  const CrossAttentionParameters<double> d_parameters(
      RecurrentParameters<double>{d_weight.data(), scalars, scalars + 1,
                                  o.sigma ? scalars + 2 : nullptr,
                                  o.gate ? d_gate.data() : nullptr},
      d_rnn(d_key.data()), d_rnn(d_value.data()));

  const auto lengths =
      from_host<index_t, 1>(be, {static_cast<index_t>(d.lengths.size())}, d.lengths);
  AttendContext<double, typename B::space> context;
  context.mask.lengths = d.lengths.empty() ? nullptr : lengths.data();
  cross_attention_forward(be, q, k, v, parameters, context, o, out.view());
  cross_attention_backward(be, q, k, v, parameters, context, o, d_out, d_q.view(), d_k.view(),
                           d_v.view(), d_parameters);
  return {{"out", to_host(be, out)},
          {"d_q", to_host(be, d_q)},
          {"d_k", to_host(be, d_k)},
          {"d_v", to_host(be, d_v)},
          {"d_weight", to_host(be, d_weight)},
          {"d_leak, d_threshold, d_sigma", to_host(be, d_scalars)},
          {"d_gate", to_host(be, d_gate)},
          {"the gradient of the keys' RNN", to_host(be, d_key)},
          {"the gradient of the values' RNN", to_host(be, d_value)}};
}

/// The largest difference over the largest value, where there is one; NaN counts as wrong.
double difference(const std::vector<double>& got, const std::vector<double>& expected) {
  if (got.size() != expected.size() || got.empty()) return HUGE_VAL;
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double off = std::abs(got[i] - expected[i]);
    if (!(off <= worst)) worst = off;
    largest = std::max(largest, std::abs(expected[i]));
  }
  return largest > 0 ? worst / largest : worst;
}

}  // namespace

using Backends = decltype(std::tuple_cat(
    std::declval<tests::HostBackends>(),
    std::declval<std::tuple<tests::BatchedBackend, tests::CrampedBackend>>()));

TEMPLATE_LIST_TEST_CASE("all attention agrees on random shapes", "", Backends) {
  // Teams of four threads meet at many barriers; they and products over all heads add in another order.
  constexpr bool teams = std::is_same_v<TestType, ThreadTeamBackend>;
  constexpr bool in_order = !teams && !HasBatchedGemm<TestType>;
  TestType be = tests::make_backend<TestType>(2);
  EigenBackend eigen(1);
  for (std::uint64_t n = 0; n < (teams ? 12 : shape_draws); ++n) {
    const DrawnShape draw(n);
    INFO(draw.text());
    const std::vector<Result> got = run(be, draw), expected = run(eigen, draw);
    REQUIRE(got.size() == 9);
    for (std::size_t i = 0; i < got.size(); ++i) {
      INFO(got[i].name);
      REQUIRE(difference(got[i].values, expected[i].values) <= (in_order ? 1e-13 : 1e-11));
    }
  }
}

TEST_CASE("the random shapes are of every kind") {
  const auto count = [](auto has) {
    index_t number = 0;
    for (std::uint64_t n = 0; n < shape_draws; ++n) number += has(DrawnShape(n));
    return number;
  };
  for (const Variant variant : all_variants) {
    CHECK(count([=](const DrawnShape& d) { return d.options.variant == variant; }) >= 10);
  }
  const auto recurrent = [&](auto has) {
    return count([=](const DrawnShape& d) {
      return d.options.variant == Variant::segmented_recurrent && has(d);
    });
  };
  CHECK(recurrent([](const DrawnShape& d) { return d.M < d.segments(); }) >= 10);
  CHECK(recurrent([](const DrawnShape& d) { return d.M > d.N; }) >= 10);
  CHECK(recurrent([](const DrawnShape& d) { return d.M == 1; }) >= 5);
  CHECK(recurrent([](const DrawnShape& d) { return d.N == 1; }) >= 1);
  CHECK(recurrent([](const DrawnShape& d) { return d.D == 1; }) >= 5);
  CHECK(recurrent([](const DrawnShape& d) { return d.segments() == 1; }) >= 5);
  CHECK(recurrent([](const DrawnShape& d) { return !d.lengths.empty(); }) >= 20);
  CHECK(recurrent([](const DrawnShape& d) { return d.options.padding == Padding::upstream; }) >=
        20);
  CHECK(recurrent([](const DrawnShape& d) { return d.options.horizon > d.M; }) >= 10);
  CHECK(recurrent([](const DrawnShape& d) { return d.options.clamp > 0; }) >= 10);
  CHECK(recurrent([](const DrawnShape& d) { return d.options.advance == Advance::token; }) >= 10);
  CHECK(recurrent([](const DrawnShape& d) { return d.options.product == Product::segment; }) >= 5);
  CHECK(recurrent([](const DrawnShape& d) { return !d.options.normalize; }) >= 5);
  CHECK(recurrent([](const DrawnShape& d) { return !d.options.recurrence; }) >= 5);
  CHECK(recurrent([](const DrawnShape& d) { return !d.options.local; }) >= 5);
  CHECK(recurrent([](const DrawnShape& d) { return d.options.sigma && d.options.gate; }) >= 10);
  CHECK(recurrent([](const DrawnShape& d) { return d.options.binary_firing; }) >= 5);
}
