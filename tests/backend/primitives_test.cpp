// SPDX-License-Identifier: Apache-2.0
// What our host backends promise beyond testing/conformance.hpp, which tests/testing runs on each of them:
// recycled memory, narrow scalars, and sums that do not depend on the number of threads.
#include <Eigen/Core>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <srformer/backend/tensor.hpp>
#include <srformer/core/dual.hpp>

#include "support/backends.hpp"
#include "support/batched_gemm.hpp"

using namespace srformer;
using tests::make_backend;

namespace {

/// More than two of the chunks that loops and sums are cut into, and odd.
constexpr index_t long_size = 2 * 4096 + 37;

/// Terms of very different size, so that the order of a sum shows in its last digits.
struct UnevenTerm {
  double operator()(index_t i) const { return tests::value(7, i) * std::ldexp(1.0, int(i % 40)); }
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

TEST_CASE("a shape that no memory holds is refused, with an extent of 0 as well") {
  EigenBackend be(1);
  using Catch::Matchers::ContainsSubstring;
  constexpr index_t many = index_t{1} << 31;
  const auto make = [&](index_t a, index_t b, index_t c) {
    return Tensor<EigenBackend, double, 3>(be, {a, b, c}).view().extents;
  };
  CHECK_THROWS_WITH(make(2, -1, 3), ContainsSubstring("an extent is negative: [2,-1,3]"));
  for (const std::array<index_t, 3> shape :
       {std::array<index_t, 3>{many, many, 2}, {0, many, many}, {many, 0, many}, {many, many, 0}})
    CHECK_THROWS_WITH(make(shape[0], shape[1], shape[2]), ContainsSubstring("no memory holds"));
  CHECK(make(0, many, 4) == std::array<index_t, 3>{0, many, 4});
}

TEST_CASE("large blocks begin at a huge page, hold what is written, and are recycled") {
  EigenBackend be(2);
  const index_t n = static_cast<index_t>(AlignedSource::huge_page / sizeof(float)) + 1;
  for (int round = 0; round < 2; ++round) {
    float* p = be.allocate<float>(n);
    REQUIRE(reinterpret_cast<std::uintptr_t>(p) % AlignedSource::huge_page == 0);
    be.fill(p, n, 3.0f);
    REQUIRE(std::count(p, p + n, 3.0f) == n);
    be.deallocate(p, n);
  }
  REQUIRE(be.pool().acquisitions() == 1);
  be.trim();
  REQUIRE(be.pool().bytes_in_use() == 0);
}

namespace {
/// Half of the least normal float of each row, computed where rows are.
struct HalveLeast {
  const float* from;
  float* to;
  template <class Team>
  void operator()(const Team&, index_t row, void*) const {
    to[row] = from[row] * 0.5f;
  }
};
}  // namespace

TEMPLATE_TEST_CASE("memory filled past the caches", "", float, double, Eigen::half, std::uint8_t,
                   (std::array<float, 3>)) {
  using T = TestType;
  const auto number = [](int x) {
    if constexpr (sizeof(T) == 12) {
      return T{float(x), 2, 3};
    } else {
      return T(static_cast<T>(x));
    }
  };
  std::size_t wrong = 0, seen = 0;
  for (const index_t start : {0, 1, 2, 3, 8, 16}) {
    for (index_t n = 0; n < 70; ++n) {
      std::vector<T> x(100, number(1));
      detail::stream_fill(x.data() + start, n, number(7));
      for (index_t i = 0; i < 100; ++i) {
        wrong += x[i] != number(i >= start && i < start + n ? 7 : 1);
        ++seen;
      }
    }
  }
  CHECK(seen == 42000);
  CHECK(wrong == 0);
}

TEST_CASE("a fill that takes that way") {
  EigenBackend be(2);
  const index_t n = detail::streamed_bytes / static_cast<index_t>(sizeof(float)) + 5;
  // Four in front, so that what is filled begins where sixteen bytes do: elsewhere nothing is streamed.
  std::vector<float> x(static_cast<std::size_t>(n) + 5, 1.0f);
  REQUIRE(reinterpret_cast<std::uintptr_t>(x.data() + 4) % 16 == 0);
  be.fill(x.data() + 4, n, 2.5f);
  CHECK(x.front() == 1.0f);
  CHECK(x.back() == 1.0f);
  CHECK(std::count(x.begin(), x.end(), 2.5f) == n);
}

TEST_CASE("rows take denormal numbers for zeros, their callers do not") {
#if defined(__SSE2__)
  for (const int threads : {1, 2}) {
    EigenBackend be(threads);
    const std::vector<float> least(100, std::numeric_limits<float>::min());
    std::vector<float> halves(least.size(), 1.0f);
    be.for_each_row(index_t(least.size()), 0, HalveLeast{least.data(), halves.data()});
    CHECK(std::count(halves.begin(), halves.end(), 0.0f) == 100);
    HalveLeast{least.data(), halves.data()}(SerialTeam{}, 0, nullptr);
    CHECK(halves[0] > 0);
  }
#else
  std::puts("skipped: not an x86");
#endif
}

TEMPLATE_TEST_CASE("spaced rows lie a line further apart than they are long", "", float, double,
                   Eigen::bfloat16) {
  EigenBackend be(2);
  constexpr index_t rows = 5, columns = 64;
  auto x = SpacedRows<EigenBackend, TestType>::zeros(be, rows, columns);
  const auto view = x.view();
  CHECK(view.extents == std::array{rows, columns});
  CHECK((view.stride(0) - columns) * index_t(sizeof(TestType)) == 64);
  CHECK(view.stride(1) == 1);
  index_t wrong = 0;
  for (index_t i = 0; i < rows; ++i) {
    for (index_t c = 0; c < columns; ++c) wrong += float(view(i, c)) != 0;
  }
  CHECK(wrong == 0);
  const In<EigenBackend, TestType, 2> read = x;
  CHECK(read.data == view.data);
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

TEMPLATE_TEST_CASE("products in batches are the definition", "", ThreadTeamBackend,
                   tests::BatchedBackend) {
  TestType be;
  tests::require_batched_gemm<double, double>(be, 1e-13);
  tests::require_batched_gemm<float, float>(be, 1e-5);
  tests::require_batched_gemm<Eigen::bfloat16, float>(be, 1e-5);
  tests::require_batched_gemm<Eigen::half, Eigen::half>(be, 2e-3);
}
