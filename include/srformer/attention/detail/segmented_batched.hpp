// SPDX-License-Identifier: Apache-2.0
// Segmented attention in stages over all heads, for backends with gemm_batched: a team has the scores of one
// segment, then of one query, then of one segment again.
//
//   S = Q_s K_s^T,   P = drop softmax(S),   A = P V_s
//
//   dP = dA V_s^T,   dS as in attention/attend.hpp
//   dV_s += alpha P^T dA,   dQ_s += dS K_s,   dK_s += dS^T Q_s
//
// Scores lie as [B, H, M, min(L, N)].
#pragma once

#include <srformer/attention/segments.hpp>
#include <srformer/attention/variant.hpp>

namespace srformer::detail {

/// What every stage needs.
template <class T, class Space>
struct SegmentStage {
  using C = compute_t<T>;
  View<const T, 4, Space> q, k, v;
  SegmentRows<C, Space> rows;
  const T* alpha = nullptr;  ///< null: 1

  SRF_HD index_t width() const { return rows.width(); }
  SRF_HD C share() const { return alpha == nullptr ? C(1) : C(alpha[0]); }
  /// The row of scores of the block's query `query`.
  SRF_HD index_t score_row(const ScoreBlock& block, index_t query) const {
    return (block.b * rows.heads + block.h) * rows.queries + query;
  }
};

/// One product of queries and keys of segments: of q and k, or of d_out and v.
template <class T, class Space>
struct SegmentProduct {
  View<const T, 4, Space> left, right;
  compute_t<T>* scores;
};

/// scores = A_s B_s^T for the queries of one segment, of one product after another.
template <class T, class Space>
struct ScoreSegment {
  using C = compute_t<T>;
  static constexpr bool multiplies = true;
  SegmentStage<T, Space> stage;
  index_t segments;  ///< rows of each product
  SegmentProduct<T, Space> first, second{};
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const SegmentProduct<T, Space>& x = row < segments ? first : second;
    const ScoreBlock block = stage.rows.block(row % segments);
    if (block.query_count == 0) return;
    const index_t i = block.first_query, width = stage.width();
    const Rows<const T> a = head_rows(x.left, block.b, block.h).from(i),
                        b = head_rows(x.right, block.b, block.h).from(block.first_key);
    team.gemm(Op::none, Op::transpose, block.query_count, block.key_count, block.head_size, C(1),
              a.data, a.stride, b.data, b.stride, C(0),
              x.scores + stage.score_row(block, i) * width, width);
  }
};

/// One query: its scores become drop p; d_scores, where given, become alpha dS.
template <class T, class Space>
struct WeighSegmentRow {
  using C = compute_t<T>;
  SegmentStage<T, Space> stage;
  C *scores, *d_scores = nullptr;
  C* along = nullptr;  ///< [B*H, M] or null: sum of d_out . a
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t M = stage.rows.queries, at = row * stage.width();
    const ScoreBlock block = stage.rows.block_of(row / M, row % M);
    const index_t r = row % M - block.first_query;
    const auto& context = stage.rows.context;
    weigh_row(team, context, block, r, scores + at);
    if (d_scores == nullptr) {
      if (context.dropout.active()) drop_row(team, context.dropout, block, r, scores + at);
      return;
    }
    const C dot =
        weigh_row_backward(team, context, block, r, stage.share(), scores + at, d_scores + at);
    if (along != nullptr && team.leader()) along[row] = dot;
  }
};

/// out = alpha P V_s.
template <class T, class Space>
struct ReadSegment {
  using C = compute_t<T>;
  static constexpr bool multiplies = true;
  SegmentStage<T, Space> stage;
  const C* weights;
  View<T, 4, Space> out;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const ScoreBlock block = stage.rows.block(row);
    if (block.query_count == 0) return;
    const index_t i = block.first_query, width = stage.width();
    const Rows<const T> v = head_rows(stage.v, block.b, block.h).from(block.first_key);
    const Rows<T> to = head_rows(out, block.b, block.h).from(i);
    team.gemm(Op::none, Op::none, block.query_count, block.head_size, block.key_count,
              stage.share(), weights + stage.score_row(block, i) * width, width, v.data, v.stride,
              C(0), to.data, to.stride);
  }
};

template <class T, class Space>
struct ReadSegmentBackward {
  using C = compute_t<T>;
  static constexpr bool multiplies = true;
  SegmentStage<T, Space> stage;
  const C *weights, *d_scores;
  View<const T, 4, Space> d_out;
  View<T, 4, Space> d_q, d_k, d_v;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const ScoreBlock block = stage.rows.block(row);
    if (block.query_count == 0) return;
    const index_t b = block.b, h = block.h, i = block.first_query, t = block.first_key;
    const index_t m = block.query_count, n = block.key_count, D = block.head_size;
    const index_t width = stage.width(), at = stage.score_row(block, i) * width;
    const Rows<const T> q = head_rows(stage.q, b, h).from(i), k = head_rows(stage.k, b, h).from(t),
                        d_o = head_rows(d_out, b, h).from(i);
    const Rows<T> dq = head_rows(d_q, b, h).from(i), dk = head_rows(d_k, b, h).from(t),
                  dv = head_rows(d_v, b, h).from(t);
    team.gemm(Op::transpose, Op::none, n, D, m, stage.share(), weights + at, width, d_o.data,
              d_o.stride, C(1), dv.data, dv.stride);
    team.gemm(Op::none, Op::none, m, D, n, C(1), d_scores + at, width, k.data, k.stride, C(1),
              dq.data, dq.stride);
    team.gemm(Op::transpose, Op::none, n, D, m, C(1), d_scores + at, width, q.data, q.stride, C(1),
              dk.data, dk.stride);
  }
};

/// out = alpha a.
template <class B, class T>
void segmented_batched_forward(B& be, const SegmentStage<T, typename B::space>& stage,
                               Out<B, T, 4> out) {
  using Space = typename B::space;
  const auto &q = stage.q, &k = stage.k;
  const index_t lanes = q.extent(0) * q.extent(1), queries = lanes * q.extent(2);
  Tensor<B, compute_t<T>, 2> scores(be, {queries, stage.width()});
  const index_t segments = lanes * stage.rows.most;
  be.for_each_row(segments, 0, ScoreSegment<T, Space>{stage, segments, {q, k, scores.data()}});
  be.for_each_row(queries, 0, WeighSegmentRow<T, Space>{stage, scores.data()});
  be.for_each_row(segments, 0, ReadSegment<T, Space>{stage, scores.data(), out});
}

///   along  as in WeighSegmentRow
template <class B, class T>
void segmented_batched_backward(B& be, const SegmentStage<T, typename B::space>& stage,
                                const AttentionGradients<B, T>& d, compute_t<T>* along) {
  using Space = typename B::space;
  const auto &q = stage.q, &k = stage.k, &v = stage.v;
  const index_t lanes = q.extent(0) * q.extent(1), queries = lanes * q.extent(2);
  Tensor<B, compute_t<T>, 3> scores(be, {2, queries, stage.width()});
  compute_t<T>*p = scores.data(), *d_p = p + queries * stage.width();
  const index_t segments = lanes * stage.rows.most;
  be.for_each_row(2 * segments, 0,
                  ScoreSegment<T, Space>{stage, segments, {q, k, p}, {d.d_out, v, d_p}});
  be.for_each_row(queries, 0, WeighSegmentRow<T, Space>{stage, p, d_p, along});
  be.for_each_row(segments, 0,
                  ReadSegmentBackward<T, Space>{stage, p, d_p, d.d_out, d.d_q, d.d_k, d.d_v});
}

}  // namespace srformer::detail
