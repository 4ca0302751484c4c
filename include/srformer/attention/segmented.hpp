// SPDX-License-Identifier: Apache-2.0
// Segmented attention: every query attends to the keys of its own segment alone.
//
//   A_i = softmax(q_i K_j^T + b_i) V_j,   j = seg(i)
//
// Queries of one segment follow each other, so each segment is one small product. The gradient is
// that of attention/attend.hpp, segment by segment. Nothing is saved.
#pragma once

#include <srformer/attention/detail/segmented_batched.hpp>
#include <srformer/attention/full.hpp>

namespace srformer {

namespace SRF_DETAIL {

/// out = alpha a.
template <class T, class Space>
struct SegmentedForward {
  using C = compute_t<T>;
  View<const T, 4, Space> q, k, v;
  View<T, 4, Space> out;
  SegmentRows<C, Space> rows;
  const T* alpha = nullptr;  ///< null: 1

  index_t scratch_size() const { return rows.most_weights(); }

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void* scratch) const {
    attend(team, rows.block(row), static_cast<C*>(scratch));
  }

  /// The queries of one segment; weights: scratch of scratch_size() elements.
  template <class Team>
  SRF_HD void attend(const Team& team, const ScoreBlock& block, C* weights) const {
    if (block.query_count == 0) return;
    const index_t b = block.b, h = block.h, i = block.first_query, t = block.first_key;
    const AttendRows<T> x{head_rows(q, b, h).from(i), head_rows(k, b, h).from(t),
                          head_rows(v, b, h).from(t)};
    attend_forward(team, rows.context, block, x, alpha == nullptr ? C(1) : C(alpha[0]),
                   head_rows(out, b, h).from(i), weights);
  }
};

template <class T, class Space>
struct SegmentedBackward {
  using C = compute_t<T>;
  View<const T, 4, Space> q, k, v, d_out;
  View<T, 4, Space> d_q, d_k, d_v;
  SegmentRows<C, Space> rows;
  const T* alpha = nullptr;

  index_t scratch_size() const { return 2 * rows.most_weights(); }

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void* scratch) const {
    attend(team, rows.block(row), static_cast<C*>(scratch));
  }

  /// The queries of one segment; returns the sum of d_out . a.
  template <class Team>
  SRF_HD C attend(const Team& team, const ScoreBlock& block, C* weights) const {
    if (block.query_count == 0) return C(0);
    const index_t b = block.b, h = block.h, i = block.first_query, t = block.first_key;
    const AttendRows<T> x{head_rows(q, b, h).from(i), head_rows(k, b, h).from(t),
                          head_rows(v, b, h).from(t)};
    const AttendGradients<T> d{head_rows(d_out, b, h).from(i), head_rows(d_q, b, h).from(i),
                               head_rows(d_k, b, h).from(t), head_rows(d_v, b, h).from(t)};
    return attend_backward(team, rows.context, block, x, alpha == nullptr ? C(1) : C(alpha[0]), d,
                           AttendScratch<C>{weights, weights + rows.most_weights()});
  }
};

/// The segment that the step sees.
///   out = alpha a
template <class T, class Space>
struct SegmentedStep {
  using C = compute_t<T>;
  AttentionStep<T, Space> in;
  SegmentedOptions options;
  const T* alpha = nullptr;  ///< null: 1

  index_t scratch_size() const { return in.queries() * std::min(options.segment_size, in.keys()); }

  /// One row is one group and head.
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    attend(team, lane, static_cast<C*>(scratch));
  }

  /// Returns the segment; weights: scratch of scratch_size() elements.
  template <class Team>
  SRF_HD index_t attend(const Team& team, index_t lane, C* weights) const {
    const index_t H = in.heads(), N = in.keys(), K = in.queries();
    const index_t g = lane / H, h = lane % H, b = in.source(g);
    const SegmentRule rule = segment_rule(options, in.context.mask, b, in.step + 1, N);
    const index_t j = rule.of(in.step), real = rule.keys(j);
    const bool upstream = options.padding == Padding::upstream;
    const ScoreBlock block{b,
                           h,
                           in.head_size(),
                           H,
                           K,
                           N,
                           0,
                           K,
                           rule.first_key(j),
                           real,
                           upstream ? rule.size - real : 0};
    const AttendRows<T> rows{head_rows(in.q, g, h), head_rows(in.k, b, h).from(block.first_key),
                             head_rows(in.v, b, h).from(block.first_key)};
    attend_forward(team, in.context, block, rows, alpha == nullptr ? C(1) : C(alpha[0]),
                   head_rows(in.out, g, h), weights);
    return j;
  }
};

}  // namespace SRF_DETAIL

/// out_i = softmax(q_i K_j^T + bias) V_j with j = seg(i) (paper, section 3.1).
///   out [B,H,M,D], last axis contiguous
/// Saves nothing. Cost 4 B H M L D.
template <class B, class T>
requires BackendFor<B, T>
void segmented_attention_forward(B& be, const AttentionInputs<B, T>& in,
                                 const SegmentedOptions& options,
                                 View<T, 4, typename B::space> out) {
  detail::check_attention("segmented_attention_forward", in, out);
  detail::check_segments("segmented_attention_forward", options);
  check_dropout("segmented_attention_forward", in.context.dropout);
  using Space = typename B::space;
  const auto rows = detail::segment_rows<T, Space>(in.q, in.k, in.context, options);
  if constexpr (HasBatchedGemm<B>) {
    detail::attend_staged<B, T>(be, detail::own_segment<T, Space>(in.q, {in.k, in.v}, rows), out);
  } else {
    const detail::SegmentedForward<T, Space> f{in.q, in.k, in.v, out, rows};
    be.for_each_row(in.q.extent(0) * in.q.extent(1) * rows.most,
                    f.scratch_size() * static_cast<index_t>(sizeof(compute_t<T>)), f);
  }
}

/// The gradients in d += those through segmented_attention_forward. Cost 10 B H M L D.
template <class B, class T>
requires BackendFor<B, T>
void segmented_attention_backward(B& be, const AttentionInputs<B, T>& in,
                                  const SegmentedOptions& options,
                                  const AttentionGradients<B, T>& d) {
  detail::check_attention_gradients("segmented_attention_backward", in, d);
  detail::check_segments("segmented_attention_backward", options);
  check_dropout("segmented_attention_backward", in.context.dropout);
  using Space = typename B::space;
  const auto rows = detail::segment_rows<T, Space>(in.q, in.k, in.context, options);
  if constexpr (HasBatchedGemm<B>) {
    detail::attend_staged_backward<B, T>(
        be, detail::own_segment<T, Space>(in.q, {in.k, in.v}, rows), {d.d_out, d.d_q},
        detail::RunGradients<T, Space>{d.d_k, d.d_v});
  } else {
    const detail::SegmentedBackward<T, Space> f{in.q,  in.k,  in.v,  d.d_out,
                                                d.d_q, d.d_k, d.d_v, rows};
    be.for_each_row(in.q.extent(0) * in.q.extent(1) * rows.most,
                    f.scratch_size() * static_cast<index_t>(sizeof(compute_t<T>)), f);
  }
}

/// Segmented attention as a variant.
struct Segmented {
  static constexpr std::string_view name = "segmented";

  struct Options {
    index_t segment_size = 64;          ///< L
    index_t horizon = 0;                ///< decoder steps over the source; 0: as many as queries
    index_t generation_horizon = 128;   ///< the same in decoding
    Padding padding = Padding::masked;  ///< what the tail of the last segment and padded keys do

    static constexpr void visit(auto& o, auto&& f) {
      f(option::segment_size, o.segment_size);
      f(option::horizon, o.horizon);
      f(option::generation_horizon, o.generation_horizon);
      f(option::padding, o.padding);
    }
    SegmentedOptions segments() const {
      return {.segment_size = segment_size, .horizon = horizon, .padding = padding};
    }
  };
  template <class T>
  using Parameters = NothingLearned<T>;
  template <class B, class T>
  using Saved = Nothing<B, T>;
  template <class B, class T>
  using Prepared = Nothing<B, T>;

  template <class B, class T>
  static void forward(B& be, const AttentionInputs<B, T>& in, const Parameters<const T>&,
                      const Options& options, Saved<B, T>&, Out<B, T, 4> out) {
    segmented_attention_forward(be, in, options.segments(), out);
  }
  template <class B, class T>
  static void backward(B& be, const AttentionInputs<B, T>& in, const Parameters<const T>&,
                       const Options& options, const Saved<B, T>&,
                       const AttentionGradients<B, T>& d, const Parameters<T>&) {
    segmented_attention_backward(be, in, options.segments(), d);
  }
  template <class B, class T>
  static Prepared<B, T> prepare(B&, const AttentionInputs<B, T>&, const Parameters<const T>&,
                                const Options& options) {
    detail::check_segments("Segmented::prepare", options.segments());
    return {};
  }
  template <class B, class T>
  static void step(B& be, const AttentionStep<T, typename B::space>& in, const Parameters<const T>&,
                   const Options& options, const Prepared<B, T>&) {
    using Space = typename B::space;
    detail::check_segments("Segmented::step", options.segments());
    if constexpr (HasBatchedGemm<B>) {
      const auto rows = detail::step_rows(in, options.segments());
      detail::attend_staged<B, T>(be, detail::own_segment<T, Space>(in.q, {in.k, in.v}, rows),
                                  in.out);
    } else {
      const detail::SegmentedStep<T, Space> f{in, options.segments()};
      for_each_lane<B, T>(be, in, f.scratch_size(), 0, f);
    }
  }
};

}  // namespace srformer
