// SPDX-License-Identifier: Apache-2.0
// The recurrent part of attention/segmented_recurrent.hpp in stages over all heads, for backends with
// gemm_batched. A lane is one source and head; j counts its segments, s those that some query sees.
//
//   [lane, j, min(L,N), D]  keys and values, zero where a source has none
//   [lane, j, D, D]         P_j = K_j^T V_j
//   [lane, s, D, D]         Z_s, X_s = Z_s W^T
//   [lane, step, D, D]      U, R; a step is a segment seen, or a query where every one is a step
//
// Products take all of them at once; what goes on from segment to segment runs in parallel over cells. What
// lies past the end of a shorter source is zero. As many lanes are taken at a time as cells_at_a_time allows.
#pragma once

#include <srformer/attention/detail/full_batched.hpp>
#include <srformer/attention/detail/recurrent_cells.hpp>
#include <srformer/attention/detail/segmented_batched.hpp>
#include <srformer/attention/variant.hpp>

namespace srformer::SRF_DETAIL {

/// One element of each.
template <class C>
struct KeyAndValue {
  C key, value;
};

/// The keys, or their features, and the values of segment j of a lane, and the sums of squares of the former [lane, j, D].
template <class T, class Space>
struct GatherSegment {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  C *k, *v, *squares;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const int L = static_cast<int>(lanes.size()), D = static_cast<int>(lanes.in.head_size());
    const RecurrentLane& lane = lanes.lane(row / lanes.segments);
    const index_t first = row % lanes.segments * L, rest = lane.rule.length - first;
    const int there = (rest < 0 ? 0 : rest < L ? static_cast<int>(rest) : L) * D, all = L * D;
    const Rows<const T> from_k = head_rows(lanes.in.keys_of_products(), lane.b, lane.h).from(first),
                        from_v = head_rows(lanes.in.v, lane.b, lane.h).from(first);
    C *to_k = k + row * all, *to_v = v + row * all, *sums = squares + row * D;
    for_each_ahead(
        team, all,
        [=](int at) -> KeyAndValue<C> {
          if (at >= there) return {C(0), C(0)};
          return {C(from_k.row(at / D)[at % D]), C(from_v.row(at / D)[at % D])};
        },
        [=](int at, const KeyAndValue<C>& x) { to_k[at] = x.key, to_v[at] = x.value; });
    team.for_each(D, [=](index_t c) {
      C sum(0);
      for (int t = 0; t < L; ++t) sum = sum + to_k[t * D + c] * to_k[t * D + c];
      sums[c] = sum;
    });
  }
};

/// The queries of a step, and where the first of them is in [lane, M, D].
template <class T, class Space>
struct StepOfLane {
  index_t b, h, begin = 0, count = 0, rest;

  SRF_HD StepOfLane(const RecurrentLanes<T, Space>& lanes, index_t row) {
    const RecurrentLane& lane = lanes.lane(row / lanes.steps);
    const int step = static_cast<int>(row % lanes.steps);
    b = lane.b, h = lane.h;
    if (lane.each) {
      begin = step, count = 1;
    } else if (step < lane.visited) {
      const int j = lane.seen[step];
      begin = lane.rule.first_query(j);
      count = lane.rule.end_query(j, lanes.queries()) - begin;
    }
    rest = (row / lanes.steps * lanes.queries() + begin) * lanes.in.head_size();
  }
};

/// rest_i = q_i R for the queries of one step.
template <class T, class Space>
struct ReadStep {
  using C = compute_t<T>;
  static constexpr bool multiplies = true;
  RecurrentLanes<T, Space> lanes;
  const C* r;
  C* rest;  // [lane, M, D]
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t D = lanes.in.head_size();
    const StepOfLane<T, Space> step(lanes, row);
    const Rows<const T> q = head_rows(lanes.in.q, step.b, step.h).from(step.begin);
    team.gemm(Op::none, Op::none, step.count, D, D, C(1), q.data, q.stride, r + row * lanes.cells(),
              D, C(0), rest + step.rest, D);
  }
};

/// rest again, d_q += d_rest R^T, d_r = q^T d_rest.
template <class T, class Space>
struct ReadStepBackward {
  using C = compute_t<T>;
  static constexpr bool multiplies = true;
  RecurrentLanes<T, Space> lanes;
  View<T, 4, Space> d_q;
  const C *r, *d_rest;
  C *rest, *d_r;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t D = lanes.in.head_size();
    const StepOfLane<T, Space> step(lanes, row);
    const C *here = r + row * lanes.cells(), *d = d_rest + step.rest;
    const Rows<const T> q = head_rows(lanes.in.q, step.b, step.h).from(step.begin);
    const Rows<T> dq = head_rows(d_q, step.b, step.h).from(step.begin);
    team.gemm(Op::none, Op::none, step.count, D, D, C(1), q.data, q.stride, here, D, C(0),
              rest + step.rest, D);
    team.gemm(Op::none, Op::transpose, step.count, D, D, C(1), d, D, here, D, C(1), dq.data,
              dq.stride);
    team.gemm(Op::transpose, Op::none, D, D, step.count, C(1), q.data, q.stride, d, D, C(0),
              d_r + row * lanes.cells(), D);
  }
};

/// inverse[lane, c] = factor / n_c, 0 for a dead feature, factor everywhere without norms. The factor is 1, except
/// with average_products.
template <class T, class Space>
struct InvertNorms {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C* squares;  // [lane, segments, D]
  C* inverse;
  SRF_HD void operator()(index_t i) const {
    const index_t D = lanes.in.head_size(), segments = lanes.segments;
    const bool normalize = lanes.in.normalizes();
    const C factor = lanes.in.factor_of_rest(lanes.lane(i / D).rule.length);
    const C* from = squares + i / D * segments * D + i % D;
    C sum(0);
    for (index_t j = 0; j < segments && normalize; ++j) sum = sum + from[j * D];
    inverse[i] = !normalize ? factor : math::positive(sum) ? C(factor / math::sqrt(sum)) : C(0);
  }
};

/// One query: out_i += or = beta gate rest_i / n.
template <class T, class Space>
struct AddRest {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C *rest, *inverse;
  View<T, 4, Space> out;
  SRF_HD void operator()(index_t at) const {
    const index_t D = lanes.in.head_size(), M = lanes.queries(), c = at % D, i = at / D / M;
    const index_t H = lanes.in.heads(), lane = lanes.first + i;
    T& to = head_rows(out, lane / H, lane % H).row(at / D % M)[c];
    const C add = lanes.share(lane % H) * rest[at] * inverse[i * D + c];
    to = T(lanes.in.options.local ? C(to) + add : add);
  }
};

/// One cell of E = beta gate R / n, which decoding reads; SegmentedRecurrent::Prepared has the layout of states.
template <class T, class Space>
struct StoreState {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C *r, *inverse;
  View<C, 5, Space> states;
  SRF_HD void operator()(index_t at) const {
    const index_t cells = lanes.cells(), D = lanes.in.head_size(), c = at % cells;
    const index_t i = at / cells / lanes.steps, step = at / cells % lanes.steps;
    const RecurrentLane& lane = lanes.lane(i);
    if (step >= lane.steps) return;
    const index_t state = lane.each ? step : lane.seen[step];
    states(lane.b, lane.h, state, c / D, c % D) =
        lanes.share(lane.h) * r[at] * inverse[i * D + c % D];
  }
};

/// d_rest_i = beta gate dO_i / n.
template <class T, class Space>
struct RestGradient {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  View<const T, 4, Space> d_out;
  const C* inverse;
  C* d_rest;
  SRF_HD void operator()(index_t at) const {
    const index_t D = lanes.in.head_size(), M = lanes.queries(), c = at % D, i = at / D / M;
    const index_t H = lanes.in.heads(), lane = lanes.first + i;
    const C d = C(head_rows(d_out, lane / H, lane % H).row(at / D % M)[c]);
    d_rest[at] = lanes.share(lane % H) * d * inverse[i * D + c];
  }
};

/// partial[lane, part, c] = the sum of dO_ic rest_ic inverse_c over 16 queries.
template <class T, class Space>
struct SumAlongRest {
  using C = compute_t<T>;
  static constexpr index_t queries_each = 16;
  RecurrentLanes<T, Space> lanes;
  View<const T, 4, Space> d_out;
  const C *rest, *inverse;
  C* partial;
  index_t parts;
  SRF_HD void operator()(index_t at) const {
    const index_t D = lanes.in.head_size(), M = lanes.queries(), c = at % D, i = at / D / parts;
    const index_t H = lanes.in.heads(), lane = lanes.first + i;
    const index_t first = at / D % parts * queries_each;
    const index_t end = first + queries_each < M ? first + queries_each : M;
    const Rows<const T> d = head_rows(d_out, lane / H, lane % H);
    C sum(0);
    for (index_t q = first; q < end; ++q) sum = sum + C(d.row(q)[c]) * rest[(i * M + q) * D + c];
    partial[at] = sum * inverse[i * D + c];
  }
};

/// The keys and values of segment j: d_k += Y dP^T + dn K / n with dn_c = -beta gate along_c / n_c, d_v += K dP.
template <class T, class Space>
struct AddSegmentGradients {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C *k, *from_k, *from_v, *along, *inverse;
  View<T, 4, Space> d_k, d_v;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const int L = static_cast<int>(lanes.size()), D = static_cast<int>(lanes.in.head_size());
    const index_t i = row / lanes.segments, first = row % lanes.segments * L, at = row * L * D;
    const RecurrentLane& lane = lanes.lane(i);
    const index_t rest = lane.rule.length - first;
    const int there = (rest < 0 ? 0 : rest < L ? static_cast<int>(rest) : L) * D;
    const Rows<T> to_k = head_rows(d_k, lane.b, lane.h).from(first),
                  to_v = head_rows(d_v, lane.b, lane.h).from(first);
    const C scale = lanes.in.factor_of_rest(lane.rule.length);  // inverse_c = scale / n_c
    const C share = lanes.in.normalizes() ? C(lanes.share(lane.h) / (scale * scale)) : C(0);
    const C *key = k + at, *more_k = from_k + at, *more_v = from_v + at;
    const C *sum = along + i * D, *inv = inverse + i * D;
    for_each_ahead(
        team, there,
        [=](int x) -> KeyAndValue<C> {
          const int t = x / D, c = x % D;
          const C d_key = more_k[x] - share * sum[c] * inv[c] * inv[c] * key[x];
          return {C(to_k.row(t)[c]) + d_key, C(to_v.row(t)[c]) + more_v[x]};
        },
        [=](int x, const KeyAndValue<C>& d) {
          to_k.row(x / D)[x % D] = T(d.key), to_v.row(x / D)[x % D] = T(d.value);
        });
  }
};

/// One lane's share of the gradients of leak, threshold, sigma and gate.
template <class T, class Space>
struct SumLaneScalars {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C *d_scalars, *along_rest;
  View<const C, 2, Space> along_local;  // of all lanes
  LanePartials<C> partials;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t i, void*) const {
    const index_t cells = lanes.cells(), lane = lanes.first + i, D = lanes.in.head_size();
    const auto sum = [&](const C* from, index_t n) {
      return team.template sum<C>(n, [=](index_t c) { return from[c]; });
    };
    const bool recurrent = lanes.in.options.recurrence, weighted = lanes.in.weighted();
    const index_t terms = weighted ? along_local.extent(1) : 0;
    const C leak = sum(d_scalars + 2 * i * cells, recurrent ? cells : 0);
    const C threshold = sum(d_scalars + (2 * i + 1) * cells, recurrent ? cells : 0);
    const C rest = sum(along_rest + i * D, D), local = sum(along_local.data + lane * terms, terms);
    if (!team.leader()) return;
    C* d = partials.scalars(lane);
    d[0] = leak, d[1] = lanes.in.averaged_keys(lanes.lane(i).rule.length) * threshold;
    d[2] = weighted ? local - lanes.in.gate(lane % lanes.in.heads()) * rest : C(0);
    d[3] = lanes.in.share_of_rest() * rest;
  }
};

/// What forward and backward compute of some lanes: products, recurrence, norms.
template <class B, class T>
struct RecurrentRun {
  using C = compute_t<T>;
  using Space = typename B::space;
  using Lanes = RecurrentLanes<T, Space>;
  Tensor<B, C, 1> weight, k, v, p, z, x, u, r, inverse;

  RecurrentRun(B& be, const Lanes& lanes, bool keep) {
    const index_t D = lanes.in.head_size(), cells = lanes.cells(), L = lanes.size();
    const index_t segments = lanes.count * lanes.segments, seen = lanes.count * lanes.most;
    k = Tensor<B, C, 1>(be, {segments * L * D}), v = Tensor<B, C, 1>(be, {segments * L * D});
    p = Tensor<B, C, 1>(be, {segments * cells}), z = Tensor<B, C, 1>(be, {seen * cells});
    Tensor<B, C, 1> squares(be, {segments * D});
    be.for_each_row(segments, 0,
                    GatherSegment<T, Space>{lanes, k.data(), v.data(), squares.data()});
    inverse = Tensor<B, C, 1>(be, {lanes.count * D});
    be.for_each(lanes.count * D, InvertNorms<T, Space>{lanes, squares.data(), inverse.data()});
    be.gemm_batched(Op::transpose, Op::none, segments, D, D, L, C(1), matrices(k, L * D), D,
                    matrices(v, L * D), D, C(0), Following<C>{p.data(), cells}, D);
    for_each_long(be, lanes.count * cells, CombineProducts<T, Space>{lanes, p.data(), z.data()});
    if (!lanes.in.options.recurrence) return;
    x = Tensor<B, C, 1>(be, {seen * cells});
    r = Tensor<B, C, 1>(be, {lanes.count * lanes.steps * cells});
    if (keep) u = Tensor<B, C, 1>(be, {r.size()});
    if constexpr (!std::is_same_v<T, C>) {
      weight = Tensor<B, C, 1>(be, {cells});
      be.copy(weight.data(), lanes.in.parameters.weight, cells);
    }
    be.gemm(Op::none, Op::transpose, seen * D, D, D, C(1), z.data(), D, weights(lanes), D, C(0),
            x.data(), D);
    for_each_long(be, lanes.count * cells, RunCells<T, Space>{lanes, x.data(), r.data(), u.data()});
  }

  static Following<const C> matrices(const Tensor<B, C, 1>& x, index_t size) {
    return {x.data(), size};
  }
  /// W in what is computed in.
  const C* weights(const Lanes& lanes) const {
    if constexpr (std::is_same_v<T, C>) {
      return lanes.in.parameters.weight;
    } else {
      return weight.data();
    }
  }
  /// R, or Z without recurrence.
  const C* read() const { return r.empty() ? z.data() : r.data(); }
};

/// out += or = the recurrent part.
template <class B, class T>
void recurrent_batched_forward(B& be, const RecurrentInputs<T, typename B::space>& in,
                               View<T, 4, typename B::space> out) {
  using C = compute_t<T>;
  using Space = typename B::space;
  for_each_lanes<T>(be, in, [&](const RecurrentLanes<T, Space>& lanes) {
    const RecurrentRun<B, T> run(be, lanes, false);
    Tensor<B, C, 1> rest(be, {lanes.count * lanes.queries() * in.head_size()});
    be.for_each_row(lanes.count * lanes.steps, 0,
                    ReadStep<T, Space>{lanes, run.read(), rest.data()});
    be.for_each(rest.size(), AddRest<T, Space>{lanes, rest.data(), run.inverse.data(), out});
  });
}

/// states = E of all that the queries of `in` visit; of q the extents count alone.
template <class B, class T>
void recurrent_batched_states(B& be, const RecurrentInputs<T, typename B::space>& in,
                              View<compute_t<T>, 5, typename B::space> states) {
  using Space = typename B::space;
  for_each_lanes<T>(be, in, [&](const RecurrentLanes<T, Space>& lanes) {
    const RecurrentRun<B, T> run(be, lanes, false);
    be.for_each(lanes.count * lanes.steps * lanes.cells(),
                StoreState<T, Space>{lanes, run.read(), run.inverse.data(), states});
  });
}

/// The state that the queries of a lane read at a decoder step.
template <class C, class Space>
struct StateOfStep {
  SegmentRows<C, Space> rows;
  View<const C, 5, Space> states;
  bool each;  ///< whether there is one for every step
  SRF_HD const C* operator()(index_t lane) const {
    const index_t at = each ? rows.step : rows.rule(lane).of(rows.step);
    return &states(rows.source(lane), lane % rows.heads, at, 0, 0);
  }
};

/// One decoder step: out = alpha a, and out += or = q E.
template <class B, class T>
void recurrent_batched_step(B& be, const AttentionStep<T, typename B::space>& in,
                            const RecurrentInputs<T, typename B::space>& of,
                            In<B, compute_t<T>, 5> states) {
  using C = compute_t<T>;
  using Space = typename B::space;
  const auto rows = step_rows(in, of.options.segments());
  const index_t lanes = in.q.extent(0) * in.heads(), D = in.head_size();
  const bool local = of.options.local;
  if (local)
    attend_staged<B, T>(be, own_segment<T, Space>(in.q, {in.k, in.v}, rows, of.sigma()), in.out);
  be.gemm_batched(Op::none, Op::none, lanes, in.queries(), D, D, C(1),
                  LaneRows<const T, Space>{in.q, 0, 0}, in.q.stride(2),
                  StateOfStep<C, Space>{rows, states, of.stepwise()}, D, C(local ? 1.0 : 0.0),
                  LaneRows<T, Space>{in.out, 0, 0}, in.out.stride(2));
}

/// How many states of a lane one product takes where a sum goes over all of them: a divisor of their number
/// `states`, and 256 rows where there is one, as a few long sums would leave most of a device idle.
inline index_t states_of_a_part(index_t states, index_t head_size) {
  index_t each = std::clamp<index_t>(256 / head_size, 1, states);
  while (states % each != 0) --each;
  return each;
}

/// R = RAF(X), X = Z W^T in reverse: dW of the lanes, and dZ [lane, s, D, D], which takes Z's place. Returns dZ.
///   d_r  [lane, step, D, D], d_scalars [2, lane, D, D]
template <class B, class T>
compute_t<T>* recurrence_backward_batched(B& be, const RecurrentLanes<T, typename B::space>& lanes,
                                          RecurrentRun<B, T>& run, const compute_t<T>* d_r,
                                          compute_t<T>* d_scalars,
                                          const LanePartials<compute_t<T>>& partials) {
  using C = compute_t<T>;
  const index_t D = lanes.in.head_size(), cells = lanes.cells(), n = lanes.count;
  C *d_x = run.x.data(), *d_z = run.z.data();
  for_each_long(be, n * cells,
                RunCellsBackward<T, typename B::space>{lanes, run.u.data(), d_r, d_x, d_scalars});
  const index_t each = states_of_a_part(lanes.most, D), terms = lanes.most / each;
  Tensor<B, C, 1> d_weight(be, {n * terms * cells});
  be.gemm_batched(Op::transpose, Op::none, n * terms, D, D, each * D, C(1),
                  run.matrices(run.x, each * cells), D, run.matrices(run.z, each * cells), D, C(0),
                  Following<C>{d_weight.data(), cells}, D);
  be.for_each(n * cells,
              SumParts<C>{d_weight.data(), partials.weight(lanes.first), terms, cells, cells + 4});
  be.gemm(Op::none, Op::none, n * lanes.most * D, D, D, C(1), d_x, D, run.weights(lanes), D, C(0),
          d_z, D);
  return d_z;
}

/// The gradients in d += those through the recurrent part, d_k that of what the products are made of; partials receive those
/// of the parameters.
///   along_local  [B*H, terms] sums of dO . A, of the local part, where sigma weighs it
template <class B, class T>
void recurrent_batched_backward(B& be, const RecurrentInputs<T, typename B::space>& in,
                                const AttentionGradients<B, T>& d,
                                In<B, compute_t<T>, 2> along_local,
                                const LanePartials<compute_t<T>>& partials) {
  using C = compute_t<T>;
  using Space = typename B::space;
  for_each_lanes<T>(be, in, [&](const RecurrentLanes<T, Space>& lanes) {
    RecurrentRun<B, T> run(be, lanes, true);
    const index_t D = in.head_size(), cells = lanes.cells(), L = lanes.size(), n = lanes.count;
    const index_t segments = n * lanes.segments;
    Tensor<B, C, 1> rest(be, {n * lanes.queries() * D}), d_rest(be, {rest.size()});
    Tensor<B, C, 1> d_r(be, {n * lanes.steps * cells}), d_scalars(be, {2 * n * cells});
    // O = ... + beta gate rest / n,  rest_i = q_i R
    be.for_each(rest.size(),
                RestGradient<T, Space>{lanes, d.d_out, run.inverse.data(), d_rest.data()});
    be.for_each_row(n * lanes.steps, 0,
                    ReadStepBackward<T, Space>{lanes, d.d_q, run.read(), d_rest.data(), rest.data(),
                                               d_r.data()});
    C* d_z = d_r.data();
    if (in.options.recurrence) {
      d_z = recurrence_backward_batched(be, lanes, run, d_r.data(), d_scalars.data(), partials);
    } else {
      be.fill(partials.weight(lanes.first), n * (cells + 4), C(0));
    }
    // Z from P_j = K_j^T V_j
    Tensor<B, C, 1> d_p(be, {segments * cells});
    Tensor<B, C, 1> to_k(be, {segments * L * D}), to_v(be, {segments * L * D});
    for_each_long(be, n * cells,
                  CombineProductsBackward<T, Space>{lanes, run.p.data(), d_z, d_p.data()});
    be.gemm_batched(Op::none, Op::transpose, segments, L, D, D, C(1), run.matrices(run.v, L * D), D,
                    run.matrices(d_p, cells), D, C(0), Following<C>{to_k.data(), L * D}, D);
    be.gemm_batched(Op::none, Op::none, segments, L, D, D, C(1), run.matrices(run.k, L * D), D,
                    run.matrices(d_p, cells), D, C(0), Following<C>{to_v.data(), L * D}, D);
    // n_c = sqrt(sum_t K_tc^2)
    using Along = SumAlongRest<T, Space>;
    const index_t parts = (lanes.queries() + Along::queries_each - 1) / Along::queries_each;
    Tensor<B, C, 1> along(be, {n * D}), partial(be, {n * parts * D});
    be.for_each(partial.size(),
                Along{lanes, d.d_out, rest.data(), run.inverse.data(), partial.data(), parts});
    be.for_each(n * D, SumParts<C>{partial.data(), along.data(), parts, D, D});
    be.for_each_row(segments, 0,
                    AddSegmentGradients<T, Space>{lanes, run.k.data(), to_k.data(), to_v.data(),
                                                  along.data(), run.inverse.data(), d.d_k, d.d_v});
    be.for_each_row(
        n, 0,
        SumLaneScalars<T, Space>{lanes, d_scalars.data(), along.data(), along_local, partials});
  });
}

}  // namespace srformer::SRF_DETAIL
