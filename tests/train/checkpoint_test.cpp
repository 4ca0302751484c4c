// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <srformer/models/checkpoint.hpp>
#include <srformer/train/checkpoint.hpp>

#include "bigram_model.hpp"
#include "io/temporary_folder.hpp"
#include "sign_descent.hpp"
#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;

namespace {

namespace fs = std::filesystem;
using TinyFloat = T5<EigenBackend, float>;
using Bigram = BigramModel<double>;

std::unique_ptr<TinyFloat> tiny_t5_in_float(EigenBackend& be) {
  auto model = std::make_unique<TinyFloat>(
      be, config_from_json<T5Config>(tiny_t5_config("segmented_recurrent"), "config.json"));
  model->initialize({1, 2}, 0.5);
  return model;
}

TrainingOptions run_options() {
  TrainingOptions options;
  options.batch_size = 3, options.accumulation = 2, options.epochs = 3;
  options.learning_rate = 0.02, options.warmup_steps = 2;
  options.dropout = DropoutRates{0.2, 0.2, 0.2}, options.label_smoothing = 0.1;
  options.group_by_length = true;
  return options;
}

/// A run of the bigram model in a folder of its own, which saves what makes a checkpoint.
struct BigramRun {
  EigenBackend be{1};
  std::vector<Example> examples = odd_examples(9);
  Bigram model{be};
  Trainer<Bigram> trainer{model, examples, {.batch_size = 2}};

  static void save_values(const fs::path& folder) { std::ofstream(folder / "config.json") << "{}"; }
  fs::path save(const fs::path& output, index_t limit = 0) {
    return save_training(output, trainer, save_values, limit);
  }
};

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

}  // namespace

TEST_CASE("A run resumed at any step goes on bit for bit") {
  EigenBackend be(2);
  const auto examples = odd_examples(16);  // 6 batches, 3 steps in an epoch
  const TemporaryFolder folder;
  const auto model = tiny_t5_in_float(be);
  Trainer<TinyFloat> trainer(*model, examples, run_options());
  REQUIRE(trainer.total_steps() == 9);
  std::vector<double> losses, logged;
  const auto save = [&](const fs::path& path) {
    save_model(*model, path, DType::f32, nlohmann::json::object());
  };
  while (!trainer.done()) {
    save_training(folder.path, trainer, save);
    losses.push_back(trainer.step().loss);
    if (trainer.state().step % 4 == 0) logged.push_back(trainer.take_mean_loss());
  }
  const auto all = training_checkpoints(folder.path);
  REQUIRE(all.size() == 9);
  for (const auto& checkpoint : all) {
    CAPTURE(checkpoint.step);
    const auto resumed = load_t5<float>(be, checkpoint.path);
    Trainer<TinyFloat> again(*resumed, examples, run_options());
    load_training(checkpoint.path, again);
    REQUIRE(again.state().step == checkpoint.step);
    std::vector<double> rest, rest_logged;
    while (!again.done()) {
      rest.push_back(again.step().loss);
      if (again.state().step % 4 == 0) rest_logged.push_back(again.take_mean_loss());
    }
    CHECK(rest == std::vector(losses.begin() + checkpoint.step, losses.end()));
    CHECK(rest_logged == std::vector(logged.end() - std::ssize(rest_logged), logged.end()));
    const auto a = model->parameters().values(), b = resumed->parameters().values();
    CHECK(std::equal(a.data, a.data + a.size(), b.data, b.data + b.size()));
  }
}

TEST_CASE("A run is resumed bit for bit with every optimizer") {
  const auto optimizer =
      GENERATE(OptimizerOptions(AdafactorOptions{}),
               AdafactorOptions{.beta1 = 0.9, .scale_parameter = true, .relative_step = true},
               SgdOptions{.momentum = 0.9, .dampening = 0.1}, SgdOptions{});
  EigenBackend be(2);
  const auto examples = odd_examples(16);
  const TemporaryFolder folder;
  const auto model = tiny_t5_in_float(be);
  TrainingOptions options = run_options();
  options.optimizer = optimizer;
  Trainer<TinyFloat> trainer(*model, examples, options);
  for (int i = 0; i < 4; ++i) trainer.step();
  const auto save = [&](const fs::path& path) {
    save_model(*model, path, DType::f32, nlohmann::json::object());
  };
  const fs::path path = save_training(folder.path, trainer, save);
  const auto resumed = load_t5<float>(be, path);
  Trainer<TinyFloat> again(*resumed, examples, options);
  load_training(path, again);
  while (!trainer.done()) CHECK(trainer.step().loss == again.step().loss);
  CHECK(again.done());
  const auto a = model->parameters().values(), b = resumed->parameters().values();
  CHECK(std::equal(a.data, a.data + a.size(), b.data, b.data + b.size()));
}

TEST_CASE("An optimizer of one's own trains and is resumed bit for bit") {
  using Own = SignDescent<EigenBackend, double>;
  EigenBackend be(1);
  const std::vector<Example> examples = odd_examples(9);
  const TrainingOptions options{.batch_size = 2, .learning_rate = 0.02};
  const TemporaryFolder folder;
  Bigram model(be), other(be);
  Trainer trainer(model, std::span<const Example>(examples), options,
                  Own(be, model.parameters(), 0.9));
  const double first = trainer.step().loss;
  trainer.step(), trainer.step();
  const fs::path path = save_training(folder.path, trainer, BigramRun::save_values);
  const auto values = to_host(be, model.parameters().values());
  be.from_host(other.parameters().values().data, values.data(), std::ssize(values));
  Trainer again(other, std::span<const Example>(examples), options,
                Own(be, other.parameters(), 0.9));
  load_training(path, again);
  double last = 0;
  while (!trainer.done()) {
    last = trainer.step().loss;
    CHECK(again.step().loss == last);
  }
  CHECK(last < 0.7 * first);
  CHECK(to_host(be, model.parameters().values()) == to_host(be, other.parameters().values()));
}

TEST_CASE("A run with another optimizer, or other arguments of it, is not resumed") {
  const TemporaryFolder folder;
  BigramRun run;
  const auto saved = [&](const OptimizerOptions& optimizer) {
    Trainer<Bigram> trainer(run.model, run.examples, {.batch_size = 2, .optimizer = optimizer});
    trainer.step();
    return save_training(folder.path, trainer, BigramRun::save_values);
  };
  const auto refused = [&](const fs::path& path, const OptimizerOptions& optimizer,
                           const char* why) {
    Trainer<Bigram> other(run.model, run.examples, {.batch_size = 2, .optimizer = optimizer});
    CHECK_THROWS_MATCHES(load_training(path, other), io_error,
                         MessageMatches(ContainsSubstring(why)));
    CHECK(other.state().step == 0);
  };
  fs::path path = saved(AdafactorOptions{});
  refused(path, SgdOptions{},
          "the run had another optimizer (optimizer \"adafactor\", now \"sgd\")");
  refused(path, AdamWOptions{},
          "the run had another optimizer (optimizer \"adafactor\", now \"adamw_torch\")");
  refused(path, AdafactorOptions{.beta1 = 0.5},
          "has no tensor \"exp_avg/table\"; resume with the same optimizer and its arguments");
  path = saved(SgdOptions{.momentum = 0.9});
  refused(path, SgdOptions{}, "has 3 tensors, expected 0; resume with the same optimizer");
  // A state of the first version names no optimizer: it is AdamW's.
  path = saved(AdamWOptions{});
  auto state = read_json_file(path / "trainer_state.json");
  REQUIRE(state["run"].erase("optimizer") == 1);
  write_json_file(path / "trainer_state.json", state);
  refused(path, SgdOptions{},
          "the run had another optimizer (optimizer \"adamw_torch\", now \"sgd\")");
  Trainer<Bigram> same(run.model, run.examples, {.batch_size = 2});
  load_training(path, same);
  CHECK(same.state().step == 1);
}

TEST_CASE("A checkpoint holds model, moments and state") {
  const TemporaryFolder folder;
  BigramRun run;
  run.trainer.step();
  run.trainer.step();
  const fs::path path = run.save(folder.path / "new");
  CHECK(path == folder.path / "new" / "checkpoint-2");
  CHECK(names_in(folder.path / "new") == std::vector<std::string>{"checkpoint-2"});
  CHECK(names_in(path) ==
        std::vector<std::string>{"config.json", "optimizer.safetensors", "trainer_state.json"});
  const SafetensorsFile moments(path / "optimizer.safetensors");
  CHECK(moments.names().size() == 6);
  CHECK(moments.info("exp_avg/weight").shape == std::vector<index_t>{11, 6});
  CHECK(moments.info("exp_avg_sq/bias").dtype == DType::f64);
  const auto state = read_json_file(path / "trainer_state.json");
  CHECK(state["global_step"] == 2);
  CHECK(state["max_steps"] == 15);
}

TEST_CASE("Only the newest checkpoints are kept") {
  const TemporaryFolder folder;
  BigramRun run;
  for (int i = 0; i < 12; ++i) {
    run.trainer.step();
    run.save(folder.path, 2);
  }
  CHECK(names_in(folder.path) == std::vector<std::string>{"checkpoint-11", "checkpoint-12"});
  const auto found = training_checkpoints(folder.path);
  REQUIRE(found.size() == 2);
  CHECK(found.back().step == 12);  // by number, not by letter
}

TEST_CASE("A checkpoint replaces one of the same step whole") {
  const TemporaryFolder folder;
  BigramRun run;
  const fs::path path = run.save(folder.path);
  std::ofstream(path / "stale") << "old";
  CHECK(run.save(folder.path) == path);
  CHECK_FALSE(fs::exists(path / "stale"));
  CHECK(names_in(folder.path) == std::vector<std::string>{"checkpoint-0"});
}

TEST_CASE("An interrupted save leaves the older checkpoint whole and nothing beside it") {
  const TemporaryFolder folder;
  BigramRun run;
  const fs::path path = run.save(folder.path);
  std::ofstream(path / "mark") << "old";
  const auto broken = [](const fs::path& aside) {
    std::ofstream(aside / "config.json") << "{";
    throw io_error("the disk is full");
  };
  CHECK_THROWS_AS(save_training(folder.path, run.trainer, broken, 1), io_error);
  CHECK(names_in(folder.path) == std::vector<std::string>{"checkpoint-0"});
  CHECK(fs::exists(path / "mark"));
  run.trainer.step();
  CHECK_THROWS_AS(save_training(folder.path, run.trainer, broken, 1), io_error);
  CHECK(names_in(folder.path) == std::vector<std::string>{"checkpoint-0"});
  Trainer<Bigram> again(run.model, run.examples, {.batch_size = 2});
  load_training(path, again);
  CHECK(again.state().step == 0);
}

TEST_CASE("What a killed process left aside is no checkpoint and is cleared away") {
  const TemporaryFolder folder;
  // A pid above the system's limit belongs to no process; this one's parent is alive.
  const std::string dead = "checkpoint-7.tmp-2147483646";
  const std::string alive = "checkpoint-8.tmp-" + std::to_string(::getppid());
  for (const std::string& name : {dead, alive}) {
    fs::create_directory(folder.path / name);
    std::ofstream(folder.path / name / "trainer_state.json") << "{}";
  }
  fs::create_directory(folder.path / "checkpoint-9");  // without a state
  fs::create_directory(folder.path / "checkpoint-x");
  CHECK(training_checkpoints(folder.path).empty());
  BigramRun run;
  run.save(folder.path);
  CHECK_FALSE(fs::exists(folder.path / dead));
  CHECK(fs::exists(folder.path / alive));
  CHECK(training_checkpoints(folder.path).size() == 1);
  CHECK(training_checkpoints(folder.path / "absent").empty());
}

TEST_CASE("A run of other data is not resumed") {
  const TemporaryFolder folder;
  BigramRun run;
  run.trainer.step();
  const fs::path path = run.save(folder.path);
  const auto refused = [&](const std::vector<Example>& examples, TrainingOptions options,
                           const char* why) {
    Trainer<Bigram> other(run.model, examples, options);
    CHECK_THROWS_MATCHES(load_training(path, other), io_error,
                         MessageMatches(ContainsSubstring(why)));
    CHECK(other.state().step == 0);
  };
  refused(odd_examples(8), {.batch_size = 2}, "the run had other data (examples 9, now 8)");
  refused(odd_examples(9, 6), {.batch_size = 2}, "other tokens (examples_fingerprint");
  // Nor is one whose steps would be made of other examples.
  refused(odd_examples(9), {.batch_size = 3},
          "the run had another batch_size (batch_size 2, now 3)");
  refused(odd_examples(9), {.batch_size = 2, .accumulation = 2},
          "the run had another gradient_accumulation");
  refused(odd_examples(9), {.batch_size = 2, .seed = 1},
          "the run had another seed (seed 42, now 1)");
  refused(odd_examples(9), {.batch_size = 2, .group_by_length = true},
          "the run had another group_by_length");
  refused(odd_examples(9), {.batch_size = 2, .max_tokens_per_batch = 100},
          "the run had another max_tokens_per_batch (max_tokens_per_batch 0, now 100)");
  // An older state does not have the last of them.
  nlohmann::json state = read_json_file(path / "trainer_state.json");
  state["run"].erase("max_tokens_per_batch");
  write_json_file(path / "trainer_state.json", state);
  refused(odd_examples(9), {.batch_size = 2, .max_tokens_per_batch = 100},
          "the run had another max_tokens_per_batch (max_tokens_per_batch 0, now 100)");
  Trainer<Bigram> same(run.model, run.examples, {.batch_size = 2});
  CHECK(load_training(path, same).empty());
}

TEST_CASE("Options that differ from those of the run are told when it is resumed") {
  const TemporaryFolder folder;
  BigramRun run;
  run.trainer.step();
  const fs::path path = run.save(folder.path);
  const auto differences = [&](TrainingOptions options) {
    Trainer<Bigram> other(run.model, run.examples, options);
    const auto lines = load_training(path, other);
    CHECK(other.state().step == 1);
    return lines;
  };
  using Lines = std::vector<std::string>;
  CHECK(differences({.batch_size = 2}).empty());
  const auto one = [&](TrainingOptions options, const char* text) {
    CHECK(differences(options) == Lines{text});
  };
  one({.batch_size = 2, .learning_rate = 1e-3},
      "learning_rate was 5e-05 in the run so far, now it is 0.001");
  one({.batch_size = 2, .schedule = ScheduleType::cosine},
      "schedule was \"linear\" in the run so far, now it is \"cosine\"");
  one({.batch_size = 2, .warmup_steps = 4}, "warmup_steps was 0 in the run so far, now it is 4");
  one({.batch_size = 2, .warmup_ratio = 0.2}, "warmup_steps was 0 in the run so far, now it is 3");
  one({.batch_size = 2, .optimizer = AdamWOptions{.weight_decay = 0.1, .max_grad_norm = 1}},
      "weight_decay was 0.0 in the run so far, now it is 0.1");
  one({.batch_size = 2, .optimizer = AdamWOptions{.max_grad_norm = 2}},
      "max_grad_norm was 1.0 in the run so far, now it is 2.0");
  one({.batch_size = 2, .optimizer = AdamWOptions{.beta1 = 0.8, .max_grad_norm = 1}},
      "adam_beta1 was 0.9 in the run so far, now it is 0.8");
  one({.batch_size = 2, .label_smoothing = 0.1},
      "label_smoothing was 0.0 in the run so far, now it is 0.1");
  one({.batch_size = 2, .dropout = DropoutRates{0.5, 0, 0}},
      "dropout was 0.0 in the run so far, now it is 0.5");
  one({.batch_size = 2, .skip_nonfinite = true},
      "skip_nonfinite was false in the run so far, now it is true");
  one({.batch_size = 2, .epochs = 9}, "total_steps was 15 in the run so far, now it is 45");
  // What an older state does not hold is not compared.
  nlohmann::json state = read_json_file(path / "trainer_state.json");
  state["run"].erase("learning_rate");
  write_json_file(path / "trainer_state.json", state);
  CHECK(differences({.batch_size = 2, .learning_rate = 1e-3}).empty());
}

TEST_CASE("Another number of threads is told when a run is resumed") {
  const TemporaryFolder folder;
  const auto examples = odd_examples(9);
  EigenBackend one(1), two(2);
  Bigram model(one), same(two);
  Trainer<Bigram> trainer(model, examples, {.batch_size = 2}),
      other(same, examples, {.batch_size = 2});
  const fs::path path = save_training(folder.path, trainer, BigramRun::save_values);
  if (two.threads() == 2)
    CHECK(load_training(path, other) ==
          std::vector<std::string>{"threads was 1 in the run so far, now it is 2"});
}

TEST_CASE("Damaged checkpoints are refused with the file") {
  const TemporaryFolder folder;
  BigramRun run;
  const fs::path path = run.save(folder.path);
  const auto refused = [&](const char* why) {
    CHECK_THROWS_MATCHES(load_training(path, run.trainer), io_error,
                         MessageMatches(ContainsSubstring(why)));
  };
  SECTION("no moments") {
    fs::remove(path / "optimizer.safetensors");
    refused("optimizer.safetensors: cannot open");
  }
  SECTION("moments cut short") {
    fs::resize_file(path / "optimizer.safetensors", 900);
    refused("optimizer.safetensors: byte");
  }
  SECTION("moments of another model") {
    SafetensorsWriter writer;
    const std::vector<double> one{1};
    writer.add<double>("exp_avg/table", DType::f64, {1}, one);
    writer.write(path / "optimizer.safetensors");
    refused("\"exp_avg/table\" is [1], expected [11,6]");
  }
  SECTION("broken state") {
    std::ofstream(path / "trainer_state.json") << "{\"global_step\": ";
    refused("trainer_state.json: byte");
  }
  SECTION("another kind of state") {
    std::ofstream(path / "trainer_state.json") << "{\"global_step\": 3}";
    refused("is not the state of a run");
  }
}

TEST_CASE("Symbolic links are removed with old checkpoints and what they point to stays") {
  const TemporaryFolder folder, precious;
  std::ofstream(precious.path / "trainer_state.json") << "{}";
  std::ofstream(precious.path / "letter") << "before";
  BigramRun run;
  // A folder that is a link, a link within a folder, and what a process that is gone left aside.
  fs::create_directory_symlink(precious.path, folder.path / "checkpoint-0");
  fs::create_directory(folder.path / "checkpoint-1");
  fs::copy(precious.path / "trainer_state.json", folder.path / "checkpoint-1");
  fs::create_directory_symlink(precious.path, folder.path / "checkpoint-1" / "below");
  fs::create_directory_symlink(precious.path, folder.path / "checkpoint-7.tmp-999999999");
  fs::create_directory_symlink(precious.path, folder.path / "checkpoint-2");
  for (int i = 0; i < 2; ++i) run.trainer.step();
  run.save(folder.path, 1);
  CHECK(names_in(folder.path) == std::vector<std::string>{"checkpoint-2"});
  CHECK_FALSE(fs::is_symlink(folder.path / "checkpoint-2"));
  CHECK(names_in(precious.path) == std::vector<std::string>{"letter", "trainer_state.json"});
  for (const char* step : {"checkpoint-3", "checkpoint-4"})
    fs::create_directory_symlink(precious.path, folder.path / step);
  remove_checkpoint(folder.path / "checkpoint-3");
  CHECK(names_in(folder.path) == std::vector<std::string>{"checkpoint-2", "checkpoint-4"});
  CHECK(names_in(precious.path) == std::vector<std::string>{"letter", "trainer_state.json"});
}

TEST_CASE("A state of steps that cannot be is refused") {
  const TemporaryFolder folder;
  BigramRun run;
  run.trainer.step();
  const fs::path path = run.save(folder.path);
  const nlohmann::json state = read_json_file(path / "trainer_state.json");
  const index_t most = std::numeric_limits<index_t>::max();
  for (const auto& [key, value] : {std::pair<const char*, nlohmann::json>{"global_step", -1},
                                   {"global_step", most},
                                   {"updates", 2},
                                   {"updates", -1},
                                   {"loss_steps", -1},
                                   {"loss_steps", most},
                                   {"loss_steps", 2}}) {
    nlohmann::json changed = state;
    changed[key] = value;
    write_json_file(path / "trainer_state.json", changed);
    CHECK_THROWS_WITH(load_training(path, run.trainer),
                      ContainsSubstring("its steps contradict each other"));
  }
  write_json_file(path / "trainer_state.json", state);
  load_training(path, run.trainer);
}
