// SPDX-License-Identifier: Apache-2.0
// The recurrence of short segments and what their few queries read of it, as one: a second schedule of some phases of
// attention/segmented_recurrent.hpp, which has the equations. A strip, some registers of a row of the [D,D] states, goes
// through all segments:
//
//   Z_s = G + sum of the other P,   U_s = leak Mem_{s-1} + Z_s,   rest_i += q_i R_s
//
//   in reverse   dR_s = sum_i q_i^T drest_i,   dq_i += drest_i R_s^T,   dX_s of attention/raf.hpp,
//                dG = sum of dX,   dP_s = sum of the other dX
//
// Only P_s is in memory, and U_s, dX_s and dP_s in its place: where a segment has few queries, writing and reading R_s
// and dR_s takes longer than all they are needed for. For W folded into the values, a step for every segment and no
// clamp. Each function returns whether it did its work; otherwise the plain phases do.
#pragma once

#include <srformer/attention/detail/lane_executor.hpp>
#include <srformer/attention/recurrent_inputs.hpp>

namespace srformer::SRF_DETAIL {

#if !defined(__CUDACC__)

/// One strip of the states of one lane. Pointers are those of its row and its first column.
template <class T>
struct RecurrentStrip {
  using V = Pack<T, Vector<T>::lanes>;
  static constexpr int lanes = Vector<T>::lanes, wide = 4;
  static constexpr index_t columns = wide * lanes;

  const Lane& lane;
  RafScalars<T> raf;
  T *p, *sum_of_unseen;
  index_t stride;  ///< from P_s to P_{s+1}
  T* notes;        ///< [seen, columns]
  T inverse = T(1) / raf.threshold;

  struct Sums {
    V of[wide];
  };
  static V load(const T* from) { return Cells<V>::load(from); }
  static void store(T* to, const V& v) { Cells<V>::store(to, v); }
  /// f(w) for every register of the strip.
  template <class F>
  [[gnu::always_inline]] static void for_each(F f) {
#pragma GCC unroll 4
    for (int w = 0; w < wide; ++w) f(w);
  }
  static Sums all(const T* from) {
    Sums x;
    for_each([&](int w) { x.of[w] = from == nullptr ? V(T(0)) : load(from + w * lanes); });
    return x;
  }
  /// What comes after segment s: the note of it. Then x belongs to it too.
  static void note(T* to, const V& x, V& after) {
    store(to, after);
    after = after + x;
  }

  /// Calls step(s, w, U_s) for every register, in order, and done(s) after those of one segment. P_s is read before.
  template <class Step, class Done>
  [[gnu::always_inline]] void run(Step step, Done done) const {
    Sums sum = all(nullptr);
    for (index_t s = lane.seen - 1; s >= 0; --s) {
      for_each([&](int w) {
        note(notes + s * columns + w * lanes, load(p + s * stride + w * lanes), sum.of[w]);
      });
    }
    sum = all(sum_of_unseen);
    Sums membrane = all(nullptr);
    for (index_t s = 0; s < lane.seen; ++s) {
      for_each([&](int w) {
        const V others = sum.of[w] + load(notes + s * columns + w * lanes);
        sum.of[w] = sum.of[w] + load(p + s * stride + w * lanes);
        const V now = raf.leak * membrane.of[w] + others;
        step(s, w, now);
        membrane.of[w] = after_reset(now, raf, inverse);
      });
      done(s);
    }
  }

  /// rest_i += q_i R_s, and U_s in the place of P_s where `keep_u`.
  template <bool keep_u>
  [[gnu::noinline, gnu::flatten]] void forward(Rows<const T> q, Rows<T> rest) const {
    Sums held;
    run(
        [&](index_t s, int w, const V& now) {
          if constexpr (keep_u) store(p + s * stride + w * lanes, now);
          held.of[w] = fired<false>(now, inverse);
        },
        [&](index_t s) {
          for (index_t i = lane.segments[s].first_query; i < lane.segments[s].end_query; ++i) {
            const T left = *q.row(i);
            for_each([&](int w) {
              T* to = rest.row(i) + w * lanes;
              store(to, load(to) + left * held.of[w]);
            });
          }
        });
  }

  /// dP_s in the place of U_s, and dG in that of G; dq and the scalars' gradients are added to.
  [[gnu::noinline, gnu::flatten]] void backward(Rows<const T> q, Rows<const T> d_rest, Rows<T> d_q,
                                                RafScalarGradients<T>& d_raf) const {
    const V none(T(0));
    V leak = none, threshold = none;
    Sums d_membrane = all(nullptr), sum = all(nullptr);
    for (index_t s = lane.seen - 1; s >= 0; --s) {
      const Sums d_r = read_queries(s, q, d_rest, d_q);
      T* u = p + s * stride;
      for_each([&](int w) {
        const V before = s > 0 ? load(u - stride + w * lanes) : none;
        const auto d = raf_cell_backward<false>(raf, inverse, V(load(u + w * lanes) * inverse),
                                                after_reset(before, raf, inverse), d_r.of[w],
                                                d_membrane.of[w]);
        leak = leak + d.leak, threshold = threshold - d.minus_threshold;
        d_membrane.of[w] = d.d_membrane;
        store(u + w * lanes, d.d_x);
        note(notes + s * columns + w * lanes, d.d_x, sum.of[w]);
      });
    }
    d_raf.leak += sum_of_lanes(leak.v[0]);
    d_raf.threshold += sum_of_lanes(threshold.v[0]);
    share_among_others();
  }

  /// dR_s = sum_i q_i^T drest_i,  dq_i += drest_i R_s^T
  Sums read_queries(index_t s, Rows<const T> q, Rows<const T> d_rest, Rows<T> d_q) const {
    Sums held, d_r = all(nullptr);
    for_each([&](int w) { held.of[w] = fired<false>(load(p + s * stride + w * lanes), inverse); });
    for (index_t i = lane.segments[s].first_query; i < lane.segments[s].end_query; ++i) {
      const T left = *q.row(i);
      V along(T(0));
      for_each([&](int w) {
        const V d = load(d_rest.row(i) + w * lanes);
        along = along + d * held.of[w];
        d_r.of[w] = d_r.of[w] + left * d;
      });
      *d_q.row(i) += sum_of_lanes(along.v[0]);
    }
    return d_r;
  }

  /// dP_s and dG from dX_s and from the notes of what comes after each.
  void share_among_others() const {
    Sums sum = all(nullptr);
    for (index_t s = 0; s < lane.seen; ++s) {
      for_each([&](int w) {
        T* x = p + s * stride + w * lanes;
        const V d_x = load(x);
        store(x, sum.of[w] + load(notes + s * columns + w * lanes));
        sum.of[w] = sum.of[w] + d_x;
      });
    }
    for_each([&](int w) { store(sum_of_unseen + w * lanes, sum.of[w]); });
  }
};

/// Up to so many queries for each segment that is seen strips are faster.
inline constexpr index_t most_queries_of_strips = 4;

template <class On, class T, class C>
inline constexpr bool has_strips =
    std::is_same_v<On, LaneExecutor<T>>&& std::is_same_v<T, C>&& has_packs<T>;

template <class T>
Rows<T> column_rows(const Family<T>& f, const Lane& lane, index_t column) {
  return {f.at(lane, 0, 0, column), f.row_stride};
}

/// Calls f(strip, row, column) for the strips of a block of rows, unless strips do not know what `in` wants.
template <class On, class T, class Space, class F>
bool for_each_strip(On& on, const RecurrentInputs<T, Space>& in, const Family<T>& p,
                    const Family<T>& g, RowBlock rows, F f) {
  using Strip = RecurrentStrip<T>;
  const Lane& lane = on.this_lane();
  if (!in.folded() || in.stepwise() || in.options.binary_firing ||
      in.options.product != Product::complement || in.head_size() % Strip::columns != 0 ||
      lane.queries > most_queries_of_strips * lane.seen) {
    return false;
  }
  T* notes = on.template notes<Strip::columns>();
  for (index_t r = 0; r < rows.count; ++r) {
    for (index_t c = 0; c < in.head_size(); c += Strip::columns) {
      f(Strip{lane, in.raf(lane.keys), p.at(lane, 0, r, c), g.at(lane, 0, r, c), p.matrix_stride,
              notes},
        rows.first + r, c);
    }
  }
  return true;
}

#else
template <class On, class T, class C>
inline constexpr bool has_strips = false;
#endif

/// rest_i += q_i R_s for a block of rows of the states, from P_s and G.
template <class On, class T, class Space, class C>
bool read_states_in_strips(On& on, const RecurrentInputs<T, Space>& in, const Family<C>& p,
                           const Family<C>& g, const Family<C>& rest, RowBlock rows) {
  if constexpr (has_strips<On, T, C>) {
    const Lane& lane = on.this_lane();
    const auto q = family(in.q, Cut::whole);
    return for_each_strip(on, in, p, g, rows, [&](const auto& strip, index_t r, index_t c) {
      strip.template forward<false>(column_rows(q, lane, r), column_rows(rest, lane, c));
    });
  }
  return false;
}

/// What read_states_backward_in_strips makes from drest beside dP_s and dG: dq, rest again, dleak and dthreshold.
template <class T, class C>
struct StripGradients {
  Family<C> d_rest, rest;
  Family<T> d_q;
  Family<C> d_leak, d_threshold;
};
/// From P_s and G: dP_s and dG in their places, and the rest of what `d` has.
template <class On, class T, class Space, class C>
bool read_states_backward_in_strips(On& on, const RecurrentInputs<T, Space>& in, const Family<C>& p,
                                    const Family<C>& g, const StripGradients<T, C>& d,
                                    RowBlock rows) {
  if constexpr (has_strips<On, T, C>) {
    const Lane& lane = on.this_lane();
    const auto q = family(in.q, Cut::whole);
    const Family<const T> d_rest = d.d_rest;
    RafScalarGradients<C> d_raf{C(0), C(0)};
    const auto run = [&](const auto& strip, index_t r, index_t c) {
      strip.template forward<true>(column_rows(q, lane, r), column_rows(d.rest, lane, c));
      strip.backward(column_rows(q, lane, r), column_rows(d_rest, lane, c),
                     column_rows(d.d_q, lane, r), d_raf);
    };
    if (!for_each_strip(on, in, p, g, rows, run)) return false;
    *d.d_leak.at(lane, 0, 0, 0) += d_raf.leak;
    *d.d_threshold.at(lane, 0, 0, 0) += d_raf.threshold;
    return true;
  }
  return false;
}

}  // namespace srformer::SRF_DETAIL
