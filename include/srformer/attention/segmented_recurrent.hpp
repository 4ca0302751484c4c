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
// One source and head is one lane: segments stream through scratch memory, so that P, Z, U and R of
// all segments are never in memory at once in the forward. Where L < D and nothing is clamped, W is
// folded into the values: Z_j W^T = sum over the others of K_l^T (V_l W^T), which replaces 2 S D^3 by
// 2 N D^2. Nothing is saved; backward runs the products and the recurrence again.
#pragma once

#include <srformer/attention/kv_product.hpp>
#include <srformer/attention/raf.hpp>

namespace srformer {

/// When the recurrence takes a step: as the segment changes, or at every query.
enum class Advance { segment, token };

struct SegmentedRecurrentOptions {
  SegmentedOptions segments{};
  KvProductOptions product{};
  bool normalize = true;   ///< divide by the norms of the key features
  bool recurrence = true;  ///< pass the products through W and RAF; false: R_j = Z_j
  bool local = true;       ///< the softmax part; false: O = gate C
  Advance advance = Advance::segment;
};

/// The learned parameters of a layer; null where the options have none of them.
///   weight [D,D], leak [1], threshold [1], sigma [1], gate [H]
template <class T>
struct RecurrentParameters {
  T* weight = nullptr;
  T* leak = nullptr;
  T* threshold = nullptr;
  T* sigma = nullptr;
  T* gate = nullptr;

  template <class U>
  requires(std::is_same_v<U, const T>) SRF_HD operator RecurrentParameters<U>()
      const {  // NOLINT: as pointers convert
    return {weight, leak, threshold, sigma, gate};
  }
};

namespace detail {

/// Everything a lane reads.
template <class T, class Space>
struct RecurrentInputs {
  using C = compute_t<T>;
  View<const T, 4, Space> q, k, v;
  RecurrentParameters<const T> parameters;
  AttendContext<C, Space> context;
  SegmentedRecurrentOptions options;

  SRF_HD index_t heads() const { return k.extent(1); }
  SRF_HD index_t keys() const { return k.extent(2); }
  SRF_HD index_t head_size() const { return k.extent(3); }

  SRF_HD bool folded() const {
    return options.recurrence && options.product.clamp == 0 &&
           options.segments.segment_size < head_size();
  }
  SRF_HD RafScalars<C> raf() const {
    return options.recurrence ? RafScalars<C>{C(parameters.leak[0]), C(parameters.threshold[0])}
                              : RafScalars<C>{C(0), C(1)};
  }
  SRF_HD bool weighted() const { return options.local && parameters.sigma != nullptr; }
  SRF_HD C share_of_local() const { return weighted() ? C(parameters.sigma[0]) : C(1); }
  SRF_HD C share_of_rest() const { return weighted() ? C(1) - C(parameters.sigma[0]) : C(1); }
  SRF_HD C gate(index_t h) const {
    return parameters.gate == nullptr ? C(1) : C(parameters.gate[h]);
  }
};

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

/// Runs products and recurrence of one lane, calling
///   out(j, R_j, query, count)
/// for every step in order: once per visited segment with the queries that see it, or once per query.
/// Where given, u [steps, D, D] receives U_j and z [visited, D, D] receives Z_j (X_j where folded).
template <class Team, class T, class Y, class C, class Space, class Out>
SRF_HD void run_recurrence(const Team& team, const RecurrentInputs<T, Space>& in,
                           const SegmentRule& rule, index_t queries, Rows<const T> k,
                           Rows<const Y> y, C* u, C* z_saved, C* scratch, Out out) {
  const index_t D = in.head_size(), cells = D * D;
  C *x = scratch, *membrane = x + cells, *r = membrane + cells, *products = r + cells;
  const RafScalars<C> raf = in.raf();
  const bool multiply = in.options.recurrence && !in.folded();
  team.for_each(cells, [=](index_t c) { membrane[c] = C(0); });
  index_t step = 0, visited = 0;
  visit_products<Team, T, Y, C>(
      team, rule, queries, D, k, y, in.options.product, products, [&](index_t j, C* z) {
        if (z_saved != nullptr) {
          C* to = z_saved + visited * cells;
          team.for_each(cells, [=](index_t c) { to[c] = z[c]; });
        }
        ++visited;
        const C* input = z;
        if (multiply) {
          team.gemm(Op::none, Op::transpose, D, D, D, C(1), z, D, in.parameters.weight, D, C(0), x,
                    D);
          input = x;
        }
        const index_t first = rule.first_query(j), end = rule.end_query(j, queries);
        const bool each = in.options.advance == Advance::token;
        for (index_t i = first; i < end; i += each ? 1 : end - first) {
          const C* result = input;
          if (in.options.recurrence) {
            raf_step<Team, C>(team, cells, raf, input, membrane, r,
                              u == nullptr ? nullptr : u + step * cells);
            result = r;
          } else if (u != nullptr) {
            C* to = u + step * cells;
            team.for_each(cells, [=](index_t c) { to[c] = input[c]; });
          }
          ++step;
          out(j, result, i, each ? index_t{1} : end - first);
        }
      });
}

/// Elements of scratch that run_recurrence needs.
inline index_t recurrence_scratch(index_t N, index_t D, index_t L) {
  return products_scratch((N + L - 1) / L, D, L) + 4 * D * D;
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
  index_t folded_size, recurrence_size, rows_size;

  static SegmentedRecurrentForward with(const RecurrentInputs<T, Space>& in,
                                        View<T, 4, Space> out) {
    const index_t D = in.head_size(), N = in.keys(), M = in.q.extent(2);
    return {in, out, in.folded() ? N * D : 0,
            recurrence_scratch(N, D, in.options.segments.segment_size), M * D};
  }
  index_t scratch_size() const {
    return folded_size + recurrence_size + in.head_size() + rows_size +
           most_weights(in.options.segments, in.q.extent(2), in.keys());
  }

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.heads(), M = in.q.extent(2), N = in.keys(), D = in.head_size();
    const index_t b = lane / H, h = lane % H;
    const SegmentRule rule = segment_rule(in.options.segments, in.context.mask, b, M, N);
    const Rows<const T> q = head_rows(in.q, b, h), k = head_rows(in.k, b, h),
                        v = head_rows(in.v, b, h);
    const Rows<T> o = head_rows(out, b, h);
    C* folded = static_cast<C*>(scratch);
    C *recurrence = folded + folded_size, *inverse = recurrence + recurrence_size;
    C *rest = inverse + D, *weights = rest + rows_size;
    inverse_norms<Team, T, C>(team, rule.length, D, k, in.options.normalize, inverse);
    const C share = in.share_of_rest() * in.gate(h);
    const bool local = in.options.local;

    if (local) {
      for (index_t j = 0; j < rule.count(); ++j) {
        const ScoreBlock block =
            segment_block(rule, in.options.segments.padding, j, b, h, H, M, N, D);
        if (block.query_count == 0) continue;
        attend_forward<Team, T, C, Space>(team, in.context, block, q.from(block.first_query),
                                          k.from(block.first_key), v.from(block.first_key),
                                          in.share_of_local(), o.from(block.first_query), weights);
      }
    }
    with_product_values(team, in, rule.length, v, folded, [&](auto y) {
      run_recurrence<Team, T>(team, in, rule, M, k, y, static_cast<C*>(nullptr),
                              static_cast<C*>(nullptr), recurrence,
                              [&](index_t, const C* r, index_t first, index_t count) {
                                team.gemm(Op::none, Op::none, count, D, D, C(1), q.from(first).data,
                                          q.stride, r, D, C(0), rest, D);
                                for (index_t i = 0; i < count; ++i) {
                                  T* to = o.row(first + i);
                                  const C* from = rest + i * D;
                                  team.for_each(D, [=](index_t c) {
                                    const C add = share * from[c] * inverse[c];
                                    to[c] = T(local ? C(to[c]) + add : add);
                                  });
                                }
                              });
    });
  }
};

/// The gradients that lanes share, one entry per lane: [D*D] of W, then leak, threshold, sigma, gate.
template <class C>
struct LanePartials {
  C* data;
  index_t cells;
  SRF_HD C* weight(index_t lane) const { return data + lane * (cells + 4); }
  SRF_HD C* scalars(index_t lane) const { return weight(lane) + cells; }
};

template <class T, class Space>
struct SegmentedRecurrentBackward {
  using C = compute_t<T>;
  RecurrentInputs<T, Space> in;
  View<const T, 4, Space> d_out;
  View<T, 4, Space> d_q, d_k, d_v;
  LanePartials<C> partials;
  index_t folded_size, recurrence_size, steps_size, visited_size, rows_size, weights_size;

  static SegmentedRecurrentBackward with(const RecurrentInputs<T, Space>& in,
                                         View<const T, 4, Space> d_out, View<T, 4, Space> d_q,
                                         View<T, 4, Space> d_k, View<T, 4, Space> d_v,
                                         C* partials) {
    const index_t D = in.head_size(), N = in.keys(), M = in.q.extent(2);
    const index_t L = in.options.segments.segment_size, S = (N + L - 1) / L;
    const index_t visited = (M < S ? M : S) * D * D;
    const bool token = in.options.advance == Advance::token;
    return {in,
            d_out,
            d_q,
            d_k,
            d_v,
            {partials, D * D},
            in.folded() ? N * D : 0,
            recurrence_scratch(N, D, L),
            token ? M * D * D : visited,
            visited,
            M * D,
            most_weights(in.options.segments, M, N)};
  }
  index_t scratch_size() const {
    const index_t D = in.head_size();
    return 2 * folded_size + recurrence_size + steps_size + 3 * visited_size + 6 * D * D + 2 * D +
           2 * rows_size + 2 * weights_size;
  }

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.heads(), M = in.q.extent(2), N = in.keys(), D = in.head_size();
    const index_t b = lane / H, h = lane % H, cells = D * D;
    const SegmentRule rule = segment_rule(in.options.segments, in.context.mask, b, M, N);
    const index_t S = rule.count();
    const Rows<const T> q = head_rows(in.q, b, h), k = head_rows(in.k, b, h),
                        v = head_rows(in.v, b, h);
    const Rows<const T> d_o = head_rows(d_out, b, h);
    const Rows<T> dq = head_rows(d_q, b, h), dk = head_rows(d_k, b, h), dv = head_rows(d_v, b, h);

    C* next = static_cast<C*>(scratch);
    const auto take = [&next](index_t n) { return next += n, next - n; };
    C *folded = take(folded_size), *d_folded = take(folded_size),
      *recurrence = take(recurrence_size);
    C *u = take(steps_size), *z = take(visited_size), *d_x = take(visited_size);
    C *free = take(visited_size), *r = take(cells), *d_r = take(cells), *d_membrane = take(cells);
    C *sums = take(3 * cells), *inverse = take(D), *d_norm = take(D);
    C *rest = take(rows_size), *d_rest = take(rows_size);
    C *weights = take(weights_size), *d_weights = take(weights_size);

    C* d_weight = partials.weight(lane);
    team.for_each(cells, [=](index_t c) { d_weight[c] = C(0); });
    C along_local(0), along_rest(0), d_gate(0);

    // O = alpha A + ...
    if (in.options.local) {
      for (index_t j = 0; j < S; ++j) {
        const ScoreBlock block =
            segment_block(rule, in.options.segments.padding, j, b, h, H, M, N, D);
        if (block.query_count == 0) continue;
        const index_t i = block.first_query, t = block.first_key;
        along_local = along_local + attend_backward<Team, T, C, Space>(
                                        team, in.context, block, q.from(i), k.from(t), v.from(t),
                                        d_o.from(i), in.share_of_local(), dq.from(i), dk.from(t),
                                        dv.from(t), nullptr, weights, d_weights);
      }
    }

    // The forward again, keeping U_j and Z_j.
    inverse_norms<Team, T, C>(team, rule.length, D, k, in.options.normalize, inverse);
    team.for_each(D, [=](index_t c) { d_norm[c] = C(0); });
    team.for_each(cells, [=](index_t c) { d_membrane[c] = C(0); });
    const RafScalars<C> raf = in.raf();
    const C inverse_threshold = C(1) / raf.threshold, share = in.share_of_rest(), gate = in.gate(h);
    const bool token = in.options.advance == Advance::token, recurrent = in.options.recurrence;
    RafGradients<C> d_raf{C(0), C(0)};

    with_product_values(team, in, rule.length, v, folded, [&](auto y) {
      using Y = std::remove_cvref_t<decltype(*y.data)>;
      run_recurrence<Team, T>(team, in, rule, M, k, y, u, z, recurrence,
                              [](index_t, const C*, index_t, index_t) {});

      // O = ... + beta gate C, C_i = (q_i R_j) / n, R = RAF(X), in reverse
      const index_t visited = rule.visited(M);
      index_t step = token ? M : visited, s = visited;
      for (index_t j = S - 1; j >= 0; --j) {
        const index_t first = rule.first_query(j), end = rule.end_query(j, M);
        if (end <= first) continue;
        C* d_x_j = d_x + --s * cells;
        team.for_each(cells, [=](index_t c) { d_x_j[c] = C(0); });
        const index_t each = token ? 1 : end - first;
        for (index_t i = end - each; i >= first; i -= each) {
          const C* u_j = u + --step * cells;
          team.for_each(cells, [=](index_t c) {
            r[c] = recurrent ? fired(u_j[c], inverse_threshold) : u_j[c];
          });
          team.gemm(Op::none, Op::none, each, D, D, C(1), q.from(i).data, q.stride, r, D, C(0),
                    rest, D);
          for (index_t row = 0; row < each; ++row) {
            C *c_i = rest + row * D, *d_c = d_rest + row * D;
            const T* d_o_i = d_o.row(i + row);
            const C along = team.template sum<C>(
                D, [=](index_t c) { return C(d_o_i[c]) * c_i[c] * inverse[c]; });
            d_gate = d_gate + share * along;
            along_rest = along_rest + gate * along;
            team.for_each(D, [=](index_t c) {
              const C d_g = share * gate * C(d_o_i[c]) * inverse[c];
              d_norm[c] = d_norm[c] - d_g * c_i[c] * inverse[c];
              d_c[c] = d_g;
            });
          }
          team.gemm(Op::transpose, Op::none, D, D, each, C(1), q.from(i).data, q.stride, d_rest, D,
                    C(0), d_r, D);
          team.gemm(Op::none, Op::transpose, each, D, D, C(1), d_rest, D, r, D, C(1),
                    dq.from(i).data, dq.stride);
          if (recurrent) {
            const auto d = raf_step_backward<Team, C>(
                team, cells, raf, u_j, step > 0 ? u_j - cells : nullptr, d_r, d_membrane, r);
            d_raf.leak = d_raf.leak + d.leak;
            d_raf.threshold = d_raf.threshold + d.threshold;
            team.for_each(cells, [=](index_t c) { d_x_j[c] = d_x_j[c] + r[c]; });
          } else {
            team.for_each(cells, [=](index_t c) { d_x_j[c] = d_x_j[c] + d_r[c]; });
          }
        }
      }

      // X_j = Z_j W^T; folded, X_j is the product itself
      const C* d_z = d_x;
      C* spare = free;
      if (recurrent && !in.folded()) {
        team.gemm(Op::transpose, Op::none, D, D, visited * D, C(1), d_x, D, z, D, C(0), d_weight,
                  D);
        team.gemm(Op::none, Op::none, visited * D, D, D, C(1), d_x, D, in.parameters.weight, D,
                  C(0), z, D);
        d_z = z;
        spare = d_x;
      }
      // P_j = K_j^T Y_j; folded, Y = V W^T
      const bool into_folded = in.folded();
      if (into_folded) {
        team.for_each(rule.length * D, [=](index_t c) { d_folded[c] = C(0); });
      }
      visit_product_gradients<Team, T, Y, C>(
          team, rule, M, D, k, y, in.options.product, d_z, spare, sums,
          [&](index_t j, const C* d_p) {
            const index_t t = rule.first_key(j), n = rule.keys(j);
            team.gemm(Op::none, Op::transpose, n, D, D, C(1), y.from(t).data, y.stride, d_p, D,
                      C(1), dk.from(t).data, dk.stride);
            if (into_folded) {
              team.gemm(Op::none, Op::none, n, D, D, C(1), k.from(t).data, k.stride, d_p, D, C(0),
                        d_folded + t * D, D);
            } else {
              team.gemm(Op::none, Op::none, n, D, D, C(1), k.from(t).data, k.stride, d_p, D, C(1),
                        dv.from(t).data, dv.stride);
            }
          });
    });
    if (in.folded()) {
      team.gemm(Op::none, Op::none, rule.length, D, D, C(1), d_folded, D, in.parameters.weight, D,
                C(1), dv.data, dv.stride);
      team.gemm(Op::transpose, Op::none, D, D, rule.length, C(1), d_folded, D, v.data, v.stride,
                C(0), d_weight, D);
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
      d[2] = in.weighted() ? along_local - along_rest : C(0);
      d[3] = d_gate;
    }
  }
};

/// Adds the lanes' shares of W, leak, threshold, sigma and gate, in order.
template <class T>
struct AddLanePartials {
  LanePartials<compute_t<T>> partials;
  RecurrentParameters<T> d;
  index_t batch, heads;

  SRF_HD void operator()(index_t c) const {
    using C = compute_t<T>;
    const index_t lanes = batch * heads, cells = partials.cells, scalar = c - cells;
    if (scalar >= 3) {
      const index_t h = scalar - 3;
      if (d.gate == nullptr) return;
      C sum = C(d.gate[h]);
      for (index_t b = 0; b < batch; ++b) sum = sum + partials.scalars(b * heads + h)[3];
      d.gate[h] = T(sum);
      return;
    }
    T* to = scalar < 0 ? d.weight : scalar == 0 ? d.leak : scalar == 1 ? d.threshold : d.sigma;
    if (to == nullptr) return;
    if (scalar < 0) to += c;
    C sum = C(to[0]);
    for (index_t lane = 0; lane < lanes; ++lane) sum = sum + partials.weight(lane)[c];
    to[0] = T(sum);
  }
};

template <class T, class Space>
void check_recurrent(const char* function, const RecurrentInputs<T, Space>& in) {
  check_segments(function, in.options.segments);
  check_dropout(function, in.context.dropout);
  require(in.context.mask.query_offset == 0, function,
          "the recurrence starts at the first query; decode with cross_attention_step");
  require(in.options.product.clamp >= 0, function, "clamp must be positive, or 0 for none");
  if (!in.options.recurrence) return;
  require(in.parameters.weight != nullptr && in.parameters.leak != nullptr &&
              in.parameters.threshold != nullptr,
          function, "the recurrence needs weight, leak and threshold");
  check_threshold<Space>(function, in.parameters.threshold);
}

}  // namespace detail

/// The cross-attention of SRformer (paper, Algorithm 1).
///   q, out [B,H,M,D], k, v [B,H,N,D], last axes contiguous; scores are not scaled
///   parameters  weight [D,D] and so on, on the backend
/// Saves nothing. Cost per source and head: 2 N D^2, and 2 D^3 per visited segment for W (2 N D^2 more
/// where it is folded, 2 N D^2 more where not all products fit), + 4 M L D + 2 M D^2.
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
  const auto lane = detail::SegmentedRecurrentForward<T, Space>::with(in, out);
  be.for_each_row(q.extent(0) * q.extent(1),
                  lane.scratch_size() * static_cast<index_t>(sizeof(compute_t<T>)), lane);
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
  Tensor<B, C, 2> partials(be, {lanes, D * D + 4});
  const auto lane =
      detail::SegmentedRecurrentBackward<T, Space>::with(in, d_out, d_q, d_k, d_v, partials.data());
  be.for_each_row(lanes, lane.scratch_size() * static_cast<index_t>(sizeof(C)), lane);
  be.for_each(D * D + 3 + H, detail::AddLanePartials<T>{lane.partials, d_parameters, batch, H});
}

}  // namespace srformer
