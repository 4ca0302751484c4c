// SPDX-License-Identifier: Apache-2.0
// xtensor's arrays as views and views as xtensor adaptors, without a copy; xtensor 0.24 on, also with
// the folders that its headers lie in from 0.26 on.
//
//   as_view        xtensor, xarray, adaptor, fixed, or a strided view of one -> View<T, Rank>
//   as_xtensor     View<T, Rank> -> adaptor that owns nothing
//
// Ops need the last axis contiguous: a row-major array is, also in a slice of its other axes; a view
// with a step in the last axis is refused by the op.
#pragma once

#include <xtl/xtl_config.hpp>  // wherever xtensor's own headers lie
#if __has_include(<xtensor/containers/xadapt.hpp>)
#include <xtensor/containers/xadapt.hpp>
#include <xtensor/views/xview.hpp>
#else
#include <xtensor/xadapt.hpp>
#include <xtensor/xview.hpp>
#endif

#include <array>
#include <cstddef>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include <srformer/core/view.hpp>

namespace srformer {

namespace detail {

template <class E>
concept XtensorExpression = std::is_base_of_v<xt::xexpression<E>, E>;

template <class E>
concept XtensorInMemory = requires(E& e) {
  e.data();
  e.data_offset();
  e.strides();
};

/// The number of axes; -1 where it is known when the program runs only.
template <class E>
inline constexpr int xtensor_rank = -1;
template <class E>
requires(std::tuple_size<typename E::shape_type>::value > 0) inline constexpr int xtensor_rank<E> =
    static_cast<int>(std::tuple_size_v<typename E::shape_type>);

/// Whether an expression holds its elements itself.
template <class E>
inline constexpr bool xtensor_owns = false;
template <class S, xt::layout_type L, class A, class Tag>
inline constexpr bool xtensor_owns<xt::xarray_container<S, L, A, Tag>> = true;
template <class S, std::size_t N, xt::layout_type L, class Tag>
inline constexpr bool xtensor_owns<xt::xtensor_container<S, N, L, Tag>> = true;
template <class T, class S, xt::layout_type L, bool sharable, class Tag>
inline constexpr bool xtensor_owns<xt::xfixed_container<T, S, L, sharable, Tag>> = true;
template <class Of, class... Slices>
inline constexpr bool xtensor_owns<xt::xview<Of, Slices...>> =
    !std::is_reference_v<Of> && xtensor_owns<Of>;

}  // namespace detail

/// The elements of an xtensor expression that lies in memory. `Rank` is needed for an xarray, whose rank
/// is known when the program runs only; shape_error where it is another.
/// It points into `x`, which must outlive it; writable unless the elements are const. Costs nothing.
template <int Rank = 0, class X>
requires detail::XtensorExpression<std::remove_cvref_t<X>>
auto as_view(X&& x) {
  using E = std::remove_cvref_t<X>;
  constexpr int known = detail::xtensor_rank<E>, rank = Rank > 0 ? Rank : known;
  static_assert(detail::XtensorInMemory<E>,
                "an xtensor expression has no memory to view; evaluate it with xt::eval first");
  static_assert(rank > 0, "the rank of an xarray is not known here; write as_view<Rank>(x)");
  static_assert(known < 0 || known == rank, "the rank asked for is not that of the xtensor");
  static_assert(std::is_lvalue_reference_v<X> || !detail::xtensor_owns<E>,
                "a view of a temporary array would outlive it; give the array a name first");
  if constexpr (detail::XtensorInMemory<E> && rank > 0) {
    if (x.dimension() != static_cast<std::size_t>(rank)) {
      const std::vector<index_t> shape(x.shape().begin(), x.shape().end());
      throw shape_error("as_view: the array is " + shape_text(shape) + ", expected " +
                        std::to_string(rank) + (rank == 1 ? " axis" : " axes"));
    }
    using T = std::remove_pointer_t<decltype(x.data())>;
    View<T, rank> view;
    view.data = x.data() + x.data_offset();
    // xtensor has a stride of 0 where an extent is 1.
    index_t next = 1;
    for (int axis = rank - 1; axis >= 0; --axis) {
      const auto at = static_cast<std::size_t>(axis);
      view.extents[at] = static_cast<index_t>(x.shape()[at]);
      view.strides[at] = view.extents[at] == 1 ? next : static_cast<index_t>(x.strides()[at]);
      next = view.strides[at] * view.extents[at];
    }
    return view;
  }
}

/// An xtensor adaptor on the elements of a view, with its strides; const where the view is. It owns
/// nothing. Costs nothing.
template <class T, int Rank>
auto as_xtensor(const View<T, Rank>& view) {
  constexpr auto rank = static_cast<std::size_t>(Rank);
  std::array<std::size_t, rank> shape{};
  std::array<std::ptrdiff_t, rank> strides{};
  for (std::size_t axis = 0; axis < rank; ++axis) {
    shape[axis] = static_cast<std::size_t>(view.extents[axis]);
    strides[axis] = view.strides[axis];
  }
  // xtensor asks for as many elements as the shape has, and reaches those that the strides name.
  return xt::adapt(static_cast<T*>(view.data), static_cast<std::size_t>(view.size()),
                   xt::no_ownership(), shape, strides);
}

}  // namespace srformer
