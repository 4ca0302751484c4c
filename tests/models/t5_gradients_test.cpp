// SPDX-License-Identifier: Apache-2.0
// Gradients of a whole T5 against dual numbers: the loss of a model whose parameters are value plus
// slope e has the derivative along e, in every parameter by itself.
#include <srformer/core/dual.hpp>

#include "models/tiny_t5.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

using Number = Dual<double>;

struct Found {
  double worst = 0;  ///< error over the sum of the magnitudes of what is added
  std::string worst_name;
  std::vector<std::string> zero;  ///< parameters without gradient
  index_t compared = 0;
};

/// Compares the gradient along one random direction in each parameter.
Found check_gradients(const T5Config& config, const Batch& batch, const LossOptions& options) {
  EigenBackend be(1);
  T5<EigenBackend, double> model(be, config);
  randomize(model, 5);
  const double loss = train_loss_of(model, batch, options);
  REQUIRE(std::isfinite(loss));

  T5<EigenBackend, Number> dual(be, config);
  const index_t size = model.parameters().size();
  for (index_t i = 0; i < size; ++i) {
    dual.parameters().values().data[i] = Number(model.parameters().values().data[i], 0.0);
  }
  Found found;
  std::uint64_t use = 0;
  for (auto& p : model.parameters()) {
    const RandomStream random = RandomStream{3, 41}.substream(use++);
    Number* at = dual.parameters().values().data + p.offset;
    double by_hand = 0, magnitude = 0;
    for (index_t i = 0; i < p.count; ++i) {
      at[i].slope = normal(random, static_cast<std::uint64_t>(i));
      by_hand += options.scale == 0 ? 0 : p.gradient[i] / options.scale * at[i].slope;
      magnitude += std::abs(p.gradient[i] / options.scale * at[i].slope);
    }
    const Number sum = train_loss_of(dual, batch, options);
    for (index_t i = 0; i < p.count; ++i) at[i].slope = 0;
    REQUIRE(std::abs(sum.value - loss) <= 1e-12 * std::abs(loss));
    if (magnitude == 0 && sum.slope == 0) {
      found.zero.push_back(p.name);
      continue;
    }
    const double error = std::abs(sum.slope - by_hand) / std::max(magnitude, std::abs(sum.slope));
    if (!(error <= found.worst)) found.worst = error, found.worst_name = p.name;
    ++found.compared;
  }
  return found;
}

const std::vector<std::string> none;

}  // namespace

TEST_CASE("gradients of a whole T5 agree with dual numbers in every variant") {
  for (const auto& [name, config] : variant_configs()) {
    CAPTURE(name);
    const Batch batch = random_batch(config, {13, 6}, {5, 7}, 11);
    const Found found = check_gradients(config, batch, {.label_smoothing = 0.1, .scale = 0.25});
    CAPTURE(found.worst_name);
    CHECK(found.worst < 1e-10);
    CHECK(found.compared > 30);
    if (config.cross_attention.recurrence) {
      CHECK(found.zero == none);
    } else {
      for (const std::string& unused : found.zero) {
        CHECK((unused.ends_with(".leak") || unused.ends_with(".threshold") ||
               unused.ends_with(".SNN_kv.weight")));
      }
    }
  }
}

TEST_CASE("gradients agree with dropout, in its place in forward and backward") {
  for (const Variant variant : {Variant::full, Variant::segmented, Variant::segmented_recurrent}) {
    CAPTURE(variant_name(variant));
    for (const bool gated : {false, true}) {
      T5Config config = tiny_config(cross_options(variant));
      config.gated = gated;
      config.activation = gated ? Activation::gelu_new : Activation::relu;
      const Batch batch = random_batch(config, {9, 14}, {6, 6}, 12);
      const Found found =
          check_gradients(config, batch, {.dropout_rate = 0.3, .random = RandomStream{8, 2}});
      CAPTURE(gated, found.worst_name);
      CHECK(found.worst < 1e-10);
      CHECK(found.zero == none);
    }
  }
}

TEST_CASE("gradients agree for every feed-forward, tied and untied, scaled and not") {
  const CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent);
  for (const bool gated : {false, true}) {
    for (const Activation activation : {Activation::relu, Activation::gelu, Activation::gelu_new}) {
      T5Config config = tiny_config(cross);
      config.gated = gated, config.activation = activation;
      config.tie_word_embeddings = activation == Activation::gelu;
      config.scale_decoder_outputs = activation == Activation::gelu && gated;
      const Batch batch = random_batch(config, {5, 11}, {4, 2}, 13);
      const Found found = check_gradients(config, batch, {.label_smoothing = 0.2});
      CAPTURE(gated, static_cast<int>(activation), found.worst_name);
      CHECK(found.worst < 1e-10);
      CHECK(found.zero == none);
    }
  }
}

TEST_CASE("gradients agree for one token, one segment and a horizon of its own") {
  CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent, 4);
  const auto check = [&](const std::vector<index_t>& sources, const std::vector<index_t>& targets) {
    const T5Config config = tiny_config(cross);
    const Found found = check_gradients(config, random_batch(config, sources, targets, 14), {});
    CAPTURE(found.worst_name);
    CHECK(found.worst < 1e-10);
    CHECK(found.compared > 30);
  };
  check({1}, {1});
  check({4, 2}, {3, 3});
  cross.horizon = 3;
  check({17, 9}, {5, 1});
  cross.horizon = 50;
  check({17, 9}, {5, 1});
  cross.segment_size = 100;
  check({7, 3}, {4, 4});
}

TEST_CASE("gradients and losses are added, and scale is that of gradients alone") {
  EigenBackend be(1);
  const T5Config config = tiny_config(cross_options(Variant::segmented_recurrent));
  T5<EigenBackend, double> model(be, config);
  randomize(model, 5);
  const Batch batch = random_batch(config, {13, 6}, {5, 7}, 11);
  const double loss = train_loss_of(model, batch, {});
  const auto once = to_host(be, model.parameters().gradients());
  auto sum = from_host<double, 1>(be, {1}, std::vector<double>{2.5});
  model.add_gradients(batch, {.scale = 0.5}, sum.view());
  CHECK(to_host(be, sum)[0] == Approx(2.5 + loss).epsilon(1e-14));
  auto expected = once;
  for (double& g : expected) g *= 1.5;
  CHECK(relative_difference(expected, to_host(be, model.parameters().gradients())) < 1e-13);
  model.parameters().zero_gradients();
  train_loss_of(model, batch, {});
  CHECK(relative_difference(once, to_host(be, model.parameters().gradients())) < 1e-13);
}
