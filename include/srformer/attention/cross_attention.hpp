// SPDX-License-Identifier: Apache-2.0
// Every cross-attention behind one call: the options say which.
//
//   full                 attention/full.hpp
//   segmented            attention/segmented.hpp
//   segmented_recurrent  attention/segmented_recurrent.hpp, with the ablations
//   transformer_xl       attention/transformer_xl.hpp
//   global_tokens        attention/global_tokens.hpp
//   linear               attention/linear.hpp
#pragma once

#include <srformer/attention/global_tokens.hpp>
#include <srformer/attention/linear.hpp>
#include <srformer/attention/segmented_recurrent.hpp>
#include <srformer/attention/transformer_xl.hpp>

namespace srformer {

enum class Variant { full, segmented, segmented_recurrent, transformer_xl, global_tokens, linear };

inline constexpr Variant all_variants[] = {
    Variant::full,           Variant::segmented,     Variant::segmented_recurrent,
    Variant::transformer_xl, Variant::global_tokens, Variant::linear};

/// The name as config.json writes it.
inline const char* variant_name(Variant variant) {
  switch (variant) {
    case Variant::full:
      return "full";
    case Variant::segmented:
      return "segmented";
    case Variant::segmented_recurrent:
      return "segmented_recurrent";
    case Variant::transformer_xl:
      return "transformer_xl";
    case Variant::global_tokens:
      return "global_tokens";
    case Variant::linear:
      return "linear";
  }
  return "";
}

/// Throws for a name that is no variant, with those that are.
inline Variant variant_from_name(const std::string& name) {
  std::string names;
  for (const Variant v : all_variants) {
    if (name == variant_name(v)) return v;
    names += (names.empty() ? "" : ", ") + std::string(variant_name(v));
  }
  throw shape_error("cross attention: \"" + name + "\" is not one of " + names);
}

/// What config.json holds under "cross_attention".
struct CrossAttentionOptions {
  Variant variant = Variant::full;
  index_t segment_size = 64;
  index_t horizon = 0;  ///< decoder steps over the source in training; 0: as many as queries
  index_t generation_horizon = 128;  ///< the same in decoding
  double clamp = 0;                  ///< 0: none
  bool normalize = true;
  bool recurrence = true;
  bool local = true;
  Product product = Product::complement;
  Advance advance = Advance::segment;
  Padding padding = Padding::masked;
  bool sigma = false;
  bool gate = false;
  bool binary_firing = false;

  SRF_HD SegmentedOptions segments() const { return {segment_size, horizon, padding}; }
  SRF_HD SegmentedRecurrentOptions recurrent() const {
    return {segments(), {product, clamp}, normalize, recurrence, local, advance, binary_firing};
  }
  bool has_recurrent_parameters() const { return variant == Variant::segmented_recurrent; }
  bool has_memory() const { return variant == Variant::transformer_xl; }
};

/// The learned parameters that a variant adds; null where it has none of them.
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
};

/// The shape of transformer_xl's memory for keys k [B,H,N,D].
template <class Keys>
std::array<index_t, 4> memory_shape(const CrossAttentionOptions& options, const Keys& k) {
  return {2, k.extent(0), memory_rows(options.segments(), k.extent(2)), k.extent(1) * k.extent(3)};
}

namespace detail {

/// What the variants themselves cannot see: that the options and the parameters go together, and that
/// transformer_xl's memory can be made.
template <class T, class Q, class K>
void check_cross_attention(const char* function, const CrossAttentionOptions& options,
                           const CrossAttentionParameters<const T>& parameters, const Q& q,
                           const K& k, const K& v, const auto& out) {
  if (options.has_recurrent_parameters()) {
    require(!options.sigma || parameters.recurrent.sigma != nullptr, function,
            "the options have sigma, the parameters have none");
    require(!options.gate || parameters.recurrent.gate != nullptr, function,
            "the options have gate, the parameters have none");
  }
  if (options.has_memory()) {
    check_segments(function, options.segments());
    check_attention(function, q, k, v, out);
  }
}

}  // namespace detail

/// out = the cross-attention that `options` names.
///   q, out [B,H,M,D], k, v [B,H,N,D], last axes contiguous; scores are not scaled
///   memory  of transformer_xl, saved for backward: [2,B,R,H*D] with R = memory_rows; none: not kept
/// The other variants save nothing. Errors and cost are those of the variant.
template <class B, class T>
requires BackendFor<B, T>
void cross_attention_forward(
    B& be, In<B, T, 4> q, In<B, T, 4> k, In<B, T, 4> v,
    const std::type_identity_t<CrossAttentionParameters<const T>>& parameters,
    const AttendContext<compute_t<T>, typename B::space>& context,
    const CrossAttentionOptions& options, View<T, 4, typename B::space> out,
    Out<B, T, 4> memory = {}) {
  detail::check_cross_attention<T>("cross_attention_forward", options, parameters, q, k, v, out);
  switch (options.variant) {
    case Variant::full:
      return full_attention_forward(be, q, k, v, context, out);
    case Variant::segmented:
      return segmented_attention_forward(be, q, k, v, context, options.segments(), out);
    case Variant::segmented_recurrent:
      return segmented_recurrent_forward(be, q, k, v, parameters.recurrent, context,
                                         options.recurrent(), out);
    case Variant::global_tokens:
      return global_tokens_forward(be, q, k, v, context, options.segments(), out);
    case Variant::linear:
      return linear_attention_forward(be, q, k, v, context.mask, out);
    case Variant::transformer_xl:
      break;
  }
  Tensor<B, T, 4> own;
  if (memory.data == nullptr) {
    own = Tensor<B, T, 4>(be, memory_shape(options, k));
    memory = own.view();
  }
  transformer_xl_memory(be, k, v, parameters.rnn_key, parameters.rnn_value, context.mask,
                        options.segments(), memory);
  transformer_xl_forward(be, q, k, v, memory, context, options.segments(), out);
}

/// d_q, d_k, d_v and the gradients in d_parameters += those through cross_attention_forward.
///   memory  as forward saved it; none: computed again
template <class B, class T>
requires BackendFor<B, T>
void cross_attention_backward(
    B& be, In<B, T, 4> q, In<B, T, 4> k, In<B, T, 4> v,
    const std::type_identity_t<CrossAttentionParameters<const T>>& parameters,
    const AttendContext<compute_t<T>, typename B::space>& context,
    const CrossAttentionOptions& options, In<B, T, 4> d_out, View<T, 4, typename B::space> d_q,
    View<T, 4, typename B::space> d_k, View<T, 4, typename B::space> d_v,
    const std::type_identity_t<CrossAttentionParameters<T>>& d_parameters,
    In<B, T, 4> memory = {}) {
  detail::check_cross_attention<T>("cross_attention_backward", options, parameters, q, k, v, d_out);
  switch (options.variant) {
    case Variant::full:
      return full_attention_backward(be, q, k, v, context, d_out, d_q, d_k, d_v);
    case Variant::segmented:
      return segmented_attention_backward(be, q, k, v, context, options.segments(), d_out, d_q, d_k,
                                          d_v);
    case Variant::segmented_recurrent:
      return segmented_recurrent_backward(be, q, k, v, parameters.recurrent, context,
                                          options.recurrent(), d_out, d_q, d_k, d_v,
                                          d_parameters.recurrent);
    case Variant::global_tokens:
      return global_tokens_backward(be, q, k, v, context, options.segments(), d_out, d_q, d_k, d_v);
    case Variant::linear:
      return linear_attention_backward(be, q, k, v, context.mask, d_out, d_q, d_k, d_v);
    case Variant::transformer_xl:
      break;
  }
  Tensor<B, T, 4> own;
  if (memory.data == nullptr) {
    own = Tensor<B, T, 4>(be, memory_shape(options, k));
    transformer_xl_memory(be, k, v, parameters.rnn_key, parameters.rnn_value, context.mask,
                          options.segments(), own.view());
    memory = own.view();
  }
  transformer_xl_backward(be, q, k, v, memory, parameters.rnn_key, parameters.rnn_value, context,
                          options.segments(), d_out, d_q, d_k, d_v, d_parameters.rnn_key,
                          d_parameters.rnn_value);
}

}  // namespace srformer
