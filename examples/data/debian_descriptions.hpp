// SPDX-License-Identifier: Apache-2.0
// Pairs from Debian's package lists: the description of a package and its one-line synopsis.
//
// Packages says which source a package is built from, Translation-en holds what is said of it:
//
//   Package: hello                        Package: hello
//   Source: hello (2.10-3)                Description-md5: 7cbb...
//   ...                                   Description-en: example package based on GNU hello
//                                          The GNU hello program produces a familiar greeting.
//                                          .
//                                          It comes with
//                                            * a manual
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <istream>
#include <srformer/core/hash.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "pairs.hpp"

namespace srformer::examples {

namespace debian {

/// The value of `line` if it is the field `name`, else an empty view.
inline std::string_view field(std::string_view line, std::string_view name) {
  if (!line.starts_with(name)) return {};
  line.remove_prefix(name.size());
  if (!line.starts_with(": ")) return {};
  return line.substr(2);
}

/// The text of a description, line by line: paragraphs on one line each, items of lists as "- ..." on
/// a line each, and verbatim (indented) lines as they are.
class Description {
 public:
  /// Takes the next line, without the one space that every line of a long field begins with.
  void add(std::string_view line) {
    while (!line.empty() && (line.back() == ' ' || line.back() == '\r')) line.remove_suffix(1);
    if (line.empty() || line == ".") {
      state_ = State::paragraph_end;
      return;
    }
    const bool indented = line.front() == ' ' || line.front() == '\t';
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    for (const std::string_view bullet : {"* ", "- ", "+ ", "o ", "\u2022 ", "\u00b7 "}) {
      if (!line.starts_with(bullet)) continue;
      line.remove_prefix(bullet.size());
      line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
      start("- ", line);
      state_ = indented ? State::indented_item : State::item;
      return;
    }
    const bool goes_on = state_ == State::item || (state_ == State::indented_item && indented) ||
                         (state_ == State::prose && !indented);
    if (goes_on) {
      text_ += ' ';
      text_ += line;
    } else {
      start("", line);
      state_ = indented ? State::verbatim : State::prose;
    }
  }

  const std::string& text() const { return text_; }

 private:
  enum class State { paragraph_end, prose, verbatim, item, indented_item };

  void start(std::string_view mark, std::string_view line) {
    if (!text_.empty()) text_ += '\n';
    text_ += mark;
    text_ += line;
  }

  std::string text_;
  State state_ = State::paragraph_end;
};

/// The source's name without a version at its end, so that gcc-11 and gcc-12 are one family.
inline std::string_view family(std::string_view source) {
  const std::size_t last = source.find_last_not_of("0123456789.+-");
  return last == std::string_view::npos ? source : source.substr(0, last + 1);
}

/// The split of all packages of a source, by a hash (FNV-1a) of its family: of twenty families one
/// goes to validation and one to test.
inline Split split_of(std::string_view source) {
  const std::uint64_t part = (srformer::text_hash(family(source)) >> 32) % 20;
  return part == 0 ? Split::validation : part == 1 ? Split::test : Split::train;
}

/// The characters of UTF-8 text.
inline std::size_t count_characters(std::string_view text) {
  std::size_t characters = 0;
  for (const char c : text) characters += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  return characters;
}

/// From a Packages file, the source of every package; a package without one is its own source.
inline void read_sources(std::istream& packages,
                         std::unordered_map<std::string, std::string>& source_of) {
  std::string line, package;
  while (std::getline(packages, line)) {
    if (const auto name = field(line, "Package"); !name.empty()) {
      package = name;
      source_of.insert_or_assign(package, package);
    } else if (const auto source = field(line, "Source"); !source.empty()) {
      source_of.insert_or_assign(package, std::string(source.substr(0, source.find(' '))));
    }
  }
}

struct Counts {
  std::size_t packages = 0, without_source = 0, too_short = 0, repeated = 0;
};

/// The pairs of all Translation-en files given to `read`, by split.
class Collector {
 public:
  Collector(const std::unordered_map<std::string, std::string>& source_of,
            std::size_t min_characters)
      : source_of_(source_of), min_characters_(min_characters) {}

  void read(std::istream& translations) {
    std::string line, package, synopsis;
    Description description;
    bool in_description = false;
    const auto finish = [&] {
      if (!package.empty()) keep(package, {description.text(), synopsis});
      package.clear();
      synopsis.clear();
      description = {};
      in_description = false;
    };
    while (std::getline(translations, line)) {
      if (line.empty()) {
        finish();
      } else if (line.front() == ' ') {
        if (in_description) description.add(std::string_view(line).substr(1));
      } else {
        const auto value = field(line, "Description-en");
        in_description = !value.empty();
        if (in_description) synopsis = value;
        if (const auto name = field(line, "Package"); !name.empty()) package = name;
      }
    }
    finish();
  }

  const std::vector<Pair>& pairs(Split split) const {
    return pairs_[static_cast<std::size_t>(split)];
  }
  const Counts& counts() const { return counts_; }

 private:
  void keep(const std::string& package, Pair pair) {
    ++counts_.packages;
    const auto source = source_of_.find(package);
    if (source == source_of_.end()) {
      ++counts_.without_source;
    } else if (pair.summary.empty() || count_characters(pair.text) < min_characters_) {
      ++counts_.too_short;
    } else if (!seen_.insert(pair.text).second) {
      ++counts_.repeated;
    } else {
      pairs_[static_cast<std::size_t>(split_of(source->second))].push_back(std::move(pair));
    }
  }

  const std::unordered_map<std::string, std::string>& source_of_;
  std::size_t min_characters_;
  std::unordered_set<std::string> seen_;
  std::array<std::vector<Pair>, 3> pairs_;
  Counts counts_;
};

}  // namespace debian

}  // namespace srformer::examples
