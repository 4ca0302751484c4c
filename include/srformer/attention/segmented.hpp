// SPDX-License-Identifier: Apache-2.0
// Segmented attention: every query attends to the keys of its own segment alone.
//
//   A_i = softmax(q_i K_j^T + b_i) V_j,   j = seg(i)
//
// Queries of one segment follow each other, so each segment is one small product. The gradient is
// that of attention/attend.hpp, segment by segment. Nothing is saved.
#pragma once

#include <srformer/attention/full.hpp>
#include <srformer/attention/segment.hpp>

namespace srformer {

struct SegmentedOptions {
  index_t segment_size = 64;          ///< L
  index_t horizon = 0;                ///< decoder steps over the source; 0: as many as queries
  Padding padding = Padding::masked;  ///< what the tail of the last segment and padded keys do
};

/// The rule for source b: with masked padding it is that of its own length.
template <class C, class Space>
SRF_HD SegmentRule segment_rule(const SegmentedOptions& options, const ScoreMask<C, Space>& mask,
                                index_t b, index_t queries, index_t keys) {
  const index_t length = options.padding == Padding::masked ? mask.keys(b, keys) : keys;
  return {length, options.segment_size, options.horizon > 0 ? options.horizon : queries};
}

namespace detail {

inline void check_segments(const char* function, const SegmentedOptions& options) {
  require(options.segment_size >= 1, function, "segment size must be at least 1");
  require(options.horizon >= 0, function,
          "horizon must be at least 1, or 0 for the number of queries");
}

/// The block of scores between segment j and the queries that see it, of `queries` queries of which
/// the first is decoder step `offset`.
SRF_HD inline ScoreBlock segment_block(const SegmentRule& rule, Padding padding, index_t j,
                                       index_t b, index_t h, index_t heads, index_t queries,
                                       index_t keys, index_t head_size, index_t offset = 0) {
  const index_t from = rule.first_query(j) - offset, first = from > 0 ? from : 0;
  const index_t end = rule.end_query(j, queries + offset) - offset;
  const index_t real = rule.keys(j);
  return {b,
          h,
          head_size,
          heads,
          queries,
          keys,
          first,
          end > first ? end - first : 0,
          rule.first_key(j),
          real,
          padding == Padding::upstream ? rule.size - real : 0};
}

/// The most weights one segment can have: all queries on one segment's keys.
inline index_t most_weights(const SegmentedOptions& options, index_t queries, index_t keys) {
  return queries * std::min(options.segment_size, keys);
}

/// The most segments that some of `queries` queries can see.
inline index_t most_visited(const SegmentedOptions& options, index_t queries, index_t keys) {
  return std::min(queries, (keys + options.segment_size - 1) / options.segment_size);
}

/// The rows of segmented attention: one is one segment that some queries of a source and head see.
template <class C, class Space>
struct SegmentRows {
  AttendContext<C, Space> context;
  SegmentedOptions options;
  index_t heads, queries, keys, head_size, most;  ///< most: rows of a source and head

  /// Its block of scores; without queries where a shorter source has fewer segments.
  SRF_HD ScoreBlock block(index_t row) const {
    const index_t lane = row / most, b = lane / heads, s = row % most;
    const index_t from = context.mask.query_offset;
    const SegmentRule rule = segment_rule(options, context.mask, b, queries, keys);
    if (s >= rule.visited(queries, from)) return {};
    return segment_block(rule, options.padding, rule.visited_at(s, from), b, lane % heads, heads,
                         queries, keys, head_size, from);
  }
};

/// out = alpha a.
template <class T, class Space>
struct SegmentedForward {
  using C = compute_t<T>;
  View<const T, 4, Space> q, k, v;
  View<T, 4, Space> out;
  SegmentRows<C, Space> rows;
  const T* alpha = nullptr;  ///< null: 1

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void* scratch) const {
    const ScoreBlock block = rows.block(row);
    if (block.query_count == 0) return;
    const index_t b = block.b, h = block.h, i = block.first_query, t = block.first_key;
    attend_forward<Team, T, C, Space>(team, rows.context, block, head_rows(q, b, h).from(i),
                                      head_rows(k, b, h).from(t), head_rows(v, b, h).from(t),
                                      alpha == nullptr ? C(1) : C(alpha[0]),
                                      head_rows(out, b, h).from(i), static_cast<C*>(scratch));
  }
};

template <class T, class Space>
struct SegmentedBackward {
  using C = compute_t<T>;
  View<const T, 4, Space> q, k, v, d_out;
  View<T, 4, Space> d_q, d_k, d_v;
  SegmentRows<C, Space> rows;
  index_t scratch_weights;
  const T* alpha = nullptr;
  C* along = nullptr;  ///< [rows] or null: sum of d_out . a

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void* scratch) const {
    const ScoreBlock block = rows.block(row);
    C sum(0);
    if (block.query_count > 0) {
      C* weights = static_cast<C*>(scratch);
      const index_t b = block.b, h = block.h, i = block.first_query, t = block.first_key;
      sum = attend_backward<Team, T, C, Space>(
          team, rows.context, block, head_rows(q, b, h).from(i), head_rows(k, b, h).from(t),
          head_rows(v, b, h).from(t), head_rows(d_out, b, h).from(i),
          alpha == nullptr ? C(1) : C(alpha[0]), head_rows(d_q, b, h).from(i),
          head_rows(d_k, b, h).from(t), head_rows(d_v, b, h).from(t), nullptr, weights,
          weights + scratch_weights);
    }
    if (along != nullptr && team.leader()) along[row] = sum;
  }
};

template <class T, class Space>
SegmentRows<compute_t<T>, Space> segment_rows(const View<const T, 4, Space>& q,
                                              const View<const T, 4, Space>& k,
                                              const AttendContext<compute_t<T>, Space>& context,
                                              const SegmentedOptions& options) {
  const index_t M = q.extent(2), N = k.extent(2);
  return {context, options, q.extent(1), M, N, q.extent(3), most_visited(options, M, N)};
}

}  // namespace detail

/// out_i = softmax(q_i K_j^T + bias) V_j with j = seg(i) (paper, section 3.1).
///   q, out [B,H,M,D], k, v [B,H,N,D], last axes contiguous; scores are not scaled
/// Saves nothing. Cost 4 B H M L D.
template <class B, class T>
requires BackendFor<B, T>
void segmented_attention_forward(B& be, In<B, T, 4> q, In<B, T, 4> k, In<B, T, 4> v,
                                 const AttendContext<compute_t<T>, typename B::space>& context,
                                 const SegmentedOptions& options,
                                 View<T, 4, typename B::space> out) {
  detail::check_attention("segmented_attention_forward", q, k, v, out);
  detail::check_segments("segmented_attention_forward", options);
  check_dropout("segmented_attention_forward", context.dropout);
  using C = compute_t<T>;
  using Space = typename B::space;
  const index_t weights = detail::most_weights(options, q.extent(2), k.extent(2));
  const auto rows = detail::segment_rows<T, Space>(q, k, context, options);
  be.for_each_row(q.extent(0) * q.extent(1) * rows.most, weights * static_cast<index_t>(sizeof(C)),
                  detail::SegmentedForward<T, Space>{q, k, v, out, rows});
}

/// d_q, d_k, d_v += the gradients through segmented_attention_forward. Cost 10 B H M L D.
template <class B, class T>
requires BackendFor<B, T>
void segmented_attention_backward(B& be, In<B, T, 4> q, In<B, T, 4> k, In<B, T, 4> v,
                                  const AttendContext<compute_t<T>, typename B::space>& context,
                                  const SegmentedOptions& options, In<B, T, 4> d_out,
                                  View<T, 4, typename B::space> d_q,
                                  View<T, 4, typename B::space> d_k,
                                  View<T, 4, typename B::space> d_v) {
  detail::check_attention("segmented_attention_backward", q, k, v, d_out);
  detail::check_attention_gradients("segmented_attention_backward", q, k, d_q, d_k, d_v);
  detail::check_segments("segmented_attention_backward", options);
  check_dropout("segmented_attention_backward", context.dropout);
  using C = compute_t<T>;
  using Space = typename B::space;
  const index_t weights = detail::most_weights(options, q.extent(2), k.extent(2));
  const auto rows = detail::segment_rows<T, Space>(q, k, context, options);
  be.for_each_row(
      q.extent(0) * q.extent(1) * rows.most, 2 * weights * static_cast<index_t>(sizeof(C)),
      detail::SegmentedBackward<T, Space>{q, k, v, d_out, d_q, d_k, d_v, rows, weights});
}

}  // namespace srformer
