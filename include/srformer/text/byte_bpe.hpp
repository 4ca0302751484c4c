// SPDX-License-Identifier: Apache-2.0
// BART's tokenizer: byte-level byte pair encoding (Sennrich, Haddow and Birch, "Neural machine translation of rare words
// with subword units", 2016; over bytes: Radford et al., "Language models are unsupervised multitask learners", 2019)
// as Hugging Face's BartTokenizer applies it, and the training of its vocabulary.
//
//   ByteBpeTokenizer   text -> ids -> text, from vocab.json and merges.txt or from tokenizer.json
//   train_byte_bpe     texts -> such a folder
#pragma once

#include <unicode/uchar.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/io/file.hpp>
#include <srformer/text/tokenizer_folder.hpp>

namespace srformer {

struct ByteBpeOptions {
  bool add_special_tokens = true;  ///< <s> before the text and </s> after it
  index_t max_length = 0;          ///< tokens, with the special ones; 0 is no limit
  bool truncation = false;  ///< cut the text that exceeds max_length; otherwise that is an error
};

namespace detail {

// ------------------------------------------------------------------------------------------------
// Words: GPT-2's expression
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

enum class CharacterKind : std::uint8_t { letter, number, space, other };

inline CharacterKind character_kind(char32_t character) {
  const auto c = UChar32(character);
  const std::uint32_t category = U_GET_GC_MASK(c);
  if (category & U_GC_L_MASK) return CharacterKind::letter;
  if (category & U_GC_N_MASK) return CharacterKind::number;
  return u_isUWhiteSpace(c) ? CharacterKind::space : CharacterKind::other;
}

/// \w: what a token with single_word may not touch.
inline bool is_word_character(char32_t character) {
  const auto c = UChar32(character);
  return u_hasBinaryProperty(c, UCHAR_ALPHABETIC) || u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL) ||
         (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

/// First byte of the last character of non-empty UTF-8.
inline std::size_t last_character(std::string_view text) {
  std::size_t i = text.size() - 1;
  while ((std::uint8_t(text[i]) & 0xc0) == 0x80) --i;
  return i;
}

inline std::size_t contraction_prefix(std::string_view text) {
  for (const std::string_view c : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
    if (text.starts_with(c)) return c.size();
  return 0;
}

/// Calls word(text of one match) for every match in UTF-8; the matches together are the whole text.
template <class Word>
void for_each_word(std::string_view text, Word word) {
  while (!text.empty()) {
    std::size_t end = contraction_prefix(text);
    if (end == 0) {
      const std::size_t lead = text[0] == ' ' && text.size() > 1 ? 1 : 0;
      CharacterKind kind = character_kind(code_point(text.substr(lead)));
      if (kind != CharacterKind::space) end = lead;
      std::size_t last = 0;
      while (end < text.size() && character_kind(code_point(text.substr(end))) == kind) {
        last = end;
        end += utf8_step(text.substr(end)).bytes;
      }
      if (kind == CharacterKind::space && end < text.size() && last > 0) end = last;
    }
    word(text.substr(0, end));
    text.remove_prefix(end);
  }
}

// ------------------------------------------------------------------------------------------------
// Bytes as characters: those that print stand for themselves, the others from U+0100 on.

inline std::array<char32_t, 256> make_byte_characters() {
  std::array<char32_t, 256> characters{};
  char32_t next = 0x100;
  for (char32_t b = 0; b < 256; ++b) {
    const bool prints =
        (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
    characters[b] = prints ? b : next++;
  }
  return characters;
}

/// UTF-8 of the character of each byte; all are below U+0800.
inline std::array<std::string, 256> byte_tokens() {
  std::array<std::string, 256> tokens;
  const auto characters = make_byte_characters();
  for (std::size_t b = 0; b < 256; ++b) {
    const char32_t c = characters[b];
    if (c >= 0x80) tokens[b] += char(0xc0 | c >> 6);
    tokens[b] += char(c < 0x80 ? c : 0x80 | (c & 0x3f));
  }
  return tokens;
}

/// Bytes of a token, or the token itself when one of its characters stands for no byte.
inline std::string bytes_of_token(std::string_view token) {
  static const auto byte_of = [] {
    std::array<std::int16_t, 0x200> table;
    table.fill(-1);
    const auto characters = make_byte_characters();
    for (std::size_t b = 0; b < 256; ++b) table[characters[b]] = std::int16_t(b);
    return table;
  }();
  std::string bytes;
  for (std::size_t i = 0; i < token.size(); i += utf8_step(token.substr(i)).bytes) {
    const char32_t c = code_point(token.substr(i));
    if (c >= byte_of.size() || byte_of[c] < 0) return std::string(token);
    bytes += char(byte_of[c]);
  }
  return bytes;
}

// ------------------------------------------------------------------------------------------------
// Merges

inline std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return std::uint64_t(std::uint32_t(left)) << 32 | std::uint32_t(right);
}

struct PairHash {
  std::size_t operator()(std::uint64_t key) const {
    key = (key ^ key >> 32) * 0x9e3779b97f4a7c15u;
    return std::size_t(key ^ key >> 29);
  }
};

/// Which pairs of tokens become one, and in which order.
class MergeTable {
 public:
  void add(std::int32_t left, std::int32_t right, std::int32_t rank, std::int32_t merged) {
    merges_.insert_or_assign(pair_key(left, right), Merge{rank, merged});
  }

  /// Memory of merge() that is kept from word to word.
  struct Work {
    struct Symbol {
      std::int32_t id, previous, next;  // id -1: merged into the one before
    };
    struct Candidate {
      std::int32_t rank, position, merged;
      bool operator<(const Candidate& other) const {  // the last is the lowest rank, leftmost first
        return std::pair(rank, position) > std::pair(other.rank, other.position);
      }
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> candidates;
  };

  /// Replaces ids[begin, end) by their merges, the lowest rank first and, among equals, the leftmost: O(n log n).
  void merge(std::vector<std::int32_t>& ids, std::size_t begin, Work& work) const {
    auto& [symbols, candidates] = work;
    symbols.clear();
    candidates.clear();
    const auto count = std::int32_t(ids.size() - begin);
    for (std::int32_t i = 0; i < count; ++i)
      symbols.push_back({ids[begin + std::size_t(i)], i - 1, i + 1 < count ? i + 1 : -1});
    const auto at = [&](std::int32_t i) -> Work::Symbol& { return work.symbols[std::size_t(i)]; };
    const auto find = [&](std::int32_t left) -> const Merge* {
      if (left < 0 || at(left).next < 0) return nullptr;
      const auto found = merges_.find(pair_key(at(left).id, at(at(left).next).id));
      return found == merges_.end() ? nullptr : &found->second;
    };
    for (std::int32_t i = 0; i < count; ++i)
      if (const Merge* merge = find(i)) candidates.push_back({merge->rank, i, merge->merged});
    std::make_heap(candidates.begin(), candidates.end());
    while (!candidates.empty()) {
      std::pop_heap(candidates.begin(), candidates.end());
      const Work::Candidate best = candidates.back();
      candidates.pop_back();
      if (at(best.position).id < 0) continue;
      const Merge* current = find(best.position);
      if (current == nullptr || current->merged != best.merged) continue;
      Work::Symbol& left = at(best.position);
      Work::Symbol& right = at(left.next);
      left.id = best.merged;
      left.next = right.next;
      right.id = -1;
      if (left.next >= 0) at(left.next).previous = best.position;
      for (const std::int32_t i : {left.previous, best.position})
        if (const Merge* merge = find(i)) {
          candidates.push_back({merge->rank, i, merge->merged});
          std::push_heap(candidates.begin(), candidates.end());
        }
    }
    ids.resize(begin);
    for (const Work::Symbol& symbol : symbols)
      if (symbol.id >= 0) ids.push_back(symbol.id);
  }

 private:
  struct Merge {
    std::int32_t rank, merged;
  };
  std::unordered_map<std::uint64_t, Merge, PairHash> merges_;
};

// ------------------------------------------------------------------------------------------------
// Added tokens

struct AddedToken {
  std::string text;
  bool special = false;
  bool normalized = false;   ///< found after those that are not
  bool lstrip = false;       ///< takes the white space before it
  bool rstrip = false;       ///< and after it
  bool single_word = false;  ///< only where no word character is next to it
  std::int32_t id = -1;
};

/// A token given as its text or as an object.
inline AddedToken read_added_token(const nlohmann::json& json, bool special) {
  AddedToken token{.text = token_text(json), .special = special, .normalized = !special};
  if (!json.is_object()) return token;
  token.special = special || json.value("special", false);
  token.normalized = json.value("normalized", !token.special);
  token.lstrip = json.value("lstrip", false);
  token.rstrip = json.value("rstrip", false);
  token.single_word = json.value("single_word", false);
  return token;
}

/// Added tokens in a text: from left to right the longest that stands there.
class AddedTokens {
 public:
  void add(AddedToken token) {
    auto& same = by_first_byte_[std::uint8_t(token.text.front())];
    const auto shorter = std::ranges::find_if(
        same, [&](const AddedToken& t) { return t.text.size() < token.text.size(); });
    same.insert(shorter, std::move(token));
    empty_ = false;
  }

  /// Calls text(part without tokens) and token(id) in the order of the text.
  template <class Text, class Token>
  void split(std::string_view whole, Text text, Token token) const {
    if (empty_) return text(whole);
    std::size_t begin = 0;
    for (std::size_t i = 0; i < whole.size();) {
      const AddedToken* match = longest(whole.substr(i));
      if (match == nullptr) {
        ++i;
        continue;
      }
      std::size_t start = i, stop = i + match->text.size();
      i = stop;
      if (match->single_word &&
          (ends_with_word(whole.substr(0, start)) || begins_with_word(whole.substr(stop))))
        continue;
      while (match->lstrip && start > begin) {
        const std::size_t last = last_character(whole.substr(0, start));
        if (!is_space(whole.substr(last))) break;
        start = last;
      }
      while (match->rstrip && is_space(whole.substr(stop)))
        stop += utf8_step(whole.substr(stop)).bytes;
      if (start > begin) text(whole.substr(begin, start - begin));
      token(match->id);
      begin = stop;
    }
    if (begin < whole.size()) text(whole.substr(begin));
  }

 private:
  const AddedToken* longest(std::string_view text) const {
    for (const AddedToken& token : by_first_byte_[std::uint8_t(text.front())])
      if (text.starts_with(token.text)) return &token;
    return nullptr;
  }
  static bool is_space(std::string_view text) {
    return !text.empty() && character_kind(code_point(text)) == CharacterKind::space;
  }
  static bool begins_with_word(std::string_view text) {
    return !text.empty() && is_word_character(code_point(text));
  }
  static bool ends_with_word(std::string_view text) {
    return !text.empty() && begins_with_word(text.substr(last_character(text)));
  }

  std::array<std::vector<AddedToken>, 256> by_first_byte_;
  bool empty_ = true;
};

}  // namespace detail

/// BART's tokenizer. Const calls may run in several threads at once.
class ByteBpeTokenizer {
 public:
  /// Reads a folder: tokenizer.json, or else vocab.json and merges.txt; with tokenizer_config.json, special_tokens_map.json
  /// and added_tokens.json where they exist. Throws io_error when a file is missing or is not what its name says.
  explicit ByteBpeTokenizer(const std::filesystem::path& folder) {
    namespace fs = std::filesystem;
    const fs::path whole = folder / "tokenizer.json", vocab = folder / "vocab.json",
                   merges = folder / "merges.txt", config_file = folder / "tokenizer_config.json";
    const nlohmann::json config = detail::read_tokenizer_json(config_file, true);
    nlohmann::json json = nlohmann::json::object();
    if (fs::exists(whole)) {
      json = detail::read_tokenizer_json(whole);
      detail::interpret_json(whole, [&] { load_tokenizer_json(json, whole); });
    } else if (fs::exists(vocab) && fs::exists(merges)) {
      const nlohmann::json tokens = detail::read_tokenizer_json(vocab);
      detail::interpret_json(vocab, [&] { load_vocabulary(tokens, vocab); });
      load_merges_file(merges);
    } else {
      throw io_error(folder.string() +
                     ": has neither tokenizer.json nor vocab.json with merges.txt; copy BART's "
                     "tokenizer into it");
    }
    std::string kind;
    detail::interpret_json(config_file, [&] {
      kind = config.value("tokenizer_class", "");
      add_prefix_space_ = config.value("add_prefix_space", false);
    });
    const bool as_written = json.contains("model") &&
                            (kind == "PreTrainedTokenizerFast" || kind == "TokenizersBackend");
    load_added_tokens(folder, config, json, as_written, kind.starts_with("GPT2"));
    if (as_written) {
      detail::interpret_json(whole, [&] {
        if (const auto* step = byte_level_step(json))
          add_prefix_space_ = step->value("add_prefix_space", true);
        if (json.contains("post_processor")) load_template(json["post_processor"], whole);
      });
    } else if (!kind.starts_with("GPT2")) {
      before_ = {cls_id_};
      after_ = {sep_id_};
    }
  }

  /// Ids of UTF-8 text, as BartTokenizer(text).input_ids: <s>, then added tokens in the text by their ids and the words
  /// between them by their merges, then </s>. Throws shape_error for invalid UTF-8 and for more than max_length tokens
  /// without truncation. O(n log n) in the longest word.
  std::vector<std::int32_t> encode(std::string_view text, ByteBpeOptions options = {}) const {
    constexpr std::string_view function = "ByteBpeTokenizer::encode";
    detail::require_utf8(text, function);
    require(std::in_range<std::int32_t>(text.size()), function, "text is not below 2 GiB");
    const bool special = options.add_special_tokens;
    const index_t reserved = special ? std::ssize(before_) + std::ssize(after_) : 0;
    require(options.max_length >= 0, function, "max_length is negative");
    if (options.max_length > 0 && options.max_length < reserved)
      throw shape_error(std::string(function) + ": max_length is " +
                        std::to_string(options.max_length) + ", expected at least the " +
                        std::to_string(reserved) + " special tokens");

    std::vector<std::int32_t> ids;
    if (special) ids = before_;
    detail::MergeTable::Work work;
    const auto token = [&](std::int32_t id) { ids.push_back(id); };
    raw_.split(
        text,
        [&](std::string_view part) {
          normalized_.split(
              part, [&](std::string_view words) { encode_words(words, ids, work); }, token);
        },
        token);
    const index_t length = std::ssize(ids) + (special ? std::ssize(after_) : 0);
    if (options.max_length > 0 && length > options.max_length) {
      if (!options.truncation)
        throw shape_error(std::string(function) + ": text has " + std::to_string(length) +
                          " tokens, expected at most max_length = " +
                          std::to_string(options.max_length) + " (or ask for truncation)");
      ids.resize(std::size_t(options.max_length - (special ? std::ssize(after_) : 0)));
    }
    if (special) ids.insert(ids.end(), after_.begin(), after_.end());
    return ids;
  }

  /// Text of ids, as BartTokenizer.decode: ids from size() on (the padding of an embedding) give nothing, bytes that are no
  /// UTF-8 give U+FFFD, and no space is cleaned up. Throws shape_error for a negative id.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = true) const {
    std::string bytes;
    for (const std::int32_t id : ids) {
      if (id < 0)
        throw shape_error("ByteBpeTokenizer::decode: id " + std::to_string(id) +
                          " is negative (replace ignored labels by the pad id first)");
      if (id >= size() || (skip_special_tokens && special_[std::size_t(id)])) continue;
      bytes += detail::bytes_of_token(tokens_[std::size_t(id)]);
    }
    return detail::replace_invalid_utf8(bytes);
  }

  /// Bytes at the end of a decoded text that ids to come may change: U+FFFD, which may stand for the first
  /// bytes of a character.
  static std::size_t unsettled(std::string_view text) {
    static constexpr std::string_view replacement = "\ufffd";
    std::size_t bytes = 0;
    for (; text.ends_with(replacement); text.remove_suffix(replacement.size()))
      bytes += replacement.size();
    return bytes;
  }

  /// Number of ids: vocabulary and added tokens. An embedding may have more rows.
  index_t size() const { return std::ssize(tokens_); }
  /// Ids of the named tokens; -1 where the folder names none.
  std::int32_t pad_id() const { return pad_id_; }
  std::int32_t bos_id() const { return bos_id_; }
  std::int32_t eos_id() const { return eos_id_; }
  std::int32_t unk_id() const { return unk_id_; }
  std::int32_t mask_id() const { return mask_id_; }

  /// Token of an id as vocab.json writes it, with U+0120 for a space; throws shape_error unless 0 <= id < size().
  std::string_view piece(std::int32_t id) const {
    if (id < 0 || id >= size())
      throw shape_error("ByteBpeTokenizer::piece: id is " + std::to_string(id) +
                        ", expected 0 <= id < " + std::to_string(size()));
    return tokens_[std::size_t(id)];
  }

  /// Id of a token as vocab.json writes it, or nothing.
  std::optional<std::int32_t> id(std::string_view piece) const {
    const auto found = ids_.find(std::string(piece));
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  void encode_words(std::string_view text, std::vector<std::int32_t>& ids,
                    detail::MergeTable::Work& work) const {
    if (text.empty()) return;
    std::string prefixed;
    if (add_prefix_space_ && text[0] != ' ') text = prefixed = " " + std::string(text);
    detail::for_each_word(text, [&](std::string_view word) {
      const std::size_t begin = ids.size();
      for (const char byte : word) ids.push_back(byte_ids_[std::uint8_t(byte)]);
      merges_.merge(ids, begin, work);
    });
  }

  void load_vocabulary(const nlohmann::json& vocabulary, const std::filesystem::path& path) {
    const auto fault = [&](const std::string& token, const std::string& why) {
      throw io_error(path.string() + ": token \"" + token + "\"" + why +
                     "; take all tokenizer files from one checkpoint");
    };
    if (!vocabulary.is_object())
      throw io_error(path.string() +
                     ": the vocabulary is no object of tokens and ids; fetch the file again");
    tokens_.resize(vocabulary.size());
    for (const auto& [token, number] : vocabulary.items()) {
      const auto id = number.get<index_t>();
      if (token.empty()) fault(token, " has no text");
      if (id < 0 || id >= std::ssize(tokens_))
        fault(token, " has id " + std::to_string(id) + ", expected 0 to " +
                         std::to_string(std::ssize(tokens_) - 1));
      if (!tokens_[std::size_t(id)].empty())
        fault(token, " has the id of \"" + tokens_[std::size_t(id)] + "\"");
      tokens_[std::size_t(id)] = token;
      ids_.emplace(token, std::int32_t(id));
    }
    special_.assign(tokens_.size(), false);
    const auto bytes = detail::byte_tokens();
    for (std::size_t b = 0; b < 256; ++b) {
      const auto found = id(bytes[b]);
      if (!found)
        throw io_error(path.string() + ": has no token for byte " + std::to_string(b) + " (\"" +
                       bytes[b] + "\"), so it is no byte-level vocabulary; name BART's folder");
      byte_ids_[b] = *found;
    }
  }

  /// The merge number `rank` of the file; `where` says its place in messages.
  void add_merge(const std::string& left, const std::string& right, std::size_t rank,
                 const std::string& where) {
    const auto find = [&](const std::string& token) {
      const auto found = id(token);
      if (!found)
        throw io_error(where + ": \"" + token +
                       "\" is not in the vocabulary; take all tokenizer files from one checkpoint");
      return *found;
    };
    const std::int32_t first = find(left), second = find(right);
    merges_.add(first, second, std::int32_t(rank), find(left + right));
  }

  void load_merges_file(const std::filesystem::path& path) {
    const MappedFile file(path);
    std::size_t rank = 0, number = 0;
    for (std::string_view rest = file.text(); !rest.empty();) {
      const std::size_t end = std::min(rest.find('\n'), rest.size());
      std::string_view line = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      ++number;
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.empty() || line.starts_with("#version")) continue;
      split_merge(line, rank++, path.string() + ": line " + std::to_string(number));
    }
  }

  void split_merge(std::string_view line, std::size_t rank, const std::string& where) {
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == line.size() ||
        line.find(' ', space + 1) != std::string_view::npos)
      throw io_error(where + ": expected two tokens with a space between; fetch the file again");
    add_merge(std::string(line.substr(0, space)), std::string(line.substr(space + 1)), rank, where);
  }

  /// The ByteLevel step of "pre_tokenizer", or null.
  static const nlohmann::json* byte_level_step(const nlohmann::json& json) {
    const auto found = json.find("pre_tokenizer");
    if (found == json.end() || !found->is_object()) return nullptr;
    if (found->value("type", "") == "ByteLevel") return &*found;
    if (found->value("type", "") == "Sequence" && found->at("pretokenizers").size() == 1 &&
        found->at("pretokenizers")[0].value("type", "") == "ByteLevel")
      return &found->at("pretokenizers")[0];
    return nullptr;
  }

  void load_tokenizer_json(const nlohmann::json& json, const std::filesystem::path& path) {
    const auto refuse = [&](const std::string& what) {
      throw io_error(path.string() + ": " + what + ", so it is not BART's; name BART's folder");
    };
    const nlohmann::json& model = json.at("model");
    if (model.value("type", "BPE") != "BPE") refuse("holds no BPE model");
    const nlohmann::json* step = byte_level_step(json);
    if (step == nullptr || !step->value("use_regex", true))
      refuse("does not split text by GPT-2's expression alone");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (model.contains(key) && !model[key].is_null() && model[key] != "")
        refuse(std::string("has a ") + key);
    if (model.value("byte_fallback", false)) refuse("has byte_fallback");
    if (model.value("ignore_merges", false)) refuse("has ignore_merges");
    if (json.contains("normalizer") && !json["normalizer"].is_null()) refuse("has a normalizer");
    load_vocabulary(model.at("vocab"), path);
    std::size_t rank = 0;
    for (const auto& merge : model.at("merges")) {
      const std::string where = path.string() + ": merge " + std::to_string(rank);
      if (merge.is_string())
        split_merge(merge.get<std::string>(), rank, where);
      else
        add_merge(merge.at(0).get<std::string>(), merge.at(1).get<std::string>(), rank, where);
      ++rank;
    }
  }

  /// Collects added and special tokens as transformers 5 does: added_tokens_decoder of the config alone, or, without it,
  /// special_tokens_map.json, added_tokens.json and the added tokens of tokenizer.json.
  void load_added_tokens(const std::filesystem::path& folder, const nlohmann::json& config,
                         const nlohmann::json& json, bool as_written, bool gpt2) {
    const auto map_path = folder / "special_tokens_map.json";
    const auto map = config.contains("added_tokens_decoder")
                         ? nlohmann::json::object()
                         : detail::read_tokenizer_json(map_path, true);
    const auto unnamed = as_written ? UnnamedTokens::none
                         : gpt2     ? UnnamedTokens::of_gpt2
                                    : UnnamedTokens::of_bart;
    const auto config_path = folder / "tokenizer_config.json";
    const SpecialTokens special = special_tokens({map_path, map}, {config_path, config}, unnamed);
    for (auto& [id, token] : declared_tokens(folder, config, json, special, as_written)) {
      token.special = token.special || holds(special, token.text);
      add(token, id, folder);
    }
    for (const auto& [token, id] : special) {
      const std::int32_t number = add(token, -1, folder);
      if (id != nullptr) *id = number;
    }
  }

  /// A file and what is in it.
  struct JsonFile {
    const std::filesystem::path& path;
    const nlohmann::json& json;
  };
  /// What the special tokens are that no file names.
  enum class UnnamedTokens { none, of_bart, of_gpt2 };
  /// Each with where its id goes, or null.
  using SpecialTokens = std::vector<std::pair<detail::AddedToken, std::int32_t*>>;

  /// The special tokens by their names, the map's before the config's, then those without one.
  SpecialTokens special_tokens(const JsonFile& map, const JsonFile& config, UnnamedTokens unnamed) {
    struct Name {
      const char* key;
      const char* of_bart;
      const char* of_gpt2;
      std::int32_t* id;
    };
    const std::array<Name, 7> names{{{"bos_token", "<s>", "<|endoftext|>", &bos_id_},
                                     {"eos_token", "</s>", "<|endoftext|>", &eos_id_},
                                     {"unk_token", "<unk>", "<|endoftext|>", &unk_id_},
                                     {"sep_token", "</s>", nullptr, &sep_id_},
                                     {"pad_token", "<pad>", nullptr, &pad_id_},
                                     {"cls_token", "<s>", nullptr, &cls_id_},
                                     {"mask_token", "<mask>", nullptr, &mask_id_}}};
    SpecialTokens special;
    for (const Name& name : names) {
      const auto take = [&](const nlohmann::json& from) {
        if (from.contains(name.key) && !from[name.key].is_null())
          special.emplace_back(detail::read_added_token(from[name.key], true), name.id);
        return from.contains(name.key);
      };
      bool given = false;
      detail::interpret_json(map.path, [&] { given = take(map.json); });
      if (!given) detail::interpret_json(config.path, [&] { given = take(config.json); });
      const char* otherwise = unnamed == UnnamedTokens::of_bart   ? name.of_bart
                              : unnamed == UnnamedTokens::of_gpt2 ? name.of_gpt2
                                                                  : nullptr;
      if (!given && otherwise != nullptr)
        special.push_back({{.text = otherwise, .special = true}, name.id});
    }
    for (const JsonFile& file : {map, config})
      for (const char* key : {"additional_special_tokens", "extra_special_tokens"})
        detail::interpret_json(file.path, [&] {
          if (!file.json.contains(key) || !file.json[key].is_array()) return;
          for (const auto& token : file.json[key])
            special.emplace_back(detail::read_added_token(token, true), nullptr);
        });
    return special;
  }

  static bool holds(const SpecialTokens& special, const std::string& text) {
    return std::ranges::any_of(special, [&](const auto& s) { return s.first.text == text; });
  }

  /// The tokens that the files of a folder give an id.
  static std::map<index_t, detail::AddedToken> declared_tokens(const std::filesystem::path& folder,
                                                               const nlohmann::json& config,
                                                               const nlohmann::json& json,
                                                               const SpecialTokens& special,
                                                               bool as_written) {
    std::map<index_t, detail::AddedToken> declared;
    const bool decoder = config.contains("added_tokens_decoder");
    if (json.contains("added_tokens") && (as_written || !decoder))
      detail::interpret_json(folder / "tokenizer.json", [&] {
        for (const auto& token : json["added_tokens"])
          declared.emplace(token.at("id").get<index_t>(), detail::read_added_token(token, false));
      });
    const auto added_path = folder / "added_tokens.json";
    if (decoder)
      detail::interpret_json(folder / "tokenizer_config.json", [&] {
        for (const auto& [id, token] : config["added_tokens_decoder"].items())
          declared.emplace(std::stoll(id), detail::read_added_token(token, false));
      });
    else if (const auto tokens = detail::read_tokenizer_json(added_path, true); !tokens.empty())
      detail::interpret_json(added_path, [&] {
        for (const auto& [text, id] : tokens.items())
          declared.emplace(id.get<index_t>(), detail::read_added_token(text, holds(special, text)));
      });
    return declared;
  }

  /// Adds a token at the end or marks the one of the vocabulary; `expected` is the id its file gives, or -1.
  std::int32_t add(detail::AddedToken token, index_t expected, const std::filesystem::path& path) {
    if (token.text.empty())
      throw io_error(path.string() + ": an added token has no text; correct its files");
    const auto [found, appended] = ids_.try_emplace(token.text, std::int32_t(size()));
    token.id = found->second;
    if (expected >= 0 && expected != token.id)
      throw io_error(path.string() + ": added token \"" + token.text + "\" has id " +
                     std::to_string(expected) + ", expected " + std::to_string(token.id) +
                     "; take all tokenizer files from one checkpoint");
    if (appended) {
      tokens_.push_back(token.text);
      special_.push_back(false);
    }
    if (token.special) special_[std::size_t(token.id)] = true;
    if (known_.insert(token.id).second) (token.normalized ? normalized_ : raw_).add(token);
    return token.id;
  }

  /// The ids around a text from "post_processor".
  void load_template(const nlohmann::json& step, const std::filesystem::path& path) {
    const std::string type = step.is_object() ? step.value("type", "") : "ByteLevel";
    if (type == "Sequence") {
      for (const auto& processor : step.at("processors")) load_template(processor, path);
    } else if (type == "RobertaProcessing" || type == "BertProcessing") {
      before_ = {step.at("cls").at(1).get<std::int32_t>()};
      after_ = {step.at("sep").at(1).get<std::int32_t>()};
    } else if (type == "TemplateProcessing") {
      before_.clear();
      after_.clear();
      bool behind = false;
      for (const auto& part : step.at("single")) {
        if (part.contains("Sequence")) {
          behind = true;
          continue;
        }
        const auto& token =
            step.at("special_tokens").at(part.at("SpecialToken").at("id").get<std::string>());
        for (const auto& id : token.at("ids"))
          (behind ? after_ : before_).push_back(id.get<std::int32_t>());
      }
    } else if (type != "ByteLevel") {
      throw io_error(path.string() + ": post_processor is " + type +
                     ", expected RobertaProcessing or TemplateProcessing; correct it");
    }
    for (const auto* ids : {&before_, &after_})
      for (const std::int32_t id : *ids)
        if (id < 0 || id >= size())
          throw io_error(path.string() + ": post_processor has id " + std::to_string(id) +
                         ", expected 0 to " + std::to_string(size() - 1) + "; correct it");
  }

  std::vector<std::string> tokens_;  // by id
  std::vector<bool> special_;        // by id
  std::unordered_map<std::string, std::int32_t> ids_;
  std::array<std::int32_t, 256> byte_ids_{};
  detail::MergeTable merges_;
  detail::AddedTokens raw_, normalized_;
  std::unordered_set<std::int32_t> known_;  // ids of raw_ and normalized_
  std::vector<std::int32_t> before_, after_;
  bool add_prefix_space_ = false;
  std::int32_t bos_id_ = -1, eos_id_ = -1, unk_id_ = -1, sep_id_ = -1, pad_id_ = -1, cls_id_ = -1,
               mask_id_ = -1;
};

struct ByteBpeTraining {
  index_t min_frequency = 2;      ///< occurrences of a pair below which it is not merged
  bool add_prefix_space = false;  ///< begin every text as a word after a space
};

namespace detail {

/// Learns merges from words, as tokenizers' BpeTrainer: the most frequent pair first and, among equals, that of the
/// lowest ids; a pair's frequency is looked up again when it comes to the top.
class MergeLearner {
 public:
  explicit MergeLearner(std::vector<std::string> tokens) : tokens_(std::move(tokens)) {
    for (std::size_t i = 0; i < tokens_.size(); ++i) ids_.emplace(tokens_[i], std::int32_t(i));
  }

  void add_word(std::string_view word, index_t count, std::span<const std::int32_t> byte_ids) {
    Word& entry = words_.emplace_back();
    entry.count = count;
    for (const char byte : word) entry.ids.push_back(byte_ids[std::uint8_t(byte)]);
  }

  void learn(index_t vocab_size, index_t min_frequency) {
    for (std::size_t w = 0; w < words_.size(); ++w)
      for (std::size_t i = 1; i < words_[w].ids.size(); ++i)
        change(words_[w].ids[i - 1], words_[w].ids[i], words_[w].count, w);
    queue_changed();
    while (std::ssize(tokens_) < vocab_size && !queue_.empty()) {
      std::pop_heap(queue_.begin(), queue_.end());
      Pair best = std::move(queue_.back());
      queue_.pop_back();
      if (const index_t now = counts_[best.key]; now != best.count) {
        best.count = now;
        push(std::move(best));
        continue;
      }
      if (best.count < std::max<index_t>(min_frequency, 1)) break;
      const auto left = std::int32_t(best.key >> 32), right = std::int32_t(best.key & 0xffffffff);
      const std::string text = tokens_[std::size_t(left)] + tokens_[std::size_t(right)];
      const auto [merged, fresh] = ids_.try_emplace(text, std::int32_t(tokens_.size()));
      merges_.push_back(tokens_[std::size_t(left)] + " " + tokens_[std::size_t(right)]);
      if (fresh) tokens_.push_back(text);
      for (const std::size_t w : best.words) merge_in_word(w, left, right, merged->second);
      queue_changed();
    }
  }

  const std::vector<std::string>& tokens() const { return tokens_; }
  const std::vector<std::string>& merges() const { return merges_; }

 private:
  struct Word {
    std::vector<std::int32_t> ids;
    index_t count;
  };
  struct Pair {
    std::uint64_t key;
    index_t count;
    std::vector<std::size_t> words;
    bool operator<(const Pair& other) const {
      return count != other.count ? count < other.count : key > other.key;
    }
  };

  void push(Pair pair) {
    queue_.push_back(std::move(pair));
    std::push_heap(queue_.begin(), queue_.end());
  }

  void change(std::int32_t left, std::int32_t right, index_t count, std::size_t word) {
    const std::uint64_t key = pair_key(left, right);
    counts_[key] += count;
    if (count <= 0) return;
    auto& words = changed_[key];
    if (words.empty() || words.back() != word) words.push_back(word);
  }

  void queue_changed() {
    for (auto& [key, words] : changed_)
      if (const index_t count = counts_[key]; count > 0) push({key, count, std::move(words)});
    changed_.clear();
  }

  void merge_in_word(std::size_t w, std::int32_t left, std::int32_t right, std::int32_t merged) {
    auto& [ids, count] = words_[w];
    std::size_t kept = 0;
    for (std::size_t i = 0; i < ids.size(); ++i, ++kept) {
      if (ids[i] != left || i + 1 == ids.size() || ids[i + 1] != right) {
        ids[kept] = ids[i];
        continue;
      }
      if (kept > 0) {
        change(ids[kept - 1], left, -count, w);
        change(ids[kept - 1], merged, count, w);
      }
      ++i;
      if (i + 1 < ids.size()) {
        change(right, ids[i + 1], -count, w);
        change(merged, ids[i + 1], count, w);
      }
      ids[kept] = merged;
    }
    ids.resize(kept);
  }

  std::vector<std::string> tokens_, merges_;
  std::unordered_map<std::string, std::int32_t> ids_;
  std::vector<Word> words_;
  std::unordered_map<std::uint64_t, index_t, PairHash> counts_;
  std::unordered_map<std::uint64_t, std::vector<std::size_t>, PairHash> changed_;
  std::vector<Pair> queue_;  // a heap
};

/// What tokenizer files say of each special token, without its id.
inline std::vector<nlohmann::ordered_json> special_token_objects(
    std::span<const std::string> special) {
  std::vector<nlohmann::ordered_json> objects;
  for (const std::string& text : special)
    objects.push_back({{"content", text},
                       {"single_word", false},
                       {"lstrip", text == "<mask>"},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
  return objects;
}

/// The names of BART's special tokens except the mask.
inline nlohmann::ordered_json special_token_names() {
  return {{"bos_token", "<s>"},  {"eos_token", "</s>"},  {"unk_token", "<unk>"},
          {"sep_token", "</s>"}, {"pad_token", "<pad>"}, {"cls_token", "<s>"}};
}

/// tokenizer_config.json.
inline nlohmann::ordered_json tokenizer_config_json(std::span<const nlohmann::ordered_json> special,
                                                    bool add_prefix_space) {
  nlohmann::ordered_json config = special_token_names();
  config["mask_token"] = "<mask>";
  config["add_prefix_space"] = add_prefix_space;
  nlohmann::ordered_json& decoder = config["added_tokens_decoder"];
  for (std::size_t id = 0; id < special.size(); ++id) decoder[std::to_string(id)] = special[id];
  config["clean_up_tokenization_spaces"] = false;
  config["tokenizer_class"] = "BartTokenizer";
  return config;
}

/// special_tokens_map.json; the mask is the last special token.
inline nlohmann::ordered_json special_tokens_map_json(
    std::span<const nlohmann::ordered_json> special) {
  nlohmann::ordered_json map = special_token_names();
  map["mask_token"] = special.back();
  map["mask_token"].erase("special");
  return map;
}

/// tokenizer.json.
inline nlohmann::ordered_json tokenizer_json(const nlohmann::ordered_json& vocabulary,
                                             const std::vector<std::string>& merges,
                                             std::span<const nlohmann::ordered_json> special,
                                             bool add_prefix_space) {
  using Json = nlohmann::ordered_json;
  Json added = Json::array();
  for (std::size_t id = 0; id < special.size(); ++id) {
    added.push_back(special[id]);
    added.back()["id"] = id;
  }
  const Json byte_level{{"type", "ByteLevel"},
                        {"add_prefix_space", add_prefix_space},
                        {"trim_offsets", true},
                        {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor",
           {{"type", "RobertaProcessing"},
            {"sep", {"</s>", vocabulary.at("</s>")}},
            {"cls", {"<s>", vocabulary.at("<s>")}},
            {"trim_offsets", true},
            {"add_prefix_space", add_prefix_space}}},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", ""},
            {"end_of_word_suffix", ""},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocabulary},
            {"merges", merges}}}};
}

/// Replaces the files of a folder that ByteBpeTokenizer and transformers' BartTokenizer read.
inline void write_byte_bpe(const std::filesystem::path& folder,
                           std::span<const std::string> special, const MergeLearner& learner,
                           bool add_prefix_space) {
  using Json = nlohmann::ordered_json;
  Json vocabulary = Json::object();
  for (std::size_t id = 0; id < learner.tokens().size(); ++id)
    vocabulary.get_ref<Json::object_t&>().emplace_back(learner.tokens()[id], id);
  std::string merges = "#version: 0.2\n";
  for (const std::string& merge : learner.merges()) merges += merge + "\n";
  const std::vector<Json> tokens = special_token_objects(special);

  std::vector<ReplacementFile> files;
  const auto add = [&](const char* name, const std::string& text) {
    files.emplace_back(folder / name).write(text);
  };
  add("vocab.json", vocabulary.dump() + "\n");
  add("merges.txt", merges);
  add("tokenizer.json",
      tokenizer_json(vocabulary, learner.merges(), tokens, add_prefix_space).dump(1) + "\n");
  add("special_tokens_map.json", special_tokens_map_json(tokens).dump(2) + "\n");
  add("tokenizer_config.json", tokenizer_config_json(tokens, add_prefix_space).dump(2) + "\n");
  commit_together(files);
}

}  // namespace detail

/// Trains a byte-level vocabulary on UTF-8 texts (<s> 0, <pad> 1, </s> 2, <unk> 3, <mask> 4, the 256 bytes, then merges) and
/// replaces vocab.json, merges.txt, tokenizer.json, tokenizer_config.json and special_tokens_map.json in a folder; the vocabulary is
/// that of tokenizers' ByteLevelBPETokenizer.train. Fewer than vocab_size tokens result when no pair is frequent enough.
/// Throws shape_error when the texts are empty or vocab_size is below 261, io_error when a file cannot be written.
inline void train_byte_bpe(std::span<const std::string> texts, index_t vocab_size,
                           const std::filesystem::path& folder, ByteBpeTraining options = {}) {
  constexpr std::string_view function = "train_byte_bpe";
  const std::vector<std::string> special{"<s>", "<pad>", "</s>", "<unk>", "<mask>"};
  require(vocab_size >= std::ssize(special) + 256, function,
          "vocab_size is below 261, the special tokens and the bytes");
  require(std::in_range<std::int32_t>(vocab_size), function, "vocab_size is not below 2^31");
  require(options.min_frequency >= 0, function, "min_frequency is negative");
  std::map<std::string, index_t, std::less<>> counts;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::string_view text = texts[i];
    if (detail::valid_utf8_prefix(text) != text.size())
      throw shape_error("train_byte_bpe: text " + std::to_string(i + 1) + " is not UTF-8");
    std::string prefixed;
    if (options.add_prefix_space && !text.starts_with(' ') && !text.empty())
      text = prefixed = " " + texts[i];
    detail::for_each_word(text, [&](std::string_view word) {
      const auto found = counts.find(word);
      if (found != counts.end())
        ++found->second;
      else
        counts.emplace(word, 1);
    });
  }
  require(!counts.empty(), function, "the texts are empty");

  std::array<std::size_t, 256> bytes{};  // in the order of their characters
  for (std::size_t b = 0; b < 256; ++b) bytes[b] = b;
  const auto characters = detail::make_byte_characters();
  std::ranges::sort(bytes, {}, [&](std::size_t b) { return characters[b]; });
  std::vector<std::string> tokens = special;
  std::array<std::int32_t, 256> byte_ids{};
  const auto byte_tokens = detail::byte_tokens();
  for (const std::size_t b : bytes) {
    byte_ids[b] = std::int32_t(tokens.size());
    tokens.push_back(byte_tokens[b]);
  }
  detail::MergeLearner learner(std::move(tokens));
  for (const auto& [word, count] : counts) learner.add_word(word, count, byte_ids);
  learner.learn(vocab_size, options.min_frequency);
  detail::write_byte_bpe(folder, special, learner, options.add_prefix_space);
}

/// The same from a file, one line of text each.
inline void train_byte_bpe(const std::filesystem::path& text_file, index_t vocab_size,
                           const std::filesystem::path& folder, ByteBpeTraining options = {}) {
  const MappedFile file(text_file);
  std::vector<std::string> lines;
  for (std::string_view rest = file.text(); !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    lines.emplace_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  train_byte_bpe(lines, vocab_size, folder, options);
}

}  // namespace srformer
