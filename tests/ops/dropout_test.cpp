// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include <srformer/ops/dropout.hpp>

#include <srformer/backend/eigen.hpp>
#include <srformer/testing/grad_check.hpp>

#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;
using Values = std::vector<double>;

namespace {

/// y + dropout(x) with y filled by `start`.
Values dropped(const Values& x, const Dropout& dropout, double start = 0, int threads = 1) {
  EigenBackend be(threads);
  const auto n = static_cast<index_t>(x.size());
  Values y(x.size(), start);
  dropout_forward<EigenBackend, double>(be, View<const double, 2>(x.data(), {1, n}),
                                        View<double, 2>(y.data(), {1, n}), dropout);
  return y;
}

}  // namespace

TEST_CASE("dropout keeps the share it should, scaled so that the mean stays") {
  constexpr index_t n = 100003;
  const Values ones(n, 1.0);
  for (const double rate : {0.1, 0.5, 0.9}) {
    const Values y = dropped(ones, {rate, {3, 4}});
    index_t kept = 0, pairs = 0, other = 0;
    for (index_t i = 0; i < n; ++i) {
      other += y[i] != 0 && y[i] != 1 / (1 - rate);
      kept += y[i] != 0;
      pairs += i > 0 && y[i] != 0 && y[i - 1] != 0;
    }
    CHECK(other == 0);
    const double share = 1 - rate, error = 5 * std::sqrt(rate * share / n);
    CHECK(double(kept) / n == Approx(share).margin(error));
    CHECK(double(pairs) / n ==
          Approx(share * share).margin(2 * error));  // neighbours are independent
  }
}

TEST_CASE("the mask depends on key, stream and index alone") {
  const Values ones(9001, 1.0);
  const Dropout dropout{0.3, {3, 4}};
  const Values y = dropped(ones, dropout);
  CHECK(dropped(ones, dropout, 0, 2) == y);
  CHECK(dropped(ones, dropout, 0, 5) == y);
  CHECK(dropped(ones, {0.3, {3, 5}}) != y);
  CHECK(dropped(ones, {0.3, {4, 4}}) != y);
  CHECK(dropped(ones, dropout.at(1)) != dropped(ones, dropout.at(2)));
  // A prefix has the same mask, at any length; one element at a time as well.
  for (const index_t n : {1, 2, 3, 4, 5, 7}) {
    CHECK(dropped(Values(ones.begin(), ones.begin() + n), dropout) ==
          Values(y.begin(), y.begin() + n));
  }
  for (std::uint64_t i = 0; i < 50; ++i) CHECK(dropout.factor<double>(i) == y[i]);
}

TEST_CASE("dropout adds to its output, and in place it does not") {
  const Values x = detail::normal_values(1003, {1, 1});
  const Dropout dropout{0.4, {1, 2}};
  const Values y = dropped(x, dropout), on_top = dropped(x, dropout, 10);
  // A compiler may fuse the product and the sum, which rounds once instead of twice.
  for (std::size_t i = 0; i < x.size(); ++i) CHECK(std::abs(on_top[i] - (10 + y[i])) < 4e-15);
  EigenBackend be(2);
  Values in_place = x;
  dropout_in_place<EigenBackend, double>(be, View<double, 2>(in_place.data(), {17, 59}), dropout);
  CHECK(in_place == y);
}

TEST_CASE("backward drops what forward dropped") {
  EigenBackend be(1);
  const GradReport report = grad_check(
      {5, 7},
      [&](auto x, auto y) {
        dropout_forward(be, x, y, {0.4, {1, 2}});
      },
      [&](auto, auto d_y, auto d_x) {
        dropout_backward(be, d_y, d_x, {0.4, {1, 2}});
      },
      GradInput("x", {5, 7}));
  INFO(report.text());
  CHECK(report.ok());
  const GradReport other = grad_check(
      {5, 7},
      [&](auto x, auto y) {
        dropout_forward(be, x, y, {0.4, {1, 2}});
      },
      [&](auto, auto d_y, auto d_x) {
        dropout_backward(be, d_y, d_x, {0.4, {1, 3}});
      },
      GradInput("x", {5, 7}));
  CHECK_FALSE(other.ok());
}

TEST_CASE("a rate of zero keeps everything, and rates below 0 or from 1 on are refused") {
  const Values x = detail::normal_values(11, {1, 1});
  CHECK(dropped(x, {0, {1, 2}}) == x);
  CHECK_FALSE(Dropout{}.active());
  EigenBackend be(1);
  Values y = x;
  const View<double, 2> view(y.data(), {1, 11});
  dropout_in_place<EigenBackend, double>(be, view, {0, {1, 2}});
  CHECK(y == x);
  for (const double rate : {1.0, -0.1, 2.0, double(NAN)}) {
    CHECK_THROWS_WITH(dropped(x, {rate, {}}),
                      ContainsSubstring("dropout_forward: dropout rate must be in [0,1)"));
    CHECK_THROWS_WITH((dropout_in_place<EigenBackend, double>(be, view, {rate, {}})),
                      ContainsSubstring("dropout_in_place: dropout rate must be in [0,1)"));
  }
  auto other = zeros<double, 2>(be, {11, 1});
  CHECK_THROWS_WITH(dropout_forward(be, other.view(), view, {}),
                    ContainsSubstring("y is [1,11], expected [R,C] = [11,1]"));
}
