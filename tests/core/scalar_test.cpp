// SPDX-License-Identifier: Apache-2.0
#include <srformer/core/scalar.hpp>

#include <Eigen/Core>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include <srformer/core/dual.hpp>

#include "support/catch.hpp"

using namespace srformer;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

/// Units in the last place of the exact value in float, between got and exact.
double ulps(float got, double exact) {
  const float near = static_cast<float>(exact);
  const double unit = double(std::nextafter(std::abs(near), inf)) - double(std::abs(near));
  return std::abs(double(got) - exact) / unit;
}

/// The worst ulps over every `step`-th float between `from` and `to` (of the same sign).
template <class F, class G>
double worst_ulps(float from, float to, std::uint32_t step, F f, G exact) {
  double worst = 0;
  auto first = std::bit_cast<std::uint32_t>(from), last = std::bit_cast<std::uint32_t>(to);
  for (std::uint64_t bits = first; bits <= last; bits += step) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    worst = std::max(worst, ulps(f(x), exact(double(x))));
  }
  return worst;
}

}  // namespace

TEST_CASE("exp of floats is within 2 ulp wherever it is a normal number") {
  const auto f = [](float x) { return math::exp(x); };
  const auto exact = [](double x) { return std::exp(x); };
  CHECK(worst_ulps(0.0f, 88.72283f, 997, f, exact) < 2);
  CHECK(worst_ulps(-0.0f, -87.33654f, 997, f, exact) < 2);
  CHECK(worst_ulps(80.0f, 88.72283f, 11, f, exact) < 2);
  CHECK(worst_ulps(-80.0f, -87.33654f, 11, f, exact) < 2);
}

TEST_CASE("exp of floats at its ends") {
  CHECK(math::exp(0.0f) == 1.0f);
  CHECK(math::exp(-0.0f) == 1.0f);
  CHECK(math::exp(88.8f) == inf);
  CHECK(math::exp(1e30f) == inf);
  CHECK(math::exp(inf) == inf);
  CHECK(std::isfinite(math::exp(88.7228f)));
  CHECK(math::exp(-87.4f) == 0.0f);
  CHECK(math::exp(-1e30f) == 0.0f);
  CHECK(math::exp(-inf) == 0.0f);
  CHECK(std::isnan(math::exp(nan_value)));
  CHECK(math::exp(std::numeric_limits<float>::denorm_min()) == 1.0f);
  CHECK(math::exp(-std::numeric_limits<float>::denorm_min()) == 1.0f);
}

TEST_CASE("exp of floats grows with its argument") {
  float before = 0;
  index_t falls = 0, seen = 0;
  for (float x = -90; x < 89; x += 0.003f, ++seen) {
    const float y = math::exp(x);
    falls += y < before;
    before = y;
  }
  CHECK(falls == 0);
  CHECK(seen > 50000);
}

TEST_CASE("tanh of floats is within 4 ulp") {
  const auto f = [](float x) { return math::tanh(x); };
  const auto exact = [](double x) { return std::tanh(x); };
  CHECK(worst_ulps(1e-30f, 50.0f, 997, f, exact) < 4);
  CHECK(worst_ulps(-1e-30f, -50.0f, 997, f, exact) < 4);
  CHECK(worst_ulps(0.09f, 0.2f, 7, f, exact) < 4);
}

TEST_CASE("tanh of floats at its ends") {
  CHECK(math::tanh(0.0f) == 0.0f);
  CHECK(math::tanh(inf) == 1.0f);
  CHECK(math::tanh(-inf) == -1.0f);
  CHECK(math::tanh(1e30f) == 1.0f);
  CHECK(math::tanh(-20.0f) == -1.0f);
  CHECK(std::isnan(math::tanh(nan_value)));
  const float tiny = std::numeric_limits<float>::denorm_min();
  CHECK(math::tanh(tiny) == tiny);
  CHECK(math::tanh(-tiny) == -tiny);
  CHECK(math::tanh(1e-20f) == 1e-20f);
}

TEST_CASE("erf of floats is within 2 ulp") {
  const auto f = [](float x) { return math::erf(x); };
  const auto exact = [](double x) { return std::erf(x); };
  CHECK(worst_ulps(1e-37f, 10.0f, 997, f, exact) < 2);
  CHECK(worst_ulps(-1e-37f, -10.0f, 997, f, exact) < 2);
  CHECK(worst_ulps(0.9f, 1.1f, 7, f, exact) < 2);  // where one form follows the other
  CHECK(worst_ulps(3.7f, 4.1f, 7, f, exact) < 2);
}

TEST_CASE("erf of floats at its ends") {
  CHECK(math::erf(0.0f) == 0.0f);
  CHECK(std::signbit(math::erf(-0.0f)));
  CHECK(math::erf(inf) == 1.0f);
  CHECK(math::erf(-inf) == -1.0f);
  CHECK(math::erf(4.0f) == 1.0f);
  CHECK(math::erf(1e30f) == 1.0f);
  CHECK(math::erf(-1e30f) == -1.0f);
  CHECK(std::isnan(math::erf(nan_value)));
}

TEST_CASE("other scalars use the standard functions") {
  CHECK(math::exp(0.3) == std::exp(0.3));
  CHECK(math::tanh(0.3) == std::tanh(0.3));
  CHECK(math::erf(0.3) == std::erf(0.3));
  CHECK(math::log(0.3f) == std::log(0.3f));
  CHECK(math::sqrt(0.3f) == std::sqrt(0.3f));
}

TEST_CASE("finite, max and primal") {
  CHECK(math::finite(1.0f));
  CHECK(math::finite(std::numeric_limits<double>::max()));
  CHECK_FALSE(math::finite(inf));
  CHECK_FALSE(math::finite(-inf));
  CHECK_FALSE(math::finite(nan_value));
  CHECK_FALSE(math::finite(Dual<double>(HUGE_VAL)));
  CHECK(math::max(2.0, 3.0) == 3.0);
  CHECK(math::max(3.0, 2.0) == 3.0);
  CHECK(primal(Dual<double>(2, 5)) == 2.0);
  static_assert(Scalar<float> && Scalar<double> && Scalar<Dual<double>> &&
                Scalar<Dual<Dual<double>>>);
  static_assert(!Scalar<const char*>);
  static_assert(std::is_same_v<accumulate_t<float>, double>);
  static_assert(std::is_same_v<compute_t<const float>, float>);
}

TEMPLATE_TEST_CASE("half and bfloat16 become float and come back as Eigen has them", "",
                   Eigen::half, Eigen::bfloat16) {
  const auto bits_of = [](const auto& x) { return std::bit_cast<std::uint16_t>(x); };
  index_t wrong = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto x = std::bit_cast<TestType>(static_cast<std::uint16_t>(bits));
    const float wide = static_cast<float>(x), got = detail::widened(x);
    if (std::isnan(wide)) {
      wrong += !std::isnan(got) || !std::isnan(float(detail::narrowed<TestType>(got)));
    } else {
      wrong += std::bit_cast<std::uint32_t>(got) != std::bit_cast<std::uint32_t>(wide);
      wrong += bits_of(detail::narrowed<TestType>(got)) != bits;
    }
  }
  CHECK(wrong == 0);
  // Every rounding that can occur lies in the upper and lower ends of the mantissa.
  index_t seen = 0;
  for (std::uint64_t high = 0; high < 65536; ++high) {
    for (const std::uint32_t low : {0u, 1u, 0x0FFFu, 0x1000u, 0x1001u, 0x7FFFu, 0x8000u, 0x8001u}) {
      const float x = std::bit_cast<float>(static_cast<std::uint32_t>(high << 16 | low));
      if (std::isnan(x)) continue;
      wrong += bits_of(detail::narrowed<TestType>(x)) != bits_of(TestType(x));
      ++seen;
    }
  }
  CHECK(wrong == 0);
  CHECK(seen > 500000);
}
