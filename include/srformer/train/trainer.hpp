// SPDX-License-Identifier: Apache-2.0
// The training loop. A step takes the micro-batches of one update, adds up their gradients divided
// by the tokens of all of them, clips and updates. Step s is a pure function of the parameters, the
// optimizer's state, the seed and s: the order of the data is that of EpochOrder(seed, epoch) and dropout
// draws from stream (s, micro-batch), so that a run goes on at any step as if never stopped.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <srformer/io/dataset.hpp>
#include <srformer/models/seq2seq.hpp>
#include <srformer/train/optimizers.hpp>
#include <srformer/train/schedule.hpp>

namespace srformer {

/// What training needs of a model: its backend, its parameters, the loss with and without gradients, and the
/// rates of dropout that its configuration says.
template <class Model>
concept Trainable = requires(Model& model, const Batch& batch, const LossOptions& options) {
  typename Model::backend_type;
  typename Model::scalar;
  model.backend();
  model.parameters();
  { model.config().pad_token_id } -> std::convertible_to<std::int32_t>;
  { model.dropout_rates() } -> std::convertible_to<DropoutRates>;
  model.add_gradients(
      batch, options,
      View<accumulate_t<typename Model::scalar>, 1, typename Model::backend_type::space>{});
  model.add_loss(
      batch, 0.0,
      View<accumulate_t<typename Model::scalar>, 1, typename Model::backend_type::space>{});
};

struct TrainingOptions {
  index_t batch_size = 8;    ///< examples in a micro-batch
  index_t accumulation = 1;  ///< micro-batches in a step; the last step of an epoch may have fewer
  double epochs = 3;
  index_t max_steps = 0;  ///< when above 0, counts instead of epochs
  double learning_rate = 5e-5;
  ScheduleType schedule = ScheduleType::linear;
  ScheduleArguments schedule_arguments{};
  index_t warmup_steps = 0;
  double warmup_ratio = 0;  ///< of all steps, when warmup_steps is 0
  OptimizerOptions optimizer = AdamWOptions{.max_grad_norm = 1};
  double label_smoothing = 0;
  std::optional<DropoutRates> dropout{};  ///< in place of those of the model's configuration
  bool group_by_length = false;
  index_t max_tokens_per_batch = 0;  ///< above 0: batches by tokens, as EpochOptions::max_tokens
  bool skip_nonfinite = false;       ///< leave out a step whose loss or gradient is not finite
  std::uint64_t seed = 42;
  std::optional<std::int32_t> pad_id{};  ///< in place of the model's
};

/// What changes from step to step, beside parameters and the optimizer's state.
struct TrainingState {
  index_t step = 0;     ///< steps made
  index_t updates = 0;  ///< those of them that changed the parameters
  // Since the last log:
  double loss_sum = 0;
  index_t loss_steps = 0;
};

/// What a step reports.
struct StepReport {
  index_t step = 0;          ///< counted from 1
  double epoch = 0;          ///< epochs completed after it, with fraction
  double loss = 0;           ///< mean over the tokens of the step
  double learning_rate = 0;  ///< of this step: the schedule's, or the optimizer's own
  double gradient_norm = 0;  ///< before clipping
  index_t tokens = 0;        ///< of source and target, without padding
  index_t examples = 0;
  double seconds = 0;
  bool skipped = false;  ///< the parameters stayed as they were, as something was not finite
};

/// Labels that count in the loss.
inline index_t label_count(const Batch& batch) {
  return std::ranges::count_if(batch.labels, [](std::int32_t label) { return label >= 0; });
}

/// Mean loss over the labels of all examples, without dropout. Cost of one forward pass.
///   keep_going()   asked before each batch; when it says no, the mean is over what was seen
template <Trainable Model, class KeepGoing>
double mean_loss(Model& model, const Examples& examples, index_t batch_size, double label_smoothing,
                 KeepGoing keep_going) {
  using T = typename Model::scalar;
  auto& be = model.backend();
  const EpochOrder order(example_lengths(examples),
                         {.batch_size = batch_size, .shuffle = false, .group_by_length = true});
  auto loss_sum = zeros<accumulate_t<T>, 1>(be, {1});
  index_t labels = 0;
  for (index_t i = 0; i < order.steps() && keep_going(); ++i) {
    const Batch batch = make_batch(examples, order.batch(i), model.config().pad_token_id);
    model.add_loss(batch, label_smoothing, loss_sum.view());
    labels += label_count(batch);
  }
  return read_number(be, loss_sum.data()) / static_cast<double>(std::max<index_t>(labels, 1));
}

template <Trainable Model>
double mean_loss(Model& model, const Examples& examples, index_t batch_size,
                 double label_smoothing) {
  return mean_loss(model, examples, batch_size, label_smoothing, [] { return true; });
}

/// Trains `model` on `examples`; both must outlive it, as what the examples are a view of. The optimizer is the one that
/// the options choose, or another that the last argument is.
template <Trainable Model,
          class O = ChosenOptimizer<typename Model::backend_type, typename Model::scalar>>
requires Optimizer<O, typename Model::backend_type, typename Model::scalar>
class Trainer {
 public:
  using B = typename Model::backend_type;
  using T = typename Model::scalar;

  /// Throws shape_error for options that make no sense and when there is no example.
  Trainer(Model& model, const Examples& examples, const TrainingOptions& options)
      : Trainer(model, examples, options,
                O(model.backend(), model.parameters(), options.optimizer)) {}

  /// The same with an optimizer of one's own, made for the parameters of `model`; options.optimizer does not count.
  Trainer(Model& model, const Examples& examples, TrainingOptions options, O optimizer)
      : model_(&model),
        examples_(examples),
        lengths_(example_lengths(examples)),
        options_(std::move(options)),
        optimizer_(std::move(optimizer)),
        loss_(zeros<accumulate_t<T>, 1>(model.backend(), {1})) {
    require(!examples.empty(), "Trainer", "there are no examples");
    if constexpr (requires { check_training(model.config()); }) check_training(model.config());
    require(options_.batch_size >= 1, "Trainer", "batch_size must be at least 1");
    require(options_.max_tokens_per_batch >= 0, "Trainer",
            "max_tokens_per_batch must be at least 1, or 0 for batches by examples");
    require(options_.accumulation >= 1, "Trainer", "accumulation must be at least 1");
    require(options_.learning_rate >= 0, "Trainer", "learning_rate must not be negative");
    require(options_.max_steps > 0 || options_.epochs > 0, "Trainer",
            "either max_steps or epochs must be above 0");
    if (!options_.dropout) options_.dropout = model.dropout_rates();
    if (!options_.pad_id) options_.pad_id = model.config().pad_token_id;
    const DropoutRates& rates = *options_.dropout;
    for (const auto& [name, rate] : {std::pair{"dropout", rates.dropout},
                                     std::pair{"attention_dropout", rates.attention_dropout},
                                     std::pair{"activation_dropout", rates.activation_dropout}})
      require(rate >= 0 && rate < 1, "Trainer", std::string(name) + " must be in [0,1)");
    require(options_.label_smoothing >= 0 && options_.label_smoothing < 1, "Trainer",
            "label_smoothing must be in [0,1)");
    require(options_.warmup_ratio >= 0 && options_.warmup_ratio <= 1, "Trainer",
            "warmup_ratio must be in [0,1]");
    batches_per_epoch_ = epoch_order(0).steps();
    steps_per_epoch_ = (batches_per_epoch_ + options_.accumulation - 1) / options_.accumulation;
    total_steps_ = options_.max_steps > 0
                       ? options_.max_steps
                       : static_cast<index_t>(
                             std::ceil(options_.epochs * static_cast<double>(steps_per_epoch_)));
    schedule_ = {options_.schedule,
                 srformer::warmup_steps(options_.warmup_steps, options_.warmup_ratio, total_steps_),
                 total_steps_, options_.schedule_arguments, options_.learning_rate};
    schedule_.check();
    model.parameters().allocate_gradients();
  }

  Model& model() { return *model_; }
  const Examples& examples() const { return examples_; }
  const TrainingOptions& options() const { return options_; }
  const Schedule& schedule() const { return schedule_; }
  O& optimizer() { return optimizer_; }
  const O& optimizer() const { return optimizer_; }
  index_t steps_per_epoch() const { return steps_per_epoch_; }
  index_t total_steps() const { return total_steps_; }
  bool done() const { return state_.step >= total_steps_; }

  const TrainingState& state() const { return state_; }
  /// Goes on from another state; parameters and the optimizer's state are the caller's to set.
  void set_state(const TrainingState& state) { state_ = state; }

  /// The mean loss of the steps since it was last taken, or since the start.
  double take_mean_loss() {
    const double mean =
        state_.loss_sum / static_cast<double>(std::max<index_t>(state_.loss_steps, 1));
    state_.loss_sum = 0, state_.loss_steps = 0;
    return mean;
  }

  /// The micro-batches of step `step`, counted from 0.
  std::vector<Batch> batches(index_t step) {
    const index_t epoch = step / steps_per_epoch_,
                  first = step % steps_per_epoch_ * options_.accumulation;
    if (epoch != ordered_epoch_) {
      order_.emplace(epoch_order(epoch));
      ordered_epoch_ = epoch;
    }
    std::vector<Batch> batches;
    const index_t end = std::min(first + options_.accumulation, batches_per_epoch_);
    for (index_t i = first; i < end; ++i)
      batches.push_back(make_batch(examples_, order_->batch(i), *options_.pad_id));
    return batches;
  }

  /// Makes one step. Throws nonfinite_error, with the parameters and the state as they were, unless
  /// such steps are to be skipped.
  StepReport step() {
    const auto start = std::chrono::steady_clock::now();
    B& be = model_->backend();
    const std::vector<Batch> batches = this->batches(state_.step);
    index_t labels = 0, tokens = 0;
    for (const Batch& batch : batches) {
      labels += label_count(batch);
      for (const index_t length : batch.source_lengths) tokens += length;
    }

    model_->parameters().zero_gradients();
    be.fill(loss_.data(), 1, accumulate_t<T>(0));
    const RandomStream random =
        RandomStream{options_.seed, dropout_use}.substream(static_cast<std::uint64_t>(state_.step));
    for (std::size_t i = 0; i < batches.size(); ++i) {
      const LossOptions loss{.label_smoothing = options_.label_smoothing,
                             .scale = 1 / static_cast<double>(labels),
                             .dropout = *options_.dropout,
                             .random = random.substream(i)};
      model_->add_gradients(batches[i], loss, loss_.view());
    }
    StepReport report;
    const double scheduled = options_.learning_rate * schedule_.factor(state_.step);
    report.learning_rate = rate(scheduled, state_.updates + 1);
    optimizer_.update(be, model_->parameters(), scheduled, state_.updates + 1);

    report.step = state_.step + 1;
    report.epoch = static_cast<double>(report.step) / static_cast<double>(steps_per_epoch_);
    report.loss = read_number(be, loss_.data()) / static_cast<double>(labels);
    report.gradient_norm = optimizer_.gradient_norm(be);
    report.tokens = tokens + labels;
    for (const Batch& batch : batches) report.examples += batch.rows;
    report.skipped = !std::isfinite(report.gradient_norm);
    if ((report.skipped || !std::isfinite(report.loss)) && !options_.skip_nonfinite)
      throw nonfinite_error(nonfinite_text(report));

    state_.step += 1;
    if (!report.skipped) state_.updates += 1;
    if (std::isfinite(report.loss)) state_.loss_sum += report.loss, state_.loss_steps += 1;
    report.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return report;
  }

  /// Steps to the end, or until after_step(report) returns false.
  template <class AfterStep>
  void run(AfterStep after_step) {
    while (!done()) {
      if (!after_step(step())) return;
    }
  }

 private:
  static constexpr std::uint64_t dropout_use = 1;  // EpochOrder uses 0

  EpochOrder epoch_order(index_t epoch) const {
    return EpochOrder(lengths_, {.batch_size = options_.batch_size,
                                 .seed = options_.seed,
                                 .epoch = static_cast<std::uint64_t>(epoch),
                                 .group_by_length = options_.group_by_length,
                                 .max_tokens = options_.max_tokens_per_batch});
  }

  double rate(double scheduled, [[maybe_unused]] index_t update) const {
    if constexpr (requires { optimizer_.rate(scheduled, update); })
      return optimizer_.rate(scheduled, update);
    return scheduled;
  }

  std::string nonfinite_text(const StepReport& report) {
    B& be = model_->backend();
    std::string what = "step " + std::to_string(report.step) + ": the loss is " +
                       std::to_string(report.loss) + " and the norm of the gradient " +
                       std::to_string(report.gradient_norm);
    const auto first = [&](auto values) -> std::string {
      for (const auto& p : model_->parameters())
        if (has_nonfinite(be, values(p), p.count)) return p.name;
      return "";
    };
    if (const std::string name = first([](const auto& p) { return p.value; }); !name.empty())
      return what + ": the value of \"" + name +
             "\" is not finite to begin with; start from another checkpoint";
    if (const std::string name = first([](const auto& p) { return p.gradient; }); !name.empty())
      what += ", not finite first in \"" + name + "\"";
    return what + "; lower the learning rate, or set skip_nonfinite to leave such steps out";
  }

  Model* model_;
  Examples examples_;
  std::vector<ExampleLengths> lengths_;
  TrainingOptions options_;
  O optimizer_;
  Tensor<B, accumulate_t<T>, 1> loss_;
  Schedule schedule_;
  index_t batches_per_epoch_ = 0, steps_per_epoch_ = 0, total_steps_ = 0;
  TrainingState state_;
  index_t ordered_epoch_ = -1;
  std::optional<EpochOrder> order_;
};

}  // namespace srformer
