// SPDX-License-Identifier: Apache-2.0
// What kernels in registers are made of: numbers of 16 bits widened, sums of lanes, blocks transposed, and a choice
// that computes both sides.
#include <Eigen/Core>
#include <bit>
#include <cstring>
#include <limits>
#include <srformer/backend/vector_gemm.hpp>
#include <srformer/core/dual.hpp>

#include "support/catch.hpp"
#include "support/plain_gemm.hpp"

using namespace srformer;

TEMPLATE_TEST_CASE("A register of numbers of 16 bits is what each of them is", "", Eigen::half,
                   Eigen::bfloat16) {
  using V = detail::Vector<float>::type;
  constexpr int lanes = detail::Vector<float>::lanes;
  index_t wrong = 0;
  for (std::uint32_t bits = 0; bits < 65536; bits += lanes) {
    TestType from[lanes];
    for (int l = 0; l < lanes; ++l) {
      from[l] =
          std::bit_cast<TestType>(static_cast<std::uint16_t>(bits + static_cast<unsigned>(l)));
    }
    V v;
    detail::load_computed(v, from);
    for (int l = 0; l < lanes; ++l) {
      const float expected = static_cast<float>(from[l]), got = v[l];
      const bool same = std::isnan(expected) ? std::isnan(got)
                                             : std::bit_cast<std::uint32_t>(expected) ==
                                                   std::bit_cast<std::uint32_t>(got);
      if (!same) ++wrong;
    }
  }
  REQUIRE(wrong == 0);
}

TEMPLATE_TEST_CASE("The parts of a line and the lanes of a register add up", "", float, double) {
  using V = typename detail::Vector<TestType>::type;
  constexpr int lanes = detail::Vector<TestType>::lanes, line = 64 / sizeof(TestType);
  static_assert(lanes * detail::line_vectors == line);
  V sum[detail::line_vectors];
  TestType numbers[line], expected(0);
  for (int e = 0; e < line; ++e) expected += numbers[e] = static_cast<TestType>(1 << e % 11);
  std::memcpy(sum, numbers, sizeof(sum));
  detail::add_parts(sum);
  REQUIRE(detail::sum_of_lanes(sum[0]) == expected);
}

TEMPLATE_TEST_CASE("Rows are packed as columns at every size", "", float, double) {
  for (const index_t rows : {1, 3, 4, 7, 8, 9, 16, 21}) {
    for (const index_t columns : {1, 2, 4, 5, 8, 11, 16, 19}) {
      const index_t ld = rows + 3, stride = columns + 2;
      const auto from = tests::matrix<TestType>(5, columns, rows, ld);
      std::vector<TestType> to(static_cast<std::size_t>(rows * stride),
                               std::numeric_limits<TestType>::quiet_NaN());
      detail::pack_transposed(rows, columns, from.data(), ld, to.data(), stride);
      index_t wrong = 0;
      for (index_t p = 0; p < rows; ++p) {
        for (index_t q = 0; q < stride; ++q) {
          const TestType x = to[p * stride + q];
          if (q < columns ? x != from[q * ld + p] : !std::isnan(x)) ++wrong;
        }
      }
      CAPTURE(rows, columns);
      REQUIRE(wrong == 0);
    }
  }
}

TEMPLATE_TEST_CASE("A choice takes the bits of one side, whatever the other is", "", float,
                   double) {
  using Limits = std::numeric_limits<TestType>;
  const TestType numbers[] = {TestType(0),        TestType(-0.0),      TestType(-2.5),
                              Limits::infinity(), Limits::quiet_NaN(), Limits::denorm_min()};
  using Bits = std::conditional_t<sizeof(TestType) == 4, std::uint32_t, std::uint64_t>;
  const auto bits = [](TestType x) { return std::bit_cast<Bits>(x); };
  for (const TestType yes : numbers) {
    for (const TestType no : numbers) {
      REQUIRE(bits(math::select(true, yes, no)) == bits(yes));
      REQUIRE(bits(math::select(false, yes, no)) == bits(no));
    }
  }
}

TEST_CASE("A choice between dual numbers takes the slope along") {
  const Dual<double> yes{2, 3}, no{5, 7};
  REQUIRE(math::select(true, yes, no).slope == 3);
  REQUIRE(math::select(false, yes, no).slope == 7);
}
