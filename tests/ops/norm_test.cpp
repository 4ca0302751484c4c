// SPDX-License-Identifier: Apache-2.0
#include <srformer/ops/norm.hpp>

#include <srformer/backend/eigen.hpp>
#include <srformer/testing/grad_check.hpp>

#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;
using Values = std::vector<double>;

TEST_CASE("rms norm over shapes, by loops and by dual numbers") {
  EigenBackend be(2);
  const double epsilon = 1e-3;
  for (const index_t R : {1, 2, 32, 33, 70}) {
    for (const index_t E : {1, 7, 16, 45}) {
      const Values x = detail::normal_values(static_cast<std::size_t>(R * E), {1, 1});
      const Values w = detail::normal_values(static_cast<std::size_t>(E), {1, 2});
      Values y(x.size(), NAN), expected(x.size());
      for (index_t r = 0; r < R; ++r) {
        double square = 0;
        for (index_t c = 0; c < E; ++c) square += x[r * E + c] * x[r * E + c];
        for (index_t c = 0; c < E; ++c) {
          expected[r * E + c] = w[c] * x[r * E + c] / std::sqrt(square / double(E) + epsilon);
        }
      }
      INFO("R" << R << " E" << E);
      rms_norm_forward<EigenBackend, double>(be, View<const double, 2>(x.data(), {R, E}),
                                             View<const double, 1>(w.data(), {E}),
                                             View<double, 2>(y.data(), {R, E}), {epsilon});
      CHECK(relative_error(y, expected) < 1e-14);
      const GradReport report = grad_check(
          GradOptions{.coordinates = 100, .directions = 4}, {R, E},
          [&](auto in, auto weight, auto out) { rms_norm_forward(be, in, weight, out, {epsilon}); },
          [&](auto in, auto weight, auto d_y, auto d_x, auto d_w) {
            rms_norm_backward(be, in, weight, d_y, d_x, d_w, {epsilon});
          },
          GradInput("x", {R, E}, x), GradInput("weight", {E}, w));
      INFO(report.text());
      CHECK(report.ok());
    }
  }
}

TEST_CASE("rms norm of a row of zeros is zero") {
  EigenBackend be(1);
  const Values x(3, 0.0), w{1, 2, 3}, d_y{1, 1, 1};
  Values y(3, NAN), d_x(3, 0.0), d_w(3, 0.0);
  rms_norm_forward<EigenBackend, double>(be, View<const double, 2>(x.data(), {1, 3}),
                                         View<const double, 1>(w.data(), {3}),
                                         View<double, 2>(y.data(), {1, 3}), {1e-6});
  CHECK(y == x);
  rms_norm_backward<EigenBackend, double>(
      be, View<const double, 2>(x.data(), {1, 3}), View<const double, 1>(w.data(), {3}),
      View<const double, 2>(d_y.data(), {1, 3}), View<double, 2>(d_x.data(), {1, 3}),
      View<double, 1>(d_w.data(), {3}), {1e-6});
  CHECK(relative_error(d_x, Values{1e3, 2e3, 3e3}) < 1e-12);
  CHECK(d_w == x);
}

TEST_CASE("transformers' statistics are those of float, and the gradient belongs to them") {
  EigenBackend be(1);
  constexpr index_t R = 35, E = 45;
  const RmsNormOptions options{1e-3, true};
  const Values x = detail::normal_values(R * E, {1, 1}), w(E, 1.0);
  Values y(x.size()), exact(x.size());
  const View<const double, 2> in(x.data(), {R, E});
  const View<const double, 1> weight(w.data(), {E});
  rms_norm_forward<EigenBackend, double>(be, in, weight, View<double, 2>(y.data(), {R, E}),
                                         options);
  rms_norm_forward<EigenBackend, double>(be, in, weight, View<double, 2>(exact.data(), {R, E}),
                                         {1e-3});
  CHECK(relative_error(y, exact) < 1e-6);
  CHECK(relative_error(y, exact) > 1e-10);
  for (index_t i = 0; i < R * E; ++i) {
    const double scale = y[i] / x[i];  // a float, up to the rounding of the product
    REQUIRE(scale == Approx(double(static_cast<float>(scale))).epsilon(1e-14));
  }
  const GradReport report = grad_check(
      {.tolerance = 1e-5}, {R, E},
      [&](auto a, auto b, auto out) { rms_norm_forward(be, a, b, out, options); },
      [&](auto a, auto b, auto d_y, auto d_x, auto d_w) {
        rms_norm_backward(be, a, b, d_y, d_x, d_w, options);
      },
      GradInput("x", {R, E}, x), GradInput("weight", {E}, w));
  INFO(report.text());
  CHECK(report.ok());
}

TEST_CASE("errors of rms norm") {
  EigenBackend be(1);
  auto x = zeros<double, 2>(be, {4, 3}), y = zeros<double, 2>(be, {4, 2}),
       wide = zeros<double, 2>(be, {4, 6});
  auto w = zeros<double, 1>(be, {3}), other = zeros<double, 1>(be, {2});
  CHECK_THROWS_WITH(rms_norm_forward(be, x.view(), other.view(), x.view(), {1e-6}),
                    ContainsSubstring("rms_norm_forward: weight is [2], expected [E] = [3]"));
  CHECK_THROWS_WITH(rms_norm_forward(be, x.view(), w.view(), y.view(), {1e-6}),
                    ContainsSubstring("y is [4,2], expected [R,E] = [4,3]"));
  CHECK_THROWS_WITH(rms_norm_forward(be, wide.view().slice(1, 0, 3), w.view(), x.view(), {1e-6}),
                    ContainsSubstring("x and y must be contiguous"));
  CHECK_THROWS_WITH(rms_norm_backward(be, x.view(), w.view(), y.view(), x.view(), w.view(), {1e-6}),
                    ContainsSubstring("rms_norm_backward: d_y is [4,2], expected [R,E] = [4,3]"));
  CHECK_THROWS_WITH(
      rms_norm_backward(be, x.view(), w.view(), x.view(), x.view(), other.view(), {1e-6}),
      ContainsSubstring("d_weight is [2], expected [E] = [3]"));
}
