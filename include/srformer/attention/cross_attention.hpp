// SPDX-License-Identifier: Apache-2.0
// Every cross-attention behind one call: the options say which.
//
//   full                 attention/full.hpp
//   segmented            attention/segmented.hpp
//   segmented_recurrent  attention/segmented_recurrent.hpp, with the ablations
#pragma once

#include <srformer/attention/segmented_recurrent.hpp>

namespace srformer {

enum class Variant { full, segmented, segmented_recurrent };

/// The name as config.json writes it.
inline const char* variant_name(Variant variant) {
  switch (variant) {
    case Variant::full: return "full";
    case Variant::segmented: return "segmented";
    case Variant::segmented_recurrent: return "segmented_recurrent";
  }
  return "";
}

/// Throws for a name that is no variant, with those that are.
inline Variant variant_from_name(const std::string& name) {
  for (const Variant v : {Variant::full, Variant::segmented, Variant::segmented_recurrent}) {
    if (name == variant_name(v)) return v;
  }
  throw shape_error("cross attention: \"" + name +
                    "\" is not one of full, segmented, segmented_recurrent");
}

/// What config.json holds under "cross_attention".
struct CrossAttentionOptions {
  Variant variant = Variant::full;
  index_t segment_size = 64;
  index_t horizon = 0;               ///< decoder steps over the source in training; 0: as many as queries
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

  SRF_HD SegmentedOptions segments() const { return {segment_size, horizon, padding}; }
  SRF_HD SegmentedRecurrentOptions recurrent() const {
    return {segments(), {product, clamp}, normalize, recurrence, local, advance};
  }
  bool has_recurrent_parameters() const { return variant == Variant::segmented_recurrent; }
};

/// out = the cross-attention that `options` names.
///   q, out [B,H,M,D], k, v [B,H,N,D], last axes contiguous; scores are not scaled
/// Saves nothing. Errors and cost are those of the variant.
template <class B, class T>
  requires BackendFor<B, T>
void cross_attention_forward(B& be, In<B, T, 4> q, In<B, T, 4> k, In<B, T, 4> v,
                             const std::type_identity_t<RecurrentParameters<const T>>& parameters,
                             const AttendContext<compute_t<T>, typename B::space>& context,
                             const CrossAttentionOptions& options,
                             View<T, 4, typename B::space> out) {
  switch (options.variant) {
    case Variant::full: return full_attention_forward(be, q, k, v, context, out);
    case Variant::segmented:
      return segmented_attention_forward(be, q, k, v, context, options.segments(), out);
    case Variant::segmented_recurrent:
      return segmented_recurrent_forward(be, q, k, v, parameters, context, options.recurrent(), out);
  }
}

/// d_q, d_k, d_v and the gradients in d_parameters += those through cross_attention_forward.
template <class B, class T>
  requires BackendFor<B, T>
void cross_attention_backward(B& be, In<B, T, 4> q, In<B, T, 4> k, In<B, T, 4> v,
                              const std::type_identity_t<RecurrentParameters<const T>>& parameters,
                              const AttendContext<compute_t<T>, typename B::space>& context,
                              const CrossAttentionOptions& options, In<B, T, 4> d_out,
                              View<T, 4, typename B::space> d_q, View<T, 4, typename B::space> d_k,
                              View<T, 4, typename B::space> d_v,
                              const std::type_identity_t<RecurrentParameters<T>>& d_parameters) {
  switch (options.variant) {
    case Variant::full: return full_attention_backward(be, q, k, v, context, d_out, d_q, d_k, d_v);
    case Variant::segmented:
      return segmented_attention_backward(be, q, k, v, context, options.segments(), d_out, d_q, d_k,
                                          d_v);
    case Variant::segmented_recurrent:
      return segmented_recurrent_backward(be, q, k, v, parameters, context, options.recurrent(), d_out,
                                          d_q, d_k, d_v, d_parameters);
  }
}

}  // namespace srformer
