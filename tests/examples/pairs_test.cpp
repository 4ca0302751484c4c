// SPDX-License-Identifier: Apache-2.0
// Files of pairs: one JSON object a line, text first, and never half a file.
#include "../../examples/data/pairs.hpp"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

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
