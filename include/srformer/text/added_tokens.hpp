// SPDX-License-Identifier: Apache-2.0
// Tokens that are found in a text before the model sees it, as Hugging Face's tokenizers finds them: first those that are
// not normalised, in the text as it is, then the others in the normalised text between those.
//
//   AddedToken, read_added_token   a token and where it is found
//   TokenFinder                    tokens in a text
//   Vocabulary                     all tokens of a tokenizer, and the added ones in a text
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/text/byte_trie.hpp>
#include <srformer/text/characters.hpp>

namespace srformer::detail {

struct AddedToken {
  std::string text;
  bool special = false;      ///< not part of a decoded text
  bool normalized = false;   ///< found, normalised, in the normalised text
  bool lstrip = false;       ///< takes the white space before it
  bool rstrip = false;       ///< and after it
  bool single_word = false;  ///< only where no word character is next to it
  bool operator==(const AddedToken&) const = default;
};

/// A token given as its text or as an object.
inline AddedToken read_added_token(const nlohmann::json& json, bool special) {
  AddedToken token{.text = token_text(json), .special = special, .normalized = !special};
  if (!json.is_object()) return token;
  token.special = special || given_or(json, "special", false);
  token.normalized = given_or(json, "normalized", !token.special);
  token.lstrip = given_or(json, "lstrip", false);
  token.rstrip = given_or(json, "rstrip", false);
  token.single_word = given_or(json, "single_word", false);
  return token;
}

/// Finds tokens in a text: from left to right the longest that stands there.
class TokenFinder {
 public:
  /// Adds a token that is found as `pattern`, or with `as_text` is found but stays text. Returns the id of another one
  /// that is found so, or -1.
  std::int32_t add(std::string_view pattern, const AddedToken& token, std::int32_t id,
                   bool as_text) {
    tokens_.push_back({id, pattern.size(), token.lstrip, token.rstrip, token.single_word, as_text});
    const std::int32_t other = trie_.insert(pattern, std::int32_t(tokens_.size()) - 1);
    return other < 0 ? -1 : tokens_[std::size_t(other)].id;
  }

  /// Calls text(part without tokens, where it begins) and token(id) in the order of the text.
  template <class Text, class Token>
  void split(std::string_view whole, Text text, Token token) const {
    std::size_t begin = 0, spaces_end = 0;
    for (std::size_t i = 0; i < whole.size() && !tokens_.empty();) {
      const Found* match = trie_.begins(whole[i]) ? longest(whole.substr(i)) : nullptr;
      if (match == nullptr) {
        ++i;
        continue;
      }
      std::size_t start = i, stop = i + match->bytes;
      i = stop;
      if (match->as_text) continue;
      if (match->single_word &&
          (ends_with_word(whole.substr(0, start)) || begins_with_word(whole.substr(stop))))
        continue;
      while (match->lstrip && start > begin && ends_with_space(whole.substr(0, start)))
        start = last_character(whole.substr(0, start));
      if (match->lstrip) start = std::max(start, begin);
      if (match->rstrip) stop = spaces_end = end_of_spaces(whole, stop, spaces_end);
      if (start > begin) text(whole.substr(begin, start - begin), begin);
      if (start < stop) token(match->id);  // or the token before took all its white space
      begin = stop;
    }
    if (begin < whole.size()) text(whole.substr(begin), begin);
  }

 private:
  struct Found {
    std::int32_t id;
    std::size_t bytes;
    bool lstrip, rstrip, single_word, as_text;
  };

  /// Where the white space that begins at `at` ends; `known` is the last such end, or a place before `at`.
  static std::size_t end_of_spaces(std::string_view whole, std::size_t at, std::size_t known) {
    if (at < known) return known;  // within the same white space
    while (begins_with_space(whole.substr(at))) at += utf8_step(whole.substr(at)).bytes;
    return at;
  }

  const Found* longest(std::string_view text) const {
    const Found* found = nullptr;
    trie_.prefixes(text, [&](std::size_t, std::int32_t i) { found = &tokens_[std::size_t(i)]; });
    return found;
  }

  ByteTrie trie_;
  std::vector<Found> tokens_;
};

/// The tokens of a tokenizer by id: those of its model, then added ones.
class Vocabulary {
 public:
  /// Appends a token of the model; the last of equal ones counts.
  std::int32_t append(std::string text) {
    const std::int32_t id = std::int32_t(size());
    ids_.insert_or_assign(text, id);
    tokens_.push_back({std::move(text), false});
    return id;
  }

  /// Adds a token at the end, or lets that of the model be found in texts; of a token added twice the options of the
  /// second count, but special it stays. `expected` is the id that its file gives, or -1. Returns the id. Throws io_error,
  /// naming `path`, when it gets another id.
  std::int32_t add(const AddedToken& token, index_t expected, const std::filesystem::path& path) {
    const auto fault = [&](const std::string& why) {
      throw io_error(path.string() + ": added token \"" + one_line(token.text) + "\" has " + why +
                     "; take all tokenizer files from one checkpoint");
    };
    if (token.text.empty()) fault("no text");
    require_token_length(token.text, path);
    const auto known = id(token.text);
    if (expected >= 0 && expected != known.value_or(std::int32_t(size())))
      fault("id " + std::to_string(expected) + ", expected " +
            std::to_string(known.value_or(std::int32_t(size()))) +
            (expected < size() ? " (that id is another token's)" : ""));
    const std::int32_t id = known ? *known : append(token.text);
    if (token.special) tokens_[std::size_t(id)].special = true;
    Added& added = added_[id];
    added.token = token;
    added.once_normalized = added.once_normalized || token.normalized;
    return id;
  }

  bool is_added(std::string_view text) const {
    const auto known = id(text);
    return known && added_.contains(*known);
  }

  /// To be called after the last add: makes added tokens findable, with `split_special` those that are not special.
  /// normalize(std::string&) is that of texts; a token of which it leaves nothing is never found. Throws io_error when it
  /// makes two the same.
  template <class Normalize>
  void find_added(Normalize normalize, bool split_special, const std::filesystem::path& path) {
    for (const auto& [id, added] : added_) {
      const AddedToken& token = added.token;
      const bool as_text = split_special && special(id);
      if (!token.normalized) raw_.add(token.text, token, id, as_text);
      if (!added.once_normalized) continue;
      std::string pattern = token.text;
      normalize(pattern);
      require_token_length(pattern, path);
      const std::int32_t other =
          token.normalized && !pattern.empty() ? normalized_.add(pattern, token, id, as_text) : -1;
      if (other >= 0)
        throw io_error(path.string() + ": added token \"" + one_line(token.text) +
                       "\" is the same as \"" + one_line(tokens_[std::size_t(other)].text) +
                       "\" once it is normalised; give it \"normalized\": false");
      if (pattern != token.text) decoded_.emplace(id, std::move(pattern));
    }
  }

  /// Calls plain(normalised text without tokens, whether it begins the whole) and added(id) in the order of the text.
  /// normalize(std::string&) returns whether the normalised text begins where the text does.
  template <class Normalize, class Plain, class Added>
  void split(std::string_view whole, Normalize normalize, Plain plain, Added added) const {
    std::string text;
    raw_.split(
        whole,
        [&](std::string_view part, std::size_t at) {
          text = part;
          const bool begins = normalize(text) && at == 0;
          normalized_.split(
              text,
              [&](std::string_view words, std::size_t from) { plain(words, begins && from == 0); },
              added);
        },
        added);
  }

  /// Number of ids.
  index_t size() const { return std::ssize(tokens_); }

  /// Token of an id as its file writes it; throws shape_error unless 0 <= id < size().
  std::string_view piece(std::int32_t id) const {
    if (id < 0 || id >= size())
      throw shape_error("piece: id is " + std::to_string(id) + ", expected 0 <= id < " +
                        std::to_string(size()));
    return tokens_[std::size_t(id)].text;
  }

  /// Id of a token, or nothing.
  std::optional<std::int32_t> id(std::string_view piece) const {
    const auto found = ids_.find(piece);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }

  /// Calls give(text) for the ids that a decoded text consists of: a normalised token comes as it is found, and is special
  /// if that is; ids from size() on give nothing. Throws shape_error for a negative id.
  template <class Give>
  void for_each_decoded(std::span<const std::int32_t> ids, bool skip_special, Give give) const {
    for (const std::int32_t id : ids) {
      if (id < 0)
        throw shape_error("decode: id " + std::to_string(id) +
                          " is negative (replace ignored labels by the pad id first)");
      if (id >= size()) continue;
      const Token& own = tokens_[std::size_t(id)];
      const auto found = decoded_.empty() ? decoded_.end() : decoded_.find(id);
      if (found == decoded_.end()) {
        if (!skip_special || !own.special) give(std::string_view(own.text));
      } else {
        const auto same = this->id(found->second);
        if (!skip_special || !same || !special(*same)) give(std::string_view(found->second));
      }
    }
  }

 private:
  struct Token {
    std::string text;
    bool special;
  };
  bool special(std::int32_t id) const { return tokens_[std::size_t(id)].special; }
  struct Added {
    AddedToken token;
    bool once_normalized = false;  // by any add; then it is decoded as normalised, as in tokenizers
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>()(text);
    }
  };

  std::vector<Token> tokens_;  // by id
  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> ids_;
  std::map<std::int32_t, Added> added_;
  std::unordered_map<std::int32_t, std::string> decoded_;  // where that is not the token's text
  TokenFinder raw_, normalized_;
};

}  // namespace srformer::detail
