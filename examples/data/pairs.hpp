// SPDX-License-Identifier: Apache-2.0
// A pair of a text and its summary, and the file of such pairs that the programs read: JSON lines.
#pragma once

#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include <srformer/io/file.hpp>

#include "held_out.hpp"

namespace srformer::examples {

enum class Split { train, validation, test };

struct Pair {
  std::string text, summary;
  bool operator==(const Pair&) const = default;
};

/// One line {"text": ..., "summary": ...}, without its newline; bytes that are not UTF-8 become
/// U+FFFD.
inline std::string json_line(const Pair& pair) {
  nlohmann::ordered_json line;
  line["text"] = pair.text;
  line["summary"] = pair.summary;
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

/// Writes `lines` to `path`, which is never half a file.
inline void write_lines(const std::filesystem::path& path, const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) (text += line) += '\n';
  ReplacementFile file(path);
  file.write(text);
  file.commit();
}

/// Writes one JSON line per pair to `path`.
inline void write_pairs(const std::filesystem::path& path, const std::vector<Pair>& pairs) {
  std::vector<std::string> lines;
  lines.reserve(pairs.size());
  for (const Pair& pair : pairs) lines.push_back(json_line(pair));
  write_lines(path, lines);
}

/// The texts of `train` to pretrain on, a line each: without those that hold a text or a summary of `held_out`.
inline std::vector<std::string> pretraining_texts(
    const std::vector<Pair>& train, std::initializer_list<const std::vector<Pair>*> held_out) {
  HeldOut held;
  for (const std::vector<Pair>* pairs : held_out)
    for (const Pair& pair : *pairs) held.add(pair.text), held.add(pair.summary);
  std::vector<std::string> lines;
  for (const Pair& pair : train) {
    if (held.in(pair.text)) continue;
    std::string line = first_words(pair.text, std::string_view::npos);
    if (!line.empty()) lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace srformer::examples
