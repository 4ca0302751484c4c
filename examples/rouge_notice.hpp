// SPDX-License-Identifier: Apache-2.0
// Why ROUGE is 0 where it can be nothing else.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <srformer/text/rouge.hpp>

namespace srformer::program {

/// Says of how many texts ROUGE sees no word, though they are not empty: its words are letters a to z and digits. Empty
/// when there is none.
inline std::string rouge_notice(const std::vector<std::string>& references) {
  const auto wordless = std::ranges::count_if(references, [](const std::string& text) {
    return text.find_first_not_of(" \t\r\n") != std::string::npos &&
           rouge_tokens(text, false).empty();
  });
  if (wordless == 0) return "";
  return "notice: " + std::to_string(wordless) + " of " + std::to_string(references.size()) +
         " references hold no word of Latin letters or digits, which are all that ROUGE counts, "
         "and score 0";
}

}  // namespace srformer::program
