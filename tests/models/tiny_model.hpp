// SPDX-License-Identifier: Apache-2.0
// What tests of small models share, T5 and BART alike: variants to go through, random values, batches,
// losses and logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <srformer/models/seq2seq.hpp>

#include "support/paper_config.hpp"

namespace srformer::testing {

/// One configuration that tests go through, with a name for messages.
template <class Config>
struct Named {
  std::string name;
  Config config;
};

inline CrossAttentionOptions cross_options(Variant variant, index_t segment_size = 4) {
  CrossAttentionOptions o;
  o.variant = variant, o.segment_size = segment_size;
  return o;
}

/// Every variant, and the options of the recurrent one that change more than a factor.
inline std::vector<Named<CrossAttentionOptions>> named_variants() {
  std::vector<Named<CrossAttentionOptions>> list;
  const auto add = [&](const char* name, Variant variant, auto change) {
    CrossAttentionOptions o = cross_options(variant);
    change(o);
    list.push_back({name, o});
  };
  using O = CrossAttentionOptions;
  constexpr Variant recurrent = Variant::segmented_recurrent;
  add("full", Variant::full, [](O&) {});
  add("segmented", Variant::segmented, [](O&) {});
  add("segmented, upstream padding", Variant::segmented,
      [](O& o) { o.padding = Padding::upstream; });
  add("transformer_xl", Variant::transformer_xl, [](O&) {});
  add("transformer_xl, upstream padding", Variant::transformer_xl,
      [](O& o) { o.padding = Padding::upstream; });
  add("global_tokens", Variant::global_tokens, [](O&) {});
  add("global_tokens, upstream padding", Variant::global_tokens,
      [](O& o) { o.padding = Padding::upstream; });
  add("linear", Variant::linear, [](O&) {});
  add("recurrent", recurrent, [](O&) {});
  add("recurrent, folded", recurrent, [](O& o) { o.segment_size = 3; });
  add("recurrent, gate and sigma", recurrent, [](O& o) { o.gate = o.sigma = true; });
  add("recurrent, clamp and gate", recurrent, [](O& o) { o.clamp = 2, o.gate = true; });
  add("recurrent, token", recurrent, [](O& o) { o.advance = Advance::token; });
  add("recurrent, upstream padding", recurrent, [](O& o) { o.padding = Padding::upstream; });
  add("recurrent, not normalized", recurrent, [](O& o) { o.normalize = false; });
  add("without recurrence", recurrent, [](O& o) { o.recurrence = false; });
  add("without local part", recurrent, [](O& o) { o.local = false; });
  add("segment product", recurrent, [](O& o) { o.product = Product::segment; });
  return list;
}

/// Initial values, then every parameter moved away from what initialisation makes equal or zero.
template <class Model>
void randomize(Model& model, std::uint64_t seed) {
  using T = typename Model::scalar;
  const RandomStream random{seed, 17};
  model.initialize(random, 1);
  std::uint64_t use = 0;
  for (auto& p : model.parameters()) {
    const RandomStream own = random.substream(1000 + use++);
    const auto set = [&](auto value) {
      for (index_t i = 0; i < p.count; ++i) {
        p.value[i] = T(value(static_cast<std::uint64_t>(i)));
      }
    };
    if (p.role == Role::norm) {
      const double center = p.name.ends_with(".bias") ? 0 : 1;
      set([&](std::uint64_t i) { return center + 0.2 * normal(own, i); });
    } else if (p.role == Role::constant || (p.role == Role::bias && p.value[0] == T(0))) {
      set([&](std::uint64_t i) { return 0.3 * normal(own, i); });
    } else if (p.name.ends_with(".leak") || p.name.ends_with(".threshold") ||
               p.name.ends_with(".sigma")) {
      set([&](std::uint64_t i) { return 0.2 + 0.5 * uniform(own, i); });
    } else if (p.name.ends_with(".gate")) {
      set([&](std::uint64_t i) { return normal(own, i); });
    } else if (p.role == Role::embedding) {
      for (index_t i = 0; i < p.count; ++i) {
        if (p.value[i] == T(0)) p.value[i] = T(0.3 * normal(own, static_cast<std::uint64_t>(i)));
      }
    }
  }
}

/// Sources and targets of the given lengths with random ids, each ended by the end token. Padding of
/// sources is filled with `filling`, at `extra` more positions than the longest needs.
template <class Config>
Batch random_batch(const Config& config, const std::vector<index_t>& sources,
                   const std::vector<index_t>& targets, std::uint64_t seed, index_t extra = 0,
                   std::int32_t filling = 0) {
  const RandomStream random{seed, 29};
  const std::int32_t first = std::max(config.pad_token_id, config.eos_token_id) + 1;
  const auto id = [&](std::uint64_t row, index_t i) {
    const auto words = static_cast<std::uint64_t>(config.vocab_size - first);
    return first + static_cast<std::int32_t>(
                       random_below(random.substream(row), static_cast<std::uint64_t>(i), words));
  };
  Batch batch;
  batch.rows = static_cast<index_t>(sources.size());
  batch.source_width = *std::ranges::max_element(sources) + extra;
  batch.target_width = *std::ranges::max_element(targets);
  batch.source_lengths = sources;
  for (std::size_t b = 0; b < sources.size(); ++b) {
    for (index_t i = 0; i < batch.source_width; ++i) {
      batch.source_ids.push_back(i >= sources[b]       ? filling
                                 : i + 1 == sources[b] ? config.eos_token_id
                                                       : id(2 * b, i));
    }
    for (index_t i = 0; i < batch.target_width; ++i) {
      batch.labels.push_back(i >= targets[b]       ? Batch::ignored_label
                             : i + 1 == targets[b] ? config.eos_token_id
                                                   : id(2 * b + 1, i));
    }
  }
  return batch;
}

/// Row b of a batch as it stands alone, without padding.
inline Batch single(const Batch& batch, index_t b) {
  Batch alone;
  alone.rows = 1;
  alone.source_width = batch.source_lengths[static_cast<std::size_t>(b)];
  const auto ids = batch.source_ids.begin() + b * batch.source_width;
  alone.source_ids.assign(ids, ids + alone.source_width);
  alone.source_lengths = {alone.source_width};
  const auto labels = batch.labels.begin() + b * batch.target_width;
  alone.labels.assign(labels, labels + batch.target_width);
  while (alone.labels.back() < 0) alone.labels.pop_back();
  alone.target_width = static_cast<index_t>(alone.labels.size());
  return alone;
}

/// The sum of the token losses.
template <class Model>
auto loss_of(Model& model, const Batch& batch, double smoothing = 0) {
  using T = typename Model::scalar;
  auto sum = zeros<accumulate_t<T>, 1>(model.backend(), {1});
  model.add_loss(batch, smoothing, sum.view());
  return to_host(model.backend(), sum)[0];
}

/// The same, adding gradients.
template <class Model>
auto train_loss_of(Model& model, const Batch& batch, const LossOptions& options) {
  using T = typename Model::scalar;
  auto sum = zeros<accumulate_t<T>, 1>(model.backend(), {1});
  model.add_gradients(batch, options, sum.view());
  return to_host(model.backend(), sum)[0];
}

template <class Model>
auto logits_of(Model& model, const Batch& batch) {
  return to_host(model.backend(), model.logits(batch));
}

/// Rows of logits [B,M,V] of a batch at source b, `count` of them.
inline std::vector<double> rows_of(const std::vector<double>& logits, const Batch& batch, index_t b,
                                   index_t count, index_t vocabulary) {
  const auto first = logits.begin() + b * batch.target_width * vocabulary;
  return {first, first + count * vocabulary};
}

/// Of a list, the configurations whose results do not depend on what else is in a batch.
template <class Config>
std::vector<Named<Config>> with_masked_padding(std::vector<Named<Config>> list) {
  std::erase_if(list, [](const auto& c) { return cross_of(c.config).padding != Padding::masked; });
  for (auto& c : list) {
    CrossAttentionOptions options = cross_of(c.config);
    options.horizon = 6;
    set_cross(c.config, options);
  }
  return list;
}

/// The sentence of the E that a call throws, or "accepted".
template <class E, class Call>
std::string refusal_of(Call call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  return "accepted";
}

/// The largest difference over the largest magnitude; infinity where there is nothing to compare.
inline double relative_difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size() || a.empty()) return HUGE_VAL;
  double top = 0, difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return HUGE_VAL;
    top = std::max(top, std::abs(a[i]));
    difference = std::max(difference, std::abs(a[i] - b[i]));
  }
  return top > 0 ? difference / top : HUGE_VAL;
}

}  // namespace srformer::testing
