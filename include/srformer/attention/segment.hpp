// SPDX-License-Identifier: Apache-2.0
// Which segment a query sees, in integers only:
//
//   S = ceil(N / L),   seg(i) = min(S - 1, floor(i S / horizon))
//
// Queries of one segment are consecutive; some segments may be seen by no query.
#pragma once

#include <array>
#include <string_view>

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

}  // namespace srformer
