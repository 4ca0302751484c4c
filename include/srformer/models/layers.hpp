// SPDX-License-Identifier: Apache-2.0
// The sublayers that encoder-decoder models are made of: parameters, and calls into ops and attention.
//
//   sublayer        h = norm(x),  y = base + dropout(a W_o^T + b_o),  a = f(h),  base = x or h
//   self-attention  a = attention(s q, k, v),  [q k v] = h W_qkv^T + b_qkv
//   cross-attention the same with k, v from the encoder's output
//   feed-forward    a = act(h W_i^T + b_i), or act(h W_0^T) (h W_1^T)
//
// Where the norm comes first (T5, Pegasus) base = x. Where it comes after the sum (BART), y = norm(h + f(h)), the
// stream between sublayers holds the sums: the norm that ends one sublayer begins the next, base = h, and
// the last one ends the stack. T5 has neither biases nor the scale s of the queries; BART has s = D^-1/2.
//
// forward takes x into Saved beside what backward reads; the rest, h included, is computed again. backward turns
// the gradient of y into that of x. step is one decoder step, which saves nothing.
#pragma once

#include <optional>
#include <vector>

#include <srformer/attention/cross_attention.hpp>
#include <srformer/attention/decode.hpp>
#include <srformer/models/initialization.hpp>
#include <srformer/models/parameters.hpp>
#include <srformer/ops/activation.hpp>
#include <srformer/ops/dropout.hpp>
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

namespace SRF_DETAIL {

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

/// The first columns of x times a factor; nothing where that is 1.
template <class B, class T>
void scale_columns(B& be, View<T, 2, typename B::space> x, index_t columns, double factor) {
  if (factor == 1) return;
  be.for_each_row(x.extent(0), 0,
                  ScaleColumns<T>{x.data, x.stride(0), columns, compute_t<T>(factor)});
}

}  // namespace SRF_DETAIL

/// Layer norm of rows, or RMS norm where there is no bias.
template <class B, class T>
struct Norm {
  Parameter<B, T>*weight = nullptr, *bias = nullptr;  ///< [E]
  double epsilon = 1e-5;
  bool transformers_statistics = false;  ///< of RMS norm: RmsNormOptions

  /// Of x [R,E].
  Tensor<B, T, 2> forward(B& be, In<B, T, 2> x) const {
    Tensor<B, T, 2> y(be, x.extents);
    if (bias != nullptr)
      layer_norm_forward(be, x, weight->vector(), bias->vector(), y.view(), epsilon);
    else
      rms_norm_forward(be, x, weight->vector(), y.view(), {epsilon, transformers_statistics});
    return y;
  }

  /// d_x and the parameters' gradients += those through forward.
  void backward(B& be, In<B, T, 2> x, In<B, T, 2> d_y, Out<B, T, 2> d_x) const {
    if (bias != nullptr)
      layer_norm_backward<B, T>(be, x, weight->vector(),
                                {d_y, d_x, weight->d_vector(), bias->d_vector()}, epsilon);
    else
      rms_norm_backward(be, x, weight->vector(), d_y, d_x, weight->d_vector(),
                        {epsilon, transformers_statistics});
  }
};

/// Whether a sublayer adds its output to what it got, or to the norm of that.
enum class NormPlace { before, after };

/// Dropout at the places of a sublayer; attention weights have theirs in the AttendContext.
struct SublayerDropout {
  Dropout input{};   ///< on h, which BART has behind the norm of its embeddings
  Dropout hidden{};  ///< on the hidden units of a feed-forward
  Dropout branch{};  ///< on what is added to the stream
};

/// What every sublayer has around its f: the norm before it, and the output projection and the sum after it.
template <class B, class T>
struct Residual {
  using Matrix = Tensor<B, T, 2>;
  Norm<B, T> norm{};
  NormPlace place = NormPlace::before;
  Parameter<B, T>*o = nullptr, *o_bias = nullptr;  ///< [E,F], [E] or none

  /// h = dropout(norm(x))
  Matrix normed(B& be, In<B, T, 2> x, const Dropout& input = {}) const {
    Matrix h = norm.forward(be, x);
    dropout_in_place(be, h.view(), input);
    return h;
  }

  /// y = base + dropout(a W_o^T + b_o)
  Matrix add(B& be, In<B, T, 2> x, Matrix h, In<B, T, 2> a, const Dropout& branch = {}) const {
    if (place == NormPlace::before) h = {};
    Matrix y = place == NormPlace::before ? clone<B, const T, 2>(be, x) : std::move(h);
    if (branch.active()) {
      Matrix added(be, x.extents);
      linear_forward(be, a, o->weight(), bias_of(o_bias), added.view());
      dropout_forward(be, added, y.view(), branch);
    } else {
      linear_forward(be, a, o->weight(), bias_of(o_bias), y.view(), {.add_to_output = true});
    }
    return y;
  }

  /// The gradient of a from that of y.
  Matrix add_backward(B& be, In<B, T, 2> a, In<B, T, 2> d_y, const Dropout& branch) const {
    Matrix d_a = zeros<T, 2>(be, a.extents);
    Matrix d_added;
    In<B, T, 2> d = d_y;
    if (branch.active()) {
      d_added = clone<B, const T, 2>(be, d_y);
      dropout_in_place(be, d_added.view(), branch);
      d = d_added.view().as_const();
    }
    linear_backward(be, a, o->matrix(), d, d_a.view(), o->d_matrix(), d_bias_of(o_bias));
    return d_a;
  }

  /// d, the gradient of y, becomes that of x.
  ///   of_f(h, d_h)  adds to d_h the gradient through f
  template <class F>
  void backward(B& be, In<B, T, 2> x, const Dropout& input, Matrix& d, F of_f) const {
    const Matrix h = normed(be, x, input);
    if (place == NormPlace::before) {
      Matrix d_h = zeros<T, 2>(be, x.extents);
      of_f(h, d_h.view());
      dropout_in_place(be, d_h.view(), input);
      norm.backward(be, x, d_h, d.view());
    } else {
      of_f(h, d.view());
      dropout_in_place(be, d.view(), input);
      Matrix d_x = zeros<T, 2>(be, x.extents);
      norm.backward(be, x, d, d_x.view());
      d = std::move(d_x);
    }
  }
};

/// Multi-head attention of a sequence to itself. q, k and v lie one after another in memory.
template <class B, class T>
struct SelfAttention {
  using Matrix = Tensor<B, T, 2>;
  using Context = AttendContext<compute_t<T>, typename B::space>;
  Residual<B, T> residual{};
  Parameter<B, T>*q = nullptr, *k = nullptr, *v = nullptr;
  Parameter<B, T>* q_bias = nullptr;  ///< those of k and v follow it
  double query_scale = 1;

  struct Saved {
    Matrix x;              ///< [B*M,E]
    SpacedRows<B, T> qkv;  ///< [B*M,3*H*D]
    Matrix a;              ///< [B*M,H*D]
  };

  /// y of x [B*M,E].
  Matrix forward(B& be, const AttentionShape& s, Matrix x, const Context& context,
                 const SublayerDropout& dropout, Saved& saved) const {
    saved.x = std::move(x);
    Matrix h = residual.normed(be, saved.x, dropout.input);
    saved.qkv = SpacedRows<B, T>(be, h.extent(0), 3 * s.inner());
    saved.a = Matrix(be, {h.extent(0), s.inner()});
    project(be, h, saved.qkv.view());
    full_attention_forward(be, inputs(s, saved, context),
                           as_heads(saved.a.view(), s.batch, s.heads, s.head_size));
    return residual.add(be, saved.x, std::move(h), saved.a, dropout.branch);
  }

  /// d, the gradient of y, becomes that of x.
  ///   d_relative [H,2M-1]  += the gradient of the position bias, where given
  void backward(B& be, const AttentionShape& s, const Context& context,
                const SublayerDropout& dropout, const Saved& saved, Matrix& d,
                compute_t<T>* d_relative) const {
    const Matrix d_a = residual.add_backward(be, saved.a, d, dropout.branch);
    residual.backward(be, saved.x, dropout.input, d, [&](const Matrix& h, Out<B, T, 2> d_h) {
      auto d_qkv = SpacedRows<B, T>::zeros(be, h.extent(0), 3 * s.inner());
      const AttentionGradients<B, T> d_attention{
          as_heads<const T>(d_a.view(), s.batch, s.heads, s.head_size), part(s, d_qkv, 0),
          part(s, d_qkv, 1), part(s, d_qkv, 2)};
      full_attention_backward(be, inputs(s, saved, context), d_attention, d_relative);
      detail::scale_columns<B, T>(be, d_qkv.view(), s.inner(), query_scale);
      linear_backward(be, h, stacked(*q, 3 * s.inner()), d_qkv, d_h, d_stacked(*q, 3 * s.inner()),
                      d_stacked_bias(q_bias, 3 * s.inner()));
    });
  }

  /// y of x [R,E], the rows of decoder step t.
  ///   qkv [max_steps,R,3*H*D]  of the steps before; this one's are written
  Matrix step(B& be, const Matrix& x, index_t heads, View<T, 3, typename B::space> qkv,
              const DecodeRows<B>& rows, index_t t,
              const ScoreMask<compute_t<T>, typename B::space>& mask) const {
    const index_t R = x.extent(0);
    Matrix h = residual.normed(be, x), a(be, {R, qkv.extent(2) / 3});
    project(be, h, qkv[t].slice(0, 0, R));
    self_attention_step<B, T>(be, qkv, rows, t, heads, mask, a.view());
    return residual.add(be, x, std::move(h), a);
  }

 private:
  /// [s q, k, v] of h [R,E].
  void project(B& be, In<B, T, 2> h, View<T, 2, typename B::space> qkv) const {
    const index_t columns = qkv.extent(1);
    linear_forward(be, h, stacked_weight(*q, columns), stacked_bias(q_bias, columns), qkv);
    detail::scale_columns<B, T>(be, qkv, columns / 3, query_scale);
  }
  static AttentionInputs<B, T> inputs(const AttentionShape& s, const Saved& saved,
                                      const Context& context) {
    return {part(s, saved.qkv, 0), part(s, saved.qkv, 1), part(s, saved.qkv, 2), context};
  }
  template <class Rows>
  static auto part(const AttentionShape& s, Rows& qkv, index_t which) {
    return as_heads(qkv.view(), s.batch, s.heads, s.head_size, which * s.inner());
  }
};

/// The initial value of a learned parameter of a variant in place of the one that the variant says: of a constant
/// the value, of uniform numbers the factor.
struct InitialValue {
  std::string_view name;
  double value;
};

/// What the decoder attends to: the encoder's output [B*N,E], its mask, and dropout of the weights.
template <class B, class T>
struct AttentionSource {
  In<B, T, 2> encoded;
  AttendContext<compute_t<T>, typename B::space> context;
};

/// The decoder's attention to the source, of any variant in `List`. k and v lie one after another in memory.
template <class B, class T, class List>
struct CrossAttention {
  using Matrix = Tensor<B, T, 2>;
  using Context = AttendContext<compute_t<T>, typename B::space>;
  using Options = typename List::Options;
  Residual<B, T> residual{};
  Parameter<B, T>*q = nullptr, *k = nullptr, *v = nullptr;
  Parameter<B, T>*q_bias = nullptr, *k_bias = nullptr;  ///< v's follows k's
  double query_scale = 1;
  const Options* options = nullptr;         ///< of the model
  std::vector<Parameter<B, T>*> learned{};  ///< by the variant

  using Source = AttentionSource<B, T>;
  struct Saved {
    Matrix x;                                ///< [B*M,E]
    SpacedRows<B, T> q, kv;                  ///< [B*M,H*D], [B*N,2*H*D]
    Matrix a;                                ///< [B*M,H*D]
    typename List::template Saved<B, T> of;  ///< what the variant keeps
  };

  /// y of x [B*M,E].
  Matrix forward(B& be, const AttentionShape& s, Matrix x, const Source& source,
                 const SublayerDropout& dropout, Saved& saved) const {
    saved.x = std::move(x);
    Matrix h = residual.normed(be, saved.x, dropout.input);
    saved.q = SpacedRows<B, T>(be, h.extent(0), s.inner());
    saved.kv = SpacedRows<B, T>(be, source.encoded.extent(0), 2 * s.inner());
    saved.a = Matrix(be, {h.extent(0), s.inner()});
    queries(be, h, saved.q.view());
    keys_and_values(be, s, source.encoded, saved.kv.view());
    List::forward(be, inputs(s, saved, source.context), values(), *options, saved.of,
                  heads(s, saved.a));
    return residual.add(be, saved.x, std::move(h), saved.a, dropout.branch);
  }

  /// d, the gradient of y, becomes that of x; d_encoded += that of the encoder's output.
  void backward(B& be, const AttentionShape& s, const Source& source,
                const SublayerDropout& dropout, const Saved& saved, Matrix& d,
                Out<B, T, 2> d_encoded) const {
    const Matrix d_a = residual.add_backward(be, saved.a, d, dropout.branch);
    residual.backward(be, saved.x, dropout.input, d, [&](const Matrix& h, Out<B, T, 2> d_h) {
      auto d_q = SpacedRows<B, T>::zeros(be, h.extent(0), s.inner());
      auto d_kv = SpacedRows<B, T>::zeros(be, source.encoded.extent(0), 2 * s.inner());
      const AttentionGradients<B, T> d_attention{
          as_heads<const T>(d_a.view(), s.batch, s.heads, s.head_size), heads(s, d_q),
          heads(s, d_kv), heads(s, d_kv, s.inner())};
      List::backward(be, inputs(s, saved, source.context), values(), *options, saved.of,
                     d_attention, gradients());
      detail::scale_columns<B, T>(be, d_q.view(), s.inner(), query_scale);
      linear_backward(be, h, q->matrix(), d_q, d_h, q->d_matrix(), d_bias_of(q_bias));
      linear_backward(be, source.encoded, stacked(*k, 2 * s.inner()), d_kv, d_encoded,
                      d_stacked(*k, 2 * s.inner()), d_stacked_bias(k_bias, 2 * s.inner()));
    });
  }

  /// q, k and v of a pass, where they lie.
  static AttentionInputs<B, T> inputs_of(const AttentionShape& s, const Saved& saved,
                                         const Source& source) {
    return inputs(s, saved, source.context);
  }

  /// How many states of the variant's recurrence fire for these sources and s.queries queries.
  FiringCount count_firing(B& be, const AttentionShape& s, const Source& source) const {
    SpacedRows<B, T> kv(be, source.encoded.extent(0), 2 * s.inner());
    keys_and_values(be, s, source.encoded, kv.view());
    const View<const T, 4, typename B::space> steps(nullptr,
                                                    {s.batch, s.heads, s.queries, s.head_size});
    return List::template count_firing<B, T>(
        be,
        {steps, heads(s, std::as_const(kv)), heads(s, std::as_const(kv), s.inner()),
         source.context},
        values(), *options);
  }

  /// What decoder steps need of the source.
  typename List::template Prepared<B, T> prepare(B& be, const AttentionShape& s,
                                                 const Source& source,
                                                 const DecodePlan& plan) const {
    Matrix kv(be, {source.encoded.extent(0), 2 * s.inner()});
    keys_and_values(be, s, source.encoded, kv.view());
    return List::template prepare<B, T>(be, gather_heads<B, T>(be, heads(s, kv)),
                                        gather_heads<B, T>(be, heads(s, kv, s.inner())),
                                        source.context, values(), *options, plan);
  }

  /// y of x [R,E], the rows of a decoder step: s.queries rows of each of s.batch groups.
  Matrix step(B& be, const AttentionShape& s, const Matrix& x, const Context& context,
              const typename List::template Prepared<B, T>& prepared, const DecodeAt& at) const {
    Matrix h = residual.normed(be, x), q_rows(be, {x.extent(0), s.inner()}),
           a(be, {x.extent(0), s.inner()});
    queries(be, h, q_rows.view());
    List::step(be, heads(s, std::as_const(q_rows)), context, values(), prepared, at, heads(s, a));
    return residual.add(be, x, std::move(h), a);
  }

  /// Adds what the variant learns to the model's parameters, under its names behind that of the sublayer.
  void add_variant(Parameters<B, T>& parameters, const std::string& name, const HeadSizes& sizes) {
    List::visit_learned(*options, sizes, [&](const LearnedInfo& info) {
      std::vector<index_t> shape{info.rows};
      if (info.columns > 0) shape.push_back(info.columns);
      learned.push_back(
          &parameters.add(name + "." + std::string(info.name), info.role, std::move(shape)));
    });
  }

  /// Initial values of what the variant learns, as it says itself unless `instead` has the parameter's name.
  void initialize_variant(B& be, const RandomStream& random,
                          std::span<const InitialValue> instead) const {
    auto next = learned.begin();
    List::visit_learned(*options, {}, [&](const LearnedInfo& info) {
      Parameter<B, T>& p = **next++;
      double value = info.initial.value;
      for (const InitialValue& other : instead)
        if (other.name == info.name) value = other.value;
      if (info.initial.kind == InitialValues::Kind::uniform)
        fill_uniform(be, p, random, value / std::sqrt(static_cast<double>(p.shape.back())));
      else if (info.initial.kind == InitialValues::Kind::identity)
        fill_diagonal(be, p, value);
      else
        be.fill(p.value, p.count, T(compute_t<T>(value)));
    });
  }

 private:
  LearnedPointers<T> values() const {
    LearnedPointers<T> pointers;
    for (const Parameter<B, T>* p : learned) pointers.add(p->value);
    return pointers;
  }
  LearnedPointers<T> gradients() const {
    LearnedPointers<T> pointers;
    for (const Parameter<B, T>* p : learned) pointers.add(p->gradient);
    return pointers;
  }
  void queries(B& be, In<B, T, 2> h, View<T, 2, typename B::space> out) const {
    linear_forward(be, h, q->weight(), bias_of(q_bias), out);
    detail::scale_columns<B, T>(be, out, out.extent(1), query_scale);
  }
  void keys_and_values(B& be, const AttentionShape& s, In<B, T, 2> source,
                       View<T, 2, typename B::space> kv) const {
    linear_forward(be, source, stacked_weight(*k, 2 * s.inner()),
                   stacked_bias(k_bias, 2 * s.inner()), kv);
  }
  static AttentionInputs<B, T> inputs(const AttentionShape& s, const Saved& saved,
                                      const Context& context) {
    return {heads(s, saved.q), heads(s, saved.kv), heads(s, saved.kv, s.inner()), context};
  }
  template <class Rows>
  static auto heads(const AttentionShape& s, Rows& rows, index_t first_column = 0) {
    return as_heads(rows.view(), s.batch, s.heads, s.head_size, first_column);
  }
};

/// The position-wise network, plain or gated; its output projection is that of the residual.
template <class B, class T>
struct FeedForward {
  using Matrix = Tensor<B, T, 2>;
  Residual<B, T> residual{};
  Parameter<B, T>*inner = nullptr, *gate = nullptr;  ///< gate where gated
  Parameter<B, T>* inner_bias = nullptr;             ///< where plain
  Activation activation = Activation::relu;

  struct Saved {
    Matrix x;          ///< [R,E]
    Matrix pre, gate;  ///< [R,F] before the activation; for plain relu, after it
  };

  /// y of x [R,E].
  Matrix forward(B& be, Matrix x, const SublayerDropout& dropout, Saved& saved) const {
    saved.x = std::move(x);
    Matrix h = residual.normed(be, saved.x, dropout.input);
    const std::array shape{h.extent(0), inner->shape.at(0)};
    saved.pre = Matrix(be, shape);
    linear_forward(be, h, inner->weight(), bias_of(inner_bias), saved.pre.view());
    if (gate != nullptr) {
      saved.gate = Matrix(be, shape);
      linear_forward(be, h, gate->weight(), std::nullopt, saved.gate.view());
    }
    if (in_place()) {
      activation_forward(be, activation, saved.pre, saved.pre.view());
      dropout_in_place(be, saved.pre.view(), dropout.hidden);
    }
    const Hidden hidden(*this, be, dropout.hidden, saved);
    return residual.add(be, saved.x, std::move(h), hidden, dropout.branch);
  }

  /// d, the gradient of y, becomes that of x.
  void backward(B& be, const SublayerDropout& dropout, const Saved& saved, Matrix& d) const {
    Matrix d_hidden =
        residual.add_backward(be, Hidden(*this, be, dropout.hidden, saved), d, dropout.branch);
    residual.backward(be, saved.x, dropout.input, d, [&](const Matrix& h, Out<B, T, 2> d_h) {
      dropout_in_place(be, d_hidden.view(), dropout.hidden);
      Matrix d_pre = zeros<T, 2>(be, d_hidden.view().extents);
      if (gate != nullptr) {
        Matrix d_gate = zeros<T, 2>(be, d_hidden.view().extents);
        gated_backward(be, activation, saved.pre, saved.gate, d_hidden, d_pre.view(),
                       d_gate.view());
        linear_backward(be, h, gate->matrix(), d_gate, d_h, gate->d_matrix());
      } else {
        activation_backward(be, activation, saved.pre, d_hidden, d_pre.view());
      }
      linear_backward(be, h, inner->matrix(), d_pre, d_h, inner->d_matrix(), d_bias_of(inner_bias));
    });
  }

 private:
  /// relu' can be read off relu's value, so one buffer is enough.
  bool in_place() const { return gate == nullptr && activation == Activation::relu; }

  /// The hidden units that the output projection reads [R,F]: what was saved, or computed from it.
  class Hidden {
   public:
    Hidden(const FeedForward& feed, B& be, const Dropout& dropout, const Saved& saved)
        : units_(saved.pre) {
      if (feed.in_place()) return;
      own_ = Matrix(be, saved.pre.view().extents);
      if (feed.gate != nullptr)
        gated_forward(be, feed.activation, saved.pre, saved.gate, own_.view());
      else
        activation_forward(be, feed.activation, saved.pre, own_.view());
      dropout_in_place(be, own_.view(), dropout);
      units_ = own_;
    }
    operator In<B, T, 2>() const { return units_; }  // NOLINT: they are a matrix

   private:
    Matrix own_;
    View<const T, 2, typename B::space> units_;
  };
};

}  // namespace srformer
