// SPDX-License-Identifier: Apache-2.0
// A tokenizer of any files: it is refused, or its ids of any text are its own and have a text again.
#pragma once

#include <srformer/text/tokenizer.hpp>

#include "fuzz.hpp"

namespace srformer::fuzz {

/// Writes the sections of `bytes` as files, opens the folder, and encodes the section "text".
inline void run_tokenizer(std::string_view bytes) {
  static constexpr const char* names[] = {"spiece.model",
                                          "tokenizer.json",
                                          "tokenizer_config.json",
                                          "added_tokens.json",
                                          "special_tokens_map.json",
                                          "vocab.json",
                                          "merges.txt",
                                          "config.json"};
  const auto files = write_sections(bytes, names);
  tolerate([&] {
    const Tokenizer tokenizer(folder());
    const auto given = files.find("text");
    const std::string text = detail::replace_invalid_utf8(
        given == files.end() ? "A <s>text, 12 \u2581 \xc3\xa9." : given->second);
    std::vector<std::int32_t> ids;
    tolerate([&] { ids = tokenizer.encode(text); });
    tolerate([&] { tokenizer.encode(text, {.max_length = 3, .truncation = true}); });
    for (const std::int32_t id : ids)
      expect(id >= 0 && id < tokenizer.size(), "an id is not of the vocabulary");
    for (std::int32_t id = 0; id < std::min<index_t>(tokenizer.size(), 64); ++id) ids.push_back(id);
    tolerate([&] {
      const std::string decoded = tokenizer.decode(ids), whole = tokenizer.decode(ids, false);
      expect(detail::valid_utf8_prefix(decoded) == decoded.size() &&
                 detail::valid_utf8_prefix(whole) == whole.size(),
             "a decoded text is not UTF-8");
      expect(tokenizer.unsettled(decoded) <= decoded.size(), "more is unsettled than there is");
    });
  });
}

}  // namespace srformer::fuzz
