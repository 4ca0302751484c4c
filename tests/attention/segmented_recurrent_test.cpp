// SPDX-License-Identifier: Apache-2.0
#include <srformer/attention/segmented_recurrent.hpp>

#include "support/attention_case.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

/// Whether more than one segment is visited, so that some cell can fire at a later step.
bool can_fire(const AttentionCase& c) {
  const index_t S = (c.N + c.options.segment_size - 1) / c.options.segment_size;
  const index_t horizon = c.options.horizon > 0 ? c.options.horizon : c.M;
  return S > 1 && (c.M - 1) * S / horizon >= 1;
}

}  // namespace

TEST_CASE("segmented recurrent attention over shapes") {
  // Every M with every N and every L; B, H and D take turns.
  const index_t heads[] = {1, 2, 3}, sizes[] = {3, 8, 1};
  index_t turn = 0;
  for (const index_t M : {1, 5, 7, 16, 33}) {
    for (const index_t N : {1, 13, 32, 61, 64}) {
      for (const index_t L : {1, 4, 8, 64}) {
        const AttentionCase c =
            recurrent_case(1 + turn % 2, heads[turn % 3], M, N, L, sizes[turn / 2 % 3]);
        ++turn;
        check_attention_case(c, can_fire(c), {.coordinates = 4, .directions = 2});
      }
    }
  }
}

TEST_CASE("every element of the gradients of a small segmented recurrent attention") {
  check_attention_case(recurrent_case(2, 2, 7, 13, 4, 3), true);
  check_attention_case(recurrent_case(1, 1, 5, 9, 2, 4), true);  // folded
}

TEST_CASE("options of segmented recurrent attention") {
  // Folded (L < D) and not, each with a short and a long horizon.
  const index_t L = GENERATE(2, 4), horizon = GENERATE(0, 3, 20);
  const index_t D = L == 2 ? 5 : 3;
  AttentionCase c = recurrent_case(2, 2, 7, 13, L, D);
  enum class Of { sums, averages, soft_keys };
  const Of of = GENERATE(Of::sums, Of::averages, Of::soft_keys);
  c.options.average_products = of == Of::averages;
  c.options.soft_keys = of == Of::soft_keys ? 2 : 0;
  if (of != Of::sums) c.threshold = 0.1;  // the products are about N^1/2 times smaller
  c.options.horizon = horizon;
  const GradOptions grad{.coordinates = 30, .directions = 3};
  bool fires = can_fire(c);
  const auto check = [&] { check_attention_case(c, fires, grad); };
  SECTION("masked lengths") {
    c.lengths = {13, 6};
    check();
  }
  SECTION("masked length of one segment") {
    c.lengths = {13, 1};
    check();
  }
  SECTION("upstream padding") {
    c.options.padding = Padding::upstream;
    check();
  }
  SECTION("upstream padding and lengths") {
    c.options.padding = Padding::upstream;
    c.lengths = {13, 6};
    check();
  }
  SECTION("clamp") {
    c.options.clamp = 2;
    check();
  }
  SECTION("clamp and lengths") {
    c.options.clamp = 2, c.lengths = {13, 6};
    check();
  }
  SECTION("product of the segment") {
    c.options.product = Product::segment;
    check();
  }
  SECTION("product of the segment, clamped") {
    c.options.product = Product::segment, c.options.clamp = 2;
    check();
  }
  SECTION("no normalisation") {
    c.options.normalize = false;
    check();
  }
  SECTION("no recurrence") {
    c.options.recurrence = false;
    check();
  }
  SECTION("no recurrence, clamped product of the segment") {
    c.options.recurrence = false, c.options.product = Product::segment, c.options.clamp = 2;
    check();
  }
  SECTION("no local part") {
    c.options.local = false;
    check();
  }
  SECTION("no local part, gate and a sigma that is not used") {
    c.options.local = false, c.options.gate = true, c.options.sigma = true;
    check();
  }
  SECTION("gate") {
    c.options.gate = true;
    check();
  }
  SECTION("sigma") {
    c.options.sigma = true;
    check();
  }
  SECTION("gate and sigma") {
    c.options.gate = true, c.options.sigma = true;
    check();
  }
  SECTION("a step for every query") {
    c.options.advance = Advance::token;
    check();
  }
  SECTION("a step for every query, gate, sigma and clamp") {
    c.options.advance = Advance::token, c.options.gate = true, c.options.sigma = true;
    c.options.clamp = 2;
    check();
  }
  SECTION("a step for every query without recurrence") {
    c.options.advance = Advance::token, c.options.recurrence = false;
    check();
  }
  SECTION("dropout") {
    c.dropout = {0.3, {5, 6}};
    check();
  }
  SECTION("dropout, sigma and gate") {
    c.dropout = {0.3, {5, 6}}, c.options.gate = true, c.options.sigma = true;
    check();
  }
  SECTION("biases") {
    c.relative = true, c.dense = true;
    check();
  }
  SECTION("a dead key feature") {
    c.dead_feature = 1;
    check();
  }
  SECTION("a negative threshold") {
    c.threshold = -0.4;
    check();
  }
  SECTION("a leak above 1") {
    c.leak = 1.3;
    check();
  }
}

TEST_CASE("clamps are crossed by P and by P_j in the cases above") {
  AttentionCase c = recurrent_case(2, 2, 7, 13, 2, 5);
  const AttentionValues x = draw_values(c, 0);
  AttentionCase clamped = c;
  clamped.options.clamp = 2;
  CHECK(relative_error(plain_output(clamped, x), plain_output(c, x)) > 0.01);
}

TEST_CASE("a few rows of the products at a time") {
  constexpr auto rows = detail::rows_at_a_time;
  const GradOptions grad{.coordinates = 3, .directions = 2};
  SECTION("folded") {
    REQUIRE(rows(300, 300, 48) == 16);
    AttentionCase c = recurrent_case(1, 1, 310, 300, 1, 48);
    c.margin = 1e-8;
    check_attention_case(c, true, grad);
  }
  SECTION("a number of rows that does not divide D, and segments between those seen") {
    REQUIRE(rows(300, 150, 50) == 16);
    AttentionCase c = recurrent_case(1, 1, 150, 300, 1, 50);
    c.margin = 1e-8;
    check_attention_case(c, true, grad);
  }
  SECTION("a horizon that leaves segments out") {
    AttentionCase c = recurrent_case(1, 1, 40, 299, 2, 32);
    c.margin = 1e-8;
    c.options.horizon = 60;
    check_attention_case(c, true, grad);
  }
  SECTION("not folded") {
    REQUIRE(rows(600, 100, 50) == 16);
    AttentionCase c = recurrent_case(1, 1, 100, 600, 6, 50);
    c.options.clamp = 20;
    c.margin = 1e-9;
    check_attention_case(c, true, grad);
  }
  SECTION("without recurrence") {
    AttentionCase c = recurrent_case(1, 1, 100, 600, 6, 50);
    c.options.recurrence = false;
    check_attention_case(c, true, grad);
  }
  SECTION("a step for every query") {
    AttentionCase c = recurrent_case(1, 1, 110, 600, 6, 50);
    c.options.advance = Advance::token;
    c.margin = 1e-9;
    check_attention_case(c, true, grad);
  }
  SECTION("all rows, and segments between those seen") {
    REQUIRE(rows(640, 9, 16) == 16);
    AttentionCase c = recurrent_case(1, 1, 9, 637, 16, 16);
    check_attention_case(c, true, grad);
  }
  SECTION("lengths with all rows and with a few") {
    REQUIRE(rows(128, 128, 32) == 32);
    REQUIRE(rows(450, 400, 32) == 16);
    AttentionCase c = recurrent_case(3, 1, 400, 450, 1, 32);
    c.margin = 1e-8;
    c.lengths = {450, 128, 129};
    check_attention_case(c, true, grad);
  }
}
