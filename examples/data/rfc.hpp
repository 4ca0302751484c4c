// SPDX-License-Identifier: Apache-2.0
// Pairs from the RFCs, as Debian's packages doc-rfc-* bring them: the prose of a document from its introduction on, and
// its abstract, which rfcN.json has beside rfcN.txt. Pages were once printed:
//
//   ... would be a violation of the protocol.        <- text
//
//   Postel                              [Page 2]     <- foot
//   \f
//   RFC 791       Internet Protocol       September 1981     <- head
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <srformer/core/random.hpp>
#include <srformer/core/utf8.hpp>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "pairs.hpp"

namespace srformer::examples::rfc {

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }
inline bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
inline bool is_letter(char c) { return is_lower(static_cast<char>(c | 0x20)); }

inline std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blank = " \t\r\n\f";
  const std::size_t first = text.find_first_not_of(blank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(blank) + 1 - first);
}

inline std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  constexpr std::string_view blank = " \t\r\n\f";
  for (std::size_t at = text.find_first_not_of(blank); at < text.size();
       at = text.find_first_not_of(blank, at)) {
    const std::size_t end = std::min(text.find_first_of(blank, at), text.size());
    words.push_back(text.substr(at, end - at));
    at = end;
  }
  return words;
}

/// Words with one space between them.
inline std::string one_spaced(std::string_view text) {
  std::string joined;
  for (const std::string_view word : words_of(text)) {
    if (!joined.empty()) joined += ' ';
    joined += word;
  }
  return joined;
}

/// Text as UTF-8 without a byte order mark. What is not UTF-8 is Latin-1, as in some documents of the nineties.
inline std::string as_utf8(std::string_view bytes) {
  if (bytes.starts_with("\xef\xbb\xbf")) bytes.remove_prefix(3);
  if (srformer::detail::valid_utf8_prefix(bytes) == bytes.size()) return std::string(bytes);
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      text += c;
    } else {
      text += static_cast<char>(0xc0 | (byte >> 6));
      text += static_cast<char>(0x80 | (byte & 0x3f));
    }
  }
  return text;
}

/// "Postel      [Page 2]"
inline bool is_foot(std::string_view line) {
  line = trimmed(line);
  if (!line.ends_with(']')) return false;
  const std::size_t open = line.rfind('[');
  if (open == std::string_view::npos) return false;
  const std::string_view inside = line.substr(open + 1, line.size() - open - 2);
  return inside.starts_with("Page ") || inside.starts_with("page ") || inside.starts_with("PAGE ");
}

/// "RFC 791      Internet Protocol      September 1981", which follows a foot.
inline bool is_head(std::string_view line) {
  if (line.empty() || line.front() == ' ') return false;
  line = trimmed(line);
  if (line.starts_with("RFC ") || line.starts_with("RFC-")) return true;
  const std::string_view year = line.size() < 4 ? "" : line.substr(line.size() - 4);
  return year.size() == 4 && std::ranges::all_of(year, is_digit) &&
         (year.starts_with("19") || year.starts_with("20"));
}

/// The lines of a document without the feet and heads of its pages. Where a paragraph goes on over a page there is no
/// empty line in it.
inline std::vector<std::string_view> lines_without_pages(std::string_view text) {
  std::vector<std::string_view> lines;
  bool between_pages = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    const bool breaks = line.find('\f') != std::string_view::npos;
    if (breaks) line.remove_prefix(line.rfind('\f') + 1);
    while (!line.empty() && trimmed(line.substr(line.size() - 1)).empty()) line.remove_suffix(1);
    const bool foot = is_foot(line);
    if (breaks || foot) {
      between_pages = true;
      while (!lines.empty() && lines.back().empty()) lines.pop_back();
    }
    if (foot || (between_pages && (line.empty() || is_head(line)))) continue;
    if (between_pages && !lines.empty()) {
      const char last = lines.back().back();
      const bool ends = std::string_view(".:;?!").find(last) != std::string_view::npos;
      const char next = trimmed(line).front();
      if (ends || !(is_letter(next) || next == '(' || next == '"')) lines.emplace_back();
    }
    between_pages = false;
    lines.push_back(line);
  }
  return lines;
}

/// Lines between empty ones.
struct Block {
  std::vector<std::string_view> lines;
};

inline std::vector<Block> blocks_of(const std::vector<std::string_view>& lines) {
  std::vector<Block> blocks;
  bool open = false;
  for (const std::string_view line : lines) {
    if (line.empty()) {
      open = false;
      continue;
    }
    if (!open) blocks.emplace_back();
    open = true;
    blocks.back().lines.push_back(line);
  }
  return blocks;
}

/// What stands above a section: "3.1. Internet Header Format" is of depth 2.
struct Heading {
  std::string title;  ///< in small letters, without its number
  std::size_t depth = 1;
  bool numbered = false;
};

/// The heading that a block is, if it is one: a line at the margin, or two of a long title, that no sentence is and no
/// entry of a table of contents.
inline std::optional<Heading> heading_of(const Block& block) {
  if (block.lines.size() > 2 || block.lines.front().front() == ' ') return std::nullopt;
  std::string text;
  for (const std::string_view line : block.lines) text += std::string(trimmed(line)) + ' ';
  std::string_view rest = trimmed(text);
  if (rest.size() > 120 || rest.find(". .") != std::string_view::npos ||
      rest.find("..") != std::string_view::npos)
    return std::nullopt;
  Heading heading;
  const bool appendix = rest.starts_with("Appendix ") || rest.starts_with("APPENDIX ");
  if (appendix) rest.remove_prefix(9);  // and then its letter as a number
  // "3", "3.", "3.1", "3.1.", "A.2."
  const std::size_t end = std::min(rest.find_first_of(" :"), rest.size());
  std::string_view number = rest.substr(0, end);
  if (number.ends_with('.')) number.remove_suffix(1);
  const bool lettered = !number.empty() && is_letter(number.front()) &&
                        (number.size() == 1 ? appendix : number[1] == '.');
  if (!number.empty() && (is_digit(number.front()) || lettered) &&
      number.find_first_not_of("0123456789.", lettered ? 1 : 0) == std::string_view::npos) {
    heading.numbered = true;
    heading.depth = 1 + static_cast<std::size_t>(std::ranges::count(number, '.'));
    rest = trimmed(rest.substr(end));
    while (!rest.empty() && (rest.front() == ':' || rest.front() == '-')) rest.remove_prefix(1);
  }
  while (!rest.empty() && (rest.back() == ':' || rest.back() == '.')) rest.remove_suffix(1);
  rest = trimmed(rest);
  if (rest.empty() || is_digit(rest.back()) || words_of(rest).size() > 14) return std::nullopt;
  if (!heading.numbered && (is_lower(rest.front()) || !is_letter(rest.front())))
    return std::nullopt;
  heading.title = rest;
  std::ranges::transform(heading.title, heading.title.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  });
  return heading;
}

/// Whether a section begins the document proper.
inline bool introduces(const Heading& heading) {
  const std::string_view title = heading.title;
  return title.starts_with("introduction") || title.starts_with("overview") ||
         title == "background" || title == "motivation" || title == "purpose" || title == "scope" ||
         title == "general" || title.ends_with("introduction") || title.ends_with("overview");
}

/// Whether a section is about the document and not of it.
inline bool is_apparatus(const Heading& heading) {
  constexpr std::array words{
      "references",    "bibliography",    "acknowledg",      "author",
      "editor",        "contributor",     "copyright",       "copying",
      "intellectual",  "status of th",    "abstract",        "contents",
      "table of cont", "iesg note",       "iab note",        "rfc editor",
      "index",         "list of figure",  "list of table",   "disclaimer",
      "change log",    "changelog",       "revision histor", "document histor",
      "normative ref", "informative ref", "contact",         "chair"};
  return std::ranges::any_of(words,
                             [&](const char* word) { return heading.title.starts_with(word); });
}

/// The text of a block, if it is prose: sentences, and no figure, table, grammar or code.
inline std::optional<std::string> prose_of(const Block& block) {
  std::size_t gaps = 0;
  for (const std::string_view line : block.lines) {
    const std::string_view text = trimmed(line);
    if (text.find("   ") != std::string_view::npos) ++gaps;
  }
  std::string text;
  for (const std::string_view line : block.lines) {
    // A word that a line divides is joined: "network-" and "protocol" are "network-protocol".
    const bool divided = text.size() >= 2 && text.back() == '-' && is_letter(text[text.size() - 2]);
    if (!text.empty() && !divided) text += ' ';
    text += one_spaced(line);
  }
  const std::vector<std::string_view> words = words_of(text);
  if (words.size() < 8 || 5 * gaps > block.lines.size()) return std::nullopt;
  const auto letters = static_cast<std::size_t>(std::ranges::count_if(text, is_letter));
  const auto blanks = static_cast<std::size_t>(std::ranges::count(text, ' '));
  const auto plain = static_cast<std::size_t>(std::ranges::count_if(words, [](std::string_view w) {
    while (!w.empty() && !is_letter(w.back())) w.remove_suffix(1);
    return !w.empty() && std::ranges::all_of(w, is_lower);
  }));
  const bool is_prose = 4 * letters >= 3 * (text.size() - blanks) && 2 * plain >= words.size() &&
                        std::ranges::count(text, '|') < 2 && text.find("+-") == std::string::npos &&
                        text.find("::=") == std::string::npos &&
                        (std::ranges::count(text, ';') < 2 ||
                         std::ranges::count(text, '{') + std::ranges::count(text, '}') == 0);
  if (!is_prose) return std::nullopt;
  return text;
}

/// The paragraphs of prose from the introduction on. Empty where no introduction is found.
inline std::vector<std::string> paragraphs_of(std::string_view document) {
  const std::vector<Block> blocks = blocks_of(lines_without_pages(document));
  std::vector<std::optional<Heading>> headings;
  for (const Block& block : blocks) headings.push_back(heading_of(block));
  const auto first = [&](auto is_first) {
    const auto at = std::ranges::find_if(
        headings, [&](const auto& heading) { return heading && is_first(*heading); });
    return static_cast<std::size_t>(at - headings.begin());
  };
  std::size_t begin = first([](const Heading& h) { return introduces(h); });
  if (begin == blocks.size())
    begin = first([](const Heading& h) { return h.numbered && h.depth == 1 && !is_apparatus(h); });

  std::vector<std::string> paragraphs;
  std::size_t left_out = 0;  // depth of the section that is left out; 0: none
  for (std::size_t i = begin; i < blocks.size(); ++i) {
    if (headings[i]) {
      if (left_out == 0 || headings[i]->depth <= left_out)
        left_out = is_apparatus(*headings[i]) ? headings[i]->depth : 0;
      continue;
    }
    if (left_out > 0) continue;
    if (auto text = prose_of(blocks[i])) paragraphs.push_back(std::move(*text));
  }
  return paragraphs;
}

/// The number of "RFC0791" or "rfc791.txt.gz"; 0 for other names, such as STD5 or a draft's.
inline int number_of(std::string_view name) {
  if (!name.starts_with("rfc") && !name.starts_with("RFC")) return 0;
  name.remove_prefix(3);
  int number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  const bool whole = end == name.data() + name.size() || *end == '.';
  return error == std::errc() && whole && number > 0 ? number : 0;
}

/// What rfcN.json says.
struct Record {
  int number = 0;
  std::string abstract;
  std::vector<int> related;  ///< those that it obsoletes and is obsoleted by
};

/// Throws nlohmann's exceptions for what is no such record.
inline Record record_of(const nlohmann::json& json) {
  Record record;
  record.number = number_of(json.at("doc_id").get<std::string>());
  if (const auto text = json.find("abstract"); text != json.end() && text->is_string())
    record.abstract = one_spaced(as_utf8(text->get<std::string>()));
  // "... of the protocol. [STANDARDS-TRACK]"
  if (record.abstract.ends_with(']')) {
    const std::size_t open = record.abstract.rfind('[');
    const std::string_view inside = std::string_view(record.abstract).substr(open + 1);
    if (open != std::string::npos &&
        std::ranges::all_of(inside, [](char c) { return !is_lower(c); }) &&
        std::ranges::none_of(inside, is_digit))
      record.abstract = trimmed(std::string_view(record.abstract).substr(0, open));
  }
  for (const char* relation : {"obsoletes", "obsoleted_by"}) {
    const auto others = json.find(relation);
    if (others == json.end() || !others->is_array()) continue;
    for (const auto& other : *others)
      if (const int number = other.is_string() ? number_of(other.get<std::string>()) : 0)
        record.related.push_back(number);
  }
  return record;
}

struct Document {
  Record record;
  std::vector<std::string> paragraphs;
};

/// The split of each document: that of the smallest number among those that it is connected with by obsoleting and being
/// obsoleted, so that no version of a document is in another split. Of twenty such families one goes to validation and
/// one to test, by a random number of that number.
inline std::map<int, Split> splits_of(const std::map<int, Document>& documents) {
  std::map<int, int> above;
  const auto root = [&](int number) {
    while (above.try_emplace(number, number).first->second != number)
      number = above[number] = above.try_emplace(above[number], above[number]).first->second;
    return number;
  };
  for (const auto& [number, document] : documents) {
    for (const int other : document.record.related) {
      const int a = root(number), b = root(other);
      above[std::max(a, b)] = std::min(a, b);
    }
  }
  std::map<int, Split> splits;
  for (const auto& [number, document] : documents) {
    const std::uint32_t part =
        random_word(RandomStream{}, static_cast<std::uint64_t>(root(number))) % 20;
    splits[number] = part == 0 ? Split::validation : part == 1 ? Split::test : Split::train;
  }
  return splits;
}

struct Limits {
  std::size_t min_abstract_words = 20, min_text_words = 300;
};

struct Counts {
  std::size_t documents = 0, without_abstract = 0, too_short = 0, repeated = 0;
};

struct Corpus {
  std::array<std::vector<Pair>, 3> pairs;  ///< by split, in the order of the numbers
  std::vector<std::string> paragraphs;  ///< of the training split alone, each once, to pretrain on
  Counts counts;
};

/// Pairs and paragraphs. A paragraph that stands in a document of validation or test as well, as legal and other fixed
/// wordings do, is no training text.
inline Corpus corpus_of(const std::map<int, Document>& documents, const Limits& limits) {
  Corpus corpus;
  const std::map<int, Split> splits = splits_of(documents);
  std::unordered_set<std::string_view> held_out, seen, abstracts;
  for (const auto& [number, document] : documents) {
    if (splits.at(number) == Split::train) continue;
    held_out.insert(document.record.abstract);
    for (const std::string& paragraph : document.paragraphs) held_out.insert(paragraph);
  }
  for (const auto& [number, document] : documents) {
    ++corpus.counts.documents;
    const Split split = splits.at(number);
    if (split == Split::train) {
      for (const std::string& paragraph : document.paragraphs)
        if (!held_out.contains(paragraph) && seen.insert(paragraph).second)
          corpus.paragraphs.push_back(paragraph);
    }
    std::string text;
    std::size_t words = 0;
    for (const std::string& paragraph : document.paragraphs) {
      if (!text.empty()) text += '\n';
      text += paragraph;
      words += words_of(paragraph).size();
    }
    const std::string& abstract = document.record.abstract;
    if (words_of(abstract).size() < limits.min_abstract_words) {
      ++corpus.counts.without_abstract;
    } else if (words < limits.min_text_words) {
      ++corpus.counts.too_short;
    } else if (!abstracts.insert(abstract).second) {
      ++corpus.counts.repeated;
    } else {
      corpus.pairs[static_cast<std::size_t>(split)].push_back({std::move(text), abstract});
    }
  }
  return corpus;
}

}  // namespace srformer::examples::rfc
