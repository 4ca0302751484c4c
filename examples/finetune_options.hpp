// SPDX-License-Identifier: Apache-2.0
// The flags of finetune, named as in transformers' summarization scripts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <srformer/train/trainer.hpp>
#include <string>
#include <utility>
#include <vector>

#include "best_model.hpp"
#include "cross_attention_flags.hpp"
#include "data_flags.hpp"
#include "device/device.hpp"
#include "generation_flags.hpp"
#include "objective.hpp"
#include "optimizer_flags.hpp"
#include "rank_flags.hpp"

namespace srformer::program {

struct FinetuneOptions {
  std::string model, output_dir, resume;
  std::vector<std::string> train_file, validation_file, test_file;
  DataFlags data;
  ObjectiveFlags objective;
  std::optional<std::string> source_prefix;
  index_t max_source_length = 1024, max_target_length = 128;
  index_t train_batch = 8, eval_batch = 8, accumulation = 1;
  index_t max_steps = 0, warmup_steps = 0;
  index_t logging_steps = 10, max_tokens_per_batch = 0;
  index_t max_train_samples = 0, max_eval_samples = 0, max_predict_samples = 0;
  double epochs = 3, learning_rate = 5e-5, warmup_ratio = 0, label_smoothing = 0;
  std::optional<double> dropout_rate;
  OptimizerFlags optimizer;
  ScheduleFlags schedule;
  DeviceFlags device;
  RankFlags ranks;
  std::uint64_t seed = 42;
  bool overwrite = false, group_by_length = false, skip_nonfinite = false;
  bool generate_flag = false, train = true, overwrite_cache = false;
  std::string data_cache;
  EvaluationFlags evaluation;
  std::vector<std::string> report_to;
  std::string logging_dir;
  std::optional<bool> generate;  ///< what the flag said, if it was given
  CrossAttentionFlags cross_attention;
  GenerationFlags generation;
  bool do_train = false, do_eval = false, do_predict = false;
  std::string preset;
  std::vector<std::string> of_preset;  ///< flags that the preset gave
  nlohmann::ordered_json settings;     ///< all flags, as settings_of gives them
  bool recurrence_scale_given = false, source_length_given = false;

  void add_to(CLI::App& app) {
    add_data_to(app);
    objective.add_to(app);
    add_training_to(app);
    add_reports_to(app);
    device.add_to(app);
    ranks.add_to(app);
    cross_attention.add_to(app);
    generation.add_search_to(app);
  }

  /// Throws usage_error for flags that would have no effect.
  void check(const CLI::App& app) {
    const auto needs = [&](bool has, const char* what,
                           std::initializer_list<const char*> dependent) {
      for (const char* name : dependent)
        if (app.count(name) > 0 && !has) throw usage_error(std::string(name) + " needs " + what);
    };
    decide_training(app);
    needs(train, "--do_train", training_flags);
    needs(!validation_file.empty(), "--validation_file",
          {"--eval_steps", "--eval_on_start", "--load_best_model_at_end",
           "--early_stopping_patience", "--max_eval_samples", "--do_eval"});
    needs(!test_file.empty(), "--test_file", {"--max_predict_samples", "--do_predict"});
    needs(!validation_file.empty() || !test_file.empty(), "--validation_file or --test_file",
          {"--per_device_eval_batch_size", "--predict_with_generate"});
    optimizer.check(app);
    schedule.check(learning_rate);
    needs(schedule.name != "constant", "another --lr_scheduler_type than constant",
          {"--warmup_steps", "--warmup_ratio"});
    needs(!data_cache.empty(), "--data_cache", {"--overwrite_cache"});
    needs(to_tensorboard(), "--report_to tensorboard", {"--logging_dir"});
    if (max_tokens_per_batch > 0 && group_by_length)
      throw usage_error(
          "--max_tokens_per_batch groups by length itself; leave out --group_by_length");
    if (app.count("--warmup_steps") > 0 && app.count("--warmup_ratio") > 0)
      throw usage_error("--warmup_steps and --warmup_ratio exclude each other");
    if (app.count("--max_steps") > 0 && app.count("--num_train_epochs") > 0 && max_steps > 0)
      throw usage_error("--max_steps and --num_train_epochs exclude each other");
    if (overwrite && !resume.empty())
      throw usage_error("--overwrite_output_dir and --resume_from_checkpoint exclude each other");
    max_steps = std::max(max_steps, index_t{0});
    if (resume == "True" || resume == "true") resume = "auto";  // of transformers
    source_length_given = app.count("--max_source_length") > 0;
    recurrence_scale_given =
        app.count("--recurrence_init_scale") > 0 && !is_of_preset("recurrence_init_scale");
    if (app.count("--predict_with_generate") > 0) generate = generate_flag;
    objective.check(app, data.format);
    if (objective.of_texts()) {
      if (generate_flag)
        throw usage_error("--predict_with_generate does not go with --objective " + objective.name +
                          ", which has no summaries");
      generate = false;
    }
    evaluation.check(app, logging_steps, generate.value_or(false));
    for (const std::string& name : report_to)
      if (name != "tensorboard" && name != "none" && name != "all")
        print_notice("notice: without effect here: --report_to " + one_line(name));
    needs(!validation_file.empty() || evaluation.eval_strategy == "no", "--validation_file",
          {"--eval_strategy"});
  }

  bool is_of_preset(const std::string& flag) const {
    return std::ranges::find(of_preset, flag) != of_preset.end();
  }

  bool to_tensorboard() const {
    return std::ranges::any_of(
        report_to, [](const std::string& name) { return name == "tensorboard" || name == "all"; });
  }

  /// Throws usage_error for flags that the variant has no use for.
  void check_variant(std::string_view variant) const {
    const auto refuse = [&](const std::string& flag) {
      throw usage_error(flag + " does not apply to cross-attention " + std::string(variant));
    };
    for (const VariantDescription& v : ProgramVariants::describe()) {
      if (v.name != variant) continue;
      for (const auto& [name, value] : cross_attention.options)
        if (!v.has_option(name)) refuse("--" + name);
      if (recurrence_scale_given &&
          std::ranges::find(v.learned, "SNN_kv.weight") == v.learned.end())
        refuse("--recurrence_init_scale");
    }
  }

  /// Of as many processes together.
  TrainingOptions training(int processes) const {
    TrainingOptions o;
    o.batch_size = train_batch, o.accumulation = accumulation * processes;
    o.zero = ranks.zero;
    o.max_tokens_per_batch = max_tokens_per_batch;
    o.epochs = epochs, o.max_steps = max_steps;
    o.learning_rate = learning_rate, o.schedule = schedule.type();
    o.schedule_arguments = schedule.arguments();
    o.warmup_steps = warmup_steps, o.warmup_ratio = warmup_ratio;
    o.optimizer = optimizer.options(), o.label_smoothing = label_smoothing;
    o.group_by_length = group_by_length, o.skip_nonfinite = skip_nonfinite;
    o.seed = seed;
    return o;
  }

 private:
  /// Those of no effect where nothing is trained.
  static constexpr std::initializer_list<const char*> training_flags = {
      "--train_file",
      "--overwrite_output_dir",
      "--resume_from_checkpoint",
      "--per_device_train_batch_size",
      "--gradient_accumulation_steps",
      "--num_train_epochs",
      "--max_steps",
      "--learning_rate",
      "--lr_scheduler_type",
      "--warmup_steps",
      "--warmup_ratio",
      "--weight_decay",
      "--adam_beta1",
      "--adam_beta2",
      "--adam_epsilon",
      "--max_grad_norm",
      "--dropout_rate",
      "--group_by_length",
      "--skip_nonfinite",
      "--zero",
      "--logging_steps",
      "--eval_strategy",
      "--eval_steps",
      "--eval_on_start",
      "--save_strategy",
      "--save_steps",
      "--save_total_limit",
      "--load_best_model_at_end",
      "--metric_for_best_model",
      "--early_stopping_patience",
      "--max_tokens_per_batch",
      "--data_cache",
      "--report_to",
      "--max_train_samples"};

  /// As transformers' script where one of its flags is given; what is not to be done is left out.
  void decide_training(const CLI::App& app) {
    const bool others = do_eval || do_predict;
    train = app.count("--do_train") > 0 ? do_train : !others;
    if (train && train_file.empty()) throw usage_error("--train_file is required to train");
    if (train) return;
    if (!others)
      throw usage_error("there is nothing to do: give --do_train, --do_eval or --do_predict");
    if (!do_eval && !validation_file.empty())
      throw usage_error("--validation_file needs --do_eval or --do_train");
    if (!do_predict && !test_file.empty())
      throw usage_error("--test_file needs --do_predict or --do_train");
  }

  /// A flag whose default --help shows.
  template <class T>
  static CLI::Option* add(CLI::App& app, const char* name, T& value, const char* what) {
    return add_with_default(app, name, value, what);
  }

  /// What is trained on, and where the results go.
  void add_data_to(CLI::App& app) {
    app.add_option("--model_name_or_path", model, "Checkpoint folder with its tokenizer")
        ->required();
    std::vector<std::string> presets;
    for (const Preset& known : finetune_presets()) presets.emplace_back(known.name);
    app.add_option("--preset", preset, "Settings under a name; flags given here go before")
        ->check(CLI::IsMember(presets))
        ->configurable(false);
    app.add_option("--train_file", train_file,
                   "JSON lines, JSON, CSV or TSV, of an --objective of texts also text, also .gz: "
                   "files, folders or patterns");
    app.add_option("--validation_file", validation_file, "The same");
    app.add_option("--test_file", test_file, "The same; a summary may be empty");
    app.add_flag("--do_train", do_train, "Train; the default unless another --do_ flag is given");
    app.add_flag("--do_eval", do_eval,
                 "Score validation_file; without --do_train that of the model as it is");
    app.add_flag("--do_predict", do_predict, "The same of test_file");
    data.add_pairs_to(app, {"auto", "jsonl", "json", "csv", "tsv", "text"});
    app.add_option(
        "--data_cache", data_cache,
        "Folder for the ids of train_file: made once, then mapped, for data larger than memory");
    app.add_flag("--overwrite_cache", overwrite_cache, "Make the cache again");
    app.add_option("--source_prefix", source_prefix, "Put before every source");
    add(app, "--max_source_length", max_source_length, "Tokens")->check(at_least(1));
    add(app, "--max_target_length", max_target_length, "Tokens")->check(at_least(2));
    app.add_option("--output_dir", output_dir, "Folder for what is made")->required();
    app.add_flag("--overwrite_output_dir", overwrite, "Start afresh in a folder that is in use");
    app.add_option("--resume_from_checkpoint", resume,
                   "A folder checkpoint-STEP, or auto (or True) for the last one in output_dir");
  }

  /// Batches, steps and the optimizer.
  void add_training_to(CLI::App& app) {
    add(app, "--per_device_train_batch_size", train_batch, "Examples in a micro-batch")
        ->check(at_least(1));
    add(app, "--per_device_eval_batch_size", eval_batch, "Examples")->check(at_least(1));
    add(app, "--gradient_accumulation_steps", accumulation, "Micro-batches in a step")
        ->check(at_least(1));
    add(app, "--num_train_epochs", epochs, "May have a fraction")->check(CLI::Range(1e-9, 1e9));
    add(app, "--max_steps", max_steps, "Counts instead of epochs when above 0")
        ->check(at_least(-1));
    add(app, "--learning_rate", learning_rate, "At its highest")->check(CLI::Range(0.0, 1e38));
    schedule.add_to(app);
    add(app, "--warmup_steps", warmup_steps, "Steps of linear warm-up")->check(at_least(0));
    add(app, "--warmup_ratio", warmup_ratio, "The same as a share of all steps")
        ->check(CLI::Range(0.0, 1.0));
    add(app, "--label_smoothing_factor", label_smoothing, "0: none")->check(below_one());
    optimizer.add_to(app);
    app.add_option("--dropout_rate,--dropout", dropout_rate, "In place of config.json's")
        ->check(below_one());
    app.add_flag("--group_by_length", group_by_length, "Batches of similar source length");
    add(app, "--max_tokens_per_batch", max_tokens_per_batch,
        "Tokens of a micro-batch at most, padding included; 0: batches by examples")
        ->check(at_least(0));
    app.add_flag("--skip_nonfinite", skip_nonfinite, "Leave out steps with NaN or infinity");
    add(app, "--seed", seed, "Of data order, dropout, new parameters and sampling");
  }

  /// Logs, evaluations and checkpoints on the way.
  void add_reports_to(CLI::App& app) {
    add(app, "--logging_steps", logging_steps, "Steps between two logs")->check(at_least(1));
    evaluation.add_to(app);
    app.add_flag("--predict_with_generate", generate_flag,
                 "Generate and score in every evaluation; =false: in none; else: in the last");
    app.add_option("--report_to", report_to, "tensorboard, none or all; others are passed over")
        ->delimiter(',');
    app.add_option("--logging_dir", logging_dir, "Folder for TensorBoard; else runs in output_dir");
    add(app, "--max_train_samples", max_train_samples, "The first so many; 0: all")
        ->check(at_least(0));
    add(app, "--max_eval_samples", max_eval_samples, "Of validation_file; 0: all")
        ->check(at_least(0));
    add(app, "--max_predict_samples", max_predict_samples, "Of test_file; 0: all")
        ->check(at_least(0));
  }
};

}  // namespace srformer::program
