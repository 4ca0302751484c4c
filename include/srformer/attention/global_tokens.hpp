// SPDX-License-Identifier: Apache-2.0
// Segmented attention with a global token per segment, LongT5 style (Guo et al. 2022): the mean key
// and value of every segment stand behind the keys and values of the attended one.
//
//   gk_s = mean over segment s of k,   gv_s likewise
//   out_i = softmax(q_i [K_j; gk]^T + [b_i of segment j; b_i of every segment's first key]) [V_j; gv]
//
//   dk_t += dgk_s / (keys of s),   dv_t += dgv_s / (keys of s)   for t in segment s
//
// The rest of the gradient is that of attention/attend.hpp. Nothing is saved.
#pragma once

#include <srformer/attention/segmented.hpp>
#include <srformer/backend/device_loops.hpp>

namespace srformer {

namespace SRF_DETAIL {

/// The bias of a segment's keys, followed by that of the first key of every segment.
template <class C, class Space>
struct GlobalTokenMask {
  ScoreMask<C, Space> mask;
  index_t first_key, real_keys, segment_size;

  SRF_HD index_t visible(index_t, index_t existing) const { return existing; }

  template <class Team>
  SRF_HD void add(const Team& team, index_t b, index_t h, index_t i, index_t, index_t count,
                  C* scores) const {
    mask.add(team, b, h, i, first_key, real_keys, scores);
    if (mask.dense.data == nullptr) return;
    const C* row = &mask.dense(b, h, i, 0);
    const index_t step = mask.dense.stride(3) * segment_size, real = real_keys;
    team.for_each(count - real,
                  [=](index_t s) { scores[real + s] = scores[real + s] + row[s * step]; });
  }
};

template <class T, class Space>
struct GlobalTokensInputs {
  using C = compute_t<T>;
  View<const T, 4, Space> q, k, v;
  AttendContext<C, Space> context;
  SegmentedOptions options;

  SRF_HD index_t most_segments() const {
    return (k.extent(2) + options.segment_size - 1) / options.segment_size;
  }
  SRF_HD index_t most_columns() const {
    const index_t N = k.extent(2);
    return (options.segment_size < N ? options.segment_size : N) + most_segments();
  }
  /// Keys over which the mean of segment s is taken; that of no keys is zero.
  SRF_HD C keys_in_mean(const SegmentRule& rule, index_t s) const {
    const index_t keys = options.padding == Padding::upstream ? rule.size : rule.keys(s);
    return C(static_cast<double>(keys > 0 ? keys : 1));
  }

  template <class Team>
  SRF_HD void means(const Team& team, const SegmentRule& rule, Rows<const T> x, T* out) const {
    const index_t D = q.extent(3);
    for (index_t s = 0; s < rule.count(); ++s) {
      const C scale = C(1) / keys_in_mean(rule, s);
      const index_t first = rule.first_key(s), n = rule.keys(s);
      team.for_each(D, [=](index_t c) {
        C sum(0);
        for (index_t t = 0; t < n; ++t) sum = sum + C(x.row(first + t)[c]);
        out[s * D + c] = T(sum * scale);
      });
    }
  }

  /// to = the rows of segment j followed by the means.
  template <class Team>
  SRF_HD void gather(const Team& team, const ScoreBlock& segment, Rows<const T> x, const T* mean,
                     index_t segments, T* to) const {
    const index_t D = q.extent(3);
    for (index_t r = 0; r < segment.key_count; ++r) {
      const T* from = x.row(segment.first_key + r);
      team.for_each(D, [=](index_t c) { to[r * D + c] = from[c]; });
    }
    T* behind = to + segment.key_count * D;
    team.for_each(segments * D, [=](index_t c) { behind[c] = mean[c]; });
  }

  /// What the queries of a segment see: its block of scores with the columns of the gathered keys.
  SRF_HD SeenKeys<C, Space, GlobalTokenMask<C, Space>> seen(const SegmentRule& rule,
                                                            const ScoreBlock& segment) const {
    ScoreBlock block = segment;
    block.keys = most_columns(), block.first_key = 0;
    block.key_count = segment.key_count + rule.count();
    return {{{context.mask, segment.first_key, segment.key_count, rule.size}, context.dropout},
            block,
            segment.key_count};
  }
  SRF_HD SeenKeys<C, Space, GlobalTokenMask<C, Space>> seen_by(const SegmentRows<C, Space>& queries,
                                                               index_t lane, index_t i) const {
    return seen(queries.rule(lane), queries.block_of(lane, i));
  }

  /// Calls f(context, segment, block) for every visited segment.
  template <class F>
  SRF_HD void for_each_segment(const SegmentRule& rule, index_t b, index_t h, F f) const {
    const index_t H = q.extent(1), M = q.extent(2), N = k.extent(2), D = q.extent(3);
    for (index_t j = 0; j < rule.count(); ++j) {
      const ScoreBlock segment =
          segment_block(rule, options.padding, j, {b, h, D, H, M, N}, context.mask.query_offset);
      if (segment.query_count == 0) continue;
      const auto x = seen(rule, segment);
      f(x.context, segment, x.block);
    }
  }
};

template <class T, class Space>
struct GlobalTokensForward {
  using C = compute_t<T>;
  GlobalTokensInputs<T, Space> in;
  View<T, 4, Space> out;

  /// One row is one source and head.
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.q.extent(1), M = in.q.extent(2), N = in.k.extent(2), D = in.q.extent(3);
    const index_t b = lane / H, h = lane % H, columns = in.most_columns(), S = in.most_segments();
    const SegmentRule rule = segment_rule(in.options, in.context.mask, b, M, N);
    const Rows<const T> q = head_rows(in.q, b, h), k = head_rows(in.k, b, h),
                        v = head_rows(in.v, b, h);
    C* weights = static_cast<C*>(scratch);
    T* mean_k = reinterpret_cast<T*>(weights + M * columns);
    T *mean_v = mean_k + S * D, *keys = mean_v + S * D, *values = keys + columns * D;
    in.means(team, rule, k, mean_k);
    in.means(team, rule, v, mean_v);
    in.for_each_segment(
        rule, b, h, [&](const auto& context, const ScoreBlock& segment, const ScoreBlock& block) {
          in.gather(team, segment, k, mean_k, rule.count(), keys);
          in.gather(team, segment, v, mean_v, rule.count(), values);
          const AttendRows<T> rows{q.from(block.first_query), {keys, D}, {values, D}};
          attend_forward(team, context, block, rows, C(1),
                         head_rows(out, b, h).from(block.first_query), weights);
        });
  }
};

template <class T, class Space>
struct GlobalTokensBackward {
  using C = compute_t<T>;
  GlobalTokensInputs<T, Space> in;
  View<const T, 4, Space> d_out;
  View<T, 4, Space> d_q, d_k, d_v;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.q.extent(1), M = in.q.extent(2), N = in.k.extent(2), D = in.q.extent(3);
    const index_t b = lane / H, h = lane % H, columns = in.most_columns(), S = in.most_segments();
    const SegmentRule rule = segment_rule(in.options, in.context.mask, b, M, N);
    const Rows<const T> q = head_rows(in.q, b, h), k = head_rows(in.k, b, h),
                        v = head_rows(in.v, b, h);
    const Rows<T> dk = head_rows(d_k, b, h), dv = head_rows(d_v, b, h);
    C *weights = static_cast<C*>(scratch), *d_weights = weights + M * columns;
    C *d_mean_k = d_weights + M * columns, *d_mean_v = d_mean_k + S * D;
    T* mean_k = reinterpret_cast<T*>(d_mean_v + S * D);
    T *mean_v = mean_k + S * D, *keys = mean_v + S * D, *values = keys + columns * D;
    T *d_keys = values + columns * D, *d_values = d_keys + columns * D;
    in.means(team, rule, k, mean_k);
    in.means(team, rule, v, mean_v);
    team.for_each(S * D, [=](index_t c) { d_mean_k[c] = C(0), d_mean_v[c] = C(0); });
    in.for_each_segment(
        rule, b, h, [&](const auto& context, const ScoreBlock& segment, const ScoreBlock& block) {
          in.gather(team, segment, k, mean_k, rule.count(), keys);
          in.gather(team, segment, v, mean_v, rule.count(), values);
          team.for_each(block.key_count * D,
                        [=](index_t c) { d_keys[c] = T(C(0)), d_values[c] = T(C(0)); });
          const AttendRows<T> rows{q.from(block.first_query), {keys, D}, {values, D}};
          const AttendGradients<T> d{head_rows(d_out, b, h).from(block.first_query),
                                     head_rows(d_q, b, h).from(block.first_query),
                                     {d_keys, D},
                                     {d_values, D}};
          attend_backward(team, context, block, rows, C(1), d,
                          AttendScratch<C>{weights, d_weights});
          scatter(team, segment, d_keys, rule.count(), dk, d_mean_k);
          scatter(team, segment, d_values, rule.count(), dv, d_mean_v);
        });
    // gk_s = mean of the keys of s
    for (index_t s = 0; s < rule.count(); ++s) {
      const C scale = C(1) / in.keys_in_mean(rule, s);
      for (index_t t = rule.first_key(s); t < rule.first_key(s) + rule.keys(s); ++t) {
        T *to_k = dk.row(t), *to_v = dv.row(t);
        team.for_each(D, [=](index_t c) {
          to_k[c] = T(C(to_k[c]) + d_mean_k[s * D + c] * scale);
          to_v[c] = T(C(to_v[c]) + d_mean_v[s * D + c] * scale);
        });
      }
    }
  }

 private:
  /// The reverse of gather.
  template <class Team>
  SRF_HD void scatter(const Team& team, const ScoreBlock& segment, const T* from, index_t segments,
                      Rows<T> to, C* mean) const {
    const index_t D = in.q.extent(3);
    for (index_t r = 0; r < segment.key_count; ++r) {
      T* row = to.row(segment.first_key + r);
      team.for_each(D, [=](index_t c) { row[c] = T(C(row[c]) + C(from[r * D + c])); });
    }
    const T* behind = from + segment.key_count * D;
    team.for_each(segments * D, [=](index_t c) { mean[c] = mean[c] + C(behind[c]); });
  }
};

/// The means of the segments' keys and values, [2,B*H,S,D].
template <class T, class Space>
struct PrepareMeans {
  GlobalTokensInputs<T, Space> in;
  View<T, 4, Space> means;
  index_t steps;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void*) const {
    const index_t H = in.k.extent(1), b = lane / H, h = lane % H;
    const SegmentRule rule = segment_rule(in.options, in.context.mask, b, steps, in.k.extent(2));
    in.means(team, rule, head_rows(in.k, b, h), &means(0, lane, 0, 0));
    in.means(team, rule, head_rows(in.v, b, h), &means(1, lane, 0, 0));
  }
};

template <class T, class Space>
struct GlobalTokensStep {
  using C = compute_t<T>;
  AttentionStep<T, Space> in;
  SegmentedOptions options;
  View<const T, 4, Space> means;  // [2,B*H,S,D]

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.heads(), D = in.head_size(), K = in.queries();
    const index_t g = lane / H, h = lane % H, b = in.source(g);
    const GlobalTokensInputs<T, Space> one{in.one_query(), in.k, in.v, in.context, options};
    const SegmentRule rule = segment_rule(options, in.context.mask, b, in.step + 1, in.keys());
    const index_t columns = one.most_columns();
    C* weights = static_cast<C*>(scratch);
    T *keys = reinterpret_cast<T*>(weights + K * columns), *values = keys + columns * D;
    one.for_each_segment(
        rule, b, h, [&](const auto& context, const ScoreBlock& segment, ScoreBlock block) {
          block.queries = block.query_count = K;
          one.gather(team, segment, head_rows(in.k, b, h), &means(0, b * H + h, 0, 0), rule.count(),
                     keys);
          one.gather(team, segment, head_rows(in.v, b, h), &means(1, b * H + h, 0, 0), rule.count(),
                     values);
          const AttendRows<T> rows{head_rows(in.q, g, h), {keys, D}, {values, D}};
          attend_forward(team, context, block, rows, C(1), head_rows(in.out, g, h), weights);
        });
  }
};

// ---- in stages over all heads, for backends with gemm_batched ---------------------------------------

/// One feature of the mean key or value of a segment, of [2,B*H,S,D]; zero where a shorter source has none.
template <class T, class Space>
struct MeanOfSegment {
  using C = compute_t<T>;
  GlobalTokensInputs<T, Space> in;
  View<T, 4, Space> means;
  SRF_HD void operator()(index_t i) const {
    const index_t lanes = means.extent(1), S = means.extent(2), D = means.extent(3), c = i % D;
    const index_t s = i / D % S, lane = i / D / S % lanes, H = in.k.extent(1), b = lane / H;
    const SegmentRule rule = segment_rule(in.options, in.context.mask, b, 1, in.k.extent(2));
    const index_t n = s < rule.count() ? rule.keys(s) : 0;
    const Rows<const T> x = head_rows(i < means.stride(0) ? in.k : in.v, b, lane % H);
    const Rows<const T> from = x.from(rule.first_key(s));
    C sum(0);
    for (index_t start = 0; start < n; start += read_ahead) {
      C held[read_ahead];
      for (index_t e = 0; e < read_ahead; ++e)
        held[e] = start + e < n ? C(from.row(start + e)[c]) : C(0);
      for (index_t e = 0; e < read_ahead; ++e) sum = sum + held[e];
    }
    means.data[i] = T(n > 0 ? sum * (C(1) / in.keys_in_mean(rule, s)) : C(0));
  }
};

/// dk_t += dgk_s / (keys of s), and the same of values; d_means [2,B*H,S,D].
template <class T, class Space>
struct MeanOfSegmentBackward {
  using C = compute_t<T>;
  GlobalTokensInputs<T, Space> in;
  View<const C, 4, Space> d_means;
  View<T, 4, Space> d_k, d_v;
  SRF_HD void operator()(index_t i) const {
    const index_t H = d_k.extent(1), N = d_k.extent(2), D = d_k.extent(3), c = i % D, t = i / D % N;
    const index_t lane = i / D / N, b = lane / H, h = lane % H;
    const SegmentRule rule = segment_rule(in.options, in.context.mask, b, 1, N);
    if (t >= rule.length) return;
    const index_t s = t / rule.size;
    const C scale = C(1) / in.keys_in_mean(rule, s);
    T &to_k = d_k(b, h, t, c), &to_v = d_v(b, h, t, c);
    to_k = T(C(to_k) + d_means(0, lane, s, c) * scale);
    to_v = T(C(to_v) + d_means(1, lane, s, c) * scale);
  }
};

/// The means of the segments' keys and values, [2,B*H,S,D].
template <class B, class T>
Tensor<B, T, 4> means_of_segments(B& be, const GlobalTokensInputs<T, typename B::space>& in) {
  const index_t lanes = in.k.extent(0) * in.k.extent(1);
  Tensor<B, T, 4> means(be, {2, lanes, in.most_segments(), in.k.extent(3)});
  for_each_long(be, means.size(), MeanOfSegment<T, typename B::space>{in, means.view()});
  return means;
}

/// Those of keys or of values as [B,H,S,D].
template <class X, class Space>
View<X, 4, Space> heads_of_means(const View<X, 4, Space>& means, index_t which, index_t heads) {
  const index_t S = means.extent(2), D = means.extent(3);
  return {&means(which, 0, 0, 0), {means.extent(1) / heads, heads, S, D}};
}

/// The keys of the segment, and the means of all, in stages over all heads.
template <class T, class Space>
StagedAttention<T, Space, GlobalTokensInputs<T, Space>> global_tokens_in_stages(
    const GlobalTokensInputs<T, Space>& in, const SegmentRows<compute_t<T>, Space>& rows,
    const View<const T, 4, Space>& means) {
  const index_t H = in.q.extent(1);
  return {in.q,
          rows,
          in,
          {in.k, in.v},
          {heads_of_means(means, 0, H), heads_of_means(means, 1, H), Seen::every_segment},
          rows.width(),
          in.most_segments()};
}

}  // namespace SRF_DETAIL

/// Segmented attention with the means of all segments behind each (paper, section 4: "LongT5").
///   out [B,H,M,D], last axis contiguous
/// Saves nothing. Cost 4 B H M (L + S) D, and 2 B H N D for the means.
template <class B, class T>
requires BackendFor<B, T>
void global_tokens_forward(B& be, const AttentionInputs<B, T>& in, const SegmentedOptions& options,
                           View<T, 4, typename B::space> out) {
  detail::check_attention("global_tokens_forward", in, out);
  detail::check_segments("global_tokens_forward", options);
  check_dropout("global_tokens_forward", in.context.dropout);
  const detail::GlobalTokensInputs<T, typename B::space> x{in.q, in.k, in.v, in.context, options};
  if constexpr (HasBatchedGemm<B>) {
    const auto rows = detail::segment_rows<T, typename B::space>(in.q, in.k, in.context, options);
    const auto means = detail::means_of_segments<B, T>(be, x);
    detail::attend_staged<B, T>(be, detail::global_tokens_in_stages(x, rows, means.view()), out);
  } else {
    const index_t M = in.q.extent(2), D = in.q.extent(3), columns = x.most_columns();
    const index_t of_c = M * columns, of_t = 2 * (x.most_segments() + columns) * D;
    be.for_each_row(
        in.q.extent(0) * in.q.extent(1),
        of_c * static_cast<index_t>(sizeof(compute_t<T>)) + of_t * static_cast<index_t>(sizeof(T)),
        detail::GlobalTokensForward<T, typename B::space>{x, out});
  }
}

/// The gradients in d += those through global_tokens_forward.
template <class B, class T>
requires BackendFor<B, T>
void global_tokens_backward(B& be, const AttentionInputs<B, T>& in, const SegmentedOptions& options,
                            const AttentionGradients<B, T>& d) {
  detail::check_attention_gradients("global_tokens_backward", in, d);
  detail::check_segments("global_tokens_backward", options);
  check_dropout("global_tokens_backward", in.context.dropout);
  using Space = typename B::space;
  using C = compute_t<T>;
  const detail::GlobalTokensInputs<T, Space> x{in.q, in.k, in.v, in.context, options};
  if constexpr (HasBatchedGemm<B>) {
    const auto rows = detail::segment_rows<T, Space>(in.q, in.k, in.context, options);
    const auto means = detail::means_of_segments<B, T>(be, x);
    auto d_means = zeros<C, 4>(be, means.view().extents);
    const index_t H = in.q.extent(1);
    detail::attend_staged_backward<B, T>(
        be, detail::global_tokens_in_stages(x, rows, means.view()), {d.d_out, d.d_q},
        detail::RunGradients<T, Space>{d.d_k, d.d_v},
        detail::RunGradients<C, Space>{detail::heads_of_means(d_means.view(), 0, H),
                                       detail::heads_of_means(d_means.view(), 1, H)});
    // gk_s = mean of the keys of s
    be.for_each(in.k.size(),
                detail::MeanOfSegmentBackward<T, Space>{x, d_means.view(), d.d_k, d.d_v});
  } else {
    const index_t M = in.q.extent(2), D = in.q.extent(3), columns = x.most_columns(),
                  S = x.most_segments();
    const index_t of_c = 2 * M * columns + 2 * S * D, of_t = 2 * S * D + 4 * columns * D;
    be.for_each_row(in.q.extent(0) * in.q.extent(1),
                    of_c * static_cast<index_t>(sizeof(C)) + of_t * static_cast<index_t>(sizeof(T)),
                    detail::GlobalTokensBackward<T, Space>{x, d.d_out, d.d_q, d.d_k, d.d_v});
  }
}

/// Segmented attention with global tokens as a variant.
struct GlobalTokens {
  static constexpr std::string_view name = "global_tokens";
  using Options = Segmented::Options;
  template <class T>
  using Parameters = NothingLearned<T>;
  template <class B, class T>
  using Saved = Nothing<B, T>;
  template <class B, class T>
  struct Prepared {
    Tensor<B, T, 4> means;  ///< of keys and of values, [2,B*H,S,D]
  };

  template <class B, class T>
  static void forward(B& be, const AttentionInputs<B, T>& in, const Parameters<const T>&,
                      const Options& options, Saved<B, T>&, Out<B, T, 4> out) {
    global_tokens_forward(be, in, options.segments(), out);
  }
  template <class B, class T>
  static void backward(B& be, const AttentionInputs<B, T>& in, const Parameters<const T>&,
                       const Options& options, const Saved<B, T>&,
                       const AttentionGradients<B, T>& d, const Parameters<T>&) {
    global_tokens_backward(be, in, options.segments(), d);
  }
  template <class B, class T>
  static Prepared<B, T> prepare(B& be, const AttentionInputs<B, T>& in, const Parameters<const T>&,
                                const Options& options) {
    using Space = typename B::space;
    detail::check_segments("GlobalTokens::prepare", options.segments());
    const detail::GlobalTokensInputs<T, Space> of{in.k, in.k, in.v, in.context, options.segments()};
    if constexpr (HasBatchedGemm<B>) {
      return {detail::means_of_segments<B, T>(be, of)};
    } else {
      const index_t lanes = in.k.extent(0) * in.k.extent(1);
      Prepared<B, T> prepared{Tensor<B, T, 4>(be, {2, lanes, of.most_segments(), in.k.extent(3)})};
      be.for_each_row(lanes, 0,
                      detail::PrepareMeans<T, Space>{of, prepared.means.view(), in.q.extent(2)});
      return prepared;
    }
  }
  template <class B, class T>
  static void step(B& be, const AttentionStep<T, typename B::space>& in, const Parameters<const T>&,
                   const Options& options, const Prepared<B, T>& prepared) {
    const SegmentedOptions segments = options.segments();
    detail::check_segments("GlobalTokens::step", segments);
    if constexpr (HasBatchedGemm<B>) {
      const detail::GlobalTokensInputs<T, typename B::space> x{in.q, in.k, in.v, in.context,
                                                               segments};
      detail::attend_staged<B, T>(be,
                                  detail::global_tokens_in_stages(
                                      x, detail::step_rows(in, segments), prepared.means.view()),
                                  in.out);
    } else {
      const index_t N = in.keys(), L = segments.segment_size;
      const index_t columns = std::min(L, N) + (N + L - 1) / L;
      for_each_lane<B, T>(
          be, in, in.queries() * columns, 2 * columns * in.head_size(),
          detail::GlobalTokensStep<T, typename B::space>{in, segments, prepared.means.view()});
    }
  }
};

}  // namespace srformer
