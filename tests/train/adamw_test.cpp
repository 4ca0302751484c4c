// SPDX-License-Identifier: Apache-2.0
#include <srformer/backend/eigen.hpp>
#include <srformer/train/adamw.hpp>

#include "support/catch.hpp"

using namespace srformer;

namespace {

// The values come from torch 2.15:
//   p = [Parameter(tensor([0.5, -1, 2])), Parameter(tensor([0.25, -0.75]))]           # float64
//   opt = AdamW(p, lr=0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=DECAY)
//   for s in range(3):
//     p[0].grad = tensor([1, -2, 0.5]) * (s + 1);  p[1].grad = tensor([-3, 0]) / (s + 1)
//     norm = clip_grad_norm_(p, CLIP) if CLIP else None;  opt.step()
using Five = std::vector<double>;

template <class T>
struct Run {
  EigenBackend be{2};
  Parameters<EigenBackend, T> parameters{be};
  std::vector<double> norms;

  explicit Run(AdamWOptions options, int steps = 3) {
    options.beta1 = 0.8, options.beta2 = 0.95, options.epsilon = 1e-3;
    parameters.add("first", Role::weight, {3});
    parameters.add("second", Role::norm, {2});
    parameters.allocate();
    parameters.allocate_gradients();
    const Five start{0.5, -1, 2, 0.25, -0.75}, slope{1, -2, 0.5, -3, 0};
    for (index_t i = 0; i < 5; ++i) parameters.values()(i) = T(start[static_cast<std::size_t>(i)]);
    AdamW<EigenBackend, T> adamw(be, parameters, options);
    for (int s = 0; s < steps; ++s) {
      for (index_t i = 0; i < 5; ++i)
        parameters.gradients()(i) =
            T(slope[static_cast<std::size_t>(i)] * (i < 3 ? s + 1 : 1.0 / (s + 1)));
      adamw.update(be, parameters, 0.1, s + 1);
      norms.push_back(adamw.gradient_norm(be));
    }
  }

  void check(const Five& expected, double tolerance) {
    for (index_t i = 0; i < 5; ++i) {
      CAPTURE(i);
      CHECK(static_cast<double>(parameters.values()(i)) ==
            Approx(expected[static_cast<std::size_t>(i)]).epsilon(tolerance));
    }
  }
};

const Five plain{0.20458819459922331, -0.70448532081987325, 1.7047937045677701, 0.52693716093146548,
                 -0.75};
const Five decayed{0.19270143226616068, -0.67774935810510384, 1.6483528465483608,
                   0.51660230878024072, -0.72772424999999996};
const Five clipped{0.18875000087579114, -0.67359528650953615, 1.6448050141967359,
                   0.50294343752503368, -0.72772424999999996};

}  // namespace

TEST_CASE("AdamW without decay or clipping is torch's") { Run<double>({}).check(plain, 1e-14); }

TEST_CASE("AdamW decays parameters apart from the gradient") {
  Run<double>({.weight_decay = 0.1, .decayed = all_roles()}).check(decayed, 1e-14);
}

TEST_CASE("AdamW decays weights and embeddings alone unless told otherwise") {
  Five expected = plain;
  std::copy_n(decayed.begin(), 3, expected.begin());
  Run<double>({.weight_decay = 0.1}).check(expected, 1e-14);
}

TEST_CASE("AdamW clips by the norm of all parameters together") {
  Run<double> run({.weight_decay = 0.1, .decayed = all_roles(), .max_grad_norm = 1.5});
  run.check(clipped, 1e-14);
  CHECK(run.norms[0] == Approx(3.7749).epsilon(1e-4));
  CHECK(run.norms[1] == Approx(4.8218).epsilon(1e-4));
  CHECK(run.norms[2] == Approx(6.9462).epsilon(1e-4));
}

TEST_CASE("A norm below the limit is not scaled up") {
  Run<double>({.max_grad_norm = 100}).check(plain, 1e-14);
}

TEST_CASE("AdamW in float is the same to rounding") {
  Run<float>({.weight_decay = 0.1, .decayed = all_roles(), .max_grad_norm = 1.5})
      .check(clipped, 1e-6);
}

TEST_CASE("The root that vectorises is the root") {
  const auto relative = [](float x) {
    const double expected = std::sqrt(static_cast<double>(x));
    return std::abs(static_cast<double>(detail::nonnegative_root(x)) - expected) / expected;
  };
  double worst = 0;
  for (std::uint32_t bits = 1; bits < 0x7f800000u; bits += 40'961)
    worst = std::max(worst, relative(std::bit_cast<float>(bits)));
  CHECK(worst < 1.2e-7);
  CHECK(relative(1e-45f) < 1.2e-7);
  CHECK(relative(std::numeric_limits<float>::max()) < 1.2e-7);
  CHECK(detail::nonnegative_root(0.0f) == 0.0f);
  CHECK(std::isinf(detail::nonnegative_root(std::numeric_limits<float>::infinity())));
  CHECK(detail::nonnegative_root(2.0) == std::sqrt(2.0));
}

TEST_CASE("AdamW over more than one row and thread equals element by element") {
  EigenBackend be(2);
  Parameters<EigenBackend, double> many(be);
  many.add("a", Role::weight, {5000});
  many.add("b", Role::bias, {4097});
  many.add("c", Role::embedding, {1});
  many.add("nothing", Role::bias, {0});
  many.allocate();
  many.allocate_gradients();
  const AdamWOptions options{.weight_decay = 0.5};
  AdamW<EigenBackend, double> adamw(be, many, options);
  for (index_t i = 0; i < many.size(); ++i)
    many.values()(i) = 1 + static_cast<double>(i),
    many.gradients()(i) = 1.0 - static_cast<double>(i % 3);
  adamw.update(be, many, 0.01, 1);
  index_t wrong = 0;
  for (index_t i = 0; i < many.size(); ++i) {
    const double g = 1.0 - static_cast<double>(i % 3),
                 keep = i < 5000 || i == 9097 ? 1 - 0.01 * 0.5 : 1;
    const double expected = keep * (1 + static_cast<double>(i)) - 0.01 * g / (std::abs(g) + 1e-8);
    wrong += std::abs(many.values()(i) - expected) > 1e-10 ? 1 : 0;
  }
  CHECK(many.size() == 9098);
  CHECK(wrong == 0);
}

TEST_CASE("A gradient that is not finite changes nothing") {
  const double bad =
      GENERATE(std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity());
  EigenBackend be(1);
  Parameters<EigenBackend, double> p(be);
  p.add("a", Role::weight, {3});
  p.allocate();
  p.allocate_gradients();
  be.fill(p.values().data, 3, 1.0);
  AdamW<EigenBackend, double> adamw(be, p, {.weight_decay = 0.1, .max_grad_norm = 1});
  p.gradients()(1) = bad;
  adamw.update(be, p, 0.1, 1);
  CHECK_FALSE(std::isfinite(adamw.gradient_norm(be)));
  CHECK(has_nonfinite(be, p.gradients().data, 3));
  CHECK_FALSE(has_nonfinite(be, p.gradients().data, 1));
  for (index_t i = 0; i < 3; ++i) {
    CHECK(p.values()(i) == 1.0);
    CHECK(adamw.first_moment()(i) == 0.0);
    CHECK(adamw.second_moment()(i) == 0.0);
  }
}

TEST_CASE("AdamW refuses options that make no sense") {
  EigenBackend be(1);
  Parameters<EigenBackend, float> p(be);
  p.add("a", Role::weight, {3});
  p.allocate();
  p.allocate_gradients();
  using Optimizer = AdamW<EigenBackend, float>;
  CHECK_THROWS_AS(Optimizer(be, p, {.beta1 = 1}), shape_error);
  CHECK_THROWS_AS(Optimizer(be, p, {.beta2 = -0.1}), shape_error);
  CHECK_THROWS_AS(Optimizer(be, p, {.epsilon = -1}), shape_error);
  CHECK_THROWS_AS(Optimizer(be, p, {.weight_decay = -1}), shape_error);
  CHECK_THROWS_AS(Optimizer(be, p, {.max_grad_norm = -1}), shape_error);
  Optimizer adamw(be, p, {});
  CHECK_THROWS_AS(adamw.update(be, p, 0.1, 0), shape_error);
  Parameters<EigenBackend, float> other(be);
  other.add("a", Role::weight, {4});
  other.allocate();
  CHECK_THROWS_AS(adamw.update(be, other, 0.1, 1), shape_error);
}
