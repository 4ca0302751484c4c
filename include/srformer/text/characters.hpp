// SPDX-License-Identifier: Apache-2.0
// What Unicode says of characters, by ICU.
//
//   CharacterKind, character_kind      letter, number, white space or other
//   is_space, is_word_character, ...   classes of regular expressions
//   begins_with, ends_with_...         the same of a text's ends
#pragma once

#include <unicode/uchar.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include <srformer/text/tokenizer_folder.hpp>

namespace srformer::detail {

enum class CharacterKind : std::uint8_t { letter, number, space, other };

inline CharacterKind unicode_kind(char32_t character) {
  const auto c = UChar32(character);
  const std::uint32_t category = U_GET_GC_MASK(c);
  if (category & U_GC_L_MASK) return CharacterKind::letter;
  if (category & U_GC_N_MASK) return CharacterKind::number;
  return u_isUWhiteSpace(c) ? CharacterKind::space : CharacterKind::other;
}

inline CharacterKind character_kind(char32_t character) {
  static const auto ascii = [] {
    std::array<CharacterKind, 128> kinds{};
    for (char32_t c = 0; c < 128; ++c) kinds[c] = unicode_kind(c);
    return kinds;
  }();
  return character < 128 ? ascii[character] : unicode_kind(character);
}

/// \s: White_Space.
inline bool is_space(char32_t character) {
  if (character < 128) return character == ' ' || (character >= '\t' && character <= '\r');
  return u_isUWhiteSpace(UChar32(character));
}

/// \w: what a token with single_word may not touch.
inline bool is_word_character(char32_t character) {
  const auto c = UChar32(character);
  return u_hasBinaryProperty(c, UCHAR_ALPHABETIC) || u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL) ||
         (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

inline bool is_number(char32_t character) {
  return (U_GET_GC_MASK(UChar32(character)) & U_GC_N_MASK) != 0;
}

/// General category P, and the symbols of ASCII.
inline bool is_punctuation(char32_t character) {
  if (character < 128)
    return character > ' ' && character < 127 && character_kind(character) == CharacterKind::other;
  return (U_GET_GC_MASK(UChar32(character)) & U_GC_P_MASK) != 0;
}

/// First byte of the last character of non-empty UTF-8.
inline std::size_t last_character(std::string_view text) {
  std::size_t i = text.size() - 1;
  while ((std::uint8_t(text[i]) & 0xc0) == 0x80) --i;
  return i;
}

inline bool begins_with_space(std::string_view text) {
  return !text.empty() && is_space(code_point(text));
}
inline bool ends_with_space(std::string_view text) {
  return !text.empty() && is_space(code_point(text.substr(last_character(text))));
}
inline bool begins_with_word(std::string_view text) {
  return !text.empty() && is_word_character(code_point(text));
}
inline bool ends_with_word(std::string_view text) {
  return !text.empty() && begins_with_word(text.substr(last_character(text)));
}

/// Throws std::invalid_argument, naming the field, unless UTF-8 is one character.
inline void require_one_character(std::string_view text, const std::string& name) {
  if (text.empty() || utf8_step(text).bytes != text.size())
    throw std::invalid_argument(name + " is \"" + std::string(text) + "\", expected one character");
}

/// Bytes of a character in UTF-8.
inline std::size_t utf8_bytes(char32_t c) {
  return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
}

inline void append_utf8(std::string& text, char32_t c) {
  if (c < 0x80) {
    text += char(c);
  } else if (c < 0x800) {
    text += {char(0xc0 | c >> 6), char(0x80 | (c & 0x3f))};
  } else if (c < 0x10000) {
    text += {char(0xe0 | c >> 12), char(0x80 | (c >> 6 & 0x3f)), char(0x80 | (c & 0x3f))};
  } else {
    text += {char(0xf0 | c >> 18), char(0x80 | (c >> 12 & 0x3f)), char(0x80 | (c >> 6 & 0x3f)),
             char(0x80 | (c & 0x3f))};
  }
}

/// Calls character(code point, its bytes) for every character of valid UTF-8.
template <class Character>
void for_each_character(std::string_view text, Character character) {
  for (std::size_t i = 0; i < text.size();) {
    const char32_t c = code_point(text.substr(i));
    const std::size_t bytes = utf8_bytes(c);
    character(c, text.substr(i, bytes));
    i += bytes;
  }
}

}  // namespace srformer::detail
