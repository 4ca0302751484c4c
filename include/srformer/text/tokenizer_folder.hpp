// SPDX-License-Identifier: Apache-2.0
// What the tokenizers share: UTF-8, and the JSON of their folders.
//
//   code_point                                 bytes -> a character
//   replace_invalid_utf8                       any bytes -> UTF-8
//   read_tokenizer_json, interpret_json        JSON whose faults are io_errors that name the file
//   given, given_or                            a value of it; null is none
//   require_token_length, require_grown        what bounds the time and memory that files of others can ask for
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

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

/// An integer; throws std::invalid_argument for anything else and for what T cannot hold.
template <class T>
T integer(const nlohmann::json& json) {
  const bool fits = json.is_number_unsigned()
                        ? std::in_range<T>(json.get<std::uint64_t>())
                        : json.is_number_integer() && std::in_range<T>(json.get<std::int64_t>());
  if (!fits)
    throw std::invalid_argument(
        json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) +
        " is not a whole number that fits");
  return json.get<T>();
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
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>)
    return value ? integer<T>(*value) : otherwise;
  else
    return value ? value->get<T>() : otherwise;
}

/// The JSON of a file; an empty object when an optional file is missing.
inline nlohmann::json read_tokenizer_json(const std::filesystem::path& path,
                                          bool optional = false) {
  if (optional && !std::filesystem::exists(path)) return nlohmann::json::object();
  const MappedFile file(path, true);
  return parse_json(file.text(), path.string());
}

/// Runs `read`, which takes values from the JSON of `path`; a value of the wrong type is an io_error with the path.
template <class Read>
void interpret_json(const std::filesystem::path& path, Read read) {
  try {
    read();
  } catch (const nlohmann::json::exception& error) {
    throw io_error(path.string() + ": " + one_line(error.what(), 200) +
                   "; correct it or fetch the file again");
  } catch (const std::logic_error& error) {
    throw io_error(path.string() + ": " + one_line(error.what(), 200) + "; correct it");
  }
}

/// Throws io_error, naming `path`, for a token that is too long to be looked for at every byte of a text.
inline void require_token_length(std::string_view token, const std::filesystem::path& path) {
  constexpr std::size_t most = 1000;
  if (token.size() > most)
    throw io_error(path.string() + ": a token, \"" + one_line(token, 40) + "\", has " +
                   std::to_string(token.size()) + " bytes, expected at most " +
                   std::to_string(most));
}

/// To how many bytes the steps of a tokenizer may bring a text of `bytes`. NFKC makes of one byte 11 at most.
inline std::size_t grown(std::size_t bytes) { return 100 * bytes + 1000; }

/// Throws shape_error for a text of more bytes than `most`.
inline void require_grown(std::size_t bytes, std::size_t most) {
  if (bytes > most)
    throw shape_error(
        "Tokenizer: the steps of tokenizer.json make a text more than 100 times as long; take "
        "another tokenizer");
}

/// Throws io_error, naming `path`, for another step than these many.
inline void require_few_steps(std::size_t steps, const std::filesystem::path& path) {
  constexpr std::size_t most = 32;
  if (steps > most)
    throw io_error(path.string() + ": has a sequence of more than " + std::to_string(most) +
                   " steps; take another tokenizer");
}

}  // namespace srformer::detail
