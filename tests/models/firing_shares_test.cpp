// SPDX-License-Identifier: Apache-2.0
// The share of the recurrence's states that fire, layer by layer: which models have one, and what it must be.
#include "models/tiny_bart.hpp"
#include "models/tiny_t5.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

template <class Model, class Config>
struct FiringModel : Model {
  FiringModel(EigenBackend& be, const Config& config) : Model(be, config) { randomize(*this, 7); }

  /// Sets what every layer has of that name.
  void set(const std::string& name, double value) {
    for (auto& p : this->parameters())
      if (p.name.ends_with("." + name)) this->backend().fill(p.value, p.count, value);
  }
};

/// The rows of a batch as batches of their own, padded alike.
Batch row_of(const Batch& batch, index_t row) {
  const auto part = [row](const auto& all, index_t width) {
    return std::vector(all.begin() + row * width, all.begin() + (row + 1) * width);
  };
  return {1,
          batch.source_width,
          batch.target_width,
          part(batch.source_ids, batch.source_width),
          part(batch.source_lengths, 1),
          part(batch.labels, batch.target_width)};
}

template <class Model, class Config>
void check_firing(const Named<Config>& of) {
  INFO(of.name);
  EigenBackend be(2);
  FiringModel<Model, Config> model(be, of.config);
  const Batch batch = random_batch(model.config(), {9, 14, 4}, {6, 7, 3}, 5, 2);
  const auto options = cross_attention_options<PaperVariants>(model.config().cross_attention);
  const auto* recurrent = options.template get_if<SegmentedRecurrent>();
  const auto shares = [&] { return model.firing_shares(batch); };
  if (recurrent == nullptr || !recurrent->recurrence) {
    CHECK(shares().empty());
    return;
  }
  REQUIRE(std::ssize(shares()) == 2);  // decoder layers
  model.set("threshold", 1e9);
  CHECK(shares() == std::vector<double>{0, 0});
  model.set("threshold", 1e-6), model.set("leak", 0.0);
  // A state fires about where its input is above 0: some do, and some do not.
  for (const double share : shares()) CHECK((share > 0.1 && share < 0.9));
  // Of a batch, the mean over its sources, weighted by the segments that each of them visits.
  const bool masked = recurrent->padding == Padding::masked;
  std::vector<double> fired(2, 0.0);
  double visited = 0;
  for (index_t b = 0; b < batch.rows; ++b) {
    const SegmentRule rule{masked ? batch.source_lengths[b] : batch.source_width,
                           recurrent->segment_size,
                           recurrent->horizon > 0 ? recurrent->horizon : batch.target_width};
    const bool stepwise = recurrent->advance == Advance::token;
    const auto weight = double(stepwise ? batch.target_width : rule.visited(batch.target_width));
    const auto alone = model.firing_shares(row_of(batch, b));
    for (std::size_t l = 0; l < 2; ++l) fired[l] += weight * alone[l];
    visited += weight;
  }
  for (std::size_t l = 0; l < 2; ++l) CHECK(std::abs(shares()[l] - fired[l] / visited) < 1e-12);
}

}  // namespace

TEST_CASE("shares of states that fire, of every variant of T5") {
  for (const auto& config : variant_configs()) check_firing<T5<EigenBackend, double>>(config);
}

TEST_CASE("shares of states that fire, of every variant of BART") {
  for (const auto& config : bart_variant_configs())
    check_firing<Bart<EigenBackend, double>>(config);
}
