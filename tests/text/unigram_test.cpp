// SPDX-License-Identifier: Apache-2.0
// The best segmentation under a unigram model, against all segmentations, and its ties.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <srformer/text/unigram.hpp>

#include "support/catch.hpp"

namespace {

using Ids = std::vector<std::int32_t>;

struct Piece {
  std::string text;
  double score;
};

Ids segment(const std::vector<Piece>& pieces, std::string_view word, std::int32_t unk_id = 0) {
  srformer::detail::UnigramPieces all;
  for (const Piece& piece : pieces) all.add(piece.text, piece.score);
  srformer::detail::UnigramPieces::Work work;
  Ids ids{-7};  // what is there already stays
  all.segment(word, unk_id, ids, work);
  REQUIRE(ids.front() == -7);
  ids.erase(ids.begin());
  return ids;
}

/// The best score over every segmentation into pieces.
double best_score(const std::vector<Piece>& pieces, std::string_view word) {
  if (word.empty()) return 0;
  double best = -std::numeric_limits<double>::infinity();
  for (const Piece& piece : pieces)
    if (word.starts_with(piece.text))
      best = std::max(best, piece.score + best_score(pieces, word.substr(piece.text.size())));
  return best;
}

}  // namespace

TEST_CASE("the segmentation is the best of all") {
  std::mt19937 random(4);
  std::vector<Piece> pieces{{"<unk>", 0}};
  for (const char* text : {"a", "b", "c", "ab", "ba", "abc", "ca", "bcab", "aaa", "cc", "abab"})
    pieces.push_back({text, -1 - double(random() % 1000) / 100});
  for (int repetition = 0; repetition < 200; ++repetition) {
    std::string word;
    for (std::size_t i = random() % 12 + 1; i > 0; --i) word += char('a' + random() % 3);
    std::string text;
    double score = 0;
    for (const std::int32_t id : segment(pieces, word)) {
      text += pieces[std::size_t(id)].text;
      score += pieces[std::size_t(id)].score;
    }
    INFO(word);
    CHECK(text == word);
    CHECK(score == Approx(best_score(pieces, word)));
  }
}

TEST_CASE("of equal segmentations the one whose last piece starts first is taken") {
  CHECK(segment({{"<unk>", 0}, {"x", -2}, {"xx", -3}}, "xxx") == Ids{1, 2});
  CHECK(segment({{"<unk>", 0}, {"x", -1}, {"xx", -2}}, "xx") == Ids{2});
  // In float the sums of both are the same; in double the second is above.
  const double tiny = 1e-12;
  CHECK(segment({{"<unk>", 0}, {"a", -9}, {"bc", -9}, {"ab", -9 + tiny}, {"c", -9}}, "abc") ==
        Ids{3, 4});
  CHECK(segment({{"<unk>", 0}, {"a", -9 + tiny}, {"bc", -9}, {"ab", -9}, {"c", -9}}, "abc") ==
        Ids{1, 2});
}

TEST_CASE("unknown characters are one token where they stand together") {
  const std::vector<Piece> pieces{{"a", -1}, {"<unk>", 0}, {"\u00e9", -2}, {"\u00e9t\u00e9", -9}};
  CHECK(segment(pieces, "", 1).empty());
  CHECK(segment(pieces, "a", 1) == Ids{0});
  CHECK(segment(pieces, "xyz", 1) == Ids{1});
  CHECK(segment(pieces, "ax\u6f22a\U0001f600", 1) == Ids{0, 1, 0, 1});
  CHECK(segment(pieces, "\u00e8", 1) == Ids{1});  // begins with the byte of U+00E9
  CHECK(segment(pieces, "\u00e9t\u00e9", 1) == Ids{3});
  CHECK(segment(pieces, "\u00e9t", 1) == Ids{2, 1});
}
