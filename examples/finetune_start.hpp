// SPDX-License-Identifier: Apache-2.0
// What finetune starts from: its output folder, the configuration of the checkpoint under the flags, the parameters.
#pragma once

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <srformer/io/folder_lock.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/train/checkpoint.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "device/device.hpp"
#include "finetune_options.hpp"
#include "program.hpp"
#include "ranks.hpp"

namespace srformer::program {

/// Where a model of full attention is given a variant: what the authors of the paper gave its architecture.
inline void set_defaults_of_paper(const ModelConfig& config, nlohmann::json& json) {
  nlohmann::json& cross = json["cross_attention"];
  if (!cross.is_null() && cross.value("variant", "full") != "full") return;
  const auto set = [&]<class C>(const C&) {
    if constexpr (requires { C::paper_options(); }) {
      const nlohmann::json options = C::paper_options();
      for (const auto& [name, value] : options.items())
        if (program::offers_option(name)) cross[name] = value;
    }
  };
  std::visit(set, config);
}

/// Throws io_error where --model_name_or_path is not the model or has not the tokenizer that a run began with.
inline void check_resumed(const std::filesystem::path& folder, const HfCheckpoint& checkpoint,
                          const ModelConfig& config) {
  const HfCheckpoint given(folder);
  const auto fields = [](const ModelConfig& any) {
    return std::visit(
        [](auto c) {
          c.cross_attention = CrossAttentionConfig(), c.source = nlohmann::json::object();
          c.set_dropout(0);
          return to_json(c);
        },
        any);
  };
  const nlohmann::json now = fields(ProgramArchitectures::read(given)), then = fields(config);
  const auto refuse = [&](const std::string& what) {
    throw io_error("--model_name_or_path " + folder.string() + ": " + what + " of " +
                   checkpoint.folder().string() + "; resume with the model the run began with");
  };
  const auto compare = [&](const std::string& key) {
    const nlohmann::json is = now.value(key, nlohmann::json());
    if (is != then.at(key))
      refuse("is another model: its \"" + key + "\" is " + one_line(is.dump()) + ", not the " +
             one_line(then.at(key).dump()));
  };
  compare("model_type");
  for (const auto& item : then.items()) compare(item.key());
  const std::string file = differing_tokenizer_file(folder, checkpoint.folder());
  if (!file.empty()) refuse("has another tokenizer: its " + file + " is not that");
}

/// The configuration to train with: that of the checkpoint under the flags.
inline ModelConfig trained_config(const HfCheckpoint& checkpoint, const FinetuneOptions& options,
                                  bool resumed) {
  const ModelConfig before = ProgramArchitectures::read(checkpoint);
  if (resumed) check_resumed(options.model, checkpoint, before);
  if (const Preset* preset = find_preset(finetune_presets(), options.preset))
    check_preset(*preset, checkpoint.config(), options.model);
  nlohmann::json json = checkpoint.config();
  set_defaults_of_paper(before, json);
  CrossAttentionFlags flags = options.cross_attention;
  flags.recommend(json);
  flags.apply(json);
  ModelConfig config = before;
  const auto set = [&](auto& c) {
    using List = ProgramVariants;
    const CrossAttentionConfig stored = cross_attention_options<List>(c.cross_attention);
    auto cross =
        cross_attention_options<List>(cross_attention_from_json(json, checkpoint.config_path()));
    options.check_variant(cross.name());
    if (resumed || !options.train) {
      if (to_json(CrossAttentionConfig(cross)) != to_json(stored))
        throw usage_error("the flags of the cross-attention differ from those in " +
                          checkpoint.config_path() + "; leave them out to " +
                          (resumed ? "resume" : "evaluate"));
    } else {
      for (const char* name : {"horizon", "generation_horizon"})
        if (!options.cross_attention.given(name)) cross.set(name, options.max_target_length);
    }
    c.cross_attention = cross;
    // A start that is measured is measured once.
    if (options.train && cross.template is<SegmentedRecurrent>() &&
        c.source.value(recurrence_start_field, nlohmann::json()) == "auto")
      c.source.erase(recurrence_start_field);
    if (options.dropout_rate) c.set_dropout(*options.dropout_rate);
  };
  std::visit(set, config);
  return config;
}

/// Tokens of a source at most: as the flag says, or what the model has positions for if that is less.
inline index_t longest_source(const FinetuneOptions& options, const CommonConfig& config) {
  const index_t positions = config.max_positions;
  for (const auto& [flag, given, length] :
       {std::tuple{"--max_source_length", options.source_length_given, options.max_source_length},
        std::tuple{"--max_target_length", true, options.max_target_length}})
    if (positions > 0 && given && length > positions)
      throw usage_error(std::string(flag) + " " + std::to_string(length) +
                        " is more than the model's " + std::to_string(positions) + " positions");
  return positions > 0 ? std::min(options.max_source_length, positions) : options.max_source_length;
}

/// Loads what the checkpoint has, initialises what the variant adds to it, and says so. Returns whether the recurrence is
/// to start as it is measured.
inline bool load(AnyModel& model, const HfCheckpoint& checkpoint, const FinetuneOptions& options,
                 bool resumed, Console& console) {
  std::vector<std::string> fresh, dropped;
  const auto parameters = model.parameters();
  for (const auto& p : parameters) {
    bool stored = checkpoint.contains(p.name);
    for (const std::string& alias : p.aliases) stored = stored || checkpoint.contains(alias);
    if (!stored && is_variant_parameter<ProgramVariants>(p.name)) fresh.push_back(p.name);
  }
  for (const std::string& name : checkpoint.names()) {
    const auto is_it = [&](const auto& p) { return p.name == name; };
    if (is_variant_parameter<ProgramVariants>(name) && std::ranges::none_of(parameters, is_it))
      dropped.push_back(name);
  }
  if (fresh.empty() && options.recurrence_scale_given && !resumed)
    throw usage_error("--recurrence_init_scale does not apply: " + checkpoint.folder().string() +
                      " holds the recurrence already");
  CrossAttentionFlags flags = options.cross_attention;
  const bool recommended = flags.recommend(checkpoint.config());
  const RecurrenceStart start =
      flags.recurrence_start(checkpoint.config(), checkpoint.config_path(), !fresh.empty());
  model.initialize_recurrence({options.seed, 2}, start.factor);
  if (const std::string notice = left_over_notice(checkpoint, model.load(checkpoint, true));
      !notice.empty())
    console.line(notice);
  const std::string variant = model.config().cross_attention.variant;
  if (!fresh.empty())
    console.line("notice: " + std::to_string(fresh.size()) + " parameters of " + variant +
                 " are new and initialised: " + fresh.front() + ", ...");
  if (recommended)
    console.line("notice: the new " + variant + " has soft_keys " +
                 format("%g", recommended_soft_keys) +
                 " and a gate, which the paper's has not; --gate false is the paper's");
  if (!dropped.empty())
    console.line("notice: " + std::to_string(dropped.size()) + " parameters are dropped, as " +
                 variant + " has no use for them: " + dropped.front() + ", ...");
  return start.measured && variant == SegmentedRecurrent::name;
}

/// The options that summaries are generated with, as the model's generation_config.json keeps them:
/// those of the checkpoint under the flags.
inline nlohmann::json generation_of(const HfCheckpoint& checkpoint, const FinetuneOptions& options,
                                    const CommonConfig& config) {
  nlohmann::json json = generation_options_alone(checkpoint);
  json.erase("max_new_tokens");
  json["max_length"] = options.max_target_length + 1;  // the start token counts
  options.generation.put_over(json);
  json.erase("num_return_sequences");  // one summary is compared with one
  drop_idle_options(json, generation_options_path(checkpoint));
  json["decoder_start_token_id"] = config.decoder_start_token_id;
  json["eos_token_id"] = config.eos_token_id;
  json["pad_token_id"] = config.pad_token_id;
  return json;
}

/// Says why the output folder must not be used, or gives the checkpoint to resume from, empty: none.
inline std::filesystem::path check_output(const FolderLock& lock, const FinetuneOptions& options,
                                          Console& console) {
  for (const std::string& notice : lock.notices()) console.line(notice);
  const std::filesystem::path& output = lock.folder();
  std::filesystem::path resume;
  if (options.resume == "auto") {
    const auto checkpoints = training_checkpoints(output);
    if (checkpoints.empty()) {
      console.line("notice: " + output.string() + " holds no checkpoint; training starts afresh");
    } else {
      resume = checkpoints.back().path;
    }
  } else if (!options.resume.empty()) {
    resume = options.resume;
    if (!std::filesystem::exists(resume / "optimizer.safetensors"))
      throw io_error(resume.string() +
                     ": holds no optimizer.safetensors; give a folder checkpoint-STEP");
  }
  if (options.train && lock.in_use() && options.resume.empty() && !options.overwrite)
    throw io_error(output.string() +
                   ": is not empty; give --resume_from_checkpoint auto to go on, "
                   "--overwrite_output_dir to start afresh, or another folder");
  return resume;
}

/// The same of all ranks, of which the first holds the folder.
inline std::optional<std::filesystem::path> check_output(const std::unique_ptr<FolderLock>& lock,
                                                         const FinetuneOptions& options,
                                                         Console& console, Ranks& ranks) {
  const std::string resume =
      ranks.broadcast(lock ? check_output(*lock, options, console).string() : std::string());
  return resume.empty() ? std::nullopt : std::optional<std::filesystem::path>(resume);
}

/// What a run that is to be overwritten has left.
inline void remove_old_run(const std::filesystem::path& output) {
  for (const auto& checkpoint : training_checkpoints(output)) remove_checkpoint(checkpoint.path);
  for (const char* name : {"metrics.jsonl", "loss.svg", "all_results.json", "train_results.json",
                           "eval_results.json", "predict_results.json", "trainer_state.json",
                           "generated_predictions.txt", "report.json", "report.html"})
    std::filesystem::remove(output / name);
  std::filesystem::remove_all(output / "runs");
}

}  // namespace srformer::program
