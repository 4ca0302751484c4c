// SPDX-License-Identifier: Apache-2.0
#include <srformer/ops/softmax.hpp>

#include <srformer/backend/eigen.hpp>
#include <srformer/testing/grad_check.hpp>

#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;
using Values = std::vector<double>;

TEST_CASE("softmax over shapes, by loops and by dual numbers") {
  EigenBackend be(2);
  for (const index_t R : {1, 5, 40}) {
    for (const index_t C : {1, 2, 16, 17, 100}) {
      const Values x = detail::normal_values(static_cast<std::size_t>(R * C), {1, 1});
      Values y(x.size(), NAN), expected(x.size());
      for (index_t r = 0; r < R; ++r) {
        double total = 0;
        for (index_t c = 0; c < C; ++c) total += std::exp(x[r * C + c]);
        for (index_t c = 0; c < C; ++c) expected[r * C + c] = std::exp(x[r * C + c]) / total;
      }
      INFO("R" << R << " C" << C);
      softmax_forward<EigenBackend, double>(be, View<const double, 2>(x.data(), {R, C}),
                                            View<double, 2>(y.data(), {R, C}));
      CHECK(relative_error(y, expected) < 1e-14);
      const GradInput input("x", {R, C}, x);
      const GradReport report = grad_check(
          GradOptions{.coordinates = 100, .directions = 4}, {R, C},
          [&](auto in, auto out) { softmax_forward(be, in, out); },
          [&](auto, auto d_y, auto d_x) {
            softmax_backward(be, View<const double, 2>(y.data(), {R, C}), d_y, d_x);
          },
          C == 1 ? input.expect_zero() : input);
      INFO(report.text());
      CHECK(report.ok());
    }
  }
}

TEST_CASE("softmax of large scores, in float too, and in place") {
  EigenBackend be(1);
  std::vector<float> x{1e4f, 1e4f, -1e4f, -1e30f};
  const View<float, 2> view(x.data(), {1, 4});
  softmax_forward<EigenBackend, float>(be, view, view);
  CHECK(x == std::vector<float>{0.5f, 0.5f, 0, 0});
}

TEST_CASE("a row with further scores of zero, and one of nothing") {
  Values scores{1, 2, -1};
  const double total = std::exp(1.0) + std::exp(2.0) + std::exp(-1.0) + 4;
  CHECK(softmax_row(SerialTeam{}, 3, scores.data(), 4) == Approx(std::log(total)).epsilon(1e-15));
  CHECK(relative_error(scores, Values{std::exp(1.0) / total, std::exp(2.0) / total,
                                      std::exp(-1.0) / total}) < 1e-15);
  Values low{-800, -801};
  CHECK(softmax_row(SerialTeam{}, 2, low.data(), 1) == Approx(0).margin(1e-15));
  CHECK(low == Values{0, 0});
  CHECK(softmax_row(SerialTeam{}, 0, static_cast<double*>(nullptr), 0) == 0);
  CHECK(softmax_row(SerialTeam{}, 0, static_cast<double*>(nullptr), 3) == Approx(std::log(3.0)));
}

TEST_CASE("errors of softmax") {
  EigenBackend be(1);
  auto x = zeros<double, 2>(be, {4, 3}), y = zeros<double, 2>(be, {4, 2}),
       wide = zeros<double, 2>(be, {4, 6});
  CHECK_THROWS_WITH(softmax_forward(be, x.view(), y.view()),
                    ContainsSubstring("softmax_forward: y is [4,2], expected [R,C] = [4,3]"));
  CHECK_THROWS_WITH(softmax_forward(be, wide.view().slice(1, 0, 3), x.view()),
                    ContainsSubstring("x and y must be contiguous"));
  CHECK_THROWS_WITH(softmax_backward(be, x.view(), x.view(), y.view()),
                    ContainsSubstring("softmax_backward: d_x is [4,2], expected [R,C] = [4,3]"));
}
