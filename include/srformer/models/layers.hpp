// SPDX-License-Identifier: Apache-2.0
// The sublayers that encoder-decoder models are made of: parameters, and calls into ops and attention.
//
//   residual        y = x + dropout(a W^T + b)
//   self-attention  a = attention(s q, k, v),  [q k v] = h W_qkv^T + b_qkv
//   cross-attention the same with k, v from the encoder's output
//   feed-forward    f(h W_i^T + b_i) W_o^T + b_o, or (f(h W_0^T) (h W_1^T)) W_o^T
//
// T5 has neither biases nor the scale s of the queries; BART has s = D^-1/2.
//
// Each keeps in its Saved what its backward reads; the rest is computed again.
#pragma once

#include <optional>

#include <srformer/attention/cross_attention.hpp>
#include <srformer/models/initialization.hpp>
#include <srformer/models/parameters.hpp>
#include <srformer/models/seq2seq.hpp>
#include <srformer/ops/activation.hpp>
#include <srformer/ops/linear.hpp>
#include <srformer/ops/norm.hpp>

namespace srformer {

/// Sizes that rows of a batch have in an attention sublayer.
struct AttentionShape {
  index_t batch, queries, keys, heads, head_size;
  index_t inner() const { return heads * head_size; }
};

/// The values and the gradient of a bias that a layer may lack.
template <class B, class T>
std::optional<In<B, T, 1>> bias_of(const Parameter<B, T>* p) {
  return p == nullptr ? std::nullopt : std::optional<In<B, T, 1>>(p->vector());
}
template <class B, class T>
std::optional<Out<B, T, 1>> d_bias_of(const Parameter<B, T>* p) {
  return p == nullptr ? std::nullopt : std::optional<Out<B, T, 1>>(p->d_vector());
}
/// The same of biases that follow each other in memory.
template <class B, class T>
std::optional<In<B, T, 1>> stacked_bias(const Parameter<B, T>* first, index_t count) {
  if (first == nullptr) return std::nullopt;
  return In<B, T, 1>(first->value, {count});
}
template <class B, class T>
std::optional<Out<B, T, 1>> d_stacked_bias(const Parameter<B, T>* first, index_t count) {
  if (first == nullptr) return std::nullopt;
  return Out<B, T, 1>(first->gradient, {count});
}

/// y = x + dropout(a W^T + b), and its backward; W and b are the output projection of a sublayer.
template <class B, class T>
struct Residual {
  static Tensor<B, T, 2> forward(B& be, const Parameter<B, T>& weight, In<B, T, 2> x, In<B, T, 2> a,
                                 const Dropout& dropout, const Parameter<B, T>* bias = nullptr) {
    Tensor<B, T, 2> y = clone<B, const T, 2>(be, x);
    if (dropout.active()) {
      Tensor<B, T, 2> branch(be, x.extents);
      linear_forward(be, a, weight.weight(), bias_of(bias), branch.view());
      dropout_forward(be, branch, y.view(), dropout);
    } else {
      linear_forward(be, a, weight.weight(), bias_of(bias), y.view(), {.add_to_output = true});
    }
    return y;
  }

  /// Returns d_a; d_y is the gradient of x as well and stays as it is.
  static Tensor<B, T, 2> backward(B& be, const Parameter<B, T>& weight, In<B, T, 2> a,
                                  In<B, T, 2> d_y, const Dropout& dropout,
                                  const Parameter<B, T>* bias = nullptr) {
    Tensor<B, T, 2> d_a = zeros<T, 2>(be, a.extents);
    Tensor<B, T, 2> d_branch;
    In<B, T, 2> d = d_y;
    if (dropout.active()) {
      d_branch = clone<B, const T, 2>(be, d_y);
      dropout_in_place(be, d_branch.view(), dropout);
      d = d_branch.view().as_const();
    }
    linear_backward(be, a, weight.matrix(), d, d_a.view(), weight.d_matrix(), d_bias_of(bias));
    return d_a;
  }
};

namespace detail {

/// The first `columns` of every row, times a factor.
template <class T>
struct ScaleColumns {
  T* x;
  index_t row_stride, columns;
  compute_t<T> factor;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    using C = compute_t<T>;
    T* at = x + row * row_stride;
    const C f = factor;
    team.for_each(columns, [=](index_t c) { at[c] = T(f * C(at[c])); });
  }
};

/// Queries, or their gradients, times s; nothing where s is 1.
template <class B, class T>
void scale_queries(B& be, View<T, 2, typename B::space> x, index_t columns, double factor) {
  if (factor == 1) return;
  be.for_each_row(x.extent(0), 0,
                  ScaleColumns<T>{x.data, x.stride(0), columns, compute_t<T>(factor)});
}

}  // namespace detail

/// Multi-head attention of a sequence to itself. q, k and v lie one after another in memory.
template <class B, class T>
struct SelfAttention {
  Parameter<B, T>*q, *k, *v, *o;
  Parameter<B, T>*q_bias = nullptr, *o_bias = nullptr;  ///< those of k and v follow that of q
  double query_scale = 1;

  struct Saved {
    SpacedRows<B, T> qkv;  ///< [B*M, 3*H*D]
    Tensor<B, T, 2> a;     ///< [B*M, H*D]
  };
  /// The gradient of a, and those to which backward adds.
  struct Gradients {
    In<B, T, 2> d_a;
    Out<B, T, 2> d_h;
    compute_t<T>* d_relative = nullptr;  ///< [H, 2M-1] of the bias, where given
  };

  /// [s q, k, v] of h [R,E].
  void project(B& be, In<B, T, 2> h, View<T, 2, typename B::space> qkv) const {
    const index_t columns = qkv.extent(1);
    linear_forward(be, h, stacked_weight(*q, columns), stacked_bias(q_bias, columns), qkv);
    detail::scale_queries<B, T>(be, qkv, columns / 3, query_scale);
  }

  /// a = attention of h [B*M,E] to itself, kept in saved.
  void forward(B& be, const AttentionShape& s, In<B, T, 2> h,
               const AttendContext<compute_t<T>, typename B::space>& context, Saved& saved) const {
    saved.qkv = SpacedRows<B, T>(be, h.extent(0), 3 * s.inner());
    saved.a = Tensor<B, T, 2>(be, {h.extent(0), s.inner()});
    project(be, h, saved.qkv.view());
    full_attention_forward(be, inputs(s, saved, context),
                           as_heads(saved.a.view(), s.batch, s.heads, s.head_size));
  }

  void backward(B& be, const AttentionShape& s, In<B, T, 2> h,
                const AttendContext<compute_t<T>, typename B::space>& context, const Saved& saved,
                const Gradients& d) const {
    auto d_qkv = SpacedRows<B, T>::zeros(be, h.extent(0), 3 * s.inner());
    const AttentionGradients<B, T> d_attention{
        as_heads<const T>(d.d_a, s.batch, s.heads, s.head_size), part(s, d_qkv, 0),
        part(s, d_qkv, 1), part(s, d_qkv, 2)};
    full_attention_backward(be, inputs(s, saved, context), d_attention, d.d_relative);
    detail::scale_queries<B, T>(be, d_qkv.view(), s.inner(), query_scale);
    linear_backward(be, h, stacked(*q, 3 * s.inner()), d_qkv, d.d_h, d_stacked(*q, 3 * s.inner()),
                    d_stacked_bias(q_bias, 3 * s.inner()));
  }

 private:
  static AttentionInputs<B, T> inputs(
      const AttentionShape& s, const Saved& saved,
      const AttendContext<compute_t<T>, typename B::space>& context) {
    return {part(s, saved.qkv, 0), part(s, saved.qkv, 1), part(s, saved.qkv, 2), context};
  }
  template <class Matrix>
  static auto part(const AttentionShape& s, Matrix& qkv, index_t which) {
    return as_heads(qkv.view(), s.batch, s.heads, s.head_size, which * s.inner());
  }
};

/// The initial value of a learned parameter of a variant in place of the one that the variant says: of a constant
/// the value, of uniform numbers the factor.
struct InitialValue {
  std::string_view name;
  double value;
};

/// The decoder's attention to the source, of any variant in `List`. k and v lie one after another in memory.
template <class B, class T, class List>
struct CrossAttention {
  using Options = typename List::Options;
  Parameter<B, T>*q, *k, *v, *o;
  Parameter<B, T>*q_bias = nullptr, *k_bias = nullptr, *o_bias = nullptr;  ///< v's follows k's
  double query_scale = 1;
  std::vector<Parameter<B, T>*> learned{};  ///< by the variant

  struct Inputs {
    In<B, T, 2> h, source;  ///< [B*M,E], [B*N,E]
  };
  struct Saved {
    SpacedRows<B, T> q, kv;                  ///< [B*M, H*D], [B*N, 2*H*D]
    Tensor<B, T, 2> a;                       ///< [B*M, H*D]
    typename List::template Saved<B, T> of;  ///< what the variant keeps
  };
  /// The gradient of a, and those of the inputs, to which backward adds.
  struct Gradients {
    In<B, T, 2> d_a;
    Out<B, T, 2> d_h, d_source;
  };

  LearnedPointers<T> parameters() const {
    LearnedPointers<T> pointers;
    for (const Parameter<B, T>* p : learned) pointers.add(p->value);
    return pointers;
  }
  LearnedPointers<T> d_parameters() const {
    LearnedPointers<T> pointers;
    for (const Parameter<B, T>* p : learned) pointers.add(p->gradient);
    return pointers;
  }

  void queries(B& be, In<B, T, 2> h, View<T, 2, typename B::space> out) const {
    linear_forward(be, h, q->weight(), bias_of(q_bias), out);
    detail::scale_queries<B, T>(be, out, out.extent(1), query_scale);
  }
  void keys_and_values(B& be, const AttentionShape& s, In<B, T, 2> source,
                       View<T, 2, typename B::space> kv) const {
    linear_forward(be, source, stacked_weight(*k, 2 * s.inner()),
                   stacked_bias(k_bias, 2 * s.inner()), kv);
  }

  /// a = attention of h to source, kept in saved.
  void forward(B& be, const AttentionShape& s, const Inputs& in,
               const AttendContext<compute_t<T>, typename B::space>& context,
               const Options& options, Saved& saved) const {
    saved.q = SpacedRows<B, T>(be, in.h.extent(0), s.inner());
    saved.kv = SpacedRows<B, T>(be, in.source.extent(0), 2 * s.inner());
    saved.a = Tensor<B, T, 2>(be, {in.h.extent(0), s.inner()});
    queries(be, in.h, saved.q.view());
    keys_and_values(be, s, in.source, saved.kv.view());
    List::forward(be, inputs(s, saved, context), parameters(), options, saved.of,
                  heads(s, saved.a));
  }

  /// Adds a decoder layer to `state`: room for its self-attention, and what its steps need of the source.
  void start_decoding(B& be, const AttentionShape& s, In<B, T, 2> source,
                      const AttendContext<compute_t<T>, typename B::space>& context,
                      const Options& options, DecoderState<B, T, List>& state) const {
    const index_t steps = state.rows.max_steps();
    auto& cache = state.layers.emplace_back();
    cache.qkv = Tensor<B, T, 3>(be, {steps, state.rows.most_rows(), 3 * s.inner()});
    Tensor<B, T, 2> kv(be, {source.extent(0), 2 * s.inner()});
    keys_and_values(be, s, source, kv.view());
    cache.cross = List::template prepare<B, T>(
        be, gather_heads<B, T>(be, heads(s, kv)), gather_heads<B, T>(be, heads(s, kv, s.inner())),
        context, parameters(), options, {steps, state.horizon});
  }

  void backward(B& be, const AttentionShape& s, const Inputs& in,
                const AttendContext<compute_t<T>, typename B::space>& context,
                const Options& options, const Saved& saved, const Gradients& d) const {
    auto d_q = SpacedRows<B, T>::zeros(be, in.h.extent(0), s.inner());
    auto d_kv = SpacedRows<B, T>::zeros(be, in.source.extent(0), 2 * s.inner());
    const AttentionGradients<B, T> d_attention{
        as_heads<const T>(d.d_a, s.batch, s.heads, s.head_size), heads(s, d_q), heads(s, d_kv),
        heads(s, d_kv, s.inner())};
    List::backward(be, inputs(s, saved, context), parameters(), options, saved.of, d_attention,
                   d_parameters());
    detail::scale_queries<B, T>(be, d_q.view(), s.inner(), query_scale);
    linear_backward(be, in.h, q->matrix(), d_q, d.d_h, q->d_matrix(), d_bias_of(q_bias));
    linear_backward(be, in.source, stacked(*k, 2 * s.inner()), d_kv, d.d_source,
                    d_stacked(*k, 2 * s.inner()), d_stacked_bias(k_bias, 2 * s.inner()));
  }

  /// Adds what the variant learns to the model's parameters, under its names behind that of the sublayer.
  void add_variant(Parameters<B, T>& parameters, const std::string& name, const Options& options,
                   const HeadSizes& sizes) {
    List::visit_learned(options, sizes, [&](const LearnedInfo& info) {
      std::vector<index_t> shape{info.rows};
      if (info.columns > 0) shape.push_back(info.columns);
      learned.push_back(
          &parameters.add(name + "." + std::string(info.name), info.role, std::move(shape)));
    });
  }

  /// Initial values of what the variant learns, as it says itself unless `instead` has the parameter's name.
  void initialize_variant(B& be, const RandomStream& random, const Options& options,
                          std::span<const InitialValue> instead) const {
    auto next = learned.begin();
    List::visit_learned(options, {}, [&](const LearnedInfo& info) {
      Parameter<B, T>& p = **next++;
      double value = info.initial.value;
      for (const InitialValue& other : instead)
        if (other.name == info.name) value = other.value;
      if (info.initial.kind == InitialValues::Kind::uniform)
        fill_uniform(be, p, random, value / std::sqrt(static_cast<double>(p.shape.back())));
      else
        be.fill(p.value, p.count, T(compute_t<T>(value)));
    });
  }

  template <class Matrix>
  static auto heads(const AttentionShape& s, Matrix& matrix, index_t first_column = 0) {
    return as_heads(matrix.view(), s.batch, s.heads, s.head_size, first_column);
  }

 private:
  static AttentionInputs<B, T> inputs(
      const AttentionShape& s, const Saved& saved,
      const AttendContext<compute_t<T>, typename B::space>& context) {
    return {heads(s, saved.q), heads(s, saved.kv), heads(s, saved.kv, s.inner()), context};
  }
};

/// The position-wise network, plain or gated.
template <class B, class T>
struct FeedForward {
  Parameter<B, T>*wi_0, *wi_1 = nullptr, *wo = nullptr;   ///< wi_1 where gated
  Parameter<B, T>*wi_bias = nullptr, *wo_bias = nullptr;  ///< where plain
  Activation activation = Activation::relu;

  struct Saved {
    Tensor<B, T, 2> pre, gate;  ///< [R,F] before the activation; for plain relu, after it
    Tensor<B, T, 2> hidden;     ///< [R,F] what wo reads; empty where pre holds it
  };

  /// Returns what wo reads.
  In<B, T, 2> forward(B& be, In<B, T, 2> h, const Dropout& dropout, Saved& saved) const {
    const std::array shape{h.extent(0), wi_0->shape.at(0)};
    saved.pre = Tensor<B, T, 2>(be, shape);
    linear_forward(be, h, wi_0->weight(), bias_of(wi_bias), saved.pre.view());
    if (wi_1 != nullptr) {
      saved.gate = Tensor<B, T, 2>(be, shape);
      linear_forward(be, h, wi_1->weight(), std::nullopt, saved.gate.view());
    }
    if (in_place()) {
      activation_forward(be, activation, saved.pre, saved.pre.view());
      dropout_in_place(be, saved.pre.view(), dropout);
      return saved.pre.view().as_const();
    }
    saved.hidden = Tensor<B, T, 2>(be, shape);
    activate(be, dropout, saved);
    return saved.hidden.view().as_const();
  }

  /// Drops what backward computes again.
  void forget(Saved& saved) const { saved.hidden = {}; }

  /// hidden as forward gave it.
  In<B, T, 2> recall(B& be, const Dropout& dropout, Saved& saved) const {
    if (in_place()) return saved.pre.view().as_const();
    saved.hidden = Tensor<B, T, 2>(be, saved.pre.view().extents);
    activate(be, dropout, saved);
    return saved.hidden.view().as_const();
  }

  /// d_h += the gradient; d_hidden is overwritten by dropout's.
  void backward(B& be, In<B, T, 2> h, const Dropout& dropout, const Saved& saved,
                View<T, 2, typename B::space> d_hidden, View<T, 2, typename B::space> d_h) const {
    dropout_in_place(be, d_hidden, dropout);
    Tensor<B, T, 2> d_pre = zeros<T, 2>(be, d_hidden.extents);
    if (wi_1 != nullptr) {
      Tensor<B, T, 2> d_gate = zeros<T, 2>(be, d_hidden.extents);
      gated_backward(be, activation, saved.pre, saved.gate, d_hidden, d_pre.view(), d_gate.view());
      linear_backward(be, h, wi_1->matrix(), d_gate, d_h, wi_1->d_matrix());
    } else {
      activation_backward(be, activation, saved.pre, d_hidden, d_pre.view());
    }
    linear_backward(be, h, wi_0->matrix(), d_pre, d_h, wi_0->d_matrix(), d_bias_of(wi_bias));
  }

 private:
  /// relu' can be read off relu's value, so one buffer is enough.
  bool in_place() const { return wi_1 == nullptr && activation == Activation::relu; }

  void activate(B& be, const Dropout& dropout, Saved& saved) const {
    if (wi_1 != nullptr) {
      gated_forward(be, activation, saved.pre, saved.gate, saved.hidden.view());
    } else {
      activation_forward(be, activation, saved.pre, saved.hidden.view());
    }
    dropout_in_place(be, saved.hidden.view(), dropout);
  }
};

}  // namespace srformer
