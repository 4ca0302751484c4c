// SPDX-License-Identifier: Apache-2.0
// The ids of a data set in a file: what is written is what is read, and what is damaged or other is made again.
#include <fstream>
#include <srformer/core/random.hpp>
#include <srformer/io/token_cache.hpp>

#include "support/catch.hpp"
#include "temporary_folder.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

std::vector<Example> some_examples(index_t count, index_t longest) {
  const RandomStream random{17, 3};
  std::uint64_t uses = 0;
  const auto below = [&](index_t bound) {
    return static_cast<index_t>(random_below(random, ++uses, static_cast<std::uint64_t>(bound)));
  };
  std::vector<Example> examples(static_cast<std::size_t>(count));
  for (Example& example : examples)
    for (auto* ids : {&example.source, &example.target})
      for (index_t n = 1 + below(longest); n > 0; --n)
        ids->push_back(static_cast<std::int32_t>(2 + below(32000)));
  return examples;
}

ExampleView view(const Example& example) { return {example.source, example.target}; }

auto fill_with(const std::vector<Example>& examples, int& fills) {
  return [&](TokenCacheWriter& writer) {
    ++fills;
    for (const Example& example : examples) writer.add(view(example));
    return std::vector<std::string>{"a notice"};
  };
}

void require_same(const Examples& got, const std::vector<Example>& expected) {
  REQUIRE(got.size() == std::ssize(expected));
  for (index_t i = 0; i < got.size(); ++i) {
    const Example& example = expected[static_cast<std::size_t>(i)];
    REQUIRE(std::ranges::equal(got[i].source, example.source));
    REQUIRE(std::ranges::equal(got[i].target, example.target));
  }
  CHECK(got.fingerprint() == Examples(expected).fingerprint());
}

/// Files in a folder, those set aside included.
std::size_t files_in(const std::filesystem::path& folder) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

}  // namespace

TEST_CASE("a cache holds the examples that were written", "[token_cache]") {
  for (const auto& [count, longest] : {std::pair<index_t, index_t>{1, 1},
                                       {3, 5},
                                       {7, 1},
                                       {200, 40},
                                       {40, 30000}}) {  // more than the writer holds back
    INFO(count << " examples of up to " << longest);
    const TemporaryFolder folder;
    const auto examples = some_examples(count, longest);
    int fills = 0;
    const OpenedCache made = open_token_cache(folder.path / "a" / "b", {{"files", 1}}, false,
                                              fill_with(examples, fills));
    CHECK_THAT(made.notice, ContainsSubstring(".safetensors: made"));
    require_same(made.cache, examples);
    const OpenedCache read =
        open_token_cache(folder.path / "a" / "b", {{"files", 1}}, false, fill_with({}, fills));
    CHECK_THAT(read.notice, ContainsSubstring(".safetensors: read"));
    CHECK(fills == 1);
    require_same(read.cache, examples);
    CHECK(read.cache.notices() == std::vector<std::string>{"a notice"});
    CHECK(read.cache.smallest_id() >= 2);
    CHECK(read.cache.largest_id() < 32002);
    const std::vector<index_t> last{count - 1, 0};
    CHECK(make_batch(read.cache, last, 0).source_ids == make_batch(examples, last, 0).source_ids);
    CHECK(files_in(folder.path / "a" / "b") == 1);
  }
}

TEST_CASE("a cache of another key is another file", "[token_cache]") {
  const TemporaryFolder folder;
  int fills = 0;
  const auto two = some_examples(2, 4), five = some_examples(5, 4);
  const auto open = [&](int key, const std::vector<Example>& examples, bool renew = false) {
    return open_token_cache(folder.path, {{"key", key}}, renew, fill_with(examples, fills));
  };
  CHECK(open(1, two).cache.size() == 2);
  CHECK(open(2, five).cache.size() == 5);
  CHECK(open(1, five).cache.size() == 2);
  CHECK(fills == 2);
  CHECK(open(1, five, true).cache.size() == 5);
  CHECK(fills == 3);
  CHECK(files_in(folder.path) == 2);
}

TEST_CASE("a cache cut short, or changed, is made again", "[token_cache]") {
  const TemporaryFolder folder;
  const auto examples = some_examples(50, 40);
  int fills = 0;
  const auto open = [&] {
    return open_token_cache(folder.path, {{"key", 1}}, false, fill_with(examples, fills));
  };
  open();
  const auto path = std::filesystem::directory_iterator(folder.path)->path();
  const MappedFile mapped(path);
  const std::string whole(mapped.text());
  const auto write = [&](const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  };
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{7}, std::size_t{100}, std::size_t{65535}, whole.size() - 401,
        whole.size() - 4, whole.size() - 1}) {
    INFO("cut to " << size << " bytes");
    write(whole.substr(0, size));
    CHECK_THROWS_AS(TokenCache(path), io_error);
    const int before = fills;
    const OpenedCache again = open();
    CHECK_THAT(again.notice, ContainsSubstring("made again, as it was damaged or incomplete"));
    CHECK(fills == before + 1);
    require_same(again.cache, examples);
  }
  const auto refused = [&](const std::string& from, const std::string& to) {
    std::string bytes = whole;
    const auto at = bytes.find(from);
    REQUIRE(at != std::string::npos);
    bytes.replace(at, from.size(), to);
    write(bytes);
    INFO(from << " to " << to);
    CHECK_THROWS_AS(TokenCache(path), io_error);
  };
  refused("\"lengths\"", "\"Lengths\"");
  refused("I32", "F32");
  refused("__metadata__", "__netadata__");
  refused("fingerprint", "fingerPrint");
  std::string longer = whole;  // one target is said to have one id more
  longer[longer.size() - 4] = static_cast<char>(longer[longer.size() - 4] + 1);
  write(longer);
  CHECK_THROWS_WITH(TokenCache(path), ContainsSubstring("do not add up"));
  longer[longer.size() - 1] = '\x80';
  write(longer);
  CHECK_THROWS_WITH(TokenCache(path), ContainsSubstring("below zero"));
}

TEST_CASE("a cache that was not finished leaves nothing", "[token_cache]") {
  const TemporaryFolder folder;
  const auto examples = some_examples(3, 4);
  CHECK_THROWS_WITH(open_token_cache(folder.path, {}, false,
                                     [&](TokenCacheWriter& writer) -> std::vector<std::string> {
                                       writer.add(view(examples[0]));
                                       throw io_error("a row");
                                     }),
                    "a row");
  CHECK(files_in(folder.path) == 0);
  TokenCacheWriter writer(folder.path / "a", "key");
  CHECK_THROWS_WITH(writer.add({}), ContainsSubstring("example 0 has no source"));
  CHECK_THROWS_AS(TokenCacheWriter(folder.path / "absent" / "a", "key"), io_error);
}

TEST_CASE("many long notices leave the cache whole", "[token_cache]") {
  const TemporaryFolder folder;
  const auto examples = some_examples(3, 4);
  const OpenedCache made =
      open_token_cache(folder.path, {{"key", std::string(9000, '"')}}, false, [&](auto& writer) {
        for (const Example& example : examples) writer.add(view(example));
        return std::vector<std::string>(50, std::string(5000, 'n'));
      });
  require_same(made.cache, examples);
  CHECK(made.cache.notices().size() < 50);
}

TEST_CASE("a file is the one it was until it changes", "[token_cache]") {
  const TemporaryFolder folder;
  const auto path = folder.path / "data.jsonl";
  std::ofstream(path) << "one\n";
  const auto before = file_identity(path);
  CHECK(file_identity(folder.path / "." / "data.jsonl") == before);
  std::ofstream(path, std::ios::app) << "two\n";
  CHECK(file_identity(path) != before);
  CHECK_THROWS_WITH(file_identity(folder.path), ContainsSubstring("no regular file"));
  CHECK_THROWS_AS(file_identity(folder.path / "absent"), io_error);
}
