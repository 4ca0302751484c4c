// SPDX-License-Identifier: Apache-2.0
#include <srformer/attention/global_tokens.hpp>

#include "attention/variant_case.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

AttentionCase global_case(index_t B, index_t H, index_t M, index_t N, index_t L, index_t D) {
  AttentionCase c{.B = B, .H = H, .M = M, .N = N, .D = D};
  c.options.variant = Variant::global_tokens;
  c.options.segment_size = L;
  return c;
}

}  // namespace

TEST_CASE("gradients of attention with global tokens over shapes") {
  const index_t sizes[] = {3, 8, 1};
  index_t turn = 0;
  for (const index_t M : {1, 5, 16}) {
    for (const index_t N : {2, 13, 32}) {
      for (const index_t L : {1, 4, 8, 64}) {
        ++turn;
        check_variant(global_case(1 + turn % 2, 1 + turn % 3, M, N, L, sizes[turn / 2 % 3]),
                      {.coordinates = 4, .directions = 2});
      }
    }
  }
  check_variant(global_case(2, 2, 7, 13, 4, 3));  // every element
}

TEST_CASE("what shapes the scores of attention with global tokens") {
  AttentionCase c = global_case(2, 2, 7, 13, 4, 3);
  const auto check = [&] { check_variant(c, {.coordinates = 30, .directions = 3}); };
  SECTION("a short horizon") {
    c.options.horizon = 3;
    check();
  }
  SECTION("a long horizon") {
    c.options.horizon = 30;
    check();
  }
  SECTION("masked lengths") {
    c.lengths = {13, 6};
    check();
  }
  SECTION("upstream padding and lengths") {
    c.options.padding = Padding::upstream, c.lengths = {13, 6};
    check();
  }
  SECTION("biases") {
    c.relative = c.dense = true;
    check();
  }
  SECTION("dropout") {
    c.dropout = {0.3, {5, 6}};
    check();
  }
}

TEST_CASE("attention with global tokens to one key is its value") {
  AttentionCase c = global_case(2, 2, 3, 1, 4, 3);
  const AttentionValues x = draw_values(c, 0);
  Values repeated;
  for (index_t lane = 0; lane < c.B * c.H; ++lane) {
    for (index_t i = 0; i < c.M; ++i) {
      repeated.insert(repeated.end(), x.v.begin() + lane * c.D, x.v.begin() + (lane + 1) * c.D);
    }
  }
  CHECK(relative_error(variant_output(c, x), repeated) < 1e-15);
  // With upstream padding the mean is over four keys of which three are zero, and those are seen.
  c.options.padding = Padding::upstream;
  CHECK(relative_error(variant_output(c, x), repeated) > 0.01);
}

TEST_CASE("every query sees the other segments by their means alone") {
  // Segments of 4, 4, 4 and 1 keys; two queries each for the first three.
  AttentionCase c = global_case(1, 1, 7, 13, 4, 3);
  const SegmentRule rule{c.N, 4, c.M};
  const AttentionValues x = draw_values(c, 0);
  const Values out = variant_output(c, x);
  const auto row_changes = [&](const AttentionValues& other, index_t i) {
    const Values moved = variant_output(c, other);
    double most = 0;
    for (index_t e = i * c.D; e < (i + 1) * c.D; ++e) {
      most = std::max(most, std::abs(moved[e] - out[e]));
    }
    return most;
  };
  // A key that moves alone is felt by every query; two that move in opposite ways by their segment's queries.
  const index_t first = 4, second = 6;
  for (Values AttentionValues::*which : {&AttentionValues::k, &AttentionValues::v}) {
    AttentionValues one = x, opposite = x;
    for (index_t e = 0; e < c.D; ++e) {
      (one.*which)[first * c.D + e] += 0.5;
      (opposite.*which)[first * c.D + e] += 0.5, (opposite.*which)[second * c.D + e] -= 0.5;
    }
    for (index_t i = 0; i < c.M; ++i) {
      INFO("query " << i << " of segment " << rule.of(i));
      CHECK(row_changes(one, i) > 1e-4);
      if (rule.of(i) == 1) {
        CHECK(row_changes(opposite, i) > 1e-4);
      } else {
        CHECK(row_changes(opposite, i) < 1e-14);
      }
    }
  }
}

TEST_CASE("the bias of a global token is that of its segment's first key") {
  AttentionCase c = global_case(1, 1, 4, 8, 2, 3);
  c.dense = true;
  AttentionValues x = draw_values(c, 0);
  const SegmentRule rule{c.N, 2, c.M};
  REQUIRE(rule.of(0) == 0);
  const Values out = variant_output(c, x);
  const auto first_query_changes = [&](index_t key) {
    AttentionValues other = x;
    other.dense[key] += 1;
    const Values moved = variant_output(c, other);
    return !std::equal(out.begin(), out.begin() + c.D, moved.begin());
  };
  for (index_t t = 0; t < c.N; ++t) {
    INFO("key " << t);
    CHECK(first_query_changes(t) == (t < 2 || t % 2 == 0));
  }
}

TEST_CASE("a source in a masked batch with global tokens is what it is alone") {
  AttentionCase c = global_case(4, 2, 7, 13, 4, 3);
  c.options.horizon = GENERATE(6, 30);
  c.lengths = {13, 6, 3, 12};
  check_sources_alone(c);
}

TEST_CASE("wrong gradients of attention with global tokens are refused") {
  AttentionCase c = global_case(1, 2, 7, 13, 4, 3);
  const auto report_of = [&](auto backward) {
    return check_variant_gradients(
        c, {.coordinates = 100},
        [&](View<const double, 4> q, auto k, auto v, auto d_out, auto d_q, auto d_k, auto d_v) {
          EigenBackend be(1);
          backward(be, q, k, v, d_out, d_q, d_k, d_v);
        });
  };
  const SegmentedOptions options = c.options.segments();
  CHECK(report_of([&](auto& be, auto q, auto k, auto v, auto d_out, auto d_q, auto d_k, auto d_v) {
          global_tokens_backward<EigenBackend, double>(be, {q, k, v}, options,
                                                       {d_out, d_q, d_k, d_v});
        }).ok());
  SECTION("without the means") {
    CHECK_FALSE(
        report_of([&](auto& be, auto q, auto k, auto v, auto d_out, auto d_q, auto d_k, auto d_v) {
          segmented_attention_backward<EigenBackend, double>(be, {q, k, v}, options,
                                                             {d_out, d_q, d_k, d_v});
        }).ok());
  }
  SECTION("with the last mean taken over a whole segment") {
    SegmentedOptions upstream = options;
    upstream.padding = Padding::upstream;
    CHECK_FALSE(
        report_of([&](auto& be, auto q, auto k, auto v, auto d_out, auto d_q, auto d_k, auto d_v) {
          global_tokens_backward<EigenBackend, double>(be, {q, k, v}, upstream,
                                                       {d_out, d_q, d_k, d_v});
        }).ok());
  }
}

TEST_CASE("errors of attention with global tokens") {
  EigenBackend be(1);
  const auto q = zeros<double, 4>(be, {1, 2, 3, 4}), k = zeros<double, 4>(be, {1, 2, 5, 4});
  auto out = zeros<double, 4>(be, {1, 2, 3, 4}), d_k = zeros<double, 4>(be, {1, 2, 5, 4});
  const auto forward = [&](SegmentedOptions options, double dropout = 0) {
    AttentionInputs<EigenBackend, double> in{q, k, k};
    in.context.dropout.rate = dropout;
    global_tokens_forward(be, in, options, out.view());
  };
  CHECK_NOTHROW(forward({.segment_size = 2}));
  CHECK_THROWS_WITH(forward({.segment_size = 0}),
                    ContainsSubstring("global_tokens_forward: segment size must be at least 1"));
  CHECK_THROWS_WITH(forward({.segment_size = 2, .horizon = -1}),
                    ContainsSubstring("horizon must be"));
  CHECK_THROWS_WITH(forward({.segment_size = 2}, 1.0),
                    ContainsSubstring("dropout rate must be in [0,1)"));
  const AttentionInputs<EigenBackend, double> in{q, k, k};
  const AttentionGradients<EigenBackend, double> wrong{k, out.view(), d_k.view(), d_k.view()};
  CHECK_THROWS_WITH(global_tokens_backward(be, in, {}, wrong),
                    ContainsSubstring("global_tokens_backward: d_out is [1,2,5,4], expected"));
}
