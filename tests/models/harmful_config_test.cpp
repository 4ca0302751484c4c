// SPDX-License-Identifier: Apache-2.0
// A config.json of others that asks for far more than the weights beside it, and files that nothing may run.
#include <srformer/models/checkpoint.hpp>

#include <fstream>

#include "io/temporary_folder.hpp"
#include "models/tiny_bart.hpp"
#include "models/tiny_t5.hpp"
#include "support/catch.hpp"
#include "support/cost.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

void require_refused(const std::filesystem::path& folder, const nlohmann::json& config) {
  write_json_file(folder / "config.json", config);
  EigenBackend be(1);
  const std::size_t bytes = tests::peak_bytes([&] {
    CHECK_THROWS_WITH((load_model<double>(be, folder)),
                      ContainsSubstring("config.json asks for a model of"));
  });
  CHECK(bytes < std::size_t{256} << 20);
}

}  // namespace

TEST_CASE("a model that is far larger than its weights is refused before it takes memory") {
  const TemporaryFolder folder;
  SafetensorsWriter writer;
  const std::vector<double> one(1);
  writer.add<double>("shared.weight", DType::f64, {1, 1}, one);
  writer.write(folder.path / "model.safetensors");
  const std::pair<const char*, index_t> of_t5[] = {
      {"vocab_size", index_t{1} << 30}, {"d_model", 1 << 20}, {"d_ff", 1 << 20}, {"d_kv", 1 << 18}};
  for (const auto& [key, value] : of_t5) {
    nlohmann::json config = to_json(tiny_config());
    config["d_model"] = 240;
    config[key] = value;
    INFO(key);
    require_refused(folder.path, config);
  }
  for (const char* key : {"vocab_size", "encoder_ffn_dim", "max_position_embeddings"}) {
    nlohmann::json config = to_json(tiny_bart_config());
    config["d_model"] = 240;
    config[key] = 1 << 20;
    INFO(key);
    require_refused(folder.path, config);
  }
}

TEST_CASE("code and pickles in a folder are not run and not opened") {
  const TemporaryFolder folder, elsewhere;
  nlohmann::json config = to_json(tiny_config());
  config["auto_map"] = {{"AutoModelForSeq2SeqLM", "modeling_x.X"}};
  write_json_file(folder.path / "config.json", config);
  std::ofstream(folder.path / "modeling_x.py")
      << "open('" << (elsewhere.path / "made").string() << "', 'w')\n";
  std::ofstream(folder.path / "pytorch_model.bin") << "cos\nsystem\n(S'touch made'\ntR.";
  EigenBackend be(1);
  CHECK_THROWS_WITH((load_model<double>(be, folder.path)),
                    ContainsSubstring("holds pytorch_model.bin but no model.safetensors"));
  T5<EigenBackend, double> model(be, tiny_config());
  save_model(model, folder.path, DType::f64, nullptr);
  write_json_file(folder.path / "config.json", config);
  load_model<double>(be, folder.path);
  CHECK(elsewhere.entries() == 0);
}
