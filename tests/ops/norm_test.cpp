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

namespace {

constexpr double epsilon = 1e-3;

/// weight (x - mean) / sqrt(variance + epsilon) + bias by loops.
Values layer_norm_by_loops(const Values& x, const Values& w, const Values& b) {
  const std::size_t E = w.size();
  Values y(x.size());
  for (std::size_t first = 0; first < x.size(); first += E) {
    double mean = 0, variance = 0;
    for (std::size_t c = 0; c < E; ++c) mean += x[first + c] / double(E);
    for (std::size_t c = 0; c < E; ++c) variance += std::pow(x[first + c] - mean, 2) / double(E);
    for (std::size_t c = 0; c < E; ++c)
      y[first + c] = w[c] * (x[first + c] - mean) / std::sqrt(variance + epsilon) + b[c];
  }
  return y;
}

template <class T>
std::vector<T> layer_norm(EigenBackend& be, const std::vector<T>& x, const std::vector<T>& w,
                          const std::vector<T>& b) {
  const auto E = static_cast<index_t>(w.size()), R = static_cast<index_t>(x.size()) / E;
  std::vector<T> y(x.size(), T(NAN));
  layer_norm_forward<EigenBackend, T>(
      be, View<const T, 2>(x.data(), {R, E}), View<const T, 1>(w.data(), {E}),
      View<const T, 1>(b.data(), {E}), View<T, 2>(y.data(), {R, E}), epsilon);
  return y;
}

/// The gradients of x, weight and bias one after another, added to ones.
template <class T>
std::vector<T> d_layer_norm(EigenBackend& be, const std::vector<T>& x, const std::vector<T>& w,
                            const std::vector<T>& d_y) {
  const auto E = static_cast<index_t>(w.size()), R = static_cast<index_t>(x.size()) / E;
  std::vector<T> d(x.size() + 2 * w.size(), T(1));
  T* d_w = d.data() + x.size();
  layer_norm_backward<EigenBackend, T>(
      be, View<const T, 2>(x.data(), {R, E}), View<const T, 1>(w.data(), {E}),
      {View<const T, 2>(d_y.data(), {R, E}), View<T, 2>(d.data(), {R, E}), View<T, 1>(d_w, {E}),
       View<T, 1>(d_w + E, {E})},
      epsilon);
  return d;
}

/// Calls `change(d_x, d_w, d_b)` after the right backward, and tells whether grad_check still agrees.
template <class Change>
GradReport check_layer_norm(EigenBackend& be, index_t R, index_t E, const Values& x,
                            Change change) {
  return grad_check(
      GradOptions{.coordinates = 100, .directions = 4}, {R, E},
      [&](auto in, auto w, auto b, auto out) { layer_norm_forward(be, in, w, b, out, epsilon); },
      [&](auto in, auto w, auto, auto d_y, auto d_x, auto d_w, auto d_b) {
        layer_norm_backward<EigenBackend, double>(be, in, w, {d_y, d_x, d_w, d_b}, epsilon);
        change(d_x, d_w, d_b);
      },
      GradInput("x", {R, E}, x), GradInput("weight", {E}), GradInput("bias", {E}));
}

const auto right = [](auto...) {};

}  // namespace

TEST_CASE("layer norm over shapes, by loops and by dual numbers") {
  EigenBackend be(2);
  for (const index_t R : {1, 2, 32, 33, 70}) {
    for (const index_t E : {2, 7, 16, 45}) {
      INFO("R" << R << " E" << E);
      const Values x = detail::normal_values(static_cast<std::size_t>(R * E), {1, 1});
      const Values w = detail::normal_values(static_cast<std::size_t>(E), {1, 2});
      const Values b = detail::normal_values(static_cast<std::size_t>(E), {1, 3});
      CHECK(relative_error(layer_norm(be, x, w, b), layer_norm_by_loops(x, w, b)) < 1e-13);
      const GradReport report = check_layer_norm(be, R, E, x, right);
      INFO(report.text());
      CHECK(report.ok());
    }
  }
}

TEST_CASE("layer norm of a row without variance is its bias, and its gradients are finite") {
  EigenBackend be(1);
  const double r = 1 / std::sqrt(epsilon);
  // one column: the value does not matter
  CHECK(layer_norm<double>(be, {3, -7}, {2}, {5}) == Values{5, 5});
  CHECK(d_layer_norm<double>(be, {3, -7}, {2}, {0.5, 4}) == Values{1, 1, 1, 5.5});
  // equal values: the norm is r (x - mean), so the gradient is that less its mean
  const Values y = layer_norm<double>(be, {0.1, 0.1, 0.1}, {1, 2, 3}, {4, 5, 6});
  CHECK(relative_error(y, Values{4, 5, 6}) < 1e-13);
  const Values d = d_layer_norm<double>(be, {0.1, 0.1, 0.1}, {1, 2, 3}, {1, 1, 1});
  CHECK(relative_error(d, Values{1 - r, 1, 1 + r, 1, 1, 1, 2, 2, 2}) < 1e-12);
  const GradReport report = check_layer_norm(be, 2, 3, {0.5, 0.5, 0.5, 0, 0, 0}, right);
  INFO(report.text());
  CHECK(report.inputs.at(0).refusal.empty());
  CHECK(report.inputs.at(2).refusal.empty());
}

TEST_CASE("layer norm keeps the digits of rows far from zero") {
  EigenBackend be(1);
  const index_t R = 3, E = 64;
  const Values normal = detail::normal_values(R * E, {1, 1});
  const Values d_y = detail::normal_values(R * E, {1, 5});
  std::vector<float> x, narrow_d_y(d_y.begin(), d_y.end());
  for (const double v : normal) x.push_back(static_cast<float>(1e4 + v));
  const Values wide(x.begin(), x.end()), w(E, 1.0), b(E, 0.0);
  const std::vector<float> narrow_w(E, 1.0f), narrow_b(E, 0.0f);
  // mean(x^2) - mean(x)^2 would be off by more than the variance
  CHECK(relative_error(layer_norm(be, x, narrow_w, narrow_b), layer_norm_by_loops(wide, w, b)) <
        1e-3);
  CHECK(relative_error(d_layer_norm(be, x, narrow_w, narrow_d_y), d_layer_norm(be, wide, w, d_y)) <
        1e-3);
}

TEST_CASE("layer norm does not depend on an offset, nor on a factor but for epsilon") {
  EigenBackend be(1);
  const Values x = detail::normal_values(2 * 9, {1, 1}), w(9, 1.0), b(9, 0.0);
  Values moved, larger;
  for (const double v : x) moved.push_back(v + 8), larger.push_back(v * 1e6);
  const Values y = layer_norm(be, x, w, b);
  CHECK(relative_error(layer_norm(be, moved, w, b), y) < 1e-13);
  CHECK(relative_error(layer_norm(be, larger, w, b), y) > 1e-4);
  CHECK(relative_error(layer_norm(be, larger, w, b), y) < 1e-2);
}

TEST_CASE("layer norm does not depend on the number of threads") {
  const index_t R = 131, E = 17;
  const std::size_t n = R * E;
  const Values x = detail::normal_values(n, {1, 1}), w = detail::normal_values(E, {1, 2});
  const Values b = detail::normal_values(E, {1, 3}), d_y = detail::normal_values(n, {1, 4});
  EigenBackend one(1);
  for (const int threads : {2, 3}) {
    EigenBackend be(threads);
    CHECK(layer_norm(be, x, w, b) == layer_norm(one, x, w, b));
    CHECK(d_layer_norm(be, x, w, d_y) == d_layer_norm(one, x, w, d_y));
  }
}

TEST_CASE("wrong gradients of layer norm are refused") {
  EigenBackend be(1);
  const Values x = detail::normal_values(4 * 5, {1, 1});
  const auto refused = [&](auto change) {
    const GradReport report = check_layer_norm(be, 4, 5, x, change);
    std::string names;
    for (const auto& input : report.inputs) {
      if (!input.refusal.empty()) names += input.name + " ";
    }
    return names;
  };
  CHECK(refused(right) == "");
  CHECK(refused([](auto d_x, auto, auto) { d_x(2, 3) += 1e-6; }) == "x ");
  CHECK(refused([](auto, auto d_w, auto) { d_w(4) *= 1.001; }) == "weight ");
  CHECK(refused([](auto, auto, auto d_b) { d_b(0) = 0; }) == "bias ");
}

TEST_CASE("errors of layer norm") {
  EigenBackend be(1);
  auto x = zeros<double, 2>(be, {4, 3}), y = zeros<double, 2>(be, {4, 2}),
       wide = zeros<double, 2>(be, {4, 6});
  auto w = zeros<double, 1>(be, {3}), other = zeros<double, 1>(be, {2});
  const auto thin = wide.view().slice(1, 0, 3);
  CHECK_THROWS_WITH(layer_norm_forward(be, x.view(), other.view(), w.view(), x.view()),
                    ContainsSubstring("layer_norm_forward: weight is [2], expected [E] = [3]"));
  CHECK_THROWS_WITH(layer_norm_forward(be, x.view(), w.view(), other.view(), x.view()),
                    ContainsSubstring("layer_norm_forward: bias is [2], expected [E] = [3]"));
  CHECK_THROWS_WITH(layer_norm_forward(be, x.view(), w.view(), w.view(), y.view()),
                    ContainsSubstring("y is [4,2], expected [R,E] = [4,3]"));
  CHECK_THROWS_WITH(layer_norm_forward(be, thin, w.view(), w.view(), x.view()),
                    ContainsSubstring("x and y must be contiguous"));
  const auto backward = [&](auto d_y, auto d_x, auto weight, auto d_w, auto d_b) {
    layer_norm_backward<EigenBackend, double>(be, x.view(), weight, {d_y, d_x, d_w, d_b});
  };
  const auto good = x.view();
  const auto vector = w.view(), short_one = other.view();
  CHECK_NOTHROW(backward(good, good, vector, vector, vector));
  CHECK_THROWS_WITH(backward(y.view(), good, vector, vector, vector),
                    ContainsSubstring("layer_norm_backward: d_y is [4,2], expected [R,E] = [4,3]"));
  CHECK_THROWS_WITH(backward(good, y.view(), vector, vector, vector),
                    ContainsSubstring("layer_norm_backward: d_x is [4,2], expected [R,E] = [4,3]"));
  CHECK_THROWS_WITH(backward(good, good, short_one, vector, vector),
                    ContainsSubstring("layer_norm_backward: weight is [2], expected [E] = [3]"));
  CHECK_THROWS_WITH(backward(good, good, vector, short_one, vector),
                    ContainsSubstring("layer_norm_backward: d_weight is [2], expected [E] = [3]"));
  CHECK_THROWS_WITH(backward(good, good, vector, vector, short_one),
                    ContainsSubstring("layer_norm_backward: d_bias is [2], expected [E] = [3]"));
  CHECK_THROWS_WITH(backward(thin, good, vector, vector, vector),
                    ContainsSubstring("x, d_y and d_x must be contiguous"));
}
