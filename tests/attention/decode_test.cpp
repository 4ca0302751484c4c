// SPDX-License-Identifier: Apache-2.0
// One query at a time, every variant gives what all queries together give.
#include <srformer/attention/decode.hpp>

#include "attention/variant_case.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

/// The rows of all queries, each from a step of its own; `horizon` 0 takes generation_horizon.
Values step_by_step(const AttentionCase& c, const AttentionValues& x, index_t horizon) {
  EigenBackend be(1);
  const Biases<double> biases(c, x);
  const Learned<double> learned(c);
  const CaseViews in(c, x);
  auto context = biases.context(c);
  const auto prepared = prepare_cross_attention<EigenBackend, double>(
      be, in.k, in.v, learned.parameters(), context, c.options, horizon, c.M);
  Values out(x.q.size(), std::nan(""));
  const View<double, 4> rows(out.data(), in.q.extents);
  for (index_t i = 0; i < c.M; ++i) {
    cross_attention_step<EigenBackend, double>(be, in.q.slice(2, i, 1), in.k, in.v,
                                               learned.parameters(), context, c.options, horizon, i,
                                               prepared, rows.slice(2, i, 1));
  }
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
  for (int i = 0; i < 7; ++i) all.push_back(recurrent);
  CrossAttentionOptions* option = &all[std::size(all_variants)];
  option[0].gate = option[0].sigma = true;
  option[1].advance = Advance::token;
  option[2].clamp = 1.5;
  option[3].recurrence = false;
  option[4].local = false, option[4].product = Product::segment;
  option[5].normalize = false;
  option[6].binary_firing = true;
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

TEST_CASE("a step refuses more than one query") {
  AttentionCase c{.B = 1, .H = 1, .M = 2, .N = 5, .D = 3};
  const AttentionValues x = draw_values(c, 0);
  const CaseViews in(c, x);
  EigenBackend be(1);
  auto out = zeros<double, 4>(be, {1, 1, 2, 3});
  CHECK_THROWS_WITH((cross_attention_step<EigenBackend, double>(be, in.q, in.k, in.v, {}, {},
                                                                c.options, 0, 0, {}, out.view())),
                    ContainsSubstring("q holds more than one query per source"));
}
