// SPDX-License-Identifier: Apache-2.0
// Ordinary attention as products over all heads at once, for backends with gemm_batched; attention/full.hpp
// has it a block of queries at a time.
//
//   S = q k^T,   P_ij = drop_ij softmax_j(S_ij + bias_ij),   A = P v
//
//   dP = dA v^T,   dS as in attention/attend.hpp
//   dv += P^T dA,   dq += dS k,   dk += dS^T q,   drelative[h, j - i] += sum of dS_ij
//
// Scores of as many heads and queries as scores_at_a_time allows exist together; backward computes them
// again. Products of scalars of 16 bits take weights in that scalar, as those of torch do.
#pragma once

#include <cstdint>

#include <srformer/attention/variant.hpp>

namespace srformer::SRF_DETAIL {

/// How many scores exist together, at most; those of one query where it has more keys. The same of rows that other
/// variants gather.
template <class B>
inline constexpr index_t scores_at_a_time = index_t{1} << 26;

/// Row `first_row` of the heads of all sources, counted from `first_lane` on.
template <class T, class Space>
struct LaneRows {
  View<T, 4, Space> x;
  index_t first_lane, first_row;
  const std::int32_t* sources = nullptr;  ///< of which source a lane's heads are; null: of its own
  SRF_HD T* operator()(index_t i) const {
    const index_t lane = first_lane + i, H = x.extent(1), b = lane / H;
    return head_rows(x, sources == nullptr ? b : sources[b], lane % H).row(first_row);
  }
};

/// Some queries of some heads: their scores lie as [lanes, count, keys].
struct ScoreRange {
  index_t heads, queries, keys, head_size;
  index_t first_lane, lanes, first_query, count;
  const std::int32_t* sources = nullptr;  ///< as those of LaneRows

  template <class C, class Space>
  SRF_HD ScoreBlock block(const AttendContext<C, Space>& context, index_t row) const {
    const index_t lane = first_lane + row / count;
    const index_t b = sources == nullptr ? lane / heads : sources[lane / heads];
    const index_t existing = context.mask.keys(b, keys);
    return {b, lane % heads, head_size, heads, queries, keys, first_query, count, 0, existing};
  }
};

/// One row of scores becomes weights, in `narrow` where T is not what is computed in.
template <class T, class Space>
struct WeighScores {
  using C = compute_t<T>;
  AttendContext<C, Space> context;
  ScoreRange range;
  C* scores;
  T* narrow;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const ScoreBlock block = range.block(context, row);
    const index_t N = range.keys, n = block.key_count, r = row % range.count;
    C* p = scores + row * N;
    weigh_row(team, context, block, r, p);
    if (context.dropout.active()) drop_row(team, context.dropout, block, r, p);
    team.for_each(N - n, [=](index_t c) { p[n + c] = C(0); });
    if constexpr (!std::is_same_v<T, C>) {
      T* to = narrow + row * N;
      team.for_each(N, [=](index_t c) { to[c] = T(p[c]); });
    }
  }
};

/// One row: scores become drop p, their gradient dP becomes dS.
template <class T, class Space>
struct WeighScoresBackward {
  using C = compute_t<T>;
  AttendContext<C, Space> context;
  ScoreRange range;
  C *scores, *d_scores;
  T *narrow, *d_narrow;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const ScoreBlock block = range.block(context, row);
    const index_t N = range.keys, n = block.key_count, r = row % range.count;
    C *p = scores + row * N, *d_p = d_scores + row * N;
    weigh_row(team, context, block, r, p);
    weigh_row_backward(team, context, block, r, C(1), p, d_p);
    team.for_each(N - n, [=](index_t c) { p[n + c] = d_p[n + c] = C(0); });
    if constexpr (!std::is_same_v<T, C>) {
      T *to = narrow + row * N, *d_to = d_narrow + row * N;
      team.for_each(N, [=](index_t c) { to[c] = T(p[c]), d_to[c] = T(d_p[c]); });
    }
  }
};

/// partial[lane, part, distance] = the sum of dS by distance over 128 queries.
template <class C>
struct SumByDistance {
  static constexpr index_t queries_each = 128;
  ScoreRange range;
  const C* d_scores;
  C* partial;
  index_t parts;
  SRF_HD void operator()(index_t i) const {
    const index_t distances = range.queries + range.keys - 1, N = range.keys;
    const index_t d = i % distances, part = i / distances % parts, lane = i / distances / parts;
    // j = i + d - (M - 1) in [0, N)
    const index_t shift = range.first_query + d - (range.queries - 1);
    const index_t from = part * queries_each, until = from + queries_each;
    const index_t first = from > -shift ? from : -shift;
    index_t end = until < range.count ? until : range.count;
    if (N - shift < end) end = N - shift;
    C sum(0);
    for (index_t r = first; r < end; ++r) {
      sum = sum + d_scores[(lane * range.count + r) * N + r + shift];
    }
    partial[i] = sum;
  }
};

/// d_relative[h, distance] += those sums, lane after lane.
template <class C>
struct AddByDistance {
  ScoreRange range;
  const C* partial;
  C* d_relative;
  index_t parts;
  SRF_HD void operator()(index_t i) const {
    const index_t distances = range.queries + range.keys - 1;
    const index_t d = i % distances, h = i / distances, H = range.heads;
    C sum = d_relative[i];
    for (index_t lane = (h - range.first_lane % H + H) % H; lane < range.lanes; lane += H) {
      for (index_t part = 0; part < parts; ++part) {
        sum = sum + partial[(lane * parts + part) * distances + d];
      }
    }
    d_relative[i] = sum;
  }
};

/// Calls f(range) for all queries of all heads, scores_at_a_time or one query at a time.
template <class B, class Q, class F>
void for_each_range(const Q& q, index_t keys, F f) {
  const index_t H = q.extent(1), M = q.extent(2), lanes = q.extent(0) * H;
  const index_t fitting = std::max<index_t>(1, scores_at_a_time<B> / keys);
  const index_t rows = std::min(M, fitting), lanes_each = std::max<index_t>(1, fitting / rows);
  for (index_t lane = 0; lane < lanes; lane += lanes_each) {
    for (index_t i = 0; i < M; i += rows) {
      f(ScoreRange{H, M, keys, q.extent(3), lane, std::min(lanes_each, lanes - lane), i,
                   std::min(rows, M - i)});
    }
  }
}

/// Room for the scores of the largest range, once more in T where T is narrow.
template <class B, class T>
struct ScoreRoom {
  using C = compute_t<T>;
  Tensor<B, C, 1> scores;
  Tensor<B, T, 1> narrow;

  template <class Q>
  ScoreRoom(B& be, const Q& q, index_t keys) {
    index_t most = 0;
    for_each_range<B>(
        q, keys, [&](const ScoreRange& r) { most = std::max(most, r.lanes * r.count * keys); });
    scores = Tensor<B, C, 1>(be, {most});
    if constexpr (!std::is_same_v<T, C>) narrow = Tensor<B, T, 1>(be, {most});
  }
  /// What products read.
  Following<const T> factors(index_t size) const {
    if constexpr (std::is_same_v<T, C>) {
      return {scores.data(), size};
    } else {
      return {narrow.data(), size};
    }
  }
};

///   sources  [G] on the backend: the source of each of the G groups of q and out; null: group g has source g
template <class B, class T>
void full_attention_batched_forward(B& be, const AttentionInputs<B, T>& in, Out<B, T, 4> out,
                                    const std::int32_t* sources = nullptr) {
  using C = compute_t<T>;
  using Space = typename B::space;
  using From = LaneRows<const T, Space>;
  const auto &q = in.q, &k = in.k, &v = in.v;
  const index_t N = k.extent(2), D = q.extent(3);
  ScoreRoom<B, T> room(be, q, N);
  for_each_range<B>(q, N, [&](ScoreRange r) {
    r.sources = sources;
    const index_t lane = r.first_lane, i = r.first_query, size = r.count * N;
    C* scores = room.scores.data();
    be.gemm_batched(Op::none, Op::transpose, r.lanes, r.count, N, D, C(1), From{q, lane, i},
                    q.stride(2), From{k, lane, 0, sources}, k.stride(2), C(0),
                    Following<C>{scores, size}, N);
    be.for_each_row(r.lanes * r.count, 0,
                    WeighScores<T, Space>{in.context, r, scores, room.narrow.data()});
    be.gemm_batched(Op::none, Op::none, r.lanes, r.count, D, N, C(1), room.factors(size), N,
                    From{v, lane, 0, sources}, v.stride(2), C(0), LaneRows<T, Space>{out, lane, i},
                    out.stride(2));
  });
}

template <class B, class T>
void full_attention_batched_backward(B& be, const AttentionInputs<B, T>& in,
                                     const AttentionGradients<B, T>& d, compute_t<T>* d_relative) {
  using C = compute_t<T>;
  using Space = typename B::space;
  using From = LaneRows<const T, Space>;
  using To = LaneRows<T, Space>;
  const auto &q = in.q, &k = in.k, &v = in.v;
  const index_t N = k.extent(2), D = q.extent(3), distances = q.extent(2) + N - 1;
  ScoreRoom<B, T> weights(be, q, N), d_weights(be, q, N);
  for_each_range<B>(q, N, [&](const ScoreRange& r) {
    const index_t lane = r.first_lane, i = r.first_query, size = r.count * N;
    C *p = weights.scores.data(), *d_p = d_weights.scores.data();
    be.gemm_batched(Op::none, Op::transpose, r.lanes, r.count, N, D, C(1), From{q, lane, i},
                    q.stride(2), From{k, lane, 0}, k.stride(2), C(0), Following<C>{p, size}, N);
    // A = P v
    be.gemm_batched(Op::none, Op::transpose, r.lanes, r.count, N, D, C(1), From{d.d_out, lane, i},
                    d.d_out.stride(2), From{v, lane, 0}, v.stride(2), C(0), Following<C>{d_p, size},
                    N);
    be.for_each_row(r.lanes * r.count, 0,
                    WeighScoresBackward<T, Space>{in.context, r, p, d_p, weights.narrow.data(),
                                                  d_weights.narrow.data()});
    if (d_relative != nullptr) {
      constexpr index_t each = SumByDistance<C>::queries_each;
      const index_t parts = (r.count + each - 1) / each;
      Tensor<B, C, 3> partial(be, {r.lanes, parts, distances});
      be.for_each(partial.size(), SumByDistance<C>{r, d_p, partial.data(), parts});
      be.for_each(r.heads * distances, AddByDistance<C>{r, partial.data(), d_relative, parts});
    }
    be.gemm_batched(Op::transpose, Op::none, r.lanes, N, D, r.count, C(1), weights.factors(size), N,
                    From{d.d_out, lane, i}, d.d_out.stride(2), C(1), To{d.d_v, lane, 0},
                    d.d_v.stride(2));
    // S = q k^T
    be.gemm_batched(Op::none, Op::none, r.lanes, r.count, D, N, C(1), d_weights.factors(size), N,
                    From{k, lane, 0}, k.stride(2), C(1), To{d.d_q, lane, i}, d.d_q.stride(2));
    be.gemm_batched(Op::transpose, Op::none, r.lanes, N, D, r.count, C(1), d_weights.factors(size),
                    N, From{q, lane, i}, q.stride(2), C(1), To{d.d_k, lane, 0}, d.d_k.stride(2));
  });
}

}  // namespace srformer::SRF_DETAIL
