// SPDX-License-Identifier: Apache-2.0
// What the tokenizers share: UTF-8, and the JSON of their folders.
//
//   utf8_step, valid_utf8_prefix, code_point   bytes -> characters
//   replace_invalid_utf8                       any bytes -> UTF-8
//   read_tokenizer_json, interpret_json        JSON whose faults are io_errors that name the file
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

#include <srformer/core/error.hpp>
#include <srformer/io/file.hpp>

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
    const Utf8Step step = utf8_step(text.substr(i));
    if (!step.valid) break;
    i += step.bytes;
  }
  return i;
}

/// Throws shape_error unless `text` is UTF-8.
inline void require_utf8(std::string_view text, std::string_view function) {
  const std::size_t valid = valid_utf8_prefix(text);
  if (valid != text.size())
    throw shape_error(std::string(function) + ": text is not UTF-8 at byte " +
                      std::to_string(valid));
}

/// The character that valid UTF-8 begins with.
inline char32_t code_point(std::string_view text) {
  const auto byte = [&](std::size_t i) { return char32_t(std::uint8_t(text[i])); };
  const char32_t lead = byte(0);
  if (lead < 0x80) return lead;
  if (lead < 0xe0) return (lead & 0x1f) << 6 | (byte(1) & 0x3f);
  if (lead < 0xf0) return (lead & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
  return (lead & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f);
}

/// `bytes` with U+FFFD for each maximal subpart that is no character.
inline std::string replace_invalid_utf8(std::string_view bytes) {
  std::string text;
  while (!bytes.empty()) {
    const Utf8Step step = utf8_step(bytes);
    text += step.valid ? bytes.substr(0, step.bytes) : std::string_view("\ufffd");
    bytes.remove_prefix(step.bytes);
  }
  return text;
}

/// Content of a token that JSON gives as a string or as an object with "content".
inline std::string token_text(const nlohmann::json& token) {
  return token.is_object() ? token.at("content").get<std::string>() : token.get<std::string>();
}

/// The JSON of a file; an empty object when an optional file is missing.
inline nlohmann::json read_tokenizer_json(const std::filesystem::path& path,
                                          bool optional = false) {
  if (optional && !std::filesystem::exists(path)) return nlohmann::json::object();
  const MappedFile file(path);
  return parse_json(file.text(), path.string());
}

/// Runs `read`, which takes values from the JSON of `path`; a value of the wrong type is an io_error with the path.
template <class Read>
void interpret_json(const std::filesystem::path& path, Read read) {
  try {
    read();
  } catch (const nlohmann::json::exception& error) {
    throw io_error(path.string() + ": " + error.what() + "; correct it or fetch the file again");
  } catch (const std::logic_error& error) {
    throw io_error(path.string() + ": " + error.what() +
                   " is not the number of a token; correct it");
  }
}

}  // namespace srformer::detail
