// SPDX-License-Identifier: Apache-2.0
// Learning rate by step, as the schedules of transformers (optimization.py). With w warm-up steps of n in all, the
// factor on the learning rate in step s = 0, 1, ... is s / w while s < w, and then, with x = (s - w) / (n - w),
//
//   linear                    1 - x
//   cosine                    (1 + cos(2 pi num_cycles x)) / 2                                  num_cycles 0.5
//   cosine_with_restarts      (1 + cos(pi (num_cycles x mod 1))) / 2                            num_cycles 1
//   polynomial                ((lr - lr_end) (1 - x)^power + lr_end) / lr                       lr_end 1e-7, power 1
//   inverse_sqrt              1 / sqrt((s + timescale - w) / timescale)                         timescale w, or 10000
//   cosine_with_min_lr        cosine (1 - r) + r,  r = min_lr_rate, or min_lr / lr              one of the two
//   warmup_stable_decay       1 for num_stable_steps, then within num_decay_steps down to min_lr_ratio
//   constant_with_warmup      1
//
// and constant is 1 from the start. warmup_stable_decay warms up from min_lr_ratio, in the shape of warmup_type, and
// decays in that of decay_type; num_stable_steps are those that the other two leave of n, unless they are given.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <optional>
#include <string>
#include <string_view>

#include <srformer/core/error.hpp>

namespace srformer {

enum class ScheduleType {
  linear,
  cosine,
  cosine_with_restarts,
  polynomial,
  constant,
  constant_with_warmup,
  inverse_sqrt,
  cosine_with_min_lr,
  warmup_stable_decay
};

/// The names as --lr_scheduler_type has them, in the order of ScheduleType.
inline constexpr std::array<const char*, 9> schedule_names{"linear",
                                                           "cosine",
                                                           "cosine_with_restarts",
                                                           "polynomial",
                                                           "constant",
                                                           "constant_with_warmup",
                                                           "inverse_sqrt",
                                                           "cosine_with_min_lr",
                                                           "warmup_stable_decay"};

inline const char* schedule_name(ScheduleType type) {
  return schedule_names[static_cast<std::size_t>(type)];
}

/// Throws shape_error for a name that is no schedule, with those that are.
inline ScheduleType schedule_from_name(std::string_view name) {
  std::string all;
  for (std::size_t i = 0; i < schedule_names.size(); ++i) {
    if (name == schedule_names[i]) return static_cast<ScheduleType>(i);
    all += (i > 0 ? ", " : "") + std::string(schedule_names[i]);
  }
  throw shape_error("schedule: \"" + std::string(name) + "\" is not one of " + all);
}

/// How warmup_stable_decay goes from one rate to another: x, (1 - cos(pi x)) / 2 or 1 - sqrt(1 - x) on its way up.
enum class RampShape { linear, cosine, one_minus_sqrt };
inline constexpr std::array<std::string_view, 3> ramp_shape_names{"linear", "cosine", "1-sqrt"};

/// What schedules take beside their steps; what is not set has the default at the head of this file.
struct ScheduleArguments {
  std::optional<double> num_cycles{}, lr_end{}, power{}, min_lr{}, min_lr_rate{}, min_lr_ratio{};
  std::optional<index_t> timescale{}, num_decay_steps{}, num_stable_steps{};
  std::optional<RampShape> warmup_type{}, decay_type{};

  bool operator==(const ScheduleArguments&) const = default;
};

/// Calls f(name, argument) for those that a schedule takes, under the names of transformers.
template <class Arguments, class F>
void visit_arguments(ScheduleType type, Arguments& a, F f) {
  using enum ScheduleType;
  const bool stable = type == warmup_stable_decay;
  if (type == cosine || type == cosine_with_restarts || type == cosine_with_min_lr || stable)
    f("num_cycles", a.num_cycles);
  if (type == polynomial) f("lr_end", a.lr_end), f("power", a.power);
  if (type == inverse_sqrt) f("timescale", a.timescale);
  if (type == cosine_with_min_lr) f("min_lr", a.min_lr), f("min_lr_rate", a.min_lr_rate);
  if (!stable) return;
  f("num_decay_steps", a.num_decay_steps), f("num_stable_steps", a.num_stable_steps);
  f("warmup_type", a.warmup_type), f("decay_type", a.decay_type);
  f("min_lr_ratio", a.min_lr_ratio);
}

struct Schedule {
  ScheduleType type = ScheduleType::linear;
  index_t warmup_steps = 0;
  index_t total_steps = 0;
  ScheduleArguments arguments{};
  double learning_rate = 1;  ///< at its highest: lr_end and min_lr are shares of it

  /// Throws shape_error where an argument is missing, has no effect or is out of its range.
  void check() const {
    const ScheduleArguments& a = arguments;
    const std::string name = std::string("schedule ") + schedule_name(type);
    ScheduleArguments left = a;
    visit_arguments(type, left, [](const char*, auto& argument) { argument.reset(); });
    require(left == ScheduleArguments{}, name, "it was given an argument that it does not take");
    if (type == ScheduleType::polynomial)
      require(learning_rate > lr_end(), name, "lr_end must be below the learning rate");
    if (type == ScheduleType::cosine_with_min_lr)
      require(a.min_lr.has_value() != a.min_lr_rate.has_value() && learning_rate > 0, name,
              "either min_lr or min_lr_rate must be given, and a learning rate above 0");
    if (type == ScheduleType::warmup_stable_decay)
      require(a.num_decay_steps.has_value(), name, "num_decay_steps must be given");
    require(a.timescale.value_or(1) > 0, name, "timescale must be above 0");
    require(a.num_decay_steps.value_or(0) >= 0 && a.num_stable_steps.value_or(0) >= 0, name,
            "steps must not be negative");
    require(a.power.value_or(1) >= 0, name, "power must not be negative");
  }

  /// The factor on the learning rate in step `step`, counted from 0; the first step of a warm-up
  /// has the rate 0, as in transformers.
  double factor(index_t step) const {
    using enum ScheduleType;
    if (type == constant) return 1;
    if (type == warmup_stable_decay) return stable_factor(step);
    if (step < warmup_steps) return ratio(step, warmup_steps);
    const double progress = ratio(step - warmup_steps, total_steps - warmup_steps);
    switch (type) {
      case linear:
        return std::max(0.0, ratio(total_steps - step, total_steps - warmup_steps));
      case cosine:
        return std::max(0.0, wave(arguments.num_cycles.value_or(0.5), std::min(progress, 1.0)));
      case cosine_with_restarts:
        return progress >= 1 ? 0 : restarts_factor(progress);
      case polynomial:
        return polynomial_factor(std::min(progress, 1.0));
      case inverse_sqrt:
        return inverse_sqrt_factor(step);
      case cosine_with_min_lr: {
        const double least = arguments.min_lr ? *arguments.min_lr / learning_rate
                                              : arguments.min_lr_rate.value_or(0);
        const double x = wave(arguments.num_cycles.value_or(0.5), std::min(progress, 1.0));
        return std::max(0.0, x * (1 - least) + least);
      }
      default:
        return 1;
    }
  }

 private:
  static double ratio(index_t part, index_t whole) {
    return static_cast<double>(part) / static_cast<double>(std::max<index_t>(whole, 1));
  }
  /// From 1 down and up again, `cycles` times.
  static double wave(double cycles, double progress) {
    return (1 + std::cos(std::numbers::pi * cycles * 2 * progress)) / 2;
  }
  double lr_end() const { return arguments.lr_end.value_or(1e-7); }

  double restarts_factor(double progress) const {
    const double cycles = arguments.num_cycles.value_or(1) * progress;
    return std::max(0.0, (1 + std::cos(std::numbers::pi * (cycles - std::floor(cycles)))) / 2);
  }

  double polynomial_factor(double progress) const {
    const double remaining = std::pow(1 - progress, arguments.power.value_or(1));
    return ((learning_rate - lr_end()) * remaining + lr_end()) / learning_rate;
  }

  double inverse_sqrt_factor(index_t step) const {
    const index_t timescale = arguments.timescale.value_or(warmup_steps > 0 ? warmup_steps : 10000);
    return 1 / std::sqrt(ratio(step + timescale - warmup_steps, timescale));
  }

  double stable_factor(index_t step) const {
    const double least = arguments.min_lr_ratio.value_or(0);
    const auto above_least = [&](double x) { return std::max(0.0, x * (1 - least) + least); };
    const RampShape up = arguments.warmup_type.value_or(RampShape::linear),
                    down = arguments.decay_type.value_or(RampShape::cosine);
    if (step < warmup_steps) {
      const double x = ratio(step, warmup_steps);
      if (up == RampShape::cosine) return above_least((1 - std::cos(std::numbers::pi * x)) / 2);
      return above_least(up == RampShape::linear ? x : 1 - std::sqrt(1 - x));
    }
    const index_t decay = arguments.num_decay_steps.value_or(0);
    const index_t stable = arguments.num_stable_steps.value_or(total_steps - warmup_steps - decay);
    if (step < warmup_steps + stable) return 1;
    if (step >= warmup_steps + stable + decay) return least;
    const double x = ratio(step - warmup_steps - stable, decay);
    if (down == RampShape::cosine) return above_least(wave(arguments.num_cycles.value_or(0.5), x));
    return above_least(down == RampShape::linear ? 1 - x : 1 - std::sqrt(x));
  }
};

/// Warm-up steps as transformers counts them: `steps` when given, else that share of all, rounded up.
inline index_t warmup_steps(index_t steps, double ratio, index_t total_steps) {
  if (steps > 0) return steps;
  return static_cast<index_t>(std::ceil(static_cast<double>(total_steps) * ratio));
}

}  // namespace srformer
