// SPDX-License-Identifier: Apache-2.0
// Softmax attention of queries to the keys of their segment, and to further keys, in stages over all heads, for backends
// with gemm_batched. Keys come in runs: those of segments, and those of the segments before (Transformer-XL) or one for
// every segment (global tokens). A team has a product of the queries and keys of a run that belong together, then the
// weights of one query, then a product again.
//
//   S = Q K_r^T,   P = drop softmax(S + bias) over all runs,   A = sum_r P_r V_r
//
//   dP = dA V_r^T,   dS as in attention/attend.hpp
//   dV_r += alpha P_r^T dA,   dQ += dS_r K_r,   dK_r += dS_r^T Q
//
// Scores lie as [lane, query, width], of as many lanes at a time as scores_at_a_time allows. The first run ends at the
// column where the second begins, so that the keys which a query sees follow each other there. The queries of a decoder
// step go the same way.
#pragma once

#include <algorithm>

#include <srformer/attention/detail/full_batched.hpp>
#include <srformer/attention/segments.hpp>

namespace srformer::SRF_DETAIL {

/// Whose keys a query sees: those of its segment; those of the segment before, or of the first where there is none;
/// one for every segment.
enum class Seen { segment, segment_before, every_segment };

/// Keys and values [B,H,*,D] of one kind, and where the columns of those that a query sees begin, or end.
template <class T, class Space>
struct KeyRun {
  View<const T, 4, Space> k, v;
  Seen seen = Seen::segment;
  index_t column = 0;
  bool ends_there = false;
};

/// The gradients of a run.
template <class G, class Space>
struct RunGradients {
  View<G, 4, Space> d_k, d_v;
};

/// One row of scores as attention/attend.hpp takes it, and how many of its keys are of the first run.
template <class C, class Space, class Mask = ScoreMask<C, Space>>
struct SeenKeys {
  AttendContext<C, Space, Mask> context;
  ScoreBlock block;
  index_t of_first_run;
};

/// What a query sees where that is its segment alone.
template <class C, class Space>
struct OwnSegment {
  SRF_HD SeenKeys<C, Space> seen_by(const SegmentRows<C, Space>& rows, index_t lane,
                                    index_t i) const {
    const ScoreBlock block = rows.block_of(lane, i);
    return {rows.context, block, block.key_count};
  }
};

/// Queries and keys that a team multiplies, and where their scores begin in a row.
struct TeamBlock {
  ScoreBlock block;
  index_t lane, column;
};

/// What the products of one run need.
template <class T, class Space>
struct RunStage {
  using C = compute_t<T>;
  static constexpr index_t tile = 32;  // rows of a team where all queries see the same keys
  View<const T, 4, Space> q;
  SegmentRows<C, Space> rows;
  KeyRun<T, Space> run;
  index_t width;
  const T* alpha;
  index_t first_lane;  ///< whose scores are the first in memory

  SRF_HD C share() const { return alpha == nullptr ? C(1) : C(alpha[0]); }
  SRF_HD static index_t tiles(index_t n) { return (n + tile - 1) / tile; }
  SRF_HD index_t segments() const {
    return (rows.keys + rows.options.segment_size - 1) / rows.options.segment_size;
  }
  SRF_HD bool whole() const { return run.seen == Seen::every_segment; }
  /// Teams of a lane where no two write to the same query, and where no two write to the same key.
  SRF_HD index_t query_teams() const { return whole() ? tiles(rows.queries) : rows.most; }
  SRF_HD index_t key_teams() const { return whole() ? tiles(segments()) : rows.most; }

  /// What team `row` multiplies where no two have the same query; without queries where there is nothing.
  SRF_HD TeamBlock by_queries(index_t row) const {
    const index_t lane = first_lane + row / query_teams(), part = row % query_teams();
    if (!whole()) return of_segment(lane, part);
    TeamBlock x = of_lane(lane);
    x.block.first_query = part * tile;
    const index_t rest = rows.queries - x.block.first_query;
    x.block.query_count = rest < tile ? rest : tile;
    return x;
  }
  /// The same where no two have the same key.
  SRF_HD TeamBlock by_keys(index_t row) const {
    const index_t lane = first_lane + row / key_teams(), part = row % key_teams();
    if (!whole()) return of_segment(lane, part);
    TeamBlock x = of_lane(lane);
    const index_t first = part * tile, rest = x.block.key_count - first;
    x.block.first_key = first, x.block.key_count = rest < 0 ? 0 : rest < tile ? rest : tile;
    x.column += first;
    return x;
  }

  /// Where the scores of the block's first query and key are.
  SRF_HD index_t at(const TeamBlock& x) const {
    const index_t lane = x.lane - first_lane;
    return (lane * rows.queries + x.block.first_query) * width + x.column;
  }
  /// The rows of the block's queries in x, and those of its keys.
  template <class X>
  SRF_HD Rows<X> queries(const View<X, 4, Space>& x, const TeamBlock& of) const {
    return head_rows(x, of.lane / rows.heads, of.block.h).from(of.block.first_query);
  }
  template <class X>
  SRF_HD Rows<X> keys(const View<X, 4, Space>& x, const TeamBlock& of) const {
    return head_rows(x, of.block.b, of.block.h).from(of.block.first_key);
  }

 private:
  SRF_HD TeamBlock of_lane(index_t lane) const {
    ScoreBlock block{rows.source(lane), lane % rows.heads, rows.head_size,
                     rows.heads,        rows.queries,      segments()};
    block.query_count = rows.queries, block.key_count = rows.rule(lane).count();
    return {block, lane, run.column};
  }
  SRF_HD TeamBlock of_segment(index_t lane, index_t s) const {
    const SegmentRule rule = rows.rule(lane);
    const index_t j = rows.seen(rule, s);
    if (j < 0) return {};
    ScoreBlock block = rows.block_of_segment(rule, lane, j);
    if (run.seen == Seen::segment_before) precede(rule, lane, j, block);
    return {block, lane, run.ends_there ? run.column - block.key_count : run.column};
  }
  /// The keys of the segment before. The first precedes itself, so that the queries of the first two see the same.
  SRF_HD void precede(const SegmentRule& rule, index_t lane, index_t j, ScoreBlock& block) const {
    const index_t before = j > 0 ? j - 1 : 0;
    const bool upstream = rows.options.padding == Padding::upstream;
    block.first_key = rule.first_key(before);
    block.key_count = upstream ? rule.size : rule.keys(before);
    if (j == 0 && rule.count() > 1 && rows.block_of_segment(rule, lane, 1).query_count > 0)
      block.query_count = 0;
    if (j != 1) return;
    const ScoreBlock first = rows.block_of_segment(rule, lane, 0);
    if (first.query_count == 0) return;
    block.first_query = first.first_query, block.query_count += first.query_count;
  }
};

/// scores = Q K^T of a run, and d_scores, where given, = dO V^T.
template <class T, class Space>
struct ScoreRun {
  using C = compute_t<T>;
  static constexpr bool multiplies = true;
  RunStage<T, Space> stage;
  index_t teams;  ///< of each product
  C* scores;
  View<const T, 4, Space> d_out{};
  C* d_scores = nullptr;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const TeamBlock x = stage.by_queries(row % teams);
    const ScoreBlock& block = x.block;
    if (block.query_count == 0) return;
    const bool backward = row >= teams;
    const Rows<const T> a = stage.queries(backward ? d_out : stage.q, x),
                        b = stage.keys(backward ? stage.run.v : stage.run.k, x);
    team.gemm(Op::none, Op::transpose, block.query_count, block.key_count, block.head_size, C(1),
              a.data, a.stride, b.data, b.stride, C(0),
              (backward ? d_scores : scores) + stage.at(x), stage.width);
  }
};

/// One query: its scores become drop p; d_scores, where given, become alpha dS.
template <class T, class Space, class Of>
struct WeighSeenKeys {
  using C = compute_t<T>;
  RunStage<T, Space> stage;
  Of of;
  index_t middle;  ///< the column where the first run ends
  C *scores, *d_scores = nullptr;
  C* along = nullptr;  ///< [lanes, M] or null: sum of d_out . a
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t M = stage.rows.queries, lane = stage.first_lane + row / M;
    const auto x = of.seen_by(stage.rows, lane, row % M);
    const index_t r = row % M - x.block.first_query;
    const index_t at = row * stage.width + middle - x.of_first_run;
    weigh_row(team, x.context, x.block, r, scores + at);
    if (d_scores == nullptr) {
      if (x.context.dropout.active()) drop_row(team, x.context.dropout, x.block, r, scores + at);
      return;
    }
    const C dot =
        weigh_row_backward(team, x.context, x.block, r, stage.share(), scores + at, d_scores + at);
    if (along != nullptr && team.leader()) along[lane * M + row % M] = dot;
  }
};

/// out = or += alpha P V of a run.
template <class T, class Space>
struct ReadRun {
  using C = compute_t<T>;
  static constexpr bool multiplies = true;
  RunStage<T, Space> stage;
  const C* weights;
  View<T, 4, Space> out;
  bool add;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const TeamBlock x = stage.by_queries(row);
    const ScoreBlock& block = x.block;
    if (block.query_count == 0) return;
    const Rows<const T> v = stage.keys(stage.run.v, x);
    const Rows<T> to = stage.queries(out, x);
    team.gemm(Op::none, Op::none, block.query_count, block.head_size, block.key_count,
              stage.share(), weights + stage.at(x), stage.width, v.data, v.stride,
              C(add ? 1.0 : 0.0), to.data, to.stride);
  }
};

/// dQ, and dK and dV of a run; the first teams have the queries, the others the keys.
template <class T, class G, class Space>
struct ReadRunBackward {
  using C = compute_t<T>;
  static constexpr bool multiplies = true;
  RunStage<T, Space> stage;
  index_t query_teams;
  const C *weights, *d_scores;
  View<const T, 4, Space> d_out;
  View<T, 4, Space> d_q;
  RunGradients<G, Space> d;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const bool of_queries = row < query_teams;
    const TeamBlock x = of_queries ? stage.by_queries(row) : stage.by_keys(row - query_teams);
    const index_t m = x.block.query_count, n = x.block.key_count, D = x.block.head_size;
    const index_t at = stage.at(x), width = stage.width;
    if (m == 0 || n == 0) return;
    if (of_queries) {
      const Rows<const T> k = stage.keys(stage.run.k, x);
      const Rows<T> dq = stage.queries(d_q, x);
      team.gemm(Op::none, Op::none, m, D, n, C(1), d_scores + at, width, k.data, k.stride, C(1),
                dq.data, dq.stride);
      return;
    }
    const Rows<const T> q = stage.queries(stage.q, x), d_o = stage.queries(d_out, x);
    const Rows<G> dk = stage.keys(d.d_k, x), dv = stage.keys(d.d_v, x);
    team.gemm(Op::transpose, Op::none, n, D, m, stage.share(), weights + at, width, d_o.data,
              d_o.stride, C(1), dv.data, dv.stride);
    team.gemm(Op::transpose, Op::none, n, D, m, C(1), d_scores + at, width, q.data, q.stride, C(1),
              dk.data, dk.stride);
  }
};

/// Attention in stages: queries, what they see, and the columns of the scores.
///   of  seen_by(rows, lane, i): SeenKeys
template <class T, class Space, class Of = OwnSegment<compute_t<T>, Space>>
struct StagedAttention {
  using C = compute_t<T>;
  View<const T, 4, Space> q;
  SegmentRows<C, Space> rows;
  Of of;
  KeyRun<T, Space> first, second{};  ///< the second without keys: there is none
  index_t first_width, second_width = 0;
  const T* alpha = nullptr;  ///< null: 1

  index_t width() const { return first_width + second_width; }
  int runs() const { return second.k.data == nullptr ? 1 : 2; }
  RunStage<T, Space> stage(int run, index_t first_lane) const {
    RunStage<T, Space> s{q, rows, run == 0 ? first : second, width(), alpha, first_lane};
    s.run.column = first_width, s.run.ends_there = run == 0;
    return s;
  }
};

/// Calls f(first, lanes) for all lanes, as many at a time as have scores_at_a_time, or one that has more.
template <class B, class X, class F>
void for_each_lanes_of(const X& x, F f) {
  const index_t lanes = x.q.extent(0) * x.q.extent(1), scores = x.rows.queries * x.width();
  const index_t each = std::max<index_t>(1, scores_at_a_time<B> / std::max<index_t>(1, scores));
  for (index_t first = 0; first < lanes; first += each) f(first, std::min(each, lanes - first));
}

/// out = alpha a.
template <class B, class T, class Of>
void attend_staged(B& be, const StagedAttention<T, typename B::space, Of>& x, Out<B, T, 4> out) {
  using Space = typename B::space;
  for_each_lanes_of<B>(x, [&](index_t first, index_t lanes) {
    Tensor<B, compute_t<T>, 3> scores(be, {lanes, x.rows.queries, x.width()});
    for (int run = 0; run < x.runs(); ++run) {
      const auto stage = x.stage(run, first);
      const index_t teams = lanes * stage.query_teams();
      be.for_each_row(teams, 0, ScoreRun<T, Space>{stage, teams, scores.data()});
    }
    be.for_each_row(
        lanes * x.rows.queries, 0,
        WeighSeenKeys<T, Space, Of>{x.stage(0, first), x.of, x.first_width, scores.data()});
    for (int run = 0; run < x.runs(); ++run) {
      const auto stage = x.stage(run, first);
      be.for_each_row(lanes * stage.query_teams(), 0,
                      ReadRun<T, Space>{stage, scores.data(), out, run > 0});
    }
  });
}

/// The gradient of the output, to which that of the queries is added, and what the weights' sums of d_out . a go to.
template <class B, class T>
struct StagedGradients {
  In<B, T, 4> d_out;
  Out<B, T, 4> d_q;
  compute_t<T>* along = nullptr;  ///< as in WeighSeenKeys
};

/// The gradients through out = alpha a are added to those of the queries and of both runs.
template <class B, class T, class Of, class G0, class G1 = T>
void attend_staged_backward(B& be, const StagedAttention<T, typename B::space, Of>& x,
                            const StagedGradients<B, T>& d,
                            const RunGradients<G0, typename B::space>& d_first,
                            const RunGradients<G1, typename B::space>& d_second = {}) {
  using Space = typename B::space;
  for_each_lanes_of<B>(x, [&](index_t first, index_t lanes) {
    const index_t queries = lanes * x.rows.queries;
    Tensor<B, compute_t<T>, 3> scores(be, {2, queries, x.width()});
    compute_t<T>*p = scores.data(), *d_p = p + queries * x.width();
    for (int run = 0; run < x.runs(); ++run) {
      const auto stage = x.stage(run, first);
      const index_t teams = lanes * stage.query_teams();
      be.for_each_row(2 * teams, 0, ScoreRun<T, Space>{stage, teams, p, d.d_out, d_p});
    }
    be.for_each_row(
        queries, 0,
        WeighSeenKeys<T, Space, Of>{x.stage(0, first), x.of, x.first_width, p, d_p, d.along});
    const auto read = [&]<class G>(int run, const RunGradients<G, Space>& to) {
      const auto stage = x.stage(run, first);
      const index_t of_queries = lanes * stage.query_teams();
      be.for_each_row(of_queries + lanes * stage.key_teams(), 0,
                      ReadRunBackward<T, G, Space>{stage, of_queries, p, d_p, d.d_out, d.d_q, to});
    };
    read(0, d_first);
    if (x.runs() > 1) read(1, d_second);
  });
}

/// Attention to the keys of the segment alone.
template <class T, class Space>
StagedAttention<T, Space> own_segment(const View<const T, 4, Space>& q,
                                      const KeyRun<T, Space>& keys,
                                      const SegmentRows<compute_t<T>, Space>& rows,
                                      const T* alpha = nullptr) {
  return {q, rows, {}, keys, {}, rows.width(), 0, alpha};
}

/// The queries of a decoder step.
template <class T, class Space>
SegmentRows<compute_t<T>, Space> step_rows(const AttentionStep<T, Space>& in,
                                           const SegmentedOptions& options) {
  return {in.context,     options, in.heads(), in.queries(), in.keys(),
          in.head_size(), 1,       in.step,    in.sources};
}

}  // namespace srformer::SRF_DETAIL
