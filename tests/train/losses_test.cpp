// SPDX-License-Identifier: Apache-2.0
// Two hundred steps of the trainer against those of torch and transformers: data/optimizers/losses.json has a run for every
// optimizer and one for every schedule, with accumulation, label smoothing, clipping and weight decay.
#include <srformer/backend/eigen.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/train/trainer.hpp>

#include "support/catch.hpp"

#include "optimizer_cases.hpp"
#include "schedule_cases.hpp"

using namespace srformer;

namespace {

/// All examples in each step, as in the script: in an order of its own, which the losses do not depend on.
TrainingOptions options_of_run(const nlohmann::json& data, const nlohmann::json& run) {
  TrainingOptions o;
  o.batch_size = data.at("batch_size"), o.accumulation = data.at("accumulation");
  o.label_smoothing = data.at("label_smoothing"), o.learning_rate = run.at("learning_rate");
  o.max_steps = std::ssize(run.at("losses"));
  o.optimizer = tests::optimizer_options(run.at("optimizer"), run.at("weight_decay"),
                                         run.at("max_grad_norm"));
  o.schedule = schedule_from_name(run.at("schedule").get<std::string>());
  o.warmup_steps = run.at("warmup");
  o.schedule_arguments = tests::schedule_arguments(o.schedule, run.at("arguments"));
  return o;
}

/// Holds the runs [first, end) of the file to their losses.
void check_runs(std::size_t first, std::size_t end) {
  const nlohmann::json data = tests::optimizer_data("losses.json");
  std::vector<Example> examples;
  for (const auto& e : data.at("examples"))
    examples.push_back({e.at("source").get<std::vector<std::int32_t>>(),
                        e.at("target").get<std::vector<std::int32_t>>()});
  REQUIRE(examples.size() == 12);
  CHECK(data.at("cases").size() == 17);
  EigenBackend be(1);
  for (std::size_t i = first; i < end; ++i) {
    const nlohmann::json& run = data.at("cases").at(i);
    const auto expected = run.at("losses").get<std::vector<double>>();
    REQUIRE(expected.size() == 200);
    const auto model =
        load_bart<double>(be, std::filesystem::path(SRF_TESTS_DIR) / "train/data/trained/bart");
    Trainer trainer(*model, std::span<const Example>(examples), options_of_run(data, run));
    double worst = 0;
    trainer.run([&](const StepReport& report) {
      const double loss = expected[static_cast<std::size_t>(report.step - 1)];
      worst = std::max(worst, std::abs(report.loss - loss));
      return true;
    });
    CHECK(trainer.state().updates == 200);
    CAPTURE(run.at("case").get<std::string>());
    CHECK(worst < 1e-8);
  }
}

}  // namespace

TEST_CASE("Two hundred losses with AdamW and Adafactor are those of torch and transformers") {
  check_runs(0, 6);
}

TEST_CASE(
    "Two hundred losses with SGD and half of the schedules are those of torch and transformers") {
  check_runs(6, 12);
}

TEST_CASE("Two hundred losses with the other schedules are those of torch and transformers") {
  check_runs(12, 17);
}
