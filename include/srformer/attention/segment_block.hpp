// SPDX-License-Identifier: Apache-2.0
// Which scores belong to a segment: the queries that see it, and its keys.
#pragma once

#include <srformer/attention/attend.hpp>
#include <srformer/attention/segment.hpp>
#include <srformer/backend/tensor.hpp>

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

/// The block of scores between segment j and the queries that see it. `whole` says whose scores they are and how
/// many there are of everything; its first query is decoder step `offset`.
SRF_HD inline ScoreBlock segment_block(const SegmentRule& rule, Padding padding, index_t j,
                                       const ScoreBlock& whole, index_t offset = 0) {
  const index_t from = rule.first_query(j) - offset, first = from > 0 ? from : 0;
  const index_t end = rule.end_query(j, whole.queries + offset) - offset;
  const index_t real = rule.keys(j);
  ScoreBlock block = whole;
  block.first_query = first, block.query_count = end > first ? end - first : 0;
  block.first_key = rule.first_key(j), block.key_count = real;
  block.zero_keys = padding == Padding::upstream ? rule.size - real : 0;
  return block;
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

  /// Keys of a segment, at most.
  SRF_HD index_t width() const { return options.segment_size < keys ? options.segment_size : keys; }

  /// The most weights one segment can have: all queries on one segment's keys.
  SRF_HD index_t most_weights() const { return queries * width(); }

  /// Its block of scores; without queries where a shorter source has fewer segments.
  SRF_HD ScoreBlock block(index_t row) const {
    const index_t lane = row / most, s = row % most, from = context.mask.query_offset;
    const SegmentRule rule = segment_rule(options, context.mask, lane / heads, queries, keys);
    if (s >= rule.visited(queries, from)) return {};
    return block_of_segment(rule, lane, rule.visited_at(s, from));
  }

  /// The block of scores of segment j; without queries where none sees it.
  SRF_HD ScoreBlock block_of_segment(const SegmentRule& rule, index_t lane, index_t j) const {
    const ScoreBlock whole{lane / heads, lane % heads, head_size, heads, queries, keys};
    return segment_block(rule, options.padding, j, whole, context.mask.query_offset);
  }

  /// The block of scores that query i of a source and head is in.
  SRF_HD ScoreBlock block_of(index_t lane, index_t i) const {
    const SegmentRule rule = segment_rule(options, context.mask, lane / heads, queries, keys);
    return block_of_segment(rule, lane, rule.of(context.mask.query_offset + i));
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

}  // namespace srformer
