// SPDX-License-Identifier: Apache-2.0
#include <srformer/models/checkpoint.hpp>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <set>

#include "io/temporary_folder.hpp"
#include "models/tiny_bart.hpp"
#include "models/tiny_t5.hpp"
#include "models/with_transformers.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;
using nlohmann::json;

namespace {

using T5Model = T5<EigenBackend, double>;

/// The weights of a folder as a test changes them.
struct Weights {
  struct Tensor {
    std::vector<index_t> shape;
    std::vector<double> values;
  };
  std::map<std::string, Tensor> tensors;

  template <class AnyModel>
  explicit Weights(AnyModel& model) {
    for (auto& p : model.parameters()) tensors[p.name] = {p.shape, {p.value, p.value + p.count}};
  }

  void write(const std::filesystem::path& path, const std::set<std::string>& only = {}) const {
    SafetensorsWriter writer;
    for (const auto& [name, tensor] : tensors) {
      if (only.empty() || only.contains(name))
        writer.add<double>(name, DType::f64, tensor.shape, tensor.values);
    }
    writer.write(path);
  }
};

/// A folder with config.json of `config` and these weights.
template <class Config>
void write_folder(const std::filesystem::path& folder, const Config& config,
                  const Weights& weights) {
  write_json_file(folder / "config.json", to_json(config));
  weights.write(folder / "model.safetensors");
}

template <class AnyModel>
std::vector<double> values_of(AnyModel& model) {
  return to_host(model.backend(), model.parameters().values());
}

template <class Call>
std::string io_refusal(Call call) {
  return refusal_of<io_error>(call);
}

/// A random model and its weights, for one configuration.
template <class AnyModel>
struct OriginalOf {
  EigenBackend be{1};
  AnyModel model;
  Weights weights;

  template <class Config>
  explicit OriginalOf(const Config& config, std::uint64_t seed = 3)
      : model(be, config), weights((randomize(model, seed), model)) {}
};
using Original = OriginalOf<T5Model>;
using OriginalBart = OriginalOf<Bart<EigenBackend, double>>;

const std::string shared = "shared.weight", head = "lm_head.weight";

/// That a message names parameters which `weights` lacks, and no others, and counts those it does not name.
template <class AnyModel>
void check_missing(const std::string& said, AnyModel& model, const Weights& weights) {
  std::size_t missing = 0, named = 0;
  for (auto& p : model.parameters()) {
    const bool is_missing = !weights.tensors.contains(p.name);
    const bool is_named = said.find(p.name) != std::string::npos;
    CAPTURE(p.name);
    CHECK((is_missing || !is_named));
    missing += is_missing, named += is_named;
  }
  CAPTURE(said);
  CHECK(named >= 2);
  const std::string rest = " and " + std::to_string(missing - named) + " more";
  CHECK((missing == named || said.find(rest) != std::string::npos));
}

}  // namespace

TEST_CASE("a saved model comes back, to the precision of what it is stored in") {
  const std::pair<DType, double> kinds[] = {
      {DType::f64, 0}, {DType::f32, 0x1p-24}, {DType::f16, 0x1p-11}, {DType::bf16, 0x1p-8}};
  for (const auto& [name, config] : variant_configs()) {
    CAPTURE(name);
    for (const auto& [dtype, rounding] : kinds) {
      CAPTURE(properties(dtype).name);
      Original original(config);
      const TemporaryFolder folder;
      save_model(original.model, folder.path / "saved", dtype, json{{"num_beams", 4}});
      const auto loaded = load_t5<double>(original.be, folder.path / "saved");
      const auto a = values_of(original.model), b = values_of(*loaded);
      REQUIRE(a.size() == b.size());
      double worst = 0;
      for (std::size_t i = 0; i < a.size(); ++i) {
        const double size = std::max(std::abs(a[i]), 0x1p-14);  // f16 is even below that
        worst = std::max(worst, std::abs(a[i] - b[i]) / size);
      }
      CHECK(worst <= rounding);
      CHECK((dtype == DType::f64 || worst > 0));
      CHECK(to_json(loaded->config().cross_attention) == to_json(config.cross_attention));
      CHECK(HfCheckpoint(folder.path / "saved").generation_config() == json{{"num_beams", 4}});
    }
  }
}

TEST_CASE("config.json keeps what it was read with") {
  T5Config config = tiny_config();
  config.source = {{"model_type", "t5"}, {"n_positions", 512}};
  Original original(config);
  const TemporaryFolder folder;
  save_model(original.model, folder.path, DType::f32, json::object());
  CHECK(HfCheckpoint(folder.path).config().at("n_positions") == 512);
  CHECK(HfCheckpoint(folder.path).config().at("d_model") == 12);
}

TEST_CASE("the embedding is found under each name it has had") {
  Original original(tiny_config());
  const std::vector<double> expected = values_of(original.model);
  const auto stored = original.weights.tensors.at(shared);
  const std::vector<std::set<std::string>> spellings{
      {shared},
      {"encoder.embed_tokens.weight"},
      {"decoder.embed_tokens.weight"},
      {shared, head},
      {shared, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", head},
      {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}};
  for (const auto& names : spellings) {
    Weights weights = original.weights;
    weights.tensors.erase(shared);
    for (const std::string& name : names) weights.tensors[name] = stored;
    const TemporaryFolder folder;
    write_folder(folder.path, tiny_config(), weights);
    const auto loaded = load_t5<double>(original.be, folder.path);
    CAPTURE(*names.begin(), names.size());
    CHECK(loaded->config().tie_word_embeddings);
    CHECK(values_of(*loaded) == expected);
  }
}

TEST_CASE("copies of the embedding that differ are refused by name") {
  Original original(tiny_config());
  Weights weights = original.weights;
  weights.tensors["encoder.embed_tokens.weight"] = weights.tensors.at(shared);
  weights.tensors["encoder.embed_tokens.weight"].values[5] += 1;
  const TemporaryFolder folder;
  write_folder(folder.path, tiny_config(), weights);
  const std::string said = io_refusal([&] { load_t5<double>(original.be, folder.path); });
  CHECK_THAT(said, ContainsSubstring(shared) && ContainsSubstring("encoder.embed_tokens.weight"));
}

TEST_CASE("an output matrix of its own is used, whatever the configuration says") {
  T5Config untied = tiny_config();
  untied.tie_word_embeddings = untied.scale_decoder_outputs = false;
  Original original(untied);
  const Batch batch = random_batch(untied, {7, 4}, {5, 3}, 41);

  for (const bool says_tied : {false, true}) {
    CAPTURE(says_tied);
    T5Config config = untied;
    config.tie_word_embeddings = says_tied, config.scale_decoder_outputs = says_tied;
    const TemporaryFolder folder;
    write_folder(folder.path, config, original.weights);
    const auto loaded = load_t5<double>(original.be, folder.path);
    CHECK_FALSE(loaded->config().tie_word_embeddings);
    CHECK(values_of(*loaded) == values_of(original.model));
    // scaling goes by what config.json says
    auto expected = logits_of(original.model, batch);
    if (says_tied) {
      for (double& z : expected) z /= std::sqrt(12.0);
    }
    CHECK(relative_difference(expected, logits_of(*loaded, batch)) < 1e-14);
  }
}

TEST_CASE("an untied model without its output matrix has its embedding for one, not scaled") {
  T5Config untied = tiny_config();
  untied.tie_word_embeddings = untied.scale_decoder_outputs = false;
  T5Config tied = untied;
  tied.tie_word_embeddings = true;
  Original original(tied);
  const Batch batch = random_batch(untied, {7, 4}, {5, 3}, 41);
  for (const bool copied : {false, true}) {
    Weights weights = original.weights;
    if (copied) weights.tensors[head] = weights.tensors.at(shared);
    const TemporaryFolder folder;
    write_folder(folder.path, untied, weights);
    const auto loaded = load_t5<double>(original.be, folder.path);
    CHECK(loaded->config().tie_word_embeddings);
    CHECK_FALSE(loaded->config().scale_decoder_outputs);
    CHECK(logits_of(*loaded, batch) == logits_of(original.model, batch));
    save_model(*loaded, folder.path / "again", DType::f64, json::object());
    CHECK(logits_of(*load_t5<double>(original.be, folder.path / "again"), batch) ==
          logits_of(original.model, batch));
  }
}

TEST_CASE("what is saved says its type, whatever type it was loaded from") {
  T5Config config = tiny_config();
  config.source = {{"model_type", "t5"}, {"torch_dtype", "float16"}, {"dtype", "bfloat16"}};
  Original original(config);
  OriginalBart bart(tiny_bart_config());
  for (const auto& [dtype, name] :
       {std::pair{DType::f64, "float64"}, std::pair{DType::f32, "float32"},
        std::pair{DType::f16, "float16"}, std::pair{DType::bf16, "bfloat16"}}) {
    const TemporaryFolder folder;
    save_model(original.model, folder.path / "t5", dtype, json::object());
    save_model(bart.model, folder.path / "bart", dtype, json::object());
    for (const char* model : {"t5", "bart"}) {
      const HfCheckpoint saved(folder.path / model);
      CHECK(saved.config().at("dtype") == name);
      CHECK_FALSE(saved.config().contains("torch_dtype"));
      const std::string first = saved.names().front();
      CHECK(saved.file_of(first).info(first).dtype == dtype);
    }
  }
}

TEST_CASE("a T5 may be stored under transformer., as models for other tasks are") {
  for (const bool tied : {true, false}) {
    T5Config config = tiny_config();
    config.tie_word_embeddings = config.scale_decoder_outputs = tied;
    Original original(config);
    Weights weights = original.weights;
    weights.tensors.clear();
    for (const auto& [name, tensor] : original.weights.tensors)
      weights.tensors["transformer." + name] = tensor;
    weights.tensors["classification_head.dense.weight"] = {{1}, {1}};
    const TemporaryFolder folder;
    write_folder(folder.path, config, weights);
    CHECK(values_of(*load_t5<double>(original.be, folder.path)) == values_of(original.model));
  }
}

TEST_CASE("tied copies in two types are one embedding") {
  Original original(tiny_config());
  for (double& x : original.weights.tensors.at(shared).values) x = std::round(8 * x) / 8;
  const TemporaryFolder folder;
  write_json_file(folder.path / "config.json", to_json(tiny_config()));
  SafetensorsWriter writer;
  for (const auto& [name, tensor] : original.weights.tensors)
    writer.add<double>(name, DType::f64, tensor.shape, tensor.values);
  const auto& stored = original.weights.tensors.at(shared);
  writer.add<double>("encoder.embed_tokens.weight", DType::bf16, stored.shape, stored.values);
  writer.add<double>(head, DType::f32, stored.shape, stored.values);
  writer.write(folder.path / "model.safetensors");
  const auto loaded = load_t5<double>(original.be, folder.path);
  CHECK(loaded->config().tie_word_embeddings);
  const auto& p = loaded->parameters().at(shared);
  CHECK(std::vector<double>(p.value, p.value + p.count) == stored.values);
}

TEST_CASE("shards are one model") {
  Original original(tiny_config(cross_options(Variant::segmented_recurrent)));
  const TemporaryFolder folder;
  write_json_file(folder.path / "config.json", to_json(original.model.config()));
  std::set<std::string> first, second;
  json map;
  for (const auto& [name, tensor] : original.weights.tensors) {
    const bool early = first.size() < 11;
    (early ? first : second).insert(name);
    map[name] = early ? "model-00001-of-00002.safetensors" : "model-00002-of-00002.safetensors";
  }
  original.weights.write(folder.path / "model-00001-of-00002.safetensors", first);
  original.weights.write(folder.path / "model-00002-of-00002.safetensors", second);
  write_json_file(folder.path / "model.safetensors.index.json", {{"weight_map", map}});
  CHECK(values_of(*load_t5<double>(original.be, folder.path)) == values_of(original.model));
}

TEST_CASE("missing and misshapen weights are named at once, and nothing is loaded") {
  Original original(tiny_config());
  Weights weights = original.weights;
  const std::string q = "encoder.block.0.layer.0.SelfAttention.q.weight",
                    wo = "decoder.block.1.layer.2.DenseReluDense.wo.weight",
                    norm = "encoder.final_layer_norm.weight";
  weights.tensors.erase(q);
  weights.tensors.erase(norm);
  std::swap(weights.tensors[wo].shape[0], weights.tensors[wo].shape[1]);
  const TemporaryFolder folder;
  write_folder(folder.path, tiny_config(), weights);
  T5Model model(original.be, tiny_config());
  const std::string said = io_refusal([&] { load_parameters(model, HfCheckpoint(folder.path)); });
  CHECK_THAT(said, ContainsSubstring(q) && ContainsSubstring(norm) &&
                       ContainsSubstring(wo + ": expected [12,10], got [10,12]"));
  CHECK(said.find("SelfAttention.k") == std::string::npos);
  CHECK(values_of(model) == std::vector<double>(values_of(model).size(), 0.0));
}

TEST_CASE("weights that a model has no use for are passed over and reported") {
  Original original(tiny_config());
  Weights weights = original.weights;
  const std::string other = "decoder.block.2.layer.0.layer_norm.weight", step = "global_step";
  weights.tensors[other] = {{12}, std::vector<double>(12)};
  weights.tensors[step] = {{}, {7}};
  const TemporaryFolder folder;
  write_folder(folder.path, tiny_config(), weights);
  T5Model model(original.be, tiny_config());
  CHECK(load_parameters(model, HfCheckpoint(folder.path)) == std::vector<std::string>{other, step});
  CHECK(values_of(model) == values_of(original.model));
}

TEST_CASE("of an encoder alone it is said that the decoder is missing") {
  const std::pair<const char*, const char*> parts[] = {{"decoder", "encoder."},
                                                       {"encoder", "decoder."}};
  Original original(tiny_config());
  OriginalBart bart(tiny_bart_config());
  const auto said_of = [](const auto& config, const Weights& weights, const std::string& lacks) {
    Weights some = weights;
    std::erase_if(some.tensors, [&](const auto& item) {
      return item.first.find(lacks + ".") != std::string::npos;
    });
    const TemporaryFolder folder;
    write_folder(folder.path, config, some);
    EigenBackend be(1);
    return io_refusal([&] {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(config)>, T5Config>)
        load_t5<double>(be, folder.path);
      else
        load_bart<double>(be, folder.path);
    });
  };
  for (const auto& [lacks, holds] : parts) {
    for (const std::string& said : {said_of(tiny_config(), original.weights, lacks),
                                    said_of(tiny_bart_config(), bart.weights, lacks)}) {
      CHECK_THAT(said, ContainsSubstring("so nothing is there of ") &&
                           ContainsSubstring(std::string(lacks) + "; check"));
      CHECK(said.size() < 500);
    }
  }
}

TEST_CASE("the cross-attention's unused position bias of old checkpoints is passed over") {
  Original original(tiny_config());
  Weights weights = original.weights;
  weights.tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = {
      {6, 2}, std::vector<double>(12)};
  const TemporaryFolder folder;
  write_folder(folder.path, tiny_config(), weights);
  CHECK(values_of(*load_t5<double>(original.be, folder.path)) == values_of(original.model));
}

TEST_CASE("a variant takes the weights of a model without it, when asked to") {
  Original full(tiny_config());
  const TemporaryFolder folder;
  save_model(full.model, folder.path, DType::f64, json::object());
  const HfCheckpoint checkpoint(folder.path);
  CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent);
  cross.gate = cross.sigma = true;
  for (const CrossAttentionOptions& wanted : {cross, cross_options(Variant::transformer_xl)}) {
    T5Model model(full.be, tiny_config(wanted));
    const std::string said = io_refusal([&] { load_parameters(model, checkpoint); });
    check_missing(said, model, full.weights);
    for (auto& p : model.parameters()) full.be.fill(p.value, p.count, 7.0);
    load_parameters(model, checkpoint, true);
    for (auto& p : model.parameters()) {
      CAPTURE(p.name);
      const std::vector<double> got(p.value, p.value + p.count);
      const auto stored = full.weights.tensors.find(p.name);
      CHECK(got == (stored == full.weights.tensors.end() ? std::vector<double>(got.size(), 7.0)
                                                         : stored->second.values));
    }
  }
}

TEST_CASE("another variant's weights are refused, and passed over when the variant is new") {
  Original recurrent(tiny_config(cross_options(Variant::segmented_recurrent)));
  const TemporaryFolder folder;
  save_model(recurrent.model, folder.path, DType::f64, json::object());
  const HfCheckpoint checkpoint(folder.path);
  T5Model full(recurrent.be, tiny_config());
  CHECK_THAT(io_refusal([&] { load_parameters(full, checkpoint); }),
             ContainsSubstring("not used by this model: ") && ContainsSubstring("SNN_kv.weight") &&
                 ContainsSubstring(".leak"));
  load_parameters(full, checkpoint, true);
  for (auto& p : full.parameters()) {
    CHECK(std::vector<double>(p.value, p.value + p.count) ==
          recurrent.weights.tensors.at(p.name).values);
  }
  // what the model shares with the checkpoint must be there all the same
  Weights weights = recurrent.weights;
  weights.tensors.erase("decoder.final_layer_norm.weight");
  write_folder(folder.path, recurrent.model.config(), weights);
  CHECK_THAT(io_refusal([&] { load_parameters(full, HfCheckpoint(folder.path), true); }),
             ContainsSubstring("decoder.final_layer_norm.weight"));
}

TEST_CASE("a saved BART comes back, to the precision of what it is stored in") {
  const std::pair<DType, double> kinds[] = {{DType::f64, 0}, {DType::f32, 0x1p-24}};
  for (const auto& [name, config] : bart_variant_configs()) {
    CAPTURE(name);
    for (const auto& [dtype, rounding] : kinds) {
      OriginalBart original(config);
      const TemporaryFolder folder;
      save_model(original.model, folder.path / "saved", dtype, json{{"num_beams", 4}});
      const auto loaded = load_bart<double>(original.be, folder.path / "saved");
      const auto a = values_of(original.model), b = values_of(*loaded);
      REQUIRE(a.size() == b.size());
      double worst = 0;
      for (std::size_t i = 0; i < a.size(); ++i) {
        REQUIRE(a[i] != 0);  // each has a value of its own to lose
        worst = std::max(worst, std::abs(a[i] - b[i]) / std::abs(a[i]));
      }
      CHECK(worst <= rounding);
      CHECK((dtype == DType::f64 || worst > 0));
      CHECK(to_json(loaded->config()) ==
            to_json(read_config<BartConfig>(HfCheckpoint(folder.path / "saved"))));
      CHECK(to_json(loaded->config().cross_attention) == to_json(config.cross_attention));
    }
  }
}

namespace {

const std::string model_shared = "model.shared.weight";

/// What a BART of these weights is when it is loaded from a folder, or why it is not.
std::pair<std::vector<double>, std::string> loaded_bart(const BartConfig& config,
                                                        const Weights& weights) {
  EigenBackend be(1);
  const TemporaryFolder folder;
  write_folder(folder.path, config, weights);
  std::vector<double> values;
  const std::string said =
      io_refusal([&] { values = values_of(*load_bart<double>(be, folder.path)); });
  return {values, said};
}

}  // namespace

TEST_CASE("BART's names may lack \"model.\"") {
  const BartConfig config = tiny_bart_config(cross_options(Variant::segmented_recurrent));
  OriginalBart original(config);
  Weights weights = original.weights;
  weights.tensors.clear();
  for (const auto& [name, tensor] : original.weights.tensors)
    weights.tensors[name.starts_with("model.") ? name.substr(6) : name] = tensor;
  REQUIRE(weights.tensors.contains("decoder.layers.1.encoder_attn.k_proj.bias"));
  const auto [values, said] = loaded_bart(config, weights);
  CHECK(said == "accepted");
  CHECK(values == values_of(original.model));
}

TEST_CASE("BART's embedding is found under each name it has had, and copies must agree") {
  const BartConfig config = tiny_bart_config();
  OriginalBart original(config);
  const auto stored = original.weights.tensors.at(model_shared);
  const std::vector<std::vector<std::string>> spellings{
      {model_shared},
      {"shared.weight"},
      {"model.encoder.embed_tokens.weight"},
      {"model.decoder.embed_tokens.weight"},
      {"encoder.embed_tokens.weight"},
      {"decoder.embed_tokens.weight"},
      {"lm_head.weight"},
      {model_shared, "lm_head.weight"},
      {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"},
      {model_shared, "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight",
       "lm_head.weight"},
      {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}};
  for (const auto& names : spellings) {
    CAPTURE(names.front(), names.size());
    Weights weights = original.weights;
    weights.tensors.erase(model_shared);
    for (const std::string& name : names) weights.tensors[name] = stored;
    CHECK(loaded_bart(config, weights).first == values_of(original.model));
    for (const std::string& changed : names) {
      if (names.size() == 1) break;
      Weights differing = weights;
      differing.tensors[changed].values[5] += 1;
      CHECK_THAT(
          loaded_bart(config, differing).second,
          ContainsSubstring("copies of one tensor that differ") && ContainsSubstring(changed));
    }
  }
}

TEST_CASE("a BART without final_logits_bias has zeros there, other absent weights are refused") {
  const BartConfig config = tiny_bart_config();
  OriginalBart original(config);
  Weights weights = original.weights;
  weights.tensors.erase("final_logits_bias");
  auto expected = values_of(original.model);
  std::fill_n(expected.begin() + original.model.parameters().at("final_logits_bias").offset,
              config.vocab_size, 0.0);
  CHECK(loaded_bart(config, weights).first == expected);

  const std::string bias = "model.decoder.layers.0.encoder_attn.v_proj.bias",
                    positions = "model.encoder.embed_positions.weight",
                    fc1 = "model.encoder.layers.1.fc1.weight";
  weights.tensors.erase(bias);
  weights.tensors[positions] = {{30, 12}, std::vector<double>(360)};
  std::swap(weights.tensors[fc1].shape[0], weights.tensors[fc1].shape[1]);
  weights.tensors["model.decoder.layers.2.fc1.bias"] = {{7}, std::vector<double>(7)};
  weights.tensors["model.encoder.version"] = {{1}, {2}};  // of old files: means nothing
  const std::string said = loaded_bart(config, weights).second;
  CHECK_THAT(said, ContainsSubstring("missing: " + bias) &&
                       ContainsSubstring(positions + ": expected [32,12], got [30,12]") &&
                       ContainsSubstring(fc1 + ": expected [10,12], got [12,10]") &&
                       !ContainsSubstring("layers.2"));
}

TEST_CASE("a variant takes the weights of a BART without it, or its own") {
  OriginalBart full(tiny_bart_config());
  const TemporaryFolder folder;
  save_model(full.model, folder.path, DType::f64, json::object());
  const HfCheckpoint checkpoint(folder.path);
  CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent);
  cross.gate = cross.sigma = true;
  for (const CrossAttentionOptions& wanted : {cross, cross_options(Variant::transformer_xl)}) {
    OriginalBart variant(tiny_bart_config(wanted), 4);
    Bart<EigenBackend, double> model(full.be, tiny_bart_config(wanted));
    const std::string said = io_refusal([&] { load_parameters(model, checkpoint); });
    check_missing(said, model, full.weights);
    for (auto& p : model.parameters()) full.be.fill(p.value, p.count, 7.0);
    load_parameters(model, checkpoint, true);
    for (auto& p : model.parameters()) {
      CAPTURE(p.name);
      const std::vector<double> got(p.value, p.value + p.count);
      const auto stored = full.weights.tensors.find(p.name);
      CHECK(got == (stored == full.weights.tensors.end() ? std::vector<double>(got.size(), 7.0)
                                                         : stored->second.values));
    }
    // stored ones are taken where they are, even if they might be new
    const TemporaryFolder own;
    save_model(variant.model, own.path, DType::f64, json::object());
    load_parameters(model, HfCheckpoint(own.path), true);
    CHECK(values_of(model) == values_of(variant.model));
    Bart<EigenBackend, double> without(full.be, tiny_bart_config());
    CHECK_THAT(io_refusal([&] { load_parameters(without, HfCheckpoint(own.path)); }),
               ContainsSubstring("not used by this model: model.decoder.layers.0.encoder_attn."));
    load_parameters(without, HfCheckpoint(own.path), true);
  }
}

TEST_CASE("a BART that is not tied, or a T5, is not loaded as a BART") {
  EigenBackend be(1);
  OriginalBart original(tiny_bart_config());
  const TemporaryFolder folder;
  write_folder(folder.path, tiny_bart_config(), original.weights);
  json config = to_json(tiny_bart_config());
  config["tie_word_embeddings"] = false;
  write_json_file(folder.path / "config.json", config);
  CHECK_THAT(io_refusal([&] { load_bart<double>(be, folder.path); }),
             ContainsSubstring("config.json: \"tie_word_embeddings\" is false"));
  write_json_file(folder.path / "config.json", to_json(tiny_config()));
  CHECK_THAT(io_refusal([&] { load_bart<double>(be, folder.path); }),
             ContainsSubstring("\"model_type\" is \"t5\", expected \"bart\""));
}

TEST_CASE("transformers loads a saved folder and computes the same logits", "[python]") {
  const std::string python = python_with_transformers();
  if (python.empty()) return;
  const auto check = [&](const char* name, const std::function<void(T5Config&)>& change) {
    CAPTURE(name);
    T5Config config = tiny_config();
    change(config);
    Original original(config);
    // transformers takes the statistics of its norms in float32
    config.transformers_statistics = true;
    T5Model same(original.be, config);
    std::copy_n(original.model.parameters().values().data, same.parameters().size(),
                same.parameters().values().data);
    const TemporaryFolder folder;
    save_model(original.model, folder.path, DType::f64, json{{"max_length", 20}});
    const Batch batch = random_batch(config, {9, 5}, {6, 6}, 42);
    CHECK(relative_difference(transformers_logits(python, folder.path, batch),
                              logits_of(same, batch)) < 1e-9);
  };
  check("tied", [](T5Config&) {});
  check("gated and untied", [](T5Config& c) {
    c.gated = true, c.activation = Activation::gelu_new;
    c.tie_word_embeddings = c.scale_decoder_outputs = false;
  });
}

TEST_CASE("transformers loads a saved BART and computes the same logits", "[python]") {
  const std::string python = python_with_transformers();
  if (python.empty()) return;
  for (const bool other : {false, true}) {
    CAPTURE(other);
    BartConfig config = tiny_bart_config();
    if (other) {
      config.activation = Activation::gelu_new, config.scale_embedding = true;
      config.pad_token_id = 4, config.decoder_start_token_id = 0;
    }
    OriginalBart original(config);
    const TemporaryFolder folder;
    save_model(original.model, folder.path, DType::f64, json{{"max_length", 20}});
    const Batch batch = random_batch(config, {9, 5}, {6, 4}, 42, 0, config.pad_token_id);
    CHECK(relative_difference(transformers_logits(python, folder.path, batch),
                              logits_of(original.model, batch)) < 1e-12);
  }
}

TEST_CASE("a BART that transformers has written computes the same logits here", "[python]") {
  const std::string python = python_with_transformers();
  if (python.empty()) return;
  for (const char* make : {"make", "make_base"}) {
    CAPTURE(make);
    // what is not said is as transformers has it
    const json config{{"model_type", "bart"},
                      {"vocab_size", 41},
                      {"d_model", 24},
                      {"encoder_layers", 1},
                      {"decoder_layers", 2},
                      {"encoder_attention_heads", 4},
                      {"decoder_attention_heads", 3},
                      {"encoder_ffn_dim", 20},
                      {"decoder_ffn_dim", 28},
                      {"init_std", 0.4}};
    const TemporaryFolder folder;
    write_json_file(folder.path / "config.json", config);
    const Batch batch =
        random_batch(config_from_json<BartConfig>(config, "config.json"), {9, 5}, {6, 4}, 42, 0, 1);
    const auto expected = transformers_logits(python, folder.path, batch, make);
    EigenBackend be(1);
    const auto model = load_bart<double>(be, folder.path);
    CHECK(relative_difference(expected, logits_of(*model, batch)) < 1e-12);
    const auto& bias = model->parameters().at("final_logits_bias");
    const bool zero =
        std::all_of(bias.value, bias.value + bias.count, [](double x) { return x == 0; });
    CHECK(zero == (std::string(make) == "make_base"));
  }
}
