// SPDX-License-Identifier: Apache-2.0
// The first-words baseline: counting words, the mean length, and cutting a text to it.
#include "../../examples/data/first_words.hpp"

#include <string>
#include <vector>

#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::examples;

TEST_CASE("words are what white space separates") {
  CHECK(count_words("") == 0);
  CHECK(count_words(" \n\t ") == 0);
  CHECK(count_words("one") == 1);
  CHECK(count_words("  one,\ttwo\n three ") == 3);
}

TEST_CASE("the mean length is rounded to the nearest word") {
  const std::vector<std::string> seven_in_three{"a b", "a b", "a b c"};
  const std::vector<std::string> eight_in_three{"a b", "a b c", "a b c"};
  const std::vector<std::string> half{"a", "a b"};
  CHECK(mean_words(seven_in_three) == 2);
  CHECK(mean_words(eight_in_three) == 3);
  CHECK(mean_words(half) == 2);
  CHECK_THROWS_AS(mean_words(std::vector<std::string>{}), shape_error);
}

TEST_CASE("the first words of a text") {
  CHECK(first_words("  Fog ahead;\nthe ship  docks. ", 3) == "Fog ahead; the");
  CHECK(first_words("Fog ahead", 2) == "Fog ahead");
  CHECK(first_words("Fog ahead ", 5) == "Fog ahead");
  CHECK(first_words("Fog ahead", 0).empty());
  CHECK(first_words("", 4).empty());
}
