// SPDX-License-Identifier: Apache-2.0
// The variants of the paper as one flat set of options and one of parameters, for tests that go through all of
// them: the plain statements read these, and the calls here pass them on to the library.
#pragma once

#include <srformer/attention/cross_attention.hpp>
#include <srformer/attention/decode.hpp>

namespace srformer {

enum class Variant { full, segmented, segmented_recurrent, transformer_xl, global_tokens, linear };

inline constexpr Variant all_variants[] = {
    Variant::full,           Variant::segmented,     Variant::segmented_recurrent,
    Variant::transformer_xl, Variant::global_tokens, Variant::linear};

inline const char* variant_name(Variant variant) {
  constexpr const char* names[] = {"full",           "segmented",     "segmented_recurrent",
                                   "transformer_xl", "global_tokens", "linear"};
  return names[static_cast<int>(variant)];
}

struct CrossAttentionOptions {
  Variant variant = Variant::full;
  index_t segment_size = 64;
  index_t horizon = 0;
  index_t generation_horizon = 128;
  double clamp = 0;
  bool normalize = true;
  bool recurrence = true;
  bool local = true;
  Product product = Product::complement;
  Advance advance = Advance::segment;
  Padding padding = Padding::masked;
  bool sigma = false;
  bool gate = false;
  bool binary_firing = false;
  bool average_products = false;
  double soft_keys = 0;

  SegmentedOptions segments() const {
    return {.segment_size = segment_size, .horizon = horizon, .padding = padding};
  }
  SegmentedRecurrentOptions recurrent() const {
    return {.segment_size = segment_size,
            .horizon = horizon,
            .generation_horizon = generation_horizon,
            .clamp = clamp,
            .normalize = normalize,
            .recurrence = recurrence,
            .local = local,
            .product = product,
            .advance = advance,
            .padding = padding,
            .sigma = sigma,
            .gate = gate,
            .binary_firing = binary_firing,
            .average_products = average_products,
            .soft_keys = soft_keys};
  }
  bool has_recurrent_parameters() const { return variant == Variant::segmented_recurrent; }
  bool has_memory() const { return variant == Variant::transformer_xl; }

  PaperVariants::Options chosen() const {
    using O = PaperVariants::Options;
    const Segmented::Options of_segments{.segment_size = segment_size,
                                         .horizon = horizon,
                                         .generation_horizon = generation_horizon,
                                         .padding = padding};
    switch (variant) {
      case Variant::full:
        return O::of<Full>();
      case Variant::segmented:
        return O::of<Segmented>(of_segments);
      case Variant::transformer_xl:
        return O::of<TransformerXl>(of_segments);
      case Variant::global_tokens:
        return O::of<GlobalTokens>(of_segments);
      case Variant::linear:
        return O::of<Linear>({.padding = padding});
      case Variant::segmented_recurrent:
        break;
    }
    return O::of<SegmentedRecurrent>(recurrent());
  }
};

/// The flat options of what was chosen.
inline CrossAttentionOptions paper_options(const PaperVariants::Options& chosen) {
  CrossAttentionOptions o;
  for (const Variant v : all_variants)
    if (chosen.name() == variant_name(v)) o.variant = v;
  o.segment_size = chosen.value_or("segment_size", o.segment_size);
  o.horizon = chosen.value_or("horizon", o.horizon);
  o.generation_horizon = chosen.value_or("generation_horizon", o.generation_horizon);
  o.clamp = chosen.value_or("clamp", o.clamp);
  o.normalize = chosen.value_or("normalize", o.normalize);
  o.recurrence = chosen.value_or("recurrence", o.recurrence);
  o.local = chosen.value_or("local", o.local);
  o.product = chosen.value_or("product", o.product);
  o.advance = chosen.value_or("advance", o.advance);
  o.padding = chosen.value_or("padding", o.padding);
  o.sigma = chosen.value_or("sigma", o.sigma);
  o.gate = chosen.value_or("gate", o.gate);
  o.binary_firing = chosen.value_or("binary_firing", o.binary_firing);
  o.average_products = chosen.value_or("average_products", o.average_products);
  o.soft_keys = chosen.value_or("soft_keys", o.soft_keys);
  return o;
}

template <class T>
struct CrossAttentionParameters {
  RecurrentParameters<T> recurrent{};
  RnnParameters<T> rnn_key{}, rnn_value{};

  CrossAttentionParameters() = default;
  template <class U>
  requires std::is_convertible_v<RecurrentParameters<U>, RecurrentParameters<T>>
  CrossAttentionParameters(const RecurrentParameters<U>& r,  // NOLINT: most variants have no more
                           const RnnParameters<U>& key = {}, const RnnParameters<U>& value = {})
      : recurrent(r), rnn_key(key), rnn_value(value) {}
  template <class U>
  requires(!std::is_same_v<U, T> &&
           std::is_convertible_v<RecurrentParameters<U>, RecurrentParameters<T>>)
      CrossAttentionParameters(
          const CrossAttentionParameters<U>& other)  // NOLINT: as pointers convert
      : recurrent(other.recurrent), rnn_key(other.rnn_key), rnn_value(other.rnn_value) {}

  /// Those of the options' variant, in its order.
  LearnedPointers<T> pointers(const CrossAttentionOptions& options) const {
    LearnedPointers<T> list;
    if (options.has_recurrent_parameters()) {
      list.add(recurrent.weight), list.add(recurrent.leak), list.add(recurrent.threshold);
      if (options.sigma) list.add(recurrent.sigma);
      if (options.gate) list.add(recurrent.gate);
    }
    const auto add_rnn = [&](const RnnParameters<T>& rnn) {
      list.add(rnn.weight_ih), list.add(rnn.weight_hh);
      list.add(rnn.bias_ih), list.add(rnn.bias_hh);
    };
    if (options.has_memory()) add_rnn(rnn_key), add_rnn(rnn_value);
    return list;
  }
};

template <class B, class T>
using PaperSaved = PaperVariants::Saved<B, T>;

template <class B, class T>
requires BackendFor<B, T>
void cross_attention_forward(
    B& be, In<B, T, 4> q, In<B, T, 4> k, In<B, T, 4> v,
    const std::type_identity_t<CrossAttentionParameters<const T>>& parameters,
    const AttendContext<compute_t<T>, typename B::space>& context,
    const CrossAttentionOptions& options, View<T, 4, typename B::space> out,
    PaperSaved<B, T>* saved = nullptr) {
  PaperSaved<B, T> own;
  PaperVariants::forward<B, T>(be, {q, k, v, context}, parameters.pointers(options),
                               options.chosen(), saved == nullptr ? own : *saved, out);
}

template <class B, class T>
requires BackendFor<B, T>
void cross_attention_backward(
    B& be, In<B, T, 4> q, In<B, T, 4> k, In<B, T, 4> v,
    const std::type_identity_t<CrossAttentionParameters<const T>>& parameters,
    const AttendContext<compute_t<T>, typename B::space>& context,
    const CrossAttentionOptions& options, In<B, T, 4> d_out, View<T, 4, typename B::space> d_q,
    View<T, 4, typename B::space> d_k, View<T, 4, typename B::space> d_v,
    const std::type_identity_t<CrossAttentionParameters<T>>& d_parameters,
    const PaperSaved<B, T>* saved = nullptr) {
  const AttentionInputs<B, T> in{q, k, v, context};
  const auto learned = parameters.pointers(options);
  PaperSaved<B, T> own;
  if (saved == nullptr && options.has_memory()) {
    Tensor<B, T, 4> out(be, q.extents);
    PaperVariants::forward<B, T>(be, in, learned, options.chosen(), own, out.view());
  } else if (saved == nullptr) {  // nothing is saved, by a variant of that name
    options.chosen().visit([&]<class V>(V, const auto&) {
      own.template emplace<detail::Belonging<V, typename V::template Saved<B, T>>>();
    });
  }
  PaperVariants::backward<B, T>(be, in, learned, options.chosen(), saved == nullptr ? own : *saved,
                                {d_out, d_q, d_k, d_v}, d_parameters.pointers(options));
}

template <class B, class T>
using DecodeStates = PaperVariants::Prepared<B, T>;

template <class B, class T>
requires BackendFor<B, T> DecodeStates<B, T> prepare_cross_attention(
    B& be, View<const T, 4, typename B::space> k, In<B, T, 4> v,
    const std::type_identity_t<CrossAttentionParameters<const T>>& parameters,
    const AttendContext<compute_t<T>, typename B::space>& context,
    const CrossAttentionOptions& options, index_t horizon, index_t steps) {
  return PaperVariants::prepare<B, T>(be, gather_heads<B, T>(be, k), gather_heads<B, T>(be, v),
                                      context, parameters.pointers(options), options.chosen(),
                                      {steps, horizon});
}

template <class B, class T>
requires BackendFor<B, T>
void cross_attention_step(B& be, In<B, T, 4> q,
                          const std::type_identity_t<CrossAttentionParameters<const T>>& parameters,
                          const AttendContext<compute_t<T>, typename B::space>& context,
                          const CrossAttentionOptions& options, index_t step,
                          const DecodeStates<B, T>& prepared, View<T, 4, typename B::space> out,
                          const std::int32_t* sources = nullptr) {
  PaperVariants::step<B, T>(be, q, context, parameters.pointers(options), prepared, {step, sources},
                            out);
}

}  // namespace srformer
