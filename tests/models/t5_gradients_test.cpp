// SPDX-License-Identifier: Apache-2.0
// Gradients of a whole T5 against dual numbers.
#include "models/model_gradients.hpp"
#include "models/tiny_t5.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

using Found = GradientsFound;

Found check_gradients(const T5Config& config, const Batch& batch, const LossOptions& options) {
  using DualModel = T5<EigenBackend, DualNumber>;
  return testing::check_gradients<T5<EigenBackend, double>, DualModel>(config, batch, options);
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
    if (cross_of(config).recurrence) {
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
      const Found found = check_gradients(
          config, batch, {.dropout = {0.3, 0.3, 0.3}, .random = RandomStream{8, 2}});
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
