// SPDX-License-Identifier: Apache-2.0
#include <srformer/attention/full.hpp>

#include "support/attention_case.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

AttentionCase full_case(index_t B, index_t H, index_t M, index_t N, index_t D) {
  return {.B = B, .H = H, .M = M, .N = N, .D = D};
}

}  // namespace

TEST_CASE("full attention over shapes") {
  index_t turn = 0;
  for (const index_t M : {1, 5, 7, 16, 33}) {
    for (const index_t N : {1, 13, 32, 61, 64}) {
      for (const index_t D : {1, 3, 8}) {
        ++turn;
        check_attention_case(full_case(1 + turn % 2, 1 + turn % 3, M, N, D), false,
                             {.coordinates = 4, .directions = 2});
      }
    }
  }
}

TEST_CASE("every element of the gradients of a small full attention") {
  check_attention_case(full_case(2, 2, 5, 7, 3), false);
}

TEST_CASE("full attention in more than one block of queries") {
  REQUIRE(detail::query_block(5) < 300);
  check_attention_case(full_case(1, 2, 300, 5, 2), false, {.coordinates = 4, .directions = 2});
  REQUIRE(detail::query_block(5000) == 16);
  check_attention_case(full_case(1, 1, 35, 5000, 1), false, {.coordinates = 4, .directions = 2});
}

TEMPLATE_TEST_CASE("heads that share rows of memory, as a projection writes them", "", float,
                   double, Eigen::half) {
  using T = TestType;
  constexpr index_t B = 2, H = 3, D = 5, gap = 7, stride = H * D + gap;
  const index_t M = GENERATE(6, 133, 300), N = 13;  // queries in one block and in several
  const std::vector<index_t> lengths{N, 8};
  EigenBackend be(2);
  const auto drawn = [](index_t count, std::uint64_t stream) {  // as T holds them
    auto x = draw(count, {1, stream});
    for (double& number : x) number = static_cast<double>(T(number));
    return x;
  };
  const auto queries = drawn(B * H * M * D, 1), keys = drawn(B * H * N * D, 2),
             values = drawn(B * H * N * D, 3), given = drawn(B * H * M * D, 4),
             before = drawn(B * H * N * D, 5);
  // The numbers of x [B,H,length,D] as [B,length,H,D] with a gap behind every row, which holds -3.
  const auto spread = [&](const Values& x, index_t length) {
    std::vector<T> y(static_cast<std::size_t>(B * length * stride), T(-3));
    for (index_t i = 0; i < B * H * length * D; ++i) {
      const index_t c = i % D, t = i / D % length, h = i / D / length % H, b = i / D / length / H;
      y[(b * length + t) * stride + h * D + c] = T(x[i]);
    }
    return y;
  };
  const auto run = [&]<class U>(auto at, std::vector<U>& q, auto& k, auto& v, auto& d_out,
                                auto& out, auto& d_q, auto& d_k, auto& d_v) {
    AttendContext<compute_t<U>, host_space> context;
    context.mask.lengths = lengths.data();
    const AttentionInputs<EigenBackend, U> in{at(q, M), at(k, N), at(v, N), context};
    full_attention_forward(be, in, at(out, M));
    full_attention_backward(be, in, {at(d_out, M), at(d_q, M), at(d_k, N), at(d_v, N)});
  };
  // Head by head in double, and as they share rows in T.
  auto q = queries, k = keys, v = values, d_out = given, out = Values(queries.size()), d_q = given,
       d_k = before, d_v = values;
  run(
      [](Values& x, index_t length) {
        return View<double, 4>(x.data(), {B, H, length, D});
      },
      q, k, v, d_out, out, d_q, d_k, d_v);
  auto far_q = spread(queries, M), far_k = spread(keys, N), far_v = spread(values, N),
       far_d_out = spread(given, M), far_out = spread(queries, M), far_d_q = spread(given, M),
       far_d_k = spread(before, N), far_d_v = spread(values, N);
  run(
      [&](std::vector<T>& x, index_t length) {
        return View<T, 4>(x.data(), {B, H, length, D}, {length * stride, D, stride, 1});
      },
      far_q, far_k, far_v, far_d_out, far_out, far_d_q, far_d_k, far_d_v);

  const double bound = sizeof(T) == 2 ? 2e-3 : sizeof(T) == 4 ? 2e-6 : 1e-14;
  const auto agree = [&](const char* name, const Values& near, const std::vector<T>& far,
                         index_t length) {
    INFO(name);
    Values found(near.size());
    std::size_t kept = 0;
    for (index_t i = 0; i < static_cast<index_t>(far.size()); ++i) {
      const index_t row = i / stride, c = i % stride, b = row / length, t = row % length;
      if (c >= H * D) {
        kept += far[i] == T(-3);
      } else {
        found[((b * H + c / D) * length + t) * D + c % D] = static_cast<double>(far[i]);
      }
    }
    CHECK(relative_error(found, near) < bound);
    CHECK(kept == static_cast<std::size_t>(B * length * gap));
  };
  agree("out", out, far_out, M);
  agree("d_q", d_q, far_d_q, M);
  agree("d_k", d_k, far_d_k, N);
  agree("d_v", d_v, far_d_v, N);
}

TEST_CASE("what shapes the scores of full attention") {
  AttentionCase c = full_case(2, 2, 7, 13, 3);
  const auto check = [&] { check_attention_case(c, false); };
  SECTION("lengths") {
    c.lengths = {13, 4};
    check();
  }
  SECTION("lengths of one") {
    c.lengths = {1, 13};
    check();
  }
  SECTION("lengths beyond the keys") {
    c.lengths = {99, 13};
    check();
  }
  SECTION("causal") {
    c.causal = true;
    check();
  }
  SECTION("causal with an offset") {
    c.causal = true, c.query_offset = 3;
    check();
  }
  SECTION("causal with lengths") {
    c.causal = true, c.query_offset = 6, c.lengths = {13, 8};
    check();
  }
  SECTION("relative bias") {
    c.relative = true;
    check();
  }
  SECTION("dense bias") {
    c.dense = true;
    check();
  }
  SECTION("dropout") {
    c.dropout = {0.4, {3, 9}};
    check();
  }
  SECTION("everything at once") {
    c.causal = c.relative = c.dense = true;
    c.query_offset = 2;
    c.lengths = {9, 4};
    c.dropout = {0.2, {1, 1}};
    check();
  }
}

TEST_CASE("the gradient of a bias by distance") {
  const bool causal = GENERATE(false, true);
  const double rate = causal ? 0.25 : 0.0;
  constexpr index_t B = 2, H = 3, M = 6, N = 9, D = 3;
  EigenBackend be(1);
  const std::vector<index_t> lengths{N, 5};
  const auto context = [&]<class T>(View<const T, 2> relative) {
    AttendContext<T, host_space> shaped;
    shaped.mask.lengths = lengths.data();
    shaped.mask.relative = relative;
    shaped.mask.relative_zero = M - 1;
    shaped.mask.causal = causal;
    shaped.mask.query_offset = 3;
    shaped.dropout = {rate, {4, 4}};
    return shaped;
  };
  const auto backward = [&](auto q, auto k, auto v, auto relative, auto d_out, auto d_q, auto d_k,
                            auto d_v, auto d_relative) {
    full_attention_backward<EigenBackend, double>(be, {q, k, v, context(relative)},
                                                  {d_out, d_q, d_k, d_v}, d_relative.data);
  };
  const auto check = [&](auto forward) {
    const GradReport report = grad_check(
        {B, H, M, D}, forward, backward, GradInput("q", {B, H, M, D}), GradInput("k", {B, H, N, D}),
        GradInput("v", {B, H, N, D}), GradInput("relative", {H, M + N - 1}));
    INFO(report.text());
    CHECK(report.ok());
  };
  check([&]<class T>(View<const T, 4> q, auto k, auto v, auto relative, auto out) {
    full_attention_forward<EigenBackend, T>(be, {q, k, v, context(relative)}, out);
  });
  check([&]<class T>(View<const T, 4> q, auto k, auto v, auto relative, auto out) {
    plain::Inputs<T> in{q, k, v};
    in.lengths = lengths, in.causal = causal, in.query_offset = 3;
    in.relative = relative, in.dropout = {rate, {4, 4}};
    plain::attention(in, out);
  });
}

TEST_CASE("a dense bias may be broadcast by strides of zero") {
  constexpr index_t B = 2, H = 2, M = 3, N = 4, D = 2;
  EigenBackend be(1);
  const Values q = draw(B * H * M * D, {1, 1}), k = draw(B * H * N * D, {1, 2}),
               v = draw(B * H * N * D, {1, 3});
  const Values bias = draw(N, {1, 4});
  Values repeated;
  for (index_t i = 0; i < B * H * M; ++i) repeated.insert(repeated.end(), bias.begin(), bias.end());
  const auto run = [&](View<const double, 4> dense) {
    AttentionInputs<EigenBackend, double> in{
        {q.data(), {B, H, M, D}}, {k.data(), {B, H, N, D}}, {v.data(), {B, H, N, D}}};
    in.context.mask.dense = dense;
    Values out(q.size());
    full_attention_forward(be, in, View<double, 4>(out.data(), {B, H, M, D}));
    return out;
  };
  const Values broadcast = run({bias.data(), {B, H, M, N}, {0, 0, 0, 1}});
  CHECK(broadcast == run({repeated.data(), {B, H, M, N}}));
  CHECK(relative_error(broadcast, run({})) > 0.01);
}

TEST_CASE("large scores do not overflow, and equal ones give a mean") {
  EigenBackend be(1);
  const Values q{100, 100}, k{900, 0, 899, 0, -900, 0}, v{1, 2, 3, 4, 5, 6};
  Values out(2);
  const AttentionInputs<EigenBackend, double> in{
      {q.data(), {1, 1, 1, 2}}, {k.data(), {1, 1, 3, 2}}, {v.data(), {1, 1, 3, 2}}};
  full_attention_forward(be, in, View<double, 4>(out.data(), {1, 1, 1, 2}));
  CHECK(out == Values{1, 2});
}

TEST_CASE("errors of full attention") {
  EigenBackend be(1);
  const auto q = zeros<double, 4>(be, {1, 2, 3, 4}), k = zeros<double, 4>(be, {1, 2, 5, 4});
  const auto other = zeros<double, 4>(be, {1, 2, 5, 3}), none = zeros<double, 4>(be, {1, 2, 0, 4});
  auto out = zeros<double, 4>(be, {1, 2, 3, 4}), wide = zeros<double, 4>(be, {1, 2, 3, 8});
  using Inputs = AttentionInputs<EigenBackend, double>;
  Inputs in{q, k, k};
  const auto refused = [&](const char* sentence, const Inputs& inputs, View<double, 4> to) {
    CHECK_THROWS_WITH(full_attention_forward(be, inputs, to), ContainsSubstring(sentence));
  };
  refused("full_attention_forward: k is [1,2,5,3], expected [B,H,N,D] = [1,2,5,4]",
          Inputs{q, other, k}, out.view());
  refused("v is [1,2,3,4], expected [B,H,N,D] = [1,2,5,4]", Inputs{q, k, q}, out.view());
  refused("out is [1,2,3,8], expected [B,H,M,D] = [1,2,3,4]", in, wide.view());
  refused("none may be empty", Inputs{q, none, none}, out.view());
  View<double, 4> gaps(wide.data(), {1, 2, 3, 4}, {48, 24, 8, 2});
  refused("the last axis of q, k, v and out must be contiguous", in, gaps);
  const AttentionGradients<EigenBackend, double> wrong{q, out.view(), out.view(), out.view()};
  CHECK_THROWS_WITH(
      full_attention_backward(be, in, wrong),
      ContainsSubstring(
          "full_attention_backward: d_k is [1,2,3,4], expected [B,H,N,D] = [1,2,5,4]"));
  in.context.dropout.rate = 1;
  refused("dropout rate must be in [0,1)", in, out.view());
}
