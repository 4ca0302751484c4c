// SPDX-License-Identifier: Apache-2.0
// Files of pairs: one JSON object a line, text first, and never half a file.
#include "../../examples/data/pairs.hpp"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::examples;

TEST_CASE("a pair is one line of JSON with the text first") {
  CHECK(json_line({"say \"no\"\nand \\ go", "no"}) ==
        R"({"text":"say \"no\"\nand \\ go","summary":"no"})");
  CHECK(json_line({"caf\u00e9", ""}) == "{\"text\":\"caf\u00e9\",\"summary\":\"\"}");
  CHECK(json_line({"bad \xff byte", "x"}) == "{\"text\":\"bad \ufffd byte\",\"summary\":\"x\"}");
}

TEST_CASE("pairs are written whole, over what was there") {
  const auto folder = std::filesystem::temp_directory_path() / "srformer_pairs_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  const auto path = folder / "pairs.jsonl";
  write_pairs(path, {{"old", "old"}, {"old", "old"}});
  write_pairs(path, {{"a", "b"}, {"c", "d"}});
  std::ifstream file(path);
  const std::string content{std::istreambuf_iterator<char>(file), {}};
  CHECK(content ==
        "{\"text\":\"a\",\"summary\":\"b\"}\n"
        "{\"text\":\"c\",\"summary\":\"d\"}\n");
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 1);
  CHECK_THROWS_MATCHES(
      write_pairs(folder / "absent" / "pairs.jsonl", {{"a", "b"}}), io_error,
      Catch::Matchers::MessageMatches(Catch::Matchers::ContainsSubstring("absent")));
  std::filesystem::remove_all(folder);
}

TEST_CASE("a text is cut into its words") {
  CHECK(words_of("").empty());
  CHECK(words_of(" \t\n ").empty());
  CHECK(words_of("one") == std::vector<std::string_view>{"one"});
  CHECK(words_of(" caf\u00e9\ttwo\n- three ") ==
        std::vector<std::string_view>{"caf\u00e9", "two", "-", "three"});
}

TEST_CASE("a text that holds a held-out one is known, wherever it stands") {
  HeldOut held;
  held.add("a game of cards\nfor two");
  held.add("a game of cards again");
  held.add("three words only");
  CHECK(held.in("a game of cards for two"));
  CHECK(held.in("This is a game  of\tcards for two players."));
  CHECK(held.in("a game of a game of cards again"));
  CHECK_FALSE(held.in("a game of cards for three"));
  CHECK_FALSE(held.in("a game of cards for"));       // ends too soon
  CHECK_FALSE(held.in("a game of cards for two."));  // another word
  CHECK_FALSE(held.in("with three words only here"));
  CHECK_FALSE(held.in(""));
  CHECK_FALSE(HeldOut().in("a game of cards for two"));
}

TEST_CASE(
    "texts to pretrain on are training texts, a line each, and hold nothing of the other splits") {
  const std::vector<examples::Pair> train{{"one  text\nof several\nlines", "x"},
                                          {"before the validation text is here after", "x"},
                                          {"before a test summary of words after", "x"},
                                          {"", "x"}},
      validation{{"the validation text is here", "never to be seen"}},
      test{{"the test text is here", "a test summary of words"}};
  CHECK(pretraining_texts(train, {&validation, &test}) ==
        std::vector<std::string>{"one text of several lines"});
  CHECK(pretraining_texts(train, {}).size() == 3);
}
