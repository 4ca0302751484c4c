// SPDX-License-Identifier: Apache-2.0
// The baseline that every trained model has to beat: a text's own first words as its summary.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <srformer/core/error.hpp>

namespace srformer::examples {

/// The words of a text: what white space of ASCII separates.
inline std::vector<std::string_view> words_of(std::string_view text) {
  constexpr std::string_view space = " \t\n\v\f\r";
  std::vector<std::string_view> words;
  for (std::size_t at = text.find_first_not_of(space); at != std::string_view::npos;) {
    const std::size_t end = std::min(text.find_first_of(space, at), text.size());
    words.push_back(text.substr(at, end - at));
    at = text.find_first_not_of(space, end);
  }
  return words;
}

/// The number of words of `text`.
inline std::size_t count_words(std::string_view text) { return words_of(text).size(); }

/// The mean number of words of `summaries`, rounded to the nearest whole number.
inline std::size_t mean_words(std::span<const std::string> summaries) {
  require(!summaries.empty(), "mean_words", "summaries is empty, expected at least one");
  std::size_t words = 0;
  for (const std::string& summary : summaries) words += count_words(summary);
  return (2 * words + summaries.size()) / (2 * summaries.size());
}

/// The first `words` words of `text`, separated by one space each; all of them where there are fewer.
inline std::string first_words(std::string_view text, std::size_t words) {
  std::string head;
  for (const std::string_view word : words_of(text)) {
    if (words-- == 0) break;
    if (!head.empty()) head += ' ';
    head += word;
  }
  return head;
}

}  // namespace srformer::examples
