// SPDX-License-Identifier: Apache-2.0
// Text as GPT-2 reads it (Radford et al., "Language models are unsupervised multitask learners", 2019).
//
//   for_each_word                  words by GPT-2's expression
//   byte_tokens, bytes_of_token    bytes as the characters that stand for them, and back
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include <srformer/text/characters.hpp>

namespace srformer::detail {

// ------------------------------------------------------------------------------------------------
// Words: GPT-2's expression
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

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

}  // namespace srformer::detail
