// SPDX-License-Identifier: Apache-2.0
#include <srformer/attention/full.hpp>
#include <srformer/backend/eigen.hpp>
#include <srformer/interop/xtensor.hpp>

#include <algorithm>
#include <numeric>
#include <vector>

#include "support/catch.hpp"
#if __has_include(<xtensor/views/xstrided_view.hpp>)
#include <xtensor/views/xstrided_view.hpp>
#else
#include <xtensor/xstrided_view.hpp>
#endif

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

/// [2,3,4] of 0, 1, 2, ...
xt::xtensor<double, 3> counted() {
  xt::xtensor<double, 3> x = xt::zeros<double>({2, 3, 4});
  std::iota(x.begin(), x.end(), 0.0);
  return x;
}

using Extents3 = std::array<index_t, 3>;

}  // namespace

TEST_CASE("an xtensor is a view of its memory, and const is carried through") {
  xt::xtensor<double, 3> x = counted();
  View<double, 3> view = as_view(x);
  CHECK(view.data == x.data());
  CHECK(view.extents == Extents3{2, 3, 4});
  CHECK(view.contiguous());
  view(1, 2, 3) = -1;
  CHECK(x(1, 2, 3) == -1);
  const auto& constant = x;
  static_assert(std::is_same_v<decltype(as_view(constant)), View<const double, 3>>);
  CHECK(as_view(constant).data == x.data());
}

TEST_CASE("extents of one have the stride of a row-major array, as ops ask for") {
  xt::xtensor<float, 4> x = xt::zeros<float>({2, 1, 3, 1});
  CHECK(as_view(x).strides == std::array<index_t, 4>{3, 3, 1, 1});
  xt::xtensor<float, 1> one = xt::zeros<float>({1});
  CHECK(as_view(one).strides == std::array<index_t, 1>{1});
}

TEST_CASE("an xarray is viewed under the rank asked for, and refused under another") {
  xt::xarray<double> x = counted();
  CHECK(as_view<3>(x).data == x.data());
  CHECK(as_view<3>(x).extents == Extents3{2, 3, 4});
  CHECK_THROWS_AS(as_view<2>(x), shape_error);
  CHECK_THROWS_WITH(as_view<2>(x), "as_view: the array is [2,3,4], expected 2 axes");
  CHECK_THROWS_WITH(as_view<1>(x), ContainsSubstring("expected 1 axis"));
}

TEST_CASE("slices of xtensor are viewed where they lie, with their strides") {
  xt::xtensor<double, 3> x = counted();
  const View<double, 3> part = as_view(xt::view(x, xt::all(), xt::range(1, 3), xt::range(0, 4, 2)));
  CHECK(part.extents == Extents3{2, 2, 2});
  CHECK(part.strides == Extents3{12, 4, 2});
  CHECK(&part(1, 1, 1) == &x(1, 2, 2));
  const View<double, 2> row = as_view(xt::view(x, 1));
  CHECK(row.contiguous());
  CHECK(&row(0, 0) == &x(1, 0, 0));
  const View<double, 3> turned = as_view<3>(xt::strided_view(x, {xt::range(2, 0, -1)}));
  CHECK(turned.extents[0] == 1);
  CHECK(&turned(0, 1, 2) == &x(1, 1, 2));
  const xt::xtensor<double, 3>& constant = x;
  static_assert(std::is_same_v<decltype(as_view(xt::view(constant, 1))), View<const double, 2>>);
}

TEST_CASE("column-major and adapted arrays keep their strides") {
  xt::xtensor<double, 2, xt::layout_type::column_major> x = xt::zeros<double>({3, 4});
  CHECK(as_view(x).strides == std::array<index_t, 2>{1, 3});
  std::vector<float> values(6);
  auto adapted = xt::adapt(values, {2, 3});
  const auto view = as_view<2>(adapted);
  CHECK(view.data == values.data());
  CHECK(view.extents == std::array<index_t, 2>{2, 3});
  xt::xtensor_fixed<int, xt::xshape<2, 3>> fixed;
  CHECK(as_view(fixed).data == fixed.data());
}

TEST_CASE("a view is an xtensor adaptor with its strides and constness") {
  std::vector<double> values(24);
  std::iota(values.begin(), values.end(), 0.0);
  const View<double, 3> view(values.data(), {2, 3, 4});
  auto x = as_xtensor(view);
  CHECK((x == counted()));
  x(1, 0, 2) = 99;
  CHECK(values[14] == 99);
  x(1, 0, 2) = 14;
  const View<double, 2> gaps(values.data() + 1, {2, 3}, {12, 4});
  CHECK((as_xtensor(gaps) == xt::xtensor<double, 2>{{1, 5, 9}, {13, 17, 21}}));
  CHECK(xt::sum(as_xtensor(gaps))() == 66);
  static_assert(std::is_same_v<decltype(as_xtensor(gaps.as_const()).data()), const double*>);
  CHECK((as_xtensor(gaps.as_const()) == as_xtensor(gaps)));
  // Assignment through the adaptor reaches what the view reaches, and nothing between.
  as_xtensor(gaps) = xt::zeros<double>({2, 3});
  CHECK(std::count(values.begin(), values.end(), 0.0) == 7);
  // And back.
  const View<double, 2> again = as_view(as_xtensor(gaps));
  CHECK(again.data == gaps.data);
  CHECK(again.strides == gaps.strides);
}

TEST_CASE("an extent of one broadcasts, whatever the stride of the view") {
  std::vector<double> values{1, 2, 3};
  const View<double, 2> row(values.data(), {1, 3}, {3, 1});
  const xt::xtensor<double, 2> tall = as_xtensor(row) + xt::zeros<double>({2, 3});
  CHECK((tall == xt::xtensor<double, 2>{{1, 2, 3}, {1, 2, 3}}));
}

TEST_CASE("empty arrays and views stay empty") {
  xt::xtensor<double, 2> none = xt::zeros<double>({0, 3});
  CHECK(as_view(none).size() == 0);
  CHECK(as_view(none).extents == std::array<index_t, 2>{0, 3});
  CHECK(as_xtensor(as_view(none)).size() == 0);
}

TEST_CASE("attention runs on xtensor's memory, and refuses a step in the last axis") {
  xt::xtensor<double, 4> q = xt::ones<double>({1, 2, 3, 4}), k = xt::ones<double>({1, 2, 5, 4});
  xt::xtensor<double, 4> v = xt::ones<double>({1, 2, 5, 4}), out = xt::zeros<double>({1, 2, 3, 4});
  xt::view(v, 0, 1) *= 2;
  EigenBackend be(1);
  const AttentionInputs<EigenBackend, double> in{as_view(q), as_view(k), as_view(v)};
  full_attention_forward(be, in, as_view(out));
  CHECK(xt::allclose(xt::view(out, 0, 0), 1.0));
  CHECK(xt::allclose(xt::view(out, 0, 1), 2.0));
  const auto step = xt::view(q, xt::all(), xt::all(), xt::all(), xt::range(0, 4, 2));
  xt::xtensor<double, 4> narrow = xt::zeros<double>({1, 2, 3, 2}),
                         keys = xt::zeros<double>({1, 2, 5, 2});
  const AttentionInputs<EigenBackend, double> apart{as_view(step), as_view(keys), as_view(keys)};
  CHECK_THROWS_WITH(full_attention_forward(be, apart, as_view(narrow)),
                    ContainsSubstring("the last axis of q, k, v and out must be contiguous"));
}
