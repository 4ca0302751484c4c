// SPDX-License-Identifier: Apache-2.0
// Cross-attention one query at a time, for decoding: what does not depend on the query is computed
// once per source, then a step costs 4 L D + 2 D^2 per head where full attention costs 4 N D.
//
//   segmented_recurrent  E_j = beta gate R_j / n  for every segment (or step) that `steps` queries visit
//                        O_i = alpha softmax(q_i K_j^T) V_j + q_i E_j,   j = seg(i)
//   linear               KV and z, see attention/linear.hpp
//   transformer_xl       the memory of both RNNs
//   the others           nothing: a step is the forward of one query at its place in the horizon
//
// The horizon is the one of the options' generation_horizon and a parameter of each call. What is
// prepared is the only state, and beams of one source share it.
#pragma once

#include <srformer/attention/cross_attention.hpp>

namespace srformer {

/// The shape [B,H,count,rows,D] of the states that `steps` queries on keys k [B,H,N,D] need; count
/// is 0 where a variant has none.
template <class Keys>
std::array<index_t, 5> decode_state_shape(const CrossAttentionOptions& options, const Keys& k,
                                          index_t steps) {
  const index_t D = k.extent(3),
                S = (k.extent(2) + options.segment_size - 1) / options.segment_size;
  const bool linear = options.variant == Variant::linear;
  const index_t count = linear                                            ? 1
                        : options.variant != Variant::segmented_recurrent ? 0
                        : options.advance == Advance::token               ? steps
                                                                          : S;
  return {k.extent(0), k.extent(1), count, linear ? D + 1 : D, D};
}

namespace detail {

template <class T, class Space>
struct PrepareStates {
  using C = compute_t<T>;
  RecurrentInputs<T, Space> in;
  View<C, 5, Space> states;  // [B,H,count,D,D]
  index_t steps, folded_size, products_size;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.heads(), N = in.keys(), D = in.head_size(), b = lane / H, h = lane % H;
    const SegmentRule rule = segment_rule(in.options.segments, in.context.mask, b, steps, N);
    const Rows<const T> k = head_rows(in.k, b, h), v = head_rows(in.v, b, h);
    C* folded = static_cast<C*>(scratch);
    C *z = folded + folded_size, *own = z + products_size, *recurrence = own + products_size;
    C* inverse = recurrence + 5 * D * D;
    inverse_norms<Team, T, C>(team, rule.length, D, k, in.options.normalize, inverse);
    const C share = in.share_of_rest() * in.gate(h);
    const bool token = in.options.advance == Advance::token;
    const index_t most = rows_at_a_time<Space>(rule.length, rule.visited(steps), D);
    with_product_values(team, in, rule.length, v, folded, [&](auto y) {
      for (index_t r0 = 0; r0 < D; r0 += most) {
        const ProductRows rows{D - r0 < most ? D - r0 : most, D, r0};
        run_recurrence<Team, T>(team, in, rule, steps, rows, k, y, z, own, static_cast<C*>(nullptr),
                                recurrence, [&](index_t j, const C* r, index_t first, index_t) {
                                  C* to = &states(b, h, token ? first : j, r0, 0);
                                  for (index_t row = 0; row < rows.count; ++row) {
                                    team.for_each(D, [=](index_t c) {
                                      to[row * D + c] = share * r[row * D + c] * inverse[c];
                                    });
                                  }
                                });
      }
    });
  }
};

template <class T, class Space>
struct SegmentedStep {
  using C = compute_t<T>;
  RecurrentInputs<T, Space> in;
  View<const C, 5, Space> states;
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
    const bool local = in.options.local;
    if (local) {
      const index_t real = rule.keys(j);
      const bool upstream = in.options.segments.padding == Padding::upstream;
      const ScoreBlock block{
          b, h, D, H, 1, N, 0, 1, rule.first_key(j), real, upstream ? rule.size - real : 0};
      attend_forward<Team, T, C, Space>(
          team, in.context, block, q, head_rows(in.k, b, h).from(block.first_key),
          head_rows(in.v, b, h).from(block.first_key), in.share_of_local(), o, weights);
    }
    const index_t state = in.options.advance == Advance::token ? step : j;
    team.gemm(Op::none, Op::none, 1, D, D, C(1), q.data, q.stride, &states(b, h, state, 0, 0), D,
              C(0), rest, D);
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

/// What does not depend on the query, for `steps` decoder steps over a batch of sources.
template <class B, class T>
struct DecodeStates {
  Tensor<B, compute_t<T>, 5> states;  ///< of segmented_recurrent and linear
  Tensor<B, T, 4> memory;             ///< of transformer_xl
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
  const index_t D = k.extent(3), N = k.extent(2), lanes = k.extent(0) * k.extent(1);
  DecodeStates<B, T> prepared;
  const auto shape = decode_state_shape(options, k, steps);
  if (shape[2] > 0) prepared.states = Tensor<B, C, 5>(be, shape);
  if (options.variant == Variant::segmented_recurrent) {
    const detail::RecurrentInputs<T, Space> in{
        {},      k,
        v,       parameters.recurrent,
        context, detail::for_generation(options, horizon).recurrent()};
    detail::check_recurrent("prepare_cross_attention", in);
    const index_t folded = in.folded() ? N * D : 0;
    const index_t products =
        detail::most_cells_at_a_time<Space>(N, detail::most_visited(in, steps), D);
    be.for_each_row(
        lanes, (folded + 2 * products + 5 * D * D + D) * static_cast<index_t>(sizeof(C)),
        detail::PrepareStates<T, Space>{in, prepared.states.view(), steps, folded, products});
  } else if (options.variant == Variant::linear) {
    be.for_each_row(
        lanes, detail::linear_rows * D * static_cast<index_t>(sizeof(C)),
        detail::LinearPrepare<T, Space>{{k, k, v, context.mask}, prepared.states.view()});
  } else if (options.variant == Variant::transformer_xl) {
    prepared.memory = Tensor<B, T, 4>(be, memory_shape(options, k));
    transformer_xl_memory(be, k, v, parameters.rnn_key, parameters.rnn_value, context.mask,
                          options.segments(), prepared.memory.view());
  }
  return prepared;
}

/// out = the cross-attention of decoder step `step`, one query per source.
///   q, out [B,H,1,D], k, v [B,H,N,D], `prepared` for them with the same horizon
template <class B, class T>
requires BackendFor<B, T>
void cross_attention_step(B& be, In<B, T, 4> q, In<B, T, 4> k, In<B, T, 4> v,
                          const std::type_identity_t<CrossAttentionParameters<const T>>& parameters,
                          const AttendContext<compute_t<T>, typename B::space>& context,
                          const CrossAttentionOptions& options, index_t horizon, index_t step,
                          const DecodeStates<B, T>& prepared, View<T, 4, typename B::space> out) {
  using Space = typename B::space;
  using C = compute_t<T>;
  detail::check_attention("cross_attention_step", q, k, v, out);
  require(q.extent(2) == 1, "cross_attention_step", "q holds more than one query per source");
  const CrossAttentionOptions spread = detail::for_generation(options, horizon);
  AttendContext<C, Space> here = context;
  here.mask.query_offset = step;
  const index_t D = q.extent(3), lanes = q.extent(0) * q.extent(1);
  switch (options.variant) {
    case Variant::full:
      return full_attention_forward(be, q, k, v, context, out);
    case Variant::segmented:
      return segmented_attention_forward(be, q, k, v, here, spread.segments(), out);
    case Variant::global_tokens:
      return global_tokens_forward(be, q, k, v, here, spread.segments(), out);
    case Variant::transformer_xl:
      return transformer_xl_forward(be, q, k, v, prepared.memory, here, spread.segments(), out);
    case Variant::linear:
      return be.for_each_row(
          lanes, 2 * D * static_cast<index_t>(sizeof(C)),
          detail::LinearStep<T, Space>{{q, k, v, context.mask}, prepared.states.view(), out});
    case Variant::segmented_recurrent:
      break;
  }
  const detail::RecurrentInputs<T, Space> in{
      q, k, v, parameters.recurrent, context, spread.recurrent()};
  detail::check_segments("cross_attention_step", in.options.segments);
  be.for_each_row(lanes, (options.segment_size + D) * static_cast<index_t>(sizeof(C)),
                  detail::SegmentedStep<T, Space>{in, prepared.states.view(), out, step});
}

}  // namespace srformer
