// SPDX-License-Identifier: Apache-2.0
#include <srformer/core/view.hpp>

#include <numeric>
#include <vector>

#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

static_assert(std::is_trivially_copyable_v<View<float, 3>>);
static_assert(std::is_convertible_v<View<float, 2>, View<const float, 2>>);
static_assert(!std::is_convertible_v<View<const float, 2>, View<float, 2>>);
static_assert(!std::is_constructible_v<View<float, 2>, View<const float, 2>>);
static_assert(!std::is_convertible_v<View<float, 2>, View<const double, 2>>);
static_assert(!std::is_convertible_v<View<float, 2>, View<float, 1>>);
static_assert(
    !std::is_constructible_v<View<const float, 2, cuda_space>, View<float, 2, host_space>>);
static_assert(!std::is_constructible_v<View<float, 2, host_space>, View<float, 2, cuda_space>>);
static_assert(std::is_convertible_v<View<float, 2, cuda_space>, View<const float, 2, cuda_space>>);
static_assert(std::is_same_v<decltype(std::declval<View<const float, 1>>()(0)), const float&>);
static_assert(std::is_same_v<View<const float, 1>::value_type, float>);

TEST_CASE("views are row-major and find their elements") {
  std::vector<int> values(24);
  std::iota(values.begin(), values.end(), 0);
  const View<int, 3> x(values.data(), {2, 3, 4});
  CHECK(x.strides == std::array<index_t, 3>{12, 4, 1});
  CHECK(x.size() == 24);
  CHECK(x.contiguous());
  CHECK(x(1, 2, 3) == 23);
  CHECK(x(1, 0, 2) == 14);
  x(0, 1, 1) = 99;
  CHECK(values[5] == 99);
  CHECK(&x.as_const()(0, 1, 1) == &values[5]);
  CHECK(x[1](2, 3) == 23);
  CHECK(x[1][2](3) == 23);
  CHECK(x[1].extents == std::array<index_t, 2>{3, 4});
}

TEST_CASE("slices keep their strides") {
  std::vector<int> values(24);
  std::iota(values.begin(), values.end(), 0);
  const View<int, 3> x(values.data(), {2, 3, 4});
  const auto middle = x.slice(1, 1, 2);
  CHECK(middle.extents == std::array<index_t, 3>{2, 2, 4});
  CHECK(middle(0, 0, 0) == 4);
  CHECK(middle(1, 1, 3) == 23);
  CHECK_FALSE(middle.contiguous());
  CHECK(x.slice(0, 1, 1).contiguous());
  CHECK(x.slice(2, 1, 1)(1, 2, 0) == 21);
  CHECK(x.slice(0, 1, 0).size() == 0);
}

TEST_CASE("axes of extent one and empty views are contiguous whatever their strides") {
  int value = 0;
  CHECK(View<int, 2>(&value, {1, 1}, {7, 9}).contiguous());
  CHECK(View<int, 2>(&value, {3, 1}, {1, 9}).contiguous());
  CHECK_FALSE(View<int, 2>(&value, {3, 2}, {3, 1}).contiguous());
  CHECK_FALSE(View<int, 2>(&value, {2, 3}, {1, 2}).contiguous());
  CHECK(View<int, 2>(&value, {0, 3}).contiguous());
  CHECK(View<int, 2>().size() == 0);
}

TEST_CASE("reshape keeps the elements or says why it cannot") {
  std::vector<int> values(12);
  std::iota(values.begin(), values.end(), 0);
  const View<int, 2> x(values.data(), {3, 4});
  const auto y = x.reshape<3>({2, 3, 2});
  CHECK(y(1, 0, 1) == 7);
  CHECK_THROWS_AS((x.reshape<1>({13})), shape_error);
  CHECK_THROWS_WITH((x.reshape<1>({13})),
                    ContainsSubstring("View::reshape: [3,4] has not as many elements as [13]"));
  CHECK_THROWS_WITH((x.slice(1, 0, 2).reshape<1>({6})),
                    ContainsSubstring("[3,2] has gaps, wanted [6]"));
}

TEST_CASE("rows of heads are seen as heads of rows") {
  // B 2, length 3, H 2, D 2, with one column before the heads and one behind.
  std::vector<int> values(2 * 3 * 6);
  std::iota(values.begin(), values.end(), 0);
  const auto x = as_heads(View<int, 2>(values.data(), {6, 6}), 2, 2, 2, 1);
  CHECK(x.extents == std::array<index_t, 4>{2, 2, 3, 2});
  for (index_t b = 0; b < 2; ++b) {
    for (index_t h = 0; h < 2; ++h) {
      for (index_t i = 0; i < 3; ++i) {
        for (index_t c = 0; c < 2; ++c) CHECK(x(b, h, i, c) == (b * 3 + i) * 6 + 1 + h * 2 + c);
      }
    }
  }
}
