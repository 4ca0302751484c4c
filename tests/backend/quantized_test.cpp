// SPDX-License-Identifier: Apache-2.0
// Weights in eight bits: what rounding costs, and products that are those of the integers.
#include <Eigen/Core>
#include <limits>
#include <srformer/backend/quantized.hpp>

#include "support/catch.hpp"
#include "support/plain_gemm.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

/// A matrix in eight bits with its memory.
struct Quantized {
  std::vector<std::int8_t> values;
  std::vector<float> scales;
  std::vector<std::int32_t> totals;
  QuantizedView view;

  Quantized(index_t rows, index_t columns, const std::vector<float>& from)
      : values(from.size()), scales(static_cast<std::size_t>(rows)), totals(scales.size()) {
    view = quantize_matrix("w", rows, columns, from.data(), values.data(), scales.data(),
                           totals.data());
  }
};

std::vector<float> product(int threads, index_t m, float alpha, const std::vector<float>& x,
                           index_t ldx, const QuantizedView& w, float beta, std::vector<float> y,
                           index_t ldy) {
  std::vector<std::uint8_t> values(static_cast<std::size_t>(m * w.columns));
  std::vector<float> scales(static_cast<std::size_t>(m));
  quantized_gemm(threads, m, alpha, x.data(), ldx, w, beta, y.data(), ldy, values.data(),
                 scales.data());
  return y;
}

bool same(const std::vector<float>& x, const std::vector<float>& y) {
  return !x.empty() && std::equal(x.begin(), x.end(), y.begin(), y.end(),
                                  [](float a, float b) { return a == b || (a != a && b != b); });
}

/// Integers from -127 to 127, of which every row has a 127: they are what they are stored as.
std::vector<float> integers(std::uint64_t seed, index_t rows, index_t columns, index_t stride) {
  std::vector<float> x = tests::matrix<float>(seed, rows, columns, stride);
  for (float& e : x) e = std::round(127 * e);
  for (index_t r = 0; r < rows; ++r) x[r * stride + r % columns] = r % 2 == 0 ? 127.0f : -127.0f;
  return x;
}

}  // namespace

TEST_CASE("A number is stored within half a step, the largest of a row exactly") {
  for (const index_t columns : {1, 3, 64, 129}) {
    const index_t rows = 7;
    std::vector<float> w = tests::matrix<float>(5, rows, columns, columns);
    for (index_t c = 0; c < columns; ++c) {
      w[c] *= 1e-30f, w[columns + c] *= 1e30f;
      w[2 * columns + c] = 0;
      w[3 * columns + c] = 0x1.0p-140f;  // all below the smallest normal number
    }
    const Quantized q(rows, columns, w);
    for (index_t r = 0; r < rows; ++r) {
      float largest = 0;
      std::int32_t total = 0;
      for (index_t c = 0; c < columns; ++c)
        largest = std::max(largest, std::abs(w[r * columns + c]));
      const float step = largest / 127;
      index_t extreme = 0;
      for (index_t c = 0; c < columns; ++c) {
        CAPTURE(columns, r, c);
        const std::int32_t stored = q.values[r * columns + c];
        REQUIRE(std::abs(stored) <= 127);
        REQUIRE(std::abs(q.view.at(r, c) - w[r * columns + c]) <= 0.5001f * step + 1e-38f);
        extreme += std::abs(stored) == 127;
        total += stored;
      }
      REQUIRE(total == q.totals[r]);
      REQUIRE((extreme >= 1) == (r != 2 && r != 3));
      if (r == 2 || r == 3) REQUIRE(q.scales[r] == 0);
    }
  }
}

TEST_CASE("Products are those of the integers at every odd size") {
  index_t tried = 0;
  for (index_t m = 1; m <= 17; ++m) {
    for (const index_t n : {1, 2, 3, 4, 5, 7, 18, 70}) {
      for (const index_t k : {1, 2, 31, 63, 64, 65, 127, 200}) {
        const index_t gap = (m + n + k) % 3, ldx = k + gap, ldy = n + gap;
        const auto x = integers(1, m, k, ldx);
        const auto w = integers(2, n, k, k);
        const Quantized q(n, k, w);
        const auto before = tests::matrix<float>(3, m, n, ldy);
        const auto got = product(1, m, 0.5f, x, ldx, q.view, 0, before, ldy);
        const auto added = product(2, m, 1.0f, x, ldx, q.view, 1, before, ldy);
        index_t wrong = 0;
        for (index_t i = 0; i < m; ++i) {
          for (index_t j = 0; j < ldy; ++j) {
            const float a = got[i * ldy + j], b = added[i * ldy + j], old = before[i * ldy + j];
            if (j >= n) {
              wrong += !(std::isnan(a) && std::isnan(b));
              continue;
            }
            double sum = 0;
            for (index_t p = 0; p < k; ++p) sum += double(x[i * ldx + p]) * double(w[j * k + p]);
            // scales are 1 within rounding; sums are up to 200 * 127^2
            wrong += std::abs(a - 0.5 * sum) <= 4e-7 * std::abs(sum) ? 0 : 1;
            wrong += std::abs(b - (sum + double(old))) <= 4e-7 * (std::abs(sum) + 1) ? 0 : 1;
          }
        }
        CAPTURE(m, n, k, gap);
        REQUIRE(wrong == 0);
        ++tried;
      }
    }
  }
  REQUIRE(tried == 17 * 8 * 8);
}

TEST_CASE("The longest sums of the largest numbers are exact") {
  const index_t k = quantized_columns;
  const std::vector<float> ones(static_cast<std::size_t>(k), 1.0f);
  std::vector<float> less(ones);
  for (float& e : less) e = -1.0f;
  const Quantized q(1, k, less);
  const auto y = product(1, 1, 1, ones, k, q.view, 0, {0.0f}, 1);
  REQUIRE(y[0] == Approx(-static_cast<double>(k)).epsilon(1e-6));
  const Quantized positive(1, k, ones);
  REQUIRE(product(1, 1, 1, ones, k, positive.view, 0, {0.0f}, 1)[0] ==
          Approx(static_cast<double>(k)).epsilon(1e-6));
}

TEST_CASE("A product is within what rounding both sides allows") {
  const index_t m = 5, n = 33, k = 300;
  const auto x = tests::matrix<float>(1, m, k, k), w = tests::matrix<float>(2, n, k, k);
  const Quantized q(n, k, w);
  const auto y = product(2, m, 1, x, k, q.view, 0, std::vector<float>(m * n), n);
  for (index_t i = 0; i < m; ++i) {
    float largest = 0;
    for (index_t p = 0; p < k; ++p) largest = std::max(largest, std::abs(x[i * k + p]));
    const double t = largest / 127;
    for (index_t j = 0; j < n; ++j) {
      double sum = 0, bound = 1e-4;
      const double s = q.scales[j];
      for (index_t p = 0; p < k; ++p) {
        const double a = x[i * k + p], b = w[j * k + p];
        sum += a * b;
        bound += std::abs(a) * s / 2 + std::abs(b) * t / 2 + s * t / 4;
      }
      REQUIRE(std::abs(y[i * n + j] - sum) <= bound);
      // and in the mean square far below: rounding errors are independent
      REQUIRE(std::abs(y[i * n + j] - sum) <= 6 * std::sqrt(double(k)) * (s + t) / 4);
    }
  }
}

TEST_CASE("A quantized row comes out the same alone, in any company and on any threads") {
  const index_t n = 301, k = 165;
  const auto w = tests::matrix<float>(2, n, k, k);
  const Quantized q(n, k, w);
  for (const index_t m : {2, 5, 16, 17, 300}) {
    const auto x = tests::matrix<float>(1, m, k, k);
    const std::vector<float> zero(static_cast<std::size_t>(m * n));
    const auto together = product(1, m, 1.25f, x, k, q.view, 0, zero, n);
    CAPTURE(m);
    for (const int threads : {2, 3, 5})
      REQUIRE(same(product(threads, m, 1.25f, x, k, q.view, 0, zero, n), together));
    for (const index_t i : {index_t{0}, m / 2, m - 1}) {
      const std::vector<float> row(x.begin() + i * k, x.begin() + (i + 1) * k);
      REQUIRE(same(product(1, 1, 1.25f, row, k, q.view, 0, std::vector<float>(n), n),
                   {together.begin() + i * n, together.begin() + (i + 1) * n}));
    }
  }
}

TEST_CASE(
    "Rows of zeros are zero, rows that are not finite NaN, weights that are not are refused") {
  const index_t n = 5, k = 70;
  auto x = tests::matrix<float>(1, 4, k, k);
  for (index_t p = 0; p < k; ++p) x[p] = 0;
  x[k + 69] = std::numeric_limits<float>::quiet_NaN();
  x[2 * k + 1] = -std::numeric_limits<float>::infinity();
  auto w = tests::matrix<float>(2, n, k, k);
  const Quantized q(n, k, w);
  const auto y = product(2, 4, 1, x, k, q.view, 0, std::vector<float>(4 * n), n);
  for (index_t j = 0; j < n; ++j) {
    REQUIRE(y[j] == 0);
    REQUIRE(std::isnan(y[n + j]));
    REQUIRE(std::isnan(y[2 * n + j]));
    REQUIRE(std::isfinite(y[3 * n + j]));
  }
  w[3 * k] = std::numeric_limits<float>::infinity();
  REQUIRE_THROWS_WITH(Quantized(n, k, w), ContainsSubstring("w: row 3 holds a number that is not"));
  const std::vector<float> wide(static_cast<std::size_t>(quantized_columns + 1));
  REQUIRE_THROWS_WITH(Quantized(1, quantized_columns + 1, wide),
                      ContainsSubstring("65537 columns are more than the 65536"));
}

TEST_CASE("Quantized products of nothing") {
  const Quantized q(2, 3, {1, 2, 3, 4, 5, 6});
  REQUIRE(product(2, 0, 1, {}, 3, q.view, 0, {7, 7}, 2) == std::vector<float>{7, 7});
}
