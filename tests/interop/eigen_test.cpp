// SPDX-License-Identifier: Apache-2.0
#include <srformer/interop/eigen.hpp>

#include <numeric>
#include <vector>

#include "support/catch.hpp"

using namespace srformer;

namespace {

std::vector<double> counted(index_t count) {
  std::vector<double> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), 0.0);
  return values;
}

/// That view and matrix are the same memory, element by element.
template <class T, class Matrix>
void check_same_elements(const View<T, 2>& view, const Matrix& matrix) {
  REQUIRE(view.extents == std::array<index_t, 2>{matrix.rows(), matrix.cols()});
  REQUIRE(view.size() > 0);
  for (index_t r = 0; r < matrix.rows(); ++r) {
    for (index_t c = 0; c < matrix.cols(); ++c) CHECK(&view(r, c) == &matrix.coeffRef(r, c));
  }
}

}  // namespace

TEST_CASE("a row-major Eigen matrix is a contiguous view") {
  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> matrix(3, 4);
  matrix.setRandom();
  View<double, 2> view = as_view(matrix);
  check_same_elements(view, matrix);
  CHECK(view.contiguous());
  view(2, 1) = 7;
  CHECK(matrix(2, 1) == 7);
  const auto& constant = matrix;
  static_assert(std::is_same_v<decltype(as_view(constant)), View<const double, 2>>);
  CHECK(as_view(constant).data == matrix.data());
}

TEST_CASE("a column-major Eigen matrix is a view with strides, and its transpose is contiguous") {
  Eigen::MatrixXf matrix = Eigen::MatrixXf::Random(3, 4);
  check_same_elements(as_view(matrix), matrix);
  CHECK(as_view(matrix).strides == std::array<index_t, 2>{1, 3});
  CHECK_FALSE(as_view(matrix).contiguous());
  const View<float, 2> rows = as_view(matrix.transpose());
  CHECK(rows.extents == std::array<index_t, 2>{4, 3});
  CHECK(rows.contiguous());
  CHECK(&rows(3, 1) == &matrix(1, 3));
}

TEST_CASE("blocks, maps, arrays and fixed sizes of Eigen are viewed where they lie") {
  Eigen::Matrix<double, 5, 6, Eigen::RowMajor> matrix;
  matrix.setRandom();
  const View<double, 2> block = as_view(matrix.block(1, 2, 3, 4));
  CHECK(&block(0, 0) == &matrix(1, 2));
  CHECK(block.strides == std::array<index_t, 2>{6, 1});
  Eigen::ArrayXXd array = Eigen::ArrayXXd::Random(2, 3);
  check_same_elements(as_view(array), array);
  const std::vector<double> values = counted(24);
  const Eigen::Map<const Eigen::MatrixXd, 0, Eigen::Stride<8, 2>> map(values.data(), 3, 3);
  static_assert(std::is_same_v<decltype(as_view(map)), View<const double, 2>>);
  CHECK(as_view(map)(2, 1) == 12);  // 2 * 2 + 1 * 8
  // The last axis of a single column has a stride of 1, as ops ask for.
  CHECK(as_view(matrix.block(0, 0, 5, 1)).strides == std::array<index_t, 2>{6, 1});
  CHECK(as_view(matrix.block(0, 0, 1, 5)).contiguous());
}

TEST_CASE("vectors of Eigen are views of one axis") {
  Eigen::VectorXd vector = Eigen::VectorXd::Random(5);
  View<double, 1> view = as_view(vector);
  CHECK(view.extent(0) == 5);
  CHECK(&view(4) == &vector(4));
  Eigen::MatrixXd matrix = Eigen::MatrixXd::Random(3, 4);
  const View<double, 1> row = as_view(matrix.row(1));
  CHECK(row.strides == std::array<index_t, 1>{3});
  CHECK(&row(2) == &matrix(1, 2));
  const Eigen::RowVectorXi none;
  CHECK(as_view(none).size() == 0);
}

TEST_CASE("a view is an Eigen map with its strides and constness") {
  std::vector<double> values = counted(60);
  const View<double, 3> all(values.data(), {3, 4, 5});
  auto matrix = as_eigen(all[1]);
  check_same_elements(all[1], matrix);
  matrix *= 2;
  CHECK(all(1, 0, 1) == 42);
  // Every second column of every second row: products see the strides.
  const View<double, 2> some(values.data(), {2, 3}, {10, 2});
  CHECK(as_eigen(some).sum() == 0 + 2 + 4 + 10 + 12 + 14);
  CHECK((as_eigen(some) * as_eigen(some).transpose())(0, 1) == 0 * 10 + 2 * 12 + 4 * 14);
  const View<double, 1> column(values.data() + 1, {3}, {5});
  CHECK(as_eigen(column) == Eigen::Vector3d(1, 6, 11));
  static_assert(std::is_const_v<std::remove_pointer_t<decltype(as_eigen(some.as_const()).data())>>);
  CHECK(as_eigen(some.as_const()) == as_eigen(some));
  CHECK(as_eigen(column.as_const()).sum() == 18);
  // And back.
  auto again = as_view(as_eigen(some));
  CHECK(again.data == some.data);
  CHECK(again.extents == some.extents);
  CHECK(again.strides == some.strides);
}
