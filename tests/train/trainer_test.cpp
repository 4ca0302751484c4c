// SPDX-License-Identifier: Apache-2.0
#include <set>
#include <srformer/models/t5.hpp>
#include <srformer/train/trainer.hpp>

#include "bigram_model.hpp"
#include "support/catch.hpp"

using namespace srformer;

namespace {

using TinyDouble = T5<EigenBackend, double>;

template <class Model>
std::vector<double> values_of(Model& model) {
  const auto values = model.parameters().values();
  return {values.data, values.data + values.size()};
}

/// Losses of all steps.
template <class Model>
std::vector<double> train(Model& model, const std::vector<Example>& examples,
                          const TrainingOptions& options) {
  Trainer<Model> trainer(model, examples, options);
  std::vector<double> losses;
  trainer.run([&](const StepReport& report) {
    losses.push_back(report.loss);
    return true;
  });
  REQUIRE(std::ssize(losses) == trainer.total_steps());
  return losses;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  REQUIRE_FALSE(a.empty());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

TrainingOptions options_of(index_t batch_size, index_t accumulation) {
  TrainingOptions options;
  options.batch_size = batch_size, options.accumulation = accumulation;
  options.epochs = 2, options.learning_rate = 0.02, options.label_smoothing = 0.1;
  options.optimizer = AdamWOptions{.weight_decay = 0.1, .max_grad_norm = 0.5};
  options.dropout = DropoutRates{};
  return options;
}

TinyDouble tiny_t5_in_double(EigenBackend& be) {
  return TinyDouble(
      be, config_from_json<T5Config>(tiny_t5_config("segmented_recurrent"), "config.json"));
}

}  // namespace

TEST_CASE(
    "training takes dropout and padding from the model's configuration unless told otherwise") {
  EigenBackend be(1);
  auto config = config_from_json<T5Config>(tiny_t5_config("full"), "config.json");
  config.pad_token_id = 3;
  TinyDouble model(be, config);
  const auto examples = odd_examples(5);
  const auto trainer_of = [&](const TrainingOptions& options) {
    return Trainer<TinyDouble>(model, examples, options);
  };
  Trainer<TinyDouble> own = trainer_of({.batch_size = 5});
  CHECK(*own.options().dropout == DropoutRates{0.1, 0.1, 0.1});
  const auto count = [](const Batch& batch, std::int32_t id) {
    return std::ranges::count(batch.source_ids, id);
  };
  index_t padding = 0, threes = 0;
  const Batch batch = own.batches(0).at(0);
  for (const index_t length : batch.source_lengths) padding += batch.source_width - length;
  for (const Example& example : examples) threes += std::ranges::count(example.source, 3);
  REQUIRE(padding > 0);
  CHECK(count(batch, 3) == threes + padding);
  Trainer<TinyDouble> told =
      trainer_of({.batch_size = 5, .dropout = DropoutRates{0.3}, .pad_id = 0});
  CHECK(*told.options().dropout == DropoutRates{0.3});
  CHECK(count(told.batches(0).at(0), 0) == padding);
}

TEST_CASE("Accumulated micro-batches are one large batch") {
  EigenBackend be(1);
  const auto examples = odd_examples(23);  // the last step has 2 micro-batches, one of them short
  SECTION("bigram") {
    BigramModel<double> whole(be), parts(be);
    const auto a = train(whole, examples, options_of(12, 1));
    const auto b = train(parts, examples, options_of(4, 3));
    CHECK(a.size() == 4);
    CHECK(largest_difference(a, b) < 1e-12);
    CHECK(largest_difference(values_of(whole), values_of(parts)) < 1e-12);
  }
  SECTION("bigram with other optimizers") {
    for (const OptimizerOptions& optimizer :
         {OptimizerOptions(AdafactorOptions{.scale_parameter = true, .max_grad_norm = 0.5}),
          OptimizerOptions(SgdOptions{.momentum = 0.9, .weight_decay = 0.1})}) {
      BigramModel<double> whole(be), parts(be);
      TrainingOptions in_one = options_of(12, 1), in_parts = options_of(4, 3);
      in_one.optimizer = in_parts.optimizer = optimizer;
      CHECK(largest_difference(train(whole, examples, in_one), train(parts, examples, in_parts)) <
            1e-12);
      CHECK(largest_difference(values_of(whole), values_of(parts)) < 1e-12);
    }
  }
  SECTION("T5") {
    TinyDouble whole = tiny_t5_in_double(be), parts = tiny_t5_in_double(be);
    whole.initialize({1, 2}, 0.5);
    parts.initialize({1, 2}, 0.5);
    const auto a = train(whole, examples, options_of(12, 1));
    const auto b = train(parts, examples, options_of(4, 3));
    CHECK(a.size() == 4);
    CHECK(largest_difference(a, b) < 1e-12);
    CHECK(largest_difference(values_of(whole), values_of(parts)) < 1e-12);
  }
}

TEST_CASE("The same seed gives the same run bit for bit, another one another") {
  EigenBackend be(2);
  const auto examples = odd_examples(11);
  TrainingOptions options = options_of(3, 2);
  options.dropout = DropoutRates{0.3};
  const auto run = [&] {
    TinyDouble model = tiny_t5_in_double(be);
    model.initialize({1, 2}, 0.5);
    return std::pair(train(model, examples, options), values_of(model));
  };
  const auto first = run(), second = run();
  CHECK(first == second);
  options.seed += 1;
  CHECK(first.first != run().first);
}

TEST_CASE("Dropout differs between the steps and the micro-batches of a run") {
  EigenBackend be(1);
  const Example one = odd_examples(1)[0];
  const std::vector<Example> examples(4, one);  // without dropout every batch is the same
  BigramModel<double> model(be);
  TrainingOptions options;
  options.batch_size = 1, options.accumulation = 2, options.learning_rate = 0;
  options.dropout = DropoutRates{0.5}, options.epochs = 4;
  const auto losses = train(model, examples, options);
  CHECK(std::set(losses.begin(), losses.end()).size() == losses.size());

  // Two equal halves of one step would have the loss of a step of one.
  options.accumulation = 1;
  const auto single = train(model, examples, options);
  CHECK(losses[0] != single[0]);
}

TEST_CASE("Every example comes once in an epoch, in another order in the next") {
  EigenBackend be(1);
  auto examples = odd_examples(13);
  for (std::size_t i = 0; i < examples.size(); ++i)
    examples[i].source = {2, static_cast<std::int32_t>(100 + i)};  // marks the example
  BigramModel<double> model(be);
  TrainingOptions options;
  options.batch_size = 2, options.accumulation = 3, options.epochs = 2;
  Trainer trainer(model, std::span<const Example>(examples), options);
  CHECK(trainer.steps_per_epoch() == 3);  // 7 batches
  CHECK(trainer.total_steps() == 6);
  std::vector<std::vector<std::int32_t>> epochs(2);
  for (index_t s = 0; s < 6; ++s) {
    const auto batches = trainer.batches(s);
    CHECK(std::ssize(batches) == (s % 3 == 2 ? 1 : 3));
    for (const Batch& batch : batches)
      for (index_t b = 0; b < batch.rows; ++b)
        epochs[static_cast<std::size_t>(s / 3)].push_back(
            batch.source_ids[static_cast<std::size_t>(2 * b + 1)]);
  }
  CHECK(epochs[0] != epochs[1]);
  for (auto& epoch : epochs) {
    CHECK(epoch.size() == 13);
    CHECK(std::set(epoch.begin(), epoch.end()).size() == 13);
  }
  // Any step can be asked for alone.
  Trainer other(model, std::span<const Example>(examples), options);
  CHECK(other.batches(4)[1].source_ids == trainer.batches(4)[1].source_ids);
}

TEST_CASE("Steps follow from epochs, which may be in parts, or are given") {
  EigenBackend be(1);
  const auto examples = odd_examples(10);
  BigramModel<double> model(be);
  const auto steps = [&](double epochs, index_t max_steps) {
    TrainingOptions options;
    options.batch_size = 3, options.epochs = epochs, options.max_steps = max_steps;
    return Trainer(model, std::span<const Example>(examples), options).total_steps();
  };
  CHECK(steps(1, 0) == 4);
  CHECK(steps(2.5, 0) == 10);
  CHECK(steps(0.1, 0) == 1);
  CHECK(steps(3, 5) == 5);
}

TEST_CASE("Training lowers the loss, and the reports say how") {
  EigenBackend be(1);
  const auto examples = odd_examples(16);
  BigramModel<double> model(be);
  TrainingOptions options;
  options.batch_size = 5, options.epochs = 15, options.learning_rate = 0.05;
  options.warmup_ratio = 0.1;
  Trainer trainer(model, std::span<const Example>(examples), options);
  const double before = mean_loss(model, std::span<const Example>(examples), 4, 0);
  std::vector<StepReport> reports;
  trainer.run([&](const StepReport& report) {
    reports.push_back(report);
    return reports.size() < 59;
  });
  REQUIRE(reports.size() == 59);
  CHECK_FALSE(trainer.done());
  CHECK(reports[0].learning_rate == 0);  // warm-up of 6 of 60 steps
  CHECK(reports[3].learning_rate == Approx(0.025));
  CHECK(reports[6].learning_rate == Approx(0.05));
  CHECK(reports[33].learning_rate == Approx(0.05 * 27 / 54));
  CHECK(reports[7].step == 8);
  CHECK(reports[7].epoch == Approx(2));
  index_t tokens = 0, expected = 0;
  for (int i = 0; i < 4; ++i) tokens += reports[static_cast<std::size_t>(i)].tokens;
  for (const Example& e : examples) expected += std::ssize(e.source) + std::ssize(e.target);
  CHECK(tokens == expected);
  CHECK(reports[0].gradient_norm > 0);
  CHECK(mean_loss(model, std::span<const Example>(examples), 4, 0) < 0.6 * before);
}

TEST_CASE(
    "Reports have the rate that the optimizer sets, or that of the schedule with its arguments") {
  EigenBackend be(1);
  const auto examples = odd_examples(4);
  BigramModel<double> model(be);
  const auto rates = [&](const TrainingOptions& options) {
    Trainer trainer(model, std::span<const Example>(examples), options);
    std::vector<double> seen;
    trainer.run([&](const StepReport& report) {
      seen.push_back(report.learning_rate);
      return true;
    });
    return seen;
  };
  TrainingOptions options;
  options.batch_size = 4, options.max_steps = 3, options.learning_rate = 0.5;
  options.optimizer = AdafactorOptions{.relative_step = true, .warmup_init = true};
  const std::vector<double> own = rates(options);
  for (std::size_t i = 0; i < 3; ++i)
    CHECK(own.at(i) == Approx(1e-6 * static_cast<double>(i + 1)).epsilon(1e-14));
  options.optimizer = SgdOptions{};
  options.schedule = ScheduleType::polynomial;
  options.schedule_arguments = {.lr_end = 0.2, .power = 2};
  const std::vector<double> scheduled = rates(options);
  CHECK(scheduled.at(0) == 0.5);
  CHECK(scheduled.at(1) == Approx(0.3 * 4 / 9 + 0.2).epsilon(1e-14));
  CHECK(scheduled.at(2) == Approx(0.3 * 1 / 9 + 0.2).epsilon(1e-14));
}

TEST_CASE("The mean loss weighs tokens, not batches") {
  EigenBackend be(1);
  const auto examples = odd_examples(9);
  BigramModel<double> model(be);
  const auto mean = [&](index_t batch_size) {
    return mean_loss(model, std::span<const Example>(examples), batch_size, 0.1);
  };
  CHECK(mean(1) == Approx(mean(9)).epsilon(1e-13));
  CHECK(mean(4) == Approx(mean(9)).epsilon(1e-13));
}

TEST_CASE("The mean of a log is that of the steps since the last one") {
  EigenBackend be(1);
  const auto examples = odd_examples(8);
  BigramModel<double> model(be);
  TrainingOptions options;
  options.batch_size = 2;
  Trainer trainer(model, std::span<const Example>(examples), options);
  const double a = trainer.step().loss, b = trainer.step().loss;
  CHECK(trainer.take_mean_loss() == Approx((a + b) / 2));
  const double c = trainer.step().loss;
  CHECK(trainer.take_mean_loss() == Approx(c));
  CHECK(std::isnan(trainer.take_mean_loss()));  // of no steps
}

TEST_CASE("The parts of a step's time are parts of it") {
  EigenBackend be(1);
  const auto examples = odd_examples(8);
  BigramModel<double> model(be);
  Trainer trainer(model, std::span<const Example>(examples), {.batch_size = 2, .accumulation = 2});
  while (!trainer.done()) {
    const StepReport report = trainer.step();
    CHECK((report.data_seconds > 0 && report.gradient_seconds > 0));
    CHECK(report.data_seconds + report.gradient_seconds <= report.seconds);
  }
}

TEST_CASE("What is not finite stops training with the first parameter affected") {
  EigenBackend be(1);
  const auto examples = odd_examples(6);
  BigramModel<float> model(be);
  TrainingOptions options;
  options.batch_size = 2;
  SECTION("in a value") {
    model.parameters().at("weight").value[3] = std::numeric_limits<float>::quiet_NaN();
    Trainer trainer(model, std::span<const Example>(examples), options);
    CHECK_THROWS_MATCHES(trainer.step(), nonfinite_error,
                         Catch::Matchers::MessageMatches(Catch::Matchers::ContainsSubstring(
                             "the value of \"weight\" is not finite to begin with")));
    CHECK(trainer.state().step == 0);
  }
  // A bias of 3e38 against weights of 1e30: the logits overflow, no value does.
  for (index_t i = 0; i < 11 * 6; ++i) model.parameters().at("weight").value[i] = 1e30f;
  be.fill(model.parameters().at("table").value, 11 * 6, 1e30f);
  SECTION("in a gradient") {
    Trainer trainer(model, std::span<const Example>(examples), options);
    CHECK_THROWS_MATCHES(trainer.step(), nonfinite_error,
                         Catch::Matchers::MessageMatches(
                             Catch::Matchers::ContainsSubstring("not finite first in \"table\"")));
    CHECK(trainer.state().step == 0);
  }
  SECTION("unless such steps are to be skipped") {
    options.skip_nonfinite = true;
    const auto before = model.parameters().values();
    const std::vector<float> values(before.data, before.data + before.size());
    Trainer trainer(model, std::span<const Example>(examples), options);
    CHECK(trainer.step().skipped);
    CHECK(trainer.step().skipped);
    CHECK(trainer.state().step == 2);
    CHECK(trainer.state().updates == 0);
    CHECK(std::equal(values.begin(), values.end(), model.parameters().values().data));
  }
}

TEST_CASE("The trainer refuses options that make no sense") {
  EigenBackend be(1);
  const auto examples = odd_examples(6);
  BigramModel<double> model(be);
  const auto refused = [&](auto change, const std::vector<Example>& data) {
    TrainingOptions options;
    change(options);
    CHECK_THROWS_AS(Trainer(model, std::span<const Example>(data), options), shape_error);
  };
  refused([](auto&) {}, {});
  refused([](auto& o) { o.batch_size = 0; }, examples);
  refused([](auto& o) { o.accumulation = 0; }, examples);
  refused([](auto& o) { o.epochs = 0; }, examples);
  refused([](auto& o) { o.learning_rate = -1; }, examples);
  refused([](auto& o) { o.dropout = DropoutRates{1}; }, examples);
  refused([](auto& o) { o.label_smoothing = 1; }, examples);
  refused([](auto& o) { o.warmup_ratio = 2; }, examples);
  refused([](auto& o) { o.optimizer = SgdOptions{.nesterov = true}; }, examples);
  refused([](auto& o) { o.schedule = ScheduleType::warmup_stable_decay; }, examples);
  refused([](auto& o) { o.schedule_arguments.power = 2; }, examples);
}
