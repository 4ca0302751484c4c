// SPDX-License-Identifier: Apache-2.0
// Eigen's matrices as views and views as Eigen maps, without a copy.
//
//   as_view    a matrix, array, map or block -> View<T, 2>; a vector -> View<T, 1>
//   as_eigen   View<T, 2> -> Map of a row-major matrix; View<T, 1> -> Map of a column vector
//
// Ops need the last axis contiguous: a row-major matrix is, one of Eigen's usual column-major order
// is after transpose(), and is refused by the op otherwise.
#pragma once

#include <Eigen/Core>
#include <concepts>
#include <type_traits>

#include <srformer/core/view.hpp>

namespace srformer {

namespace detail {

template <class E>
concept EigenExpression = std::derived_from<E, Eigen::DenseBase<E>>;

template <class E>
inline constexpr bool eigen_in_memory = (Eigen::internal::traits<E>::Flags &
                                         Eigen::DirectAccessBit) != 0;

/// The element type, const where elements may not be written.
template <class E, bool writable>
using eigen_element =
    std::conditional_t<writable && (Eigen::internal::traits<E>::Flags & Eigen::LvalueBit) != 0,
                       typename E::Scalar, const typename E::Scalar>;

}  // namespace detail

/// The elements of an Eigen object that lies in memory: [rows, columns], or [size] of a vector.
/// It points into `x`, which must outlive it; writable unless `x` is const. Costs nothing.
template <class X>
requires detail::EigenExpression<std::remove_cvref_t<X>>
auto as_view(X&& x) {
  using E = std::remove_cvref_t<X>;
  static_assert(detail::eigen_in_memory<E>,
                "an Eigen expression has no memory to view; evaluate it into a matrix first");
  static_assert(std::is_lvalue_reference_v<X> || !std::derived_from<E, Eigen::PlainObjectBase<E>>,
                "a view of a temporary matrix would outlive it; give the matrix a name first");
  if constexpr (detail::eigen_in_memory<E>) {
    using T = detail::eigen_element<E, !std::is_const_v<std::remove_reference_t<X>>>;
    T* data = x.data();
    if constexpr (E::IsVectorAtCompileTime) {
      return View<T, 1>(data, {x.size()}, {x.size() == 1 ? 1 : x.innerStride()});
    } else {
      const index_t columns = x.cols() == 1 ? 1 : x.colStride();
      const index_t rows = x.rows() == 1 ? columns * x.cols() : x.rowStride();
      return View<T, 2>(data, {x.rows(), x.cols()}, {rows, columns});
    }
  }
}

/// A matrix of Eigen on the elements of a view [rows, columns]; const where the view is. Costs nothing.
template <class T>
auto as_eigen(const View<T, 2>& view) {
  using Matrix =
      Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Step = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  using Constness = std::conditional_t<std::is_const_v<T>, const Matrix, Matrix>;
  return Eigen::Map<Constness, 0, Step>(view.data, view.extent(0), view.extent(1),
                                        Step(view.stride(0), view.stride(1)));
}

/// A column vector of Eigen on the elements of a view [size]; const where the view is. Costs nothing.
template <class T>
auto as_eigen(const View<T, 1>& view) {
  using Vector = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, 1>;
  using Constness = std::conditional_t<std::is_const_v<T>, const Vector, Vector>;
  return Eigen::Map<Constness, 0, Eigen::InnerStride<>>(view.data, view.extent(0),
                                                        Eigen::InnerStride<>(view.stride(0)));
}

}  // namespace srformer
