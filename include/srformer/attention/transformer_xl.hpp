// SPDX-License-Identifier: Apache-2.0
// Segmented attention with a memory of the segment before, Transformer-XL style: a tanh RNN runs over
// the keys, another over the values, all heads' features together and carried across segments; the
// previous segment's outputs stand before the current segment's own keys and values.
//
//   m_t = tanh(x_t W_ih^T + b_ih + m_{t-1} W_hh^T + b_hh),  m_{-1} = 0        x_t [H*D] of k, or of v
//   out_i = softmax(q_i [mk of segment j-1; k of segment j]^T + b) [mv of j-1; v of j]
//
// Segment 0 precedes itself. With da_t = (dm_t + da_{t+1} W_hh) (1 - m_t^2), in reverse:
//
//   dx_t += da_t W_ih,  dW_ih += da_t^T x_t,  dW_hh += da_t^T m_{t-1},  db_ih += da_t,  db_hh += da_t
//
// The memory is saved: N H D elements for keys and for values. With upstream padding the RNN also
// runs over the zeros that fill the last segment. Backends with gemm_batched take a row of all sources and both RNNs at
// a time, and the attention in stages over all heads.
#pragma once

#include <srformer/attention/segmented.hpp>
#include <srformer/backend/device_loops.hpp>

namespace srformer {

/// A tanh RNN over H*D features, as torch.nn.RNN has it; weights [H*D,H*D], biases [H*D].
template <class T>
struct RnnParameters {
  T* weight_ih = nullptr;
  T* weight_hh = nullptr;
  T* bias_ih = nullptr;
  T* bias_hh = nullptr;

  template <class U>
  requires(std::is_same_v<U, const T>) SRF_HD operator RnnParameters<U>()
      const {  // NOLINT: as pointers convert
    return {weight_ih, weight_hh, bias_ih, bias_hh};
  }
};

/// The RNN over the keys and that over the values.
template <class T>
struct XlParameters {
  RnnParameters<T> key{}, value{};

  template <class U>
  requires(std::is_same_v<U, const T>) SRF_HD operator XlParameters<U>()
      const {  // NOLINT: as pointers convert
    return {key, value};
  }
};

namespace SRF_DETAIL {

inline constexpr index_t rnn_rows = 64;  // rows whose features are gathered at a time

/// What both directions of the RNN read. A lane is one source of keys (first B) or of values.
template <class T, class Space>
struct RnnInputs {
  using C = compute_t<T>;
  View<const T, 4, Space> k, v;
  XlParameters<const T> rnns;
  ScoreMask<C, Space> mask;
  SegmentedOptions options;

  SRF_HD index_t batch() const { return k.extent(0); }
  SRF_HD index_t features() const { return k.extent(1) * k.extent(3); }
  SRF_HD RnnParameters<const T> parameters(index_t lane) const {
    return lane < batch() ? rnns.key : rnns.value;
  }
  /// Rows of memory of source b.
  SRF_HD index_t rows(index_t b) const {
    const SegmentRule rule = segment_rule(options, mask, b, 1, k.extent(2));
    return options.padding == Padding::upstream ? rule.count() * rule.size : rule.length;
  }

  /// x [count, H*D] from row `first` on; rows past the keys are zero.
  template <class Team>
  SRF_HD void gather(const Team& team, index_t lane, index_t first, index_t count, C* x) const {
    const index_t D = k.extent(3), F = features(), N = k.extent(2), b = lane % batch();
    const View<const T, 4, Space> from = lane < batch() ? k : v;
    team.for_each(count * F, [=](index_t i) {
      const index_t t = first + i / F, c = i % F;
      x[i] = t < N ? C(from(b, c / D, t, c % D)) : C(0);
    });
  }
};

/// to [n,n] = the transpose of from.
template <class Team, class T, class C>
SRF_HD void transposed(const Team& team, index_t n, const T* from, C* to) {
  team.for_each(n * n, [=](index_t i) { to[i] = C(from[i % n * n + i / n]); });
}

template <class T, class Space>
struct RnnForward {
  using C = compute_t<T>;
  RnnInputs<T, Space> in;
  View<T, 4, Space> memory;  // [2,B,R,H*D]

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t F = in.features(), b = lane % in.batch(), R = in.rows(b);
    const RnnParameters<const T> p = in.parameters(lane);
    C *w_ih = static_cast<C*>(scratch), *w_hh = w_ih + F * F, *x = w_hh + F * F;
    C *a = x + rnn_rows * F, *m = a + rnn_rows * F;
    transposed(team, F, p.weight_ih, w_ih);
    transposed(team, F, p.weight_hh, w_hh);
    team.for_each(F, [=](index_t c) { m[c] = C(0); });
    for (index_t first = 0; first < R; first += rnn_rows) {
      const index_t count = R - first < rnn_rows ? R - first : rnn_rows;
      in.gather(team, lane, first, count, x);
      team.gemm(Op::none, Op::none, count, F, F, C(1), x, F, w_ih, F, C(0), a, F);
      for (index_t r = 0; r < count; ++r) {
        C* row = a + r * F;
        T* out = &memory(lane / in.batch(), b, first + r, 0);
        team.gemm(Op::none, Op::none, 1, F, F, C(1), m, F, w_hh, F, C(1), row, F);
        team.for_each(F, [=](index_t c) {
          m[c] = math::tanh(row[c] + C(p.bias_ih[c]) + C(p.bias_hh[c]));
          out[c] = T(m[c]);
        });
      }
    }
  }
};

template <class T, class Space>
struct RnnBackward {
  using C = compute_t<T>;
  RnnInputs<T, Space> in;
  View<const T, 4, Space> memory;
  View<C, 4, Space> d_memory;  // [2,B,R,H*D]
  View<T, 4, Space> d_k, d_v;
  C* partial;  // per lane: dW_ih, dW_hh, db

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t F = in.features(), b = lane % in.batch(), R = in.rows(b), N = in.k.extent(2);
    const index_t which = lane / in.batch(), D = in.k.extent(3);
    const RnnParameters<const T> p = in.parameters(lane);
    const View<T, 4, Space> d_x = which == 0 ? d_k : d_v;
    C *x = static_cast<C*>(scratch), *d_a = x + rnn_rows * F, *before = d_a + rnn_rows * F;
    C *carried = before + rnn_rows * F, *w_hh = carried + F, *w_ih = w_hh + F * F;
    C* d_ih = partial + lane * (2 * F * F + F);
    C *d_hh = d_ih + F * F, *d_b = d_hh + F * F;
    team.for_each(2 * F * F + F, [=](index_t c) { d_ih[c] = C(0); });
    team.for_each(F * F,
                  [=](index_t c) { w_hh[c] = C(p.weight_hh[c]), w_ih[c] = C(p.weight_ih[c]); });
    team.for_each(F, [=](index_t c) { carried[c] = C(0); });
    for (index_t first = (R - 1) / rnn_rows * rnn_rows; first >= 0; first -= rnn_rows) {
      const index_t count = R - first < rnn_rows ? R - first : rnn_rows;
      for (index_t r = count - 1; r >= 0; --r) {
        // m = tanh(a)
        const index_t t = first + r;
        const T* m = &memory(which, b, t, 0);
        const T* m_before = t > 0 ? m - memory.stride(2) : nullptr;
        const C* d_m = &d_memory(which, b, t, 0);
        C *d_row = d_a + r * F, *row = before + r * F;
        team.for_each(F, [=](index_t c) {
          const C value = C(m[c]);
          d_row[c] = (d_m[c] + carried[c]) * (C(1) - value * value);
          row[c] = m_before == nullptr ? C(0) : C(m_before[c]);
          d_b[c] = d_b[c] + d_row[c];
        });
        // a_t = x_t W_ih^T + m_{t-1} W_hh^T + ...
        team.gemm(Op::none, Op::none, 1, F, F, C(1), d_row, F, w_hh, F, C(0), carried, F);
      }
      in.gather(team, lane, first, count, x);
      team.gemm(Op::transpose, Op::none, F, F, count, C(1), d_a, F, x, F, C(1), d_ih, F);
      team.gemm(Op::transpose, Op::none, F, F, count, C(1), d_a, F, before, F, C(1), d_hh, F);
      team.gemm(Op::none, Op::none, count, F, F, C(1), d_a, F, w_ih, F, C(0), x, F);
      team.for_each(count * F, [=](index_t i) {
        const index_t t = first + i / F, c = i % F;
        if (t >= N) return;
        T& to = d_x(b, c / D, t, c % D);
        to = T(C(to) + x[i]);
      });
    }
  }
};

/// Adds the lanes' shares of one RNN's parameters, in order.
template <class T>
struct AddRnnPartials {
  const compute_t<T>* partial;  // of this RNN's first lane
  RnnParameters<T> d;
  index_t batch, features;
  SRF_HD void operator()(index_t c) const {
    using C = compute_t<T>;
    const index_t cells = features * features, stride = 2 * cells + features;
    C sum(0);
    for (index_t b = 0; b < batch; ++b) sum = sum + partial[b * stride + c];
    const auto add = [sum](T* to) {
      if (to != nullptr) to[0] = T(C(to[0]) + sum);
    };
    if (c < cells) {
      if (d.weight_ih != nullptr) add(d.weight_ih + c);
    } else if (c < 2 * cells) {
      if (d.weight_hh != nullptr) add(d.weight_hh + c - cells);
    } else {
      if (d.bias_ih != nullptr) add(d.bias_ih + c - 2 * cells);
      if (d.bias_hh != nullptr) add(d.bias_hh + c - 2 * cells);
    }
  }
};

/// What the RNNs read in rows first to first + count, as [2,B,count,H*D].
template <class T, class Space>
struct RnnRows {
  using C = compute_t<T>;
  RnnInputs<T, Space> in;
  index_t first, count;

  /// The lane, row, and feature of an element.
  struct Place {
    index_t lane, t, c;
  };
  SRF_HD Place place(index_t i) const {
    const index_t F = in.features();
    return {i / F / count, first + i / F % count, i % F};
  }
};

/// The inputs; rows past those of a source are zeros.
template <class T, class Space>
struct GatherRnnInputs {
  using C = compute_t<T>;
  RnnRows<T, Space> rows;
  C* x;
  SRF_HD void operator()(index_t i) const {
    const auto at = rows.place(i);
    const auto& in = rows.in;
    const index_t b = at.lane % in.batch(), D = in.k.extent(3);
    const bool there = at.t < in.rows(b) && at.t < in.k.extent(2);
    const View<const T, 4, Space>& from = at.lane < in.batch() ? in.k : in.v;
    x[i] = there ? C(from(b, at.c / D, at.t, at.c % D)) : C(0);
  }
};

/// The inputs' gradients += d_x.
template <class T, class Space>
struct AddRnnInputs {
  using C = compute_t<T>;
  RnnRows<T, Space> rows;
  const C* d_x;
  View<T, 4, Space> d_k, d_v;
  SRF_HD void operator()(index_t i) const {
    const auto at = rows.place(i);
    const auto& in = rows.in;
    const index_t b = at.lane % in.batch(), D = in.k.extent(3);
    if (at.t >= in.rows(b) || at.t >= in.k.extent(2)) return;
    T& to = (at.lane < in.batch() ? d_k : d_v)(b, at.c / D, at.t, at.c % D);
    to = T(C(to) + d_x[i]);
  }
};

/// m_{t-1} of every row.
template <class T, class Space>
struct GatherRnnMemory {
  using C = compute_t<T>;
  RnnRows<T, Space> rows;
  View<const T, 4, Space> memory;
  C* before;
  SRF_HD void operator()(index_t i) const {
    const auto at = rows.place(i);
    const index_t B = rows.in.batch(), b = at.lane % B;
    const bool there = at.t > 0 && at.t < rows.in.rows(b);
    before[i] = there ? C(memory(at.lane / B, b, at.t - 1, at.c)) : C(0);
  }
};

/// Row t of every lane: m = tanh(a + b_ih + b_hh).
template <class T, class Space>
struct RnnStep {
  using C = compute_t<T>;
  RnnRows<T, Space> rows;
  index_t t;
  const C* a;  // [2,B,count,H*D]
  C* m;        // [2,B,H*D]
  View<T, 4, Space> memory;
  SRF_HD void operator()(index_t i) const {
    const index_t F = rows.in.features(), lane = i / F, c = i % F, B = rows.in.batch();
    const RnnParameters<const T> p = rows.in.parameters(lane);
    m[i] = math::tanh(a[(lane * rows.count + t - rows.first) * F + c] + C(p.bias_ih[c]) +
                      C(p.bias_hh[c]));
    memory(lane / B, lane % B, t, c) = T(m[i]);
  }
};

/// Row t of every lane: da = (dm + carried) (1 - m^2).
template <class T, class Space>
struct RnnStepBackward {
  using C = compute_t<T>;
  RnnRows<T, Space> rows;
  index_t t;
  View<const T, 4, Space> memory;
  View<const C, 4, Space> d_memory;
  const C* carried;  // [2,B,H*D]
  C* d_a;            // [2,B,count,H*D]
  SRF_HD void operator()(index_t i) const {
    const index_t F = rows.in.features(), lane = i / F, c = i % F, B = rows.in.batch();
    const index_t which = lane / B, b = lane % B;
    const bool there = t < rows.in.rows(b);  // carried is zero past the rows of a source
    const C m = there ? C(memory(which, b, t, c)) : C(0);
    const C d = there ? d_memory(which, b, t, c) + carried[i] : C(0);
    d_a[(lane * rows.count + t - rows.first) * F + c] = d * (C(1) - m * m);
  }
};

/// Column c of [rows, columns].
template <class C>
struct ElementOfRow {
  const C* x;
  index_t columns;
  SRF_HD C operator()(index_t row, index_t c) const { return x[row * columns + c]; }
};

/// The sums of some rows are added to those of the lanes.
template <class C>
struct AddRnnBias {
  const C* sums;  // [lanes, features]
  C* to;          // of the first lane
  index_t features, stride;
  SRF_HD void operator()(index_t i) const {
    C& at = to[i / features * stride + i % features];
    at = at + sums[i];
  }
};

/// The RNNs in stages over all sources: products of many rows, and for each row one product and one step of all lanes.
template <class B, class T>
struct RnnRun {
  using C = compute_t<T>;
  using Space = typename B::space;
  using Given = RnnInputs<T, Space>;
  B& be;
  Given in;
  index_t F, lanes, rows, each;  // rows: of memory; each: at a time
  Tensor<B, C, 3> w_ih, w_hh;    // [2,F,F]
  Tensor<B, C, 1> x, a, m;       // m, or what is carried, [lanes,F]

  RnnRun(B& backend, const Given& given, index_t rows_of_memory)
      : be(backend),
        in(given),
        F(in.features()),
        lanes(2 * in.batch()),
        rows(rows_of_memory),
        each(std::clamp<index_t>(scores_at_a_time<B> / (lanes * F), 1, rows)),
        w_ih(be, {2, F, F}),
        w_hh(be, {2, F, F}),
        x(be, {lanes * each * F}),
        a(be, {lanes * each * F}),
        m(be, {lanes * F}) {
    be.copy(w_ih.data(), in.rnns.key.weight_ih, F * F);
    be.copy(w_ih.data() + F * F, in.rnns.value.weight_ih, F * F);
    be.copy(w_hh.data(), in.rnns.key.weight_hh, F * F);
    be.copy(w_hh.data() + F * F, in.rnns.value.weight_hh, F * F);
  }

  /// Rows from `first` on.
  RnnRows<T, Space> rows_from(index_t first) const {
    return {in, first, std::min(each, rows - first)};
  }
  index_t elements(const RnnRows<T, Space>& at) const { return lanes * at.count * F; }

  /// to [2, B*n, F] = from [2, B*n, F] by the weights of each RNN, or by their transposes.
  void multiply(Op op, const RnnRows<T, Space>& at, const C* from, const Tensor<B, C, 3>& weights,
                C* to) {
    const index_t half = lanes / 2 * at.count;
    be.gemm_batched(Op::none, op, 2, half, F, F, C(1), Following<const C>{from, half * F}, F,
                    Following<const C>{weights.data(), F * F}, F, C(0), Following<C>{to, half * F},
                    F);
  }

  void forward(View<T, 4, Space> memory) {
    for (index_t first = 0; first < rows; first += each) {
      const RnnRows<T, Space> at = rows_from(first);
      const index_t apart = at.count * F, half = lanes / 2;
      be.for_each(elements(at), GatherRnnInputs<T, Space>{at, x.data()});
      multiply(Op::transpose, at, x.data(), w_ih, a.data());
      for (index_t t = first; t < first + at.count; ++t) {
        if (t > 0) {
          be.gemm_batched(Op::none, Op::transpose, 2, half, F, F, C(1),
                          Following<const C>{m.data(), half * F}, F,
                          Following<const C>{w_hh.data(), F * F}, F, C(1),
                          Following<C>{a.data() + (t - first) * F, half * apart}, apart);
        }
        be.for_each(lanes * F, RnnStep<T, Space>{at, t, a.data(), m.data(), memory});
      }
    }
  }

  /// partial, of each lane dW_ih, dW_hh, db, as in RnnBackward.
  void backward(In<B, T, 4> memory, In<B, C, 4> d_memory, const View<T, 4, Space>& d_k,
                const View<T, 4, Space>& d_v, C* partial) {
    const index_t share = 2 * F * F + F, half = lanes / 2;
    C* d_a = a.data();
    Tensor<B, C, 1> sums(be, {lanes * F});
    be.fill(m.data(), lanes * F, C(0));
    be.fill(partial, lanes * share, C(0));
    for (index_t first = (rows - 1) / each * each; first >= 0; first -= each) {
      const RnnRows<T, Space> at = rows_from(first);
      const index_t apart = at.count * F;
      for (index_t t = first + at.count - 1; t >= first; --t) {
        be.for_each(lanes * F, RnnStepBackward<T, Space>{at, t, memory, d_memory, m.data(), d_a});
        // a_t = x_t W_ih^T + m_{t-1} W_hh^T + ...
        be.gemm_batched(Op::none, Op::none, 2, half, F, F, C(1),
                        Following<const C>{d_a + (t - first) * F, half * apart}, apart,
                        Following<const C>{w_hh.data(), F * F}, F, C(0),
                        Following<C>{m.data(), half * F}, F);
      }
      const auto add = [&](const C* rows_of_b, index_t to) {
        be.gemm_batched(Op::transpose, Op::none, lanes, F, F, at.count, C(1),
                        Following<const C>{d_a, apart}, F, Following<const C>{rows_of_b, apart}, F,
                        C(1), Following<C>{partial + to, share}, F);
      };
      be.for_each(elements(at), GatherRnnInputs<T, Space>{at, x.data()});
      add(x.data(), 0);
      be.for_each(elements(at), GatherRnnMemory<T, Space>{at, memory, x.data()});
      add(x.data(), F * F);
      sum_columns(be, lanes, at.count, F, ElementOfRow<C>{d_a, F}, Following<C>{sums.data(), F});
      be.for_each(lanes * F, AddRnnBias<C>{sums.data(), partial + 2 * F * F, F, share});
      multiply(Op::none, at, d_a, w_ih, x.data());
      be.for_each(elements(at), AddRnnInputs<T, Space>{at, x.data(), d_k, d_v});
    }
  }
};

/// The bias of the previous segment's keys followed by that of the current one's; keys past the end
/// have none.
template <class C, class Space>
struct PreviousSegmentMask {
  ScoreMask<C, Space> mask;
  index_t first_before, real_before, rows_before, first_key, real_keys;

  SRF_HD index_t visible(index_t, index_t existing) const { return existing; }
  template <class Team>
  SRF_HD void add(const Team& team, index_t b, index_t h, index_t i, index_t, index_t,
                  C* scores) const {
    mask.add(team, b, h, i, first_before, real_before, scores);
    mask.add(team, b, h, i, first_key, real_keys, scores + rows_before);
  }
};

template <class T, class Space>
struct XlInputs {
  using C = compute_t<T>;
  View<const T, 4, Space> q, k, v, memory;
  AttendContext<C, Space> context;
  SegmentedOptions options;

  SRF_HD index_t most_columns() const { return 2 * options.segment_size; }

  /// to = rows of memory [rows_before, D] of head h, followed by rows of x.
  template <class Team>
  SRF_HD void gather(const Team& team, index_t which, const ScoreBlock& segment,
                     index_t first_before, index_t rows_before, Rows<const T> x, T* to) const {
    const index_t D = q.extent(3), b = segment.b, h = segment.h;
    const View<const T, 4, Space> m = memory;
    team.for_each(rows_before * D,
                  [=](index_t i) { to[i] = m(which, b, first_before + i / D, h * D + i % D); });
    T* own = to + rows_before * D;
    team.for_each(segment.key_count * D,
                  [=](index_t i) { own[i] = x.row(segment.first_key + i / D)[i % D]; });
  }

  /// What the queries of segment j see: its block of scores with the columns of the gathered keys.
  SRF_HD SeenKeys<C, Space, PreviousSegmentMask<C, Space>> seen(const SegmentRule& rule, index_t j,
                                                                const ScoreBlock& segment) const {
    const index_t previous = j > 0 ? j - 1 : 0, real = rule.keys(previous);
    const index_t rows = options.padding == Padding::upstream ? rule.size : real;
    ScoreBlock block = segment;
    block.keys = most_columns(), block.first_key = 0, block.key_count = rows + segment.key_count;
    return {
        {{context.mask, rule.first_key(previous), real, rows, segment.first_key, segment.key_count},
         context.dropout},
        block,
        rows};
  }
  SRF_HD SeenKeys<C, Space, PreviousSegmentMask<C, Space>> seen_by(
      const SegmentRows<C, Space>& queries, index_t lane, index_t i) const {
    const SegmentRule rule = queries.rule(lane);
    const index_t j = rule.of(queries.step_of(i));
    return seen(rule, j, queries.block_of_segment(rule, lane, j));
  }

  /// Calls f(context, segment, block, first_before, rows_before) for every visited segment.
  template <class F>
  SRF_HD void for_each_segment(const SegmentRule& rule, index_t b, index_t h, F f) const {
    const index_t H = q.extent(1), M = q.extent(2), N = k.extent(2), D = q.extent(3);
    for (index_t j = 0; j < rule.count(); ++j) {
      const ScoreBlock segment =
          segment_block(rule, options.padding, j, {b, h, D, H, M, N}, context.mask.query_offset);
      if (segment.query_count == 0) continue;
      const auto x = seen(rule, j, segment);
      f(x.context, segment, x.block, x.context.mask.first_before, x.of_first_run);
    }
  }
};

/// Keys of [2,B,R,H*D], or values, as [B,H,R,D].
template <class X, class Space>
View<X, 4, Space> heads_of_memory(const View<X, 4, Space>& memory, index_t which, index_t heads) {
  const index_t D = memory.extent(3) / heads;
  return {&memory(which, 0, 0, 0),
          {memory.extent(1), heads, memory.extent(2), D},
          {memory.stride(1), D, memory.stride(2), 1}};
}

/// The memory of the segment before, and the keys of the segment, in stages over all heads.
template <class T, class Space>
StagedAttention<T, Space, XlInputs<T, Space>> xl_in_stages(
    const XlInputs<T, Space>& in, const SegmentRows<compute_t<T>, Space>& rows) {
  const index_t H = in.q.extent(1);
  const index_t before =
      in.options.padding == Padding::upstream ? in.options.segment_size : rows.width();
  return {
      in.q,
      rows,
      in,
      {heads_of_memory(in.memory, 0, H), heads_of_memory(in.memory, 1, H), Seen::segment_before},
      {in.k, in.v},
      before,
      rows.width()};
}

template <class T, class Space>
struct XlForward {
  using C = compute_t<T>;
  XlInputs<T, Space> in;
  View<T, 4, Space> out;

  /// One row is one source and head.
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.q.extent(1), M = in.q.extent(2), N = in.k.extent(2), D = in.q.extent(3);
    const index_t b = lane / H, h = lane % H, columns = in.most_columns();
    const SegmentRule rule = segment_rule(in.options, in.context.mask, b, M, N);
    C* weights = static_cast<C*>(scratch);
    T *keys = reinterpret_cast<T*>(weights + M * columns), *values = keys + columns * D;
    in.for_each_segment(rule, b, h,
                        [&](const auto& context, const ScoreBlock& segment, const ScoreBlock& block,
                            index_t first, index_t rows) {
                          in.gather(team, 0, segment, first, rows, head_rows(in.k, b, h), keys);
                          in.gather(team, 1, segment, first, rows, head_rows(in.v, b, h), values);
                          const AttendRows<T> x{head_rows(in.q, b, h).from(block.first_query),
                                                {keys, D},
                                                {values, D}};
                          attend_forward(team, context, block, x, C(1),
                                         head_rows(out, b, h).from(block.first_query), weights);
                        });
  }
};

template <class T, class Space>
struct XlBackward {
  using C = compute_t<T>;
  XlInputs<T, Space> in;
  View<const T, 4, Space> d_out;
  View<T, 4, Space> d_q, d_k, d_v;
  View<C, 4, Space> d_memory;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.q.extent(1), M = in.q.extent(2), N = in.k.extent(2), D = in.q.extent(3);
    const index_t b = lane / H, h = lane % H, columns = in.most_columns();
    const SegmentRule rule = segment_rule(in.options, in.context.mask, b, M, N);
    C *weights = static_cast<C*>(scratch), *d_weights = weights + M * columns;
    T *keys = reinterpret_cast<T*>(d_weights + M * columns), *values = keys + columns * D;
    T *d_keys = values + columns * D, *d_values = d_keys + columns * D;
    in.for_each_segment(
        rule, b, h,
        [&](const auto& context, const ScoreBlock& segment, const ScoreBlock& block, index_t first,
            index_t rows) {
          in.gather(team, 0, segment, first, rows, head_rows(in.k, b, h), keys);
          in.gather(team, 1, segment, first, rows, head_rows(in.v, b, h), values);
          team.for_each(block.key_count * D,
                        [=](index_t c) { d_keys[c] = T(C(0)), d_values[c] = T(C(0)); });
          const AttendRows<T> x{
              head_rows(in.q, b, h).from(block.first_query), {keys, D}, {values, D}};
          const AttendGradients<T> d{head_rows(d_out, b, h).from(block.first_query),
                                     head_rows(d_q, b, h).from(block.first_query),
                                     {d_keys, D},
                                     {d_values, D}};
          attend_backward(team, context, block, x, C(1), d, AttendScratch<C>{weights, d_weights});
          scatter(team, 0, segment, first, rows, d_keys, head_rows(d_k, b, h));
          scatter(team, 1, segment, first, rows, d_values, head_rows(d_v, b, h));
        });
  }

 private:
  /// The reverse of gather.
  template <class Team>
  SRF_HD void scatter(const Team& team, index_t which, const ScoreBlock& segment,
                      index_t first_before, index_t rows_before, const T* from, Rows<T> to) const {
    const index_t D = in.q.extent(3), b = segment.b, h = segment.h;
    const View<C, 4, Space> m = d_memory;
    team.for_each(rows_before * D, [=](index_t i) {
      C& at = m(which, b, first_before + i / D, h * D + i % D);
      at = at + C(from[i]);
    });
    const T* own = from + rows_before * D;
    team.for_each(segment.key_count * D, [=](index_t i) {
      T& at = to.row(segment.first_key + i / D)[i % D];
      at = T(C(at) + C(own[i]));
    });
  }
};

template <class T>
void check_rnns(const char* function, const XlParameters<T>& parameters) {
  const auto whole = [](const RnnParameters<T>& p) {
    return p.weight_ih != nullptr && p.weight_hh != nullptr && p.bias_ih != nullptr &&
           p.bias_hh != nullptr;
  };
  require(whole(parameters.key) && whole(parameters.value), function,
          "the RNN needs weight_ih, weight_hh, bias_ih and bias_hh");
}

}  // namespace SRF_DETAIL

/// Rows of memory per source of N keys.
inline index_t memory_rows(const SegmentedOptions& options, index_t keys) {
  const index_t S = (keys + options.segment_size - 1) / options.segment_size;
  return options.padding == Padding::upstream ? S * options.segment_size : keys;
}

namespace SRF_DETAIL {

void check_memory(const char* function, const auto& memory, const auto& k,
                  const SegmentedOptions& options) {
  check_shape(function, "memory", "[2,B,R,H*D]", memory.extents,
              std::array{index_t{2}, k.extent(0), memory_rows(options, k.extent(2)),
                         k.extent(1) * k.extent(3)});
  require(memory.contiguous(), function, "memory must be contiguous");
}

template <class T, class Space>
struct XlStep {
  using C = compute_t<T>;
  AttentionStep<T, Space> in;
  SegmentedOptions options;
  View<const T, 4, Space> memory;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.heads(), D = in.head_size(), K = in.queries();
    const index_t g = lane / H, h = lane % H, b = in.source(g);
    const XlInputs<T, Space> one{in.one_query(), in.k, in.v, memory, in.context, options};
    const SegmentRule rule = segment_rule(options, in.context.mask, b, in.step + 1, in.keys());
    const index_t columns = one.most_columns();
    C* weights = static_cast<C*>(scratch);
    T *keys = reinterpret_cast<T*>(weights + K * columns), *values = keys + columns * D;
    one.for_each_segment(rule, b, h,
                         [&](const auto& context, const ScoreBlock& segment, ScoreBlock block,
                             index_t first, index_t rows) {
                           block.queries = block.query_count = K;
                           one.gather(team, 0, segment, first, rows, head_rows(in.k, b, h), keys);
                           one.gather(team, 1, segment, first, rows, head_rows(in.v, b, h), values);
                           const AttendRows<T> x{head_rows(in.q, g, h), {keys, D}, {values, D}};
                           attend_forward(team, context, block, x, C(1), head_rows(in.out, g, h),
                                          weights);
                         });
  }
};

}  // namespace SRF_DETAIL

/// memory = the outputs of the RNNs over keys and values, which depend on no query: q may be left empty, and of the
/// context the mask's lengths alone count.
///   memory [2,B,R,H*D] contiguous with R = memory_rows(options, N)
/// Cost 8 B N (H D)^2, sequential over N.
template <class B, class T>
requires BackendFor<B, T>
void transformer_xl_memory(B& be, const AttentionInputs<B, T>& in,
                           const std::type_identity_t<XlParameters<const T>>& parameters,
                           const SegmentedOptions& options, View<T, 4, typename B::space> memory) {
  using Space = typename B::space;
  const auto& k = in.k;
  detail::check_segments("transformer_xl_memory", options);
  detail::check_rnns("transformer_xl_memory", parameters);
  check_shape("transformer_xl_memory", "v", "[B,H,N,D]", in.v.extents, k.extents);
  detail::check_memory("transformer_xl_memory", memory, k, options);
  const detail::RnnInputs<T, Space> x{k, in.v, parameters, in.context.mask, options};
  if constexpr (HasBatchedGemm<B>) {
    detail::RnnRun<B, T>(be, x, memory.extent(2)).forward(memory);
  } else {
    const index_t F = x.features(), scratch = 2 * F * F + 2 * detail::rnn_rows * F + F;
    be.for_each_row(2 * k.extent(0), scratch * static_cast<index_t>(sizeof(compute_t<T>)),
                    detail::RnnForward<T, Space>{x, memory});
  }
}

/// Segmented attention that also sees the memory of the segment before.
///   memory  as transformer_xl_memory gave it, which is what backward needs
///   out [B,H,M,D], last axis contiguous
/// Cost 8 B H M L D.
template <class B, class T>
requires BackendFor<B, T>
void transformer_xl_forward(B& be, const AttentionInputs<B, T>& in, In<B, T, 4> memory,
                            const SegmentedOptions& options, View<T, 4, typename B::space> out) {
  detail::check_attention("transformer_xl_forward", in, out);
  detail::check_segments("transformer_xl_forward", options);
  detail::check_memory("transformer_xl_forward", memory, in.k, options);
  check_dropout("transformer_xl_forward", in.context.dropout);
  using Space = typename B::space;
  const detail::XlInputs<T, Space> x{in.q, in.k, in.v, memory, in.context, options};
  if constexpr (HasBatchedGemm<B>) {
    const auto rows = detail::segment_rows<T, Space>(in.q, in.k, in.context, options);
    detail::attend_staged<B, T>(be, detail::xl_in_stages(x, rows), out);
  } else {
    const index_t columns = x.most_columns(), of_c = in.q.extent(2) * columns;
    const index_t of_t = 2 * columns * in.q.extent(3);
    be.for_each_row(
        in.q.extent(0) * in.q.extent(1),
        of_c * static_cast<index_t>(sizeof(compute_t<T>)) + of_t * static_cast<index_t>(sizeof(T)),
        detail::XlForward<T, Space>{x, out});
  }
}

/// The gradients in d and of both RNNs += those through memory and attention. Null pointers in d_parameters are left
/// out.
template <class B, class T>
requires BackendFor<B, T>
void transformer_xl_backward(B& be, const AttentionInputs<B, T>& in, In<B, T, 4> memory,
                             const std::type_identity_t<XlParameters<const T>>& parameters,
                             const SegmentedOptions& options, const AttentionGradients<B, T>& d,
                             const std::type_identity_t<XlParameters<T>>& d_parameters) {
  using Space = typename B::space;
  using C = compute_t<T>;
  const auto &q = in.q, &k = in.k, &v = in.v;
  detail::check_attention_gradients("transformer_xl_backward", in, d);
  detail::check_segments("transformer_xl_backward", options);
  detail::check_memory("transformer_xl_backward", memory, k, options);
  check_dropout("transformer_xl_backward", in.context.dropout);
  detail::check_rnns("transformer_xl_backward", parameters);
  const detail::XlInputs<T, Space> x{q, k, v, memory, in.context, options};
  const detail::RnnInputs<T, Space> rnns{k, v, parameters, in.context.mask, options};
  const index_t batch = k.extent(0), F = rnns.features(), share = 2 * F * F + F;
  Tensor<B, C, 4> d_memory = zeros<C, 4>(be, memory.extents);
  Tensor<B, C, 1> partial(be, {2 * batch * share});
  if constexpr (HasBatchedGemm<B>) {
    const auto of_memory = [&, H = q.extent(1)](index_t which) {
      return detail::heads_of_memory(d_memory.view(), which, H);
    };
    const auto rows = detail::segment_rows<T, Space>(q, k, in.context, options);
    detail::attend_staged_backward<B, T>(be, detail::xl_in_stages(x, rows), {d.d_out, d.d_q},
                                         detail::RunGradients<C, Space>{of_memory(0), of_memory(1)},
                                         detail::RunGradients<T, Space>{d.d_k, d.d_v});
    detail::RnnRun<B, T>(be, rnns, memory.extent(2))
        .backward(memory, d_memory, d.d_k, d.d_v, partial.data());
  } else {
    const index_t columns = x.most_columns(), of_c = 2 * q.extent(2) * columns;
    const index_t of_t = 4 * columns * q.extent(3);
    be.for_each_row(batch * q.extent(1),
                    of_c * static_cast<index_t>(sizeof(C)) + of_t * static_cast<index_t>(sizeof(T)),
                    detail::XlBackward<T, Space>{x, d.d_out, d.d_q, d.d_k, d.d_v, d_memory.view()});
    be.for_each_row(
        2 * batch, (3 * detail::rnn_rows * F + F + 2 * F * F) * static_cast<index_t>(sizeof(C)),
        detail::RnnBackward<T, Space>{rnns, memory, d_memory.view(), d.d_k, d.d_v, partial.data()});
  }
  be.for_each(share, detail::AddRnnPartials<T>{partial.data(), d_parameters.key, batch, F});
  be.for_each(share, detail::AddRnnPartials<T>{partial.data() + batch * share, d_parameters.value,
                                               batch, F});
}

/// Transformer-XL style attention as a variant.
struct TransformerXl {
  static constexpr std::string_view name = "transformer_xl";
  using Options = Segmented::Options;
  template <class T>
  struct Parameters : XlParameters<T> {
    Parameters() = default;
    Parameters(const XlParameters<T>& p) : XlParameters<T>(p) {}  // NOLINT

    static void visit(auto& p, const Options&, const HeadSizes& sizes, auto&& f) {
      const index_t F = sizes.inner();
      const auto rnn = [&](auto& of, const std::array<std::string_view, 4>& names) {
        f(LearnedInfo{names[0], Role::weight, F, F, InitialValues::uniform()}, of.weight_ih);
        f(LearnedInfo{names[1], Role::weight, F, F, InitialValues::uniform()}, of.weight_hh);
        f(LearnedInfo{names[2], Role::bias, F, 0, InitialValues::uniform()}, of.bias_ih);
        f(LearnedInfo{names[3], Role::bias, F, 0, InitialValues::uniform()}, of.bias_hh);
      };
      rnn(p.key, {"RNN_key.weight_ih_l0", "RNN_key.weight_hh_l0", "RNN_key.bias_ih_l0",
                  "RNN_key.bias_hh_l0"});
      rnn(p.value, {"RNN_value.weight_ih_l0", "RNN_value.weight_hh_l0", "RNN_value.bias_ih_l0",
                    "RNN_value.bias_hh_l0"});
    }
  };
  /// The outputs of both RNNs, [2,B,R,H*D] with R = memory_rows.
  template <class B, class T>
  struct Saved {
    Tensor<B, T, 4> memory;
  };
  template <class B, class T>
  using Prepared = Saved<B, T>;

  template <class B, class T>
  static void forward(B& be, const AttentionInputs<B, T>& in, const Parameters<const T>& parameters,
                      const Options& options, Saved<B, T>& saved, Out<B, T, 4> out) {
    detail::check_segments("transformer_xl_forward", options.segments());
    detail::check_attention("transformer_xl_forward", in, out);
    saved = prepare<B, T>(be, in, parameters, options);
    transformer_xl_forward(be, in, saved.memory, options.segments(), out);
  }
  template <class B, class T>
  static void backward(B& be, const AttentionInputs<B, T>& in,
                       const Parameters<const T>& parameters, const Options& options,
                       const Saved<B, T>& saved, const AttentionGradients<B, T>& d,
                       const Parameters<T>& d_parameters) {
    transformer_xl_backward(be, in, saved.memory, parameters, options.segments(), d, d_parameters);
  }
  template <class B, class T>
  static Prepared<B, T> prepare(B& be, const AttentionInputs<B, T>& in,
                                const Parameters<const T>& parameters, const Options& options) {
    const SegmentedOptions segments = options.segments();
    const auto& k = in.k;
    Saved<B, T> saved{Tensor<B, T, 4>(
        be, {2, k.extent(0), memory_rows(segments, k.extent(2)), k.extent(1) * k.extent(3)})};
    transformer_xl_memory(be, in, parameters, segments, saved.memory.view());
    return saved;
  }
  template <class B, class T>
  static void step(B& be, const AttentionStep<T, typename B::space>& in, const Parameters<const T>&,
                   const Options& options, const Prepared<B, T>& prepared) {
    const SegmentedOptions segments = options.segments();
    detail::check_segments("TransformerXl::step", segments);
    if constexpr (HasBatchedGemm<B>) {
      const detail::XlInputs<T, typename B::space> x{
          in.q, in.k, in.v, prepared.memory.view(), in.context, segments};
      detail::attend_staged<B, T>(be, detail::xl_in_stages(x, detail::step_rows(in, segments)),
                                  in.out);
    } else {
      const index_t columns = 2 * segments.segment_size;
      for_each_lane<B, T>(
          be, in, in.queries() * columns, 2 * columns * in.head_size(),
          detail::XlStep<T, typename B::space>{in, segments, prepared.memory.view()});
    }
  }
};

}  // namespace srformer
