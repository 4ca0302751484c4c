// SPDX-License-Identifier: Apache-2.0
// What the files of a folder say of its tokenizer, as transformers 5 reads them.
//
//   TokenizerFiles    tokenizer.json, tokenizer_config.json and the small files beside them
//   NamedIds          ids of the tokens that have a name
//   add_tokens        what those files add to a vocabulary
//   EncodingEnds      what stands around a text, and where a long one is cut
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/text/added_tokens.hpp>

namespace srformer::detail {

/// How transformers makes the tokenizer of a folder: its T5 and BART classes take the vocabulary of tokenizer.json and make
/// the rest themselves, and so do `other` ones; what is no class there takes all of it as it is written.
enum class TokenizerClass : std::uint8_t { unnamed, t5, bart, gpt2, other, as_written };

/// The class of a name, "" where none is given.
inline TokenizerClass tokenizer_class(std::string name) {
  if (name.empty()) return TokenizerClass::unnamed;
  if (name.ends_with("Fast")) name.erase(name.size() - 4);
  if (name == "T5Tokenizer") return TokenizerClass::t5;
  if (name == "GPT2Tokenizer") return TokenizerClass::gpt2;
  constexpr const char* bart[] = {"BartTokenizer", "RobertaTokenizer", "LEDTokenizer",
                                  "LongformerTokenizer", "MvpTokenizer"};
  if (std::ranges::find(bart, name) != std::end(bart)) return TokenizerClass::bart;
  constexpr const char* other[] = {"AlbertTokenizer",       "BarthezTokenizer",
                                   "BartphoTokenizer",      "BertTokenizer",
                                   "BertJapaneseTokenizer", "BigBirdTokenizer",
                                   "BlenderbotTokenizer",   "BlenderbotSmallTokenizer",
                                   "ByT5Tokenizer",         "CamembertTokenizer",
                                   "CpmTokenizer",          "DebertaV2Tokenizer",
                                   "GemmaTokenizer",        "LlamaTokenizer",
                                   "M2M100Tokenizer",       "MarianTokenizer",
                                   "MBartTokenizer",        "MBart50Tokenizer",
                                   "MyT5Tokenizer",         "NllbTokenizer",
                                   "PegasusTokenizer",      "PLBartTokenizer",
                                   "ProphetNetTokenizer",   "Qwen2Tokenizer",
                                   "ReformerTokenizer",     "RoFormerTokenizer",
                                   "UdopTokenizer",         "XLMRobertaTokenizer",
                                   "XLNetTokenizer"};
  return std::ranges::find(other, name) != std::end(other) ? TokenizerClass::other
                                                           : TokenizerClass::as_written;
}

/// The JSON files of a tokenizer's folder; an empty object for each that is missing.
struct TokenizerFiles {
  std::filesystem::path folder;
  nlohmann::json whole = nlohmann::json::object();  ///< tokenizer.json
  nlohmann::json config;                            ///< tokenizer_config.json
  nlohmann::json map;                               ///< special_tokens_map.json, where it counts
  nlohmann::json added;                             ///< added_tokens.json, where it counts
  std::string class_name;                           ///< "tokenizer_class"
  TokenizerClass kind = TokenizerClass::unnamed;
  bool has_whole = false;
  bool truncates_left = false;  ///< a long text loses its beginning
  bool split_special = false;   ///< special tokens in a text are spelt

  /// Throws io_error for a file that is no JSON.
  explicit TokenizerFiles(std::filesystem::path path) : folder(std::move(path)) {
    config = read_tokenizer_json(config_path(), true);
    has_whole = std::filesystem::exists(whole_path());
    if (has_whole) whole = read_tokenizer_json(whole_path());
    const auto model_path = folder / "config.json";
    interpret_json(config_path(), [&] {
      class_name = given_or<std::string>(config, "tokenizer_class", "");
      if (class_name.empty())
        class_name =
            given_or<std::string>(read_tokenizer_json(model_path, true), "tokenizer_class", "");
      kind = tokenizer_class(class_name);
      split_special = given_or(config, "split_special_tokens", false);
      const nlohmann::json* truncation = given(whole, "truncation");
      auto side = given_or<std::string>(truncation ? *truncation : nlohmann::json::object(),
                                        "direction", "Right");
      side = given_or(config, "truncation_side", side);
      truncates_left = side == "left" || side == "Left";
    });
    const bool counts = !declares_tokens();
    map = counts ? read_tokenizer_json(map_path(), true) : nlohmann::json::object();
    added = counts ? read_tokenizer_json(added_path(), true) : nlohmann::json::object();
  }

  std::filesystem::path whole_path() const { return folder / "tokenizer.json"; }
  std::filesystem::path config_path() const { return folder / "tokenizer_config.json"; }
  std::filesystem::path map_path() const { return folder / "special_tokens_map.json"; }
  std::filesystem::path added_path() const { return folder / "added_tokens.json"; }

  /// Whether the config declares the added tokens, so that no other file does.
  bool declares_tokens() const { return given(config, "added_tokens_decoder") != nullptr; }
};

/// "type" of "model" in a tokenizer.json, or without one what its vocabulary is written for: Unigram or BPE. Throws io_error
/// for another.
inline std::string model_type(const TokenizerFiles& files) {
  std::string type;
  interpret_json(files.whole_path(), [&] {
    const nlohmann::json& model = files.whole.at("model");
    type = given_or<std::string>(model, "type", model.contains("merges") ? "BPE" : "Unigram");
    if (type != "BPE" && type != "Unigram")
      throw io_error(files.whole_path().string() + ": holds a " + one_line(type) +
                     " model, expected Unigram (T5) or BPE (BART); name the folder of one");
  });
  return type;
}

/// Refuses the steps of `key` ("normalizer", ...) in a tokenizer.json, those of a Sequence listed under `list`, for which
/// is_made(step) is false: a class of transformers 5 would make others in their place without a word, transformers 4 and the
/// classes that take the file as it is written follow them.
template <class IsMade>
void refuse_steps(const TokenizerFiles& files, const char* key, const char* list, IsMade is_made,
                  const std::string& maker) {
  const nlohmann::json* all = given(files.whole, key);
  if (all == nullptr) return;
  const bool sequence = given_or<std::string>(*all, "type", "") == "Sequence";
  for (const auto& step : sequence ? all->at(list) : nlohmann::json::array({*all}))
    if (!is_made(step))
      throw io_error(files.whole_path().string() + ": " + key + " " +
                     one_line(given_or<std::string>(step, "type", "without a type")) + " is not " +
                     maker +
                     "'s, as whose it would be read; set tokenizer_class to "
                     "PreTrainedTokenizerFast in tokenizer_config.json to have it followed");
}

/// Ids of the tokens with a name; -1 where a folder names none.
struct NamedIds {
  std::int32_t bos = -1, eos = -1, unk = -1, sep = -1, pad = -1, cls = -1, mask = -1;
};

/// What a class says where the files do not.
struct UnnamedTokens {
  std::array<const char*, 7> names{};  ///< bos, eos, unk, sep, pad, cls, mask; null: none
  std::vector<AddedToken> more;        ///< tokens without a name, unless the config lists some
  bool over_map = false;               ///< or special_tokens_map.json does
};

inline constexpr std::array<std::pair<const char*, std::int32_t NamedIds::*>, 7> named_tokens{
    {{"bos_token", &NamedIds::bos},
     {"eos_token", &NamedIds::eos},
     {"unk_token", &NamedIds::unk},
     {"sep_token", &NamedIds::sep},
     {"pad_token", &NamedIds::pad},
     {"cls_token", &NamedIds::cls},
     {"mask_token", &NamedIds::mask}}};

/// The special tokens that the files and the class name.
class SpecialTokens {
 public:
  SpecialTokens(const TokenizerFiles& files, const UnnamedTokens& unnamed) {
    for (std::size_t i = 0; i < named_.size(); ++i) {
      const char* key = named_tokens[i].first;
      const auto take = [&](const std::filesystem::path& path, const nlohmann::json& json) {
        if (!json.contains(key)) return false;
        interpret_json(path, [&] {
          if (given(json, key)) named_[i] = read_added_token(json.at(key), true);
        });
        return true;
      };
      if (!take(files.map_path(), files.map) && !take(files.config_path(), files.config) &&
          unnamed.names[i] != nullptr)
        named_[i] = AddedToken{.text = unnamed.names[i], .special = true};
    }
    list_more(files, unnamed);
  }

  const std::array<std::optional<AddedToken>, 7>& named() const { return named_; }
  const std::vector<AddedToken>& more() const { return more_; }

  bool names(std::string_view text) const {
    return std::ranges::any_of(named_, [&](const auto& t) { return t && t->text == text; });
  }
  /// Whether a token has a name or is in the list of the config.
  bool lists(std::string_view text) const { return names(text) || listed_.contains(text); }

 private:
  /// The list of the config, with what the map adds to it; or else that of the class, with the map's.
  void list_more(const TokenizerFiles& files, const UnnamedTokens& unnamed) {
    constexpr const char *extra = "extra_special_tokens", *additional = "additional_special_tokens";
    const auto take = [&](const std::filesystem::path& path, const nlohmann::json& json,
                          const char* key) {
      if (!json.contains(key)) return false;
      interpret_json(path, [&] {
        for (const auto& token : json.at(key)) more_.push_back(read_added_token(token, true));
      });
      return true;
    };
    bool listed = take(files.config_path(), files.config, extra);
    if (more_.empty()) listed = take(files.config_path(), files.config, additional) || listed;
    listed = take(files.map_path(), files.map, extra) || listed;
    for (const AddedToken& token : more_) listed_.insert(token.text);
    if (listed) return;
    if (!unnamed.over_map) take(files.map_path(), files.map, additional);
    std::set<std::string_view> of_map;
    for (const AddedToken& token : more_) of_map.insert(token.text);
    const bool some = std::ranges::any_of(
        unnamed.more, [&](const AddedToken& token) { return of_map.contains(token.text); });
    if (!some) more_.insert(more_.end(), unnamed.more.begin(), unnamed.more.end());
  }

  std::array<std::optional<AddedToken>, 7> named_;
  std::vector<AddedToken> more_;
  std::set<std::string, std::less<>> listed_;  // texts of those from lists of the config
};

/// The number that a key of added_tokens_decoder is; throws std::invalid_argument for another text.
inline index_t token_number(const std::string& text) {
  index_t number = 0;
  const char* const end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, number);
  if (read.ec != std::errc{} || read.ptr != end)
    throw std::invalid_argument("\"" + text + "\" is not the number of a token");
  return number;
}

/// The tokens that files other than a tokenizer.json that is taken as it is written give an id.
inline std::map<index_t, AddedToken> declared_tokens(const TokenizerFiles& files,
                                                     const SpecialTokens& special) {
  std::map<index_t, AddedToken> declared;
  if (files.declares_tokens()) {
    interpret_json(files.config_path(), [&] {
      for (const auto& [id, token] : files.config.at("added_tokens_decoder").items())
        declared.emplace(token_number(id), read_added_token(token, false));
    });
    return declared;
  }
  interpret_json(files.added_path(), [&] {
    for (const auto& [text, id] : files.added.items()) {
      // White space is found before normalisation makes it like any other, as the Python tokenizers that wrote this
      // file did; transformers 5 normalises it, too, and so takes every space for a newline token.
      const bool space =
          std::ranges::all_of(text, [](char c) { return is_space(char32_t(std::uint8_t(c))); });
      const bool is_special = special.lists(text);
      declared.emplace(
          integer<index_t>(id),
          AddedToken{.text = text, .special = is_special, .normalized = !is_special && !space});
    }
  });
  if (const nlohmann::json* tokens = given(files.whole, "added_tokens"))
    interpret_json(files.whole_path(), [&] {
      for (const auto& token : *tokens)
        declared.insert_or_assign(integer<index_t>(token.at("id")), read_added_token(token, false));
    });
  return declared;
}

/// Adds to a vocabulary what transformers adds: the tokens of tokenizer.json where it is taken as it is written, those that
/// the files give an id, then special ones. Throws io_error for a token that does not get the id of its file.
inline NamedIds add_tokens(Vocabulary& vocabulary, const TokenizerFiles& files,
                           const UnnamedTokens& unnamed) {
  const SpecialTokens special(files, unnamed);
  std::map<std::string, AddedToken> written;
  if (const nlohmann::json* tokens = given(files.whole, "added_tokens");
      tokens && files.kind == TokenizerClass::as_written)
    interpret_json(files.whole_path(), [&] {
      for (const auto& json : *tokens) {
        const AddedToken token = read_added_token(json, false);
        vocabulary.add(token, integer<index_t>(json.at("id")), files.whole_path());
        written.insert_or_assign(token.text, token);
      }
    });
  for (auto& [id, token] : declared_tokens(files, special)) {
    token.special = token.special || special.names(token.text);
    const auto same = written.find(token.text);
    if (same != written.end() && same->second == token) continue;
    vocabulary.add(token, id, files.folder);
  }
  NamedIds ids;
  for (std::size_t i = 0; i < named_tokens.size(); ++i) {
    const auto& token = special.named()[i];
    if (!token) continue;
    if (!vocabulary.is_added(token->text)) vocabulary.add(*token, -1, files.folder);
    ids.*named_tokens[i].second = *vocabulary.id(token->text);
  }
  for (const AddedToken& token : special.more())
    if (!vocabulary.is_added(token.text)) vocabulary.add(token, -1, files.folder);
  return ids;
}

/// What stands around the ids of a text, and which end of a long text is cut.
struct EncodingEnds {
  std::vector<std::int32_t> before, after;
  bool truncates_left = false;

  /// The ids of a text with those around them, as asked. Throws shape_error, naming `function`, for more than max_length
  /// (0: no limit) without truncation, and where the ids around alone are more.
  std::vector<std::int32_t> around(std::vector<std::int32_t> ids, bool special, index_t max_length,
                                   bool truncation, std::string_view function) const {
    require(max_length >= 0, function, "max_length is negative");
    const index_t reserved = special ? std::ssize(before) + std::ssize(after) : 0;
    if (max_length > 0 && max_length < reserved)
      throw shape_error(std::string(function) + ": max_length is " + std::to_string(max_length) +
                        ", expected at least the " + std::to_string(reserved) + " special tokens");
    if (max_length > 0 && std::ssize(ids) + reserved > max_length) {
      if (!truncation)
        throw shape_error(std::string(function) + ": text has " +
                          std::to_string(std::ssize(ids) + reserved) +
                          " tokens, expected at most max_length = " + std::to_string(max_length) +
                          " (or ask for truncation)");
      if (truncates_left)
        ids.erase(ids.begin(), ids.end() - (max_length - reserved));
      else
        ids.resize(std::size_t(max_length - reserved));
    }
    if (special) {
      ids.insert(ids.begin(), before.begin(), before.end());
      ids.insert(ids.end(), after.begin(), after.end());
    }
    return ids;
  }
};

}  // namespace srformer::detail
