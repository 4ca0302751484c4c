// SPDX-License-Identifier: Apache-2.0
// What tokenizer.json searches for: {"String": text} or {"Regex": expression}, by ICU, and how it splits a text there.
#pragma once

#include <unicode/regex.h>
#include <unicode/utext.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/text/characters.hpp>

namespace srformer::detail {

/// A part of a text, and whether it is what was searched for.
struct Part {
  std::size_t begin, end;
  bool match;
};

class Pattern {
 public:
  /// Throws io_error, naming `path` and `where`, for an expression that ICU does not know.
  Pattern(const nlohmann::json& json, const std::filesystem::path& path, std::string_view where) {
    if (json.is_string() || json.contains("String")) {
      literal_ = (json.is_string() ? json : json.at("String")).get<std::string>();
      if (literal_.empty())
        throw io_error(path.string() + ": " + std::string(where) + " searches for nothing");
      return;
    }
    const auto expression = json.at("Regex").get<std::string>();
    UErrorCode status = U_ZERO_ERROR;
    UParseError at{};
    // As Oniguruma's Ruby syntax: ^ and $ at every line, a line ends with \n.
    regex_.reset(icu::RegexPattern::compile(icu::UnicodeString::fromUTF8(of_icu(expression)),
                                            UREGEX_MULTILINE | UREGEX_UNIX_LINES, at, status));
    if (U_FAILURE(status))
      throw io_error(path.string() + ": " + std::string(where) + " has the expression \"" +
                     one_line(expression) + "\", which ICU does not know; write it otherwise");
  }

  /// The matches and what is between them: together the whole text. O(length): throws shape_error where the search takes
  /// ten times as long as the expressions of tokenizers do, or 200 bytes of memory for each of the text and 8 MB.
  std::vector<Part> parts(std::string_view text) const {
    std::vector<Part> found;
    std::size_t last = 0;
    const auto match = [&](std::size_t begin, std::size_t end) {
      if (last < begin) found.push_back({last, begin, false});
      found.push_back({begin, end, true});
      last = end;
    };
    if (regex_)
      for_each_match(text, match);
    else
      for (std::size_t at = 0; (at = text.find(literal_, at)) != text.npos; at += literal_.size())
        match(at, at + literal_.size());
    if (last < text.size()) found.push_back({last, text.size(), false});
    return found;
  }

  /// `text` with `content` in place of the matches. Throws shape_error for more than `most` bytes.
  std::string replace(std::string_view text, std::string_view content, std::size_t most) const {
    std::string replaced;
    for (const Part& part : parts(text)) {
      replaced += part.match ? content : text.substr(part.begin, part.end - part.begin);
      require_grown(replaced.size(), most);
    }
    return replaced;
  }

 private:
  /// Classes that ICU knows otherwise: its \s lacks the vertical tab and U+0085, its \w has joiners.
  static std::string of_icu(std::string_view expression) {
    constexpr std::pair<std::string_view, std::string_view> classes[] = {
        {"\\s", "\\p{White_Space}"},
        {"\\S", "\\P{White_Space}"},
        {"\\w", "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]"},
        {"\\W", "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]"}};
    std::string text;
    while (!expression.empty()) {
      const std::string_view part = expression.substr(0, expression[0] == '\\' ? 2 : 1);
      std::string_view same = part;
      for (const auto& [theirs, ours] : classes)
        if (part == theirs) same = ours;
      text += same;
      expression.remove_prefix(part.size());
    }
    return text;
  }

  template <class Match>
  void for_each_match(std::string_view text, Match match) const {
    UErrorCode status = U_ZERO_ERROR;
    const std::unique_ptr<icu::RegexMatcher> matcher(regex_->matcher(status));
    UText input = UTEXT_INITIALIZER;
    utext_openUTF8(&input, text.data(), std::int64_t(text.size()), &status);
    if (U_SUCCESS(status)) {
      matcher->reset(&input);
      const auto at_most = [](std::size_t limit) {
        return std::int32_t(std::min<std::size_t>(limit, std::numeric_limits<std::int32_t>::max()));
      };
      matcher->setStackLimit(at_most(8'000'000 + 200 * text.size()), status);  // bytes
      matcher->setTimeLimit(at_most(1000 + text.size() / 100), status);        // about milliseconds
    }
    while (U_SUCCESS(status) && matcher->find(status))
      match(std::size_t(matcher->start64(status)), std::size_t(matcher->end64(status)));
    utext_close(&input);
    if (U_FAILURE(status))
      throw shape_error(std::string("Tokenizer::encode: ICU stopped with ") + u_errorName(status) +
                        " while it searched for an expression of tokenizer.json");
  }

  std::string literal_;
  std::shared_ptr<const icu::RegexPattern> regex_;
};

/// What becomes of matches when a text is split at them.
enum class SplitBehavior : std::uint8_t {
  removed,
  isolated,
  merged_with_previous,
  merged_with_next,
  contiguous
};

inline SplitBehavior read_split_behavior(const nlohmann::json& json) {
  const auto name = json.get<std::string>();
  constexpr std::pair<const char*, SplitBehavior> behaviors[] = {
      {"Removed", SplitBehavior::removed},
      {"Isolated", SplitBehavior::isolated},
      {"MergedWithPrevious", SplitBehavior::merged_with_previous},
      {"MergedWithNext", SplitBehavior::merged_with_next},
      {"Contiguous", SplitBehavior::contiguous}};
  for (const auto& [known, behavior] : behaviors)
    if (name == known) return behavior;
  throw std::invalid_argument("behavior \"" + name + "\" is not known");
}

/// Joins or removes matches as asked.
inline void apply(SplitBehavior behavior, std::vector<Part>& parts) {
  if (behavior == SplitBehavior::isolated) return;
  if (behavior == SplitBehavior::removed) {
    std::erase_if(parts, [](const Part& part) { return part.match; });
    return;
  }
  const bool next = behavior == SplitBehavior::merged_with_next;
  if (next) std::ranges::reverse(parts);
  std::vector<Part> joined;
  bool previous = false;  // whether the part before is a match
  for (const Part& part : parts) {
    const bool joins =
        behavior == SplitBehavior::contiguous ? part.match == previous : part.match && !previous;
    if (joins && !joined.empty())
      next ? joined.back().begin = part.begin : joined.back().end = part.end;
    else
      joined.push_back(part);
    previous = part.match;
  }
  if (next) std::ranges::reverse(joined);
  parts = std::move(joined);
}

}  // namespace srformer::detail
