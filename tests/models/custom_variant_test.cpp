// SPDX-License-Identifier: Apache-2.0
// A variant of one's own in a T5 and a BART: configuration, checkpoint, gradients, and decoding, without a word
// about it in the library.
#include <srformer/decode/search.hpp>
#include <srformer/models/checkpoint.hpp>

#include <filesystem>

#include "../../examples/sliding_window.hpp"
#include "models/model_gradients.hpp"
#include "models/tiny_bart.hpp"
#include "models/tiny_t5.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

using Mine = Variants<Full, SegmentedRecurrent, SlidingWindow>;

template <class Config>
Config with_window(Config config, index_t window) {
  config.cross_attention =
      Mine::Options::of<SlidingWindow>({.window = window, .horizon = 6, .generation_horizon = 6});
  return config;
}

struct Folder {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("custom_variant_" + std::to_string(std::rand()));
  ~Folder() { std::filesystem::remove_all(path); }
};

}  // namespace

TEST_CASE("config.json of a variant of one's own comes back") {
  using nlohmann::json;
  const json written = to_json(with_window(tiny_config(), 5)).at("cross_attention");
  CHECK(written == json({{"variant", "sliding_window"},
                         {"window", 5},
                         {"horizon", 6},
                         {"generation_horizon", 6}}));
  const auto read = [](const json& fields) {
    return cross_attention_options<Mine>(
        cross_attention_from_json({{"cross_attention", fields}}, "config.json"));
  };
  CHECK(read(written).get_if<SlidingWindow>()->window == 5);
  // options of the list's other variants may stand there, those of no variant may not
  CHECK(read({{"variant", "sliding_window"}, {"gate", true}}).is<SlidingWindow>());
  CHECK_THROWS_WITH(read({{"variant", "sliding_window"}, {"windows", 3}}),
                    ContainsSubstring("has an unknown field \"windows\""));
  CHECK_THROWS_WITH(read({{"variant", "sliding_window"}, {"window", 0}}),
                    ContainsSubstring("\"window\" is 0, expected at least 1"));
  CHECK_THROWS_WITH(read({{"variant", "linear"}}),
                    ContainsSubstring("\"variant\" is \"linear\", expected one of full, "
                                      "segmented_recurrent, sliding_window"));
}

TEST_CASE("gradients of models with a variant of one's own agree with dual numbers") {
  const LossOptions options{.label_smoothing = 0.1, .scale = 0.25};
  const T5Config t5 = with_window(tiny_config(), 4);
  const auto of_t5 =
      check_gradients<T5<EigenBackend, double, Mine>, T5<EigenBackend, DualNumber, Mine>>(
          t5, random_batch(t5, {13, 6}, {5, 7}, 11), options);
  CAPTURE(of_t5.worst_name);
  CHECK(of_t5.worst < 1e-10);
  CHECK(of_t5.zero.empty());
  const BartConfig bart = with_window(tiny_bart_config(), 4);
  const auto of_bart =
      check_gradients<Bart<EigenBackend, double, Mine>, Bart<EigenBackend, DualNumber, Mine>>(
          bart, random_batch(bart, {13, 6}, {5, 7}, 11, 0, 9), options);
  CAPTURE(of_bart.worst_name);
  CHECK(of_bart.worst < 1e-10);
}

TEST_CASE(
    "a checkpoint keeps what a variant of one's own learns, and one of full attention can be given "
    "it") {
  EigenBackend be(1);
  using Model = T5<EigenBackend, double, Mine>;
  Model model(be, with_window(tiny_config(), 4));
  randomize(model, 3);
  REQUIRE(model.parameters().at("decoder.block.1.layer.1.EncDecAttention.scale").count == 2);
  const Folder folder;
  save_model(model, folder.path, DType::f64, nlohmann::json::object());
  const auto same = load_t5<double, Mine>(be, folder.path);
  CHECK(to_host(be, same->parameters().values()) == to_host(be, model.parameters().values()));
  CHECK_THROWS_WITH((load_t5<double>(be, folder.path)), ContainsSubstring("sliding_window"));

  T5<EigenBackend, double, Mine> full(be, tiny_config());
  randomize(full, 4);
  const Folder other;
  save_model(full, other.path, DType::f64, nlohmann::json::object());
  Model given(be, with_window(tiny_config(), 4));
  given.initialize({1}, 1);
  load_parameters(given, HfCheckpoint(other.path), true);
  CHECK(to_host(be,
                given.parameters().at("decoder.block.0.layer.1.EncDecAttention.scale").vector()) ==
        std::vector<double>{1, 1});
  CHECK(is_variant_parameter<Mine>("decoder.block.0.layer.1.EncDecAttention.scale"));
  CHECK_FALSE(is_variant_parameter("decoder.block.0.layer.1.EncDecAttention.scale"));
}

TEST_CASE("steps of a variant of one's own give the logits of teacher forcing, with beams too") {
  EigenBackend be(1);
  T5<EigenBackend, double, Mine> model(be, with_window(tiny_config(), 4));
  randomize(model, 9);
  const Batch batch = random_batch(model.config(), {19, 1, 7}, {1, 1, 1}, 32);
  GenerationConfig options;
  options.num_beams = 3, options.max_new_tokens = 6, options.min_new_tokens = 6;
  const Generation made = generate(model, batch.source_ids, batch.source_lengths, options);
  REQUIRE(made.sequences.size() == 3);
  Batch forced = batch;
  forced.target_width = 6;
  forced.labels.clear();
  for (const auto& ids : made.sequences) {
    REQUIRE(ids.size() == 7);
    forced.labels.insert(forced.labels.end(), ids.begin() + 1, ids.end());
  }
  const auto z = to_host(be, model.logits(forced));
  const auto V = static_cast<std::size_t>(model.config().vocab_size);
  for (std::size_t b = 0; b < 3; ++b) {
    double sum = 0;
    for (std::size_t i = 0; i < 6; ++i) {
      const double* row = z.data() + (b * 6 + i) * V;
      double total = 0;
      for (std::size_t w = 0; w < V; ++w) total += std::exp(row[w]);
      sum += row[made.sequences[b][i + 1]] - std::log(total);
    }
    CHECK(std::abs(made.scores[b] - sum / 6) < 1e-10);
  }
}
