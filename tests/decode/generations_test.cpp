// SPDX-License-Identifier: Apache-2.0
// Token for token what transformers generates from the same logits: data/generations.json, written by
// make_generation_values.py, goes through all processors, ways to stop, and end tokens.
#include <srformer/decode/search.hpp>

#include "decode/formula_model.hpp"

using namespace srformer;
using namespace srformer::testing;

TEST_CASE("sequences and scores are those of transformers' generate") {
  const nlohmann::json cases = read_json_file(SRF_TESTS_DIR "/decode/data/generations.json");
  EigenBackend be(1);
  std::size_t compared = 0, with_beams = 0;
  for (const nlohmann::json& c : cases) {
    INFO(c.dump());
    const auto numbers = c.at("sources").get<TokenIds>();
    const auto rows = c.at("ids").get<std::vector<TokenIds>>();
    TokenIds ids;
    for (const TokenIds& row : rows) ids.insert(ids.end(), row.begin(), row.end());
    const std::vector<index_t> lengths(rows.size(), std::ssize(rows.front()));
    struct Numbered : FormulaModel<> {
      TokenIds numbers;
      State start_decoding(std::span<const std::int32_t> all, std::span<const index_t> each,
                           index_t steps, index_t over, index_t rows_per_source) {
        State state = FormulaModel::start_decoding(all, each, steps, over, rows_per_source);
        state.numbers = numbers;
        return state;
      }
    } model{{be, {29}, mixed_logits(29)}, numbers};
    const GenerationConfig config = generation_config_from_json(c.at("options"), "case");
    const Generation got = generate(model, ids, lengths, config);
    TokenIds expected;
    for (const nlohmann::json& row : c.at("sequences"))
      for (const nlohmann::json& id : row) expected.push_back(id.get<std::int32_t>());
    CHECK(got.padded() == expected);
    if (c.contains("scores")) {
      const auto scores = c.at("scores").get<std::vector<double>>();
      REQUIRE(scores.size() == got.scores.size());
      for (std::size_t i = 0; i < scores.size(); ++i)
        CHECK(got.scores[i] == Approx(scores[i]).epsilon(1e-5).margin(1e-5));
      ++with_beams;
    }
    ++compared;
  }
  CHECK(compared == 240);
  CHECK(with_beams > 120);
}
