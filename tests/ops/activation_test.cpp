// SPDX-License-Identifier: Apache-2.0
#include <srformer/ops/activation.hpp>

#include <srformer/backend/eigen.hpp>
#include <srformer/testing/grad_check.hpp>

#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;
using Values = std::vector<double>;

namespace {

double plain(Activation kind, double x) {
  const double pi = std::acos(-1.0);
  switch (kind) {
    case Activation::relu:
      return x > 0 ? x : 0;
    case Activation::gelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_new:
      return x / (1 + std::exp(-2 * std::sqrt(2 / pi) * (x + 0.044715 * x * x * x)));
  }
  return 0;
}

}  // namespace

TEST_CASE("activations and gated products, by formula and by dual numbers") {
  EigenBackend be(2);
  const Activation kind = GENERATE(Activation::relu, Activation::gelu, Activation::gelu_new);
  for (const auto& [R, C] : {std::pair<index_t, index_t>{1, 1}, {3, 7}, {70, 131}}) {
    Values a = detail::normal_values(static_cast<std::size_t>(R * C), {1, 1});
    a[0] = 1.3;  // one element alone must not be where relu has no slope
    for (double& x : a) x = 2 * x + (x > 0 ? 1e-3 : -1e-3);
    const Values b = detail::normal_values(a.size(), {1, 2});
    Values y(a.size(), NAN), gated(a.size(), NAN), expected(a.size()), expected_gated(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      expected[i] = plain(kind, a[i]);
      expected_gated[i] = plain(kind, a[i]) * b[i];
    }
    const View<const double, 2> a_view(a.data(), {R, C}), b_view(b.data(), {R, C});
    activation_forward<EigenBackend, double>(be, kind, a_view, View<double, 2>(y.data(), {R, C}));
    gated_forward<EigenBackend, double>(be, kind, a_view, b_view,
                                        View<double, 2>(gated.data(), {R, C}));
    CHECK(relative_error(y, expected) < 1e-14);
    CHECK(relative_error(gated, expected_gated) < 1e-14);

    const GradOptions options{.coordinates = 30, .directions = 3};
    const GradReport alone = grad_check(
        options, {R, C}, [&](auto x, auto out) { activation_forward(be, kind, x, out); },
        [&](auto x, auto d_y, auto d_x) { activation_backward(be, kind, x, d_y, d_x); },
        GradInput("x", {R, C}, a));
    INFO(alone.text());
    CHECK(alone.ok());
    const GradReport both = grad_check(
        options, {R, C}, [&](auto x, auto z, auto out) { gated_forward(be, kind, x, z, out); },
        [&](auto x, auto z, auto d_y, auto d_x, auto d_z) {
          gated_backward(be, kind, x, z, d_y, d_x, d_z);
        },
        GradInput("a", {R, C}, a), GradInput("b", {R, C}, b));
    INFO(both.text());
    CHECK(both.ok());
    // In place, where x is not needed again.
    activation_forward<EigenBackend, double>(be, kind, View<const double, 2>(a.data(), {R, C}),
                                             View<double, 2>(a.data(), {R, C}));
    CHECK(a == y);
  }
}

TEST_CASE("activations at zero and far away") {
  for (const Activation kind : {Activation::relu, Activation::gelu, Activation::gelu_new}) {
    EigenBackend be(1);
    const Values x{0, 40, -40}, d_y{1, 1, 1};
    Values y(3), d_x(3);
    activation_forward<EigenBackend, double>(be, kind, View<const double, 2>(x.data(), {1, 3}),
                                             View<double, 2>(y.data(), {1, 3}));
    activation_backward<EigenBackend, double>(be, kind, View<const double, 2>(x.data(), {1, 3}),
                                              View<const double, 2>(d_y.data(), {1, 3}),
                                              View<double, 2>(d_x.data(), {1, 3}));
    CHECK(relative_error(y, Values{0, 40, 0}) < 1e-15);
    CHECK(relative_error(d_x, Values{kind == Activation::relu ? 0.0 : 0.5, 1, 0}) < 1e-15);
  }
}

TEST_CASE("activations in float agree with double") {
  EigenBackend be(1);
  for (const Activation kind : {Activation::relu, Activation::gelu, Activation::gelu_new}) {
    std::vector<float> x, y(401);
    Values expected;
    for (int i = -200; i <= 200; ++i)
      x.push_back(float(i) / 20), expected.push_back(plain(kind, double(x.back())));
    activation_forward<EigenBackend, float>(be, kind, View<const float, 2>(x.data(), {1, 401}),
                                            View<float, 2>(y.data(), {1, 401}));
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i)
      worst = std::max(worst, std::abs(double(y[i]) - expected[i]));
    CHECK(worst < 1e-6);
  }
}

TEST_CASE("activation names and shapes") {
  CHECK(activation_from_name("relu") == Activation::relu);
  CHECK(activation_from_name("gelu") == Activation::gelu);
  CHECK(activation_from_name("gelu_new") == Activation::gelu_new);
  CHECK_THROWS_WITH(activation_from_name("silu"),
                    ContainsSubstring("\"silu\" is not one of relu, gelu, gelu_new"));
  EigenBackend be(1);
  auto x = zeros<double, 2>(be, {4, 3}), y = zeros<double, 2>(be, {4, 2}),
       wide = zeros<double, 2>(be, {4, 6});
  CHECK_THROWS_WITH(activation_forward(be, Activation::relu, x.view(), y.view()),
                    ContainsSubstring("activation_forward: y is [4,2], expected [R,C] = [4,3]"));
  CHECK_THROWS_WITH(activation_forward(be, Activation::relu, wide.view().slice(1, 0, 3), x.view()),
                    ContainsSubstring("contiguous"));
  CHECK_THROWS_WITH(gated_forward(be, Activation::relu, x.view(), y.view(), x.view()),
                    ContainsSubstring("gated_forward: b is [4,2], expected [R,C] = [4,3]"));
}
