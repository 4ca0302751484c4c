// SPDX-License-Identifier: Apache-2.0
// A BART whose parameters, activations and gradients are stored as half or bfloat16 against the same
// numbers in double.
#include "models/narrow_model.hpp"
#include "models/tiny_bart.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

template <class T>
using NarrowBart = Bart<EigenBackend, T>;
using WideBart = Bart<EigenBackend, double>;

/// Norms behind every sublayer keep roundings as large as those before.
constexpr double room_of_bart = 2;

/// Every variant, with weights of a size that does not make roundings much larger.
std::vector<Named<BartConfig>> moderate_configs() {
  auto list = bart_variant_configs();
  for (auto& c : list) c.config.init_std = 0.15;
  return list;
}

}  // namespace

TEMPLATE_TEST_CASE("logits, loss and gradients of a BART in narrow scalars", "", Eigen::half,
                   Eigen::bfloat16) {
  for (const auto& [name, config] : moderate_configs()) {
    CAPTURE(name);
    const bool kinks = cross_of(config).has_recurrent_parameters() && cross_of(config).recurrence;
    const index_t compared = check_narrow_training<NarrowBart<TestType>, WideBart>(
        config, random_batch(config, {13, 6}, {5, 7}, 11, 0, 9), kinks, room_of_bart);
    CHECK((kinks || compared > 60));
  }
}

TEMPLATE_TEST_CASE("decoding of a BART in narrow scalars", "", Eigen::half, Eigen::bfloat16) {
  for (const auto& [name, config] : moderate_configs()) {
    CAPTURE(name);
    check_narrow_decoding<NarrowBart<TestType>, WideBart>(
        config, random_batch(config, {13, 6}, {5, 7}, 11), 6, room_of_bart);
  }
}
