// SPDX-License-Identifier: Apache-2.0
// Span corruption and text infilling against T5's and BART's own definitions, which make_denoising_values.py states, and
// their statistics.
#include <map>
#include <srformer/io/denoising.hpp>
#include <srformer/io/hf_checkpoint.hpp>

#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;
using Ids = std::vector<std::int32_t>;

namespace {

Ids numbered_text(index_t length) {
  Ids text(static_cast<std::size_t>(length));
  std::iota(text.begin(), text.end(), 10);
  return text;
}

SpanCorruptionOptions corruption_of(const nlohmann::json& o) {
  return {.density = o["density"],
          .mean_span_length = o["mean_span_length"],
          .first_sentinel = o["first_sentinel"]};
}

WordBeginnings word_beginnings_of(const nlohmann::json& list) {
  WordBeginnings beginnings;
  for (const bool begins : list) beginnings.push_back(begins);
  return beginnings;
}

TextInfillingOptions infilling_of(const nlohmann::json& o) {
  return {.density = o["density"],
          .span_length = o["uniform"] ? SpanLength::uniform : SpanLength::poisson,
          .mean_span_length = o["mean_span_length"],
          .mark = o["mark"],
          .target_length = o["target_length"],
          .max_target_ids = o["max_target_ids"],
          .word_beginnings = word_beginnings_of(o["word_beginnings"]),
          .permute_sentences = o["permute_sentences"],
          .sentence_ends = o["sentence_ends"],
          .prefix = o["prefix"]};
}

Denoising denoising_of(const nlohmann::json& o) {
  if (o.contains("first_sentinel")) return corruption_of(o);
  return infilling_of(o);
}

/// The text that a corrupted source and its target came from.
Ids joined(Example example, std::int32_t first_sentinel) {
  REQUIRE((example.source.back() == 1 && example.target.back() == 1));
  example.source.pop_back(), example.target.pop_back();
  std::map<std::int32_t, Ids> spans;
  for (std::int32_t sentinel = 0; const std::int32_t id : example.target)
    if (id > first_sentinel - 100)
      sentinel = id;
    else
      spans[sentinel].push_back(id);
  Ids text;
  for (const std::int32_t id : example.source)
    if (id > first_sentinel - 100)
      text.insert(text.end(), spans[id].begin(), spans[id].end());
    else
      text.push_back(id);
  return text;
}

}  // namespace

TEST_CASE("denoising is as T5's and BART's code has it", "[denoising]") {
  const nlohmann::json all = read_json_file(SRF_TESTS_DIR "/io/data/denoising.json");
  REQUIRE(all["cases"].size() == 120);
  for (const nlohmann::json& c : all["cases"]) {
    INFO("case " << c["seed"] << " " << c["options"].dump());
    const Ids text = c["text"];
    const RandomStream random{c["seed"], c["stream"]};
    const nlohmann::json& o = c["options"];
    const Example example = denoised(text, denoising_of(o), random);
    REQUIRE(example.source == Ids(c["source"]));
    REQUIRE(example.target == Ids(c["target"]));
  }
  REQUIRE(all["lengths"].size() == 20);
  for (const nlohmann::json& c : all["lengths"]) {
    const CorruptedLengths lengths =
        span_corruption_lengths(c[0], {.density = c[1], .mean_span_length = c[2]});
    INFO(c.dump());
    REQUIRE(lengths.text == c[3]);
    REQUIRE(lengths.source == c[4]);
    REQUIRE(lengths.target == c[5]);
  }
}

TEST_CASE("a corrupted text and its target hold every token once", "[denoising]") {
  for (index_t length = 2; length < 200; ++length) {
    const SpanCorruptionOptions options{.density = 0.01 * static_cast<double>(1 + length * 7 % 60),
                                        .mean_span_length = 2.5,
                                        .first_sentinel = 5000};
    const Ids text = numbered_text(length);
    const Example example = span_corruption(text, options, {1, static_cast<std::uint64_t>(length)});
    REQUIRE(joined(example, 5000) == text);
    // As long as the rule for lengths says.
    const auto [tokens, spans] = detail::corrupted_counts(length, options);
    REQUIRE(std::ssize(example.source) == length - tokens + spans + 1);
    REQUIRE(std::ssize(example.target) == tokens + spans + 1);
  }
}

TEST_CASE("every token is taken out as often as the density says", "[denoising]") {
  const Ids text = numbered_text(100);
  const auto taken_out = [&](auto make) {
    std::vector<index_t> times(100);
    for (std::uint64_t n = 0; n < 4000; ++n) {
      const Ids source = make(RandomStream{n, 5}).source;
      for (std::size_t i = 0; i < 100; ++i)
        times[i] += std::ranges::find(source, text[i]) == source.end();
    }
    return times;
  };
  // 4000 draws of 0.15 and 0.3: 600 and 1200 expected, deviations 23 and 29.
  const auto corrupted = taken_out([&](const RandomStream& random) {
    return span_corruption(text, {.first_sentinel = 5000}, random);
  });
  // The first spans and the last ones have fewer ways to lie: T5 always keeps the first token and takes out the last.
  CHECK(corrupted.front() == 0);
  CHECK(corrupted.back() == 4000);
  for (std::size_t i = 20; i < 80; ++i) CHECK(std::abs(corrupted[i] - 600) < 140);
  const auto infilled = taken_out([&](const RandomStream& random) {
    return text_infilling(text, {.density = 0.3, .mark = 4}, random);
  });
  CHECK(std::accumulate(infilled.begin(), infilled.end(), index_t{0}) == 4000 * 30);
  for (std::size_t i = 10; i < 90; ++i) CHECK(std::abs(infilled[i] - 1200) < 145);
}

TEST_CASE("spans are as long as they are drawn", "[denoising]") {
  const Ids text = numbered_text(1000);
  std::map<index_t, index_t> uniform_spans, poisson_spans;
  const auto count = [&](const Ids& source, std::map<index_t, index_t>& spans) {
    std::int32_t before = 9;
    for (std::size_t i = 0; i < source.size(); ++i) {
      if (source[i] != 4) {
        before = source[i];
        continue;
      }
      const std::int32_t after = source[i + 1] == 1 ? 1010 : source[i + 1];
      REQUIRE(after != 4);  // never two marks side by side
      ++spans[after - before - 1];
    }
  };
  for (std::uint64_t n = 0; n < 200; ++n) {
    count(
        text_infilling(
            text,
            {.density = 0.08, .span_length = SpanLength::uniform, .mean_span_length = 2, .mark = 4},
            {n, 1})
            .source,
        uniform_spans);
    count(text_infilling(text, {.density = 0.3, .mark = 4}, {n, 2}).source, poisson_spans);
  }
  // The last span of a text is what is left; one in forty here.
  REQUIRE(uniform_spans.size() == 3);
  const double all = 200 * 80 / 2.0;
  for (const auto& [length, times] : uniform_spans)
    CHECK(std::abs(static_cast<double>(times) - all / 3) < 0.1 * all / 3);
  const double many = 200 * 300 / 3.0;
  double probability = std::exp(-3.0);
  for (index_t length = 0; length < 7; ++length) {
    CHECK(std::abs(static_cast<double>(poisson_spans[length]) - many * probability) <
          0.1 * many * probability + 100);
    probability *= 3.0 / static_cast<double>(length + 1);
  }
}

TEST_CASE("sentences change places, and the target does not", "[denoising]") {
  const Ids text{10, 11, 7, 12, 7, 13, 14};
  const TextInfillingOptions options{
      .density = 0, .permute_sentences = true, .sentence_ends = {7}, .prefix = {0}, .eos_id = 2};
  std::map<Ids, int> orders;
  for (std::uint64_t n = 0; n < 600; ++n) {
    const Example example = text_infilling(text, options, {n, 1});
    REQUIRE(example.target == Ids{0, 10, 11, 7, 12, 7, 13, 14, 2});
    ++orders[example.source];
  }
  CHECK(orders.size() == 6);
  for (const auto& [order, times] : orders) CHECK(std::abs(times - 100) < 50);
  CHECK(orders.contains(Ids{0, 13, 14, 12, 7, 10, 11, 7, 2}));
}

TEST_CASE("texts and options that cannot be denoised are refused", "[denoising]") {
  const Ids one{5}, many = numbered_text(1000);
  const RandomStream random{1, 1};
  CHECK_THROWS_WITH(span_corruption(one, {}, random), ContainsSubstring("nothing to keep"));
  CHECK_THROWS_WITH(
      span_corruption(many, {.density = 0.5, .mean_span_length = 1}, random),
      ContainsSubstring(
          "500 spans of a text of 1000 ids need as many sentinels, and there are 100"));
  CHECK_THROWS_AS(span_corruption(many, {.density = 0}, random), shape_error);
  CHECK_THROWS_AS(span_corruption(many, {.density = 1}, random), shape_error);
  CHECK_THROWS_AS(span_corruption(many, {.mean_span_length = 0.5}, random), shape_error);
  CHECK_THROWS_WITH(span_corruption_lengths(2, {}), ContainsSubstring("leave no room"));
  CHECK_THROWS_AS(text_infilling({}, {}, random), shape_error);
  CHECK_THROWS_AS(text_infilling(many, {.density = 1}, random), shape_error);
  CHECK_THROWS_AS(text_infilling(many, {.mean_span_length = 0}, random), shape_error);
  CHECK_THROWS_WITH(
      text_infilling(many, {.span_length = SpanLength::uniform, .mean_span_length = 2.5}, random),
      ContainsSubstring("an integer"));
  CHECK_THROWS_WITH(text_infilling(many, {.permute_sentences = true}, random),
                    ContainsSubstring("needs sentence_ends"));
  // One token, all of it taken out or none.
  CHECK(text_infilling(one, {.density = 0.5, .mark = 4}, random).source == Ids{4, 1});
  CHECK(text_infilling(one, {.density = 0, .mark = 4}, random).source == Ids{5, 1});
}
