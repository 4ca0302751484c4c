// SPDX-License-Identifier: Apache-2.0
// A T5 whose parameters, activations and gradients are stored as half or bfloat16 against the same
// numbers in double.
#include "models/tiny_t5.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

/// Bounds on relative errors: of logits, of the loss, of the whole gradient, with cells that fire in one
/// type and not in the other, and of a single parameter's gradient.
struct Bounds {
  double logits, loss, gradient, with_kinks, parameter;
};
template <class T>
constexpr Bounds bounds{4e-3, 5e-4, 5e-3, 1e-2, 2e-2};
template <>
constexpr Bounds bounds<Eigen::bfloat16>{3e-2, 4e-3, 3e-2, 1e-1, 6e-2};

/// Smooth but for the recurrence: an activation with a kink would let single elements differ.
T5Config smooth(T5Config config) {
  config.gated = true;
  config.activation = Activation::gelu_new;
  return config;
}

template <class T>
std::vector<double> widened(const std::vector<T>& values) {
  std::vector<double> wide;
  for (const T& x : values) wide.push_back(static_cast<double>(compute_t<T>(x)));
  return wide;
}

/// |a - b| / |b| in the Euclidean norm; infinity where there is nothing to compare.
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size() || a.empty()) return HUGE_VAL;
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]), norm += b[i] * b[i];
  }
  return norm > 0 && std::isfinite(difference) ? std::sqrt(difference / norm) : HUGE_VAL;
}

template <class T>
struct Models {
  EigenBackend be{1};
  T5<EigenBackend, T> narrow;
  T5<EigenBackend, double> wide;

  explicit Models(const T5Config& config) : narrow(be, config), wide(be, config) {
    randomize(narrow, 5);
    const auto values = widened(to_host(be, narrow.parameters().values()));
    be.from_host(wide.parameters().values().data, values.data(),
                 static_cast<index_t>(values.size()));
  }
};

}  // namespace

TEMPLATE_TEST_CASE("logits, loss and gradients of a T5 in narrow scalars", "", Eigen::half,
                   Eigen::bfloat16) {
  for (const auto& [name, config] : variant_configs()) {
    CAPTURE(name);
    const bool kinks =
        config.cross_attention.has_recurrent_parameters() && config.cross_attention.recurrence;
    Models<TestType> m(smooth(config));
    const Batch batch = random_batch(config, {13, 6}, {5, 7}, 11);
    CHECK(relative_difference(logits_of(m.wide, batch), widened(logits_of(m.narrow, batch))) <
          bounds<TestType>.logits);
    const LossOptions options{.label_smoothing = 0.1};
    const double expected = train_loss_of(m.wide, batch, options);
    CHECK(std::abs(train_loss_of(m.narrow, batch, options) - expected) <
          bounds<TestType>.loss * std::abs(expected));
    const auto got = widened(to_host(m.be, m.narrow.parameters().gradients()));
    CHECK(distance(got, to_host(m.be, m.wide.parameters().gradients())) <
          (kinks ? bounds<TestType>.with_kinks : bounds<TestType>.gradient));
    index_t compared = 0;
    for (auto& p : m.wide.parameters()) {
      if (kinks) break;
      const std::vector<double> g(p.gradient, p.gradient + p.count);
      if (std::ranges::all_of(g, [](double x) { return x == 0; })) continue;
      INFO(p.name);
      CHECK(distance({got.begin() + p.offset, got.begin() + p.offset + p.count}, g) <
            bounds<TestType>.parameter);
      ++compared;
    }
    CHECK((kinks || compared > 30));
  }
}

TEMPLATE_TEST_CASE("decoding in narrow scalars", "", Eigen::half, Eigen::bfloat16) {
  for (const auto& [name, config] : variant_configs()) {
    CAPTURE(name);
    Models<TestType> m(smooth(config));
    const Batch batch = random_batch(config, {13, 6}, {5, 7}, 11);
    auto narrow = m.narrow.start_decoding(batch.source_ids, batch.source_lengths, 6);
    auto wide = m.wide.start_decoding(batch.source_ids, batch.source_lengths, 6);
    for (index_t t = 0; t < 6; ++t) {
      const std::vector<std::int32_t> ids{std::int32_t(2 + t), std::int32_t(9 - t)};
      const auto got = widened(to_host(m.be, m.narrow.decode_step(narrow, ids)));
      CHECK(relative_difference(to_host(m.be, m.wide.decode_step(wide, ids)), got) <
            bounds<TestType>.logits);
    }
  }
}

TEMPLATE_TEST_CASE("the gradient of a token seen a thousand times keeps its digits", "",
                   Eigen::half, Eigen::bfloat16) {
  T5Config config = smooth(tiny_config());
  config.num_layers = config.num_decoder_layers = 1;
  Models<TestType> m(config);
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
  CHECK(distance(row(got), row(expected)) < bounds<TestType>.parameter);
}
