// SPDX-License-Identifier: Apache-2.0
#include <srformer/io/hf_checkpoint.hpp>

#include <map>
#include <set>

#include "models/tiny_bart.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

using BartModel = Bart<EigenBackend, double>;

std::string ends_of(const std::string& name, const std::vector<std::string>& tails) {
  for (const std::string& tail : tails) {
    if (name.ends_with(tail)) return tail;
  }
  return "";
}

}  // namespace

TEST_CASE("a source of BART is an ordered sequence, and each stack has positions of its own") {
  EigenBackend be(1);
  const BartConfig config = tiny_bart_config();
  BartModel model(be, config);
  randomize(model, 7);
  const Batch batch = random_batch(config, {6}, {5}, 24);
  const auto before = logits_of(model, batch);
  Batch swapped = batch;
  std::swap(swapped.source_ids[1], swapped.source_ids[3]);
  REQUIRE(swapped.source_ids != batch.source_ids);
  CHECK(relative_difference(before, logits_of(model, swapped)) > 1e-3);
  // token i has row 2 + i of the table; the others do not matter
  const index_t E = config.d_model;
  for (const auto& [stack, used] :
       {std::pair{"encoder", index_t{6}}, std::pair{"decoder", index_t{5}}}) {
    double* table =
        model.parameters().at(std::string("model.") + stack + ".embed_positions.weight").value;
    for (index_t row = 0; row < config.max_position_embeddings + 2; ++row) {
      CAPTURE(stack, row);
      const double kept = std::exchange(table[row * E], 0.5);
      CHECK((logits_of(model, batch) == before) == (row < 2 || row >= 2 + used));
      table[row * E] = kept;
    }
  }
}

TEST_CASE("the bias of the logits is added to each row, and learns nothing") {
  EigenBackend be(1);
  const BartConfig config = tiny_bart_config();
  BartModel model(be, config);
  randomize(model, 7);
  const Batch batch = random_batch(config, {6, 4}, {5, 2}, 25);
  const auto& bias = model.parameters().at("final_logits_bias");
  CHECK(bias.role == Role::constant);
  const std::vector<double> values(bias.value, bias.value + bias.count);
  auto expected = logits_of(model, batch);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] -= values[i % values.size()];
  train_loss_of(model, batch, {});
  CHECK(std::all_of(bias.gradient, bias.gradient + bias.count, [](double g) { return g == 0; }));
  be.fill(bias.value, bias.count, 0.0);
  CHECK(relative_difference(expected, logits_of(model, batch)) < 1e-14);
}

TEST_CASE("BART drops attention weights, hidden units, branches and embeddings, each by its rate") {
  EigenBackend be(1);
  const BartConfig config = tiny_bart_config();
  const Batch batch = random_batch(config, {6, 4}, {5, 2}, 25);
  const double all = 1 - 1e-9;
  const auto dropped = [&](const LossOptions& options) {
    BartModel model(be, config);
    randomize(model, 7);
    return train_loss_of(model, batch, options);
  };
  /// The loss without dropout where these parameters are zero.
  const auto without = [&](const std::vector<std::string>& zero) {
    BartModel model(be, config);
    randomize(model, 7);
    std::size_t found = 0;
    for (auto& p : model.parameters()) {
      if (ends_of(p.name, zero).empty()) continue;
      be.fill(p.value, p.count, 0.0);
      ++found;
    }
    REQUIRE(found >= 4);
    return loss_of(model, batch);
  };
  const RandomStream random{4, 9};
  CHECK(dropped({.dropout = {.attention_dropout = all}, .random = random}) ==
        Approx(without({".out_proj.weight"})).epsilon(1e-12));
  CHECK(dropped({.dropout = {.activation_dropout = all}, .random = random}) ==
        Approx(without({".fc2.weight"})).epsilon(1e-12));
  CHECK(dropped({.dropout = {.dropout = all}, .random = random}) ==
        Approx(without({".out_proj.weight", ".out_proj.bias", ".fc2.weight", ".fc2.bias",
                        ".layernorm_embedding.weight", ".layernorm_embedding.bias"}))
            .epsilon(1e-12));
}

TEST_CASE("a source or target longer than the positions is refused in a sentence") {
  EigenBackend be(1);
  const BartConfig config = tiny_bart_config();
  BartModel model(be, config);
  randomize(model, 7);
  CHECK_NOTHROW(train_loss_of(model, random_batch(config, {30, 3}, {30, 4}, 28), {}));
  const Batch long_source = random_batch(config, {31, 3}, {4, 2}, 28),
              long_target = random_batch(config, {5, 3}, {4, 31}, 28);
  CHECK(refusal_of<shape_error>([&] { logits_of(model, long_source); }) ==
        "Bart::logits: a source of 31 tokens is longer than the model's 30 positions");
  CHECK(refusal_of<shape_error>([&] { loss_of(model, long_source); }) ==
        "Bart::add_loss: a source of 31 tokens is longer than the model's 30 positions");
  CHECK(refusal_of<shape_error>([&] { train_loss_of(model, long_target, {}); }) ==
        "Bart::add_gradients: a target of 31 tokens is longer than the model's 30 positions");
}

TEST_CASE("BART's parameters start as transformers starts them, whatever they were") {
  EigenBackend be(1);
  CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent);
  cross.gate = cross.sigma = true;
  BartConfig config = tiny_bart_config(cross);
  config.vocab_size = 97, config.d_model = 60;
  config.encoder_attention_heads = config.decoder_attention_heads = 6;
  config.init_std = 0.07;
  BartModel model(be, config);
  for (auto& p : model.parameters()) be.fill(p.value, p.count, 7.0);
  const double scale = 0.3, D = 10;
  model.initialize(RandomStream{3, 1}, scale);
  std::set<std::vector<double>> seen;
  std::size_t drawn = 0;
  for (const auto& p : model.parameters()) {
    CAPTURE(p.name);
    std::vector<double> x(p.value, p.value + p.count);
    const std::map<std::string, double> constants{
        {"norm.weight", 1},  {"layernorm_embedding.weight", 1},
        {".bias", 0},        {"logits_bias", 0},
        {".threshold", 0.1}, {".leak", 0.5},
        {".sigma", 0.5},     {".gate", 0}};
    std::vector<std::string> tails;
    for (const auto& [tail, value] : constants) tails.push_back(tail);
    if (const std::string tail = ends_of(p.name, tails); !tail.empty()) {
      CHECK(x == std::vector<double>(x.size(), constants.at(tail)));
      continue;
    }
    if (p.name == "model.shared.weight") {
      const auto row = x.begin() + config.pad_token_id * config.d_model;
      CHECK(std::all_of(row, row + config.d_model, [](double v) { return v == 0; }));
      x.erase(row, row + config.d_model);
    }
    const bool uniform_values = p.name.ends_with(".SNN_kv.weight");
    const double deviation = uniform_values ? scale / std::sqrt(3 * D) : config.init_std;
    const auto n = static_cast<double>(x.size());
    double mean = 0, square = 0, top = 0;
    for (const double v : x) {
      mean += v / n, square += v * v / n, top = std::max(top, std::abs(v));
    }
    CHECK(std::abs(mean) < 5 * deviation / std::sqrt(n));
    CHECK(std::sqrt(square) == Approx(deviation).epsilon(5 / std::sqrt(2 * n)));
    if (uniform_values) {
      CHECK(top <= scale / std::sqrt(D));
    } else {
      CHECK(top > 2 * deviation);
    }
    seen.insert({x.begin(), x.begin() + 3});
    ++drawn;
  }
  CHECK(drawn == 2 * 6 + 2 * 11 + 3);
  CHECK(seen.size() == drawn);
}

TEST_CASE("names and shapes of BART's parameters are those that transformers has stored") {
  EigenBackend be(1);
  for (const char* name : {"bart_full", "bart_srformer"}) {
    CAPTURE(name);
    const HfCheckpoint stored(std::filesystem::path(SRF_TESTS_DIR) / "reference/values/models" /
                              name);
    const BartModel model(be, config_from_json<BartConfig>(stored.config(), stored.config_path()));
    std::map<std::string, std::vector<index_t>> expected, got;
    for (const std::string& tensor : stored.names())
      expected[tensor] = stored.file_of(tensor).info(tensor).shape;
    for (const auto& p : model.parameters()) {
      CHECK(got.emplace(p.name, p.shape).second);
    }
    CHECK(got == expected);
    CHECK(got.size() > 80);
  }
}

TEST_CASE("heads and widths of BART's encoder and decoder are separate") {
  EigenBackend be(1);
  CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent);
  cross.gate = true;
  BartModel model(be, tiny_bart_config(cross));
  const auto shape = [&](const std::string& name) {
    return shape_text(model.parameters().at("model." + name).shape);
  };
  CHECK(shape("encoder.layers.1.fc1.weight") == "[10,12]");
  CHECK(shape("encoder.layers.1.fc2.weight") == "[12,10]");
  CHECK(shape("decoder.layers.1.fc1.bias") == "[7]");
  CHECK(shape("decoder.layers.1.fc2.weight") == "[12,7]");
  CHECK(shape("decoder.layers.1.encoder_attn.SNN_kv.weight") == "[4,4]");  // E over 3 heads
  CHECK(shape("decoder.layers.1.encoder_attn.gate") == "[3]");
  CHECK(shape("encoder.embed_positions.weight") == "[32,12]");
  CHECK(shape_text(model.parameters().at("final_logits_bias").shape) == "[1,23]");
}
