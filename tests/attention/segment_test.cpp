// SPDX-License-Identifier: Apache-2.0
#include <srformer/attention/segments.hpp>

#include <set>
#include <vector>

#include "support/catch.hpp"

using namespace srformer;

TEST_CASE("queries see the segment of the floor formula, each in one range of queries") {
  index_t rules = 0, wrong = 0, unvisited = 0;
  for (index_t N = 1; N <= 17; ++N) {
    for (index_t L = 1; L <= 19; ++L) {
      for (index_t horizon = 1; horizon <= 24; ++horizon) {
        for (index_t M = 1; M <= 22; M += 3) {
          const SegmentRule rule{N, L, horizon};
          const index_t S = N / L + (N % L > 0);
          ++rules;
          wrong += rule.count() != S;
          std::set<index_t> seen;
          for (index_t i = 0; i < M; ++i) {
            index_t j = 0;  // the largest j <= S - 1 with j horizon <= i S
            while (j + 1 <= S - 1 && (j + 1) * horizon <= i * S) ++j;
            wrong += rule.of(i) != j;
            seen.insert(j);
            index_t ranges = 0;
            for (index_t s = 0; s < S; ++s) {
              if (rule.first_query(s) <= i && i < rule.end_query(s, M)) {
                ++ranges;
                wrong += s != j;
              }
            }
            wrong += ranges != 1;
          }
          wrong += rule.visited(M) != static_cast<index_t>(seen.size());
          index_t place = 0, j = 0;
          for (const index_t segment : seen) {
            wrong += rule.visited_at(place++) != segment || j != segment;
            j = rule.next_visited(j, M);
          }
          for (index_t from = 0; from < M; ++from) {
            const index_t rest = rule.visited(M - from, from);
            wrong += rest != std::distance(seen.find(rule.of(from)), seen.end());
            wrong += rule.visited_at(0, from) != rule.of(from);
            wrong += rule.visited_at(rest - 1, from) != *seen.rbegin();
          }
          unvisited += rule.visited(M) < S;
          index_t keys = 0;
          for (index_t s = 0; s < S; ++s) {
            wrong += rule.first_key(s) != keys || rule.keys(s) < 1 || rule.keys(s) > L;
            keys += rule.keys(s);
          }
          wrong += keys != N;
        }
      }
    }
  }
  CHECK(wrong == 0);
  CHECK(rules == 17 * 19 * 24 * 8);
  CHECK(unvisited > 1000);
}

TEST_CASE("the segment rule uses integers where floating point would be off") {
  // floor(i S / horizon) in float gives 48 for the first of these.
  const SegmentRule rule{49, 1, 49};
  for (index_t i = 0; i < 49; ++i) CHECK(rule.of(i) == i);
  const SegmentRule large{index_t{1} << 20, 16, index_t{1} << 20};
  CHECK(large.of((index_t{1} << 20) - 1) == large.count() - 1);
}
