// SPDX-License-Identifier: Apache-2.0
// The cross-attention of a decoder in config.json: an object with the variant's name and its options.
//
//   "cross_attention": {"variant": "segmented_recurrent", "segment_size": 16, "clamp": 2}
//
// Configurations hold it as it is written, so that they do not depend on the variants there are; a model reads
// its options from it with its own list. Fields are those that OptionInfo describes.
#pragma once

#include <cmath>
#include <string>

#include <srformer/attention/cross_attention.hpp>
#include <srformer/io/hf_checkpoint.hpp>

namespace srformer {

/// The name of a variant and its options as config.json has them.
struct CrossAttentionConfig {
  std::string variant = "full";
  nlohmann::json options = nlohmann::json::object();
  std::string path = "config.json";  ///< where they were read, for errors

  CrossAttentionConfig() = default;
  CrossAttentionConfig(std::string name, nlohmann::json fields, std::string read_from)
      : variant(std::move(name)), options(std::move(fields)), path(std::move(read_from)) {}
  /// Of the options of a list of variants, all of them written out.
  template <class Options>
  requires requires { typename Options::variants; }
  CrossAttentionConfig(const Options& chosen);  // NOLINT: they say the same
};

namespace detail {

inline std::string json_choice(const nlohmann::json& object, const std::string& key,
                               const std::string& path, std::span<const std::string_view> choices,
                               std::string_view otherwise) {
  const std::string got = json_field_or<std::string>(object, key, path, std::string(otherwise));
  std::string list;
  for (const std::string_view choice : choices) {
    if (got == choice) return got;
    list += (list.empty() ? "" : ", ") + std::string(choice);
  }
  throw io_error(path + ": \"" + key + "\" is \"" + got + "\", expected one of " + list);
}
inline std::string json_choice(const nlohmann::json& object, const std::string& key,
                               const std::string& path,
                               std::initializer_list<std::string_view> choices,
                               std::string_view otherwise) {
  return json_choice(object, key, path, std::span(choices.begin(), choices.size()), otherwise);
}

/// Reads an option where `object` has it; null is none, or leaves the default.
template <class M>
void read_option(const nlohmann::json& object, const OptionInfo& info, const std::string& path,
                 M& member) {
  const std::string key(info.name);
  const auto found = object.find(key);
  if (found == object.end()) return;
  if (found->is_null()) {
    if (info.range == OptionRange::positive_or_none) member = M{};
    return;
  }
  if constexpr (std::is_enum_v<M>) {
    constexpr auto& names = choice_names<M>;
    const std::string name = json_choice(object, key, path, names, names[0]);
    for (std::size_t i = 0; i < names.size(); ++i)
      if (names[i] == name) member = static_cast<M>(i);
  } else {
    member = json_field<M>(object, key, path);
    if constexpr (!std::is_same_v<M, bool>) {
      if (info.range != OptionRange::any && !(member > M{}))
        throw io_error(path + ": \"" + key + "\" is " + found->dump() + ", expected " +
                       (std::is_same_v<M, index_t> ? "at least 1" : "a positive number") +
                       (info.range == OptionRange::positive_or_none ? " or null" : ""));
    }
  }
}

template <class M>
nlohmann::json option_json(const OptionInfo& info, const M& member) {
  if constexpr (std::is_enum_v<M>) {
    return choice_names<M>[static_cast<std::size_t>(member)];
  } else {
    if constexpr (!std::is_same_v<M, bool>)
      if (info.range == OptionRange::positive_or_none && !(member > M{})) return nullptr;
    return member;
  }
}

}  // namespace detail

template <class Options>
requires requires { typename Options::variants; }
CrossAttentionConfig::CrossAttentionConfig(const Options& chosen) : variant(chosen.name()) {
  chosen.visit([&]<class O>(auto, const O& o) {
    O otherwise{};
    nlohmann::json defaults;
    O::visit(otherwise, [&](const OptionInfo& info, const auto& member) {
      defaults[std::string(info.name)] = detail::option_json(info, member);
    });
    O::visit(o, [&](const OptionInfo& info, const auto& member) {
      const std::string key(info.name);
      nlohmann::json value = detail::option_json(info, member);
      if (info.saved_where_default || value != defaults[key]) options[key] = std::move(value);
    });
  });
}

/// Reads the object under "cross_attention"; a configuration without it is ordinary ("full"). io_error where it
/// is no object, or its name is no name; its options are checked by the model that takes them.
inline CrossAttentionConfig cross_attention_from_json(const nlohmann::json& config,
                                                      const std::string& path) {
  const auto found = config.find("cross_attention");
  if (found == config.end() || found->is_null()) return {"full", nlohmann::json::object(), path};
  if (!found->is_object()) throw io_error(path + ": \"cross_attention\" is not an object");
  nlohmann::json fields = *found;
  fields.erase("variant");
  return {json_field_or<std::string>(*found, "variant", path, "full"), std::move(fields), path};
}

/// The object to save under "cross_attention".
inline nlohmann::json to_json(const CrossAttentionConfig& c) {
  nlohmann::json json = c.options;
  json["variant"] = c.variant;
  return json;
}

/// The options of a configuration in a list of variants. io_error for a variant that the list lacks, for a field
/// that no variant of the list has, and for a value that does not fit. Fields of other variants of the list are
/// passed over, so that a configuration may change its variant.
template <class List>
typename List::Options cross_attention_options(const CrossAttentionConfig& config) {
  const std::vector<VariantDescription> all = List::describe();
  std::vector<std::string_view> names;
  for (const VariantDescription& v : all) names.push_back(v.name);
  detail::json_choice({{"variant", config.variant}}, "variant", config.path, names, "");
  for (const auto& item : config.options.items()) {
    bool known = false;
    for (const VariantDescription& v : all) known = known || v.has_option(item.key());
    if (!known)
      throw io_error(config.path + ": \"cross_attention\" has an unknown field \"" + item.key() +
                     "\"");
  }
  auto options = List::Options::named(config.variant);
  options.visit_options([&](const OptionInfo& info, auto& member) {
    detail::read_option(config.options, info, config.path, member);
  });
  return options;
}

}  // namespace srformer
