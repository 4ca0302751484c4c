// SPDX-License-Identifier: Apache-2.0
// Products of every scalar against the definition.
#include <Eigen/Core>
#include <srformer/backend/gemm.hpp>
#include <srformer/core/dual.hpp>

#include "support/catch.hpp"
#include "support/plain_gemm.hpp"

using namespace srformer;
using tests::GemmCase;

namespace {

using Dual64 = Dual<double>;

double number(double x) { return x; }
double number(float x) { return double(x); }
double number(Dual64 x) { return x.value; }
template <class T>
double number(T x) {
  return double(float(x));
}

/// Relative to the sum of absolute products, which is at most k and of the order of sqrt(k).
template <class T>
constexpr double rounding = 1e-14;
template <>
constexpr double rounding<float> = 1e-6;
template <>
constexpr double rounding<Eigen::half> = 1e-3;
template <>
constexpr double rounding<Eigen::bfloat16> = 8e-3;

template <class T>
void check(const GemmCase& p, const std::vector<T>& got, const std::vector<T>& expected) {
  CAPTURE(p.ta(), p.tb(), p.m, p.n, p.k, p.alpha, p.beta, p.gap);
  REQUIRE(got.size() == expected.size());
  const double bound = rounding<T> * (2 + std::sqrt(double(p.k)));
  index_t wrong = 0;
  for (index_t i = 0; i < p.m; ++i) {
    for (index_t j = 0; j < p.ldc(); ++j) {
      const double x = number(got[i * p.ldc() + j]), y = number(expected[i * p.ldc() + j]);
      const bool same = j < p.n ? std::abs(x - y) <= bound : std::isnan(x) || x == y;
      if (!same) ++wrong;
    }
  }
  REQUIRE(wrong == 0);
}

}  // namespace

TEMPLATE_TEST_CASE("small_gemm is the definition", "", float, double, Eigen::half, Eigen::bfloat16,
                   Dual64) {
  for (const GemmCase& p : tests::gemm_cases(300)) {
    const auto a = p.a<TestType>(), b = p.b<TestType>();
    auto c = p.c<TestType>();
    const auto expected = tests::plain_gemm(p, a, b, c);
    using C = compute_t<TestType>;
    small_gemm(p.transpose_a, p.transpose_b, p.m, p.n, p.k, C(p.alpha), a.data(), p.lda(), b.data(),
               p.ldb(), C(p.beta), c.data(), p.ldc());
    check(p, c, expected);
  }
}

TEMPLATE_TEST_CASE("Large products of numbers that are widened", "", Eigen::half, Eigen::bfloat16) {
  for (const Op tb : {Op::none, Op::transpose}) {
    for (const double beta : {0.0, -0.5}) {
      for (const index_t n : {64, 513, 1030}) {
        const GemmCase p{Op::none, tb, 67, n, 65, 0.75, beta, 3};
        const auto a = p.a<TestType>(), b = p.b<TestType>();
        auto c = p.c<TestType>();
        const auto expected = tests::plain_gemm(p, a, b, c);
        large_gemm(2, p.transpose_a, p.transpose_b, p.m, p.n, p.k, float(p.alpha), a.data(),
                   p.lda(), b.data(), p.ldb(), float(p.beta), c.data(), p.ldc());
        check(p, c, expected);
        const auto wide = p.a<float>();
        auto sums = p.c<float>();
        const auto expected_sums = tests::plain_gemm(p, wide, b, sums);
        large_gemm(2, p.transpose_a, p.transpose_b, p.m, p.n, p.k, float(p.alpha), wide.data(),
                   p.lda(), b.data(), p.ldb(), float(p.beta), sums.data(), p.ldc());
        check(p, sums, expected_sums);
      }
    }
  }
}

TEMPLATE_TEST_CASE("large_gemm is the definition on one and two threads", "", float, double,
                   Eigen::half, Eigen::bfloat16, Dual64) {
  for (const GemmCase& p : tests::gemm_cases(300)) {
    const auto a = p.a<TestType>(), b = p.b<TestType>();
    for (const int threads : {1, 2}) {
      auto c = p.c<TestType>();
      const auto expected = tests::plain_gemm(p, a, b, c);
      using C = compute_t<TestType>;
      large_gemm(threads, p.transpose_a, p.transpose_b, p.m, p.n, p.k, C(p.alpha), a.data(),
                 p.lda(), b.data(), p.ldb(), C(p.beta), c.data(), p.ldc());
      check(p, c, expected);
    }
  }
}

TEMPLATE_TEST_CASE("Products of many rows by a transposed matrix", "", float, double) {
  index_t tried = 0;
  for (const index_t m : {detail::few_rows<TestType>() + 1, index_t{129}, index_t{300}}) {
    for (const index_t n : {1, 2, 15, 33, 513}) {
      for (const index_t k : {1, 2, 17, 64, 129}) {
        const double alpha = (m + n) % 2 == 0 ? 1 : 0.75, beta = double(tried % 3) / 2;
        const GemmCase p{Op::none, Op::transpose, m, n, k, alpha, beta, (n + k) % 3};
        const auto a = p.a<TestType>(), b = p.b<TestType>();
        auto c = p.c<TestType>();
        const auto expected = tests::plain_gemm(p, a, b, c);
        large_gemm(2, p.transpose_a, p.transpose_b, m, n, k, TestType(alpha), a.data(), p.lda(),
                   b.data(), p.ldb(), TestType(beta), c.data(), p.ldc());
        check(p, c, expected);
        ++tried;
      }
    }
  }
  REQUIRE(tried == 3 * 5 * 5);
}

TEMPLATE_TEST_CASE("A few rows by a transposed matrix are those of a taller product", "", float,
                   double) {
  constexpr index_t tall = 20;
  index_t tried = 0;
  for (const Op ta : {Op::none, Op::transpose}) {
    for (const index_t m : {3, 4, 5, 7, 8, 9}) {
      for (const index_t n : {16, 17, 23, 24, 64}) {
        for (const index_t k : {1, 7, 8, 64, 127, 129, 260}) {
          for (const double beta : {0.0, 1.0, -0.5}) {
            const GemmCase p{ta, Op::transpose, tall, n, k, 0.75, beta, (n + k) % 3};
            const auto a = p.a<TestType>(), b = p.b<TestType>(), before = p.c<TestType>();
            const auto expected = tests::plain_gemm(p, a, b, before);
            auto few = before, all = before;
            const auto multiply = [&](index_t rows, std::vector<TestType>& c) {
              small_gemm(ta, Op::transpose, rows, n, k, TestType(p.alpha), a.data(), p.lda(),
                         b.data(), p.ldb(), TestType(beta), c.data(), p.ldc());
            };
            multiply(tall, all);
            multiply(m, few);
            check(p, all, expected);
            index_t wrong = 0;
            for (index_t i = 0; i < tall; ++i) {
              for (index_t j = 0; j < p.ldc(); ++j) {
                const index_t at = i * p.ldc() + j;
                const TestType x = few[at], y = i < m ? all[at] : before[at];
                // Even and odd steps apart for a few rows of float; else one rounding or two.
                const bool pairs = std::is_same_v<TestType, float> && m <= detail::across_rows;
                const double bound = i >= m      ? 0
                                     : pairs     ? rounding<TestType> * (2 + std::sqrt(double(k)))
                                     : beta != 0 ? 1e-5
                                                 : 0;
                if (std::isnan(y) ? !std::isnan(x) : !(std::abs(x - y) <= bound)) ++wrong;
              }
            }
            CAPTURE(p.ta(), m, n, k, beta);
            REQUIRE(wrong == 0);
            ++tried;
          }
        }
      }
    }
  }
  REQUIRE(tried == 2 * 6 * 5 * 7 * 3);
}

TEST_CASE("products of duals carry the slopes of both sides") {
  const GemmCase p{Op::transpose, Op::none, 3, 4, 5, 1, 0};
  auto a = p.a<Dual64>(), b = p.b<Dual64>(), c = p.c<Dual64>();
  for (std::size_t i = 0; i < a.size(); ++i) a[i].slope = tests::value(4, index_t(i));
  for (std::size_t i = 0; i < b.size(); ++i) b[i].slope = tests::value(5, index_t(i));
  small_gemm(p.transpose_a, p.transpose_b, p.m, p.n, p.k, Dual64(1), a.data(), p.lda(), b.data(),
             p.ldb(), Dual64(0), c.data(), p.ldc());
  for (index_t i = 0; i < p.m; ++i) {
    for (index_t j = 0; j < p.n; ++j) {
      double slope = 0;
      for (index_t s = 0; s < p.k; ++s) {
        const Dual64 x = a[s * p.lda() + i], y = b[s * p.ldb() + j];
        slope += x.slope * y.value + x.value * y.slope;
      }
      REQUIRE(c[i * p.ldc() + j].slope == Approx(slope).epsilon(1e-13));
    }
  }
}

TEST_CASE("narrow operands are multiplied and summed in float") {
  // 1 + 300 * 2^-9 is lost term by term in bfloat16, whose spacing at 1 is 2^-7.
  const index_t k = 301;
  std::vector<Eigen::bfloat16> a(k, Eigen::bfloat16(0.0625f)), b(k, Eigen::bfloat16(0.03125f));
  a[0] = b[0] = Eigen::bfloat16(1.0f);
  float wide = 0;
  Eigen::bfloat16 narrow(0.0f);
  small_gemm(Op::none, Op::none, 1, 1, k, 1, a.data(), k, b.data(), 1, 0, &wide, 1);
  small_gemm(Op::none, Op::none, 1, 1, k, 1, a.data(), k, b.data(), 1, 0, &narrow, 1);
  REQUIRE(wide == 1 + 300 * 0.001953125f);
  REQUIRE(float(narrow) == Approx(wide).epsilon(0.004));
}

TEST_CASE("operands of different scalars are multiplied in the type of the result") {
  const GemmCase p{Op::none, Op::transpose, 5, 7, 9, 0.5, 0, 2};
  const auto a = p.a<float>();
  const auto b = p.b<Eigen::bfloat16>();
  auto c = p.c<float>();
  const auto expected = tests::plain_gemm(p, a, b, c);
  small_gemm(p.transpose_a, p.transpose_b, p.m, p.n, p.k, 0.5f, a.data(), p.lda(), b.data(),
             p.ldb(), 0.0f, c.data(), p.ldc());
  check(p, c, expected);
}
