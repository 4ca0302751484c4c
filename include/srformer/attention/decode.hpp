// SPDX-License-Identifier: Apache-2.0
// Attention one decoder step at a time. A row is a hypothesis: rows go in groups of equal size, one
// group per source, and the rows of a group share all that belongs to the source.
//
// Cross-attention: what does not depend on the query is computed once per source, then a step costs
// 4 L D + 2 D^2 per row and head where full attention costs 4 N D.
//
//   segmented_recurrent  E_j = beta gate R_j / n  for every segment (or step) that `steps` queries visit
//                        O_i = alpha softmax(q_i K_j^T) V_j + q_i E_j,   j = seg(i)
//   linear               KV and z, see attention/linear.hpp
//   transformer_xl       the memory of both RNNs
//   global_tokens        the means of the segments
//   the others           nothing
//
// Self-attention: every step writes q, k and v of its rows once, and no later step moves them. Which row
// of step s a row of step t >= s goes back to is in a table: places[r, s], as beams change rows.
//
// The horizon is the one of the options' generation_horizon and a parameter of each call. What is
// prepared, the cache and the table are the only state.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include <srformer/attention/cross_attention.hpp>
#include <srformer/backend/device_loops.hpp>

namespace srformer {

/// The shape [B,H,count,rows,D] of the states that `steps` queries on keys k [B,H,N,D] need; count
/// is 0 where a variant has none.
template <class Keys>
std::array<index_t, 5> decode_state_shape(const CrossAttentionOptions& options, const Keys& k,
                                          index_t steps) {
  const index_t D = k.extent(3),
                S = (k.extent(2) + options.segment_size - 1) / options.segment_size;
  const bool linear = options.variant == Variant::linear;
  const index_t count = linear                                                    ? 1
                        : options.variant != Variant::segmented_recurrent         ? 0
                        : options.recurrence && options.advance == Advance::token ? steps
                                                                                  : S;
  return {k.extent(0), k.extent(1), count, linear ? D + 1 : D, D};
}

namespace detail {

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

/// What a step of any variant reads: K queries of a group, the keys and values of its source.
template <class T, class Space>
struct StepInputs {
  using C = compute_t<T>;
  View<const T, 4, Space> q, k, v;  // [G,H,K,D], [B,H,N,D]
  View<T, 4, Space> out;            // [G,H,K,D]
  AttendContext<C, Space> context;
  const std::int32_t* sources;  // [G], or null: group g has source g
  index_t step;

  SRF_HD index_t heads() const { return q.extent(1); }
  SRF_HD index_t queries() const { return q.extent(2); }
  SRF_HD index_t head_size() const { return q.extent(3); }
  SRF_HD index_t keys() const { return k.extent(2); }
  SRF_HD index_t source(index_t group) const {
    return sources == nullptr ? group : static_cast<index_t>(sources[group]);
  }
  /// One query in place of K, all of which are at the same step.
  SRF_HD View<const T, 4, Space> one_query() const { return q.slice(2, 0, 1); }
};

template <class T, class Space>
struct FullStep {
  using C = compute_t<T>;
  StepInputs<T, Space> in;

  /// One row is one group and head.
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.heads(), N = in.keys(), K = in.queries(), g = lane / H, h = lane % H;
    const index_t b = in.source(g);
    const ScoreBlock block{b, h, in.head_size(), H, K, N, 0, K, 0, in.context.mask.keys(b, N)};
    attend_forward<Team, T, C, Space>(team, in.context, block, head_rows(in.q, g, h),
                                      head_rows(in.k, b, h), head_rows(in.v, b, h), C(1),
                                      head_rows(in.out, g, h), static_cast<C*>(scratch));
  }
};

/// The segment that the step sees, and where there are states, what the recurrence adds.
template <class T, class Space>
struct SegmentedStep {
  using C = compute_t<T>;
  StepInputs<T, Space> in;
  RecurrentInputs<T, Space> recurrent;
  View<const C, 5, Space> states;  // null: the segment alone

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.heads(), N = in.keys(), D = in.head_size(), K = in.queries();
    const index_t g = lane / H, h = lane % H, b = in.source(g);
    const SegmentedRecurrentOptions& options = recurrent.options;
    const SegmentRule rule = segment_rule(options.segments, in.context.mask, b, in.step + 1, N);
    const index_t j = rule.of(in.step);
    const Rows<const T> q = head_rows(in.q, g, h);
    const Rows<T> o = head_rows(in.out, g, h);
    C* weights = static_cast<C*>(scratch);
    const bool local = states.data == nullptr || options.local;
    if (local) {
      const index_t real = rule.keys(j);
      const bool upstream = options.segments.padding == Padding::upstream;
      const ScoreBlock block{
          b, h, D, H, K, N, 0, K, rule.first_key(j), real, upstream ? rule.size - real : 0};
      attend_forward<Team, T, C, Space>(
          team, in.context, block, q, head_rows(in.k, b, h).from(block.first_key),
          head_rows(in.v, b, h).from(block.first_key),
          states.data == nullptr ? C(1) : recurrent.share_of_local(), o, weights);
    }
    if (states.data == nullptr) return;
    C* rest = weights + K * options.segments.segment_size;
    const index_t state = recurrent.stepwise() ? in.step : j;
    team.gemm(Op::none, Op::none, K, D, D, C(1), q.data, q.stride, &states(b, h, state, 0, 0), D,
              C(0), rest, D);
    for (index_t r = 0; r < K; ++r) {
      T* to = o.row(r);
      const C* add = rest + r * D;
      team.for_each(D, [=](index_t c) { to[c] = T(local ? C(to[c]) + add[c] : add[c]); });
    }
  }
};

template <class T, class Space>
struct GlobalTokensStep {
  using C = compute_t<T>;
  StepInputs<T, Space> in;
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
          attend_forward<Team, T, C, Space>(team, context, block, head_rows(in.q, g, h),
                                            Rows<const T>{keys, D}, Rows<const T>{values, D}, C(1),
                                            head_rows(in.out, g, h), weights);
        });
  }
};

template <class T, class Space>
struct XlStep {
  using C = compute_t<T>;
  StepInputs<T, Space> in;
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
                           attend_forward<Team, T, C, Space>(
                               team, context, block, head_rows(in.q, g, h), Rows<const T>{keys, D},
                               Rows<const T>{values, D}, C(1), head_rows(in.out, g, h), weights);
                         });
  }
};

template <class T, class Space>
struct LinearRowsStep {
  using C = compute_t<T>;
  StepInputs<T, Space> in;
  View<const C, 5, Space> states;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.heads(), D = in.head_size(), K = in.queries();
    const index_t g = lane / H, h = lane % H, b = in.source(g);
    const LinearInputs<T, Space> features{in.q, in.k, in.v, in.context.mask};
    const C *kv = &states(b, h, 0, 0, 0), *z = kv + D * D;
    C *f = static_cast<C*>(scratch), *n = f + K * D;
    features.features(team, head_rows(in.q, g, h), 0, K, f);
    team.gemm(Op::none, Op::none, K, D, D, C(1), f, D, kv, D, C(0), n, D);
    for (index_t r = 0; r < K; ++r) {
      const C *f_r = f + r * D, *n_r = n + r * D;
      const C d =
          team.template sum<C>(D, [=](index_t c) { return f_r[c] * z[c]; }) + C(linear_epsilon);
      T* to = head_rows(in.out, g, h).row(r);
      team.for_each(D, [=](index_t c) { to[c] = T(n_r[c] / d); });
    }
  }
};

/// places[r, s] for every step s up to this one.
struct FollowParents {
  const std::int32_t *parents, *before;  // parents null: rows stay where they are
  std::int32_t* places;
  index_t max_steps, step;
  SRF_HD void operator()(index_t i) const {
    const index_t r = i / (step + 1), s = i % (step + 1);
    places[r * max_steps + s] =
        s == step ? static_cast<std::int32_t>(r) : before[parents[r] * max_steps + s];
  }
};
struct StayInPlace {
  std::int32_t* places;
  index_t max_steps, step;
  SRF_HD void operator()(index_t r) const {
    places[r * max_steps + step] = static_cast<std::int32_t>(r);
  }
};

/// out[i] = x . row i for n rows of `width` elements that lie apart, row i at from(i).
template <class Team, class From, class C>
SRF_HD void dots_with_rows(const Team& team, index_t n, index_t width, const C* x, From from,
                           C* out) {
#if !defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<Team, SerialTeam>) {
    for (index_t i = 0; i < n; ++i) {
      const auto row = from(i);
      out[i] = team.template sum<C>(width, [=](index_t c) { return x[c] * as_computed(row[c]); });
    }
    return;
  }
#endif
  team.for_each(n, [=](index_t i) {
    const auto row = from(i);
    C sum(0);
    for (index_t c = 0; c < width; ++c) sum = sum + x[c] * C(row[c]);
    out[i] = sum;
  });
}

/// out [width] = the sum of weights_i row i.
///   sums [width]  scratch
template <class Team, class T, class From, class C>
SRF_HD void sum_of_rows(const Team& team, index_t n, index_t width, const C* weights, From from,
                        [[maybe_unused]] C* sums, T* out) {
#if !defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<Team, SerialTeam>) {
    team.for_each(width, [=](index_t c) { sums[c] = C(0); });
    for (index_t i = 0; i < n; ++i) {
      const auto row = from(i);
      const C weight = weights[i];
      team.for_each(width, [=](index_t c) { sums[c] = sums[c] + weight * as_computed(row[c]); });
    }
    team.for_each(width, [=](index_t c) { out[c] = T(sums[c]); });
    return;
  }
#endif
  team.for_each(width, [=](index_t c) {
    C sum(0);
    for (index_t start = 0; start < n; start += read_ahead) {
      C held[read_ahead];
      for (index_t e = 0; e < read_ahead; ++e)
        held[e] = start + e < n ? weights[start + e] * C(from(start + e)[c]) : C(0);
      for (index_t e = 0; e < read_ahead; ++e) sum = sum + held[e];
    }
    out[c] = T(sum);
  });
}

template <class T, class Space>
struct SelfStep {
  using C = compute_t<T>;
  View<const T, 3, Space> qkv;  // [steps,R,3*H*D]
  const std::int32_t* places;
  index_t max_steps, step, heads;
  ScoreMask<C, Space> mask;
  View<T, 2, Space> out;  // [R,H*D]

  /// One row is one row and head.
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t r = lane / heads, h = lane % heads, n = step + 1;
    const index_t inner = out.extent(1), D = inner / heads;
    C *weights = static_cast<C*>(scratch), *query = weights + n, *sums = query;
    const T* q = &qkv(step, r, h * D);
    team.for_each(D, [=](index_t c) { query[c] = C(q[c]); });
    dots_with_rows(team, n, D, query, places_of(r, inner + h * D), weights);
    mask.add(team, 0, h, 0, 0, n, weights);
    softmax_row(team, n, weights);
    sum_of_rows(team, n, D, weights, places_of(r, 2 * inner + h * D), sums, &out(r, h * D));
  }

 private:
  /// Where `column` of the rows is that row r goes back to.
  SRF_HD auto places_of(index_t r, index_t column) const {
    const std::int32_t* place = places + r * max_steps;
    const T* from = qkv.data + column;
    const index_t per_step = qkv.stride(0), per_row = qkv.stride(1);
    return [=](index_t s) { return from + s * per_step + place[s] * per_row; };
  }
};

/// Options with the horizon of decoding in place of that of training.
inline CrossAttentionOptions for_generation(CrossAttentionOptions options, index_t horizon) {
  options.horizon = horizon > 0 ? horizon : options.generation_horizon;
  return options;
}

template <class T, class Space>
struct GatherHeads {
  static constexpr index_t keys_each = 16;
  View<const T, 4, Space> x;
  T* out;
  /// One row is some keys of one source and head.
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t H = x.extent(1), N = x.extent(2), D = x.extent(3);
    const index_t parts = (N + keys_each - 1) / keys_each, lane = row / parts;
    const index_t first = row % parts * keys_each;
    const index_t count = N - first < keys_each ? N - first : keys_each;
    const Rows<const T> rows = head_rows(x, lane / H, lane % H).from(first);
    copy_rows(
        team, count, D, [=](index_t i) { return rows.row(i); }, out + (lane * N + first) * D);
  }
};

}  // namespace detail

/// A copy of x [B,H,N,D] in which the rows of a head follow each other, as every step reads them.
template <class B, class T>
requires BackendFor<B, T> Tensor<B, T, 4> gather_heads(B& be, In<B, T, 4> x) {
  require(x.stride(3) == 1, "gather_heads", "the last axis of x must be contiguous");
  Tensor<B, T, 4> out(be, x.extents);
  using Gather = detail::GatherHeads<T, typename B::space>;
  const index_t parts = (x.extent(2) + Gather::keys_each - 1) / Gather::keys_each;
  be.for_each_row(x.extent(0) * x.extent(1) * parts, 0, Gather{x, out.data()});
  return out;
}

/// What does not depend on the query, for `steps` decoder steps over a batch of sources.
template <class B, class T>
struct DecodeStates {
  Tensor<B, compute_t<T>, 5> states;  ///< of segmented_recurrent and linear
  Tensor<B, T, 4> memory;             ///< of transformer_xl; of global_tokens the means
};

/// Prepares the steps to come.
///   k, v [B,H,N,D], which must stay; `horizon` 0 takes the options' generation_horizon
/// States that no query visits are not written. Cost that of the source's part of the forward.
template <class B, class T>
requires BackendFor<B, T> DecodeStates<B, T> prepare_cross_attention(
    B& be, View<const T, 4, typename B::space> k, In<B, T, 4> v,
    const std::type_identity_t<CrossAttentionParameters<const T>>& parameters,
    const AttendContext<compute_t<T>, typename B::space>& context,
    const CrossAttentionOptions& options, index_t horizon, index_t steps) {
  using Space = typename B::space;
  using C = compute_t<T>;
  const index_t D = k.extent(3), lanes = k.extent(0) * k.extent(1);
  DecodeStates<B, T> prepared;
  const auto shape = decode_state_shape(options, k, steps);
  if (shape[2] > 0) prepared.states = Tensor<B, C, 5>(be, shape);
  if (options.variant == Variant::segmented_recurrent) {
    const View<const T, 4, Space> queries(nullptr, {k.extent(0), k.extent(1), steps, D});
    const detail::RecurrentInputs<T, Space> in{
        queries, k,
        v,       parameters.recurrent,
        context, detail::for_generation(options, horizon).recurrent()};
    detail::check_recurrent("prepare_cross_attention", in);
    if constexpr (HasBatchedGemm<B>) {
      detail::recurrent_batched_states<B, T>(be, in, prepared.states.view());
    } else {
      const auto states = prepared.states.view();
      detail::run_recurrent(be, in, detail::Pass::prepare,
                            [in, states](auto& on) { detail::recurrent_prepare(on, in, states); });
    }
  } else if (options.variant == Variant::linear) {
    be.for_each_row(
        lanes, detail::linear_rows * D * static_cast<index_t>(sizeof(C)),
        detail::LinearPrepare<T, Space>{{k, k, v, context.mask}, prepared.states.view()});
  } else if (options.variant == Variant::transformer_xl) {
    prepared.memory = Tensor<B, T, 4>(be, memory_shape(options, k));
    transformer_xl_memory(be, k, v, parameters.rnn_key, parameters.rnn_value, context.mask,
                          options.segments(), prepared.memory.view());
  } else if (options.variant == Variant::global_tokens) {
    const auto segments = detail::for_generation(options, horizon).segments();
    detail::check_segments("prepare_cross_attention", segments);
    const detail::GlobalTokensInputs<T, Space> in{k, k, v, context, segments};
    prepared.memory = Tensor<B, T, 4>(be, {2, lanes, in.most_segments(), D});
    be.for_each_row(lanes, 0, detail::PrepareMeans<T, Space>{in, prepared.memory.view(), steps});
  }
  return prepared;
}

/// out = the cross-attention of decoder step `step`: K rows of each of G groups.
///   q, out   [G,H,K,D], k, v [B,H,N,D], `prepared` for them with the same horizon
///   sources  [G] on the backend, the source of each group; null: group g has source g
template <class B, class T>
requires BackendFor<B, T>
void cross_attention_step(B& be, In<B, T, 4> q, In<B, T, 4> k, In<B, T, 4> v,
                          const std::type_identity_t<CrossAttentionParameters<const T>>& parameters,
                          const AttendContext<compute_t<T>, typename B::space>& context,
                          const CrossAttentionOptions& options, index_t horizon, index_t step,
                          const DecodeStates<B, T>& prepared, View<T, 4, typename B::space> out,
                          const std::int32_t* sources = nullptr) {
  using Space = typename B::space;
  using C = compute_t<T>;
  constexpr auto name = "cross_attention_step";
  require(q.size() > 0 && k.size() > 0, name, "q and k may not be empty");
  check_shape(name, "k", "[B,H,N,D]", k.extents,
              std::array{k.extent(0), q.extent(1), k.extent(2), q.extent(3)});
  check_shape(name, "v", "[B,H,N,D]", v.extents, k.extents);
  check_shape(name, "out", "[G,H,K,D]", out.extents, q.extents);
  require(sources != nullptr || q.extent(0) == k.extent(0), name,
          std::to_string(q.extent(0)) + " groups for " + std::to_string(k.extent(0)) +
              " sources, and nothing says which belongs to which");
  require(q.stride(3) == 1 && k.stride(3) == 1 && v.stride(3) == 1 && out.stride(3) == 1, name,
          "the last axis of q, k, v and out must be contiguous");
  const CrossAttentionOptions spread = detail::for_generation(options, horizon);
  detail::check_segments(name, spread.segments());
  const index_t K = q.extent(2), N = k.extent(2), D = q.extent(3), L = options.segment_size;
  const index_t lanes = q.extent(0) * q.extent(1);
  detail::StepInputs<T, Space> in{q, k, v, out, context, sources, step};
  in.context.mask.query_offset = step;
  in.context.mask.dense.strides[2] = 0;  // all queries are at the row of the first
  const auto run = [&](index_t of_c, index_t of_t, const auto& functor) {
    be.for_each_row(lanes,
                    of_c * static_cast<index_t>(sizeof(C)) + of_t * static_cast<index_t>(sizeof(T)),
                    functor);
  };
  const index_t S = (N + L - 1) / L, gathered = std::min(L, N) + S;
  switch (options.variant) {
    case Variant::full:
      if constexpr (HasBatchedGemm<B>) {
        return detail::full_attention_batched_forward<B, T>(be, q, k, v, in.context, out, sources);
      } else {
        return run(K * N, 0, detail::FullStep<T, Space>{in});
      }
    case Variant::segmented:
      return run(
          K * std::min(L, N), 0,
          detail::SegmentedStep<T, Space>{in, {q, k, v, {}, context, spread.recurrent()}, {}});
    case Variant::segmented_recurrent:
      return run(K * (L + D), 0,
                 detail::SegmentedStep<T, Space>{
                     in,
                     {q, k, v, parameters.recurrent, context, spread.recurrent()},
                     prepared.states.view()});
    case Variant::global_tokens:
      return run(K * gathered, 2 * gathered * D,
                 detail::GlobalTokensStep<T, Space>{in, spread.segments(), prepared.memory.view()});
    case Variant::transformer_xl:
      return run(K * 2 * L, 4 * L * D,
                 detail::XlStep<T, Space>{in, spread.segments(), prepared.memory.view()});
    case Variant::linear:
      return run(2 * K * D, 0, detail::LinearRowsStep<T, Space>{in, prepared.states.view()});
  }
}

/// How the rows of a decoder step go on from those of the step before: row r continues row parents[r],
/// and the rows of group g, parents.size() / sources.size() of them, belong to source sources[g]. Both
/// empty: the rows stay as they are.
struct NextRows {
  std::span<const std::int32_t> parents{}, sources{};
};

/// The rows of a decoder step, and the table of the rows of earlier steps that they go back to. The first
/// step has one row for each source.
template <class B>
class DecodeRows {
 public:
  DecodeRows() = default;

  /// Up to `most_rows` rows a step, which is no less than the sources.
  DecodeRows(B& be, index_t sources, index_t most_rows, index_t max_steps)
      : all_sources_(sources),
        most_(most_rows),
        max_steps_(max_steps),
        rows_(sources),
        groups_(sources),
        said_(be, {2 * most_rows}),
        places_(be, {most_rows, max_steps}),
        before_(be, {most_rows, max_steps}) {
    require(sources >= 1 && most_rows >= sources && max_steps >= 1, "DecodeRows",
            "there must be a source, a row for each and a step");
  }

  index_t rows() const { return rows_; }
  index_t groups() const { return groups_; }
  index_t most_rows() const { return most_; }
  index_t max_steps() const { return max_steps_; }
  /// The source of each group, on the backend; null: group g has source g.
  const std::int32_t* sources() const { return moved_ ? said_.data() + most_ : nullptr; }
  const std::int32_t* places() const { return places_.data(); }

  /// Makes the table that of the rows of `step`. Throws for rows that are not there.
  void go_on(B& be, index_t step, const NextRows& next) {
    if (next.parents.empty() && next.sources.empty()) {
      return be.for_each(rows_, detail::StayInPlace{places_.data(), max_steps_, step});
    }
    const auto rows = static_cast<index_t>(next.parents.size());
    const auto groups = static_cast<index_t>(next.sources.size());
    require(step >= 1, "DecodeRows", "the first step has no rows before it to go on from");
    require(groups >= 1 && rows >= groups && rows % groups == 0 && rows <= most_, "DecodeRows",
            std::to_string(rows) + " rows in " + std::to_string(groups) +
                " groups, expected groups of equal size and " + std::to_string(most_) +
                " rows at most");
    const auto all = [](std::span<const std::int32_t> x, index_t end) {
      return std::ranges::all_of(x, [=](std::int32_t i) { return i >= 0 && i < end; });
    };
    require(all(next.parents, rows_), "DecodeRows", "a parent is no row of the step before");
    require(all(next.sources, all_sources_), "DecodeRows",
            "a group has a source that is not there");
    be.from_host(said_.data(), next.parents.data(), rows);
    be.from_host(said_.data() + most_, next.sources.data(), groups);
    std::swap(places_, before_);
    be.for_each(rows * (step + 1), detail::FollowParents{said_.data(), before_.data(),
                                                         places_.data(), max_steps_, step});
    rows_ = rows, groups_ = groups, moved_ = true;
  }

 private:
  index_t all_sources_ = 0, most_ = 0, max_steps_ = 0, rows_ = 0, groups_ = 0;
  bool moved_ = false;
  Tensor<B, std::int32_t, 1> said_;  // parents, then sources
  Tensor<B, std::int32_t, 2> places_, before_;
};

/// out = the self-attention of the rows at `step`, each to those that it goes back to and to itself.
///   qkv   [steps,R,3*H*D]  q, k and v of every step; those of this step are there already
///   out   [rows,H*D]
///   mask  of it relative alone counts: its column relative_zero + s is the bias towards step s
/// Cost 4 (step + 1) H D a row.
template <class B, class T>
requires BackendFor<B, T>
void self_attention_step(B& be, In<B, T, 3> qkv, const DecodeRows<B>& rows, index_t step,
                         index_t heads, const ScoreMask<compute_t<T>, typename B::space>& mask,
                         View<T, 2, typename B::space> out) {
  constexpr auto name = "self_attention_step";
  check_shape(name, "qkv", "[steps,R,3*H*D]", qkv.extents,
              std::array{rows.max_steps(), rows.most_rows(), 3 * out.extent(1)});
  require(out.extent(0) == rows.rows() && heads >= 1 && out.extent(1) % heads == 0, name,
          "out is not [rows,H*D]");
  require(qkv.stride(2) == 1 && out.stride(1) == 1, name,
          "the last axis of qkv and out must be contiguous");
  require(step >= 0 && step < rows.max_steps(), name, "the step is outside the cache");
  const index_t n = step + 1, D = out.extent(1) / heads;
  be.for_each_row(out.extent(0) * heads, (n + D) * static_cast<index_t>(sizeof(compute_t<T>)),
                  detail::SelfStep<T, typename B::space>{qkv, rows.places(), rows.max_steps(), step,
                                                         heads, mask, out});
}

}  // namespace srformer
