// SPDX-License-Identifier: Apache-2.0
// Folders of tokenizers against transformers (make_tokenizer_json_values.py): the steps of tokenizer.json, added tokens of
// every kind and the options of the files beside; which steps are refused, and that time grows with the text's length.
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <srformer/text/tokenizer.hpp>

#include "io/temporary_folder.hpp"
#include "support/catch.hpp"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using srformer::JsonTokenizer;
using srformer::Tokenizer;
using Ids = std::vector<std::int32_t>;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;

const fs::path json_data = fs::path(SRF_TESTS_DIR) / "text/data";
const fs::path bart = fs::path(SRF_TESTS_DIR) / "reference/values/models/bart_full";

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_json_to(const fs::path& path, const json& content) {
  std::ofstream(path, std::ios::binary) << content.dump();
}

bool is_json(const Tokenizer& tokenizer) {
  return tokenizer.visit(
      [](const auto& t) { return std::is_same_v<decltype(t), const JsonTokenizer&>; });
}

/// What the io_error of a call says; empty where there is none.
template <class Call>
std::string message(Call call) {
  try {
    call();
  } catch (const srformer::io_error& error) {
    return error.what();
  }
  return {};
}

/// A tokenizer.json of `data`.
json base(const std::string& name) {
  return json::parse(bytes_of(json_data / "tokenizer_json" / (name + ".json")));
}

/// Pieces <0x00> to <0xFF> at the end of a vocabulary.
void add_bytes(json& model) {
  json& vocabulary = model["vocab"];
  for (int b = 0; b < 256; ++b) {
    constexpr const char* digits = "0123456789ABCDEF";
    const std::string piece = std::string("<0x") + digits[b / 16] + digits[b % 16] + ">";
    if (vocabulary.is_array())
      vocabulary.push_back({piece, -12.0});
    else
      vocabulary[piece] = std::size_t(vocabulary.size());
  }
}

/// Writes the folder that a line of folders.jsonl describes.
void write_folder(const fs::path& folder, const json& drawn) {
  const auto name = drawn.at("base").get<std::string>();
  for (const auto& [file, content] : drawn.at("files").items())
    write_json_to(folder / file, content);
  if (name == "t5") {
    fs::copy(json_data / "t5/plain/spiece.model", folder);
  } else if (name == "bart") {
    for (const char* file : {"vocab.json", "merges.txt"}) fs::copy(bart / file, folder);
  } else {
    json whole = base(name);
    for (const auto& [key, value] : drawn.at("replace").items()) whole[key] = value;
    for (const auto& [key, value] : drawn.at("model").items()) whole["model"][key] = value;
    if (drawn.at("model").contains("byte_fallback")) add_bytes(whole["model"]);
    std::string text = whole.dump();
    const std::string_view mark = "charsmap.txt";
    const std::string charsmap = bytes_of(json_data / "tokenizer_json/charsmap.txt");
    for (std::size_t at = 0; (at = text.find(mark, at)) != text.npos; at += charsmap.size())
      text.replace(at, mark.size(), charsmap);
    std::ofstream(folder / "tokenizer.json", std::ios::binary) << text;
  }
}

}  // namespace

TEST_CASE(
    "folders give the ids and texts of transformers, whatever steps and added tokens they have") {
  std::ifstream file(json_data / "tokenizer_json/folders.jsonl");
  std::map<std::string, int> folders;
  int texts = 0;
  for (std::string line; std::getline(file, line);) {
    const json drawn = json::parse(line);
    const auto name = drawn.at("base").get<std::string>();
    INFO(name << " " << ++folders[name] << ": " << line.substr(0, 1500));
    TemporaryFolder folder;
    write_folder(folder.path, drawn);
    const Tokenizer tokenizer(folder.path);
    CHECK(is_json(tokenizer) == (name != "t5" && name != "bart"));
    CHECK(tokenizer.size() == drawn.at("size"));
    for (const json& values : drawn.at("texts")) {
      const auto text = values.at(0).get<std::string>();
      INFO(values.at(0));
      const Ids ids = values.at(1).get<Ids>();
      CHECK(tokenizer.encode(text) == ids);
      CHECK(tokenizer.decode(ids) == values.at(2).get<std::string>());
      CHECK(tokenizer.decode(ids, false) == values.at(3).get<std::string>());
      CHECK(tokenizer.encode(text, {.max_length = 6, .truncation = true}) ==
            values.at(4).get<Ids>());
      srformer::TextStream stream(tokenizer);
      std::string streamed;
      for (const std::int32_t id : ids) streamed += stream.add(id);
      CHECK(streamed + stream.finish() == values.at(2).get<std::string>());
      ++texts;
    }
  }
  for (const char* name : {"unigram", "bpe", "suffix", "bytes", "t5", "bart"})
    CHECK(folders[name] >= 8);
  CHECK(texts > 600);
}

TEST_CASE("steps that are not known are refused by name, never passed over") {
  TemporaryFolder folder;
  const auto fails = [&](const char* file, const char* key, const json& value,
                         const std::string& why) {
    json whole = base(file);
    json& place = std::string_view(key) == "model" ? whole["model"] : whole;
    if (std::string_view(key) == "model")
      place.update(value);
    else
      place[key] = value;
    write_json_to(folder.path / "tokenizer.json", whole);
    const std::string said = message([&] { Tokenizer{folder.path}; });
    CHECK_THAT(said, ContainsSubstring("tokenizer.json"));
    CHECK_THAT(said, ContainsSubstring(why));
  };
  write_json_to(folder.path / "tokenizer_config.json",
                {{"tokenizer_class", "PreTrainedTokenizerFast"}});
  fails("unigram", "normalizer", {{"type", "ByteLevel"}}, "normalizer ByteLevel");
  fails("unigram", "normalizer",
        {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Odd"}}}}},
        "normalizer Odd");
  fails("unigram", "normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "!"}},
        "not base64");
  fails("unigram", "normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "QUJDRA=="}},
        "not whole");
  fails("unigram", "normalizer",
        {{"type", "Replace"}, {"pattern", {{"Regex", "(a"}}}, {"content", ""}}, "(a");
  fails("unigram", "pre_tokenizer", {{"type", "UnicodeScripts"}}, "pre_tokenizer UnicodeScripts");
  fails("unigram", "pre_tokenizer",
        {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "Odd"}}, "Odd");
  fails("unigram", "pre_tokenizer",
        {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "odd"}}, "odd");
  fails("unigram", "decoder", {{"type", "CTC"}}, "decoder CTC");
  fails("unigram", "post_processor", {{"type", "Odd"}}, "post_processor Odd");
  fails("unigram", "post_processor",
        {{"type", "BertProcessing"}, {"cls", {"<s>", 3}}, {"sep", {"</s>", 7000}}}, "id 7000");
  fails("unigram", "model", {{"type", "WordPiece"}}, "WordPiece");
  fails("unigram", "model", {{"unk_id", nullptr}}, "unk_id");
  fails("bpe", "model", {{"dropout", 0.1}}, "dropout");
  fails("bpe", "model", {{"unk_token", "<none>"}}, "<none>");
  fails("bpe", "model", {{"merges", {"a b c"}}}, "merge 0");
}

TEST_CASE("a class that would not make the steps of its tokenizer.json refuses them") {
  TemporaryFolder folder;
  const auto open = [&](const char* kind, const char* file, const json& replace) {
    write_json_to(folder.path / "tokenizer_config.json", {{"tokenizer_class", kind}});
    json whole = base(file);
    for (const auto& [key, value] : replace.items()) whole[key] = value;
    write_json_to(folder.path / "tokenizer.json", whole);
    return Tokenizer(folder.path);
  };
  const auto fails = [&](const char* kind, const char* file, const json& replace,
                         const std::string& why) {
    const std::string said = message([&] { open(kind, file, replace); });
    CHECK_THAT(said, ContainsSubstring(why));
    CHECK_THAT(said, ContainsSubstring("PreTrainedTokenizerFast"));
  };
  const json metaspace{{"type", "Metaspace"}, {"replacement", "\u2581"}},
      never{{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "never"}};
  const json plain{{"normalizer", nullptr}, {"pre_tokenizer", metaspace}};
  CHECK_FALSE(is_json(open("T5Tokenizer", "unigram", plain)));
  fails("T5TokenizerFast", "unigram", json::object(), "normalizer Nmt");
  fails("T5Tokenizer", "unigram", {{"normalizer", nullptr}, {"pre_tokenizer", never}},
        "pre_tokenizer Metaspace");
  fails("BartTokenizer", "bytes", {{"pre_tokenizer", metaspace}}, "GPT-2's expression");
  fails("RobertaTokenizer", "bytes", {{"normalizer", {{"type", "NFC"}}}}, "normalizer");
  fails("BartTokenizer", "unigram", json::object(), "no BPE model");
  for (const char* other : {"BertTokenizer", "MBartTokenizer", "XLMRobertaTokenizerFast"})
    fails(other, "unigram", json::object(), other);
  CHECK(is_json(open("KoBARTTokenizer", "unigram", json::object())));
  CHECK(is_json(open("PreTrainedTokenizerFast", "unigram", json::object())));
}

TEST_CASE("the class may be named in config.json, and null is no name") {
  TemporaryFolder folder;
  write_json_to(folder.path / "tokenizer.json", base("bytes"));
  write_json_to(folder.path / "tokenizer_config.json",
                {{"tokenizer_class", nullptr}, {"added_tokens_decoder", nullptr}});
  CHECK_FALSE(is_json(Tokenizer(folder.path)));
  write_json_to(folder.path / "config.json", {{"tokenizer_class", "PreTrainedTokenizerFast"}});
  CHECK(is_json(Tokenizer(folder.path)));
}

TEST_CASE("tokenizer.json goes before an older spiece.model, vocab.json and merges.txt") {
  TemporaryFolder folder;
  json whole = base("unigram");
  whole["normalizer"] = nullptr;
  write_json_to(folder.path / "tokenizer.json", whole);
  write_json_to(folder.path / "tokenizer_config.json",
                {{"tokenizer_class", "T5Tokenizer"}, {"extra_ids", 0}});
  const Tokenizer alone(folder.path);
  fs::copy(json_data / "t5/plain/spiece.model", folder.path);
  const Tokenizer both(folder.path);
  CHECK(both.size() == alone.size());
  CHECK(both.encode("The harbour opened") == alone.encode("The harbour opened"));
  CHECK(both.encode("The harbour opened") !=
        Tokenizer(json_data / "t5/plain").encode("The harbour opened"));
}

TEST_CASE("words of a tokenizer that is not known are named, with a folder of files it needs") {
  TemporaryFolder folder;
  std::ofstream(folder.path / "vocab.txt") << "[PAD]\n";
  CHECK_THROWS_MATCHES(Tokenizer(folder.path), srformer::io_error,
                       MessageMatches(ContainsSubstring("WordPiece")));
}

TEST_CASE("white space tokens of added_tokens.json are found before white space is normalised") {
  TemporaryFolder folder;
  fs::copy(json_data / "t5/plain/spiece.model", folder.path);
  write_json_to(folder.path / "added_tokens.json", {{"\n", 400}, {"  ", 401}});
  const Tokenizer tokenizer(folder.path);
  const Ids word = tokenizer.encode("the", {.add_special_tokens = false});
  Ids expected = word;
  for (const std::int32_t id : {401, 400}) {
    expected.push_back(id);
    expected.insert(expected.end(), word.begin(), word.end());
  }
  expected.insert(expected.end(), word.begin(), word.end());
  CHECK(tokenizer.encode("the  the\nthe the", {.add_special_tokens = false}) == expected);
}

TEST_CASE("time grows with the length of a text, not with its square") {
  constexpr std::size_t length = 1'000'000;
  const auto repeated = [](std::string_view part) {
    std::string text;
    while (text.size() < length) text += part;
    return text;
  };
  TemporaryFolder folder;
  json whole = base("bpe");
  whole["normalizer"] = {
      {"type", "Sequence"},
      {"normalizers",
       {{{"type", "NFKC"}},
        {{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", " "}}}}};
  write_json_to(folder.path / "tokenizer.json", whole);
  write_json_to(folder.path / "tokenizer_config.json",
                {{"tokenizer_class", "PreTrainedTokenizerFast"}});
  const auto begin = std::chrono::steady_clock::now();
  for (const fs::path& path : {json_data / "t5/plain", folder.path, bart}) {
    const Tokenizer tokenizer(path);
    for (const std::string_view part : {"harbour", "The ferry  lost three boats. ", "<",
                                        "<extra_id_0>", "e\u0301", "\u0301", " "}) {
      INFO(path << " " << part);
      const std::string text = repeated(part);
      const Ids ids = tokenizer.encode(text);
      CHECK(ids.size() < length * 4);
      CHECK(tokenizer.decode(ids).size() < length * 4);
    }
  }
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::minutes(4));
}
