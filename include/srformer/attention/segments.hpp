// SPDX-License-Identifier: Apache-2.0
// Which segment a query sees, in integers only:
//
//   S = ceil(N / L),   seg(i) = min(S - 1, floor(i S / horizon))
//
// Queries of one segment are consecutive; some segments may be seen by no query. Below, which scores belong to a
// segment: the queries that see it, and its keys.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include <srformer/attention/attend.hpp>
#include <srformer/backend/tensor.hpp>
#include <srformer/core/error.hpp>

namespace srformer {

/// One source of `length` keys cut into segments of `size`, spread over `horizon` decoder steps.
struct SegmentRule {
  index_t length;   ///< N
  index_t size;     ///< L, at least 1
  index_t horizon;  ///< decoder steps over which the source is spread, at least 1

  /// S; a source without keys is one segment without keys.
  SRF_HD constexpr index_t count() const { return length > 0 ? (length + size - 1) / size : 1; }

  /// The segment that query i sees.
  SRF_HD constexpr index_t of(index_t i) const {
    const index_t segment = i * count() / horizon;
    return segment < count() - 1 ? segment : count() - 1;
  }

  /// The first query that sees segment j or a later one: the least i with i S / horizon >= j.
  SRF_HD constexpr index_t first_query(index_t j) const {
    return j <= 0 ? 0 : (j * horizon + count() - 1) / count();
  }

  /// One past the last of `queries` queries that see segment j.
  SRF_HD constexpr index_t end_query(index_t j, index_t queries) const {
    const index_t end = j + 1 >= count() ? queries : first_query(j + 1);
    return end < queries ? end : queries;
  }

  SRF_HD constexpr index_t first_key(index_t j) const { return j * size; }

  /// Keys of segment j that exist; the last segment may be short.
  SRF_HD constexpr index_t keys(index_t j) const {
    const index_t rest = length - j * size;
    return rest < size ? rest : size;
  }

  /// The segment that is seen next after segment j, or count() where j is the last.
  SRF_HD constexpr index_t next_visited(index_t j, index_t queries) const {
    const index_t i = first_query(j + 1);
    return j + 1 < count() && i < queries ? of(i) : count();
  }

  /// The segment that is seen last before segment j, -1 where there is none.
  SRF_HD constexpr index_t visited_before(index_t j, index_t queries) const {
    const index_t i = end_query(j - 1, queries) - 1;
    return j > 0 && i >= 0 ? of(i) : -1;
  }

  /// One past the last key of segment j that exists.
  SRF_HD constexpr index_t end_key(index_t j) const { return first_key(j) + keys(j); }

  /// How many segments some of `queries` queries see, of which the first is decoder step `from`. Where
  /// there are more segments than steps, every step has one of its own, and those from the horizon on
  /// share the last.
  SRF_HD constexpr index_t visited(index_t queries, index_t from = 0) const {
    if (queries <= 0) return 0;
    if (count() <= horizon) return of(from + queries - 1) - of(from) + 1;
    const index_t own = from < horizon ? horizon + 1 - from : 1;
    return queries < own ? queries : own;
  }

  /// The one of them that is seen after s others.
  SRF_HD constexpr index_t visited_at(index_t s, index_t from = 0) const {
    return count() <= horizon ? of(from) + s : of(from + s);
  }
};

/// How the keys after the end of a source are treated.
///   masked    every source behaves as if it stood alone and unpadded (the default)
///   upstream  padded positions enter products, norms and the softmax, as in the authors' code
enum class Padding { masked, upstream };

constexpr std::array<std::string_view, 2> option_names(Padding) { return {"masked", "upstream"}; }

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

namespace SRF_DETAIL {

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

/// The rows of segmented attention: one is one segment that some queries of a lane see. A lane is a head of a source;
/// where all queries are those of one decoder step, it is a head of a group of them, whose source `sources` says.
template <class C, class Space>
struct SegmentRows {
  AttendContext<C, Space> context;
  SegmentedOptions options;
  index_t heads, queries, keys, head_size, most;  ///< most: rows of a lane
  index_t step = -1;                              ///< of all queries; -1: they follow each other
  const std::int32_t* sources = nullptr;          ///< null: group g has source g

  /// Keys of a segment, at most.
  SRF_HD index_t width() const { return options.segment_size < keys ? options.segment_size : keys; }

  /// The most weights one segment can have: all queries on one segment's keys.
  SRF_HD index_t most_weights() const { return queries * width(); }

  SRF_HD index_t source(index_t lane) const {
    const index_t group = lane / heads;
    return sources == nullptr ? group : static_cast<index_t>(sources[group]);
  }
  SRF_HD SegmentRule rule(index_t lane) const {
    return segment_rule(options, context.mask, source(lane), step < 0 ? queries : step + 1, keys);
  }
  /// The decoder step of query i.
  SRF_HD index_t step_of(index_t i) const {
    return step < 0 ? context.mask.query_offset + i : step;
  }

  /// The segment that is seen after s others; -1 where there are no more.
  SRF_HD index_t seen(const SegmentRule& rule, index_t s) const {
    const index_t steps = step < 0 ? queries : 1, from = step_of(0);
    return s < rule.visited(steps, from) ? rule.visited_at(s, from) : -1;
  }

  /// Its block of scores; without queries where a shorter source has fewer segments.
  SRF_HD ScoreBlock block(index_t row) const {
    const index_t lane = row / most;
    const SegmentRule its = rule(lane);
    const index_t j = seen(its, row % most);
    return j < 0 ? ScoreBlock{} : block_of_segment(its, lane, j);
  }

  /// The block of scores of segment j; without queries where none sees it.
  SRF_HD ScoreBlock block_of_segment(const SegmentRule& its, index_t lane, index_t j) const {
    const ScoreBlock whole{source(lane), lane % heads, head_size, heads, queries, keys};
    ScoreBlock block = segment_block(its, options.padding, j, whole, context.mask.query_offset);
    if (step >= 0) block.first_query = 0, block.query_count = its.of(step) == j ? queries : 0;
    return block;
  }

  /// The block of scores that query i of a lane is in.
  SRF_HD ScoreBlock block_of(index_t lane, index_t i) const {
    const SegmentRule its = rule(lane);
    return block_of_segment(its, lane, its.of(step_of(i)));
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

}  // namespace SRF_DETAIL

}  // namespace srformer
