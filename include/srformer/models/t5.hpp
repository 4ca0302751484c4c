// SPDX-License-Identifier: Apache-2.0
// T5 (Raffel et al. 2020), with any cross-attention in the decoder.
//
//   encoder   x += SelfAttention(norm(x));  x += FeedForward(norm(x));              out = norm(x)
//   decoder   x += SelfAttention(norm(x));  x += CrossAttention(norm(x), encoder);
//             x += FeedForward(norm(x));    logits = E^-1/2 norm(x) W^T
//
// RMS norms; no biases and no scaling of scores; a relative position bias shared by the layers of a stack; dropout
// where transformers has it: on embeddings, attention weights, hidden units, branches and outputs.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <srformer/models/encoder_decoder.hpp>

namespace srformer {

template <class B, class T, class List = PaperVariants>
requires BackendFor<B, T>
class T5;

/// feed_forward_proj: an activation, or "gated-" and one, where "gated-gelu" means the tanh form; dense_act_fn and
/// is_gated_act, which transformers 4.2x saved beside it, go before it.
struct FeedForwardProjection {
  Activation& activation;
  bool& gated;

  void read(const nlohmann::json& json, const std::string& path) {
    constexpr const char* key = "feed_forward_proj";
    const std::string projection = json_field_or<std::string>(json, key, path, "relu");
    gated = detail::json_truth(json, "is_gated_act", path, projection.starts_with("gated-"));
    if (const auto name = json_optional<std::string>(json, "dense_act_fn", path)) {
      activation = detail::json_activation(json, "dense_act_fn", path, *name);
      return;
    }
    const std::string name = projection.starts_with("gated-") ? projection.substr(6) : projection;
    activation = projection == "gated-gelu" ? Activation::gelu_new
                 : json.contains(key)       ? detail::json_activation(json, key, path, name)
                                            : Activation::relu;
  }
  /// Unless the fields say it already.
  void write(nlohmann::json& json) const {
    if (json.contains("feed_forward_proj")) {
      Activation said{};
      bool said_gated = false;
      FeedForwardProjection{said, said_gated}.read(json, "config.json");
      if (said == activation && said_gated == gated) return;
    }
    const bool exact = gated && activation == Activation::gelu;
    const std::string name(exact ? "gelu_python"
                           : gated && activation == Activation::gelu_new
                               ? "gelu"
                               : activation_name(activation));
    set_config_field(json, "feed_forward_proj", (gated ? "gated-" : "") + name);
  }
};

/// The sizes and choices of a T5. Letters in docs/notation.md.
struct T5Config : ConfigBase {
  static constexpr std::string_view model_type = "t5", class_name = "T5ForConditionalGeneration";
  /// With a variant: its classes in modeling_srformer.py, and the tokenizer of transformers.
  static constexpr std::string_view modeling_name = "SrformerT5", tokenizer_class = "T5Tokenizer";
  template <class B, class T, class List>
  using Model = T5<B, T, List>;

  index_t vocab_size = 32128;      ///< V
  index_t d_model = 512;           ///< E
  index_t d_kv = 64;               ///< D
  index_t d_ff = 2048;             ///< F
  index_t num_layers = 6;          ///< of the encoder
  index_t num_decoder_layers = 6;  ///< num_layers where config.json lacks it
  index_t num_heads = 8;           ///< H; H D may differ from E
  index_t relative_attention_num_buckets = 32;
  index_t relative_attention_max_distance = 128;
  double dropout_rate = 0.1;
  double layer_norm_epsilon = 1e-6;
  double initializer_factor = 1;
  Activation activation = Activation::relu;
  bool gated = false;
  bool tie_word_embeddings = true;
  bool scale_decoder_outputs = true;  ///< by E^-1/2 before the output projection
  std::int32_t pad_token_id = 0;
  std::int32_t eos_token_id = 1;
  std::int32_t decoder_start_token_id = 0;  ///< pad_token_id where config.json lacks it
  bool transformers_statistics = false;  ///< norms in double as transformers has them; never saved

  index_t inner() const { return num_heads * d_kv; }

  template <class Self, class F>
  static void visit(Self& c, F&& f) {
    using enum FieldRange;
    f(ConfigField{"vocab_size", size, "", index_t{1} << 31}, c.vocab_size);
    f(ConfigField{"d_model", size, "hidden_size"}, c.d_model);
    f(ConfigField{"d_kv", size, "head_dim"}, c.d_kv);
    f(ConfigField{"d_ff", size}, c.d_ff);
    f(ConfigField{"num_layers", size, "num_hidden_layers", 10'000}, c.num_layers);
    f(ConfigField{"num_decoder_layers", optional_size, "", 10'000}, c.num_decoder_layers);
    f(ConfigField{"num_heads", size, "num_attention_heads"}, c.num_heads);
    f(ConfigField{"relative_attention_num_buckets", optional_size},
      c.relative_attention_num_buckets);
    f(ConfigField{"relative_attention_max_distance", optional_size, "", index_t{1} << 62},
      c.relative_attention_max_distance);
    f(ConfigField{"dropout_rate", rate}, c.dropout_rate);
    f(ConfigField{"layer_norm_epsilon", not_negative}, c.layer_norm_epsilon);
    f(ConfigField{"initializer_factor"}, c.initializer_factor);
    f(ConfigField{"feed_forward_proj"}, FeedForwardProjection{c.activation, c.gated});
    f(ConfigField{"tie_word_embeddings"}, c.tie_word_embeddings);
    f(ConfigField{"scale_decoder_outputs", truth}, c.scale_decoder_outputs);
    f(ConfigField{"pad_token_id", token}, c.pad_token_id);
    f(ConfigField{"eos_token_id", tokens}, c.eos_token_id);
    f(ConfigField{"decoder_start_token_id", token}, c.decoder_start_token_id);
  }

  void complete(const std::string& path) {
    if (!json_optional<index_t>(source, "num_decoder_layers", path))
      num_decoder_layers = json_size_or(source, "num_layers", path, 6);
    if (!json_optional<std::int32_t>(source, "decoder_start_token_id", path))
      decoder_start_token_id = pad_token_id;
    if (!source.contains("scale_decoder_outputs")) scale_decoder_outputs = tie_word_embeddings;
    const detail::RequireField fits{path};
    fits("num_heads", num_heads, num_heads <= (index_t{1} << 20) / d_kv,
         "fewer, of so many numbers each");
    // encoder and decoder share the buckets; the encoder has half of them for each side
    fits("relative_attention_num_buckets", relative_attention_num_buckets,
         relative_attention_num_buckets >= 4, "at least 4");
    fits("relative_attention_max_distance", relative_attention_max_distance,
         relative_attention_max_distance > relative_attention_num_buckets / 2,
         "more than half of the buckets");
  }

  /// A stored output matrix that differs from the shared embedding is a weight of its own; else they are one.
  void complete_from(const HfCheckpoint& checkpoint) {
    const auto stored = [&](std::initializer_list<const char*> names) -> std::string {
      for (const std::string prefix : {"", "transformer."})
        for (const char* name : names)
          if (checkpoint.contains(prefix + name)) return prefix + name;
      return "";
    };
    const std::string output = stored({"lm_head.weight"});
    const std::string embedding =
        stored({"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"});
    tie_word_embeddings =
        output.empty() || embedding.empty() || checkpoint.equal_numbers(output, embedding);
  }

  CommonConfig common() const {
    return {.vocab_size = vocab_size,
            .width = d_model,
            .max_positions = 0,
            .pad_token_id = pad_token_id,
            .eos_token_id = eos_token_id,
            .decoder_start_token_id = decoder_start_token_id,
            .dropout = {dropout_rate, dropout_rate, dropout_rate},
            .cross_attention = cross_attention,
            .stored_numbers = stored_numbers};
  }
  /// One rate for every place.
  void set_dropout(double rate) { dropout_rate = rate; }

  /// Known sizes by name.
  static std::vector<std::pair<std::string, T5Config>> presets() {
    const auto sized = [](index_t width, index_t head, index_t hidden, index_t layers,
                          index_t heads) {
      T5Config c;
      c.vocab_size = 32128, c.d_model = width, c.d_kv = head, c.d_ff = hidden;
      c.num_layers = c.num_decoder_layers = layers, c.num_heads = heads;
      return c;
    };
    return {{"t5-small", sized(512, 64, 2048, 6, 8)}, {"t5-tiny", sized(64, 16, 128, 2, 4)}};
  }
};

template <class B, class T, class List>
requires BackendFor<B, T>
class T5 : public EncoderDecoder<B, T, List> {
  using Base = EncoderDecoder<B, T, List>;

 public:
  /// Parameters are there, but zero: load them, or initialize(). io_error where the configuration's
  /// cross-attention is none of the list's.
  T5(B& be, T5Config config) : Base(be, "T5", config.common()), config_(std::move(config)) {
    config_.cross_attention = Base::config().cross_attention;
    const T5Config& c = config_;
    std::vector<std::string> tied{"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"};
    if (c.tie_word_embeddings) tied.push_back("lm_head.weight");
    const Initial embedding = Initial::normal(c.initializer_factor);
    const auto shared = this->add_table("shared.weight", embedding, tied);
    this->output_.weight =
        c.tie_word_embeddings ? shared : this->add_table("lm_head.weight", embedding);
    if (c.scale_decoder_outputs)
      this->output_.scale = 1 / std::sqrt(static_cast<double>(c.d_model));
    add_stack(this->encoder_, "encoder", c.num_layers, shared);
    add_stack(this->decoder_, "decoder", c.num_decoder_layers, shared);
    this->load_options_.other_prefix = "transformer.";
    this->load_options_.ignore_unexpected = {
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", "*.version"};
    this->finish(UpstreamPadding::most_negative, {{"leak", 0.1}, {"threshold", 0.1}});
  }

  const T5Config& config() const { return config_; }
  nlohmann::json config_json() const override { return to_json(config_); }

 private:
  using typename Base::StackType;

  /// Initial deviations as in transformers' T5PreTrainedModel.
  LayerStyle style() const {
    const T5Config& c = config_;
    const auto normal = [&](index_t fan, index_t more = 1) {
      return Initial::normal(c.initializer_factor / std::sqrt(static_cast<double>(fan * more)));
    };
    LayerStyle style;
    style.q = {".q", normal(c.d_model, c.d_kv)}, style.k = {".k", normal(c.d_model)};
    style.v = {".v", normal(c.d_model)}, style.o = {".o", normal(c.inner())};
    style.inner = {c.gated ? ".wi_0" : ".wi", normal(c.d_model)};
    if (c.gated) style.gate = {".wi_1", normal(c.d_model)};
    style.outer = {".wo", normal(c.d_ff)};
    style.activation = c.activation;
    style.norm_weight = c.initializer_factor, style.norm_epsilon = c.layer_norm_epsilon;
    style.transformers_statistics = c.transformers_statistics;
    return style;
  }

  void add_stack(StackType& stack, const std::string& name, index_t count,
                 Parameter<B, T>* shared) {
    const T5Config& c = config_;
    const LayerStyle style = this->style();
    const bool encoder = name == "encoder";
    stack.embedding.table = shared;
    stack.heads = c.num_heads, stack.head_size = c.d_kv, stack.output_dropout = true;
    for (index_t l = 0; l < count; ++l) {
      auto& layer = stack.layers.emplace_back();
      const std::string block = name + ".block." + std::to_string(l) + ".layer.";
      layer.self = this->add_self_attention(style, stack, block + "0.SelfAttention");
      if (l == 0) stack.position_bias = add_position_bias(block + "0.SelfAttention", encoder);
      layer.self.residual.norm = this->add_norm(style, block + "0.layer_norm");
      if (!encoder) {
        layer.cross = this->add_cross_attention(style, stack, block + "1.EncDecAttention");
        layer.cross->residual.norm = this->add_norm(style, block + "1.layer_norm");
      }
      const std::string last = block + (encoder ? "1." : "2.");
      layer.feed = this->add_feed_forward(style, last + "DenseReluDense", c.d_ff);
      layer.feed.residual.norm = this->add_norm(style, last + "layer_norm");
    }
    stack.last_norm = this->add_norm(style, name + ".final_layer_norm");
  }

  /// The bias of a stack's first layer, which the others share.
  PositionBias<B, T> add_position_bias(const std::string& name, bool bidirectional) {
    const T5Config& c = config_;
    const double deviation = c.initializer_factor / std::sqrt(static_cast<double>(c.d_model));
    return {&this->parameters_.add(name + ".relative_attention_bias.weight", Role::weight,
                                   {c.relative_attention_num_buckets, c.num_heads},
                                   Initial::normal(deviation)),
            {c.relative_attention_num_buckets, c.relative_attention_max_distance, bidirectional}};
  }

  T5Config config_;
};

}  // namespace srformer
