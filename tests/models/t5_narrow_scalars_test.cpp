// SPDX-License-Identifier: Apache-2.0
// A T5 whose parameters, activations and gradients are stored as half or bfloat16 against the same
// numbers in double.
#include "models/narrow_model.hpp"
#include "models/tiny_t5.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

template <class T>
using NarrowT5 = T5<EigenBackend, T>;
using WideT5 = T5<EigenBackend, double>;

/// Smooth but for the recurrence: an activation with a kink would let single elements differ.
T5Config smooth(T5Config config) {
  config.gated = true;
  config.activation = Activation::gelu_new;
  return config;
}

}  // namespace

TEMPLATE_TEST_CASE("logits, loss and gradients of a T5 in narrow scalars", "", Eigen::half,
                   Eigen::bfloat16) {
  for (const auto& [name, config] : variant_configs()) {
    CAPTURE(name);
    const bool kinks = cross_of(config).has_recurrent_parameters() && cross_of(config).recurrence;
    const index_t compared = check_narrow_training<NarrowT5<TestType>, WideT5>(
        smooth(config), random_batch(config, {13, 6}, {5, 7}, 11), kinks);
    CHECK((kinks || compared > 30));
  }
}

TEMPLATE_TEST_CASE("decoding in narrow scalars", "", Eigen::half, Eigen::bfloat16) {
  for (const auto& [name, config] : variant_configs()) {
    CAPTURE(name);
    check_narrow_decoding<NarrowT5<TestType>, WideT5>(smooth(config),
                                                      random_batch(config, {13, 6}, {5, 7}, 11), 6);
  }
}

TEMPLATE_TEST_CASE("the gradient of a token seen a thousand times keeps its digits", "",
                   Eigen::half, Eigen::bfloat16) {
  T5Config config = smooth(tiny_config());
  config.num_layers = config.num_decoder_layers = 1;
  NarrowAndWide<NarrowT5<TestType>, WideT5> m(config);
  Batch batch = random_batch(config, {600, 600}, {5, 7}, 11);
  std::ranges::fill(batch.source_ids, 7);
  train_loss_of(m.narrow, batch, {});
  train_loss_of(m.wide, batch, {});
  const auto got = widened(to_host(m.be, m.narrow.parameters().gradients()));
  const auto expected = to_host(m.be, m.wide.parameters().gradients());
  const auto& table = m.wide.parameters().at("shared.weight");
  const auto row = [&](const std::vector<double>& x) {
    const auto at = x.begin() + table.offset + 7 * config.d_model;
    return std::vector<double>(at, at + config.d_model);
  };
  CHECK(distance(row(got), row(expected)) < narrow_bounds<TestType>.parameter);
}
