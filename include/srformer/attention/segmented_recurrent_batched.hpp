// SPDX-License-Identifier: Apache-2.0
// The recurrent part of attention/segmented_recurrent.hpp in stages over all heads, for backends with
// gemm_batched. A lane is one source and head; j counts its segments, s those that some query sees.
//
//   [lane, j, min(L,N), D]  keys and values, zero where a source has none
//   [lane, j, D, D]     P_j = K_j^T V_j
//   [lane, s, D, D]     Z_s, X_s = Z_s W^T
//   [lane, step, D, D]  U, R; a step is a segment seen, or a query where every one is a step
//
// Products take all of them at once; what goes on from segment to segment runs in parallel over cells. What
// lies past the end of a shorter source is zero. As many lanes are taken at a time as cells_at_a_time allows.
#pragma once

#include <srformer/attention/recurrent_inputs.hpp>

namespace srformer::detail {

/// How many cells of segments or steps exist together in one tensor, at most; those of one lane where it has more.
template <class B>
inline constexpr index_t cells_at_a_time = index_t{1} << 26;

/// Elements that are read before the first of them is used.
inline constexpr int read_ahead = 4;

/// One source and head.
struct RecurrentLane {
  SegmentRule rule;
  const int* seen;  ///< [visited] the segments that are seen, in order
  int b, h;
  int count, visited, steps;  ///< segments, those seen, steps
  bool each;                  ///< whether every query is a step

  /// The first of its steps, and one past the last.
  SRF_HD int first_step(int s) const {
    return each ? static_cast<int>(rule.first_query(seen[s])) : s;
  }
  SRF_HD int end_step(int s) const {
    return each ? static_cast<int>(rule.end_query(seen[s], steps)) : s + 1;
  }
};

/// Some lanes, and what each has at most.
template <class T, class Space>
struct RecurrentLanes {
  using C = compute_t<T>;
  RecurrentInputs<T, Space> in;
  index_t first, count;  ///< lanes
  index_t segments, most, steps;
  const RecurrentLane* table = nullptr;

  /// Lane i, worked out once by FillLanes.
  SRF_HD const RecurrentLane& lane(index_t i) const { return table[i]; }

  SRF_HD index_t queries() const { return in.q.extent(2); }
  SRF_HD index_t cells() const { return in.head_size() * in.head_size(); }
  /// Keys of a segment, at most.
  SRF_HD index_t size() const {
    const index_t L = in.options.segments.segment_size;
    return L < in.keys() ? L : in.keys();
  }
  SRF_HD C share(index_t h) const { return in.share_of_rest() * in.gate(h); }
};

/// Works out entry s of the segments that a lane sees, and with the first of them the lane.
template <class T, class Space>
struct FillLanes {
  RecurrentLanes<T, Space> lanes;
  RecurrentLane* table;
  int* seen;  // [lanes, most]
  SRF_HD void operator()(index_t at) const {
    const index_t i = at / lanes.most, s = at % lanes.most, H = lanes.in.heads();
    const index_t b = (lanes.first + i) / H, M = lanes.queries();
    const SegmentRule rule =
        segment_rule(lanes.in.options.segments, lanes.in.context.mask, b, M, lanes.in.keys());
    const auto narrow = [](index_t x) { return static_cast<int>(x); };
    const index_t visited = rule.visited(M);
    if (s < visited) seen[at] = narrow(rule.visited_at(s));
    if (s > 0) return;
    const bool each = lanes.in.stepwise();
    table[i] = {rule,
                seen + at,
                narrow(b),
                narrow((lanes.first + i) % H),
                narrow(rule.count()),
                narrow(visited),
                narrow(each ? M : visited),
                each};
  }
};

/// Calls f(j, own_j, s, seen_s) for the segments j of a lane, in order or backwards: s is the place of j among
/// those seen, or -1. own [segments] and seen [visited] are `stride` apart; null: C(0).
template <bool backwards, class C, class F>
SRF_HD void walk_segments(const RecurrentLane& lane, const C* own, const C* seen, index_t stride,
                          F f) {
  const int n = lane.count, visited = lane.visited;
  int s = backwards ? visited - 1 : 0, next = lane.seen[s];
  for (int start = 0; start < n; start += read_ahead) {
    C held[read_ahead], other[read_ahead];
    int place[read_ahead];
    for (int e = 0; e < read_ahead; ++e) {
      const int j = backwards ? n - 1 - start - e : start + e;
      const bool exists = start + e < n, here = exists && j == next;
      held[e] = exists && own != nullptr ? own[j * stride] : C(0);
      other[e] = here && seen != nullptr ? seen[s * stride] : C(0);
      place[e] = here ? s : -1;
      if (!here) continue;
      s += backwards ? -1 : 1;
      next = s >= 0 && s < visited ? lane.seen[s] : -1;
    }
    for (int e = 0; e < read_ahead; ++e) {
      if (start + e < n) f(backwards ? n - 1 - start - e : start + e, held[e], place[e], other[e]);
    }
  }
}

/// The keys and values of segment j of a lane, and the sums of squares of its key features [lane, j, D].
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
    const Rows<const T> from_k = head_rows(lanes.in.k, lane.b, lane.h).from(first),
                        from_v = head_rows(lanes.in.v, lane.b, lane.h).from(first);
    C *to_k = k + row * all, *to_v = v + row * all, *sums = squares + row * D;
    const int apart = (all + read_ahead - 1) / read_ahead;
    team.for_each(apart, [=](index_t i) {
      C key[read_ahead], value[read_ahead];
      for (int e = 0; e < read_ahead; ++e) {
        const int at = static_cast<int>(i) + e * apart, t = at / D, c = at % D;
        key[e] = at < there ? C(from_k.row(t)[c]) : C(0);
        value[e] = at < there ? C(from_v.row(t)[c]) : C(0);
      }
      for (int e = 0; e < read_ahead; ++e) {
        const int at = static_cast<int>(i) + e * apart;
        if (at < all) to_k[at] = key[e], to_v[at] = value[e];
      }
    });
    team.for_each(D, [=](index_t c) {
      C sum(0);
      for (int t = 0; t < L; ++t) sum = sum + to_k[t * D + c] * to_k[t * D + c];
      sums[c] = sum;
    });
  }
};

/// z_s of one cell from p: what the other segments hold, summed as in attention/kv_product.hpp.
template <class T, class Space>
struct CombineProducts {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C* p;
  C* z;
  SRF_HD void operator()(index_t i) const {
    const index_t cells = lanes.cells(), c = i % cells;
    const RecurrentLane& lane = lanes.lane(i / cells);
    const C* own = p + i / cells * lanes.segments * cells + c;
    C* to = z + i / cells * lanes.most * cells + c;
    const C *none = nullptr, *written = to;
    const KvProductOptions& o = lanes.in.options.product;
    const C bound = C(o.clamp);
    for (index_t s = lane.visited; s < lanes.most; ++s) to[s * cells] = C(0);
    if (o.product == Product::segment || o.clamp > 0) {
      C total(0);
      if (o.product == Product::complement) {
        walk_segments<false>(lane, own, none, cells, [&](int, C x, int, C) { total = total + x; });
        total = bounded(total, bound);
      }
      walk_segments<false>(lane, own, none, cells, [&](int, C x, int s, C) {
        if (s < 0) return;
        const C part = o.clamp > 0 ? bounded(x, bound) : x;
        to[s * cells] = o.product == Product::complement ? total - part : part;
      });
      return;
    }
    C behind(0), before(0);
    walk_segments<true>(lane, own, none, cells, [&](int, C x, int s, C) {
      if (s >= 0) to[s * cells] = behind;
      behind = behind + x;
    });
    walk_segments<false>(lane, own, written, cells, [&](int, C x, int s, C after) {
      if (s >= 0) to[s * cells] = before + after;
      before = before + x;
    });
  }
};

/// d_p_j of one cell from d_z.
template <class T, class Space>
struct CombineProductsBackward {
  using C = compute_t<T>;
  RecurrentLanes<T, Space> lanes;
  const C *p, *d_z;
  C* d_p;
  SRF_HD void operator()(index_t i) const {
    const index_t cells = lanes.cells(), c = i % cells;
    const RecurrentLane& lane = lanes.lane(i / cells);
    const C *own = p + i / cells * lanes.segments * cells + c,
            *from = d_z + i / cells * lanes.most * cells + c;
    C* to = d_p + i / cells * lanes.segments * cells + c;
    const C *none = nullptr, *written = to;
    const KvProductOptions& o = lanes.in.options.product;
    const C bound = C(o.clamp);
    for (index_t j = lane.count; j < lanes.segments; ++j) to[j * cells] = C(0);
    if (o.product == Product::segment || o.clamp > 0) {
      // Z_s = clamp(P) - clamp(P_s), or clamp(P_s)
      C all(0), total(0);
      if (o.product == Product::complement) {
        walk_segments<false>(lane, own, from, cells, [&](int, C x, int, C d) {
          total = total + x;
          all = all + d;
        });
        all = passes(total, bound) * all;
      }
      walk_segments<false>(lane, own, from, cells, [&](int j, C x, int, C d) {
        const C here = o.clamp > 0 ? passes(x, bound) * d : d;
        to[j * cells] = o.product == Product::complement ? all - here : here;
      });
      return;
    }
    // Z_s = sum of the other P_j
    C behind(0), before(0);
    walk_segments<true>(lane, none, from, cells, [&](int j, C, int, C d) {
      to[j * cells] = behind;
      behind = behind + d;
    });
    walk_segments<false>(lane, written, from, cells, [&](int j, C after, int, C d) {
      to[j * cells] = before + after;
      before = before + d;
    });
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
      const index_t cells = lanes.cells(), c = i % cells;
      const RecurrentLane& lane = lanes.lane(i / cells);
      const C* from = x + i / cells * lanes.most * cells + c;
      const index_t at = i / cells * lanes.steps * cells + c;
      const C inverse = C(1) / raf.threshold;
      C membrane(0);
      int s = 0, end = lane.end_step(0);
      for (int start = 0; start < lane.steps; start += read_ahead) {
        C held[read_ahead];
        for (int e = 0; e < read_ahead; ++e) {
          const bool exists = start + e < lane.steps;
          if (exists && start + e == end) end = lane.end_step(++s);
          held[e] = exists ? from[s * cells] : C(0);
        }
        for (int e = 0; e < read_ahead; ++e) {
          if (start + e >= lane.steps) continue;
          const C now = raf.leak * membrane + held[e];
          r[at + (start + e) * cells] = fired<binary.value>(now, inverse);
          if (u != nullptr) u[at + (start + e) * cells] = now;
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
      const index_t cells = lanes.cells(), c = i % cells;
      const RecurrentLane& lane = lanes.lane(i / cells);
      C* to = d_x + i / cells * lanes.most * cells + c;
      const index_t at = i / cells * lanes.steps * cells + c;
      const C inverse = C(1) / raf.threshold;
      for (index_t s = lane.visited; s < lanes.most; ++s) to[s * cells] = C(0);
      C d_membrane(0), leak(0), threshold(0), sum(0), now = u[at + (lane.steps - 1) * cells];
      int s = lane.visited - 1, first = lane.first_step(s);
      for (int start = lane.steps - 1; start >= 0; start -= read_ahead) {
        C before[read_ahead], d[read_ahead];
        for (int e = 0; e < read_ahead; ++e) {
          const int step = start - e;
          before[e] = step > 0 ? u[at + (step - 1) * cells] : C(0);
          d[e] = step >= 0 ? d_r[at + step * cells] : C(0);
        }
        for (int e = 0; e < read_ahead; ++e) {
          const int step = start - e;
          if (step < 0) continue;
          const C membrane = step > 0 ? after_reset(before[e], raf, inverse) : C(0);
          const auto g =
              raf_cell_backward<binary.value>(raf, inverse, now, membrane, d[e], d_membrane);
          d_membrane = g.d_membrane;
          leak = leak + g.leak, threshold = threshold + g.threshold;
          sum = sum + g.d_x;
          now = before[e];
          if (step != first) continue;
          to[s * cells] = sum;
          sum = C(0);
          if (--s >= 0) first = lane.first_step(s);
        }
      }
      d_scalars[2 * i - c] = leak;
      d_scalars[2 * i - c + cells] = threshold;
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

/// inverse[lane, c] = 1 / n_c, 0 for a dead feature, 1 everywhere without normalisation.
template <class C>
struct InvertNorms {
  const C* squares;  // [lane, segments, D]
  C* inverse;
  index_t segments, head_size;
  bool normalize;
  SRF_HD void operator()(index_t i) const {
    const C* from = squares + i / head_size * segments * head_size + i % head_size;
    C sum(0);
    for (index_t j = 0; j < segments && normalize; ++j) sum = sum + from[j * head_size];
    inverse[i] = !normalize ? C(1) : primal(sum) > 0 ? C(1) / math::sqrt(sum) : C(0);
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

/// partial[lane, part, c] = the sum of dO_ic rest_ic / n_c over 16 queries.
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

/// along[lane, c] = the sum of its parts.
template <class C>
struct AddAlongRest {
  const C* partial;
  C* along;
  index_t parts, head_size;
  SRF_HD void operator()(index_t i) const {
    const C* from = partial + i / head_size * parts * head_size + i % head_size;
    C sum(0);
    for (index_t part = 0; part < parts; ++part) sum = sum + from[part * head_size];
    along[i] = sum;
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
    const C share = lanes.in.options.normalize ? lanes.share(lane.h) : C(0);
    const C *key = k + at, *more_k = from_k + at, *more_v = from_v + at;
    const C *sum = along + i * D, *inv = inverse + i * D;
    const int apart = (there + read_ahead - 1) / read_ahead;
    team.for_each(apart, [=](index_t n) {
      C dk[read_ahead], dv[read_ahead];
      for (int e = 0; e < read_ahead; ++e) {
        const int x = static_cast<int>(n) + e * apart, t = x / D, c = x % D;
        if (x >= there) continue;
        const C d_key = more_k[x] - share * sum[c] * inv[c] * inv[c] * key[x];
        dk[e] = C(to_k.row(t)[c]) + d_key;
        dv[e] = C(to_v.row(t)[c]) + more_v[x];
      }
      for (int e = 0; e < read_ahead; ++e) {
        const int x = static_cast<int>(n) + e * apart, t = x / D, c = x % D;
        if (x < there) to_k.row(t)[c] = T(dk[e]), to_v.row(t)[c] = T(dv[e]);
      }
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
    d[0] = leak, d[1] = threshold;
    d[2] = weighted ? local - lanes.in.gate(lane % lanes.in.heads()) * rest : C(0);
    d[3] = lanes.in.share_of_rest() * rest;
  }
};

/// Calls f(lanes) for all lanes, a few at a time.
template <class T, class B, class F>
void for_each_lanes(B& be, const RecurrentInputs<T, typename B::space>& in, F f) {
  using Space = typename B::space;
  const index_t M = in.q.extent(2), N = in.keys(), all = in.q.extent(0) * in.heads();
  const index_t L = in.options.segments.segment_size, segments = (N + L - 1) / L;
  const index_t most = most_visited(in.options.segments, M, N), steps = in.stepwise() ? M : most;
  const index_t cells = std::max(segments, steps) * in.head_size() * in.head_size();
  const index_t each = std::max<index_t>(1, cells_at_a_time<B> / cells);
  for (index_t first = 0; first < all; first += each) {
    RecurrentLanes<T, Space> lanes{in, first, std::min(each, all - first), segments, most, steps};
    Tensor<B, RecurrentLane, 1> table(be, {lanes.count});
    Tensor<B, int, 2> seen(be, {lanes.count, most});
    be.for_each(seen.size(), FillLanes<T, Space>{lanes, table.data(), seen.data()});
    lanes.table = table.data();
    f(lanes);
  }
}

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
    be.for_each(lanes.count * D, InvertNorms<C>{squares.data(), inverse.data(), lanes.segments, D,
                                                lanes.in.options.normalize});
    be.gemm_batched(Op::transpose, Op::none, segments, D, D, L, C(1), matrices(k, L * D), D,
                    matrices(v, L * D), D, C(0), Following<C>{p.data(), cells}, D);
    be.for_each(lanes.count * cells, CombineProducts<T, Space>{lanes, p.data(), z.data()});
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
    be.for_each(lanes.count * cells, RunCells<T, Space>{lanes, x.data(), r.data(), u.data()});
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

/// d_q, d_k, d_v += the gradients through the recurrent part; partials receive those of the parameters.
///   along_local  [B*H, terms] sums of dO . A, of the local part, where sigma weighs it
template <class B, class T>
void recurrent_batched_backward(B& be, const RecurrentInputs<T, typename B::space>& in,
                                In<B, T, 4> d_out, View<T, 4, typename B::space> d_q,
                                View<T, 4, typename B::space> d_k,
                                View<T, 4, typename B::space> d_v,
                                In<B, compute_t<T>, 2> along_local,
                                const LanePartials<compute_t<T>>& partials) {
  using C = compute_t<T>;
  using Space = typename B::space;
  for_each_lanes<T>(be, in, [&](const RecurrentLanes<T, Space>& lanes) {
    RecurrentRun<B, T> run(be, lanes, true);
    const index_t D = in.head_size(), cells = lanes.cells(), L = lanes.size(), n = lanes.count;
    const index_t segments = n * lanes.segments, seen = n * lanes.most;
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
                      run.matrices(run.x, size), D, run.matrices(run.z, size), D, C(0),
                      Following<C>{partials.weight(lanes.first), cells + 4}, D);
      d_z = run.z.data();
      be.gemm(Op::none, Op::none, seen * D, D, D, C(1), d_x, D, run.weights(lanes), D, C(0), d_z,
              D);
    } else {
      be.fill(partials.weight(lanes.first), n * (cells + 4), C(0));
    }
    // Z from P_j = K_j^T V_j
    Tensor<B, C, 1> d_p(be, {segments * cells});
    Tensor<B, C, 1> to_k(be, {segments * L * D}), to_v(be, {segments * L * D});
    be.for_each(n * cells, CombineProductsBackward<T, Space>{lanes, run.p.data(), d_z, d_p.data()});
    be.gemm_batched(Op::none, Op::transpose, segments, L, D, D, C(1), run.matrices(run.v, L * D), D,
                    run.matrices(d_p, cells), D, C(0), Following<C>{to_k.data(), L * D}, D);
    be.gemm_batched(Op::none, Op::none, segments, L, D, D, C(1), run.matrices(run.k, L * D), D,
                    run.matrices(d_p, cells), D, C(0), Following<C>{to_v.data(), L * D}, D);
    // n_c = sqrt(sum_t K_tc^2)
    using Along = SumAlongRest<T, Space>;
    const index_t parts = (lanes.queries() + Along::queries_each - 1) / Along::queries_each;
    Tensor<B, C, 1> along(be, {n * D}), partial(be, {n * parts * D});
    be.for_each(partial.size(),
                Along{lanes, d_out, rest.data(), run.inverse.data(), partial.data(), parts});
    be.for_each(n * D, AddAlongRest<C>{partial.data(), along.data(), parts, D});
    be.for_each_row(segments, 0,
                    AddSegmentGradients<T, Space>{lanes, run.k.data(), to_k.data(), to_v.data(),
                                                  along.data(), run.inverse.data(), d_k, d_v});
    be.for_each_row(
        n, 0,
        SumLaneScalars<T, Space>{lanes, d_scalars.data(), along.data(), along_local, partials});
  });
}

}  // namespace srformer::detail
