// SPDX-License-Identifier: Apache-2.0
// The flags that say which cross-attention a model has; they go over what config.json says. There is a flag for every
// option of every variant that the programs offer.
#pragma once

#include <cmath>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <srformer/models/cross_attention_config.hpp>

#include "program.hpp"
#include "variants.hpp"

namespace srformer::program {

/// Whether some variant of the programs has an option of this name.
inline bool offers_option(std::string_view name) {
  for (const VariantDescription& variant : ProgramVariants::describe())
    if (variant.has_option(name)) return true;
  return false;
}

/// How the recurrence starts where a checkpoint has none: with a factor on its weights, or measured on the first batch of
/// training, EncoderDecoder::fit_recurrence.
struct RecurrenceStart {
  bool measured = false;
  double factor = 0.1;
};

/// The field of config.json that says so where no flag does.
inline constexpr const char* recurrence_start_field = "recurrence_init_scale";

/// How sharp the soft keys of a new recurrence are. docs/paper.md has what came of it.
inline constexpr double recommended_soft_keys = 4;

/// What the command line said; what it did not say stays as it was.
struct CrossAttentionFlags {
  std::optional<std::string> variant;
  std::map<std::string, nlohmann::json, std::less<>> options;  ///< by name, as config.json has them
  std::string recurrence_init_scale;                           ///< empty: not given

  bool given(std::string_view option) const { return options.contains(option); }

  void add_to(CLI::App& app) {
    const std::vector<VariantDescription> all = ProgramVariants::describe();
    std::vector<std::string> names;
    for (const VariantDescription& v : all) names.emplace_back(v.name);
    app.add_option("--cross_attention", variant, "Cross-attention of the decoder")
        ->check(CLI::IsMember(names));
    std::vector<std::string_view> added;
    for (const VariantDescription& v : all)
      for (const OptionEntry& option : v.options) {
        if (std::ranges::find(added, option.info.name) != added.end()) continue;
        added.push_back(option.info.name);
        add_option(app, option);
      }
    app.add_option(
           "--recurrence_init_scale", recurrence_init_scale,
           "Factor on the initial weights of the recurrence, 1 is the authors'; or auto: so "
           "that it adds a tenth at first, measured on the first batch; else config.json's, "
           "or auto")
        ->type_name("NUMBER or auto")
        ->check(CLI::Validator(
            [](std::string& word) {
              double value = 0;
              if (word == "auto" ||
                  (CLI::detail::lexical_cast(word, value) && std::isfinite(value)))
                return std::string();
              return "Value " + word + " is neither a number nor auto";
            },
            ""));
  }

  /// As the flag says, or else config.json. Where neither does, a recurrence that is `fresh` is measured, unless it has soft
  /// keys and a gate, which start as they should; one that is there already stays.
  RecurrenceStart recurrence_start(const nlohmann::json& config, const std::string& path,
                                   bool fresh) const {
    RecurrenceStart start;
    if (recurrence_init_scale == "auto") return {.measured = true};
    if (!recurrence_init_scale.empty()) {
      CLI::detail::lexical_cast(recurrence_init_scale, start.factor);
      return start;
    }
    const auto field = config.find(recurrence_start_field);
    if (field == config.end() || field->is_null()) {
      const bool known =
          option(config, "soft_keys", nullptr).is_number() && option(config, "gate", false) == true;
      if (known) return {.factor = 1};
      start.measured = fresh && recurs(config);
      return start;
    }
    if (*field == "auto") return {.measured = true};
    if (!field->is_number())
      throw io_error(path + ": \"" + recurrence_start_field +
                     "\" is neither a number nor \"auto\"; correct it");
    start.factor = field->get<double>();
    return start;
  }

  /// Gives segmented recurrent attention soft keys and a gate where it is new, over a config.json of another cross-attention,
  /// and nothing more is said of it than its segments. Returns whether it did.
  bool recommend(const nlohmann::json& config) {
    const bool is_new = variant == SegmentedRecurrent::name &&
                        cross_attention_from_json(config, "config.json").variant != *variant;
    if (!is_new || shapes_recurrence() || config.contains(recurrence_start_field)) return false;
    options["soft_keys"] = recommended_soft_keys;
    options["gate"] = true;
    return true;
  }

  /// Puts what was said into config.json's object "cross_attention", and checks it there.
  void apply(nlohmann::json& config) const {
    CrossAttentionConfig cross = cross_attention_from_json(config, "config.json");
    cross_attention_options<ProgramVariants>(cross);
    if (variant) cross.variant = *variant;
    for (const auto& [name, value] : options) cross.options[name] = value;
    cross.path = "the flags of the cross-attention";
    cross_attention_options<ProgramVariants>(cross);
    config["cross_attention"] = to_json(cross);
  }

 private:
  /// Whether flags say how the recurrence starts, or give it an option that segmented attention does not have.
  bool shapes_recurrence() const {
    if (!recurrence_init_scale.empty()) return true;
    return std::ranges::any_of(option_entries<SegmentedRecurrent>, [&](const OptionEntry& option) {
      const auto same = [&](const OptionEntry& of_segments) {
        return of_segments.info.name == option.info.name;
      };
      return given(option.info.name) && std::ranges::none_of(option_entries<Segmented>, same);
    });
  }
  /// An option by the flags over config.json's object "cross_attention".
  nlohmann::json option(const nlohmann::json& config, std::string_view name,
                        const nlohmann::json& fallback) const {
    if (const auto flag = options.find(name); flag != options.end()) return flag->second;
    const auto found = config.find("cross_attention");
    return found != config.end() && found->is_object() ? found->value(std::string(name), fallback)
                                                       : fallback;
  }
  /// Whether the cross-attention has a recurrence, by the flags over config.json.
  bool recurs(const nlohmann::json& config) const {
    return variant.value_or(option(config, "variant", "full")) == SegmentedRecurrent::name &&
           option(config, "recurrence", true) == true;
  }

  void add_option(CLI::App& app, const OptionEntry& option) {
    const std::string name(option.info.name), flag = "--" + name;
    CLI::Option* added = app.add_option_function<std::string>(
        flag,
        [this, name, flag, option](const std::string& text) {
          options[name] = value_of(flag, option, text);
        },
        std::string(option.info.help));
    switch (option.kind) {
      case OptionKind::flag:
        added->type_name("BOOLEAN");
        break;
      case OptionKind::integer:
        added->type_name("INT");
        if (option.info.range != OptionRange::any) added->check(at_least(1));
        break;
      case OptionKind::number:
        added->type_name(option.info.range == OptionRange::positive_or_none ? "NUMBER or none"
                                                                            : "NUMBER");
        break;
      case OptionKind::choice:
        added->check(
            CLI::IsMember(std::vector<std::string>(option.choices.begin(), option.choices.end())));
        break;
    }
  }

  static nlohmann::json value_of(const std::string& flag, const OptionEntry& option,
                                 const std::string& text) {
    switch (option.kind) {
      case OptionKind::flag:
        return truth(flag, text);
      case OptionKind::integer:
        return integer(flag, text);
      case OptionKind::number:
        if (option.info.range == OptionRange::positive_or_none && text == "none") return nullptr;
        return number(flag, option, text);
      case OptionKind::choice:
        break;
    }
    return text;
  }
  static bool truth(const std::string& flag, const std::string& text) {
    bool value = false;
    if (!CLI::detail::lexical_cast(text, value))
      throw usage_error(flag + " " + text + " is neither true nor false");
    return value;
  }
  static index_t integer(const std::string& flag, const std::string& text) {
    char* end = nullptr;
    const long long value = std::strtoll(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0') throw usage_error(flag + " " + text + " is no integer");
    return static_cast<index_t>(value);
  }
  static double number(const std::string& flag, const OptionEntry& option,
                       const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    const bool positive = option.info.range != OptionRange::any;
    if (text.empty() || *end != '\0' || !std::isfinite(value) || (positive && !(value > 0)))
      throw usage_error(flag + " " + text +
                        (positive ? " is neither a positive number" : " is no number") +
                        (option.info.range == OptionRange::positive_or_none ? " nor none" : ""));
    return value;
  }
};

}  // namespace srformer::program
