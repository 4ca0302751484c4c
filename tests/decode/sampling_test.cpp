// SPDX-License-Identifier: Apache-2.0
// Sampling: the distribution that temperature, top_k and top_p leave, and what the draws depend on.
#include <srformer/decode/search.hpp>

#include <map>

#include "decode/formula_model.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

const std::vector<double> seven_logits{0.3, -1, 1.2, 0.9, -0.4, 2.0, 0.1};  // of seven tokens

GenerationConfig sampling(index_t top_k, double top_p, double temperature) {
  GenerationConfig c;
  c.do_sample = true, c.top_k = top_k, c.top_p = top_p, c.temperature = temperature;
  c.max_length = 2, c.eos_token_id = TokenIds{};
  return c;
}

/// The probabilities that are left, by the definitions.
std::vector<double> left_of(index_t top_k, double top_p, double temperature) {
  std::vector<std::pair<double, std::size_t>> order;
  double total = 0;
  for (std::size_t i = 0; i < seven_logits.size(); ++i)
    order.emplace_back(std::exp(seven_logits[i] / temperature), i);
  std::ranges::sort(order, std::greater{});
  if (top_k > 0) order.resize(std::min(order.size(), static_cast<std::size_t>(top_k)));
  for (const auto& [p, i] : order) total += p;
  std::vector<double> left(seven_logits.size(), 0);
  double before = 0, kept = 0;
  for (const auto& [p, i] : order) {
    if (before < top_p || before == 0) left[i] = p, kept += p;
    before += p / total;
  }
  for (double& p : left) p /= kept;
  return left;
}

}  // namespace

TEST_CASE("tokens are drawn with the probabilities that temperature, top_k and top_p leave") {
  EigenBackend be(1);
  FormulaModel<> model{be, {7}, [](std::int32_t, const TokenIds&) { return seven_logits; }};
  struct Case {
    index_t top_k;
    double top_p, temperature;
  };
  const index_t draws = 20000;
  for (const auto& [top_k, top_p, temperature] :
       {Case{0, 1, 1}, Case{50, 1, 1}, Case{3, 1, 1}, Case{0, 0.7, 1}, Case{4, 0.8, 1.7},
        Case{0, 1, 0.5}, Case{1, 1, 1}, Case{0, 0, 1}}) {
    CAPTURE(top_k, top_p, temperature);
    GenerationConfig config = sampling(top_k, top_p, temperature);
    config.num_return_sequences = draws, config.seed = 4;
    const Generation got = generate_for(model, {3}, config);
    REQUIRE(std::ssize(got.sequences) == draws);
    std::vector<double> counts(7, 0);
    const auto p = left_of(top_k, top_p, temperature);
    for (std::size_t i = 0; i < got.sequences.size(); ++i) {
      const auto token = static_cast<std::size_t>(got.sequences[i].at(1));
      ++counts[token];
      CHECK(got.token_log_probs[i].front() == Approx(std::log(p[token])).margin(1e-12));
    }
    double chi = 0;
    for (std::size_t i = 0; i < 7; ++i) {
      const double expected = p[i] * draws;
      if (expected == 0) {
        CHECK(counts[i] == 0);
      } else {
        chi += (counts[i] - expected) * (counts[i] - expected) / expected;
      }
    }
    CHECK(chi < 30);  // six degrees of freedom: once in 25000 seeds
  }
}

TEST_CASE("draws depend on the seed, the source, the sequence and the step, and on nothing else") {
  EigenBackend be(1);
  FormulaModel<> model{be, {29}, mixed_logits(29)};
  GenerationConfig config = sampling(50, 1, 1);
  config.max_length = 9, config.num_return_sequences = 3, config.eos_token_id = TokenIds{1};
  const TokenIds numbers{5, 6, 5};
  const Generation all = generate_for(model, numbers, config);
  CHECK(generate_for(model, numbers, config).sequences == all.sequences);
  const std::vector<index_t> one{1};
  for (std::size_t b = 0; b < 3; ++b) {
    const Generation alone = generate(model, std::span(numbers).subspan(b, 1), one, config, b);
    for (std::size_t i = 0; i < 3; ++i) CHECK(alone.sequences[i] == all.sequences[b * 3 + i]);
  }
  CHECK(all.sequences[0] != all.sequences[1]);  // of one source
  CHECK(all.sequences[0] != all.sequences[6]);  // of the same source at another place
  config.seed = 1;
  CHECK(generate_for(model, numbers, config).sequences != all.sequences);
}

TEST_CASE("beam sampling draws continuations without replacement") {
  EigenBackend be(1);
  FormulaModel<> model{be, {7}, [](std::int32_t, const TokenIds&) { return seven_logits; }};
  GenerationConfig config = sampling(0, 1, 1);
  config.num_beams = config.num_return_sequences = 2;
  const auto p = left_of(0, 1, 1);
  std::map<std::set<std::int32_t>, double> expected, counts;
  // of four tokens drawn the first two are the beams' that end at max_length
  for (std::size_t a = 0; a < 7; ++a) {
    for (std::size_t b = 0; b < 7; ++b) {
      if (a != b)
        expected[{static_cast<std::int32_t>(a), static_cast<std::int32_t>(b)}] +=
            p[a] * p[b] / (1 - p[a]);
    }
  }
  const int draws = 4000;
  for (int i = 0; i < draws; ++i) {
    config.seed = static_cast<std::uint64_t>(i);
    const Generation got = generate_for(model, {3}, config);
    ++counts[{got.sequences[0].at(1), got.sequences[1].at(1)}];
    CHECK(got.scores[0] >= got.scores[1]);
  }
  double chi = 0;
  for (const auto& [pair, share] : expected) {
    const double n = share * draws;
    chi += (counts[pair] - n) * (counts[pair] - n) / n;
  }
  CHECK(counts.size() > 15);
  CHECK(chi < 50);  // twenty degrees of freedom
}
