// SPDX-License-Identifier: Apache-2.0
// Debian's package lists: the clean text of a description, what is left out, and splits by source.
#include "../../examples/data/debian_descriptions.hpp"

#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <unordered_map>

#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::examples;
using namespace srformer::examples::debian;

namespace {

std::string cleaned(std::initializer_list<std::string_view> lines) {
  Description description;
  for (const auto line : lines) description.add(line);
  return description.text();
}

}  // namespace

TEST_CASE("paragraphs of a description become lines") {
  CHECK(cleaned({"One line", "and its end.", ".", "Another. "}) ==
        "One line and its end.\nAnother.");
  CHECK(cleaned({".", "Only", ".", "."}) == "Only");
  CHECK(cleaned({}).empty());
}

TEST_CASE("items of lists keep a line each, with what belongs to them") {
  CHECK(cleaned({"Features:", "  * fast and", "    small", " * free", "The end."}) ==
        "Features:\n- fast and small\n- free\nThe end.");
  CHECK(cleaned({"- first", "goes on", "- second", ".", "Prose."}) ==
        "- first goes on\n- second\nProse.");
  CHECK(cleaned({"\u2022 dot", "-nothing", "o circle"}) == "- dot -nothing\n- circle");
}

TEST_CASE("verbatim lines stay lines") {
  CHECK(cleaned({"Languages:", "  be  da", "  de  el", "and more."}) ==
        "Languages:\nbe  da\nde  el\nand more.");
}

TEST_CASE("a package belongs to its source") {
  std::istringstream packages(
      "Package: libfoo-dev\nSource: foo (1.2-3)\nVersion: 1.2-3+b1\n\n"
      "Package: bar\nVersion: 1\nBreaks: Source: no\n\n"
      "Package: baz\nSource: foo\n");
  std::unordered_map<std::string, std::string> source_of;
  read_sources(packages, source_of);
  CHECK(source_of.size() == 3);
  CHECK(source_of.at("libfoo-dev") == "foo");
  CHECK(source_of.at("bar") == "bar");
  CHECK(source_of.at("baz") == "foo");
}

TEST_CASE("versions of one source are one family and in one split") {
  CHECK(family("gcc-12") == "gcc");
  CHECK(family("gtk+3.0") == "gtk");
  CHECK(family("0ad") == "0ad");
  CHECK(family("4.2") == "4.2");
  std::size_t elsewhere = 0;
  for (const std::string name : {"gcc", "llvm-toolchain", "postgresql", "ruby", "lua", "php"}) {
    CHECK(split_of(name + "-14") == split_of(name + "-15"));
    CHECK(split_of(name + "14") == split_of(name));
  }
  for (int i = 0; i < 2000; ++i) {
    elsewhere += split_of(std::string("source") + static_cast<char>('a' + i % 26) +
                          std::to_string(i) + "x") != Split::train;
  }
  CHECK(elsewhere == Approx(200).margin(70));
}

TEST_CASE("descriptions become pairs, and short, repeated and unknown ones are left out") {
  const std::unordered_map<std::string, std::string> source_of{
      {"a", "first"}, {"b", "first"}, {"c", "second"}, {"d", "second"}};
  std::istringstream translations(
      "Package: a\nDescription-md5: 0\nDescription-en: synopsis of a\n Ten bytes.\n .\n More.\n\n"
      "Package: b\nDescription-md5: 1\nDescription-en: again\n Ten bytes.\n .\n More.\n\n"
      "Package: c\nDescription-md5: 2\nDescription-en: short\n Short.\n\n"
      "Package: unknown\nDescription-md5: 3\nDescription-en: unknown\n Long enough to stay.\n\n"
      "Package: d\nDescription-md5: 4\nDescription-en: last\n Long enough.\n");
  Collector collector(source_of, 10);
  collector.read(translations);
  CHECK(collector.counts().packages == 5);
  CHECK(collector.counts().repeated == 1);
  CHECK(collector.counts().too_short == 1);
  CHECK(collector.counts().without_source == 1);
  std::vector<examples::Pair> kept;
  for (const Split split : {Split::train, Split::validation, Split::test}) {
    for (const examples::Pair& pair : collector.pairs(split)) kept.push_back(pair);
  }
  REQUIRE(kept.size() == 2);
  const bool first = collector.pairs(split_of("first")).front() ==
                     examples::Pair{"Ten bytes.\nMore.", "synopsis of a"};
  const bool last =
      collector.pairs(split_of("second")).back() == examples::Pair{"Long enough.", "last"};
  CHECK(first);
  CHECK(last);
}

TEST_CASE("the length that counts is in characters, not bytes") {
  CHECK(count_characters("caf\u00e9") == 4);
  const std::unordered_map<std::string, std::string> source_of{{"a", "a"}};
  std::istringstream translations("Package: a\nDescription-en: s\n \u00e9\u00e9\u00e9\n");
  Collector collector(source_of, 4);
  collector.read(translations);
  CHECK(collector.counts().too_short == 1);
}
