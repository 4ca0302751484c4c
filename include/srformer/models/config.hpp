// SPDX-License-Identifier: Apache-2.0
// config.json of a checkpoint: the fields of a T5, or of a BART.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <variant>

#include <srformer/io/hf_checkpoint.hpp>
#include <srformer/models/cross_attention_config.hpp>
#include <srformer/ops/activation.hpp>

namespace srformer {

namespace detail {

/// Refuses a field of config.json whose value does not fit.
struct FieldRange {
  const std::string& path;
  void operator()(const char* key, const nlohmann::json& value, bool fits,
                  const char* expected) const {
    if (!fits) refuse_field(path, key, value, expected);
  }
};

/// Reads a token id, which must be one of the vocabulary.
struct TokenField {
  const nlohmann::json& json;
  const std::string& path;
  index_t vocabulary;
  std::int32_t operator()(const char* key, std::int32_t otherwise) const {
    const auto id = json_field_or<std::int32_t>(json, key, path, otherwise);
    FieldRange{path}(key, id, id >= 0 && id < vocabulary, "a token id of the vocabulary");
    return id;
  }
};

}  // namespace detail

/// The sizes and choices of a T5. Letters in docs/notation.md.
struct T5Config {
  index_t vocab_size = 0;  ///< V
  index_t d_model = 0;     ///< E
  index_t d_kv = 0;        ///< D
  index_t d_ff = 0;        ///< F
  index_t num_layers = 0;  ///< of the encoder
  index_t num_decoder_layers = 0;
  index_t num_heads = 0;  ///< H; H D may differ from E
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
  std::int32_t decoder_start_token_id = 0;
  CrossAttentionConfig cross_attention{};
  bool transformers_statistics = false;  ///< norms in double as transformers has them; never saved
  nlohmann::json source = nlohmann::json::object();  ///< config.json as read, kept for saving

  index_t inner() const { return num_heads * d_kv; }
};

/// Reads config.json of a T5; io_error says which field is missing, of the wrong type or out of range.
inline T5Config t5_config_from_json(const nlohmann::json& json, const std::string& path) {
  const std::string type = json_field<std::string>(json, "model_type", path);
  if (type != "t5") throw io_error(path + ": \"model_type\" is \"" + type + "\", expected \"t5\"");
  T5Config c;
  c.source = json;
  c.vocab_size = json_size(json, "vocab_size", path);
  c.d_model = json_size(json, "d_model", path);
  c.d_kv = json_size(json, "d_kv", path);
  c.d_ff = json_size(json, "d_ff", path);
  c.num_layers = json_size(json, "num_layers", path);
  c.num_decoder_layers = json_size_or(json, "num_decoder_layers", path, c.num_layers);
  c.num_heads = json_size(json, "num_heads", path);
  c.relative_attention_num_buckets =
      json_size_or(json, "relative_attention_num_buckets", path, c.relative_attention_num_buckets);
  c.relative_attention_max_distance = json_size_or(json, "relative_attention_max_distance", path,
                                                   c.relative_attention_max_distance);
  const detail::FieldRange in_range{path};
  // encoder and decoder share the buckets; the encoder has half of them for each side
  in_range("relative_attention_num_buckets", c.relative_attention_num_buckets,
           c.relative_attention_num_buckets >= 4, "at least 4");
  in_range("relative_attention_max_distance", c.relative_attention_max_distance,
           c.relative_attention_max_distance > c.relative_attention_num_buckets / 2,
           "more than half of the buckets");
  c.dropout_rate = json_field_or<double>(json, "dropout_rate", path, c.dropout_rate);
  in_range("dropout_rate", c.dropout_rate, c.dropout_rate >= 0 && c.dropout_rate < 1,
           "at least 0 and below 1");
  c.layer_norm_epsilon =
      json_field_or<double>(json, "layer_norm_epsilon", path, c.layer_norm_epsilon);
  in_range("layer_norm_epsilon", c.layer_norm_epsilon, c.layer_norm_epsilon >= 0, "at least 0");
  c.initializer_factor =
      json_field_or<double>(json, "initializer_factor", path, c.initializer_factor);
  const std::string projection = detail::json_choice(
      json, "feed_forward_proj", path,
      {"relu", "gelu", "gelu_new", "gated-relu", "gated-gelu", "gated-gelu_new"}, "relu");
  c.gated = projection.starts_with("gated-");
  const std::string activation = c.gated ? projection.substr(6) : projection;
  // transformers: "gated-gelu" means the tanh form
  c.activation =
      c.gated && activation == "gelu" ? Activation::gelu_new : activation_from_name(activation);
  c.tie_word_embeddings = json_field_or<bool>(json, "tie_word_embeddings", path, true);
  c.scale_decoder_outputs =
      c.tie_word_embeddings && json_field_or<bool>(json, "scale_decoder_outputs", path, true);
  const detail::TokenField token{json, path, c.vocab_size};
  c.pad_token_id = token("pad_token_id", 0);
  c.eos_token_id = token("eos_token_id", 1);
  c.decoder_start_token_id = token("decoder_start_token_id", c.pad_token_id);
  c.cross_attention = cross_attention_from_json(json, path);
  return c;
}

/// config.json of a T5: what was read, with the fields of `c` on top.
inline nlohmann::json to_json(const T5Config& c) {
  nlohmann::json json = c.source;
  json["model_type"] = "t5";
  json["architectures"] = {"T5ForConditionalGeneration"};
  json["is_encoder_decoder"] = true;
  json["vocab_size"] = c.vocab_size;
  json["d_model"] = c.d_model;
  json["d_kv"] = c.d_kv;
  json["d_ff"] = c.d_ff;
  json["num_layers"] = c.num_layers;
  json["num_decoder_layers"] = c.num_decoder_layers;
  json["num_heads"] = c.num_heads;
  json["relative_attention_num_buckets"] = c.relative_attention_num_buckets;
  json["relative_attention_max_distance"] = c.relative_attention_max_distance;
  json["dropout_rate"] = c.dropout_rate;
  json["layer_norm_epsilon"] = c.layer_norm_epsilon;
  json["initializer_factor"] = c.initializer_factor;
  const std::string gate = c.gated ? "gated-" : "";
  json["feed_forward_proj"] =
      gate + (c.activation == Activation::relu   ? "relu"
              : c.activation == Activation::gelu ? "gelu"
                                                 : (c.gated ? "gelu" : "gelu_new"));
  json["tie_word_embeddings"] = c.tie_word_embeddings;
  json["scale_decoder_outputs"] = c.scale_decoder_outputs;
  json["pad_token_id"] = c.pad_token_id;
  json["eos_token_id"] = c.eos_token_id;
  json["decoder_start_token_id"] = c.decoder_start_token_id;
  json["cross_attention"] = to_json(c.cross_attention);
  return json;
}

/// The sizes and choices of a BART. Letters in docs/notation.md.
struct BartConfig {
  index_t vocab_size = 0;  ///< V
  index_t d_model = 0;     ///< E
  index_t encoder_layers = 0, decoder_layers = 0;
  index_t encoder_attention_heads = 0, decoder_attention_heads = 0;  ///< H; each divides E
  index_t encoder_ffn_dim = 0, decoder_ffn_dim = 0;                  ///< F
  index_t max_position_embeddings = 1024;                            ///< longest source and target
  double dropout = 0.1, attention_dropout = 0, activation_dropout = 0;
  double init_std = 0.02;
  Activation activation = Activation::gelu;
  bool scale_embedding = false;  ///< by E^1/2
  std::int32_t pad_token_id = 1, bos_token_id = 0, eos_token_id = 2;
  std::int32_t decoder_start_token_id = 2;
  CrossAttentionConfig cross_attention{};
  nlohmann::json source = nlohmann::json::object();  ///< config.json as read, kept for saving
};

/// Reads config.json of a BART; io_error says which field is missing, of the wrong type or out of range.
inline BartConfig bart_config_from_json(const nlohmann::json& json, const std::string& path) {
  const std::string type = json_field<std::string>(json, "model_type", path);
  if (type != "bart")
    throw io_error(path + ": \"model_type\" is \"" + type + "\", expected \"bart\"");
  BartConfig c;
  c.source = json;
  c.vocab_size = json_size(json, "vocab_size", path);
  c.d_model = json_size(json, "d_model", path);
  c.encoder_layers = json_size(json, "encoder_layers", path);
  c.decoder_layers = json_size(json, "decoder_layers", path);
  c.encoder_attention_heads = json_size(json, "encoder_attention_heads", path);
  c.decoder_attention_heads = json_size(json, "decoder_attention_heads", path);
  c.encoder_ffn_dim = json_size(json, "encoder_ffn_dim", path);
  c.decoder_ffn_dim = json_size(json, "decoder_ffn_dim", path);
  c.max_position_embeddings =
      json_size_or(json, "max_position_embeddings", path, c.max_position_embeddings);
  const detail::FieldRange in_range{path};
  for (const auto& [key, heads] : {std::pair{"encoder_attention_heads", c.encoder_attention_heads},
                                   std::pair{"decoder_attention_heads", c.decoder_attention_heads}})
    in_range(key, heads, c.d_model % heads == 0, "a divisor of d_model");
  for (const auto& [key, rate] :
       {std::pair{"dropout", &c.dropout}, std::pair{"attention_dropout", &c.attention_dropout},
        std::pair{"activation_dropout", &c.activation_dropout}}) {
    *rate = json_field_or<double>(json, key, path, *rate);
    in_range(key, *rate, *rate >= 0 && *rate < 1, "at least 0 and below 1");
  }
  for (const char* key : {"encoder_layerdrop", "decoder_layerdrop"}) {
    const double rate = json_field_or<double>(json, key, path, 0);
    in_range(key, rate, rate == 0, "0: layers are not dropped here");
  }
  in_range("tie_word_embeddings", false,
           json_field_or<bool>(json, "tie_word_embeddings", path, true),
           "true: the output of BART is its embedding");
  c.init_std = json_field_or<double>(json, "init_std", path, c.init_std);
  c.activation = activation_from_name(
      detail::json_choice(json, "activation_function", path, {"relu", "gelu", "gelu_new"}, "gelu"));
  c.scale_embedding = json_field_or<bool>(json, "scale_embedding", path, false);
  const detail::TokenField token{json, path, c.vocab_size};
  c.pad_token_id = token("pad_token_id", 1);
  c.bos_token_id = token("bos_token_id", 0);
  c.eos_token_id = token("eos_token_id", 2);
  c.decoder_start_token_id = token("decoder_start_token_id", 2);
  c.cross_attention = cross_attention_from_json(json, path);
  return c;
}

/// config.json of a BART: what was read, with the fields of `c` on top.
inline nlohmann::json to_json(const BartConfig& c) {
  nlohmann::json json = c.source;
  json["model_type"] = "bart";
  json["architectures"] = {"BartForConditionalGeneration"};
  json["is_encoder_decoder"] = true;
  json["vocab_size"] = c.vocab_size;
  json["d_model"] = c.d_model;
  json["encoder_layers"] = c.encoder_layers;
  json["decoder_layers"] = c.decoder_layers;
  json["encoder_attention_heads"] = c.encoder_attention_heads;
  json["decoder_attention_heads"] = c.decoder_attention_heads;
  json["encoder_ffn_dim"] = c.encoder_ffn_dim;
  json["decoder_ffn_dim"] = c.decoder_ffn_dim;
  json["max_position_embeddings"] = c.max_position_embeddings;
  json["dropout"] = c.dropout;
  json["attention_dropout"] = c.attention_dropout;
  json["activation_dropout"] = c.activation_dropout;
  json["init_std"] = c.init_std;
  json["activation_function"] = c.activation == Activation::relu   ? "relu"
                                : c.activation == Activation::gelu ? "gelu"
                                                                   : "gelu_new";
  json["scale_embedding"] = c.scale_embedding;
  json["pad_token_id"] = c.pad_token_id;
  json["bos_token_id"] = c.bos_token_id;
  json["eos_token_id"] = c.eos_token_id;
  json["decoder_start_token_id"] = c.decoder_start_token_id;
  json["cross_attention"] = to_json(c.cross_attention);
  return json;
}

/// The configuration of either model.
using ModelConfig = std::variant<T5Config, BartConfig>;

/// What every model's configuration has.
struct CommonConfig {
  index_t vocab_size;
  index_t max_positions;  ///< longest source and target; 0: no limit
  std::int32_t pad_token_id, eos_token_id, decoder_start_token_id;
  double dropout, attention_dropout, activation_dropout;
  CrossAttentionConfig cross_attention;
};

inline CommonConfig common(const T5Config& c) {
  return {c.vocab_size,
          0,
          c.pad_token_id,
          c.eos_token_id,
          c.decoder_start_token_id,
          c.dropout_rate,
          c.dropout_rate,
          c.dropout_rate,
          c.cross_attention};
}
inline CommonConfig common(const BartConfig& c) {
  return {c.vocab_size,        c.max_position_embeddings, c.pad_token_id,
          c.eos_token_id,      c.decoder_start_token_id,  c.dropout,
          c.attention_dropout, c.activation_dropout,      c.cross_attention};
}
inline CommonConfig common(const ModelConfig& config) {
  return std::visit([](const auto& c) { return common(c); }, config);
}

/// config.json of a T5 or a BART, by its "model_type"; io_error for another.
inline ModelConfig model_config_from_json(const nlohmann::json& json, const std::string& path) {
  const std::string type = json_field<std::string>(json, "model_type", path);
  if (type == "t5") return t5_config_from_json(json, path);
  if (type == "bart") return bart_config_from_json(json, path);
  throw io_error(path + ": \"model_type\" is \"" + type + "\", expected \"t5\" or \"bart\"");
}

}  // namespace srformer
