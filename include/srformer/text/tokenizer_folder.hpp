// SPDX-License-Identifier: Apache-2.0
// What the tokenizers share: UTF-8, and the JSON of their folders.
//
//   code_point                                 bytes -> a character
//   replace_invalid_utf8                       any bytes -> UTF-8
//   read_tokenizer_json, interpret_json        JSON whose faults are io_errors that name the file
//   given, given_or                            a value of it; null is none
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

#include <srformer/core/error.hpp>
#include <srformer/core/utf8.hpp>
#include <srformer/io/file.hpp>

namespace srformer::detail {

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

/// The value of a key; null where it is absent or null, which says the same in these files.
inline const nlohmann::json* given(const nlohmann::json& json, const char* key) {
  if (!json.is_object()) return nullptr;
  const auto found = json.find(key);
  return found == json.end() || found->is_null() ? nullptr : &*found;
}

/// The value of a key, or `otherwise` where none is given.
template <class T>
T given_or(const nlohmann::json& json, const char* key, T otherwise) {
  const nlohmann::json* value = given(json, key);
  return value ? value->get<T>() : otherwise;
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
