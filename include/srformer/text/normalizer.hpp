// SPDX-License-Identifier: Apache-2.0
// "normalizer" of tokenizer.json: what happens to a text before it is split, step by step.
#pragma once

#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/text/charsmap.hpp>
#include <srformer/text/pattern.hpp>

namespace srformer::detail {

/// Bytes of standard base64 up to its padding; nothing when another character is met.
inline std::optional<std::string> base64_bytes(std::string_view text) {
  static constexpr std::string_view alphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text.substr(0, text.find('='))) {
    const std::size_t digit = alphabet.find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    bits = bits << 6 | std::uint32_t(digit);
    count += 6;
    if (count >= 8) bytes += char(bits >> (count -= 8) & 0xff);
  }
  return bytes;
}

/// Calls `change` for every character of a text with the text to come, which it appends to. Returns whether something was
/// appended for the first.
template <class Change>
bool change_characters(std::string& text, Change change) {
  std::string changed;
  bool first = true, kept = true;
  changed.reserve(text.size());
  for_each_character(text, [&](char32_t c, std::string_view bytes) {
    change(c, bytes, changed);
    if (std::exchange(first, false)) kept = !changed.empty();
  });
  text = std::move(changed);
  return kept;
}

inline void append_lowercase(char32_t c, std::string& text) {
  if (c == 0x130)
    text += "i\u0307";
  else
    append_utf8(text, char32_t(u_tolower(UChar32(c))));
}

inline bool in_category(char32_t c, std::uint32_t categories) {
  return (U_GET_GC_MASK(UChar32(c)) & categories) != 0;
}

/// NFC, NFD, NFKC or NFKD.
class UnicodeForm {
 public:
  explicit UnicodeForm(std::string_view name) {
    UErrorCode status = U_ZERO_ERROR;
    form_ = icu::Normalizer2::getInstance(nullptr, name.starts_with("NFK") ? "nfkc" : "nfc",
                                          name.back() == 'C' ? UNORM2_COMPOSE : UNORM2_DECOMPOSE,
                                          status);
    require(U_SUCCESS(status), "UnicodeForm", "ICU lacks its normalisation data");
  }
  bool operator()(std::string& text) const {
    UErrorCode status = U_ZERO_ERROR;
    std::string formed;
    icu::StringByteSink<std::string> sink(&formed, std::int32_t(text.size()));
    form_->normalizeUTF8(0, text, sink, nullptr, status);
    require(U_SUCCESS(status), "UnicodeForm", "ICU could not normalise the text");
    text = std::move(formed);
    return true;
  }

 private:
  const icu::Normalizer2* form_;  // ICU's own
};

/// The cleaning of "nmt" models: no control characters, and spaces for what is like one.
struct Nmt {
  bool operator()(std::string& text) const {
    return change_characters(text, [](char32_t c, std::string_view bytes, std::string& out) {
      const bool removed = (c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f ||
                           c == 0x8f || c == 0x9f;
      const bool space = c == '\t' || c == '\n' || c == '\f' || c == '\r' || c == 0x1680 ||
                         (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 ||
                         c == 0x2581 || c == 0xfeff || c == 0xfffd;
      if (!removed) out += space ? " " : bytes;
    });
  }
};

struct Lowercase {
  bool operator()(std::string& text) const {
    return change_characters(
        text, [](char32_t c, std::string_view, std::string& out) { append_lowercase(c, out); });
  }
};

/// Removes white space at the ends.
struct Strip {
  bool left, right;
  bool operator()(std::string& text) const {
    std::string_view rest = text;
    while (right && ends_with_space(rest)) rest = rest.substr(0, last_character(rest));
    const std::size_t end = rest.size();
    while (left && begins_with_space(rest)) rest.remove_prefix(utf8_step(rest).bytes);
    const bool begins = rest.size() == end;
    text = std::string(rest);
    return begins;
  }
};

struct StripAccents {
  bool operator()(std::string& text) const {
    return change_characters(text, [](char32_t c, std::string_view bytes, std::string& out) {
      if (!in_category(c, U_GC_M_MASK)) out += bytes;
    });
  }
};

struct Replace {
  Pattern pattern;
  std::string content;
  bool operator()(std::string& text, std::size_t most) const {
    const std::vector<Part> parts = pattern.parts(text);
    const bool begins = parts.empty() || !parts[0].match || !content.empty();
    text = pattern.replace(text, content, most);
    return begins;
  }
};

struct Prepend {
  std::string prefix;
  bool operator()(std::string& text) const {
    if (!text.empty()) text.insert(0, prefix);
    return true;
  }
};

struct BertNormalizer {
  bool clean_text, handle_chinese_chars, strip_accents, lowercase;

  bool operator()(std::string& text) const {
    bool begins = change_characters(
        text, [this](char32_t c, std::string_view bytes, std::string& out) { add(c, bytes, out); });
    if (strip_accents) {
      UnicodeForm("NFD")(text);
      const auto without_marks = [](char32_t c, std::string_view bytes, std::string& out) {
        if (!in_category(c, U_GC_MN_MASK)) out += bytes;
      };
      begins = change_characters(text, without_marks) && begins;
    }
    if (lowercase) Lowercase()(text);
    return begins;
  }

 private:
  void add(char32_t c, std::string_view bytes, std::string& out) const {
    const bool control = c != '\t' && c != '\n' && c != '\r' &&
                         (c == 0xfffd || in_category(c, U_GC_C_MASK & ~U_GC_CN_MASK));
    if (clean_text && control) return;
    if (clean_text && is_space(c)) bytes = " ";
    const bool apart = handle_chinese_chars && is_chinese(c);
    if (apart) out += ' ';
    out += bytes;
    if (apart) out += ' ';
  }
  static bool is_chinese(char32_t c) {
    constexpr std::pair<char32_t, char32_t> blocks[] = {
        {0x4e00, 0x9fff},   {0x3400, 0x4dbf},   {0x20000, 0x2a6df}, {0x2a700, 0x2b73f},
        {0x2b740, 0x2b81f}, {0x2b920, 0x2ceaf}, {0xf900, 0xfaff},   {0x2f800, 0x2fa1f}};
    return std::ranges::any_of(
        blocks, [&](const auto& block) { return c >= block.first && c <= block.second; });
  }
};

/// Any of them after each other.
class Normalizer {
 public:
  Normalizer() = default;

  /// Throws io_error, naming `path`, for a step that is not among those above.
  Normalizer(const nlohmann::json& json, const std::filesystem::path& path) { add(json, path); }

  void add(Charsmap map) { steps_.emplace_back(std::move(map)); }

  /// Returns whether the text begins where it did, that is, whether what it began with was not removed. Throws shape_error
  /// where the steps make more of it than any text needs.
  bool operator()(std::string& text) const {
    bool begins = true;
    const std::size_t most = grown(text.size());
    for (const Step& step : steps_) {
      begins = std::visit([&](const auto& s) { return run(s, text, most); }, step) && begins;
      require_grown(text.size(), most);
    }
    return begins;
  }

 private:
  using Step = std::variant<Charsmap, UnicodeForm, Nmt, Lowercase, Strip, StripAccents, Replace,
                            Prepend, BertNormalizer>;

  static bool run(const Charsmap& map, std::string& text, std::size_t most) {
    map(text, most);
    return true;
  }
  static bool run(const Replace& step, std::string& text, std::size_t most) {
    return step(text, most);
  }
  template <class S>
  static bool run(const S& step, std::string& text, std::size_t) {
    return step(text);
  }

  void add(const nlohmann::json& json, const std::filesystem::path& path) {
    require_few_steps(steps_.size() + 1, path);
    if (json.is_null()) return;
    const auto type = json.at("type").get<std::string>();
    if (type == "Sequence") {
      for (const auto& step : json.at("normalizers")) add(step, path);
    } else if (type == "Precompiled") {
      add_charsmap(json, path);
    } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
      steps_.emplace_back(UnicodeForm(type));
    } else if (type == "Nmt") {
      steps_.emplace_back(Nmt{});
    } else if (type == "Lowercase") {
      steps_.emplace_back(Lowercase{});
    } else if (type == "Strip") {
      steps_.emplace_back(Strip{json.at("strip_left"), json.at("strip_right")});
    } else if (type == "StripAccents") {
      steps_.emplace_back(StripAccents{});
    } else if (type == "Replace") {
      steps_.emplace_back(
          Replace{Pattern(json.at("pattern"), path, "normalizer Replace"), json.at("content")});
    } else if (type == "Prepend") {
      steps_.emplace_back(Prepend{json.at("prepend")});
    } else if (type == "BertNormalizer") {
      const bool lowercase = json.at("lowercase");
      steps_.emplace_back(BertNormalizer{json.at("clean_text"), json.at("handle_chinese_chars"),
                                         given_or(json, "strip_accents", lowercase), lowercase});
    } else {
      throw io_error(path.string() + ": normalizer " + one_line(type) +
                     " is not known here; take a tokenizer without it");
    }
  }

  void add_charsmap(const nlohmann::json& json, const std::filesystem::path& path) {
    const auto bytes = base64_bytes(json.at("precompiled_charsmap").get<std::string>());
    if (!bytes)
      throw io_error(path.string() + ": precompiled_charsmap is not base64; fetch it again");
    if (bytes->empty()) return;
    auto map = Charsmap::read(*bytes);
    if (!map) throw io_error(path.string() + ": precompiled_charsmap is not whole; fetch it again");
    add(std::move(*map));
  }

  std::vector<Step> steps_;
};

}  // namespace srformer::detail
