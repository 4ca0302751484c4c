// SPDX-License-Identifier: Apache-2.0
// Which tokenizer a folder gets, that it passes on what is asked, and that two languages' worth of text agree with
// transformers where Python has it (tokenizers_peer.py).
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include <srformer/core/random.hpp>
#include <srformer/text/tokenizer.hpp>

#include "io/temporary_folder.hpp"
#include "support/catch.hpp"
#include "text/text_files.hpp"

namespace {

namespace fs = std::filesystem;
using srformer::ByteBpeTokenizer;
using srformer::index_t;
using srformer::SentencePieceTokenizer;
using srformer::Tokenizer;
using Ids = std::vector<std::int32_t>;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using tests::bart_folder;

const fs::path text_data = fs::path(SRF_TESTS_DIR) / "text/data";

bool is_byte_bpe(const Tokenizer& tokenizer) {
  return tokenizer.visit(
      [](const auto& t) { return std::is_same_v<decltype(t), const ByteBpeTokenizer&>; });
}

nlohmann::json read_json(const fs::path& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

}  // namespace

TEST_CASE("a folder gets the tokenizer of its files") {
  CHECK_FALSE(is_byte_bpe(Tokenizer(text_data / "t5/plain")));
  CHECK_FALSE(is_byte_bpe(Tokenizer(text_data / "t5/plain/spiece.model")));
  CHECK_FALSE(is_byte_bpe(Tokenizer(text_data / "t5/json")));
  CHECK(is_byte_bpe(Tokenizer(text_data / "bpe/json")));
  CHECK(is_byte_bpe(Tokenizer(bart_folder)));

  TemporaryFolder folder;
  const auto fails = [&](const std::string& why) {
    CHECK_THROWS_MATCHES(Tokenizer(folder.path), srformer::io_error,
                         MessageMatches(ContainsSubstring(why)));
  };
  fails("has no tokenizer");
  fs::copy(bart_folder / "vocab.json", folder.path);
  fails("has no tokenizer");
  fs::copy(bart_folder / "merges.txt", folder.path);
  CHECK(is_byte_bpe(Tokenizer(folder.path)));
  for (const auto& [text, why] : std::initializer_list<std::pair<const char*, const char*>>{
           {R"({"model": {"type": "WordPiece"}})", "WordPiece"},
           {R"({"model": {"vocab": {}, "merges": []}})", "tokenizer.json"},
           {R"({"model": {"type": "Unigram"}})", "tokenizer.json"},
           {R"({"model": 3})", "tokenizer.json"},
           {"{", "tokenizer.json: byte 1"}}) {
    std::ofstream(folder.path / "tokenizer.json") << text;
    fails(why);
  }
  fs::copy(text_data / "t5/plain/spiece.model", folder.path);
  fails("tokenizer.json: byte 1");  // it goes before the others
  fs::remove(folder.path / "tokenizer.json");
  CHECK_FALSE(is_byte_bpe(Tokenizer(folder.path)));
  CHECK_THROWS_AS(Tokenizer(folder.path / "missing"), srformer::io_error);
}

TEST_CASE("the tokenizer of a folder is used as documented") {
  for (const fs::path& folder : {bart_folder, text_data / "t5/plain"}) {
    const Tokenizer tokenizer(folder);
    const auto ids = tokenizer.encode("a long text", {.max_length = 1024, .truncation = true});
    const std::string text = tokenizer.decode(ids);
    CHECK(text == "a long text");
  }
}

TEST_CASE("both tokenizers do what is asked through the one interface") {
  const auto check = [](const Tokenizer& tokenizer, const auto& own, const Ids& before) {
    const std::string text = "Hello, the segment world";
    const Ids ids = tokenizer.encode(text);
    REQUIRE(ids.size() > 6);
    CHECK(ids == own.encode(text));
    CHECK(Ids(ids.begin(), ids.begin() + std::ssize(before)) == before);
    CHECK(ids.back() == tokenizer.eos_id());
    CHECK(tokenizer.decode(ids) == text);
    CHECK(tokenizer.decode(ids, false) == own.decode(ids, false));
    CHECK(tokenizer.decode(ids, false) != text);
    CHECK(tokenizer.encode(text, {.add_special_tokens = false}) ==
          Ids(ids.begin() + std::ssize(before), ids.end() - 1));
    Ids cut(ids.begin(), ids.begin() + 4);
    cut.push_back(ids.back());
    CHECK(tokenizer.encode(text, {.max_length = 5, .truncation = true}) == cut);
    CHECK_THROWS_AS(tokenizer.encode(text, {.max_length = 5}), srformer::shape_error);
    CHECK(tokenizer.size() == own.size());
    CHECK(tokenizer.pad_id() == own.pad_id());
    CHECK(tokenizer.bos_id() == own.bos_id());
    CHECK(tokenizer.unk_id() == own.unk_id());
    CHECK(tokenizer.id(tokenizer.piece(42)) == 42);
  };
  check(Tokenizer(bart_folder), ByteBpeTokenizer(bart_folder), {0});
  check(SentencePieceTokenizer(text_data / "t5/plain"),
        SentencePieceTokenizer(text_data / "t5/plain"), {});
}

namespace {

/// Holds the text that ids give one by one to that of them all. Returns how many ids gave none of it.
std::size_t check_stream(const Tokenizer& tokenizer, const Ids& ids) {
  const std::string whole = tokenizer.decode(ids);
  srformer::TextStream stream(tokenizer);
  std::string text;
  std::size_t silent = 0;
  for (const std::int32_t id : ids) {
    const std::string part = stream.add(id);
    silent += part.empty();
    text += part;
    REQUIRE(whole.starts_with(text));
    REQUIRE(srformer::detail::valid_utf8_prefix(text) == text.size());
  }
  text += stream.finish();
  REQUIRE(text == whole);
  CHECK(stream.finish().empty());
  return silent;
}

/// Ids in any order, special ones and those past the end among them.
Ids any_ids(const Tokenizer& tokenizer, std::uint64_t seed, index_t count) {
  Ids ids;
  for (index_t i = 0; i < count; ++i)
    ids.push_back(std::int32_t(
        srformer::random_below({seed, 3}, std::uint64_t(i), std::uint64_t(tokenizer.size()) + 2)));
  return ids;
}

}  // namespace

TEST_CASE("the parts of a text that ids give one by one are the text of all of them") {
  for (const auto& [folder, texts] :
       {std::pair(text_data / "bpe/json", text_data / "bpe/ids.jsonl"),
        std::pair(text_data / "t5/plain", text_data / "t5/ids.jsonl"),
        std::pair(text_data / "t5/json", text_data / "t5/ids.jsonl")}) {
    CAPTURE(folder.string());
    const Tokenizer tokenizer(folder);
    std::ifstream file(texts);
    std::size_t compared = 0, ids_given = 0, silent = 0;
    for (std::string line; std::getline(file, line); ++compared) {
      const Ids ids = tokenizer.encode(nlohmann::json::parse(line).at("t").get<std::string>());
      ids_given += ids.size();
      silent += check_stream(tokenizer, ids);
    }
    for (std::uint64_t seed = 0; seed < 300; ++seed)
      check_stream(tokenizer, any_ids(tokenizer, seed, 40));
    CHECK(compared > 500);
    CHECK(silent >= compared);  // the end token says nothing, nor does half of a character
    CHECK(silent < ids_given / 2);
  }
}

TEST_CASE("a character of several ids comes whole") {
  const Tokenizer tokenizer(bart_folder);
  const Ids ids = tokenizer.encode("\U0001d518", {.add_special_tokens = false});
  REQUIRE(ids.size() > 1);
  srformer::TextStream stream(tokenizer);
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) CHECK(stream.add(ids[i]).empty());
  CHECK(stream.add(ids.back()) == "\U0001d518");
  CHECK(stream.add(ids.front()).empty());  // and what stays half is the replacement character
  CHECK(stream.finish() == "\ufffd");
}

TEST_CASE("text whose spaces are cleaned up comes as late as rules can reach back") {
  TemporaryFolder folder;
  fs::copy(text_data / "t5/plain/spiece.model", folder.path);
  std::ofstream(folder.path / "tokenizer_config.json")
      << R"({"extra_ids": 3, "clean_up_tokenization_spaces": true})";
  const Tokenizer tokenizer(folder.path), plain(text_data / "t5/plain");
  const Ids pieces = tokenizer.encode("' n ' t . ? , ! ' s ' m ' v e ' r e a n't '",
                                      {.add_special_tokens = false});
  std::size_t cleaned = 0;
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    Ids ids;
    for (std::uint64_t i = 0; i < 30; ++i)
      ids.push_back(pieces[srformer::random_below({seed, 4}, i, pieces.size())]);
    check_stream(tokenizer, ids);
    cleaned += tokenizer.decode(ids) != plain.decode(ids);
  }
  CHECK(cleaned > 100);
}

TEST_CASE("ids and texts equal those of transformers with vocabularies trained here and there",
          "[python]") {
  const char* given = std::getenv("SRFORMER_PYTHON");
  const std::string python = given ? given : "python3";
  const std::string quiet = " >/dev/null 2>&1";
  if (std::system(
          (python + " -c 'import transformers, tokenizers, sentencepiece'" + quiet).c_str()) != 0) {
    WARN("skipped: " << python << " lacks transformers; set SRFORMER_PYTHON to one that has it");
    SUCCEED("skipped");
    return;
  }
  const TemporaryFolder folder;
  const char* of_texts = std::getenv("SRFORMER_TOKENIZER_TEXTS");  // a JSON list, else generated
  const std::string peer = python + " " +
                           (fs::path(__FILE__).parent_path() / "tokenizers_peer.py").string() + " ",
                    at = folder.path.string();
  REQUIRE(std::system((peer + "texts " + at + " " + (of_texts ? of_texts : "")).c_str()) == 0);
  const auto lines = read_json(folder.path / "lines.json").get<std::vector<std::string>>();
  fs::create_directory(folder.path / "bart-here");
  srformer::train_byte_bpe(lines, of_texts ? 8000 : 700, folder.path / "bart-here");
  fs::create_directory(folder.path / "t5-here");
  srformer::train_sentencepiece(lines, of_texts ? 8000 : 400, folder.path / "t5-here/spiece.model");
  srformer::write_t5_tokenizer_config(folder.path / "t5-here");
  REQUIRE(std::system((peer + "ids " + at).c_str()) == 0);

  const auto texts = read_json(folder.path / "texts.json").get<std::vector<std::string>>();
  CHECK(texts.size() > 500);
  CHECK(read_json(folder.path / "bart-here/vocab.json") ==
        read_json(folder.path / "bart-there/vocab.json"));
  for (const char* name :
       {"bart-here", "bart-there", "bart-saved", "t5-here", "t5-saved", "t5-there"}) {
    const Tokenizer tokenizer(folder.path / name);
    const auto expected = read_json(folder.path / name / "expected.json");
    REQUIRE(expected.at("ids").size() == texts.size());
    CHECK(tokenizer.size() == expected.at("size"));
    int other_ids = 0, other_texts = 0;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      INFO(name << ": " << texts[i].substr(0, 300));
      const auto ids = expected["ids"][i].get<Ids>();
      const bool same = tokenizer.encode(texts[i]) == ids;
      const auto decoded = expected["decoded"][i].get<std::string>(),
                 with_special = expected["with_special"][i].get<std::string>();
      const bool back =
          tokenizer.decode(ids) == decoded && tokenizer.decode(ids, false) == with_special;
      other_ids += !same;
      other_texts += !back;
      CHECK(same);
      CHECK(back);
    }
    if (of_texts)
      WARN(name << ": " << texts.size() << " texts, " << other_ids << " with other ids, "
                << other_texts << " decoded otherwise");
  }
}
