// SPDX-License-Identifier: Apache-2.0
// One query at a time, every variant gives what all queries together give.

#include "attention/variant_case.hpp"
#include "support/backends.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

/// The rows of all queries, each from a step of its own; `horizon` 0 takes generation_horizon.
template <class B>
Values steps_on(B& be, const AttentionCase& c, const AttentionValues& x, index_t horizon) {
  const Biases<double> biases(c, x);
  const Learned<double> learned(c);
  const CaseViews in(c, x);
  auto context = biases.context(c);
  const auto prepared = prepare_cross_attention<B, double>(be, in.k, in.v, learned.parameters(),
                                                           context, c.options, horizon, c.M);
  Values out(x.q.size(), std::nan(""));
  const View<double, 4> rows(out.data(), in.q.extents);
  for (index_t i = 0; i < c.M; ++i) {
    cross_attention_step<B, double>(be, in.q.slice(2, i, 1), learned.parameters(), context,
                                    c.options, i, prepared, rows.slice(2, i, 1));
  }
  return out;
}
/// The same on a processor, and where products go in batches, whose steps have to agree.
Values step_by_step(const AttentionCase& c, const AttentionValues& x, index_t horizon) {
  EigenBackend be(1);
  tests::BatchedBackend batched(1);
  tests::CrampedBackend cramped(1);
  const Values out = steps_on(be, c, x, horizon);
  CHECK(relative_error(steps_on(batched, c, x, horizon), out) < 1e-12);
  CHECK(relative_error(steps_on(cramped, c, x, horizon), out) < 1e-12);
  return out;
}

/// Every variant, and segmented recurrent attention with its options.
std::vector<CrossAttentionOptions> all_options() {
  std::vector<CrossAttentionOptions> all;
  for (const Variant variant : all_variants) {
    CrossAttentionOptions options;
    options.variant = variant;
    all.push_back(options);
  }
  CrossAttentionOptions recurrent;
  recurrent.variant = Variant::segmented_recurrent;
  for (int i = 0; i < 13; ++i) all.push_back(recurrent);
  CrossAttentionOptions* option = &all[std::size(all_variants)];
  option[0].gate = option[0].sigma = true;
  option[1].advance = Advance::token;
  option[2].clamp = 1.5;
  option[3].recurrence = false;
  option[4].local = false, option[4].product = Product::segment;
  option[5].normalize = false;
  option[6].binary_firing = true;
  option[7].average_products = option[7].gate = option[7].sigma = true;
  option[8].average_products = true, option[8].recurrence = option[8].normalize = false;
  option[9].average_products = true, option[9].advance = Advance::token, option[9].clamp = 1.5;
  option[10].soft_keys = 2, option[10].gate = option[10].sigma = true;
  option[11].soft_keys = 2, option[11].recurrence = option[11].local = false;
  option[12].soft_keys = 2, option[12].advance = Advance::token, option[12].clamp = 0.2;
  return all;
}

}  // namespace

TEST_CASE("a step at a time every variant gives what its queries give together") {
  const index_t L = GENERATE(2, 4), horizon = GENERATE(0, 3, 9, 20);
  const Padding padding = GENERATE(Padding::masked, Padding::upstream);
  std::size_t number = 0;
  for (const CrossAttentionOptions& options : all_options()) {
    AttentionCase c{.B = 2, .H = 2, .M = 9, .N = 13, .D = 3, .options = options};
    c.options.segment_size = L, c.options.padding = padding, c.options.horizon = horizon;
    c.lengths = {13, 6};
    INFO("options " << number++ << ", " << c.text());
    const AttentionValues x = draw_values(c, 0);
    const Values together = variant_output(c, x);
    if (horizon == 0) {
      // As the paper trains: the horizon is the number of queries.
      CHECK(relative_error(step_by_step(c, x, c.M), together) < 1e-12);
    } else {
      c.options.generation_horizon = horizon;
      c.options.horizon = 1;  // of training alone
      CHECK(relative_error(step_by_step(c, x, 0), together) < 1e-12);
    }
  }
}

TEST_CASE("a source without keys gives zeros and has no gradient, together and a step at a time") {
  for (const CrossAttentionOptions& options : all_options()) {
    AttentionCase c{.B = 2, .H = 2, .M = 5, .N = 7, .D = 3, .options = options};
    c.options.segment_size = 2, c.lengths = {0, 7};
    INFO(c.text());
    const AttentionValues x = draw_values(c, 0);
    const index_t half = c.H * c.M * c.D, keys = c.H * c.N * c.D;
    const auto zeros_at = [](const Values& all, index_t count) {
      REQUIRE(std::ssize(all) == 2 * count);
      return std::all_of(all.begin(), all.begin() + count, [](double v) { return v == 0; }) &&
             std::any_of(all.begin() + count, all.end(), [](double v) { return v != 0; });
    };
    const Values together = variant_output(c, x), steps = step_by_step(c, x, c.M);
    CHECK(zeros_at(together, half));
    CHECK(zeros_at(steps, half));
    const auto d = variant_gradients(c, x, Values(x.q.size(), 1.0));
    CHECK(zeros_at(d[0], half));
    CHECK(zeros_at(d[1], keys));
    CHECK(zeros_at(d[2], keys));
  }
}

TEST_CASE("another horizon than the one of training gives other steps where segments count") {
  for (const CrossAttentionOptions& options : all_options()) {
    AttentionCase c{.B = 1, .H = 1, .M = 9, .N = 13, .D = 3, .options = options};
    c.options.segment_size = 4;
    INFO(c.text());
    const AttentionValues x = draw_values(c, 0);
    const double error = relative_error(step_by_step(c, x, 40), variant_output(c, x));
    if (options.variant == Variant::full || options.variant == Variant::linear) {
      CHECK(error < 1e-12);
    } else {
      CHECK(error > 0.01);
    }
  }
}

TEMPLATE_TEST_CASE("the queries of a group are at one step, and are given what each is given alone",
                   "", EigenBackend, tests::BatchedBackend, tests::CrampedBackend,
                   ThreadTeamBackend) {
  const Padding padding = GENERATE(Padding::masked, Padding::upstream);
  const std::vector<std::int32_t> sources{1, 0, 1, 2};
  constexpr index_t K = 3;
  TestType be = tests::make_backend<TestType>(1);
  for (const CrossAttentionOptions& options : all_options()) {
    AttentionCase c{.B = 3, .H = 2, .M = 9, .N = 13, .D = 3, .options = options};
    c.options.segment_size = 4, c.options.padding = padding, c.options.generation_horizon = 9;
    c.lengths = {13, 6, 9};
    INFO(c.text());
    const AttentionValues x = draw_values(c, 0);
    const Biases<double> biases(c, x);
    const Learned<double> learned(c);
    const CaseViews in(c, x);
    auto context = biases.context(c);
    const auto prepared = prepare_cross_attention<TestType, double>(
        be, in.k, in.v, learned.parameters(), context, c.options, 0, c.M);
    const auto groups = static_cast<index_t>(sources.size());
    const Values q = draw(groups * c.H * K * c.D, {77, 1});
    const View<const double, 4> queries(q.data(), {groups, c.H, K, c.D});
    for (const index_t step : {0, 4, 8}) {
      Values together(q.size(), std::nan("")), apart(q.size(), std::nan(""));
      const View<double, 4> out(together.data(), queries.extents);
      const View<double, 4> expected(apart.data(), queries.extents);
      cross_attention_step<TestType, double>(be, queries, learned.parameters(), context, c.options,
                                             step, prepared, out, sources.data());
      for (index_t g = 0; g < groups; ++g) {
        for (index_t r = 0; r < K; ++r) {
          cross_attention_step<TestType, double>(
              be, queries.slice(0, g, 1).slice(2, r, 1), learned.parameters(), context, c.options,
              step, prepared, expected.slice(0, g, 1).slice(2, r, 1), &sources[g]);
        }
      }
      CHECK(relative_error(together, apart) < 1e-12);
    }
  }
}

TEMPLATE_TEST_CASE("self-attention goes back to the rows that a row comes from", "", EigenBackend,
                   ThreadTeamBackend, tests::CrampedTeams) {
  // Three steps of up to four rows: every row's sequence of places is written out.
  TestType be = tests::make_backend<TestType>(1);
  constexpr index_t H = 2, D = 3, most = 4, inner = H * D;
  using Ids = std::vector<std::int32_t>;
  DecodeRows<TestType> rows(be, 2, most, 3);
  const Values values = draw(3 * most * 3 * inner, {5, 1});
  const View<const double, 3> qkv(values.data(), {3, most, 3 * inner});
  const std::vector<std::vector<index_t>> paths[] = {
      {{0}, {1}}, {{0, 0}, {0, 1}, {1, 2}, {1, 3}}, {{1, 3, 0}, {1, 2, 1}, {0, 1, 2}, {0, 1, 3}}};
  const Values bias = draw(H * 5, {5, 2});
  for (index_t step = 0; step < 3; ++step) {
    if (step == 0) rows.go_on(be, step, {});
    if (step == 1) rows.go_on(be, step, {Ids{0, 0, 1, 1}, Ids{0, 1}});
    if (step == 2) rows.go_on(be, step, {Ids{3, 2, 1, 1}, Ids{1, 0}});
    const auto& path = paths[step];
    REQUIRE(rows.rows() == std::ssize(path));
    ScoreMask<double, host_space> mask;
    mask.relative = View<const double, 2>(bias.data(), {H, 5});
    mask.relative_zero = 2 - step;
    Values out(path.size() * inner, std::nan("")), expected(path.size() * inner, 0);
    self_attention_step<TestType, double>(be, qkv, rows, step, H, mask,
                                          View<double, 2>(out.data(), {std::ssize(path), inner}));
    for (std::size_t r = 0; r < path.size(); ++r) {
      for (index_t h = 0; h < H; ++h) {
        Values weights;
        double total = 0;
        for (index_t s = 0; s <= step; ++s) {
          double score = bias[h * 5 + 2 - step + s];
          for (index_t c = 0; c < D; ++c)
            score += qkv(step, static_cast<index_t>(r), h * D + c) *
                     qkv(s, path[r][s], inner + h * D + c);
          weights.push_back(std::exp(score)), total += weights.back();
        }
        for (index_t s = 0; s <= step; ++s) {
          for (index_t c = 0; c < D; ++c)
            expected[r * inner + h * D + c] +=
                weights[s] / total * qkv(s, path[r][s], 2 * inner + h * D + c);
        }
      }
    }
    CHECK(relative_error(out, expected) < 1e-12);
  }
}

TEST_CASE("a step refuses groups without sources, and shapes that do not go together") {
  AttentionCase c{.B = 2, .H = 1, .M = 2, .N = 5, .D = 3};
  const AttentionValues x = draw_values(c, 0);
  const CaseViews in(c, x);
  EigenBackend be(1);
  auto out = zeros<double, 4>(be, {1, 1, 2, 3});
  const auto prepared =
      prepare_cross_attention<EigenBackend, double>(be, in.k, in.v, {}, {}, c.options, 0, 1);
  const auto step = [&](const auto& q, const auto& to) {
    cross_attention_step<EigenBackend, double>(be, q, {}, {}, c.options, 0, prepared, to);
  };
  CHECK_THROWS_WITH(step(in.q.slice(0, 0, 1), out.view()),
                    ContainsSubstring("1 groups for 2 sources"));
  CHECK_THROWS_WITH(step(in.q, out.view()), ContainsSubstring("out is [1,1,2,3]"));
}
