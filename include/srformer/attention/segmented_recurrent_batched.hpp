// SPDX-License-Identifier: Apache-2.0
// The recurrent part of attention/segmented_recurrent.hpp, all segments of all heads at once, for backends
// with gemm_batched: W multiplies the products of all of them together, what goes on from segment to segment
// runs in parallel over lanes and cells, the rest over lanes and segments.
//
//   [lane, s, D, D]   P_s = K_s^T V_s and what lies between s and the next segment seen; Z_s, X_s = Z_s W^T
//   [lane, step, D, D]   U, R;  step = s, or the query where every one is a step
//
// A lane is one source and head; s counts the segments it sees. Entries past the last of a shorter source are
// zero. As many lanes are taken at a time as cells_at_a_time allows.
#pragma once

#include <srformer/attention/recurrent_inputs.hpp>

namespace srformer::detail {

/// Cells of one tensor [lanes, steps, D, D].
inline constexpr index_t cells_at_a_time = index_t{1} << 26;

/// Some lanes, and the segments of each.
template <class T, class Space>
struct RecurrentLanes {
  using C = compute_t<T>;
  RecurrentInputs<T, Space> in;
  index_t first, count;  ///< lanes
  index_t most, steps;   ///< segments and steps of a lane, at most
  bool gaps;             ///< whether keys may lie between the segments that are seen

  struct Lane {
    index_t b, h;
    SegmentRule rule;
    index_t visited;

    /// The keys behind segment s, up to the next that is seen.
    SRF_HD index_t gap_begin(index_t s) const { return rule.end_key(rule.visited_at(s)); }
    SRF_HD index_t gap_end(index_t s) const {
      return s + 1 < visited ? rule.first_key(rule.visited_at(s + 1)) : rule.length;
    }
  };
  SRF_HD Lane lane(index_t i) const {
    const index_t b = (first + i) / in.heads(), M = queries();
    const SegmentRule rule = segment_rule(in.options.segments, in.context.mask, b, M, in.keys());
    return {b, (first + i) % in.heads(), rule, rule.visited(M)};
  }
  SRF_HD index_t queries() const { return in.q.extent(2); }
  SRF_HD index_t cells() const { return in.head_size() * in.head_size(); }

  /// The queries [begin, end) of a step, and its segment by its place s; none past the last step.
  struct Step {
    index_t s, begin, end;
  };
  SRF_HD Step step(const Lane& lane, index_t i) const {
    if (in.stepwise()) return {0, i, i + 1};
    if (i >= lane.visited) return {i, 0, 0};
    const index_t j = lane.rule.visited_at(i);
    return {i, lane.rule.first_query(j), lane.rule.end_query(j, queries())};
  }
};

/// p_s = K_s^T V_s; gap_s, where keys may lie between, the same over those.
template <class T, class Space>
struct ProductsOfSegments {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  C *p, *gap;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t s = row % lanes.most, cells = lanes.cells(), D = lanes.in.head_size();
    const auto lane = lanes.lane(row / lanes.most);
    C *own = p + row * cells, *between = lanes.gaps ? gap + row * cells : nullptr;
    if (s >= lane.visited) {
      team.for_each(cells, [=](index_t c) { own[c] = C(0); });
      if (between != nullptr) team.for_each(cells, [=](index_t c) { between[c] = C(0); });
      return;
    }
    const Rows<const T> k = head_rows(lanes.in.k, lane.b, lane.h),
                        v = head_rows(lanes.in.v, lane.b, lane.h);
    const index_t j = lane.rule.visited_at(s);
    product(team, {D, D}, lane.rule.first_key(j), lane.rule.end_key(j), k, v, false, own);
    if (between != nullptr) {
      product(team, {D, D}, lane.gap_begin(s), lane.gap_end(s), k, v, false, between);
    }
  }
};

/// z_s of one cell from p and gap: what the other segments hold, as attention/kv_product.hpp sums it.
template <class T, class Space>
struct CombineProducts {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C *p, *gap;
  C* z;
  SRF_HD void operator()(index_t i) const {
    const index_t cells = lanes.cells(), n = lanes.most, base = i / cells * n * cells + i % cells;
    const KvProductOptions& o = lanes.in.options.product;
    const auto own = [&](index_t s) { return p[base + s * cells]; };
    const auto between = [&](index_t s) { return lanes.gaps ? gap[base + s * cells] : C(0); };
    const C bound = C(o.clamp);
    const bool clamped = o.clamp > 0, complement = o.product == Product::complement;
    if (!complement || clamped) {
      C total(0);
      for (index_t s = 0; s < n && complement; ++s) total = total + own(s) + between(s);
      total = bounded(total, bound);
      const index_t visited = lanes.lane(i / cells).visited;
      for (index_t s = 0; s < n; ++s) {
        const C part = clamped ? bounded(own(s), bound) : own(s);
        z[base + s * cells] = s >= visited ? C(0) : complement ? total - part : part;
      }
      return;
    }
    C behind(0), before(0);
    for (index_t s = n - 1; s >= 0; --s) {
      z[base + s * cells] = behind + between(s);
      behind = behind + own(s) + between(s);
    }
    const index_t visited = lanes.lane(i / cells).visited;
    for (index_t s = 0; s < n; ++s) {
      C& to = z[base + s * cells];
      to = s < visited ? to + before : C(0);
      before = before + own(s) + between(s);
    }
  }
};

/// d_p_s and d_gap_s of one cell from d_z.
template <class T, class Space>
struct CombineProductsBackward {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C *p, *gap, *d_z;
  C *d_p, *d_gap;
  SRF_HD void operator()(index_t i) const {
    const index_t cells = lanes.cells(), base = i / cells * lanes.most * cells + i % cells;
    const index_t n = lanes.lane(i / cells).visited;
    const KvProductOptions& o = lanes.in.options.product;
    const C bound = C(o.clamp);
    const bool clamped = o.clamp > 0, complement = o.product == Product::complement;
    if (!complement || clamped) {
      // Z_s = clamp(P) - clamp(P_s), or clamp(P_s)
      C all(0), total(0);
      for (index_t s = 0; s < n && complement; ++s) {
        all = all + d_z[base + s * cells];
        total = total + p[base + s * cells] + (lanes.gaps ? gap[base + s * cells] : C(0));
      }
      all = passes(total, bound) * all;
      for (index_t s = 0; s < n; ++s) {
        const index_t at = base + s * cells;
        const C here = clamped ? passes(p[at], bound) * d_z[at] : d_z[at];
        d_p[at] = complement ? all - here : here;
        if (lanes.gaps) d_gap[at] = all;
      }
      return;
    }
    // Z_s = sum of the other P
    C behind(0), before(0);
    for (index_t s = n - 1; s >= 0; --s) {
      d_p[base + s * cells] = behind;
      behind = behind + d_z[base + s * cells];
    }
    for (index_t s = 0; s < n; ++s) {
      const index_t at = base + s * cells;
      const C after = d_p[at], through = before + d_z[at];
      d_p[at] = before + after;
      if (lanes.gaps) d_gap[at] = through + after;
      before = through;
    }
  }
};

/// The recurrence of one cell over all steps: r, and u where it is kept.
template <class T, class Space>
struct RunCells {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C* x;
  C *r, *u;
  SRF_HD void operator()(index_t i) const {
    const RafScalars<C> raf = lanes.in.raf();
    with_firing(raf, [&](auto binary) {
      const index_t cells = lanes.cells(), c = i % cells, at_x = i / cells * lanes.most * cells + c;
      const auto lane = lanes.lane(i / cells);
      const bool each = lanes.in.stepwise();
      const index_t steps = each ? lanes.steps : lane.visited;
      const C inverse = C(1) / raf.threshold;
      C membrane(0);
      for (index_t s = 0, step = 0; s < lane.visited; ++s) {
        const C now_x = x[at_x + s * cells];
        const index_t last = each ? lane.rule.end_query(lane.rule.visited_at(s), steps) : s + 1;
        for (; step < last; ++step) {
          const index_t at = (i / cells * lanes.steps + step) * cells + c;
          const C now = raf.leak * membrane + now_x;
          r[at] = fired<binary.value>(now, inverse);
          if (u != nullptr) u[at] = now;
          membrane = after_reset(now, raf, inverse);
        }
      }
    });
  }
};

/// d_x_s of one cell from d_r, and its share of the scalars' gradients, [lane, 2, cells].
template <class T, class Space>
struct RunCellsBackward {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C *u, *d_r;
  C *d_x, *d_scalars;
  SRF_HD void operator()(index_t i) const {
    const RafScalars<C> raf = lanes.in.raf();
    with_firing(raf, [&](auto binary) {
      const index_t cells = lanes.cells(), c = i % cells, at_x = i / cells * lanes.most * cells + c;
      const auto lane = lanes.lane(i / cells);
      const bool each = lanes.in.stepwise();
      const C inverse = C(1) / raf.threshold;
      const auto at = [&](index_t step) { return (i / cells * lanes.steps + step) * cells + c; };
      C d_membrane(0), leak(0), threshold(0);
      index_t step = (each ? lanes.steps : lane.visited) - 1;
      C now = u[at(step)];
      for (index_t s = lanes.most - 1; s >= 0; --s) {
        C sum(0);
        const index_t first = s >= lane.visited ? step + 1
                              : each            ? lane.rule.first_query(lane.rule.visited_at(s))
                                                : s;
        for (; step >= first; --step) {
          const C previous = step > 0 ? u[at(step - 1)] : C(0);
          const C membrane = step > 0 ? after_reset(previous, raf, inverse) : C(0);
          const auto d = raf_cell_backward<binary.value>(raf, inverse, now, membrane, d_r[at(step)],
                                                         d_membrane);
          d_membrane = d.d_membrane;
          leak = leak + d.leak, threshold = threshold + d.threshold;
          sum = sum + d.d_x;
          now = previous;
        }
        d_x[at_x + s * cells] = sum;
      }
      d_scalars[2 * i - c] = leak;
      d_scalars[2 * i - c + cells] = threshold;
    });
  }
};

/// rest_i = q_i R for the queries of one step.
template <class T, class Space>
struct ReadStep {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C* r;
  C* rest;  // [lane, M, D]
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t D = lanes.in.head_size(), M = lanes.queries(), i = row / lanes.steps;
    const auto lane = lanes.lane(i);
    const auto step = lanes.step(lane, row % lanes.steps);
    const Rows<const T> q = head_rows(lanes.in.q, lane.b, lane.h).from(step.begin);
    team.gemm(Op::none, Op::none, step.end - step.begin, D, D, C(1), q.data, q.stride,
              r + row * lanes.cells(), D, C(0), rest + (i * M + step.begin) * D, D);
  }
};

/// rest again, d_q += d_rest R^T, d_r = q^T d_rest.
template <class T, class Space>
struct ReadStepBackward {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  View<T, 4, Space> d_q;
  const C *r, *d_rest;
  C *rest, *d_r;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t D = lanes.in.head_size(), M = lanes.queries(), i = row / lanes.steps;
    const auto lane = lanes.lane(i);
    const auto step = lanes.step(lane, row % lanes.steps);
    const index_t n = step.end - step.begin, at = (i * M + step.begin) * D;
    const C* here = r + row * lanes.cells();
    const Rows<const T> q = head_rows(lanes.in.q, lane.b, lane.h).from(step.begin);
    const Rows<T> dq = head_rows(d_q, lane.b, lane.h).from(step.begin);
    team.gemm(Op::none, Op::none, n, D, D, C(1), q.data, q.stride, here, D, C(0), rest + at, D);
    team.gemm(Op::none, Op::transpose, n, D, D, C(1), d_rest + at, D, here, D, C(1), dq.data,
              dq.stride);
    team.gemm(Op::transpose, Op::none, D, D, n, C(1), q.data, q.stride, d_rest + at, D, C(0),
              d_r + row * lanes.cells(), D);
  }
};

/// d_k += V dP^T, d_v += K dP over the keys of one segment, and over those behind it.
template <class T, class Space>
struct ProductsOfSegmentsBackward {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  View<T, 4, Space> d_k, d_v;
  const C *d_p, *d_gap;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t D = lanes.in.head_size(), s = row % lanes.most;
    const auto lane = lanes.lane(row / lanes.most);
    if (s >= lane.visited) return;
    const Rows<const T> k = head_rows(lanes.in.k, lane.b, lane.h),
                        v = head_rows(lanes.in.v, lane.b, lane.h);
    const Rows<T> dk = head_rows(d_k, lane.b, lane.h), dv = head_rows(d_v, lane.b, lane.h);
    const auto give = [&](index_t t, index_t end, const C* d) {
      team.gemm(Op::none, Op::transpose, end - t, D, D, C(1), v.row(t), v.stride, d, D, C(1),
                dk.row(t), dk.stride);
      team.gemm(Op::none, Op::none, end - t, D, D, C(1), k.row(t), k.stride, d, D, C(1), dv.row(t),
                dv.stride);
    };
    const index_t j = lane.rule.visited_at(s), at = row * lanes.cells();
    give(lane.rule.first_key(j), lane.rule.end_key(j), d_p + at);
    if (lanes.gaps) give(lane.gap_begin(s), lane.gap_end(s), d_gap + at);
  }
};

/// part[lane, part, c] = the sum of squares of feature c over 64 keys.
template <class T, class Space>
struct SumSquares {
  using C = compute_t<T>;
  static constexpr index_t keys_each = 64;
  RecurrentLanes<T, Space> lanes;
  C* partial;
  index_t parts;
  SRF_HD void operator()(index_t i) const {
    const index_t D = lanes.in.head_size(), c = i % D, first = i / D % parts * keys_each;
    const auto lane = lanes.lane(i / D / parts);
    const Rows<const T> k = head_rows(lanes.in.k, lane.b, lane.h);
    const index_t end = first + keys_each < lane.rule.length ? first + keys_each : lane.rule.length;
    C sum(0);
    for (index_t t = first; t < end; ++t) sum = sum + C(k.row(t)[c]) * C(k.row(t)[c]);
    partial[i] = sum;
  }
};

/// inverse[lane, c] = 1 / n_c, 0 for a dead feature.
template <class C>
struct InvertNorms {
  const C* partial;
  C* inverse;
  index_t parts, head_size;
  SRF_HD void operator()(index_t i) const {
    C sum(0);
    for (index_t part = 0; part < parts; ++part) {
      sum = sum + partial[(i / head_size * parts + part) * head_size + i % head_size];
    }
    inverse[i] = primal(sum) > 0 ? C(1) / math::sqrt(sum) : C(0);
  }
};

/// out_i += or = beta gate rest_i / n.
template <class T, class Space>
struct AddRest {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C *rest, *inverse;
  View<T, 4, Space> out;
  SRF_HD void operator()(index_t at) const {
    const index_t D = lanes.in.head_size(), M = lanes.queries(), c = at % D, lane = at / D / M;
    const index_t b = (lanes.first + lane) / lanes.in.heads(),
                  h = (lanes.first + lane) % lanes.in.heads();
    T& to = head_rows(out, b, h).row(at / D % M)[c];
    const C share = lanes.in.share_of_rest() * lanes.in.gate(h);
    const C add = share * rest[at] * inverse[lane * D + c];
    to = T(lanes.in.options.local ? C(to) + add : add);
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
    const index_t D = lanes.in.head_size(), M = lanes.queries(), c = at % D, lane = at / D / M;
    const index_t b = (lanes.first + lane) / lanes.in.heads(),
                  h = (lanes.first + lane) % lanes.in.heads();
    const C share = lanes.in.share_of_rest() * lanes.in.gate(h);
    d_rest[at] = share * C(head_rows(d_out, b, h).row(at / D % M)[c]) * inverse[lane * D + c];
  }
};

/// along[lane, c] = sum_i dO_ic rest_ic / n_c.
template <class T, class Space>
struct SumAlongRest {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  View<const T, 4, Space> d_out;
  const C *rest, *inverse;
  C* along;
  SRF_HD void operator()(index_t i) const {
    const index_t D = lanes.in.head_size(), M = lanes.queries(), c = i % D;
    const auto lane = lanes.first + i / D;
    const Rows<const T> d_o = head_rows(d_out, lane / lanes.in.heads(), lane % lanes.in.heads());
    C sum(0);
    for (index_t q = 0; q < M; ++q) sum = sum + C(d_o.row(q)[c]) * rest[(i / D * M + q) * D + c];
    along[i] = sum * inverse[i];
  }
};

/// dK_tc += dn_c K_tc / n_c with dn_c = -beta gate along_c / n_c.
template <class T, class Space>
struct AddNormGradient {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C *along, *inverse;
  View<T, 4, Space> d_k;
  SRF_HD void operator()(index_t at) const {
    const index_t D = lanes.in.head_size(), N = lanes.in.keys(), i = at / D / N * D + at % D;
    const auto lane = lanes.lane(at / D / N);
    const index_t t = at / D % N;
    if (t >= lane.rule.length) return;
    const C share = lanes.in.share_of_rest() * lanes.in.gate(lane.h);
    const C d_norm = -share * along[i] * inverse[i];
    T& to = head_rows(d_k, lane.b, lane.h).row(t)[at % D];
    const C key = C(head_rows(lanes.in.k, lane.b, lane.h).row(t)[at % D]);
    to = T(C(to) + d_norm * key * inverse[i]);
  }
};

/// One lane's share of the gradients of leak, threshold, sigma and gate.
template <class T, class Space>
struct SumLaneScalars {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C *d_scalars, *along_rest, *along_local;  // along_local [all lanes, most]
  LanePartials<C> partials;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t i, void*) const {
    const index_t cells = lanes.cells(), lane = lanes.first + i, D = lanes.in.head_size();
    const auto sum = [&](const C* from, index_t n) {
      return team.template sum<C>(n, [=](index_t c) { return from[c]; });
    };
    const bool recurrent = lanes.in.options.recurrence;
    const C leak = recurrent ? sum(d_scalars + 2 * i * cells, cells) : C(0);
    const C threshold = recurrent ? sum(d_scalars + (2 * i + 1) * cells, cells) : C(0);
    const C rest = sum(along_rest + i * D, D);
    const C local = lanes.in.weighted() ? sum(along_local + lane * lanes.most, lanes.most) : C(0);
    if (!team.leader()) return;
    C* d = partials.scalars(lane);
    d[0] = leak, d[1] = threshold;
    d[2] = lanes.in.weighted() ? local - lanes.in.gate(lane % lanes.in.heads()) * rest : C(0);
    d[3] = lanes.in.share_of_rest() * rest;
  }
};

/// Calls f(lanes) for all lanes, a few at a time.
template <class T, class Space, class F>
void for_each_lanes(const RecurrentInputs<T, Space>& in, F f) {
  const index_t M = in.q.extent(2), N = in.keys(), all = in.q.extent(0) * in.heads();
  const index_t most = most_visited(in.options.segments, M, N), steps = in.stepwise() ? M : most;
  const index_t horizon = in.options.segments.horizon, L = in.options.segments.segment_size;
  // With at least as many steps as segments, all of them taken, every segment is seen.
  const bool gaps = horizon > M || (horizon > 0 ? horizon : M) < (N + L - 1) / L;
  const index_t cells = std::max(most, steps) * in.head_size() * in.head_size();
  const index_t each = std::max<index_t>(1, cells_at_a_time / cells);
  for (index_t first = 0; first < all; first += each) {
    f(RecurrentLanes<T, Space>{in, first, std::min(each, all - first), most, steps, gaps});
  }
}

/// What forward and backward compute of some lanes: products, recurrence, norms.
template <class B, class T>
struct RecurrentRun {
  using C = compute_t<T>;
  using Space = typename B::space;
  using Lanes = RecurrentLanes<T, Space>;
  static constexpr bool narrow = !std::is_same_v<T, C>;
  Tensor<B, C, 1> weight, p, gap, z, x, u, r, inverse;

  RecurrentRun(B& be, const Lanes& lanes, bool keep) {
    const index_t products = lanes.count * lanes.most * lanes.cells();
    const index_t states = lanes.count * lanes.steps * lanes.cells();
    const index_t D = lanes.in.head_size(), N = lanes.in.keys();
    p = Tensor<B, C, 1>(be, {products});
    if (lanes.gaps) gap = Tensor<B, C, 1>(be, {products});
    z = Tensor<B, C, 1>(be, {products});
    be.for_each_row(lanes.count * lanes.most, 0,
                    ProductsOfSegments<T, Space>{lanes, p.data(), gap.data()});
    be.for_each(lanes.count * lanes.cells(),
                CombineProducts<T, Space>{lanes, p.data(), gap.data(), z.data()});
    if (lanes.in.options.recurrence) {
      x = Tensor<B, C, 1>(be, {products}), r = Tensor<B, C, 1>(be, {states});
      if (keep) u = Tensor<B, C, 1>(be, {states});
      if constexpr (narrow) {
        weight = Tensor<B, C, 1>(be, {D * D});
        be.copy(weight.data(), lanes.in.parameters.weight, D * D);
      }
      be.gemm(Op::none, Op::transpose, lanes.count * lanes.most * D, D, D, C(1), z.data(), D,
              weights(lanes), D, C(0), x.data(), D);
      be.for_each(lanes.count * lanes.cells(),
                  RunCells<T, Space>{lanes, x.data(), r.data(), u.data()});
    }
    inverse = Tensor<B, C, 1>(be, {lanes.count * D});
    if (lanes.in.options.normalize) {
      using Squares = SumSquares<T, Space>;
      const index_t parts = (N + Squares::keys_each - 1) / Squares::keys_each;
      Tensor<B, C, 1> partial(be, {lanes.count * parts * D});
      be.for_each(partial.size(), Squares{lanes, partial.data(), parts});
      be.for_each(lanes.count * D, InvertNorms<C>{partial.data(), inverse.data(), parts, D});
    } else {
      be.fill(inverse.data(), inverse.size(), C(1));
    }
  }

  /// W in what is computed in.
  const C* weights(const Lanes& lanes) const {
    if constexpr (narrow) {
      return weight.data();
    } else {
      return lanes.in.parameters.weight;
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
  for_each_lanes(in, [&](const RecurrentLanes<T, Space>& lanes) {
    const RecurrentRun<B, T> run(be, lanes, false);
    Tensor<B, C, 1> rest(be, {lanes.count * lanes.queries() * in.head_size()});
    be.for_each_row(lanes.count * lanes.steps, 0,
                    ReadStep<T, Space>{lanes, run.read(), rest.data()});
    be.for_each(rest.size(), AddRest<T, Space>{lanes, rest.data(), run.inverse.data(), out});
  });
}

/// d_q, d_k, d_v += the gradients through the recurrent part; partials receive those of the parameters.
///   along_local  [B*H, segments] sums of dO . A, of the local part, where sigma weighs it
template <class B, class T>
void recurrent_batched_backward(B& be, const RecurrentInputs<T, typename B::space>& in,
                                In<B, T, 4> d_out, View<T, 4, typename B::space> d_q,
                                View<T, 4, typename B::space> d_k,
                                View<T, 4, typename B::space> d_v, const compute_t<T>* along_local,
                                const LanePartials<compute_t<T>>& partials) {
  using C = compute_t<T>;
  using Space = typename B::space;
  for_each_lanes(in, [&](const RecurrentLanes<T, Space>& lanes) {
    RecurrentRun<B, T> run(be, lanes, true);
    const index_t D = in.head_size(), cells = lanes.cells(), n = lanes.count;
    const index_t products = n * lanes.most * cells, rows = n * lanes.most * D;
    Tensor<B, C, 1> rest(be, {n * lanes.queries() * D}), d_rest(be, {rest.size()});
    Tensor<B, C, 1> d_r(be, {n * lanes.steps * cells}), d_scalars(be, {2 * n * cells});
    // O = ... + beta gate rest / n,  rest_i = q_i R
    be.for_each(rest.size(),
                RestGradient<T, Space>{lanes, d_out, run.inverse.data(), d_rest.data()});
    be.for_each_row(
        n * lanes.steps, 0,
        ReadStepBackward<T, Space>{lanes, d_q, run.read(), d_rest.data(), rest.data(), d_r.data()});
    C* d_z = d_r.data();
    if (in.options.recurrence) {
      // R = RAF(X)
      C* d_x = run.x.data();
      be.for_each(n * cells, RunCellsBackward<T, Space>{lanes, run.u.data(), d_r.data(), d_x,
                                                        d_scalars.data()});
      // X = Z W^T
      const index_t size = lanes.most * cells;
      be.gemm_batched(Op::transpose, Op::none, n, D, D, lanes.most * D, C(1),
                      Following<const C>{d_x, size}, D, Following<const C>{run.z.data(), size}, D,
                      C(0), Following<C>{partials.weight(lanes.first), cells + 4}, D);
      d_z = run.z.data();
      be.gemm(Op::none, Op::none, rows, D, D, C(1), d_x, D, run.weights(lanes), D, C(0), d_z, D);
    } else {
      be.fill(partials.weight(lanes.first), n * (cells + 4), C(0));
    }
    // Z from P_s = K_s^T V_s
    Tensor<B, C, 1> d_p(be, {products}), d_gap(be, {lanes.gaps ? products : 0});
    be.for_each(n * cells, CombineProductsBackward<T, Space>{lanes, run.p.data(), run.gap.data(),
                                                             d_z, d_p.data(), d_gap.data()});
    be.for_each_row(
        n * lanes.most, 0,
        ProductsOfSegmentsBackward<T, Space>{lanes, d_k, d_v, d_p.data(), d_gap.data()});
    // n_c = sqrt(sum_t K_tc^2)
    Tensor<B, C, 1> along(be, {n * D});
    be.for_each(
        n * D, SumAlongRest<T, Space>{lanes, d_out, rest.data(), run.inverse.data(), along.data()});
    if (in.options.normalize) {
      be.for_each(n * in.keys() * D,
                  AddNormGradient<T, Space>{lanes, along.data(), run.inverse.data(), d_k});
    }
    be.for_each_row(
        n, 0,
        SumLaneScalars<T, Space>{lanes, d_scalars.data(), along.data(), along_local, partials});
  });
}

}  // namespace srformer::detail
