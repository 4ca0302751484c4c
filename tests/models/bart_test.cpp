// SPDX-License-Identifier: Apache-2.0
#include <srformer/io/hf_checkpoint.hpp>

#include <map>
#include <set>

#include "models/tiny_bart.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

using Model = Bart<EigenBackend, double>;

std::vector<Named<BartConfig>> masked_configs() {
  return with_masked_padding(bart_variant_configs());
}

std::vector<double> gradients_of(Model& model) {
  return to_host(model.backend(), model.parameters().gradients());
}

std::string ends_of(const std::string& name, const std::vector<std::string>& tails) {
  for (const std::string& tail : tails) {
    if (name.ends_with(tail)) return tail;
  }
  return "";
}

}  // namespace

TEST_CASE("with masked padding a source in a batch gives BART what it gives alone") {
  EigenBackend be(1);
  for (const auto& [name, config] : masked_configs()) {
    CAPTURE(name);
    Model model(be, config);
    randomize(model, 7);
    const Batch batch = random_batch(config, {17, 1, 24, 8, 5}, {6, 2, 4, 7, 1}, 21, 3, 5);
    const auto logits = logits_of(model, batch);
    train_loss_of(model, batch, {.label_smoothing = 0.1});
    const auto together = gradients_of(model);
    model.parameters().zero_gradients();
    double sum = 0;
    for (index_t b = 0; b < batch.rows; ++b) {
      CAPTURE(b);
      const Batch alone = single(batch, b);
      const auto rows = rows_of(logits, batch, b, alone.target_width, config.vocab_size);
      CHECK(relative_difference(logits_of(model, alone), rows) < 1e-12);
      sum += loss_of(model, alone);
      train_loss_of(model, alone, {.label_smoothing = 0.1});
    }
    CHECK(loss_of(model, batch) == Approx(sum).epsilon(1e-12));
    CHECK(relative_difference(gradients_of(model), together) < 1e-12);
  }
}

TEST_CASE("what stands in the padding of a source matters to BART in upstream padding alone") {
  EigenBackend be(1);
  for (auto [name, config] : bart_variant_configs()) {
    CAPTURE(name);
    const bool full = config.cross_attention.variant == Variant::full;
    if (full) config.cross_attention.padding = Padding::upstream;  // masked all the same
    Model model(be, config);
    randomize(model, 7);
    const Batch zeros_there = random_batch(config, {9, 4}, {5, 3}, 23, 4, 0);
    const Batch others_there = random_batch(config, {9, 4}, {5, 3}, 23, 4, 19);
    REQUIRE(zeros_there.source_ids != others_there.source_ids);
    const double difference =
        relative_difference(logits_of(model, zeros_there), logits_of(model, others_there));
    const bool all_count = !full && config.cross_attention.padding == Padding::upstream;
    if (all_count) {
      CHECK(difference > 1e-4);
    } else {
      CHECK(difference == 0);
    }
  }
}

TEST_CASE("a decoder position of BART sees no later label") {
  EigenBackend be(1);
  for (const auto& [name, config] : bart_variant_configs()) {
    CAPTURE(name);
    Model model(be, config);
    randomize(model, 7);
    Batch batch = random_batch(config, {13}, {6}, 24);
    const auto before = logits_of(model, batch);
    batch.labels[3] = batch.labels[3] == 7 ? 8 : 7;  // read at position 4
    const auto after = logits_of(model, batch);
    const index_t V = config.vocab_size;
    const auto row = [V](const std::vector<double>& z, index_t i) {
      return std::vector<double>(z.begin() + i * V, z.begin() + (i + 1) * V);
    };
    for (index_t i = 0; i < 4; ++i) CHECK(row(before, i) == row(after, i));
    CHECK(row(before, 4) != row(after, 4));
    CHECK(row(before, 5) != row(after, 5));
  }
}

TEST_CASE("a source of BART is an ordered sequence, and each stack has positions of its own") {
  EigenBackend be(1);
  const BartConfig config = tiny_bart_config();
  Model model(be, config);
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
  Model model(be, config);
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

TEST_CASE("the loss of BART is the mean negative log likelihood of the labels that count") {
  EigenBackend be(1);
  const BartConfig config = tiny_bart_config();
  Model model(be, config);
  randomize(model, 7);
  const Batch batch = random_batch(config, {6, 4}, {5, 2}, 25);
  const auto z = logits_of(model, batch);
  double expected = 0, smoothed = 0;
  for (std::size_t r = 0; r < batch.labels.size(); ++r) {
    if (batch.labels[r] < 0) continue;
    const auto first = z.begin() + static_cast<index_t>(r) * config.vocab_size;
    double sum = 0, total = 0;
    for (index_t c = 0; c < config.vocab_size; ++c) sum += std::exp(first[c]), total += first[c];
    const double lse = std::log(sum), nll = lse - first[batch.labels[r]];
    expected += nll;
    smoothed += 0.9 * nll + 0.1 * (lse - total / static_cast<double>(config.vocab_size));
  }
  CHECK(loss_of(model, batch) == Approx(expected).epsilon(1e-13));
  CHECK(loss_of(model, batch, 0.1) == Approx(smoothed).epsilon(1e-13));
  CHECK(train_loss_of(model, batch, {.label_smoothing = 0.1}) == loss_of(model, batch, 0.1));
  Batch none_counts = batch;
  std::ranges::fill(none_counts.labels, Batch::ignored_label);
  model.parameters().zero_gradients();
  CHECK(train_loss_of(model, none_counts, {.label_smoothing = 0.1}) == 0);
  for (const double g : gradients_of(model)) REQUIRE(g == 0);
}

TEST_CASE("each kind of BART's dropout depends on its stream alone, not on the number of threads") {
  const BartConfig config = tiny_bart_config(cross_options(Variant::segmented_recurrent));
  const Batch batch = random_batch(config, {13, 6, 9}, {5, 7, 6}, 26);
  const auto run = [&](int threads, const LossOptions& options) {
    EigenBackend be(threads);
    Model model(be, config);
    randomize(model, 7);
    const double loss = train_loss_of(model, batch, options);
    auto all = gradients_of(model);
    all.push_back(loss);
    return all;
  };
  const RandomStream random{4, 9}, other{4, 10};
  const LossOptions kinds[] = {{.dropout_rate = 0.2, .random = random},
                               {.attention_dropout = 0.2, .random = random},
                               {.activation_dropout = 0.2, .random = random}};
  std::set<double> losses{run(1, {.random = random}).back()};
  for (const LossOptions& options : kinds) {
    const auto one = run(1, options);
    CHECK(one == run(2, options));
    CHECK(one == run(3, options));
    LossOptions elsewhere = options;
    elsewhere.random = other;
    CHECK(one.back() != run(1, elsewhere).back());
    losses.insert(one.back());
  }
  CHECK(losses.size() == 4);
  CHECK(run(1, {.random = random}) == run(2, {.random = other}));
}

TEST_CASE("BART drops attention weights, hidden units, branches and embeddings, each by its rate") {
  EigenBackend be(1);
  const BartConfig config = tiny_bart_config();
  const Batch batch = random_batch(config, {6, 4}, {5, 2}, 25);
  const double all = 1 - 1e-9;
  const auto dropped = [&](const LossOptions& options) {
    Model model(be, config);
    randomize(model, 7);
    return train_loss_of(model, batch, options);
  };
  /// The loss without dropout where these parameters are zero.
  const auto without = [&](const std::vector<std::string>& zero) {
    Model model(be, config);
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
  CHECK(dropped({.attention_dropout = all, .random = random}) ==
        Approx(without({".out_proj.weight"})).epsilon(1e-12));
  CHECK(dropped({.activation_dropout = all, .random = random}) ==
        Approx(without({".fc2.weight"})).epsilon(1e-12));
  CHECK(dropped({.dropout_rate = all, .random = random}) ==
        Approx(without({".out_proj.weight", ".out_proj.bias", ".fc2.weight", ".fc2.bias",
                        ".layernorm_embedding.weight", ".layernorm_embedding.bias"}))
            .epsilon(1e-12));
}

TEST_CASE("loss and logits of BART know no dropout") {
  EigenBackend be(1);
  BartConfig config = tiny_bart_config();
  config.dropout = config.attention_dropout = config.activation_dropout = 0.5;
  Model model(be, config);
  randomize(model, 7);
  const Batch batch = random_batch(config, {6, 4}, {5, 2}, 25);
  CHECK(loss_of(model, batch) == train_loss_of(model, batch, {}));
}

TEST_CASE("a source or target longer than the positions is refused in a sentence") {
  EigenBackend be(1);
  const BartConfig config = tiny_bart_config();
  Model model(be, config);
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

TEST_CASE("ids out of range and batches that contradict themselves are refused by BART") {
  EigenBackend be(1);
  const BartConfig config = tiny_bart_config();
  Model model(be, config);
  randomize(model, 7);
  const Batch good = random_batch(config, {5, 3}, {4, 2}, 27);
  const auto said = [&](auto change) {
    Batch batch = good;
    change(batch);
    return refusal_of<shape_error>([&] { train_loss_of(model, batch, {}); });
  };
  CHECK(said([](Batch&) {}) == "accepted");
  for (const std::int32_t id : {23, 1000, -1}) {
    CHECK_THAT(said([&](Batch& b) { b.source_ids[6] = id; }),
               ContainsSubstring("id " + std::to_string(id) + " at position 6") &&
                   ContainsSubstring("vocabulary of 23"));
  }
  CHECK_THAT(said([](Batch& b) { b.labels[1] = 23; }), ContainsSubstring("label 23"));
  for (const auto& change :
       {+[](Batch& b) { b.source_ids.pop_back(); }, +[](Batch& b) { b.labels.push_back(1); },
        +[](Batch& b) { b.source_lengths.pop_back(); }, +[](Batch& b) { b = {}; }}) {
    CHECK_THAT(said(change), ContainsSubstring("Bart::add_gradients"));
  }
  CHECK_THAT(said([](Batch& b) { b.source_lengths[1] = 0; }), ContainsSubstring("length 0"));
  CHECK_THAT(said([](Batch& b) { b.source_lengths[1] = 6; }), ContainsSubstring("length 6"));
}

TEST_CASE("BART's parameters start as transformers starts them, whatever they were") {
  EigenBackend be(1);
  CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent);
  cross.gate = cross.sigma = true;
  BartConfig config = tiny_bart_config(cross);
  config.vocab_size = 97, config.d_model = 60;
  config.encoder_attention_heads = config.decoder_attention_heads = 6;
  config.init_std = 0.07;
  Model model(be, config);
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

TEST_CASE("only what a variant adds to BART is initialised for a checkpoint without it") {
  EigenBackend be(1);
  for (const Variant variant : {Variant::segmented_recurrent, Variant::transformer_xl}) {
    CrossAttentionOptions cross = cross_options(variant);
    cross.gate = cross.sigma = variant == Variant::segmented_recurrent;
    Model model(be, tiny_bart_config(cross)), plain(be, tiny_bart_config());
    for (auto& p : model.parameters()) be.fill(p.value, p.count, 7.0);
    model.initialize_recurrence(RandomStream{3, 1}, 1);
    std::set<std::string> known;
    for (const auto& p : plain.parameters()) known.insert(p.name);
    std::size_t added = 0;
    for (const auto& p : model.parameters()) {
      CAPTURE(p.name);
      const bool kept = std::all_of(p.value, p.value + p.count, [](double x) { return x == 7; });
      CHECK(kept == known.contains(p.name));
      added += !known.contains(p.name);
    }
    CHECK(added == (variant == Variant::transformer_xl ? 16u : 10u));
  }
}

TEST_CASE("names and shapes of BART's parameters are those that transformers has stored") {
  EigenBackend be(1);
  for (const char* name : {"bart_full", "bart_srformer"}) {
    CAPTURE(name);
    const HfCheckpoint stored(std::filesystem::path(SRF_TESTS_DIR) / "reference/values/models" /
                              name);
    const Model model(be, bart_config_from_json(stored.config(), stored.config_path()));
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
  Model model(be, tiny_bart_config(cross));
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
