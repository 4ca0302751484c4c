// SPDX-License-Identifier: Apache-2.0
// Examples made from text alone, to pretrain on: what was taken out of a text is to be written, or the text as it was.
//
//   span_corruption   T5 (Raffel et al., JMLR 2020): spans become sentinels, the target is sentinels and spans
//   text_infilling    BART (Lewis et al., ACL 2020): spans become one mark each, the target is the text
//
// Every example is a function of the ids and of a stream of random numbers. docs/pretraining.md
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <utility>
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

/// How long spans are that become one mark.
enum class SpanLength {
  poisson,  ///< Poisson's distribution; a span of no token is a mark put in
  uniform   ///< 1 to 2 mean - 1, each equally likely
};

struct TextInfillingOptions {
  double density = 0.3;  ///< of the tokens that are taken out, in [0,1)
  SpanLength span_length = SpanLength::poisson;
  double mean_span_length = 3;  ///< above 0
  std::int32_t mark = 0;        ///< the id of <mask>, or another
  index_t target_length = 0;  ///< ids of the target at most, the end token aside; 0: the whole text
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

/// Lengths of spans that take `tokens` of `length` tokens, at most as many as leave a token between neighbours.
inline std::vector<index_t> drawn_spans(index_t length, index_t tokens,
                                        const TextInfillingOptions& o, Draws& draws) {
  const index_t longest = 2 * rounded(o.mean_span_length) - 1;
  std::vector<index_t> spans;
  for (index_t left = tokens; left > 0;) {
    const index_t drawn = o.span_length == SpanLength::uniform
                              ? 1 + draws.below(longest)
                              : poisson(o.mean_span_length, draws.in_unit_interval());
    if (std::ssize(spans) == length - tokens) {  // the last that finds a place
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

/// Spans of a text of at least 1 id are replaced by one mark each, never two side by side; the target is the text before
/// anything was changed, or its beginning. ceil(density length) tokens are taken out. Throws shape_error for an empty
/// text and for options out of range.
inline Example text_infilling(std::span<const std::int32_t> text,
                              const TextInfillingOptions& options, const RandomStream& random) {
  detail::check_infilling(options);
  require(!text.empty(), "text_infilling", "the text is empty");
  detail::Draws draws(random);
  const index_t length = std::ssize(text);
  std::vector<std::int32_t> source(text.begin(), text.end());
  if (options.permute_sentences)
    source = detail::permuted_sentences(text, options.sentence_ends, draws);
  const auto tokens =
      static_cast<index_t>(std::ceil(static_cast<double>(length) * options.density));
  const auto spans = detail::drawn_spans(length, tokens, options, draws);
  // One of the gaps before, between and after the kept tokens for each span.
  std::vector<index_t> places(static_cast<std::size_t>(length - tokens + 1), -1);
  for (std::size_t s = 0; s < spans.size(); ++s) places[s] = spans[s];
  draws.shuffle(places);

  Example example{options.prefix, options.prefix};
  auto at = source.begin();
  for (std::size_t i = 0; i < places.size(); ++i) {
    if (i > 0) example.source.push_back(*at++);
    if (places[i] < 0) continue;
    example.source.push_back(options.mark);
    at += places[i];
  }
  const index_t written =
      options.target_length > 0 ? std::min(options.target_length, length) : length;
  example.target.insert(example.target.end(), text.begin(), text.begin() + written);
  example.source.push_back(options.eos_id);
  example.target.push_back(options.eos_id);
  return example;
}

}  // namespace srformer
