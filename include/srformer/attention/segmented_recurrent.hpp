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
//   dA = alpha dO, dC = beta gate dO   (alpha, beta) = (1, 1), or (sigma, 1 - sigma)
//   dR_j = sum_{i in j} q_i^T (dC_i / n),   dq_i += (dC_i / n) R_j^T
//   dn_c = -sum_i dC_ic C_ic / n_c,   dK_tc += dn_c K_tc / n_c
//   dX_j from dR_j by the RAF in reverse,   dW += sum_j dX_j^T Z_j,   dZ_j = dX_j W
//   dP_j, dK_j, dV_j as in attention/kv_product.hpp;  the part of A as in attention/attend.hpp
//
// Below, one source and head is one lane of a processor; attention/segmented_recurrent_batched.hpp has
// the same for backends with gemm_batched, and attention/segmented.hpp has A. A row of P, Z, U and R goes
// through all of this without the other rows, so a lane takes a few rows at a time through all segments,
// while they stay in the cache. Where L < D and nothing is clamped, W is folded into the values: Z_j W^T =
// sum over the others of K_l^T (V_l W^T), which replaces 2 S D^3 by 2 N D^2; a core takes float and double then
// through registers, attention/recurrent_tiles.hpp. Nothing is saved; backward runs the products and the
// recurrence again.
#pragma once

#include <srformer/attention/recurrent_tiles.hpp>
#include <srformer/attention/segmented_recurrent_batched.hpp>

namespace srformer {

namespace detail {

/// inverse[c] = 1 / sqrt(sum_t k_tc^2), 0 for a dead feature, 1 everywhere without normalisation.
template <class Team, class T, class C>
SRF_HD void inverse_norms(const Team& team, index_t length, index_t D, Rows<const T> k,
                          bool normalize, C* inverse) {
  team.for_each(D, [=](index_t c) { inverse[c] = C(normalize ? 0 : 1); });
  if (!normalize) return;
  for (index_t t = 0; t < length; ++t) {
    const T* row = k.row(t);
    team.for_each(D, [=](index_t c) { inverse[c] = inverse[c] + C(row[c]) * C(row[c]); });
  }
  team.for_each(D, [=](index_t c) {
    inverse[c] = primal(inverse[c]) > 0 ? C(1) / math::sqrt(inverse[c]) : C(0);
  });
}

/// to = w^T, both [D,D]: turned once, not by every product.
template <class Team, class T, class C>
SRF_HD void transpose(const Team& team, index_t D, const T* w, C* to) {
  team.for_each(D, [=](index_t i) {
    for (index_t c = 0; c < D; ++c) to[i * D + c] = C(w[c * D + i]);
  });
}

/// What run_recurrence needs of scratch for all rows: [5, D, D], and [D, D] where W multiplies.
SRF_HD constexpr index_t recurrence_scratch(index_t head_size) { return 6 * head_size * head_size; }

/// Runs some rows of the products and the recurrence of one lane, for every step in order: once per
/// visited segment with the queries that see it, or once per query.
///   u        [steps, rows, D], receives U_j (where it takes a step per segment it may be own, and z where
///            nothing is multiplied); or null: out(j, R_j, query, count) is called instead
///   z        [visited, rows, D] is left with Z_j where W multiplies the products themselves
///   own      [visited, rows, D] scratch
///   scratch  recurrence_scratch(D) or less: [5, rows, D], and [D, D] where W multiplies
template <class Team, class T, class Y, class C, class Space, class Out>
SRF_HD void run_recurrence(const Team& team, const RecurrentInputs<T, Space>& in,
                           const SegmentRule& rule, index_t queries, const ProductRows& rows,
                           Rows<const T> k, Rows<const Y> y, C* z, C* own, C* u, C* scratch,
                           Out out) {
  const index_t D = in.head_size(), cells = rows.cells();
  C *product = scratch, *membrane = product + cells, *r = membrane + cells, *sums = r + cells;
  const RafScalars<C> raf = in.raf();
  const bool multiplied = in.multiplied(), recurrent = in.options.recurrence;
  const bool each = in.options.advance == Advance::token;
  team.for_each(cells, [=](index_t c) { membrane[c] = C(0); });
  C* turned = sums + 2 * cells;
  if (multiplied) transpose(team, D, in.parameters.weight, turned);
  index_t step = 0;
  const auto advance = [&](auto x) {
    C* keep = u == nullptr ? nullptr : u + step * cells;
    raf_step<Team, C>(team, cells, raf, x, membrane, u == nullptr ? r : nullptr, keep);
  };
  visit_products<Team, T, Y, C>(
      team, rule, queries, rows, k, y, in.options.product, z, own, sums,
      [&](index_t j, C* z_j, auto cell) {
        const index_t first = rule.first_query(j), end = rule.end_query(j, queries);
        if (recurrent && !multiplied && !each) {
          advance(cell);
          if (u == nullptr) out(j, r, first, end - first);
          ++step;
          return;
        }
        team.for_each(cells, [=](index_t c) { z_j[c] = cell(c); });
        C* x = z_j;
        if (multiplied) {
          x = product;
          team.gemm(Op::none, Op::none, rows.count, D, D, C(1), z_j, D, turned, D, C(0), x, D);
        }
        for (index_t i = first; i < end; i += each ? 1 : end - first, ++step) {
          if (recurrent) advance([=](index_t c) { return x[c]; });
          if (u == nullptr) out(j, recurrent ? r : x, i, each ? index_t{1} : end - first);
        }
      });
}

/// Calls f with the values that enter the products: V, or V W^T in `folded`.
template <class Team, class T, class C, class Space, class F>
SRF_HD void with_product_values(const Team& team, const RecurrentInputs<T, Space>& in,
                                index_t length, Rows<const T> v, C* folded, F f) {
  const index_t D = in.head_size();
  if (!in.folded()) return f(v);
  team.gemm(Op::none, Op::transpose, length, D, D, C(1), v.data, v.stride, in.parameters.weight, D,
            C(0), folded, D);
  f(Rows<const C>{folded, D});
}

template <class T, class Space>
struct SegmentedRecurrentForward {
  using C = compute_t<T>;
  RecurrentInputs<T, Space> in;
  View<T, 4, Space> out;
  SegmentedForward<T, Space> local;
  index_t table_size, folded_size, products_size, rest_size;

  static SegmentedRecurrentForward with(const RecurrentInputs<T, Space>& in,
                                        View<T, 4, Space> out) {
    const index_t D = in.head_size(), N = in.keys(), M = in.q.extent(2);
    const index_t visited = most_visited(in.options.segments, M, N);
    return {in,
            out,
            {in.q, in.k, in.v, out, in.segment_rows(), in.sigma()},
            seen_size<T, Space>(visited),
            in.folded() ? N * D : 0,
            most_cells_at_a_time<Space>(N, visited, D),
            M * D};
  }
  index_t scratch_size() const {
    const index_t D = in.head_size();
    return table_size + folded_size + 2 * products_size + recurrence_scratch(D) + D + rest_size +
           (in.options.local ? local.scratch_size() : 0);
  }

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.heads(), M = in.q.extent(2), N = in.keys(), D = in.head_size();
    const index_t b = lane / H, h = lane % H;
    const SegmentRule rule = segment_rule(in.options.segments, in.context.mask, b, M, N);
    const Rows<const T> q = head_rows(in.q, b, h), k = head_rows(in.k, b, h),
                        v = head_rows(in.v, b, h);
    const Rows<T> o = head_rows(out, b, h);
    C* folded = static_cast<C*>(scratch) + table_size;
    C *z = folded + folded_size, *own = z + products_size, *recurrence = own + products_size;
    C *inverse = recurrence + recurrence_scratch(D), *rest = inverse + D;
    C* weights = rest + rest_size;
    const bool with_local = in.options.local;
    // O_i = alpha A_i, rest_i = q_i R_j
    const index_t most = rows_at_a_time<Space>(rule.length, rule.visited(M), D);
    with_product_values(team, in, rule.length, v, folded, [&](auto y) {
      if constexpr (has_recurrent_tiles<Team, T, std::remove_cvref_t<decltype(y.data[0])>>) {
        if (by_tiles(in)) {
          for (index_t j = 0; with_local && j < rule.count(); j = rule.next_visited(j, M)) {
            local.attend(team, local.rows.block_of_segment(rule, lane, j), weights);
          }
          team.for_each(M * D, [=](index_t c) { rest[c] = C(0); });
          SeenSegment* seen = static_cast<SeenSegment*>(scratch);
          fill_seen(rule, M, seen);
          for_each_tile<T>(seen, rule.visited(M), rule.length, in.raf(), {D, D}, k, y,
                           [&](auto tile, index_t r, index_t c) {
                             tile.forward({q.data + r, q.stride}, z, {rest + c, D});
                           });
          return;
        }
      }
      for (index_t c = 0; c < D; c += most) {
        const ProductRows rows{D - c < most ? D - c : most, D, c};
        run_recurrence<Team, T>(
            team, in, rule, M, rows, k, y, z, own, static_cast<C*>(nullptr), recurrence,
            [&](index_t j, const C* r, index_t i, index_t count) {
              if (with_local && c == 0 && i == rule.first_query(j)) {
                local.attend(team, local.rows.block_of_segment(rule, lane, j), weights);
              }
              team.gemm(Op::none, Op::none, count, D, rows.count, C(1), q.row(i) + c, q.stride, r,
                        D, C(c > 0 ? 1 : 0), rest + i * D, D);
            });
      }
    });
    inverse_norms<Team, T, C>(team, rule.length, D, k, in.options.normalize, inverse);
    const C share = in.share_of_rest() * in.gate(h);
    for (index_t i = 0; i < M; ++i) {
      T* to = o.row(i);
      const C* from = rest + i * D;
      team.for_each(D, [=](index_t c) {
        const C add = share * from[c] * inverse[c];
        to[c] = T(with_local ? C(to[c]) + add : add);
      });
    }
  }
};

template <class T, class Space>
struct SegmentedRecurrentBackward {
  using C = compute_t<T>;
  RecurrentInputs<T, Space> in;
  View<const T, 4, Space> d_out;
  View<T, 4, Space> d_q, d_k, d_v;
  SegmentedBackward<T, Space> local;
  LanePartials<C> partials;
  index_t table_size, folded_size, values_size, products_size, steps_size, rest_size;

  static SegmentedRecurrentBackward with(const RecurrentInputs<T, Space>& in,
                                         View<const T, 4, Space> d_out, View<T, 4, Space> d_q,
                                         View<T, 4, Space> d_k, View<T, 4, Space> d_v,
                                         const LanePartials<C>& partials) {
    const index_t D = in.head_size(), N = in.keys(), M = in.q.extent(2);
    const index_t visited = most_visited(in.options.segments, M, N);
    const index_t products = most_cells_at_a_time<Space>(N, visited, D);
    return {in,
            d_out,
            d_q,
            d_k,
            d_v,
            {in.q, in.k, in.v, d_out, d_q, d_k, d_v, in.segment_rows(), in.sigma()},
            partials,
            seen_size<T, Space>(visited),
            in.folded() ? N * D : 0,
            in.folded() || products < visited * D * D ? N * D : 0,
            products,
            in.stepwise() ? M * D * D : 0,
            M * D};
  }
  index_t scratch_size() const {
    const index_t D = in.head_size();
    return table_size + folded_size + values_size + 2 * products_size + steps_size + 3 * D * D +
           recurrence_scratch(D) + 2 * D + 2 * rest_size +
           (in.options.local ? local.scratch_size() : 0);
  }

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.heads(), M = in.q.extent(2), N = in.keys(), D = in.head_size();
    const index_t b = lane / H, h = lane % H;
    const SegmentRule rule = segment_rule(in.options.segments, in.context.mask, b, M, N);
    const index_t S = rule.count(), visited = rule.visited(M);
    const Rows<const T> q = head_rows(in.q, b, h), k = head_rows(in.k, b, h),
                        v = head_rows(in.v, b, h);
    const Rows<const T> d_o = head_rows(d_out, b, h);
    const Rows<T> dq = head_rows(d_q, b, h), dk = head_rows(d_k, b, h), dv = head_rows(d_v, b, h);

    C* next = static_cast<C*>(scratch) + table_size;
    const auto take = [&next](index_t n) { return next += n, next - n; };
    C *folded = take(folded_size), *d_y = take(values_size);
    C *z = take(products_size), *own = take(products_size), *steps = take(steps_size);
    C *r = take(D * D), *d_r = take(D * D), *d_membrane = take(D * D);
    C* panels = take(recurrence_scratch(D));
    C *inverse = take(D), *d_norm = take(D), *rest = take(rest_size), *d_rest = take(rest_size);
    C* weights = next;

    C* d_weight = partials.weight(lane);
    team.for_each(D * D, [=](index_t c) { d_weight[c] = C(0); });
    C along_local(0), along_rest(0);
    // O = alpha A + beta gate C, C_i = rest_i / n
    inverse_norms<Team, T, C>(team, rule.length, D, k, in.options.normalize, inverse);
    const C share = in.share_of_rest() * in.gate(h);
    for (index_t i = 0; i < M; ++i) {
      const T* from = d_o.row(i);
      C* to = d_rest + i * D;
      team.for_each(D, [=](index_t c) { to[c] = share * C(from[c]) * inverse[c]; });
    }

    const RafScalars<C> raf = in.raf();
    const bool recurrent = in.options.recurrence, multiplied = in.multiplied();
    const bool stepwise = in.stepwise(), into_folded = in.folded();
    RafGradients<C> d_raf{C(0), C(0)};
    const index_t most = rows_at_a_time<Space>(rule.length, visited, D);
    const bool direct = !into_folded && most == D;
    if (!direct) team.for_each(rule.length * D, [=](index_t c) { d_y[c] = C(0); });

    with_product_values(team, in, rule.length, v, folded, [&](auto y) {
      using Y = std::remove_cvref_t<decltype(*y.data)>;
      bool tiled = false;
      SeenSegment* seen = static_cast<SeenSegment*>(scratch);
      if constexpr (has_recurrent_tiles<Team, T, Y>) tiled = by_tiles(in);
      if (tiled) {
        fill_seen(rule, M, seen);
        team.for_each(M * D, [=](index_t c) { rest[c] = C(0); });
      }
      for (index_t c0 = 0; c0 < D; c0 += most) {
        const ProductRows rows{D - c0 < most ? D - c0 : most, D, c0};
        const index_t cells = rows.cells();
        const C onto(c0 > 0 ? 1 : 0);
        C* u = stepwise ? steps : multiplied ? own : z;
        C* d_x = stepwise ? own : u;
        // The forward again, keeping U_j and Z_j; then rest_i = q_i R_j, R = RAF(X), in reverse.
        if constexpr (has_recurrent_tiles<Team, T, Y>) {
          if (tiled) {
            for_each_tile<T>(
                seen, visited, rule.length, raf, rows, k, y, [&](auto tile, index_t r0, index_t c) {
                  C* tile_u = u + r0 * D + c;
                  const index_t row = c0 + r0;
                  tile.keep(own, tile_u, D, cells);
                  tile.backward({q.data + row, q.stride}, {d_rest + c, D}, tile_u, D, cells,
                                {rest + c, D}, {dq.data + row, dq.stride}, d_raf);
                });
          }
        }
        if (!tiled) {
          run_recurrence<Team, T>(team, in, rule, M, rows, k, y, z, own, u, panels,
                                  [](index_t, const C*, index_t, index_t) {});

          team.for_each(cells, [=](index_t c) { d_membrane[c] = C(0); });
          index_t step = stepwise ? M : visited, s = visited;
          for (index_t j = rule.visited_before(S, M); j >= 0; j = rule.visited_before(j, M)) {
            const index_t first = rule.first_query(j), end = rule.end_query(j, M);
            const index_t each = stepwise ? 1 : end - first;
            C* d_x_j = d_x + --s * cells;
            if (stepwise) team.for_each(cells, [=](index_t c) { d_x_j[c] = C(0); });
            for (index_t i = end - each; i >= first; i -= each) {
              C* u_j = u + --step * cells;
              const C* r_j = recurrent ? r : u_j;
              if (recurrent) fire<Team, C>(team, cells, raf, u_j, r);
              team.gemm(Op::none, Op::none, each, D, rows.count, C(1), q.row(i) + c0, q.stride, r_j,
                        D, onto, rest + i * D, D);
              team.gemm(Op::none, Op::transpose, each, rows.count, D, C(1), d_rest + i * D, D, r_j,
                        D, C(1), dq.row(i) + c0, dq.stride);
              C* d_r_j = recurrent ? d_r : d_x_j;
              team.gemm(Op::transpose, Op::none, rows.count, D, each, C(1), q.row(i) + c0, q.stride,
                        d_rest + i * D, D, C(0), d_r_j, D);
              if (!recurrent) continue;
              const auto d = raf_step_backward<Team, C>(team, cells, raf, u_j,
                                                        step > 0 ? u_j - cells : nullptr, d_r_j,
                                                        d_membrane, stepwise ? d_r_j : d_x_j);
              d_raf.leak = d_raf.leak + d.leak;
              d_raf.threshold = d_raf.threshold + d.threshold;
              if (stepwise)
                team.for_each(cells, [=](index_t c) { d_x_j[c] = d_x_j[c] + d_r_j[c]; });
            }
            // X_j = Z_j W^T; folded, X_j is the product itself
            if (!multiplied) continue;
            C* z_j = z + s * cells;
            team.gemm(Op::transpose, Op::none, D, D, rows.count, C(1), d_x_j, D, z_j, D, C(1),
                      d_weight, D);
            team.gemm(Op::none, Op::none, rows.count, D, D, C(1), d_x_j, D, in.parameters.weight, D,
                      C(0), z_j, D);
          }
        }

        // A_i of the segment; P_j = K_j^T Y_j; folded, Y = V W^T
        C* d_z = multiplied ? z : d_x;
        visit_product_gradients<Team, T, Y, C>(
            team, rule, M, rows, k, y, in.options.product, d_z, d_z == own ? z : own, panels,
            [&](index_t t, index_t end, const C* d_p) {
              const auto attend = [&] {
                if (!in.options.local || c0 > 0) return;
                const ScoreBlock block = local.rows.block_of_segment(rule, lane, t / rule.size);
                along_local = along_local + local.attend(team, block, weights);
              };
              if (!direct) attend();
              team.gemm(Op::none, Op::transpose, end - t, rows.count, D, C(1), y.row(t), y.stride,
                        d_p, D, C(1), dk.row(t) + c0, dk.stride);
              if (direct) {
                team.gemm(Op::none, Op::none, end - t, D, rows.count, C(1), k.row(t), k.stride, d_p,
                          D, C(1), dv.row(t), dv.stride);
                attend();  // few queries, better off where dK and dV are in the cache by now
              } else {
                team.gemm(Op::none, Op::none, end - t, D, rows.count, C(1), k.row(t) + c0, k.stride,
                          d_p, D, C(1), d_y + t * D, D);
              }
            });
      }
    });
    if (into_folded) {
      team.gemm(Op::none, Op::none, rule.length, D, D, C(1), d_y, D, in.parameters.weight, D, C(1),
                dv.data, dv.stride);
      team.gemm(Op::transpose, Op::none, D, D, rule.length, C(1), d_y, D, v.data, v.stride, C(0),
                d_weight, D);
    } else if (!direct) {
      for (index_t t = 0; t < rule.length; ++t) {
        T* to = dv.row(t);
        const C* from = d_y + t * D;
        team.for_each(D, [=](index_t c) { to[c] = T(C(to[c]) + from[c]); });
      }
    }
    // C_i = rest_i / n
    team.for_each(D, [=](index_t c) { d_norm[c] = C(0); });
    for (index_t i = 0; i < M; ++i) {
      const C *from = rest + i * D, *d = d_rest + i * D;
      const T* d_o_i = d_o.row(i);
      along_rest = along_rest + team.template sum<C>(D, [=](index_t c) {
        return C(d_o_i[c]) * from[c] * inverse[c];
      });
      team.for_each(D, [=](index_t c) { d_norm[c] = d_norm[c] - d[c] * from[c] * inverse[c]; });
    }
    // n_c = sqrt(sum_t K_tc^2)
    if (in.options.normalize) {
      for (index_t t = 0; t < rule.length; ++t) {
        const T* row = k.row(t);
        T* d_row = dk.row(t);
        team.for_each(
            D, [=](index_t c) { d_row[c] = T(C(d_row[c]) + d_norm[c] * C(row[c]) * inverse[c]); });
      }
    }
    if (team.leader()) {
      C* d = partials.scalars(lane);
      d[0] = d_raf.leak, d[1] = d_raf.threshold;
      d[2] = in.weighted() ? along_local - in.gate(h) * along_rest : C(0);
      d[3] = in.share_of_rest() * along_rest;
    }
  }
};

}  // namespace detail

/// The cross-attention of SRformer (paper, Algorithm 1).
///   q, out [B,H,M,D], k, v [B,H,N,D], last axes contiguous; scores are not scaled
///   parameters  weight [D,D] and so on, on the backend
/// Saves nothing. Cost per source and head: 4 M L D + 2 M D^2 + 2 N D^2, and for W 2 D^3 per visited
/// segment, or 2 N D^2 where it is folded.
/// Errors: shapes, segment size below 1, a threshold of exactly zero.
template <class B, class T>
requires BackendFor<B, T>
void segmented_recurrent_forward(
    B& be, In<B, T, 4> q, In<B, T, 4> k, In<B, T, 4> v,
    const std::type_identity_t<RecurrentParameters<const T>>& parameters,
    const AttendContext<compute_t<T>, typename B::space>& context,
    const SegmentedRecurrentOptions& options, View<T, 4, typename B::space> out) {
  using Space = typename B::space;
  detail::check_attention("segmented_recurrent_forward", q, k, v, out);
  const detail::RecurrentInputs<T, Space> in{q, k, v, parameters, context, options};
  detail::check_recurrent("segmented_recurrent_forward", in);
  const index_t lanes = q.extent(0) * q.extent(1);
  if constexpr (HasBatchedGemm<B>) {
    if (options.local) {
      detail::segmented_batched_forward<B, T>(be, q, k, v, in.segment_rows(), in.sigma(), out);
    }
    detail::recurrent_batched_forward(be, in, out);
  } else {
    const auto lane = detail::SegmentedRecurrentForward<T, Space>::with(in, out);
    be.for_each_row(lanes, lane.scratch_size() * static_cast<index_t>(sizeof(compute_t<T>)), lane);
  }
}

/// d_q, d_k, d_v and the gradients in d_parameters += those through segmented_recurrent_forward.
/// Null pointers in d_parameters are left out.
template <class B, class T>
requires BackendFor<B, T>
void segmented_recurrent_backward(
    B& be, In<B, T, 4> q, In<B, T, 4> k, In<B, T, 4> v,
    const std::type_identity_t<RecurrentParameters<const T>>& parameters,
    const AttendContext<compute_t<T>, typename B::space>& context,
    const SegmentedRecurrentOptions& options, In<B, T, 4> d_out, View<T, 4, typename B::space> d_q,
    View<T, 4, typename B::space> d_k, View<T, 4, typename B::space> d_v,
    const std::type_identity_t<RecurrentParameters<T>>& d_parameters) {
  using Space = typename B::space;
  using C = compute_t<T>;
  detail::check_attention("segmented_recurrent_backward", q, k, v, d_out);
  detail::check_attention_gradients("segmented_recurrent_backward", q, k, d_q, d_k, d_v);
  const detail::RecurrentInputs<T, Space> in{q, k, v, parameters, context, options};
  detail::check_recurrent("segmented_recurrent_backward", in);
  const index_t batch = q.extent(0), H = q.extent(1), D = q.extent(3), lanes = batch * H;
  Tensor<B, C, 2> partial(be, {lanes, D * D + 4});
  const detail::LanePartials<C> partials{partial.data(), D * D};
  if constexpr (HasBatchedGemm<B>) {
    Tensor<B, C, 2> along(be, {lanes, q.extent(2)});
    if (options.local) {
      detail::segmented_batched_backward<B, T>(be, q, k, v, in.segment_rows(), in.sigma(), d_out,
                                               d_q, d_k, d_v, along.data());
    }
    detail::recurrent_batched_backward(be, in, d_out, d_q, d_k, d_v, along, partials);
  } else {
    const auto lane =
        detail::SegmentedRecurrentBackward<T, Space>::with(in, d_out, d_q, d_k, d_v, partials);
    be.for_each_row(lanes, lane.scratch_size() * static_cast<index_t>(sizeof(C)), lane);
  }
  be.for_each(D * D + 3 + H, detail::AddLanePartials<T>{partials, d_parameters, batch, H});
}

}  // namespace srformer
