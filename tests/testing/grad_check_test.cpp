// SPDX-License-Identifier: Apache-2.0
// The gradient check accepts what is right and refuses backwards that are wrong on purpose.
#include <srformer/attention/segmented_recurrent.hpp>
#include <srformer/backend/eigen.hpp>
#include <srformer/ops/norm.hpp>
#include <srformer/ops/softmax.hpp>
#include <srformer/testing/grad_check.hpp>

#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr index_t rows = 5, columns = 9;

/// Checks rms_norm with its right gradient passed through `change(x, w, d_y, g_x, g_w, d_x, d_w)`,
/// which has to add it to d_x and d_w.
template <class Change>
GradReport check_norm(Change change, GradOptions options = {}) {
  EigenBackend be(1);
  return grad_check(
      options, {rows, columns},
      [&](auto x, auto w, auto y) { rms_norm_forward(be, x, w, y, {1e-6}); },
      [&](auto x, auto w, auto d_y, auto d_x, auto d_w) {
        auto g_x = zeros<double, 2>(be, x.extents);
        auto g_w = zeros<double, 1>(be, w.extents);
        rms_norm_backward(be, x, w, d_y, g_x.view(), g_w.view(), {1e-6});
        change(x, w, d_y, g_x.view(), g_w.view(), d_x, d_w);
      },
      GradInput("x", {rows, columns}), GradInput("weight", {columns}));
}

void add(auto from, auto to, double scale = 1) {
  for (index_t i = 0; i < to.size(); ++i) to.data[i] += scale * from.data[i];
}

bool refused(const GradReport& report, const std::string& input, const std::string& why) {
  UNSCOPED_INFO(report.text());
  if (report.ok()) return false;
  for (const auto& x : report.inputs) {
    if (x.name == input) return x.refusal.find(why) != std::string::npos;
  }
  return false;
}

const char* const error = "the error is above the tolerance";

}  // namespace

TEST_CASE("the right gradient passes, by elements and by directions") {
  const auto right = [](auto, auto, auto, auto g_x, auto g_w, auto d_x, auto d_w) {
    add(g_x, d_x), add(g_w, d_w);
  };
  const GradReport all = check_norm(right);
  INFO(all.text());
  CHECK(all.ok());
  CHECK(all.worst_error() < 1e-13);
  REQUIRE(all.inputs.size() == 2);
  CHECK(all.inputs[0].name == "x");
  CHECK(all.inputs[0].compared == rows * columns);
  CHECK(all.inputs[0].by_coordinate);
  CHECK(all.inputs[0].cosine == Approx(1).epsilon(1e-14));
  CHECK(all.inputs[0].norm_ratio == Approx(1).epsilon(1e-14));

  const GradReport some = check_norm(right, {.coordinates = 10, .directions = 3});
  INFO(some.text());
  CHECK(some.ok());
  CHECK(some.inputs[0].compared == 3);
  CHECK_FALSE(some.inputs[0].by_coordinate);
  CHECK(some.inputs[1].by_coordinate);
}

TEST_CASE("a wrong gradient of rms norm is refused") {
  SECTION("a scale of 1.001") {
    const auto report = check_norm([](auto, auto, auto, auto g_x, auto g_w, auto d_x, auto d_w) {
      add(g_x, d_x), add(g_w, d_w, 1.001);
    });
    CHECK(refused(report, "weight", error));
    CHECK(report.inputs[0].refusal.empty());
    CHECK(report.inputs[1].norm_ratio == Approx(1.001));
    CHECK(report.inputs[1].cosine == Approx(1).epsilon(1e-14));
  }
  SECTION("a scale of 1 + 1e-8") {
    CHECK(refused(check_norm([](auto, auto, auto, auto g_x, auto g_w, auto d_x, auto d_w) {
                    add(g_x, d_x, 1 + 1e-8), add(g_w, d_w);
                  }),
                  "x", error));
  }
  SECTION("the sign") {
    const auto report = check_norm([](auto, auto, auto, auto g_x, auto g_w, auto d_x, auto d_w) {
      add(g_x, d_x, -1), add(g_w, d_w);
    });
    CHECK(refused(report, "x", error));
    CHECK(report.inputs[0].cosine == Approx(-1).epsilon(1e-14));
  }
  SECTION("overwritten instead of added to") {
    CHECK(refused(check_norm([](auto, auto, auto, auto g_x, auto g_w, auto d_x, auto d_w) {
                    for (index_t i = 0; i < d_x.size(); ++i) d_x.data[i] = g_x.data[i];
                    add(g_w, d_w);
                  }),
                  "x", "not added to what was there"));
  }
  SECTION("added twice where something was there") {
    CHECK(refused(check_norm([](auto, auto, auto, auto g_x, auto g_w, auto d_x, auto d_w) {
                    for (index_t i = 0; i < d_x.size(); ++i)
                      d_x.data[i] += d_x.data[i] + g_x.data[i];
                    add(g_w, d_w);
                  }),
                  "x", "not added to what was there"));
  }
  SECTION("zero") {
    CHECK(
        refused(check_norm([](auto, auto, auto, auto g_x, auto, auto d_x, auto) { add(g_x, d_x); }),
                "weight", "zero by one of the two ways"));
  }
  SECTION("NaN in one element") {
    CHECK(refused(check_norm([](auto, auto, auto, auto g_x, auto g_w, auto d_x, auto d_w) {
                    add(g_x, d_x), add(g_w, d_w);
                    d_w.data[3] = std::nan("");
                  }),
                  "weight", "not finite"));
  }
  SECTION("infinity in one element") {
    CHECK(refused(check_norm([](auto, auto, auto, auto g_x, auto g_w, auto d_x, auto d_w) {
                    add(g_x, d_x), add(g_w, d_w);
                    d_x.data[0] = HUGE_VAL;
                  }),
                  "x", "not finite"));
  }
  SECTION("one element out of many") {
    const auto report = check_norm([](auto, auto, auto, auto g_x, auto g_w, auto d_x, auto d_w) {
      add(g_x, d_x), add(g_w, d_w);
      d_x.data[17] += 1e-7;
    });
    CHECK(refused(report, "x", error));
    CHECK(report.inputs[0].worst_at == 17);
  }
  SECTION("one element out of many, by directions") {
    CHECK(refused(check_norm(
                      [](auto, auto, auto, auto g_x, auto g_w, auto d_x, auto d_w) {
                        add(g_x, d_x), add(g_w, d_w);
                        d_x.data[17] += 1e-5;
                      },
                      {.coordinates = 1, .directions = 4}),
                  "x", error));
  }
  SECTION("without the term through the mean square") {
    CHECK(refused(check_norm([](auto x, auto w, auto d_y, auto, auto g_w, auto d_x, auto d_w) {
                    for (index_t r = 0; r < rows; ++r) {
                      double square = 0;
                      for (index_t c = 0; c < columns; ++c) square += x(r, c) * x(r, c);
                      const double scale = 1 / std::sqrt(square / columns + 1e-6);
                      for (index_t c = 0; c < columns; ++c) d_x(r, c) += scale * w(c) * d_y(r, c);
                    }
                    add(g_w, d_w);
                  }),
                  "x", error));
  }
  SECTION("a row off") {
    CHECK(refused(check_norm([](auto, auto, auto, auto g_x, auto g_w, auto d_x, auto d_w) {
                    for (index_t r = 0; r < rows; ++r) add(g_x[r], d_x[(r + 1) % rows]);
                    add(g_w, d_w);
                  }),
                  "x", error));
  }
}

TEST_CASE("the weights of a product transposed, or those of another input, are refused") {
  constexpr index_t n = 4;
  const auto forward = [](auto a, auto b, auto y) {
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < n; ++j) {
        for (index_t p = 0; p < n; ++p) y(i, j) = y(i, j) + a(i, p) * b(p, j);
      }
    }
  };
  const auto check = [&](auto backward) {
    return grad_check({n, n}, forward, backward, GradInput("a", {n, n}), GradInput("b", {n, n}));
  };
  const auto add_product = [](auto term, auto d) {
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < n; ++j) {
        for (index_t p = 0; p < n; ++p) d(i, j) += term(i, j, p);
      }
    }
  };
  const auto to_a = [](auto b, auto d_y) {
    return [=](index_t i, index_t j, index_t p) { return d_y(i, p) * b(j, p); };
  };
  const auto to_b = [](auto a, auto d_y) {
    return [=](index_t i, index_t j, index_t p) { return a(p, i) * d_y(p, j); };
  };
  SECTION("right") {
    const auto report = check([&](auto a, auto b, auto d_y, auto d_a, auto d_b) {
      add_product(to_a(b, d_y), d_a), add_product(to_b(a, d_y), d_b);
    });
    INFO(report.text());
    CHECK(report.ok());
  }
  SECTION("transposed") {
    CHECK(refused(check([&](auto a, auto b, auto d_y, auto d_a, auto d_b) {
                    add_product(
                        [=](index_t i, index_t j, index_t p) { return d_y(i, p) * b(p, j); }, d_a);
                    add_product(to_b(a, d_y), d_b);
                  }),
                  "a", error));
  }
  SECTION("exchanged") {
    const auto report = check([&](auto a, auto b, auto d_y, auto d_a, auto d_b) {
      add_product(to_a(b, d_y), d_b), add_product(to_b(a, d_y), d_a);
    });
    CHECK(refused(report, "a", error));
    CHECK(refused(report, "b", error));
  }
}

TEST_CASE("a softmax gradient without its dot product is refused") {
  EigenBackend be(1);
  const auto report = grad_check(
      {3, 6}, [&](auto x, auto y) { softmax_forward(be, x, y); },
      [&](auto x, auto d_y, auto d_x) {
        auto y = zeros<double, 2>(be, x.extents);
        softmax_forward(be, x, y.view());
        for (index_t i = 0; i < x.size(); ++i) d_x.data[i] += y.data()[i] * d_y.data[i];
      },
      GradInput("x", {3, 6}));
  CHECK(refused(report, "x", error));
}

TEST_CASE("a RAF gradient without the reset's share of the threshold is refused") {
  EigenBackend be(1);
  constexpr index_t steps = 4, cells = 6;
  const std::vector<double> leak{0.4}, threshold{0.3};
  const auto report = grad_check(
      {steps, cells},
      [&](auto x, auto l, auto t, auto r) {
        using T = typename decltype(r)::value_type;
        auto u = zeros<T, 2>(be, x.extents);
        raf_forward<EigenBackend, T>(be, x, {l, t}, {}, r, u.view());
      },
      [&](auto x, auto l, auto t, auto d_r, auto d_x, auto d_l, auto d_t) {
        auto u = zeros<double, 2>(be, x.extents), r = zeros<double, 2>(be, x.extents);
        const RafParameters<EigenBackend, double> parameters{l, t};
        raf_forward(be, x, parameters, {}, r.view(), u.view());
        auto d_threshold = zeros<double, 1>(be, {1});
        raf_backward(be, u.view(), parameters, {}, {d_r, d_x, d_l, d_threshold.view()});
        for (index_t i = 0; i < x.size(); ++i) {
          if (r.data()[i] > 0) d_t(0) -= d_r.data[i] * u.data()[i] / (t(0) * t(0));
        }
      },
      GradInput("x", {steps, cells}), GradInput("leak", {1}, leak),
      GradInput("threshold", {1}, threshold));
  CHECK(refused(report, "threshold", error));
  CHECK(report.inputs[0].refusal.empty());
  CHECK(report.inputs[1].refusal.empty());
}

TEST_CASE("a segmented recurrent gradient without that of the key norms is refused") {
  EigenBackend be(1);
  constexpr index_t M = 4, N = 7, D = 3;
  const std::vector<double> leak{0.4}, threshold{0.3};
  const SegmentedRecurrentOptions options{.segment_size = 2};
  const auto check = [&](bool with_norms) {
    return grad_check(
        {1, 1, M, D},
        [&]<class T>(View<const T, 4> q, auto k, auto v, auto w, auto l, auto t, auto y) {
          segmented_recurrent_forward<EigenBackend, T>(be, {q, k, v}, {w.data, l.data, t.data},
                                                       options, y);
        },
        [&](auto q, auto k, auto v, auto w, auto l, auto t, auto d_y, auto d_q, auto d_k, auto d_v,
            auto d_w, auto d_l, auto d_t) {
          const AttentionInputs<EigenBackend, double> in{q, k, v};
          const RecurrentParameters<const double> parameters{w.data, l.data, t.data};
          segmented_recurrent_backward(be, in, parameters, options, {d_y, d_q, d_k, d_v},
                                       {d_w.data, d_l.data, d_t.data});
          if (with_norms) return;
          // dn_c = -sum_i dC_ic C_ic / n_c with C = O - A
          auto o = zeros<double, 4>(be, q.extents), a = zeros<double, 4>(be, q.extents);
          segmented_recurrent_forward(be, in, parameters, options, o.view());
          segmented_attention_forward(be, in, options.segments(), a.view());
          for (index_t c = 0; c < D; ++c) {
            double square = 0, along = 0;
            for (index_t s = 0; s < N; ++s) square += k(0, 0, s, c) * k(0, 0, s, c);
            for (index_t i = 0; i < M; ++i) {
              along += d_y(0, 0, i, c) * (o.view()(0, 0, i, c) - a.view()(0, 0, i, c));
            }
            for (index_t s = 0; s < N; ++s) d_k(0, 0, s, c) += along / square * k(0, 0, s, c);
          }
        },
        GradInput("q", {1, 1, M, D}), GradInput("k", {1, 1, N, D}), GradInput("v", {1, 1, N, D}),
        GradInput("w", {D, D}), GradInput("leak", {1}, leak),
        GradInput("threshold", {1}, threshold));
  };
  const GradReport right = check(true);
  INFO(right.text());
  CHECK(right.ok());
  CHECK(refused(check(false), "k", error));
}

TEST_CASE("nothing is accepted that was not compared") {
  const auto copy = [](auto x, auto y) {
    for (index_t i = 0; i < y.size(); ++i) y.data[i] = x.data[i];
  };
  const auto back = [](auto, auto d_y, auto d_x) { add(d_y, d_x); };
  CHECK(grad_check({3}, copy, back, GradInput("x", {3})).ok());
  SECTION("an empty input") {
    const auto report = grad_check({3}, copy, back, GradInput("x", {0}));
    CHECK_FALSE(report.ok());
    CHECK_THAT(report.text(), ContainsSubstring("input x is empty"));
  }
  SECTION("an empty output") {
    const auto report = grad_check({0}, copy, back, GradInput("x", {3}));
    CHECK_FALSE(report.ok());
    CHECK_THAT(report.text(), ContainsSubstring("the output is empty"));
  }
  SECTION("too few values") {
    const auto report = grad_check({3}, copy, back, GradInput("x", {3}, std::vector<double>{1, 2}));
    CHECK_FALSE(report.ok());
    CHECK_THAT(report.text(), ContainsSubstring("2 values for 3 elements"));
  }
  SECTION("zero on both sides, unless it is expected") {
    const auto constant = [](auto, auto y) {
      for (index_t i = 0; i < y.size(); ++i) y.data[i] = 2.0;
    };
    const auto nothing = [](auto, auto, auto) {};
    CHECK(refused(grad_check({3}, constant, nothing, GradInput("x", {3})), "x", "expect_zero()"));
    CHECK(grad_check({3}, constant, nothing, GradInput("x", {3}).expect_zero()).ok());
    CHECK(refused(grad_check({3}, copy, back, GradInput("x", {3}).expect_zero()), "x",
                  "expected to be zero"));
    CHECK(refused(grad_check({3}, constant, back, GradInput("x", {3}).expect_zero()), "x",
                  "expected to be zero"));
  }
  SECTION("a default report") { CHECK_FALSE(GradReport{}.ok()); }
}

TEST_CASE("an op that writes where it should read is refused") {
  const auto copy = [](auto x, auto y) {
    for (index_t i = 0; i < y.size(); ++i) y.data[i] = x.data[i];
  };
  SECTION("the forward to its input") {
    const auto report = grad_check(
        {3},
        [&](auto x, auto y) {
          copy(x, y);
          using T = typename decltype(y)::value_type;
          const_cast<T*>(x.data)[0] = T(0);
        },
        [](auto, auto d_y, auto d_x) { add(d_y, d_x); }, GradInput("x", {3}));
    CHECK_FALSE(report.ok());
    CHECK_THAT(report.text(), ContainsSubstring("an input was written to"));
  }
  SECTION("the backward to d_y") {
    const auto report = grad_check(
        {3}, copy,
        [](auto, auto d_y, auto d_x) {
          add(d_y, d_x);
          const_cast<double*>(d_y.data)[2] = 0;
        },
        GradInput("x", {3}));
    CHECK_FALSE(report.ok());
    CHECK_THAT(report.text(), ContainsSubstring("the backward wrote to d_y"));
  }
  SECTION("an output that is not finite") {
    const auto report = grad_check(
        {3}, [](auto x, auto y) { y.data[0] = x.data[0] / (x.data[0] - x.data[0]); },
        [](auto, auto d_y, auto d_x) { add(d_y, d_x); }, GradInput("x", {3}));
    CHECK_FALSE(report.ok());
    CHECK_THAT(report.text(), ContainsSubstring("the output is not finite"));
  }
  SECTION("a forward that gives dual numbers other values") {
    const auto report = grad_check(
        {3},
        [&](auto x, auto y) {
          copy(x, y);
          if constexpr (std::is_same_v<decltype(y), View<double, 1>>) y.data[1] += 1e-6;
        },
        [](auto, auto d_y, auto d_x) { add(d_y, d_x); }, GradInput("x", {3}));
    CHECK_FALSE(report.ok());
    CHECK_THAT(report.text(), ContainsSubstring("other values"));
  }
}

TEST_CASE("central differences accept and refuse as well") {
  const auto cube = [](auto x, auto y) {
    for (index_t i = 0; i < y.size(); ++i) y.data[i] = x.data[i] * x.data[i] * x.data[i];
  };
  const auto backward = [](double scale) {
    return [scale](auto x, auto d_y, auto d_x) {
      using T = typename decltype(d_x)::value_type;
      for (index_t i = 0; i < x.size(); ++i) {
        d_x.data[i] += T(scale) * d_y.data[i] * x.data[i] * x.data[i];
      }
    };
  };
  const GradOptions by_double{.tolerance = 1e-7}, by_float{.tolerance = 1e-3};
  CHECK(grad_check_by_differences<double>(by_double, 1e-5, {20}, cube, backward(3),
                                          GradInput("x", {20}))
            .ok());
  CHECK(refused(grad_check_by_differences<double>(by_double, 1e-5, {20}, cube, backward(3.001),
                                                  GradInput("x", {20})),
                "x", error));
  CHECK(grad_check_by_differences<float>(by_float, 1e-2, {20}, cube, backward(3),
                                         GradInput("x", {20}))
            .ok());
  CHECK(refused(grad_check_by_differences<float>(by_float, 1e-2, {20}, cube, backward(3.02),
                                                 GradInput("x", {20})),
                "x", error));
}
