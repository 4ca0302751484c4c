// SPDX-License-Identifier: Apache-2.0
// The flags of the optimizer and of the course of its learning rate, named as in transformers.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <srformer/train/optimizers.hpp>
#include <srformer/train/schedule.hpp>

#include "program.hpp"

namespace srformer::program {

/// A flag whose default --help shows.
template <class T>
CLI::Option* add_with_default(CLI::App& app, const char* name, T& value, const char* what) {
  return app.add_option(name, value, what)->capture_default_str();
}

/// A share below one.
inline CLI::Range below_one() { return {0.0, 0.999999}; }

/// Runs check(), whose errors become those of `flag`.
template <class Check>
void check_flag(const char* flag, Check check) {
  try {
    check();
  } catch (const shape_error& error) {
    throw usage_error(std::string(flag) + ": " + error.what());
  }
}

/// The names of --optim. Those of transformers that compute the same are taken for them, others answered with what
/// is nearest.
inline CLI::Validator optimizer_name() {
  return CLI::Validator(
      [](std::string& word) -> std::string {
        for (const char* same : {"adamw_torch_fused", "adamw_hf", "adamw_apex_fused"})
          if (word == same) word = "adamw_torch";
        for (const char* known : {"adamw_torch", "adafactor", "sgd"})
          if (word == known) return "";
        const auto has = [&](const char* part) { return word.find(part) != std::string::npos; };
        const char* nearest = has("adafactor") ? "adafactor"
                              : has("sgd")     ? "sgd"
                              : has("adam")    ? "adamw_torch"
                                               : "adamw_torch, adafactor or sgd";
        return "There is no optimizer " + word + " here; give " + nearest;
      },
      "adamw_torch, adafactor or sgd");
}

namespace detail {

inline bool read_argument(const std::string& text, double& value) {
  return CLI::detail::lexical_cast(text, value);
}
inline bool read_argument(const std::string& text, bool& value) {
  const auto truth = truth_of(text);
  value = truth.value_or(false);
  return truth.has_value();
}
inline bool read_argument(const std::string& text, std::optional<double>& value) {
  if (text == "None" || text == "none") return value.reset(), true;
  return read_argument(text, value.emplace());
}

/// "a=1, b=True" by name. Throws usage_error for what is not so.
inline std::vector<std::pair<std::string, std::string>> named_values(std::string text) {
  std::erase(text, ' ');
  std::vector<std::pair<std::string, std::string>> values;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, end - at);
    const std::size_t equals = part.find('=');
    if (equals == 0 || equals == std::string::npos)
      throw usage_error("--optim_args: \"" + part.substr(0, 80) +
                        "\" is not NAME=VALUE; give them with commas between");
    values.emplace_back(part.substr(0, equals), part.substr(equals + 1));
    at = end + 1;
  }
  return values;
}

/// Sets what --optim_args says of the options of one optimizer.
template <class Options>
void set_optimizer_arguments(const std::string& optimizer, const std::string& text,
                             Options& options) {
  for (const auto& [name, value] : named_values(text)) {
    for (const auto& [of_transformers, flag] :
         {std::pair{"lr", "--learning_rate"}, std::pair{"weight_decay", "--weight_decay"}})
      if (name == of_transformers)
        throw usage_error("--optim_args: give " + std::string(flag) + " in place of " + name);
    bool found = false;
    std::string all;
    const auto set = [&](const std::string& known, auto& member) {
      all += (all.empty() ? "" : ", ") + known;
      if (name != known) return;
      found = true;
      if (!read_argument(value, member))
        throw usage_error("--optim_args: \"" + value.substr(0, 80) + "\" is no value of " + name);
    };
    Options::visit(options, set);
    if (!found)
      throw usage_error("--optim_args: " + optimizer + " has no \"" + name.substr(0, 80) +
                        "\"; it has " + all);
  }
  check_flag("--optim_args", [&] { options.check(); });
}

}  // namespace detail

/// Which optimizer, and its numbers.
struct OptimizerFlags {
  std::string name = "adamw_torch", arguments;
  AdamWOptions adamw{.max_grad_norm = 1};  ///< its decay and clipping are those of every optimizer

  void add_to(CLI::App& app) {
    add_with_default(app, "--optim", name, "Optimizer")->transform(optimizer_name());
    app.add_option("--optim_args", arguments,
                   "Of adafactor and sgd: NAME=VALUE,... as docs/training.md lists them");
    add_with_default(app, "--weight_decay", adamw.weight_decay, "Of weights and embeddings")
        ->check(CLI::Range(0.0, 1e9));
    add_with_default(app, "--adam_beta1", adamw.beta1, "Of the first moment")->check(below_one());
    add_with_default(app, "--adam_beta2", adamw.beta2, "Of the second moment")->check(below_one());
    add_with_default(app, "--adam_epsilon", adamw.epsilon, "Added to the root of the second moment")
        ->check(CLI::Range(0.0, 1.0));
    add_with_default(app, "--max_grad_norm", adamw.max_grad_norm, "0: no clipping")
        ->check(CLI::Range(0.0, 1e9));
  }

  OptimizerOptions options() const {
    if (name == "adafactor") return with_arguments(AdafactorOptions{});
    if (name == "sgd") return with_arguments(SgdOptions{});
    return adamw;
  }

  /// Throws usage_error for arguments that are wrong, and for flags that would have no effect.
  void check(const CLI::App& app) const {
    if (name == "adamw_torch" && !arguments.empty())
      throw usage_error(
          "--optim_args has nothing for adamw_torch; give --adam_beta1, --adam_beta2 and "
          "--adam_epsilon");
    for (const char* flag : {"--adam_beta1", "--adam_beta2", "--adam_epsilon"})
      if (name != "adamw_torch" && app.count(flag) > 0)
        throw usage_error(std::string(flag) + " needs --optim adamw_torch");
    const OptimizerOptions chosen = options();
    const auto* adafactor = std::get_if<AdafactorOptions>(&chosen);
    if (adafactor == nullptr || !adafactor->relative_step) return;
    for (const char* flag : {"--learning_rate", "--lr_scheduler_type", "--lr_scheduler_kwargs",
                             "--warmup_steps", "--warmup_ratio"})
      if (app.count(flag) > 0)
        throw usage_error(std::string(flag) +
                          " does not go with relative_step=True, which sets the rate itself");
  }

 private:
  template <class Options>
  OptimizerOptions with_arguments(Options options) const {
    detail::set_optimizer_arguments(name, arguments, options);
    options.weight_decay = adamw.weight_decay, options.max_grad_norm = adamw.max_grad_norm;
    return options;
  }
};

/// The course of the learning rate.
struct ScheduleFlags {
  std::string name = "linear", kwargs;

  void add_to(CLI::App& app) {
    const std::vector<std::string> names(schedule_names.begin(), schedule_names.end());
    add_with_default(app, "--lr_scheduler_type", name, "Course of the learning rate")
        ->check(CLI::IsMember(names));
    app.add_option("--lr_scheduler_kwargs", kwargs,
                   "Its arguments as a JSON object, as docs/training.md lists them");
  }

  ScheduleType type() const { return schedule_from_name(name); }

  /// Throws usage_error for what is no JSON object and for arguments that the schedule does not take.
  ScheduleArguments arguments() const {
    ScheduleArguments made;
    if (kwargs.empty()) return made;
    nlohmann::json json = nlohmann::json::parse(kwargs, nullptr, false);
    if (!json.is_object())
      throw usage_error("--lr_scheduler_kwargs is no JSON object; give it as {\"power\": 2}");
    std::string all;
    const auto set = [&]<class V>(const char* known, std::optional<V>& argument) {
      all += (all.empty() ? "" : ", ") + std::string(known);
      if (!json.contains(known)) return;
      if (!json.at(known).is_null() && !read(json.at(known), argument))
        throw usage_error("--lr_scheduler_kwargs: " + json.at(known).dump().substr(0, 80) +
                          " is no value of " + known);
      json.erase(known);
    };
    visit_arguments(type(), made, set);
    if (!json.empty())
      throw usage_error("--lr_scheduler_kwargs: " + name + " has no \"" +
                        json.begin().key().substr(0, 80) + "\"" +
                        (all.empty() ? " nor other arguments" : "; it has " + all));
    return made;
  }

  /// Throws usage_error for arguments that are wrong or missing.
  void check(double learning_rate) const {
    const Schedule schedule{type(), 0, 0, arguments(), learning_rate};
    check_flag("--lr_scheduler_kwargs", [&] { schedule.check(); });
  }

 private:
  static bool read(const nlohmann::json& json, std::optional<double>& value) {
    if (json.is_number()) value = json.get<double>();
    return json.is_number();
  }
  static bool read(const nlohmann::json& json, std::optional<index_t>& value) {
    if (json.is_number_integer()) value = json.get<index_t>();
    return json.is_number_integer();
  }
  static bool read(const nlohmann::json& json, std::optional<RampShape>& value) {
    for (std::size_t i = 0; i < ramp_shape_names.size(); ++i)
      if (json == ramp_shape_names[i]) value = static_cast<RampShape>(i);
    return value.has_value();
  }
};

}  // namespace srformer::program
