// SPDX-License-Identifier: Apache-2.0
// When a run is evaluated and saved, which of its evaluations was best, and when none has been better for so long that it
// ends: the rules of transformers' Trainer and its EarlyStoppingCallback.
#pragma once

#include <cmath>
#include <optional>
#include <string>

#include <srformer/io/hf_checkpoint.hpp>

#include "program.hpp"

namespace srformer::program {

/// The flags of evaluations and checkpoints on the way.
struct EvaluationFlags {
  std::string eval_strategy, save_strategy, metric;  ///< empty: not given
  index_t eval_steps = 0, save_steps = 500, save_total_limit = 0, patience = 0;
  double threshold = 0;
  bool on_start = false, load_best = false;

  void add_to(CLI::App& app) {
    app.add_option("--eval_strategy,--evaluation_strategy", eval_strategy,
                   "When to evaluate: no (at the end alone), steps (--eval_steps) or epoch")
        ->check(CLI::IsMember({"no", "steps", "epoch"}));
    app.add_option("--eval_steps", eval_steps, "Steps between two evaluations; 0: at the end alone")
        ->capture_default_str()
        ->check(at_least(0));
    app.add_flag("--eval_on_start", on_start, "Evaluate before the first step as well");
    app.add_option(
           "--save_strategy", save_strategy,
           "When to save a checkpoint: no, steps (--save_steps), epoch, or best (whenever an "
           "evaluation is the best so far)")
        ->check(CLI::IsMember({"no", "steps", "epoch", "best"}));
    app.add_option("--save_steps", save_steps, "Steps between two checkpoints; 0: none")
        ->capture_default_str()
        ->check(at_least(0));
    app.add_option("--save_total_limit", save_total_limit,
                   "Checkpoints to keep, that of the best evaluation always; 0: all")
        ->capture_default_str()
        ->check(at_least(0));
    app.add_flag("--load_best_model_at_end", load_best,
                 "End with the checkpoint whose evaluation was best");
    app.add_option("--metric_for_best_model", metric,
                   "What makes an evaluation the best: loss (default), rouge1, rouge2, rougeL, "
                   "rougeLsum or gen_len, also behind eval_");
    app.add_flag(
        "--greater_is_better", greater_,
        "Whether the metric grows as the model gets better; else it does unless it is a loss");
    app.add_option("--early_stopping_patience", patience,
                   "End after so many evaluations in a row without a better one; 0: never")
        ->capture_default_str()
        ->check(at_least(0));
    app.add_option("--early_stopping_threshold", threshold,
                   "By how much more an evaluation has to be better, to count there")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 1e9));
  }

  /// Makes what was left out what it comes to. Throws usage_error for flags that contradict each other.
  ///   generates   whether evaluations on the way write summaries
  void check(const CLI::App& app, index_t logging_steps, bool generates) {
    if (eval_strategy.empty()) eval_strategy = eval_steps > 0 ? "steps" : "no";
    if (eval_strategy == "steps" && app.count("--eval_steps") == 0) eval_steps = logging_steps;
    if (eval_strategy == "steps" && eval_steps == 0)
      throw usage_error("--eval_strategy steps needs --eval_steps above 0");
    if (eval_strategy != "steps" && eval_steps > 0)
      throw usage_error("--eval_steps needs --eval_strategy steps");
    if (save_strategy.empty()) save_strategy = save_steps > 0 ? "steps" : "no";
    if (save_strategy == "steps" && save_steps == 0)
      throw usage_error("--save_strategy steps needs --save_steps above 0");
    if (save_strategy != "steps" && app.count("--save_steps") > 0 && save_steps > 0)
      throw usage_error("--save_steps needs --save_strategy steps");
    if (save_strategy == "no" && save_total_limit > 0)
      throw usage_error(
          "--save_total_limit needs checkpoints, which --save_strategy no leaves out");
    check_best(app, generates);
  }

  /// Whether it matters which evaluation is the best.
  bool tracks_best() const { return load_best || patience > 0 || save_strategy == "best"; }
  bool greater_is_better() const { return greater_; }

 private:
  void check_best(const CLI::App& app, bool generates) {
    const bool tracks = tracks_best();
    for (const char* flag : {"--metric_for_best_model", "--greater_is_better"})
      if (app.count(flag) > 0 && !tracks)
        throw usage_error(std::string(flag) +
                          " needs --load_best_model_at_end, --early_stopping_patience or "
                          "--save_strategy best");
    if (app.count("--early_stopping_threshold") > 0 && patience == 0)
      throw usage_error("--early_stopping_threshold needs --early_stopping_patience");
    if (!tracks) return;
    if (eval_strategy == "no")
      throw usage_error(std::string(load_best      ? "--load_best_model_at_end"
                                    : patience > 0 ? "--early_stopping_patience"
                                                   : "--save_strategy best") +
                        " needs evaluations on the way; give --eval_strategy steps or epoch");
    if (load_best && save_strategy != "best" && save_strategy != eval_strategy)
      throw usage_error(
          "--load_best_model_at_end needs a checkpoint for each evaluation; give "
          "--save_strategy " +
          eval_strategy + " or best");
    if (load_best && save_strategy == "steps" && save_steps % eval_steps != 0)
      throw usage_error(
          "--load_best_model_at_end needs --save_steps to be a multiple of --eval_steps, " +
          std::to_string(eval_steps));
    if (metric.empty()) metric = "loss";
    if (metric.starts_with("eval_")) metric = metric.substr(5);
    bool known = false;
    for (const char* name : {"loss", "rouge1", "rouge2", "rougeL", "rougeLsum", "gen_len"})
      known = known || metric == name;
    if (!known)
      throw usage_error("--metric_for_best_model " + metric.substr(0, 80) +
                        " is not one of loss, rouge1, rouge2, rougeL, rougeLsum and gen_len");
    if (metric != "loss" && !generates)
      throw usage_error("--metric_for_best_model " + metric + " needs --predict_with_generate");
    if (app.count("--greater_is_better") == 0) greater_ = metric != "loss";
    metric = "eval_" + metric;
  }

  bool greater_ = false;
};

/// The best evaluation so far.
class BestModel {
 public:
  explicit BestModel(const EvaluationFlags& flags) : flags_(flags) {}

  /// Takes the metrics of an evaluation; whether it is the best so far.
  bool add(const nlohmann::ordered_json& metrics, index_t step) {
    if (!flags_.tracks_best()) return false;
    const double value = metrics.contains(flags_.metric) && metrics[flags_.metric].is_number()
                             ? metrics[flags_.metric].get<double>()
                             : std::nan("");
    const bool first = !best_, better = !std::isnan(value) && (first || is_better(value, *best_));
    // A first evaluation counts as better, whatever it is, and others by more than the threshold.
    const bool counts = first || (better && std::abs(value - *best_) > flags_.threshold);
    without_ = counts ? 0 : without_ + 1;
    if (better) best_ = value, step_ = step;
    return better;
  }

  /// Whether the run is to end.
  bool exhausted() const { return flags_.patience > 0 && without_ >= flags_.patience; }
  std::optional<double> value() const { return best_; }
  index_t step() const { return step_; }

  /// What trainer_state.json keeps of it, by the names of transformers.
  nlohmann::json state() const {
    return {{"best_metric", best_ ? nlohmann::json(*best_) : nlohmann::json()},
            {"best_global_step", best_ ? nlohmann::json(step_) : nlohmann::json()},
            {"early_stopping_patience_counter", without_}};
  }
  /// Goes on from what a checkpoint has; older ones have nothing of it.
  void restore(const nlohmann::json& state, const std::string& file) {
    best_ = json_optional<double>(state, "best_metric", file);
    step_ = json_optional<index_t>(state, "best_global_step", file).value_or(0);
    without_ = json_optional<index_t>(state, "early_stopping_patience_counter", file).value_or(0);
  }

 private:
  bool is_better(double value, double than) const {
    return flags_.greater_is_better() ? value > than : value < than;
  }

  const EvaluationFlags& flags_;
  std::optional<double> best_;
  index_t step_ = 0, without_ = 0;
};

}  // namespace srformer::program
