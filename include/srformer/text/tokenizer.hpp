// SPDX-License-Identifier: Apache-2.0
// The tokenizer of a checkpoint folder, whichever its files are.
//
//   Tokenizer    T5's SentencePieceTokenizer, BART's ByteBpeTokenizer or a JsonTokenizer behind one interface
//   TextStream   the text of ids that come one by one
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/io/file.hpp>
#include <srformer/text/byte_bpe.hpp>
#include <srformer/text/folder_tokens.hpp>
#include <srformer/text/sentencepiece.hpp>
#include <srformer/text/tokenizer_json.hpp>

namespace srformer {

/// The files that a folder's tokenizer may consist of, of whichever kind.
inline constexpr const char* tokenizer_file_names[] = {
    "spiece.model",      "tokenizer.json",          "tokenizer_config.json",
    "added_tokens.json", "special_tokens_map.json", "vocab.json",
    "merges.txt"};

/// Copies the tokenizer of one folder into another, each file replaced whole or not at all; the folders may be the same.
inline void copy_tokenizer_files(const std::filesystem::path& from,
                                 const std::filesystem::path& to) {
  for (const char* name : tokenizer_file_names) {
    if (!std::filesystem::exists(from / name)) continue;
    const MappedFile file(from / name, true);
    ReplacementFile copy(to / name);
    copy.write(file.bytes());
    copy.commit();
  }
}

/// The first file of a tokenizer that two folders do not both have with the same bytes; empty where there is none.
inline std::string differing_tokenizer_file(const std::filesystem::path& a,
                                            const std::filesystem::path& b) {
  for (const char* name : tokenizer_file_names) {
    const bool here = std::filesystem::exists(a / name), there = std::filesystem::exists(b / name);
    if (here != there) return name;
    if (here && MappedFile(a / name).text() != MappedFile(b / name).text()) return name;
  }
  return "";
}

struct TokenizerOptions {
  index_t max_length = 0;          ///< tokens, with the special ones; 0 is no limit
  bool truncation = false;         ///< cut what exceeds max_length; otherwise that is an error
  bool add_special_tokens = true;  ///< T5: A </s>; BART: <s> A </s>
};

/// The tokenizer of a folder. Const calls may run in several threads at once.
class Tokenizer {
 public:
  /// tokenizer.json, where there is one, as its tokenizer_class takes it; or spiece.model: T5's; or vocab.json with merges.txt:
  /// BART's. A file is taken for a SentencePiece model. Throws io_error when there is none of them or one cannot be read.
  explicit Tokenizer(const std::filesystem::path& folder_or_file) : any_(open(folder_or_file)) {}

  Tokenizer(SentencePieceTokenizer tokenizer) : any_(std::move(tokenizer)) {}
  Tokenizer(ByteBpeTokenizer tokenizer) : any_(std::move(tokenizer)) {}
  Tokenizer(JsonTokenizer tokenizer) : any_(std::move(tokenizer)) {}

  /// Calls f with the SentencePieceTokenizer, ByteBpeTokenizer or JsonTokenizer.
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
    if (const auto* bart = std::get_if<ByteBpeTokenizer>(&any_))
      return bart->encode(text, {.add_special_tokens = options.add_special_tokens,
                                 .max_length = options.max_length,
                                 .truncation = options.truncation});
    return std::get<JsonTokenizer>(any_).encode(text,
                                                {.add_special_tokens = options.add_special_tokens,
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
  using Any = std::variant<SentencePieceTokenizer, ByteBpeTokenizer, JsonTokenizer>;

  static Any open(const std::filesystem::path& folder) {
    namespace fs = std::filesystem;
    using detail::TokenizerClass;
    if (!fs::is_directory(folder)) return SentencePieceTokenizer(folder);
    const detail::TokenizerFiles files(folder);
    const bool unigram = files.has_whole && detail::model_type(files) == "Unigram",
               spiece = fs::exists(folder / "spiece.model"),
               pairs = fs::exists(folder / "vocab.json") && fs::exists(folder / "merges.txt");
    if (!files.has_whole && !spiece && !pairs) refuse_without_files(folder);
    if (files.kind == TokenizerClass::other)
      throw io_error(folder.string() + ": tokenizer_class is " + one_line(files.class_name) +
                     ", which is not known here; T5Tokenizer, BartTokenizer, RobertaTokenizer and "
                     "GPT2Tokenizer are, and PreTrainedTokenizerFast, which follows a "
                     "tokenizer.json as it is written");
    if (files.has_whole && files.kind == TokenizerClass::as_written) return JsonTokenizer(files);
    const bool t5 = files.has_whole ? files.kind == TokenizerClass::t5 ||
                                          (files.kind == TokenizerClass::unnamed && unigram)
                                    : spiece;
    if (t5) return SentencePieceTokenizer(files);
    return ByteBpeTokenizer(files);
  }

  [[noreturn]] static void refuse_without_files(const std::filesystem::path& folder) {
    const bool words = std::filesystem::exists(folder / "vocab.txt");
    throw io_error(folder.string() + ": has no tokenizer " +
                   (words ? "that is known here: vocab.txt is BertTokenizer's (WordPiece)"
                          : "(tokenizer.json, spiece.model, or vocab.json with merges.txt)") +
                   "; copy that of " + (words ? "another checkpoint" : "the checkpoint") +
                   " into it");
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
