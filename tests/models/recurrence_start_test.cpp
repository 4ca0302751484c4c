// SPDX-License-Identifier: Apache-2.0
// The sizes of the two parts of segmented recurrent attention, and the start that is fitted to them.
#include <srformer/models/recurrence_start.hpp>
#include <srformer/models/t5.hpp>

#include "support/catch.hpp"
#include "tiny_t5.hpp"

using namespace srformer;
using Catch::Matchers::WithinRel;

namespace {

/// q, k and v at random: of deviation 1 about a mean that keys and values have in common, q of that of T5's.
struct DrawnSource {
  EigenBackend be{1};
  index_t B, H, M, N, D;
  std::vector<double> q, k, v, weight;
  double leak = 0.5, threshold = 0.1;

  DrawnSource(index_t keys, index_t head_size, double mean)
      : B(2),
        H(2),
        M(24),
        N(keys),
        D(head_size),
        q(drawn(1, M, 1 / std::sqrt(static_cast<double>(D)), 0)),
        k(drawn(2, N, 1, mean)),
        v(drawn(3, N, 1, mean)) {
    for (index_t i = 0; i < D * D; ++i)
      weight.push_back((2 * uniform({4, 4}, static_cast<std::uint64_t>(i)) - 1) /
                       std::sqrt(static_cast<double>(D)));
  }

  AttentionInputs<EigenBackend, double> inputs() const {
    return {{q.data(), {B, H, M, D}}, {k.data(), {B, H, N, D}}, {v.data(), {B, H, N, D}}};
  }
  RecurrentParameters<const double> parameters() const {
    return {weight.data(), &leak, &threshold};
  }
  PartSizes sizes(const SegmentedRecurrentOptions& options,
                  std::span<const std::int32_t> labels = {}) {
    return part_sizes(be, inputs(), parameters(), options, labels);
  }
  std::optional<double> fit(const SegmentedRecurrentOptions& options, double share) {
    return fitted_recurrence(be, inputs(), parameters(), options, share);
  }

 private:
  std::vector<double> drawn(std::uint64_t stream, index_t rows, double deviation,
                            double mean) const {
    std::vector<double> x(static_cast<std::size_t>(B * H * rows * D));
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = deviation * normal({9, stream}, i) +
             mean * std::cos(static_cast<double>(i % std::size_t(D)));
    return x;
  }
};

}  // namespace

TEST_CASE("the start that is fitted has the share that was asked for at any length") {
  for (const index_t N : {64, 200, 1024, 8192})
    for (const index_t D : {16, 64})
      for (const index_t L : {16, 48})
        for (const double mean : {0.0, 0.5}) {
          if (N > 2000 && D > 16) continue;  // which takes a second each
          INFO("N " << N << " D " << D << " L " << L << " mean " << mean);
          DrawnSource source(N, D, mean);
          const SegmentedRecurrentOptions options{.segment_size = L};
          const auto factor = source.fit(options, 0.1);
          REQUIRE(factor);
          for (double& w : source.weight) w *= *factor;
          const PartSizes sizes = source.sizes(options);
          CHECK_THAT(sizes.largest_share(), WithinRel(0.1, 0.01));
          // Heads share W, and none is far below the largest.
          CHECK((sizes.share(0) > 0.03 && sizes.share(1) > 0.03));
        }
}

TEST_CASE("with one factor the share grows with the source where keys have something in common") {
  const SegmentedRecurrentOptions options{.segment_size = 16};
  const auto share = [&](index_t N, double mean) {
    DrawnSource source(N, 16, mean);
    for (double& w : source.weight) w *= 0.1;
    return source.sizes(options).largest_share();
  };
  CHECK(share(4096, 1) > 3 * share(64, 1));
  CHECK(share(4096, 0) < 2 * share(64, 0));
}

TEST_CASE("with averages one factor has about the same share at any length") {
  SegmentedRecurrentOptions options{.segment_size = 16};
  const auto share = [&](index_t N, double factor) {
    DrawnSource source(N, 16, 0.5);
    for (double& w : source.weight) w *= factor;
    return source.sizes(options).largest_share();
  };
  const auto fitted = [&] { return DrawnSource(128, 16, 0.5).fit(options, 0.1).value_or(0); };
  const double of_sums = fitted();
  CHECK_THAT(share(128, of_sums), WithinRel(0.1, 0.01));
  CHECK(share(4096, of_sums) > 1);
  options.average_products = true;
  const double of_averages = fitted();
  CHECK_THAT(share(128, of_averages), WithinRel(0.1, 0.01));
  for (const index_t N : {512, 1024, 4096}) {
    CHECK(share(N, of_averages) > 0.04);
    CHECK(share(N, of_averages) < 0.11);
  }
}

TEST_CASE("the parts are those that the output is the sum of") {
  DrawnSource source(100, 8, 0.2);
  SegmentedRecurrentOptions options{.segment_size = 16};
  std::vector<double> all(source.q.size()), rest(source.q.size());
  const auto run = [&](std::vector<double>& out) {
    segmented_recurrent_forward(
        source.be, source.inputs(), source.parameters(), options,
        View<double, 4>(out.data(), {source.B, source.H, source.M, source.D}));
  };
  run(all);
  options.local = false;
  run(rest);
  options.local = true;
  // The second half of the targets of the second source does not count.
  std::vector<std::int32_t> labels(static_cast<std::size_t>(source.B * source.M), 5);
  std::fill(labels.begin() + source.M + source.M / 2, labels.end(), -100);
  const PartSizes sizes = source.sizes(options, labels);
  for (index_t h = 0; h < source.H; ++h) {
    double a = 0, c = 0, count = 0;
    for (index_t b = 0; b < source.B; ++b)
      for (index_t i = 0; i < source.M; ++i)
        for (index_t d = 0; d < source.D; ++d) {
          if (labels[static_cast<std::size_t>(b * source.M + i)] < 0) continue;
          const auto at =
              static_cast<std::size_t>(((b * source.H + h) * source.M + i) * source.D + d);
          a += (all[at] - rest[at]) * (all[at] - rest[at]), c += rest[at] * rest[at], ++count;
        }
    CHECK_THAT(sizes.local[static_cast<std::size_t>(h)], WithinRel(std::sqrt(a / count), 1e-12));
    CHECK_THAT(sizes.rest[static_cast<std::size_t>(h)], WithinRel(std::sqrt(c / count), 1e-12));
  }
}

TEST_CASE("where no factor has the share there is none") {
  DrawnSource one_segment(16, 8, 0.1);
  CHECK_FALSE(one_segment.fit({.segment_size = 16}, 0.1));
  CHECK(one_segment.sizes({.segment_size = 16}).largest_share() == 0);
  DrawnSource source(64, 8, 0.1);
  CHECK_FALSE(source.fit({.segment_size = 16, .binary_firing = true}, 100));
  CHECK_THROWS_AS(source.fit({.segment_size = 16}, 0), shape_error);
  CHECK_THROWS_AS(source.fit({.segment_size = 16, .recurrence = false}, 0.1), shape_error);
}

TEST_CASE("every layer of a model is fitted to a batch") {
  EigenBackend be(1);
  T5<EigenBackend, double> model(
      be, testing::tiny_config(testing::cross_options(Variant::segmented_recurrent, 8)));
  model.initialize({1, 2}, 0.1);
  Batch batch{3, 90, 12, {}, {90, 70, 41}, {}};
  for (index_t i = 0; i < 3 * 90; ++i)
    batch.source_ids.push_back(static_cast<std::int32_t>(i * i % 19));
  for (index_t i = 0; i < 3 * 12; ++i)
    batch.labels.push_back(i < 30 ? static_cast<std::int32_t>(i % 17) : Batch::ignored_label);
  for (const double share : {0.03, 0.3}) {
    const std::vector<double> factors = model.fit_recurrence(batch, share);
    const auto sizes = model.recurrence_sizes(batch);
    REQUIRE(factors.size() == 2);
    REQUIRE(sizes.size() == 2);
    for (std::size_t l = 0; l < 2; ++l) {
      CHECK(factors[l] > 0);
      CHECK_THAT(sizes[l].largest_share(), WithinRel(share, 0.01));
    }
  }
  // What a gate that starts at 0 lets through does not count, nor does sigma.
  CrossAttentionOptions gated = testing::cross_options(Variant::segmented_recurrent, 8);
  gated.gate = gated.sigma = true;
  for (const bool averages : {false, true}) {
    gated.average_products = averages;
    T5<EigenBackend, double> with_gate(be, testing::tiny_config(gated));
    with_gate.initialize({1, 2}, 0.1);
    CHECK(with_gate.fit_recurrence(batch, 0.2).size() == 2);
    for (const PartSizes& sizes : with_gate.recurrence_sizes(batch))
      CHECK_THAT(sizes.largest_share(), WithinRel(0.2, 0.01));
  }
  // Sources of one segment have no others, and W stays.
  const Batch one_segment{3, 5, 12, std::vector<std::int32_t>(15, 3), {5, 4, 3}, batch.labels};
  const auto values = [&] {
    const auto all = model.parameters().values();
    return std::vector<double>(all.data, all.data + all.size());
  };
  const std::vector<double> before = values();
  CHECK(model.fit_recurrence(one_segment, 0.1) == std::vector<double>{0, 0});
  CHECK(values() == before);
  T5<EigenBackend, double> full(be, testing::tiny_config());
  CHECK(full.fit_recurrence(batch, 0.1).empty());
  CHECK(full.recurrence_sizes(batch).empty());
}
