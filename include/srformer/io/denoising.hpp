// SPDX-License-Identifier: Apache-2.0
// Examples made from text alone, to pretrain on: what was taken out of a text is to be written, or the text as it was.
//
//   span_corruption   T5 (Raffel et al., JMLR 2020): spans become sentinels, the target is sentinels and spans
//   text_infilling    BART (Lewis et al., ACL 2020): spans become one mark each, the target is the text
//   Denoising         either of them with its options: denoised, denoised_lengths, longest_text, make_denoised_batch
//
// Every example is a function of the ids and of a stream of random numbers. What texts are cut into windows by is
// io/text_windows.hpp. docs/pretraining.md
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/core/random.hpp>
#include <srformer/io/dataset.hpp>

namespace srformer {

namespace detail {

/// The numbers of a stream, one after the other.
class Draws {
 public:
  explicit Draws(const RandomStream& random) : random_(random) {}

  /// An integer in [0, bound), bound >= 1.
  index_t below(index_t bound) {
    return static_cast<index_t>(random_below(random_, next_++, static_cast<std::uint64_t>(bound)));
  }
  double in_unit_interval() { return uniform(random_, next_++); }

  /// Fisher and Yates.
  template <class X>
  void shuffle(std::vector<X>& x) {
    for (std::size_t i = x.size(); i-- > 1;)
      std::swap(x[i], x[static_cast<std::size_t>(below(static_cast<index_t>(i) + 1))]);
  }

  /// `parts` positive integers that add up to `whole`, each way equally likely; 1 <= parts <= whole.
  std::vector<index_t> composition(index_t whole, index_t parts) {
    std::vector<char> starts(static_cast<std::size_t>(whole - 1));
    std::fill_n(starts.begin(), parts - 1, char{1});
    shuffle(starts);
    std::vector<index_t> sizes{1};
    for (const char start : starts) {
      if (start != 0) sizes.push_back(0);
      ++sizes.back();
    }
    return sizes;
  }

 private:
  RandomStream random_;
  std::uint64_t next_ = 0;
};

/// To the nearest integer, halves to the even one, as Python's round.
inline index_t rounded(double x) { return static_cast<index_t>(std::nearbyint(x)); }

}  // namespace detail

struct SpanCorruptionOptions {
  double density = 0.15;            ///< of the tokens that are taken out, in (0,1)
  double mean_span_length = 3;      ///< at least 1
  std::int32_t first_sentinel = 0;  ///< the id of <extra_id_0>; those of the others lie below it
  index_t sentinels = 100;
  std::int32_t eos_id = 1;
};

/// Ids of a text, and of the source and target made of it, the end tokens included.
struct CorruptedLengths {
  index_t text, source, target;
};

namespace detail {

inline void check_corruption(const SpanCorruptionOptions& o) {
  constexpr auto name = "span_corruption";
  require(o.density > 0 && o.density < 1, name, "density must be between 0 and 1");
  require(o.mean_span_length >= 1, name, "mean_span_length must be at least 1");
}

/// How many tokens of `length` are taken out, in how many spans; one at least of each, and one token stays.
inline std::pair<index_t, index_t> corrupted_counts(index_t length,
                                                    const SpanCorruptionOptions& o) {
  const index_t tokens = std::clamp(rounded(static_cast<double>(length) * o.density), index_t{1},
                                    std::max(length - 1, index_t{1}));
  const index_t spans =
      std::clamp(rounded(static_cast<double>(tokens) / o.mean_span_length), index_t{1},
                 std::max(std::min(tokens, length - tokens), index_t{1}));
  return {tokens, spans};
}

}  // namespace detail

/// How long texts are to be for sources of at most `source_length` ids, as T5's rule has it. Throws shape_error for
/// options out of range and where no text is short enough.
inline CorruptedLengths span_corruption_lengths(index_t source_length,
                                                const SpanCorruptionOptions& options) {
  detail::check_corruption(options);
  const auto of = [&](index_t text) {
    const auto [tokens, spans] = detail::corrupted_counts(text, options);
    return CorruptedLengths{text, text - tokens + spans + 1, tokens + spans + 1};
  };
  require(of(2).source <= source_length, "span_corruption_lengths",
          "sources of " + std::to_string(source_length) + " ids leave no room for a text");
  CorruptedLengths lengths = of(2);
  while (of(lengths.text + 1).source <= source_length) lengths = of(lengths.text + 1);
  return lengths;
}

/// Spans of a text of at least 2 ids are replaced by sentinels, each by its own, and follow their sentinels in the target;
/// both end with eos_id. The lengths of the spans and of the gaps between them are drawn uniformly among all that add up. Throws
/// shape_error for a shorter text, and where the spans are more than the sentinels.
inline Example span_corruption(std::span<const std::int32_t> text,
                               const SpanCorruptionOptions& options, const RandomStream& random) {
  constexpr auto name = "span_corruption";
  detail::check_corruption(options);
  const index_t length = std::ssize(text);
  require(length >= 2, name, "a text of " + std::to_string(length) + " ids leaves nothing to keep");
  const auto [tokens, spans] = detail::corrupted_counts(length, options);
  require(spans <= options.sentinels, name,
          std::to_string(spans) + " spans of a text of " + std::to_string(length) +
              " ids need as many sentinels, and there are " + std::to_string(options.sentinels) +
              "; take shorter texts or longer spans");
  detail::Draws draws(random);
  const auto taken = draws.composition(tokens, spans);
  const auto kept = draws.composition(length - tokens, spans);
  Example example;
  auto at = text.begin();
  const auto move = [&](std::vector<std::int32_t>& to, index_t count) {
    to.insert(to.end(), at, at + count);
    at += count;
  };
  for (std::size_t s = 0; s < taken.size(); ++s) {
    const auto sentinel = static_cast<std::int32_t>(options.first_sentinel - std::int32_t(s));
    move(example.source, kept[s]);
    example.source.push_back(sentinel);
    example.target.push_back(sentinel);
    move(example.target, taken[s]);
  }
  example.source.push_back(options.eos_id);
  example.target.push_back(options.eos_id);
  return example;
}

/// Which ids begin a word, by id; ids behind its end begin one. Empty: every id does.
using WordBeginnings = std::vector<char>;

namespace detail {

inline bool begins_word(const WordBeginnings& beginnings, std::int32_t id) {
  const auto at = static_cast<std::size_t>(id);
  return at >= beginnings.size() || beginnings[at] != 0;
}

/// Where the words of a text begin, and where it ends.
inline std::vector<index_t> word_bounds(std::span<const std::int32_t> text,
                                        const WordBeginnings& beginnings) {
  std::vector<index_t> bounds{0};
  for (index_t i = 1; i < std::ssize(text); ++i)
    if (begins_word(beginnings, text[static_cast<std::size_t>(i)])) bounds.push_back(i);
  bounds.push_back(std::ssize(text));
  return bounds;
}

}  // namespace detail

/// How long spans are that become one mark.
enum class SpanLength {
  poisson,  ///< Poisson's distribution; a span of no token is a mark put in
  uniform   ///< 1 to 2 mean - 1, each equally likely
};

/// Lengths and shares count words; without word_beginnings every token is one.
struct TextInfillingOptions {
  double density = 0.3;  ///< of the words that are taken out, in [0,1)
  SpanLength span_length = SpanLength::poisson;
  double mean_span_length = 3;  ///< above 0
  std::int32_t mark = 0;        ///< the id of <mask>, or another
  index_t target_length = 0;    ///< words of the target at most; 0: the whole text
  index_t max_target_ids = 0;  ///< ids of the target at most, its end token included; 0: any number
  WordBeginnings word_beginnings{};
  bool permute_sentences = false;
  std::vector<std::int32_t> sentence_ends{};  ///< ids that end a sentence
  std::vector<std::int32_t> prefix{};  ///< ids before the source and the target, as BART's <s>
  std::int32_t eos_id = 1;
};

namespace detail {

inline void check_infilling(const TextInfillingOptions& o) {
  constexpr auto name = "text_infilling";
  require(o.density >= 0 && o.density < 1, name, "density must be at least 0 and below 1");
  require(o.mean_span_length > 0, name, "mean_span_length must be above 0");
  require(
      o.span_length == SpanLength::poisson || o.mean_span_length == std::floor(o.mean_span_length),
      name, "uniform spans need a mean_span_length that is an integer");
  require(o.target_length >= 0, name, "target_length must be at least 1, or 0 for all");
  require(o.max_target_ids == 0 || o.max_target_ids > std::ssize(o.prefix) + 1, name,
          "max_target_ids leaves no room for a token of the text");
  require(!o.permute_sentences || !o.sentence_ends.empty(), name,
          "permute_sentences needs sentence_ends");
}

/// A number of Poisson's distribution, by the inverse of its sums.
inline index_t poisson(double mean, double uniform) {
  double probability = std::exp(-mean), sum = probability;
  index_t k = 0;
  while (uniform >= sum && probability > 0) {
    ++k;
    probability *= mean / static_cast<double>(k);
    sum += probability;
  }
  return k;
}

/// Lengths of spans that take `words` of `length` words: at most as many spans as leave a word between neighbours, and
/// one more than words are taken out, so that no source is longer than its text and one mark.
inline std::vector<index_t> drawn_spans(index_t length, index_t words,
                                        const TextInfillingOptions& o, Draws& draws) {
  const index_t longest = 2 * rounded(o.mean_span_length) - 1;
  std::vector<index_t> spans;
  for (index_t left = words; left > 0;) {
    const index_t drawn = o.span_length == SpanLength::uniform
                              ? 1 + draws.below(longest)
                              : poisson(o.mean_span_length, draws.in_unit_interval());
    if (std::ssize(spans) == std::min(length - words, words)) {  // the last that finds a place
      spans.push_back(left);
      break;
    }
    spans.push_back(std::min(drawn, left));
    left -= spans.back();
  }
  return spans;
}

/// The sentences of a text in another order, each way equally likely.
inline std::vector<std::int32_t> permuted_sentences(std::span<const std::int32_t> text,
                                                    std::span<const std::int32_t> ends,
                                                    Draws& draws) {
  std::vector<std::span<const std::int32_t>> sentences;
  std::size_t first = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i + 1 < text.size() && std::ranges::find(ends, text[i]) == ends.end()) continue;
    sentences.push_back(text.subspan(first, i + 1 - first));
    first = i + 1;
  }
  draws.shuffle(sentences);
  std::vector<std::int32_t> all;
  for (const auto& sentence : sentences) all.insert(all.end(), sentence.begin(), sentence.end());
  return all;
}

}  // namespace detail

/// Spans of words of a text of at least 1 id are replaced by one mark each, never two side by side; the target is the text
/// before anything was changed, or its beginning. ceil(density words) words are taken out. Throws shape_error for an empty
/// text and for options out of range.
inline Example text_infilling(std::span<const std::int32_t> text,
                              const TextInfillingOptions& options, const RandomStream& random) {
  detail::check_infilling(options);
  require(!text.empty(), "text_infilling", "the text is empty");
  detail::Draws draws(random);
  std::vector<std::int32_t> source(text.begin(), text.end());
  if (options.permute_sentences)
    source = detail::permuted_sentences(text, options.sentence_ends, draws);
  const std::vector<index_t> bounds = detail::word_bounds(source, options.word_beginnings);
  const index_t length = std::ssize(bounds) - 1;
  const auto words = static_cast<index_t>(std::ceil(static_cast<double>(length) * options.density));
  const auto spans = detail::drawn_spans(length, words, options, draws);
  // One of the gaps before, between and after the kept words for each span.
  std::vector<index_t> places(static_cast<std::size_t>(length - words + 1), -1);
  for (std::size_t s = 0; s < spans.size(); ++s) places[s] = spans[s];
  draws.shuffle(places);

  Example example{options.prefix, options.prefix};
  std::size_t word = 0;
  for (std::size_t i = 0; i < places.size(); ++i) {
    if (i > 0) {
      example.source.insert(example.source.end(), source.begin() + bounds[word],
                            source.begin() + bounds[word + 1]);
      ++word;
    }
    if (places[i] < 0) continue;
    example.source.push_back(options.mark);
    word += static_cast<std::size_t>(places[i]);
  }
  index_t written = std::ssize(text);
  if (options.target_length > 0) {
    const auto of_text = detail::word_bounds(text, options.word_beginnings);
    written =
        of_text[static_cast<std::size_t>(std::min(options.target_length, std::ssize(of_text) - 1))];
  }
  if (options.max_target_ids > 0)
    written = std::min(written, options.max_target_ids - 1 - std::ssize(options.prefix));
  example.target.insert(example.target.end(), text.begin(), text.begin() + written);
  example.source.push_back(options.eos_id);
  example.target.push_back(options.eos_id);
  return example;
}

// ---- either of them -------------------------------------------------------------------------------

using Denoising = std::variant<SpanCorruptionOptions, TextInfillingOptions>;

/// The example of a text. Throws as span_corruption and text_infilling.
inline Example denoised(std::span<const std::int32_t> text, const Denoising& denoising,
                        const RandomStream& random) {
  if (const auto* corruption = std::get_if<SpanCorruptionOptions>(&denoising))
    return span_corruption(text, *corruption, random);
  return text_infilling(text, std::get<TextInfillingOptions>(denoising), random);
}

/// How long the example of a text of `length` ids is: exactly so with span corruption, at most so with text infilling.
inline ExampleLengths denoised_lengths(index_t length, const Denoising& denoising) {
  index_t source, target;
  if (const auto* corruption = std::get_if<SpanCorruptionOptions>(&denoising)) {
    const auto [tokens, spans] = detail::corrupted_counts(length, *corruption);
    source = length - tokens + spans + 1, target = tokens + spans + 1;
  } else {
    const auto& o = std::get<TextInfillingOptions>(denoising);
    const index_t marks = o.density > 0 && o.span_length == SpanLength::poisson ? 1 : 0;
    const bool tokens = o.word_beginnings.empty() && o.target_length > 0;
    source = std::ssize(o.prefix) + length + marks + 1;
    target = std::ssize(o.prefix) + (tokens ? std::min(o.target_length, length) : length) + 1;
    if (o.max_target_ids > 0) target = std::min(target, o.max_target_ids);
  }
  return {static_cast<std::int32_t>(source), static_cast<std::int32_t>(target)};
}

/// The same of all texts, each the source of an example without a target. Throws shape_error for one with a target.
inline std::vector<ExampleLengths> denoised_lengths(const Examples& texts,
                                                    const Denoising& denoising) {
  std::vector<ExampleLengths> lengths = example_lengths(texts);
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    require(lengths[i].target == 0, "denoised_lengths",
            "example " + std::to_string(i) +
                " has a target, which denoising makes of a text alone; leave it empty");
    lengths[i] = denoised_lengths(lengths[i].source, denoising);
  }
  return lengths;
}

/// The most ids of a text for sources of at most `source_length` ids and targets of at most `target_length`. Throws
/// shape_error for options out of range and where no text is short enough.
inline index_t longest_text(const Denoising& denoising, index_t source_length,
                            index_t target_length) {
  const auto* corruption = std::get_if<SpanCorruptionOptions>(&denoising);
  corruption != nullptr ? detail::check_corruption(*corruption)
                        : detail::check_infilling(std::get<TextInfillingOptions>(denoising));
  const auto fits = [&](index_t length) {
    const ExampleLengths its = denoised_lengths(length, denoising);
    return its.source <= source_length && its.target <= target_length;
  };
  index_t length = corruption != nullptr ? 2 : 1;
  require(fits(length), "longest_text",
          "sources of " + std::to_string(source_length) + " ids and targets of " +
              std::to_string(target_length) + " leave no room for a text");
  while (fits(length + 1)) ++length;
  return length;
}

/// The texts at `indices` as examples, padded to the longest among them. The example of text i draws from
/// random.substream(i). Throws as make_batch and denoised.
inline Batch make_denoised_batch(const Examples& texts, std::span<const index_t> indices,
                                 const Denoising& denoising, const RandomStream& random,
                                 std::int32_t pad_id) {
  std::vector<Example> made;
  for (const index_t index : indices) {
    require(index >= 0 && index < texts.size(), "make_denoised_batch",
            "index " + std::to_string(index) + " of " + std::to_string(texts.size()) + " texts");
    made.push_back(denoised(texts[index].source, denoising,
                            random.substream(static_cast<std::uint64_t>(index))));
  }
  std::vector<index_t> all(made.size());
  std::iota(all.begin(), all.end(), index_t{0});
  return make_batch(made, all, pad_id);
}

/// The names of the two, as programs and checkpoints write them.
inline std::string_view denoising_name(const Denoising& denoising) {
  return std::holds_alternative<SpanCorruptionOptions>(denoising) ? "span_corruption"
                                                                  : "text_infilling";
}

/// Calls f(name, value) for all that an example depends on beside its text and the random numbers, lists as their sums.
template <class F>
void visit_options(const Denoising& denoising, F f) {
  const auto sum = [](const auto& values) {
    ExampleFingerprint all;
    const std::vector<std::int32_t> ids(values.begin(), values.end());
    all.add({ids, {}});
    return all.value();
  };
  if (const auto* o = std::get_if<SpanCorruptionOptions>(&denoising)) {
    f("density", o->density), f("mean_span_length", o->mean_span_length);
    f("first_sentinel", o->first_sentinel), f("sentinels", o->sentinels), f("eos_id", o->eos_id);
    return;
  }
  const auto& o = std::get<TextInfillingOptions>(denoising);
  f("density", o.density), f("mean_span_length", o.mean_span_length);
  f("uniform_spans", o.span_length == SpanLength::uniform), f("mark", o.mark);
  f("target_length", o.target_length), f("max_target_ids", o.max_target_ids);
  f("word_beginnings", sum(o.word_beginnings)), f("permute_sentences", o.permute_sentences);
  f("sentence_ends", sum(o.sentence_ends)), f("prefix", sum(o.prefix)), f("eos_id", o.eos_id);
}

}  // namespace srformer
