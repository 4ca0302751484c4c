// SPDX-License-Identifier: Apache-2.0
// A generation_config.json that was made to take long.
#include <srformer/decode/generation_config.hpp>

#include "support/cost.hpp"

using namespace srformer;

TEST_CASE("generation options that are made to be costly take time and memory in proportion") {
  const auto check = [](const std::string& what, auto make) {
    tests::require_proportion(what, make, [](const std::string& text) {
      const nlohmann::json json = parse_json(text, "generation_config.json");
      check_generation(generation_config_from_json(json, "generation_config.json"), 1 << 20);
      nlohmann::json kept = json;
      drop_idle_options(kept, "generation_config.json");
    });
  };
  const auto numbers = [](std::size_t bytes, const std::string& begin, const std::string& end) {
    return tests::counted_parts(
        bytes, [](std::size_t i) { return std::to_string(i % 1000) + ","; }, begin, end);
  };
  check("forced tokens that are suppressed", [&](std::size_t n) {
    return tests::repeated(n / 2, "0,", "{\"forced_eos_token_id\":[", "1],") +
           tests::repeated(n / 2, "7777,", "\"suppress_tokens\":[", "0]}");
  });
  check("words",
        [&](std::size_t n) { return tests::repeated(n, "[1],", "{\"bad_words_ids\":[", "[2]]}"); });
  check("a word", [&](std::size_t n) { return numbers(n, "{\"bad_words_ids\":[[", "1]]}"); });
  check("ends", [&](std::size_t n) { return numbers(n, "{\"eos_token_id\":[", "1]}"); });
  check("options", [](std::size_t n) {
    return tests::counted_parts(
        n, [](std::size_t i) { return "\"" + std::to_string(i) + "\":1,"; }, "{", "\"top_k\":1}");
  });
  check("brackets", [](std::size_t n) { return tests::repeated(n, "[", "{\"top_k\":"); });
}
