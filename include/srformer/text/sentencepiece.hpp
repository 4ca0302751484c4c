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
#include <cstdint>
#include <filesystem>
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
#include <srformer/text/folder_tokens.hpp>
#include <srformer/text/normalizer.hpp>
#include <srformer/text/pre_tokenizer.hpp>
#include <srformer/text/token_decoder.hpp>
#include <srformer/text/unigram.hpp>

namespace srformer {

struct SentencePieceOptions {
  bool add_eos = true;
  index_t max_length = 0;   ///< tokens, with eos; 0 is no limit
  bool truncation = false;  ///< cut what exceeds max_length; otherwise that is an error
};

namespace detail {

/// Calls field(number, varint, bytes) for every field of a message in the wire format of protocol buffers, with 0 or a view
/// without data where it is of another kind. Returns whether the message is whole.
template <class Field>
bool for_each_field(std::string_view message, Field field) {
  std::size_t at = 0;
  bool whole = true;
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at >= message.size()) break;
      const auto byte = std::uint8_t(message[at++]);
      value |= std::uint64_t(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    whole = false;
    return value;
  };
  while (whole && at < message.size()) {
    const std::uint64_t tag = varint(), kind = tag & 7;
    std::uint64_t value = 0, length = 0;
    if (kind == 0)
      value = varint();
    else if (kind == 2)
      length = varint();
    else if (kind == 1 || kind == 5)
      length = kind == 1 ? 8 : 4;
    else
      return false;
    if (length > message.size() - at) return false;
    if (tag >> 32 != 0) return false;
    if (whole) field(tag >> 3, value, kind == 2 ? message.substr(at, length) : std::string_view());
    at += length;
  }
  return whole;
}

/// What SentencePieceProcessor does not tell of a serialized sentencepiece_model.proto, and what of it is left to
/// SentencePieceProcessor: it builds tries of what it reads, follows the offsets in precompiled_charsmap, and runs
/// self_test_data through both, all unchecked.
struct ModelDetails {
  enum Kind : std::uint8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, byte = 6 };
  std::vector<Kind> kinds;    ///< of the pieces
  std::string_view charsmap;  ///< empty where it has none
  std::string pieces;         ///< a model of the pieces and of trainer_spec alone

  /// Nothing when the message is not whole or a piece is not text: a file cut off between two pieces still parses, but
  /// lacks the normalizer_spec that follows them.
  static std::optional<ModelDetails> read(std::string_view model) {
    ModelDetails details;
    bool specified = false, sound = true;
    const bool whole =
        for_each_field(model, [&](std::uint64_t number, std::uint64_t, std::string_view bytes) {
          if (number > 3 || bytes.data() == nullptr) return;
          if (number == 1) sound = details.read_piece(bytes) && sound;
          if (number < 3) append_field(details.pieces, number, bytes);
          if (number != 3) return;  // normalizer_spec
          specified =
              for_each_field(bytes, [&](std::uint64_t part, std::uint64_t, std::string_view map) {
                if (part == 2) details.charsmap = map;  // precompiled_charsmap
              });
        });
    append_field(details.pieces, 3, "");
    return whole && specified && sound ? std::optional(std::move(details)) : std::nullopt;
  }

 private:
  /// Whether it is whole and its text is one that a trie of strings that end with NUL can hold.
  bool read_piece(std::string_view bytes) {
    kinds.push_back(normal);
    std::string_view text;
    const bool whole = for_each_field(
        bytes, [&](std::uint64_t part, std::uint64_t value, std::string_view string) {
          if (part == 1 && string.data() != nullptr) text = string;
          if (part == 3 && value >= 1 && value <= 6) kinds.back() = Kind(value);  // type
        });
    return whole && valid_utf8_prefix(text) == text.size() && text.find('\0') == text.npos;
  }
  static void append_field(std::string& message, std::uint64_t number, std::string_view bytes) {
    message += char(number << 3 | 2);
    std::size_t size = bytes.size();
    for (; size >= 0x80; size >>= 7) message += char((size & 0x7f) | 0x80);
    (message += char(size)) += bytes;
  }
};

}  // namespace detail

/// T5's tokenizer. Const calls may run in several threads at once.
class SentencePieceTokenizer {
 public:
  /// Reads a folder (tokenizer.json or else spiece.model, with tokenizer_config.json, special_tokens_map.json and
  /// added_tokens.json where they exist) or a model file alone, which gets 100 sentinels. Throws io_error when a file is
  /// missing or is not what its name says.
  explicit SentencePieceTokenizer(const std::filesystem::path& folder_or_file)
      : SentencePieceTokenizer(detail::TokenizerFiles(folder_or_file)) {}

  /// The same of a folder whose files are read already.
  explicit SentencePieceTokenizer(const detail::TokenizerFiles& files) {
    namespace fs = std::filesystem;
    const fs::path model = files.folder / "spiece.model";
    detail::UnnamedTokens unnamed;
    unnamed.names = {nullptr, "</s>", "<unk>", nullptr, "<pad>", nullptr, nullptr};
    int sentinels = 100;
    detail::interpret_json(files.config_path(), [&] {
      clean_up_ = detail::given_or(files.config, "clean_up_tokenization_spaces", false);
      sentinels = detail::given_or(files.config, "extra_ids", 100);
    });
    constexpr int most_sentinels = 10'000;
    if (sentinels < 0 || sentinels > most_sentinels)
      throw io_error(files.config_path().string() + ": extra_ids is " + std::to_string(sentinels) +
                     ", expected 0 to " + std::to_string(most_sentinels) + "; correct it");
    if (files.has_whole)
      detail::interpret_json(files.whole_path(), [&] { load_tokenizer_json(files); });
    else if (!fs::is_directory(files.folder) || fs::exists(model))
      load_model(fs::is_directory(files.folder) ? model : files.folder, sentinels, unnamed);
    else
      throw io_error(files.folder.string() +
                     ": has neither spiece.model nor tokenizer.json; copy T5's tokenizer into it");
    if (std::ranges::none_of(unnamed.more, is_sentinel))
      for (int i = 0; i < sentinels; ++i)
        unnamed.more.push_back({.text = sentinel(i), .special = true});
    const index_t pieces = vocabulary_.size();
    ids_ = detail::add_tokens(vocabulary_, files, unnamed);
    find_named(files.folder, pieces);
    ends_ = {{}, {ids_.eos}, files.truncates_left};
    vocabulary_.find_added(normalizer_, files.split_special, files.folder);
  }

  /// Ids of UTF-8 text, as T5Tokenizer(text).input_ids: special tokens and sentinels in it become their ids, the text
  /// between them is normalised and segmented. Throws shape_error for invalid UTF-8 and for more than max_length tokens
  /// without truncation. O(length).
  std::vector<std::int32_t> encode(std::string_view text, SentencePieceOptions options = {}) const {
    constexpr std::string_view function = "SentencePieceTokenizer::encode";
    detail::require_utf8(text, function);
    std::vector<std::int32_t> ids;
    detail::UnigramPieces::Work work;
    const auto segment = [&](std::string_view word, bool begins) {
      metaspace_(word, begins, [&](std::string_view piece, bool) {
        pieces_.segment(piece, unk_piece_, ids, work);
      });
    };
    vocabulary_.split(
        text, normalizer_,
        [&](std::string_view plain, bool begins) {
          detail::WhitespaceSplit()(plain, begins, segment);
        },
        [&](std::int32_t id) { ids.push_back(id); });
    return ends_.around(std::move(ids), options.add_eos, options.max_length, options.truncation,
                        function);
  }

  /// Text of ids, as T5Tokenizer.decode: ids from size() on (the padding of an embedding) give nothing; spaces before
  /// punctuation go only if the folder's config says clean_up_tokenization_spaces. Throws shape_error for a negative id.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = true) const {
    std::string text;
    bool first = true;
    vocabulary_.for_each_decoded(ids, skip_special_tokens, [&](std::string_view token) {
      text += detail::replace_all(token, metaspace_.replacement, first ? "" : " ");
      first = false;
    });
    return clean_up_ ? detail::clean_up(std::move(text)) : text;
  }

  /// Bytes at the end of a decoded text that ids to come may change: none, or with
  /// clean_up_tokenization_spaces what its rules, one after another, can reach back to.
  std::size_t unsettled(std::string_view text) const {
    return clean_up_ ? detail::not_cleaned_up(text) : 0;
  }

  /// Number of ids: pieces, sentinels and added tokens. An embedding may have more rows.
  index_t size() const { return vocabulary_.size(); }
  std::int32_t pad_id() const { return ids_.pad; }
  std::int32_t eos_id() const { return ids_.eos; }
  std::int32_t unk_id() const { return ids_.unk; }
  /// -1 unless the folder names a beginning-of-sequence token; T5's does not.
  std::int32_t bos_id() const { return ids_.bos; }

  /// Piece of an id, with U+2581 for a space; throws shape_error unless 0 <= id < size().
  std::string_view piece(std::int32_t id) const { return vocabulary_.piece(id); }
  /// Id of a piece or added token, or nothing.
  std::optional<std::int32_t> id(std::string_view piece) const { return vocabulary_.id(piece); }

 private:
  static std::string sentinel(int number) { return "<extra_id_" + std::to_string(number) + ">"; }
  static bool is_sentinel(const detail::AddedToken& token) {
    return token.text.find("<extra_id_") != std::string::npos;
  }

  void append(std::string_view piece, double score, const std::filesystem::path& path) {
    vocabulary_.append(std::string(piece));
    pieces_.add(piece, score, path);
  }

  /// spiece.model and the sentinels; its control and user-defined pieces go to `unnamed`.
  void load_model(const std::filesystem::path& path, int sentinels,
                  detail::UnnamedTokens& unnamed) {
    const MappedFile file(path, true);
    if (file.text().empty()) throw io_error(path.string() + ": is empty; fetch the file again");
    const auto details = detail::ModelDetails::read(file.text());
    sentencepiece::SentencePieceProcessor model;
    if (!details || !model.LoadFromSerializedProto(details->pieces).ok())
      throw io_error(path.string() + ": is not a whole SentencePiece model; fetch the file again");
    if (!details->charsmap.empty()) {
      auto map = detail::Charsmap::read(details->charsmap);
      if (!map)
        throw io_error(path.string() + ": its precompiled_charsmap is not whole; fetch it again");
      normalizer_.add(std::move(*map));
    }
    std::array<std::int32_t, 256> bytes;
    bytes.fill(-1);
    for (int id = 0, byte = 0; id < model.GetPieceSize(); ++id) {
      using Details = detail::ModelDetails;
      const auto kind = details->kinds[std::size_t(id)];
      append(model.IdToPiece(id), double(model.GetScore(id)), path);
      if (kind == Details::byte && byte < 256) bytes[std::size_t(byte++)] = id;
      if (kind == Details::control || kind == Details::user_defined)
        unnamed.more.push_back({.text = model.IdToPiece(id), .special = kind == Details::control});
    }
    unnamed.over_map = true;
    unk_piece_ = model.unk_id();
    if (bytes[255] >= 0) pieces_.spell_unknown(bytes, model.IdToPiece(unk_piece_));
    for (int i = sentinels - 1; i >= 0; --i) append(sentinel(i), 0, path);
  }

  /// The vocabulary of tokenizer.json; the rest is the class's.
  void load_tokenizer_json(const detail::TokenizerFiles& files) {
    const nlohmann::json& json = files.whole;
    const auto& model = json.at("model");
    if (detail::given_or<std::string>(model, "type", "") != "Unigram")
      throw io_error(files.whole_path().string() +
                     ": holds no Unigram model, so it is not T5's; name T5's folder");
    refuse_other_steps(files);
    if (const auto* normalizer = detail::given(json, "normalizer"))
      normalizer_ = detail::Normalizer(charsmap_step(*normalizer), files.whole_path());
    for (const auto& entry : model.at("vocab"))
      append(entry.at(0).get_ref<const std::string&>(), entry.at(1).get<double>(),
             files.whole_path());
    unk_piece_ = detail::given_or<std::int32_t>(model, "unk_id", 2);
    if (unk_piece_ < 0 || unk_piece_ >= size())
      throw io_error(files.whole_path().string() + ": unk_id is " + std::to_string(unk_piece_) +
                     ", expected 0 to " + std::to_string(size() - 1) + "; correct it");
  }

  /// The first Precompiled step of a normalizer, or null.
  static nlohmann::json charsmap_step(const nlohmann::json& normalizer) {
    const auto steps = normalizer.contains("normalizers") ? normalizer.at("normalizers")
                                                          : nlohmann::json::array({normalizer});
    for (const auto& step : steps)
      if (step.at("type") == "Precompiled") return step;
    return nullptr;
  }

  /// Refuses steps that T5Tokenizer of transformers 5 would not make, and that would change ids: transformers 4 follows
  /// them, 5 passes over them.
  static void refuse_other_steps(const detail::TokenizerFiles& files) {
    const auto type = [](const nlohmann::json& step) {
      return detail::given_or<std::string>(step, "type", "");
    };
    const auto normalizes = [&](const nlohmann::json& step) {
      return type(step) == "Precompiled" || type(step) == "Strip" ||
             (type(step) == "Replace" && step.at("pattern") == nlohmann::json{{"Regex", " {2,}"}});
    };
    const auto splits = [&](const nlohmann::json& step) {
      if (type(step) != "Metaspace") return type(step) == "WhitespaceSplit";
      const detail::Metaspace metaspace(step);
      return metaspace.replacement == "\u2581" &&
             metaspace.prepend == detail::Metaspace::Prepend::always;
    };
    detail::refuse_steps(files, "normalizer", "normalizers", normalizes, "T5Tokenizer");
    detail::refuse_steps(files, "pre_tokenizer", "pretokenizers", splits, "T5Tokenizer");
    detail::refuse_steps(files, "decoder", "decoders", splits, "T5Tokenizer");
  }

  /// `pieces`: of the model, sentinels included.
  void find_named(const std::filesystem::path& path, index_t pieces) {
    const auto find = [&](std::int32_t& named, const char* otherwise) {
      const auto found = named >= 0 ? std::optional(named) : id(otherwise);
      if (!found || *found >= pieces)
        throw io_error(path.string() + ": the model has no piece " +
                       (found ? one_line(piece(*found)) : otherwise) +
                       "; train it with pad, eos and unk, as train_sentencepiece does");
      named = *found;
    };
    find(ids_.pad, "<pad>");
    find(ids_.eos, "</s>");
    find(ids_.unk, "<unk>");
  }

  detail::Vocabulary vocabulary_;
  detail::Normalizer normalizer_;
  detail::Metaspace metaspace_{nlohmann::json::object()};
  detail::UnigramPieces pieces_;
  detail::NamedIds ids_;
  detail::EncodingEnds ends_;
  std::int32_t unk_piece_ = 2;
  bool clean_up_ = false;
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
  for (std::size_t i = 0; i < lines.size(); ++i)
    if (detail::valid_utf8_prefix(lines[i]) != lines[i].size())
      throw shape_error("train_sentencepiece: line " + std::to_string(i + 1) + " is not UTF-8");
  const auto has_word = [](std::string_view line) {
    bool found = false;
    detail::for_each_character(line, [&](char32_t c, std::string_view) {
      found = found || (c > ' ' && c != 0x7f && !detail::is_space(c));
    });
    return found;
  };
  require(std::ranges::any_of(lines, has_word), "train_sentencepiece",
          "the text is empty, expected lines of words");
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
