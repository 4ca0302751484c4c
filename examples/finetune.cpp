// SPDX-License-Identifier: Apache-2.0
// Trains or fine-tunes a T5 or BART to write summaries, with any cross-attention, and evaluates it.
//
//   finetune --model_name_or_path t5-small --train_file train.jsonl --validation_file val.jsonl
//            --source_prefix "summarize: " --cross_attention segmented_recurrent --output_dir out
//
// docs/training.md says what it writes and how a run is stopped and resumed.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <srformer/io/dataset.hpp>
#include <srformer/io/folder_lock.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/text/rouge.hpp>
#include <srformer/text/tokenizer.hpp>
#include <srformer/train/checkpoint.hpp>
#include <string>
#include <vector>

#include "best_model.hpp"
#include "curves.hpp"
#include "device/device.hpp"
#include "evaluation.hpp"
#include "finetune_options.hpp"
#include "finetune_start.hpp"
#include "interruption.hpp"
#include "report.hpp"
#include "rouge_notice.hpp"
#include "run_on_ranks.hpp"
#include "run_record.hpp"
#include "tensorboard.hpp"
#include "text_set.hpp"
#include "training_log.hpp"

namespace {

namespace fs = std::filesystem;
using namespace srformer;
using namespace srformer::program;
using nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// What the recurrence has learnt, a number for each decoder layer.
void add_recurrence(ordered_json& entry, AnyModel& model) {
  for (const char* name : {"leak", "threshold"}) {
    std::vector<double> values;
    for (const auto& p : model.parameters())
      if (p.name.ends_with(std::string(".") + name)) values.push_back(model.first_number(p.name));
    if (!values.empty()) entry[name] = values;
  }
}

class Finetuning {
 public:
  Finetuning(Device& device, const FinetuneOptions& options, Ranks& ranks)
      : options_(options),
        ranks_(ranks),
        lock_(ranks.first() ? std::make_unique<FolderLock>(options.output_dir) : nullptr),
        output_(options.output_dir),
        resume_(check_output(lock_, options, console_, ranks)),
        checkpoint_(resume_ ? *resume_ : fs::path(options.model)),
        config_(trained_config(checkpoint_, options, resume_.has_value())),
        generation_options_(generation_of(checkpoint_, options, common(config_))),
        generation_(
            options.generation.read(generation_options_, generation_options_path(checkpoint_))),
        tokenizer_folder_(options.model),
        tokenizer_(tokenizer_folder_),
        objective_(options.objective.of(tokenizer_, common(config_).vocab_size,
                                        longest_source(options, common(config_)),
                                        options.max_target_length)),
        train_(training_data()),
        validation_(set({"validation_file", options.validation_file, options.max_eval_samples})),
        test_(set({"test_file", options.test_file, options.max_predict_samples})) {
    const CommonConfig config = common(config_);
    generation_.seed = options.seed, generation_.num_return_sequences = 1;
    check_generation(generation_, config.vocab_size);
    if (const auto text = GenerationFlags::length_contradiction(generation_); !text.empty())
      throw usage_error(text + " (max_length is --max_target_length and the start token)");
    if (config.max_positions > 0 && generation_.longest() - 1 > config.max_positions)
      throw usage_error("summaries of " + std::to_string(generation_.longest() - 1) +
                        " tokens are more than the model's " +
                        std::to_string(config.max_positions) +
                        " positions; give a lower --max_length");
    model_ = device.model(config_);
    const bool measured = load(*model_, checkpoint_, options, resume_.has_value(), console_);
    require_alike(ranks_, what_is_read());
    if (!options.train) return;
    TrainingOptions training = options.training(ranks_.size());
    if (objective_) training.denoising = objective_->denoising;
    trainer_ = model_->train(train_->examples(), training, ranks_);
    if (resume_)
      resume_training();
    else if (measured)
      start_recurrence();
    if (ranks_.first()) begin_records();
    restore_best();
  }

  void run() {
    introduce();
    if (!options_.train) return evaluate_alone();
    const index_t first = trainer_->state().step;
    train();
    const double seconds = seconds_since(start_);
    record_run(first);
    load_best();
    record_.timed("saving", [&] { save_whole(output_); });
    results_["epoch"] = epoch();
    ordered_json trained;
    if (const index_t steps = trainer_->state().step - first; steps > 0) {
      trained["train_loss"] = loss_of_run_ / static_cast<double>(steps);
      trained["train_runtime"] = seconds;
      trained["train_samples_per_second"] = static_cast<double>(examples_) / seconds;
      trained["train_steps_per_second"] = static_cast<double>(steps) / seconds;
    }
    trained["train_samples"] = train_->examples().size();
    write_results("train", trained);
    last_evaluation("eval", validation_);
    last_evaluation("predict", test_);
    if (!ranks_.first()) return;
    nlohmann::json state = run_state();
    state["global_step"] = trainer_->state().step, state["epoch"] = epoch();
    state["max_steps"] = trainer_->total_steps();
    write_json_file(output_ / "trainer_state.json", state);
    draw();
    report();
    console_.line("the model is in " + output_.string());
  }

 private:
  /// What ranks may have found in other files, where these lie on the machines.
  Settings what_is_read() const {
    if (!ranks_.several()) return {};
    Settings settings{{"--model_name_or_path", model_->fingerprint()}};
    if (train_) settings.emplace_back("--train_file", examples_text(train_->examples()));
    if (validation_)
      settings.emplace_back("--validation_file", examples_text(validation_->examples));
    if (test_) settings.emplace_back("--test_file", examples_text(test_->examples));
    return settings;
  }

  /// Opens the logs of the run, which go on after those of the run that is resumed.
  void begin_records() {
    if (options_.overwrite) remove_old_run(output_);
    // A run that was stopped after its last step makes its last evaluations again.
    const auto made = [&](const ordered_json& entry) {
      const auto step = entry.value("step", index_t{0}), now = trainer_->state().step;
      return step < now || (step == now && (!trainer_->done() || entry.contains("loss")));
    };
    metrics_ = std::make_unique<MetricsFile>(output_ / "metrics.jsonl", made);
    if (options_.to_tensorboard())
      events_.emplace(
          options_.logging_dir.empty() ? output_ / "runs" : fs::path(options_.logging_dir),
          trainer_->state().step);
  }

  std::unique_ptr<TrainingData> training_data() {
    if (!options_.train) return nullptr;
    const SetFlags flags{"train_file", options_.train_file, options_.max_train_samples};
    const ConsoleCopy said(console_);
    std::unique_ptr<TrainingData> data;
    record_.timed("reading data", [&] { data = read_training_data(flags); });
    record_.add_data(flags.name, flags.files, data->examples(), said.lines());
    return data;
  }

  std::unique_ptr<TrainingData> read_training_data(const SetFlags& flags) {
    const auto read = [&](bool renew = false) {
      FinetuneOptions options = options_;
      options.overwrite_cache = renew;
      return std::make_unique<TrainingData>(flags, options, texts_as_ids(),
                                            common(config_).vocab_size, console_);
    };
    if (options_.data_cache.empty()) return read();
    // Made by the first rank, then by the first of each other machine where it is not found there, then found.
    const int turn = ranks_.first() ? 0 : ranks_.local_rank() == 0 ? 1 : 2;
    std::unique_ptr<TrainingData> data;
    for (int t = 0; t < 3; ++t) {
      if (t == turn) data = read(options_.overwrite_cache && turn < 2);
      ranks_.barrier();
    }
    return data;
  }

  TextsAsIds texts_as_ids() const {
    return {tokenizer_, tokenizer_folder_, longest_source(options_, common(config_)), objective_};
  }

  std::optional<TextSet> set(const SetFlags& flags) {
    if (flags.files.empty()) return std::nullopt;
    const CommonConfig config = common(config_);
    const ConsoleCopy said(console_);
    TextSet set = record_.timed(
        "reading data", [&] { return read_set(flags, options_, texts_as_ids(), console_); });
    record_.add_data(flags.name, flags.files, set.examples, said.lines());
    check_tokens("--" + flags.name, set.examples, config.vocab_size);
    const bool scores = options_.generate.value_or(true);
    if (const std::string notice = scores ? rouge_notice(set.summaries) : ""; !notice.empty())
      console_.line(notice);
    return set;
  }

  /// Says what differs from the run so far.
  void resume_training() {
    const std::vector<std::string> differences = trainer_->resume(*resume_);
    for (const std::string& difference : differences) console_.line("notice: " + difference);
    if (!differences.empty())
      console_.line("notice: so the run will not give the numbers of one that was never stopped");
  }

  /// Gives the recurrence of every layer the size that it is to have beside the segment's part.
  void start_recurrence() {
    std::string factors;
    const std::vector<double> found = trainer_->fit_recurrence();
    if (found.empty())
      return console_.line(
          "notice: --recurrence_init_scale auto has no effect, as the options have no recurrence");
    for (const double factor : found)
      factors += (factors.empty() ? "" : ", ") +
                 (factor > 0 ? format("%.3g", RecurrenceStart{}.factor * factor) : "none");
    console_.line("--recurrence_init_scale auto: " + factors + " in the layers of the decoder");
    if (factors.find("none") != std::string::npos)
      console_.line("notice: none, where the first batch has one segment for each source, stays " +
                    format("%.3g", RecurrenceStart{}.factor));
  }

  /// Scores and predicts as --do_eval and --do_predict say; what an earlier run has put into all_results.json stays.
  void evaluate_alone() {
    const fs::path file = output_ / "all_results.json";
    if (fs::exists(file)) results_.update(ordered_json(read_json_file(file)));
    last_evaluation("eval", validation_);
    last_evaluation("predict", test_);
    console_.line("the results are in " + output_.string());
  }

  double epoch() const {
    return static_cast<double>(trainer_->state().step) /
           static_cast<double>(trainer_->steps_per_epoch());
  }

  /// "segmented_recurrent (segments of 64, horizon 128)"
  std::string variant_text() const {
    const auto cross = cross_attention_options<ProgramVariants>(model_->config().cross_attention);
    std::string variant(cross.name());
    if (const auto L = cross.value_or<index_t>("segment_size", 0); L > 0)
      variant += " (segments of " + std::to_string(L) + ", horizon " +
                 std::to_string(cross.value_or<index_t>("horizon", 0)) + ")";
    return variant;
  }

  void introduce() {
    if (const Preset* preset = find_preset(finetune_presets(), options_.preset))
      if (const auto changes = preset_notice(*preset, options_.of_preset, checkpoint_.config());
          !changes.empty())
        console_.line(changes);
    const std::string notice =
        objective_ ? objective_->notice
                   : prefix_notice(checkpoint_.config(), options_.source_prefix.has_value(), "");
    if (!notice.empty()) console_.line(notice);
    const std::string model = std::to_string(model_->size()) + " parameters, " + variant_text();
    if (!trainer_) return console_.line(model);
    const std::string size =
        options_.max_tokens_per_batch > 0
            ? std::to_string(options_.max_tokens_per_batch * options_.accumulation *
                             ranks_.size()) +
                  " tokens"
            : std::to_string(options_.train_batch * options_.accumulation * ranks_.size());
    console_.line(model + ", " + std::to_string(train_->examples().size()) + " examples, " +
                  std::to_string(trainer_->total_steps()) + " steps of up to " + size);
    if (const std::string text = ranks_text(ranks_, options_.device.threads); !text.empty())
      console_.line(text);
    if (resume_)
      console_.line("resumed from " + resume_->string() + " after step " +
                    std::to_string(trainer_->state().step));
  }

  void train() {
    start_ = Clock::now();
    const index_t first = trainer_->state().step;
    if (evaluation_is_due() && !has_evaluation(first)) evaluate_between(first, epoch());
    while (!trainer_->done() && !exhausted_) {
      const StepReport report = trainer_->step();
      ranks_.agree();
      record_.add_time("batches", report.data_seconds);
      record_.add_time("forward and backward", report.gradient_seconds);
      record_.add_time("update", report.seconds - report.data_seconds - report.gradient_seconds);
      loss_of_run_ += std::isfinite(report.loss) ? report.loss : 0;
      tokens_ += report.tokens, step_seconds_ += report.seconds, examples_ += report.examples;
      exchange_seconds_ += report.exchange_seconds;
      const double steps = static_cast<double>(report.step - first);
      const double left = seconds_since(start_) / steps *
                          static_cast<double>(trainer_->total_steps() - report.step);
      if (report.skipped)
        console_.line("notice: step " + std::to_string(report.step) +
                      " is skipped: its gradient is not finite");
      show(report, left);
      if (report.step % options_.logging_steps == 0 || trainer_->done()) log(report, left);
      const bool best = evaluation_is_due() && evaluate_between(report.step, report.epoch);
      if (flags_.save_strategy == "best" ? best : is_due(flags_.save_strategy, flags_.save_steps))
        save_checkpoint();
      if (!ranks_.going() && !trainer_->done()) stop();
    }
    console_.clear();
    if (exhausted_ && !trainer_->done())
      console_.line("stopped after step " + std::to_string(trainer_->state().step) +
                    ": no better " + flags_.metric + " in " + std::to_string(flags_.patience) +
                    " evaluations");
  }

  /// Whether it is time for what happens with every so many steps or at the end of every epoch.
  bool is_due(const std::string& strategy, index_t every) const {
    const index_t step = trainer_->state().step, of_epoch = trainer_->steps_per_epoch();
    if (step == 0) return false;
    if (strategy == "steps") return every > 0 && step % every == 0;
    return strategy == "epoch" && (step % of_epoch == 0 || trainer_->done());
  }

  std::string step_text(const StepReport& report) const {
    return std::to_string(report.step) + "/" + std::to_string(trainer_->total_steps());
  }

  void show(const StepReport& report, double left) {
    const double rate = static_cast<double>(tokens_) / std::max(step_seconds_, 1e-9);
    console_.progress(
        static_cast<double>(report.step) / static_cast<double>(trainer_->total_steps()),
        step_text(report) + "  " + format("%.0f", rate) + " tokens/s  loss " +
            format("%.4f", report.loss) + "  lr " + format("%.2e", report.learning_rate) + "  " +
            duration_text(left) + " left");
  }

  void log(const StepReport& report, double left) {
    const double loss = trainer_->take_mean_loss();
    const double rate = static_cast<double>(tokens_) / std::max(step_seconds_, 1e-9);
    ordered_json entry{{"step", report.step},
                       {"epoch", report.epoch},
                       {"loss", loss},
                       {"lr", report.learning_rate},
                       {"grad_norm", report.gradient_norm},
                       {"tokens_per_second", rate},
                       {"seconds", seconds_since(start_)}};
    if (ranks_.several()) entry["exchange_seconds"] = exchange_seconds_;
    add_recurrence(entry, *model_);
    const auto shares = record_.timed("logging", [&] { return trainer_->firing_shares(); });
    if (!shares.empty()) entry["firing"] = shares;
    add_metrics(entry);
    console_.line("step " + step_text(report) + "  loss " + format("%.4f", loss) + "  lr " +
                  format("%.2e", report.learning_rate) + "  norm " +
                  format("%.3f", report.gradient_norm) + "  " + format("%.0f", rate) +
                  " tokens/s  " + duration_text(left) + " left");
    tokens_ = 0, step_seconds_ = 0, exchange_seconds_ = 0;
  }

  /// The last step is followed by the last evaluation, but has one before where it may be the best.
  bool evaluation_is_due() const {
    const bool last = trainer_->done() && !flags_.tracks_best();
    if (last || !ranks_.going()) return false;
    return (trainer_->state().step == 0 && flags_.on_start) ||
           is_due(flags_.eval_strategy, flags_.eval_steps);
  }
  /// Whether the evaluation after a step was made, before which a run may have been stopped.
  bool has_evaluation(index_t step) const {
    const auto is_it = [&](const ordered_json& entry) {
      return entry.value("step", index_t{0}) == step && entry.contains("eval_loss");
    };
    return ranks_.decide(metrics_ && std::ranges::any_of(metrics_->entries(), is_it));
  }

  /// Whether it is the best so far.
  bool evaluate_between(index_t step, double epoch) {
    const auto evaluation = record_.timed(
        "evaluation", [&] { return evaluator()(*validation_, options_.generate.value_or(false)); });
    if (!evaluation) return false;
    ordered_json entry{{"step", step}, {"epoch", epoch}};
    evaluation->add_to(entry, "eval");
    add_metrics(entry);
    const bool best = ranks_.decide(best_.add(entry, step));
    exhausted_ = ranks_.decide(best_.exhausted());
    console_.line("evaluation after step " + std::to_string(step) + "  " + evaluation->text() +
                  (best ? "  the best so far" : ""));
    return best;
  }

  Evaluator evaluator() { return {*model_, generation_, options_, tokenizer_, console_, ranks_}; }

  void add_metrics(const ordered_json& entry) {
    if (metrics_) metrics_->add(entry);
    if (events_) events_->add(entry);
  }

  /// The best evaluation of the run so far: those that are logged, or, where it goes on in another folder, what its
  /// checkpoint says. The first rank alone knows it.
  void restore_best() {
    if (!resume_) return;
    const fs::path file = *resume_ / "trainer_state.json";
    if (metrics_ && metrics_->entries().empty()) best_.restore(read_json_file(file), file.string());
    for (const ordered_json& entry : metrics_ ? metrics_->entries() : std::vector<ordered_json>())
      if (entry.contains("eval_loss")) best_.add(entry, entry.value("step", index_t{0}));
    exhausted_ = ranks_.decide(best_.exhausted());
  }

  fs::path best_checkpoint() const {
    return best_.value() ? output_ / ("checkpoint-" + std::to_string(best_.step())) : fs::path();
  }

  /// Takes the parameters of the checkpoint whose evaluation was best.
  void load_best() {
    if (!flags_.load_best) return;
    fs::path folder = best_checkpoint();
    if (ranks_.first() && !folder.empty() && !fs::exists(folder)) folder.clear();
    folder = ranks_.broadcast(folder.string());
    if (folder.empty())
      return console_.line(
          "notice: there is no checkpoint of a best evaluation; the model is that of the last "
          "step");
    model_->load(HfCheckpoint(folder), false);
    if (ranks_.first())
      console_.line("the model is that of " + folder.string() + ", " + flags_.metric + " " +
                    format("%.4f", *best_.value()));
  }

  /// What trainer_state.json has beside the state of the trainer, by the names of transformers.
  nlohmann::json run_state() const {
    nlohmann::json state = best_.state();
    const fs::path best = best_checkpoint();
    const bool saved =
        !best.empty() && (fs::exists(best) || best_.step() == trainer_->state().step);
    state["best_model_checkpoint"] = saved ? nlohmann::json(best.string()) : nlohmann::json();
    state["eval_steps"] = flags_.eval_steps, state["save_steps"] = flags_.save_steps;
    state["logging_steps"] = options_.logging_steps, state["num_train_epochs"] = options_.epochs;
    state["train_batch_size"] = options_.train_batch;
    state["log_history"] = nlohmann::json::array();
    if (!metrics_) return state;
    for (const ordered_json& entry : metrics_->entries()) {
      nlohmann::json& logged = state["log_history"].emplace_back(nlohmann::json::object());
      for (const auto& [name, value] : entry.items())
        if (value.is_number() || value.is_array())
          logged[name == "lr" ? "learning_rate" : name] = value;
    }
    return state;
  }

  /// Writes PREFIX_results.json and adds to all_results.json.
  void write_results(const std::string& prefix, const ordered_json& part) {
    if (!ranks_.first()) return;
    results_.update(part);
    ordered_json alone;
    if (trainer_) alone["epoch"] = epoch();
    alone.update(part);
    write_json_file(output_ / (prefix + "_results.json"), alone);
    write_json_file(output_ / "all_results.json", results_);
  }

  void last_evaluation(const std::string& prefix, const std::optional<TextSet>& set) {
    if (!set) return;
    const auto start = Clock::now();
    const bool generates = options_.generate.value_or(true);
    const auto evaluation =
        record_.timed("evaluation", [&] { return evaluator()(*set, generates); });
    if (!evaluation)
      end_interrupted("interrupted while evaluating" +
                      (trainer_ ? "; the trained model is in " + output_.string() : ""));
    const double seconds = seconds_since(start), count = static_cast<double>(set->examples.size());
    ordered_json part;
    evaluation->add_to(part, prefix);
    part[prefix + "_runtime"] = seconds;
    part[prefix + "_samples"] = set->examples.size();
    part[prefix + "_samples_per_second"] = count / seconds;
    part[prefix + "_steps_per_second"] =
        std::ceil(count / static_cast<double>(options_.eval_batch)) / seconds;
    write_results(prefix, part);
    if (trainer_) {
      ordered_json entry{{"step", trainer_->state().step}, {"epoch", epoch()}};
      evaluation->add_to(entry, prefix);
      add_metrics(entry);
    }
    console_.line((prefix == "eval" ? "validation  " : "test  ") + evaluation->text());
    // The test set comes last and takes the place of the validation set.
    if (!generates || !ranks_.first()) return;
    write_predictions(output_ / "generated_predictions.txt", evaluation->predictions);
    record_.set_examples(prefix == "eval" ? "validation_file" : "test_file", set->texts,
                         set->summaries, evaluation->predictions, evaluation->rouge_l);
  }

  /// Model and tokenizer, as transformers and the other programs read them.
  void save_whole(const fs::path& folder) {
    if (!ranks_.first()) return;
    copy_tokenizer_files(tokenizer_folder_, folder);
    model_->save(folder, generation_options_);
  }

  void save_checkpoint() {
    saved_ = record_.timed("saving", [&] {
      return trainer_->save(
          output_, [&](const fs::path& folder) { save_whole(folder); }, flags_.save_total_limit,
          run_state(), flags_.load_best ? best_checkpoint() : fs::path());
    });
    saved_step_ = trainer_->state().step;
  }

  void draw() {
    if (!ranks_.first()) return;
    const std::string problem =
        draw_curves({{"", metrics_->entries()}}, std::span(panels).first(1), output_ / "loss.svg");
    if (!problem.empty()) console_.line("notice: " + problem);
  }

  /// What the report says of the training itself: the model, the steps of this start, and memory so far.
  void record_run(index_t first) {
    record_.set("model",
                {{"checkpoint", options_.model},
                 {"model_type", plain_model_type(checkpoint_.config().value("model_type", ""))},
                 {"parameters", model_->size()},
                 {"cross_attention", variant_text()},
                 {"device", options_.device.device + ", " + options_.device.dtype}});
    record_.set(
        "steps",
        {{"first", first}, {"last", trainer_->state().step}, {"of", trainer_->total_steps()}});
    const MemoryUse use = trainer_->memory();
    record_.set("memory", {{"parameters", use.parameters},
                           {"gradients", use.gradients},
                           {"optimizer_state", use.optimizer_state},
                           {"peak", use.peak}});
  }

  void report() {
    ordered_json settings = options_.settings;
    if (!options_.preset.empty()) settings["preset"] = options_.preset;
    record_.set("settings", settings);
    record_.write(output_);
    if (const std::string notice = write_report(output_); !notice.empty())
      console_.line("notice: " + notice);
  }

  [[noreturn]] void stop() {
    if (saved_step_ != trainer_->state().step) save_checkpoint();
    draw();
    end_interrupted("interrupted after step " + std::to_string(trainer_->state().step) +
                    "; to go on, give the same flags and --resume_from_checkpoint " +
                    saved_.string());
  }

  [[noreturn]] void end_interrupted(const std::string& how) {
    console_.clear();
    print_notice(how);
    throw interrupted_exit();
  }

  const FinetuneOptions& options_;
  const EvaluationFlags& flags_ = options_.evaluation;
  Ranks& ranks_;
  Console console_{!ranks_.several()};
  RunRecord record_;
  std::unique_ptr<FolderLock>
      lock_;  ///< first: nothing in the folder is looked at before it is held
  fs::path output_;
  std::optional<fs::path> resume_;
  HfCheckpoint checkpoint_;
  ModelConfig config_;
  nlohmann::json generation_options_;
  GenerationConfig generation_;
  fs::path tokenizer_folder_;
  Tokenizer tokenizer_;
  std::optional<TextObjective> objective_;
  std::unique_ptr<TrainingData> train_;
  std::optional<TextSet> validation_, test_;
  std::unique_ptr<AnyModel> model_;
  std::unique_ptr<AnyTraining> trainer_;
  std::unique_ptr<MetricsFile> metrics_;
  std::optional<TensorBoardFile> events_;
  BestModel best_{options_.evaluation};
  bool exhausted_ = false;  ///< whether the best evaluation is too long ago
  ordered_json results_ = ordered_json::object();
  Clock::time_point start_;
  double loss_of_run_ = 0, step_seconds_ = 0, exchange_seconds_ = 0;
  index_t tokens_ = 0, examples_ = 0, saved_step_ = -1;
  fs::path saved_;
};

}  // namespace

int main(int argc, char** argv) {
  return run_on_ranks([&](Ranks& ranks) {
    FinetuneOptions options;
    CLI::App app("Train or fine-tune a T5 or BART for summaries and evaluate it");
    options.add_to(app);
    options.of_preset = parse(app, argc, argv, finetune_presets());
    options.settings = settings_of(app);
    options.check(app);
    catch_interruptions();
    require_alike(ranks, flags_of(app));
    refuse_standard_input(ranks,
                          {&options.train_file, &options.validation_file, &options.test_file});
    options.ranks.share(ranks, options.device);
    const auto device = open_device(options.device);
    Finetuning(*device, options, ranks).run();
    ranks.barrier();
  });
}
