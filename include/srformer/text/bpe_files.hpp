// SPDX-License-Identifier: Apache-2.0
// The vocabulary and the merges of byte pair encoding as JSON and lines give them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/text/added_tokens.hpp>
#include <srformer/text/merge_table.hpp>

namespace srformer::detail {

/// Appends the tokens of {"token": id, ...}; throws io_error unless their ids are 0 to V-1.
inline void append_vocabulary(const nlohmann::json& json, const std::filesystem::path& path,
                              Vocabulary& vocabulary) {
  const auto fault = [&](const std::string& token, const std::string& why) {
    throw io_error(path.string() + ": token \"" + one_line(token) + "\"" + why +
                   "; take all tokenizer files from one checkpoint");
  };
  if (!json.is_object())
    throw io_error(path.string() +
                   ": the vocabulary is no object of tokens and ids; fetch the file again");
  std::vector<std::string> tokens(json.size());
  for (const auto& [token, number] : json.items()) {
    const auto id = integer<index_t>(number);
    if (token.empty()) fault(token, " has no text");
    if (id < 0 || id >= std::ssize(tokens))
      fault(token, " has id " + std::to_string(id) + ", expected 0 to " +
                       std::to_string(std::ssize(tokens) - 1));
    std::string& place = tokens[std::size_t(id)];
    if (!place.empty()) fault(token, " has the id of \"" + one_line(place) + "\"");
    place = token;
  }
  for (std::string& token : tokens) vocabulary.append(std::move(token));
}

/// Both tokens of a merge.
using MergedPair = std::pair<std::string, std::string>;

/// The tokens of "left right", or nothing.
inline std::optional<MergedPair> split_merge(std::string_view line) {
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == line.size() ||
      line.find(' ', space + 1) != std::string_view::npos)
    return std::nullopt;
  return MergedPair(line.substr(0, space), line.substr(space + 1));
}

/// Adds the merge number `rank`; `prefix` is what tokens inside a word begin with, `where` its place in messages.
inline void add_merge(const MergedPair& pair, std::string_view prefix, std::int32_t rank,
                      const std::string& where, const Vocabulary& vocabulary, MergeTable& merges) {
  const auto find = [&](const std::string& token) {
    const auto found = vocabulary.id(token);
    if (!found)
      throw io_error(where + ": \"" + one_line(token) +
                     "\" is not in the vocabulary; take all tokenizer files from one checkpoint");
    return *found;
  };
  const auto& [left, right] = pair;
  if (right.size() < prefix.size())
    throw io_error(where + ": \"" + one_line(right) +
                   "\" is shorter than continuing_subword_prefix");
  const std::int32_t first = find(left), second = find(right);
  merges.add(first, second, rank, find(left + right.substr(prefix.size())));
}

/// The merges of tokenizer.json: "left right" or ["left", "right"] each.
inline void read_merges(const nlohmann::json& json, std::string_view prefix,
                        const std::filesystem::path& path, const Vocabulary& vocabulary,
                        MergeTable& merges) {
  std::int32_t rank = 0;
  for (const auto& merge : json) {
    const std::string where = path.string() + ": merge " + std::to_string(rank);
    const auto pair = merge.is_string() ? split_merge(merge.get_ref<const std::string&>())
                                        : std::optional(merge.get<MergedPair>());
    if (!pair)
      throw io_error(where + ": expected two tokens with a space between; fetch the file again");
    add_merge(*pair, prefix, rank++, where, vocabulary, merges);
  }
}

}  // namespace srformer::detail
