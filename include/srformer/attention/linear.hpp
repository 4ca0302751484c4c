// SPDX-License-Identifier: Apache-2.0
// Linear attention (Katharopoulos et al. 2020), feature map f(x) = elu(x) + 1:
//
//   KV = sum_j f(k_j)^T v_j,  z = sum_j f(k_j)
//   out_i = f(q_i) KV / d_i,  d_i = f(q_i) . z + 1e-6
//
//   dn_i = dout_i / d_i,  dd_i = -(dout_i . out_i) / d_i         n_i = f(q_i) KV
//   df(q_i) = dn_i KV^T + dd_i z,  dKV = sum_i f(q_i)^T dn_i,  dz = sum_i dd_i f(q_i)
//   df(k_j) = v_j dKV^T + dz,  dv_j += f(k_j) dKV,  df/dx = 1 where x > 0, else f(x)
//
// It takes no bias. Nothing is saved; cost 2 (M + N) D^2 per head forward, three times that backward.
// Backends with gemm_batched take it in stages over all heads, on rows of features [lane, rows, D]; others a head at a
// time.
#pragma once

#include <srformer/attention/full.hpp>
#include <srformer/attention/segments.hpp>
#include <srformer/backend/device_loops.hpp>

namespace srformer {

namespace SRF_DETAIL {

inline constexpr double linear_epsilon = 1e-6;
inline constexpr index_t linear_rows = 64;  // rows whose features are in memory at a time

template <class C>
SRF_IN_LOOP C feature(const C& x) {
  if constexpr (std::is_same_v<C, float>) return math::select(x > 0, x + 1.0f, math::exp(x));
  return math::positive(x) ? x + C(1) : math::exp(x);
}

template <class T, class Space>
struct LinearInputs {
  using C = compute_t<T>;
  View<const T, 4, Space> q, k, v;
  ScoreMask<C, Space> mask;

  /// features [count, D] of the rows from `first` on.
  template <class Team>
  SRF_HD void features(const Team& team, Rows<const T> x, index_t first, index_t count,
                       C* out) const {
    const index_t D = q.extent(3);
    for (index_t r = 0; r < count; ++r) {
      const T* from = x.row(first + r);
      C* to = out + r * D;
      team.for_each(D, [=](index_t c) { to[c] = feature(C(from[c])); });
    }
  }

  /// KV [D,D] and z [D] of one source and head.
  template <class Team>
  SRF_HD void sums(const Team& team, index_t b, index_t h, C* phi, C* kv, C* z) const {
    const index_t D = q.extent(3), keys = mask.keys(b, k.extent(2));
    const Rows<const T> key = head_rows(k, b, h), value = head_rows(v, b, h);
    team.for_each(D * D, [=](index_t c) { kv[c] = C(0); });
    team.for_each(D, [=](index_t c) { z[c] = C(0); });
    for (index_t first = 0; first < keys; first += linear_rows) {
      const index_t count = keys - first < linear_rows ? keys - first : linear_rows;
      features(team, key, first, count, phi);
      team.gemm(Op::transpose, Op::none, D, D, count, C(1), phi, D, value.from(first).data,
                value.stride, C(1), kv, D);
      for (index_t r = 0; r < count; ++r) {
        const C* row = phi + r * D;
        team.for_each(D, [=](index_t c) { z[c] = z[c] + row[c]; });
      }
    }
  }
};

template <class T, class Space>
struct LinearForward {
  using C = compute_t<T>;
  LinearInputs<T, Space> in;
  View<T, 4, Space> out;

  /// One row is one source and head.
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.q.extent(1), M = in.q.extent(2), D = in.q.extent(3);
    const index_t b = lane / H, h = lane % H;
    C *kv = static_cast<C*>(scratch), *z = kv + D * D, *phi = z + D, *n = phi + linear_rows * D;
    in.sums(team, b, h, phi, kv, z);
    const Rows<T> o = head_rows(out, b, h);
    for (index_t first = 0; first < M; first += linear_rows) {
      const index_t count = M - first < linear_rows ? M - first : linear_rows;
      in.features(team, head_rows(in.q, b, h), first, count, phi);
      team.gemm(Op::none, Op::none, count, D, D, C(1), phi, D, kv, D, C(0), n, D);
      for (index_t r = 0; r < count; ++r) {
        const C *f = phi + r * D, *from = n + r * D;
        T* to = o.row(first + r);
        const C d =
            team.template sum<C>(D, [=](index_t c) { return f[c] * z[c]; }) + C(linear_epsilon);
        team.for_each(D, [=](index_t c) { to[c] = T(from[c] / d); });
      }
    }
  }
};

/// [KV; z] as one matrix [D+1,D] per source and head.
template <class T, class Space>
struct LinearPrepare {
  using C = compute_t<T>;
  LinearInputs<T, Space> in;  // q only lends its head size
  View<C, 5, Space> states;   // [B,H,1,D+1,D]
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.k.extent(1), D = in.k.extent(3), b = lane / H, h = lane % H;
    C* kv = &states(b, h, 0, 0, 0);
    in.sums(team, b, h, static_cast<C*>(scratch), kv, kv + D * D);
  }
};

template <class T, class Space>
struct LinearStep {
  using C = compute_t<T>;
  AttentionStep<T, Space> in;
  View<const C, 5, Space> states;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.heads(), D = in.head_size(), K = in.queries();
    const index_t g = lane / H, h = lane % H, b = in.source(g);
    const LinearInputs<T, Space> features{in.q, in.k, in.v, in.context.mask};
    const C *kv = &states(b, h, 0, 0, 0), *z = kv + D * D;
    C *f = static_cast<C*>(scratch), *n = f + K * D;
    features.features(team, head_rows(in.q, g, h), 0, K, f);
    team.gemm(Op::none, Op::none, K, D, D, C(1), f, D, kv, D, C(0), n, D);
    for (index_t r = 0; r < K; ++r) {
      const C *f_r = f + r * D, *n_r = n + r * D;
      const C d =
          team.template sum<C>(D, [=](index_t c) { return f_r[c] * z[c]; }) + C(linear_epsilon);
      T* to = head_rows(in.out, g, h).row(r);
      team.for_each(D, [=](index_t c) { to[c] = T(n_r[c] / d); });
    }
  }
};

template <class T, class Space>
struct LinearBackward {
  using C = compute_t<T>;
  LinearInputs<T, Space> in;
  View<const T, 4, Space> d_out;
  View<T, 4, Space> d_q, d_k, d_v;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.q.extent(1), M = in.q.extent(2), D = in.q.extent(3);
    const index_t b = lane / H, h = lane % H, keys = in.mask.keys(b, in.k.extent(2));
    C *kv = static_cast<C*>(scratch), *z = kv + D * D, *d_kv = z + D, *d_z = d_kv + D * D;
    C *phi = d_z + D, *n = phi + linear_rows * D, *d_phi = n + linear_rows * D;
    in.sums(team, b, h, phi, kv, z);
    team.for_each(D * D, [=](index_t c) { d_kv[c] = C(0); });
    team.for_each(D, [=](index_t c) { d_z[c] = C(0); });

    const Rows<const T> q = head_rows(in.q, b, h), d_o = head_rows(d_out, b, h);
    const Rows<T> dq = head_rows(d_q, b, h);
    for (index_t first = 0; first < M; first += linear_rows) {
      const index_t count = M - first < linear_rows ? M - first : linear_rows;
      in.features(team, q, first, count, phi);
      team.gemm(Op::none, Op::none, count, D, D, C(1), phi, D, kv, D, C(0), n, D);
      for (index_t r = 0; r < count; ++r) {
        // out = n / d
        const C* f = phi + r * D;
        C *n_i = n + r * D, *d_f = d_phi + r * D;
        const T* d_o_i = d_o.row(first + r);
        const C d =
            team.template sum<C>(D, [=](index_t c) { return f[c] * z[c]; }) + C(linear_epsilon);
        const C along = team.template sum<C>(D, [=](index_t c) { return C(d_o_i[c]) * n_i[c]; });
        const C d_d = -along / (d * d);
        team.for_each(D, [=](index_t c) {
          n_i[c] = C(d_o_i[c]) / d;  // from here on dn
          d_f[c] = d_d * z[c];
          d_z[c] = d_z[c] + d_d * f[c];
        });
      }
      // n = f(q) KV
      team.gemm(Op::transpose, Op::none, D, D, count, C(1), phi, D, n, D, C(1), d_kv, D);
      team.gemm(Op::none, Op::transpose, count, D, D, C(1), n, D, kv, D, C(1), d_phi, D);
      add_through_feature(team, q, first, count, phi, d_phi, dq);
    }
    const Rows<const T> k = head_rows(in.k, b, h), v = head_rows(in.v, b, h);
    const Rows<T> dk = head_rows(d_k, b, h), dv = head_rows(d_v, b, h);
    for (index_t first = 0; first < keys; first += linear_rows) {
      const index_t count = keys - first < linear_rows ? keys - first : linear_rows;
      in.features(team, k, first, count, phi);
      // KV += f(k)^T v, z += f(k)
      team.gemm(Op::none, Op::transpose, count, D, D, C(1), v.from(first).data, v.stride, d_kv, D,
                C(0), d_phi, D);
      for (index_t r = 0; r < count; ++r) {
        C* d_f = d_phi + r * D;
        team.for_each(D, [=](index_t c) { d_f[c] = d_f[c] + d_z[c]; });
      }
      team.gemm(Op::none, Op::none, count, D, D, C(1), phi, D, d_kv, D, C(1), dv.from(first).data,
                dv.stride);
      add_through_feature(team, k, first, count, phi, d_phi, dk);
    }
  }

 private:
  /// d_x += d_phi f'(x).
  template <class Team>
  SRF_HD void add_through_feature(const Team& team, Rows<const T> x, index_t first, index_t count,
                                  const C* phi, const C* d_phi, Rows<T> d_x) const {
    const index_t D = in.q.extent(3);
    for (index_t r = 0; r < count; ++r) {
      const T* at = x.row(first + r);
      T* to = d_x.row(first + r);
      const C *f = phi + r * D, *d_f = d_phi + r * D;
      team.for_each(D, [=](index_t c) {
        const C slope = math::select(math::positive(C(at[c])), C(1), f[c]);
        to[c] = T(C(to[c]) + d_f[c] * slope);
      });
    }
  }
};

// ---- in stages over all heads, for backends with gemm_batched ---------------------------------------

/// f(x) of the queries, or of the keys beside their values, as [lane, rows, D]; zeros where there is none.
template <class T, class Space>
struct GatherFeatures {
  using C = compute_t<T>;
  View<const T, 4, Space> x;
  ScoreMask<C, Space> mask;  // of queries without lengths
  index_t first_lane, rows;
  C* phi;
  View<const T, 4, Space> v{};
  C* values = nullptr;
  SRF_HD void operator()(index_t i) const {
    const index_t D = x.extent(3), H = x.extent(1), c = i % D, t = i / D % rows;
    const index_t lane = first_lane + i / D / rows, b = lane / H, h = lane % H;
    const bool there = t < mask.keys(b, x.extent(2));
    phi[i] = there ? feature(C(x(b, h, t, c))) : C(0);
    if (values != nullptr) values[i] = there ? C(v(b, h, t, c)) : C(0);
  }
};

/// [KV; z] [D+1,D] of the source that a lane's queries belong to.
template <class C>
struct LinearStateOf {
  const C* states;
  index_t head_size, heads, first_lane = 0;
  const std::int32_t* sources = nullptr;  ///< as in AttentionStep
  SRF_HD const C* operator()(index_t i) const {
    const index_t lane = first_lane + i, group = lane / heads;
    const index_t b = sources == nullptr ? group : static_cast<index_t>(sources[group]);
    return states + (b * heads + lane % heads) * (head_size + 1) * head_size;
  }
};

/// One query: out_i = n_i / d_i.
template <class T, class Space>
struct DivideLinear {
  using C = compute_t<T>;
  LinearStateOf<C> states;
  const C *phi, *n;
  View<T, 4, Space> out;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t D = states.head_size, M = out.extent(2), H = states.heads, i = row / M;
    const index_t lane = states.first_lane + i;
    const C *f = phi + row * D, *from = n + row * D, *z = states(i) + D * D;
    const C d = team.template sum<C>(D, [=](index_t c) { return f[c] * z[c]; }) + C(linear_epsilon);
    T* to = head_rows(out, lane / H, lane % H).row(row % M);
    team.for_each(D, [=](index_t c) { to[c] = T(from[c] / d); });
  }
};

/// One query: n_i becomes dn_i; dd_i, and dd_i z as the first part of df(q_i). Rows past the queries give zeros.
template <class T, class Space>
struct DivideLinearBackward {
  using C = compute_t<T>;
  LinearStateOf<C> states;
  index_t rows;
  View<const T, 4, Space> d_out;
  const C* phi;
  C *n, *d_d, *d_phi;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t D = states.head_size, H = states.heads, lane = row / rows;
    const index_t at = states.first_lane + lane, i = row % rows;
    const bool there = i < d_out.extent(2);
    const C *f = phi + row * D, *z = states(lane) + D * D;
    C *n_i = n + row * D, *d_f = d_phi + row * D;
    const T* d_o = head_rows(d_out, at / H, at % H).row(there ? i : 0);
    // out = n / d
    const C d = team.template sum<C>(D, [=](index_t c) { return f[c] * z[c]; }) + C(linear_epsilon);
    const C along = team.template sum<C>(D, [=](index_t c) { return C(d_o[c]) * n_i[c]; });
    const C slope = there ? -along / (d * d) : C(0);
    team.for_each(D, [=](index_t c) {
      n_i[c] = there ? C(d_o[c]) / d : C(0);
      d_f[c] = slope * z[c];
    });
    if (team.leader()) d_d[row] = slope;
  }
};

/// dd_i f(q_i), and f(k_j).
template <class C>
struct ScaledFeature {
  const C *phi, *scale;  // null: 1
  index_t head_size;
  SRF_HD C operator()(index_t row, index_t c) const {
    const C x = phi[row * head_size + c];
    return scale == nullptr ? x : scale[row] * x;
  }
};

/// d_x += (d_phi + dz) f'(x), and, where given, d_v += d_values.
template <class T, class Space>
struct AddThroughFeature {
  using C = compute_t<T>;
  View<const T, 4, Space> x;
  ScoreMask<C, Space> mask;
  index_t first_lane, rows;
  const C *phi, *d_phi;
  View<T, 4, Space> d_x;
  const C* d_states = nullptr;  // [lane, D+1, D] of these lanes
  const C* d_values = nullptr;
  View<T, 4, Space> d_v{};
  SRF_HD void operator()(index_t i) const {
    const index_t D = x.extent(3), H = x.extent(1), c = i % D, t = i / D % rows;
    const index_t lane = i / D / rows, b = (first_lane + lane) / H, h = (first_lane + lane) % H;
    if (t >= mask.keys(b, x.extent(2))) return;
    const C d_z = d_states == nullptr ? C(0) : d_states[(lane * (D + 1) + D) * D + c];
    const C slope = math::positive(C(x(b, h, t, c))) ? C(1) : phi[i];
    T& to = d_x(b, h, t, c);
    to = T(C(to) + (d_phi[i] + d_z) * slope);
    if (d_values == nullptr) return;
    T& to_v = d_v(b, h, t, c);
    to_v = T(C(to_v) + d_values[i]);
  }
};

/// Some lanes in stages. `queries` and `keys` are how many rows of each they have.
template <class B, class T>
struct LinearRun {
  using C = compute_t<T>;
  using Space = typename B::space;
  using Matrices = Following<const C>;
  B& be;
  LinearInputs<T, Space> in;
  index_t first, lanes, D = in.k.extent(3), H = in.k.extent(1);

  /// Calls f(run) for `lanes` lanes of `rows` rows, as many at a time as fit.
  template <class F>
  static void for_each(B& be, const LinearInputs<T, Space>& in, index_t lanes, index_t rows, F f) {
    const index_t size = RowParts(rows).rows() * in.k.extent(3);
    const index_t each = std::max<index_t>(1, scores_at_a_time<B> / size);
    for (index_t first = 0; first < lanes; first += each)
      f(LinearRun{be, in, first, std::min(each, lanes - first)});
  }

  Tensor<B, C, 1> room(index_t rows) { return Tensor<B, C, 1>(be, {lanes * rows * D}); }
  Following<C> state(C* states, index_t row = 0) const { return {states + row * D, (D + 1) * D}; }
  void multiply(Op op, index_t rows, const C* x, const auto& matrices, C beta, C* to) {
    be.gemm_batched(Op::none, op, lanes, rows, D, D, C(1), Matrices{x, rows * D}, D, matrices, D,
                    beta, Following<C>{to, rows * D}, D);
  }

  void features_of_keys(index_t rows, C* phi, C* values) {
    be.for_each(lanes * rows * D,
                GatherFeatures<T, Space>{in.k, in.mask, first, rows, phi, in.v, values});
  }
  void features_of_queries(index_t rows, C* phi) {
    be.for_each(lanes * rows * D, GatherFeatures<T, Space>{in.q, {}, first, rows, phi});
  }

  /// states [lanes,D+1,D] = [KV; z] of these lanes.
  void sum_states(C* states) {
    const RowParts parts(in.k.extent(2));
    const index_t rows = parts.rows();
    auto phi = room(rows), v = room(rows);
    features_of_keys(rows, phi.data(), v.data());
    sum_products(be, lanes, parts, D, phi.data(), v.data(), state(states));
    sum_columns(be, lanes, rows, D, ScaledFeature<C>{phi.data(), nullptr, D}, state(states, D));
  }

  void read(const LinearStateOf<C>& states, View<T, 4, Space> out) {
    const index_t M = in.q.extent(2);
    auto phi = room(M), n = room(M);
    features_of_queries(M, phi.data());
    if (states.sources == nullptr) {
      multiply(Op::none, M, phi.data(), Matrices{states(0), (D + 1) * D}, C(0), n.data());
    } else {
      multiply(Op::none, M, phi.data(), states, C(0), n.data());
    }
    be.for_each_row(lanes * M, 0, DivideLinear<T, Space>{states, phi.data(), n.data(), out});
  }

  /// d_q, and d_states [lanes,D+1,D].
  void read_backward(const LinearStateOf<C>& states, In<B, T, 4> d_out, View<T, 4, Space> d_q,
                     C* d_states) {
    const RowParts parts(in.q.extent(2));
    const index_t rows = parts.rows();
    auto phi = room(rows), n = room(rows), d_phi = room(rows);
    Tensor<B, C, 1> d_d(be, {lanes * rows});
    const Matrices kv{states(0), (D + 1) * D};
    features_of_queries(rows, phi.data());
    multiply(Op::none, rows, phi.data(), kv, C(0), n.data());
    be.for_each_row(lanes * rows, 0,
                    DivideLinearBackward<T, Space>{states, rows, d_out, phi.data(), n.data(),
                                                   d_d.data(), d_phi.data()});
    // n = f(q) KV, d = f(q) . z + 1e-6
    sum_products(be, lanes, parts, D, phi.data(), n.data(), state(d_states));
    sum_columns(be, lanes, rows, D, ScaledFeature<C>{phi.data(), d_d.data(), D},
                state(d_states, D));
    multiply(Op::transpose, rows, n.data(), kv, C(1), d_phi.data());
    be.for_each(lanes * rows * D,
                AddThroughFeature<T, Space>{in.q, {}, first, rows, phi.data(), d_phi.data(), d_q});
  }

  void sum_states_backward(const C* d_states, View<T, 4, Space> d_k, View<T, 4, Space> d_v) {
    const index_t N = in.k.extent(2);
    auto phi = room(N), v = room(N), d_phi = room(N), d_values = room(N);
    const Matrices d_kv{d_states, (D + 1) * D};
    features_of_keys(N, phi.data(), v.data());
    // KV += f(k)^T v, z += f(k)
    multiply(Op::transpose, N, v.data(), d_kv, C(0), d_phi.data());
    multiply(Op::none, N, phi.data(), d_kv, C(0), d_values.data());
    be.for_each(lanes * N * D,
                AddThroughFeature<T, Space>{in.k, in.mask, first, N, phi.data(), d_phi.data(), d_k,
                                            d_states, d_values.data(), d_v});
  }
};

/// [KV; z] of all sources and heads, [B,H,1,D+1,D].
template <class B, class T>
Tensor<B, compute_t<T>, 5> linear_states(B& be, const LinearInputs<T, typename B::space>& in) {
  const index_t batch = in.k.extent(0), H = in.k.extent(1), D = in.k.extent(3);
  Tensor<B, compute_t<T>, 5> states(be, {batch, H, 1, D + 1, D});
  LinearRun<B, T>::for_each(be, in, batch * H, in.k.extent(2), [&](LinearRun<B, T> run) {
    run.sum_states(states.data() + run.first * (D + 1) * D);
  });
  return states;
}

/// out = what queries read, of all groups and heads.
template <class B, class T>
void linear_read(B& be, const LinearInputs<T, typename B::space>& in, const compute_t<T>* states,
                 const std::int32_t* sources, View<T, 4, typename B::space> out) {
  const index_t H = in.q.extent(1), lanes = in.q.extent(0) * H;
  LinearRun<B, T>::for_each(be, in, lanes, in.q.extent(2), [&](LinearRun<B, T> run) {
    run.read({states, run.D, H, run.first, sources}, out);
  });
}

template <class B, class T>
void linear_backward_in_stages(B& be, const LinearInputs<T, typename B::space>& in,
                               const AttentionGradients<B, T>& d) {
  using C = compute_t<T>;
  const index_t H = in.q.extent(1), lanes = in.q.extent(0) * H;
  const auto states = linear_states<B, T>(be, in);
  const index_t rows = std::max(in.q.extent(2), in.k.extent(2));
  LinearRun<B, T>::for_each(be, in, lanes, rows, [&](LinearRun<B, T> run) {
    Tensor<B, C, 3> d_states(be, {run.lanes, run.D + 1, run.D});
    run.read_backward({states.data(), run.D, H, run.first}, d.d_out, d.d_q, d_states.data());
    run.sum_states_backward(d_states.data(), d.d_k, d.d_v);
  });
}

}  // namespace SRF_DETAIL

/// out_i = f(q_i) KV / (f(q_i) . z + 1e-6).
///   out [B,H,M,D], last axis contiguous; of the context, the mask's lengths alone count
/// Saves nothing.
template <class B, class T>
requires BackendFor<B, T>
void linear_attention_forward(B& be, const AttentionInputs<B, T>& in,
                              View<T, 4, typename B::space> out) {
  detail::check_attention("linear_attention_forward", in, out);
  const detail::LinearInputs<T, typename B::space> x{in.q, in.k, in.v, in.context.mask};
  if constexpr (HasBatchedGemm<B>) {
    const auto states = detail::linear_states<B, T>(be, x);
    detail::linear_read<B, T>(be, x, states.data(), nullptr, out);
  } else {
    const index_t D = in.q.extent(3), scratch = D * D + D + 2 * detail::linear_rows * D;
    be.for_each_row(in.q.extent(0) * in.q.extent(1),
                    scratch * static_cast<index_t>(sizeof(compute_t<T>)),
                    detail::LinearForward<T, typename B::space>{x, out});
  }
}

/// The gradients in d += those through linear_attention_forward.
template <class B, class T>
requires BackendFor<B, T>
void linear_attention_backward(B& be, const AttentionInputs<B, T>& in,
                               const AttentionGradients<B, T>& d) {
  detail::check_attention_gradients("linear_attention_backward", in, d);
  const detail::LinearInputs<T, typename B::space> x{in.q, in.k, in.v, in.context.mask};
  if constexpr (HasBatchedGemm<B>) {
    detail::linear_backward_in_stages<B, T>(be, x, d);
  } else {
    const index_t D = in.q.extent(3), scratch = 2 * (D * D + D) + 3 * detail::linear_rows * D;
    be.for_each_row(in.q.extent(0) * in.q.extent(1),
                    scratch * static_cast<index_t>(sizeof(compute_t<T>)),
                    detail::LinearBackward<T, typename B::space>{x, d.d_out, d.d_q, d.d_k, d.d_v});
  }
}

/// Linear attention as a variant.
struct Linear {
  static constexpr std::string_view name = "linear";

  struct Options {
    Padding padding = Padding::masked;  ///< of a model with "upstream" the padded keys count

    static constexpr void visit(auto& o, auto&& f) { f(option::padding, o.padding); }
  };
  template <class T>
  using Parameters = NothingLearned<T>;
  template <class B, class T>
  using Saved = Nothing<B, T>;
  template <class B, class T>
  struct Prepared {
    Tensor<B, compute_t<T>, 5> states;  ///< [KV; z], [B,H,1,D+1,D]
  };

  template <class B, class T>
  static void forward(B& be, const AttentionInputs<B, T>& in, const Parameters<const T>&,
                      const Options&, Saved<B, T>&, Out<B, T, 4> out) {
    linear_attention_forward(be, in, out);
  }
  template <class B, class T>
  static void backward(B& be, const AttentionInputs<B, T>& in, const Parameters<const T>&,
                       const Options&, const Saved<B, T>&, const AttentionGradients<B, T>& d,
                       const Parameters<T>&) {
    linear_attention_backward(be, in, d);
  }
  template <class B, class T>
  static Prepared<B, T> prepare(B& be, const AttentionInputs<B, T>& in, const Parameters<const T>&,
                                const Options&) {
    using C = compute_t<T>;
    const detail::LinearInputs<T, typename B::space> x{in.k, in.k, in.v, in.context.mask};
    if constexpr (HasBatchedGemm<B>) {
      return {detail::linear_states<B, T>(be, x)};
    } else {
      const index_t batch = in.k.extent(0), H = in.k.extent(1), D = in.k.extent(3);
      Prepared<B, T> prepared{Tensor<B, C, 5>(be, {batch, H, 1, D + 1, D})};
      be.for_each_row(batch * H, detail::linear_rows * D * static_cast<index_t>(sizeof(C)),
                      detail::LinearPrepare<T, typename B::space>{x, prepared.states.view()});
      return prepared;
    }
  }
  template <class B, class T>
  static void step(B& be, const AttentionStep<T, typename B::space>& in, const Parameters<const T>&,
                   const Options&, const Prepared<B, T>& prepared) {
    if constexpr (HasBatchedGemm<B>) {
      detail::linear_read<B, T>(be, {in.q, in.k, in.v, in.context.mask}, prepared.states.data(),
                                in.sources, in.out);
    } else {
      for_each_lane<B, T>(be, in, 2 * in.queries() * in.head_size(), 0,
                          detail::LinearStep<T, typename B::space>{in, prepared.states.view()});
    }
  }
};

}  // namespace srformer
