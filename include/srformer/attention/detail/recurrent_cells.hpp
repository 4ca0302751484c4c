// SPDX-License-Identifier: Apache-2.0
// What attention/detail/segmented_recurrent_batched.hpp does cell by cell of the [D,D] states, along the segments of
// one source and head:
//
//   Z_s from P_j   what the other segments hold, attention/kv_product.hpp has the equations
//   R from X_s     the recurrence, attention/raf.hpp has them
//
// and both in reverse. Cells do not depend on each other.
#pragma once

#include <srformer/attention/recurrent_inputs.hpp>
#include <srformer/backend/device_loops.hpp>

namespace srformer::SRF_DETAIL {

/// How many cells of segments or steps exist together in one tensor, at most; those of one lane where it has more.
template <class B>
inline constexpr index_t cells_at_a_time = index_t{1} << 26;

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
    const index_t L = in.options.segment_size;
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
        segment_rule(lanes.in.options.segments(), lanes.in.context.mask, b, M, lanes.in.keys());
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

/// Calls f(lanes) for all lanes, a few at a time.
template <class T, class B, class F>
void for_each_lanes(B& be, const RecurrentInputs<T, typename B::space>& in, F f) {
  using Space = typename B::space;
  const index_t M = in.q.extent(2), N = in.keys(), all = in.q.extent(0) * in.heads();
  const index_t L = in.options.segment_size, segments = (N + L - 1) / L;
  const index_t most = most_visited(in.options.segments(), M, N), steps = in.stepwise() ? M : most;
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
    const KvProductOptions o = lanes.in.options.products();
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
    const KvProductOptions o = lanes.in.options.products();
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
        all = passed(total, bound, all);
      }
      walk_segments<false>(lane, own, from, cells, [&](int j, C x, int, C d) {
        const C here = o.clamp > 0 ? passed(x, bound, d) : d;
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
    const index_t cells = lanes.cells(), c = i % cells;
    const RecurrentLane& lane = lanes.lane(i / cells);
    const RafScalars<C> raf = lanes.in.raf(lane.rule.length);
    with_firing(raf, [&](auto binary) {
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
    const index_t cells = lanes.cells(), c = i % cells;
    const RecurrentLane& lane = lanes.lane(i / cells);
    const RafScalars<C> raf = lanes.in.raf(lane.rule.length);
    with_firing(raf, [&](auto binary) {
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
          const auto g = raf_cell_backward<binary.value>(raf, inverse, C(now * inverse), membrane,
                                                         d[e], d_membrane);
          d_membrane = g.d_membrane;
          leak = leak + g.leak, threshold = threshold - g.minus_threshold;
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

}  // namespace srformer::SRF_DETAIL
