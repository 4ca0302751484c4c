// SPDX-License-Identifier: Apache-2.0
// Which texts hold a text of the validation or test split, word by word, and so are not to be pretrained on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "first_words.hpp"

namespace srformer::examples {

/// Texts that others may not hold. Those of fewer than `least` words are too common to tell.
class HeldOut {
 public:
  static constexpr std::size_t least = 4;

  void add(std::string_view text) {
    const auto words = words_of(text);
    if (words.size() < least) return;
    std::vector<std::string> kept(words.begin(), words.end());
    by_first_words_[key_at(words, 0)].push_back(std::move(kept));
  }
  /// Whether all words of an added text follow each other in this one. Cost: one look-up a word.
  bool in(std::string_view text) const {
    const auto words = words_of(text);
    for (std::size_t i = 0; i + least <= words.size(); ++i) {
      const auto found = by_first_words_.find(key_at(words, i));
      if (found == by_first_words_.end()) continue;
      for (const auto& held : found->second)
        if (held.size() <= words.size() - i &&
            std::equal(held.begin(), held.end(), words.begin() + static_cast<std::ptrdiff_t>(i)))
          return true;
    }
    return false;
  }

 private:
  static std::string key_at(const std::vector<std::string_view>& words, std::size_t at) {
    std::string key;
    for (std::size_t i = at; i < at + least; ++i) (key += words[i]) += ' ';
    return key;
  }

  std::unordered_map<std::string, std::vector<std::vector<std::string>>> by_first_words_;
};

}  // namespace srformer::examples
