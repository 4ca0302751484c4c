// SPDX-License-Identifier: Apache-2.0
// A folder whose cross-attention is a variant says so to transformers, which reads it by the Python file that goes with
// it.
#include <srformer/decode/search.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/train/trainer.hpp>

#include <fstream>
#include <iterator>

#include "io/temporary_folder.hpp"
#include "models/tiny_bart.hpp"
#include "models/tiny_t5.hpp"
#include "models/with_transformers.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

std::string text_of_file(const fs::path& name) {
  std::ifstream file(name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <class Config>
json saved_config(const Config& config, const fs::path& folder) {
  EigenBackend be(1);
  typename Config::template Model<EigenBackend, double, PaperVariants> model(be, config);
  save_model(model, folder, DType::f64, json::object());
  return read_json_file(folder / "config.json");
}

/// The configurations that go through transformers, and what they are called there.
template <class Config>
std::vector<Named<Config>> variants_of(const Config& plain, bool with_horizon) {
  std::vector<Named<Config>> list;
  auto variants = named_variants();
  CrossAttentionOptions binary = cross_options(Variant::segmented_recurrent);
  binary.binary_firing = true;
  variants.push_back({"recurrent, binary firing", binary});
  CrossAttentionOptions averages = cross_options(Variant::segmented_recurrent);
  averages.average_products = averages.gate = averages.sigma = true;
  variants.push_back({"recurrent, averages", averages});
  averages.padding = Padding::upstream, averages.clamp = 2;
  variants.push_back({"recurrent, averages of clamped sums, upstream padding", averages});
  averages = cross_options(Variant::segmented_recurrent);
  averages.average_products = true, averages.recurrence = averages.normalize = false;
  variants.push_back({"averages alone", averages});
  CrossAttentionOptions soft = cross_options(Variant::segmented_recurrent);
  soft.soft_keys = 3, soft.gate = true;
  variants.push_back({"recurrent, soft keys", soft});
  soft.padding = Padding::upstream;
  variants.push_back({"recurrent, soft keys, upstream padding", soft});
  for (const auto& [name, options] : variants) {
    if (options.variant == Variant::full) continue;
    Named<Config> one{std::string(Config::model_type) + ", " + name, plain};
    CrossAttentionOptions o = options;
    o.generation_horizon = 7;
    if (with_horizon) o.horizon = 6;
    with_horizon = !with_horizon;
    set_cross(one.config, o);
    list.push_back(one);
  }
  return list;
}

/// One model here, and its folder.
template <class Config>
class SavedModel {
 public:
  SavedModel(const Named<Config>& named, const fs::path& folder)
      : name_(named.name),
        folder_(folder),
        batch_(random_batch(named.config, {9, 5, 8}, {6, 6, 4}, 42, 2, named.config.pad_token_id)),
        model_(be_, named.config) {
    randomize(model_, 7);
    save_model(model_, folder, DType::f64,
               json{{"eos_token_id", named.config.eos_token_id},
                    {"pad_token_id", named.config.pad_token_id},
                    {"decoder_start_token_id", named.config.decoder_start_token_id}});
    write_batch_file(folder, batch_);
  }

  /// Holds what transformers has found in a type to what comes out here. Returns the largest difference of logits over
  /// the largest.
  double compare(const std::string& dtype) {
    const json there = read_json_file(folder_ / (dtype + ".json"));
    INFO(name_ << " in " << dtype);
    CHECK(there.at("gradient_norm").get<double>() == Approx(gradient_norm()).epsilon(1e-5));
    GenerationConfig config = generation_config(HfCheckpoint(folder_));
    config.max_new_tokens = 9, config.min_new_tokens = 9;
    for (const char* name : {"cached", "uncached", "beams"}) {
      INFO(name);
      config.num_beams = std::string(name) == "beams" ? 3 : 1;
      const auto here = generate(model_, batch_.source_ids, batch_.source_lengths, config).padded();
      CHECK(here == there.at(name).get<std::vector<std::int32_t>>());
    }
    return relative_difference(there.at("logits").get<std::vector<double>>(),
                               logits_of(model_, batch_));
  }

 private:
  double gradient_norm() {
    model_.parameters().allocate_gradients();
    model_.parameters().zero_gradients();
    train_loss_of(model_, batch_, {.scale = 1 / static_cast<double>(label_count(batch_))});
    double sum = 0;
    for (const auto& p : model_.parameters())
      for (index_t i = 0; i < p.count; ++i) sum += p.gradient[i] * p.gradient[i];
    return std::sqrt(sum);
  }

  std::string name_;
  fs::path folder_;
  Batch batch_;
  EigenBackend be_{1};
  typename Config::template Model<EigenBackend, double, PaperVariants> model_;
};

/// Saves every variant of an architecture into folders of `parent`.
template <class Config>
std::vector<std::unique_ptr<SavedModel<Config>>> save_variants(const Config& plain,
                                                               bool with_horizon,
                                                               const fs::path& parent) {
  std::vector<std::unique_ptr<SavedModel<Config>>> saved;
  for (const auto& named : variants_of(plain, with_horizon)) {
    const std::string name = std::string(Config::model_type) + "_" + std::to_string(saved.size());
    saved.push_back(std::make_unique<SavedModel<Config>>(named, parent / name));
  }
  return saved;
}

}  // namespace

TEST_CASE("a model with a variant says so in config.json and has its Python file") {
  const auto check = [](const auto& plain, const std::string& type, const std::string& name) {
    using Config = std::remove_cvref_t<decltype(plain)>;
    for (const auto& [what, config] : variants_of(plain, true)) {
      CAPTURE(what);
      const TemporaryFolder folder;
      const json saved = saved_config(config, folder.path);
      CHECK(saved.at("model_type") == "srformer_" + type);
      CHECK(saved.at("architectures") == json{name + "ForConditionalGeneration"});
      CHECK(saved.at("auto_map") ==
            json{{"AutoConfig", "modeling_srformer." + name + "Config"},
                 {"AutoModelForSeq2SeqLM",
                  "modeling_srformer." + name + "ForConditionalGeneration"}});
      CHECK(saved.at("tokenizer_class") == name.substr(8) + "Tokenizer");
      CHECK(text_of_file(folder.path / "modeling_srformer.py") == modeling_text());
      const auto again = PaperArchitectures::read(HfCheckpoint(folder.path));
      REQUIRE(std::holds_alternative<Config>(again));
      CHECK(to_json(std::get<Config>(again).cross_attention) == to_json(config.cross_attention));
    }
    const TemporaryFolder folder;
    const json saved = saved_config(plain, folder.path);
    CHECK(saved.at("model_type") == type);
    CHECK_FALSE(saved.contains("auto_map"));
    CHECK_FALSE(saved.contains("tokenizer_class"));
    CHECK_FALSE(fs::exists(folder.path / "modeling_srformer.py"));
  };
  check(tiny_config(), "t5", "SrformerT5");
  check(tiny_bart_config(), "bart", "SrformerBart");
}

TEST_CASE("the Python file that is written is the one in the tree") {
  const std::string source =
      text_of_file(SRF_TESTS_DIR "/../include/srformer/models/modeling_srformer.py");
  const std::string first = "R\"python(\"\"\"\n", last = "# )python\"\n";
  REQUIRE(source.starts_with(first));
  REQUIRE(source.ends_with(last));
  CHECK(source.substr(first.size(), source.size() - first.size() - last.size()) == modeling_text());
}

TEST_CASE("folders of either model_type are read, with a variant and without") {
  for (const char* type : {"t5", "srformer_t5"}) {
    for (const auto& cross : {cross_options(Variant::full), cross_options(Variant::segmented)}) {
      json config = to_json(tiny_config(cross));
      config["model_type"] = type;
      const T5Config read = config_from_json<T5Config>(config, "c");
      CHECK(to_json(read.cross_attention) == to_json(tiny_config(cross).cross_attention));
      CHECK(to_json(read) == to_json(tiny_config(cross)));
      CHECK(std::holds_alternative<T5Config>(PaperArchitectures::read(config, "c")));
    }
  }
  json config = to_json(tiny_config());
  for (const char* type :
       {"srformer_pegasus", "srformer_", "srformer_srformer_t5", "SRFORMER_t5"}) {
    config["model_type"] = type;
    CHECK_THROWS_WITH(PaperArchitectures::read(config, "c"),
                      ContainsSubstring("c: \"model_type\" is \"" + std::string(type) +
                                        "\", expected one of t5, bart"));
  }
}

TEST_CASE("a model that gets full attention again is a plain one to transformers") {
  T5Config config =
      config_from_json<T5Config>(to_json(tiny_config(cross_options(Variant::segmented))), "c");
  config.source["auto_map"]["AutoTokenizer"] = "mine.Tokenizer";
  CHECK(to_json(config).at("auto_map").size() == 3);
  set_cross(config, cross_options(Variant::full));
  json plain = to_json(config);
  CHECK(plain.at("model_type") == "t5");
  CHECK(plain.at("architectures") == json{"T5ForConditionalGeneration"});
  CHECK(plain.at("auto_map") == json{{"AutoTokenizer", "mine.Tokenizer"}});
  config.source.at("auto_map").erase("AutoTokenizer");
  CHECK_FALSE(to_json(config).contains("auto_map"));
}

TEST_CASE("transformers computes every variant's logits, gradients and tokens from a saved folder",
          "[python]") {
  const std::string python = python_with_transformers();
  if (python.empty()) return;
  const TemporaryFolder parent;
  T5Config t5 = tiny_config();
  t5.transformers_statistics = true;
  const auto t5s = save_variants(t5, false, parent.path);
  const auto barts = save_variants(tiny_bart_config(), true, parent.path);
  const std::string command = python + " " SRF_TESTS_DIR "/models/variants_with_transformers.py " +
                              parent.path.string() + " float64 float32 >" +
                              (parent.path / "said").string() + " 2>&1";
  const bool loaded = std::system(command.c_str()) == 0;
  {
    INFO(text_of_file(parent.path / "said"));
    REQUIRE(loaded);
  }
  for (const auto& [dtype, bound] : {std::pair{"float64", 1e-12}, std::pair{"float32", 1e-4}}) {
    double largest = 0;
    for (const auto& one : t5s) largest = std::max(largest, one->compare(dtype));
    for (const auto& one : barts) largest = std::max(largest, one->compare(dtype));
    INFO("the largest difference of logits in " << dtype);
    CHECK(largest < bound);
  }
}
