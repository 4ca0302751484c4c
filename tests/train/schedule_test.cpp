// SPDX-License-Identifier: Apache-2.0
#include <srformer/train/schedule.hpp>
#include <vector>

#include "support/catch.hpp"

using namespace srformer;

// transformers 5.23, learning rate of every step:
//   s = get_scheduler(NAME, SGD([p], lr=1), num_warmup_steps=3, num_training_steps=10)
TEST_CASE("Schedules are those of transformers") {
  const double third = 1.0 / 3;
  const std::vector<std::pair<const char*, std::vector<double>>> expected{
      {"linear",
       {0, third, 2 * third, 1, 0.8571428571428571, 0.7142857142857143, 0.5714285714285714,
        0.42857142857142855, 0.2857142857142857, 0.14285714285714285, 0}},
      {"cosine",
       {0, third, 2 * third, 1, 0.95048443395120952, 0.8117449009293668, 0.61126046697815717,
        0.38873953302184283, 0.18825509907063326, 0.049515566048790483, 0}},
      {"constant", {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
      {"constant_with_warmup", {0, third, 2 * third, 1, 1, 1, 1, 1, 1, 1, 1}}};
  for (const auto& [name, factors] : expected) {
    const Schedule schedule{schedule_from_name(name), 3, 10};
    CHECK(std::string(schedule_name(schedule.type)) == name);
    for (std::size_t s = 0; s < factors.size(); ++s) {
      CAPTURE(name, s);
      CHECK(schedule.factor(static_cast<index_t>(s)) == Approx(factors[s]).margin(1e-15));
    }
  }
}

TEST_CASE("Schedules without warm-up start at the full rate and never go below 0") {
  for (const auto type : {ScheduleType::linear, ScheduleType::cosine}) {
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
  CHECK_THROWS_MATCHES(schedule_from_name("polynomial"), shape_error,
                       Catch::Matchers::MessageMatches(Catch::Matchers::ContainsSubstring(
                           "\"polynomial\" is not one of linear, cosine")));
}
