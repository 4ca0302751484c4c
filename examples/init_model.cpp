// SPDX-License-Identifier: Apache-2.0
// A fresh checkpoint folder, as transformers reads it, with a tokenizer given or trained here.
//
//   init_model --output_dir model --preset t5-tiny --train_tokenizer text.txt --tokenizer_vocab_size 384
//   init_model --output_dir model --config config.json --tokenizer t5-small --seed 1
#include <unistd.h>
#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <srformer/backend/eigen.hpp>
#include <srformer/io/dataset.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/text/tokenizer.hpp>

#include "cross_attention_flags.hpp"

namespace {

namespace fs = std::filesystem;
using srformer::index_t;
using srformer::program::usage_error;

template <class Config>
using ModelOf =
    srformer::model_of_t<srformer::EigenBackend, float, Config, srformer::program::ProgramVariants>;

/// config.json of a known size of T5. The tokenizer decides the vocabulary where there is one.
nlohmann::json t5_preset(index_t d_model, index_t d_kv, index_t d_ff, index_t layers,
                         index_t heads) {
  return {{"model_type", "t5"},
          {"is_encoder_decoder", true},
          {"d_model", d_model},
          {"d_kv", d_kv},
          {"d_ff", d_ff},
          {"num_layers", layers},
          {"num_heads", heads},
          {"feed_forward_proj", "relu"},
          {"relative_attention_num_buckets", 32},
          {"relative_attention_max_distance", 128},
          {"initializer_factor", 1.0},
          {"layer_norm_epsilon", 1e-6},
          {"tie_word_embeddings", true},
          {"use_cache", true},
          {"dropout_rate", 0.1},
          {"vocab_size", 32128},
          {"pad_token_id", 0},
          {"eos_token_id", 1},
          {"decoder_start_token_id", 0}};
}

/// The same of BART.
nlohmann::json bart_preset(index_t d_model, index_t ffn_dim, index_t layers, index_t heads) {
  return {{"model_type", "bart"},
          {"is_encoder_decoder", true},
          {"d_model", d_model},
          {"encoder_layers", layers},
          {"decoder_layers", layers},
          {"encoder_attention_heads", heads},
          {"decoder_attention_heads", heads},
          {"encoder_ffn_dim", ffn_dim},
          {"decoder_ffn_dim", ffn_dim},
          {"max_position_embeddings", 1024},
          {"activation_function", "gelu"},
          {"init_std", 0.02},
          {"scale_embedding", false},
          {"dropout", 0.1},
          {"attention_dropout", 0.1},
          {"activation_dropout", 0.1},
          {"vocab_size", 50265},
          {"bos_token_id", 0},
          {"pad_token_id", 1},
          {"eos_token_id", 2},
          {"forced_eos_token_id", 2},
          {"decoder_start_token_id", 2}};
}

nlohmann::json preset(const std::string& name) {
  if (name == "t5-small") return t5_preset(512, 64, 2048, 6, 8);
  if (name == "t5-tiny") return t5_preset(64, 16, 128, 2, 4);
  if (name == "bart-base") return bart_preset(768, 3072, 6, 12);
  return bart_preset(64, 128, 2, 4);
}

/// Flags that replace a field of config.json, each of the kind of model that has it.
struct Overrides {
  template <class T>
  struct Field {
    std::string name, model_type;  ///< no type: of both
    std::optional<T> value{};
  };
  std::vector<Field<index_t>> sizes;
  std::vector<Field<double>> numbers;
  Field<std::string> feed_forward_proj{"feed_forward_proj", "t5"},
      activation_function{"activation_function", "bart"};
  Field<bool> tie_word_embeddings{"tie_word_embeddings", "t5"},
      scale_embedding{"scale_embedding", "bart"};

  void add_to(CLI::App& app) {
    sizes = {{"d_model", ""}, {"vocab_size", ""}};
    for (const char* name : {"d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads",
                             "relative_attention_num_buckets", "relative_attention_max_distance"})
      sizes.push_back({name, "t5"});
    for (const char* name :
         {"encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads",
          "encoder_ffn_dim", "decoder_ffn_dim", "max_position_embeddings"})
      sizes.push_back({name, "bart"});
    for (const char* name : {"dropout_rate", "layer_norm_epsilon", "initializer_factor"})
      numbers.push_back({name, "t5"});
    for (const char* name : {"dropout", "attention_dropout", "activation_dropout", "init_std"})
      numbers.push_back({name, "bart"});
    visit([&](auto& field) {
      const std::string of = field.model_type == "t5" ? " of T5" : " of BART";
      app.add_option("--" + field.name, field.value,
                     "As in config.json" + (field.model_type.empty() ? "" : of));
    });
  }

  void apply(nlohmann::json& config, const std::string& model_type) {
    visit([&](auto& field) {
      if (!field.value) return;
      if (!field.model_type.empty() && field.model_type != model_type)
        throw usage_error("--" + field.name + " does not apply to model_type " + model_type);
      config[field.name] = *field.value;
    });
  }

 private:
  template <class F>
  void visit(F f) {
    for (auto& field : sizes) f(field);
    for (auto& field : numbers) f(field);
    f(feed_forward_proj), f(activation_function), f(tie_word_embeddings), f(scale_embedding);
  }
};

/// The lines of text files, and both columns of files that end in .json or .jsonl.
std::vector<std::string> tokenizer_text(const std::vector<std::string>& files,
                                        const std::string& text, const std::string& summary) {
  std::vector<std::string> lines;
  for (const fs::path file : files) {
    if (file.extension() == ".json" || file.extension() == ".jsonl") {
      for (srformer::Pair& pair : srformer::read_json_lines(file, text, summary)) {
        lines.push_back(std::move(pair.text));
        if (!summary.empty()) lines.push_back(std::move(pair.summary));
      }
      continue;
    }
    const srformer::MappedFile mapped(file);
    for (std::string_view rest = mapped.text(); !rest.empty();) {
      const std::size_t end = std::min(rest.find('\n'), rest.size());
      lines.emplace_back(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  }
  return lines;
}

/// The files of a tokenizer, from a folder or a model file.
void copy_tokenizer(const fs::path& from, const fs::path& to, int extra_ids) {
  if (!fs::exists(from))
    throw srformer::io_error(from.string() + ": does not exist; name a folder or a spiece.model");
  if (!fs::is_directory(from)) {
    fs::copy_file(from, to / "spiece.model");
    srformer::write_t5_tokenizer_config(to, extra_ids);
    return;
  }
  for (const char* name : srformer::tokenizer_file_names)
    if (fs::exists(from / name)) fs::copy_file(from / name, to / name);
}

/// A folder beside the wanted one, whose files move there together at the end.
class FolderAside {
 public:
  FolderAside(fs::path target, bool overwrite)
      : target_(std::move(target)),
        aside_(target_.string() + ".tmp-" + std::to_string(::getpid())) {
    if (fs::exists(target_) && !fs::is_directory(target_))
      throw srformer::io_error(target_.string() + ": is not a folder; choose another name");
    if (!overwrite && fs::exists(target_) && !fs::is_empty(target_))
      throw srformer::io_error(
          target_.string() +
          ": is not empty; choose another folder or give --overwrite_output_dir");
    std::error_code error;
    fs::create_directories(aside_, error);
    if (error)
      srformer::throw_system_error(target_.string(), "cannot create the folder", error.value(),
                                   "choose another folder");
  }
  FolderAside(const FolderAside&) = delete;
  FolderAside& operator=(const FolderAside&) = delete;
  ~FolderAside() {
    std::error_code ignored;
    fs::remove_all(aside_, ignored);
  }

  const fs::path& path() const { return aside_; }

  /// config.json comes last: a folder without it is no checkpoint.
  void commit() {
    fs::create_directories(target_);
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(aside_))
      files.push_back(entry.path().filename());
    std::partition(files.begin(), files.end(),
                   [](const fs::path& file) { return file != "config.json"; });
    for (const char* stale :
         {"config.json", "tokenizer.json", "added_tokens.json", "special_tokens_map.json",
          "spiece.model", "vocab.json", "merges.txt"})
      fs::remove(target_ / stale);
    for (const fs::path& file : files) fs::rename(aside_ / file, target_ / file);
  }

 private:
  fs::path target_, aside_;
};

index_t round_up(index_t n, index_t multiple) { return (n + multiple - 1) / multiple * multiple; }

struct Options {
  std::string output, config_file, preset, tokenizer;
  std::string text_column = "text", summary_column = "summary";
  std::vector<std::string> tokenizer_files;
  index_t tokenizer_vocab_size = 8000;
  int extra_ids = 100;
  std::uint64_t seed = 42;
  bool overwrite = false;
  Overrides overrides;
  srformer::program::CrossAttentionFlags cross_attention;
  bool extra_ids_given = false;

  void parse(int argc, char** argv) {
    CLI::App app("Make a fresh T5 or BART: configuration, initial weights, tokenizer");
    app.add_option("--output_dir", output, "Folder for the checkpoint")->required();
    app.add_flag("--overwrite_output_dir", overwrite, "Replace what is in it");
    auto* config_option = app.add_option("--config", config_file, "config.json to start from");
    auto* preset_option =
        app.add_option("--preset", preset, "A known size instead")
            ->check(CLI::IsMember({"t5-small", "t5-tiny", "bart-base", "bart-tiny"}));
    config_option->excludes(preset_option);
    auto* given = app.add_option("--tokenizer", tokenizer, "Folder or spiece.model to copy");
    app.add_option("--train_tokenizer", tokenizer_files, "Text or JSON lines to train one on")
        ->excludes(given);
    app.add_option("--tokenizer_vocab_size", tokenizer_vocab_size, "Pieces of a trained tokenizer")
        ->capture_default_str();
    app.add_option("--extra_ids", extra_ids, "Sentinels of a trained tokenizer")
        ->capture_default_str()
        ->check(CLI::Range(0, 1000));
    app.add_option("--text_column", text_column, "Of JSON lines")->capture_default_str();
    app.add_option("--summary_column", summary_column, "Of JSON lines")->capture_default_str();
    app.add_option("--seed", seed, "Of the initial weights")->capture_default_str();
    overrides.add_to(app);
    cross_attention.add_to(app);
    srformer::program::parse(app, argc, argv);
    extra_ids_given = app.count("--extra_ids") > 0;
    if (config_file.empty() && preset.empty())
      throw usage_error(
          "give --config FILE or --preset t5-small|t5-tiny|bart-base|bart-tiny; --help lists the "
          "options");
  }

  bool has_tokenizer() const { return !tokenizer_files.empty() || !tokenizer.empty(); }
  /// Where the configuration comes from, for messages.
  std::string place() const { return config_file.empty() ? "preset " + preset : config_file; }
  /// Whether --config or --vocab_size says how many tokens there are.
  bool vocabulary_is_given() const {
    return !config_file.empty() || std::ranges::any_of(overrides.sizes, [](const auto& field) {
      return field.name == "vocab_size" && field.value;
    });
  }
};

/// config.json before the tokenizer is known.
nlohmann::json configuration(Options& options) {
  nlohmann::json config = options.config_file.empty()
                              ? preset(options.preset)
                              : srformer::read_json_file(options.config_file);
  const std::string place = options.place();
  if (!config.is_object()) throw srformer::io_error(place + ": is not a JSON object; correct it");
  const std::string type = srformer::json_field<std::string>(config, "model_type", place);
  if (type == "bart" && options.extra_ids_given)
    throw usage_error("--extra_ids does not apply to a BART, which has no sentinels");
  options.overrides.apply(config, type);
  options.cross_attention.apply(config);
  return config;
}

bool is_bart(const nlohmann::json& config) { return config.at("model_type") == "bart"; }

/// Trains or copies the tokenizer into the folder.
void make_tokenizer(const Options& options, bool bart, const fs::path& folder) {
  if (options.tokenizer_files.empty())
    return copy_tokenizer(options.tokenizer, folder, options.extra_ids);
  const auto text =
      tokenizer_text(options.tokenizer_files, options.text_column, options.summary_column);
  if (bart) {
    srformer::train_byte_bpe(text, options.tokenizer_vocab_size, folder);
  } else {
    srformer::train_sentencepiece(text, options.tokenizer_vocab_size, folder / "spiece.model");
    srformer::write_t5_tokenizer_config(folder, options.extra_ids);
  }
}

/// Puts what the tokenizer decides into the configuration. Returns how many tokens it has.
index_t apply_tokenizer(const srformer::Tokenizer& tokenizer, const Options& options,
                        nlohmann::json& config) {
  const index_t size = tokenizer.size();
  if (!options.vocabulary_is_given())
    config["vocab_size"] = round_up(size, options.tokenizer_files.empty() ? 128 : 16);
  config["pad_token_id"] = tokenizer.pad_id();
  config["eos_token_id"] = tokenizer.eos_id();
  config["decoder_start_token_id"] = is_bart(config) ? tokenizer.eos_id() : tokenizer.pad_id();
  const std::string place = options.place();
  if (const index_t rows = srformer::json_size(config, "vocab_size", place); rows < size)
    throw srformer::io_error(place + ": vocab_size is " + std::to_string(rows) +
                             ", but the tokenizer has " + std::to_string(size) +
                             " tokens; give --vocab_size " + std::to_string(round_up(size, 16)));
  return size;
}

/// generation_config.json.
nlohmann::json generation_of(const srformer::CommonConfig& facts, bool bart) {
  nlohmann::json generation{{"decoder_start_token_id", facts.decoder_start_token_id},
                            {"eos_token_id", facts.eos_token_id},
                            {"pad_token_id", facts.pad_token_id}};
  if (bart) generation["forced_eos_token_id"] = facts.eos_token_id;
  return generation;
}

/// Writes a model with initial weights. Returns how many they are.
index_t save_new_model(const srformer::ModelConfig& config, const Options& options,
                       const nlohmann::json& generation, const fs::path& folder) {
  srformer::EigenBackend be;
  return std::visit(
      [&](const auto& c) {
        using Config = std::remove_cvref_t<decltype(c)>;
        ModelOf<Config> model(be, c);
        model.initialize({options.seed, 0}, options.cross_attention.recurrence_init_scale);
        srformer::save_model(model, folder, srformer::DType::f32, generation);
        return model.parameters().size();
      },
      config);
}

}  // namespace

int main(int argc, char** argv) {
  return srformer::program::run([&] {
    Options options;
    options.parse(argc, argv);
    nlohmann::json config = configuration(options);
    const bool bart = is_bart(config);

    FolderAside folder(options.output, options.overwrite);
    std::string tokenizer = "none";
    if (options.has_tokenizer()) {
      make_tokenizer(options, bart, folder.path());
      const index_t size = apply_tokenizer(srformer::Tokenizer(folder.path()), options, config);
      tokenizer = std::to_string(size) + " tokens";
    }
    const srformer::ModelConfig made = srformer::model_config_from_json(config, options.place());
    const srformer::CommonConfig facts = srformer::common(made);
    const index_t parameters =
        save_new_model(made, options, generation_of(facts, bart), folder.path());
    folder.commit();
    std::printf("%s: %td parameters, vocabulary %td, tokenizer %s, cross-attention %s\n",
                options.output.c_str(), parameters, facts.vocab_size, tokenizer.c_str(),
                facts.cross_attention.variant.c_str());
  });
}
