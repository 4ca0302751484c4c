// SPDX-License-Identifier: Apache-2.0
#include <set>
#include <vector>

#include <srformer/train/schedule.hpp>

#include "support/catch.hpp"

#include "optimizer_cases.hpp"
#include "schedule_cases.hpp"

using namespace srformer;

TEST_CASE("Schedules are those of transformers in every step") {
  const nlohmann::json cases = tests::optimizer_data("schedules.json");
  std::set<std::string> names;
  std::size_t factors = 0;
  for (const auto& c : cases) {
    const auto name = c.at("name").get<std::string>();
    names.insert(name);
    const ScheduleType type = schedule_from_name(name);
    const Schedule schedule{type, c.at("warmup"), c.at("total"),
                            tests::schedule_arguments(type, c.at("arguments")), c.at("lr")};
    schedule.check();
    CHECK(std::string(schedule_name(type)) == name);
    for (index_t s = 0; const double expected : c.at("factors").get<std::vector<double>>()) {
      CAPTURE(c.dump(), s);
      CHECK(schedule.factor(s++) == Approx(expected).epsilon(1e-14).margin(1e-15));
      ++factors;
    }
  }
  CHECK(names.size() == schedule_names.size());
  CHECK(factors == 18 * (13 + 17 + 11 + 1 + 1 + 9));
}

TEST_CASE("Schedules without warm-up start at the full rate and never go below 0") {
  for (const auto type :
       {ScheduleType::linear, ScheduleType::cosine, ScheduleType::cosine_with_restarts}) {
    const Schedule schedule{type, 0, 4};
    CHECK(schedule.factor(0) == 1);
    CHECK(schedule.factor(4) == Approx(0).margin(1e-15));
    CHECK(schedule.factor(9) == Approx(0).margin(1e-15));
    const Schedule all_warmup{type, 4, 4};
    CHECK(all_warmup.factor(2) == 0.5);
    CHECK(all_warmup.factor(4) >= 0);
  }
}

TEST_CASE("Warm-up steps come before a ratio, which is rounded up") {
  CHECK(warmup_steps(7, 0.5, 100) == 7);
  CHECK(warmup_steps(0, 0.1, 25) == 3);
  CHECK(warmup_steps(0, 0, 25) == 0);
}

TEST_CASE("An unknown schedule is answered with those there are") {
  CHECK_THROWS_MATCHES(schedule_from_name("greedy"), shape_error,
                       Catch::Matchers::MessageMatches(Catch::Matchers::ContainsSubstring(
                           "\"greedy\" is not one of linear, cosine")));
}

TEST_CASE("Schedules refuse arguments that make no sense") {
  const auto refused = [](ScheduleType type, const ScheduleArguments& arguments, const char* why) {
    const Schedule schedule{type, 2, 10, arguments, 0.1};
    CHECK_THROWS_MATCHES(schedule.check(), shape_error,
                         Catch::Matchers::MessageMatches(Catch::Matchers::ContainsSubstring(why)));
  };
  using enum ScheduleType;
  refused(linear, {.power = 2}, "schedule linear: it was given an argument");
  refused(cosine, {.min_lr = 0.01}, "an argument that it does not take");
  refused(polynomial, {.num_cycles = 2}, "an argument that it does not take");
  refused(polynomial, {.lr_end = 0.1}, "lr_end must be below the learning rate");
  refused(polynomial, {.power = -1}, "power");
  refused(inverse_sqrt, {.timescale = 0}, "timescale");
  refused(cosine_with_min_lr, {}, "either min_lr or min_lr_rate");
  refused(cosine_with_min_lr, {.min_lr = 0.01, .min_lr_rate = 0.1}, "either min_lr or min_lr_rate");
  refused(warmup_stable_decay, {}, "num_decay_steps must be given");
  refused(warmup_stable_decay, {.num_decay_steps = -1}, "steps must not be negative");
  refused(warmup_stable_decay, {.num_decay_steps = 1, .num_stable_steps = -1},
          "steps must not be negative");
}
