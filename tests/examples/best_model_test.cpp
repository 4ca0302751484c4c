// SPDX-License-Identifier: Apache-2.0
// Which evaluation is the best, when a run ends early, and which flags contradict each other: as transformers' Trainer.
#include "../../examples/best_model.hpp"

#include "support/catch.hpp"

using namespace srformer::program;
using Catch::Matchers::ContainsSubstring;
using Words = std::vector<std::string>;

namespace {

EvaluationFlags evaluation_flags(Words words, bool generates = true) {
  EvaluationFlags flags;
  CLI::App app;
  flags.add_to(app);
  std::ranges::reverse(words);
  app.parse(words);
  flags.check(app, 10, generates);
  return flags;
}

std::string contradiction(const Words& words, bool generates = true) {
  try {
    evaluation_flags(words, generates);
  } catch (const usage_error& error) {
    return error.what();
  }
  return "accepted";
}

nlohmann::ordered_json measured(double value) {
  return {{"eval_loss", value}, {"eval_rouge1", value}};
}

}  // namespace

TEST_CASE("the lowest loss is the best, the highest of everything else") {
  const auto by_loss =
      evaluation_flags({"--eval_steps=5", "--load_best_model_at_end", "--save_steps=10"});
  BestModel best(by_loss);
  CHECK(!best.value());
  CHECK(best.add(measured(3), 5));
  CHECK(!best.add(measured(3), 10));
  CHECK(best.add(measured(2), 15));
  CHECK(!best.add(measured(2.5), 20));
  CHECK((best.value() == 2 && best.step() == 15));
  const auto by_rouge = evaluation_flags(
      {"--eval_strategy=epoch", "--save_strategy=best", "--metric_for_best_model=eval_rouge1"});
  BestModel highest(by_rouge);
  CHECK(highest.add(measured(3), 5));
  CHECK(highest.add(measured(4), 10));
  CHECK(!highest.add(measured(2), 15));
  const auto lowest =
      evaluation_flags({"--eval_strategy=epoch", "--save_strategy=best",
                        "--metric_for_best_model=rouge1", "--greater_is_better=false"});
  BestModel smallest(lowest);
  CHECK(smallest.add(measured(3), 5));
  CHECK(smallest.add(measured(2), 10));
  BestModel none(EvaluationFlags{});
  CHECK(!none.add(measured(3), 5));
}

TEST_CASE("a run ends when evaluations do not get better by more than the threshold") {
  const auto flags = evaluation_flags(
      {"--eval_steps=5", "--early_stopping_patience=2", "--early_stopping_threshold=0.5"});
  BestModel best(flags);
  best.add(measured(5), 5);
  best.add(measured(4), 10);
  CHECK(best.add(measured(3.8), 15));  // the best, but not by enough
  CHECK(!best.exhausted());
  best.add(measured(3.2), 20);
  CHECK(!best.exhausted());
  best.add(measured(3.1), 25);
  CHECK(!best.exhausted());
  best.add(measured(std::nan("")), 30);
  CHECK(best.exhausted());
  CHECK((best.value() == 3.1 && best.step() == 25));
}

TEST_CASE("the best evaluation goes on from a checkpoint") {
  const auto flags = evaluation_flags({"--eval_steps=5", "--early_stopping_patience=3"});
  BestModel before(flags), after(flags);
  for (const double value : {5.0, 6.0, 7.0}) before.add(measured(value), 5);
  after.restore(before.state(), "state");
  CHECK(after.state() == before.state());
  CHECK(!after.exhausted());
  CHECK(!after.add(measured(6), 20));
  CHECK(after.exhausted());
  BestModel fresh(flags);
  fresh.restore(BestModel(flags).state(), "state");
  CHECK(!fresh.value());
  fresh.restore(nlohmann::json::object(), "state");  // of an older version
  CHECK(!fresh.value());
  CHECK_THROWS_WITH(fresh.restore({{"best_metric", "x"}}, "state"),
                    ContainsSubstring("best_metric"));
}

TEST_CASE("what is left out follows from what is given") {
  CHECK(evaluation_flags({}).eval_strategy == "no");
  CHECK(evaluation_flags({}).save_strategy == "steps");
  CHECK(evaluation_flags({"--eval_steps=7"}).eval_strategy == "steps");
  CHECK(evaluation_flags({"--eval_strategy=steps"}).eval_steps == 10);  // --logging_steps
  CHECK(evaluation_flags({"--save_steps=0"}).save_strategy == "no");
  CHECK(evaluation_flags({"--evaluation_strategy=epoch"}).eval_strategy == "epoch");
}

TEST_CASE("flags of evaluations that contradict each other are refused") {
  const std::vector<std::pair<Words, std::string>> cases{
      {{"--eval_strategy=no", "--eval_steps=5"}, "--eval_steps needs --eval_strategy steps"},
      {{"--eval_strategy=steps", "--eval_steps=0"}, "--eval_strategy steps needs --eval_steps"},
      {{"--save_strategy=epoch", "--save_steps=5"}, "--save_steps needs --save_strategy steps"},
      {{"--save_strategy=steps", "--save_steps=0"}, "--save_strategy steps needs --save_steps"},
      {{"--save_strategy=no", "--save_total_limit=2"}, "--save_total_limit needs checkpoints"},
      {{"--load_best_model_at_end"}, "--load_best_model_at_end needs evaluations on the way"},
      {{"--early_stopping_patience=2"}, "--early_stopping_patience needs evaluations on the way"},
      {{"--save_strategy=best"}, "--save_strategy best needs evaluations on the way"},
      {{"--eval_strategy=epoch", "--load_best_model_at_end"}, "give --save_strategy epoch or best"},
      {{"--eval_steps=4", "--load_best_model_at_end", "--save_steps=6"},
       "a multiple of --eval_steps, 4"},
      {{"--metric_for_best_model=loss"}, "--metric_for_best_model needs --load_best_model_at_end"},
      {{"--greater_is_better"}, "--greater_is_better needs --load_best_model_at_end"},
      {{"--eval_steps=4", "--early_stopping_threshold=1"}, "needs --early_stopping_patience"},
      {{"--eval_steps=4", "--early_stopping_patience=1", "--metric_for_best_model=bleu"},
       "bleu is not one of loss, rouge1"},
  };
  for (const auto& [words, message] : cases) {
    INFO(words.front());
    CHECK_THAT(contradiction(words), ContainsSubstring(message));
  }
  const Words by_rouge{"--eval_steps=4", "--early_stopping_patience=1",
                       "--metric_for_best_model=rouge2"};
  CHECK_THAT(contradiction(by_rouge, false), ContainsSubstring("needs --predict_with_generate"));
  CHECK(contradiction(by_rouge) == "accepted");
}
