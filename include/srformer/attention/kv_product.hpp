// SPDX-License-Identifier: Apache-2.0
// Cumulative key-value products: what each segment leaves to the others.
//
//   P_j = K_j^T Y_j,   P = sum_j P_j                                            [D,D]
//   complement   Z_j = clamp(P) - clamp(P_j)
//   segment      Z_j = clamp(P_j)
//
// Without a clamp the complement is a sum of the other segments, from before and from behind, not a
// difference: P - P_j would lose its digits where one segment dominates. Only two sums and the
// products of one block of segments are in memory at a time.
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

/// Products of [D,D] that stay in the cache.
inline SRF_HD index_t products_fitting(index_t head_size) {
  const index_t fitting = 131072 / (head_size * head_size);
  return fitting > 1 ? fitting : 1;
}

/// How many segments are held at a time: all of them while they fit the cache, else about the root.
inline SRF_HD index_t products_held(index_t segments, index_t head_size, index_t segment_size) {
  if (segments <= products_fitting(head_size)) return segments;
  index_t root = 1;
  while (root * root < segments) ++root;
  const index_t deep = (64 + segment_size - 1) / segment_size;  // products of 64 keys and more
  return root > deep ? root : deep;
}

/// Elements of scratch that visit_products needs for any source of at most so many segments: one that
/// fits as a whole may need more than a longer one.
inline index_t products_scratch(index_t segments, index_t head_size, index_t segment_size) {
  const auto needed = [&](index_t count) {
    const index_t held = products_held(count, head_size, segment_size);
    const index_t blocks = held > 0 ? (count + held - 1) / held : 0;
    return blocks + 2 * held + 1;
  };
  const index_t fitting = products_fitting(head_size);
  const index_t most = std::max(needed(segments), needed(fitting < segments ? fitting : segments));
  return most * head_size * head_size;
}

/// P = K^T Y over `count` rows, added to what is there if `add`.
template <class Team, class T, class Y, class C>
SRF_HD void product(const Team& team, index_t count, index_t D, Rows<const T> k, Rows<const Y> y,
                    bool add, C* p) {
  team.gemm(Op::transpose, Op::none, D, D, count, C(1), k.data, k.stride, y.data, y.stride,
            C(add ? 1 : 0), p, D);
}

template <class C>
SRF_HD C bounded(const C& x, const C& bound) {
  return primal(x) > primal(bound) ? bound : primal(x) < primal(-bound) ? -bound : x;
}

/// 1 where a clamp lets the gradient pass.
template <class C>
SRF_HD C passes(const C& x, const C& bound) {
  return primal(x) > primal(bound) || primal(x) < primal(-bound) ? C(0) : C(1);
}

/// Calls visit(j, Z_j) for every segment that some of `queries` queries see, in order. Z_j is
/// [D,D] in scratch and the visitor's to overwrite until it returns.
template <class Team, class T, class Y, class C, class Visit>
SRF_HD void visit_products(const Team& team, const SegmentRule& rule, index_t queries, index_t D,
                           Rows<const T> k, Rows<const Y> y, const KvProductOptions& options,
                           C* scratch, Visit visit) {
  const index_t cells = D * D, S = rule.count();
  const auto seen = [&](index_t j) { return rule.first_query(j) < rule.end_query(j, queries); };
  const C bound = C(options.clamp);
  const bool clamped = options.clamp > 0;
  if (options.product == Product::segment || clamped) {
    C *total = scratch, *z = scratch + cells;
    const bool complement = options.product == Product::complement;
    if (complement) {
      product<Team, T, Y, C>(team, rule.length, D, k, y, false, total);
      team.for_each(cells, [=](index_t c) { total[c] = bounded(total[c], bound); });
    }
    for (index_t j = 0; j < S; ++j) {
      if (!seen(j)) continue;
      product<Team, T, Y, C>(team, rule.keys(j), D, k.from(rule.first_key(j)),
                             y.from(rule.first_key(j)), false, z);
      if (clamped) team.for_each(cells, [=](index_t c) { z[c] = bounded(z[c], bound); });
      if (complement) team.for_each(cells, [=](index_t c) { z[c] = total[c] - z[c]; });
      visit(j, z);
    }
    return;
  }
  const index_t held = products_held(S, D, rule.size), blocks = (S + held - 1) / held;
  C* before = scratch;               // sum of the segments before the one at hand
  C* behind = before + cells;        // [blocks] sum of the blocks behind each block
  C* own = behind + blocks * cells;  // [held] P_j of the block at hand
  C* z = own + held * cells;         // [held]
  team.for_each(cells,
                [=](index_t c) { before[c] = C(0), behind[(blocks - 1) * cells + c] = C(0); });
  for (index_t block = blocks - 1; block > 0; --block) {
    const index_t first = block * held * rule.size;
    const index_t rest = rule.length - first, most = held * rule.size;
    C *to = behind + (block - 1) * cells, *from = behind + block * cells;
    team.for_each(cells, [=](index_t c) { to[c] = from[c]; });
    product<Team, T, Y, C>(team, rest < most ? rest : most, D, k.from(first), y.from(first), true,
                           to);
  }
  for (index_t block = 0; block < blocks; ++block) {
    const index_t first = block * held, count = S - first < held ? S - first : held;
    for (index_t s = 0; s < count; ++s) {
      const index_t j = first + s;
      product<Team, T, Y, C>(team, rule.keys(j), D, k.from(rule.first_key(j)),
                             y.from(rule.first_key(j)), false, own + s * cells);
    }
    for (index_t s = count - 1; s >= 0; --s) {
      C* to = z + s * cells;
      if (s == count - 1) {
        const C* from = behind + block * cells;
        team.for_each(cells, [=](index_t c) { to[c] = from[c]; });
      } else {
        const C *from = z + (s + 1) * cells, *next = own + (s + 1) * cells;
        team.for_each(cells, [=](index_t c) { to[c] = from[c] + next[c]; });
      }
    }
    for (index_t s = 0; s < count; ++s) {
      C *to = z + s * cells, *p = own + s * cells;
      team.for_each(cells, [=](index_t c) {
        to[c] = to[c] + before[c];
        before[c] = before[c] + p[c];
      });
      if (seen(first + s)) visit(first + s, to);
    }
  }
}

/// Calls give(j, dP_j) for every segment with a gradient, in order.
///   d_z   [visited, D, D] gradients of the Z_j that were visited, in order
///   free  [visited, D, D] scratch;  scratch [3, D, D]
template <class Team, class T, class Y, class C, class Give>
SRF_HD void visit_product_gradients(const Team& team, const SegmentRule& rule, index_t queries,
                                    index_t D, Rows<const T> k, Rows<const Y> y,
                                    const KvProductOptions& options, const C* d_z, C* free,
                                    C* scratch, Give give) {
  const index_t cells = D * D, S = rule.count(), visited = rule.visited(queries);
  const auto seen = [&](index_t j) { return rule.first_query(j) < rule.end_query(j, queries); };
  const C bound = C(options.clamp);
  const bool clamped = options.clamp > 0, complement = options.product == Product::complement;
  C *d_p = scratch, *first = scratch + cells, *own = scratch + 2 * cells;
  if (!complement || clamped) {
    // first = m(P) sum_l dZ_l
    team.for_each(cells, [=](index_t c) { first[c] = C(0); });
    if (complement) {
      product<Team, T, Y, C>(team, rule.length, D, k, y, false, own);
      team.for_each(cells, [=](index_t c) {
        C sum(0);
        for (index_t s = 0; s < visited; ++s) sum = sum + d_z[s * cells + c];
        first[c] = passes(own[c], bound) * sum;
      });
    }
    const C sign(complement ? -1 : 1);
    index_t s = 0;
    for (index_t j = 0; j < S; ++j) {
      if (seen(j)) {
        const C* from = d_z + s++ * cells;
        if (clamped) {
          product<Team, T, Y, C>(team, rule.keys(j), D, k.from(rule.first_key(j)),
                                 y.from(rule.first_key(j)), false, own);
          team.for_each(cells, [=](index_t c) {
            d_p[c] = first[c] + sign * passes(own[c], bound) * from[c];
          });
        } else {
          team.for_each(cells, [=](index_t c) { d_p[c] = first[c] + sign * from[c]; });
        }
      } else if (complement) {
        team.for_each(cells, [=](index_t c) { d_p[c] = first[c]; });
      } else {
        continue;
      }
      give(j, d_p);
    }
    return;
  }
  // dP_j = sum of the dZ before and behind; free[s] = sum of the dZ behind s
  for (index_t s = visited - 1; s >= 0; --s) {
    C* to = free + s * cells;
    if (s == visited - 1) {
      team.for_each(cells, [=](index_t c) { to[c] = C(0); });
    } else {
      const C *from = free + (s + 1) * cells, *next = d_z + (s + 1) * cells;
      team.for_each(cells, [=](index_t c) { to[c] = from[c] + next[c]; });
    }
  }
  C* before = first;
  team.for_each(cells, [=](index_t c) { before[c] = C(0); });
  index_t s = 0;
  for (index_t j = 0; j < S; ++j) {
    const C *behind = free + s * cells, *here = d_z + s * cells;
    if (seen(j)) {
      team.for_each(cells, [=](index_t c) {
        d_p[c] = before[c] + behind[c];
        before[c] = before[c] + here[c];
      });
      ++s;
    } else if (s < visited) {
      team.for_each(cells, [=](index_t c) { d_p[c] = before[c] + (behind[c] + here[c]); });
    } else {
      team.for_each(cells, [=](index_t c) { d_p[c] = before[c]; });
    }
    give(j, d_p);
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
    C* out = z[b][h].data;
    team.for_each(z.extent(2) * D * D, [=](index_t c) { out[c] = C(0); });
    // As many queries as segments, one each: every segment is visited.
    const SegmentRule each{rule.length, rule.size, rule.count()};
    visit_products<Team, T, T, C>(team, each, rule.count(), D, head_rows(k, b, h),
                                  head_rows(y, b, h), options, static_cast<C*>(scratch),
                                  [&](index_t j, C* from) {
                                    C* to = out + j * D * D;
                                    team.for_each(D * D, [=](index_t c) { to[c] = from[c]; });
                                  });
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
    C* free = static_cast<C*>(scratch);
    visit_product_gradients<Team, T, T, C>(
        team, each, rule.count(), D, key, value, options, d_z[b][h].data, free,
        free + rule.count() * D * D, [&](index_t j, const C* d_p) {
          const index_t t = rule.first_key(j), n = rule.keys(j);
          team.gemm(Op::none, Op::transpose, n, D, D, C(1), value.from(t).data, value.stride, d_p,
                    D, C(1), d_key.from(t).data, d_key.stride);
          team.gemm(Op::none, Op::none, n, D, D, C(1), key.from(t).data, key.stride, d_p, D, C(1),
                    d_value.from(t).data, d_value.stride);
        });
  }
};

}  // namespace detail

/// z_j = the key-value product of segment j, or of all the others.
///   k, y [B,H,N,D], last axes contiguous, z [B,H,S,D,D] contiguous with S = ceil(N/L); segments past
///   the end of a shorter source are zero
/// Backward needs k and y. Cost 2 to 4 B H N D^2.
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
  const index_t scratch = detail::products_scratch(S, D, segments.segment_size) + D * D;
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
