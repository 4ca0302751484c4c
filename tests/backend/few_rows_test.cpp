// SPDX-License-Identifier: Apache-2.0
// Products of a few rows: exact on integers, within the bound of their sums on other numbers, and the same
// whatever else is in the product and on how many threads.
#include <Eigen/Core>
#include <limits>
#include <srformer/backend/few_rows.hpp>
#include <tuple>

#include "support/catch.hpp"
#include "support/plain_gemm.hpp"

using namespace srformer;
using tests::GemmCase;

namespace {

template <class T>
constexpr double epsilon = 1.2e-7;
template <>
constexpr double epsilon<double> = 2.3e-16;

/// Integers from -4 to 4: their products and sums are exact.
template <class T>
std::vector<T> integers(std::uint64_t seed, index_t rows, index_t columns, index_t stride) {
  std::vector<T> x = tests::matrix<T>(seed, rows, columns, stride);
  for (T& e : x) {
    const double number = static_cast<double>(detail::as_computed(e));
    e = T(compute_t<T>(std::round(4 * number)));
  }
  return x;
}

template <class TA, class TB, class TC>
std::vector<TC> product(int threads, const GemmCase& p, const std::vector<TA>& a,
                        const std::vector<TB>& b, std::vector<TC> c) {
  using C = compute_t<TC>;
  detail::few_rows_gemm(threads, p.m, p.n, p.k, C(p.alpha), a.data(), p.lda(), b.data(), p.ldb(),
                        C(p.beta), c.data(), p.ldc());
  return c;
}

/// The same bits, but for NaN, of which there are many.
template <class T>
bool same(const std::vector<T>& x, const std::vector<T>& y) {
  return !x.empty() && std::equal(x.begin(), x.end(), y.begin(), y.end(), [](T a, T b) {
    const auto p = detail::as_computed(a), q = detail::as_computed(b);
    return p == q || (p != p && q != q);
  });
}

GemmCase rows_case(index_t m, index_t n, index_t k, double alpha, double beta, index_t gap) {
  return {Op::none, Op::transpose, m, n, k, alpha, beta, gap};
}

}  // namespace

TEMPLATE_TEST_CASE("Products of integers are exact at every odd size", "",
                   (std::tuple<float, float, float>), (std::tuple<double, double, double>),
                   (std::tuple<Eigen::bfloat16, Eigen::bfloat16, float>),
                   (std::tuple<float, Eigen::bfloat16, Eigen::bfloat16>),
                   (std::tuple<Eigen::half, Eigen::half, Eigen::half>),
                   (std::tuple<Eigen::half, float, float>)) {
  using TA = std::tuple_element_t<0, TestType>;
  using TB = std::tuple_element_t<1, TestType>;
  using TC = std::tuple_element_t<2, TestType>;
  index_t tried = 0;
  for (index_t m = 1; m <= 17; ++m) {
    for (const index_t n : {1, 2, 3, 4, 5, 7, 18, 70}) {
      for (const index_t k : {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 200}) {
        const index_t gap = (m + n + k) % 3;
        const double beta = (m + k) % 2 == 0 ? 0 : -1;
        const GemmCase p = rows_case(m, n, k, 0.5, beta, gap);
        const auto a = integers<TA>(1, m, k, p.lda());
        const auto b = integers<TB>(2, n, k, p.ldb());
        auto c = p.c<TC>();
        const auto expected = tests::plain_gemm(p, a, b, c);
        CAPTURE(m, n, k, beta, gap);
        // The definition of 16 bits may round its sum twice.
        if constexpr (sizeof(TC) == 2) {
          const auto got = product(1, p, a, b, c);
          index_t wrong = 0;
          for (index_t i = 0; i < m; ++i) {
            for (index_t j = 0; j < n; ++j) {
              const float x = float(got[i * p.ldc() + j]), y = float(expected[i * p.ldc() + j]);
              wrong += std::abs(x - y) <= 0.008f * (1 + std::abs(y)) ? 0 : 1;
            }
          }
          REQUIRE(wrong == 0);
        } else if (beta == 0) {
          REQUIRE(same(product(1, p, a, b, c), expected));
        } else {
          const auto got = product(1, p, a, b, c);
          double worst = 0;
          for (index_t i = 0; i < m; ++i) {
            for (index_t j = 0; j < n; ++j)
              worst = std::max(worst, std::abs(static_cast<double>(got[i * p.ldc() + j] -
                                                                   expected[i * p.ldc() + j])));
          }
          REQUIRE(worst <= 4e3 * epsilon<TC>);  // of one addition to numbers up to 1600
        }
        ++tried;
      }
    }
  }
  REQUIRE(tried == 17 * 8 * 11);
}

TEMPLATE_TEST_CASE("A sum is within the bound of its parts", "", float, double) {
  for (const index_t k : {5, 129, 2048}) {
    const GemmCase p = rows_case(3, 9, k, 1, 0, 0);
    const auto a = p.a<TestType>(), b = p.b<TestType>();
    const auto got = product(2, p, a, b, p.c<TestType>());
    for (index_t i = 0; i < p.m; ++i) {
      for (index_t j = 0; j < p.n; ++j) {
        long double sum = 0, size = 0;
        for (index_t s = 0; s < k; ++s) {
          const long double term =
              static_cast<long double>(a[i * k + s]) * static_cast<long double>(b[j * k + s]);
          sum += term, size += std::abs(term);
        }
        const double bound =
            epsilon<TestType> * (static_cast<double>(k) / 8 + 5) * static_cast<double>(size);
        CAPTURE(k, i, j);
        REQUIRE(std::abs(static_cast<double>(got[i * p.n + j] - sum)) <= bound);
      }
    }
  }
}

TEMPLATE_TEST_CASE("A row comes out the same alone, in any company and on any threads", "", float,
                   double, Eigen::bfloat16, Eigen::half) {
  const index_t n = 301, k = 165;
  const GemmCase one = rows_case(1, n, k, 1.25, 0, 0);
  const auto b = one.b<TestType>();
  for (const index_t m : {2, 3, 4, 5, 8, 13, 16, 17, 40}) {
    const GemmCase all = rows_case(m, n, k, 1.25, 0, 0);
    const auto a = all.a<TestType>();
    const auto together = product(1, all, a, b, all.c<TestType>());
    CAPTURE(m);
    for (const int threads : {2, 3, 5})
      REQUIRE(same(product(threads, all, a, b, all.c<TestType>()), together));
    for (index_t i = 0; i < m; ++i) {
      const std::vector<TestType> row(a.begin() + i * k, a.begin() + (i + 1) * k);
      const auto alone = product(1, one, row, b, one.c<TestType>());
      REQUIRE(same(alone, {together.begin() + i * n, together.begin() + (i + 1) * n}));
    }
  }
}

TEMPLATE_TEST_CASE("One and two rows come out the same from memory as from the cache", "",
                   (std::tuple<float, float, float>), (std::tuple<double, double, double>),
                   (std::tuple<Eigen::bfloat16, Eigen::bfloat16, float>),
                   (std::tuple<float, Eigen::bfloat16, Eigen::bfloat16>),
                   (std::tuple<Eigen::half, Eigen::half, Eigen::half>)) {
  using TA = std::tuple_element_t<0, TestType>;
  using TB = std::tuple_element_t<1, TestType>;
  using TC = std::tuple_element_t<2, TestType>;
  using C = compute_t<TC>;
  for (const index_t m : {1, 2}) {
    for (const index_t n : {1, 3, 4, 21}) {
      for (const index_t k : {1, 15, 16, 17, 33, 200}) {
        for (const double beta : {0.0, -0.5}) {
          CAPTURE(m, n, k, beta);
          const GemmCase p = rows_case(m, n, k, 1.25, beta, 0);
          const auto a = p.a<TA>();
          const auto b = p.b<TB>();
          auto from_cache = p.c<TC>(), from_memory = from_cache;
          const auto multiply = [&](std::vector<TC>& c, bool streamed) {
            detail::dots_gemm(m, n, k, C(p.alpha), a.data(), p.lda(), b.data(), p.ldb(), C(p.beta),
                              c.data(), p.ldc(), streamed);
          };
          multiply(from_cache, false);
          multiply(from_memory, true);
          REQUIRE(same(from_memory, from_cache));
        }
      }
    }
  }
}

TEST_CASE("Large products of one and two rows stream, others do not") {
  CHECK(detail::streams<float>(1, 512, 128, 128));
  CHECK(detail::streams<float>(2, 512, 128, 128));
  CHECK(detail::streams<Eigen::bfloat16>(1, 1024, 128, 128));
  CHECK_FALSE(detail::streams<float>(3, 512, 128, 128));
  CHECK_FALSE(detail::streams<float>(1, 511, 128, 128));
  CHECK_FALSE(detail::streams<Eigen::bfloat16>(1, 512, 128, 128));
  CHECK_FALSE(detail::streams<float>(1, 512, 128, 129));
}

TEST_CASE("NaN and infinity stay in their row and column") {
  const GemmCase p = rows_case(6, 21, 37, 1, 0, 0);
  auto a = p.a<float>(), b = p.b<float>();
  a[2 * 37 + 36] = std::numeric_limits<float>::quiet_NaN();
  b[20 * 37 + 3] = std::numeric_limits<float>::infinity();
  const auto c = product(2, p, a, b, p.c<float>());
  for (index_t i = 0; i < 6; ++i) {
    for (index_t j = 0; j < 21; ++j) {
      const float x = c[i * 21 + j];
      CAPTURE(i, j);
      REQUIRE(std::isnan(x) == (i == 2));
      REQUIRE(std::isinf(x) == (i != 2 && j == 20));
    }
  }
}

TEST_CASE("Products of nothing") {
  std::vector<float> c{7, 7, 7, 7};
  const float one = 1;
  detail::few_rows_gemm(2, 0, 2, 3, 1.0f, &one, 3, &one, 3, 0.0f, c.data(), 2);
  detail::few_rows_gemm(2, 2, 0, 3, 1.0f, &one, 3, &one, 3, 0.0f, c.data(), 2);
  REQUIRE(c == std::vector<float>{7, 7, 7, 7});
  detail::few_rows_gemm(2, 2, 2, 0, 1.0f, &one, 0, &one, 0, 0.5f, c.data(), 2);
  REQUIRE(c == std::vector<float>{3.5f, 3.5f, 3.5f, 3.5f});
}
