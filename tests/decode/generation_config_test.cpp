// SPDX-License-Identifier: Apache-2.0
// Options of generation as files have them: names, defaults, and what is refused in one sentence.
#include <srformer/decode/generation_config.hpp>

#include <set>

#include "io/temporary_folder.hpp"
#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

GenerationConfig read(const char* text) {
  return generation_config_from_json(nlohmann::json::parse(text), "generation_config.json");
}

/// What check_generation says of a configuration that `change` has changed.
template <class Change>
void refused(Change change, const char* said) {
  GenerationConfig config;
  change(config);
  CHECK_THROWS_WITH(check_generation(config, 30), ContainsSubstring(said));
}

}  // namespace

TEST_CASE("what a file does not say is as in transformers") {
  const GenerationConfig c = read("{}");
  CHECK(c.longest() == 21);
  CHECK(c.shortest() == 0);
  CHECK(c.num_beams == 1);
  CHECK_FALSE(c.do_sample);
  CHECK(c.top_k == 50);
  CHECK(c.length_penalty == 1);
  CHECK_FALSE(c.eos_token_id);
  check_generation(c, 30);
}

TEST_CASE("the options of BART's summarization are read") {
  const GenerationConfig c = read(R"({
    "_from_model_config": true, "bos_token_id": 0, "decoder_start_token_id": 2, "early_stopping": true,
    "eos_token_id": 2, "forced_bos_token_id": 0, "forced_eos_token_id": 2, "length_penalty": 2.0,
    "max_length": 142, "min_length": 56, "no_repeat_ngram_size": 3, "num_beams": 4, "pad_token_id": 1,
    "transformers_version": "4.27.0"})");
  CHECK(c.num_beams == 4);
  CHECK(c.early_stopping == EarlyStopping::yes);
  CHECK(c.length_penalty == 2);
  CHECK(c.longest() == 142);
  CHECK(c.shortest() == 56);
  CHECK(c.no_repeat_ngram_size == 3);
  CHECK(c.forced_bos_token_id == 0);
  CHECK(c.forced_eos_token_id == std::vector{2});
  CHECK(c.decoder_start_token_id == 2);
  CHECK(c.eos_token_id == std::vector{2});
  CHECK(c.pad_token_id == 1);
}

TEST_CASE("new tokens go before lengths, and lists of ids stand where one can") {
  const GenerationConfig c = read(R"({"max_length": 9, "max_new_tokens": 4, "min_length": 7,
    "min_new_tokens": 2, "eos_token_id": [5, 6], "early_stopping": "never", "num_beams": 2,
    "bad_words_ids": [[3], [4, 5]], "suppress_tokens": [8], "begin_suppress_tokens": [9]})");
  CHECK(c.longest() == 5);
  CHECK(c.shortest() == 3);
  CHECK(c.eos_token_id == std::vector{5, 6});
  CHECK(c.pad_token_id == 5);
  CHECK(c.early_stopping == EarlyStopping::never);
  CHECK(c.bad_words_ids == std::vector<std::vector<std::int32_t>>{{3}, {4, 5}});
  CHECK(c.suppress_tokens == std::vector{8});
  CHECK(c.begin_suppress_tokens == std::vector{9});
}

TEST_CASE("a start token is the one of beginnings where no other is said, and old names count") {
  CHECK(read(R"({"bos_token_id": 3})").decoder_start_token_id == 3);
  CHECK(read(R"({"bos_token_id": 3, "decoder_start_token_id": 4})").decoder_start_token_id == 4);
  CHECK(
      read(R"({"bos_token_id": 3, "force_bos_token_to_be_generated": true})").forced_bos_token_id ==
      3);
}

TEST_CASE("options of a kind of search that is not asked for are passed over in a file") {
  const GenerationConfig c =
      read(R"({"length_penalty": 2, "early_stopping": true, "temperature": 0.7, "top_k": 3})");
  check_generation(c, 30);
  CHECK(c.temperature == 1);
  CHECK(read(R"({"min_length": -1})").min_length == 0);
  const GenerationConfig drawn =
      read(R"({"do_sample": true, "temperature": 0.7, "top_k": 3, "top_p": 0.9})");
  CHECK(drawn.temperature == 0.7);
  CHECK(drawn.top_k == 3);
  CHECK(drawn.top_p == 0.9);
}

TEST_CASE("a field that does not fit is named") {
  for (const auto& [text, said] :
       {std::pair{R"({"num_beams": 0})", "\"num_beams\" is 0, expected at least 1"},
        std::pair{R"({"num_beams": "4"})", "\"num_beams\" is \"4\", expected an integer"},
        std::pair{R"({"max_length": 1})", "\"max_length\" is 1, expected at least 2"},
        std::pair{R"({"max_new_tokens": 0})", "\"max_new_tokens\" is 0, expected at least 1"},
        std::pair{R"({"early_stopping": "soon"})", "expected true, false or \"never\""},
        std::pair{R"({"repetition_penalty": 0})", "\"repetition_penalty\" is 0"},
        std::pair{R"({"do_sample": true, "temperature": 0})", "expected a number above 0"},
        std::pair{R"({"do_sample": true, "top_p": 1.5})", "expected a number from 0 to 1"},
        std::pair{R"({"bad_words_ids": [3]})", "expected a list of lists"},
        std::pair{R"({"bad_words_ids": []})", "expected a list of lists"},
        std::pair{R"({"bad_words_ids": [[]]})", "expected a list of lists"},
        std::pair{R"({"eos_token_id": [1.5]})", "expected a token id or a list of them"},
        std::pair{R"({"suppress_tokens": 3})", "expected a list of token ids"},
        std::pair{R"({"decoder_start_token_id": [3]})", "expected an integer"}}) {
    CAPTURE(text);
    CHECK_THROWS_WITH(read(text), ContainsSubstring(said));
    CHECK_THROWS_WITH(read(text), ContainsSubstring("generation_config.json: "));
  }
}

TEST_CASE("options that are not here are refused, unless they are without effect") {
  CHECK_THROWS_WITH(read(R"({"do_sample": true, "min_p": 0.1})"),
                    ContainsSubstring("no such option here"));
  CHECK_THROWS_WITH(read(R"({"num_beams": 2, "renormalize_logits": true})"),
                    ContainsSubstring("renormalize_logits"));
  CHECK_THROWS_WITH(read(R"({"penalty_alpha": 0.6})"), ContainsSubstring("penalty_alpha"));
  CHECK_THROWS_WITH(read(R"({"max_time": 3})"), ContainsSubstring("max_time"));
  // the kind of search that reads them is not asked for
  CHECK_NOTHROW(read(R"({"min_p": 0.1, "top_h": 0.5, "typical_p": 0.9, "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1, "num_beam_groups": 2, "diversity_penalty": 0.5, "renormalize_logits": true,
    "remove_invalid_values": true})"));
  CHECK_NOTHROW(read(R"({"num_beams": 2, "penalty_alpha": 0.6, "diversity_penalty": 0.5})"));
  CHECK_THROWS_WITH(read(R"({"do_sample": true, "typical_p": 0.9})"),
                    ContainsSubstring("\"typical_p\" is 0.9"));
  CHECK_THROWS_WITH(read(R"({"num_beams": 4, "num_beam_groups": 2})"),
                    ContainsSubstring("num_beam_groups"));
  CHECK_THROWS_WITH(read(R"({"sequence_bias": [[[3], -1.0]]})"),
                    ContainsSubstring("sequence_bias"));
  CHECK_NOTHROW(read(R"({"min_p": null, "typical_p": 1.0, "num_beam_groups": 1,
    "diversity_penalty": 0.0, "renormalize_logits": false, "use_cache": true})"));
}

TEST_CASE("a file that contradicts itself is refused by its name, and none is saved") {
  CHECK_THROWS_WITH(read(R"({"num_beams": 2, "num_return_sequences": 3})"),
                    ContainsSubstring("generation_config.json: \"num_return_sequences\" is 3, "
                                      "expected at most num_beams, which is 2"));
  const auto kept = [](const char* text) {
    auto json = nlohmann::json::parse(text);
    drop_idle_options(json, "file");
    return json;
  };
  CHECK(kept(R"({"num_beams": 1, "length_penalty": 2.0, "early_stopping": true, "temperature": 0.5,
    "top_k": 5, "top_p": 0.9, "typical_p": 0.9, "num_return_sequences": 2, "max_length": 9})") ==
        nlohmann::json{{"num_beams", 1}, {"max_length", 9}});
  const char* beams = R"({"num_beams": 3, "length_penalty": 2.0, "early_stopping": true,
    "num_return_sequences": 3, "no_repeat_ngram_size": 3})";
  CHECK(kept(beams) == nlohmann::json::parse(beams));
  CHECK_FALSE(
      kept(R"({"num_beams": 2, "num_return_sequences": 3})").contains("num_return_sequences"));
  const char* drawn =
      R"({"do_sample": true, "temperature": 0.5, "top_k": 5, "num_return_sequences": 4})";
  CHECK(kept(drawn) == nlohmann::json::parse(drawn));
}

TEST_CASE("ends, fillings and suppressed tokens may lie outside the vocabulary") {
  GenerationConfig c;
  c.eos_token_id = std::vector{30, -1}, c.pad_token_id = -1;
  c.suppress_tokens = {31}, c.begin_suppress_tokens = {32};
  CHECK_NOTHROW(check_generation(c, 30));
}

TEST_CASE("configurations that cannot be are refused") {
  using C = GenerationConfig;
  refused([](C& c) { c.max_length = 1; }, "max_length must be at least 2");
  refused([](C& c) { c.num_beams = 0; }, "num_beams must be at least 1");
  refused([](C& c) { c.num_return_sequences = 2; }, "greedy search gives one sequence");
  refused([](C& c) { c.num_beams = 2, c.num_return_sequences = 3; }, "greater than num_beams");
  refused([](C& c) { c.length_penalty = 2; }, "num_beams above 1 alone");
  refused([](C& c) { c.early_stopping = EarlyStopping::yes; }, "num_beams above 1 alone");
  refused([](C& c) { c.temperature = 0.5; }, "do_sample alone");
  refused([](C& c) { c.top_p = 0.5; }, "do_sample alone");
  refused([](C& c) { c.do_sample = true, c.temperature = 0; }, "temperature must be above 0");
  refused([](C& c) { c.do_sample = true, c.top_p = -1; }, "top_p must be");
  refused([](C& c) { c.repetition_penalty = -1; }, "repetition_penalty must be above 0");
  refused([](C& c) { c.bad_words_ids = {{}}; }, "an empty list");
  refused([](C& c) { c.bad_words_ids = {{3, 30}}; }, "bad_words_ids holds 30");
  refused([](C& c) { c.forced_bos_token_id = -1; }, "forced_bos_token_id holds -1");
  refused([](C& c) { c.decoder_start_token_id = 31; }, "decoder_start_token_id holds 31");
  refused(
      [](C& c) {
        c.forced_eos_token_id = {4}, c.suppress_tokens = {4, 5};
      },
      "suppress_tokens holds every token of forced_eos_token_id");
  refused([](C& c) { c.horizon = -1; }, "horizon must be");
}

TEST_CASE("the options of a config.json are all taken from it, and nothing else") {
  // every field that is read refuses an object in its place
  std::set<std::string> names;
  for (const char* name : generation_option_names) {
    CAPTURE(name);
    names.insert(name);
    nlohmann::json json{{name, nlohmann::json::object()}};
    if (std::string(name) == "bos_token_id") json["force_bos_token_to_be_generated"] = true;
    CHECK_THROWS_WITH(generation_config_from_json(json, "file"), ContainsSubstring(name));
  }
  CHECK(names.size() == std::size(generation_option_names));

  const nlohmann::json options{
      {"num_beams", 3},    {"length_penalty", 2.0}, {"max_length", 9},          {"top_k", 5},
      {"eos_token_id", 2}, {"bos_token_id", 0},     {"no_repeat_ngram_size", 2}};
  nlohmann::json config = options;
  config.update({{"model_type", "bart"}, {"d_model", 8}, {"vocab_size", 20}});
  const TemporaryFolder folder;
  write_json_file(folder.path / "config.json", config);
  SafetensorsWriter weights;
  weights.add<float>("weight", DType::f32, {1}, std::vector{1.0f});
  weights.write(folder.path / "model.safetensors");
  CHECK(generation_options_alone(HfCheckpoint(folder.path)) == options);
  CHECK(generation_options(HfCheckpoint(folder.path)) == config);
  CHECK(generation_config(HfCheckpoint(folder.path)).num_beams == 3);
  const nlohmann::json own{{"num_beams", 2}, {"transformers_version", "5.23.0"}};
  write_json_file(folder.path / "generation_config.json", own);
  CHECK(generation_options_alone(HfCheckpoint(folder.path)) == own);
  CHECK(generation_options_path(HfCheckpoint(folder.path)).ends_with("generation_config.json"));
}
