// SPDX-License-Identifier: Apache-2.0
// Every optimizer against those of torch and transformers: data/optimizers/updates.json, parameters of several shapes after
// five updates, on every backend of the host.
#include <srformer/train/optimizers.hpp>

#include "support/backends.hpp"
#include "support/catch.hpp"

#include "optimizer_cases.hpp"

using namespace srformer;

namespace {

Role role_of(const std::string& name) {
  if (name == "bias") return Role::bias;
  if (name == "embedding") return Role::embedding;
  if (name == "scalar") return Role::scalar;
  REQUIRE(name == "weight");
  return Role::weight;
}

/// The values after the updates of one case of updates.json.
template <class T, class B>
std::vector<T> values_after(B& be, const nlohmann::json& shapes, const nlohmann::json& c) {
  Parameters<B, T> parameters(be);
  for (const auto& p : shapes)
    parameters.add(p.at("name"), role_of(p.at("role")), p.at("shape").get<std::vector<index_t>>());
  parameters.allocate();
  parameters.allocate_gradients();
  const auto& unused = parameters.at("unused");
  const auto put = [&](T* to, auto value) {
    std::vector<T> host;
    for (index_t i = 0; i < parameters.size(); ++i) host.push_back(T(value(i)));
    be.from_host(to, host.data(), parameters.size());
  };
  put(parameters.values().data, [](index_t i) { return std::cos(0.9 * static_cast<double>(i)); });
  ChosenOptimizer<B, T> optimizer(
      be, parameters,
      tests::optimizer_options(c.at("options"), c.at("weight_decay"), c.at("max_grad_norm")));
  CHECK(optimizer.name() == c.at("options").at("name").template get<std::string>());
  for (index_t update = 1; update <= c.at("updates").template get<index_t>(); ++update) {
    // The formula goes by the place in the parameter, i % 5 and the place among all.
    put(parameters.gradients().data, [&](index_t i) {
      if (i >= unused.offset && i < unused.offset + unused.count) return 0.0;
      index_t within = i;
      for (const auto& p : parameters)
        if (i >= p.offset && i < p.offset + p.count) within = i - p.offset;
      return std::sin(1.7 * static_cast<double>(i) + static_cast<double>(update)) *
             static_cast<double>(1 + within % 5) / static_cast<double>(update);
    });
    optimizer.update(be, parameters, c.at("learning_rate"), update);
  }
  return to_host(be, parameters.values());
}

template <class B>
void check_updates() {
  const nlohmann::json data = tests::optimizer_data("updates.json");
  B be;
  const auto check = [&]<class T>(T, const nlohmann::json& c, double tolerance) {
    const auto expected = c.at("values").get<std::vector<double>>();
    const auto got = values_after<T>(be, data.at("parameters"), c);
    REQUIRE(got.size() == expected.size());
    double worst = 0;
    for (std::size_t i = 0; i < got.size(); ++i)
      worst = std::max(worst, std::abs(static_cast<double>(got[i]) - expected[i]));
    CAPTURE(c.at("case").get<std::string>(), c.at("weight_decay").get<double>());
    CHECK(worst < tolerance);
  };
  CHECK(data.at("cases").size() == 18);
  for (const auto& c : data.at("cases")) {
    check(double{}, c, 1e-13);
    check(float{}, c, 2e-6);
  }
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("Every optimizer makes the updates of torch and transformers", "",
                        tests::HostBackends) {
  check_updates<TestType>();
}

TEST_CASE("The rate of an optimizer is the schedule's unless it has its own") {
  EigenBackend be(1);
  Parameters<EigenBackend, float> p(be);
  p.add("a", Role::weight, {3, 2});
  p.allocate();
  const auto rate = [&](const OptimizerOptions& options, index_t number) {
    return ChosenOptimizer<EigenBackend, float>(be, p, options).rate(0.5, number);
  };
  CHECK(rate(AdamWOptions{}, 3) == 0.5);
  CHECK(rate(SgdOptions{}, 3) == 0.5);
  CHECK(rate(AdafactorOptions{}, 3) == 0.5);
  CHECK(rate(AdafactorOptions{.relative_step = true}, 3) == 0.01);
  CHECK(rate(AdafactorOptions{.relative_step = true}, 40'000) == 0.005);
  CHECK(rate(AdafactorOptions{.relative_step = true, .warmup_init = true}, 3) == Approx(3e-6));
}

TEST_CASE("A gradient that is not finite changes neither parameters nor state") {
  const double bad =
      GENERATE(std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity());
  const auto options = GENERATE(OptimizerOptions(AdamWOptions{}), AdafactorOptions{.beta1 = 0.9},
                                AdafactorOptions{.scale_parameter = true},
                                SgdOptions{.momentum = 0.9}, SgdOptions{});
  EigenBackend be(1);
  Parameters<EigenBackend, double> p(be);
  p.add("matrix", Role::weight, {3, 2});
  p.add("vector", Role::bias, {3});
  p.allocate();
  p.allocate_gradients();
  be.fill(p.values().data, p.size(), 1.0);
  be.fill(p.gradients().data, p.size(), 0.5);
  ChosenOptimizer<EigenBackend, double> optimizer(be, p, options);
  optimizer.update(be, p, 0.1, 1);
  const auto all = [&] {
    auto numbers = to_host(be, p.values());
    optimizer.visit_state(p, [&](const std::string&, const auto&, const double* x, index_t n) {
      numbers.insert(numbers.end(), x, x + n);
    });
    return numbers;
  };
  const auto before = all();
  p.gradients()(7) = bad;
  optimizer.update(be, p, 0.1, 2);
  CHECK_FALSE(std::isfinite(optimizer.gradient_norm(be)));
  CHECK(all() == before);
  p.gradients()(7) = 0.25;
  optimizer.update(be, p, 0.1, 2);
  CHECK(all() != before);
}

TEST_CASE("Optimizers refuse options that make no sense and parameters of another size") {
  EigenBackend be(1);
  Parameters<EigenBackend, float> p(be);
  p.add("a", Role::weight, {3});
  p.allocate();
  p.allocate_gradients();
  const auto refused = [&](const OptimizerOptions& options, const char* why) {
    using Made = ChosenOptimizer<EigenBackend, float>;
    CHECK_THROWS_MATCHES(Made(be, p, options), shape_error,
                         Catch::Matchers::MessageMatches(Catch::Matchers::ContainsSubstring(why)));
  };
  refused(AdafactorOptions{.epsilon1 = 0}, "epsilon1");
  refused(AdafactorOptions{.clip_threshold = 0}, "clip_threshold");
  refused(AdafactorOptions{.decay_rate = 0.1}, "decay_rate");
  refused(AdafactorOptions{.beta1 = 1}, "beta1");
  refused(AdafactorOptions{.warmup_init = true}, "warmup_init needs relative_step");
  refused(AdafactorOptions{.weight_decay = -1}, "weight_decay");
  refused(AdafactorOptions{.max_grad_norm = -1}, "max_grad_norm");
  refused(SgdOptions{.momentum = -0.1}, "momentum");
  refused(SgdOptions{.nesterov = true}, "nesterov needs");
  refused(SgdOptions{.momentum = 0.9, .dampening = 0.1, .nesterov = true}, "nesterov needs");
  refused(SgdOptions{.dampening = 0.1}, "dampening needs");
  refused(SgdOptions{.weight_decay = -1}, "weight_decay");
  refused(SgdOptions{.max_grad_norm = -1}, "max_grad_norm");
  Parameters<EigenBackend, float> other(be);
  other.add("a", Role::weight, {4});
  other.allocate();
  for (const OptimizerOptions& options :
       {OptimizerOptions(AdamWOptions{}), OptimizerOptions(AdafactorOptions{}),
        OptimizerOptions(SgdOptions{})}) {
    ChosenOptimizer<EigenBackend, float> optimizer(be, p, options);
    CHECK_THROWS_AS(optimizer.update(be, p, 0.1, 0), shape_error);
    CHECK_THROWS_AS(optimizer.update(be, other, 0.1, 1), shape_error);
  }
}
