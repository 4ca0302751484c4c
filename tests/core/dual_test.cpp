// SPDX-License-Identifier: Apache-2.0
#include <srformer/core/dual.hpp>

#include "support/catch.hpp"

using namespace srformer;
using D = Dual<double>;

TEST_CASE("dual numbers follow the rules of differentiation") {
  const double a = 1.7, b = -0.6, da = 0.3, db = 2.1;
  const D x(a, da), y(b, db);
  const auto check = [](const D& got, double value, double slope) {
    CHECK(got.value == Approx(value).epsilon(1e-14));
    CHECK(got.slope == Approx(slope).epsilon(1e-14));
  };
  check(x + y, a + b, da + db);
  check(x - y, a - b, da - db);
  check(x * y, a * b, da * b + a * db);
  check(x / y, a / b, (da * b - a * db) / (b * b));
  check(-x, -a, -da);
  check(3.0 * x + 1.0, 3 * a + 1, 3 * da);
  D z = x;
  z += y;
  check(z, a + b, da + db);
  z -= x;
  check(z, b, db);
  z *= x;
  check(z, a * b, da * b + a * db);
  z /= y;
  check(z, a, da);
}

TEST_CASE("functions of dual numbers have the derivatives of the textbook") {
  for (const double a : {0.2, 1.0, 1.7, 3.0}) {
    const D x(a, 0.5);
    CHECK(math::exp(x).value == std::exp(a));
    CHECK(math::exp(x).slope == Approx(0.5 * std::exp(a)).epsilon(1e-14));
    CHECK(math::log(x).slope == Approx(0.5 / a).epsilon(1e-14));
    CHECK(math::sqrt(x).slope == Approx(0.25 / std::sqrt(a)).epsilon(1e-14));
    CHECK(math::tanh(x).slope == Approx(0.5 / std::cosh(a) / std::cosh(a)).epsilon(1e-13));
    CHECK(math::erf(x).slope ==
          Approx(0.5 * 2 / std::sqrt(std::acos(-1.0)) * std::exp(-a * a)).epsilon(1e-14));
    CHECK(math::log(x).value == std::log(a));
    CHECK(math::sqrt(x).value == std::sqrt(a));
    CHECK(math::tanh(x).value == std::tanh(a));
    CHECK(math::erf(x).value == std::erf(a));
  }
}

TEST_CASE("only the values of dual numbers are compared") {
  CHECK(D(1, 5) == D(1, -5));
  CHECK(D(1, 5) < D(2, -5));
  CHECK(D(2, 0) > D(1, 9));
  const D larger = math::max(D(1, 7), D(2, 3));
  CHECK(larger.value == 2);
  CHECK(larger.slope == 3);
  CHECK(math::sqrt(D(0, 1)).slope == 0);
}

TEST_CASE("dual numbers of dual numbers give second derivatives") {
  using DD = Dual<D>;
  const DD x(D(0.4, 1), D(1, 0));
  const DD y = math::exp(x * x);  // (2 + 4 x^2) e^(x^2)
  CHECK(y.slope.slope == Approx((2 + 4 * 0.16) * std::exp(0.16)).epsilon(1e-14));
  const DD t = math::tanh(x);
  CHECK(t.slope.slope ==
        Approx(-2 * std::tanh(0.4) * (1 - std::tanh(0.4) * std::tanh(0.4))).epsilon(1e-14));
}
