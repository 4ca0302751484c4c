// SPDX-License-Identifier: Apache-2.0
// BART (Lewis et al. 2020), with any cross-attention in the decoder.
//
//   embedding x = norm(s table[ids] + positions[2 + i])             s = 1, or E^1/2
//   encoder   x = norm(x + SelfAttention(x));  x = norm(x + FeedForward(x))
//   decoder   x = norm(x + SelfAttention(x));  x = norm(x + CrossAttention(x, encoder));
//             x = norm(x + FeedForward(x));    logits = x W^T + final_logits_bias
//
// Queries are scaled by D^-1/2; everything has a bias. Norms come after the sums: models/layers.hpp. Dropout where
// transformers has it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <srformer/models/encoder_decoder.hpp>

namespace srformer {

template <class B, class T, class List = PaperVariants>
requires BackendFor<B, T>
class Bart;

/// The sizes and choices of a BART. Letters in docs/notation.md.
struct BartConfig : ConfigBase {
  static constexpr std::string_view model_type = "bart",
                                    class_name = "BartForConditionalGeneration";
  /// With a variant: its classes in modeling_srformer.py, and the tokenizer of transformers.
  static constexpr std::string_view modeling_name = "SrformerBart",
                                    tokenizer_class = "BartTokenizer";
  template <class B, class T, class List>
  using Model = Bart<B, T, List>;
  static constexpr Conventions conventions{
      .byte_level_bpe = true, .starts_from_eos = true, .forces_eos = true};

  index_t vocab_size = 50265;  ///< V
  index_t d_model = 1024;      ///< E
  index_t encoder_layers = 12, decoder_layers = 12;
  index_t encoder_attention_heads = 16, decoder_attention_heads = 16;  ///< H; each divides E
  index_t encoder_ffn_dim = 4096, decoder_ffn_dim = 4096;              ///< F
  index_t max_position_embeddings = 1024;  ///< longest source and target
  double dropout = 0.1, attention_dropout = 0, activation_dropout = 0;
  double encoder_layerdrop = 0, decoder_layerdrop = 0;  ///< of training: check_training
  double init_std = 0.02;
  Activation activation = Activation::gelu;
  bool scale_embedding = false;  ///< by E^1/2
  bool tie_word_embeddings = true;
  std::int32_t pad_token_id = 1, bos_token_id = 0, eos_token_id = 2;
  std::int32_t decoder_start_token_id = 2;

  template <class Self, class F>
  static void visit(Self& c, F&& f) {
    using enum FieldRange;
    constexpr index_t most_layers = 10'000;
    f(ConfigField{"vocab_size", size, "", index_t{1} << 31}, c.vocab_size);
    f(ConfigField{"d_model", size, "hidden_size"}, c.d_model);
    f(ConfigField{"encoder_layers", size, "num_hidden_layers", most_layers}, c.encoder_layers);
    f(ConfigField{"decoder_layers", size, "", most_layers}, c.decoder_layers);
    f(ConfigField{"encoder_attention_heads", size, "num_attention_heads"},
      c.encoder_attention_heads);
    f(ConfigField{"decoder_attention_heads", size}, c.decoder_attention_heads);
    f(ConfigField{"encoder_ffn_dim", size}, c.encoder_ffn_dim);
    f(ConfigField{"decoder_ffn_dim", size}, c.decoder_ffn_dim);
    f(ConfigField{"max_position_embeddings", size, "", index_t{1} << 24},
      c.max_position_embeddings);
    f(ConfigField{"dropout", rate}, c.dropout);
    f(ConfigField{"attention_dropout", rate}, c.attention_dropout);
    f(ConfigField{"activation_dropout", rate}, c.activation_dropout);
    f(ConfigField{"encoder_layerdrop", share}, c.encoder_layerdrop);
    f(ConfigField{"decoder_layerdrop", share}, c.decoder_layerdrop);
    f(ConfigField{"init_std"}, c.init_std);
    f(ConfigField{"activation_function"}, ActivationField{c.activation, "activation_function"});
    f(ConfigField{"scale_embedding"}, c.scale_embedding);
    f(ConfigField{"tie_word_embeddings"}, c.tie_word_embeddings);
    f(ConfigField{"pad_token_id", token}, c.pad_token_id);
    f(ConfigField{"bos_token_id"}, c.bos_token_id);
    f(ConfigField{"eos_token_id", tokens}, c.eos_token_id);
    f(ConfigField{"decoder_start_token_id", token}, c.decoder_start_token_id);
  }

  void complete(const std::string& path) {
    const detail::RequireField fits{path};
    fits("encoder_attention_heads", encoder_attention_heads, d_model % encoder_attention_heads == 0,
         "a divisor of d_model");
    fits("decoder_attention_heads", decoder_attention_heads, d_model % decoder_attention_heads == 0,
         "a divisor of d_model");
    fits("tie_word_embeddings", tie_word_embeddings, tie_word_embeddings,
         "true: the output is the embedding here");
  }

  CommonConfig common() const {
    return {.vocab_size = vocab_size,
            .width = d_model,
            .max_positions = max_position_embeddings,
            .pad_token_id = pad_token_id,
            .eos_token_id = eos_token_id,
            .decoder_start_token_id = decoder_start_token_id,
            .dropout = {dropout, attention_dropout, activation_dropout},
            .cross_attention = cross_attention,
            .embedding_padding_id = pad_token_id,
            .drops_layers = encoder_layerdrop > 0 || decoder_layerdrop > 0,
            .stored_numbers = stored_numbers};
  }
  /// That of embeddings and branches; the others stay.
  void set_dropout(double rate) { dropout = rate; }

  /// The options that the authors of the paper give to a BART that gets another cross-attention, by name.
  static nlohmann::json paper_options() { return {{"segment_size", 16}, {"clamp", 2}}; }

  /// Known sizes by name.
  static std::vector<std::pair<std::string, BartConfig>> presets() {
    const auto sized = [](index_t width, index_t hidden, index_t layers, index_t heads) {
      BartConfig c;
      c.vocab_size = 50265, c.d_model = width;
      c.encoder_layers = c.decoder_layers = layers;
      c.encoder_attention_heads = c.decoder_attention_heads = heads;
      c.encoder_ffn_dim = c.decoder_ffn_dim = hidden;
      c.attention_dropout = c.activation_dropout = 0.1;
      c.source["forced_eos_token_id"] = c.eos_token_id;
      return c;
    };
    return {{"bart-base", sized(768, 3072, 6, 12)}, {"bart-tiny", sized(64, 128, 2, 4)}};
  }
};

/// The names of a layer's parameters in BART and its kin, all of which are normal at first.
inline LayerStyle bart_style(double init_std, Activation activation) {
  const Initial normal = Initial::normal(init_std);
  LayerStyle style;
  style.q = {".q_proj", normal}, style.k = {".k_proj", normal}, style.v = {".v_proj", normal};
  style.o = {".out_proj", normal}, style.inner = {".fc1", normal}, style.outer = {".fc2", normal};
  style.biases = style.scaled_queries = style.layer_norm = true;
  style.activation = activation;
  return style;
}

template <class B, class T, class List>
requires BackendFor<B, T>
class Bart : public EncoderDecoder<B, T, List> {
  using Base = EncoderDecoder<B, T, List>;

 public:
  /// Parameters are there, but zero: load them, or initialize(). io_error where the configuration's
  /// cross-attention is none of the list's.
  Bart(B& be, BartConfig config) : Base(be, "Bart", config.common()), config_(std::move(config)) {
    config_.cross_attention = Base::config().cross_attention;
    const BartConfig& c = config_;
    const auto shared =
        this->add_table("model.shared.weight", Initial::normal(c.init_std, c.pad_token_id),
                        {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight",
                         "lm_head.weight"});
    add_stack(this->encoder_,
              {"encoder", c.encoder_layers, c.encoder_attention_heads, c.encoder_ffn_dim}, shared);
    add_stack(this->decoder_,
              {"decoder", c.decoder_layers, c.decoder_attention_heads, c.decoder_ffn_dim}, shared);
    this->output_ = {shared, 1, this->add_constant("final_logits_bias", {1, c.vocab_size})};
    this->load_options_.optional_prefix = "model.";  // older files and base models lack it
    this->load_options_.ignore_unexpected = {"*.version"};
    this->finish(UpstreamPadding::not_masked, {{"leak", 0.5}, {"threshold", 0.1}});
  }

  const BartConfig& config() const { return config_; }
  nlohmann::json config_json() const override { return to_json(config_); }

 private:
  using typename Base::StackType;

  struct StackSizes {
    std::string name;
    index_t layers, heads, feed_forward;
  };

  void add_stack(StackType& stack, const StackSizes& sizes, Parameter<B, T>* shared) {
    const BartConfig& c = config_;
    LayerStyle style = bart_style(c.init_std, c.activation);
    style.place = NormPlace::after;
    const std::string name = "model." + sizes.name;
    stack.heads = sizes.heads, stack.head_size = c.d_model / sizes.heads;
    const double scale = c.scale_embedding ? std::sqrt(static_cast<double>(c.d_model)) : 1;
    constexpr index_t offset = 2;  // rows of positions that are not used
    stack.embedding = {shared,
                       &this->parameters_.add(name + ".embed_positions.weight", Role::embedding,
                                              {c.max_position_embeddings + offset, c.d_model},
                                              Initial::normal(c.init_std)),
                       offset, scale};
    Norm<B, T> norm = this->add_norm(style, name + ".layernorm_embedding");
    for (index_t l = 0; l < sizes.layers; ++l) {
      auto& layer = stack.layers.emplace_back();
      const std::string of = name + ".layers." + std::to_string(l);
      // Each sublayer begins with the norm that ends the one before.
      layer.self = this->add_self_attention(style, stack, of + ".self_attn");
      layer.self.residual.norm =
          std::exchange(norm, this->add_norm(style, of + ".self_attn_layer_norm"));
      if (sizes.name == "decoder") {
        layer.cross = this->add_cross_attention(style, stack, of + ".encoder_attn");
        layer.cross->residual.norm =
            std::exchange(norm, this->add_norm(style, of + ".encoder_attn_layer_norm"));
      }
      layer.feed = this->add_feed_forward(style, of, sizes.feed_forward);
      layer.feed.residual.norm =
          std::exchange(norm, this->add_norm(style, of + ".final_layer_norm"));
    }
    stack.last_norm = norm;
  }

  BartConfig config_;
};

}  // namespace srformer
