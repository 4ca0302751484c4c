// SPDX-License-Identifier: Apache-2.0
// Softmax attention of a few queries to a run of keys, as one team computes it: the piece that full,
// segmented, Transformer-XL and LongT5 attention have in common. The mask says what is added to a score, and which keys
// take part, without a stored matrix of minus infinities.
//
//   bias_ij = relative[h, j - i + zero] + dense[b, h, i, j],   j < keys(b), j <= i + offset if causal
//   s_ij = q_i . k_j + bias_ij,  p_i = softmax(s_i),  a_i = sum_j drop_ij p_ij v_j
//
//   dp_ij = drop_ij (da_i . v_j),  ds_ij = p_ij (dp_ij - sum_l p_il dp_il)
//   dq_i += sum_j ds_ij k_j,  dk_j += sum_i ds_ij q_i,  dv_j += sum_i drop_ij p_ij da_i
//
// Nothing is saved: backward computes the weights again.
#pragma once

#include <srformer/core/scalar.hpp>
#include <srformer/core/view.hpp>
#include <srformer/ops/dropout.hpp>
#include <srformer/ops/softmax.hpp>

namespace srformer {

/// The additive and the absent part of attention scores. Everything is optional.
///   lengths   [B]          how many keys of each source exist, on the backend; null: all
///   relative  [H, distances]  bias by distance j - i, see attention/position_bias.hpp; null: none
///   dense     [B,H,M,N]    bias by position; stride 0 broadcasts an axis; null: none
template <class C, class Space>
struct ScoreMask {
  const index_t* lengths = nullptr;
  View<const C, 2, Space> relative{};
  index_t relative_zero = 0;  ///< the column of relative that holds distance 0
  View<const C, 4, Space> dense{};
  bool causal = false;
  index_t query_offset = 0;  ///< the decoder step of query 0, for decoding with a cache

  /// Keys that exist for source b, out of `keys`.
  SRF_IN_LOOP index_t keys(index_t b, index_t keys) const {
    return lengths == nullptr || lengths[b] > keys ? keys : lengths[b];
  }

  /// Keys that query i of source b may see, out of `existing`.
  SRF_IN_LOOP index_t visible(index_t i, index_t existing) const {
    if (!causal) return existing;
    const index_t last = i + query_offset + 1;
    return last < existing ? last : existing;
  }

  /// scores[c] += bias of query i and keys first_key + c.
  template <class Team>
  SRF_HD void add(const Team& team, index_t b, index_t h, index_t i, index_t first_key,
                  index_t count, C* scores) const {
    if (relative.data != nullptr) {
      const C* row = &relative(h, first_key - i + relative_zero);
      team.for_each(count, [=](index_t c) { scores[c] = scores[c] + row[c]; });
    }
    if (dense.data != nullptr) {
      const C* row = &dense(b, h, i, first_key);
      const index_t step = dense.stride(3);
      team.for_each(count, [=](index_t c) { scores[c] = scores[c] + row[c * step]; });
    }
  }
};

inline namespace SRF_TARGET {

/// The rows of a matrix in memory, `stride` elements apart.
template <class T>
struct Rows {
  T* data = nullptr;
  index_t stride = 0;
  SRF_HD T* row(index_t i) const { return data + i * stride; }
  SRF_HD Rows from(index_t i) const { return {data + i * stride, stride}; }
  template <class U>
  requires(std::is_same_v<U, const T>) SRF_HD operator Rows<U>()
      const {  // NOLINT: as pointers convert
    return {data, stride};
  }
};

/// The [length, size] matrix of one source and head in a [B,H,length,size] view.
template <class T, class Space>
SRF_HD Rows<T> head_rows(const View<T, 4, Space>& x, index_t b, index_t h) {
  return {x.data + b * x.strides[0] + h * x.strides[1], x.strides[2]};
}

/// A block of the [B,H,M,N] scores: some queries, some keys that follow each other.
struct ScoreBlock {
  index_t b, h, head_size;
  index_t heads, queries, keys;              ///< H, M, N of the whole
  index_t first_query = 0, query_count = 0;  ///< the queries at hand
  index_t first_key = 0, key_count = 0;      ///< the keys at hand
  index_t zero_keys = 0;  ///< further keys of zeros, with zero values and no bias
  index_t gap = 0;        ///< elements between two rows of weights in scratch

  /// From one row of weights to the next.
  SRF_HD index_t stride() const { return key_count + gap; }
};

}  // namespace SRF_TARGET

/// What shapes the weights beyond the scores. A Mask other than ScoreMask offers its visible() and
/// add().
template <class C, class Space, class Mask = ScoreMask<C, Space>>
struct AttendContext {
  Mask mask{};
  Dropout dropout{};
};

/// What a block of scores is of: q [query_count, D], k, v [key_count, D]. K is T, or the compute type where a
/// caller takes many blocks to the same keys.
template <class T, class K = T>
struct AttendRows {
  Rows<const T> q;
  Rows<const K> k, v;
};

/// The gradient of the output of a block, and those that backward adds to. G is T, or the compute type.
///   d_relative  [H, M+N-1] of this source: += ds by distance; null: not wanted
template <class T, class G = T>
struct AttendGradients {
  Rows<const T> d_out;
  Rows<T> d_q;
  Rows<G> d_k, d_v;
  compute_t<T>* d_relative = nullptr;
};

/// Room for [query_count, key_count] numbers each, in rows that are block.stride() apart.
template <class C>
struct AttendScratch {
  C *weights, *d_weights;
};

namespace SRF_DETAIL {

/// row [key_count], scores, becomes the softmax of query first_query + r, before dropout.
template <class Team, class C, class Space, class Mask>
SRF_HD void weigh_row(const Team& team, const AttendContext<C, Space, Mask>& context,
                      const ScoreBlock& block, index_t r, C* row) {
  const index_t n = block.key_count, i = block.first_query + r;
  const index_t limit = context.mask.visible(i, block.first_key + n) - block.first_key;
  const index_t seen = limit < 0 ? 0 : limit;
  context.mask.add(team, block.b, block.h, i, block.first_key, seen, row);
  softmax_row(team, seen, row, block.zero_keys);
  team.for_each(n - seen, [=](index_t c) { row[seen + c] = C(0); });
}

/// weights [query_count, key_count] a stride apart: the softmax of every query of the block, before dropout.
template <class Team, class T, class C, class Space, class Mask, class K>
SRF_HD void block_weights(const Team& team, const AttendContext<C, Space, Mask>& context,
                          const ScoreBlock& block, Rows<T> q, Rows<K> k, C* weights) {
  const index_t n = block.key_count, stride = block.stride();
  team.gemm(Op::none, Op::transpose, block.query_count, n, block.head_size, C(1), q.data, q.stride,
            k.data, k.stride, C(0), weights, stride);
  for (index_t r = 0; r < block.query_count; ++r)
    weigh_row(team, context, block, r, weights + r * stride);
}

/// x[c] *= the dropout factor of query first_query + r and key first_key + c.
template <class Team, class C>
SRF_HD void drop_row(const Team& team, const Dropout& dropout, const ScoreBlock& block, index_t r,
                     C* x) {
  const auto first = static_cast<std::uint64_t>(
      ((block.b * block.heads + block.h) * block.queries + block.first_query + r) * block.keys +
      block.first_key);
  const Dropout drop = dropout;
  team.for_each(block.key_count, [=](index_t c) {
    x[c] = x[c] * drop.template factor<C>(first + static_cast<std::uint64_t>(c));
  });
}

/// Of one query: p, its softmax, becomes drop p, and d_p, da . v, becomes alpha ds. Returns sum_l p_l dp_l.
template <class Team, class C, class Space, class Mask>
SRF_HD C weigh_row_backward(const Team& team, const AttendContext<C, Space, Mask>& context,
                            const ScoreBlock& block, index_t r, C alpha, C* p, C* d_p) {
  const index_t n = block.key_count;
  const bool dropping = context.dropout.active();
  if (dropping) drop_row(team, context.dropout, block, r, d_p);
  // p = softmax(s)
  const C dot = team.template sum<C>(n, [=](index_t c) { return p[c] * d_p[c]; });
  team.for_each(n, [=](index_t c) { d_p[c] = alpha * p[c] * (d_p[c] - dot); });
  if (dropping) drop_row(team, context.dropout, block, r, p);
  return dot;
}

}  // namespace SRF_DETAIL

/// out = alpha a for the queries of a block.
///   out [query_count, D], weights scratch [query_count, key_count] in rows that are block.stride() apart
template <class Team, class C, class Space, class Mask, class T, class K>
SRF_HD void attend_forward(const Team& team, const AttendContext<C, Space, Mask>& context,
                           const ScoreBlock& block, const AttendRows<T, K>& rows, C alpha,
                           Rows<T> out, C* weights) {
  const index_t n = block.key_count, stride = block.stride();
  detail::block_weights(team, context, block, rows.q, rows.k, weights);
  if (context.dropout.active()) {
    for (index_t r = 0; r < block.query_count; ++r) {
      detail::drop_row(team, context.dropout, block, r, weights + r * stride);
    }
  }
  team.gemm(Op::none, Op::none, block.query_count, block.head_size, n, alpha, weights, stride,
            rows.v.data, rows.v.stride, C(0), out.data, out.stride);
}

/// d_q, d_k, d_v += the gradients through out = alpha a. Returns sum_i d_out_i . a_i.
template <class Team, class C, class Space, class Mask, class T, class K, class G>
SRF_HD C attend_backward(const Team& team, const AttendContext<C, Space, Mask>& context,
                         const ScoreBlock& block, const AttendRows<T, K>& rows, C alpha,
                         const AttendGradients<T, G>& d, const AttendScratch<C>& scratch) {
  const index_t m = block.query_count, n = block.key_count, D = block.head_size;
  const index_t stride = block.stride();
  C *weights = scratch.weights, *d_weights = scratch.d_weights;
  detail::block_weights(team, context, block, rows.q, rows.k, weights);
  // a = (drop p) v
  team.gemm(Op::none, Op::transpose, m, n, D, C(1), d.d_out.data, d.d_out.stride, rows.v.data,
            rows.v.stride, C(0), d_weights, stride);
  C along(0);
  for (index_t r = 0; r < m; ++r) {
    C *p = weights + r * stride, *d_p = d_weights + r * stride;
    along = along + detail::weigh_row_backward(team, context, block, r, alpha, p, d_p);
    if (d.d_relative != nullptr) {
      C* row = d.d_relative + block.h * (block.queries + block.keys - 1) + block.first_key -
               (block.first_query + r) + block.queries - 1;
      team.for_each(n, [=](index_t c) { row[c] = row[c] + d_p[c]; });
    }
  }
  team.gemm(Op::transpose, Op::none, n, D, m, alpha, weights, stride, d.d_out.data, d.d_out.stride,
            C(1), d.d_v.data, d.d_v.stride);
  // s = q k^T + bias
  team.gemm(Op::none, Op::none, m, D, n, C(1), d_weights, stride, rows.k.data, rows.k.stride, C(1),
            d.d_q.data, d.d_q.stride);
  team.gemm(Op::transpose, Op::none, n, D, m, C(1), d_weights, stride, rows.q.data, rows.q.stride,
            C(1), d.d_k.data, d.d_k.stride);
  return along;
}

}  // namespace srformer
