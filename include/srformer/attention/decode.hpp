// SPDX-License-Identifier: Apache-2.0
// Cross-attention one query at a time, for decoding: what does not depend on the query is computed
// once per source, then a step costs 4 L D + 2 D^2 per head where full attention costs 4 N D.
//
//   prepare  E_j = beta gate R_j / n        for every segment (or step) that `steps` queries visit
//   step     O_i = alpha softmax(q_i K_j^T) V_j + q_i E_j,   j = seg(i)
//
// The horizon is the one of the options' generation_horizon and a parameter of each call; there is
// no state but E, which beams of one source share.
#pragma once

#include <srformer/attention/cross_attention.hpp>

namespace srformer {

/// How many states [D,D] a source of N keys needs for `steps` queries.
inline index_t recurrent_state_count(const CrossAttentionOptions& options, index_t keys,
                                     index_t steps) {
  if (options.variant != Variant::segmented_recurrent) return 0;
  if (options.advance == Advance::token) return steps;
  return (keys + options.segment_size - 1) / options.segment_size;
}

namespace detail {

template <class T, class Space>
struct PrepareStates {
  using C = compute_t<T>;
  RecurrentInputs<T, Space> in;
  View<C, 5, Space> states;  // [B,H,count,D,D]
  index_t steps, folded_size, recurrence_size;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.heads(), N = in.keys(), D = in.head_size(), b = lane / H, h = lane % H;
    const SegmentRule rule = segment_rule(in.options.segments, in.context.mask, b, steps, N);
    const Rows<const T> k = head_rows(in.k, b, h), v = head_rows(in.v, b, h);
    C* folded = static_cast<C*>(scratch);
    C *recurrence = folded + folded_size, *inverse = recurrence + recurrence_size;
    inverse_norms<Team, T, C>(team, rule.length, D, k, in.options.normalize, inverse);
    const C share = in.share_of_rest() * in.gate(h);
    const bool token = in.options.advance == Advance::token;
    with_product_values(team, in, rule.length, v, folded, [&](auto y) {
      run_recurrence<Team, T>(team, in, rule, steps, k, y, static_cast<C*>(nullptr),
                              static_cast<C*>(nullptr), recurrence,
                              [&](index_t j, const C* r, index_t first, index_t) {
                                C* to = &states(b, h, token ? first : j, 0, 0);
                                for (index_t row = 0; row < D; ++row) {
                                  team.for_each(D, [=](index_t c) {
                                    to[row * D + c] = share * r[row * D + c] * inverse[c];
                                  });
                                }
                              });
    });
  }
};

template <class T, class Space>
struct SegmentedStep {
  using C = compute_t<T>;
  RecurrentInputs<T, Space> in;
  View<const C, 5, Space> states;  // none: segmented alone
  View<T, 4, Space> out;
  index_t step;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.q.extent(1), N = in.keys(), D = in.head_size(), b = lane / H, h = lane % H;
    const SegmentRule rule = segment_rule(in.options.segments, in.context.mask, b, step + 1, N);
    const index_t j = rule.of(step);
    const Rows<const T> q = head_rows(in.q, b, h);
    const Rows<T> o = head_rows(out, b, h);
    C *weights = static_cast<C*>(scratch), *rest = weights + in.options.segments.segment_size;
    const bool local = in.options.local, recurrent = states.data != nullptr;
    if (local) {
      const index_t real = rule.keys(j);
      const bool upstream = in.options.segments.padding == Padding::upstream;
      const ScoreBlock block{b, h, D, H, 1, N, 0, 1, rule.first_key(j), real, upstream ? rule.size - real : 0};
      attend_forward<Team, T, C, Space>(team, in.context, block, q,
                                        head_rows(in.k, b, h).from(block.first_key),
                                        head_rows(in.v, b, h).from(block.first_key),
                                        in.share_of_local(), o, weights);
    }
    if (!recurrent) return;
    const index_t state = in.options.advance == Advance::token ? step : j;
    team.gemm(Op::none, Op::none, 1, D, D, C(1), q.data, q.stride, &states(b, h, state, 0, 0), D, C(0),
              rest, D);
    T* to = o.row(0);
    team.for_each(D, [=](index_t c) { to[c] = T(local ? C(to[c]) + rest[c] : rest[c]); });
  }
};

/// Options with the horizon of decoding in place of that of training.
inline CrossAttentionOptions for_generation(CrossAttentionOptions options, index_t horizon) {
  options.horizon = horizon > 0 ? horizon : options.generation_horizon;
  return options;
}

}  // namespace detail

/// states = what the recurrence leaves to `steps` queries, gate and 1/n folded in.
///   k, v [B,H,N,D], states [B,H,count,D,D] with count = recurrent_state_count; states that no query
///   visits are not written. `horizon` 0 takes the options' generation_horizon.
/// Cost that of the recurrent part of segmented_recurrent_forward.
template <class B, class T>
  requires BackendFor<B, T>
void prepare_recurrent_states(B& be, View<const T, 4, typename B::space> k, In<B, T, 4> v,
                              const std::type_identity_t<RecurrentParameters<const T>>& parameters,
                              const AttendContext<compute_t<T>, typename B::space>& context,
                              const CrossAttentionOptions& options, index_t horizon, index_t steps,
                              Out<B, compute_t<T>, 5> states) {
  using Space = typename B::space;
  require(options.variant == Variant::segmented_recurrent, "prepare_recurrent_states",
          "only segmented_recurrent has recurrent states");
  const index_t D = k.extent(3), N = k.extent(2);
  check_shape("prepare_recurrent_states", "states", "[B,H,count,D,D]", states.extents,
              std::array{k.extent(0), k.extent(1), recurrent_state_count(options, N, steps), D, D});
  const detail::RecurrentInputs<T, Space> in{
      {}, k, v, parameters, context, detail::for_generation(options, horizon).recurrent()};
  detail::check_recurrent("prepare_recurrent_states", in);
  const index_t folded = in.folded() ? N * D : 0;
  const index_t recurrence = detail::recurrence_scratch(N, D, options.segment_size);
  be.for_each_row(
      k.extent(0) * k.extent(1),
      (folded + recurrence + D) * static_cast<index_t>(sizeof(compute_t<T>)),
      detail::PrepareStates<T, Space>{in, states, steps, folded, recurrence});
}

/// out = the cross-attention of decoder step `step`, one query per source.
///   q, out [B,H,1,D], k, v [B,H,N,D], states as prepared (empty view: a variant without)
template <class B, class T>
  requires BackendFor<B, T>
void cross_attention_step(B& be, In<B, T, 4> q, In<B, T, 4> k, In<B, T, 4> v,
                          const std::type_identity_t<RecurrentParameters<const T>>& parameters,
                          const AttendContext<compute_t<T>, typename B::space>& context,
                          const CrossAttentionOptions& options, index_t horizon, index_t step,
                          In<B, compute_t<T>, 5> states, View<T, 4, typename B::space> out) {
  using Space = typename B::space;
  detail::check_attention("cross_attention_step", q, k, v, out);
  require(q.extent(2) == 1, "cross_attention_step", "q holds more than one query per source");
  if (options.variant == Variant::full) return full_attention_forward(be, q, k, v, context, out);
  SegmentedRecurrentOptions recurrent = detail::for_generation(options, horizon).recurrent();
  detail::check_segments("cross_attention_step", recurrent.segments);
  RecurrentParameters<const T> used = parameters;
  if (options.variant == Variant::segmented) recurrent.local = true, used = {};
  const detail::RecurrentInputs<T, Space> in{q, k, v, used, context, recurrent};
  be.for_each_row(q.extent(0) * q.extent(1),
                  (options.segment_size + q.extent(3)) * static_cast<index_t>(sizeof(compute_t<T>)),
                  detail::SegmentedStep<T, Space>{in, states, out, step});
}

}  // namespace srformer
