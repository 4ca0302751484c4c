// SPDX-License-Identifier: Apache-2.0
// An architecture of one's own, Pegasus, against transformers' values (make_pegasus_values.py) and dual numbers.
#include <srformer/decode/search.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/train/trainer.hpp>

#include "../../examples/pegasus.hpp"
#include "../io/temporary_folder.hpp"
#include "models/model_gradients.hpp"
#include "models/tiny_model.hpp"
#include "models/with_transformers.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

using Known = Architectures<T5Config, BartConfig, PegasusConfig>;
using PegasusModel = Pegasus<EigenBackend, double>;
const std::string pegasus_folder = SRF_TESTS_DIR "/models/data/pegasus";

using Sequences = std::vector<std::vector<std::int32_t>>;

struct Reference {
  nlohmann::json json = read_json_file(pegasus_folder + "/reference.json");
  SafetensorsFile values{pegasus_folder + "/reference.safetensors"};

  Batch batch() const {
    Batch batch;
    const Sequences ids = json.at("input_ids"), labels = json.at("labels");
    batch.rows = std::ssize(ids);
    batch.source_width = std::ssize(ids.at(0)), batch.target_width = std::ssize(labels.at(0));
    batch.source_lengths = json.at("lengths").get<std::vector<index_t>>();
    for (const auto& row : ids)
      batch.source_ids.insert(batch.source_ids.end(), row.begin(), row.end());
    for (const auto& row : labels) batch.labels.insert(batch.labels.end(), row.begin(), row.end());
    return batch;
  }
};

PegasusConfig tiny_pegasus(const CrossAttentionOptions& cross) {
  PegasusConfig c;
  c.vocab_size = 23, c.d_model = 12, c.encoder_layers = 1, c.decoder_layers = 2;
  c.encoder_attention_heads = 2, c.decoder_attention_heads = 3;
  c.encoder_ffn_dim = 10, c.decoder_ffn_dim = 7, c.max_position_embeddings = 30;
  c.init_std = 0.3, c.scale_embedding = true;
  c.decoder_start_token_id = 2;  // the padding token gets no gradient where it is read
  set_cross(c, cross);
  return c;
}

}  // namespace

TEST_CASE("a Pegasus has transformers' logits, loss and gradients") {
  EigenBackend be(1);
  const auto model = load_model<double, PaperVariants, Known>(be, pegasus_folder);
  const Reference reference;
  const Batch batch = reference.batch();
  CHECK(relative_difference(logits_of(*model, batch), reference.values.read<double>("logits")) <
        1e-9);
  const auto labels = static_cast<double>(
      std::ranges::count_if(batch.labels, [](std::int32_t label) { return label >= 0; }));
  const double loss = train_loss_of(*model, batch, {.scale = 1 / labels});
  CHECK(std::abs(loss / labels - reference.values.read<double>("loss").at(0)) < 1e-9);
  index_t compared = 0;
  for (const auto& p : model->parameters()) {
    if (p.role == Role::constant) continue;
    CAPTURE(p.name);
    const std::vector<double> by_hand(p.gradient, p.gradient + p.count);
    const auto expected = reference.values.read<double>("grad/" + p.name);
    if (p.name.ends_with("k_proj.bias")) {  // a softmax does not see it: rounding alone
      for (const double g : by_hand) CHECK(std::abs(g) < 1e-12);
    } else {
      CHECK(relative_difference(by_hand, expected) < 1e-9);
    }
    ++compared;
  }
  CHECK(compared == std::ssize(reference.values.names()) - 2);
}

TEST_CASE("a Pegasus writes transformers' ids") {
  EigenBackend be(1);
  const auto model = load_model<double, PaperVariants, Known>(be, pegasus_folder);
  const Reference reference;
  const Batch batch = reference.batch();
  GenerationConfig options;
  options.max_new_tokens = 12, options.no_repeat_ngram_size = 1, options.forced_eos_token_id = {1};
  const auto rows = [&](const char* name) -> Sequences { return reference.json.at(name); };
  CHECK(generate(*model, batch.source_ids, batch.source_lengths, options).sequences ==
        rows("greedy"));
  options.num_beams = 4, options.no_repeat_ngram_size = 2;
  CHECK(generate(*model, batch.source_ids, batch.source_lengths, options).sequences ==
        rows("beam"));
}

TEST_CASE("gradients of a whole Pegasus agree with dual numbers") {
  CrossAttentionOptions recurrent = cross_options(Variant::segmented_recurrent);
  recurrent.gate = recurrent.sigma = true;
  for (const auto& cross : {cross_options(Variant::full), recurrent}) {
    const PegasusConfig config = tiny_pegasus(cross);
    const Batch batch = random_batch(config, {9, 5}, {6, 4}, 42);
    for (const double rate : {0.0, 0.3}) {
      const auto found = check_gradients<PegasusModel, Pegasus<EigenBackend, DualNumber>>(
          config, batch, {.label_smoothing = 0.1, .dropout = {rate, rate, rate}, .random = {8, 2}});
      CAPTURE(found.worst_name);
      CHECK(found.worst < 1e-9);
      CHECK(found.compared > 40);
    }
  }
}

TEST_CASE(
    "positions that a checkpoint lacks are sinusoids, and no architecture is taken for another") {
  EigenBackend be(1);
  const auto model = load_model<double, PaperVariants, Known>(be, pegasus_folder);
  const PegasusModel fresh(be, read_config<PegasusConfig>(HfCheckpoint(pegasus_folder)));
  for (const auto& p : fresh.parameters()) {
    if (!p.name.ends_with("embed_positions.weight")) continue;
    const auto& loaded = model->parameters().at(p.name);
    CHECK(std::equal(p.value, p.value + p.count, loaded.value));
  }
  CHECK_THROWS_WITH(load_model<double>(be, pegasus_folder),
                    ContainsSubstring("\"model_type\" is \"pegasus\", expected one of t5, bart"));
  // With a variant it is not transformers' Pegasus, and no Python goes with it.
  const nlohmann::json variant = to_json(tiny_pegasus(cross_options(Variant::segmented)));
  CHECK(variant.at("model_type") == "srformer_pegasus");
  CHECK_FALSE(variant.contains("auto_map"));
  CHECK(std::holds_alternative<PegasusConfig>(Known::read(variant, "config.json")));
  CrossAttentionOptions upstream = cross_options(Variant::segmented);
  upstream.padding = Padding::upstream;
  CHECK_THROWS_WITH(PegasusModel(be, tiny_pegasus(upstream)),
                    ContainsSubstring("padding \"upstream\"; take \"masked\""));
}

TEST_CASE("a Pegasus that was trained for ten steps is loaded by transformers", "[python]") {
  EigenBackend be(1);
  const auto model = load_model<double, PaperVariants, Known>(be, pegasus_folder);
  std::vector<Example> examples;
  for (std::int32_t i = 0; i < 20; ++i)
    examples.push_back({{2 + i % 7, 9 + i % 5, 20, 1}, {9 + i % 5, 2 + i % 7, 1}});
  Trainer trainer(*model, std::span<const Example>(examples),
                  {.batch_size = 4, .max_steps = 10, .learning_rate = 1e-2});
  const double before = mean_loss(*model, std::span<const Example>(examples), 8, 0);
  trainer.run([](const StepReport&) { return true; });
  CHECK(mean_loss(*model, std::span<const Example>(examples), 8, 0) < 0.8 * before);

  const TemporaryFolder saved;
  save_model(*model, saved.path, DType::f64, nlohmann::json{{"max_length", 20}});
  const auto again = load_model<double, PaperVariants, Known>(be, saved.path);
  const Batch batch = Reference().batch();
  CHECK(logits_of(*again, batch) == logits_of(*model, batch));
  const std::string python = python_with_transformers();
  if (python.empty()) return;
  CHECK(relative_difference(transformers_logits(python, saved.path, batch),
                            logits_of(*model, batch)) < 1e-9);
}
