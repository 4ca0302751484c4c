// SPDX-License-Identifier: Apache-2.0
// T5's tokenizer against transformers' T5Tokenizer (make_t5_values.py), its errors, and the training of a model.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <srformer/text/sentencepiece.hpp>

#include "io/temporary_folder.hpp"
#include "support/catch.hpp"
#include "text/text_files.hpp"

namespace {

namespace fs = std::filesystem;
using srformer::SentencePieceTokenizer;
using Ids = std::vector<std::int32_t>;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using tests::write_file;

const fs::path t5_data = fs::path(SRF_TESTS_DIR) / "text/data/t5";

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

SentencePieceTokenizer plain() { return SentencePieceTokenizer(t5_data / "plain"); }

}  // namespace

TEST_CASE("ids and texts equal those of transformers") {
  TemporaryFolder folder;
  fs::copy(t5_data / "added/tokenizer_config.json", folder.path);
  fs::copy(t5_data / "plain/spiece.model", folder.path);
  std::map<std::string, SentencePieceTokenizer> tokenizers;
  tokenizers.emplace("plain", t5_data / "plain");
  tokenizers.emplace("added", folder.path);
  tokenizers.emplace("json", t5_data / "json");
  std::map<std::string, int> count;
  std::ifstream file(t5_data / "ids.jsonl");
  std::string line;
  while (std::getline(file, line)) {
    const auto expected = nlohmann::json::parse(line);
    const auto kind = expected["k"].get<std::string>();
    const SentencePieceTokenizer& tokenizer = tokenizers.at(kind);
    const auto ids = expected["i"].get<Ids>();
    INFO(kind << " line " << ++count[kind] << ": " << expected["t"]);
    CHECK(tokenizer.encode(expected["t"].get<std::string>()) == ids);
    CHECK(tokenizer.decode(ids) == expected["d"].get<std::string>());
    CHECK(tokenizer.decode(ids, false) == expected["f"].get<std::string>());
  }
  CHECK(count["plain"] > 700);
  CHECK(count["added"] > 100);
  CHECK(count["json"] > 100);
}

TEST_CASE("sentinels follow the pieces in descending order") {
  const auto tokenizer = plain();
  CHECK(tokenizer.size() == 400);
  CHECK(tokenizer.piece(399) == "<extra_id_0>");
  CHECK(tokenizer.piece(300) == "<extra_id_99>");
  CHECK(tokenizer.piece(0) == "<pad>");
  CHECK(tokenizer.id("<extra_id_99>") == 300);
  CHECK(tokenizer.id("\u2581the").has_value());
  CHECK(tokenizer.id("<unk>") == 2);
  CHECK_FALSE(tokenizer.id("no such piece").has_value());
  CHECK(tokenizer.pad_id() == 0);
  CHECK(tokenizer.eos_id() == 1);
  CHECK(tokenizer.unk_id() == 2);
  CHECK(tokenizer.bos_id() == -1);
  CHECK(SentencePieceTokenizer(t5_data / "plain/spiece.model").size() == 400);

  TemporaryFolder folder;
  fs::copy(t5_data / "plain/spiece.model", folder.path);
  write_file(folder.path / "tokenizer_config.json", R"({"extra_ids": 5})");
  const SentencePieceTokenizer five(folder.path);
  CHECK(five.size() == 305);
  CHECK(five.encode("<extra_id_0>") == Ids{304, 1});
  CHECK(five.encode("<extra_id_5>").size() > 5);
}

TEST_CASE("length is limited as asked") {
  const auto tokenizer = plain();
  const Ids all = tokenizer.encode("Hello world");
  REQUIRE(all.size() > 4);
  const auto cut = [&](srformer::index_t length, bool eos) {
    return tokenizer.encode("Hello world",
                            {.add_eos = eos, .max_length = length, .truncation = true});
  };
  CHECK(cut(3, true) == Ids{all[0], all[1], 1});
  CHECK(cut(1, true) == Ids{1});
  CHECK(cut(3, false) == Ids{all[0], all[1], all[2]});
  CHECK(cut(std::ssize(all), true) == all);
  CHECK(cut(0, true) == all);
  CHECK(tokenizer.encode("Hello world", {.max_length = std::ssize(all)}) == all);
  CHECK_THROWS_MATCHES(tokenizer.encode("Hello world", {.max_length = std::ssize(all) - 1}),
                       srformer::shape_error, MessageMatches(ContainsSubstring("max_length")));
  CHECK_THROWS_AS(tokenizer.encode("a", {.max_length = -1}), srformer::shape_error);
}

TEST_CASE("ids that are no token of the model") {
  const auto tokenizer = plain();
  CHECK(tokenizer.decode({}).empty());
  CHECK(tokenizer.decode(Ids{4, 400, 32127, 4}) == tokenizer.decode(Ids{4, 4}));
  CHECK_THROWS_MATCHES(tokenizer.decode(Ids{4, -100}), srformer::shape_error,
                       MessageMatches(ContainsSubstring("-100")));
  CHECK_THROWS_AS(tokenizer.piece(400), srformer::shape_error);
  CHECK_THROWS_AS(tokenizer.piece(-1), srformer::shape_error);
}

TEST_CASE("text that is not UTF-8 is refused with its byte") {
  const auto tokenizer = plain();
  for (const std::string_view bad :
       {"\xff", "\x80", "\xc0\xaf", "\xc3", "\xe0\x80\x80", "\xed\xa0\x80", "\xe2\x82",
        "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82 "}) {
    CHECK_THROWS_MATCHES(tokenizer.encode("ab" + std::string(bad)), srformer::shape_error,
                         MessageMatches(ContainsSubstring("byte 2")));
  }
  for (const std::string_view good :
       {"\u007f\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"})
    CHECK(srformer::detail::valid_utf8_prefix(good) == good.size());
}

TEST_CASE("the longest of the added tokens counts, whatever it begins with") {
  TemporaryFolder folder;
  fs::copy(t5_data / "plain/spiece.model", folder.path);
  write_file(folder.path / "added_tokens.json",
             R"({"<sep>": 400, "SEP": 401, "SEPTEMBER": 402, "SE": 403})");
  const SentencePieceTokenizer tokenizer(folder.path);
  CHECK(tokenizer.size() == 404);
  CHECK(tokenizer.encode("SEPTEMBER SEP<sep>SE") == Ids{402, 401, 400, 403, 1});
  CHECK(tokenizer.decode(Ids{402, 401}) == "SEPTEMBERSEP");
}

TEST_CASE(
    "a mark in a short grapheme that begins with a compatibility character is lost, as in "
    "transformers") {
  const auto tokenizer = plain();  // SentencePiece keeps the mark: docs/text.md
  const auto ids = [&](const char* text) { return tokenizer.encode(text, {.add_eos = false}); };
  CHECK(ids("\ufb01\u0301") == ids("fi"));
  Ids kept = ids("fi");  // of 6 bytes or more, it falls into its characters
  kept.push_back(tokenizer.unk_id());
  CHECK(ids("\ufb01\u0301\u0308") == kept);
}

TEST_CASE("a model with pieces for bytes spells unknown characters by them") {
  TemporaryFolder folder;
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      {{"input", (t5_data / "../porter_stems.txt").string()},
       {"model_type", "unigram"},
       {"vocab_size", "400"},
       {"byte_fallback", "true"},
       {"pad_id", "0"},
       {"eos_id", "1"},
       {"unk_id", "2"},
       {"bos_id", "-1"},
       {"hard_vocab_limit", "false"},
       {"minloglevel", "2"}},
      nullptr, &model);
  REQUIRE(status.ok());
  write_file(folder.path / "spiece.model", model);
  const SentencePieceTokenizer tokenizer(folder.path / "spiece.model");
  const auto byte = [&](const char* piece) { return tokenizer.id(piece).value(); };
  const Ids ids = tokenizer.encode("\u6f22", {.add_eos = false});
  REQUIRE(ids.size() > 3);
  CHECK(Ids(ids.end() - 3, ids.end()) == Ids{byte("<0xE6>"), byte("<0xBC>"), byte("<0xA2>")});
}

TEST_CASE("a token in full-width letters is that token, as in transformers") {
  const auto tokenizer = plain();
  const auto ids = [&](const char* text) { return tokenizer.encode(text, {.add_eos = false}); };
  CHECK(ids("\uff1cpad\uff1e").back() == tokenizer.pad_id());
  CHECK(ids("\uff1cextra_id_0\uff1e").back() == 399);
}

TEST_CASE("a tokenizer that cannot be read is named") {
  TemporaryFolder folder;
  const auto fails = [](const fs::path& path, const std::string& why) {
    CHECK_THROWS_MATCHES(SentencePieceTokenizer(path), srformer::io_error,
                         MessageMatches(ContainsSubstring(why)));
  };
  const fs::path model = folder.path / "spiece.model",
                 config = folder.path / "tokenizer_config.json";
  fails(folder.path / "missing", "missing");
  fails(folder.path, "neither spiece.model nor tokenizer.json");
  write_file(model, "");
  fails(folder.path, "empty");
  write_file(model, "This is not a model.");
  fails(folder.path, "not a whole SentencePiece model");
  const std::string whole = read(t5_data / "plain/spiece.model");
  for (std::size_t size :
       {1u, 5u, 100u, 101u, 102u, 103u, 104u, 105u, 106u, 107u, 108u, 109u, 110u, 2000u, 200000u}) {
    write_file(model, std::string_view(whole).substr(0, size));
    fails(folder.path, "not a whole SentencePiece model");
  }
  write_file(model, whole);
  write_file(config, "{\"extra_ids\": ");
  fails(folder.path, "tokenizer_config.json: byte 14");
  write_file(config, R"({"extra_ids": "many"})");
  fails(folder.path, "tokenizer_config.json");
  write_file(config, R"({"extra_ids": -1})");
  fails(folder.path, "extra_ids is -1, expected 0 to 10000");
  write_file(config, R"({"eos_token": "<end>"})");
  fails(folder.path, "<end>");
  write_file(config, R"({"added_tokens_decoder": {"7": {"content": "<sep>"}}})");
  fails(folder.path, "another token");
  write_file(config, R"({"added_tokens_decoder": {"402": {"content": "<sep>"}}})");
  fails(folder.path, "has id 402, expected 400");
  write_file(config, R"({"added_tokens_decoder": {"x": {"content": "<sep>"}}})");
  fails(folder.path, "tokenizer_config.json");
  write_file(config, "{}");
  write_file(folder.path / "added_tokens.json", R"({"<sep>": 400})");
  CHECK(SentencePieceTokenizer(folder.path).encode("<sep>") == Ids{400, 1});
  fs::remove(folder.path / "added_tokens.json");
  fs::remove(model);
  write_file(folder.path / "tokenizer.json", R"({"model": {"type": "BPE"}})");
  fails(folder.path, "no Unigram model");
  write_file(folder.path / "tokenizer.json", R"({"model": {"type": "Unigram"}})");
  fails(folder.path, "tokenizer.json");
}

TEST_CASE("base64 is read") {
  CHECK(srformer::detail::base64_bytes("") == "");
  CHECK(srformer::detail::base64_bytes("QQ==") == "A");
  CHECK(srformer::detail::base64_bytes("QUI=") == "AB");
  CHECK(srformer::detail::base64_bytes("QUJD+/8A") == std::string("ABC\xfb\xff\0", 6));
  CHECK_FALSE(srformer::detail::base64_bytes("Q!==").has_value());
}

TEST_CASE("a model is trained from lines and from a file alike") {
  TemporaryFolder folder;
  std::vector<std::string> lines;
  std::string text;
  for (const char* subject :
       {"the river", "a segment", "the encoder", "one query", "the long source"})
    for (const char* verb : {"follows", "reads", "passes", "meets"})
      for (const char* object : {"the decoder", "its keys", "two values", "the next segment"}) {
        lines.push_back(std::string(subject) + " " + verb + " " + object + ".");
        text += lines.back() + "\n";
      }
  lines.push_back("");
  text += "\n";
  lines.emplace_back();  // over SentencePiece's own limit of 4192 bytes
  for (int i = 0; i < 200; ++i) lines.back() += "the river follows the decoder. ";
  for (int i = 0; i < 30; ++i) lines.back() += "j ";
  lines.back() += "j";
  text += lines.back();
  write_file(folder.path / "text", text);
  srformer::train_sentencepiece(lines, 60, folder.path / "spiece.model");
  srformer::train_sentencepiece(folder.path / "text", 60, folder.path / "other.model");
  CHECK(read(folder.path / "spiece.model") == read(folder.path / "other.model"));
  srformer::write_t5_tokenizer_config(folder.path, 10);

  const SentencePieceTokenizer tokenizer(folder.path);
  CHECK(tokenizer.size() > 40);
  CHECK(tokenizer.size() <= 60 + 10);
  CHECK(tokenizer.piece(0) == "<pad>");
  CHECK(tokenizer.piece(1) == "</s>");
  CHECK(tokenizer.piece(2) == "<unk>");
  CHECK(tokenizer.bos_id() == -1);
  CHECK(tokenizer.encode(lines[0]).size() < lines[0].size());  // some pieces have several letters
  const Ids j = tokenizer.encode("j");                         // known, as the long line was read
  CHECK(std::ranges::count(j, tokenizer.unk_id()) == 0);
  for (const std::string& line : lines) CHECK(tokenizer.decode(tokenizer.encode(line)) == line);
  const auto config = nlohmann::json::parse(read(folder.path / "tokenizer_config.json"));
  CHECK(config["tokenizer_class"] == "T5Tokenizer");
  CHECK(config["extra_ids"] == 10);

  srformer::train_sentencepiece(std::vector<std::string>{"a b"}, 1000, folder.path / "few.model");
  CHECK(SentencePieceTokenizer(folder.path / "few.model").size() < 110);
}

TEST_CASE("what cannot be trained is refused, and nothing is written") {
  TemporaryFolder folder;
  using Lines = std::vector<std::string>;
  const fs::path out = folder.path / "spiece.model";
  CHECK_THROWS_AS(srformer::train_sentencepiece(Lines{}, 100, out), srformer::shape_error);
  CHECK_THROWS_AS(srformer::train_sentencepiece(Lines{""}, 100, out), srformer::shape_error);
  CHECK_THROWS_AS(srformer::train_sentencepiece(Lines{"a b"}, 3, out), srformer::shape_error);
  CHECK_THROWS_AS(srformer::train_sentencepiece(Lines{"  "}, 100, out), srformer::shape_error);
  CHECK_THROWS_MATCHES(srformer::train_sentencepiece(Lines{"abcdefghijklm"}, 8, out),
                       srformer::shape_error, MessageMatches(ContainsSubstring("vocab_size 8")));
  CHECK_THROWS_MATCHES(srformer::train_sentencepiece(Lines{"a", "b\xff"}, 100, out),
                       srformer::shape_error, MessageMatches(ContainsSubstring("line 2")));
  CHECK(folder.entries() == 0);
  CHECK_THROWS_AS(srformer::train_sentencepiece(folder.path / "missing", 100, out),
                  srformer::io_error);
  CHECK_THROWS_AS(srformer::train_sentencepiece(Lines{"a b c"}, 100, folder.path / "no/folder"),
                  srformer::io_error);
  CHECK_THROWS_AS(srformer::write_t5_tokenizer_config(folder.path / "no"), srformer::io_error);
}
