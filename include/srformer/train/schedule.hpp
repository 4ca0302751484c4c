// SPDX-License-Identifier: Apache-2.0
// Learning rate by step, as the schedules of transformers (optimization.py). With w warm-up steps of
// n in all, the factor on the learning rate in step s = 0, 1, ... is s / w while s < w, and then
//
//   linear                  (n - s) / (n - w)
//   cosine                  (1 + cos(pi (s - w) / (n - w))) / 2
//   constant_with_warmup    1
//
// and constant is 1 from the start.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include <srformer/core/error.hpp>

namespace srformer {

enum class ScheduleType { linear, cosine, constant, constant_with_warmup };

/// The name as --lr_scheduler_type has it.
inline const char* schedule_name(ScheduleType type) {
  switch (type) {
    case ScheduleType::linear:
      return "linear";
    case ScheduleType::cosine:
      return "cosine";
    case ScheduleType::constant:
      return "constant";
    case ScheduleType::constant_with_warmup:
      return "constant_with_warmup";
  }
  return "";
}

/// Throws shape_error for a name that is no schedule, with those that are.
inline ScheduleType schedule_from_name(const std::string& name) {
  for (const ScheduleType type : {ScheduleType::linear, ScheduleType::cosine,
                                  ScheduleType::constant, ScheduleType::constant_with_warmup}) {
    if (name == schedule_name(type)) return type;
  }
  throw shape_error("schedule: \"" + name +
                    "\" is not one of linear, cosine, constant, constant_with_warmup");
}

struct Schedule {
  ScheduleType type = ScheduleType::linear;
  index_t warmup_steps = 0;
  index_t total_steps = 0;

  /// The factor on the learning rate in step `step`, counted from 0; the first step of a warm-up
  /// has the rate 0, as in transformers.
  double factor(index_t step) const {
    const auto ratio = [](index_t part, index_t whole) {
      return static_cast<double>(part) / static_cast<double>(std::max<index_t>(whole, 1));
    };
    if (type == ScheduleType::constant) return 1;
    if (step < warmup_steps) return ratio(step, warmup_steps);
    if (type == ScheduleType::constant_with_warmup) return 1;
    if (type == ScheduleType::linear)
      return std::max(0.0, ratio(total_steps - step, total_steps - warmup_steps));
    const double progress = ratio(step - warmup_steps, total_steps - warmup_steps);
    return (1 + std::cos(std::numbers::pi * std::min(progress, 1.0))) / 2;
  }
};

/// Warm-up steps as transformers counts them: `steps` when given, else that share of all, rounded up.
inline index_t warmup_steps(index_t steps, double ratio, index_t total_steps) {
  if (steps > 0) return steps;
  return static_cast<index_t>(std::ceil(static_cast<double>(total_steps) * ratio));
}

}  // namespace srformer
