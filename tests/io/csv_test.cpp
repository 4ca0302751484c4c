// SPDX-License-Identifier: Apache-2.0
#include <srformer/io/csv.hpp>

#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

using Record = std::vector<std::string>;

std::vector<Record> records(std::string_view text, char delimiter = ',') {
  CsvReader reader(text, delimiter, "t.csv");
  std::vector<Record> all;
  for (Record fields; reader.next(fields);) all.push_back(fields);
  return all;
}

std::vector<std::size_t> lines(std::string_view text) {
  CsvReader reader(text, ',', "t.csv");
  std::vector<std::size_t> all;
  for (Record fields; reader.next(fields);) all.push_back(reader.line());
  return all;
}

}  // namespace

TEST_CASE("CSV as RFC 4180 has it", "[csv]") {
  CHECK(records("a,b\nc,d\n") == std::vector<Record>{{"a", "b"}, {"c", "d"}});
  CHECK(records("a,b\r\nc,d") == std::vector<Record>{{"a", "b"}, {"c", "d"}});
  CHECK(records("a,b\rc,d\r") == std::vector<Record>{{"a", "b"}, {"c", "d"}});
  CHECK(records("\"a,b\",\"say \"\"x\"\"\",\"\"\n") ==
        std::vector<Record>{{"a,b", "say \"x\"", ""}});
  CHECK(records("\"two\r\nlines\",b\n") == std::vector<Record>{{"two\r\nlines", "b"}});
  CHECK(records("a,\n,b\n,\n") == std::vector<Record>{{"a", ""}, {"", "b"}, {"", ""}});
  CHECK(records("a,") == std::vector<Record>{{"a", ""}});
  CHECK(records("\n\r\n\na\n\n") == std::vector<Record>{{"a"}});
  CHECK(records("").empty());
  CHECK(records("5\" pipe,b \"c\"\n") == std::vector<Record>{{"5\" pipe", "b \"c\""}});
  CHECK(records("a, \"b\"\n") == std::vector<Record>{{"a", " \"b\""}});
  CHECK(records("a\tb,c\n", '\t') == std::vector<Record>{{"a", "b,c"}});
  CHECK(records("\"a\"") == std::vector<Record>{{"a"}});
  // A record shorter than the one before leaves nothing of it.
  CHECK(records("a,b,c\nd\n") == std::vector<Record>{{"a", "b", "c"}, {"d"}});
}

TEST_CASE("the line of a record is where it begins", "[csv]") {
  CHECK(lines("a\n\"b\nc\r\nd\"\r\ne\n\n\nf") == std::vector<std::size_t>{1, 2, 5, 8});
  CHECK(lines("\"a\rb\"\nc") == std::vector<std::size_t>{1, 3});
}

TEST_CASE("quotes that do not fit are refused with their line", "[csv]") {
  CHECK_THROWS_WITH(records("a\nb,\"c\nd\n"),
                    ContainsSubstring("t.csv:2: a quoted field begins here and does not end"));
  CHECK_THROWS_WITH(records("a\nb\n\"c\" d\n"),
                    ContainsSubstring("t.csv:3: text follows the quote that ends a field"));
  CHECK_THROWS_WITH(records("\"\\\"x\\\"\"\n"), ContainsSubstring("t.csv:1: text follows"));
  CHECK_THROWS_WITH(records("\"ends here"), ContainsSubstring("t.csv:1"));
}
