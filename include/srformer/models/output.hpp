// SPDX-License-Identifier: Apache-2.0
// From a decoder's output to logits and to the loss.
//
//   z = s x W^T + b,   loss = sum over rows of cross_entropy(z, label)
//   dx = s dz W,       dW += s dz^T x        (b is stored, not learned)
//
// Rows go in chunks, so that the logits of all rows are never in memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include <srformer/models/parameters.hpp>
#include <srformer/ops/cross_entropy.hpp>
#include <srformer/ops/linear.hpp>

namespace srformer {

template <class B, class T>
struct OutputProjection {
  using Space = typename B::space;
  using C = compute_t<T>;

  Parameter<B, T>* weight = nullptr;  ///< [V,E]
  double scale = 1;                   ///< s
  Parameter<B, T>* bias = nullptr;    ///< [1,V] or none

  /// z [R,V] from x [R,E].
  void forward(B& be, In<B, T, 2> x, View<T, 2, Space> z) const {
    const index_t V = weight->shape.at(0);
    detail::multiply_by_weight(be, C(scale), x, weight->weight(), C(0), z);
    if (bias != nullptr) {
      be.for_each_row(
          x.extent(0), 0,
          detail::AddRowVector<T>{z.data, static_cast<const T*>(bias->value), z.stride(0), V});
    }
  }

  /// loss_sum[0] += the sum of the token losses; where d_x [R,E] is given, d_x and the gradient of the
  /// weight += those of gradient_scale times that sum.
  ///   labels [R]  negative ones do not count
  void loss(B& be, In<B, T, 2> x, In<B, std::int32_t, 1> labels, double label_smoothing,
            double gradient_scale, View<accumulate_t<T>, 1, Space> loss_sum, T* d_x) const {
    const index_t rows = x.extent(0), V = weight->shape.at(0), E = weight->shape.at(1);
    const index_t chunk = std::max<index_t>(1, std::min<index_t>(rows, (index_t{1} << 23) / V));
    Tensor<B, T, 2> logits(be, {chunk, V});
    Tensor<B, C, 1> lse(be, {chunk});
    for (index_t first = 0; first < rows; first += chunk) {
      const index_t count = std::min(chunk, rows - first);
      const auto z = logits.view().slice(0, 0, count);
      const auto part = x.slice(0, first, count);
      const auto expected = labels.slice(0, first, count);
      const auto l = lse.view().slice(0, 0, count);
      forward(be, part, z);
      cross_entropy_forward(be, z.as_const(), expected, label_smoothing, l, loss_sum);
      if (d_x == nullptr) continue;
      cross_entropy_backward_in_place(be, z, expected, label_smoothing, l, gradient_scale);
      const T* dz = z.data;
      be.gemm(Op::none, Op::none, count, E, V, C(scale), dz, V,
              static_cast<const T*>(weight->value), E, C(1), d_x + first * E, E);
      be.gemm(Op::transpose, Op::none, V, E, count, C(scale), dz, V, part.data, part.stride(0),
              C(1), weight->gradient, E);
    }
  }
};

}  // namespace srformer
