// SPDX-License-Identifier: Apache-2.0
// Keys whose products are averages of the values: a softmax over the source, feature by feature (Shen et al. 2021,
// Efficient Attention, which takes the same of keys).
//
//   F_tc = exp(s K_tc) / sum_u exp(s K_uc)              over the keys u of a source; 0 where it has none
//   dK_tc += s F_tc (dF_tc - sum_u F_uc dF_uc)
//
// Row c of F^T V is the mean of the values by the weights F_tc: a slot, which finds what it holds by feature c of the keys.
// A sum over the segments of the source, as attention/kv_product.hpp has it, is complete: the weights of all segments
// together add up to 1, so that it does not grow with the source.
#pragma once

#include <srformer/attention/attend.hpp>
#include <srformer/backend/tensor.hpp>

namespace srformer::SRF_DETAIL {

/// F of one source and head, [N,D] in and out. Scratch: 2 D elements of compute_t<T>.
template <class T, class Space>
struct SoftKeys {
  using C = compute_t<T>;
  View<const T, 4, Space> k;
  View<T, 4, Space> features;
  const index_t* lengths;  ///< [B] keys of each source; null: N
  C scale;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = k.extent(1), N = k.extent(2), D = k.extent(3), b = lane / H, h = lane % H;
    const index_t n = lengths == nullptr || lengths[b] > N ? N : lengths[b];
    const Rows<const T> from = head_rows(k, b, h);
    const Rows<T> to = head_rows(features, b, h);
    const C s = scale;
    C *top = static_cast<C*>(scratch), *sum = top + D;
    if (n > 0) {
      const T* first = from.row(0);
      team.for_each(D, [=](index_t c) { top[c] = s * C(first[c]), sum[c] = C(0); });
    }
    for (index_t t = 1; t < n; ++t) {
      const T* row = from.row(t);
      team.for_each(D, [=](index_t c) { top[c] = math::max(top[c], C(s * C(row[c]))); });
    }
    for (index_t t = 0; t < n; ++t) {
      const T* row = from.row(t);
      T* out = to.row(t);
      team.for_each(D, [=](index_t c) {
        const C e = math::exp(s * C(row[c]) - top[c]);
        sum[c] = sum[c] + e;
        out[c] = T(e);
      });
    }
    if (n > 0) team.for_each(D, [=](index_t c) { sum[c] = C(1) / sum[c]; });
    for (index_t t = 0; t < n; ++t) {
      T* out = to.row(t);
      team.for_each(D, [=](index_t c) { out[c] = T(C(out[c]) * sum[c]); });
    }
    for (index_t t = n; t < N; ++t) {
      T* out = to.row(t);
      team.for_each(D, [=](index_t c) { out[c] = T(C(0)); });
    }
  }
};

/// dK += of one source and head, from F and dF. Scratch: D elements of compute_t<T>.
template <class T, class Space>
struct SoftKeysBackward {
  using C = compute_t<T>;
  View<const T, 4, Space> features, d_features;
  View<T, 4, Space> d_k;
  const index_t* lengths;  ///< [B] keys of each source; null: N
  C scale;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = d_k.extent(1), N = d_k.extent(2), D = d_k.extent(3), b = lane / H,
                  h = lane % H, n = lengths == nullptr || lengths[b] > N ? N : lengths[b];
    const Rows<const T> weights = head_rows(features, b, h), d = head_rows(d_features, b, h);
    const Rows<T> to = head_rows(d_k, b, h);
    const C s = scale;
    C* along = static_cast<C*>(scratch);
    team.for_each(D, [=](index_t c) { along[c] = C(0); });
    for (index_t t = 0; t < n; ++t) {
      const T *f = weights.row(t), *d_f = d.row(t);
      team.for_each(D, [=](index_t c) { along[c] = along[c] + C(f[c]) * C(d_f[c]); });
    }
    for (index_t t = 0; t < n; ++t) {
      const T *f = weights.row(t), *d_f = d.row(t);
      T* out = to.row(t);
      team.for_each(
          D, [=](index_t c) { out[c] = T(C(out[c]) + s * C(f[c]) * (C(d_f[c]) - along[c])); });
    }
  }
};

/// F of all sources and heads, [B,H,N,D].
///   lengths  [B] keys of each source, on the backend; null: N
/// Cost O(B H N D), with B H N D exponentials; parallel over sources and heads.
template <class B, class T>
Tensor<B, T, 4> soft_keys(B& be, In<B, T, 4> k, const index_t* lengths, double scale) {
  using C = compute_t<T>;
  Tensor<B, T, 4> features(be, k.extents);
  be.for_each_row(
      k.extent(0) * k.extent(1), 2 * k.extent(3) * static_cast<index_t>(sizeof(C)),
      SoftKeys<T, typename B::space>{k, features.view(), lengths, static_cast<C>(scale)});
  return features;
}

/// d_k += the gradient through soft_keys.
template <class B, class T>
void soft_keys_backward(B& be, In<B, T, 4> features, In<B, T, 4> d_features, const index_t* lengths,
                        double scale, Out<B, T, 4> d_k) {
  using C = compute_t<T>;
  be.for_each_row(d_k.extent(0) * d_k.extent(1), d_k.extent(3) * static_cast<index_t>(sizeof(C)),
                  SoftKeysBackward<T, typename B::space>{features, d_features, d_k, lengths,
                                                         static_cast<C>(scale)});
}

}  // namespace srformer::SRF_DETAIL
