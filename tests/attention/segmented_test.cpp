// SPDX-License-Identifier: Apache-2.0
#include <srformer/attention/segmented.hpp>

#include "support/attention_case.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

AttentionCase segmented_case(index_t B, index_t H, index_t M, index_t N, index_t L, index_t D) {
  AttentionCase c{.B = B, .H = H, .M = M, .N = N, .D = D};
  c.options.variant = Variant::segmented;
  c.options.segment_size = L;
  return c;
}

}  // namespace

TEST_CASE("segmented attention over shapes") {
  const index_t sizes[] = {3, 8, 1};
  index_t turn = 0;
  for (const index_t M : {1, 5, 7, 16, 33}) {
    for (const index_t N : {1, 13, 32, 61, 64}) {
      for (const index_t L : {1, 4, 8, 64}) {
        ++turn;
        check_attention_case(
            segmented_case(1 + turn % 2, 1 + turn % 3, M, N, L, sizes[turn / 2 % 3]), false,
            {.coordinates = 4, .directions = 2});
      }
    }
  }
}

TEST_CASE("what shapes the scores of segmented attention") {
  AttentionCase c = segmented_case(2, 2, 7, 13, 4, 3);
  const auto check = [&] { check_attention_case(c, false); };
  SECTION("alone") { check(); }
  SECTION("a short horizon") {
    c.options.horizon = 3;
    check();
  }
  SECTION("a long horizon") {
    c.options.horizon = 30;
    check();
  }
  SECTION("lengths") {
    c.lengths = {13, 6};
    check();
  }
  SECTION("upstream padding") {
    c.options.padding = Padding::upstream;
    check();
  }
  SECTION("upstream padding, lengths and biases") {
    c.options.padding = Padding::upstream, c.lengths = {13, 6}, c.dense = c.relative = true;
    check();
  }
  SECTION("queries that start at a later step") {
    c.query_offset = 3, c.options.horizon = 9;
    check();
  }
  SECTION("causal, from a later step on") {
    c.causal = true, c.query_offset = 6, c.options.horizon = 20;
    check();
  }
  SECTION("biases") {
    c.relative = c.dense = true;
    check();
  }
  SECTION("dropout") {
    c.dropout = {0.4, {3, 9}};
    check();
  }
}

TEST_CASE("one segment over all keys is full attention") {
  AttentionCase c = segmented_case(2, 2, 7, 13, 64, 3);
  c.relative = true;
  c.dropout = {0.3, {1, 2}};
  const AttentionValues x = draw_values(c, 0);
  AttentionCase full = c;
  full.options.variant = Variant::full;
  CHECK(relative_error(library_output<double>(c, x), library_output<double>(full, x)) < 1e-14);
}

TEST_CASE("errors of segmented attention") {
  EigenBackend be(1);
  const auto q = zeros<double, 4>(be, {1, 2, 3, 4}), k = zeros<double, 4>(be, {1, 2, 5, 4});
  auto out = zeros<double, 4>(be, {1, 2, 3, 4}), d_k = zeros<double, 4>(be, {1, 2, 5, 4});
  const auto forward = [&](SegmentedOptions options, Dropout dropout = {}) {
    AttentionInputs<EigenBackend, double> in{q, k, k};
    in.context.dropout = dropout;
    segmented_attention_forward(be, in, options, out.view());
  };
  CHECK_NOTHROW(forward({.segment_size = 1}));
  CHECK_THROWS_WITH(
      forward({.segment_size = 0}),
      ContainsSubstring("segmented_attention_forward: segment size must be at least 1"));
  CHECK_THROWS_WITH(forward({.segment_size = -3}),
                    ContainsSubstring("segment size must be at least 1"));
  CHECK_THROWS_WITH(forward({.segment_size = 2, .horizon = -1}),
                    ContainsSubstring("horizon must be"));
  CHECK_THROWS_WITH(forward({.segment_size = 2}, {1.0, {}}),
                    ContainsSubstring("dropout rate must be in [0,1)"));
  const AttentionInputs<EigenBackend, double> in{q, k, k};
  const AttentionGradients<EigenBackend, double> wrong{q, out.view(), d_k.view(), out.view()};
  CHECK_THROWS_WITH(
      segmented_attention_backward(be, in, {}, wrong),
      ContainsSubstring(
          "segmented_attention_backward: d_v is [1,2,3,4], expected [B,H,N,D] = [1,2,5,4]"));
}
