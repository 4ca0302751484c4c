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

#include "curves.hpp"
#include "device/device.hpp"
#include "finetune_options.hpp"
#include "interruption.hpp"
#include "rouge_notice.hpp"
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

// ---- data -------------------------------------------------------------------------------------

/// Examples as ids, and the summaries as they stand in the file.
struct TextSet {
  std::vector<Example> examples;
  std::vector<std::string> summaries;
  std::vector<Example> scored;  ///< those with a summary, where some have none

  std::span<const Example> with_summaries() const {
    return scored.empty() ? std::span(examples) : std::span(scored);
  }
  bool has_summaries() const {
    return std::ranges::any_of(summaries, [](const std::string& s) { return !s.empty(); });
  }
};

/// What the flag --`name` names, as texts.
struct SetFlags {
  std::string name;
  const std::vector<std::string>& files;
  index_t most;  ///< 0: all
};

DataRows<Pair> read_rows(const SetFlags& flags, const FinetuneOptions& options, Console& console) {
  DataRows<Pair> read = read_pairs(
      flags.files, options.data.options(flags.name == "test_file" ? SummaryColumn::may_be_empty
                                                                  : SummaryColumn::required));
  for (const std::string& notice : read.notices) console.line(notice);
  if (flags.most > 0 && std::ssize(read.rows) > flags.most) {
    console.line("--" + flags.name + ": the first " + std::to_string(flags.most) + " of " +
                 std::to_string(read.rows.size()) + " pairs are used");
    read.rows.resize(static_cast<std::size_t>(flags.most));
  }
  const auto lacking =
      std::ranges::count_if(read.rows, [](const Pair& pair) { return pair.summary.empty(); });
  if (lacking > 0)
    console.line("--" + flags.name + ": " + std::to_string(lacking) + " of " +
                 std::to_string(read.rows.size()) +
                 " texts have no summary; they are summarized but not scored");
  return read;
}

/// Counts what is cut to a greatest length.
class CutIds {
 public:
  CutIds(const Tokenizer& tokenizer, index_t longest) : tokenizer_(tokenizer), longest_(longest) {}

  std::vector<std::int32_t> operator()(const std::string& text) {
    std::vector<std::int32_t> ids = tokenizer_.encode(text);
    if (std::ssize(ids) <= longest_) return ids;
    ++cut_;
    return tokenizer_.encode(text, {.max_length = longest_, .truncation = true});
  }

  /// "3 of 7 sources to 20 tokens", or nothing.
  std::string text(const std::string& what, std::size_t all) const {
    if (cut_ == 0) return "";
    return std::to_string(cut_) + " of " + std::to_string(all) + " " + what + " to " +
           std::to_string(longest_) + " tokens";
  }

 private:
  const Tokenizer& tokenizer_;
  index_t longest_;
  std::size_t cut_ = 0;
};

TextSet read_set(const SetFlags& flags, const FinetuneOptions& options, index_t longest_source,
                 const Tokenizer& tokenizer, Console& console) {
  DataRows<Pair> read = read_rows(flags, options, console);
  CutIds source(tokenizer, longest_source), target(tokenizer, options.max_target_length);
  const std::string prefix = options.source_prefix.value_or("");
  TextSet set;
  for (Pair& pair : read.rows) {
    set.examples.push_back({source(prefix + pair.text), target(pair.summary)});
    set.summaries.push_back(std::move(pair.summary));
    if (!keep_going()) throw interrupted_exit();
  }
  const bool lacking = std::ranges::find(set.summaries, "") != set.summaries.end();
  for (std::size_t i = 0; lacking && i < set.examples.size(); ++i)
    if (!set.summaries[i].empty()) set.scored.push_back(set.examples[i]);
  const std::string sources = source.text("sources", set.examples.size()),
                    targets = target.text("summaries", set.examples.size());
  if (!(sources + targets).empty())
    console.line("--" + flags.name + ": cut are " + sources +
                 (sources.empty() || targets.empty() ? "" : " and ") + targets);
  return set;
}

/// Throws io_error for a token that the model has no embedding of: a tokenizer may have more, as bart-large-cnn's has.
void check_tokens(const std::string& file, const std::vector<Example>& examples,
                  index_t vocabulary) {
  for (std::size_t i = 0; i < examples.size(); ++i)
    for (const auto* ids : {&examples[i].source, &examples[i].target})
      for (const std::int32_t id : *ids)
        if (id < 0 || id >= vocabulary)
          throw io_error(file + ": example " + std::to_string(i + 1) + " has the token id " +
                         std::to_string(id) + ", outside the model's vocabulary of " +
                         std::to_string(vocabulary) + "; take the model's own tokenizer");
}

// ---- model ------------------------------------------------------------------------------------

/// What the recurrence has learnt, a number for each decoder layer.
void add_recurrence(ordered_json& entry, AnyModel& model) {
  for (const char* name : {"leak", "threshold"}) {
    std::vector<double> values;
    for (const auto& p : model.parameters())
      if (p.name.ends_with(std::string(".") + name)) values.push_back(model.first_number(p.name));
    if (!values.empty()) entry[name] = values;
  }
}

/// Where a model of full attention is given a variant: what the authors of the paper gave its architecture.
void set_defaults_of_paper(const ModelConfig& config, nlohmann::json& json) {
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
void check_resumed(const fs::path& folder, const HfCheckpoint& checkpoint,
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
ModelConfig trained_config(const HfCheckpoint& checkpoint, const FinetuneOptions& options,
                           bool resumed) {
  const ModelConfig before = ProgramArchitectures::read(checkpoint);
  if (resumed) check_resumed(options.model, checkpoint, before);
  nlohmann::json json = checkpoint.config();
  set_defaults_of_paper(before, json);
  options.cross_attention.apply(json);
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
    if (options.dropout_rate) c.set_dropout(*options.dropout_rate);
  };
  std::visit(set, config);
  return config;
}

/// Tokens of a source at most: as the flag says, or what the model has positions for if that is less.
index_t longest_source(const FinetuneOptions& options, const CommonConfig& config) {
  const index_t positions = config.max_positions;
  for (const auto& [flag, given, length] :
       {std::tuple{"--max_source_length", options.source_length_given, options.max_source_length},
        std::tuple{"--max_target_length", true, options.max_target_length}})
    if (positions > 0 && given && length > positions)
      throw usage_error(std::string(flag) + " " + std::to_string(length) +
                        " is more than the model's " + std::to_string(positions) + " positions");
  return positions > 0 ? std::min(options.max_source_length, positions) : options.max_source_length;
}

/// Loads what the checkpoint has, initialises what the variant adds to it, and says so.
void load(AnyModel& model, const HfCheckpoint& checkpoint, const FinetuneOptions& options,
          Console& console) {
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
  if (fresh.empty() && options.recurrence_scale_given)
    throw usage_error("--recurrence_init_scale does not apply: " + checkpoint.folder().string() +
                      " holds the recurrence already");
  model.initialize_recurrence({options.seed, 2}, options.cross_attention.recurrence_init_scale);
  if (const std::string notice = left_over_notice(checkpoint, model.load(checkpoint, true));
      !notice.empty())
    console.line(notice);
  const std::string variant = model.config().cross_attention.variant;
  if (!fresh.empty())
    console.line("notice: " + std::to_string(fresh.size()) + " parameters of " + variant +
                 " are new and initialised: " + fresh.front() + ", ...");
  if (!dropped.empty())
    console.line("notice: " + std::to_string(dropped.size()) + " parameters are dropped, as " +
                 variant + " has no use for them: " + dropped.front() + ", ...");
}

/// The options that summaries are generated with, as the model's generation_config.json keeps them:
/// those of the checkpoint under the flags.
nlohmann::json generation_of(const HfCheckpoint& checkpoint, const FinetuneOptions& options,
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

// ---- evaluation -------------------------------------------------------------------------------

struct Evaluation {
  std::optional<double> loss;  ///< nothing where no text has a summary
  std::optional<RougeScores> rouge;
  double generated_length = 0;  ///< tokens without padding, as eval_gen_len of transformers
  std::vector<std::string> predictions;

  /// Adds PREFIX_loss, PREFIX_rouge1, ... with ROUGE in percent.
  void add_to(ordered_json& entry, const std::string& prefix) const {
    const auto percent = [](const RougeScore& score) {
      return std::round(score.fmeasure * 1e6) / 1e4;
    };
    if (loss) entry[prefix + "_loss"] = *loss;
    if (!rouge) return;
    entry[prefix + "_rouge1"] = percent(rouge->rouge1);
    entry[prefix + "_rouge2"] = percent(rouge->rouge2);
    entry[prefix + "_rougeL"] = percent(rouge->rougeL);
    entry[prefix + "_rougeLsum"] = percent(rouge->rougeLsum);
    entry[prefix + "_gen_len"] = generated_length;
  }

  std::string text() const {
    std::string text = loss ? "loss " + format("%.4f", *loss) : "summarized";
    if (rouge)
      text += "  rouge1 " + format("%.2f", 100 * rouge->rouge1.fmeasure) + "  rouge2 " +
              format("%.2f", 100 * rouge->rouge2.fmeasure) + "  rougeL " +
              format("%.2f", 100 * rouge->rougeL.fmeasure) + "  rougeLsum " +
              format("%.2f", 100 * rouge->rougeLsum.fmeasure);
    return text;
  }
};

/// Nothing when it was interrupted.
std::optional<Evaluation> evaluate(AnyModel& model, const TextSet& set, bool generate,
                                   const GenerationConfig& generation,
                                   const FinetuneOptions& options, const Tokenizer& tokenizer,
                                   Console& console) {
  const std::span<const Example> examples = set.examples;
  const std::int32_t pad = model.config().pad_token_id;
  Evaluation evaluation;
  if (set.has_summaries())
    evaluation.loss = model.mean_loss(set.with_summaries(), options.eval_batch,
                                      options.label_smoothing, keep_going);
  if (!keep_going()) return std::nullopt;
  if (!generate) return evaluation;

  evaluation.predictions.resize(examples.size());
  const EpochOrder order(
      example_lengths(examples),
      {.batch_size = options.eval_batch, .shuffle = false, .group_by_length = true});
  index_t tokens = 0;
  for (index_t i = 0; i < order.steps(); ++i) {
    const auto indices = order.batch(i);
    const Batch batch = make_batch(examples, indices, pad);
    const auto first = static_cast<std::uint64_t>(i * options.eval_batch);
    const auto outputs =
        model.generate(batch.source_ids, batch.source_lengths, generation, first).sequences;
    for (std::size_t row = 0; row < outputs.size(); ++row) {
      evaluation.predictions[static_cast<std::size_t>(indices[row])] =
          tokenizer.decode(outputs[row]);
      tokens += std::ranges::count_if(outputs[row], [&](std::int32_t id) { return id != pad; });
    }
    if (!keep_going()) return std::nullopt;
    console.progress(static_cast<double>(i + 1) / static_cast<double>(order.steps()),
                     "generating " + std::to_string(i + 1) + "/" + std::to_string(order.steps()));
  }
  std::vector<RougeScores> scores;
  for (std::size_t i = 0; i < examples.size(); ++i)
    if (!set.summaries[i].empty())
      scores.push_back(rouge(set.summaries[i], evaluation.predictions[i],
                             {.stemmer = true, .split_sentences = true}));
  if (!scores.empty()) evaluation.rouge = mean(scores);
  evaluation.generated_length = static_cast<double>(tokens) / static_cast<double>(examples.size());
  return evaluation;
}

void write_predictions(const fs::path& path, const std::vector<std::string>& predictions) {
  ReplacementFile file(path);
  for (std::string text : predictions) {
    std::ranges::replace(text, '\n', ' ');
    file.write(text + "\n");
  }
  file.commit();
}

// ---- where things go ----------------------------------------------------------------------------

/// Says why the output folder must not be used, or gives the checkpoint to resume from.
std::optional<fs::path> check_output(const FolderLock& lock, const FinetuneOptions& options,
                                     Console& console) {
  for (const std::string& notice : lock.notices()) console.line(notice);
  const fs::path& output = lock.folder();
  std::optional<fs::path> resume;
  if (options.resume == "auto") {
    const auto checkpoints = training_checkpoints(output);
    if (checkpoints.empty()) {
      console.line("notice: " + output.string() + " holds no checkpoint; training starts afresh");
    } else {
      resume = checkpoints.back().path;
    }
  } else if (!options.resume.empty()) {
    resume = options.resume;
    if (!fs::exists(*resume / "trainer_state.json"))
      throw io_error(resume->string() +
                     ": holds no trainer_state.json; give a folder checkpoint-STEP");
  }
  if (options.train && lock.in_use() && options.resume.empty() && !options.overwrite)
    throw io_error(output.string() +
                   ": is not empty; give --resume_from_checkpoint auto to go on, "
                   "--overwrite_output_dir to start afresh, or another folder");
  return resume;
}

/// What a run that is to be overwritten has left.
void remove_old_run(const fs::path& output) {
  for (const auto& checkpoint : training_checkpoints(output)) remove_checkpoint(checkpoint.path);
  for (const char* name :
       {"metrics.jsonl", "loss.svg", "all_results.json", "generated_predictions.txt"})
    fs::remove(output / name);
}

// ---- the run ------------------------------------------------------------------------------------

class Finetuning {
 public:
  Finetuning(Device& device, const FinetuneOptions& options)
      : options_(options),
        lock_(options.output_dir),
        output_(options.output_dir),
        resume_(check_output(lock_, options, console_)),
        checkpoint_(resume_ ? *resume_ : fs::path(options.model)),
        config_(trained_config(checkpoint_, options, resume_.has_value())),
        generation_options_(generation_of(checkpoint_, options, common(config_))),
        generation_(
            options.generation.read(generation_options_, generation_options_path(checkpoint_))),
        tokenizer_folder_(options.model),
        tokenizer_(tokenizer_folder_),
        train_(set({"train_file", options.train_file, options.max_train_samples})),
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
    load(*model_, checkpoint_, options, console_);
    if (!options.train) return;
    trainer_ = model_->train(train_->examples, options.training());
    if (resume_) resume_training();
    if (options.overwrite) remove_old_run(output_);
    // A run that was stopped after its last step makes its last evaluations again.
    const auto made = [&](const ordered_json& entry) {
      const auto step = entry.value("step", index_t{0}), now = trainer_->state().step;
      return step < now || (step == now && (!trainer_->done() || entry.contains("loss")));
    };
    metrics_ = std::make_unique<MetricsFile>(output_ / "metrics.jsonl", made);
  }

  void run() {
    introduce();
    if (!options_.train) return evaluate_alone();
    const index_t first = trainer_->state().step;
    train();
    const double seconds = seconds_since(start_);
    save_whole(output_);
    ordered_json results;
    results["epoch"] = epoch();
    if (const index_t steps = trainer_->state().step - first; steps > 0) {
      results["train_loss"] = loss_of_run_ / static_cast<double>(steps);
      results["train_runtime"] = seconds;
      results["train_steps_per_second"] = static_cast<double>(steps) / seconds;
    }
    results["train_samples"] = train_->examples.size();
    last_evaluation(results, "eval", validation_);
    last_evaluation(results, "predict", test_);
    write_json_file(output_ / "all_results.json", results);
    draw();
    console_.line("the model is in " + output_.string());
  }

 private:
  std::optional<TextSet> set(const SetFlags& flags) {
    if (flags.files.empty()) return std::nullopt;
    const CommonConfig config = common(config_);
    TextSet set = read_set(flags, options_, longest_source(options_, config), tokenizer_, console_);
    check_tokens("--" + flags.name, set.examples, config.vocab_size);
    const bool scores = flags.name != "train_file" && options_.generate.value_or(true);
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

  /// Scores and predicts as --do_eval and --do_predict say; what an earlier run has put into all_results.json stays.
  void evaluate_alone() {
    const fs::path file = output_ / "all_results.json";
    ordered_json results = ordered_json::object();
    if (fs::exists(file)) results.update(ordered_json(read_json_file(file)));
    last_evaluation(results, "eval", validation_);
    last_evaluation(results, "predict", test_);
    write_json_file(file, results);
    console_.line("the results are in " + output_.string());
  }

  double epoch() const {
    return static_cast<double>(trainer_->state().step) /
           static_cast<double>(trainer_->steps_per_epoch());
  }

  void introduce() {
    const std::string notice =
        prefix_notice(checkpoint_.config(), options_.source_prefix.has_value(), "");
    if (!notice.empty()) console_.line(notice);
    const auto cross = cross_attention_options<ProgramVariants>(model_->config().cross_attention);
    std::string variant(cross.name());
    if (const auto L = cross.value_or<index_t>("segment_size", 0); L > 0)
      variant += " (segments of " + std::to_string(L) + ", horizon " +
                 std::to_string(cross.value_or<index_t>("horizon", 0)) + ")";
    const std::string model = std::to_string(model_->size()) + " parameters, " + variant;
    if (!trainer_) return console_.line(model);
    console_.line(model + ", " + std::to_string(train_->examples.size()) + " examples, " +
                  std::to_string(trainer_->total_steps()) + " steps of up to " +
                  std::to_string(options_.train_batch * options_.accumulation));
    if (resume_)
      console_.line("resumed from " + resume_->string() + " after step " +
                    std::to_string(trainer_->state().step));
  }

  void train() {
    start_ = Clock::now();
    const index_t first = trainer_->state().step;
    if (evaluation_is_due() && !has_evaluation(first)) evaluate_between(first, epoch());
    while (!trainer_->done()) {
      const StepReport report = trainer_->step();
      loss_of_run_ += std::isfinite(report.loss) ? report.loss : 0;
      tokens_ += report.tokens, step_seconds_ += report.seconds;
      const double steps = static_cast<double>(report.step - first);
      const double left = seconds_since(start_) / steps *
                          static_cast<double>(trainer_->total_steps() - report.step);
      if (report.skipped)
        console_.line("notice: step " + std::to_string(report.step) +
                      " is skipped: its gradient is not finite");
      show(report, left);
      if (report.step % options_.logging_steps == 0 || trainer_->done()) log(report, left);
      if (evaluation_is_due()) evaluate_between(report.step, report.epoch);
      if (options_.save_steps > 0 && report.step % options_.save_steps == 0) save_checkpoint();
      if (!keep_going() && !trainer_->done()) stop();
    }
    console_.clear();
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
    add_recurrence(entry, *model_);
    metrics_->add(entry);
    console_.line("step " + step_text(report) + "  loss " + format("%.4f", loss) + "  lr " +
                  format("%.2e", report.learning_rate) + "  norm " +
                  format("%.3f", report.gradient_norm) + "  " + format("%.0f", rate) +
                  " tokens/s  " + duration_text(left) + " left");
    tokens_ = 0, step_seconds_ = 0;
  }

  bool evaluation_is_due() const {
    const index_t step = trainer_->state().step;
    return options_.eval_steps > 0 && step > 0 && !trainer_->done() && keep_going() &&
           step % options_.eval_steps == 0;
  }
  /// Whether the evaluation after a step was made, before which a run may have been stopped.
  bool has_evaluation(index_t step) const {
    return std::ranges::any_of(metrics_->entries(), [&](const ordered_json& entry) {
      return entry.value("step", index_t{0}) == step && entry.contains("eval_loss");
    });
  }

  void evaluate_between(index_t step, double epoch) {
    const auto evaluation = evaluate(*model_, *validation_, options_.generate.value_or(false),
                                     generation_, options_, tokenizer_, console_);
    if (!evaluation) return;
    ordered_json entry{{"step", step}, {"epoch", epoch}};
    evaluation->add_to(entry, "eval");
    metrics_->add(entry);
    console_.line("evaluation after step " + std::to_string(step) + "  " + evaluation->text());
  }

  void last_evaluation(ordered_json& results, const std::string& prefix,
                       const std::optional<TextSet>& set) {
    if (!set) return;
    const bool generates = options_.generate.value_or(true);
    const auto evaluation =
        evaluate(*model_, *set, generates, generation_, options_, tokenizer_, console_);
    if (!evaluation) {
      console_.clear();
      std::fprintf(stderr, "interrupted while evaluating%s%s\n",
                   trainer_ ? "; the trained model is in " : "", trainer_ ? output_.c_str() : "");
      throw interrupted_exit();
    }
    evaluation->add_to(results, prefix);
    results[prefix + "_samples"] = set->examples.size();
    if (trainer_) {
      ordered_json entry{{"step", trainer_->state().step}, {"epoch", epoch()}};
      evaluation->add_to(entry, prefix);
      metrics_->add(entry);
    }
    console_.line((prefix == "eval" ? "validation  " : "test  ") + evaluation->text());
    // The test set comes last and takes the place of the validation set.
    if (generates)
      write_predictions(output_ / "generated_predictions.txt", evaluation->predictions);
  }

  /// Model and tokenizer, as transformers and the other programs read them.
  void save_whole(const fs::path& folder) {
    copy_tokenizer_files(tokenizer_folder_, folder);
    model_->save(folder, generation_options_);
  }

  void save_checkpoint() {
    saved_ = trainer_->save(
        output_, [&](const fs::path& folder) { save_whole(folder); }, options_.save_total_limit);
    saved_step_ = trainer_->state().step;
  }

  void draw() {
    const std::string problem =
        draw_curves({{"", metrics_->entries()}}, std::span(panels).first(1), output_ / "loss.svg");
    if (!problem.empty()) console_.line("notice: " + problem);
  }

  [[noreturn]] void stop() {
    if (saved_step_ != trainer_->state().step) save_checkpoint();
    draw();
    console_.clear();
    std::fprintf(stderr,
                 "interrupted after step %td; to go on, give the same flags and "
                 "--resume_from_checkpoint %s\n",
                 trainer_->state().step, saved_.c_str());
    throw interrupted_exit();
  }

  const FinetuneOptions& options_;
  Console console_;
  FolderLock lock_;  ///< first: nothing in the folder is looked at before it is held
  fs::path output_;
  std::optional<fs::path> resume_;
  HfCheckpoint checkpoint_;
  ModelConfig config_;
  nlohmann::json generation_options_;
  GenerationConfig generation_;
  fs::path tokenizer_folder_;
  Tokenizer tokenizer_;
  std::optional<TextSet> train_, validation_, test_;
  std::unique_ptr<AnyModel> model_;
  std::unique_ptr<AnyTraining> trainer_;
  std::unique_ptr<MetricsFile> metrics_;
  Clock::time_point start_;
  double loss_of_run_ = 0, step_seconds_ = 0;
  index_t tokens_ = 0, saved_step_ = -1;
  fs::path saved_;
};

}  // namespace

int main(int argc, char** argv) {
  return run([&] {
    FinetuneOptions options;
    CLI::App app("Train or fine-tune a T5 or BART for summaries and evaluate it");
    options.add_to(app);
    parse(app, argc, argv);
    options.check(app);
    catch_interruptions();
    const auto device = open_device(options.device);
    Finetuning(*device, options).run();
  });
}
