// SPDX-License-Identifier: Apache-2.0
// SentencePiece's normalisation by table (Kudo and Richardson, "SentencePiece", 2018): the precompiled_charsmap of a model,
// applied as Hugging Face's tokenizers applies it, grapheme by grapheme. docs/text.md says where SentencePiece differs.
#pragma once

#include <unicode/brkiter.h>
#include <unicode/utext.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <srformer/text/characters.hpp>

namespace srformer::detail {

/// Calls grapheme(bytes) for every extended grapheme cluster of UTF-8 (Unicode Standard Annex 29). ICU's rules are
/// asked only where characters may belong together.
template <class Grapheme>
void for_each_grapheme(std::string_view text, Grapheme grapheme) {
  const auto stands_alone = [](char32_t c) {
    if (c < 0x80) return c != '\r' && c != '\n';
    return u_getIntPropertyValue(UChar32(c), UCHAR_GRAPHEME_CLUSTER_BREAK) == U_GCB_OTHER;
  };
  const auto joined = [&](std::string_view run) {
    static thread_local std::unique_ptr<icu::BreakIterator> breaks = [] {
      UErrorCode status = U_ZERO_ERROR;
      return std::unique_ptr<icu::BreakIterator>(
          icu::BreakIterator::createCharacterInstance(icu::Locale::getRoot(), status));
    }();
    UErrorCode status = U_ZERO_ERROR;
    UText whole = UTEXT_INITIALIZER;
    utext_openUTF8(&whole, run.data(), std::int64_t(run.size()), &status);
    if (breaks) breaks->setText(&whole, status);
    require(breaks && U_SUCCESS(status), "for_each_grapheme", "ICU has no rules for characters");
    for (std::int32_t begin = breaks->first(), end = breaks->next();
         end != icu::BreakIterator::DONE; begin = end, end = breaks->next())
      grapheme(run.substr(std::size_t(begin), std::size_t(end - begin)));
    utext_close(&whole);
  };
  std::size_t begin = 0;  // of what is not given yet
  const auto give = [&](std::size_t end) {
    const std::string_view run = text.substr(begin, end - begin);
    if (run.empty()) return;
    run.size() == utf8_step(run).bytes ? grapheme(run) : joined(run);
    begin = end;
  };
  bool alone = true;  // the character before i
  for (std::size_t i = 0; i < text.size();) {
    const char32_t c = code_point(text.substr(i));
    const bool now_alone = stands_alone(c);
    if (alone && now_alone) give(i);
    alone = now_alone;
    i += utf8_bytes(c);
  }
  give(text.size());
}

class Charsmap {
 public:
  /// Nothing when `bytes` is no table: the size of a double-array trie (Aoe, 1989, as Darts-clone lays it out), the trie,
  /// and texts in UTF-8 that end with NUL.
  static std::optional<Charsmap> read(std::string_view bytes) {
    Charsmap map;
    const auto number = [&](std::size_t at) {
      std::uint32_t value = 0;
      for (std::size_t i = 4; i-- > 0;) value = value << 8 | std::uint8_t(bytes[at + i]);
      return value;
    };
    if (bytes.size() < 8) return std::nullopt;
    const std::size_t trie = number(0);
    if (trie == 0 || trie % 4 != 0 || trie > bytes.size() - 4 || bytes.back() != '\0')
      return std::nullopt;
    for (std::size_t at = 4; at < 4 + trie; at += 4) map.units_.push_back(number(at));
    map.texts_ = bytes.substr(4 + trie);
    if (valid_utf8_prefix(map.texts_) != map.texts_.size()) return std::nullopt;
    for (std::size_t c = 0; c < map.ascii_.size(); ++c) {
      const char character = char(c);
      map.ascii_[c] = map.find({&character, 1});
    }
    return map;
  }

  /// Replaces what the table has. A grapheme of less than 6 bytes that begins with an entry becomes that entry's text,
  /// what else is in it included. Throws shape_error for more than `most` bytes.
  void operator()(std::string& text, std::size_t most) const {
    std::string normalised;
    normalised.reserve(text.size() + 16);
    const auto replace = [&](std::string_view part) {
      const std::int64_t at = part.size() == 1 ? ascii_[std::uint8_t(part[0])] : find(part);
      if (at < 0) return false;
      normalised += texts_.data() + at;
      require_grown(normalised.size(), most);
      return true;
    };
    for_each_grapheme(text, [&](std::string_view grapheme) {
      if (grapheme.size() < 6 && replace(grapheme)) return;
      for_each_character(grapheme, [&](char32_t, std::string_view bytes) {
        if (!replace(bytes)) normalised += bytes;
      });
    });
    text = std::move(normalised);
  }

 private:
  Charsmap() = default;

  /// Where the text of the shortest entry that `key` begins with is, or -1.
  std::int64_t find(std::string_view key) const {
    const auto offset = [](std::uint32_t unit) { return unit >> 10 << ((unit & 1u << 9) >> 6); };
    std::size_t node = offset(units_[0]);
    for (const char c : key) {
      const auto byte = std::uint8_t(c);
      node ^= byte;
      if (byte == 0 || node >= units_.size()) return -1;
      const std::uint32_t unit = units_[node];
      if ((unit & (1u << 31 | 0xff)) != byte) return -1;
      node ^= offset(unit);
      if ((unit >> 8 & 1) == 0) continue;
      if (node >= units_.size()) return -1;
      const std::size_t at = units_[node] & ~(1u << 31);
      const bool begins = at < texts_.size() && (std::uint8_t(texts_[at]) & 0xc0) != 0x80;
      return begins ? std::int64_t(at) : -1;
    }
    return -1;
  }

  std::vector<std::uint32_t> units_;
  std::string texts_;  // each ends with NUL
  std::array<std::int64_t, 128> ascii_{};
};

}  // namespace srformer::detail
