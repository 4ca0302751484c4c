// SPDX-License-Identifier: Apache-2.0
// The tokenizer of a checkpoint folder, whichever its files are.
//
//   Tokenizer   T5's SentencePieceTokenizer or BART's ByteBpeTokenizer behind one interface
#pragma once

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
#include <srformer/text/byte_bpe.hpp>
#include <srformer/text/sentencepiece.hpp>
#include <srformer/text/tokenizer_folder.hpp>

namespace srformer {

/// The files that a folder's tokenizer may consist of, of whichever kind.
inline constexpr const char* tokenizer_file_names[] = {
    "spiece.model",      "tokenizer.json",          "tokenizer_config.json",
    "added_tokens.json", "special_tokens_map.json", "vocab.json",
    "merges.txt"};

struct TokenizerOptions {
  index_t max_length = 0;          ///< tokens, with the special ones; 0 is no limit
  bool truncation = false;         ///< cut what exceeds max_length; otherwise that is an error
  bool add_special_tokens = true;  ///< T5: A </s>; BART: <s> A </s>
};

/// The tokenizer of a folder. Const calls may run in several threads at once.
class Tokenizer {
 public:
  /// spiece.model, or tokenizer.json with a Unigram model: T5's. tokenizer.json with a BPE model, or vocab.json with
  /// merges.txt: BART's. A file is taken for a SentencePiece model. Throws io_error when there is none of them or one
  /// cannot be read.
  explicit Tokenizer(const std::filesystem::path& folder_or_file) : any_(open(folder_or_file)) {}

  Tokenizer(SentencePieceTokenizer tokenizer) : any_(std::move(tokenizer)) {}
  Tokenizer(ByteBpeTokenizer tokenizer) : any_(std::move(tokenizer)) {}

  /// Calls f(SentencePieceTokenizer) or f(ByteBpeTokenizer).
  template <class F>
  decltype(auto) visit(F&& f) const {
    return std::visit(std::forward<F>(f), any_);
  }

  /// Ids of UTF-8 text as transformers' tokenizer of the folder gives. Throws shape_error for invalid UTF-8 and for more
  /// than max_length tokens without truncation.
  std::vector<std::int32_t> encode(std::string_view text, TokenizerOptions options = {}) const {
    if (const auto* t5 = std::get_if<SentencePieceTokenizer>(&any_))
      return t5->encode(text, {.add_eos = options.add_special_tokens,
                               .max_length = options.max_length,
                               .truncation = options.truncation});
    return std::get<ByteBpeTokenizer>(any_).encode(
        text, {.add_special_tokens = options.add_special_tokens,
               .max_length = options.max_length,
               .truncation = options.truncation});
  }

  /// Text of ids; those from size() on give nothing. Throws shape_error for a negative id.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = true) const {
    return visit([&](const auto& t) { return t.decode(ids, skip_special_tokens); });
  }

  /// Bytes at the end of a decoded text that ids to come may change.
  std::size_t unsettled(std::string_view text) const {
    return visit([&](const auto& t) { return t.unsettled(text); });
  }

  /// Number of ids. An embedding may have more rows.
  index_t size() const {
    return visit([](const auto& t) { return t.size(); });
  }
  /// -1 where there is no such token.
  std::int32_t pad_id() const {
    return visit([](const auto& t) { return t.pad_id(); });
  }
  std::int32_t bos_id() const {
    return visit([](const auto& t) { return t.bos_id(); });
  }
  std::int32_t eos_id() const {
    return visit([](const auto& t) { return t.eos_id(); });
  }
  std::int32_t unk_id() const {
    return visit([](const auto& t) { return t.unk_id(); });
  }

  /// Token of an id as its vocabulary writes it; throws shape_error unless 0 <= id < size().
  std::string_view piece(std::int32_t id) const {
    return visit([&](const auto& t) { return t.piece(id); });
  }
  /// Id of a token as its vocabulary writes it, or nothing.
  std::optional<std::int32_t> id(std::string_view piece) const {
    return visit([&](const auto& t) { return t.id(piece); });
  }

 private:
  using Any = std::variant<SentencePieceTokenizer, ByteBpeTokenizer>;

  static Any open(const std::filesystem::path& folder) {
    namespace fs = std::filesystem;
    const fs::path whole = folder / "tokenizer.json";
    if (!fs::is_directory(folder) || fs::exists(folder / "spiece.model"))
      return SentencePieceTokenizer(folder);
    if (fs::exists(whole)) {
      if (model_type(whole) == "Unigram") return SentencePieceTokenizer(folder);
    } else if (!fs::exists(folder / "vocab.json") || !fs::exists(folder / "merges.txt")) {
      throw io_error(folder.string() +
                     ": has no tokenizer (spiece.model, tokenizer.json, or vocab.json with "
                     "merges.txt); copy that of the checkpoint into it");
    }
    return ByteBpeTokenizer(folder);
  }

  /// "type" of "model" in a tokenizer.json; without one, BPE if it has merges.
  static std::string model_type(const std::filesystem::path& path) {
    const nlohmann::json json = detail::read_tokenizer_json(path);
    std::string type;
    detail::interpret_json(path, [&] {
      const nlohmann::json& model = json.at("model");
      type = model.value("type", model.contains("merges") ? "BPE" : "Unigram");
      if (type != "BPE" && type != "Unigram")
        throw io_error(path.string() + ": holds a " + type +
                       " model, expected Unigram (T5) or BPE (BART); name the folder of one");
    });
    return type;
  }

  Any any_;
};

/// The text of ids that come one by one, as far as it is settled: all parts together are Tokenizer::decode of all ids.
/// An id costs decoding those before it again, O(n).
class TextStream {
 public:
  /// `tokenizer` must stay.
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  /// What an id adds; empty where the ids to come decide. Throws shape_error for a negative id.
  std::string add(std::int32_t id) {
    ids_.push_back(id);
    text_ = tokenizer_.decode(ids_);
    return up_to(text_.size() - tokenizer_.unsettled(text_));
  }

  /// The rest: no more ids come.
  std::string finish() { return up_to(text_.size()); }

 private:
  std::string up_to(std::size_t end) {
    if (end <= given_) return {};
    return text_.substr(std::exchange(given_, end), end - given_);
  }

  const Tokenizer& tokenizer_;
  std::vector<std::int32_t> ids_;
  std::string text_;
  std::size_t given_ = 0;  // bytes of text_ that were returned
};

}  // namespace srformer
