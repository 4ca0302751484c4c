// SPDX-License-Identifier: Apache-2.0
// Every primitive of backend/concept.hpp on every host backend of this build.
#include <Eigen/Core>
#include <atomic>
#include <cstdint>
#include <numeric>
#include <srformer/backend/tensor.hpp>
#include <srformer/core/dual.hpp>

#include "support/backends.hpp"
#include "support/catch.hpp"
#include "support/plain_gemm.hpp"

using namespace srformer;
using tests::make_backend;

namespace {

/// More than two of the chunks that loops and sums are cut into, and odd.
constexpr index_t long_size = 2 * 4096 + 37;

struct CountVisit {
  std::int32_t* visits;
  void operator()(index_t i) const { ++visits[i]; }
};

/// Terms of very different size, so that the order of a sum shows in its last digits.
struct UnevenTerm {
  double operator()(index_t i) const { return tests::value(7, i) * std::ldexp(1.0, int(i % 40)); }
};

/// Fills its scratch with the number of the row, lets others run, and counts what is still there.
struct ClaimScratch {
  std::int32_t *kept, *misaligned;
  index_t cells;
  template <class Team>
  void operator()(const Team& team, index_t row, void* scratch) const {
    auto* mine = static_cast<std::int32_t*>(scratch);
    const auto name = static_cast<std::int32_t>(row);
    for (int round = 0; round < 3; ++round) {
      team.for_each(cells, [=](index_t i) { mine[i] = name + round; });
      std::this_thread::yield();
      const auto same = team.template sum<std::int32_t>(
          cells, [=](index_t i) { return mine[i] == name + round; });
      if (team.leader()) kept[row] += same;
    }
    if (team.leader()) misaligned[row] = reinterpret_cast<std::uintptr_t>(scratch) % 64 != 0;
  }
};

/// What a team offers, for a row of `columns` values.
struct UseTeam {
  const double *x, *matrix;
  double *sum, *top, *product;
  std::int32_t* leaders;
  index_t columns;
  template <class Team>
  void operator()(const Team& team, index_t row, void* scratch) const {
    auto* square = static_cast<double*>(scratch);
    const double* in = x + row * columns;
    team.for_each(columns, [=](index_t c) { square[c] = in[c] * in[c]; });
    const double total = team.template sum<double>(columns, [=](index_t c) { return square[c]; });
    const double most = team.max(columns, -2.0, [=](index_t c) { return in[c]; });
    if (team.leader()) sum[row] = total, top[row] = most, ++leaders[row];
    team.sync();
    // product = 2 square matrix^T, [1, 3], plus its own beginning of 1
    double* out = product + row * 3;
    team.for_each(3, [=](index_t c) { out[c] = 1; });
    team.gemm(Op::none, Op::transpose, 1, 3, columns, 2.0, square, columns, matrix, columns, 1.0,
              out, 3);
  }
};

}  // namespace

TEMPLATE_LIST_TEST_CASE("a host backend holds every scalar and is not copied", "",
                        tests::HostBackends) {
  STATIC_REQUIRE(Backend<TestType>);
  STATIC_REQUIRE(BackendFor<TestType, float>);
  STATIC_REQUIRE(BackendFor<TestType, Eigen::half>);
  STATIC_REQUIRE(BackendFor<TestType, Eigen::bfloat16>);
  STATIC_REQUIRE(BackendFor<TestType, Dual<double>>);
  STATIC_REQUIRE(!std::copyable<TestType>);
}

TEMPLATE_LIST_TEST_CASE("memory is aligned, distinct, never null, and recycled", "",
                        tests::HostBackends) {
  TestType be = make_backend<TestType>(2);
  const std::vector<index_t> sizes{0, 1, 63, 64, 1000, 100001};
  std::vector<float*> blocks;
  for (const index_t n : sizes) {
    float* p = be.template allocate<float>(n);
    REQUIRE(p != nullptr);
    REQUIRE(reinterpret_cast<std::uintptr_t>(p) % 64 == 0);
    be.fill(p, n, float(blocks.size()));
    blocks.push_back(p);
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    REQUIRE(std::count(blocks[i], blocks[i] + sizes[i], float(i)) == sizes[i]);
    be.deallocate(blocks[i], sizes[i]);
  }
  REQUIRE(be.pool().bytes_in_use() == 0);
  const auto before = be.pool().acquisitions();
  REQUIRE(before > 0);
  for (int step = 0; step < 3; ++step) {
    Tensor<TestType, float, 1> a(be, {1000}), b(be, {100001});
    be.for_each_row(5, 1000, detail::RowFunctor{});
    be.for_each_row(5, 1000, detail::RowFunctor{});
  }
  const auto first_step = be.pool().acquisitions();
  REQUIRE(first_step <= before + 1);  // the scratch of the rows
  for (int step = 0; step < 3; ++step) {
    Tensor<TestType, float, 1> a(be, {1000}), b(be, {100001});
    be.for_each_row(5, 1000, detail::RowFunctor{});
  }
  REQUIRE(be.pool().acquisitions() == first_step);
}

TEMPLATE_LIST_TEST_CASE("fill and copy reach every element and no other", "", tests::HostBackends) {
  TestType be = make_backend<TestType>(2);
  for (const index_t n : {index_t{0}, index_t{1}, long_size}) {
    Tensor<TestType, double, 1> from(be, {n + 2}), to(be, {n + 2});
    be.fill(from.data(), n + 2, -1.0);
    be.fill(from.data() + 1, n, 2.5);
    be.fill(to.data(), n + 2, -3.0);
    be.copy(to.data() + 1, from.data() + 1, n);
    REQUIRE(std::count(from.data() + 1, from.data() + 1 + n, 2.5) == n);
    REQUIRE((from.data()[0] == -1 && from.data()[n + 1] == -1));
    REQUIRE(std::count(to.data() + 1, to.data() + 1 + n, 2.5) == n);
    REQUIRE((to.data()[0] == -3 && to.data()[n + 1] == -3));
  }
}

TEMPLATE_LIST_TEST_CASE("copy converts through the compute type", "", tests::HostBackends) {
  TestType be = make_backend<TestType>(2);
  std::vector<float> values(long_size);
  for (index_t i = 0; i < long_size; ++i) values[i] = float(tests::value(1, i));
  Tensor<TestType, float, 1> wide = from_host<float, 1>(be, {long_size}, values),
                             back(be, {long_size});
  Tensor<TestType, Eigen::half, 1> stored(be, {long_size});
  Tensor<TestType, Eigen::bfloat16, 1> brain(be, {long_size});
  Tensor<TestType, double, 1> twice(be, {long_size});
  be.copy(stored.data(), wide.data(), long_size);
  be.copy(brain.data(), wide.data(), long_size);
  be.copy(twice.data(), wide.data(), long_size);
  be.copy(back.data(), twice.data(), long_size);
  REQUIRE(to_host(be, back) == values);
  be.copy(back.data(), stored.data(), long_size);
  index_t wrong = 0;
  for (index_t i = 0; i < long_size; ++i) {
    wrong += stored.data()[i] != Eigen::half(values[i]);
    wrong += brain.data()[i] != Eigen::bfloat16(values[i]);
    wrong += twice.data()[i] != double(values[i]);
    wrong += back.data()[i] != float(stored.data()[i]);
  }
  REQUIRE(wrong == 0);
  Tensor<TestType, Eigen::half, 1> narrow(be, {long_size});
  be.copy(narrow.data(), brain.data(), long_size);  // through float
  REQUIRE(narrow.data()[17] == Eigen::half(float(brain.data()[17])));
}

TEMPLATE_LIST_TEST_CASE("values go to the host and back", "", tests::HostBackends) {
  TestType be = make_backend<TestType>(2);
  const std::vector<double> values{1, -2, 3.5};
  Tensor<TestType, double, 1> x(be, {3});
  be.from_host(x.data(), values.data(), 3);
  std::vector<double> back(4, 9.0);
  be.to_host(back.data(), x.data(), 3);
  be.synchronize();
  REQUIRE(back == std::vector<double>{1, -2, 3.5, 9});
}

TEMPLATE_LIST_TEST_CASE("elements of a scalar of one's own are constructed and destroyed", "",
                        tests::HostBackends) {
  struct Counted {
    std::shared_ptr<int> held;
  };
  TestType be = make_backend<TestType>(2);
  const auto shared = std::make_shared<int>(4);
  Counted* p = be.template allocate<Counted>(5);
  be.fill(p, 5, Counted{shared});
  REQUIRE(shared.use_count() == 6);
  be.deallocate(p, 5);
  REQUIRE(shared.use_count() == 1);
}

TEMPLATE_LIST_TEST_CASE("for_each visits every index once", "", tests::HostBackends) {
  TestType be = make_backend<TestType>(2);
  for (const index_t n : {index_t{0}, index_t{1}, index_t{2}, long_size}) {
    std::vector<std::int32_t> visits(static_cast<std::size_t>(n + 1), 0);
    be.for_each(n, CountVisit{visits.data()});
    REQUIRE(std::count(visits.begin(), visits.end() - 1, 1) == n);
    REQUIRE(visits.back() == 0);
  }
}

TEMPLATE_LIST_TEST_CASE("a row has its scratch to itself", "", tests::HostBackends) {
  for (const int threads : {1, 2, 5}) {
    TestType be = make_backend<TestType>(threads);
    for (const index_t rows : {index_t{0}, index_t{1}, index_t{3}, index_t{203}}) {
      const index_t cells = 301;
      std::vector<std::int32_t> kept(static_cast<std::size_t>(rows), 0), misaligned = kept;
      be.for_each_row(rows, cells * index_t{sizeof(std::int32_t)},
                      ClaimScratch{kept.data(), misaligned.data(), cells});
      REQUIRE(std::count(kept.begin(), kept.end(), 3 * cells) == rows);
      REQUIRE(std::count(misaligned.begin(), misaligned.end(), 0) == rows);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("a team sums, finds the largest, multiplies and has one leader", "",
                        tests::HostBackends) {
  TestType be = make_backend<TestType>(2);
  for (const index_t columns : {1, 2, 16, 33}) {
    const index_t rows = 9;
    const std::vector<double> x = tests::matrix<double>(1, rows, columns, columns);
    const std::vector<double> matrix = tests::matrix<double>(2, 3, columns, columns);
    std::vector<double> sum(rows), top(rows), product(rows * 3);
    std::vector<std::int32_t> leaders(rows, 0);
    be.for_each_row(rows, columns * index_t{sizeof(double)},
                    UseTeam{x.data(), matrix.data(), sum.data(), top.data(), product.data(),
                            leaders.data(), columns});
    for (index_t r = 0; r < rows; ++r) {
      const double* in = x.data() + r * columns;
      CAPTURE(columns, r);
      REQUIRE(leaders[r] == 1);
      REQUIRE(sum[r] == Approx(std::inner_product(in, in + columns, in, 0.0)).epsilon(1e-13));
      REQUIRE(top[r] == *std::max_element(in, in + columns));
      for (index_t j = 0; j < 3; ++j) {
        double expected = 1;
        for (index_t c = 0; c < columns; ++c)
          expected += 2 * in[c] * in[c] * matrix[j * columns + c];
        REQUIRE(product[r * 3 + j] == Approx(expected).epsilon(1e-13).margin(1e-13));
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("reduce adds in an order that the number of terms decides", "",
                        tests::HostBackends) {
  for (const index_t n : {index_t{0}, index_t{1}, index_t{4096}, 5 * long_size}) {
    std::vector<double> sums;
    for (const int threads : {1, 2, 3}) {
      TestType be = make_backend<TestType>(threads);
      double sum = 0.5;
      be.reduce(n, UnevenTerm{}, &sum);
      sums.push_back(sum);
    }
    REQUIRE(sums[0] == sums[1]);
    REQUIRE(sums[0] == sums[2]);
    long double expected = 0.5L;
    for (index_t i = 0; i < n; ++i) expected += static_cast<long double>(UnevenTerm{}(i));
    REQUIRE(sums[0] == Approx(double(expected)).epsilon(1e-9));
    EigenBackend eigen(1);
    double same = 0.5;
    eigen.reduce(n, UnevenTerm{}, &same);
    REQUIRE(sums[0] == same);
  }
}

TEMPLATE_LIST_TEST_CASE("gemm is the definition", "", tests::HostBackends) {
  for (const int threads : {1, 3}) {
    TestType be = make_backend<TestType>(threads);
    for (const tests::GemmCase& p : tests::gemm_cases(150)) {
      const auto a = p.a<double>(), b = p.b<double>();
      auto c = p.c<double>();
      const auto expected = tests::plain_gemm(p, a, b, c);
      be.gemm(p.transpose_a, p.transpose_b, p.m, p.n, p.k, p.alpha, a.data(), p.lda(), b.data(),
              p.ldb(), p.beta, c.data(), p.ldc());
      CAPTURE(p.ta(), p.tb(), p.m, p.n, p.k, p.alpha, p.beta, threads);
      index_t wrong = 0;
      for (std::size_t i = 0; i < c.size(); ++i) {
        const bool same =
            std::isnan(expected[i]) ? std::isnan(c[i]) : std::abs(c[i] - expected[i]) < 1e-12;
        wrong += !same;
      }
      REQUIRE(wrong == 0);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("gemm multiplies float and stored narrow scalars", "",
                        tests::HostBackends) {
  TestType be = make_backend<TestType>(2);
  const tests::GemmCase p{Op::none, Op::transpose, 40, 70, 33, 1, 0, 1};
  const auto a = p.a<Eigen::bfloat16>(), b = p.b<Eigen::bfloat16>();
  auto c = p.c<Eigen::bfloat16>();
  const auto expected = tests::plain_gemm(p, a, b, c);
  be.gemm(p.transpose_a, p.transpose_b, p.m, p.n, p.k, 1.0f, a.data(), p.lda(), b.data(), p.ldb(),
          0.0f, c.data(), p.ldc());
  std::vector<float> wide_a(a.begin(), a.end()), wide_b(b.begin(), b.end());
  auto wide = p.c<float>();
  be.gemm(p.transpose_a, p.transpose_b, p.m, p.n, p.k, 1.0f, wide_a.data(), p.lda(), wide_b.data(),
          p.ldb(), 0.0f, wide.data(), p.ldc());
  for (index_t i = 0; i < p.m; ++i) {
    for (index_t j = 0; j < p.n; ++j) {
      const float x = float(expected[i * p.ldc() + j]);
      REQUIRE(std::abs(float(c[i * p.ldc() + j]) - x) <= 0.008f * (1 + std::abs(x)));
      REQUIRE(std::abs(wide[i * p.ldc() + j] - x) <= 0.008f * (1 + std::abs(x)));
    }
  }
}
