// SPDX-License-Identifier: Apache-2.0
// A tokenizer.json taken as it is written: normaliser, words, model, the ids around a text and decoder, each a step that
// the file names.
//
//   WordModel       a word -> ids: Unigram, or byte pair encoding over characters or bytes
//   JsonTokenizer   text -> ids -> text
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/text/bpe_files.hpp>
#include <srformer/text/folder_tokens.hpp>
#include <srformer/text/normalizer.hpp>
#include <srformer/text/post_processor.hpp>
#include <srformer/text/pre_tokenizer.hpp>
#include <srformer/text/token_decoder.hpp>
#include <srformer/text/unigram.hpp>

namespace srformer {

struct JsonOptions {
  bool add_special_tokens = true;  ///< what the post-processor puts around a text
  index_t max_length = 0;          ///< tokens, with the special ones; 0 is no limit
  bool truncation = false;         ///< cut what exceeds max_length; otherwise that is an error
};

namespace detail {

/// Ids of <0x00> to <0xFF>, -1 where there is none.
inline std::array<std::int32_t, 256> hexadecimal_byte_ids(const Vocabulary& vocabulary) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  std::array<std::int32_t, 256> ids;
  for (std::size_t b = 0; b < 256; ++b)
    ids[b] = vocabulary.id(std::string("<0x") + digits[b >> 4] + digits[b & 15] + ">").value_or(-1);
  return ids;
}

/// Unigram: the best segmentation of a word.
class UnigramModel {
 public:
  UnigramModel(const nlohmann::json& model, const std::filesystem::path& path,
               Vocabulary& vocabulary) {
    for (const auto& entry : model.at("vocab")) {
      const auto& piece = entry.at(0).get_ref<const std::string&>();
      vocabulary.append(piece);
      pieces_.add(piece, entry.at(1).get<double>(), path);
    }
    unk_id_ = given_or<std::int32_t>(model, "unk_id", -1);
    if (unk_id_ < 0 || unk_id_ >= vocabulary.size())
      throw io_error(path.string() + ": the model has no unk_id below its " +
                     std::to_string(vocabulary.size()) +
                     " pieces, so it could not read every text; correct it");
    if (given_or(model, "byte_fallback", false))
      pieces_.spell_unknown(hexadecimal_byte_ids(vocabulary),
                            std::string(vocabulary.piece(unk_id_)));
  }

  using Work = UnigramPieces::Work;
  void encode(std::string_view word, const Vocabulary&, std::vector<std::int32_t>& ids,
              Work& work) const {
    pieces_.segment(word, unk_id_, ids, work);
  }

 private:
  UnigramPieces pieces_;
  std::int32_t unk_id_;
};

/// Byte pair encoding: the characters of a word, merged.
class BpeModel {
 public:
  BpeModel(const nlohmann::json& model, const std::filesystem::path& path, Vocabulary& vocabulary)
      : prefix_(given_or<std::string>(model, "continuing_subword_prefix", "")),
        suffix_(given_or<std::string>(model, "end_of_word_suffix", "")),
        fuse_unk_(given_or(model, "fuse_unk", false)),
        ignore_merges_(given_or(model, "ignore_merges", false)) {
    if (given_or(model, "dropout", 0.0) != 0)
      throw io_error(path.string() +
                     ": the model has a dropout, which makes ids random; set it to null");
    append_vocabulary(model.at("vocab"), path, vocabulary);
    read_merges(model.at("merges"), prefix_, path, vocabulary, merges_);
    if (given_or(model, "byte_fallback", false)) fallback_ = hexadecimal_byte_ids(vocabulary);
    const auto unk = given_or<std::string>(model, "unk_token", "");
    if (unk.empty()) return;
    const auto id = vocabulary.id(unk);
    if (!id)
      throw io_error(path.string() + ": unk_token \"" + one_line(unk) +
                     "\" is not in the vocabulary; correct it");
    unk_id_ = *id;
  }

  /// Takes words as bytes from now on, if every byte has a token. Returns whether it does.
  bool read_bytes(const Vocabulary& vocabulary) {
    if (!prefix_.empty() || !suffix_.empty() || ignore_merges_) return false;
    std::array<std::int32_t, 256> ids{};
    const auto tokens = byte_tokens();
    for (std::size_t b = 0; b < 256; ++b) {
      const auto id = vocabulary.id(tokens[b]);
      if (!id) return false;
      ids[b] = *id;
    }
    byte_ids_ = ids;
    return true;
  }

  using Work = MergeTable::Work;
  void encode(std::string_view word, const Vocabulary& vocabulary, std::vector<std::int32_t>& ids,
              Work& work) const {
    const std::size_t begin = ids.size();
    if (byte_ids_) {
      for (const char byte : word) ids.push_back((*byte_ids_)[std::uint8_t(byte)]);
    } else {
      if (ignore_merges_)
        if (const auto whole = vocabulary.id(word); whole && *whole < model_size_)
          return ids.push_back(*whole);
      push_characters(word, vocabulary, ids);
    }
    merges_.merge(ids, begin, work);
  }

  /// Tokens with ids from `size` on are not the model's.
  void set_size(index_t size) { model_size_ = std::int32_t(size); }

 private:
  void push_characters(std::string_view word, const Vocabulary& vocabulary,
                       std::vector<std::int32_t>& ids) const {
    bool unknown_before = false;
    std::size_t at = 0;
    std::string spelt;
    for_each_character(word, [&](char32_t, std::string_view bytes) {
      std::string_view token = bytes;
      const bool last = at + bytes.size() == word.size();
      if ((at > 0 && !prefix_.empty()) || (last && !suffix_.empty())) {
        spelt = at > 0 ? prefix_ : "";
        spelt += bytes;
        if (last) spelt += suffix_;
        token = spelt;
      }
      at += bytes.size();
      const auto id = vocabulary.id(token);
      if (id && *id < model_size_) {
        ids.push_back(*id);
        unknown_before = false;
      } else if (!push_bytes(token, ids) && unk_id_ >= 0) {
        if (!unknown_before || !fuse_unk_) ids.push_back(unk_id_);
        unknown_before = true;
      }
    });
  }

  bool push_bytes(std::string_view token, std::vector<std::int32_t>& ids) const {
    if (!fallback_) return false;
    for (const char byte : token)
      if ((*fallback_)[std::uint8_t(byte)] < 0) return false;
    for (const char byte : token) ids.push_back((*fallback_)[std::uint8_t(byte)]);
    return true;
  }

  MergeTable merges_;
  std::string prefix_, suffix_;
  bool fuse_unk_, ignore_merges_;
  std::optional<std::array<std::int32_t, 256>> fallback_, byte_ids_;
  std::int32_t unk_id_ = -1;  // then unknown characters vanish, as in tokenizers
  std::int32_t model_size_ = 0;
};

}  // namespace detail

/// The tokenizer of a tokenizer.json, as transformers' PreTrainedTokenizerFast. Const calls may run in several threads at
/// once.
class JsonTokenizer {
 public:
  /// Reads tokenizer.json of a folder, with tokenizer_config.json, special_tokens_map.json and added_tokens.json where they
  /// exist. Throws io_error, naming the file and the step, for what is not known here.
  explicit JsonTokenizer(const std::filesystem::path& folder)
      : JsonTokenizer(detail::TokenizerFiles(folder)) {}

  /// The same of a folder whose files are read already.
  explicit JsonTokenizer(const detail::TokenizerFiles& files) : model_(load(files)) {
    detail::interpret_json(files.config_path(), [&] {
      clean_up_ =
          !is_bpe() && detail::given_or(files.config, "clean_up_tokenization_spaces", false);
    });
    ids_ = detail::add_tokens(vocabulary_, files, {});
    ends_.truncates_left = files.truncates_left;
    detail::interpret_json(files.whole_path(), [&] {
      detail::read_post_processor(files.whole, size(), files.whole_path(), ends_);
    });
    vocabulary_.find_added(normalizer_, files.split_special, files.folder);
  }

  /// Ids of UTF-8 text. Throws shape_error for invalid UTF-8 and for more than max_length tokens without truncation.
  std::vector<std::int32_t> encode(std::string_view text, JsonOptions options = {}) const {
    constexpr std::string_view function = "JsonTokenizer::encode";
    detail::require_utf8(text, function);
    require(std::in_range<std::int32_t>(text.size()), function, "text is not below 2 GiB");
    std::vector<std::int32_t> ids;
    std::visit(
        [&](const auto& model) {
          typename std::decay_t<decltype(model)>::Work work;
          vocabulary_.split(
              text, normalizer_,
              [&](std::string_view plain, bool begins) {
                pre_tokenizer_(plain, begins, [&](std::string_view word) {
                  model.encode(word, vocabulary_, ids, work);
                });
              },
              [&](std::int32_t id) { ids.push_back(id); });
        },
        model_);
    return ends_.around(std::move(ids), options.add_special_tokens, options.max_length,
                        options.truncation, function);
  }

  /// Text of ids; those from size() on give nothing. Throws shape_error for a negative id.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = true) const {
    detail::Tokens tokens;
    vocabulary_.for_each_decoded(ids, skip_special_tokens,
                                 [&](std::string_view token) { tokens.emplace_back(token); });
    std::string text = decoder_(std::move(tokens));
    return clean_up_ ? detail::clean_up(std::move(text)) : text;
  }

  /// Bytes at the end of a decoded text that ids to come may change.
  std::size_t unsettled(std::string_view text) const {
    const std::size_t decoded = decoder_.unsettled(text);
    return clean_up_ ? std::max(decoded, detail::not_cleaned_up(text)) : decoded;
  }

  /// Number of ids: those of the model and added tokens. An embedding may have more rows.
  index_t size() const { return vocabulary_.size(); }
  /// Ids of the named tokens; -1 where the folder names none.
  std::int32_t pad_id() const { return ids_.pad; }
  std::int32_t bos_id() const { return ids_.bos; }
  std::int32_t eos_id() const { return ids_.eos; }
  std::int32_t unk_id() const { return ids_.unk; }

  /// Token of an id as the file writes it; throws shape_error unless 0 <= id < size().
  std::string_view piece(std::int32_t id) const { return vocabulary_.piece(id); }
  /// Id of a token as the file writes it, or nothing.
  std::optional<std::int32_t> id(std::string_view piece) const { return vocabulary_.id(piece); }

 private:
  using Model = std::variant<detail::UnigramModel, detail::BpeModel>;

  bool is_bpe() const { return std::holds_alternative<detail::BpeModel>(model_); }

  /// Reads the steps and the model with its vocabulary.
  Model load(const detail::TokenizerFiles& files) {
    const std::filesystem::path path = files.whole_path();
    if (!files.has_whole) throw io_error(path.string() + ": is missing; copy it into the folder");
    std::optional<Model> model;
    detail::interpret_json(path, [&] {
      const auto step = [&](const char* key) {
        const nlohmann::json* found = detail::given(files.whole, key);
        return found ? *found : nlohmann::json();
      };
      normalizer_ = detail::Normalizer(step("normalizer"), path);
      pre_tokenizer_ = detail::PreTokenizer(step("pre_tokenizer"), path);
      decoder_ = detail::TokenDecoder(step("decoder"), path);
      const nlohmann::json& json = files.whole.at("model");
      if (detail::model_type(files) == "Unigram")
        model.emplace(detail::UnigramModel(json, path, vocabulary_));
      else
        model.emplace(bpe(json, path));
    });
    return std::move(*model);
  }

  detail::BpeModel bpe(const nlohmann::json& json, const std::filesystem::path& path) {
    detail::BpeModel model(json, path, vocabulary_);
    model.set_size(vocabulary_.size());
    if (pre_tokenizer_.ends_with_bytes() && model.read_bytes(vocabulary_))
      pre_tokenizer_.leave_bytes();
    return model;
  }

  detail::Vocabulary vocabulary_;
  detail::Normalizer normalizer_;
  detail::PreTokenizer pre_tokenizer_;
  detail::TokenDecoder decoder_;
  detail::NamedIds ids_;
  detail::EncodingEnds ends_;
  Model model_;
  bool clean_up_ = false;
};

}  // namespace srformer
