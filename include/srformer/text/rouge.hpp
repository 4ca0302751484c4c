// SPDX-License-Identifier: Apache-2.0
// ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum (Lin, "ROUGE: a package for automatic evaluation of summaries", 2004),
// with the numbers of Google's rouge_score 0.1.2 and the Porter stemmer of NLTK in its default mode.
//
//   rouge_tokens   text -> words                     porter_stem   word -> stem
//   split_sentences   a rule, for ROUGE-Lsum of text that has no newlines
//   rouge          one pair of texts -> RougeScores
//   mean, bootstrap   many pairs -> their mean, and its confidence interval
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <srformer/core/error.hpp>

namespace srformer {

/// Fractions in [0, 1].
struct RougeScore {
  double precision = 0, recall = 0, fmeasure = 0;
};

struct RougeScores {
  RougeScore rouge1, rouge2, rougeL, rougeLsum;
};

struct RougeOptions {
  bool stemmer = true;  ///< stem words of more than three characters
  bool split_sentences =
      false;  ///< ROUGE-Lsum: split by the rule of split_sentences, not at newlines alone
};

/// Mean over pairs with the bounds of its bootstrap interval, each statistic on its own.
struct RougeInterval {
  RougeScores low, mean, high;
};

struct BootstrapOptions {
  int samples = 1000;
  double confidence = 0.95;
  std::uint64_t seed = 0;
};

namespace detail {

// ------------------------------------------------------------------------------------------------
// Porter's stemmer ("An algorithm for suffix stripping", 1980) with NLTK's extensions.

inline bool is_vowel_letter(char c) {
  return c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u';
}

/// Whether word[i] is a consonant: y is one at the start and after a vowel.
inline bool is_consonant(std::string_view word, std::size_t i) {
  bool negate = false;
  for (; i > 0 && word[i] == 'y'; --i) negate = !negate;
  return !is_vowel_letter(word[i]) != negate;
}

/// m in [C](VC)^m[V].
inline int measure(std::string_view stem) {
  int m = 0;
  bool previous = true, consonant = true;
  for (std::size_t i = 0; i < stem.size(); ++i, previous = consonant) {
    consonant = stem[i] == 'y' ? i == 0 || !previous : !is_vowel_letter(stem[i]);
    m += i > 0 && !previous && consonant;
  }
  return m;
}

inline bool contains_vowel(std::string_view stem) {
  for (std::size_t i = 0; i < stem.size(); ++i)
    if (!is_consonant(stem, i)) return true;
  return false;
}

inline bool ends_double_consonant(std::string_view word) {
  const std::size_t n = word.size();
  return n >= 2 && word[n - 1] == word[n - 2] && is_consonant(word, n - 1);
}

/// *o: consonant, vowel, consonant other than w, x, y; and NLTK: a word of vowel, consonant.
inline bool ends_cvc(std::string_view word) {
  const std::size_t n = word.size();
  if (n == 2) return !is_consonant(word, 0) && is_consonant(word, 1);
  return n >= 3 && is_consonant(word, n - 3) && !is_consonant(word, n - 2) &&
         is_consonant(word, n - 1) && word[n - 1] != 'w' && word[n - 1] != 'x' &&
         word[n - 1] != 'y';
}

struct SuffixRule {
  std::string_view suffix, replacement;
};

/// The first rule whose suffix fits decides; it is applied if the measure of the stem is over `least`.
template <std::size_t N>
void apply_rules(std::string& word, const std::array<SuffixRule, N>& rules, int least) {
  for (const auto& [suffix, replacement] : rules) {
    if (!word.ends_with(suffix)) continue;
    std::string_view stem = std::string_view(word).substr(0, word.size() - suffix.size());
    bool holds = measure(stem) > least;
    if (suffix == "logi") holds = measure(std::string_view(word).substr(0, stem.size() + 1)) > 0;
    if (suffix == "ion") holds = holds && (stem.back() == 's' || stem.back() == 't');
    if (holds) word.replace(stem.size(), suffix.size(), replacement);
    return;
  }
}

inline void porter_step1a(std::string& word) {
  if (word.ends_with("ies"))
    word.resize(word.size() - (word.size() == 4 ? 1 : 2));
  else if (word.ends_with("sses"))
    word.resize(word.size() - 2);
  else if (word.ends_with('s') && !word.ends_with("ss"))
    word.pop_back();
}

inline void porter_step1b(std::string& word) {
  if (word.ends_with("ied")) {
    word.resize(word.size() - (word.size() == 4 ? 1 : 2));
    return;
  }
  if (word.ends_with("eed")) {
    if (measure(std::string_view(word).substr(0, word.size() - 3)) > 0) word.pop_back();
    return;
  }
  const std::size_t suffix = word.ends_with("ed") ? 2 : word.ends_with("ing") ? 3 : 0;
  if (suffix == 0 || !contains_vowel(std::string_view(word).substr(0, word.size() - suffix)))
    return;
  word.resize(word.size() - suffix);
  if (word.ends_with("at") || word.ends_with("bl") || word.ends_with("iz")) {
    word += 'e';
  } else if (ends_double_consonant(word)) {
    const char last = word.back();
    if (last != 'l' && last != 's' && last != 'z') word.pop_back();
  } else if (measure(word) == 1 && ends_cvc(word)) {
    word += 'e';
  }
}

inline void porter_step1c(std::string& word) {
  const std::size_t n = word.size();
  if (n > 2 && word[n - 1] == 'y' && is_consonant(word, n - 2)) word[n - 1] = 'i';
}

inline void porter_step2(std::string& word) {
  static constexpr std::array<SuffixRule, 22> rules{{
      {"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"},   {"anci", "ance"},
      {"izer", "ize"},    {"bli", "ble"},     {"alli", "al"},     {"entli", "ent"},
      {"eli", "e"},       {"ousli", "ous"},   {"ization", "ize"}, {"ation", "ate"},
      {"ator", "ate"},    {"alism", "al"},    {"iveness", "ive"}, {"fulness", "ful"},
      {"ousness", "ous"}, {"aliti", "al"},    {"iviti", "ive"},   {"biliti", "ble"},
      {"fulli", "ful"},   {"logi", "log"},
  }};
  if (word.ends_with("alli") && measure(std::string_view(word).substr(0, word.size() - 4)) > 0)
    word.resize(word.size() - 2);
  apply_rules(word, rules, 0);
}

inline void porter_step3(std::string& word) {
  static constexpr std::array<SuffixRule, 7> rules{{{"icate", "ic"},
                                                    {"ative", ""},
                                                    {"alize", "al"},
                                                    {"iciti", "ic"},
                                                    {"ical", "ic"},
                                                    {"ful", ""},
                                                    {"ness", ""}}};
  apply_rules(word, rules, 0);
}

inline void porter_step4(std::string& word) {
  static constexpr std::array<SuffixRule, 19> rules{{{"al", ""},
                                                     {"ance", ""},
                                                     {"ence", ""},
                                                     {"er", ""},
                                                     {"ic", ""},
                                                     {"able", ""},
                                                     {"ible", ""},
                                                     {"ant", ""},
                                                     {"ement", ""},
                                                     {"ment", ""},
                                                     {"ent", ""},
                                                     {"ion", ""},
                                                     {"ou", ""},
                                                     {"ism", ""},
                                                     {"ate", ""},
                                                     {"iti", ""},
                                                     {"ous", ""},
                                                     {"ive", ""},
                                                     {"ize", ""}}};
  apply_rules(word, rules, 1);
}

inline void porter_step5(std::string& word) {
  if (word.ends_with('e')) {
    const std::string_view stem = std::string_view(word).substr(0, word.size() - 1);
    const int m = measure(stem);
    if (m > 1 || (m == 1 && !ends_cvc(stem))) word.pop_back();
  }
  if (word.ends_with("ll") && measure(std::string_view(word).substr(0, word.size() - 1)) > 1)
    word.pop_back();
}

// ------------------------------------------------------------------------------------------------
// Longest common subsequence, 64 columns at a time (Hyyro, "Bit-parallel LCS-length computation revisited", 2004).

using DeviceTokens = std::vector<std::uint32_t>;

/// For each token, the set of its positions in a sequence, one bit each.
class PositionSets {
 public:
  explicit PositionSets(std::span<const std::uint32_t> sequence)
      : words_((sequence.size() + 63) / 64) {
    for (std::size_t j = 0; j < sequence.size(); ++j) {
      auto& set = sets_[sequence[j]];
      set.resize(words_);
      set[j / 64] |= std::uint64_t{1} << (j % 64);
    }
  }
  std::size_t words() const { return words_; }
  const std::uint64_t* find(std::uint32_t token) const {
    const auto it = sets_.find(token);
    return it == sets_.end() ? nullptr : it->second.data();
  }

 private:
  std::size_t words_;
  std::unordered_map<std::uint32_t, std::vector<std::uint64_t>> sets_;
};

/// One row of the table: bit j of `row` is 0 where L(i,j+1) = L(i,j) + 1; `matches` null means none.
inline void lcs_row(std::span<std::uint64_t> row, const std::uint64_t* matches) {
  if (matches == nullptr) return;
  std::uint64_t carry = 0;
  for (std::size_t w = 0; w < row.size(); ++w) {
    const std::uint64_t v = row[w], u = v & matches[w];
    std::uint64_t sum = v + u;
    std::uint64_t carry_out = sum < v;
    sum += carry;
    carry_out |= sum < carry;
    carry = carry_out;
    row[w] = sum | (v & ~matches[w]);
  }
}

/// Number of zero bits among the first `columns`: L(i, columns).
inline std::size_t lcs_value(std::span<const std::uint64_t> row, std::size_t columns) {
  std::size_t value = columns;
  for (std::size_t w = 0; w < columns / 64; ++w) value -= std::size_t(std::popcount(row[w]));
  if (columns % 64)
    value -=
        std::size_t(std::popcount(row[columns / 64] & ((std::uint64_t{1} << (columns % 64)) - 1)));
  return value;
}

/// Length of the LCS; O(m n / 64) steps, O(n) memory.
inline std::size_t lcs_length(const DeviceTokens& reference, const DeviceTokens& prediction) {
  const PositionSets positions(prediction);
  std::vector<std::uint64_t> row(positions.words(), ~std::uint64_t{0});
  for (const std::uint32_t token : reference) lcs_row(row, positions.find(token));
  return lcs_value(row, prediction.size());
}

/// Marks the positions of `reference` on the LCS that rouge_score reads out of its table (from the end, a match first,
/// then up unless the left neighbour is larger); m n / 8 bytes.
inline void mark_lcs(const DeviceTokens& reference, const DeviceTokens& prediction,
                     std::vector<char>& marked) {
  const PositionSets positions(prediction);
  const std::size_t m = reference.size(), words = positions.words();
  std::vector<std::uint64_t> table((m + 1) * words, ~std::uint64_t{0});
  const auto row = [&](std::size_t i) { return std::span(table).subspan(i * words, words); };
  const auto step = [&](std::size_t i, std::size_t j) -> std::size_t {  // L(i,j) - L(i,j-1)
    return (row(i)[(j - 1) / 64] >> ((j - 1) % 64) & 1) == 0;
  };
  for (std::size_t i = 1; i <= m; ++i) {
    std::ranges::copy(row(i - 1), row(i).begin());
    lcs_row(row(i), positions.find(reference[i - 1]));
  }
  std::size_t i = m, j = prediction.size();
  if (m == 0 || j == 0) return;
  std::size_t here = lcs_value(row(i), j), above = lcs_value(row(i - 1), j);  // L(i,j), L(i-1,j)
  while (i > 0 && j > 0) {
    if (reference[i - 1] == prediction[j - 1]) {
      marked[i - 1] = 1;
      --i, --j;
      here = above - step(i, j + 1);
      if (i > 0) above = lcs_value(row(i - 1), j);
    } else if (here - step(i, j) > above) {
      here -= step(i, j);
      above -= step(i - 1, j);
      --j;
    } else {
      --i;
      here = above;
      if (i > 0) above = lcs_value(row(i - 1), j);
    }
  }
}

// ------------------------------------------------------------------------------------------------

inline RougeScore rouge_score(double hits, std::size_t reference, std::size_t prediction) {
  RougeScore s{hits / double(std::max<std::size_t>(prediction, 1)),
               hits / double(std::max<std::size_t>(reference, 1)), 0};
  if (s.precision + s.recall > 0)
    s.fmeasure = 2 * s.precision * s.recall / (s.precision + s.recall);
  return s;
}

inline RougeScore rouge_n(const DeviceTokens& reference, const DeviceTokens& prediction,
                          std::size_t n) {
  const auto count = [n](const DeviceTokens& tokens) {
    return tokens.size() < n ? 0 : tokens.size() - n + 1;
  };
  const auto gram = [n](const DeviceTokens& tokens, std::size_t i) {
    return n == 1 ? std::uint64_t{tokens[i]} : std::uint64_t{tokens[i]} << 32 | tokens[i + 1];
  };
  std::unordered_map<std::uint64_t, std::size_t> left;
  for (std::size_t i = 0; i < count(reference); ++i) ++left[gram(reference, i)];
  std::size_t hits = 0;
  for (std::size_t i = 0; i < count(prediction); ++i) {
    const auto it = left.find(gram(prediction, i));
    if (it != left.end() && it->second > 0) --it->second, ++hits;
  }
  return rouge_score(double(hits), count(reference), count(prediction));
}

/// Union of the LCS of each reference sentence with all predicted ones; a token hits as often as both texts have it.
inline RougeScore rouge_lsum(const std::vector<DeviceTokens>& reference,
                             const std::vector<DeviceTokens>& prediction) {
  std::size_t m = 0, n = 0, hits = 0;
  std::unordered_map<std::uint32_t, std::size_t> left;
  for (const DeviceTokens& sentence : reference) m += sentence.size();
  for (const DeviceTokens& sentence : prediction) {
    n += sentence.size();
    for (const std::uint32_t token : sentence) ++left[token];
  }
  for (const DeviceTokens& sentence : reference) {
    std::vector<char> marked(sentence.size(), 0);
    for (const DeviceTokens& predicted : prediction) mark_lcs(sentence, predicted, marked);
    for (std::size_t i = 0; i < sentence.size(); ++i)
      if (marked[i] && left[sentence[i]] > 0) --left[sentence[i]], ++hits;
  }
  return rouge_score(double(hits), m, n);
}

inline constexpr std::array<RougeScore RougeScores::*, 4> rouge_types{
    &RougeScores::rouge1, &RougeScores::rouge2, &RougeScores::rougeL, &RougeScores::rougeLsum};
inline constexpr std::array<double RougeScore::*, 3> rouge_statistics{
    &RougeScore::precision, &RougeScore::recall, &RougeScore::fmeasure};

}  // namespace detail

/// Stem of a lower-case word [a-z0-9]+, as nltk.stem.porter.PorterStemmer().stem gives; O(length).
inline std::string porter_stem(std::string word) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 16> irregular{{
      {"sky", "sky"},
      {"skies", "sky"},
      {"dying", "die"},
      {"lying", "lie"},
      {"tying", "tie"},
      {"news", "news"},
      {"innings", "inning"},
      {"inning", "inning"},
      {"outings", "outing"},
      {"outing", "outing"},
      {"cannings", "canning"},
      {"canning", "canning"},
      {"howe", "howe"},
      {"proceed", "proceed"},
      {"exceed", "exceed"},
      {"succeed", "succeed"},
  }};
  for (const auto& [form, stem] : irregular)
    if (word == form) return std::string(stem);
  if (word.size() <= 2) return word;
  detail::porter_step1a(word);
  detail::porter_step1b(word);
  detail::porter_step1c(word);
  detail::porter_step2(word);
  detail::porter_step3(word);
  detail::porter_step4(word);
  detail::porter_step5(word);
  return word;
}

/// Words of a UTF-8 text as rouge_score sees them: lower case, runs of [a-z0-9], stemmed if longer than three characters.
/// As in Python's lower(), U+0130 gives "i" with a mark that separates, and the Kelvin sign U+212A gives "k".
inline std::vector<std::string> rouge_tokens(std::string_view text, bool stemmer) {
  std::vector<std::string> tokens;
  std::string word;
  const auto finish = [&] {
    if (word.empty()) return;
    tokens.push_back(stemmer && word.size() > 3 ? porter_stem(std::move(word)) : std::move(word));
    word.clear();
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const std::string_view rest = text.substr(i);
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
      word += c;
    } else if (c >= 'A' && c <= 'Z') {
      word += char(c - 'A' + 'a');
    } else if (rest.starts_with("\u212a")) {
      word += 'k';
      i += 2;
    } else {
      if (rest.starts_with("\u0130")) word += 'i';
      finish();
    }
  }
  finish();
  return tokens;
}

/// Sentences of a text: a sentence ends at a newline, and after [.!?] with closing quotes or brackets when white space and
/// then a capital, a digit or an opening quote or bracket follows, unless a single capital or one of a few
/// abbreviations (Mr, Dr, St, vs, e.g, i.e, No, ...) precedes the full stop. Not NLTK's punkt; use newlines for that.
inline std::vector<std::string_view> split_sentences(std::string_view text) {
  static constexpr std::array<std::string_view, 27> abbreviations{
      "Mr",  "Mrs", "Ms",  "Dr",   "Prof", "Sr",  "Jr",  "St",  "Gen",
      "Col", "Lt",  "Sgt", "Capt", "Gov",  "Sen", "Rep", "Rev", "vs",
      "e.g", "i.e", "cf",  "No",   "Fig",  "Eq",  "al",  "Inc", "approx"};
  const auto space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  const auto one_of = [&](std::size_t i,
                          std::initializer_list<std::string_view> marks) -> std::size_t {
    for (const std::string_view mark : marks)
      if (text.substr(i).starts_with(mark)) return mark.size();
    return 0;
  };
  const auto upper = [](char c) { return c >= 'A' && c <= 'Z'; };
  std::vector<std::string_view> sentences;
  std::size_t begin = 0;
  const auto finish = [&](std::size_t end) {
    std::size_t b = begin, e = end;
    while (b < e && space(text[b])) ++b;
    while (e > b && space(text[e - 1])) --e;
    if (b < e) sentences.push_back(text.substr(b, e - b));
    begin = end;
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\n') {
      finish(i);
      continue;
    }
    if (text[i] != '.' && text[i] != '!' && text[i] != '?') continue;
    std::size_t word = i;
    while (word > begin && !space(text[word - 1]) && text[word - 1] != '(') --word;
    const std::string_view before = text.substr(word, i - word);
    if (text[i] == '.' && ((before.size() == 1 && upper(before[0])) ||
                           std::ranges::find(abbreviations, before) != abbreviations.end()))
      continue;
    std::size_t end = i + 1;
    while (const std::size_t n =
               one_of(end, {".", "!", "?", "\"", "'", ")", "]", "\u2019", "\u201d"}))
      end += n;
    std::size_t next = end;
    while (next < text.size() && space(text[next])) ++next;
    if (next == end || next == text.size()) continue;
    if (upper(text[next]) || (text[next] >= '0' && text[next] <= '9') ||
        one_of(next, {"\"", "'", "(", "[", "\u2018", "\u201c"})) {
      finish(end);
      i = end - 1;
    }
  }
  finish(text.size());
  return sentences;
}

/// ROUGE of one prediction against one reference, as rouge_score.rouge_scorer.RougeScorer.score(reference, prediction).
/// Bytes that are not ASCII separate words, whether they are valid UTF-8 or not. Texts without words score 0.
/// O(m n / 64) steps for m and n words, m n / 8 bytes for ROUGE-Lsum within a pair of sentences.
inline RougeScores rouge(std::string_view reference, std::string_view prediction,
                         RougeOptions options = {}) {
  std::unordered_map<std::string, std::uint32_t> ids;
  const auto encode = [&](std::string_view text) {
    detail::DeviceTokens tokens;
    for (std::string& word : rouge_tokens(text, options.stemmer))
      tokens.push_back(ids.try_emplace(std::move(word), std::uint32_t(ids.size())).first->second);
    return tokens;
  };
  const auto sentences = [&](std::string_view text) {
    std::vector<detail::DeviceTokens> result;
    if (options.split_sentences) {
      for (const std::string_view sentence : split_sentences(text))
        result.push_back(encode(sentence));
      return result;
    }
    for (std::size_t begin = 0; begin <= text.size();) {
      const std::size_t end = std::min(text.find('\n', begin), text.size());
      result.push_back(encode(text.substr(begin, end - begin)));
      begin = end + 1;
    }
    return result;
  };
  const detail::DeviceTokens r = encode(reference), p = encode(prediction);
  return {detail::rouge_n(r, p, 1), detail::rouge_n(r, p, 2),
          detail::rouge_score(double(detail::lcs_length(r, p)), r.size(), p.size()),
          detail::rouge_lsum(sentences(reference), sentences(prediction))};
}

/// Mean of each statistic over pairs; throws shape_error when there are none.
inline RougeScores mean(std::span<const RougeScores> pairs) {
  require(!pairs.empty(), "mean", "no scores to average, expected at least one pair");
  RougeScores result;
  for (const auto type : detail::rouge_types)
    for (const auto statistic : detail::rouge_statistics) {
      double sum = 0;
      for (const RougeScores& pair : pairs) sum += pair.*type.*statistic;
      result.*type.*statistic = sum / double(pairs.size());
    }
  return result;
}

/// Percentile bootstrap of the mean: `samples` times as many pairs are drawn with replacement, and the bounds are the
/// (1 -+ confidence)/2 quantiles of their means, interpolated linearly. The same seed gives the same bounds anywhere.
/// O(samples * pairs). Throws shape_error when there are no pairs, or samples < 1, or confidence is not in [0, 1].
inline RougeInterval bootstrap(std::span<const RougeScores> pairs, BootstrapOptions options = {}) {
  require(!pairs.empty(), "bootstrap", "no scores to resample, expected at least one pair");
  require(options.samples >= 1, "bootstrap", "samples is below 1");
  require(options.confidence >= 0 && options.confidence <= 1, "bootstrap",
          "confidence is not in [0, 1]");
  const std::size_t samples = std::size_t(options.samples);
  std::vector<RougeScores> means(samples), drawn(pairs.size());
  std::mt19937_64 bits(options.seed);
  for (RougeScores& sample : means) {
    for (RougeScores& pair : drawn) pair = pairs[bits() % pairs.size()];
    sample = mean(drawn);
  }
  RougeInterval interval{{}, mean(pairs), {}};
  std::vector<double> sorted(samples);
  const auto quantile = [&](double q) {
    const double position = q * double(samples - 1);
    const std::size_t i = std::size_t(position);
    const double next = sorted[std::min(i + 1, samples - 1)];
    return sorted[i] + (next - sorted[i]) * (position - double(i));
  };
  for (const auto type : detail::rouge_types)
    for (const auto statistic : detail::rouge_statistics) {
      for (std::size_t s = 0; s < samples; ++s) sorted[s] = means[s].*type.*statistic;
      std::ranges::sort(sorted);
      interval.low.*type.*statistic = quantile((1 - options.confidence) / 2);
      interval.high.*type.*statistic = quantile((1 + options.confidence) / 2);
    }
  return interval;
}

}  // namespace srformer
