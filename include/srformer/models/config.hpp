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

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

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
};

/// The values that a field of config.json may have.
enum class FieldRange {
  any,
  size,           ///< an integer from 1 on, which must be there
  optional_size,  ///< the same, or absent
  rate,           ///< at least 0 and below 1
  not_negative,
  token  ///< a token id of the vocabulary
};

/// A field of config.json. Absent or null leaves the default, except of a size.
struct ConfigField {
  std::string_view name;
  FieldRange range = FieldRange::any;
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
};

/// A configuration that an architecture declares as above.
template <class C>
concept ModelConfiguration = std::derived_from<C, ConfigBase> &&
    requires(C& c, const C& same, const std::string& path) {
  { C::model_type } -> std::convertible_to<std::string_view>;
  { C::class_name } -> std::convertible_to<std::string_view>;
  C::visit(c, [](const ConfigField&, auto&&) {});
  c.complete(path);
  { same.common() } -> std::same_as<CommonConfig>;
};

/// A field whose text stands for more than one member: it reads and writes them.
template <class M>
concept TextField = requires(M field, const std::string& text) {
  field.set(text);
  { field.text() } -> std::convertible_to<std::string>;
  M::choices;
};

/// An activation under its name in transformers.
struct ActivationField {
  Activation& activation;
  static constexpr std::string_view choices[] = {"relu", "gelu", "gelu_new"};
  void set(const std::string& name) { activation = activation_from_name(name); }
  std::string text() const { return std::string(activation_name(activation)); }
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

/// Reads each field that a configuration visits.
struct ReadField {
  const nlohmann::json& json;
  const std::string& path;
  const index_t& vocabulary;

  template <class M>
  void operator()(const ConfigField& field, M&& member) const {
    using Member = std::remove_cvref_t<M>;
    const RequireField fits{path};
    if constexpr (TextField<Member>) {
      member.set(json_choice(json, std::string(field.name), path, Member::choices, member.text()));
    } else if (field.range == FieldRange::size) {
      if constexpr (std::is_same_v<Member, index_t>) member = json_size(json, field.name, path);
    } else {
      if constexpr (std::is_same_v<Member, index_t>)
        if (field.range == FieldRange::optional_size)
          return void(member = json_size_or(json, field.name, path, member));
      member = json_field_or<Member>(json, field.name, path, member);
      if constexpr (std::is_same_v<Member, double>) {
        if (field.range == FieldRange::rate)
          fits(field.name, member, member >= 0 && member < 1, "at least 0 and below 1");
        if (field.range == FieldRange::not_negative)
          fits(field.name, member, member >= 0, "at least 0");
      }
      if constexpr (std::is_same_v<Member, std::int32_t>)
        fits(field.name, member, member >= 0 && member < vocabulary,
             "a token id of the vocabulary");
    }
  }
};

}  // namespace detail

/// Reads config.json of an architecture; io_error says which field is missing, of the wrong type or out of range.
template <ModelConfiguration Config>
Config config_from_json(const nlohmann::json& json, const std::string& path) {
  const std::string type = json_field<std::string>(json, "model_type", path);
  if (type != Config::model_type)
    throw io_error(path + ": \"model_type\" is \"" + type + "\", expected \"" +
                   std::string(Config::model_type) + "\"");
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
  json["model_type"] = Config::model_type;
  json["architectures"] = {Config::class_name};
  json["is_encoder_decoder"] = true;
  Config copy = c;  // text fields refer to members that may be set
  Config::visit(copy, [&](const ConfigField& field, auto&& member) {
    if constexpr (TextField<std::remove_cvref_t<decltype(member)>>)
      json[std::string(field.name)] = member.text();
    else
      json[std::string(field.name)] = member;
  });
  json["cross_attention"] = to_json(c.cross_attention);
  return json;
}

}  // namespace srformer
