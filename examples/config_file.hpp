// SPDX-License-Identifier: Apache-2.0
// The flags of a program in a file, as --config FILE reads and --dump_config writes them: a JSON object or TOML, each key
// the name of a flag. Flags of the command line go before those of the file.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <optional>
#include <srformer/io/hf_checkpoint.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace srformer::program {

namespace detail {

/// What a file says of one flag.
struct FileFlag {
  std::string name;
  std::vector<std::string> values;
};

/// A value of JSON as a word of the command line.
inline std::string json_word(const nlohmann::ordered_json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

inline std::vector<FileFlag> flags_of_json(const std::string& text, const std::string& path) {
  parse_json(text, path);  // for its errors; the order of keys is kept by the other
  const auto json = nlohmann::ordered_json::parse(text);
  if (!json.is_object())
    throw io_error(path + ": is not an object of flags; write {\"learning_rate\": 5e-5, ...}");
  std::vector<FileFlag> flags;
  for (const auto& [name, value] : json.items()) {
    if (value.is_null()) continue;  // not given, as in transformers
    FileFlag& flag = flags.emplace_back(FileFlag{name, {}});
    if (!value.is_array()) flag.values.push_back(json_word(value));
    for (const auto& element : value.is_array() ? value : nlohmann::ordered_json())
      flag.values.push_back(json_word(element));
  }
  return flags;
}

inline std::vector<FileFlag> flags_of_toml(const std::string& text, const std::string& path) {
  std::vector<FileFlag> flags;
  std::istringstream lines(text);
  try {
    for (const CLI::ConfigItem& item : CLI::ConfigTOML().from_config(lines)) {
      if (item.name == "++" || item.name == "--") continue;  // begin and end of a table
      flags.push_back({item.name, item.inputs});
    }
  } catch (const CLI::Error& error) {
    throw io_error(path + ": is no TOML: " + error.what() + "; correct it or write JSON");
  }
  return flags;
}

/// The words of the flags of a file that the command line does not have itself.
inline std::vector<std::string> words_of_file(const std::string& path,
                                              const std::vector<std::string>& given) {
  const MappedFile file{std::filesystem::path(path)};
  const std::string text(file.text());
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  const bool json = first != std::string::npos && text[first] == '{';
  const auto plain = [](std::string name) {
    std::ranges::replace(name, '-', '_');
    return name.substr(0, name.find('='));
  };
  std::vector<std::string> words;
  for (const FileFlag& flag : json ? flags_of_json(text, path) : flags_of_toml(text, path)) {
    const std::string name = "--" + flag.name;
    if (name == "--config" || name == "--dump_config")
      throw io_error(path + ": has \"" + flag.name + "\", which a file of flags may not");
    if (std::ranges::any_of(given,
                            [&](const std::string& word) { return plain(word) == plain(name); }))
      continue;
    if (flag.values.size() == 1) {
      words.push_back(name + "=" + flag.values.front());
      continue;
    }
    words.push_back(name);
    words.insert(words.end(), flag.values.begin(), flag.values.end());
  }
  return words;
}

}  // namespace detail

/// Puts the flags of --config FILE in its place; a FILE.json or FILE.toml that is the only word is meant so too, as in
/// transformers. Throws io_error for a file that cannot be read.
inline void expand_config(std::vector<std::string>& words) {
  std::string path;
  const auto ends = [&](const char* suffix) { return words.front().ends_with(suffix); };
  if (words.size() == 1 && !words.front().starts_with('-') && (ends(".json") || ends(".toml"))) {
    path = words.front();
    words.clear();
  }
  for (std::size_t i = 0; i < words.size(); ++i) {
    const bool joined = words[i].starts_with("--config=");
    if (!joined && (words[i] != "--config" || i + 1 == words.size())) continue;
    path = joined ? words[i].substr(9) : words[i + 1];
    words.erase(words.begin() + static_cast<std::ptrdiff_t>(i),
                words.begin() + static_cast<std::ptrdiff_t>(joined ? i + 1 : i + 2));
    break;
  }
  if (path.empty()) return;
  const auto of_file = detail::words_of_file(path, words);
  words.insert(words.begin(), of_file.begin(), of_file.end());
}

/// The flags that a program was given, as --config reads them. Words that are numbers or truths become such.
inline nlohmann::ordered_json given_flags_as_json(const CLI::App& app) {
  const auto value = [](const std::string& word) {
    const auto parsed = nlohmann::ordered_json::parse(word, nullptr, false);
    const bool plain = parsed.is_number() || parsed.is_boolean();
    return plain && parsed.dump() == word ? parsed : nlohmann::ordered_json(word);
  };
  nlohmann::ordered_json all = nlohmann::ordered_json::object();
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() == 0 || !option->get_configurable()) continue;
    auto& entry = all[option->get_lnames().front()];
    const auto& results = option->reduced_results();
    const bool list = option->get_items_expected_max() > 1;
    if (!list) entry = value(results.front());
    for (std::size_t i = 0; list && i < results.size(); ++i) entry.push_back(value(results[i]));
  }
  return all;
}

}  // namespace srformer::program
