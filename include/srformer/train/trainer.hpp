// SPDX-License-Identifier: Apache-2.0
// The training loop. A step takes the micro-batches of one update, adds up their gradients divided
// by the tokens of all of them, clips and updates. Step s is a pure function of the parameters, the
// optimizer's state, the seed and s: the order of the data is that of EpochOrder(seed, epoch) and dropout
// draws from stream (s, micro-batch), so that a run goes on at any step as if never stopped.
//
// Over a communicator of several ranks a step is the same step: rank r takes the micro-batches r, r + size, ... of it, and
// where the steps have fewer micro-batches than there are ranks, a part of the examples of one. Parameters differ from
// those of one process by rounding, and from rank to rank not at all.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <srformer/io/dataset.hpp>
#include <srformer/io/denoising.hpp>
#include <srformer/models/seq2seq.hpp>
#include <srformer/train/gradient_exchange.hpp>
#include <srformer/train/optimizers.hpp>
#include <srformer/train/same_settings.hpp>
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
  index_t batch_size = 8;  ///< examples in a micro-batch
  /// Micro-batches in a step, those of all ranks together; the last step of an epoch may have fewer.
  index_t accumulation = 1;
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
  /// 1: each rank has the optimizer's state of its share of the parameters alone, as stage 1 of ZeRO (Rajbhandari et al.,
  /// SC 2020). 0: of all of them. The numbers are the same.
  int zero = 0;
  index_t bucket_bytes = index_t{8} << 20;  ///< the most gradients that ranks exchange at once
  /// Makes the examples of every epoch anew, of texts that are sources without targets: io/denoising.hpp
  std::optional<Denoising> denoising{};
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
  double data_seconds = 0;      ///< of these, for the batches
  double gradient_seconds = 0;  ///< of these, for forward and backward
  /// Of these, those in which this rank sent, waited for or added what ranks exchange.
  double exchange_seconds = 0;
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

/// Trains `model` on `examples`; both must outlive it, as what the examples are a view of. With denoising, example i of
/// epoch e draws from RandomStream{seed, 3}.substream(e).substream(i). The optimizer is the one that the options choose, or
/// another one that is given. Over a communicator, which must outlive it too, all ranks make theirs of equal models, examples
/// and options, and call the same functions in the same order.
template <Trainable Model,
          class O = ChosenOptimizer<typename Model::backend_type, typename Model::scalar>,
          class C = SingleProcess>
requires Optimizer<O, typename Model::backend_type, typename Model::scalar> &&
    Communicator<C, typename Model::backend_type, typename Model::scalar>
class Trainer {
 public:
  using B = typename Model::backend_type;
  using T = typename Model::scalar;

  /// Throws shape_error for options that make no sense and when there is no example.
  Trainer(Model& model, const Examples& examples, const TrainingOptions& options)
      : Trainer(model, examples, options, alone()) {}

  /// The same over a communicator. Throws shape_error where zero is 1 and an optimizer has no shares.
  Trainer(Model& model, const Examples& examples, const TrainingOptions& options, C& comm)
      : Trainer(model, examples, options, exchange_of(model, options, comm),
                [&](const Exchange& exchange) {
                  if (!exchange.zero())
                    return O(model.backend(), model.parameters(), options.optimizer);
                  if constexpr (divides) {
                    return O(model.backend(), model.parameters(), options.optimizer,
                             exchange.share());
                  } else {
                    throw shape_error("Trainer: zero is 1, but the optimizer has no shares");
                  }
                }) {}

  /// The same with an optimizer of one's own, made for the parameters of `model`; options.optimizer does not count.
  Trainer(Model& model, const Examples& examples, const TrainingOptions& options, O optimizer)
      : Trainer(model, examples, options, std::move(optimizer), alone()) {}
  Trainer(Model& model, const Examples& examples, const TrainingOptions& options, O optimizer,
          C& comm)
      : Trainer(model, examples, options, exchange_of(model, options, comm),
                [&](const Exchange& exchange) -> O&& {
                  require(!exchange.zero(), "Trainer",
                          "zero is 1, for which the trainer must make the optimizer itself");
                  return std::move(optimizer);
                }) {}

 private:
  using Exchange = GradientExchange<B, T, C>;
  /// Whether the optimizer the options choose can have a share of the parameters.
  static constexpr bool divides =
      SharedOptimizer<O, B, T> &&
      std::is_constructible_v<O, B&, const Parameters<B, T>&, const OptimizerOptions&,
                              const std::vector<ArrayRange>&>;

  static C& alone() requires std::same_as<C, SingleProcess> {
    static SingleProcess process;
    return process;
  }

  static Exchange exchange_of(Model& model, const TrainingOptions& options, C& comm) {
    require_same_settings(comm, model.backend(),
                          {{"zero", std::to_string(options.zero)},
                           {"bucket_bytes", std::to_string(options.bucket_bytes)},
                           {"batch_size", std::to_string(options.batch_size)},
                           {"accumulation", std::to_string(options.accumulation)},
                           {"max_tokens_per_batch", std::to_string(options.max_tokens_per_batch)},
                           {"max_steps", std::to_string(options.max_steps)},
                           {"epochs", std::to_string(options.epochs)},
                           {"seed", std::to_string(options.seed)},
                           {"parameters", std::to_string(model.parameters().size())}});
    require(options.zero == 0 || options.zero == 1, "Trainer", "zero must be 0 or 1");
    const bool whole =
        std::visit([](const auto& o) { return o.whole_parameters; }, options.optimizer);
    return Exchange(comm, model.backend(), model.parameters(), options.bucket_bytes,
                    options.zero == 1, whole);
  }

  template <class MakeOptimizer>
  Trainer(Model& model, const Examples& examples, TrainingOptions options, Exchange exchange,
          MakeOptimizer make_optimizer)
      : model_(&model),
        examples_(examples),
        lengths_(options.denoising ? denoised_lengths(examples, *options.denoising)
                                   : example_lengths(examples)),
        options_(std::move(options)),
        exchange_(std::move(exchange)),
        optimizer_(make_optimizer(exchange_)),
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

 public:
  Model& model() { return *model_; }
  const Examples& examples() const { return examples_; }
  const TrainingOptions& options() const { return options_; }
  const Schedule& schedule() const { return schedule_; }
  O& optimizer() { return optimizer_; }
  const O& optimizer() const { return optimizer_; }
  /// Which gradients this rank adds up and, with zero, which parameters it updates.
  const GradientExchange<B, T, C>& exchange() const { return exchange_; }
  C& communicator() const { return exchange_.communicator(); }
  index_t steps_per_epoch() const { return steps_per_epoch_; }
  index_t total_steps() const { return total_steps_; }
  bool done() const { return state_.step >= total_steps_; }

  const TrainingState& state() const { return state_; }
  /// Goes on from another state; parameters and the optimizer's state are the caller's to set.
  void set_state(const TrainingState& state) { state_ = state; }

  /// The mean loss of the steps since it was last taken, or since the start; NaN where there was none, or none finite.
  double take_mean_loss() {
    const double mean = state_.loss_steps > 0
                            ? state_.loss_sum / static_cast<double>(state_.loss_steps)
                            : std::numeric_limits<double>::quiet_NaN();
    state_.loss_sum = 0, state_.loss_steps = 0;
    return mean;
  }

  /// The micro-batches of step `step`, counted from 0, of all ranks.
  std::vector<Batch> batches(index_t step) {
    std::vector<Batch> batches;
    for (const std::span<const index_t> rows : micro_batches(step))
      batches.push_back(batch(rows, step / steps_per_epoch_));
    return batches;
  }

  /// Makes one step. Throws nonfinite_error, with the parameters and the state as they were, unless
  /// such steps are to be skipped.
  StepReport step() {
    using Clock = std::chrono::steady_clock;
    const auto seconds = [](Clock::time_point from, Clock::time_point to) {
      return std::chrono::duration<double>(to - from).count();
    };
    const Clock::time_point start = Clock::now();
    B& be = model_->backend();
    if (!std::exchange(compared_, true))
      exchange_.require_same_values(be, model_->parameters().values().data,
                                    model_->parameters().size());
    const Work work = this->work(state_.step);
    const Clock::time_point made = Clock::now();
    add_gradients(work);
    be.synchronize();
    StepReport report;
    report.data_seconds = seconds(start, made);
    report.gradient_seconds = seconds(made, Clock::now());
    exchange_.finish(be, model_->parameters().gradients().data, loss_.data());
    const double scheduled = options_.learning_rate * schedule_.factor(state_.step);
    report.learning_rate = rate(scheduled, state_.updates + 1);
    update(scheduled);

    report.step = state_.step + 1;
    report.epoch = static_cast<double>(report.step) / static_cast<double>(steps_per_epoch_);
    report.loss = read_number(be, loss_.data()) / static_cast<double>(work.labels);
    report.gradient_norm = optimizer_.gradient_norm(be);
    report.tokens = work.source_tokens + work.labels;
    report.examples = work.examples;
    report.skipped = !std::isfinite(report.gradient_norm);
    if ((report.skipped || !std::isfinite(report.loss)) && !options_.skip_nonfinite)
      throw nonfinite_error(nonfinite_text(report));

    state_.step += 1;
    if (!report.skipped) state_.updates += 1;
    if (std::isfinite(report.loss)) state_.loss_sum += report.loss, state_.loss_steps += 1;
    report.seconds = seconds(start, Clock::now());
    report.exchange_seconds = exchange_.seconds();
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
  static constexpr std::uint64_t dropout_use = 1, denoising_use = 3;  // EpochOrder uses 0

  Batch batch(std::span<const index_t> indices, index_t epoch) const {
    if (!options_.denoising) return make_batch(examples_, indices, *options_.pad_id);
    const RandomStream random =
        RandomStream{options_.seed, denoising_use}.substream(static_cast<std::uint64_t>(epoch));
    return make_denoised_batch(examples_, indices, *options_.denoising, random, *options_.pad_id);
  }

  /// What this rank does of a step, and what all ranks do together.
  struct Work {
    std::vector<Batch> batches;
    std::vector<RandomStream> random;  ///< of their dropout
    index_t labels = 0, source_tokens = 0, examples = 0;
  };

  /// The examples of each micro-batch of a step, of all ranks.
  std::vector<std::span<const index_t>> micro_batches(index_t step) {
    const index_t epoch = step / steps_per_epoch_,
                  first = step % steps_per_epoch_ * options_.accumulation;
    if (epoch != ordered_epoch_) {
      order_.emplace(epoch_order(epoch));
      ordered_epoch_ = epoch;
    }
    std::vector<std::span<const index_t>> micro_batches;
    const index_t end = std::min(first + options_.accumulation, batches_per_epoch_);
    for (index_t i = first; i < end; ++i) micro_batches.push_back(order_->batch(i));
    return micro_batches;
  }

  /// Micro-batch i belongs to rank i mod ranks. Where steps have fewer of them than there are ranks, it belongs to the ranks r
  /// with r mod micro-batches = i, which divide its examples.
  Work work(index_t step) {
    const RandomStream of_step =
        RandomStream{options_.seed, dropout_use}.substream(static_cast<std::uint64_t>(step));
    const auto micro_batches = this->micro_batches(step);
    const index_t ranks = communicator().size(), rank = communicator().rank(),
                  count = std::ssize(micro_batches);
    const bool divided = options_.accumulation < ranks;
    Work work;
    for (index_t i = 0; i < count; ++i) {
      const std::span<const index_t> rows = micro_batches[static_cast<std::size_t>(i)];
      const bool own = (divided ? rank % count : i % ranks) == (divided ? i : rank);
      // How long examples are that denoising makes is known when they are made.
      if (!own && !options_.denoising) {
        count_tokens(rows, work);
        continue;
      }
      Batch batch = this->batch(rows, step / steps_per_epoch_);
      count_tokens(batch, work);
      if (!own) continue;
      RandomStream random = of_step.substream(static_cast<std::uint64_t>(i));
      const index_t parts = divided ? (ranks - i + count - 1) / count : 1;
      if (parts > 1) {
        const index_t part = rank / count;
        batch = batch_rows(batch, batch.rows * part / parts, batch.rows * (part + 1) / parts);
        // Beyond the streams that a model takes for its places.
        random = random.substream((std::uint64_t{1} << 32) + static_cast<std::uint64_t>(part));
      }
      if (batch.rows == 0) continue;
      work.batches.push_back(std::move(batch));
      work.random.push_back(random);
    }
    return work;
  }

  static void count_tokens(const Batch& batch, Work& work) {
    work.labels += label_count(batch);
    for (const index_t length : batch.source_lengths) work.source_tokens += length;
    work.examples += batch.rows;
  }
  void count_tokens(std::span<const index_t> rows, Work& work) const {
    for (const index_t row : rows) {
      const ExampleView example = examples_[row];
      work.source_tokens += std::ssize(example.source);
      work.labels += std::ranges::count_if(example.target, [](std::int32_t id) { return id >= 0; });
    }
    work.examples += std::ssize(rows);
  }

  /// The gradients of this rank's work and the sum of its losses; in the last micro-batch ranks begin to exchange them.
  void add_gradients(const Work& work) {
    B& be = model_->backend();
    model_->parameters().zero_gradients();
    be.fill(loss_.data(), 1, accumulate_t<T>(0));
    exchange_.begin();
    for (std::size_t i = 0; i < work.batches.size(); ++i) {
      LossOptions loss{.label_smoothing = options_.label_smoothing,
                       .scale = 1 / static_cast<double>(work.labels),
                       .dropout = *options_.dropout,
                       .random = work.random[i]};
      if (!exchange_.alone() && i + 1 == work.batches.size())
        loss.finished = [this](index_t stage) {
          exchange_.stage_finished(model_->backend(), model_->parameters().gradients().data, stage);
        };
      model_->add_gradients(work.batches[i], loss, loss_.view());
    }
  }

  void update(double scheduled) {
    B& be = model_->backend();
    const index_t number = state_.updates + 1;
    if constexpr (SharedOptimizer<O, B, T>) {
      if (!exchange_.alone()) {
        optimizer_.update(be, model_->parameters(), scheduled, number, exchange_.squares());
        exchange_.spread(be, model_->parameters().values().data);
        return;
      }
    }
    optimizer_.update(be, model_->parameters(), scheduled, number);
  }

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

  /// The elements that this rank knows of the gradients of a step.
  std::vector<ArrayRange> share() const {
    if (exchange_.alone()) return {{0, model_->parameters().size()}};
    return exchange_.share();
  }

  std::string nonfinite_text(const StepReport& report) {
    B& be = model_->backend();
    std::string what = "step " + std::to_string(report.step) + ": the loss is " +
                       std::to_string(report.loss) + " and the norm of the gradient " +
                       std::to_string(report.gradient_norm);
    // With zero each rank has the sums of its share of the gradients alone; all ranks come here together.
    const std::vector<ArrayRange> share = this->share();
    const auto first = [&](auto values) -> std::string {
      index_t number = 0;
      double found = std::numeric_limits<double>::infinity();
      for (const auto& p : model_->parameters()) {
        detail::for_each_part(share, {p.offset, p.count}, [&](const ArrayRange& part, index_t) {
          if (std::isinf(found) &&
              has_nonfinite(be, values(p) + (part.first - p.offset), part.count))
            found = static_cast<double>(number);
        });
        ++number;
      }
      found = exchange_.least(be, found);
      for (const auto& p : model_->parameters())
        if (found-- == 0) return p.name;
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
  Exchange exchange_;
  O optimizer_;
  Tensor<B, accumulate_t<T>, 1> loss_;
  Schedule schedule_;
  index_t batches_per_epoch_ = 0, steps_per_epoch_ = 0, total_steps_ = 0;
  TrainingState state_;
  bool compared_ = false;  ///< whether the ranks have found their parameters alike
  index_t ordered_epoch_ = -1;
  std::optional<EpochOrder> order_;
};

}  // namespace srformer
