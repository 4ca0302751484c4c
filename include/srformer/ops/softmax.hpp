// SPDX-License-Identifier: Apache-2.0
// Softmax over the last axis.
//
//   y_c = exp(x_c - lse),  lse = log sum_c exp(x_c)
//   dx_c = y_c (dy_c - sum_e y_e dy_e)
//
// `softmax_row` is the same for one row of a team, as the attention functors use it.
#pragma once

#include <srformer/backend/tensor.hpp>

namespace srformer {

/// Softmax of scores[0..n) in place, returning the log of the sum of exponentials.
///   zero_scores  how many further scores of exactly 0 take part without being stored
/// A row in which nothing takes part (n = zero_scores = 0) returns 0.
template <class Team, class C>
SRF_HD C softmax_row(const Team& team, index_t n, C* scores, index_t zero_scores = 0) {
  if (n + zero_scores == 0) return C(0);
  const C start = zero_scores > 0 ? C(0) : scores[0];
  team.sync();
  const C top = team.max(n, start, [=](index_t c) { return scores[c]; });
  team.for_each(n, [=](index_t c) { scores[c] = math::exp(scores[c] - top); });
  C total = team.template sum<C>(n, [=](index_t c) { return scores[c]; });
  if (zero_scores > 0) total = total + C(static_cast<double>(zero_scores)) * math::exp(-top);
  const C scale = C(1) / total;
  team.for_each(n, [=](index_t c) { scores[c] = scores[c] * scale; });
  return top + math::log(total);
}

namespace SRF_DETAIL {

template <class T>
struct SoftmaxForward {
  const T* x;
  T* y;
  index_t columns;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void* scratch) const {
    using C = compute_t<T>;
    C* scores = static_cast<C*>(scratch);
    const T* in = x + row * columns;
    T* out = y + row * columns;
    team.for_each(columns, [=](index_t c) { scores[c] = C(in[c]); });
    softmax_row(team, columns, scores);
    team.for_each(columns, [=](index_t c) { out[c] = T(scores[c]); });
  }
};

template <class T>
struct SoftmaxBackward {
  const T *y, *d_y;
  T* d_x;
  index_t columns;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    using C = compute_t<T>;
    const T *out = y + row * columns, *d_out = d_y + row * columns;
    T* d_in = d_x + row * columns;
    const C dot = team.template sum<C>(columns, [=](index_t c) { return C(out[c]) * C(d_out[c]); });
    team.for_each(columns,
                  [=](index_t c) { d_in[c] = T(C(d_in[c]) + C(out[c]) * (C(d_out[c]) - dot)); });
  }
};

}  // namespace SRF_DETAIL

/// y = softmax(x) over the last axis.
///   x, y  [R,C], contiguous; y is what backward needs
/// Cost O(RC).
template <class B, class T>
requires BackendFor<B, T>
void softmax_forward(B& be, In<B, T, 2> x, View<T, 2, typename B::space> y) {
  check_shape("softmax_forward", "y", "[R,C]", y.extents, x.extents);
  require(x.contiguous() && y.contiguous(), "softmax_forward", "x and y must be contiguous");
  be.for_each_row(x.extent(0), x.extent(1) * static_cast<index_t>(sizeof(compute_t<T>)),
                  detail::SoftmaxForward<T>{x.data, y.data, x.extent(1)});
}

/// d_x += the gradient through y = softmax(x).
///   y, d_y, d_x  [R,C], contiguous
template <class B, class T>
requires BackendFor<B, T>
void softmax_backward(B& be, In<B, T, 2> y, In<B, T, 2> d_y, View<T, 2, typename B::space> d_x) {
  check_shape("softmax_backward", "d_y", "[R,C]", d_y.extents, y.extents);
  check_shape("softmax_backward", "d_x", "[R,C]", d_x.extents, y.extents);
  require(y.contiguous() && d_y.contiguous() && d_x.contiguous(), "softmax_backward",
          "y, d_y and d_x must be contiguous");
  be.for_each_row(y.extent(0), 0,
                  detail::SoftmaxBackward<T>{y.data, d_y.data, d_x.data, y.extent(1)});
}

}  // namespace srformer
