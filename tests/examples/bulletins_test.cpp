// SPDX-License-Identifier: Apache-2.0
// The bulletins: reproducible, solvable from the text alone, shuffled, and split without overlap.
#include "../../examples/data/bulletins.hpp"

#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::examples;

namespace {

constexpr std::array splits{Split::train, Split::validation, Split::test};

std::vector<std::string> parts(const std::string& text, const std::string& separator) {
  std::vector<std::string> found;
  std::size_t begin = 0, end;
  while ((end = text.find(separator, begin)) != std::string::npos) {
    found.push_back(text.substr(begin, end - begin));
    begin = end + separator.size();
  }
  found.push_back(text.substr(begin));
  return found;
}

/// What a sentence of the text states about kind k, if it does.
std::optional<bulletins::Fact> fact_in(const std::string& sentence, std::size_t k) {
  const bulletins::Kind& kind = bulletins::kinds[k];
  for (std::size_t n = 0; n < kind.names.size(); ++n) {
    for (std::size_t s = 0; s < kind.statements.size(); ++s) {
      for (const auto pattern : kind.statements[s].sentences) {
        if (bulletins::fill_in(pattern, kind.names[n]) == sentence) return bulletins::Fact{n, s};
      }
    }
  }
  return std::nullopt;
}

/// The sentences of a bulletin with their full stops.
std::vector<std::string> sentences_of(const examples::Pair& pair) {
  std::vector<std::string> sentences = parts(pair.text, ". ");
  for (std::size_t i = 0; i + 1 < sentences.size(); ++i) sentences[i] += '.';
  return sentences;
}

}  // namespace

TEST_CASE("a bulletin is the same bytes on every platform") {
  const examples::Pair pair = make_bulletin(1, Split::train, 0, 11);
  CHECK(pair.text ==
        "The clock tower is dark. First prize went to the marrows. The Minerva came into port. "
        "A lost dog was found. The Rovers won at home. By a wide margin Vickers won the vote. "
        "The last night of Electra drew tears. The price of silver fell. Traffic flows along "
        "Fernside. The choir meets on Friday. Look for heat tonight.");
  CHECK(pair.summary ==
        "heat ahead; Minerva docks; Rovers win; silver down; Vickers elected; Fernside "
        "clear; Electra closes; marrows best");
}

TEST_CASE("a bulletin depends on seed, split and index, and not on how many are made") {
  const examples::Pair pair = make_bulletin(1, Split::train, 3, 11);
  CHECK(make_bulletins(1, Split::train, 5, 11)[3] == pair);
  CHECK(make_bulletins(1, Split::train, 4, 11)[3] == pair);
  CHECK_FALSE(make_bulletin(2, Split::train, 3, 11) == pair);
  CHECK_FALSE(make_bulletin(1, Split::test, 3, 11) == pair);
  CHECK_FALSE(make_bulletin(1, Split::train, 4, 11) == pair);
  CHECK(make_bulletins(1, Split::train, 0, 11).empty());
}

TEST_CASE("the headline follows from the text, and belongs to its split") {
  for (const Split split : splits) {
    for (std::size_t index = 0; index < 100; ++index) {
      const examples::Pair pair = make_bulletin(7, split, index, 13);
      const auto sentences = sentences_of(pair);
      REQUIRE(sentences.size() == 13);
      bulletins::Facts facts{};
      for (std::size_t k = 0; k < facts.size(); ++k) {
        std::size_t stated = 0;
        for (const std::string& sentence : sentences) {
          if (const auto fact = fact_in(sentence, k)) {
            facts[k] = *fact;
            ++stated;
          }
        }
        REQUIRE(stated == 1);
      }
      REQUIRE(bulletins::headline(facts) == pair.summary);
      REQUIRE(bulletins::split_of(facts) == split);
    }
  }
}

TEST_CASE("of sixteen combinations of facts one is for validation and one for test") {
  std::array<int, 3> count{};
  for (std::size_t i = 0; i < 16000; ++i) {
    bulletins::Draws draws(11, i);
    bulletins::Facts facts;
    for (bulletins::Fact& fact : facts) fact = {draws.below(16), draws.below(2)};
    ++count[static_cast<std::size_t>(bulletins::split_of(facts))];
  }
  CHECK(count[1] == Approx(1000).margin(150));
  CHECK(count[2] == Approx(1000).margin(150));
}

TEST_CASE("names and sentences tell their kind and statement") {
  std::set<std::string> names, patterns;
  std::size_t name_count = 0, pattern_count = 0;
  for (const bulletins::Kind& kind : bulletins::kinds) {
    for (const auto name : kind.names) {
      ++name_count;
      names.emplace(name);
      CHECK_FALSE(name.empty());
    }
    for (const bulletins::Statement& statement : kind.statements) {
      CHECK(parts(std::string(statement.headline), "*").size() == 2);
      for (const auto pattern : statement.sentences) {
        ++pattern_count;
        patterns.emplace(pattern);
        CHECK(parts(std::string(pattern), "*").size() == 2);
        CHECK(pattern.find('.') == pattern.size() - 1);
      }
    }
  }
  for (const auto filler : bulletins::fillers) CHECK(filler.find('.') == filler.size() - 1);
  CHECK(names.size() == name_count);
  CHECK(patterns.size() == pattern_count);
  CHECK(name_count == 128);
}

TEST_CASE("no character is so rare that a tokenizer drops it") {
  constexpr double dropped_by_sentencepiece = 1 - 0.9995;
  std::map<char, std::size_t> count;
  std::size_t characters = 0;
  for (const examples::Pair& pair : make_bulletins(1, Split::train, 2000, 11)) {
    for (const char c : pair.text + ' ' + pair.summary) {
      ++count[c];
      ++characters;
    }
  }
  REQUIRE(count.size() > 40);
  for (const auto& [c, n] : count) {
    INFO(c);
    CHECK(static_cast<double>(n) > dropped_by_sentencepiece * static_cast<double>(characters));
  }
}

TEST_CASE("every kind stands at every place of the text equally often") {
  constexpr std::size_t bulletin_count = 2200, places = 11;
  for (const std::size_t k : {0u, 4u, 7u}) {
    std::array<int, places> count{};
    for (std::size_t i = 0; i < bulletin_count; ++i) {
      const auto sentences = sentences_of(make_bulletin(3, Split::train, i, places));
      REQUIRE(sentences.size() == places);
      for (std::size_t place = 0; place < places; ++place) {
        if (fact_in(sentences[place], k)) ++count[place];
      }
    }
    for (const int n : count) CHECK(n == Approx(200).margin(70));  // five standard deviations
  }
}

TEST_CASE("bulletins take eight sentences or more") {
  CHECK(sentences_of(make_bulletin(1, Split::test, 0, 8)).size() == 8);
  CHECK(sentences_of(make_bulletin(1, Split::test, 0, 60)).size() == 60);
  CHECK_THROWS_MATCHES(
      make_bulletin(1, Split::test, 0, 7), shape_error,
      Catch::Matchers::MessageMatches(Catch::Matchers::ContainsSubstring("sentences is 7")));
}

TEST_CASE("draws are even over their range") {
  bulletins::Draws draws(5, 0);
  std::array<int, 7> count{};
  for (int i = 0; i < 7000; ++i) ++count.at(draws.below(7));
  for (const int n : count) CHECK(n == Approx(1000).margin(150));
  CHECK(draws.below(1) == 0);
}
