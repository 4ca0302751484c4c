// SPDX-License-Identifier: Apache-2.0
// BART's tokenizer against transformers' BartTokenizer (make_byte_bpe_values.py), its errors, and the training of a
// vocabulary.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <srformer/text/byte_bpe.hpp>

#include "io/temporary_folder.hpp"
#include "support/catch.hpp"
#include "text/text_files.hpp"

namespace {

namespace fs = std::filesystem;
using srformer::ByteBpeTokenizer;
using Ids = std::vector<std::int32_t>;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using tests::bart_folder;
using tests::write_file;

const fs::path bpe_data = fs::path(SRF_TESTS_DIR) / "text/data/bpe";

void copy_vocabulary(const fs::path& folder) {
  for (const char* name : {"vocab.json", "merges.txt"}) fs::copy(bart_folder / name, folder);
}

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> found;
  srformer::detail::for_each_word(text, [&](std::string_view word) { found.emplace_back(word); });
  return found;
}

}  // namespace

TEST_CASE("ids and texts of BART equal those of transformers") {
  TemporaryFolder folder;
  copy_vocabulary(folder.path);
  fs::copy(bpe_data / "added/tokenizer_config.json", folder.path);
  std::map<std::string, ByteBpeTokenizer> tokenizers;
  tokenizers.emplace("plain", bart_folder);
  tokenizers.emplace("added", folder.path);
  tokenizers.emplace("json", bpe_data / "json");
  tokenizers.emplace("written", bpe_data / "written");
  std::map<std::string, int> count;
  std::ifstream file(bpe_data / "ids.jsonl");
  std::string line;
  while (std::getline(file, line)) {
    const auto expected = nlohmann::json::parse(line);
    const auto kind = expected["k"].get<std::string>();
    const ByteBpeTokenizer& tokenizer = tokenizers.at(kind);
    const auto ids = expected["i"].get<Ids>();
    INFO(kind << " line " << ++count[kind] << ": " << expected["t"]);
    CHECK(tokenizer.encode(expected["t"].get<std::string>()) == ids);
    CHECK(tokenizer.decode(ids) == expected["d"].get<std::string>());
    CHECK(tokenizer.decode(ids, false) == expected["f"].get<std::string>());
  }
  CHECK(count["plain"] > 200);
  CHECK(count["added"] > 200);
  CHECK(count["json"] > 100);
  CHECK(count["written"] > 50);
}

TEST_CASE("text falls into words as by GPT-2's expression") {
  using Words = std::vector<std::string>;
  CHECK(words("").empty());
  CHECK(words("It's we'll, don'T x's!'s") ==
        Words{"It", "'s", " we", "'ll", ",", " don", "'", "T", " x", "'s", "!'", "s"});
  CHECK(words("a  b   \n c\t\td ") == Words{"a", " ", " b", "   \n", " c", "\t", "\t", "d", " "});
  CHECK(words(" 's  'll'") == Words{" '", "s", " ", " '", "ll", "'"});
  CHECK(words("x12\u00b2\u0663y \u6f22\u5b57e\u0301") ==
        Words{"x", "12\u00b2\u0663", "y", " \u6f22\u5b57e", "\u0301"});
  CHECK(words("\u3000\u00a0a\u200b b") == Words{"\u3000", "\u00a0", "a", "\u200b", " b"});
}

TEST_CASE("every byte has a character and comes back") {
  const auto tokens = srformer::detail::byte_tokens();
  CHECK(tokens[' '] == "\u0120");
  CHECK(tokens['\n'] == "\u010a");
  CHECK(tokens[0xad] == "\u0143");
  CHECK(tokens[0xff] == "\u00ff");
  std::string all, spelt;
  for (std::size_t b = 0; b < 256; ++b) {
    all += char(b);
    spelt += tokens[b];
  }
  CHECK(srformer::detail::bytes_of_token(spelt) == all);
  CHECK(srformer::detail::bytes_of_token("a b") == "a b");  // a space stands for no byte
  CHECK(srformer::detail::bytes_of_token("\u65e5") == "\u65e5");
}

TEST_CASE("bytes that are no UTF-8 decode to replacement characters") {
  const ByteBpeTokenizer tokenizer(bart_folder);
  const auto decode = [&](std::string_view bytes) {
    Ids ids;
    const auto tokens = srformer::detail::byte_tokens();
    for (const char b : bytes) ids.push_back(tokenizer.id(tokens[std::uint8_t(b)]).value());
    return tokenizer.decode(ids);
  };
  CHECK(decode("\xc3\xa9") == "\u00e9");
  CHECK(decode("\xc3") == "\ufffd");
  CHECK(decode("\xf0\x9f\x98") == "\ufffd");
  CHECK(decode("\xf0\x9f\x98"
               "a\x80\x80") ==
        "\ufffd"
        "a\ufffd\ufffd");
  CHECK(decode("\xe2\x28\xa1") == "\ufffd(\ufffd");
  CHECK(decode("\xed\xa0\x80") == "\ufffd\ufffd\ufffd");
  CHECK(decode("\xc0\xaf\xf5") == "\ufffd\ufffd\ufffd");
}

TEST_CASE("names, sizes and pieces of BART") {
  const ByteBpeTokenizer tokenizer(bart_folder);
  CHECK(tokenizer.size() == 500);
  CHECK(tokenizer.bos_id() == 0);
  CHECK(tokenizer.pad_id() == 1);
  CHECK(tokenizer.eos_id() == 2);
  CHECK(tokenizer.unk_id() == 3);
  CHECK(tokenizer.mask_id() == 4);
  CHECK(tokenizer.piece(4) == "<mask>");
  CHECK(tokenizer.id("\u0120the").has_value());
  CHECK_FALSE(tokenizer.id("no such token").has_value());
  CHECK_THROWS_AS(tokenizer.piece(500), srformer::shape_error);
  CHECK_THROWS_AS(tokenizer.piece(-1), srformer::shape_error);
  CHECK(tokenizer.decode({}).empty());
  CHECK(tokenizer.decode(Ids{44, 500, 50264, 44}) == "HH");
  CHECK_THROWS_MATCHES(tokenizer.decode(Ids{44, -100}), srformer::shape_error,
                       MessageMatches(ContainsSubstring("-100")));
}

TEST_CASE("BART's length is limited as asked, and eos stays") {
  const ByteBpeTokenizer tokenizer(bart_folder);
  const Ids all = tokenizer.encode("Hello world");
  REQUIRE(all.size() > 5);
  const auto cut = [&](srformer::index_t length, bool special) {
    return tokenizer.encode(
        "Hello world", {.add_special_tokens = special, .max_length = length, .truncation = true});
  };
  CHECK(cut(4, true) == Ids{0, all[1], all[2], 2});
  CHECK(cut(2, true) == Ids{0, 2});
  CHECK(cut(2, false) == Ids{all[1], all[2]});
  CHECK(cut(std::ssize(all), true) == all);
  CHECK(cut(0, true) == all);
  CHECK(tokenizer.encode("Hello world", {.max_length = std::ssize(all)}) == all);
  CHECK_THROWS_MATCHES(tokenizer.encode("Hello world", {.max_length = std::ssize(all) - 1}),
                       srformer::shape_error, MessageMatches(ContainsSubstring("max_length")));
  CHECK_THROWS_MATCHES(tokenizer.encode("a", {.max_length = 1, .truncation = true}),
                       srformer::shape_error, MessageMatches(ContainsSubstring("2 special")));
  CHECK_THROWS_AS(tokenizer.encode("a", {.max_length = -1}), srformer::shape_error);
}

TEST_CASE("BART refuses text that is not UTF-8 with its byte") {
  const ByteBpeTokenizer tokenizer(bart_folder);
  for (const std::string_view bad : {"\xff", "\x80", "\xc3", "\xed\xa0\x80", "\xe2\x82 "})
    CHECK_THROWS_MATCHES(tokenizer.encode("ab" + std::string(bad)), srformer::shape_error,
                         MessageMatches(ContainsSubstring("byte 2")));
}

TEST_CASE("a million bytes without a space are merged, in time") {
  const ByteBpeTokenizer tokenizer(bart_folder);
  std::mt19937 random(1);
  std::string text;
  while (text.size() < 1'000'000) text += char('a' + random() % 26);
  const Ids ids = tokenizer.encode(text);
  CHECK(ids.size() < 950'000);
  CHECK(tokenizer.decode(ids) == text);
}

TEST_CASE("the lowest rank is merged first, and among equals the leftmost") {
  srformer::detail::MergeTable merges;  // 0 a, 1 b, 2 c, 3 aa, 4 ab, 5 bc, 6 aab
  merges.add(1, 2, 0, 5);
  merges.add(0, 1, 1, 4);
  merges.add(0, 0, 2, 3);
  merges.add(0, 4, 3, 6);
  const auto merged = [&](Ids ids, std::size_t begin = 0) {
    srformer::detail::MergeTable::Work work;
    merges.merge(ids, begin, work);
    return ids;
  };
  CHECK(merged({}).empty());
  CHECK(merged({2}) == Ids{2});
  CHECK(merged({0, 1, 2}) == Ids{0, 5});
  CHECK(merged({0, 0, 0}) == Ids{3, 0});
  CHECK(merged({0, 0, 1}) == Ids{6});
  CHECK(merged({0, 0, 0, 1}) == Ids{3, 4});
  CHECK(merged({0, 1, 0, 1}, 1) == Ids{0, 1, 4});
}

TEST_CASE("a folder of BART that cannot be read is named") {
  TemporaryFolder folder;
  const auto fails = [&](const std::string& why) {
    CHECK_THROWS_MATCHES(ByteBpeTokenizer(folder.path), srformer::io_error,
                         MessageMatches(ContainsSubstring(why)));
  };
  const fs::path vocab = folder.path / "vocab.json", merges = folder.path / "merges.txt",
                 config = folder.path / "tokenizer_config.json",
                 whole = folder.path / "tokenizer.json";
  fails("neither tokenizer.json nor vocab.json with merges.txt");
  copy_vocabulary(folder.path);
  CHECK(ByteBpeTokenizer(folder.path).size() == 500);
  for (const auto& [text, why] : std::initializer_list<std::pair<const char*, const char*>>{
           {"#version: 0.2\na b c\n", "merges.txt: line 2"},
           {"#version: 0.2\n\nab\n", "merges.txt: line 3"},
           {"a \n", "merges.txt: line 1"},
           {"q zzz\n", "\"zzz\" is not in the vocabulary"},
           {"q q\n", "\"qq\" is not in the vocabulary"}}) {
    write_file(merges, text);
    fails(why);
  }
  write_file(merges, "#version: 0.2\r\ni n\r\n");
  CHECK(ByteBpeTokenizer(folder.path).encode("in").size() == 3);
  for (const auto& [text, why] : std::initializer_list<std::pair<const char*, const char*>>{
           {"{\"a\": ", "vocab.json: byte 6"},
           {"[]", "vocab.json"},
           {"{\"a\": \"b\"}", "vocab.json"},
           {"{\"a\": 0, \"b\": 0}", "has the id of \"a\""},
           {"{\"a\": 1}", "expected 0 to 0"},
           {"{\"a\": -1}", "expected 0 to 0"},
           {"{\"\": 0}", "no text"},
           {"{\"\\ud800\": 0}", "vocab.json: byte"},
           {"{\"!\": 0}", "no token for byte 0"}}) {
    write_file(vocab, text);
    fails(why);
  }
  fs::copy(bart_folder / "vocab.json", vocab, fs::copy_options::overwrite_existing);
  for (const auto& [text, why] : std::initializer_list<std::pair<const char*, const char*>>{
           {R"({"added_tokens_decoder": {"7": {"content": "<sep>"}}})", "has id 7, expected 500"},
           {R"({"added_tokens_decoder": {"x": {"content": "<sep>"}}})", "tokenizer_config.json"},
           {R"({"added_tokens_decoder": {"500": {"content": ""}}})", "no text"},
           {R"({"add_prefix_space": "yes"})", "tokenizer_config.json"},
           {R"({"eos_token": 3})", "tokenizer_config.json"}}) {
    write_file(config, text);
    fails(why);
  }
  write_file(config, R"({"eos_token": "<end>", "sep_token": "<end>"})");
  CHECK(ByteBpeTokenizer(folder.path).encode("") == Ids{0, 500});
  CHECK(ByteBpeTokenizer(folder.path).eos_id() == 500);
  fs::remove(config);
  for (const auto& [text, why] : std::initializer_list<std::pair<const char*, const char*>>{
           {R"({"model": {"type": "Unigram"}})", "no BPE model"},
           {R"({"model": {"type": "BPE"}})", "GPT-2's expression"},
           {R"({"pre_tokenizer": {"type": "ByteLevel"}, "model": {"byte_fallback": true}})",
            "byte_fallback"},
           {R"({"pre_tokenizer": {"type": "ByteLevel"}, "model": {"end_of_word_suffix": "</w>"}})",
            "end_of_word_suffix"},
           {R"({"pre_tokenizer": {"type": "ByteLevel"}, "normalizer": {}, "model": {}})",
            "normalizer"},
           {R"({"pre_tokenizer": {"type": "ByteLevel"}, "model": {}})", "tokenizer.json"},
           {"{}", "tokenizer.json"}}) {
    write_file(whole, text);
    fails(why);
  }
}

TEST_CASE("GPT-2's folder has no tokens around a text") {
  TemporaryFolder folder;
  copy_vocabulary(folder.path);
  write_file(folder.path / "tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})");
  const ByteBpeTokenizer tokenizer(folder.path);
  CHECK(tokenizer.size() == 501);
  CHECK(tokenizer.encode("H<|endoftext|>") == Ids{44, 500});
  CHECK(tokenizer.eos_id() == 500);
  CHECK(tokenizer.pad_id() == -1);
  CHECK(tokenizer.decode(Ids{44, 500}) == "H");
}

TEST_CASE("a vocabulary is trained as by hand") {
  TemporaryFolder folder;
  // Words: "ab" 3, " ab" 3, " abc" 2, "x" 1. Pairs: ab 8, then (space)ab 5, then (space)ab c 2.
  const std::vector<std::string> texts{"ab ab abc", "ab ab", "ab ab abc", "x"};
  const auto train = [&](srformer::index_t size, srformer::ByteBpeTraining options) {
    srformer::train_byte_bpe(texts, size, folder.path, options);
    return ByteBpeTokenizer(folder.path);
  };
  const auto tokenizer = train(1000, {});
  CHECK(tokenizer.size() == 261 + 3);
  CHECK(tokenizer.piece(0) == "<s>");
  CHECK(tokenizer.piece(4) == "<mask>");
  CHECK(tokenizer.piece(5) == "!");
  CHECK(tokenizer.piece(260) == "\u0143");
  CHECK(tokenizer.piece(261) == "ab");
  CHECK(tokenizer.piece(262) == "\u0120ab");
  CHECK(tokenizer.piece(263) == "\u0120abc");
  CHECK(tokenizer.encode("ab abc\u00e9") ==
        Ids{0, 261, 263, *tokenizer.id("\u00c3"), *tokenizer.id("\u00a9"), 2});
  CHECK(tokenizer.encode("ab <mask>") == Ids{0, 261, 4, 2});  // the mask takes the space
  CHECK(train(262, {}).size() == 262);
  CHECK(train(1000, {.min_frequency = 4}).size() == 263);
  const auto prefixed = train(1000, {.min_frequency = 4, .add_prefix_space = true});
  CHECK(prefixed.encode("ab") == prefixed.encode(" ab"));
  fs::remove(folder.path / "tokenizer.json");
  CHECK(ByteBpeTokenizer(folder.path).encode("ab abc <mask>") == prefixed.encode("ab abc <mask>"));

  // Sentinels come on top, the first with the highest id.
  const auto marked = train(262, {.sentinels = 3});
  CHECK(marked.size() == 265);
  CHECK(marked.id("<mask>") == 4);
  CHECK(marked.id("<extra_id_0>") == 7);
  CHECK(marked.id("<extra_id_2>") == 5);
  CHECK(marked.piece(8) == "!");
  CHECK(marked.encode("ab<extra_id_1>ab") == Ids{0, 264, 6, 264, 2});
  CHECK(marked.decode(Ids{0, 264, 6, 264, 2}) == "abab");
  fs::remove(folder.path / "tokenizer.json");
  CHECK(ByteBpeTokenizer(folder.path).encode("ab<extra_id_1>ab <mask>") ==
        Ids{0, 264, 6, 264, 4, 2});

  write_file(folder.path / "text", "ab ab abc\nab ab\nab ab abc\nx");
  srformer::train_byte_bpe(folder.path / "text", 1000, folder.path);
  CHECK(ByteBpeTokenizer(folder.path).size() == 264);
}

TEST_CASE("runs of one letter are merged in pairs from the left") {
  TemporaryFolder folder;
  srformer::train_byte_bpe(std::vector<std::string>{"aaaaa", "aaaaa"}, 264, folder.path,
                           {.min_frequency = 0});
  const ByteBpeTokenizer tokenizer(folder.path);
  CHECK(tokenizer.piece(261) == "aa");
  CHECK(tokenizer.piece(262) == "aaa");
  CHECK(tokenizer.piece(263) == "aaaaa");
}

TEST_CASE("what cannot be trained to a byte vocabulary is refused, and nothing is written") {
  TemporaryFolder folder;
  using Texts = std::vector<std::string>;
  const auto fails = [&](const Texts& texts, srformer::index_t size, const std::string& why) {
    CHECK_THROWS_MATCHES(srformer::train_byte_bpe(texts, size, folder.path), srformer::shape_error,
                         MessageMatches(ContainsSubstring(why)));
  };
  fails({}, 300, "empty");
  fails({"", ""}, 300, "empty");
  fails({"a"}, 260, "261");
  fails({"a", "\xff"}, 300, "text 2");
  CHECK_THROWS_AS(srformer::train_byte_bpe(Texts{"a"}, 300, folder.path, {.min_frequency = -1}),
                  srformer::shape_error);
  CHECK_THROWS_AS(srformer::train_byte_bpe(Texts{"a"}, 300, folder.path, {.sentinels = -1}),
                  srformer::shape_error);
  CHECK(folder.entries() == 0);
  CHECK_THROWS_AS(srformer::train_byte_bpe(Texts{"a"}, 300, folder.path / "missing"),
                  srformer::io_error);
}
