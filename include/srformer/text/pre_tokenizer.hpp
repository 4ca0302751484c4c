// SPDX-License-Identifier: Apache-2.0
// "pre_tokenizer" of tokenizer.json: how a normalised text falls into the words that the model sees, step by step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/text/byte_level.hpp>
#include <srformer/text/pattern.hpp>

namespace srformer::detail {

// Every step is called with a text, with whether it begins the whole, and with emit(part, whether that begins the whole).

/// Spaces as a visible character, which begins words.
struct Metaspace {
  enum class Prepend : std::uint8_t { always, first, never };
  std::string replacement;
  Prepend prepend;
  bool split;

  explicit Metaspace(const nlohmann::json& json)
      : replacement(given_or<std::string>(json, "replacement", "\u2581")),
        split(given_or(json, "split", true)) {
    const auto scheme = given_or<std::string>(json, "prepend_scheme", "always");
    const bool prefix = given_or(json, "add_prefix_space", true);  // of tokenizers before 0.15
    if (scheme != "always" && scheme != "first" && scheme != "never")
      throw std::invalid_argument("prepend_scheme \"" + scheme + "\" is not known");
    require_one_character(replacement, "replacement");
    prepend = scheme == "never" || !prefix ? Prepend::never
              : scheme == "first"          ? Prepend::first
                                           : Prepend::always;
  }

  template <class Emit>
  void operator()(std::string_view text, bool begins, Emit emit) const {
    std::string word;
    const bool prefix = prepend == Prepend::always || (prepend == Prepend::first && begins);
    if (prefix && !text.starts_with(' ') && !text.starts_with(replacement)) word = replacement;
    for (const char c : text) {
      if (c == ' ')
        word += replacement;
      else
        word += c;
    }
    if (!split) return emit(word, begins);
    const std::string_view all = word;
    for (std::size_t from = 0; from < all.size();) {
      const std::size_t next = all.find(replacement, from == 0 ? starts(all) : from + 1);
      const std::size_t to = std::min(next, all.size());
      emit(all.substr(from, to - from), begins && from == 0);
      from = to;
    }
  }

 private:
  /// Where the search for the second word starts.
  std::size_t starts(std::string_view all) const {
    return all.starts_with(replacement) ? replacement.size() : 0;
  }
};

/// Splits at characters of a class.
template <bool (*is_match)(char32_t)>
struct CharacterSplit {
  SplitBehavior behavior;

  template <class Emit>
  void operator()(std::string_view text, bool begins, Emit emit) const {
    std::vector<Part> parts;
    std::size_t at = 0;
    for_each_character(text, [&](char32_t c, std::string_view bytes) {
      const bool match = is_match(c);
      if (match || parts.empty() || parts.back().match) parts.push_back({at, at, match});
      parts.back().end = at += bytes.size();
    });
    apply(behavior, parts);
    for (const Part& part : parts)
      emit(text.substr(part.begin, part.end - part.begin), begins && part.begin == 0);
  }
};

/// Words without the white space between them.
struct WhitespaceSplit {
  template <class Emit>
  void operator()(std::string_view text, bool begins, Emit emit) const {
    std::size_t from = 0;
    const auto word = [&](std::size_t to) {
      if (from < to) emit(text.substr(from, to - from), begins && from == 0);
    };
    for (std::size_t i = 0; i < text.size();) {
      const char32_t c = code_point(text.substr(i));
      const std::size_t bytes = utf8_bytes(c);
      if (is_space(c)) {
        word(i);
        from = i + bytes;
      }
      i += bytes;
    }
    word(text.size());
  }
};

/// Runs of \w and runs of what is neither that nor white space.
struct Whitespace {
  template <class Emit>
  void operator()(std::string_view text, bool begins, Emit emit) const {
    WhitespaceSplit()(text, begins, [&](std::string_view run, bool run_begins) {
      std::size_t from = 0;
      for (std::size_t i = 0; i < run.size();) {
        const std::size_t next = i + utf8_bytes(code_point(run.substr(i)));
        if (next == run.size() ||
            begins_with_word(run.substr(i)) != begins_with_word(run.substr(next))) {
          emit(run.substr(from, next - from), run_begins && from == 0);
          from = next;
        }
        i = next;
      }
    });
  }
};

/// Splits at a text or an expression, or with `invert` at what is not that.
struct Split {
  Pattern pattern;
  SplitBehavior behavior;
  bool invert;

  template <class Emit>
  void operator()(std::string_view text, bool begins, Emit emit) const {
    std::vector<Part> parts = pattern.parts(text);
    for (Part& part : parts) part.match = part.match != invert;
    apply(behavior, parts);
    for (const Part& part : parts)
      emit(text.substr(part.begin, part.end - part.begin), begins && part.begin == 0);
  }
};

/// Words by GPT-2's expression; bytes as the characters that stand for them unless `raw`.
struct ByteLevel {
  bool add_prefix_space, use_regex;
  bool raw = false;

  template <class Emit>
  void operator()(std::string_view text, bool begins, Emit emit) const {
    std::string prefixed;
    if (add_prefix_space && !text.starts_with(' ')) text = prefixed = " " + std::string(text);
    const char* const start = text.data();
    const auto word = [&](std::string_view bytes) {
      const bool first = begins && bytes.data() == start;
      if (raw) return emit(bytes, first);
      static const auto characters = byte_tokens();
      std::string spelt;
      for (const char byte : bytes) spelt += characters[std::uint8_t(byte)];
      emit(spelt, first);
    };
    use_regex ? for_each_word(text, word) : word(text);
  }
};

/// Any of them after each other.
class PreTokenizer {
 public:
  PreTokenizer() = default;

  /// Throws io_error, naming `path`, for a step that is not among those above.
  PreTokenizer(const nlohmann::json& json, const std::filesystem::path& path) { add(json, path); }

  /// Whether the last step is ByteLevel.
  bool ends_with_bytes() const {
    return !steps_.empty() && std::holds_alternative<ByteLevel>(steps_.back());
  }
  /// Lets that step leave bytes as they are.
  void leave_bytes() { std::get<ByteLevel>(steps_.back()).raw = true; }

  /// Calls word(text of a word).
  template <class Word>
  void operator()(std::string_view text, bool begins, Word word) const {
    run(0, text, begins, word);
  }

 private:
  using Step = std::variant<Metaspace, WhitespaceSplit, Whitespace, CharacterSplit<is_punctuation>,
                            CharacterSplit<is_number>, Split, ByteLevel>;

  std::ptrdiff_t spells_bytes() const {
    return std::ranges::count_if(
        steps_, [](const Step& step) { return std::holds_alternative<ByteLevel>(step); });
  }

  template <class Word>
  void run(std::size_t step, std::string_view text, bool begins, const Word& word) const {
    if (text.empty()) return;
    if (step == steps_.size()) return word(text);
    std::visit(
        [&](const auto& split) {
          split(text, begins, [&](std::string_view part, bool part_begins) {
            run(step + 1, part, part_begins, word);
          });
        },
        steps_[step]);
  }

  void add(const nlohmann::json& json, const std::filesystem::path& path) {
    require_few_steps(steps_.size() + 1, path);
    if (json.is_null()) return;
    const auto type = json.at("type").get<std::string>();
    using Punctuation = CharacterSplit<is_punctuation>;
    if (type == "Sequence") {
      for (const auto& step : json.at("pretokenizers")) add(step, path);
    } else if (type == "Metaspace") {
      steps_.emplace_back(Metaspace(json));
    } else if (type == "WhitespaceSplit") {
      steps_.emplace_back(WhitespaceSplit{});
    } else if (type == "Whitespace") {
      steps_.emplace_back(Whitespace{});
    } else if (type == "BertPreTokenizer") {
      steps_.emplace_back(WhitespaceSplit{});
      steps_.emplace_back(Punctuation{SplitBehavior::isolated});
    } else if (type == "Punctuation") {
      steps_.emplace_back(Punctuation{json.contains("behavior")
                                          ? read_split_behavior(json.at("behavior"))
                                          : SplitBehavior::isolated});
    } else if (type == "Digits") {
      steps_.emplace_back(CharacterSplit<is_number>{json.at("individual_digits").get<bool>()
                                                        ? SplitBehavior::isolated
                                                        : SplitBehavior::contiguous});
    } else if (type == "Split") {
      steps_.emplace_back(Split{Pattern(json.at("pattern"), path, "pre_tokenizer Split"),
                                read_split_behavior(json.at("behavior")),
                                given_or(json, "invert", false)});
    } else if (type == "ByteLevel") {
      if (spells_bytes() > 0)  // each of them doubles a text
        throw io_error(path.string() + ": pre_tokenizer ByteLevel stands twice; remove one");
      steps_.emplace_back(
          ByteLevel{json.at("add_prefix_space"), given_or(json, "use_regex", true)});
    } else {
      throw io_error(path.string() + ": pre_tokenizer " + one_line(type) +
                     " is not known here; take a tokenizer without it");
    }
  }

  std::vector<Step> steps_;
};

}  // namespace srformer::detail
