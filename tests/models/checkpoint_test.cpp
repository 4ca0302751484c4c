// SPDX-License-Identifier: Apache-2.0
#include <srformer/models/checkpoint.hpp>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <set>

#include "io/temporary_folder.hpp"
#include "models/tiny_t5.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;
using nlohmann::json;

namespace {

using Model = T5<EigenBackend, double>;

/// The weights of a folder as a test changes them.
struct Weights {
  struct Tensor {
    std::vector<index_t> shape;
    std::vector<double> values;
  };
  std::map<std::string, Tensor> tensors;

  explicit Weights(Model& model) {
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
void write_folder(const std::filesystem::path& folder, const T5Config& config,
                  const Weights& weights) {
  write_json_file(folder / "config.json", to_json(config));
  weights.write(folder / "model.safetensors");
}

std::vector<double> values_of(Model& model) {
  return to_host(model.backend(), model.parameters().values());
}

template <class Call>
std::string io_refusal(Call call) {
  try {
    call();
  } catch (const io_error& error) {
    return error.what();
  }
  return "accepted";
}

/// A random model and its weights, for one configuration.
struct Original {
  EigenBackend be{1};
  Model model;
  Weights weights;

  explicit Original(const T5Config& config, std::uint64_t seed = 3)
      : model(be, config), weights((randomize(model, seed), model)) {}
};

const std::string shared = "shared.weight", head = "lm_head.weight";

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

TEST_CASE("an untied model without its output matrix is refused") {
  T5Config untied = tiny_config();
  untied.tie_word_embeddings = untied.scale_decoder_outputs = false;
  Original original(untied);
  Weights weights = original.weights;
  weights.tensors.erase(head);
  const TemporaryFolder folder;
  write_folder(folder.path, untied, weights);
  CHECK_THAT(io_refusal([&] { load_t5<double>(original.be, folder.path); }),
             ContainsSubstring("lm_head.weight"));
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

TEST_CASE(
    "missing, unexpected and misshapen weights are named all at once, and nothing is loaded") {
  Original original(tiny_config());
  Weights weights = original.weights;
  const std::string q = "encoder.block.0.layer.0.SelfAttention.q.weight",
                    wo = "decoder.block.1.layer.2.DenseReluDense.wo.weight",
                    norm = "encoder.final_layer_norm.weight";
  weights.tensors.erase(q);
  weights.tensors.erase(norm);
  weights.tensors["decoder.block.2.layer.0.layer_norm.weight"] = {{12}, std::vector<double>(12)};
  std::swap(weights.tensors[wo].shape[0], weights.tensors[wo].shape[1]);
  const TemporaryFolder folder;
  write_folder(folder.path, tiny_config(), weights);
  Model model(original.be, tiny_config());
  const std::string said = io_refusal([&] { load_parameters(model, HfCheckpoint(folder.path)); });
  CHECK_THAT(said, ContainsSubstring(q) && ContainsSubstring(norm) &&
                       ContainsSubstring("decoder.block.2.layer.0.layer_norm.weight") &&
                       ContainsSubstring(wo + ": expected [12,10], got [10,12]"));
  CHECK(said.find("SelfAttention.k") == std::string::npos);
  CHECK(values_of(model) == std::vector<double>(values_of(model).size(), 0.0));
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
    Model model(full.be, tiny_config(wanted));
    const std::string said = io_refusal([&] { load_parameters(model, checkpoint); });
    const std::string attention = "decoder.block.1.layer.1.EncDecAttention.";
    for (auto& p : model.parameters()) {
      const bool added = !full.weights.tensors.contains(p.name);
      CAPTURE(p.name);
      CHECK((said.find(p.name) != std::string::npos) == added);
    }
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
  Model full(recurrent.be, tiny_config());
  CHECK_THAT(io_refusal([&] { load_parameters(full, checkpoint); }),
             ContainsSubstring("SNN_kv.weight") && ContainsSubstring(".leak") &&
                 ContainsSubstring(".threshold"));
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

TEST_CASE("transformers loads a saved folder and computes the same logits", "[python]") {
  const char* chosen = std::getenv("SRF_PYTHON");
  const std::string python = chosen != nullptr ? chosen : "python3";
  if (std::system((python + " -c 'import torch, transformers' >/dev/null 2>&1").c_str()) != 0) {
    WARN("skipped: " << python
                     << " lacks torch or transformers; set SRF_PYTHON to one that has them");
    SUCCEED("nothing to compare with");
    return;
  }
  const auto check = [&](const char* name, const std::function<void(T5Config&)>& change) {
    CAPTURE(name);
    T5Config config = tiny_config();
    change(config);
    Original original(config);
    // transformers takes the statistics of its norms in float32
    config.transformers_statistics = true;
    Model same(original.be, config);
    std::copy_n(original.model.parameters().values().data, same.parameters().size(),
                same.parameters().values().data);
    const TemporaryFolder folder;
    save_model(original.model, folder.path, DType::f64, json{{"max_length", 20}});
    const Batch batch = random_batch(config, {9, 5}, {6, 6}, 42);
    json ids = json::array(), mask = json::array(), labels = json::array();
    for (index_t b = 0; b < batch.rows; ++b) {
      const auto source = batch.source_ids.begin() + b * batch.source_width;
      const auto target = batch.labels.begin() + b * batch.target_width;
      ids.push_back(std::vector<int>(source, source + batch.source_width));
      labels.push_back(std::vector<int>(target, target + batch.target_width));
      std::vector<int> present(static_cast<std::size_t>(batch.source_width), 0);
      std::fill_n(present.begin(), batch.source_lengths[static_cast<std::size_t>(b)], 1);
      mask.push_back(present);
    }
    write_json_file(folder.path / "batch.json",
                    {{"input_ids", ids}, {"attention_mask", mask}, {"labels", labels}});
    const std::string command = python + " " SRF_TESTS_DIR "/models/load_with_transformers.py " +
                                folder.path.string() + " >" + (folder.path / "said").string() +
                                " 2>&1";
    const bool loaded = std::system(command.c_str()) == 0;
    std::ifstream said(folder.path / "said");
    INFO(std::string(std::istreambuf_iterator<char>(said), {}));
    REQUIRE(loaded);
    std::ifstream file(folder.path / "logits.txt");
    std::vector<double> expected;
    for (double z = 0; file >> z;) expected.push_back(z);
    CHECK(relative_difference(expected, logits_of(same, batch)) < 1e-9);
  };
  check("tied", [](T5Config&) {});
  check("gated and untied", [](T5Config& c) {
    c.gated = true, c.activation = Activation::gelu_new;
    c.tie_word_embeddings = c.scale_decoder_outputs = false;
  });
}
