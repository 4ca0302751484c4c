// SPDX-License-Identifier: Apache-2.0
// A fresh checkpoint folder, as transformers reads it, with a tokenizer given or trained here.
//
//   init_model --output_dir model --preset t5-tiny --train_tokenizer text.txt --tokenizer_vocab_size 384
//   init_model --output_dir model --config config.json --tokenizer t5-small --seed 1
#include <unistd.h>
#include <algorithm>
#include <deque>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include <srformer/backend/eigen.hpp>
#include <srformer/io/folder_lock.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/text/tokenizer.hpp>

#include "architectures.hpp"
#include "cross_attention_flags.hpp"
#include "data_flags.hpp"

namespace {

namespace fs = std::filesystem;
using srformer::index_t;
using srformer::program::usage_error;

using srformer::program::ModelConfig;
using srformer::program::ProgramArchitectures;
using srformer::program::ProgramVariants;

/// config.json of every known size, by name. The tokenizer decides the vocabulary where there is one.
std::map<std::string, nlohmann::json> presets() {
  std::map<std::string, nlohmann::json> all;
  ProgramArchitectures::for_each([&]<class C>(std::type_identity<C>) {
    if constexpr (requires { C::presets(); })
      for (const auto& [name, config] : C::presets()) all.emplace(name, to_json(config));
  });
  return all;
}

/// Flags that replace a field of config.json, each of the architectures that have it.
class Overrides {
 public:
  void add_to(CLI::App& app) {
    ProgramArchitectures::for_each([&]<class C>(std::type_identity<C>) {
      C config;
      C::visit(config, [&](const srformer::ConfigField& info, auto&& member) {
        using M = std::remove_cvref_t<decltype(member)>;
        if (std::is_same_v<M, std::int32_t>) return;  // a token id is the tokenizer's to say
        Field& field = of(info.name);
        field.model_types.emplace_back(C::model_type);
        if constexpr (std::is_same_v<M, index_t> || std::is_same_v<M, double> ||
                      std::is_same_v<M, bool>)
          field.value = std::optional<M>();
      });
    });
    for (Field& field : fields_) {
      const std::string help = "As in config.json of " + field.owners();
      std::visit([&](auto& value) { app.add_option("--" + field.name, value, help); }, field.value);
    }
  }

  void apply(nlohmann::json& config, const std::string& model_type) const {
    for (const Field& field : fields_) {
      const auto set = [&](const auto& value) {
        if (!value) return;
        if (std::ranges::find(field.model_types, model_type) == field.model_types.end())
          throw usage_error("--" + field.name + " does not apply to model_type " + model_type);
        srformer::set_config_field(config, field.name, *value);
      };
      std::visit(set, field.value);
    }
  }

  bool given(std::string_view name) const {
    return std::ranges::any_of(fields_, [&](const Field& field) {
      return field.name == name &&
             std::visit([](const auto& value) { return value.has_value(); }, field.value);
    });
  }

 private:
  struct Field {
    std::string name;
    std::vector<std::string> model_types{};
    std::variant<std::optional<std::string>, std::optional<index_t>, std::optional<double>,
                 std::optional<bool>>
        value{};

    std::string owners() const {
      std::string all;
      for (const std::string& type : model_types) all += (all.empty() ? "" : ", ") + type;
      return all;
    }
  };

  Field& of(std::string_view name) {
    for (Field& field : fields_)
      if (field.name == name) return field;
    return fields_.emplace_back(Field{std::string(name)});
  }

  std::deque<Field> fields_;
};

/// The lines of text files, and both columns of other data; rows without a text are left out.
std::vector<std::string> tokenizer_text(const std::vector<std::string>& files,
                                        srformer::program::DataFlags data,
                                        std::vector<std::string>& notices) {
  data.drop_empty = true;
  auto read = srformer::read_pairs(files, data.options(srformer::SummaryColumn::if_there));
  std::vector<std::string> texts;
  for (srformer::Pair& pair : read.rows) {
    texts.push_back(std::move(pair.text));
    if (!pair.summary.empty()) texts.push_back(std::move(pair.summary));
  }
  notices = std::move(read.notices);
  return texts;
}

/// Draws `count` of the texts, each as likely as any, and keeps their order: every seed has its choice.
std::vector<std::string> drawn_texts(std::vector<std::string> texts, index_t count,
                                     std::uint64_t seed) {
  constexpr std::uint64_t stream_of_texts = 0x74657874;  // no parameter's
  const srformer::RandomStream random{seed, stream_of_texts};
  std::vector<std::string> drawn;
  auto wanted = static_cast<std::uint64_t>(count);
  for (std::uint64_t i = 0, n = texts.size(); i < n && wanted > 0; ++i)
    if (srformer::random_below(random, i, n - i) < wanted) {
      drawn.push_back(std::move(texts[i]));
      --wanted;
    }
  return drawn;
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
  srformer::copy_tokenizer_files(from, to);
}

/// A folder beside the wanted one, whose files move there together at the end. The wanted one is locked meanwhile.
class FolderAside {
 public:
  FolderAside(fs::path target, bool overwrite)
      : lock_(target),
        target_(std::move(target)),
        aside_(target_.string() + ".tmp-" + std::to_string(::getpid())) {
    if (!overwrite && lock_.in_use())
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
  const std::vector<std::string>& notices() const { return lock_.notices(); }

  /// config.json comes last: a folder without it is no checkpoint.
  void commit() {
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
  srformer::FolderLock lock_;
  fs::path target_, aside_;
};

index_t round_up(index_t n, index_t multiple) { return (n + multiple - 1) / multiple * multiple; }

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const auto& [name, config] : presets()) names.push_back(name);
  return names;
}

struct Options {
  std::string output, config_file, preset, tokenizer;
  srformer::program::DataFlags data;
  std::vector<std::string> tokenizer_files, notices;
  index_t tokenizer_vocab_size = 8000, tokenizer_samples = 0;
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
    auto* preset_option = app.add_option("--preset", preset, "A known size instead")
                              ->check(CLI::IsMember(preset_names()));
    config_option->excludes(preset_option);
    auto* given = app.add_option("--tokenizer", tokenizer, "Folder or spiece.model to copy");
    app.add_option("--train_tokenizer", tokenizer_files, "Texts or pairs to train one on")
        ->excludes(given);
    app.add_option("--tokenizer_vocab_size", tokenizer_vocab_size, "Pieces of a trained tokenizer")
        ->capture_default_str();
    app.add_option("--tokenizer_samples", tokenizer_samples,
                   "Train it on so many texts, drawn by --seed; 0: on all")
        ->capture_default_str()
        ->check(CLI::NonNegativeNumber);
    app.add_option("--extra_ids", extra_ids,
                   "Sentinels of a trained tokenizer; of a BART's none unless given")
        ->capture_default_str()
        ->check(CLI::Range(0, 1000));
    app.add_option("--text_column", data.text_column,
                   "Column of the texts; else found by its name");
    app.add_option("--summary_column", data.summary_column,
                   "Column of the summaries; else found by its name, where there is one");
    srformer::program::add_format_flag(app, "--input_format", data.format);
    app.add_option("--seed", seed, "Of the initial weights")->capture_default_str();
    overrides.add_to(app);
    cross_attention.add_to(app);
    srformer::program::parse(app, argc, argv);
    extra_ids_given = app.count("--extra_ids") > 0;
    if (tokenizer_samples > 0 && tokenizer_files.empty())
      throw usage_error("--tokenizer_samples does not apply without --train_tokenizer");
    if (config_file.empty() && preset.empty())
      throw usage_error(
          "give --config FILE or --preset with a known size; --help lists the options");
  }

  bool has_tokenizer() const { return !tokenizer_files.empty() || !tokenizer.empty(); }
  /// Where the configuration comes from, for messages.
  std::string place() const { return config_file.empty() ? "preset " + preset : config_file; }
  /// Whether --config or --vocab_size says how many tokens there are.
  bool vocabulary_is_given() const { return !config_file.empty() || overrides.given("vocab_size"); }
};

/// What the architecture of a configuration takes of its tokenizer.
srformer::Conventions conventions_of(const nlohmann::json& config) {
  srformer::Conventions found;
  ProgramArchitectures::for_each([&]<class C>(std::type_identity<C>) {
    if (srformer::plain_model_type(config.at("model_type").get<std::string>()) == C::model_type)
      found = C::conventions;
  });
  return found;
}

/// config.json before the tokenizer is known.
nlohmann::json configuration(Options& options) {
  nlohmann::json config = options.config_file.empty()
                              ? presets().at(options.preset)
                              : srformer::read_json_file(options.config_file);
  const std::string place = options.place();
  if (!config.is_object()) throw srformer::io_error(place + ": is not a JSON object; correct it");
  const std::string type(
      srformer::plain_model_type(srformer::json_field<std::string>(config, "model_type", place)));
  if (conventions_of(config).byte_level_bpe && options.extra_ids_given &&
      options.tokenizer_files.empty())
    throw usage_error("--extra_ids does not apply to a " + type +
                      ", which has no sentinels, without --train_tokenizer");
  options.overrides.apply(config, type);
  options.cross_attention.recommend(config);
  options.cross_attention.apply(config);
  // finetune measures it: there is no batch here.
  if (options.cross_attention.recurrence_start(config, place, true).measured)
    config[srformer::program::recurrence_start_field] = "auto";
  return config;
}

/// Trains or copies the tokenizer into the folder.
void make_tokenizer(Options& options, bool byte_level_bpe, const fs::path& folder) {
  if (options.tokenizer_files.empty())
    return copy_tokenizer(options.tokenizer, folder, options.extra_ids);
  auto text = tokenizer_text(options.tokenizer_files, options.data, options.notices);
  if (options.tokenizer_samples > 0)
    text = drawn_texts(std::move(text), options.tokenizer_samples, options.seed);
  if (byte_level_bpe) {
    srformer::train_byte_bpe(text, options.tokenizer_vocab_size, folder,
                             {.sentinels = options.extra_ids_given ? options.extra_ids : 0});
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
  config["decoder_start_token_id"] =
      conventions_of(config).starts_from_eos ? tokenizer.eos_id() : tokenizer.pad_id();
  const std::string place = options.place();
  if (const index_t rows = srformer::json_size(config, "vocab_size", place); rows < size)
    throw srformer::io_error(place + ": vocab_size is " + std::to_string(rows) +
                             ", but the tokenizer has " + std::to_string(size) +
                             " tokens; give --vocab_size " + std::to_string(round_up(size, 16)));
  return size;
}

/// generation_config.json.
nlohmann::json generation_of(const srformer::CommonConfig& facts, bool forces_eos) {
  nlohmann::json generation{{"decoder_start_token_id", facts.decoder_start_token_id},
                            {"eos_token_id", facts.eos_token_id},
                            {"pad_token_id", facts.pad_token_id}};
  if (forces_eos) generation["forced_eos_token_id"] = facts.eos_token_id;
  return generation;
}

/// Writes a model with initial weights. Returns how many they are.
index_t save_new_model(const ModelConfig& config, const Options& options,
                       const nlohmann::json& generation, const fs::path& folder) {
  srformer::EigenBackend be;
  const auto model = ProgramArchitectures::make<float, ProgramVariants>(be, config);
  const nlohmann::json json = std::visit([](const auto& c) { return to_json(c); }, config);
  model->initialize({options.seed, 0},
                    options.cross_attention.recurrence_start(json, options.place(), true).factor);
  srformer::save_model(*model, folder, srformer::DType::f32, generation);
  return model->parameters().size();
}

}  // namespace

int main(int argc, char** argv) {
  return srformer::program::run([&] {
    Options options;
    options.parse(argc, argv);
    nlohmann::json config = configuration(options);
    const srformer::Conventions conventions = conventions_of(config);

    FolderAside folder(options.output, options.overwrite);
    srformer::program::tell(folder.notices());
    std::string tokenizer = "none";
    if (options.has_tokenizer()) {
      make_tokenizer(options, conventions.byte_level_bpe, folder.path());
      const index_t size = apply_tokenizer(srformer::Tokenizer(folder.path()), options, config);
      tokenizer = std::to_string(size) + " tokens";
    }
    const ModelConfig made = ProgramArchitectures::read(config, options.place());
    const srformer::CommonConfig facts = srformer::common(made);
    const index_t parameters =
        save_new_model(made, options, generation_of(facts, conventions.forces_eos), folder.path());
    folder.commit();
    srformer::program::tell(options.notices);
    std::printf("%s: %td parameters, vocabulary %td, tokenizer %s, cross-attention %s\n",
                options.output.c_str(), parameters, facts.vocab_size, tokenizer.c_str(),
                facts.cross_attention.variant.c_str());
  });
}
