// SPDX-License-Identifier: Apache-2.0
// Files that were made to take long, to take all memory, or to lead elsewhere.
#include <sys/stat.h>

#include <fstream>
#include <srformer/io/gzip.hpp>
#include <srformer/io/hf_checkpoint.hpp>
#include <srformer/io/pairs.hpp>

#include "io/gzip_bytes.hpp"
#include "io/temporary_folder.hpp"
#include "support/cost.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using tests::counted_parts;
using tests::repeated;
using tests::require_proportion;

namespace {

namespace fs = std::filesystem;

void put_bytes(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// A safetensors file with this header and `values` zero bytes.
std::string tensors_file(const std::string& header, std::size_t values = 0) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header +
         std::string(values, '\0');
}

/// A folder whose weights are one tensor "a" in one.safetensors.
struct CheckpointFolder : TemporaryFolder {
  static constexpr float one = 1;
  CheckpointFolder() {
    put_bytes(path / "config.json", "{}");
    write_tensor(path / "one.safetensors");
  }
  static void write_tensor(const fs::path& file) {
    SafetensorsWriter writer;
    writer.add<float>("a", DType::f32, {1}, std::span(&one, 1));
    writer.write(file);
  }
  void index(const std::string& shard) const {
    const nlohmann::json json{{"weight_map", {{"a", shard}}}};
    put_bytes(path / "model.safetensors.index.json", json.dump());
  }
};

}  // namespace

TEST_CASE("Data files that are made to be costly take time and memory in proportion") {
  const TemporaryFolder folder;
  const auto number = [](std::size_t i) { return std::to_string(i); };
  const auto check = [&](const std::string& name, const std::string& what, auto make) {
    const std::string path = (folder.path / name).string();
    require_proportion(name + " " + what, make, [&](const std::string& bytes) {
      put_bytes(path, bytes);
      read_pairs(std::span(&path, 1), {.summary = SummaryColumn::if_there, .drop_empty = true});
    });
  };
  for (const char* name : {"x.jsonl", "x.json"}) {
    check(name, "brackets", [](std::size_t n) { return repeated(n, "["); });
    check(name, "records", [](std::size_t n) { return repeated(n, "{\"text\":"); });
    check(name, "empty objects", [](std::size_t n) { return repeated(n, "{}"); });
    check(name, "backslashes",
          [](std::size_t n) { return repeated(n, "\\", "{\"text\":\"", "\"}"); });
    check(name, "lists of records", [&](std::size_t n) {
      return counted_parts(
          n, [&](std::size_t i) { return "\"" + number(i) + "\":[{}],"; }, "{", "\"z\":[]}");
    });
  }
  check("x.jsonl", "empty lines", [](std::size_t n) { return repeated(n, "\n"); });
  check("x.jsonl", "a long line", [](std::size_t n) { return repeated(n, "a"); });
  check("x.jsonl", "halves of records", [](std::size_t n) { return repeated(n, "{\"a\":\n"); });
  check("x.jsonl", "escaped quotes",
        [](std::size_t n) { return repeated(n, "\\\"", "{\"text\":\""); });
  check("x.jsonl", "half surrogates",
        [](std::size_t n) { return repeated(n, "\\ud800", "{\"text\":\"", "\"}"); });
  check("x.jsonl", "numbers",
        [](std::size_t n) { return repeated(n, "9", "{\"text\":\"a\",\"b\":", "}"); });
  check("x.jsonl", "numbers that are no double",
        [](std::size_t n) { return repeated(n, "1e999,", "{\"text\":\"a\",\"b\":[", "0]}"); });
  check("x.jsonl", "names", [&](std::size_t n) {
    return counted_parts(
        n, [&](std::size_t i) { return "\"" + number(i) + "\":1,"; }, "{", "\"text\":\"a\"}");
  });
  check("x.jsonl", "the same name",
        [](std::size_t n) { return repeated(n, "\"text\":1,", "{", "\"text\":\"a\"}"); });
  check("x.jsonl", "records of other names", [&](std::size_t n) {
    return counted_parts(n, [&](std::size_t i) { return "{\"" + number(i) + "\":1}\n"; });
  });
  const std::string header = "text,summary\n";
  check("x.csv", "fields", [&](std::size_t n) { return repeated(n, ",", header); });
  check("x.csv", "columns", [](std::size_t n) { return repeated(n, ",", "text"); });
  check("x.csv", "columns with names", [&](std::size_t n) {
    return counted_parts(
        n, [&](std::size_t i) { return number(i) + ","; }, "", "text\na\n");
  });
  check("x.csv", "quotes", [&](std::size_t n) { return repeated(n, "\"", header); });
  check("x.csv", "lines in quotes",
        [&](std::size_t n) { return repeated(n, "\r", header + "\""); });
  check("x.csv", "rows of one field", [&](std::size_t n) { return repeated(n, "a\n", header); });
  check("x.csv", "empty rows", [&](std::size_t n) { return repeated(n, ",\n", header); });
}

TEST_CASE("What gzip made far smaller than any text is not unpacked") {
  const TemporaryFolder folder;
  const std::string path = (folder.path / "x.jsonl.gz").string();
  put_bytes(path, gzip_bytes(std::string(std::size_t{80} << 20, ' ')));
  std::size_t peak = 0;
  const auto read = [&] {
    CHECK_THROWS_WITH(read_pairs(std::span(&path, 1), {.decompress = gunzip}),
                      ContainsSubstring("more than 200 times as large") && ContainsSubstring(path));
  };
  peak = tests::peak_bytes(read);
#if !defined(__SANITIZE_ADDRESS__)
  CHECK(peak < std::size_t{300} << 20);
#endif
  // Small files may be as repetitive as they like.
  const std::string rows = repeated(std::size_t{1} << 20, "{\"text\":\"a\",\"summary\":\"b\"}\n");
  put_bytes(path, gzip_bytes(rows));
  CHECK(fs::file_size(path) < rows.size() / 200);
  CHECK(read_pairs(std::span(&path, 1), {.decompress = gunzip}).rows.size() == rows.size() / 27);
}

TEST_CASE("Errors of data files are one short line whatever the names in them are") {
  const TemporaryFolder folder;
  const std::string bad = std::string(400, 'n') + "\\n\\u0000\\u2028";
  const auto message = [&](const char* name, const std::string& bytes) -> std::string {
    const std::string path = (folder.path / name).string();
    put_bytes(path, bytes);
    try {
      read_pairs(std::span(&path, 1), {});
    } catch (const io_error& error) {
      return error.what();
    }
    return "";
  };
  for (const std::string& text :
       {message("x.json", "{\"" + bad + "\":[{}],\"" + bad + "2\":[{}]}"),
        message("x.json", "[{\"" + bad + "\":1,\"" + bad + "2\":1}]"),
        message("x.csv", "\"" + std::string(400, 'n') + "\n\",\"b\r\n\"\n1,2\n")}) {
    INFO(text);
    CHECK(!text.empty());
    CHECK(text.size() <= 500);
    CHECK(text.find_first_of(std::string("\n\r\0", 3)) == text.npos);
  }
}

TEST_CASE("Headers of tensors that are made to be costly take time and memory in proportion") {
  const auto check = [&](const std::string& what, auto make) {
    require_proportion(what, make, [](const std::string& bytes) {
      const SafetensorsFile file(std::as_bytes(std::span(bytes)), "weights");
      for (const std::string& name : file.names()) file.read<float>(name);
    });
  };
  const auto tensor = [](const std::string& name) {
    return "\"" + name + "\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},";
  };
  const std::string last = "\"__metadata__\":{}}";
  check("brackets", [](std::size_t n) { return tensors_file(repeated(n, "{\"a\":")); });
  check("tensors", [&](std::size_t n) {
    return tensors_file(counted_parts(
        n, [&](std::size_t i) { return tensor(std::to_string(i)); }, "{", last));
  });
  check("one name", [&](std::size_t n) {
    return tensors_file(counted_parts(
        n, [&](std::size_t) { return tensor("a"); }, "{", last));
  });
  check("extents", [](std::size_t n) {
    return tensors_file(
        repeated(n, "1,", "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4],\"shape\":[", "1]}}"),
        4);
  });
  check("metadata", [](std::size_t n) {
    return tensors_file(counted_parts(
        n, [](std::size_t i) { return "\"" + std::to_string(i) + "\":\"\","; },
        "{\"__metadata__\":{", "\"z\":\"\"}}"));
  });
  check("a long name",
        [](std::size_t n) { return tensors_file(repeated(n, "a", "{\"", "\":{}}")); });
}

TEST_CASE("An index of shards that is made to be costly takes time and memory in proportion") {
  const CheckpointFolder folder;
  const auto check = [&](const std::string& what, auto make) {
    require_proportion(what, make, [&](const std::string& text) {
      put_bytes(folder.path / "model.safetensors.index.json", text);
      float a = 0;
      HfCheckpoint(folder.path)
          .load(std::vector<TensorSlot>{host_slot("a", {"b"}, {1}, std::span(&a, 1))});
    });
  };
  check("tensors that are not there", [](std::size_t n) {
    return counted_parts(
        n, [](std::size_t i) { return "\"" + std::to_string(i) + "\":\"one.safetensors\","; },
        "{\"weight_map\":{", "\"a\":\"one.safetensors\"}}");
  });
  check("shards that are not there", [](std::size_t n) {
    return counted_parts(
        n,
        [](std::size_t i) {
          return "\"" + std::to_string(i) + "\":\"one.safetensors" + std::to_string(i) + "\",";
        },
        "{\"weight_map\":{", "\"a\":\"one.safetensors\"}}");
  });
}

TEST_CASE("Names of tensors that are made to be costly take time and memory in proportion") {
  const CheckpointFolder folder;
  const auto check = [&](const std::string& what, auto name) {
    require_proportion(
        what,
        [&](std::size_t n) {
          return tensors_file(counted_parts(
              n,
              [&](std::size_t i) {
                return "\"" + name(i) +
                       "\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},";
              },
              "{", "\"__metadata__\":{}}"));
        },
        [&](const std::string& bytes) {
          put_bytes(folder.path / "model.safetensors", bytes);
          std::vector<TensorSlot> slots;
          for (const char* slot : {"a", "b", "c"})
            slots.push_back(host_slot<float>(slot, {}, {1}, {}));
          HfCheckpoint(folder.path).load(slots, {.ignore_unexpected = {"*.version"}});
        });
  };
  check("one behind many prefixes", [](std::size_t i) { return std::to_string(i) + ".a"; });
  check("wrapped in many ways", [](std::size_t i) { return "module." + std::to_string(i); });
  check("dots", [](std::size_t i) { return std::string(100 + i, '.'); });
}

TEST_CASE("Shards are files of the folder that the index lies in") {
  const CheckpointFolder folder;
  fs::create_directory(folder.path / "below");
  CheckpointFolder::write_tensor(folder.path / "below" / "one.safetensors");
  const std::string outside = (folder.path / "one.safetensors").string();
  for (const std::string& shard :
       {std::string("../one.safetensors"), std::string("below/one.safetensors"),
        std::string("./one.safetensors"), std::string("below/../one.safetensors"),
        std::string(".."), std::string("."), std::string(""), std::string("/"), outside,
        std::string("one.safetensors\0/../x", 21), std::string("one.safetensors/")}) {
    folder.index(shard);
    INFO(shard);
    CHECK_THROWS_WITH(HfCheckpoint(folder.path), ContainsSubstring("is not a file of this folder"));
  }
  folder.index("one.safetensors");
  CHECK(HfCheckpoint(folder.path).contains("a"));
  // The caches of huggingface_hub are folders of links, which are followed.
  fs::create_symlink(folder.path / "below" / "one.safetensors", folder.path / "link.safetensors");
  folder.index("link.safetensors");
  CHECK(HfCheckpoint(folder.path).contains("a"));
}

TEST_CASE("Pipes and devices in a folder are not waited for and not read without end") {
  const CheckpointFolder folder;
  const auto refused = ContainsSubstring("is a pipe or a device");
  REQUIRE(::mkfifo((folder.path / "pipe").c_str(), 0600) == 0);
  fs::create_symlink("/dev/zero", folder.path / "zeros");
  for (const char* shard : {"pipe", "zeros"}) {
    folder.index(shard);
    CHECK_THROWS_WITH(HfCheckpoint(folder.path), refused);
  }
  for (const char* name :
       {"config.json", "generation_config.json", "model.safetensors.index.json"}) {
    folder.index("one.safetensors");
    put_bytes(folder.path / "config.json", "{}");
    fs::remove(folder.path / name);
    REQUIRE(::mkfifo((folder.path / name).c_str(), 0600) == 0);
    CHECK_THROWS_WITH(HfCheckpoint(folder.path), refused);
    fs::remove(folder.path / name);
  }
}

TEST_CASE("Saving replaces a symbolic link and not what it points to") {
  const TemporaryFolder folder, elsewhere;
  put_bytes(elsewhere.path / "precious", "before");
  for (const char* name : {"model.safetensors", "config.json", "generation_config.json"})
    fs::create_symlink(elsewhere.path / "precious", folder.path / name);
  save_checkpoint(folder.path, SafetensorsWriter(), nlohmann::json::object(),
                  nlohmann::json::object());
  std::ifstream file(elsewhere.path / "precious");
  CHECK(std::string(std::istreambuf_iterator<char>(file), {}) == "before");
  CHECK(elsewhere.entries() == 1);
  CHECK_FALSE(fs::is_symlink(folder.path / "config.json"));
}
