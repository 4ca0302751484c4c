// SPDX-License-Identifier: Apache-2.0
#include "reference/comparison.hpp"

#include <functional>
#include <limits>
#include <map>

#include "io/temporary_folder.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::reference;
using Catch::Matchers::ContainsSubstring;

namespace {

/// A small file of results and inputs that a test changes before it is written.
struct Contents {
  std::map<std::string, std::vector<double>> values{
      {"q", {1, 2}},           {"grad_out", {1, 1}},        {"out", {1, -4, 2}},
      {"loss", {3}},           {"grad_q", {0.5, 0.25}},     {"grad/a", {10, -2}},
      {"grad/b", {1e-4, 0}},   {"grad/unused", {1e-13, 0}}, {"step/a", {1, 2}},
      {"step/unused", {5, 5}}, {"losses", {3, 2}}};
  std::map<std::string, std::vector<std::vector<std::int64_t>>> ids{
      {"generate/greedy", {{0, 7, 1, 0}, {0, 8, 9, 1}}}, {"generate/beam", {{0, 5, 1}}}};

  std::filesystem::path write(const std::filesystem::path& path, DType dtype = DType::f64) const {
    SafetensorsWriter writer;
    for (const auto& [name, x] : values) {
      writer.add<double>(name, dtype, {static_cast<index_t>(x.size())}, x);
    }
    std::vector<std::vector<std::int64_t>> flat;
    for (const auto& [name, rows] : ids) {
      auto& all = flat.emplace_back();
      for (const auto& row : rows) all.insert(all.end(), row.begin(), row.end());
      const auto width = static_cast<index_t>(rows.empty() ? 0 : rows.front().size());
      writer.add_ids(name, {static_cast<index_t>(rows.size()), width}, all);
    }
    writer.set_metadata("variant", "full");
    writer.write(path);
    return path;
  }
};

Comparison compare_contents(const Contents& expected, const Contents& got, const Rules& rules = {},
                            DType dtype = DType::f64) {
  const TemporaryFolder folder;
  return compare(SafetensorsFile(expected.write(folder.path / "expected")),
                 SafetensorsFile(got.write(folder.path / "got", dtype)), rules);
}

/// What is missed in a copy of Contents that `change` has changed.
std::string missed(const std::function<void(Contents&)>& change, const Rules& rules = {}) {
  Contents got;
  change(got);
  const Comparison found = compare_contents({}, got, rules);
  CHECK(found.ok() == found.misses.empty());
  std::string all;
  for (const auto& miss : found.misses) all += miss + "; ";
  return all;
}

}  // namespace

TEST_CASE("equal files agree, inputs are not compared") {
  Contents got;
  got.values["q"] = {7, 7, 7};
  got.values.erase("grad_out");
  const Comparison found = compare_contents({}, got);
  CHECK(found.ok());
  CHECK(found.compared == 11);  // out, loss, losses, grad_q, 3 grad/, 2 step/, 2 generate/
  CHECK(found.skipped == 1);
  CHECK(found.worst == 0);
}

TEST_CASE("a result within the tolerance of its largest value passes, one beyond does not") {
  CHECK(missed([](Contents& c) { c.values["out"][2] += 0.99e-9 * 4; }).empty());
  CHECK_THAT(missed([](Contents& c) { c.values["out"][2] += 1.01e-9 * 4; }),
             ContainsSubstring("out off by 1.01e-09"));
  CHECK_THAT(missed([](Contents& c) { c.values["loss"][0] -= 1e-8; }),
             ContainsSubstring("loss off by"));
  CHECK_THAT(missed([](Contents& c) { c.values["grad_q"][1] += 1e-9; }),
             ContainsSubstring("grad_q off by"));
}

TEST_CASE("a gradient of a parameter is measured against a hundredth of the largest") {
  CHECK(missed([](Contents& c) { c.values["grad/b"][0] += 0.99e-10; }).empty());
  CHECK_THAT(missed([](Contents& c) { c.values["grad/b"][0] += 1.01e-10; }),
             ContainsSubstring("grad/b off by"));
}

TEST_CASE("a parameter after the steps is allowed more, and nothing where its gradient is zero") {
  CHECK(missed([](Contents& c) { c.values["step/a"][0] += 0.99e-8 * 2; }).empty());
  CHECK_THAT(missed([](Contents& c) { c.values["step/a"][0] += 1.01e-8 * 2; }),
             ContainsSubstring("step/a off by"));
  CHECK(missed([](Contents& c) { c.values["step/unused"] = {9, 9}; }).empty());
  const Rules in_float{.tolerance = 1e-4};
  CHECK(missed([](Contents& c) { c.values["step/a"][0] += 0.99e-2 * 2; }, in_float).empty());
  CHECK_THAT(missed([](Contents& c) { c.values["step/a"][0] += 1.01e-2 * 2; }, in_float),
             ContainsSubstring("step/a off by"));
  const Rules other_seed{.tolerance = 1e-4, .step_tolerance = 4e-2};
  CHECK(missed([](Contents& c) { c.values["step/a"][0] += 3.9e-2 * 2; }, other_seed).empty());
  CHECK_THAT(missed([](Contents& c) { c.values["step/a"][0] += 4.1e-2 * 2; }, other_seed),
             ContainsSubstring("step/a off by"));
  CHECK(missed([](Contents& c) { c.values["losses"][1] += 3.9e-3 * 3; }, other_seed).empty());
  CHECK_THAT(missed([](Contents& c) { c.values["losses"][1] += 4.1e-3 * 3; }, other_seed),
             ContainsSubstring("losses off by"));
  CHECK_THAT(missed([](Contents& c) { c.values["losses"][1] += 1.1e-4 * 3; }, in_float),
             ContainsSubstring("losses off by"));
  CHECK_THAT(missed([](Contents& c) { c.values["loss"][0] += 1.1e-4 * 3; }, other_seed),
             ContainsSubstring("loss off by"));
}

TEST_CASE("what is missing, empty, of another size or not finite is refused") {
  for (const char* name : {"out", "loss", "grad_q", "grad/b", "step/a", "step/unused"}) {
    CAPTURE(name);
    CHECK_THAT(missed([&](Contents& c) { c.values.erase(name); }),
               ContainsSubstring(std::string(name) + " missing"));
  }
  CHECK_THAT(missed([](Contents& c) { c.ids.erase("generate/beam"); }),
             ContainsSubstring("generate/beam missing"));
  CHECK_THAT(missed([](Contents& c) { c.values["out"] = {}; }),
             ContainsSubstring("out is [0], expected [3]"));
  CHECK_THAT(missed([](Contents& c) { c.values["out"].push_back(0); }),
             ContainsSubstring("out is [4], expected [3]"));
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    for (const std::size_t place : {0u, 2u}) {
      CHECK_THAT(missed([&](Contents& c) { c.values["out"][place] = bad; }),
                 ContainsSubstring("out not finite"));
    }
  }
  Contents empty;
  empty.values["out"] = {};
  CHECK_FALSE(compare_contents(empty, empty).ok());
  Contents infinite;
  infinite.values["out"][0] = std::numeric_limits<double>::infinity();
  CHECK_FALSE(compare_contents(infinite, infinite).ok());
  Contents undefined;
  undefined.values["grad/a"][0] = std::nan("");
  CHECK_FALSE(compare_contents(undefined, undefined).ok());
}

TEST_CASE("files without results are refused") {
  Contents inputs;
  inputs.values = {{"q", {1}}, {"grad_out", {1}}};
  inputs.ids.clear();
  const Comparison found = compare_contents(inputs, inputs);
  CHECK_FALSE(found.ok());
  CHECK_THAT(found.text(), ContainsSubstring("nothing to compare"));
  CHECK_FALSE(compare_contents(inputs, {}).ok());
}

TEST_CASE("token ids must be equal but for padding at the end") {
  const auto with = [](std::vector<std::vector<std::int64_t>> ids) {
    return missed([&](Contents& c) { c.ids["generate/greedy"] = std::move(ids); });
  };
  CHECK(with({{0, 7, 1, 0, 0}, {0, 8, 9, 1, 0}}).empty());
  CHECK(with({{0, 7, 1, 0, 1}, {0, 8, 9, 1, 1}}).empty());
  CHECK_FALSE(with({{0, 7, 1, 0, 5}, {0, 8, 9, 1, 5}}).empty());
  CHECK_FALSE(with({{0, 7, 1, 0, 0}, {0, 8, 9, 1, 1}}).empty());  // two kinds of padding
  CHECK_FALSE(with({{0, 7, 1}, {0, 8, 9}}).empty());              // the end token is lost
  CHECK_FALSE(with({{0, 6, 1, 0}, {0, 8, 9, 1}}).empty());
  CHECK_FALSE(with({{0, 7, 1, 0}}).empty());
  CHECK_FALSE(with({{0, 7, 1, 0}, {0, 8, 9, 1}, {0, 8, 9, 1}}).empty());
  CHECK_FALSE(with({{}, {}}).empty());
  Contents floating;
  floating.ids.erase("generate/greedy");
  floating.values["generate/greedy"] = {0, 7, 1, 0, 0, 8, 9, 1};
  CHECK_FALSE(compare_contents({}, floating).ok());
}

TEST_CASE("generate calls may be chosen, but must be there") {
  const Rules greedy{.generate = std::vector<std::string>{"greedy"}};
  const auto spoil = [](Contents& c) { c.ids["generate/beam"] = {{0, 6, 1}}; };
  CHECK(missed(spoil, greedy).empty());
  CHECK_FALSE(missed(spoil).empty());
  CHECK_THAT(missed([](Contents&) {}, {.generate = std::vector<std::string>{"greedy", "bean"}}),
             ContainsSubstring("generate/bean is not in the reference"));
}

TEST_CASE("parameters after the steps may be left out, and nothing else with them") {
  const Rules without{.steps = false};
  CHECK(missed([](Contents& c) { c.values["step/a"][0] += 1; }, without).empty());
  CHECK_FALSE(missed([](Contents& c) { c.values["loss"][0] += 1; }, without).empty());
  CHECK_FALSE(missed([](Contents& c) { c.values["grad/a"][0] += 1; }, without).empty());
}

TEST_CASE("results in float are compared as they are") {
  const Comparison found = compare_contents({}, {}, {.tolerance = 1e-4}, DType::f32);
  CHECK(found.ok());
  Contents third;
  third.values["out"] = {1.0 / 3, -4, 2};
  CHECK(compare_contents(third, third, {.tolerance = 1e-4}, DType::f32).ok());
  CHECK_FALSE(compare_contents(third, third, {.tolerance = 1e-10}, DType::f32).ok());
}

TEST_CASE("a stripped file holds the inputs alone, as they were") {
  const TemporaryFolder folder;
  Contents contents;
  contents.ids["input_ids"] = {{3, 4, 1}};
  contents.values["kept"] = {1.0 / 3};
  strip(contents.write(folder.path / "full"), folder.path / "inputs");
  const SafetensorsFile inputs(folder.path / "inputs");
  CHECK(inputs.names() == std::vector<std::string>{"grad_out", "input_ids", "kept", "q"});
  CHECK(inputs.read<double>("kept") == std::vector<double>{1.0 / 3});
  CHECK(inputs.read_ids("input_ids") == std::vector<std::int64_t>{3, 4, 1});
  CHECK(inputs.info("input_ids").shape == std::vector<index_t>{1, 3});
  CHECK(inputs.metadata().at("variant") == "full");
}
