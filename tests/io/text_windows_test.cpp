// SPDX-License-Identifier: Apache-2.0
// Windows of texts, and the texts that files hold.
#include <fstream>
#include <srformer/io/gzip.hpp>
#include <srformer/io/pairs.hpp>
#include <srformer/io/text_windows.hpp>

#include "gzip_bytes.hpp"
#include "support/catch.hpp"
#include "temporary_folder.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

using Windows = std::vector<std::vector<std::int32_t>>;

Windows windows_of(const Windows& texts, const TextWindowOptions& options) {
  Windows windows;
  TextWindows cut(options, [&](std::span<const std::int32_t> ids) {
    windows.emplace_back(ids.begin(), ids.end());
  });
  for (const auto& text : texts) cut.add(text);
  cut.finish();
  CHECK(cut.windows() == std::ssize(windows));
  return windows;
}

std::vector<std::string> texts_of(const std::string& name, TextUnit unit,
                                  const ReadOptions& options = {.decompress = gunzip}) {
  std::vector<std::string> texts;
  for_each_text({&name, 1}, options, unit,
                [&](std::string_view text) { texts.emplace_back(text); });
  return texts;
}

}  // namespace

TEST_CASE("windows run on over the ends of texts, or do not", "[text_windows]") {
  const Windows texts{{1, 2, 3, 4, 5}, {6}, {7, 8, 9, 10, 11, 12, 13}};
  CHECK(windows_of(texts, {.max_ids = 4}) ==
        Windows{{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}, {13}});
  CHECK(windows_of(texts, {.max_ids = 4, .min_ids = 2}) ==
        Windows{{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}});
  CHECK(windows_of(texts, {.max_ids = 4, .concatenate = false}) ==
        Windows{{1, 2, 3, 4}, {5}, {6}, {7, 8, 9, 10}, {11, 12, 13}});
  CHECK(windows_of(texts, {.max_ids = 100}).size() == 1);
  CHECK(windows_of({}, {}).empty());
  for (const TextWindowOptions& wrong :
       {TextWindowOptions{.max_ids = 1, .min_ids = 2}, TextWindowOptions{.min_ids = 0},
        TextWindowOptions{.max_words = -1}})
    CHECK_THROWS_AS(windows_of(texts, wrong), shape_error);
}

TEST_CASE("a window ends where a word does", "[text_windows]") {
  // 10 and above begin a word.
  const WordBeginnings beginnings{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  const Windows texts{{10, 1, 2, 11, 12, 3}, {4, 13, 14, 5, 6, 7, 8, 9}};
  const auto cut = [&](index_t ids, index_t words) {
    return windows_of(texts, {.max_ids = ids, .max_words = words, .beginnings = beginnings});
  };
  CHECK(cut(100, 2) == Windows{{10, 1, 2, 11}, {12, 3, 4, 13}, {14, 5, 6, 7, 8, 9}});
  CHECK(cut(100, 1).size() == 5);
  CHECK(cut(4, 0) == Windows{{10, 1, 2, 11}, {12, 3, 4, 13}, {14, 5, 6, 7}, {8, 9}});
  CHECK(cut(5, 0) == Windows{{10, 1, 2, 11}, {12, 3, 4, 13}, {14, 5, 6, 7, 8}, {9}});
  CHECK(cut(5, 1) == Windows{{10, 1, 2}, {11}, {12, 3, 4}, {13}, {14, 5, 6, 7, 8}, {9}});
  // Whatever the limits are, the windows together are the texts.
  for (index_t ids = 1; ids < 9; ++ids)
    for (index_t words = 0; words < 4; ++words) {
      std::vector<std::int32_t> all;
      for (const auto& window : cut(ids, words)) {
        CHECK(std::ssize(window) <= ids);
        all.insert(all.end(), window.begin(), window.end());
      }
      CHECK(all == std::vector<std::int32_t>{10, 1, 2, 11, 12, 3, 4, 13, 14, 5, 6, 7, 8, 9});
    }
}

TEST_CASE("texts are lines, paragraphs or whole files", "[text_windows]") {
  const TemporaryFolder folder;
  const std::string bytes = "one\ntwo\n\n \r\nthree\r\nfour\n\n\n";
  const std::string path = (folder.path / "a.txt").string();
  std::ofstream(path, std::ios::binary) << bytes;
  using Texts = std::vector<std::string>;
  CHECK_THROWS_WITH(texts_of(path, TextUnit::line), ContainsSubstring("is empty"));
  CHECK(texts_of(path, TextUnit::line, {.drop_empty = true}) ==
        Texts{"one", "two", "three", "four"});
  CHECK(texts_of(path, TextUnit::paragraph) == Texts{"one\ntwo", "three\r\nfour"});
  CHECK(texts_of(path, TextUnit::document) == Texts{bytes});
  std::ofstream(folder.path / "b.txt.gz", std::ios::binary) << gzip_bytes("five\n\nsix");
  const std::string all = folder.path.string();
  CHECK(texts_of(all, TextUnit::document) == Texts{bytes, "five\n\nsix"});
  CHECK(texts_of(all, TextUnit::paragraph) == Texts{"one\ntwo", "three\r\nfour", "five", "six"});

  // A column of other files, without their summaries.
  const std::string rows = (folder.path / "c.jsonl").string();
  std::ofstream(rows) << "{\"text\": \"seven\"}\n{\"text\": \"eight\", \"summary\": \"x\"}\n";
  CHECK(texts_of(rows, TextUnit::line) == Texts{"seven", "eight"});
  CHECK_THROWS_WITH(texts_of(rows, TextUnit::document), ContainsSubstring("is JSON lines"));
  CHECK_THROWS_WITH(texts_of(path, TextUnit::paragraph, {.text_column = "text"}),
                    ContainsSubstring("has no column"));
  std::ofstream(folder.path / "d.txt") << "\n";
  const std::string blank = (folder.path / "d.txt").string();
  CHECK_THROWS_WITH(texts_of(blank, TextUnit::document), ContainsSubstring("is empty"));
  CHECK_THROWS_WITH(texts_of(blank, TextUnit::paragraph), ContainsSubstring("holds no text"));
  CHECK_THROWS_WITH(texts_of(blank, TextUnit::document, {.drop_empty = true}),
                    ContainsSubstring("holds no text"));
}
