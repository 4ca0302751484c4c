// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <srformer/io/hf_checkpoint.hpp>

#include "support/catch.hpp"
#include "temporary_folder.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;
using nlohmann::json;

namespace {

using Tensors = std::map<std::string, std::pair<std::vector<index_t>, std::vector<float>>>;

void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_tensors(const std::filesystem::path& path, const Tensors& tensors) {
  SafetensorsWriter writer;
  for (const auto& [name, tensor] : tensors)
    writer.add<float>(name, DType::f32, tensor.first, tensor.second);
  writer.write(path);
}

template <class Call>
std::string refusal_of(Call call) {
  try {
    call();
  } catch (const io_error& error) {
    return error.what();
  }
  return "accepted";
}

/// A checkpoint of two shards; 12 and 8 bytes.
void write_shards(const TemporaryFolder& folder, const json& index) {
  write_text(folder.path / "config.json", "{}");
  write_tensors(folder.path / "one.safetensors", {{"a", {{3}, {1, 2, 3}}}});
  write_tensors(folder.path / "two.safetensors", {{"b", {{2}, {4, 5}}}});
  write_text(folder.path / "model.safetensors.index.json", index.dump());
}

const json two_shards = {{"metadata", {{"total_size", 20}}},
                         {"weight_map", {{"a", "one.safetensors"}, {"b", "two.safetensors"}}}};

/// A folder with one file of weights.
struct Saved {
  TemporaryFolder folder;
  HfCheckpoint checkpoint;

  explicit Saved(const Tensors& tensors) : checkpoint((prepare(folder, tensors), folder.path)) {}

  static void prepare(const TemporaryFolder& folder, const Tensors& tensors) {
    write_text(folder.path / "config.json", "{}");
    write_tensors(folder.path / "model.safetensors", tensors);
  }
};

}  // namespace

TEST_CASE("a folder is opened and its tensors loaded", "[hf_checkpoint]") {
  const TemporaryFolder folder;
  write_text(folder.path / "config.json", R"({"d_model": 8})");
  write_tensors(folder.path / "model.safetensors",
                {{"w", {{2, 2}, {1, 2, 3, 4}}}, {"b", {{1}, {5}}}});
  const HfCheckpoint checkpoint(folder.path);
  CHECK(checkpoint.config().at("d_model") == 8);
  CHECK(checkpoint.generation_config() == json::object());
  CHECK(checkpoint.names() == std::vector<std::string>{"b", "w"});
  CHECK(checkpoint.file_of("w").read<float>("w").size() == 4);
  CHECK_THROWS_WITH(checkpoint.file_of("v"), ContainsSubstring("no tensor \"v\" among its 2"));

  std::vector<double> w(4), b(1), absent(3, -1.0);
  std::vector<TensorSlot> slots{host_slot("w", {}, {2, 2}, std::span(w)),
                                host_slot("b", {}, {1}, std::span(b)),
                                host_slot("absent", {}, {3}, std::span(absent))};
  slots[2].required = false;
  checkpoint.load(slots);
  CHECK(w == std::vector<double>{1, 2, 3, 4});
  CHECK(b == std::vector<double>{5});
  CHECK(absent == std::vector<double>(3, -1.0));

  write_text(folder.path / "generation_config.json", R"({"num_beams": 4})");
  CHECK(HfCheckpoint(folder.path).generation_config().at("num_beams") == 4);
}

TEST_CASE("a folder without a checkpoint is refused with what to do", "[hf_checkpoint]") {
  const TemporaryFolder folder;
  const auto open = [&] { return refusal_of([&] { HfCheckpoint checkpoint(folder.path); }); };
  CHECK_THAT(refusal_of([&] { HfCheckpoint checkpoint(folder.path / "none"); }),
             ContainsSubstring("none: is not a folder"));
  CHECK_THAT(open(), ContainsSubstring("holds no config.json"));
  write_text(folder.path / "config.json", "[]");
  CHECK_THAT(open(), ContainsSubstring("config.json: byte 0: is not a JSON object"));
  write_text(folder.path / "config.json", "{\"a\": 1,}");
  CHECK_THAT(open(), ContainsSubstring("config.json: byte 8: not valid JSON"));
  write_text(folder.path / "config.json", "");
  CHECK_THAT(open(), ContainsSubstring("config.json: byte 0: not valid JSON"));
  write_text(folder.path / "config.json", "{}");
  CHECK_THAT(open(),
             ContainsSubstring("neither model.safetensors nor model.safetensors.index.json"));
  write_text(folder.path / "pytorch_model.bin", "PK");
  CHECK_THAT(open(), ContainsSubstring("convert it with: python -c") &&
                         ContainsSubstring("save_pretrained('" + folder.path.string()));
  write_text(folder.path / "model.safetensors", "short");
  CHECK_THAT(open(), ContainsSubstring("model.safetensors: byte 5: ends within"));
}

TEST_CASE("shards are one checkpoint", "[hf_checkpoint]") {
  const TemporaryFolder folder;
  write_shards(folder, two_shards);
  std::vector<float> a(3), b(2);
  HfCheckpoint(folder.path)
      .load(std::vector<TensorSlot>{host_slot("a", {}, {3}, std::span(a)),
                                    host_slot("b", {}, {2}, std::span(b))});
  CHECK(a == std::vector<float>{1, 2, 3});
  CHECK(b == std::vector<float>{4, 5});

  json without_size = two_shards;
  without_size.erase("metadata");
  write_shards(folder, without_size);
  CHECK(HfCheckpoint(folder.path).names() == std::vector<std::string>{"a", "b"});

  // transformers prefers the single file too.
  write_tensors(folder.path / "model.safetensors", {{"c", {{1}, {9}}}});
  CHECK(HfCheckpoint(folder.path).names() == std::vector<std::string>{"c"});
}

TEST_CASE("an index that no folder can have is refused", "[hf_checkpoint]") {
  const auto open = [](const json& index, const char* removed = nullptr) {
    const TemporaryFolder folder;
    write_shards(folder, index);
    if (removed != nullptr) std::filesystem::remove(folder.path / removed);
    return refusal_of([&] { HfCheckpoint checkpoint(folder.path); });
  };
  REQUIRE(open(two_shards) == "accepted");
  CHECK_THAT(open(two_shards, "two.safetensors"),
             ContainsSubstring("shard two.safetensors of 2 is missing"));
  json index = two_shards;
  index["weight_map"]["a"] = "../one.safetensors";
  CHECK_THAT(open(index), ContainsSubstring("not a file of this folder"));
  index["weight_map"]["a"] = 1;
  CHECK_THAT(open(index), ContainsSubstring("names no file for tensor \"a\""));
  CHECK_THAT(open(json{{"metadata", {}}}), ContainsSubstring("no object \"weight_map\""));
}

TEST_CASE("what the shards hold counts, whatever the index says of it", "[hf_checkpoint]") {
  const auto load = [](const json& index, const std::vector<std::string>& aliases = {}) {
    const TemporaryFolder folder;
    write_shards(folder, index);
    std::vector<float> a(3), b(2);
    const std::vector<TensorSlot> slots{host_slot("a", aliases, {3}, std::span(a)),
                                        host_slot("b", {}, {2}, std::span(b))};
    std::vector<std::string> left_over;
    const std::string said = refusal_of([&] {
      left_over = HfCheckpoint(folder.path).load(slots, {.ignore_unexpected = {"old.*"}});
    });
    CHECK(left_over.empty());
    if (said == "accepted")
      CHECK((a == std::vector<float>{1, 2, 3} && b == std::vector<float>{4, 5}));
    return said;
  };
  json index = two_shards;
  for (const json& size : {json(24), json(20.0), json("20"), json(-1), json(nullptr)}) {
    index["metadata"]["total_size"] = size;
    CHECK(load(index) == "accepted");
  }
  for (const json& metadata : {json(nullptr), json("x"), json::array()}) {
    index["metadata"] = metadata;
    CHECK(load(index) == "accepted");
  }
  index = two_shards;
  index["weight_map"]["a"] = "two.safetensors";  // it is in one.safetensors, which b keeps open
  index["weight_map"]["b"] = "one.safetensors";
  CHECK(load(index) == "accepted");
  // a tied copy that the shards left out, and one that is passed over
  index = two_shards;
  index["weight_map"]["copy.of.a"] = "one.safetensors";
  index["weight_map"]["old.1"] = "two.safetensors";
  CHECK(load(index, {"copy.of.a"}) == "accepted");
  CHECK_THAT(load(index), ContainsSubstring("index.json: tensor \"copy.of.a\" is not in its shard "
                                            "one.safetensors; fetch"));
  // shards of which one is another's
  index = two_shards;
  index["weight_map"].erase("b");
  index["weight_map"]["a"] = "two.safetensors";
  CHECK_THAT(load(index), ContainsSubstring("tensor \"a\" is not in its shard two.safetensors"));
  index["weight_map"]["c"] = "two.safetensors";
  CHECK_THAT(load(index), ContainsSubstring("two.safetensors, nor are 1 more in theirs"));
}

TEST_CASE("of a tensor in two shards the last counts, and one that no slot takes is reported",
          "[hf_checkpoint]") {
  const TemporaryFolder folder;
  write_shards(folder, two_shards);
  write_tensors(folder.path / "two.safetensors",
                {{"a", {{3}, {7, 8, 9}}}, {"b", {{2}, {4, 5}}}, {"extra", {{1}, {0}}}});
  std::vector<float> a(3), b(2);
  const std::vector<std::string> left_over =
      HfCheckpoint(folder.path)
          .load(std::vector<TensorSlot>{host_slot("a", {}, {3}, std::span(a)),
                                        host_slot("b", {}, {2}, std::span(b))});
  CHECK(left_over == std::vector<std::string>{"extra"});
  CHECK(a == std::vector<float>{7, 8, 9});
}

TEST_CASE("all that does not fit is reported at once, and nothing is filled", "[hf_checkpoint]") {
  const Saved saved({{"right", {{1}, {7}}},
                     {"turned", {{2, 3}, {1, 2, 3, 4, 5, 6}}},
                     {"tied.a", {{1}, {1}}},
                     {"tied.b", {{1}, {2}}},
                     {"old.1.bias", {{1}, {1}}},
                     {"stranger", {{1}, {1}}},
                     {"late.leak", {{1}, {1}}}});
  std::vector<float> right{-1}, turned(6), tied(1), absent(1);
  const std::vector<TensorSlot> slots{
      host_slot("right", {}, {1}, std::span(right)),
      host_slot("turned", {}, {3, 2}, std::span(turned)),
      host_slot("tied.a", {"tied.b", "tied.c"}, {1}, std::span(tied)),
      host_slot("first.absent", {"alias.absent"}, {1}, std::span(absent)),
      host_slot("second.absent", {}, {1}, std::span(absent))};
  const std::string message = refusal_of([&] {
    saved.checkpoint.load(slots,
                          {.ignore_unexpected = {"old.*.bias"}, .refuse_unexpected = {"*.leak"}});
  });
  CHECK_THAT(message, ContainsSubstring("missing: first.absent, second.absent; "));
  CHECK_THAT(message, ContainsSubstring("not used by this model: late.leak; "));
  CHECK_THAT(message, ContainsSubstring("turned: expected [3,2], got [2,3]"));
  CHECK_THAT(message, ContainsSubstring("that differ: tied.a and tied.b"));
  CHECK_THAT(message, !ContainsSubstring("old.1.bias") && !ContainsSubstring("right") &&
                          !ContainsSubstring("stranger"));
  CHECK(right == std::vector<float>{-1});
}

TEST_CASE("tied weights are found under any of their names", "[hf_checkpoint]") {
  std::vector<float> shared(2);
  const std::vector<TensorSlot> slots{
      host_slot("shared.weight", {"encoder.weight", "lm_head.weight"}, {2}, std::span(shared))};
  const auto load = [&](const Tensors& tensors) {
    shared = {0, 0};
    Saved(tensors).checkpoint.load(slots);
    return shared;
  };
  const std::vector<float> x{1, 2};
  CHECK(load({{"shared.weight", {{2}, x}}}) == x);
  CHECK(load({{"lm_head.weight", {{2}, x}}}) == x);
  CHECK(load({{"lm_head.weight", {{2}, x}}, {"encoder.weight", {{2}, x}}}) == x);
  CHECK_THAT(refusal_of([&] {
               load({{"lm_head.weight", {{2}, x}}, {"encoder.weight", {{2}, {1, 3}}}});
             }),
             ContainsSubstring("encoder.weight and lm_head.weight"));
  // Untied weights are two slots, which may differ.
  std::vector<float> head(2);
  Saved({{"shared.weight", {{2}, x}}, {"lm_head.weight", {{2}, {3, 4}}}})
      .checkpoint.load(std::vector<TensorSlot>{
          host_slot("shared.weight", {"encoder.weight"}, {2}, std::span(shared)),
          host_slot("lm_head.weight", {}, {2}, std::span(head))});
  CHECK(head == std::vector<float>{3, 4});
}

TEST_CASE("copies may be stored in types of their own", "[hf_checkpoint]") {
  const std::vector<float> halves{0.5f, -1.25f}, tenths{0.1f, 0.2f};
  std::vector<float> got(2);
  const std::vector<TensorSlot> slots{host_slot("a", {"b", "c"}, {2}, std::span(got))};
  const auto load = [&](const std::vector<float>& values, DType second) {
    const TemporaryFolder folder;
    write_text(folder.path / "config.json", "{}");
    SafetensorsWriter writer;
    writer.add<float>("a", DType::f32, {2}, values);
    writer.add<float>("b", second, {2}, values);
    writer.add<float>("c", DType::f64, {2}, values);
    writer.write(folder.path / "model.safetensors");
    return refusal_of([&] { HfCheckpoint(folder.path).load(slots); });
  };
  CHECK(load(halves, DType::bf16) == "accepted");
  CHECK(got == halves);
  CHECK(load(tenths, DType::f64) == "accepted");
  // rounded they are copies all the same, and the widest counts
  for (const DType narrow : {DType::f16, DType::bf16}) {
    CHECK(load(tenths, narrow) == "accepted");
    CHECK(got == tenths);
  }
  const TemporaryFolder folder;
  write_text(folder.path / "config.json", "{}");
  const std::vector<float> other{0.1f, 0.25f};
  SafetensorsWriter writer;
  writer.add<float>("a", DType::f16, {2}, other);
  writer.add<float>("b", DType::f32, {2}, tenths);
  writer.write(folder.path / "model.safetensors");
  CHECK_THAT(refusal_of([&] { HfCheckpoint(folder.path).load(slots); }),
             ContainsSubstring("that differ: b and a; "));
}

TEST_CASE("a quantized tensor is refused by its type", "[hf_checkpoint]") {
  const TemporaryFolder folder;
  write_text(folder.path / "config.json", "{}");
  const std::vector<std::int64_t> ids{1, 2};
  SafetensorsWriter writer;
  writer.add_ids("w", {2}, ids);
  writer.write(folder.path / "model.safetensors");
  std::vector<float> w(2);
  std::vector<std::int64_t> same(2);
  CHECK_THAT(refusal_of([&] {
               HfCheckpoint(folder.path)
                   .load(std::vector<TensorSlot>{host_slot("w", {}, {2}, std::span(w))});
             }),
             ContainsSubstring("quantized or no weight's: w is I64; "));
  HfCheckpoint(folder.path).load(std::vector<TensorSlot>{host_slot("w", {}, {2}, std::span(same))});
  CHECK(same == ids);
}

TEST_CASE("names that a wrapper changed are reported in one line", "[hf_checkpoint]") {
  std::vector<float> x(1);
  std::vector<TensorSlot> slots;
  for (int i = 0; i < 40; ++i)
    slots.push_back(host_slot("encoder.layer." + std::to_string(i) + ".w", {}, {1}, std::span(x)));
  const auto load = [&](auto rename) {
    Tensors tensors;
    for (const TensorSlot& slot : slots)
      if (const std::string name = rename(slot.name); !name.empty()) tensors[name] = {{1}, {1}};
    return refusal_of([&] { Saved(tensors).checkpoint.load(slots); });
  };
  for (const std::string part : {"_orig_mod.", "module.", "student.model."}) {
    const std::string said = load([&](const std::string& name) { return part + name; });
    CHECK_THAT(said, ContainsSubstring("the names of 40 tensors hold \"" + part + "\""));
    CHECK(said.size() < 300);
  }
  CHECK_THAT(load([](const std::string& name) { return "encoder._orig_mod." + name.substr(8); }),
             ContainsSubstring("the names of 40 tensors hold \"_orig_mod.\""));
  // one tensor of another name is no wrapper
  CHECK_THAT(
      load([](const std::string& name) { return name.ends_with(".7.w") ? "a." + name : name; }),
      ContainsSubstring("the names of 1 tensors hold \"a.\""));
  const std::string none = load([](const std::string&) { return std::string("other"); });
  CHECK_THAT(none, ContainsSubstring("missing: encoder.layer.0.w, encoder.layer.1.w") &&
                       ContainsSubstring(" more, so nothing is there of encoder.layer; check"));
  CHECK(none.size() < 500);
  const std::string half =
      load([](const std::string& name) { return name.ends_with("1.w") ? std::string() : name; });
  CHECK_THAT(half, ContainsSubstring("missing: encoder.layer.1.w, encoder.layer.11.w, ") &&
                       !ContainsSubstring("nothing is there"));
}

TEST_CASE("a prefix that the base model lacks is optional", "[hf_checkpoint]") {
  const Saved saved({{"encoder.w", {{1}, {3}}}});
  std::vector<float> w(1);
  const std::vector<TensorSlot> slots{host_slot("model.encoder.w", {}, {1}, std::span(w))};
  CHECK_THAT(refusal_of([&] { saved.checkpoint.load(slots); }),
             ContainsSubstring("missing: model.encoder.w"));
  saved.checkpoint.load(slots, {.ignore_unexpected = {}, .optional_prefix = "model."});
  CHECK(w == std::vector<float>{3});
  w = {0};
  Saved({{"transformer.model.encoder.w", {{1}, {4}}}})
      .checkpoint.load(slots, {.other_prefix = "transformer."});
  CHECK(w == std::vector<float>{4});
}

TEST_CASE("patterns", "[hf_checkpoint]") {
  CHECK(matches_pattern("a.b", "a.b"));
  CHECK(matches_pattern("a.b", "a.*"));
  CHECK(matches_pattern("a.b", "*"));
  CHECK(matches_pattern("", "*"));
  CHECK(matches_pattern("a.0.b.1.c", "a.*.b.*.c"));
  CHECK(matches_pattern("abab", "*ab"));
  CHECK_FALSE(matches_pattern("a.b", "a"));
  CHECK_FALSE(matches_pattern("a.b", "*.c"));
  CHECK_FALSE(matches_pattern("a.b", ""));
}

TEST_CASE("fields of a configuration", "[hf_checkpoint]") {
  const json config = json::parse(
      R"({"size":64,"zero":0,"minus":-1,"rate":0.5,"whole":512.0,"on":true,"name":"relu","nothing":null,)"
      R"("list":[1,2],"big":3000000000,"huge":18446744073709551615})");
  const std::string path = "dir/config.json";
  CHECK(json_field<index_t>(config, "size", path) == 64);
  CHECK(json_field<int>(config, "minus", path) == -1);
  CHECK(json_field<double>(config, "rate", path) == 0.5);
  CHECK(json_field<float>(config, "size", path) == 64.0f);
  CHECK(json_field<bool>(config, "on", path));
  CHECK(json_field<std::string>(config, "name", path) == "relu");
  CHECK(json_field_or<index_t>(config, "absent", path, 7) == 7);
  CHECK(json_field_or<index_t>(config, "nothing", path, 7) == 7);
  CHECK(json_field_or<index_t>(config, "size", path, 7) == 64);
  CHECK_FALSE(json_optional<int>(config, "nothing", path).has_value());
  CHECK(json_size(config, "size", path) == 64);
  CHECK(json_size_or(config, "nothing", path, 3) == 3);
  CHECK(json_field<std::int64_t>(config, "big", path) == 3'000'000'000);

  CHECK_THROWS_WITH((json_field<index_t>(config, "d_model", path)),
                    ContainsSubstring("dir/config.json: has no \"d_model\", expected an integer"));
  CHECK_THROWS_WITH((json_field<index_t>(config, "nothing", path)),
                    ContainsSubstring("has no \"nothing\""));
  CHECK_THROWS_WITH((json_field<index_t>(config, "name", path)),
                    ContainsSubstring("\"name\" is \"relu\", expected an integer"));
  CHECK_THROWS_WITH((json_field<index_t>(config, "whole", path)), ContainsSubstring("is 512.0"));
  CHECK_THROWS_WITH((json_field<index_t>(config, "on", path)), ContainsSubstring("is true"));
  CHECK_THROWS_WITH((json_field<bool>(config, "size", path)),
                    ContainsSubstring("expected true or false"));
  CHECK_THROWS_WITH((json_field<double>(config, "on", path)),
                    ContainsSubstring("expected a number"));
  CHECK_THROWS_WITH((json_field<std::string>(config, "list", path)), ContainsSubstring("is [1,2]"));
  CHECK_THROWS_WITH((json_field<std::int32_t>(config, "big", path)),
                    ContainsSubstring("is 3000000000"));
  CHECK_THROWS_AS((json_field<std::int64_t>(config, "huge", path)), io_error);
  CHECK_THROWS_AS((json_field<std::uint32_t>(config, "minus", path)), io_error);
  CHECK_THROWS_WITH(json_field_or<int>(config, "name", path, 1),
                    ContainsSubstring("\"name\" is \"relu\""));
  CHECK_THROWS_WITH(json_size(config, "zero", path),
                    ContainsSubstring("\"zero\" is 0, expected at least 1"));
  CHECK_THROWS_WITH(json_size_or(config, "minus", path, 3), ContainsSubstring("at least 1"));
  CHECK_THROWS_WITH(json_size(config, "absent", path), ContainsSubstring("has no \"absent\""));
}

TEST_CASE("a checkpoint is saved and opened again", "[hf_checkpoint]") {
  const TemporaryFolder parent;
  const auto folder = parent.path / "new" / "checkpoint-10";
  const std::vector<float> x{1, 2, 3};
  SafetensorsWriter writer;
  writer.add<float>("x", DType::f32, {3}, x);
  const json config{{"d_model", 3}, {"name", "\u00e9"}};
  save_checkpoint(folder, writer, config, {{"num_beams", 2}});
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 3);
  CHECK(text_of(folder / "config.json") == "{\n  \"d_model\": 3,\n  \"name\": \"\u00e9\"\n}\n");
  const HfCheckpoint checkpoint(folder);
  CHECK(checkpoint.config() == config);
  CHECK(checkpoint.generation_config().at("num_beams") == 2);
  CHECK(checkpoint.file_of("x").metadata().at("format") == "pt");
  std::vector<float> y(3);
  checkpoint.load(std::vector<TensorSlot>{host_slot("x", {}, {3}, std::span(y))});
  CHECK(y == x);
}

TEST_CASE("a full disk leaves the whole old checkpoint", "[hf_checkpoint]") {
  const TemporaryFolder folder;
  const std::vector<float> x{1, 2, 3};
  SafetensorsWriter writer;
  writer.add<float>("x", DType::f32, {3}, x);
  save_checkpoint(folder.path, writer, {{"version", 1}}, {{"version", 1}});
  const std::string weights = text_of(folder.path / "model.safetensors");

  // Weights and generation_config.json fit, config.json does not.
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit small{1000, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  SafetensorsWriter other;
  other.add<float>("other", DType::f32, {3}, x);
  const json config{{"version", 2}, {"note", std::string(2000, 'x')}};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  const std::string message = refusal_of([&] {
    save_checkpoint(folder.path, other, config, {{"version", 2}});
  });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);

  CHECK_THAT(message, ContainsSubstring("config.json: cannot write") &&
                          ContainsSubstring("nothing was overwritten"));
  CHECK(folder.entries() == 3);
  CHECK(text_of(folder.path / "model.safetensors") == weights);
  CHECK(HfCheckpoint(folder.path).config().at("version") == 1);
  CHECK(HfCheckpoint(folder.path).generation_config().at("version") == 1);
}

TEST_CASE("JSON files are replaced whole", "[hf_checkpoint]") {
  const TemporaryFolder folder;
  write_json_file(folder.path / "a.json", {{"a", 1}});
  CHECK_THROWS_WITH(write_json_file(folder.path / "a.json", "\xff"),
                    ContainsSubstring("not UTF-8"));
  CHECK(read_json_file(folder.path / "a.json") == json{{"a", 1}});
  CHECK(folder.entries() == 1);
}
