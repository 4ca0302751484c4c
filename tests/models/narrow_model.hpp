// SPDX-License-Identifier: Apache-2.0
// A model whose parameters, activations and gradients are stored as half or bfloat16 beside one of the
// same numbers in double.
#pragma once

#include <srformer/backend/eigen.hpp>

#include "models/tiny_model.hpp"
#include "support/catch.hpp"

namespace srformer::testing {

/// Bounds on relative errors: of logits, of the loss, of the whole gradient, with cells that fire in one
/// type and not in the other, and of a single parameter's gradient.
struct NarrowBounds {
  double logits, loss, gradient, with_kinks, parameter;
};
template <class T>
inline constexpr NarrowBounds narrow_bounds{4e-3, 5e-4, 5e-3, 1e-2, 2e-2};
template <>
inline constexpr NarrowBounds narrow_bounds<Eigen::bfloat16>{3e-2, 4e-3, 3e-2, 1e-1, 6e-2};

template <class T>
std::vector<double> widened(const std::vector<T>& values) {
  std::vector<double> wide;
  for (const T& x : values) wide.push_back(static_cast<double>(compute_t<T>(x)));
  return wide;
}

/// |a - b| / |b| in the Euclidean norm; infinity where there is nothing to compare.
inline double distance(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size() || a.empty()) return HUGE_VAL;
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]), norm += b[i] * b[i];
  }
  return norm > 0 && std::isfinite(difference) ? std::sqrt(difference / norm) : HUGE_VAL;
}

/// Both models, with values that the narrow one can store.
template <class Narrow, class Wide>
struct NarrowAndWide {
  EigenBackend be{1};
  Narrow narrow;
  Wide wide;

  template <class Config>
  explicit NarrowAndWide(const Config& config) : narrow(be, config), wide(be, config) {
    randomize(narrow, 5);
    const auto values = widened(to_host(be, narrow.parameters().values()));
    be.from_host(wide.parameters().values().data, values.data(),
                 static_cast<index_t>(values.size()));
  }
};

/// Logits and loss are compared, and gradients: of all parameters, and where no kink can let single
/// elements differ, of each. Returns the number of parameters that were. `room` is a factor on all bounds.
template <class Narrow, class Wide, class Config>
index_t check_narrow_training(const Config& config, const Batch& batch, bool kinks,
                              double room = 1) {
  using T = typename Narrow::scalar;
  NarrowAndWide<Narrow, Wide> m(config);
  CHECK(relative_difference(logits_of(m.wide, batch), widened(logits_of(m.narrow, batch))) <
        room * narrow_bounds<T>.logits);
  const LossOptions options{.label_smoothing = 0.1};
  const double expected = train_loss_of(m.wide, batch, options);
  CHECK(std::abs(train_loss_of(m.narrow, batch, options) - expected) <
        room * narrow_bounds<T>.loss * std::abs(expected));
  const auto got = widened(to_host(m.be, m.narrow.parameters().gradients()));
  CHECK(distance(got, to_host(m.be, m.wide.parameters().gradients())) <
        room * (kinks ? narrow_bounds<T>.with_kinks : narrow_bounds<T>.gradient));
  index_t compared = 0;
  for (auto& p : m.wide.parameters()) {
    if (kinks) break;
    const std::vector<double> g(p.gradient, p.gradient + p.count);
    if (std::ranges::all_of(g, [](double x) { return std::abs(x) < 1e-12; })) continue;
    INFO(p.name);
    CHECK(distance({got.begin() + p.offset, got.begin() + p.offset + p.count}, g) <
          room * narrow_bounds<T>.parameter);
    ++compared;
  }
  return compared;
}

/// The logits of `steps` decoder steps are compared.
template <class Narrow, class Wide, class Config>
void check_narrow_decoding(const Config& config, const Batch& batch, index_t steps,
                           double room = 1) {
  using T = typename Narrow::scalar;
  NarrowAndWide<Narrow, Wide> m(config);
  auto narrow = m.narrow.start_decoding(batch.source_ids, batch.source_lengths, steps);
  auto wide = m.wide.start_decoding(batch.source_ids, batch.source_lengths, steps);
  for (index_t t = 0; t < steps; ++t) {
    const std::vector<std::int32_t> ids{std::int32_t(3 + t), std::int32_t(9 - t)};
    const auto got = widened(to_host(m.be, m.narrow.decode_step(narrow, ids)));
    CHECK(relative_difference(to_host(m.be, m.wide.decode_step(wide, ids)), got) <
          room * narrow_bounds<T>.logits);
  }
}

}  // namespace srformer::testing
