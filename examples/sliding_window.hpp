// SPDX-License-Identifier: Apache-2.0
// A cross-attention of one's own: each query sees a window of keys around its place in the source.
//
//   w = min(window, N),  first(i) = clamp(floor(i N / horizon) - w / 2, 0, N - w)
//   out_i = g_h softmax(q_i K_i^T) V_i        K_i, V_i: the w keys and values from first(i) on
//
//   dg_h = sum over sources and queries of dout_i . (out_i / g_h)
//
// The rest of the gradient is that of attend_backward. Windows move with the decoder steps, one key or more at a time,
// where segments jump. docs/custom_variant.md goes through this file.
#pragma once

#include <srformer/attention/cross_attention.hpp>

/// The windows of a source: what queries, steps and both directions share.
struct Windows {
  srformer::index_t keys, window, horizon;
  SRF_HD srformer::index_t size() const { return window < keys ? window : keys; }
  SRF_HD srformer::index_t first(srformer::index_t query) const {
    const srformer::index_t wanted = query * keys / horizon - size() / 2;
    const srformer::index_t last = keys - size();
    return wanted < 0 ? 0 : wanted < last ? wanted : last;
  }
};

// Functors are structs, so that they run on a device as well. A lane is one source and head.

template <class T, class Space>
struct WindowForward {
  using C = srformer::compute_t<T>;
  srformer::View<const T, 4, Space> q, k, v;
  srformer::View<T, 4, Space> out;
  srformer::AttendContext<C, Space> context;
  const T* scale;
  srformer::index_t window, horizon;

  template <class Team>
  SRF_HD void operator()(const Team& team, srformer::index_t lane, void* scratch) const {
    const srformer::index_t H = q.extent(1), M = q.extent(2), N = k.extent(2), D = q.extent(3);
    const srformer::index_t b = lane / H, h = lane % H;
    const Windows windows{context.mask.keys(b, N), window, horizon};
    for (srformer::index_t i = 0; i < M; ++i) {
      const srformer::index_t first = windows.first(i);
      const srformer::ScoreBlock block{b, h, D, H, M, N, i, 1, first, windows.size()};
      const srformer::AttendRows<T> rows{head_rows(q, b, h).from(i), head_rows(k, b, h).from(first),
                                         head_rows(v, b, h).from(first)};
      srformer::attend_forward(team, context, block, rows, C(scale[h]),
                               head_rows(out, b, h).from(i), static_cast<C*>(scratch));
    }
  }
};

template <class T, class Space>
struct WindowBackward {
  using C = srformer::compute_t<T>;
  srformer::View<const T, 4, Space> q, k, v, d_out;
  srformer::View<T, 4, Space> d_q, d_k, d_v;
  srformer::AttendContext<C, Space> context;
  const T* scale;
  C* d_scale;  ///< one for each lane
  srformer::index_t window, horizon;

  template <class Team>
  SRF_HD void operator()(const Team& team, srformer::index_t lane, void* scratch) const {
    const srformer::index_t H = q.extent(1), M = q.extent(2), N = k.extent(2), D = q.extent(3);
    const srformer::index_t b = lane / H, h = lane % H;
    const Windows windows{context.mask.keys(b, N), window, horizon};
    C* weights = static_cast<C*>(scratch);
    const srformer::AttendScratch<C> room{weights, weights + window};
    C along(0);
    for (srformer::index_t i = 0; i < M; ++i) {
      const srformer::index_t first = windows.first(i);
      const srformer::ScoreBlock block{b, h, D, H, M, N, i, 1, first, windows.size()};
      const srformer::AttendRows<T> rows{head_rows(q, b, h).from(i), head_rows(k, b, h).from(first),
                                         head_rows(v, b, h).from(first)};
      const srformer::AttendGradients<T> d{
          head_rows(d_out, b, h).from(i), head_rows(d_q, b, h).from(i),
          head_rows(d_k, b, h).from(first), head_rows(d_v, b, h).from(first)};
      // out = g a
      along = along + srformer::attend_backward(team, context, block, rows, C(scale[h]), d, room);
    }
    if (team.leader()) d_scale[lane] = along;
  }
};

/// d_scale[h] += the lanes' shares, in order.
template <class T>
struct AddWindowScales {
  const srformer::compute_t<T>* shares;
  T* d_scale;
  srformer::index_t batch, heads;
  SRF_HD void operator()(srformer::index_t h) const {
    srformer::compute_t<T> sum(d_scale[h]);
    for (srformer::index_t b = 0; b < batch; ++b) sum = sum + shares[b * heads + h];
    d_scale[h] = T(sum);
  }
};

/// One decoder step: the window of the step, for the queries of a group.
template <class T, class Space>
struct WindowStep {
  using C = srformer::compute_t<T>;
  srformer::AttentionStep<T, Space> in;
  const T* scale;
  srformer::index_t window, horizon;

  template <class Team>
  SRF_HD void operator()(const Team& team, srformer::index_t lane, void* scratch) const {
    const srformer::index_t H = in.heads(), K = in.queries(), N = in.keys();
    const srformer::index_t g = lane / H, h = lane % H, b = in.source(g);
    const Windows windows{in.context.mask.keys(b, N), window, horizon};
    const srformer::index_t first = windows.first(in.step);
    const srformer::ScoreBlock block{b, h, in.head_size(), H, K, N, 0, K, first, windows.size()};
    const srformer::AttendRows<T> rows{head_rows(in.q, g, h), head_rows(in.k, b, h).from(first),
                                       head_rows(in.v, b, h).from(first)};
    srformer::attend_forward(team, in.context, block, rows, C(scale[h]), head_rows(in.out, g, h),
                             static_cast<C*>(scratch));
  }
};

struct SlidingWindow {
  static constexpr std::string_view name = "sliding_window";

  struct Options {
    srformer::index_t window = 64;  ///< keys that a query sees
    srformer::index_t horizon = 0;  ///< decoder steps over the source; 0: as many as queries
    srformer::index_t generation_horizon = 128;  ///< the same in decoding

    static constexpr void visit(auto& o, auto&& f) {
      using srformer::OptionInfo, srformer::OptionRange;
      f(OptionInfo{"window", "Keys that a query sees", OptionRange::positive}, o.window);
      f(srformer::option::horizon, o.horizon);
      f(srformer::option::generation_horizon, o.generation_horizon);
    }
  };
  /// g, a factor for each head.
  template <class T>
  struct Parameters {
    T* scale = nullptr;

    static void visit(auto& p, const Options&, const srformer::HeadSizes& sizes, auto&& f) {
      f(srformer::LearnedInfo{"scale", srformer::Role::scalar, sizes.heads, 0,
                              srformer::InitialValues::constant(1)},
        p.scale);
    }
  };
  template <class B, class T>
  using Saved = srformer::Nothing<B, T>;
  template <class B, class T>
  using Prepared = srformer::Nothing<B, T>;

  template <class B, class T>
  static void forward(B& be, const srformer::AttentionInputs<B, T>& in,
                      const Parameters<const T>& p, const Options& o, Saved<B, T>&,
                      srformer::Out<B, T, 4> out) {
    srformer::check_attention<B, T>("SlidingWindow::forward", in, out);
    const WindowForward<T, typename B::space> lane{
        in.q, in.k, in.v, out, in.context, p.scale, o.window, horizon(o, in.q.extent(2))};
    be.for_each_row(in.q.extent(0) * in.q.extent(1), bytes<T>(o.window), lane);
  }
  template <class B, class T>
  static void backward(B& be, const srformer::AttentionInputs<B, T>& in,
                       const Parameters<const T>& p, const Options& o, const Saved<B, T>&,
                       const srformer::AttentionGradients<B, T>& d, const Parameters<T>& d_p) {
    const srformer::index_t batch = in.q.extent(0), heads = in.q.extent(1);
    srformer::Tensor<B, srformer::compute_t<T>, 1> shares(be, {batch * heads});
    const WindowBackward<T, typename B::space> lane{
        in.q,  in.k,       in.v,    d.d_out,       d.d_q,    d.d_k,
        d.d_v, in.context, p.scale, shares.data(), o.window, horizon(o, in.q.extent(2))};
    be.for_each_row(batch * heads, 2 * bytes<T>(o.window), lane);
    if (d_p.scale != nullptr)
      be.for_each(heads, AddWindowScales<T>{shares.data(), d_p.scale, batch, heads});
  }
  template <class B, class T>
  static Prepared<B, T> prepare(B&, const srformer::AttentionInputs<B, T>&,
                                const Parameters<const T>&, const Options&) {
    return {};
  }
  template <class B, class T>
  static void step(B& be, const srformer::AttentionStep<T, typename B::space>& in,
                   const Parameters<const T>& p, const Options& o, const Prepared<B, T>&) {
    srformer::for_each_lane<B, T>(
        be, in, in.queries() * o.window, 0,
        WindowStep<T, typename B::space>{in, p.scale, o.window, o.horizon});
  }

 private:
  static srformer::index_t horizon(const Options& o, srformer::index_t queries) {
    return o.horizon > 0 ? o.horizon : queries;
  }
  template <class T>
  static srformer::index_t bytes(srformer::index_t weights) {
    return weights * static_cast<srformer::index_t>(sizeof(srformer::compute_t<T>));
  }
};
