// SPDX-License-Identifier: Apache-2.0
// "decoder" of tokenizer.json: how tokens become a text again, step by step.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/text/byte_level.hpp>
#include <srformer/text/pattern.hpp>
#include <srformer/text/pre_tokenizer.hpp>

namespace srformer::detail {

/// `text` with `to` in place of `from`. O(length).
inline std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string replaced;
  std::size_t begin = 0;
  for (std::size_t at; !from.empty() && (at = text.find(from, begin)) != text.npos;
       begin = at + from.size())
    (replaced += text.substr(begin, at - begin)) += to;
  return replaced += text.substr(begin);
}

/// transformers' clean_up_tokenization: no space before punctuation and contractions.
inline constexpr std::array<std::pair<std::string_view, std::string_view>, 10> clean_up_rules{
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

inline std::string clean_up(std::string text) {
  for (const auto& [from, to] : clean_up_rules) text = replace_all(text, from, to);
  return text;
}

/// Bytes at the end of a text that clean_up may still change when more follows.
inline std::size_t not_cleaned_up(std::string_view text) {
  std::size_t bytes = 0;
  for (const auto& rule : clean_up_rules) bytes += rule.first.size() - 1;
  if (bytes >= text.size()) return text.size();
  while (bytes < text.size() && (std::uint8_t(text[text.size() - bytes]) & 0xc0) == 0x80) ++bytes;
  return bytes;
}

/// Bytes of the U+FFFD that a text ends with, which may stand for the first bytes of a character.
inline std::size_t not_whole(std::string_view text) {
  static constexpr std::string_view replacement = "\ufffd";
  std::size_t bytes = 0;
  for (; text.ends_with(replacement); text.remove_suffix(replacement.size()))
    bytes += replacement.size();
  return bytes;
}

using Tokens = std::vector<std::string>;

struct DecodeMetaspace {
  Metaspace metaspace;
  void operator()(Tokens& tokens) const {
    const bool prefixed = metaspace.prepend != Metaspace::Prepend::never;
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = replace_all(tokens[i], metaspace.replacement, i == 0 && prefixed ? "" : " ");
  }
};

struct DecodeByteLevel {
  void operator()(Tokens& tokens) const {
    std::string bytes;
    for (const std::string& token : tokens) bytes += bytes_of_token(token);
    tokens = {replace_invalid_utf8(bytes)};
  }
};

struct DecodeReplace {
  Pattern pattern;
  std::string content;
  /// Throws shape_error where the tokens become more than `most` bytes.
  void operator()(Tokens& tokens, std::size_t most) const {
    for (std::string& token : tokens) {
      token = pattern.replace(token, content, most);
      most -= token.size();
    }
  }
};

struct DecodeFuse {
  void operator()(Tokens& tokens) const {
    std::string text;
    for (const std::string& token : tokens) text += token;
    tokens = {std::move(text)};
  }
};

/// Removes up to `start` of a character where tokens begin and up to `stop` where they end.
struct DecodeStrip {
  std::string content;
  std::size_t start, stop;
  void operator()(Tokens& tokens) const {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (std::size_t i = 0; i < start && rest.starts_with(content); ++i)
        rest.remove_prefix(content.size());
      for (std::size_t i = 0; i < stop && rest.ends_with(content); ++i)
        rest.remove_suffix(content.size());
      token = std::string(rest);
    }
  }
};

/// <0x41> is a byte; runs of them that are no UTF-8 are a U+FFFD each.
struct DecodeByteFallback {
  void operator()(Tokens& tokens) const {
    Tokens decoded;
    std::string bytes;
    const auto finish = [&] {
      if (valid_utf8_prefix(bytes) == bytes.size()) {
        if (!bytes.empty()) decoded.push_back(bytes);
      } else {
        decoded.insert(decoded.end(), bytes.size(), "\ufffd");
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      unsigned byte = 0;
      const char* const digits = token.data() + 3;
      const bool is_byte = token.size() == 6 && token.starts_with("<0x") && token.ends_with('>') &&
                           std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2;
      if (is_byte) {
        bytes += char(byte);
        continue;
      }
      finish();
      decoded.push_back(std::move(token));
    }
    finish();
    tokens = std::move(decoded);
  }
};

/// The suffix ends a word.
struct DecodeBpe {
  std::string suffix;
  void operator()(Tokens& tokens) const {
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = replace_all(tokens[i], suffix, i + 1 == tokens.size() ? "" : " ");
  }
};

/// Any of them after each other; without one, tokens are joined by spaces.
class TokenDecoder {
 public:
  TokenDecoder() = default;

  /// Throws io_error, naming `path`, for a step that is not among those above.
  TokenDecoder(const nlohmann::json& json, const std::filesystem::path& path)
      : joined_by_(json.is_null() ? " " : "") {
    add(json, path);
  }

  std::string operator()(Tokens tokens) const {
    if (tokens.empty()) return {};
    std::size_t bytes = 0;
    for (const std::string& token : tokens) bytes += token.size();
    for (const Step& step : steps_)
      std::visit([&](const auto& s) { run(s, tokens, grown(bytes)); }, step);
    std::string text;
    for (std::size_t i = 0; i < tokens.size(); ++i)
      (text += i > 0 ? joined_by_ : std::string_view()) += tokens[i];
    return text;
  }

  /// Bytes at the end of a decoded text that more tokens may change.
  std::size_t unsettled(std::string_view text) const {
    if (steps_.empty()) return 0;
    if (steps_.size() > 1) return text.size();
    if (std::holds_alternative<DecodeByteLevel>(steps_[0])) return not_whole(text);
    const bool token_by_token = std::holds_alternative<DecodeMetaspace>(steps_[0]) ||
                                std::holds_alternative<DecodeReplace>(steps_[0]) ||
                                std::holds_alternative<DecodeFuse>(steps_[0]);
    return token_by_token ? 0 : text.size();
  }

 private:
  using Step = std::variant<DecodeMetaspace, DecodeByteLevel, DecodeReplace, DecodeFuse,
                            DecodeStrip, DecodeByteFallback, DecodeBpe>;

  static void run(const DecodeReplace& step, Tokens& tokens, std::size_t most) {
    step(tokens, most);
  }
  template <class S>
  static void run(const S& step, Tokens& tokens, std::size_t) {
    step(tokens);
  }

  void add(const nlohmann::json& json, const std::filesystem::path& path) {
    require_few_steps(steps_.size() + 1, path);
    if (json.is_null()) return;
    const auto type = json.at("type").get<std::string>();
    if (type == "Sequence") {
      for (const auto& step : json.at("decoders")) add(step, path);
    } else if (type == "Metaspace") {
      steps_.emplace_back(DecodeMetaspace{Metaspace(json)});
    } else if (type == "ByteLevel") {
      steps_.emplace_back(DecodeByteLevel{});
    } else if (type == "Replace") {
      steps_.emplace_back(
          DecodeReplace{Pattern(json.at("pattern"), path, "decoder Replace"), json.at("content")});
    } else if (type == "Fuse") {
      steps_.emplace_back(DecodeFuse{});
    } else if (type == "Strip") {
      steps_.emplace_back(DecodeStrip{json.at("content"), integer<std::size_t>(json.at("start")),
                                      integer<std::size_t>(json.at("stop"))});
      require_one_character(std::get<DecodeStrip>(steps_.back()).content, "content");
    } else if (type == "ByteFallback") {
      steps_.emplace_back(DecodeByteFallback{});
    } else if (type == "BPEDecoder") {
      steps_.emplace_back(DecodeBpe{json.at("suffix")});
    } else {
      throw io_error(path.string() + ": decoder " + one_line(type) +
                     " is not known here; take a tokenizer without it");
    }
  }

  std::string_view joined_by_;
  std::vector<Step> steps_;
};

}  // namespace srformer::detail
