// SPDX-License-Identifier: Apache-2.0
// ROUGE and its stemmer against rouge_score and NLTK (make_rouge_values.py).
#include "support/catch.hpp"

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <srformer/text/rouge.hpp>

namespace {

using srformer::RougeScores;

const std::string rouge_data = SRF_TESTS_DIR "/text/data/";

std::vector<double> values(const RougeScores& s) {
  std::vector<double> all;
  for (const auto& t : {s.rouge1, s.rouge2, s.rougeL, s.rougeLsum})
    all.insert(all.end(), {t.precision, t.recall, t.fmeasure});
  return all;
}

std::vector<RougeScores> two_pairs() {
  RougeScores a, b;
  a.rouge1 = {0.5, 0.25, 0.125};
  a.rougeLsum = {1, 1, 1};
  b.rouge1 = {1, 0.75, 0.5};
  b.rougeL = {0.5, 0, 0};
  return {a, b};
}

}  // namespace

TEST_CASE("the stemmer gives NLTK's stems") {
  std::ifstream file(rouge_data + "porter_stems.txt");
  std::string word, stem;
  int count = 0;
  while (file >> word >> stem) {
    ++count;
    if (srformer::porter_stem(word) != stem) {
      INFO("word " << word);
      CHECK(srformer::porter_stem(word) == stem);
    }
  }
  CHECK(count > 5000);
}

TEST_CASE("the stemmer leaves words of one and two letters, and nothing, as they are") {
  CHECK(srformer::porter_stem("").empty());
  CHECK(srformer::porter_stem("s") == "s");
  CHECK(srformer::porter_stem("es") == "es");
  CHECK(srformer::porter_stem("sky") == "sky");
  CHECK(srformer::porter_stem("shy") == "shi");
}

TEST_CASE("scores equal those of rouge_score") {
  std::ifstream file(rouge_data + "rouge_pairs.jsonl");
  std::string line;
  int count = 0, with_stemmer = 0;
  while (std::getline(file, line)) {
    const auto pair = nlohmann::json::parse(line);
    const bool stemmer = pair["s"] == 1;
    const auto expected = pair["v"].get<std::vector<double>>();
    const auto got = values(srformer::rouge(pair["r"].get<std::string>(),
                                            pair["p"].get<std::string>(), {.stemmer = stemmer}));
    REQUIRE(expected.size() == got.size());
    for (std::size_t i = 0; i < got.size(); ++i)
      if (!(std::abs(got[i] - expected[i]) <= 1e-9)) {
        INFO("line " << count + 1 << " value " << i << ": " << line);
        CHECK(got[i] == expected[i]);
      }
    ++count;
    with_stemmer += stemmer;
  }
  CHECK(count > 1000);
  CHECK(with_stemmer > 400);
  CHECK(count - with_stemmer > 400);
}

TEST_CASE("words are made as rouge_score makes them") {
  using Words = std::vector<std::string>;
  CHECK(srformer::rouge_tokens("", true) == Words{});
  CHECK(srformer::rouge_tokens("The CATS, 3rd-rate cats!", false) ==
        Words{"the", "cats", "3rd", "rate", "cats"});
  CHECK(srformer::rouge_tokens("The CATS was", true) == Words{"the", "cat", "was"});
  CHECK(srformer::rouge_tokens("\u0130stanbul 5\u212ag caf\u00e9s", false) ==
        Words{"i", "stanbul", "5kg", "caf", "s"});
  CHECK(srformer::rouge_tokens("a\xff\xc4"
                               "b\xe2\x84",
                               false) == Words{"a", "b"});
}

TEST_CASE("a text of ten thousand words scores") {
  std::string reference, prediction;
  for (int i = 0; i < 10000; ++i) {
    reference += "w" + std::to_string(i % 911) + " ";
    if (i % 2 == 0) prediction += "w" + std::to_string(i % 911) + " ";
  }
  const RougeScores s = srformer::rouge(reference, prediction);
  CHECK(s.rougeL.precision == 1);
  CHECK(s.rougeL.recall == 0.5);
  CHECK(s.rougeLsum.fmeasure == s.rougeL.fmeasure);
}

TEST_CASE("sentences end where the rule says") {
  using Sentences = std::vector<std::string_view>;
  CHECK(srformer::split_sentences("") == Sentences{});
  CHECK(srformer::split_sentences(" \n ") == Sentences{});
  CHECK(srformer::split_sentences("One. Two! three? Four") ==
        Sentences{"One.", "Two! three?", "Four"});
  CHECK(
      srformer::split_sentences(
          "Mr. A. Smith paid 3.5 dollars. \"Why?\" he said.\nFor no. 7, e.g. Bob.") ==
      Sentences{"Mr. A. Smith paid 3.5 dollars.", "\"Why?\" he said.", "For no.", "7, e.g. Bob."});
  CHECK(srformer::split_sentences("He left.\u201d \u201cWhy...\u201d She") ==
        Sentences{"He left.\u201d", "\u201cWhy...\u201d", "She"});
}

TEST_CASE("splitting sentences changes ROUGE-Lsum alone") {
  const std::string reference = "The cat sat. The dog ran.",
                    prediction = "The dog ran. The cat sat.";
  const RougeScores whole = srformer::rouge(reference, prediction);
  const RougeScores split = srformer::rouge(reference, prediction, {.split_sentences = true});
  CHECK(whole.rougeLsum.fmeasure == 0.5);
  CHECK(split.rougeLsum.fmeasure == 1);
  CHECK(split.rougeL.fmeasure == whole.rougeL.fmeasure);
  CHECK(split.rouge2.fmeasure == whole.rouge2.fmeasure);
}

TEST_CASE("the mean is that of each statistic") {
  const RougeScores m = srformer::mean(two_pairs());
  CHECK(values(m) == std::vector<double>{0.75, 0.5, 0.3125, 0, 0, 0, 0.25, 0, 0, 0.5, 0.5, 0.5});
  CHECK_THROWS_AS(srformer::mean({}), srformer::shape_error);
}

TEST_CASE("the bootstrap interval repeats, holds the mean, and covers as it should") {
  const auto pairs = two_pairs();
  const auto a = srformer::bootstrap(pairs, {.samples = 200, .seed = 3});
  const auto b = srformer::bootstrap(pairs, {.samples = 200, .seed = 3});
  CHECK(values(a.low) == values(b.low));
  CHECK(values(a.high) == values(b.high));
  CHECK(values(a.mean) == values(srformer::mean(pairs)));
  CHECK(a.low.rouge1.precision == 0.5);  // both draws are the first pair with probability 1/4
  CHECK(a.high.rouge1.precision == 1);

  // The mean of n values of variance v lies within 1.96 sqrt(v / n), by the normal approximation.
  std::vector<RougeScores> many(400);
  for (std::size_t i = 0; i < many.size(); ++i) many[i].rouge1.fmeasure = double(i % 20) / 19;
  const auto c = srformer::bootstrap(many);
  const double half = 1.96 * std::sqrt((20.0 * 20 - 1) / 12 / 19 / 19 / 400);
  CHECK(c.low.rouge1.fmeasure == Approx(0.5 - half).margin(0.1 * half));
  CHECK(c.high.rouge1.fmeasure == Approx(0.5 + half).margin(0.1 * half));
  const auto narrow = srformer::bootstrap(many, {.confidence = 0});
  CHECK(narrow.low.rouge1.fmeasure == narrow.high.rouge1.fmeasure);

  CHECK_THROWS_AS(srformer::bootstrap({}), srformer::shape_error);
  CHECK_THROWS_AS(srformer::bootstrap(pairs, {.samples = 0}), srformer::shape_error);
  CHECK_THROWS_AS(srformer::bootstrap(pairs, {.confidence = 1.5}), srformer::shape_error);
}
