// SPDX-License-Identifier: Apache-2.0
// Settings of finetune under a name: files of flags that ship inside the program.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>
#include <srformer/io/hf_checkpoint.hpp>

#include "errors.hpp"
#include "hf_flags.hpp"

namespace srformer::program {

/// A flag of a preset. It is left out where the command line or --config has it, and
///   training  where nothing is trained
///   needs     where they give that other flag of the preset another value
///   unless    where they have that flag
struct PresetFlag {
  std::string_view name, value;
  bool training = true;
  std::string_view needs = {}, unless = {};
};

/// Settings under a name; `model_type` is that of config.json which they are for, empty: any.
struct Preset {
  std::string_view name, model_type;
  std::vector<PresetFlag> flags;
};

namespace detail {

/// Both experiments of the paper: 25 epochs of AdamW with a linear schedule, sources of 1024 tokens in segments of 64 (section
/// 4), summaries of 128 (4.4.1). Rate, batch, no clipping and a recurrence at its whole scale are those of the authors' code.
inline std::vector<PresetFlag> paper_flags(std::string_view batch, std::string_view beams) {
  return {{"cross_attention", "segmented_recurrent"},
          {"segment_size", "64", true, "cross_attention"},
          {"gate", "false", true, "cross_attention"},
          {"soft_keys", "none", true, "cross_attention"},
          {"recurrence_init_scale", "1", true, "cross_attention"},
          {"max_source_length", "1024", false},
          {"max_target_length", "128", false},
          {"per_device_train_batch_size", batch},
          {"num_train_epochs", "25", true, {}, "max_steps"},
          {"optim", "adamw_torch"},
          {"learning_rate", "5e-5"},
          {"lr_scheduler_type", "linear"},
          {"warmup_steps", "0", true, {}, "warmup_ratio"},
          {"weight_decay", "0"},
          {"max_grad_norm", "0"},
          {"num_beams", beams, false}};
}

inline std::vector<PresetFlag> with_prefix(std::vector<PresetFlag> flags) {
  flags.push_back({"source_prefix", "summarize: ", false});
  return flags;
}

/// "--a-b=c" as a_b.
inline std::string flag_name(const std::string& word) {
  if (!word.starts_with("--")) return "";
  std::string name = word.substr(2, word.find('=') - 2);
  std::ranges::replace(name, '-', '_');
  return name;
}

/// The value of a flag among words, empty where it has none; null: it is not there.
inline const std::string* find_flag(const std::vector<std::string>& words, std::string_view name,
                                    std::string& value) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (flag_name(words[i]) != name) continue;
    const std::size_t equals = words[i].find('=');
    value.clear();
    if (equals != std::string::npos)
      value = words[i].substr(equals + 1);
    else if (i + 1 < words.size() && !words[i + 1].starts_with("--"))
      value = words[i + 1];
    return &value;
  }
  return nullptr;
}

}  // namespace detail

/// Those of finetune; docs/training.md says where each number is from.
inline const std::vector<Preset>& finetune_presets() {
  static const std::vector<Preset> presets{
      {"paper-t5-small", "t5", detail::with_prefix(detail::paper_flags("16", "1"))},
      {"paper-bart-base", "bart", detail::paper_flags("8", "4")},
      {"t5-adafactor",
       "",
       {{"optim", "adafactor"},
        {"optim_args",
         "scale_parameter=False,relative_step=False,warmup_init=False,clip_threshold=1.0", true,
         "optim"},
        {"learning_rate", "1e-3"},
        {"lr_scheduler_type", "constant"},
        {"weight_decay", "0"},
        {"max_grad_norm", "0"}}},
      {"denoise-pilot",
       "",
       {{"objective", "text_infilling", false},
        {"whole_words", "true", false, "objective"},
        {"text_length", "60", false, "objective"},
        {"noise_density", "0.08", false, "objective"},
        {"span_length", "uniform", false, "objective"},
        {"mean_span_length", "2", false, "objective"},
        {"denoised_length", "40", false, "objective"}}}};
  return presets;
}

inline const Preset* find_preset(std::span<const Preset> presets, std::string_view name) {
  for (const Preset& preset : presets)
    if (preset.name == name) return &preset;
  return nullptr;
}

/// Throws usage_error for a checkpoint of another architecture than the preset is for.
///   config  config.json of `model`
inline void check_preset(const Preset& preset, const nlohmann::json& config,
                         const std::string& model) {
  const std::string type(plain_model_type(config.value("model_type", "")));
  if (!preset.model_type.empty() && type != preset.model_type)
    throw usage_error("--preset " + std::string(preset.name) + " is for a " +
                      std::string(preset.model_type) + ", and " + model + " is a " + type +
                      "; take another preset, or the flags of this one from --dump_config");
}

/// What the flags of a preset change of a checkpoint that has a cross-attention already, in one line; empty: nothing.
///   given   the names of the flags that the preset gave
///   config  config.json
inline std::string preset_notice(const Preset& preset, const std::vector<std::string>& given,
                                 const nlohmann::json& config) {
  const nlohmann::json stored = config.value("cross_attention", nlohmann::json::object());
  if (!stored.is_object() || stored.value("variant", "full") == "full") return "";
  std::string changes;
  for (const PresetFlag& flag : preset.flags) {
    const std::string name(flag.name), key = name == "cross_attention" ? "variant" : name;
    if (std::ranges::find(given, name) == given.end() || !stored.contains(key)) continue;
    const nlohmann::json& value = stored[key];
    const std::string before = value.is_string() ? value.get<std::string>() : value.dump();
    if (before != flag.value)
      changes += (changes.empty() ? "" : ", ") + name + " " + std::string(flag.value) +
                 " in place of " + before;
  }
  return changes.empty() ? ""
                         : "notice: --preset " + std::string(preset.name) +
                               " goes over the checkpoint's config.json: " + changes;
}

/// Puts the flags of --preset NAME before the other words of a command line, where --preset stays; a name that there is not
/// is left for the parser to refuse. Returns the names of the flags that the preset gave.
inline std::vector<std::string> expand_preset(std::vector<std::string>& words,
                                              std::span<const Preset> presets) {
  std::string value;
  const auto given = [&](std::string_view name) {
    return detail::find_flag(words, name, value) != nullptr;
  };
  if (!given("preset")) return {};
  const Preset* preset = find_preset(presets, value);
  if (preset == nullptr) return {};
  const auto asked = [&](const char* name) {
    return given(name) && truth_of(value).value_or(true);
  };
  const bool trains = asked("do_train") || !(asked("do_eval") || asked("do_predict"));
  const auto kept = [&](const PresetFlag& flag) {
    if (given(flag.name) || (flag.training && !trains)) return false;
    if (!flag.unless.empty() && given(flag.unless)) return false;
    if (flag.needs.empty() || !given(flag.needs)) return true;
    const auto needed = std::ranges::find(preset->flags, flag.needs, &PresetFlag::name);
    return needed != preset->flags.end() && value == needed->value;
  };
  std::vector<std::string> names, before;
  for (const PresetFlag& flag : preset->flags) {
    if (!kept(flag)) continue;
    names.emplace_back(flag.name);
    before.push_back("--" + names.back() + "=" + std::string(flag.value));
  }
  words.insert(words.begin(), before.begin(), before.end());
  return names;
}

}  // namespace srformer::program
