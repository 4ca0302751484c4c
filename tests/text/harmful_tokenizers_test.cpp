// SPDX-License-Identifier: Apache-2.0
// Tokenizers of others that were made to take long, to take all memory, or to lead elsewhere.
#include <sys/stat.h>

#include <cstring>
#include <srformer/text/tokenizer.hpp>

#include "io/temporary_folder.hpp"
#include "support/cost.hpp"
#include "text/text_files.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;
using tests::counted_parts;
using tests::repeated;
using tests::require_proportion;
using tests::write_file;
using Json = nlohmann::json;

namespace {

/// A tokenizer.json of pieces "a" and "\u2581", with these parts in place of its own.
Json tokenizer_with(const Json& parts) {
  Json json{{"added_tokens", Json::array()},
            {"normalizer", nullptr},
            {"pre_tokenizer", nullptr},
            {"post_processor", nullptr},
            {"decoder", nullptr},
            {"model",
             {{"type", "Unigram"},
              {"unk_id", 2},
              {"vocab", Json::array({Json::array({"<pad>", 0}), Json::array({"</s>", 0}),
                                     Json::array({"<unk>", 0}), Json::array({"a", -1}),
                                     Json::array({" ", -1})})}}}};
  if (!parts.is_null()) json.update(parts);
  return json;
}

const Json as_written{{"tokenizer_class", "PreTrainedTokenizerFast"}};

struct TokenizerFolder : TemporaryFolder {
  void put(const char* name, const Json& json) const { write_file(path / name, json.dump()); }
  void put_steps(const Json& parts) const {
    put("tokenizer.json", tokenizer_with(parts));
    put("tokenizer_config.json", as_written);
  }
  std::vector<std::int32_t> ids(std::string_view text) const {
    return Tokenizer(path).encode(text);
  }
};

Json sequence(const char* list, const Json& step, std::size_t count) {
  return {{"type", "Sequence"}, {list, std::vector<Json>(count, step)}};
}

Json replace_step(const std::string& from, const std::string& to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

/// The wire format of a SentencePiece model.
std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += char((value & 0x7f) | 0x80);
  return bytes += char(value);
}
std::string field(std::uint64_t number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
}
std::string field(std::uint64_t number, std::uint64_t value) {
  return varint(number << 3) + varint(value);
}
std::string piece(const std::string& text, std::uint64_t type = 1) {
  return field(1, field(1, text) + field(3, type));
}
const std::string three_pieces = piece("<pad>", 3) + piece("</s>", 3) + piece("<unk>", 2);
const std::string trainer_spec = field(
    2, field(40, 2) + field(41, std::uint64_t(-1)) + field(42, 1) + field(43, std::uint64_t(0)));
const std::string normalizer_spec = field(3, field(1, "identity"));

}  // namespace

TEST_CASE("Texts that are made to be costly take time and memory in proportion") {
  const TokenizerFolder folder;
  const Json token_a{{"id", 5}, {"content", "b"}, {"special", true}, {"rstrip", true}},
      token_space{{"id", 4},        {"content", " "}, {"normalized", false},
                  {"lstrip", true}, {"rstrip", true}, {"special", false}};
  const Json regex{{"type", "Split"},
                   {"pattern", {{"Regex", "a+b|\\s+(?!\\S)|\\s"}}},
                   {"behavior", "MergedWithPrevious"}};
  folder.put_steps(
      {{"added_tokens", Json::array({token_a, token_space})},
       {"normalizer",
        {{"type", "Sequence"}, {"normalizers", {{{"type", "NFKC"}}, {{"type", "Lowercase"}}}}}},
       {"pre_tokenizer",
        {{"type", "Sequence"},
         {"pretokenizers", {regex, {{"type", "Punctuation"}}, {{"type", "Metaspace"}}}}}}});
  const Tokenizer json(folder.path), bart(tests::bart_folder);
  const auto check = [](const Tokenizer& tokenizer, std::initializer_list<const char*> parts) {
    for (const char* part : parts)
      require_proportion(
          std::string("text of ") + part, [&](std::size_t n) { return repeated(n / 2, part); },
          [&](const std::string& text) { tokenizer.decode(tokenizer.encode(text)); });
  };
  check(json, {" ", "a", "b ", "a\n", "\u0301", "\ufdfa", "\u1112\u1161\u11ab"});
  check(bart, {" ", "a", "'", "<mask> "});
}

TEST_CASE("An expression that never ends is stopped") {
  const TokenizerFolder folder;
  for (const char* expression : {"(a+)+$", "(?:a|a)*b", ".*.*.*b"}) {
    folder.put_steps(
        {{"pre_tokenizer",
          {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}}}});
    const Tokenizer tokenizer(folder.path);
    const std::string text = std::string(5000, 'a') + "c";
    CHECK(tests::processor_seconds([&] {
            CHECK_THROWS_WITH(tokenizer.encode(text), ContainsSubstring("ICU stopped with"));
          }) < 20);
  }
}

TEST_CASE("Tokenizer files that are made to be costly take time and memory in proportion") {
  const auto number = [](std::size_t i) { return std::to_string(i); };
  const auto check = [&](const char* name, const std::string& what, auto make) {
    const TokenizerFolder folder;
    folder.put_steps({});
    require_proportion(name + (" " + what), make, [&](const std::string& bytes) {
      write_file(folder.path / name, bytes);
      const Tokenizer tokenizer(folder.path);
      tokenizer.decode(tokenizer.encode(std::string(1000, 'a')));
    });
  };
  const std::string whole = tokenizer_with({}).dump();
  const auto with = [&](const std::string& key, const std::string& begin, auto part) {
    // the key stands twice, and of such the last counts
    return [=](std::size_t n) {
      return counted_parts(n, part, whole.substr(0, whole.size() - 1) + ",\"" + key + "\":" + begin,
                           "null]}");
    };
  };
  check("tokenizer.json", "brackets", [](std::size_t n) { return repeated(n, "{\"model\":"); });
  check("tokenizer.json", "added tokens", with("added_tokens", "[", [&](std::size_t i) {
          return "{\"id\":" + number(i + 5) + ",\"content\":\"<" + number(i) + ">\"},";
        }));
  check("tokenizer.json", "the same added token", with("added_tokens", "[", [&](std::size_t) {
          return std::string("{\"id\":5,\"content\":\"<x>\"},");
        }));
  const std::string model = whole.substr(0, whole.size() - 1) + ",\"model\":";
  check("tokenizer.json", "pieces", [&](std::size_t n) {
    return counted_parts(
        n, [&](std::size_t i) { return "[\"" + number(i) + "\",-1],"; },
        model + "{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[", "[\"a\",-1]]}}");
  });
  check("tokenizer.json", "pieces of pieces", [&](std::size_t n) {
    std::string text = model + "{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[";
    for (std::size_t i = 1; text.size() + i < n; i = i % 1000 + 1)
      text += "[\"" + std::string(i, 'a') + "\",-1],";
    return text + "[\"b\",-1]]}}";
  });
  check("tokenizer.json", "merges", [&](std::size_t n) {
    return counted_parts(
        n, [](std::size_t) { return std::string("\"a a\","); },
        model + "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[", "\"a a\"]}}");
  });
  check("tokenizer.json", "tokens of bytes", [&](std::size_t n) {
    return counted_parts(
        n, [&](std::size_t i) { return "\"" + number(i) + "\":" + number(i + 1) + ","; },
        model + "{\"type\":\"BPE\",\"merges\":[],\"vocab\":{", "\"a\":0}}}");
  });
  check("tokenizer.json", "steps",
        with("normalizer", "{\"type\":\"Sequence\",\"normalizers\":[",
             [](std::size_t) { return std::string("{\"type\":\"NFKC\"},"); }));
  check("tokenizer_config.json", "special tokens", [&](std::size_t n) {
    return counted_parts(
        n, [&](std::size_t i) { return "\"<" + number(i) + ">\","; },
        "{\"tokenizer_class\":\"T5Tokenizer\",\"additional_special_tokens\":[", "\"z\"]}");
  });
  check("added_tokens.json", "tokens", [&](std::size_t n) {
    return counted_parts(
        n, [&](std::size_t i) { return "\"<" + number(i) + ">\":" + number(i + 5) + ","; }, "{",
        "\"a\":3}");
  });
}

TEST_CASE("Many names of tokens in two files at once take time in proportion") {
  const TokenizerFolder folder;
  folder.put("tokenizer.json", tokenizer_with({}));
  const auto name = [](std::size_t i) { return "\"<" + std::to_string(i) + ">\""; };
  require_proportion(
      "listed and added", [](std::size_t n) { return std::string(n / 2, ' '); },
      [&](const std::string& half) {
        write_file(folder.path / "added_tokens.json",
                   counted_parts(
                       half.size(),
                       [&](std::size_t i) { return name(i) + ":" + std::to_string(i + 5) + ","; },
                       "{", "\"a\":3}"));
        write_file(folder.path / "tokenizer_config.json",
                   counted_parts(
                       half.size(), [&](std::size_t i) { return name(i) + ","; },
                       "{\"tokenizer_class\":\"PreTrainedTokenizerFast\","
                       "\"additional_special_tokens\":[",
                       "\"z\"]}"));
        Tokenizer(folder.path).encode("a");
      });
}

TEST_CASE("SentencePiece models that are made to be costly take time and memory in proportion") {
  const TokenizerFolder folder;
  const auto check = [&](const std::string& what, auto part) {
    const std::string end = trainer_spec + normalizer_spec;
    require_proportion(
        what, [&](std::size_t n) { return counted_parts(n, part, three_pieces, end); },
        [&](const std::string& bytes) {
          write_file(folder.path / "spiece.model", bytes);
          folder.put("tokenizer_config.json", {{"additional_special_tokens", {"z"}}});
          Tokenizer(folder.path).encode("a b");
        });
  };
  check("pieces", [](std::size_t i) { return piece(std::to_string(i)); });
  check("control pieces", [](std::size_t i) { return piece(std::to_string(i), 3); });
  check("user-defined pieces", [](std::size_t i) { return piece(std::to_string(i), 4); });
  check("the same piece", [](std::size_t) { return piece("a"); });
  check("empty fields", [](std::size_t) { return field(9, ""); });
}

TEST_CASE("Steps that make texts longer and longer are stopped") {
  const TokenizerFolder folder;
  const auto normalizers = [&](const Json& step, std::size_t count) {
    folder.put_steps({{"normalizer", sequence("normalizers", step, count)}});
  };
  const std::string text(1000, 'a');
  normalizers(replace_step("a", "aa"), 30);
  CHECK_THROWS_WITH(folder.ids(text), ContainsSubstring("more than 100 times as long"));
  normalizers(replace_step("a", std::string(500'000, 'b')), 1);
  CHECK_THROWS_WITH(folder.ids(text), ContainsSubstring("more than 100 times as long"));
  normalizers(replace_step("a", "aa"), 6);
  CHECK(folder.ids(text).size() == 64'000);
  folder.put_steps({{"decoder", sequence("decoders", replace_step("a", "aa"), 30)}});
  CHECK_THROWS_WITH(Tokenizer(folder.path).decode(std::vector<std::int32_t>(1000, 3)),
                    ContainsSubstring("more than 100 times as long"));
  normalizers({{"type", "NFC"}}, 33);
  CHECK_THROWS_WITH(folder.ids(text), ContainsSubstring("more than 32 steps"));
  folder.put_steps(
      {{"pre_tokenizer",
        sequence("pretokenizers", {{"type", "ByteLevel"}, {"add_prefix_space", true}}, 2)}});
  CHECK_THROWS_WITH(folder.ids(text), ContainsSubstring("ByteLevel stands twice"));
  folder.put_steps(
      {{"pre_tokenizer", sequence("pretokenizers", {{"type", "WhitespaceSplit"}}, 40)}});
  CHECK_THROWS_WITH(folder.ids(text), ContainsSubstring("more than 32 steps"));
  folder.put_steps({{"decoder", sequence("decoders", {{"type", "Fuse"}}, 40)}});
  CHECK_THROWS_WITH(folder.ids(text), ContainsSubstring("more than 32 steps"));
}

TEST_CASE("A charsmap makes no more of a text than any needs, and nothing but UTF-8") {
  // "a" (0x61) becomes the text at 0: the root's child and its leaf.
  const auto charsmap = [](const std::string& texts) {
    std::vector<std::uint32_t> units(0x200);
    units[0] = 0x100 << 10;                       // children of the root begin at 0x100
    units[0x100 ^ 'a'] = 1 << 10 | 1 << 8 | 'a';  // with a leaf at ^1
    units[0x100 ^ 'a' ^ 1] = 1u << 31;            // which says 0
    std::string bytes(4, '\0');
    const auto size = std::uint32_t(4 * units.size());
    std::memcpy(bytes.data(), &size, 4);
    bytes.append(reinterpret_cast<const char*>(units.data()), size);
    return bytes + texts;
  };
  const TokenizerFolder folder;
  const auto put = [&](const std::string& texts) {
    write_file(folder.path / "spiece.model", three_pieces + piece("\u2581xy") + trainer_spec +
                                                 field(3, field(2, charsmap(texts))));
  };
  put(std::string("xy\0", 3));
  CHECK(folder.ids("a") == std::vector<std::int32_t>{3, 1});
  put(std::string(100'000, 'x') + '\0');
  CHECK_THROWS_WITH(folder.ids(std::string(1000, 'a')),
                    ContainsSubstring("more than 100 times as long"));
  put(std::string("\xff\0", 2));
  CHECK_THROWS_WITH(folder.ids("a"), ContainsSubstring("precompiled_charsmap is not whole"));
  put(std::string("\x80\xc3\0", 3));
  CHECK_THROWS_WITH(folder.ids("a"), ContainsSubstring("precompiled_charsmap is not whole"));
}

TEST_CASE("What would be looked for or repeated without end is refused") {
  const TokenizerFolder folder;
  const auto refused = [&](const Json& parts, const std::string& why) {
    folder.put_steps(parts);
    CHECK_THROWS_WITH(folder.ids("a a"), ContainsSubstring(why));
  };
  for (const char* replacement : {"", "ab", "\u2581\u2581"})
    refused({{"pre_tokenizer", {{"type", "Metaspace"}, {"replacement", replacement}}}},
            "expected one character");
  for (const char* content : {"", "ab"})
    refused({{"decoder", {{"type", "Strip"}, {"content", content}, {"start", 1}, {"stop", 0}}}},
            "expected one character");
  refused({{"decoder", {{"type", "Strip"}, {"content", "a"}, {"start", -1}, {"stop", 0}}}}, "-1");
  const Json ids = std::vector<int>(600, 1);
  const Json template_twice{{"type", "TemplateProcessing"},
                            {"single",
                             {{{"SpecialToken", {{"id", "x"}}}},
                              {{"SpecialToken", {{"id", "x"}}}},
                              {{"Sequence", {{"id", "A"}}}}}},
                            {"special_tokens", {{"x", {{"ids", ids}}}}}};
  refused({{"post_processor", template_twice}}, "more than 1000 ids around a text");
  refused({{"added_tokens", {{{"id", 5}, {"content", std::string(1001, 'a')}}}}},
          "has 1001 bytes, expected at most 1000");
  Json model = tokenizer_with({}).at("model");
  model.at("vocab").push_back({std::string(1001, 'a'), -1});
  refused({{"model", model}}, "has 1001 bytes, expected at most 1000");
  folder.put("tokenizer.json", tokenizer_with({}));
  for (const Json& count : {Json(10'001), Json(2'000'000'000), Json(-1), Json(1e300)}) {
    folder.put("tokenizer_config.json", {{"tokenizer_class", "T5Tokenizer"}, {"extra_ids", count}});
    CHECK_THROWS_AS(Tokenizer(folder.path), io_error);
  }
}

TEST_CASE(
    "SentencePiece models that libsentencepiece would follow astray are refused or made harmless") {
  const TokenizerFolder folder;
  const auto refused = [&](const std::string& model) {
    write_file(folder.path / "spiece.model", model);
    CHECK_THROWS_WITH(Tokenizer(folder.path), ContainsSubstring("not a whole SentencePiece model"));
  };
  const std::string rest = trainer_spec + normalizer_spec;
  refused(three_pieces + piece(std::string("a\0b", 3)) + rest);  // its trie ends strings at NUL
  refused(three_pieces + piece("\x96\x81") + rest);              // no UTF-8
  refused(three_pieces + "\x8a\x80\x80\x80\x70" + piece("a").substr(1) +
          rest);  // a field by 36 bits
  // The samples that it would segment when it loads are not handed on, nor the offsets of its charsmap.
  const std::string map(
      "\x10\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0", 21);
  write_file(folder.path / "spiece.model", three_pieces + piece("\u2581a") + trainer_spec +
                                               field(3, field(2, map)) +
                                               field(4, field(1, field(1, "aa") + field(2, "b"))));
  CHECK(folder.ids("a") == std::vector<std::int32_t>{3, 1});
}

TEST_CASE("Errors of tokenizer files are one short line whatever the names in them are") {
  const TokenizerFolder folder;
  const std::string bad = std::string(600, 'n') + "\n" + std::string(1, '\0') + "\u2028";
  const auto check = [&](const Json& whole, const Json& config) {
    folder.put("tokenizer.json", whole);
    folder.put("tokenizer_config.json", config);
    std::string text;
    try {
      Tokenizer(folder.path).encode("a");
    } catch (const io_error& error) {
      text = error.what();
    }
    INFO(text);
    CHECK(!text.empty());
    CHECK(text.size() <= 500);
    CHECK(text.find_first_of(std::string("\n\r\0", 3)) == text.npos);
  };
  for (const char* key : {"normalizer", "pre_tokenizer", "decoder", "post_processor"}) {
    check(tokenizer_with({{key, {{"type", bad}}}}), as_written);
    if (key != std::string("post_processor"))
      check(tokenizer_with({{key, {{"type", bad}}}}), {{"tokenizer_class", "T5Tokenizer"}});
  }
  check(tokenizer_with(
            {{"normalizer",
              {{"type", "Replace"}, {"pattern", {{"Regex", "(" + bad}}}, {"content", ""}}}}),
        as_written);
  check(tokenizer_with({{"model", {{"type", bad}}}}), as_written);
  check(tokenizer_with({{"added_tokens", {{{"id", 77}, {"content", bad}}}}}), as_written);
  check(tokenizer_with({}), {{"tokenizer_class", "BertTokenizer"}, {"eos_token", {{bad, 1}}}});
  check(tokenizer_with(
            {{"model", {{"type", "BPE"}, {"vocab", {{bad, 5}}}, {"merges", Json::array()}}}}),
        as_written);
  check(tokenizer_with({{"model",
                         {{"type", "BPE"},
                          {"unk_token", bad},
                          {"vocab", {{"a", 0}}},
                          {"merges", Json::array()}}}}),
        as_written);
  check(tokenizer_with(
            {{"model", {{"type", "BPE"}, {"vocab", {{"a", 0}}}, {"merges", {{bad, "a"}}}}}}),
        as_written);
  check(tokenizer_with({{"pre_tokenizer", {{"type", "Metaspace"}, {"prepend_scheme", bad}}}}),
        as_written);
  check(tokenizer_with({{"post_processor",
                         {{"type", "TemplateProcessing"},
                          {"special_tokens", Json::object()},
                          {"single", {{{"SpecialToken", {{"id", bad}}}}}}}}}),
        as_written);
}

TEST_CASE("A tokenizer's files are read from its folder alone, and nothing in them is run") {
  const TokenizerFolder folder, elsewhere;
  folder.put("tokenizer.json", tokenizer_with({}));
  const std::string outside = (elsewhere.path / "made").string();
  write_file(folder.path / "tokenization_x.py", "open('" + outside + "', 'w')\n");
  folder.put("tokenizer_config.json",
             {{"tokenizer_class", "PreTrainedTokenizerFast"},
              {"auto_map", {{"AutoTokenizer", {"tokenization_x.X", nullptr}}}},
              {"vocab_file", "/etc/passwd"},
              {"tokenizer_file", "../../tokenizer.json"},
              {"special_tokens_map_file", "/etc/passwd"},
              {"name_or_path", "/etc"}});
  CHECK(folder.ids("a") == std::vector<std::int32_t>{3});
  CHECK(elsewhere.entries() == 0);
  const TemporaryFolder copy;
  copy_tokenizer_files(folder.path, copy.path);
  CHECK(copy.entries() == 2);
}

TEST_CASE("Pipes and devices are no tokenizer files") {
  const auto refused = ContainsSubstring("is a pipe or a device");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "added_tokens.json",
                           "special_tokens_map.json", "config.json"}) {
    const TokenizerFolder folder;
    folder.put("tokenizer.json", tokenizer_with({}));
    std::filesystem::remove(folder.path / name);
    REQUIRE(::mkfifo((folder.path / name).c_str(), 0600) == 0);
    CHECK_THROWS_WITH(Tokenizer(folder.path), refused);
  }
  const TemporaryFolder folder;
  std::filesystem::create_symlink("/dev/zero", folder.path / "spiece.model");
  CHECK_THROWS_WITH(Tokenizer(folder.path), refused);
  CHECK_THROWS_WITH(copy_tokenizer_files(folder.path, folder.path), refused);
}
