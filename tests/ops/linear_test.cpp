// SPDX-License-Identifier: Apache-2.0
#include <srformer/ops/linear.hpp>

#include <srformer/testing/grad_check.hpp>

#include "support/backends.hpp"
#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;
using Values = std::vector<double>;

TEST_CASE("y = x W^T + b, with and without b, by loops and by dual numbers") {
  EigenBackend be(2);
  const bool biased = GENERATE(true, false);
  for (const index_t R : {1, 5, 64, 65, 150}) {
    for (const index_t I : {1, 7, 33}) {
      for (const index_t O : {1, 6, 17}) {
        const auto forward = [&]<class T>(View<const T, 2> x, View<const T, 2> w,
                                          View<const T, 1> b, View<T, 2> y) {
          linear_forward(be, x, w, biased ? std::optional(b) : std::nullopt, y);
        };
        const Values x = detail::normal_values(static_cast<std::size_t>(R * I), {1, 1});
        const Values w = detail::normal_values(static_cast<std::size_t>(O * I), {1, 2});
        const Values b = detail::normal_values(static_cast<std::size_t>(O), {1, 3});
        Values y(static_cast<std::size_t>(R * O), NAN), expected(y.size());
        for (index_t r = 0; r < R; ++r) {
          for (index_t o = 0; o < O; ++o) {
            double sum = biased ? b[o] : 0;
            for (index_t i = 0; i < I; ++i) sum += x[r * I + i] * w[o * I + i];
            expected[r * O + o] = sum;
          }
        }
        INFO("R" << R << " I" << I << " O" << O << " bias " << biased);
        forward(View<const double, 2>(x.data(), {R, I}), View<const double, 2>(w.data(), {O, I}),
                View<const double, 1>(b.data(), {O}), View<double, 2>(y.data(), {R, O}));
        CHECK(relative_error(y, expected) < 1e-13);
        const GradInput bias("bias", {O}, b);
        const GradReport report = grad_check(
            GradOptions{.coordinates = 20, .directions = 3}, {R, O}, forward,
            [&](auto in, auto weight, auto, auto d_y, auto d_x, auto d_w, auto d_b) {
              linear_backward(be, in, weight, d_y, d_x, d_w,
                              biased ? std::optional(d_b) : std::nullopt);
            },
            GradInput("x", {R, I}, x), GradInput("weight", {O, I}, w),
            biased ? bias : bias.expect_zero());
        INFO(report.text());
        CHECK(report.ok());
      }
    }
  }
}

TEST_CASE("rows of linear may be apart, and its output added to") {
  EigenBackend be(1);
  constexpr index_t R = 3, I = 4, O = 2;
  Values wide_x = detail::normal_values(R * 7, {2, 1}),
         wide_w = detail::normal_values(O * 9, {2, 2});
  const Values b{10, 20};
  const View<const double, 2> x(wide_x.data() + 1, {R, I}, {7, 1}),
      w(wide_w.data() + 2, {O, I}, {9, 1});
  Values wide_y(R * 5, 100.0);
  const View<double, 2> y(wide_y.data() + 1, {R, O}, {5, 1});
  linear_forward(be, x, w, View<const double, 1>(b.data(), {O}), y, {.add_to_output = true});
  for (index_t r = 0; r < R; ++r) {
    for (index_t o = 0; o < O; ++o) {
      double sum = 100 + b[o];
      for (index_t i = 0; i < I; ++i) sum += x(r, i) * w(o, i);
      CHECK(y(r, o) == Approx(sum));
    }
    CHECK(wide_y[r * 5] == 100);
    CHECK(wide_y[r * 5 + 3] == 100);
  }
  // Gradients into strided places, without d_x and d_bias where they are not wanted.
  const Values d_y_values = detail::normal_values(R * 5, {2, 3});
  const View<const double, 2> d_y(d_y_values.data() + 1, {R, O}, {5, 1});
  Values wide_d_x(R * 7, 0.0), d_w(O * I, 0.0), d_w_alone(O * I, 0.0), d_b(O, 0.0);
  linear_backward(be, x, w, d_y, View<double, 2>(wide_d_x.data() + 1, {R, I}, {7, 1}),
                  View<double, 2>(d_w.data(), {O, I}), View<double, 1>(d_b.data(), {O}));
  linear_backward(be, x, w, d_y, std::nullopt, View<double, 2>(d_w_alone.data(), {O, I}));
  CHECK(d_w == d_w_alone);
  for (index_t o = 0; o < O; ++o) {
    CHECK(d_b[o] == Approx(d_y(0, o) + d_y(1, o) + d_y(2, o)));
    for (index_t i = 0; i < I; ++i) {
      CHECK(d_w[o * I + i] ==
            Approx(d_y(0, o) * x(0, i) + d_y(1, o) * x(1, i) + d_y(2, o) * x(2, i)));
    }
  }
  for (index_t r = 0; r < R; ++r) {
    CHECK(wide_d_x[r * 7] == 0);
    CHECK(wide_d_x[r * 7 + 5] == 0);
    for (index_t i = 0; i < I; ++i) {
      CHECK(wide_d_x[r * 7 + 1 + i] == Approx(d_y(r, 0) * w(0, i) + d_y(r, 1) * w(1, i)));
    }
  }
}

TEST_CASE("linear of no rows does nothing") {
  EigenBackend be(1);
  auto x = zeros<double, 2>(be, {0, 3}), w = zeros<double, 2>(be, {2, 3}),
       y = zeros<double, 2>(be, {0, 2});
  Values d_w(6, 5.0), d_b(2, 6.0);
  CHECK_NOTHROW(linear_forward(be, x.view(), w.view(), std::nullopt, y.view()));
  CHECK_NOTHROW(linear_backward(be, x.view(), w.view(), y.view(), x.view(),
                                View<double, 2>(d_w.data(), {2, 3}),
                                View<double, 1>(d_b.data(), {2})));
  CHECK(d_w == Values(6, 5.0));
  CHECK(d_b == Values(2, 6.0));
}

TEST_CASE("errors of linear") {
  EigenBackend be(1);
  auto x = zeros<double, 2>(be, {4, 3}), w = zeros<double, 2>(be, {2, 3}),
       y = zeros<double, 2>(be, {4, 2});
  auto narrow = zeros<double, 2>(be, {2, 5}), d_w = zeros<double, 2>(be, {2, 3});
  auto b = zeros<double, 1>(be, {3});
  CHECK_THROWS_WITH(linear_forward(be, x.view(), narrow.view(), std::nullopt, y.view()),
                    ContainsSubstring("linear_forward: weight is [2,5], expected [O,I] = [2,3]"));
  CHECK_THROWS_WITH(linear_forward(be, x.view(), w.view(), std::nullopt, x.view()),
                    ContainsSubstring("y is [4,3], expected [R,O] = [4,2]"));
  CHECK_THROWS_WITH(linear_forward(be, x.view(), w.view(), b.view(), y.view()),
                    ContainsSubstring("bias is [3], expected [O] = [2]"));
  CHECK_THROWS_WITH(linear_backward(be, y.view(), w.view(), y.view(), std::nullopt, d_w.view()),
                    ContainsSubstring("linear_backward: x is [4,2], expected [R,I] = [4,3]"));
  CHECK_THROWS_WITH(linear_backward(be, x.view(), w.view(), y.view(), y.view(), d_w.view()),
                    ContainsSubstring("d_x is [4,2], expected [R,I] = [4,3]"));
  CHECK_THROWS_WITH(linear_backward(be, x.view(), w.view(), y.view(), std::nullopt, narrow.view()),
                    ContainsSubstring("d_weight is [2,5], expected [O,I] = [2,3]"));
  CHECK_THROWS_WITH(
      linear_backward(be, x.view(), w.view(), y.view(), std::nullopt, d_w.view(), b.view()),
      ContainsSubstring("d_bias is [3], expected [O] = [2]"));
}

TEST_CASE("column sums of as many rows as need their parts gathered once and twice") {
  EigenBackend be(2);
  tests::BatchedBackend parts(2);
  for (const index_t R : {index_t{64 * 32}, index_t{64 * 32 + 1}, index_t{64 * 32 * 32 + 33}}) {
    const index_t columns = 2, stride = 3;
    const Values x = detail::normal_values(static_cast<std::size_t>(R * stride), {1, 1});
    double expected[columns] = {0.5, 0.5};
    for (index_t r = 0; r < R; ++r) {
      for (index_t c = 0; c < columns; ++c) expected[c] += x[r * stride + c];
    }
    Values on_one(columns, 0.5), on_other(columns, 0.5);
    const View<const double, 2> rows(x.data(), {R, columns}, {stride, 1});
    add_column_sums(be, rows, View<double, 1>(on_one.data(), {columns}));
    add_column_sums(parts, rows, View<double, 1>(on_other.data(), {columns}));
    for (index_t c = 0; c < columns; ++c) {
      CHECK(on_one[c] == Approx(expected[c]).epsilon(1e-11));
      CHECK(on_other[c] == Approx(expected[c]).epsilon(1e-11));
    }
  }
}
