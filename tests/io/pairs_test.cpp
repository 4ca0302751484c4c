// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <srformer/io/gzip.hpp>
#include <srformer/io/pairs.hpp>

#include "gzip_bytes.hpp"
#include "support/catch.hpp"
#include "temporary_folder.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::EndsWith;

namespace {

const ReadOptions plain{.decompress = gunzip};

DataRows<Pair> read(const std::string& name, const std::string& bytes,
                    const ReadOptions& options = plain) {
  const TemporaryFolder folder;
  std::ofstream(folder.path / name, std::ios::binary) << bytes;
  const std::string path = (folder.path / name).string();
  return read_pairs({&path, 1}, options);
}

std::vector<Pair> pairs(const std::string& name, const std::string& bytes,
                        const ReadOptions& options = plain) {
  return read(name, bytes, options).rows;
}

template <class F>
std::string pairs_refusal(F f) {
  try {
    f();
  } catch (const io_error& error) {
    CHECK(std::string(error.what()).size() < 500);
    return error.what();
  }
  return "accepted";
}

std::string refused(const std::string& name, const std::string& bytes,
                    const ReadOptions& options = plain) {
  return pairs_refusal([&] { read(name, bytes, options); });
}

std::string refused(const std::string& bytes, const ReadOptions& options = plain) {
  return refused("data.jsonl", bytes, options);
}

std::vector<PlacedText> texts(const std::string& name, const std::string& bytes,
                              const ColumnOptions& column = {.known = known_text_names()},
                              const ReadOptions& options = {.summary = SummaryColumn::none}) {
  const TemporaryFolder folder;
  std::ofstream(folder.path / name, std::ios::binary) << bytes;
  const std::string path = (folder.path / name).string();
  return read_column({&path, 1}, column, options).rows;
}

/// Whether these are the two pairs ("a b", "c") and ("é, \"q\"\n", "é 😀").
bool are_the_two(const std::vector<Pair>& read) {
  return read.size() == 2 && read[0].text == "a b" && read[0].summary == "c" &&
         read[1].text == "é, \"q\"\n" && read[1].summary == "é 😀";
}

const std::string good_pair = R"({"text":"a b","summary":"c"})";
const std::string second_pair = R"({"summary":"\u00e9 \ud83d\ude00","text":"é, \"q\"\n","id":7})";

std::string utf16(const std::u16string& text, bool big) {
  std::string bytes;
  for (const char16_t unit : text) {
    const char high = static_cast<char>(unit >> 8), low = static_cast<char>(unit & 0xff);
    bytes += big ? high : low;
    bytes += big ? low : high;
  }
  return bytes;
}

}  // namespace

TEST_CASE("the same pairs in every format", "[pairs]") {
  const std::string bom = "\xef\xbb\xbf", csv = "a b,c\n\"é, \"\"q\"\"\n\",é 😀\n";
  for (const std::string& bytes :
       {good_pair + "\n" + second_pair + "\n", good_pair + "\n" + second_pair,
        good_pair + "\r\n" + second_pair + "\r\n", bom + good_pair + "\n" + second_pair,
        "\n \t\n" + good_pair + "\n\n" + second_pair + "\n\n\r\n",
        "[" + good_pair + "," + second_pair + "]",
        bom + "[\n  " + good_pair + ",\r\n  " + second_pair + "\n]\n\n",
        R"({"version": "1", "data": [)" + good_pair + "," + second_pair + "]}",
        "{\n\"licence\": [1, 2],\n\"rows\": [" + good_pair + ",\n" + second_pair +
            "],\n\"more\": {}}",
        "{\n\"text\": \"a b\",\n\"summary\":\"c\"\n}\n" + second_pair,
        good_pair + "\r" + second_pair + "\r", good_pair + second_pair}) {
    for (const char* name : {"a.json", "a.jsonl", "A.NDJSON", "a.txt", "a", "a.json.gz"}) {
      INFO(name << "\n" << bytes);
      CHECK(are_the_two(pairs(name, bytes)));
      CHECK(are_the_two(pairs(name, gzip_bytes(bytes))));
    }
  }
  for (const std::string& header : {std::string("text,summary\n"), bom + "text,summary\r\n"})
    for (const char* name : {"a.csv", "a.CSV", "a.csv.gz", "a.txt", "a"})
      CHECK(are_the_two(pairs(name, header + csv)));
  CHECK(are_the_two(pairs("a", "id;text;summary\n1;a b;c\n2;\"é, \"\"q\"\"\n\";é 😀\n")));
  CHECK(are_the_two(pairs("a.csv", "id;text; summary\n1;a b;c\n2;\"é, \"\"q\"\"\n\";é 😀\n")));
  for (const char* name : {"a.tsv", "a.tab", "a.txt", "a.csv"})
    CHECK(are_the_two(pairs(name, "summary\ttext\nc\ta b\né 😀\t\"é, \"\"q\"\"\n\"\n")));
  for (const bool big : {false, true})
    CHECK(are_the_two(pairs("a.json", utf16(u"\xfeff{\"text\":\"a b\",\"summary\":\"c\"}\n"
                                            u"{\"text\":\"é, \\\"q\\\"\\n\",\"summary\":\"é 😀\"}\n",
                                            big))));
  const std::string word(3'000'000, 'w');
  CHECK(pairs("a.json", R"({"text":")" + word + R"(","summary":"s"})").at(0).text == word);
}

TEST_CASE("what a file is, is said", "[pairs]") {
  const auto said = [](const std::string& name, const std::string& bytes) {
    return read(name, bytes).notices.at(0);
  };
  CHECK_THAT(said("a.json", good_pair + "\n" + good_pair),
             EndsWith("a.json: JSON lines, columns \"text\", \"summary\", 2 rows"));
  CHECK_THAT(said("a.json", "[" + good_pair + "]"),
             EndsWith(": JSON, columns \"text\", \"summary\", 1 row"));
  CHECK_THAT(said("a.gz", gzip_bytes(good_pair)), ContainsSubstring(": JSON lines (gzip), "));
  CHECK_THAT(said("a.csv", "article,highlights\nx,y\n"),
             EndsWith(": CSV, columns \"article\", \"highlights\", 1 row"));
  CHECK_THAT(said("a.csv", "text;summary\nx;y\n"), ContainsSubstring(": CSV (semicolons), "));
  CHECK_THAT(said("a.tsv", "text\tsummary\nx\ty\n"), ContainsSubstring(": TSV, "));
}

TEST_CASE("a format that is said goes over name and content", "[pairs]") {
  const auto as = [](FileFormat format) {
    return ReadOptions{.format = format, .summary = SummaryColumn::none};
  };
  CHECK(pairs("a.csv", good_pair, as(FileFormat::jsonl)).at(0).text == "a b");
  CHECK(pairs("a.jsonl", good_pair, as(FileFormat::text)).at(0).text == good_pair);
  CHECK(pairs("a.txt", "text\nx,y\n", as(FileFormat::tsv)).at(0).text == "x,y");
  CHECK(pairs("a.jsonl", good_pair + good_pair, as(FileFormat::json)).size() == 2);
  CHECK_THAT(refused("a.csv", good_pair), ContainsSubstring("is named .csv but holds JSON"));
}

TEST_CASE("columns are found by their names", "[pairs]") {
  const auto one = [](const std::string& record, const ReadOptions& options = plain) {
    const Pair pair = pairs("a.json", record, options).at(0);
    return pair.text + "|" + pair.summary;
  };
  CHECK(one(R"({"id":"1","article":"x","highlights":"y"})") == "x|y");
  CHECK(one(R"({"summary":"y","dialogue":"x"})") == "x|y");
  CHECK(one(R"({"summary":"y","document":"x","id":3})") == "x|y");
  CHECK(one(R"({"text":"x","summary":"y","article":"z","highlights":"w"})") == "x|y");
  CHECK(one(R"({"article":"x","highlights":"y","text":"z"})") == "x|y");
  CHECK(one(R"({"text":"x","summary":"y","title":"z"})", {.summary_column = "title"}) == "x|z");
  CHECK(one(R"({"body":"x","highlights":"y"})", {.text_column = "body"}) == "x|y");
  CHECK(one(R"({"a":"x","b":"y"})", {.text_column = "a", .summary_column = "b"}) == "x|y");
  CHECK(one(R"({"text":"x"})", {.summary = SummaryColumn::none}) == "x|");
  CHECK(one(R"({"text":"x"})", {.summary = SummaryColumn::if_there}) == "x|");
  CHECK(one(R"({"text":"x","summary":"y"})", {.summary = SummaryColumn::if_there}) == "x|y");
  // A column that comes first in a later row counts as well.
  CHECK(pairs("a.json", "{\"article\":\"x\"}\n{\"article\":\"x\",\"highlights\":\"y\"}",
              {.drop_empty = true})
            .at(0)
            .summary == "y");
  CHECK_THAT(
      refused(good_pair, ReadOptions{.text_column = "document"}),
      ContainsSubstring("data.jsonl:1: has no column \"document\" but \"text\", \"summary\""));
  CHECK_THAT(refused("a.csv", "a,b\n1,2\n"),
             ContainsSubstring("a.csv:2: has no column \"text\" but \"a\", \"b\""));
  CHECK_THAT(refused("a.csv", "text,summary,text\n1,2,3\n"),
             ContainsSubstring("two columns \"text\""));
  CHECK_THAT(refused("{}"), ContainsSubstring("but no column at all"));
  std::string many = "{\"x\":\"1\"";
  for (int i = 0; i < 1000; ++i)
    many += ",\"column " + std::to_string(i) + std::string(90, 'c') + "\":1";
  CHECK_THAT(refused(many + "}"), ContainsSubstring(" and 99"));
}

TEST_CASE("a row that cannot be used is named", "[pairs]") {
  REQUIRE(refused(good_pair) == "accepted");
  const std::string before = good_pair + "\r\n\n";  // the next line is the third
  const auto byte = [&](std::size_t in_line) {
    return "data.jsonl:3: byte " + std::to_string(before.size() + in_line) + ": not valid JSON";
  };
  CHECK_THAT(refused(before + R"({"text":"a","summary":})"), ContainsSubstring(byte(22)));
  CHECK_THAT(refused(before + R"({"text":"a)"), ContainsSubstring("data.jsonl:3: byte "));
  CHECK_THAT(refused(before + good_pair + "," + good_pair),
             ContainsSubstring(byte(good_pair.size())));
  CHECK_THAT(refused(before + "{\"text\":\"a\xff\"}"),
             ContainsSubstring(byte(10)) && ContainsSubstring("ill-formed UTF-8"));
  CHECK_THAT(refused(before + "{\"text\":\"\xed\xa0\x80\"}"),
             ContainsSubstring("ill-formed UTF-8"));
  CHECK_THAT(refused(before + std::string("{\"text\":\"a\0\"}", 13)),
             ContainsSubstring("data.jsonl:3: byte "));
  CHECK_THAT(refused(before + "[1]"),
             ContainsSubstring("data.jsonl:3: is array, expected one JSON object"));
  CHECK_THAT(refused(before + R"({"text":"a"})"),
             ContainsSubstring("data.jsonl:3: has no column \"summary\""));
  CHECK_THAT(refused(before + R"({"text":"a","summary":null})"),
             ContainsSubstring("data.jsonl:3: column \"summary\" is null, expected a string"));
  CHECK_THAT(refused(before + R"({"text":["a"],"summary":"b"})"),
             ContainsSubstring("\"text\" is array"));
  CHECK_THAT(refused(before + R"({"text":{"text":"x"},"summary":"b"})"),
             ContainsSubstring("\"text\" is object"));
  CHECK_THAT(refused(before + R"({"text":"","summary":"b"})"),
             ContainsSubstring("data.jsonl:3: column \"text\" is empty"));
  CHECK_THAT(refused(before + R"({"text":"a","summary":" \n"})"),
             ContainsSubstring("data.jsonl:3: column \"summary\" is empty"));
  for (const char* nothing : {"", "\n", "\xef\xbb\xbf", " \r\n\n"})
    CHECK_THAT(refused(nothing), ContainsSubstring("data.jsonl: holds no examples"));
  refused(R"({"text":")" + std::string(100'000, 'x'));  // what is shown does not grow with it
  CHECK_THAT(refused("a.json", "[\n" + good_pair + ",\n\n{\"text\":1,\"summary\":\"s\"}]"),
             ContainsSubstring("a.json:4: column \"text\" is number"));
  CHECK_THAT(refused("a.json", "[" + good_pair + ",\n\"b\"]"),
             ContainsSubstring("a.json:2: is string"));
  CHECK_THAT(refused("a.json", "[" + good_pair + "\n" + good_pair + "]"),
             ContainsSubstring("a.json:2: byte"));
  CHECK_THAT(refused("a.json", "[" + good_pair + "\n"), ContainsSubstring("expected ']'"));
  CHECK_THAT(refused("a.json", "[" + good_pair + "]\nmore"), ContainsSubstring("a.json:2: byte"));
  CHECK_THAT(refused("a.json", "{\"a\":[" + good_pair + "],\n\"b\":[" + good_pair + "]}"),
             ContainsSubstring("lists of records under \"a\" and \"b\""));
  CHECK_THAT(refused("a.csv", "text,summary\na,b\n\nc\nd,e,f\n"),
             ContainsSubstring("2 of 3 rows") && ContainsSubstring("a.csv:4 has 1 field where") &&
                 ContainsSubstring("a.csv:5 has 3 fields"));
  CHECK_THROWS_AS(pairs("", ""), io_error);
}

TEST_CASE("all bad rows are told together, and empty ones dropped on request", "[pairs]") {
  const std::string empties = R"({"text":"","summary":"a"}
{"text":"a b","summary":null}
{"text":NaN,"summary":"x"}
{"text":"x"}
)" + good_pair + "\n{\"summary\":\"a\"}";
  const std::string told = refused(empties);
  for (const char* part : {"5 of 6 rows", "data.jsonl:1 column \"text\" is empty",
                           "data.jsonl:2 column \"summary\" is null", "data.jsonl:3 ",
                           "data.jsonl:4 has no column \"summary\"", "drop_empty"})
    CHECK_THAT(told, ContainsSubstring(part));
  const auto dropped = read("data.jsonl", empties, {.drop_empty = true});
  CHECK(dropped.rows.size() == 1);
  REQUIRE(dropped.notices.size() == 2);
  CHECK_THAT(dropped.notices[1],
             ContainsSubstring("5 of 6 rows left out") && EndsWith("lines 1, 2, 3, 4, 6"));
  // What is broken or of another type is no empty row, and a column that no row has is a wrong name.
  CHECK_THAT(refused(empties + "\n{\"text\":1,\"summary\":\"a\"}", {.drop_empty = true}),
             ContainsSubstring("data.jsonl:7: column \"text\" is number"));
  CHECK_THAT(refused(good_pair, ReadOptions{.summary_column = "headline", .drop_empty = true}),
             ContainsSubstring("has no column \"headline\""));
  CHECK_THAT(refused("{\"text\":\"\",\"summary\":\"\"}", ReadOptions{.drop_empty = true}),
             ContainsSubstring("holds no examples, all 1 row being left out"));
  // Summaries that may be empty are kept so; texts are not.
  const ReadOptions lenient{.summary = SummaryColumn::may_be_empty};
  CHECK(
      pairs(
          "a.json",
          "{\"text\":\"a\",\"summary\":null}\n{\"text\":\"b\"}\n{\"text\":\"c\",\"summary\":\"\"}",
          lenient)
          .size() == 3);
  CHECK(pairs("a.json", good_pair + "\n{\"text\":\"a\",\"summary\":null}", lenient)
            .at(1)
            .summary.empty());
  CHECK_THAT(refused("{\"text\":\"a\"}", lenient), ContainsSubstring("no column \"summary\""));
  CHECK_THAT(refused("{\"text\":\"\",\"summary\":\"a\"}", lenient), ContainsSubstring("is empty"));
}

TEST_CASE("columns that are not read may hold any number", "[pairs]") {
  const std::string odd =
      R"({"n":1e999,"big":123456789012345678901234567890,"l":[NaN,-Infinity,{"x":Infinity,"s":"\ud800"}],)";
  CHECK(pairs("a.json", odd + R"("text":"a NaN 1e999","summary":"\\u d83d"})").at(0).text ==
        "a NaN 1e999");
  CHECK_THAT(refused(R"({"text":"a","summary":"b","n":01})"), ContainsSubstring("not valid JSON"));
  CHECK_THAT(refused(R"({"text":"a","summary":"b","n":nan})"), ContainsSubstring("not valid JSON"));
  CHECK_THAT(refused(R"({"text":1e999,"summary":"b"})"), ContainsSubstring("\"text\" is number"));
  CHECK_THAT(refused("\n" + odd + "\"y\":1}\n"), ContainsSubstring("data.jsonl:2: has no column"));
  CHECK(pairs("a.json", R"({"text":"first","text":"last","summary":"s"})").at(0).text == "last");
  CHECK(pairs("a.json", R"({"text":{"text":"in"},"text":"out","summary":"s"})").at(0).text ==
        "out");
}

TEST_CASE("unpaired surrogates become U+FFFD and are counted", "[pairs]") {
  const auto cut =
      read("a.json", R"({"text":"cut \ud83d","summary":"\ud83d\ude00\udE00 \\ud83d \uD83Dx"})"
                     "\n" +
                         good_pair);
  CHECK(cut.rows.at(0).text == "cut \ufffd");
  CHECK(cut.rows.at(0).summary == "😀\ufffd \\ud83d \ufffdx");
  REQUIRE(cut.notices.size() == 2);
  CHECK_THAT(cut.notices[1], EndsWith("unpaired surrogates read as U+FFFD in 1 row"));
}

TEST_CASE("files that hold no text are refused by what they are", "[pairs]") {
  using namespace std::string_literals;
  for (const auto& [bytes, what] :
       {std::pair{"PK\x03\x04 and more"s, "zip archive or an Excel"},
        {"PAR1\x15\x04"s, "Parquet"},
        {"\x28\xb5\x2f\xfd and"s, "zstd"},
        {"BZh91AY"s, "bzip2"},
        {"%PDF-1.7"s, "PDF"},
        {"a\0b\0c\0"s, "UTF-16 without a byte order mark"},
        {"\xff\xfe\0\0a\0\0\0"s, "UTF-32"},
        {"\xff\xfe\x3d\xd8"s, "not valid UTF-16"},
        {"text,summary\ncaf\xe9,x\n"s, "a.csv:2: byte 16: is not UTF-8"},
        {"version https://git-lfs.github.com/spec/v1\n"s, "Git LFS"}})
    CHECK_THAT(refused("a.csv", bytes), ContainsSubstring(what));
  CHECK_THAT(refused("a.jsonl", gzip_bytes(good_pair), {}),
             ContainsSubstring("compressed by gzip"));
  CHECK_THAT(refused("a.txt", "second_pair lines\nof text\n"),
             ContainsSubstring("is text, one a line"));
}

TEST_CASE("text is a line a text", "[pairs]") {
  const auto lines = texts("a.txt", "\xef\xbb\xbfone\r\n{not json\n[1] Smith\n\u2028\n\n \n");
  REQUIRE(lines.size() == 4);
  CHECK(lines[0].text == "one");
  CHECK(lines[3].text == "\u2028");
  CHECK_THAT(lines[2].place, EndsWith("a.txt:3"));
  CHECK_THAT(pairs_refusal([] { texts("a.txt", "a\n\nb\n"); }),
             ContainsSubstring("a.txt:2: is empty"));
  CHECK(texts("a.txt", "a\n\nb\n", {.known = known_text_names()}, {.drop_empty = true}).size() ==
        2);
  CHECK(texts("a.txt", "a\n\nb\n\n", {.known = known_text_names(), .keep_empty = true}).size() ==
        4);
  CHECK_THAT(
      pairs_refusal([] { texts("a.txt", "a\n", {.name = "text", .known = known_text_names()}); }),
      ContainsSubstring("no column \"text\""));
  // What looks like text to a person is not taken for a table.
  CHECK(texts("a", "First, text, last\nsecond\n").size() == 2);
  CHECK(texts("a", "text\nsecond\n").size() == 2);
  CHECK(texts("a", "id,article\n1,x\n").at(0).text == "x");
  CHECK(texts("a.json", "{\"text\":\"x\",\"summary\":3}").at(0).text == "x");
}

TEST_CASE("one of several columns has to be named where only one can be meant", "[pairs]") {
  const ColumnOptions sole{.known = {"summary", "text"}, .sole = true};
  CHECK(texts("a.json", "{\"text\":\"x\"}", sole).at(0).text == "x");
  CHECK_THAT(pairs_refusal([&] { texts("a.json", good_pair, sole); }),
             ContainsSubstring("has the columns \"summary\", \"text\""));
}

TEST_CASE("folders and patterns stand for their files", "[pairs]") {
  const TemporaryFolder folder;
  const auto put = [&](const std::string& name, const std::string& bytes) {
    std::ofstream(folder.path / name, std::ios::binary) << bytes;
    return (folder.path / name).string();
  };
  put("part-1.jsonl", R"({"text":"b","summary":"s"})");
  put("part-0.jsonl", R"({"text":"a","summary":"s"})");
  put("part-2.jsonl.gz", gzip_bytes(R"({"text":"c","summary":"s"})"));
  put("README.md", "no data");
  put(".hidden.jsonl", "no data");
  std::filesystem::create_directory(folder.path / "empty.json");
  const auto all = [&](std::vector<std::string> names) {
    const auto read = read_pairs(names, plain);
    std::string text;
    for (const Pair& pair : read.rows) text += pair.text;
    return text;
  };
  CHECK(all({folder.path.string()}) == "abc");
  CHECK(all({(folder.path / "part-*.jsonl").string()}) == "ab");
  CHECK(all({(folder.path / "part-[12]*").string(), (folder.path / "part-0.jsonl").string()}) ==
        "bca");
  CHECK(all({put("odd[name]*.jsonl", R"({"text":"odd","summary":"s"})")}) == "odd");
  std::vector<std::string> names{(folder.path / "part-*").string()};
  CHECK_THAT(read_pairs(names, plain).notices.at(0),
             ContainsSubstring("part-0.jsonl and 1 more file: JSON lines, ") && EndsWith("2 rows"));
  CHECK_THAT(pairs_refusal([&] { all({(folder.path / "empty.json").string()}); }),
             ContainsSubstring("a folder without data files"));
  CHECK_THAT(pairs_refusal([&] { all({(folder.path / "none*").string()}); }),
             ContainsSubstring("matches no file"));
  CHECK_THAT(pairs_refusal([&] { all({(folder.path / "none").string()}); }),
             ContainsSubstring("cannot open"));
}
