// SPDX-License-Identifier: Apache-2.0
// How many states of the recurrence fire: the count of the plain statement, on every backend, and of one source at a time.
#include <srformer/attention/cross_attention.hpp>

#include "support/attention_case.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

template <class B>
FiringCount firing_of(const AttentionCase& c, const AttentionValues& x, B& be) {
  const Biases<double> biases(c, x);
  AttentionInputs<B, double> in{{nullptr, {c.B, c.H, c.M, c.D}},
                                {x.k.data(), {c.B, c.H, c.N, c.D}},
                                {x.v.data(), {c.B, c.H, c.N, c.D}},
                                biases.context(c)};
  const RecurrentParameters<const double> learned{
      x.weight.data(), x.leak.data(), x.threshold.data(),
      c.options.sigma ? x.sigma.data() : nullptr, c.options.gate ? x.gate.data() : nullptr};
  return SegmentedRecurrent::count_firing<B, double>(be, in, learned, c.options.recurrent());
}

/// Shapes that nothing divides, more segments than queries, and every option that changes what fires.
std::vector<AttentionCase> firing_cases() {
  std::vector<AttentionCase> cases;
  const auto add = [&](AttentionCase c, auto change) { change(c), cases.push_back(c); };
  for (const index_t L : {2, 4, 13, 64})
    for (const index_t M : {1, 5, 16}) add(recurrent_case(2, 3, M, 29, L, 5), [](auto&) {});
  const AttentionCase c = recurrent_case(3, 2, 9, 30, 4, 3),
                      folded = recurrent_case(3, 2, 9, 30, 4, 7);
  for (const AttentionCase& base : {c, folded}) {
    add(base, [](auto& a) { a.lengths = {30, 1, 17}; });
    add(base, [](auto& a) { a.lengths = {30, 1, 17}, a.options.padding = Padding::upstream; });
    add(base, [](auto& a) { a.options.horizon = 3; });
    add(base, [](auto& a) { a.options.horizon = 3, a.lengths = {30, 1, 17}; });
    add(base, [](auto& a) { a.options.horizon = 40; });
    add(base, [](auto& a) { a.options.advance = Advance::token; });
    add(base, [](auto& a) { a.options.gate = a.options.sigma = true, a.dead_feature = 1; });
    add(base, [](auto& a) { a.options.clamp = 1.5; });
    add(base, [](auto& a) { a.options.product = Product::segment; });
    add(base, [](auto& a) { a.options.local = false; });
    add(base, [](auto& a) { a.threshold = -0.2; });
    add(base, [](auto& a) { a.leak = 0.95, a.dense = true; });
  }
  return cases;
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("the states that fire are those of the plain statement", "",
                        tests::HostBackends) {
  TestType be = tests::make_backend<TestType>(2);
  for (const AttentionCase& c : firing_cases()) {
    INFO(c.text());
    plain::Trace trace;
    const AttentionValues x = sample(c, trace, false);
    const FiringCount got = firing_of(c, x, be);
    CHECK(got.states == trace.states);
    CHECK(got.fired == trace.fired_states);
    CHECK(got.share() == double(trace.fired_states) / double(trace.states));
  }
}

TEST_CASE("the states that fire, in products over all heads") {
  tests::BatchedBackend be(2);
  index_t fired = 0;
  for (const AttentionCase& c : firing_cases()) {
    INFO(c.text());
    plain::Trace trace;
    const AttentionValues x = sample(c, trace, false);
    const FiringCount got = firing_of(c, x, be);
    CHECK((got.states == trace.states && got.fired == trace.fired_states));
    fired += got.fired;
  }
  CHECK(fired > 1000);
}

TEST_CASE("binary firing counts the same states, whatever scales the output") {
  AttentionCase c = recurrent_case(2, 2, 9, 30, 4, 5);
  plain::Trace trace;
  AttentionValues x = sample(c, trace);
  EigenBackend be(2);
  c.options.binary_firing = c.options.gate = true;
  x.gate = {0, 0};
  CHECK(firing_of(c, x, be).fired == trace.fired_states);
}

TEST_CASE("of averages as many states fire as the plain statement has") {
  AttentionCase c = recurrent_case(2, 2, 9, 30, 4, 5);
  c.options.average_products = true, c.threshold = 0.05, c.lengths = {30, 17};
  plain::Trace trace;
  const AttentionValues x = sample(c, trace);
  EigenBackend be(2);
  CHECK(firing_of(c, x, be).fired == trace.fired_states);
  CHECK(trace.fired_states > 100);
}

TEST_CASE("of soft keys as many states fire as the plain statement has") {
  AttentionCase c = recurrent_case(2, 2, 9, 30, 4, 5);
  c.options.soft_keys = 3, c.threshold = 0.05, c.lengths = {30, 17};
  plain::Trace trace;
  const AttentionValues x = sample(c, trace);
  EigenBackend be(2);
  CHECK(firing_of(c, x, be).fired == trace.fired_states);
  CHECK(trace.fired_states > 100);
}

TEST_CASE("many sources are counted some at a time") {
  // A state of 600 x 600 numbers in double, three of them: 8.6 MB a source, so 7 sources at a time.
  AttentionCase c = recurrent_case(9, 1, 3, 6, 2, 600);
  c.margin = 0, c.lengths = {6, 5, 4, 3, 2, 1, 6, 6, 3};
  const AttentionValues x = draw_values(c, 0);
  EigenBackend be(2);
  const FiringCount all = firing_of(c, x, be);
  FiringCount sum;
  for (index_t b = 0; b < c.B; ++b) {
    AttentionCase one = c;
    one.B = 1, one.lengths = {c.lengths[b]};
    AttentionValues of_one = x;
    const auto size = static_cast<std::ptrdiff_t>(c.N * c.D);
    of_one.k.assign(x.k.begin() + b * size, x.k.begin() + (b + 1) * size);
    of_one.v.assign(x.v.begin() + b * size, x.v.begin() + (b + 1) * size);
    const FiringCount count = firing_of(one, of_one, be);
    sum.fired += count.fired, sum.states += count.states;
  }
  CHECK((all.fired == sum.fired && all.states == sum.states && all.fired > 0));
}

TEST_CASE("what has no recurrence has no states that fire") {
  AttentionCase c = recurrent_case(1, 1, 3, 9, 4, 2);
  const AttentionValues x = draw_values(c, 0);
  EigenBackend be(1);
  c.options.recurrence = false;
  CHECK_THROWS_WITH(firing_of(c, x, be), ContainsSubstring("the options have no recurrence"));
  using List = PaperVariants;
  CHECK(!List::fires<EigenBackend, double>(c.options.chosen()));
  for (const Variant variant : all_variants) {
    CrossAttentionOptions options;
    options.variant = variant;
    CHECK(List::fires<EigenBackend, double>(options.chosen()) ==
          (variant == Variant::segmented_recurrent));
  }
  CHECK(FiringCount{}.share() == 0);
}
