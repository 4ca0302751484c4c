// SPDX-License-Identifier: Apache-2.0
// T5's tokenizer: a SentencePiece unigram model (Kudo, "Subword regularization", 2018) under the sentinels and special
// tokens of Hugging Face's T5Tokenizer, and the training of such a model. docs/text.md says where the two differ.
//
//   SentencePieceTokenizer        text -> ids -> text, from a checkpoint folder or a model file
//   train_sentencepiece           lines -> spiece.model
//   write_t5_tokenizer_config     tokenizer_config.json beside it
#pragma once

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/io/file.hpp>
#include <srformer/text/tokenizer_folder.hpp>
#include <srformer/text/unigram.hpp>

namespace srformer {

struct SentencePieceOptions {
  bool add_eos = true;
  index_t max_length = 0;   ///< tokens, with eos; 0 is no limit
  bool truncation = false;  ///< cut what exceeds max_length; otherwise that is an error
};

namespace detail {

/// Bytes of the Unicode White_Space character that `text` begins with, or 0; not the vertical tab, which T5's normaliser
/// removes.
inline std::size_t white_space_prefix(std::string_view text) {
  if (text.empty()) return 0;
  const char c = text[0];
  if (c == ' ' || c == '\t' || c == '\n' || c == '\f' || c == '\r') return 1;
  if (text.starts_with("\u0085") || text.starts_with("\u00a0")) return 2;
  const std::string_view three = text.substr(0, 3);
  const bool space = three == "\u1680" || three == "\u2028" || three == "\u2029" ||
                     three == "\u202f" || three == "\u205f" || three == "\u3000" ||
                     (three >= "\u2000" && three <= "\u200a");
  return space ? 3 : 0;
}

/// Bytes of standard base64 up to its padding; nothing when another character is met.
inline std::optional<std::string> base64_bytes(std::string_view text) {
  static constexpr std::string_view alphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text.substr(0, text.find('='))) {
    const std::size_t digit = alphabet.find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    bits = bits << 6 | std::uint32_t(digit);
    count += 6;
    if (count >= 8) bytes += char(bits >> (count -= 8) & 0xff);
  }
  return bytes;
}

/// Whether the top level of a serialized model is complete: a file cut off between two pieces still parses, but lacks
/// the normalizer_spec (field 3) that follows them.
inline bool has_normalizer_spec(std::string_view model) {
  bool found = false;
  std::size_t at = 0;
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (int shift = 0; at < model.size() && shift < 64; shift += 7) {
      const auto byte = std::uint8_t(model[at++]);
      value |= std::uint64_t(byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    return value;
  };
  while (at < model.size()) {
    const std::uint64_t tag = varint(), length = varint();
    if ((tag & 7) != 2 || length > model.size() - at) return false;
    found = found || tag >> 3 == 3;
    at += length;
  }
  return found;
}

/// The few fields of sentencepiece_model.proto that a unigram model needs, in the wire format of protocol buffers.
class ModelWriter {
 public:
  enum class Kind : std::uint8_t { normal = 1, unknown = 2, control = 3 };

  void piece(std::string_view text, float score, Kind kind) {
    std::string message;
    bytes(message, 1, text);
    varint(message, 2 << 3 | 5);
    for (std::uint32_t bits = std::bit_cast<std::uint32_t>(score), i = 0; i < 4; ++i, bits >>= 8)
      message += char(bits & 0xff);
    number(message, 3, std::uint32_t(kind));
    bytes(model_, 1, message);
  }

  std::string finish(std::uint32_t unk_id, std::string_view charsmap) {
    std::string trainer, normalizer;
    number(trainer, 3, 1);  // model_type: unigram
    number(trainer, 40, unk_id);
    bytes(model_, 2, trainer);
    bytes(normalizer, 2, charsmap);
    bytes(model_, 3, normalizer);
    return std::move(model_);
  }

 private:
  static void varint(std::string& out, std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) out += char(value | 0x80);
    out += char(value);
  }
  static void number(std::string& out, std::uint32_t field, std::uint64_t value) {
    varint(out, field << 3);
    varint(out, value);
  }
  static void bytes(std::string& out, std::uint32_t field, std::string_view value) {
    varint(out, field << 3 | 2);
    varint(out, value.size());
    out += value;
  }

  std::string model_;
};

}  // namespace detail

/// T5's tokenizer. Const calls may run in several threads at once.
class SentencePieceTokenizer {
 public:
  /// Reads a folder (spiece.model or else tokenizer.json, with tokenizer_config.json and added_tokens.json where they
  /// exist) or a model file alone, which gets 100 sentinels. Throws io_error when a file is missing or is not what its
  /// name says.
  explicit SentencePieceTokenizer(const std::filesystem::path& folder_or_file) {
    namespace fs = std::filesystem;
    if (!fs::is_directory(folder_or_file)) {
      load_model(folder_or_file);
      add_sentinels(100);
      find_special("<pad>", "</s>", "<unk>", folder_or_file);
      return;
    }
    const fs::path model = folder_or_file / "spiece.model",
                   json = folder_or_file / "tokenizer.json",
                   config_file = folder_or_file / "tokenizer_config.json",
                   added_file = folder_or_file / "added_tokens.json";
    if (!fs::exists(model) && !fs::exists(json))
      throw io_error(folder_or_file.string() +
                     ": has neither spiece.model nor tokenizer.json; copy T5's tokenizer into it");
    const nlohmann::json config = detail::read_tokenizer_json(config_file, true);
    detail::interpret_json(config_file, [&] {
      clean_up_ = config.value("clean_up_tokenization_spaces", false);
      const int sentinels = config.value("extra_ids", 100);
      if (sentinels < 0)
        throw io_error(config_file.string() + ": extra_ids is negative; correct it");
      if (fs::exists(model)) {
        load_model(model);
        add_sentinels(sentinels);
      } else {
        load_tokenizer_json(json);
      }
    });
    std::map<index_t, std::pair<std::string, bool>> added;  // id: text, special
    if (fs::exists(added_file)) {
      const nlohmann::json tokens = detail::read_tokenizer_json(added_file);
      detail::interpret_json(added_file, [&] {
        for (const auto& [text, id] : tokens.items()) added[id.get<index_t>()] = {text, false};
      });
    }
    detail::interpret_json(config_file, [&] {
      const auto tokens = config.find("added_tokens_decoder");
      if (tokens == config.end()) return;
      for (const auto& [id, token] : tokens->items())
        added[std::stoll(id)] = {detail::token_text(token), token.value("special", false)};
    });
    for (const auto& [id, token] : added) add(id, token.first, token.second, folder_or_file);
    detail::interpret_json(config_file, [&] {
      const auto name = [&](const char* key, const char* otherwise) {
        return config.contains(key) ? detail::token_text(config[key]) : std::string(otherwise);
      };
      find_special(name("pad_token", "<pad>"), name("eos_token", "</s>"),
                   name("unk_token", "<unk>"), folder_or_file);
    });
  }

  /// Ids of UTF-8 text, as T5Tokenizer(text).input_ids: special tokens and sentinels in it become their ids, the text
  /// between them is normalised and segmented. Throws shape_error for invalid UTF-8 and for more than max_length tokens
  /// without truncation. O(length).
  std::vector<std::int32_t> encode(std::string_view text, SentencePieceOptions options = {}) const {
    constexpr std::string_view function = "SentencePieceTokenizer::encode";
    detail::require_utf8(text, function);
    const index_t reserved = options.add_eos ? 1 : 0;
    require(options.max_length >= 0, function, "max_length is negative");

    std::vector<std::int32_t> ids;
    std::size_t begin = 0;
    for (std::size_t i = 0; i < text.size();) {
      const Added* match =
          text[i] == '<' || added_elsewhere_ ? longest_match(text.substr(i)) : nullptr;
      if (match == nullptr) {
        ++i;
        continue;
      }
      encode_plain(text.substr(begin, i - begin), ids);
      ids.push_back(match->id);
      begin = i += match->text.size();
    }
    encode_plain(text.substr(begin), ids);

    if (options.max_length > 0 && std::ssize(ids) + reserved > options.max_length) {
      if (!options.truncation)
        throw shape_error(
            std::string(function) + ": text has " + std::to_string(std::ssize(ids) + reserved) +
            " tokens, expected at most max_length = " + std::to_string(options.max_length) +
            " (or ask for truncation)");
      ids.resize(std::size_t(options.max_length - reserved));
    }
    if (options.add_eos) ids.push_back(eos_id_);
    return ids;
  }

  /// Text of ids, as T5Tokenizer.decode: ids from size() on (the padding of an embedding) give nothing; spaces before
  /// punctuation go only if the folder's config says clean_up_tokenization_spaces. Throws shape_error for a negative id.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = true) const {
    static constexpr std::string_view space = "\u2581";
    std::string text;
    bool first = true;
    for (const std::int32_t id : ids) {
      if (id < 0)
        throw shape_error("SentencePieceTokenizer::decode: id " + std::to_string(id) +
                          " is negative (replace ignored labels by the pad id first)");
      if (id >= size() || (skip_special_tokens && special_[std::size_t(id)])) continue;
      std::string_view rest = piece(id);
      while (!rest.empty()) {
        const std::size_t at = std::min(rest.find(space), rest.size());
        text += rest.substr(0, at);
        if (at == rest.size()) break;
        if (!first) text += ' ';
        rest.remove_prefix(at + space.size());
      }
      first = false;
    }
    if (clean_up_) clean_up(text);
    return text;
  }

  /// Bytes at the end of a decoded text that ids to come may change: none, or with
  /// clean_up_tokenization_spaces what its rules, one after another, can reach back to.
  std::size_t unsettled(std::string_view text) const {
    if (!clean_up_) return 0;
    std::size_t bytes = 0;
    for (const auto& rule : clean_up_rules) bytes += rule.first.size() - 1;
    if (bytes >= text.size()) return text.size();
    while (bytes < text.size() && (std::uint8_t(text[text.size() - bytes]) & 0xc0) == 0x80) ++bytes;
    return bytes;
  }

  /// Number of ids: pieces, sentinels and added tokens. An embedding may have more rows.
  index_t size() const { return std::ssize(special_); }
  std::int32_t pad_id() const { return pad_id_; }
  std::int32_t eos_id() const { return eos_id_; }
  std::int32_t unk_id() const { return unk_id_; }
  /// -1 unless the model has a beginning-of-sequence piece; T5's has none.
  std::int32_t bos_id() const { return model_->bos_id(); }

  /// Piece of an id, with U+2581 for a space; throws shape_error unless 0 <= id < size().
  std::string_view piece(std::int32_t id) const {
    if (id < 0 || id >= size())
      throw shape_error("SentencePieceTokenizer::piece: id is " + std::to_string(id) +
                        ", expected 0 <= id < " + std::to_string(size()));
    if (id < model_->GetPieceSize()) return model_->IdToPiece(id);
    return beyond_[std::size_t(id - model_->GetPieceSize())];
  }

  /// Id of a piece or added token, or nothing.
  std::optional<std::int32_t> id(std::string_view piece) const {
    for (std::size_t i = 0; i < beyond_.size(); ++i)
      if (beyond_[i] == piece) return model_->GetPieceSize() + std::int32_t(i);
    const int id = model_->PieceToId(piece);
    return model_->GetPieceSize() > id && model_->IdToPiece(id) == piece ? std::optional(id)
                                                                         : std::nullopt;
  }

 private:
  struct Added {
    std::string text;
    std::int32_t id;
  };

  void load_model(const std::filesystem::path& path) {
    const MappedFile file(path);
    if (file.text().empty()) throw io_error(path.string() + ": is empty; fetch the file again");
    load_serialized(file.text(), path);
  }

  /// `scores`: of the pieces, where a file has them in more digits than the model.
  void load_serialized(std::string_view model, const std::filesystem::path& path,
                       std::span<const double> scores = {}) {
    if (!detail::has_normalizer_spec(model) || !model_->LoadFromSerializedProto(model).ok())
      throw io_error(path.string() + ": is not a whole SentencePiece model; fetch the file again");
    for (int id = 0; id < model_->GetPieceSize(); ++id) {
      special_.push_back(model_->IsControl(id) || model_->IsUnknown(id));
      if (special_.back()) added_.push_back({model_->IdToPiece(id), id});
      byte_fallback_ = byte_fallback_ || model_->IsByte(id);
      pieces_.add(model_->IdToPiece(id),
                  scores.empty() ? double(model_->GetScore(id)) : scores[std::size_t(id)]);
    }
  }

  void load_tokenizer_json(const std::filesystem::path& path) {
    const nlohmann::json json = detail::read_tokenizer_json(path);
    detail::interpret_json(path, [&] {
      const auto& model = json.at("model");
      if (model.value("type", "") != "Unigram")
        throw io_error(path.string() +
                       ": holds no Unigram model, so it is not T5's; name T5's folder");
      std::string charsmap;
      const nlohmann::json normalizer = json.value("normalizer", nlohmann::json());
      for (const auto& step : normalizer.is_object() && normalizer.contains("normalizers")
                                  ? normalizer["normalizers"]
                                  : nlohmann::json::array({normalizer})) {
        if (!step.is_object() || step.value("type", "") != "Precompiled") continue;
        const auto bytes = detail::base64_bytes(step.at("precompiled_charsmap").get<std::string>());
        if (!bytes)
          throw io_error(path.string() + ": precompiled_charsmap is not base64; fetch it again");
        charsmap = *bytes;
      }
      std::map<index_t, bool> special;
      const nlohmann::json added = json.value("added_tokens", nlohmann::json::array());
      for (const auto& token : added)
        special[token.at("id").get<index_t>()] = token.value("special", false);
      const auto unk = model.at("unk_id").get<std::uint32_t>();
      detail::ModelWriter writer;
      std::uint32_t id = 0;
      std::vector<double> scores;
      for (const auto& entry : model.at("vocab")) {
        using Kind = detail::ModelWriter::Kind;
        const auto text = entry.at(0).get<std::string>();
        scores.push_back(entry.at(1).get<double>());
        writer.piece(text, float(scores.back()),
                     id == unk              ? Kind::unknown
                     : special.contains(id) ? Kind::control
                                            : Kind::normal);
        ++id;
      }
      load_serialized(writer.finish(unk, charsmap), path, scores);
      for (const auto& token : added)
        add(token.at("id").get<index_t>(), token.at("content").get<std::string>(),
            token.value("special", false), path);
    });
  }

  void add_sentinels(int count) {
    for (int i = count - 1; i >= 0; --i) {
      append("<extra_id_" + std::to_string(i) + ">", true);
      pieces_.add(beyond_.back(), 0);
    }
  }

  void append(std::string text, bool special) {
    added_.push_back({text, std::int32_t(size())});
    added_elsewhere_ = added_elsewhere_ || !text.starts_with('<');
    beyond_.push_back(std::move(text));
    special_.push_back(special);
  }

  /// Adds the token of a file at the end, or checks that it is the one already there.
  void add(index_t id, const std::string& text, bool special, const std::filesystem::path& path) {
    const auto fault = [&](const std::string& why) {
      throw io_error(path.string() + ": added token \"" + text + "\" has id " + std::to_string(id) +
                     why + "; take all tokenizer files from one checkpoint");
    };
    if (text.empty()) fault(" and no text");
    if (id > size()) fault(", expected " + std::to_string(size()) + " or less");
    if (id == size()) return append(text, special);
    if (id < 0 || piece(std::int32_t(id)) != text) fault(", which is another token's in the model");
    const bool known = std::ranges::any_of(added_, [&](const Added& a) { return a.id == id; });
    if (!known) {
      added_.push_back({text, std::int32_t(id)});
      added_elsewhere_ = added_elsewhere_ || !text.starts_with('<');
    }
    if (special) special_[std::size_t(id)] = true;
  }

  void find_special(const std::string& pad, const std::string& eos, const std::string& unk,
                    const std::filesystem::path& path) {
    const auto find = [&](const std::string& text) {
      const auto found = id(text);
      if (!found)
        throw io_error(path.string() + ": the model has no piece " + text +
                       "; train it with pad, eos and unk, as train_sentencepiece does");
      special_[std::size_t(*found)] = true;
      return *found;
    };
    pad_id_ = find(pad);
    eos_id_ = find(eos);
    unk_id_ = find(unk);
  }

  const Added* longest_match(std::string_view text) const {
    const Added* longest = nullptr;
    for (const Added& token : added_)
      if (text.starts_with(token.text) &&
          (longest == nullptr || token.text.size() > longest->text.size()))
        longest = &token;
    return longest;
  }

  /// Text without added tokens, word by word: SentencePiece normalises, and its pieces together are the normalised word,
  /// of which `pieces_` finds the segmentation of transformers.
  void encode_plain(std::string_view text, std::vector<std::int32_t>& ids) const {
    std::vector<std::string> pieces;
    detail::UnigramPieces::Work work;
    std::string normalised;
    const auto encode_word = [&](std::string_view word) {
      if (word.empty()) return;
      const auto status = model_->Encode(word, &pieces);
      require(status.ok(), "SentencePieceTokenizer::encode", status.ok() ? "" : status.message());
      if (byte_fallback_) {
        for (const std::string& piece : pieces) ids.push_back(model_->PieceToId(piece));
        return;
      }
      normalised.clear();
      for (const std::string& piece : pieces) normalised += piece;
      pieces_.segment(normalised, model_->unk_id(), ids, work);
    };
    std::size_t begin = 0;
    for (std::size_t i = 0; i < text.size();) {
      const std::size_t length = detail::white_space_prefix(text.substr(i));
      if (length == 0) {
        ++i;
        continue;
      }
      encode_word(text.substr(begin, i - begin));
      begin = i += length;
    }
    encode_word(text.substr(begin));
  }

  /// transformers' clean_up_tokenization.
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 10> clean_up_rules{
      {{" .", "."},
       {" ?", "?"},
       {" !", "!"},
       {" ,", ","},
       {" ' ", "'"},
       {" n't", "n't"},
       {" 'm", "'m"},
       {" 's", "'s"},
       {" 've", "'ve"},
       {" 're", "'re"}}};
  static void clean_up(std::string& text) {
    for (const auto& [from, to] : clean_up_rules)
      for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
        text.replace(at, from.size(), to);
  }

  std::unique_ptr<sentencepiece::SentencePieceProcessor> model_ =
      std::make_unique<sentencepiece::SentencePieceProcessor>();
  std::vector<std::string> beyond_;  // tokens after the model's pieces
  std::vector<bool> special_;        // by id
  std::vector<Added> added_;         // what is recognised in raw text
  detail::UnigramPieces pieces_;
  bool byte_fallback_ = false;    // then the pieces of a word are not its text
  bool added_elsewhere_ = false;  // one of them does not begin with '<'
  bool clean_up_ = false;
  std::int32_t pad_id_ = 0, eos_id_ = 1, unk_id_ = 2;
};

/// Trains a unigram model on lines of UTF-8 (pad 0, eos 1, unk 2, no bos) and replaces `model_file` with it. Fewer than
/// vocab_size pieces result when the text has no more. Throws shape_error when the text is empty or vocab_size is too small
/// for its characters, io_error when the file cannot be written.
inline void train_sentencepiece(std::span<const std::string> lines, index_t vocab_size,
                                const std::filesystem::path& model_file) {
  class Lines final : public sentencepiece::SentenceIterator {
   public:
    explicit Lines(std::span<const std::string> lines) : lines_(lines) {}
    bool done() const override { return lines_.empty(); }
    void Next() override { lines_ = lines_.subspan(1); }
    const std::string& value() const override { return lines_.front(); }
    sentencepiece::util::Status status() const override { return {}; }

   private:
    std::span<const std::string> lines_;
  };
  require(vocab_size > 3, "train_sentencepiece", "vocab_size is not above 3 (pad, eos, unk)");
  const auto has_word = [](std::string_view line) {
    while (!line.empty()) {
      const std::size_t space = detail::white_space_prefix(line);
      if (space == 0 && line[0] != '\x7f' && std::uint8_t(line[0]) >= ' ') return true;
      line.remove_prefix(std::max<std::size_t>(space, 1));
    }
    return false;
  };
  require(std::ranges::any_of(lines, has_word), "train_sentencepiece",
          "the text is empty, expected lines of words");
  for (std::size_t i = 0; i < lines.size(); ++i)
    if (detail::valid_utf8_prefix(lines[i]) != lines[i].size())
      throw shape_error("train_sentencepiece: line " + std::to_string(i + 1) + " is not UTF-8");
  Lines iterator(lines);
  std::string model;
  const auto status =
      sentencepiece::SentencePieceTrainer::Train({{"vocab_size", std::to_string(vocab_size)},
                                                  {"model_type", "unigram"},
                                                  {"pad_id", "0"},
                                                  {"eos_id", "1"},
                                                  {"unk_id", "2"},
                                                  {"bos_id", "-1"},
                                                  {"hard_vocab_limit", "false"},
                                                  {"max_sentence_length", "1000000000"},
                                                  {"minloglevel", "2"}},
                                                 &iterator, &model);
  if (!status.ok()) {
    std::string reason = status.message();  // "file(line) [condition] sentence"
    if (const auto at = reason.rfind("] "); at != std::string::npos) reason.erase(0, at + 2);
    throw shape_error("train_sentencepiece: vocab_size " + std::to_string(vocab_size) +
                      " does not suit this text: " + reason);
  }
  ReplacementFile file(model_file);
  file.write(model);
  file.commit();
}

/// The same from a file, one line of text each.
inline void train_sentencepiece(const std::filesystem::path& text_file, index_t vocab_size,
                                const std::filesystem::path& model_file) {
  const MappedFile file(text_file);
  std::vector<std::string> lines;
  for (std::string_view rest = file.text(); !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    lines.emplace_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  train_sentencepiece(lines, vocab_size, model_file);
}

/// Replaces folder/tokenizer_config.json by one with which transformers and SentencePieceTokenizer read a T5 tokenizer.
inline void write_t5_tokenizer_config(const std::filesystem::path& folder, int extra_ids = 100) {
  require(extra_ids >= 0, "write_t5_tokenizer_config", "extra_ids is negative");
  const nlohmann::ordered_json config{{"tokenizer_class", "T5Tokenizer"},
                                      {"extra_ids", extra_ids},
                                      {"eos_token", "</s>"},
                                      {"unk_token", "<unk>"},
                                      {"pad_token", "<pad>"}};
  ReplacementFile file(folder / "tokenizer_config.json");
  file.write(config.dump(2) + "\n");
  file.commit();
}

}  // namespace srformer
