// SPDX-License-Identifier: Apache-2.0
// Characters of UTF-8, where text stops being UTF-8, and text as messages show it.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include <srformer/core/config.hpp>

namespace srformer::detail {

/// The bytes of the character that a text begins with; when it is not valid, those of the maximal subpart for which one
/// U+FFFD stands (Unicode 15, tables 3-7 and 3-8).
struct Utf8Step {
  std::size_t bytes;
  bool valid;
};

inline Utf8Step utf8_step(std::string_view text) {
  const auto byte = [&](std::size_t i) { return unsigned(std::uint8_t(text[i])); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {1, true};
  const std::size_t length = lead >= 0xc2 && lead <= 0xdf   ? 2
                             : (lead & 0xf0) == 0xe0        ? 3
                             : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                            : 0;
  if (length == 0) return {1, false};
  unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (std::size_t k = 1; k < length; ++k, low = 0x80, high = 0xbf)
    if (k >= text.size() || byte(k) < low || byte(k) > high) return {k, false};
  return {length, true};
}

/// Byte at which `text` stops being UTF-8, or its size.
inline std::size_t valid_utf8_prefix(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    if (std::uint64_t eight = 0; text.size() - i >= sizeof eight) {  // ASCII, eight bytes at a time
      std::memcpy(&eight, text.data() + i, sizeof eight);
      if ((eight & 0x8080808080808080u) == 0) {
        i += sizeof eight;
        continue;
      }
    }
    const Utf8Step step = utf8_step(text.substr(i));
    if (!step.valid) break;
    i += step.bytes;
  }
  return i;
}

/// Bytes of the character that `text` begins with, if a line would break at it or a terminal obey it, else 0.
inline std::size_t control_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x20 || byte(0) == 0x7f) return 1;
  if (text.size() > 1 && byte(0) == 0xc2 && byte(1) < 0xa0) return 2;
  return text.starts_with("\xe2\x80\xa8") || text.starts_with("\xe2\x80\xa9") ? 3 : 0;
}

}  // namespace srformer::detail

namespace srformer {

/// Text of a file as messages show it: on one line, what would break it as \xNN, and of more than `most` bytes the first.
inline std::string one_line(std::string_view text, std::size_t most = 80) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string shown;
  std::size_t at = 0, escaped = 0;  // bytes of a control character that are left
  for (; at < text.size() && (shown.size() < most || escaped > 0); ++at) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (escaped == 0) escaped = detail::control_character(text.substr(at));
    if (escaped > 0) {
      (shown += "\\x") += {digits[byte >> 4], digits[byte & 15]};
      --escaped;
    } else {
      shown += text[at];
    }
  }
  if (at == text.size()) return shown;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80 && !shown.empty())
    --at, shown.pop_back();  // no part of a character
  return shown + "...";
}

}  // namespace srformer
