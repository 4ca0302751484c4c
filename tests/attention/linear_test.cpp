// SPDX-License-Identifier: Apache-2.0
#include <srformer/attention/linear.hpp>

#include "attention/variant_case.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

AttentionCase linear_case(index_t B, index_t H, index_t M, index_t N, index_t D) {
  AttentionCase c{.B = B, .H = H, .M = M, .N = N, .D = D};
  c.options.variant = Variant::linear;
  return c;
}

}  // namespace

TEST_CASE("gradients of linear attention over shapes") {
  index_t turn = 0;
  for (const index_t M : {1, 5, 7}) {
    for (const index_t N : {2, 13, 61}) {
      for (const index_t D : {2, 3, 8}) {
        ++turn;
        check_variant(linear_case(1 + turn % 2, 1 + turn % 3, M, N, D),
                      {.coordinates = 4, .directions = 2});
      }
    }
  }
  check_variant(linear_case(2, 2, 5, 7, 3));  // every element
  // With one feature f(q) cancels but for the 1e-6, and so do the digits of dq.
  check_variant(linear_case(2, 2, 5, 7, 1), {.tolerance = 1e-6});
}

TEST_CASE("gradients of linear attention in more than one block of rows") {
  REQUIRE(detail::linear_rows < 65);
  check_variant(linear_case(1, 2, 70, 131, 3), {.coordinates = 4, .directions = 3});
  check_variant(linear_case(1, 1, 64, 65, 2), {.coordinates = 4, .directions = 3});
}

TEST_CASE("linear attention to one key is its value, but for 1e-6 in the denominator") {
  AttentionCase c = linear_case(1, 1, 4, 1, 3);
  const AttentionValues x = draw_values(c, 0);
  const Values out = variant_output(c, x);
  const auto f = [](double y) { return y > 0 ? y + 1 : std::exp(y); };
  for (index_t i = 0; i < c.M; ++i) {
    double y = 0;
    for (index_t e = 0; e < c.D; ++e) y += f(x.q[i * c.D + e]) * f(x.k[e]);
    for (index_t e = 0; e < c.D; ++e) {
      CHECK(out[i * c.D + e] == Approx(x.v[e] * y / (y + 1e-6)).epsilon(1e-14));
      CHECK(out[i * c.D + e] != x.v[e]);
    }
  }
  // The gradients of q and k are what six digits of cancellation leave.
  check_variant(c, {.tolerance = 1e-7});
}

TEST_CASE("the feature map joins at zero and neither vanishes nor overflows far from it") {
  AttentionCase c = linear_case(1, 1, 1, 2, 2);
  AttentionValues x = draw_values(c, 0);
  x.q = {0, 0}, x.k = {700, -700, 0, 0}, x.v = {1, 2, 3, 4};
  // f(q) = (1, 1), f(k) = (701, 0), (1, 1).
  const Values out = variant_output(c, x);
  CHECK(out[0] == Approx((701 * 1 + 2 * 3) / (703 + 1e-6)).epsilon(1e-14));
  CHECK(out[1] == Approx((701 * 2 + 2 * 4) / (703 + 1e-6)).epsilon(1e-14));
}

TEST_CASE("linear attention does not see the order of keys with their values") {
  AttentionCase c = linear_case(2, 3, 5, 67, 4);
  const AttentionValues x = draw_values(c, 0);
  const auto reversed = [&](const Values& rows) {
    Values turned;
    for (index_t lane = 0; lane < c.B * c.H; ++lane) {
      for (index_t t = c.N; t-- > 0;) {
        const auto from = rows.begin() + (lane * c.N + t) * c.D;
        turned.insert(turned.end(), from, from + c.D);
      }
    }
    return turned;
  };
  AttentionValues both = x, values_alone = x;
  both.k = reversed(x.k), both.v = reversed(x.v), values_alone.v = reversed(x.v);
  const Values out = variant_output(c, x);
  CHECK(relative_error(variant_output(c, both), out) < 1e-13);
  CHECK(relative_error(variant_output(c, values_alone), out) > 0.01);
  // The gradients turn with the rows.
  const Values d_out = draw(c.B * c.H * c.M * c.D, {1, 99});
  const auto d = variant_gradients(c, x, d_out), d_both = variant_gradients(c, both, d_out);
  CHECK(relative_error(d_both[0], d[0]) < 1e-12);
  CHECK(relative_error(reversed(d_both[1]), d[1]) < 1e-12);
  CHECK(relative_error(reversed(d_both[2]), d[2]) < 1e-12);
}

TEST_CASE("linear attention takes no bias, and every query sees every key") {
  AttentionCase c = linear_case(1, 1, 4, 6, 3), biased = c;
  biased.dense = biased.relative = biased.causal = true;
  const AttentionValues x = draw_values(c, 0);
  CHECK(variant_output(biased, x) == variant_output(c, x));
  for (const bool of_value : {false, true}) {
    for (const auto& queries : influence(c, of_value, Learned<double>(c))) {
      CHECK(queries == std::vector<bool>(4, true));
    }
  }
}

TEST_CASE("a source in a batch of linear attention is what it is alone") {
  AttentionCase c = linear_case(4, 2, 5, 70, 3);
  c.lengths = {70, 64, 2, 65};
  check_sources_alone(c);
}

TEST_CASE("wrong gradients of linear attention are refused") {
  AttentionCase c = linear_case(1, 2, 5, 7, 3);
  const auto report_of = [&](auto spoil) {
    return check_variant_gradients(
        c, {},
        [&](View<const double, 4> q, auto k, auto v, auto d_out, auto d_q, auto d_k, auto d_v) {
          EigenBackend be(1);
          linear_attention_backward<EigenBackend, double>(be, {q, k, v}, {d_out, d_q, d_k, d_v});
          spoil(q, k, d_q, d_k);
        });
  };
  CHECK(report_of([](auto...) {}).ok());
  SECTION("the slope of elu left out") {
    CHECK_FALSE(report_of([](auto, auto k, auto, auto d_k) {
                  for (index_t i = 0; i < k.size(); ++i) {
                    if (k.data[i] < 0) d_k.data[i] /= std::exp(k.data[i]);
                  }
                }).ok());
  }
  SECTION("one query too few") {
    CHECK_FALSE(report_of([](auto, auto, auto d_q, auto) { d_q(0, 1, 4, 0) = 0; }).ok());
  }
}

TEST_CASE("errors of linear attention") {
  EigenBackend be(1);
  const auto q = zeros<double, 4>(be, {1, 2, 3, 4}), k = zeros<double, 4>(be, {1, 2, 5, 4});
  auto out = zeros<double, 4>(be, {1, 2, 3, 4}), d_k = zeros<double, 4>(be, {1, 2, 5, 4});
  const AttentionInputs<EigenBackend, double> in{q, k, k}, wrong{q, k, q};
  CHECK_THROWS_WITH(
      linear_attention_forward(be, wrong, out.view()),
      ContainsSubstring(
          "linear_attention_forward: v is [1,2,3,4], expected [B,H,N,D] = [1,2,5,4]"));
  CHECK_THROWS_WITH(linear_attention_forward(be, in, d_k.view()),
                    ContainsSubstring("out is [1,2,5,4], expected [B,H,M,D] = [1,2,3,4]"));
  CHECK_THROWS_WITH(
      linear_attention_backward(be, in, {d_k.view(), out.view(), d_k.view(), d_k.view()}),
      ContainsSubstring("linear_attention_backward: d_out is [1,2,5,4], expected"));
}
