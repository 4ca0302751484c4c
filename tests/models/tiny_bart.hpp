// SPDX-License-Identifier: Apache-2.0
// A BART of a few thousand parameters, and its configurations.
#pragma once

#include <srformer/backend/eigen.hpp>
#include <srformer/models/bart.hpp>

#include "models/tiny_model.hpp"

// Compiled once for all tests, in models/instances.cpp.
extern template class srformer::EncoderDecoder<srformer::EigenBackend, double>;
extern template class srformer::Bart<srformer::EigenBackend, double>;

namespace srformer::testing {

/// Heads and widths of encoder and decoder differ.
inline BartConfig tiny_bart_config(const CrossAttentionOptions& cross = {}) {
  BartConfig c;
  c.vocab_size = 23, c.d_model = 12;
  c.encoder_layers = c.decoder_layers = 2;
  c.encoder_attention_heads = 2, c.decoder_attention_heads = 3;
  c.encoder_ffn_dim = 10, c.decoder_ffn_dim = 7;
  c.max_position_embeddings = 30;
  c.init_std = 0.3;
  set_cross(c, cross);
  return c;
}

/// A BART of every variant.
inline std::vector<Named<BartConfig>> bart_variant_configs() {
  std::vector<Named<BartConfig>> list;
  for (const auto& [name, cross] : named_variants())
    list.push_back({name, tiny_bart_config(cross)});
  return list;
}

}  // namespace srformer::testing
