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
    case Activation::gelu_fast:
      return x / (1 + std::exp(-2 * 0.7978845608 * x * (1 + 0.044715 * x * x)));
    case Activation::silu:
      return 0.5 * x * (1 + std::tanh(x / 2));
    case Activation::quick_gelu:
      return 0.5 * x * (1 + std::tanh(0.851 * x));
  }
  return 0;
}

const Activation all[] = {Activation::relu,      Activation::gelu, Activation::gelu_new,
                          Activation::gelu_fast, Activation::silu, Activation::quick_gelu};

}  // namespace

TEST_CASE("activations and gated products, by formula and by dual numbers") {
  EigenBackend be(2);
  const Activation kind = all[static_cast<std::size_t>(GENERATE(0, 1, 2, 3, 4, 5))];
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
  for (const Activation kind : all) {
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
  for (const Activation kind : all) {
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

namespace {

/// ACT2FN of transformers 5.24 in float64, and torch's derivative, at `torch_points`.
struct TorchValues {
  const char* name;
  Values value, slope;
};
const Values torch_points{-6.5, -2.25, -0.5, -0.0625, 0.375, 1.0, 3.75};
const TorchValues torch_values[] = {
    {"relu", {0, 0, 0, 0, 0.375, 1, 3.75}, {0, 0, 0, 0, 1, 1, 1}},
    {"gelu",
     {-2.6103991190851161e-10, -0.027505063473850511, -0.15426876936299344, -0.029692645685672047,
      0.2423136625022714, 0.84134474606854304, 3.7496684351804968},
     {-1.6950518131483905e-09, -0.059189743975207015, 0.13250487534383712, 0.45019708992782231,
      0.78561542687388708, 1.0833154705876864, 1.0012338165236772}},
    {"gelu_new",
     {-6.2783112042552602e-13, -0.027201329897288629, -0.15428599017485606, -0.029692650693718542,
      0.24230776689151162, 0.84119199060827676, 3.7497807479275584},
     {-6.5835287483724935e-12, -0.059914534517762227, 0.13263009646535764, 0.45019741000875207,
      0.78555569204799947, 1.0829640838457826, 1.0009513598386794}},
    {"gelu_fast",
     {-6.2783112042552602e-13, -0.027201329897713539, -0.15428599017516514, -0.029692650693724124,
      0.24230776689132616, 0.84119199060747696, 3.7497807479275509},
     {-6.5835287483485044e-12, -0.059914534518425822, 0.13263009646641249, 0.45019741000893032,
      0.78555569204709252, 1.0829640838451022, 1.0009513598387094}},
    {"silu",
     {-0.0097576846687904457, -0.21453629602299634, -0.1887703343990727, -0.030273755267311526,
      0.22224997498277613, 0.7310585786300049, 3.6638348628374038},
     {-0.0082418543489618315, -0.098730910096657229, 0.26003881269734819, 0.4687703331374341,
      0.68319643792392681, 0.92767051187148686, 1.0612079190226376}},
    {"quick_gelu",
     {-0.00010193109573866565, -0.047832128136604604, -0.14961156339361989, -0.029589456172870066,
      0.24538416137024022, 0.84579576593282124, 3.743669864407972},
     {-0.00015780229734249575, -0.058420879785790414, 0.12077808803458576, 0.44691263844071621,
      0.79871311542441048, 1.0677796065563341, 1.0090676679025641}}};

}  // namespace

TEST_CASE("activations and their derivatives are those of transformers") {
  EigenBackend be(1);
  for (const auto& [name, value, slope] : torch_values) {
    CAPTURE(name);
    const Activation kind = activation_from_name(name);
    Values y(7), d_x(7);
    const Values ones(7, 1.0);
    const View<const double, 2> x(torch_points.data(), {1, 7});
    activation_forward<EigenBackend, double>(be, kind, x, View<double, 2>(y.data(), {1, 7}));
    activation_backward<EigenBackend, double>(be, kind, x,
                                              View<const double, 2>(ones.data(), {1, 7}),
                                              View<double, 2>(d_x.data(), {1, 7}));
    // gelu_fast is gelu_new except for the constant's tenth digit
    CHECK(relative_error(y, value) < 1e-15);
    CHECK(relative_error(d_x, slope) < 1e-14);
  }
}

TEST_CASE("activation names and shapes") {
  CHECK(activation_from_name("relu") == Activation::relu);
  CHECK(activation_from_name("gelu") == Activation::gelu);
  CHECK(activation_from_name("gelu_python") == Activation::gelu);
  for (const char* name : {"gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"})
    CHECK(activation_from_name(name) == Activation::gelu_new);
  CHECK(activation_from_name("gelu_fast") == Activation::gelu_fast);
  CHECK(activation_from_name("silu") == Activation::silu);
  CHECK(activation_from_name("swish") == Activation::silu);
  CHECK(activation_from_name("quick_gelu") == Activation::quick_gelu);
  for (const Activation kind : all) CHECK(activation_from_name(activation_name(kind)) == kind);
  CHECK_FALSE(activation_named("relu2"));
  CHECK_THROWS_WITH(activation_from_name("mish"),
                    ContainsSubstring("\"mish\" is not one of relu, gelu, gelu_python, gelu_new"));
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
