// SPDX-License-Identifier: Apache-2.0
// Cumulative key-value products: what each segment leaves to the others.
//
//   P_j = K_j^T Y_j,   P = sum_j P_j                                            [D,D]
//   complement   Z_j = clamp(P) - clamp(P_j)
//   segment      Z_j = clamp(P_j)
//
// Without a clamp the complement is a sum of the other segments, prefix sum plus suffix sum, not a
// difference: P - P_j would lose its digits where one segment dominates. Segments that no query sees
// enter P alone, as one sum G of their products.
//
//   dP_j = m(P) sum_l dZ_l - m(P_j) dZ_j  (complement),   m(P_j) dZ_j  (segment)
//   m(x) = [-c <= x <= c], and 1 without a clamp
//   dK_j += Y_j dP_j^T,   dY_j += K_j dP_j
//
// Soft keys, which may take the place of K here: a softmax over the source, feature by feature (Shen et al. 2021, Efficient
// Attention, which takes the same of keys).
//
//   F_tc = exp(s K_tc) / sum_u exp(s K_uc)              over the keys u of a source; 0 where it has none
//   dK_tc += s F_tc (dF_tc - sum_u F_uc dF_uc)
//
// Row c of F^T V is the mean of the values by the weights F_tc: a slot, which finds what it holds by feature c of the keys.
// The weights of all segments together add up to 1, so that P does not grow with the source.
#pragma once

#include <srformer/attention/detail/lane_executor.hpp>

namespace srformer {

enum class Product { complement, segment };

constexpr std::array<std::string_view, 2> option_names(Product) {
  return {"complement", "segment"};
}

struct KvProductOptions {
  Product product = Product::complement;
  double clamp = 0;  ///< symmetric bound on P and every P_j; 0: none
};

namespace SRF_DETAIL {

template <class V, class C>
SRF_HD V bounded(const V& x, const C& bound) {
  return where_above(x, bound, V(bound), where_above(x, C(-bound), x, V(C(-bound))));
}

/// d where a clamp lets the gradient of x pass, otherwise 0.
template <class V, class C>
SRF_HD V passed(const V& x, const C& bound, const V& d) {
  const V none(C(0));
  return where_above(x, bound, none, where_above(V(none - x), bound, none, d));
}

// Of one cell through all segments that some query sees; p[s] is the cell of P_s. Places may be shared: what is set for
// a segment is set after what is read there, and in order.

/// Sums of all other elements of a series, prefix sum plus suffix sum: first add_from_last() for every element, the last
/// first, then next() for every element in order.
template <class At>
struct SumsOfOthers {
  using V = typename At::Value;
  const At& at;
  V before, after = At::all(0);

  SRF_HD void add_from_last(index_t s, const V& x) {
    at.notes.set(s, after);
    after = V(after + x);
  }
  SRF_HD V next(index_t s, const V& x) {
    const V sum = V(before + at.notes[s]);
    before = V(before + x);
    return sum;
  }
};

/// z.set(s, Z_s) for every segment in order, from P_s and from G, the sum of the products that no query sees.
template <class At, class P, class Z>
SRF_HD void combine_products(const At& at, const KvProductOptions& options, const P& p, Z z,
                             typename At::Value unseen) {
  using V = typename At::Value;
  const auto bound = static_cast<typename At::C>(options.clamp);
  const index_t S = at.segments();
  if (options.product == Product::segment) {
    for (index_t s = 0; s < S; ++s) z.set(s, options.clamp > 0 ? bounded(V(p[s]), bound) : V(p[s]));
  } else if (options.clamp > 0) {
    V total = unseen;
    for (index_t s = 0; s < S; ++s) total = V(total + p[s]);
    total = bounded(total, bound);
    for (index_t s = 0; s < S; ++s) z.set(s, V(total - bounded(V(p[s]), bound)));
  } else {
    SumsOfOthers<At> sums{at, unseen};
    for (index_t s = S - 1; s >= 0; --s) sums.add_from_last(s, p[s]);
    for (index_t s = 0; s < S; ++s) z.set(s, sums.next(s, p[s]));
  }
}

/// dP_s from dZ_s; returns dG. p is read where products are clamped.
///   each(give)  calls give(s, dZ_s) for every segment, the last first, and stores dZ_s where d_z reads it
template <class At, class P, class Each, class Z, class DP>
SRF_HD typename At::Value combine_products_backward(const At& at, const KvProductOptions& options,
                                                    const P& p, Each each, const Z& d_z,
                                                    const DP& d_p, typename At::Value unseen) {
  using V = typename At::Value;
  const auto bound = static_cast<typename At::C>(options.clamp);
  const index_t S = at.segments();
  if (options.product == Product::complement && options.clamp == 0) {
    SumsOfOthers<At> sums{at, At::all(0)};
    each([&](index_t s, const V& d) { sums.add_from_last(s, d); });
    for (index_t s = 0; s < S; ++s) d_p.set(s, sums.next(s, d_z[s]));
    return sums.before;
  }
  V all = At::all(0), total = unseen;
  each([&](index_t, const V& d) { all = V(all + d); });
  if (options.product == Product::segment) {
    for (index_t s = 0; s < S; ++s)
      d_p.set(s, options.clamp > 0 ? passed(V(p[s]), bound, V(d_z[s])) : V(d_z[s]));
    return At::all(0);
  }
  for (index_t s = 0; s < S; ++s) total = V(total + p[s]);
  all = passed(total, bound, all);
  for (index_t s = 0; s < S; ++s) d_p.set(s, V(all - passed(V(p[s]), bound, V(d_z[s]))));
  return all;
}

/// As combine_products_backward takes them: the elements of a series that are there.
template <class At, class Z>
SRF_HD auto stored_from_last(const At& at, const Z& d_z) {
  return [=, S = at.segments()](auto give) {
    for (index_t s = S - 1; s >= 0; --s) give(s, typename At::Value(d_z[s]));
  };
}

/// One cell of contiguous [S,D,D] matrices, all of which are seen.
template <class T>
struct ProductCell {
  using C = T;
  using Value = T;
  index_t count;
  CellSeries<T, T> notes;
  SRF_HD index_t segments() const { return count; }
  SRF_HD static C all(double x) { return static_cast<C>(x); }
};

/// P_j = K_j^T Y_j for the segments of a source, to p [S,D,D].
template <class Team, class T, class C>
SRF_HD void segment_products(const Team& team, const SegmentRule& rule, index_t D, Rows<const T> k,
                             Rows<const T> y, C* p) {
  for (index_t j = 0; j < rule.count(); ++j) {
    const index_t t = rule.first_key(j);
    team.gemm(Op::transpose, Op::none, D, D, rule.keys(j), C(1), k.row(t), k.stride, y.row(t),
              y.stride, C(0), p + j * D * D, D);
  }
}

template <class T, class Space>
struct KvProductForward {
  using C = compute_t<T>;
  View<const T, 4, Space> k, y;
  View<C, 5, Space> z;
  ScoreMask<C, Space> mask;
  SegmentedOptions segments;
  KvProductOptions options;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = k.extent(1), N = k.extent(2), D = k.extent(3), b = lane / H, h = lane % H;
    const SegmentRule rule = segment_rule(segments, mask, b, z.extent(2), N);
    const index_t cells = D * D, S = rule.count(), absent = (z.extent(2) - S) * cells;
    C *out = z[b][h].data, *notes = static_cast<C*>(scratch);
    segment_products(team, rule, D, head_rows(k, b, h), head_rows(y, b, h), out);
    const KvProductOptions o = options;
    team.for_each(cells, [=](index_t c) {
      const CellSeries<C, C> cell{out + c, cells};
      combine_products(ProductCell<C>{S, {notes + c, cells}}, o, cell, cell, C(0));
    });
    team.for_each(absent, [=](index_t c) { out[S * cells + c] = C(0); });
  }
};

template <class T, class Space>
struct KvProductBackward {
  using C = compute_t<T>;
  View<const T, 4, Space> k, y;
  View<const C, 5, Space> d_z;
  View<T, 4, Space> d_k, d_y;
  ScoreMask<C, Space> mask;
  SegmentedOptions segments;
  KvProductOptions options;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = k.extent(1), N = k.extent(2), D = k.extent(3), b = lane / H, h = lane % H;
    const SegmentRule rule = segment_rule(segments, mask, b, d_z.extent(2), N);
    const index_t cells = D * D, S = rule.count();
    const Rows<const T> key = head_rows(k, b, h), value = head_rows(y, b, h);
    const Rows<T> d_key = head_rows(d_k, b, h), d_value = head_rows(d_y, b, h);
    C *p = static_cast<C*>(scratch), *d_p = p + S * cells, *notes = d_p + S * cells;
    if (options.clamp > 0) segment_products(team, rule, D, key, value, p);
    const C* given = d_z[b][h].data;
    const KvProductOptions o = options;
    team.for_each(cells, [=](index_t c) {
      const ProductCell<C> at{S, {notes + c, cells}};
      const CellSeries<C, const C> d{given + c, cells};
      combine_products_backward(at, o, CellSeries<C, C>{p + c, cells}, stored_from_last(at, d), d,
                                CellSeries<C, C>{d_p + c, cells}, C(0));
    });
    // P_j = K_j^T Y_j
    for (index_t j = 0; j < S; ++j) {
      const index_t t = rule.first_key(j), n = rule.keys(j);
      const C* d = d_p + j * cells;
      team.gemm(Op::none, Op::transpose, n, D, D, C(1), value.row(t), value.stride, d, D, C(1),
                d_key.row(t), d_key.stride);
      team.gemm(Op::none, Op::none, n, D, D, C(1), key.row(t), key.stride, d, D, C(1),
                d_value.row(t), d_value.stride);
    }
  }
};

// Soft keys.

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

}  // namespace SRF_DETAIL

/// What the products are of.
///   k, y [B,H,N,D], last axes contiguous; of the mask, lengths alone count
template <class B, class T>
struct KvProductInputs {
  In<B, T, 4> k, y;
  ScoreMask<compute_t<T>, typename B::space> mask{};
};

/// The gradient of z, and those of k and y, to which backward adds.
template <class B, class T>
struct KvProductGradients {
  In<B, compute_t<T>, 5> d_z;
  Out<B, T, 4> d_k, d_y;
};

/// z_j = the key-value product of segment j, or of all the others.
///   z [B,H,S,D,D] contiguous with S = ceil(N/L); segments past the end of a shorter source are zero
/// Backward needs k and y. Cost 2 B H N D^2.
template <class B, class T>
requires BackendFor<B, T>
void kv_product_forward(B& be, const KvProductInputs<B, T>& in, const SegmentedOptions& segments,
                        const KvProductOptions& options, Out<B, compute_t<T>, 5> z) {
  detail::check_segments("kv_product_forward", segments);
  const auto& k = in.k;
  const index_t D = k.extent(3);
  const index_t S = (k.extent(2) + segments.segment_size - 1) / segments.segment_size;
  check_shape("kv_product_forward", "y", "[B,H,N,D]", in.y.extents, k.extents);
  check_shape("kv_product_forward", "z", "[B,H,S,D,D]", z.extents,
              std::array{k.extent(0), k.extent(1), S, D, D});
  const index_t scratch = S * D * D;
  be.for_each_row(
      k.extent(0) * k.extent(1), scratch * static_cast<index_t>(sizeof(compute_t<T>)),
      detail::KvProductForward<T, typename B::space>{k, in.y, z, in.mask, segments, options});
}

/// The gradients in d += those through kv_product_forward.
template <class B, class T>
requires BackendFor<B, T>
void kv_product_backward(B& be, const KvProductInputs<B, T>& in, const SegmentedOptions& segments,
                         const KvProductOptions& options, const KvProductGradients<B, T>& d) {
  detail::check_segments("kv_product_backward", segments);
  const auto& k = in.k;
  check_shape("kv_product_backward", "d_k", "[B,H,N,D]", d.d_k.extents, k.extents);
  check_shape("kv_product_backward", "d_y", "[B,H,N,D]", d.d_y.extents, k.extents);
  const index_t D = k.extent(3), scratch = 3 * d.d_z.extent(2) * D * D;
  be.for_each_row(k.extent(0) * k.extent(1), scratch * static_cast<index_t>(sizeof(compute_t<T>)),
                  detail::KvProductBackward<T, typename B::space>{k, in.y, d.d_z, d.d_k, d.d_y,
                                                                  in.mask, segments, options});
}

}  // namespace srformer
