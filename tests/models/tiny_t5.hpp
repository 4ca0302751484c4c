// SPDX-License-Identifier: Apache-2.0
// A T5 of a few thousand parameters, and its configurations.
#pragma once

#include <srformer/backend/eigen.hpp>
#include <srformer/models/t5.hpp>

#include "models/tiny_model.hpp"

// Compiled once for all tests, in models/instances.cpp.
extern template class srformer::EncoderDecoder<srformer::EigenBackend, double>;
extern template class srformer::T5<srformer::EigenBackend, double>;

namespace srformer::testing {

using NamedConfig = Named<T5Config>;

inline T5Config tiny_config(const CrossAttentionOptions& cross = {}) {
  T5Config c;
  c.vocab_size = 23, c.d_model = 12, c.d_kv = 4, c.d_ff = 10;
  c.num_layers = 2, c.num_decoder_layers = 2, c.num_heads = 2;  // the heads are 8 wide, not 12
  c.relative_attention_num_buckets = 6, c.relative_attention_max_distance = 9;
  set_cross(c, cross);
  return c;
}

/// A T5 of every variant.
inline std::vector<NamedConfig> variant_configs() {
  std::vector<NamedConfig> list;
  for (const auto& [name, cross] : named_variants()) list.push_back({name, tiny_config(cross)});
  return list;
}

}  // namespace srformer::testing
