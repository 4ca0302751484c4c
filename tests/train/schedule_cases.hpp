// SPDX-License-Identifier: Apache-2.0
// The arguments of schedules in data/optimizers.
#pragma once

#include <algorithm>
#include <string>

#include <nlohmann/json.hpp>
#include <srformer/train/schedule.hpp>

namespace tests {

inline srformer::ScheduleArguments schedule_arguments(srformer::ScheduleType type,
                                                      const nlohmann::json& json) {
  using namespace srformer;
  ScheduleArguments arguments;
  std::size_t taken = 0;
  visit_arguments(type, arguments, [&]<class V>(const char* name, std::optional<V>& argument) {
    if (!json.contains(name)) return;
    ++taken;
    if constexpr (std::is_same_v<V, RampShape>) {
      const auto* found = std::ranges::find(ramp_shape_names, json.at(name).get<std::string>());
      argument = static_cast<RampShape>(found - ramp_shape_names.begin());
    } else {
      argument = json.at(name).get<V>();
    }
  });
  REQUIRE(taken == json.size());
  return arguments;
}

}  // namespace tests
