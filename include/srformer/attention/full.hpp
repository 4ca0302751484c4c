// SPDX-License-Identifier: Apache-2.0
// Ordinary attention, for encoder and decoder self-attention and as the cross-attention "full":
//
//   A_i = sum_j softmax_j(q_i . k_j + bias_ij) v_j
//
// Scores exist for a block of queries at a time, never as a whole; backward computes them again, so
// nothing is saved. attention/attend.hpp has the gradient.
#pragma once

#include <srformer/attention/detail/full_batched.hpp>
#include <srformer/attention/variant.hpp>

namespace srformer {

namespace SRF_DETAIL {

/// Queries taken at a time: their scores fill about a quarter of a megabyte.
inline constexpr index_t query_block(index_t keys) {
  const index_t rows = 65536 / (keys > 0 ? keys : 1);
  return rows < 16 ? 16 : rows > 128 ? 128 : rows;
}

template <class T, class Space>
struct FullForward {
  using C = compute_t<T>;
  View<const T, 4, Space> q, k, v;
  View<T, 4, Space> out;
  AttendContext<C, Space> context;
  index_t rows_each, blocks;

  /// One row is one block of queries of one source and head.
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void* scratch) const {
    const index_t H = q.extent(1), M = q.extent(2), N = k.extent(2), D = q.extent(3);
    const index_t first = row % blocks * rows_each, lane = row / blocks;
    const index_t b = lane / H, h = lane % H;
    const index_t count = M - first < rows_each ? M - first : rows_each;
    const index_t keys = context.mask.visible(first + count - 1, context.mask.keys(b, N));
    const ScoreBlock block{b, h, D, H, M, N, first, count, 0, keys, 0, row_gap<C, Space>};
    const AttendRows<T> rows{head_rows(q, b, h).from(first), head_rows(k, b, h),
                             head_rows(v, b, h)};
    attend_forward(team, context, block, rows, C(1), head_rows(out, b, h).from(first),
                   static_cast<C*>(scratch));
  }
};

template <class T, class Space>
struct FullBackward {
  using C = compute_t<T>;
  static constexpr index_t gap = row_gap<C, Space>;
  View<const T, 4, Space> q, k, v, d_out;
  View<T, 4, Space> d_q, d_k, d_v;
  C* d_relative;  // [B,H,M+N-1]
  AttendContext<C, Space> context;
  index_t rows_each;

  /// Whether keys, values and their gradients lie row after row and in C while a lane is worked on: where blocks of
  /// queries go through them several times, and they are stored narrower, or have rows of other heads between
  /// theirs, so that every few of them take another page of memory.
  SRF_HD bool gathers() const {
    const index_t D = q.extent(3);
    const bool apart =
        k.stride(2) != D || v.stride(2) != D || d_k.stride(2) != D || d_v.stride(2) != D;
    return q.extent(2) > rows_each && (apart || !std::is_same_v<T, C>);
  }
  SRF_HD index_t weights_size() const { return rows_each * (k.extent(2) + gap); }
  index_t scratch_size() const {
    return 2 * weights_size() + (gathers() ? 4 * k.extent(2) * k.extent(3) : 0);
  }

  /// One row is one source and head.
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = q.extent(1), M = q.extent(2), N = k.extent(2), D = q.extent(3);
    const index_t b = lane / H, h = lane % H, existing = context.mask.keys(b, N);
    C* weights = static_cast<C*>(scratch);
    C *d_weights = weights + weights_size(), *near = d_weights + weights_size();
    C* d_rel = d_relative == nullptr ? nullptr : d_relative + b * H * (M + N - 1);
    const Rows<const T> key = head_rows(k, b, h), value = head_rows(v, b, h);
    const Rows<T> d_key = head_rows(d_k, b, h), d_value = head_rows(d_v, b, h);
    const auto add_blocks = [&]<class K>(Rows<const K> keys_of, Rows<const K> values_of,
                                         Rows<K> sum_k, Rows<K> sum_v) {
      for (index_t first = 0; first < M; first += rows_each) {
        const index_t count = M - first < rows_each ? M - first : rows_each;
        const index_t keys = context.mask.visible(first + count - 1, existing);
        const ScoreBlock block{b, h, D, H, M, N, first, count, 0, keys, 0, gap};
        const AttendRows<T, K> rows{head_rows(q, b, h).from(first), keys_of, values_of};
        const AttendGradients<T, K> d{head_rows(d_out, b, h).from(first),
                                      head_rows(d_q, b, h).from(first), sum_k, sum_v, d_rel};
        attend_backward(team, context, block, rows, C(1), d, AttendScratch<C>{weights, d_weights});
      }
    };
    if (!gathers()) return add_blocks(key, value, d_key, d_value);
    const Rows<C> near_k{near, D}, near_v = near_k.from(N), sum_k = near_v.from(N),
                                   sum_v = sum_k.from(N);
    for (index_t t = 0; t < existing; ++t) {
      const T *from_k = key.row(t), *from_v = value.row(t);
      C *to_k = near_k.row(t), *to_v = near_v.row(t), *zero_k = sum_k.row(t),
        *zero_v = sum_v.row(t);
      team.for_each(D, [=](index_t c) {
        to_k[c] = C(from_k[c]), to_v[c] = C(from_v[c]);
        zero_k[c] = C(0), zero_v[c] = C(0);
      });
    }
    add_blocks(Rows<const C>(near_k), Rows<const C>(near_v), sum_k, sum_v);
    for (index_t t = 0; t < existing; ++t) {
      T *to_k = d_key.row(t), *to_v = d_value.row(t);
      const C *from_k = sum_k.row(t), *from_v = sum_v.row(t);
      team.for_each(D, [=](index_t c) {
        to_k[c] = T(C(to_k[c]) + from_k[c]);
        to_v[c] = T(C(to_v[c]) + from_v[c]);
      });
    }
  }
};

template <class T, class Space>
struct FullStep {
  using C = compute_t<T>;
  AttentionStep<T, Space> in;

  /// One row is one group and head.
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t lane, void* scratch) const {
    const index_t H = in.heads(), N = in.keys(), K = in.queries(), g = lane / H, h = lane % H;
    const index_t b = in.source(g);
    const ScoreBlock block{b, h, in.head_size(), H, K, N, 0, K, 0, in.context.mask.keys(b, N)};
    const AttendRows<T> rows{head_rows(in.q, g, h), head_rows(in.k, b, h), head_rows(in.v, b, h)};
    attend_forward(team, in.context, block, rows, C(1), head_rows(in.out, g, h),
                   static_cast<C*>(scratch));
  }
};

/// total[i] += sum over b of partial[b, i], in order.
template <class C>
struct AddOverBatch {
  const C* partial;
  C* total;
  index_t batch, count;
  SRF_HD void operator()(index_t i) const {
    for (index_t b = 0; b < batch; ++b) total[i] = total[i] + partial[b * count + i];
  }
};

template <class B, class T>
void check_attention(const char* function, const AttentionInputs<B, T>& in, const auto& out) {
  const auto &q = in.q, &k = in.k, &v = in.v;
  const index_t batch = q.extent(0), H = q.extent(1), D = q.extent(3), N = k.extent(2);
  require(q.size() > 0 && k.size() > 0, function,
          "q is " + shape_text(q.extents) + " and k is " + shape_text(k.extents) +
              ", none may be empty");
  check_shape(function, "k", "[B,H,N,D]", k.extents, std::array{batch, H, N, D});
  check_shape(function, "v", "[B,H,N,D]", v.extents, k.extents);
  const bool backward = std::string_view(function).ends_with("_backward");
  check_shape(function, backward ? "d_out" : "out", "[B,H,M,D]", out.extents, q.extents);
  require(q.stride(3) == 1 && k.stride(3) == 1 && v.stride(3) == 1 && out.stride(3) == 1, function,
          "the last axis of q, k, v and out must be contiguous");
}

template <class B, class T>
void check_attention_gradients(const char* function, const AttentionInputs<B, T>& in,
                               const AttentionGradients<B, T>& d) {
  check_attention(function, in, d.d_out);
  check_shape(function, "d_q", "[B,H,M,D]", d.d_q.extents, in.q.extents);
  check_shape(function, "d_k", "[B,H,N,D]", d.d_k.extents, in.k.extents);
  check_shape(function, "d_v", "[B,H,N,D]", d.d_v.extents, in.k.extents);
  require(d.d_q.stride(3) == 1 && d.d_k.stride(3) == 1 && d.d_v.stride(3) == 1, function,
          "the last axis of d_q, d_k and d_v must be contiguous");
}

}  // namespace SRF_DETAIL

/// Throws shape_error where q, k, v and out do not fit each other; `function` is named in the message.
template <class B, class T>
void check_attention(const char* function, const AttentionInputs<B, T>& in, Out<B, T, 4> out) {
  detail::check_attention(function, in, out);
}

/// out = softmax(q k^T + bias) v.
///   out [B,H,M,D], last axis contiguous
/// Saves nothing. Cost 4 B H M N D.
template <class B, class T>
requires BackendFor<B, T>
void full_attention_forward(B& be, const AttentionInputs<B, T>& in,
                            View<T, 4, typename B::space> out) {
  detail::check_attention("full_attention_forward", in, out);
  check_dropout("full_attention_forward", in.context.dropout);
  if constexpr (HasBatchedGemm<B>) {
    detail::full_attention_batched_forward<B, T>(be, in, out);
  } else {
    const index_t M = in.q.extent(2), N = in.k.extent(2), each = detail::query_block(N);
    const index_t blocks = (M + each - 1) / each;
    constexpr index_t gap = detail::row_gap<compute_t<T>, typename B::space>;
    be.for_each_row(
        in.q.extent(0) * in.q.extent(1) * blocks,
        each * (N + gap) * static_cast<index_t>(sizeof(compute_t<T>)),
        detail::FullForward<T, typename B::space>{in.q, in.k, in.v, out, in.context, each, blocks});
  }
}

/// The gradients in d += those through full_attention_forward; d_relative [H, M+N-1], where given, += that of the
/// bias by distance. Cost 10 B H M N D.
template <class B, class T>
requires BackendFor<B, T>
void full_attention_backward(B& be, const AttentionInputs<B, T>& in,
                             const AttentionGradients<B, T>& d,
                             compute_t<T>* d_relative = nullptr) {
  detail::check_attention_gradients("full_attention_backward", in, d);
  check_dropout("full_attention_backward", in.context.dropout);
  using C = compute_t<T>;
  if constexpr (HasBatchedGemm<B>) {
    detail::full_attention_batched_backward<B, T>(be, in, d, d_relative);
  } else {
    const auto &q = in.q, &k = in.k;
    const index_t batch = q.extent(0), H = q.extent(1), M = q.extent(2), N = k.extent(2);
    const index_t each = detail::query_block(N), distances = H * (M + N - 1);
    Tensor<B, C, 1> partial(be, {d_relative == nullptr ? 0 : batch * distances});
    be.fill(partial.data(), partial.size(), C(0));
    const detail::FullBackward<T, typename B::space> lane{
        q,          k,     in.v,  d.d_out,
        d.d_q,      d.d_k, d.d_v, d_relative == nullptr ? nullptr : partial.data(),
        in.context, each};
    be.for_each_row(batch * H, lane.scratch_size() * static_cast<index_t>(sizeof(C)), lane);
    if (d_relative != nullptr) {
      be.for_each(distances, detail::AddOverBatch<C>{partial.data(), d_relative, batch, distances});
    }
  }
}

/// Ordinary attention as a variant.
struct Full {
  static constexpr std::string_view name = "full";
  using Options = NoOptions;
  template <class T>
  using Parameters = NothingLearned<T>;
  template <class B, class T>
  using Saved = Nothing<B, T>;
  template <class B, class T>
  using Prepared = Nothing<B, T>;

  template <class B, class T>
  static void forward(B& be, const AttentionInputs<B, T>& in, const Parameters<const T>&,
                      const Options&, Saved<B, T>&, Out<B, T, 4> out) {
    full_attention_forward(be, in, out);
  }
  template <class B, class T>
  static void backward(B& be, const AttentionInputs<B, T>& in, const Parameters<const T>&,
                       const Options&, const Saved<B, T>&, const AttentionGradients<B, T>& d,
                       const Parameters<T>&) {
    full_attention_backward(be, in, d);
  }
  template <class B, class T>
  static Prepared<B, T> prepare(B&, const AttentionInputs<B, T>&, const Parameters<const T>&,
                                const Options&) {
    return {};
  }
  template <class B, class T>
  static void step(B& be, const AttentionStep<T, typename B::space>& in, const Parameters<const T>&,
                   const Options&, const Prepared<B, T>&) {
    if constexpr (HasBatchedGemm<B>) {
      detail::full_attention_batched_forward<B, T>(be, {in.q, in.k, in.v, in.context}, in.out,
                                                   in.sources);
    } else {
      for_each_lane<B, T>(be, in, in.queries() * in.keys(), 0,
                          detail::FullStep<T, typename B::space>{in});
    }
  }
};

}  // namespace srformer
