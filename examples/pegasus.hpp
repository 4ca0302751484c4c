// SPDX-License-Identifier: Apache-2.0
// Pegasus (Zhang et al. 2020), an architecture that the library lacks: what docs/custom_model.md explains.
//
//   embedding x = s table[ids] + sinusoids[i]                       s = 1, or E^1/2
//   encoder   x += SelfAttention(norm(x));  x += FeedForward(norm(x));              out = norm(x)
//   decoder   x += SelfAttention(norm(x));  x += CrossAttention(norm(x), encoder);
//             x += FeedForward(norm(x));    logits = norm(x) W^T + final_logits_bias
//
// Parameters have BART's names, and config.json BART's fields. As transformers' PegasusForConditionalGeneration.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <srformer/models/architectures.hpp>

namespace srformer {

template <class B, class T, class List = PaperVariants>
requires BackendFor<B, T>
class Pegasus;

struct PegasusConfig : BartConfig {
  static constexpr std::string_view model_type = "pegasus",
                                    class_name = "PegasusForConditionalGeneration";
  template <class B, class T, class List>
  using Model = Pegasus<B, T, List>;
  static constexpr Conventions conventions{.forces_eos = true};
  static void presets() = delete;
  static void paper_options() = delete;
  static void modeling_name() = delete;

  PegasusConfig() { pad_token_id = 0, eos_token_id = 1, decoder_start_token_id = 0; }
};

template <class B, class T, class List>
requires BackendFor<B, T>
class Pegasus : public EncoderDecoder<B, T, List> {
  using Base = EncoderDecoder<B, T, List>;

 public:
  Pegasus(B& be, PegasusConfig config)
      : Base(be, "Pegasus", config.common()), config_(std::move(config)) {
    config_.cross_attention = Base::config().cross_attention;
    const PegasusConfig& c = config_;
    const auto shared =
        this->add_table("model.shared.weight", Initial::normal(c.init_std, c.pad_token_id),
                        {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight",
                         "lm_head.weight"});
    this->encoder_.heads = c.encoder_attention_heads;
    this->decoder_.heads = c.decoder_attention_heads;
    add_stack(this->encoder_, "model.encoder", shared, c.encoder_layers, c.encoder_ffn_dim);
    add_stack(this->decoder_, "model.decoder", shared, c.decoder_layers, c.decoder_ffn_dim);
    this->output_ = {shared, 1, this->add_constant("final_logits_bias", {1, c.vocab_size})};
    this->load_options_.optional_prefix = "model.";
    this->load_options_.ignore_unexpected = {"*.version"};
    this->finish(UpstreamPadding::unknown, {});
  }

  const PegasusConfig& config() const { return config_; }
  nlohmann::json config_json() const override { return to_json(config_); }

 private:
  void add_stack(typename Base::StackType& stack, const std::string& name, Parameter<B, T>* shared,
                 index_t layers, index_t hidden) {
    const PegasusConfig& c = config_;
    const LayerStyle style = bart_style(c.init_std, c.activation);
    stack.head_size = c.d_model / stack.heads;
    stack.embedding.table = shared;
    stack.embedding.positions = this->add_constant(
        name + ".embed_positions.weight", {c.max_position_embeddings, c.d_model}, sinusoids());
    if (c.scale_embedding) stack.embedding.scale = std::sqrt(static_cast<double>(c.d_model));
    for (index_t l = 0; l < layers; ++l) {
      auto& layer = stack.layers.emplace_back();
      const std::string of = name + ".layers." + std::to_string(l);
      layer.self = this->add_self_attention(style, stack, of + ".self_attn");
      layer.self.residual.norm = this->add_norm(style, of + ".self_attn_layer_norm");
      if (&stack == &this->decoder_) {
        layer.cross = this->add_cross_attention(style, stack, of + ".encoder_attn");
        layer.cross->residual.norm = this->add_norm(style, of + ".encoder_attn_layer_norm");
      }
      layer.feed = this->add_feed_forward(style, of, hidden);
      layer.feed.residual.norm = this->add_norm(style, of + ".final_layer_norm");
    }
    stack.last_norm = this->add_norm(style, name + ".layer_norm");
  }

  /// Sines in the first half of a row, cosines in the second, of pos / 10000^(2k/E); float32, as transformers has them.
  std::vector<T> sinusoids() const {
    const index_t P = config_.max_position_embeddings, E = config_.d_model, half = (E + 1) / 2;
    std::vector<T> table;
    for (index_t position = 0; position < P; ++position) {
      for (index_t column = 0; column < E; ++column) {
        const index_t k = column < half ? column : column - half;
        const double angle =
            static_cast<double>(position) /
            std::pow(10000.0, 2.0 * static_cast<double>(k) / static_cast<double>(E));
        const double value = column < half ? std::sin(angle) : std::cos(angle);
        table.push_back(T(static_cast<compute_t<T>>(static_cast<float>(value))));
      }
    }
    return table;
  }

  PegasusConfig config_;
};

}  // namespace srformer
