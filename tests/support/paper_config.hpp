// SPDX-License-Identifier: Apache-2.0
// The flat options of support/paper_options.hpp in the configurations of models.
#pragma once

#include <srformer/models/cross_attention_config.hpp>

#include "support/paper_options.hpp"

namespace srformer {

/// The options of a configuration's cross-attention.
template <class Config>
CrossAttentionOptions cross_of(const Config& config) {
  return paper_options(cross_attention_options<PaperVariants>(config.cross_attention));
}

template <class Config>
void set_cross(Config& config, const CrossAttentionOptions& options) {
  config.cross_attention = options.chosen();
}

/// The configuration with a horizon where its variant has one.
template <class Config>
Config with_horizon(Config config, index_t horizon) {
  CrossAttentionOptions options = cross_of(config);
  options.horizon = options.generation_horizon = horizon;
  set_cross(config, options);
  return config;
}

}  // namespace srformer
