// SPDX-License-Identifier: Apache-2.0
// Tensor<Backend, T, Rank>: memory of a backend with a shape, row-major, owned and movable.
#pragma once

#include <array>
#include <limits>
#include <utility>
#include <vector>

#include <srformer/backend/concept.hpp>

namespace srformer {

/// Parameters of an op that do not take part in deducing T: constant and writable views.
template <class B, class T, int Rank>
using In = std::type_identity_t<View<const T, Rank, typename B::space>>;
template <class B, class T, int Rank>
using Out = std::type_identity_t<View<T, Rank, typename B::space>>;

/// Owns [extents...] elements of T on a backend, which must outlive it. Uninitialised when made
/// with `Tensor(be, shape)`; `zeros(be, shape)` fills it.
template <class B, class T, int Rank>
class Tensor {
 public:
  using value_type = T;
  using space = typename B::space;

  Tensor() = default;

  /// Throws shape_error for a negative extent, and where the bytes, or the strides of a shape with an extent of 0, are no
  /// index_t.
  Tensor(B& be, const std::array<index_t, Rank>& shape)
      : backend_(&be), view_(nullptr, checked(shape)) {
    view_.data = be.template allocate<T>(view_.size());
  }

  Tensor(Tensor&& other) noexcept
      : backend_(std::exchange(other.backend_, nullptr)), view_(std::exchange(other.view_, {})) {}

  Tensor& operator=(Tensor&& other) noexcept {
    Tensor moved(std::move(other));
    std::swap(backend_, moved.backend_);
    std::swap(view_, moved.view_);
    return *this;
  }

  ~Tensor() {
    if (backend_ != nullptr) backend_->deallocate(view_.data, view_.size());
  }

  View<T, Rank, space> view() { return view_; }
  View<const T, Rank, space> view() const { return view_; }
  operator View<T, Rank, space>() { return view_; }              // NOLINT: a tensor is a view
  operator View<const T, Rank, space>() const { return view_; }  // NOLINT
  T* data() { return view_.data; }
  const T* data() const { return view_.data; }
  index_t size() const { return view_.size(); }
  index_t extent(int axis) const { return view_.extent(axis); }
  std::size_t bytes() const { return static_cast<std::size_t>(size()) * sizeof(T); }
  bool empty() const { return backend_ == nullptr; }

 private:
  static const std::array<index_t, Rank>& checked(const std::array<index_t, Rank>& shape) {
    index_t room = std::numeric_limits<index_t>::max() / static_cast<index_t>(sizeof(T));
    for (const index_t extent : shape) {
      if (extent < 0) throw shape_error("Tensor: an extent is negative: " + shape_text(shape));
      if (extent > room) throw shape_error("Tensor: no memory holds shape " + shape_text(shape));
      if (extent > 0) room /= extent;
    }
    return shape;
  }

  B* backend_ = nullptr;
  View<T, Rank, space> view_;
};

/// A tensor of zeros.
template <class T, int Rank, class B>
Tensor<B, T, Rank> zeros(B& be, const std::array<index_t, Rank>& shape) {
  Tensor<B, T, Rank> tensor(be, shape);
  be.fill(tensor.data(), tensor.size(), T(0));
  return tensor;
}

namespace detail {

/// Elements of the line of a host's cache that keeps rows apart; none on a device.
template <class T, class Space>
inline constexpr index_t row_gap = std::is_same_v<Space, host_space>
                                       ? static_cast<index_t>((64 + sizeof(T) - 1) / sizeof(T))
                                       : 0;

}  // namespace detail

/// Owns [rows, columns] elements whose rows lie one line of a host's cache further apart than they are long. Columns
/// of a projection that belong to one head would else share a few sets of every cache, where a row is as long as
/// a power of two or a small multiple of one, and drive each other out.
template <class B, class T>
class SpacedRows {
 public:
  SpacedRows() = default;
  SpacedRows(B& be, index_t rows, index_t columns)
      : memory_(be, {rows, columns + gap}), columns_(columns) {}

  static SpacedRows zeros(B& be, index_t rows, index_t columns) {
    SpacedRows made(be, rows, columns);
    be.fill(made.memory_.data(), made.memory_.size(), T(0));
    return made;
  }

  View<T, 2, typename B::space> view() { return memory_.view().slice(1, 0, columns_); }
  View<const T, 2, typename B::space> view() const { return memory_.view().slice(1, 0, columns_); }
  operator View<T, 2, typename B::space>() { return view(); }              // NOLINT: as a tensor
  operator View<const T, 2, typename B::space>() const { return view(); }  // NOLINT

 private:
  static constexpr index_t gap = detail::row_gap<T, typename B::space>;
  Tensor<B, T, 2> memory_;
  index_t columns_ = 0;
};

/// A copy of a contiguous view.
template <class B, class T, int Rank>
Tensor<B, std::remove_const_t<T>, Rank> clone(B& be, const View<T, Rank, typename B::space>& view) {
  require(view.contiguous(), "clone", "the view has gaps");
  Tensor<B, std::remove_const_t<T>, Rank> tensor(be, view.extents);
  be.copy(tensor.data(), static_cast<const std::remove_const_t<T>*>(view.data), view.size());
  return tensor;
}

/// Host values in row-major order, moved to the backend.
template <class T, int Rank, class B>
Tensor<B, T, Rank> from_host(B& be, const std::array<index_t, Rank>& shape,
                             const std::vector<T>& values) {
  Tensor<B, T, Rank> tensor(be, shape);
  require(static_cast<index_t>(values.size()) == tensor.size(), "from_host",
          std::to_string(values.size()) + " values for shape " + shape_text(shape));
  be.from_host(tensor.data(), values.data(), tensor.size());
  return tensor;
}

/// The elements of a contiguous view in row-major order, on the host.
template <class B, class T, int Rank>
std::vector<std::remove_const_t<T>> to_host(B& be, const View<T, Rank, typename B::space>& view) {
  require(view.contiguous(), "to_host", "the view has gaps");
  std::vector<std::remove_const_t<T>> values(static_cast<std::size_t>(view.size()));
  be.to_host(values.data(), static_cast<const std::remove_const_t<T>*>(view.data), view.size());
  return values;
}

template <class B, class T, int Rank>
std::vector<T> to_host(B& be, const Tensor<B, T, Rank>& tensor) {
  return to_host(be, tensor.view());
}

}  // namespace srformer
