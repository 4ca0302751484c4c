// SPDX-License-Identifier: Apache-2.0
// Training saved and resumed. A folder checkpoint-STEP holds the model as transformers reads it,
// optimizer.safetensors (the optimizer's state, named as exp_avg/PARAMETER and exp_avg_sq/PARAMETER of AdamW) and
// trainer_state.json. It is written aside as checkpoint-STEP.tmp-PID and renamed whole, so that a
// folder named checkpoint-STEP is always complete.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <srformer/io/hf_checkpoint.hpp>
#include <srformer/train/shared_state.hpp>
#include <srformer/train/trainer.hpp>

namespace srformer {

/// One checkpoint-STEP of an output folder.
struct TrainingCheckpoint {
  index_t step = 0;
  std::filesystem::path path;
};

namespace detail {

/// STEP of "checkpoint-STEP", nothing for another name.
inline std::optional<index_t> checkpoint_step(std::string_view name) {
  constexpr std::string_view prefix = "checkpoint-";
  index_t step = 0;
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  const bool whole = error == std::errc{} && end == name.data() + name.size();
  return whole && step >= 0 ? std::optional(step) : std::nullopt;
}

/// Folders of processes that ended before they could rename or remove them.
inline void remove_abandoned_folders(const std::filesystem::path& output) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(output, ignored)) {
    const std::string name = entry.path().filename().string();
    const std::size_t at = name.find(".tmp-");
    if (at == std::string::npos || !checkpoint_step(name.substr(0, at))) continue;
    const int process = std::atoi(name.c_str() + at + 5);
    const bool gone = process > 0 && ::kill(process, 0) != 0 && errno == ESRCH;
    if (gone) std::filesystem::remove_all(entry.path(), ignored);
  }
}

inline std::string folder_aside(const std::filesystem::path& target) {
  return target.string() + ".tmp-" + std::to_string(::getpid());
}

/// A folder that is written aside and takes its name as a whole.
class ReplacementFolder {
 public:
  explicit ReplacementFolder(std::filesystem::path target)
      : target_(std::move(target)), aside_(folder_aside(target_)) {
    std::error_code error;
    std::filesystem::remove_all(aside_, error);
    if (!error) std::filesystem::create_directories(aside_, error);
    if (error)
      throw_system_error(target_.string(), "cannot create " + aside_.string(), error.value(),
                         "check that the folder above exists and is writable");
  }
  ReplacementFolder(const ReplacementFolder&) = delete;
  ReplacementFolder& operator=(const ReplacementFolder&) = delete;
  ~ReplacementFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(aside_, ignored);
  }

  const std::filesystem::path& aside() const { return aside_; }

  /// Takes the place of the target, which a reader finds whole at every moment.
  void commit() {
    flush(aside_);
    const bool exists = std::filesystem::exists(target_);
    // An old folder and the new one change names in one step; the destructor removes the old.
    const int failed = exists ? static_cast<int>(::syscall(SYS_renameat2, AT_FDCWD, aside_.c_str(),
                                                           AT_FDCWD, target_.c_str(), exchange))
                              : ::rename(aside_.c_str(), target_.c_str());
    if (failed != 0)
      throw_system_error(target_.string(), "cannot rename " + aside_.string(), errno,
                         exists ? "remove the old folder first" : "check the folder above");
    flush(target_.parent_path());
  }

 private:
  static constexpr unsigned exchange = 2;  // RENAME_EXCHANGE of linux/fs.h

  static void flush(const std::filesystem::path& path) {
    const int folder = ::open(path.empty() ? "." : path.c_str(), O_RDONLY | O_CLOEXEC);
    if (folder < 0) return;
    ::fsync(folder);
    ::close(folder);
  }

  std::filesystem::path target_, aside_;
};

/// What must be the same for a run to go on: its scalar, its optimizer, and all that decides the data of a step.
template <class Model, class O, class Comm>
nlohmann::json run_identity(const Trainer<Model, O, Comm>& trainer) {
  const TrainingOptions& o = trainer.options();
  nlohmann::json identity{{"optimizer", std::string(trainer.optimizer().name())},
                          {"seed", o.seed},
                          {"batch_size", o.batch_size},
                          {"gradient_accumulation", o.accumulation},
                          {"group_by_length", o.group_by_length},
                          {"max_tokens_per_batch", o.max_tokens_per_batch},
                          {"examples", trainer.examples().size()},
                          {"examples_fingerprint", trainer.examples().fingerprint()},
                          {"objective", "pairs"},
                          {"dtype_bytes", sizeof(typename Model::scalar)}};
  if (!o.denoising) return identity;
  identity["objective"] = std::string(denoising_name(*o.denoising));
  visit_options(*o.denoising, [&](const char* name, const auto& value) {
    identity[std::string("objective_") + name] = value;
  });
  return identity;
}

/// The numbers of the optimizer and of its schedule.
inline nlohmann::json optimizer_numbers(const TrainingOptions& options, const Schedule& schedule) {
  nlohmann::json numbers;
  const auto set = [&](const char* name, const auto& value) {
    if constexpr (requires { *value; }) {
      numbers[name] = value ? nlohmann::json(*value) : nlohmann::json();
    } else {
      numbers[name] = value;
    }
  };
  const auto set_all = [&]<class O>(const O& o) {
    O::visit(o, set);
    set("weight_decay", o.weight_decay), set("max_grad_norm", o.max_grad_norm);
  };
  std::visit(set_all, options.optimizer);
  visit_arguments(schedule.type, schedule.arguments, set);
  return numbers;
}

/// What must be the same for a run to go on as if never stopped, and may differ.
template <class Model, class O, class Comm>
nlohmann::json run_options(Trainer<Model, O, Comm>& trainer) {
  const TrainingOptions& o = trainer.options();
  const DropoutRates rates = o.dropout.value_or(DropoutRates{});
  nlohmann::json options{{"learning_rate", o.learning_rate},
                         {"schedule", schedule_name(trainer.schedule().type)},
                         {"warmup_steps", trainer.schedule().warmup_steps},
                         {"total_steps", trainer.total_steps()},
                         {"label_smoothing", o.label_smoothing},
                         {"skip_nonfinite", o.skip_nonfinite},
                         {"dropout", rates.dropout},
                         {"attention_dropout", rates.attention_dropout},
                         {"activation_dropout", rates.activation_dropout}};
  options.update(optimizer_numbers(o, trainer.schedule()));
  if constexpr (requires { trainer.model().backend().threads(); })
    options["threads"] = trainer.model().backend().threads();
  options["ranks"] = trainer.communicator().size();
  return options;
}

inline std::string shown_value(const nlohmann::json& value) {
  return one_line(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

/// Throws io_error where the state of `file` has another identity.
inline void require_identity(const nlohmann::json& then, const nlohmann::json& now,
                             const std::string& file) {
  const nlohmann::json of_older_runs{
      {"optimizer", "adamw_torch"}, {"max_tokens_per_batch", 0}, {"objective", "pairs"}};
  const auto require_same = [&](const std::string& key, const nlohmann::json& value) {
    const nlohmann::json was = then.value(key, of_older_runs.value(key, nlohmann::json()));
    if (was == value) return;
    const std::string what = key == "examples"      ? "the run had other data"
                             : key == "dtype_bytes" ? "the run had another scalar type"
                             : key == "examples_fingerprint"
                                 ? "the run had other texts or other tokens"
                                 : "the run had another " + key;
    throw io_error(file + ": " + what + " (" + key + " " + shown_value(was) + ", now " +
                   shown_value(value) + "); resume with those of the run, or start afresh");
  };
  require_same("objective",
               now.value("objective", nlohmann::json()));  // before what it makes of the data
  for (const auto& [key, value] : now.items()) require_same(key, value);
}

/// One line for each option that a state has and that differs now.
inline std::vector<std::string> option_differences(const nlohmann::json& then,
                                                   const nlohmann::json& now) {
  std::vector<std::string> differences;
  for (const auto& [key, value] : now.items())
    if (then.contains(key) && then[key] != value)
      differences.push_back(key + " was " + shown_value(then[key]) +
                            " in the run so far, now it is " + shown_value(value));
  return differences;
}

template <class C>
constexpr DType stored_dtype() {
  return dtype_of<C>.value_or(DType::f64);
}

}  // namespace detail

/// The checkpoint-STEP folders in `output`, by step; none when there is no such folder.
inline std::vector<TrainingCheckpoint> training_checkpoints(const std::filesystem::path& output) {
  std::vector<TrainingCheckpoint> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(output, ignored)) {
    const auto step = detail::checkpoint_step(entry.path().filename().string());
    if (step && std::filesystem::exists(entry.path() / "trainer_state.json"))
      found.push_back({*step, entry.path()});
  }
  std::ranges::sort(found, {}, &TrainingCheckpoint::step);
  return found;
}

/// Removes a checkpoint, which is never seen in part under its name.
inline void remove_checkpoint(const std::filesystem::path& path) {
  const std::filesystem::path aside = detail::folder_aside(path);
  std::error_code error;
  std::filesystem::rename(path, aside, error);
  if (!error) std::filesystem::remove_all(aside, error);
  if (error)
    throw_system_error(path.string(), "cannot be removed", error.value(), "remove it by hand");
}

namespace detail {

/// visit_share where the optimizer has a share, else visit_state as such: f(name, shape, first, values, count).
template <class Model, class O, class Comm, class F>
void visit_own_state(Trainer<Model, O, Comm>& trainer, F f) {
  const auto& parameters = trainer.model().parameters();
  if constexpr (SharedOptimizer<O, typename Model::backend_type, typename Model::scalar>) {
    if (trainer.exchange().zero()) return trainer.optimizer().visit_share(parameters, f);
  }
  const auto whole = [&](const std::string& name, const auto& shape, auto* values, index_t count) {
    f(name, shape, index_t{0}, values, count);
  };
  trainer.optimizer().visit_state(parameters, whole);
}

/// The optimizer's state as rank 0 reads it. What every rank has, it reads of its own.
template <class Model, class O, class Comm>
auto shared_state(Trainer<Model, O, Comm>& trainer) {
  using C = compute_t<typename Model::scalar>;
  const bool has = trainer.exchange().zero() || trainer.communicator().rank() == 0;
  const auto visit = [&](auto f) {
    visit_own_state(trainer,
                    [&](const std::string& name, const auto& shape, index_t first, C* values,
                        index_t count) { f(name, shape, first, values, has ? count : 0); });
  };
  return SharedState<typename Model::backend_type, C, Comm>(trainer.communicator(),
                                                            trainer.model().backend(), visit);
}

/// Writes a checkpoint as a whole. On rank 0.
template <class Model, class O, class Comm, class State, class SaveModel>
void write_training(const std::filesystem::path& path, Trainer<Model, O, Comm>& trainer,
                    State& optimizer_state, SaveModel& save_model, const nlohmann::json& others) {
  using C = compute_t<typename Model::scalar>;
  remove_abandoned_folders(path.parent_path());
  ReplacementFolder folder(path);
  save_model(folder.aside());

  SafetensorsWriter optimizer;
  for (std::size_t i = 0; i < optimizer_state.tensors().size(); ++i) {
    const auto& tensor = optimizer_state.tensors()[i];
    optimizer.add_stream<C>(tensor.name, stored_dtype<C>(), tensor.shape,
                            [&optimizer_state, i](index_t first, std::span<C> out) {
                              optimizer_state.read(i, first, out);
                            });
  }
  optimizer.write(folder.aside() / "optimizer.safetensors");

  const TrainingState& state = trainer.state();
  nlohmann::json run = run_options(trainer);
  run.update(run_identity(trainer));
  nlohmann::json json = others;
  json.update(
      {{"global_step", state.step},
       {"updates", state.updates},
       {"epoch", static_cast<double>(state.step) / static_cast<double>(trainer.steps_per_epoch())},
       {"step_in_epoch", state.step % trainer.steps_per_epoch()},
       {"max_steps", trainer.total_steps()},
       {"loss_sum", state.loss_sum},
       {"loss_steps", state.loss_steps},
       {"run", std::move(run)}});
  write_json_file(folder.aside() / "trainer_state.json", json);
  folder.commit();
}

/// Removes the oldest checkpoints beyond `total_limit` (0: none) except `kept`.
inline void remove_oldest(const std::filesystem::path& output, index_t total_limit,
                          const std::vector<std::filesystem::path>& kept) {
  if (total_limit <= 0) return;
  const auto all = training_checkpoints(output);
  index_t beyond = std::ssize(all) - total_limit;
  for (const TrainingCheckpoint& checkpoint : all)
    if (beyond > 0 && std::ranges::find(kept, checkpoint.path) == kept.end())
      remove_checkpoint(checkpoint.path), --beyond;
}

/// Throws io_error on every rank where `own`, what one of them met, is not null: that itself on the ranks that have one.
template <class Comm, class B>
void throw_on_every_rank(Comm& comm, B& be, const std::exception_ptr& own,
                         const std::string& what) {
  if (comm.size() > 1) {
    const std::vector<double> failed = numbers_of_all(comm, be, {own != nullptr ? 1.0 : 0.0});
    if (own == nullptr)
      for (std::size_t r = 0; r < failed.size(); ++r)
        if (failed[r] > 0) throw io_error(what + " (rank " + std::to_string(r) + " says why)");
  }
  if (own != nullptr) std::rethrow_exception(own);
}

}  // namespace detail

/// Saves a run as `output`/checkpoint-STEP and removes the oldest beyond `total_limit` (0: none).
///   save_model(folder)   writes the model's files into the folder
///   others   what else trainer_state.json is to hold
///   keep     a checkpoint that is not removed
/// Throws io_error and leaves older checkpoints as they were. Returns the path. Over a communicator all ranks call it, rank 0
/// alone writes and calls save_model, and where it fails all ranks throw. What is written depends on neither the number of
/// ranks nor zero.
template <class Model, class O, class Comm, class SaveModel>
std::filesystem::path save_training(const std::filesystem::path& output,
                                    Trainer<Model, O, Comm>& trainer, SaveModel save_model,
                                    index_t total_limit = 0,
                                    const nlohmann::json& others = nlohmann::json::object(),
                                    const std::filesystem::path& keep = {}) {
  const std::filesystem::path path =
      output / ("checkpoint-" + std::to_string(trainer.state().step));
  auto optimizer_state = detail::shared_state(trainer);
  if (trainer.communicator().rank() != 0) {
    if (!optimizer_state.serve())
      throw io_error(path.string() + ": was not written (rank 0 says why)");
    return path;
  }
  try {
    detail::write_training(path, trainer, optimizer_state, save_model, others);
    detail::remove_oldest(output, total_limit, {path, keep});
  } catch (...) {
    optimizer_state.end(false);
    throw;
  }
  optimizer_state.end(true);
  return path;
}

namespace detail {

/// The state of a trainer that trainer_state.json holds. Throws io_error where it contradicts itself.
inline TrainingState training_state(const nlohmann::json& json, const std::string& shown) {
  TrainingState state;
  state.step = json_field<index_t>(json, "global_step", shown);
  state.updates = json_field<index_t>(json, "updates", shown);
  state.loss_sum = json_field<double>(json, "loss_sum", shown);
  state.loss_steps = json_field<index_t>(json, "loss_steps", shown);
  const auto possible = [&](index_t steps) { return steps >= 0 && steps <= state.step; };
  constexpr index_t most = index_t{1} << 60;  // and one more can be counted
  if (state.step > most || !possible(state.updates) || !possible(state.loss_steps))
    throw io_error(shown + ": its steps contradict each other; take another checkpoint");
  return state;
}

/// Sets the optimizer's state to that of a file; throws io_error, with the state as it was, where it does not fit.
template <class Model, class O, class Comm>
void read_optimizer(const SafetensorsFile& saved, Trainer<Model, O, Comm>& trainer) {
  using C = compute_t<typename Model::scalar>;
  const std::string advice = "; resume with the same optimizer and its arguments as they were";
  std::string last;
  index_t tensors = 0;
  visit_own_state(trainer, [&](const std::string& name, const auto& shape, index_t, C*, index_t) {
    if (tensors > 0 && name == last) return;
    last = name, ++tensors;
    if (!saved.contains(name))
      throw io_error(saved.path() + ": has no tensor \"" + name + "\"" + advice);
    if (const auto& stored = saved.info(name).shape; stored != shape)
      throw io_error(saved.path() + ": tensor \"" + name + "\" is " + shape_text(stored) +
                     ", expected " + shape_text(shape) + "; take the state of this model");
  });
  if (tensors != std::ssize(saved.names()))
    throw io_error(saved.path() + ": has " + std::to_string(saved.names().size()) +
                   " tensors, expected " + std::to_string(tensors) + advice);
  auto& be = trainer.model().backend();
  std::vector<C> host;
  last.clear();
  visit_own_state(
      trainer, [&](const std::string& name, const auto&, index_t first, C* values, index_t count) {
        if (count == 0) return;
        if (host.empty() || std::exchange(last, name) != name) host = saved.read<C>(name);
        last = name;
        be.from_host(values, host.data() + first, count);
      });
}

/// load_training on one rank.
template <class Model, class O, class Comm>
std::vector<std::string> read_training(const std::filesystem::path& checkpoint,
                                       Trainer<Model, O, Comm>& trainer) {
  const std::filesystem::path state_file = checkpoint / "trainer_state.json";
  const std::string shown = state_file.string();
  const nlohmann::json json = read_json_file(state_file, true);
  if (!json.is_object() || !json.contains("run") || !json["run"].is_object())
    throw io_error(shown + ": is not the state of a run; give a folder checkpoint-STEP");
  require_identity(json["run"], run_identity(trainer), shown);
  const TrainingState state = training_state(json, shown);
  read_optimizer(SafetensorsFile(checkpoint / "optimizer.safetensors"), trainer);
  trainer.set_state(state);
  return option_differences(json["run"], run_options(trainer));
}

}  // namespace detail

/// Sets the optimizer's state and that of `trainer` to those of a checkpoint; the model's parameters are loaded
/// from the same folder by the caller. Throws io_error when a file is missing or damaged, and when
/// the run had other data or batches, another optimizer, seed or scalar. Returns a line for each other option that
/// differs, "label_smoothing was 0.0 in the run so far, now it is 0.1": with any of them the run does not go on as if
/// never stopped. Over a communicator all ranks call it, each reads the files, and where one fails all ranks throw.
template <class Model, class O, class Comm>
std::vector<std::string> load_training(const std::filesystem::path& checkpoint,
                                       Trainer<Model, O, Comm>& trainer) {
  std::vector<std::string> differences;
  std::exception_ptr failure;
  try {
    differences = detail::read_training(checkpoint, trainer);
  } catch (...) {
    failure = std::current_exception();
  }
  detail::throw_on_every_rank(trainer.communicator(), trainer.model().backend(), failure,
                              checkpoint.string() + ": another rank could not read it");
  return differences;
}

}  // namespace srformer
