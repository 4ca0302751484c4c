// SPDX-License-Identifier: Apache-2.0
// Which texts hold a text of the validation or test split, word by word, and so are not to be pretrained on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

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

/// Texts that others may not hold. Those of fewer than `least` words are too common to tell.
class HeldOut {
 public:
  static constexpr std::size_t least = 4;

  void add(std::string_view text) {
    const auto words = words_of(text);
    if (words.size() < least) return;
    std::vector<std::string> kept(words.begin(), words.end());
    by_first_words_[first_words(words, 0)].push_back(std::move(kept));
  }
  /// Whether all words of an added text follow each other in this one. Cost: one look-up a word.
  bool in(std::string_view text) const {
    const auto words = words_of(text);
    for (std::size_t i = 0; i + least <= words.size(); ++i) {
      const auto found = by_first_words_.find(first_words(words, i));
      if (found == by_first_words_.end()) continue;
      for (const auto& held : found->second)
        if (held.size() <= words.size() - i &&
            std::equal(held.begin(), held.end(), words.begin() + static_cast<std::ptrdiff_t>(i)))
          return true;
    }
    return false;
  }

 private:
  static std::string first_words(const std::vector<std::string_view>& words, std::size_t at) {
    std::string key;
    for (std::size_t i = at; i < at + least; ++i) (key += words[i]) += ' ';
    return key;
  }

  std::unordered_map<std::string, std::vector<std::vector<std::string>>> by_first_words_;
};

}  // namespace srformer::examples
