// SPDX-License-Identifier: Apache-2.0
// Cumulative key-value products: what each segment leaves to the others.
//
//   P_j = K_j^T Y_j,   P = sum_j P_j                                            [D,D]
//   complement   Z_j = clamp(P) - clamp(P_j)
//   segment      Z_j = clamp(P_j)
//
// Without a clamp the complement is a sum of the other segments, from before and from behind, not a
// difference: P - P_j would lose its digits where one segment dominates. Segments that no query sees
// are summed together with what lies between two that are seen. The rows of P do not depend on each
// other, so a few are worked on at a time, and stay in the cache.
//
//   dP_j = m(P) sum_l dZ_l - m(P_j) dZ_j  (complement),   m(P_j) dZ_j  (segment)
//   m(x) = [-c <= x <= c], and 1 without a clamp
//   dK_j += Y_j dP_j^T,   dY_j += K_j dP_j
#pragma once

#include <srformer/attention/segmented.hpp>

namespace srformer {

enum class Product { complement, segment };

struct KvProductOptions {
  Product product = Product::complement;
  double clamp = 0;  ///< symmetric bound on P and every P_j; 0: none
};

namespace detail {

inline constexpr index_t product_cells_at_a_time = 196608;

/// Some rows of the [D,D] products: their number and the first.
struct ProductRows {
  index_t count, head_size, first = 0;
  SRF_HD index_t cells() const { return count * head_size; }
};

/// Rows at a time: where keys are few for each of the `visited` products, as many as stay in the cache
/// of a host's core through all of them; else all.
template <class Space>
SRF_HD index_t rows_at_a_time(index_t keys, index_t visited, index_t head_size) {
  const bool few = keys < 32 * visited;
  if (!std::is_same_v<Space, host_space> || !few) return head_size;
  const index_t fit = product_cells_at_a_time / (visited * head_size) / 8 * 8;
  const index_t fitting = fit > 8 ? fit : 8;
  const index_t times = (head_size + fitting - 1) / fitting;
  const index_t rows = (head_size + 8 * times - 1) / (8 * times) * 8;  // of all times alike
  return rows < head_size ? rows : head_size;
}

/// The most elements that such rows of all products have, of at most so many keys and products.
template <class Space>
index_t most_cells_at_a_time(index_t keys, index_t visited, index_t head_size) {
  const index_t cells = head_size * head_size;
  if (!std::is_same_v<Space, host_space>) return visited * cells;
  const index_t whole = std::min(visited, (keys + 31) / 32) * cells;
  const index_t few = std::max(8 * visited * head_size, product_cells_at_a_time);
  return std::min(visited * cells, std::max(whole, few));
}

/// p += or = some rows of K^T Y over the keys [first, end). On the way a host's core asks for as many keys before
/// them, which are next as a rule.
template <class Team, class T, class Y, class C>
SRF_HD void product(const Team& team, const ProductRows& rows, index_t first, index_t end,
                    Rows<const T> k, Rows<const Y> y, bool add, C* p) {
  const index_t D = rows.head_size, keys = end - first;
  const index_t some = std::is_same_v<Team, SerialTeam> && keys >= 32 ? 12 : rows.count;
  const index_t asked = (keys * some + rows.count - 1) / rows.count;
  index_t next = first > keys ? first - keys : 0;
  for (index_t r = 0; r < rows.count; r += some) {
    for (const index_t stop = next + asked < first ? next + asked : first; next < stop; ++next) {
      ask_for(team, k.row(next), D);
      ask_for(team, y.row(next), D);
    }
    team.gemm(Op::transpose, Op::none, rows.count - r < some ? rows.count - r : some, D, keys, C(1),
              k.row(first) + rows.first + r, k.stride, y.row(first), y.stride, C(add ? 1 : 0),
              p + r * D, D);
  }
}

template <class C>
SRF_IN_LOOP C bounded(const C& x, const C& bound) {
  return math::select(primal(x) > primal(bound), bound,
                      math::select(primal(x) < primal(-bound), C(-bound), x));
}

/// 1 where a clamp lets the gradient pass.
template <class C>
SRF_IN_LOOP C passes(const C& x, const C& bound) {
  return math::select(primal(x) > primal(bound) || primal(x) < primal(-bound), C(0), C(1));
}

/// Calls visit(j, z_j, cell) for every segment that some of `queries` queries see, in order: cell(c),
/// to be called once for every c, is an element of some rows of Z_j, and z_j [rows, D] is a place of
/// its own in z [visited, rows, D] for it, or for what the visitor makes of it.
///   own      [visited, rows, D] scratch
///   scratch  [2, rows, D]
template <class Team, class T, class Y, class C, class Visit>
SRF_HD void visit_products(const Team& team, const SegmentRule& rule, index_t queries,
                           const ProductRows& rows, Rows<const T> k, Rows<const Y> y,
                           const KvProductOptions& options, C* z, C* own, C* scratch, Visit visit) {
  const index_t cells = rows.cells(), S = rule.count(), visited = rule.visited(queries);
  const C bound = C(options.clamp);
  const bool clamped = options.clamp > 0, complement = options.product == Product::complement;
  if (!complement || clamped) {
    C* total = scratch;
    if (complement) {
      product<Team, T, Y, C>(team, rows, 0, rule.length, k, y, false, total);
      team.for_each(cells, [=](index_t c) { total[c] = bounded(total[c], bound); });
    }
    for (index_t j = 0, s = 0; s < visited; ++s, j = rule.next_visited(j, queries)) {
      C* to = z + s * cells;
      product<Team, T, Y, C>(team, rows, rule.first_key(j), rule.end_key(j), k, y, false, to);
      visit(j, to, [=](index_t c) {
        const C p = clamped ? bounded(to[c], bound) : to[c];
        return complement ? total[c] - p : p;
      });
    }
    return;
  }
  // own_s = P_j and what lies between it and the next one seen; z_s = what lies behind P_j, and
  // behind_s = z_s but for what lies between.
  C *before = scratch, *between = scratch + cells;
  team.for_each(cells, [=](index_t c) { before[c] = C(0); });
  const C* behind = before;  // no segment is behind the last
  index_t next = rule.length;
  for (index_t s = visited - 1, j = rule.visited_before(S, queries); s >= 0;
       --s, j = rule.visited_before(j, queries)) {
    C *to = z + s * cells, *p = own + s * cells;
    const C *more = s < visited - 1 ? p + cells : before, *rest = behind;
    const bool others = rule.end_key(j) < next;
    team.for_each(cells, [=](index_t c) { to[c] = rest[c] + more[c]; });
    behind = to;
    if (others) {
      team.for_each(cells, [=](index_t c) { between[c] = to[c]; });
      behind = between;
      product<Team, T, Y, C>(team, rows, rule.end_key(j), next, k, y, false, p);
      team.for_each(cells, [=](index_t c) { to[c] = to[c] + p[c]; });
    }
    next = rule.first_key(j);
    product<Team, T, Y, C>(team, rows, next, rule.end_key(j), k, y, others, p);
  }
  for (index_t j = 0, s = 0; s < visited; ++s, j = rule.next_visited(j, queries)) {
    C *to = z + s * cells, *p = own + s * cells;
    visit(j, to, [=](index_t c) {
      const C others = to[c] + before[c];
      before[c] = before[c] + p[c];
      return others;
    });
  }
}

/// Calls give(first, end, dP) for runs of keys that share some rows of dP, in order.
///   d_z      [visited, rows, D] gradients of the Z_j that were visited, in order
///   behind   [visited, rows, D] scratch
///   scratch  [3, rows, D]
template <class Team, class T, class Y, class C, class Give>
SRF_HD void visit_product_gradients(const Team& team, const SegmentRule& rule, index_t queries,
                                    const ProductRows& rows, Rows<const T> k, Rows<const Y> y,
                                    const KvProductOptions& options, const C* d_z, C* behind,
                                    C* scratch, Give give) {
  const index_t cells = rows.cells(), visited = rule.visited(queries);
  const C bound = C(options.clamp);
  const bool clamped = options.clamp > 0, complement = options.product == Product::complement;
  C *d_p = scratch, *before = scratch + cells, *own = scratch + 2 * cells;
  if (!complement || clamped) {
    // all = m(P) sum_l dZ_l
    C* all = before;
    team.for_each(cells, [=](index_t c) { all[c] = C(0); });
    if (complement) {
      product<Team, T, Y, C>(team, rows, 0, rule.length, k, y, false, own);
      team.for_each(cells, [=](index_t c) {
        C sum(0);
        for (index_t s = 0; s < visited; ++s) sum = sum + d_z[s * cells + c];
        all[c] = passes(own[c], bound) * sum;
      });
    }
    const C sign(complement ? -1 : 1);
    for (index_t j = 0, s = 0; s < visited; ++s) {
      const C* here = d_z + s * cells;
      const index_t first = rule.first_key(j), end = rule.end_key(j);
      if (clamped) {
        product<Team, T, Y, C>(team, rows, first, end, k, y, false, own);
        team.for_each(cells,
                      [=](index_t c) { d_p[c] = all[c] + sign * passes(own[c], bound) * here[c]; });
      } else {
        team.for_each(cells, [=](index_t c) { d_p[c] = here[c]; });
      }
      give(first, end, d_p);
      j = rule.next_visited(j, queries);
      const index_t next = rule.first_key(j) < rule.length ? rule.first_key(j) : rule.length;
      if (complement && end < next) give(end, next, all);
    }
    return;
  }
  // dP_j = sum of the dZ before and behind
  for (index_t s = visited - 1; s >= 0; --s) {
    C* to = behind + s * cells;
    if (s == visited - 1) {
      team.for_each(cells, [=](index_t c) { to[c] = C(0); });
    } else {
      const C *from = to + cells, *next = d_z + (s + 1) * cells;
      team.for_each(cells, [=](index_t c) { to[c] = from[c] + next[c]; });
    }
  }
  team.for_each(cells, [=](index_t c) { before[c] = C(0); });
  for (index_t j = 0, s = 0; s < visited; ++s) {
    const C *after = behind + s * cells, *here = d_z + s * cells;
    team.for_each(cells, [=](index_t c) {
      d_p[c] = before[c] + after[c];
      before[c] = before[c] + here[c];
    });
    give(rule.first_key(j), rule.end_key(j), d_p);
    const index_t end = rule.end_key(j);
    j = rule.next_visited(j, queries);
    const index_t next = rule.first_key(j) < rule.length ? rule.first_key(j) : rule.length;
    if (end < next) {
      team.for_each(cells, [=](index_t c) { d_p[c] = before[c] + after[c]; });
      give(end, next, d_p);
    }
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
    C *out = z[b][h].data, *own = static_cast<C*>(scratch);
    // As many queries as segments, one each: every segment is visited.
    const SegmentRule each{rule.length, rule.size, rule.count()};
    const index_t S = rule.count(), past = (z.extent(2) - S) * D * D;
    visit_products<Team, T, T, C>(team, each, S, {D, D}, head_rows(k, b, h), head_rows(y, b, h),
                                  options, out, own, own + S * D * D,
                                  [&](index_t, C* z_j, auto cell) {
                                    team.for_each(D * D, [=](index_t c) { z_j[c] = cell(c); });
                                  });
    team.for_each(past, [=](index_t c) { out[S * D * D + c] = C(0); });
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
    const SegmentRule each{rule.length, rule.size, rule.count()};
    const Rows<const T> key = head_rows(k, b, h), value = head_rows(y, b, h);
    const Rows<T> d_key = head_rows(d_k, b, h), d_value = head_rows(d_y, b, h);
    C* behind = static_cast<C*>(scratch);
    visit_product_gradients<Team, T, T, C>(
        team, each, rule.count(), {D, D}, key, value, options, d_z[b][h].data, behind,
        behind + rule.count() * D * D, [&](index_t t, index_t end, const C* d_p) {
          team.gemm(Op::none, Op::transpose, end - t, D, D, C(1), value.row(t), value.stride, d_p,
                    D, C(1), d_key.row(t), d_key.stride);
          team.gemm(Op::none, Op::none, end - t, D, D, C(1), key.row(t), key.stride, d_p, D, C(1),
                    d_value.row(t), d_value.stride);
        });
  }
};

}  // namespace detail

/// z_j = the key-value product of segment j, or of all the others.
///   k, y [B,H,N,D], last axes contiguous, z [B,H,S,D,D] contiguous with S = ceil(N/L); segments past
///   the end of a shorter source are zero
/// Backward needs k and y. Cost 2 B H N D^2.
template <class B, class T>
requires BackendFor<B, T>
void kv_product_forward(B& be, View<const T, 4, typename B::space> k, In<B, T, 4> y,
                        const ScoreMask<compute_t<T>, typename B::space>& mask,
                        const SegmentedOptions& segments, const KvProductOptions& options,
                        Out<B, compute_t<T>, 5> z) {
  detail::check_segments("kv_product_forward", segments);
  const index_t D = k.extent(3);
  const index_t S = (k.extent(2) + segments.segment_size - 1) / segments.segment_size;
  check_shape("kv_product_forward", "y", "[B,H,N,D]", y.extents, k.extents);
  check_shape("kv_product_forward", "z", "[B,H,S,D,D]", z.extents,
              std::array{k.extent(0), k.extent(1), S, D, D});
  const index_t scratch = (S + 2) * D * D;
  be.for_each_row(k.extent(0) * k.extent(1), scratch * static_cast<index_t>(sizeof(compute_t<T>)),
                  detail::KvProductForward<T, typename B::space>{k, y, z, mask, segments, options});
}

/// d_k, d_y += the gradients through kv_product_forward.
template <class B, class T>
requires BackendFor<B, T>
void kv_product_backward(B& be, In<B, T, 4> k, In<B, T, 4> y,
                         const ScoreMask<compute_t<T>, typename B::space>& mask,
                         const SegmentedOptions& segments, const KvProductOptions& options,
                         In<B, compute_t<T>, 5> d_z, View<T, 4, typename B::space> d_k,
                         View<T, 4, typename B::space> d_y) {
  detail::check_segments("kv_product_backward", segments);
  check_shape("kv_product_backward", "d_k", "[B,H,N,D]", d_k.extents, k.extents);
  check_shape("kv_product_backward", "d_y", "[B,H,N,D]", d_y.extents, k.extents);
  const index_t D = k.extent(3), scratch = (d_z.extent(2) + 3) * D * D;
  be.for_each_row(k.extent(0) * k.extent(1), scratch * static_cast<index_t>(sizeof(compute_t<T>)),
                  detail::KvProductBackward<T, typename B::space>{k, y, d_z, d_k, d_y, mask,
                                                                  segments, options});
}

}  // namespace srformer
