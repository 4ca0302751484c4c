// SPDX-License-Identifier: Apache-2.0
// config.json of an architecture, as a fold over the fields that its configuration visits.
//
//   struct MyConfig : ConfigBase {
//     static constexpr std::string_view model_type = "mine", class_name = "MineForConditionalGeneration";
//     index_t d_model = 0;
//     template <class Self, class F>
//     static void visit(Self& c, F&& f) { f(ConfigField{"d_model", FieldRange::size}, c.d_model); }
//     void complete(const std::string& path);  // derives fields and checks them against each other
//     CommonConfig common() const;             // what every model has
//   };
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <srformer/io/hf_checkpoint.hpp>
#include <srformer/models/cross_attention_config.hpp>
#include <srformer/ops/activation.hpp>
#include <srformer/ops/dropout.hpp>

namespace srformer {

/// What every model's configuration has.
struct CommonConfig {
  index_t vocab_size;     ///< V
  index_t width;          ///< E
  index_t max_positions;  ///< longest source and target; 0: no limit
  std::int32_t pad_token_id, eos_token_id, decoder_start_token_id;
  DropoutRates dropout;
  CrossAttentionConfig cross_attention;
  std::int32_t embedding_padding_id = -1;  ///< the token whose embedding gets no gradient; -1: none
  bool drops_layers = false;               ///< in training, which is not done here
  std::optional<index_t> stored_numbers{};  ///< in the checkpoint whose weights will be loaded
};

/// The values that a field of config.json may have.
enum class FieldRange {
  any,
  size,           ///< an integer from 1 on; never null
  optional_size,  ///< the same, or null
  rate,           ///< at least 0 and below 1
  share,          ///< from 0 to 1
  not_negative,
  truth,  ///< what transformers takes for true or false, whatever it is
  token,  ///< a token id of the vocabulary
  tokens  ///< the same, or a list of ids of which the first one of the vocabulary counts
};

/// A field of config.json. Where it is absent, or null but no size, it keeps its default, which is transformers'.
struct ConfigField {
  std::string_view name;
  FieldRange range = FieldRange::any;
  std::string_view alias{};         ///< transformers' name for all models, which goes before
  index_t most = index_t{1} << 20;  ///< of a size, so that products of some do not overflow
};

/// What a new model of an architecture takes of its tokenizer.
struct Conventions {
  bool byte_level_bpe = false;   ///< or SentencePiece
  bool starts_from_eos = false;  ///< decoding, or from the padding token
  bool forces_eos = false;       ///< as the last token where a text is cut off
};

/// What configurations of all architectures hold beside their fields.
struct ConfigBase {
  static constexpr Conventions conventions{};
  CrossAttentionConfig cross_attention{};
  nlohmann::json source = nlohmann::json::object();  ///< config.json as read, kept for saving
  /// Numbers in the checkpoint that it was read with: a model of far more is refused before it takes memory.
  std::optional<index_t> stored_numbers{};
};

namespace detail {
/// For concepts alone.
struct AnyField {
  template <class M>
  void operator()(const ConfigField&, M&&) const {}
};
}  // namespace detail

/// A configuration that an architecture declares as above.
template <class C>
concept ModelConfiguration = std::derived_from<C, ConfigBase> &&
    requires(C& c, const C& same, const std::string& path) {
  { C::model_type } -> std::convertible_to<std::string_view>;
  { C::class_name } -> std::convertible_to<std::string_view>;
  C::visit(c, detail::AnyField{});
  c.complete(path);
  { same.common() } -> std::same_as<CommonConfig>;
};

/// A field that is read and written in its own way.
template <class M>
concept JsonField = requires(M field, nlohmann::json& json, const std::string& path) {
  field.read(json, path);
  field.write(json);
};

namespace detail {

/// Refuses a field of config.json whose value does not fit.
struct RequireField {
  const std::string& path;
  void operator()(std::string_view key, const nlohmann::json& value, bool fits,
                  std::string_view expected) const {
    if (!fits) refuse_field(path, key, value, expected);
  }
};

/// A field that transformers takes for true or false whatever it holds; absent is `otherwise`.
inline bool json_truth(const nlohmann::json& json, std::string_view key, const std::string& path,
                       bool otherwise) {
  const auto found = json.find(key);
  if (found == json.end()) return otherwise;
  if (found->is_null()) return false;
  if (found->is_number()) return found->get<double>() != 0;
  return json_field<bool>(json, key, path);
}

/// An activation by one of its names.
inline Activation json_activation(const nlohmann::json& json, std::string_view key,
                                  const std::string& path, const std::string& name) {
  if (const auto kind = activation_named(name)) return *kind;
  refuse_field(path, key, json.at(std::string(key)), "one of " + activation_list());
}

/// Refuses what a configuration says of weights that are not stored as numbers.
inline void refuse_quantization(const nlohmann::json& json, const std::string& path) {
  const auto found = json.find("quantization_config");
  if (found != json.end() && !found->is_null())
    refuse_field(path, "quantization_config", *found,
                 "nothing: quantized weights are not read; take the checkpoint they were made of");
}

/// Names of transformers that say a field of config.json too, and go before it.
inline std::vector<const char*> names_before(std::string_view key) {
  if (key == "d_model") return {"hidden_size"};
  if (key == "d_kv") return {"head_dim"};
  if (key == "num_layers" || key == "encoder_layers") return {"num_hidden_layers"};
  if (key == "num_heads" || key == "encoder_attention_heads") return {"num_attention_heads"};
  if (key == "feed_forward_proj") return {"dense_act_fn", "is_gated_act"};
  if (key == "tie_word_embeddings") return {"scale_decoder_outputs"};
  return {};
}

/// Reads each field that a configuration visits.
struct ReadField {
  const nlohmann::json& json;
  const std::string& path;
  const index_t& vocabulary;

  template <class M>
  void operator()(const ConfigField& field, M&& member) const {
    using Member = std::remove_cvref_t<M>;
    if constexpr (JsonField<Member>)
      member.read(json, path);
    else if constexpr (std::is_same_v<Member, index_t>)
      read_size(field, member);
    else if constexpr (std::is_same_v<Member, double>)
      read_number(field, member);
    else if constexpr (std::is_same_v<Member, std::int32_t>)
      read_token(field, member);
    else if constexpr (std::is_same_v<Member, bool>)
      member = field.range == FieldRange::truth
                   ? json_truth(json, field.name, path, member)
                   : json_field_or<bool>(json, field.name, path, member);
  }

 private:
  void read_size(const ConfigField& field, index_t& member) const {
    const bool other = !field.alias.empty() && json.contains(field.alias);
    const std::string_view name = other ? field.alias : field.name;
    if (!json.contains(name)) return;
    member = field.range == FieldRange::size ? json_size(json, name, path)
                                             : json_size_or(json, name, path, member);
    RequireField{path}(name, member, member <= field.most, "at most " + std::to_string(field.most));
  }
  void read_number(const ConfigField& field, double& member) const {
    member = json_field_or<double>(json, field.name, path, member);
    const RequireField fits{path};
    if (field.range == FieldRange::rate)
      fits(field.name, member, member >= 0 && member < 1, "at least 0 and below 1");
    if (field.range == FieldRange::share)
      fits(field.name, member, member >= 0 && member <= 1, "from 0 to 1");
    if (field.range == FieldRange::not_negative)
      fits(field.name, member, member >= 0, "at least 0");
  }
  void read_token(const ConfigField& field, std::int32_t& member) const {
    const auto found = json.find(field.name);
    const RequireField fits{path};
    const auto known = [&](std::int32_t id) { return id >= 0 && id < vocabulary; };
    if (field.range == FieldRange::tokens && found != json.end() && found->is_array()) {
      fits(field.name, *found, std::ranges::all_of(*found, json_holds<std::int32_t>),
           "a token id or a list of them");
      for (const nlohmann::json& id : *found)
        if (known(id.get<std::int32_t>())) return void(member = id.get<std::int32_t>());
      return fits(field.name, *found, found->empty(), "a token id of the vocabulary");
    }
    member = json_field_or<std::int32_t>(json, field.name, path, member);
    if (field.range != FieldRange::any)
      fits(field.name, member, known(member), "a token id of the vocabulary");
  }
};

}  // namespace detail

/// Sets a field of config.json that another name in it would go before.
inline void set_config_field(nlohmann::json& config, const std::string& key, nlohmann::json value) {
  for (const char* name : detail::names_before(key))
    if (config.contains(name) && config[name] != value) config.erase(name);
  config[key] = std::move(value);
}

/// An activation under one of its names in transformers.
struct ActivationField {
  Activation& activation;
  std::string_view name;

  void read(const nlohmann::json& json, const std::string& path) {
    if (json.contains(name))
      activation =
          detail::json_activation(json, name, path, json_field<std::string>(json, name, path));
  }
  /// Unless the field says it already, by whatever name.
  void write(nlohmann::json& json) const {
    const auto found = json.find(name);
    if (found == json.end() || !found->is_string() ||
        activation_named(found->get_ref<const std::string&>()) != activation)
      json[std::string(name)] = activation_name(activation);
  }
};

namespace detail {

/// The Python file that a folder with such a model has, for transformers' trust_remote_code.
inline constexpr std::string_view modeling_module = "modeling_srformer";

/// Whether an entry of auto_map names a class of that file.
inline bool names_modeling(const nlohmann::json& entry) {
  return entry.is_string() &&
         entry.get_ref<const std::string&>().starts_with(std::string(modeling_module) + ".");
}

/// Leaves no entry of auto_map that names that file.
inline void drop_auto_map(nlohmann::json& config) {
  const auto found = config.find("auto_map");
  if (found == config.end() || !found->is_object()) return;
  nlohmann::json others = nlohmann::json::object();
  for (const auto& [name, value] : found->items())
    if (!names_modeling(value)) others[name] = value;
  if (others.empty()) {
    config.erase("auto_map");
  } else {
    *found = std::move(others);
  }
}

/// Sets what tells transformers which class reads the model: with a variant one of modeling_srformer.py, where it has one
/// for the architecture.
template <ModelConfiguration Config>
void write_class(nlohmann::json& json, const std::string& variant) {
  drop_auto_map(json);
  json["model_type"] = Config::model_type;
  json["architectures"] = nlohmann::json::array({Config::class_name});  // clang 14 leaks a mere {}
  if (variant == "full") return;
  json["model_type"] = std::string(variant_prefix) + std::string(Config::model_type);
  if constexpr (requires { std::string_view(Config::modeling_name); }) {
    const std::string name(Config::modeling_name), path = std::string(modeling_module) + "." + name;
    if (!json["auto_map"].is_object()) json["auto_map"] = nlohmann::json::object();
    json["auto_map"]["AutoConfig"] = path + "Config";
    json["auto_map"]["AutoModelForSeq2SeqLM"] = path + "ForConditionalGeneration";
    json["architectures"] = nlohmann::json::array({name + "ForConditionalGeneration"});
    // Where nothing else names the tokenizer, transformers takes that of a model_type that it knows.
    if (!json.contains("tokenizer_class") || json["tokenizer_class"].is_null())
      json["tokenizer_class"] = Config::tokenizer_class;
  }
}

}  // namespace detail

/// Reads config.json of an architecture as transformers does; io_error says which field is of the wrong type or out of
/// range.
template <ModelConfiguration Config>
Config config_from_json(const nlohmann::json& json, const std::string& path) {
  const std::string type = json_field<std::string>(json, "model_type", path);
  if (plain_model_type(type) != Config::model_type)
    throw io_error(path + ": \"model_type\" is \"" + one_line(type) + "\", expected \"" +
                   std::string(Config::model_type) + "\"");
  detail::refuse_quantization(json, path);
  Config c;
  c.source = json;
  Config::visit(c, detail::ReadField{json, path, c.vocab_size});
  c.complete(path);
  c.cross_attention = cross_attention_from_json(json, path);
  return c;
}

/// config.json of an architecture: what was read, with the fields of `c` on top.
template <ModelConfiguration Config>
nlohmann::json to_json(const Config& c) {
  nlohmann::json json = c.source;
  detail::write_class<Config>(json, c.cross_attention.variant);
  json["is_encoder_decoder"] = true;
  Config copy = c;  // fields of their own refer to members that they may set
  Config::visit(copy, [&](const ConfigField& field, auto&& member) {
    const std::string key(field.name);
    if constexpr (JsonField<std::remove_cvref_t<decltype(member)>>) {
      member.write(json);
    } else if (field.range == FieldRange::tokens && json.contains(key) && json[key].is_array() &&
               std::ranges::find(json[key], nlohmann::json(member)) != json[key].end()) {
      // the list says it already
    } else if (!field.alias.empty()) {
      set_config_field(json, key, member);
    } else {
      json[key] = member;
    }
  });
  json["cross_attention"] = to_json(c.cross_attention);
  return json;
}

/// Throws shape_error where training would leave out layers, which it cannot here.
inline void check_training(const CommonConfig& c) {
  require(!c.drops_layers, "check_training",
          "encoder_layerdrop or decoder_layerdrop is above 0, and layers are not dropped here; set "
          "both to 0 in config.json to train without that");
}
template <ModelConfiguration Config>
void check_training(const Config& c) {
  check_training(c.common());
}

}  // namespace srformer
