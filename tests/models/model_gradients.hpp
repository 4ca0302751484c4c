// SPDX-License-Identifier: Apache-2.0
// Gradients of a whole model against dual numbers: the loss of a model whose parameters are value plus
// slope e has the derivative along e, in every parameter by itself.
#pragma once

#include <srformer/backend/eigen.hpp>
#include <srformer/core/dual.hpp>

#include "models/tiny_model.hpp"
#include "support/catch.hpp"

namespace srformer::testing {

using DualNumber = Dual<double>;

struct GradientsFound {
  double worst = 0;  ///< error over the sum of the magnitudes of what is added
  std::string worst_name;
  std::vector<std::string> zero;  ///< parameters without gradient
  index_t compared = 0;
};

/// Compares the gradient along one random direction in each parameter; that of a constant must be zero.
template <class Model, class DualModel, class Config>
GradientsFound check_gradients(const Config& config, const Batch& batch,
                               const LossOptions& options) {
  EigenBackend be(1);
  Model model(be, config);
  randomize(model, 5);
  const double loss = train_loss_of(model, batch, options);
  REQUIRE(std::isfinite(loss));

  DualModel dual(be, config);
  const index_t size = model.parameters().size();
  for (index_t i = 0; i < size; ++i) {
    dual.parameters().values().data[i] = DualNumber(model.parameters().values().data[i], 0.0);
  }
  GradientsFound found;
  std::uint64_t use = 0;
  for (auto& p : model.parameters()) {
    const RandomStream random = RandomStream{3, 41}.substream(use++);
    if (p.role == Role::constant) {
      REQUIRE(std::all_of(p.gradient, p.gradient + p.count, [](double g) { return g == 0; }));
      continue;
    }
    DualNumber* at = dual.parameters().values().data + p.offset;
    double by_hand = 0, magnitude = 0;
    for (index_t i = 0; i < p.count; ++i) {
      at[i].slope = normal(random, static_cast<std::uint64_t>(i));
      by_hand += p.gradient[i] / options.scale * at[i].slope;
      magnitude += std::abs(p.gradient[i] / options.scale * at[i].slope);
    }
    const DualNumber sum = train_loss_of(dual, batch, options);
    for (index_t i = 0; i < p.count; ++i) at[i].slope = 0;
    REQUIRE(std::abs(sum.value - loss) <= 1e-12 * std::abs(loss));
    if (magnitude < 1e-12 && std::abs(sum.slope) < 1e-12) {  // both are rounding at most
      found.zero.push_back(p.name);
      continue;
    }
    const double error = std::abs(sum.slope - by_hand) / std::max(magnitude, std::abs(sum.slope));
    if (!(error <= found.worst)) found.worst = error, found.worst_name = p.name;
    ++found.compared;
  }
  return found;
}

}  // namespace srformer::testing
