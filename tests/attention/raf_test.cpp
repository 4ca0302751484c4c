// SPDX-License-Identifier: Apache-2.0
#include <srformer/attention/raf.hpp>

#include <cmath>
#include <numeric>
#include <utility>

#include <srformer/backend/eigen.hpp>
#include <srformer/testing/grad_check.hpp>

#include "support/backends.hpp"
#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

using Values = std::vector<double>;

struct Raf {
  Values r, u;
};

Raf run(index_t steps, index_t cells, const Values& x, double leak, double threshold) {
  EigenBackend be(1);
  Raf out{Values(x.size(), NAN), Values(x.size(), NAN)};
  const std::array<index_t, 2> shape{steps, cells};
  raf_forward<EigenBackend, double>(be, {x.data(), shape}, {{&leak, {1}}, {&threshold, {1}}}, {},
                                    {out.r.data(), shape}, {out.u.data(), shape});
  return out;
}

/// The recurrence of the paper, one cell after the other. `margin` is the least |U/threshold - 1|.
Raf plain_raf(index_t steps, index_t cells, const Values& x, double leak, double threshold,
              double& margin) {
  Raf out{Values(x.size()), Values(x.size())};
  margin = HUGE_VAL;
  for (index_t c = 0; c < cells; ++c) {
    double membrane = 0;
    for (index_t j = 0; j < steps; ++j) {
      const double u = leak * membrane + x[j * cells + c], over = u / threshold - 1;
      margin = std::min(margin, std::abs(over));
      out.u[j * cells + c] = u;
      out.r[j * cells + c] = over > 0 ? over : 0;
      membrane = over > 0 ? u - threshold : u;
    }
  }
  return out;
}

struct RafGradient {
  Values x;
  double leak = 0, threshold = 0;
};

RafGradient backward(index_t steps, index_t cells, const Values& u, double leak, double threshold,
                     const Values& d_r) {
  EigenBackend be(1);
  RafGradient d{Values(u.size())};
  const std::array<index_t, 2> shape{steps, cells};
  raf_backward<EigenBackend, double>(
      be, {u.data(), shape}, {{&leak, {1}}, {&threshold, {1}}}, {},
      {{d_r.data(), shape}, {d.x.data(), shape}, {&d.leak, {1}}, {&d.threshold, {1}}});
  return d;
}

}  // namespace

TEST_CASE("RAF over shapes, values and gradients") {
  EigenBackend be(2);
  for (const auto& [leak, threshold] :
       {std::pair{0.5, 0.3}, {1.2, 0.7}, {-0.4, 0.5}, {0.5, -0.6}}) {
    for (const index_t steps : {1, 2, 9}) {
      for (const index_t cells : {1, 7, 512, 513, 1100}) {
        Values x;
        double margin = 0;
        Raf expected;
        for (std::uint64_t attempt = 0; !(margin > 1e-6 && (cells > 1 || expected.r.back() > 0));
             ++attempt) {
          REQUIRE(attempt < 200);
          x = detail::normal_values(static_cast<std::size_t>(steps * cells), {attempt, 5});
          expected = plain_raf(steps, cells, x, leak, threshold, margin);
        }
        INFO("leak " << leak << " threshold " << threshold << " steps " << steps << " cells "
                     << cells);
        const Raf got = run(steps, cells, x, leak, threshold);
        CHECK(relative_error(got.r, expected.r) < 1e-14);
        CHECK(relative_error(got.u, expected.u) < 1e-14);
        const GradInput leak_input("leak", {1}, Values{leak});
        const GradReport report = grad_check(
            GradOptions{.coordinates = 70, .directions = 4}, {steps, cells},
            [&](auto in, auto l, auto t, auto r) {
              using T = typename decltype(r)::value_type;
              auto u = zeros<T, 2>(be, in.extents);
              raf_forward<EigenBackend, T>(be, in, {l, t}, {}, r, u.view());
            },
            [&](auto, auto l, auto t, auto d_r, auto d_x, auto d_l, auto d_t) {
              raf_backward<EigenBackend, double>(be, {got.u.data(), {steps, cells}}, {l, t}, {},
                                                 {d_r, d_x, d_l, d_t});
            },
            GradInput("x", {steps, cells}, x), steps == 1 ? leak_input.expect_zero() : leak_input,
            GradInput("threshold", {1}, Values{threshold}));
        INFO(report.text());
        CHECK(report.ok());
      }
    }
  }
}

TEST_CASE("a membrane at, just under and just over the threshold") {
  const double at = 0.5, under = std::nextafter(at, 0), over = std::nextafter(at, 1), leak = 0.25;
  // Three cells, two steps; nothing enters at the second.
  const Raf raf = run(2, 3, {under, at, over, 0, 0, 0}, leak, at);
  CHECK(raf.r[0] == 0);
  CHECK(raf.r[1] == 0);
  CHECK(raf.r[2] == over / at - 1);
  CHECK(raf.r[2] > 0);
  // What did not fire keeps its membrane; what did is reset by the threshold.
  CHECK(raf.u[3] == leak * under);
  CHECK(raf.u[4] == leak * at);
  CHECK(raf.u[5] == leak * (over - at));

  const RafGradient d = backward(2, 3, raf.u, leak, at, {1, 1, 1, 0, 0, 0});
  CHECK(d.x == Values{0, 0, 1 / at, 0, 0, 0});
  CHECK(d.leak == 0);
  CHECK(d.threshold == Approx(-over / at / at));
}

TEST_CASE("the membrane carries the gradient of a later step to an earlier one") {
  // Fires at both steps: U = (0.8, 0.5 (0.8 - 0.5) + 0.9).
  const double leak = 0.5, threshold = 0.5;
  const Raf raf = run(2, 1, {0.8, 0.9}, leak, threshold);
  CHECK(raf.u[1] == Approx(1.05));
  const RafGradient d = backward(2, 1, raf.u, leak, threshold, {0, 1});
  CHECK(d.x[1] == Approx(1 / threshold));
  CHECK(d.x[0] == Approx(leak / threshold));
  CHECK(d.leak == Approx((0.8 - threshold) / threshold));
  CHECK(d.threshold == Approx(-1.05 / threshold / threshold - leak / threshold));
}

namespace {

/// Binary firing and its surrogate gradient, one cell after the other, from the rule itself.
RafGradient plain_binary_raf(index_t steps, index_t cells, const Values& x, double leak,
                             double threshold, const Values& d_r, Values& r) {
  RafGradient d{Values(x.size())};
  r.assign(x.size(), 0);
  for (index_t c = 0; c < cells; ++c) {
    Values u(steps), membrane(steps + 1, 0);
    for (index_t j = 0; j < steps; ++j) {
      u[j] = leak * membrane[j] + x[j * cells + c];
      const double fires = u[j] / threshold - 1 > 0 ? 1 : 0;
      r[j * cells + c] = fires;
      membrane[j + 1] = u[j] - threshold * fires;
    }
    double d_membrane = 0;
    for (index_t j = steps - 1; j >= 0; --j) {
      const double over = u[j] / threshold - 1, given = d_r[j * cells + c];
      const double slope = 0.3 * std::max(0.0, 1 - std::abs(over));
      const double d_u = slope * given / threshold + d_membrane;
      d.threshold -= slope * given * u[j] / (threshold * threshold);
      if (over > 0) d.threshold -= d_membrane;
      d.leak += d_u * membrane[j];
      d.x[j * cells + c] = d_u;
      d_membrane = leak * d_u;
    }
  }
  return d;
}

template <class B>
void check_binary(B& be, index_t steps, index_t cells, double leak, double threshold) {
  const auto count = static_cast<std::size_t>(steps * cells);
  const Values x = detail::normal_values(count, {6, 1}), d_r = detail::normal_values(count, {6, 2});
  Values r, got_r(count, NAN), u(count, NAN);
  const RafGradient expected = plain_binary_raf(steps, cells, x, leak, threshold, d_r, r);
  RafGradient d{Values(count)};
  const RafOptions binary{.binary_firing = true};
  const auto view = [&](auto& values) {
    using T = std::remove_pointer_t<decltype(values.data())>;
    return View<T, 2>(values.data(), {steps, cells});
  };
  const RafParameters<B, double> parameters{{&leak, {1}}, {&threshold, {1}}};
  raf_forward(be, view(x), parameters, binary, view(got_r), view(u));
  raf_backward(be, view(std::as_const(u)), parameters, binary,
               {view(d_r), view(d.x), {&d.leak, {1}}, {&d.threshold, {1}}});
  INFO("steps " << steps << " cells " << cells << " leak " << leak << " threshold " << threshold);
  CHECK(got_r == r);
  CHECK(relative_error(d.x, expected.x) < 1e-13);
  CHECK(relative_error(Values{d.leak}, Values{expected.leak}) < 1e-11);
  CHECK(relative_error(Values{d.threshold}, Values{expected.threshold}) < 1e-11);
  if (cells > 100) {
    const double fired = std::accumulate(r.begin(), r.end(), 0.0) / static_cast<double>(count);
    CHECK(fired > 0.05);
    CHECK(fired < 0.95);
  }
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("binary firing is 0 or 1 and follows the surrogate gradient", "",
                        tests::HostBackends) {
  TestType be = tests::make_backend<TestType>(2);
  for (const auto& [leak, threshold] :
       {std::pair{0.5, 0.3}, {1.2, 0.7}, {-0.4, 0.5}, {0.5, -0.6}}) {
    for (const index_t steps : {1, 2, 9}) {
      for (const index_t cells : {1, 7, 513}) check_binary(be, steps, cells, leak, threshold);
    }
  }
}

TEST_CASE("a threshold of zero and wrong shapes are refused") {
  CHECK_THROWS_WITH(run(1, 1, {1}, 0.5, 0.0),
                    ContainsSubstring("raf_forward: the threshold is exactly zero"));
  CHECK_THROWS_WITH(run(1, 1, {1}, 0.5, -0.0), ContainsSubstring("the threshold is exactly zero"));
  EigenBackend be(1);
  auto x = zeros<double, 2>(be, {2, 3}), r = zeros<double, 2>(be, {3, 2});
  auto scalar = zeros<double, 1>(be, {1});
  const RafParameters<EigenBackend, double> parameters{scalar.view(), scalar.view()};
  CHECK_THROWS_WITH(raf_forward(be, x.view(), parameters, {}, r.view(), x.view()),
                    ContainsSubstring("raf_forward: r is [3,2], expected [steps,cells] = [2,3]"));
}
