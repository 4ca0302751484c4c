// SPDX-License-Identifier: Apache-2.0
// View<T, Rank, Space>: a pointer with extents and strides, trivially copyable, constness in T.
// Views of the host and of a device do not convert into each other. Files compiled with different flags share the type, and
// each has its own code: what a view computes becomes part of the caller.
#pragma once

#include <array>
#include <cstddef>
#include <type_traits>

#include <srformer/core/config.hpp>
#include <srformer/core/error.hpp>

namespace srformer {

struct host_space {};
struct cuda_space {};

namespace detail {
template <class A, class B>
concept OtherThan = !std::is_same_v<A, B>;
}

/// Where and how a tensor lies in memory; it owns nothing. Strides count elements.
template <class T, int Rank, class Space = host_space>
struct View {
  static_assert(Rank >= 1, "a view has at least one axis; use Rank 1 with extent 1 for a scalar");
  using value_type = std::remove_cv_t<T>;
  using space = Space;
  static constexpr int rank = Rank;

  T* data = nullptr;
  std::array<index_t, Rank> extents{};
  std::array<index_t, Rank> strides{};

  constexpr View() = default;

  /// Row-major and contiguous.
  SRF_IN_LOOP constexpr View(T* pointer, const std::array<index_t, Rank>& shape)
      : data(pointer), extents(shape) {
    index_t stride = 1;
    for (std::size_t axis = Rank; axis-- > 0;) {
      strides[axis] = stride;
      stride *= extents[axis];
    }
  }

  SRF_IN_LOOP constexpr View(T* pointer, const std::array<index_t, Rank>& shape,
                             const std::array<index_t, Rank>& steps)
      : data(pointer), extents(shape), strides(steps) {}

  /// A view of T is a view of const T.
  template <class U>
  requires(std::is_same_v<T, const U>) SRF_IN_LOOP
      constexpr View(const View<U, Rank, Space>& other)  // NOLINT: as pointers convert
      : data(other.data), extents(other.extents), strides(other.strides) {}

  template <class U, detail::OtherThan<Space> Other>
  View(const View<U, Rank, Other>&) = delete;  // a view of another memory: use to_host or from_host

  SRF_IN_LOOP constexpr index_t extent(int axis) const {
    return extents[static_cast<std::size_t>(axis)];
  }
  SRF_IN_LOOP constexpr index_t stride(int axis) const {
    return strides[static_cast<std::size_t>(axis)];
  }

  SRF_IN_LOOP constexpr index_t size() const {
    index_t product = 1;
    for (const index_t extent_of_axis : extents) product *= extent_of_axis;
    return product;
  }

  /// Whether elements follow each other without gaps in row-major order.
  SRF_IN_LOOP constexpr bool contiguous() const {
    index_t stride = 1;
    for (std::size_t axis = Rank; axis-- > 0;) {
      if (extents[axis] != 1 && strides[axis] != stride) return false;
      stride *= extents[axis];
    }
    return true;
  }

  template <class... Index>
  requires(sizeof...(Index) == Rank) SRF_IN_LOOP constexpr T& operator()(Index... index) const {
    index_t offset = 0;
    std::size_t axis = 0;
    ((offset += static_cast<index_t>(index) * strides[axis++]), ...);
    return data[offset];
  }

  SRF_IN_LOOP constexpr View<const T, Rank, Space> as_const() const { return *this; }

  /// `count` entries of `axis` from `first` on.
  SRF_IN_LOOP constexpr View slice(int axis, index_t first, index_t count) const {
    View part = *this;
    part.data += first * stride(axis);
    part.extents[static_cast<std::size_t>(axis)] = count;
    return part;
  }

  /// One entry of the first axis.
  SRF_IN_LOOP constexpr View<T, Rank - 1, Space> operator[](index_t i) const requires(Rank > 1) {
    View<T, Rank - 1, Space> part;
    part.data = data + i * strides[0];
    for (std::size_t axis = 1; axis < Rank; ++axis) {
      part.extents[axis - 1] = extents[axis];
      part.strides[axis - 1] = strides[axis];
    }
    return part;
  }

  /// The same elements under another shape; the view must be contiguous.
  template <int NewRank>
  View<T, NewRank, Space> reshape(const std::array<index_t, NewRank>& shape) const {
    View<T, NewRank, Space> other(data, shape);
    if (other.size() != size() || !contiguous()) {
      throw shape_error("View::reshape: " + shape_text(extents) +
                        (contiguous() ? " has not as many elements as " : " has gaps, wanted ") +
                        shape_text(shape));
    }
    return other;
  }
};

/// [rows, heads*size] seen as [B, heads, length, size] without moving anything.
///   matrix  [B*length, columns], heads taken from `first_column` on
template <class T, class Space>
SRF_IN_LOOP constexpr View<T, 4, Space> as_heads(const View<T, 2, Space>& matrix, index_t batch,
                                                 index_t heads, index_t size,
                                                 index_t first_column = 0) {
  const index_t row = matrix.strides[0];
  const index_t length = batch > 0 ? matrix.extents[0] / batch : 0;
  return View<T, 4, Space>(matrix.data + first_column, {batch, heads, length, size},
                           {length * row, size, row, 1});
}

}  // namespace srformer
