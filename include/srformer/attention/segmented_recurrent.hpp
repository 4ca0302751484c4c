// SPDX-License-Identifier: Apache-2.0
// Segmented recurrent attention (SRformer): the segment of a query by softmax, all the others by a
// key-value product that passed the RAF recurrence.
//
//   A_i = softmax(q_i K_j^T + b_i) V_j                      j = seg(i)
//   Z_j = clamp(P) - clamp(P_j),  P_j = K_j^T V_j           what the other segments hold
//   R_j = RAF(Z_j W^T)                                      over the visited segments, in order
//   C_i = (q_i R_j) / n,  n_c = sqrt(sum_t K_tc^2)          1/n_c counts as 0 where n_c = 0
//   O_i = A_i + gate C_i,  or  sigma A_i + (1 - sigma) gate C_i
//
// With the option average_products, of a source of N keys, Z_j / N stands for Z_j and n_c is the root of the mean of K_tc^2.
// R is homogeneous: that of Z / N with a threshold is that of Z with N times the threshold. So the recurrence here is that
// of Z, with N times the threshold, and 1 / n_c, of the root of the sum, is multiplied by N^1/2.
//
// With the option soft_keys, P_j = F_j^T V_j of the features F of attention/kv_product.hpp, and n_c = 1.
//
//   dA = alpha dO, dC = beta gate dO   (alpha, beta) = (1, 1), or (sigma, 1 - sigma)
//   dR_j = sum_{i in j} q_i^T (dC_i / n),   dq_i += (dC_i / n) R_j^T
//   dn_c = -sum_i dC_ic C_ic / n_c,   dK_tc += dn_c K_tc / n_c
//   dX_j from dR_j by the RAF in reverse,   dW += sum_j dX_j^T Z_j,   dZ_j = dX_j W
//   dP_j, dK_j, dV_j as in attention/kv_product.hpp;  the part of A as in attention/attend.hpp
//
// Below, forward and backward are programs: phases over the matrices of all segments of a source and head, which an
// executor runs (attention/detail/lane_executor.hpp). X_s, U_s, R_s and their gradients are families of [D,D] matrices,
// one for each segment that some query sees; U and R have one for each query where every query is a step of the
// recurrence. A row of all of them depends on no other row, so that a block of rows at a time goes through all phases.
//
// Where L < D and nothing is clamped, W is folded into the values: Z_j W^T is the sum of K_l^T (V_l W^T) over the other
// segments l, which replaces 2 S D^3 by 2 N D^2. Nothing is saved; backward runs the products and the recurrence again.
//
// attention/detail/segmented_recurrent_batched.hpp has the same for backends with gemm_batched.
#pragma once

#include <numeric>
#include <vector>

#include <srformer/attention/detail/recurrent_strips.hpp>
#include <srformer/attention/detail/segmented_recurrent_batched.hpp>
#include <srformer/attention/full.hpp>
#include <srformer/attention/segmented.hpp>

namespace srformer {

namespace SRF_DETAIL {

// ------------------------------------------------------------------------------- what programs work on

/// What is given, by its names in the equations.
template <class T, class Space>
struct RecurrentGiven {
  using C = compute_t<T>;
  RecurrentInputs<T, Space> in;
  Family<const T> q, k, v, w;
  Family<const T> f;  ///< what the products are made of: k, or the features F

  explicit RecurrentGiven(const RecurrentInputs<T, Space>& inputs)
      : in(inputs),
        q(family(in.q, Cut::queries)),
        k(family(in.k, Cut::keys)),
        v(family(in.v, Cut::keys)),
        f(family(in.keys_of_products(), Cut::keys)) {
    const index_t D = in.head_size();
    w = {in.parameters.weight, 0, 0, 0, D, D, D};
  }
  /// The factor of rest_i / n in the output of a head: beta gate.
  SRF_HD C share(index_t h) const { return in.share_of_rest() * in.gate(h); }
  /// Whether products that no query sees enter P.
  bool adds_unseen() const { return in.options.product == Product::complement; }
};

enum class Pass { forward, backward, prepare };

/// The matrices that a program makes. Those that are not needed at the same time share their memory.
template <class C>
struct RecurrentScratch {
  Family<C> y, d_y;                             ///< [N,D] V W^T where W is folded, and dV in C
  Family<C> p, z, x, u, r, d_r, d_x, d_z, d_p;  ///< [D,D] for each segment; u, r, d_r for each step
  Family<C> g, d_g;                             ///< [D,D] the sum of the products no query sees
  Family<C> rest, d_rest;                       ///< [M,D] q_i R_seg(i)
  Family<C> scores, d_scores;                   ///< [M,L]
  Family<C> inverse, along_rest, norm_factor;   ///< [1,D]
  Family<C> along_local;                        ///< [M,1] dO_i A_i
  Family<C> d_leak, d_threshold;                ///< [D,D] by cell

  template <class On, class T, class Space>
  RecurrentScratch(On& on, const RecurrentInputs<T, Space>& in, Pass pass) {
    const index_t D = in.head_size(), M = in.q.extent(2);
    take_states(on, in, pass);
    inverse = on.room(1, D), inverse.row_stride = 0;
    if (in.folded()) y = on.room(in.keys(), D).cut_by(Cut::keys);
    if (pass == Pass::prepare) return;
    rest = on.room(M, D).cut_by(Cut::step_queries);
    scores = on.room(M, in.segment_rows().width()).cut_by(Cut::scores);
    if (pass == Pass::forward) return;
    if (sums_values(on, in)) d_y = on.room(in.keys(), D).cut_by(Cut::keys);
    d_rest = on.room(M, D).cut_by(Cut::step_queries);
    d_scores = on.room(M, in.segment_rows().width()).cut_by(Cut::scores);
    along_local = on.room(M, 1);
    along_rest = on.room(1, D), along_rest.row_stride = 0;
    norm_factor = on.room(1, D), norm_factor.row_stride = 0;
  }

  /// Whether dY is summed in C before it is added to dV: Y is not V, or dV is narrow and would be rounded often.
  template <class On, class T, class Space>
  static bool sums_values(const On& on, const RecurrentInputs<T, Space>& in) {
    return in.folded() || (on.blocked() && !std::is_same_v<T, C>);
  }

 private:
  template <class On, class T, class Space>
  void take_states(On& on, const RecurrentInputs<T, Space>& in, Pass pass) {
    const bool backward = pass == Pass::backward, multiplied = in.multiplied();
    const bool recurrent = in.options.recurrence, clamped = in.options.clamp > 0;
    p = on.states(Cut::segments);
    z = backward && clamped ? on.states(Cut::segments) : p;  // backward reads P_s again
    x = multiplied ? on.states(Cut::segments) : z;
    u = in.stepwise() ? on.states(Cut::steps) : x;
    r = backward && recurrent ? on.states(in.stepwise() ? Cut::steps : Cut::segments) : u;
    g = on.block_room();
    if (!backward) return;
    d_r = recurrent ? r : on.states(Cut::segments);
    d_x = in.stepwise() ? x : d_r;
    d_z = multiplied ? z : d_x;
    d_p = in.folded() ? p : d_z;
    d_g = in.folded() ? g : on.block_room(), d_leak = on.block_room(),
    d_threshold = on.block_room();
  }
};

/// The gradients of the output and of q, k and v, and a lane's shares of those of the parameters.
template <class T, class Space>
struct RecurrentGradients {
  View<const T, 4, Space> d_out;
  View<T, 4, Space> d_q, d_k, d_v;
  View<T, 4, Space> d_f;  ///< of what the products are made of: d_k, or the gradient of F
  LanePartials<compute_t<T>> partials;

  using Shares = Family<compute_t<T>>;
  Shares d_weight(index_t heads, index_t D) const {
    return {partials.data, heads * (D * D + 4), D * D + 4, 0, D, D, D};
  }
  /// Those of leak, threshold, sigma and gate, one after the other.
  Shares d_scalar(index_t heads, index_t which) const {
    const index_t stride = partials.cells + 4;
    return {partials.data + partials.cells + which, heads * stride, stride, 0, 1, 1, 1};
  }
};

// ------------------------------------------------------------------------------- the states R_s

/// R_s, and U_s where `keep_u`, from P_s and G.
template <class On, class G, class C>
void recur(On& on, const G& x, const RecurrentScratch<C>& m, bool keep_u) {
  const auto& in = x.in;
  // Z_s = clamp(G + sum P) - clamp(P_s)
  if (!in.folded()) {
    on.cells([o = in.options.products(), p = m.p, z = m.z, g = m.g](const auto& at) {
      combine_products(at, o, at(p), at(z), at(g)[0]);
    });
    if (!in.options.recurrence) return;  // R_s = Z_s
    on.multiply(m.x, m.z, transposed(x.w));
  }
  // R_s = RAF(X_s),  X_s = Z_s W^T, or Z_s where W is in Y
  const RafScalars<C> of_source = in.raf(on.this_lane().keys);
  with_firing(of_source, [&](auto binary) {
    on.cells(
        [raf = of_source, o = in.options.products(), folded = in.folded(), p = m.p, x = m.x,
         g = m.g, u = m.u, r = m.r, keep_u](const auto& at) {
          auto to = recurrence<decltype(binary)::value>(at, raf, at(u), at(r), keep_u);
          if (folded) {
            combine_products(at, o, at(p), to, at(g)[0]);
          } else {
            for (index_t s = 0; s < at.segments(); ++s) to.set(s, at(x)[s]);
          }
        },
        binary);
  });
}

/// A block of rows of the products P_s and G from those columns of the keys, or of their features, and from Y. `beside`
/// runs phases that read the keys and values too.
template <class On, class G, class Y, class C, class Beside>
void make_products(On& on, const G& x, const Y& y, const RecurrentScratch<C>& m, RowBlock rows,
                   Beside beside) {
  const auto k = x.f.columns_of(rows);
  // P_s = K_s^T Y_s,  G = K^T Y of the keys that no query sees
  on.clear(m.g);
  on.by_segments([&] {
    on.multiply(m.p, transposed(k), y);
    if (x.adds_unseen())
      on.add_sum(m.g, transposed(k.cut_by(Cut::unseen_keys)), y.cut_by(Cut::unseen_keys));
    beside();
  });
}

/// The recurrence in reverse, of one cell: dX_s from dR_t, given to give(s, dX_s), the last first; dleak and dthreshold.
template <class C>
struct RecurrenceBackward {
  RafScalars<C> raf;
  Family<C> u, d_r, d_x, d_leak, d_threshold;

  template <bool binary, class At, class Give>
  SRF_HD void run(const At& at, Give give) const {
    const auto to = at(d_x);
    const auto sums =
        recurrence_backward<binary>(at, raf, at(u), at(d_r), [&](index_t s, const auto& d) {
          to.set(s, d);
          give(s, d);
        });
    at(d_leak).set(0, sums.first), at(d_threshold).set(0, sums.second);
  }
};

/// dP_s and dG from dZ_s, of Z_s = clamp(G + sum P) - clamp(P_s).
template <class On, class G, class C>
void combine_backward(On& on, const G& x, const RecurrentScratch<C>& m, const Family<C>& d_z) {
  on.cells([o = x.in.options.products(), p = m.p, z = d_z, to = m.d_p, g = m.g,
            d_g = m.d_g](const auto& at) {
    const auto sum = combine_products_backward(at, o, at(p), stored_from_last(at, at(z)), at(z),
                                               at(to), at(g)[0]);
    at(d_g).set(0, sum);
  });
}

/// dP_s and dG from dR_s, and dW, dleak, dthreshold.
template <class On, class G, class C, class Gradients>
void make_states_backward(On& on, const G& x, const RecurrentScratch<C>& m, const Gradients& d) {
  const auto& in = x.in;
  const index_t H = in.heads();
  const RafScalars<C> raf = in.raf(on.this_lane().keys);
  const RecurrenceBackward<C> back{raf, m.u, m.d_r, m.d_x, m.d_leak, m.d_threshold};
  const KvProductOptions o = in.options.products();
  if (in.folded()) {  // R_s = RAF(Z_s)
    with_firing(raf, [&](auto binary) {
      on.cells(
          [back, o, p = m.p, g = m.g, z = m.d_x, to = m.d_p, d_g = m.d_g](const auto& at) {
            const auto from_last = [&](auto give) {
              back.template run<decltype(binary)::value>(at, give);
            };
            const auto sum =
                combine_products_backward(at, o, at(p), from_last, at(z), at(to), at(g)[0]);
            at(d_g).set(0, sum);
          },
          binary);
    });
  } else if (in.options.recurrence) {  // R_s = RAF(X_s)
    with_firing(raf, [&](auto binary) {
      on.cells(
          [back](const auto& at) {
            back.template run<decltype(binary)::value>(at, [](index_t, const auto&) {});
          },
          binary);
    });
    // X_s = Z_s W^T
    on.add_sum(d.d_weight(H, in.head_size()), transposed(m.d_x), m.z);
    on.multiply(m.d_z, m.d_x, x.w);
  }
  if (in.options.recurrence) {
    on.add_total(d.d_scalar(H, 0), m.d_leak);
    on.add_total(d.d_scalar(H, 1), m.d_threshold);
  }
  if (!in.folded()) combine_backward(on, x, m, m.d_z);
}

/// f(Y), the values of the products: V, or V W^T where W is folded.
template <class On, class G, class C, class F>
void with_values(On& on, const G& x, const RecurrentScratch<C>& m, F f) {
  if (!x.in.folded()) return f(x.v);
  on.multiply(m.y.uncut(), x.v.uncut(), transposed(x.w));
  f(Family<const C>(m.y));
}

// ------------------------------------------------------------------------------- the part of the other segments

/// inverse_c = factor / n_c,  n_c = sqrt(sum_t K_tc^2); 0 for a dead feature, factor without norms. The factor is 1, except
/// with average_products.
template <class On, class G, class C>
void invert_norms(On& on, const G& x, const RecurrentScratch<C>& m) {
  const auto k = x.k.uncut();
  const bool normalize = x.in.normalizes();
  if (normalize) on.column_sums(m.inverse, k, [k](const auto& at) { return at(k) * at(k); });
  const C factor = x.in.factor_of_rest(on.this_lane().keys);
  on.row(m.inverse, [normalize, factor](const C& sum) {
    return !normalize ? factor : math::positive(sum) ? C(factor / math::sqrt(sum)) : C(0);
  });
}

/// dR_s, dq and rest again, of rest_i = q_i R_s.
template <class On, class G, class T, class Space, class C>
void read_states_backward(On& on, const G& x, const RecurrentGradients<T, Space>& d,
                          const RecurrentScratch<C>& m, RowBlock rows) {
  const auto q = x.q.cut_by(Cut::step_queries).columns_of(rows);
  const auto dq = family(d.d_q, Cut::step_queries).columns_of(rows);
  on.by_segments([&] {
    on.add(m.rest, q, m.r);
    on.add(dq, m.d_rest, transposed(m.r));
    on.multiply(m.d_r, transposed(q), m.d_rest);
  });
}

/// dP_s, dG, dq and rest again from drest, and dW, dleak, dthreshold.
template <class On, class G, class Y, class T, class Space, class C>
void states_backward(On& on, const G& x, const Y& y, const RecurrentGradients<T, Space>& d,
                     const RecurrentScratch<C>& m, RowBlock rows) {
  const index_t H = x.in.heads();
  const StripGradients<T, C> strips{m.d_rest, m.rest, family(d.d_q, Cut::whole), d.d_scalar(H, 0),
                                    d.d_scalar(H, 1)};
  make_products(on, x, y, m, rows, [] {});
  if (read_states_backward_in_strips(on, x.in, m.p, m.g, strips, rows)) return;
  recur(on, x, m, true);
  read_states_backward(on, x, d, m, rows);
  make_states_backward(on, x, m, d);
}

/// dF_s += Y_s dP_s^T and dY_s += F_s dP_s, of P_s = F_s^T Y_s, where F is K or its features; and the same of the keys
/// that no query sees.
template <class On, class G, class Y, class K, class V, class C>
void products_backward(On& on, const G& x, const Y& y, const Family<K>& df, const Family<V>& dy,
                       const RecurrentScratch<C>& m, RowBlock rows) {
  const auto add = [&](Cut cut, const Family<C>& d_p) {
    on.add(df.columns_of(rows).cut_by(cut), y.cut_by(cut), transposed(d_p));
    on.add(dy.cut_by(cut), x.f.columns_of(rows).cut_by(cut), d_p);
  };
  add(Cut::keys, m.d_p);
  if (x.adds_unseen()) add(Cut::unseen_keys, m.d_g);
}

/// dV and dW from dY, of Y = V W^T where W is folded.
template <class On, class G, class T, class Space, class C>
void values_backward(On& on, const G& x, const RecurrentGradients<T, Space>& d,
                     const RecurrentScratch<C>& m) {
  const auto dv = family(d.d_v, Cut::whole).uncut();
  if (x.in.folded()) {
    on.add(dv, m.d_y.uncut(), x.w);
    on.multiply(d.d_weight(x.in.heads(), x.in.head_size()), transposed(m.d_y.uncut()), x.v.uncut());
  } else if (m.sums_values(on, x.in)) {
    on.elements(dv, [dv, dy = m.d_y](const auto& at) { at.set(dv, at(dv) + at(dy)); });
  }
}

/// dK_tc -= norm_factor_c K_tc, of n_c = sqrt(sum_t K_tc^2).
template <class On, class G, class T, class Space, class C>
void norms_backward(On& on, const G& x, const RecurrentGradients<T, Space>& d,
                    const RecurrentScratch<C>& m) {
  if (!x.in.normalizes()) return;
  const auto dk = family(d.d_k, Cut::every_key);
  on.elements(dk, [dk, k = x.k, factor = m.norm_factor](const auto& at) {
    at.set(dk, at(dk) - at(factor) * at(k));
  });
}

// ------------------------------------------------------------------------------- the part of the own segment

/// The scores of a segment, as attention/attend.hpp takes them.
template <class T, class Space>
SRF_HD ScoreBlock block_of(const RecurrentInputs<T, Space>& in, const Lane& lane, index_t s) {
  const SeenSegment& x = lane.segments[s];
  const index_t n = x.end_key - x.first_key, L = in.options.segment_size;
  const bool zeros = in.options.padding == Padding::upstream;
  return {lane.b,         lane.h,    in.head_size(),   in.heads(),
          in.q.extent(2), in.keys(), x.first_query,    x.end_query - x.first_query,
          x.first_key,    n,         zeros ? L - n : 0};
}

/// A_i = alpha softmax(q_i K_s^T + b_i) V_s
template <class On, class G, class T, class C>
void attend(On& on, const G& x, const Family<T>& a, const RecurrentScratch<C>& m) {
  on.multiply(m.scores, x.q, transposed(x.k));
  on.queries(
      [in = x.in, scores = m.scores](const auto& team, const Lane& lane, index_t s, index_t i) {
        const ScoreBlock block = block_of(in, lane, s);
        const index_t r = i - block.first_query;
        C* p = scores.at(lane, 0, i, 0);
        weigh_row(team, in.context, block, r, p);
        if (in.context.dropout.active()) drop_row(team, in.context.dropout, block, r, p);
        const C alpha = in.share_of_local();
        if (in.weighted()) team.for_each(block.key_count, [=](index_t c) { p[c] = alpha * p[c]; });
      });
  on.multiply(a, m.scores, x.v);
}

/// dq, dK, dV from dO, and along_local_i = dO_i A_i / alpha.
template <class On, class G, class T, class Space, class C>
void attend_backward(On& on, const G& x, const RecurrentGradients<T, Space>& d,
                     const RecurrentScratch<C>& m) {
  const auto d_o = family(d.d_out, Cut::queries);
  // p_i = softmax(q_i K_s^T + b_i),  dp_i = dA_i V_s^T
  on.multiply(m.scores, x.q, transposed(x.k));
  on.multiply(m.d_scores, d_o, transposed(x.v));
  on.queries([&in = x.in, scores = m.scores, d_scores = m.d_scores, along = m.along_local](
                 const auto& team, const Lane& lane, index_t s, index_t i) {
    const ScoreBlock block = block_of(in, lane, s);
    const index_t r = i - block.first_query;
    const C alpha = in.share_of_local();
    C *p = scores.at(lane, 0, i, 0), *d_p = d_scores.at(lane, 0, i, 0);
    weigh_row(team, in.context, block, r, p);
    *along.at(lane, 0, i, 0) = weigh_row_backward(team, in.context, block, r, alpha, p, d_p);
    if (in.weighted()) team.for_each(block.key_count, [=](index_t c) { p[c] = alpha * p[c]; });
  });
  // A_i = p_i V_s
  on.add(family(d.d_v, Cut::keys), transposed(m.scores), d_o);
  on.add(family(d.d_q, Cut::queries), m.d_scores, x.k);
  on.add(family(d.d_k, Cut::keys), transposed(m.d_scores), x.q);
}

// ------------------------------------------------------------------------------- the programs

/// O_i = A_i + share rest_i / n,  rest_i = q_i R_seg(i)
template <class On, class T, class Space>
void recurrent_forward(On& on, const RecurrentInputs<T, Space>& in, View<T, 4, Space> out) {
  const RecurrentGiven<T, Space> x(in);
  const RecurrentScratch<compute_t<T>> m(on, in, Pass::forward);
  const auto o = family(out, Cut::queries);
  const bool local = in.options.local;
  on.clear(m.rest);
  with_values(on, x, m, [&](const auto& y) {
    on.row_blocks([&](RowBlock rows) {
      const auto attend_once = [&] {
        if (local && rows.first == 0) attend(on, x, o, m);
      };
      make_products(on, x, y, m, rows, attend_once);
      if (read_states_in_strips(on, in, m.p, m.g, m.rest, rows)) return;
      recur(on, x, m, false);
      on.add(m.rest, x.q.cut_by(Cut::step_queries).columns_of(rows), m.r);
    });
  });
  invert_norms(on, x, m);
  on.elements(o.cut_by(Cut::whole), [=, rest = m.rest, inverse = m.inverse](const auto& at) {
    const auto c = x.share(at.lane.h) * at(rest) * at(inverse);
    at.set(o, local ? at(o) + c : c);
  });
}

/// dq, dK, dV += the gradients through recurrent_forward; the lane's shares of dW, dleak, dthreshold, dsigma, dgate.
template <class On, class T, class Space>
void recurrent_backward(On& on, const RecurrentInputs<T, Space>& in,
                        const RecurrentGradients<T, Space>& d) {
  const RecurrentGiven<T, Space> x(in);
  const RecurrentScratch<compute_t<T>> m(on, in, Pass::backward);
  const auto d_o = family(d.d_out, Cut::whole);
  const bool summed = m.sums_values(on, in);
  on.clear(d.d_weight(in.heads(), in.head_size()));
  for (index_t which = 0; which < 4; ++which) on.clear(d.d_scalar(in.heads(), which));
  on.clear(m.rest);
  if (summed) on.clear(m.d_y.uncut());
  // O_i = alpha A_i + share rest_i / n
  invert_norms(on, x, m);
  on.elements(d_o, [=, d_rest = m.d_rest, inverse = m.inverse](const auto& at) {
    at.set(d_rest, x.share(at.lane.h) * at(d_o) * at(inverse));
  });
  with_values(on, x, m, [&](const auto& y) {
    on.row_blocks([&](RowBlock rows) {
      states_backward(on, x, y, d, m, rows);
      const bool last = rows.first + rows.count == in.head_size();
      if (last) sum_along_rest(on, x, d_o, m);
      on.by_segments([&] {
        const auto df = family(d.d_f, Cut::keys), dv = family(d.d_v, Cut::keys);
        summed ? products_backward(on, x, y, df, m.d_y, m, rows)
               : products_backward(on, x, y, df, dv, m, rows);
        if (!last) return;
        if (in.options.local) attend_backward(on, x, d, m);
        norms_backward(on, x, d, m);
      });
    });
  });
  values_backward(on, x, d, m);
  weight_gradients(on, in, d, m);
}

/// along_c = sum_i dO_ic rest_ic inverse_c,  and  norm_factor_c = -dn_c / n_c  with  dn_c = -share along_c / n_c
template <class On, class G, class O, class C>
void sum_along_rest(On& on, const G& x, const O& d_o, const RecurrentScratch<C>& m) {
  on.column_sums(m.along_rest, d_o, [d_o, rest = m.rest, inverse = m.inverse](const auto& at) {
    return at(d_o) * at(rest) * at(inverse);
  });
  const C scale = x.in.factor_of_rest(on.this_lane().keys);
  const C share = x.share(on.this_lane().h) / (scale * scale);  // as inverse_c = scale / n_c
  on.elements(m.norm_factor, [share, along = m.along_rest, inverse = m.inverse,
                              factor = m.norm_factor](const auto& at) {
    at.set(factor, share * at(along) * at(inverse) * at(inverse));
  });
}

/// dsigma = sum_i dO_i (A_i - gate C_i),  dgate = beta sum_i dO_i C_i,  from the sums along_local and along_rest; and
/// dthreshold from that of N times the threshold
template <class On, class T, class Space, class C>
void weight_gradients(On& on, const RecurrentInputs<T, Space>& in,
                      const RecurrentGradients<T, Space>& d, const RecurrentScratch<C>& m) {
  const auto d_threshold = d.d_scalar(in.heads(), 1), d_sigma = d.d_scalar(in.heads(), 2),
             d_gate = d.d_scalar(in.heads(), 3);
  on.add_total(d_gate, m.along_rest);
  if (in.weighted()) on.add_total(d_sigma, m.along_local);
  on.lane([=](const auto& team, const Lane& lane) {
    C *sigma = d_sigma.at(lane, 0, 0, 0), *gate = d_gate.at(lane, 0, 0, 0);
    C* threshold = d_threshold.at(lane, 0, 0, 0);
    if (!team.leader()) return;
    *threshold = in.averaged_keys(lane.keys) * *threshold;
    if (in.weighted()) *sigma = *sigma - in.gate(lane.h) * *gate;
    *gate = in.share_of_rest() * *gate;
  });
}

/// E = share R / n, which decoding reads: for every step its place in states [B,H,count,D,D].
template <class On, class T, class Space>
void recurrent_prepare(On& on, const RecurrentInputs<T, Space>& in,
                       View<compute_t<T>, 5, Space> states) {
  const RecurrentGiven<T, Space> x(in);
  const RecurrentScratch<compute_t<T>> m(on, in, Pass::prepare);
  const index_t D = in.head_size();
  const Family<compute_t<T>> e{
      states.data, states.stride(0), states.stride(1), states.stride(2), D, D, D, Cut::states};
  invert_norms(on, x, m);
  with_values(on, x, m, [&](const auto& y) {
    on.row_blocks([&](RowBlock rows) {
      make_products(on, x, y, m, rows, [] {});
      recur(on, x, m, false);
      const auto to = e.rows_of(rows);
      on.elements(to, [x, to, r = m.r, inverse = m.inverse](const auto& at) {
        at.set(to, x.share(at.lane.h) * at(r) * at(inverse));
      });
    });
  });
}

/// Runs a program for every source and head of `in`, in parallel.
template <class B, class T, class Space, class Program>
void run_recurrent(B& be, const RecurrentInputs<T, Space>& in, Pass pass, Program program) {
  const index_t H = in.heads(), M = in.q.extent(2), N = in.keys();
  const index_t seen = most_visited(in.options.segments(), M, N);
  const LaneLimits limits{N, M, seen, in.stepwise() ? M : seen, in.head_size()};
  const auto lane = [in, H, M](index_t i, SeenSegment* segments) {
    const SegmentRule rule =
        segment_rule(in.options.segments(), in.context.mask, i / H, M, in.keys());
    return make_lane(rule, i / H, i % H, M, in.stepwise(), segments);
  };
  const auto measure = [&](auto& on) { RecurrentScratch<compute_t<T>>(on, in, pass); };
  run_lanes<compute_t<T>>(be, in.k.extent(0) * H, limits, lane, measure, program);
}

/// The segment that the step sees, and what the recurrence adds.
template <class T, class Space>
struct RecurrentStep {
  using C = compute_t<T>;
  SegmentedStep<T, Space> local;
  RecurrentInputs<T, Space> recurrent;
  View<const C, 5, Space> states;

  index_t scratch_size() const {
    return local.scratch_size() + local.in.queries() * local.in.head_size();
  }

  /// One row is one group and head.
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const AttentionStep<T, Space>& in = local.in;
    const index_t H = in.heads(), D = in.head_size(), K = in.queries();
    const index_t g = lane / H, h = lane % H, b = in.source(g);
    const SegmentRule rule =
        segment_rule(local.options, in.context.mask, b, in.step + 1, in.keys());
    const Rows<const T> q = head_rows(in.q, g, h);
    const Rows<T> o = head_rows(in.out, g, h);
    C *rest = static_cast<C*>(scratch), *weights = rest + K * D;
    const bool with_local = recurrent.options.local;
    if (with_local) local.attend(team, lane, weights);
    const index_t state = recurrent.stepwise() ? in.step : rule.of(in.step);
    team.gemm(Op::none, Op::none, K, D, D, C(1), q.data, q.stride, &states(b, h, state, 0, 0), D,
              C(0), rest, D);
    for (index_t r = 0; r < K; ++r) {
      T* to = o.row(r);
      const C* add = rest + r * D;
      team.for_each(D, [=](index_t c) { to[c] = T(with_local ? C(to[c]) + add[c] : add[c]); });
    }
  }
};

/// F of attention/kv_product.hpp where the options have it: `in` has it as long as what this returns.
template <class B, class T>
Tensor<B, T, 4> give_features(B& be, RecurrentInputs<T, typename B::space>& in) {
  if (!(in.options.soft_keys > 0)) return {};
  Tensor<B, T, 4> features =
      soft_keys<B, T>(be, in.k, in.lengths_of_products(), in.options.soft_keys);
  in.features = features.view();
  return features;
}

/// counts[row] = the cells above 0 of a state R [D,D], of which `states` holds one row after the other; 0 of a state that no
/// query visits, which nothing has written. Of the same rows, visits[row] = its cells, or 0.
template <class T, class Space>
struct CountFired {
  using C = compute_t<T>;
  RecurrentInputs<T, Space> in;
  View<const C, 5, Space> states;
  index_t *counts, *visits;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t of_lane = states.extent(2), lane = row / of_lane, s = row % of_lane;
    const index_t H = in.heads(), M = in.q.extent(2), cells = in.head_size() * in.head_size();
    const bool visited = is_visited(lane / H, s, M);
    const C* r = &states(lane / H, lane % H, s, 0, 0);
    const index_t fired = team.template sum<index_t>(
        visited ? cells : 0, [=](index_t c) { return index_t(math::positive(r[c]) ? 1 : 0); });
    if (team.leader()) counts[row] = fired, visits[row] = visited ? cells : 0;
  }

 private:
  SRF_HD bool is_visited(index_t b, index_t s, index_t queries) const {
    if (in.stepwise()) return true;
    const SegmentRule rule =
        segment_rule(in.options.segments(), in.context.mask, b, queries, in.keys());
    return s < rule.count() && rule.first_query(s) < rule.end_query(s, queries);
  }
};

/// The sources [first, first + count) of `in`.
template <class B, class T>
AttentionInputs<B, T> sources_of(const AttentionInputs<B, T>& in, index_t first, index_t count) {
  AttentionInputs<B, T> some = in;
  some.q.extents[0] = count;
  if (some.q.data != nullptr) some.q.data += first * some.q.stride(0);
  some.k = in.k.slice(0, first, count), some.v = in.v.slice(0, first, count);
  auto& mask = some.context.mask;
  if (mask.lengths != nullptr) mask.lengths += first;
  if (mask.dense.data != nullptr) mask.dense = mask.dense.slice(0, first, count);
  return some;
}

}  // namespace SRF_DETAIL

/// The cross-attention of SRformer (paper, Algorithm 1).
///   parameters  weight [D,D] and so on, on the backend
///   out [B,H,M,D], last axis contiguous
/// Saves nothing. Cost per source and head: 4 M L D + 2 M D^2 + 2 N D^2, and for W 2 D^3 per visited
/// segment, or 2 N D^2 where it is folded; with soft_keys N D exponentials and B H N D elements of T more.
/// Errors: shapes, segment size below 1, a threshold of exactly zero.
template <class B, class T>
requires BackendFor<B, T>
void segmented_recurrent_forward(
    B& be, const AttentionInputs<B, T>& in,
    const std::type_identity_t<RecurrentParameters<const T>>& parameters,
    const SegmentedRecurrentOptions& options, View<T, 4, typename B::space> out) {
  using Space = typename B::space;
  detail::check_attention("segmented_recurrent_forward", in, out);
  detail::RecurrentInputs<T, Space> x{in.q, in.k, in.v, parameters, in.context, options};
  detail::check_recurrent("segmented_recurrent_forward", x);
  const auto features = detail::give_features<B, T>(be, x);
  if constexpr (HasBatchedGemm<B>) {
    if (options.local) {
      detail::attend_staged<B, T>(
          be, detail::own_segment<T, Space>(in.q, {in.k, in.v}, x.segment_rows(), x.sigma()), out);
    }
    detail::recurrent_batched_forward(be, x, out);
  } else {
    detail::run_recurrent(be, x, detail::Pass::forward,
                          [x, out](auto& on) { detail::recurrent_forward(on, x, out); });
  }
}

/// The gradients in d and d_parameters += those through segmented_recurrent_forward. Null pointers in d_parameters are
/// left out.
template <class B, class T>
requires BackendFor<B, T>
void segmented_recurrent_backward(
    B& be, const AttentionInputs<B, T>& in,
    const std::type_identity_t<RecurrentParameters<const T>>& parameters,
    const SegmentedRecurrentOptions& options, const AttentionGradients<B, T>& d,
    const std::type_identity_t<RecurrentParameters<T>>& d_parameters) {
  using Space = typename B::space;
  using C = compute_t<T>;
  detail::check_attention_gradients("segmented_recurrent_backward", in, d);
  detail::RecurrentInputs<T, Space> x{in.q, in.k, in.v, parameters, in.context, options};
  detail::check_recurrent("segmented_recurrent_backward", x);
  const auto features = detail::give_features<B, T>(be, x);
  Tensor<B, T, 4> d_features;
  if (!features.empty()) d_features = zeros<T, 4>(be, in.k.extents);
  const Out<B, T, 4> d_f = features.empty() ? d.d_k : d_features.view();
  const index_t batch = in.q.extent(0), H = in.q.extent(1), D = in.q.extent(3), lanes = batch * H;
  Tensor<B, C, 2> partial(be, {lanes, D * D + 4});
  const detail::LanePartials<C> partials{partial.data(), D * D};
  if constexpr (HasBatchedGemm<B>) {
    Tensor<B, C, 2> along(be, {lanes, in.q.extent(2)});
    if (options.local) {
      detail::attend_staged_backward<B, T>(
          be, detail::own_segment<T, Space>(in.q, {in.k, in.v}, x.segment_rows(), x.sigma()),
          {d.d_out, d.d_q, along.data()}, detail::RunGradients<T, Space>{d.d_k, d.d_v});
    }
    detail::recurrent_batched_backward(be, x, {d.d_out, d.d_q, d_f, d.d_v}, along, partials);
  } else {
    const detail::RecurrentGradients<T, Space> of{d.d_out, d.d_q, d.d_k, d.d_v, d_f, partials};
    detail::run_recurrent(be, x, detail::Pass::backward,
                          [x, of](auto& on) { detail::recurrent_backward(on, x, of); });
  }
  be.for_each(D * D + 3 + H, detail::AddLanePartials<T>{partials, d_parameters, batch, H});
  if (!features.empty()) {
    detail::soft_keys_backward<B, T>(be, features.view(), d_features.view(),
                                     x.lengths_of_products(), options.soft_keys, d.d_k);
  }
}

/// Segmented recurrent attention, with its ablations, as a variant.
struct SegmentedRecurrent {
  static constexpr std::string_view name = "segmented_recurrent";

  using Options = SegmentedRecurrentOptions;

  template <class T>
  struct Parameters : RecurrentParameters<T> {
    Parameters() = default;
    Parameters(const RecurrentParameters<T>& p) : RecurrentParameters<T>(p) {}  // NOLINT

    static void visit(auto& p, const Options& options, const HeadSizes& sizes, auto&& f) {
      const index_t D = sizes.head_size;
      // Soft keys give averages of values, which the layer after this one knows as they are.
      const auto weight =
          options.soft_keys > 0 ? InitialValues::identity() : InitialValues::uniform();
      f(LearnedInfo{"SNN_kv.weight", Role::weight, D, D, weight}, p.weight);
      f(LearnedInfo{"leak", Role::scalar, 1, 0, InitialValues::constant(0.5)}, p.leak);
      f(LearnedInfo{"threshold", Role::scalar, 1, 0, InitialValues::constant(0.1)}, p.threshold);
      f(LearnedInfo{"sigma", Role::scalar, 1, 0, InitialValues::constant(0.5), options.sigma},
        p.sigma);
      const double gate = options.soft_keys > 0 ? 0.2 : 0;
      f(LearnedInfo{"gate", Role::scalar, sizes.heads, 0, InitialValues::constant(gate),
                    options.gate},
        p.gate);
    }
  };
  template <class B, class T>
  using Saved = Nothing<B, T>;
  /// E = share R / n of every segment, or of every step of the recurrence, [B,H,count,D,D].
  template <class B, class T>
  struct Prepared {
    Tensor<B, compute_t<T>, 5> states;
  };

  template <class B, class T>
  static void forward(B& be, const AttentionInputs<B, T>& in, const Parameters<const T>& parameters,
                      const Options& options, Saved<B, T>&, Out<B, T, 4> out) {
    segmented_recurrent_forward(be, in, parameters, options, out);
  }
  template <class B, class T>
  static void backward(B& be, const AttentionInputs<B, T>& in,
                       const Parameters<const T>& parameters, const Options& options,
                       const Saved<B, T>&, const AttentionGradients<B, T>& d,
                       const Parameters<T>& d_parameters) {
    segmented_recurrent_backward(be, in, parameters, options, d, d_parameters);
  }
  static bool fires(const Options& options) { return options.recurrence; }

  /// How many states of the recurrence were above their threshold, u > 0 in attention/raf.hpp: of every source, head, visited
  /// segment (or query, where each is a step of the recurrence) and cell [D,D]. Of q the extents count alone. Errors: those
  /// of segmented_recurrent_forward, options without a recurrence. Cost that of prepare and a pass over the states, of which
  /// 64 MiB are in memory at a time, or those of one source; it waits for the backend.
  template <class B, class T>
  static FiringCount count_firing(B& be, const AttentionInputs<B, T>& in,
                                  const Parameters<const T>& parameters, const Options& options) {
    require(fires(options), "SegmentedRecurrent::count_firing", "the options have no recurrence");
    using Space = typename B::space;
    // What prepare gives is then R itself, whose cells are above 0 where they fired.
    Options plain = options;
    plain.gate = plain.sigma = plain.normalize = false;
    Parameters<const T> of_recurrence = parameters;
    of_recurrence.gate = of_recurrence.sigma = nullptr;
    const index_t sources = in.k.extent(0), H = in.k.extent(1), N = in.k.extent(2),
                  D = in.k.extent(3), L = std::max<index_t>(options.segment_size, 1);
    const index_t most_states =
        options.advance == Advance::token ? in.q.extent(2) : (N + L - 1) / L;
    const auto bytes = H * most_states * D * D * static_cast<index_t>(sizeof(compute_t<T>));
    const index_t together =
        std::max<index_t>(1, (index_t{64} << 20) / std::max<index_t>(bytes, 1));
    FiringCount all;
    for (index_t first = 0; first < sources; first += together) {
      const AttentionInputs<B, T> some =
          detail::sources_of(in, first, std::min(together, sources - first));
      const Prepared<B, T> made = prepare(be, some, of_recurrence, plain);
      const index_t rows = some.k.extent(0) * H * made.states.extent(2);
      Tensor<B, index_t, 2> counts(be, {2, rows});
      be.for_each_row(
          rows, 0,
          detail::CountFired<T, Space>{{some.q, some.k, some.v, of_recurrence, some.context, plain},
                                       made.states.view(),
                                       counts.data(),
                                       counts.data() + rows});
      const std::vector<index_t> host = to_host(be, counts);
      all.fired += std::accumulate(host.begin(), host.begin() + rows, index_t{0});
      all.states += std::accumulate(host.begin() + rows, host.end(), index_t{0});
    }
    return all;
  }
  /// States that no query visits are not written.
  template <class B, class T>
  static Prepared<B, T> prepare(B& be, const AttentionInputs<B, T>& in,
                                const Parameters<const T>& parameters, const Options& options) {
    detail::RecurrentInputs<T, typename B::space> of{in.q,       in.k,       in.v,
                                                     parameters, in.context, options};
    detail::check_recurrent("SegmentedRecurrent::prepare", of);
    const auto features = detail::give_features<B, T>(be, of);
    const index_t N = in.k.extent(2), D = in.k.extent(3), L = options.segment_size;
    const index_t count = of.stepwise() ? in.q.extent(2) : (N + L - 1) / L;
    Prepared<B, T> prepared{
        Tensor<B, compute_t<T>, 5>(be, {in.k.extent(0), in.k.extent(1), count, D, D})};
    const auto states = prepared.states.view();
    if constexpr (HasBatchedGemm<B>) {
      detail::recurrent_batched_states<B, T>(be, of, states);
    } else {
      detail::run_recurrent(be, of, detail::Pass::prepare,
                            [of, states](auto& on) { detail::recurrent_prepare(on, of, states); });
    }
    return prepared;
  }
  template <class B, class T>
  static void step(B& be, const AttentionStep<T, typename B::space>& in,
                   const Parameters<const T>& parameters, const Options& options,
                   const Prepared<B, T>& prepared) {
    using Space = typename B::space;
    detail::check_segments("SegmentedRecurrent::step", options.segments());
    const detail::RecurrentInputs<T, Space> of{in.q, in.k, in.v, parameters, in.context, options};
    if constexpr (HasBatchedGemm<B>) {
      detail::recurrent_batched_step<B, T>(be, in, of, prepared.states);
    } else {
      const detail::RecurrentStep<T, Space> f{
          {in, options.segments(), of.sigma()}, of, prepared.states.view()};
      for_each_lane<B, T>(be, in, f.scratch_size(), 0, f);
    }
  }
};

}  // namespace srformer
