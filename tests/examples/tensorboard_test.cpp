// SPDX-License-Identifier: Apache-2.0
// The file of events, read by the rules of TFRecord and protobuf.
#include "../../examples/tensorboard.hpp"

#include <cstring>
#include <map>
#include <vector>

#include "../io/temporary_folder.hpp"
#include "support/catch.hpp"

using srformer::program::TensorBoardFile;

namespace {

template <class X>
X little_endian_at(std::string_view bytes, std::size_t at) {
  REQUIRE(at + sizeof(X) <= bytes.size());
  X x;
  std::memcpy(&x, bytes.data() + at, sizeof x);
  return x;
}

/// The data of each record, whose checksums are right.
std::vector<std::string> records_of(const std::filesystem::path& path) {
  const srformer::MappedFile file(path);
  const auto masked = [](std::string_view bytes) {
    const std::uint32_t crc = srformer::program::detail::crc32c(bytes);
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
  };
  std::vector<std::string> records;
  for (std::string_view rest = file.text(); !rest.empty();) {
    const auto length = little_endian_at<std::uint64_t>(rest, 0);
    REQUIRE(little_endian_at<std::uint32_t>(rest, 8) == masked(rest.substr(0, 8)));
    const std::string_view data = rest.substr(12, length);
    REQUIRE(little_endian_at<std::uint32_t>(rest, 12 + length) == masked(data));
    records.emplace_back(data);
    rest.remove_prefix(16 + length);
  }
  return records;
}

/// The fields of a message, by number, numbers as eight bytes.
std::multimap<int, std::string> fields_of(std::string_view message) {
  std::multimap<int, std::string> fields;
  const auto number = [&] {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      REQUIRE(!message.empty());
      const auto byte = static_cast<unsigned char>(message.front());
      message.remove_prefix(1);
      value |= std::uint64_t{byte % 128u} << shift;
      if (byte < 128) return value;
    }
  };
  while (!message.empty()) {
    const std::uint64_t key = number();
    std::size_t size = key % 8 == 1 ? 8 : 4;
    if (key % 8 == 0) {
      const std::uint64_t value = number();
      fields.emplace(int(key / 8), std::string(reinterpret_cast<const char*>(&value), 8));
      continue;
    }
    if (key % 8 == 2) size = number();
    REQUIRE(size <= message.size());
    fields.emplace(int(key / 8), message.substr(0, size));
    message.remove_prefix(size);
  }
  return fields;
}

std::map<std::string, float> scalars_of(const std::string& event) {
  std::map<std::string, float> scalars;
  const auto fields = fields_of(event);
  REQUIRE(fields.count(5) == 1);
  for (const auto& [field, value] : fields_of(fields.find(5)->second)) {
    const auto parts = fields_of(value);
    scalars[parts.find(1)->second] = little_endian_at<float>(parts.find(2)->second, 0);
  }
  return scalars;
}

std::uint64_t step_of(const std::string& event) {
  return little_endian_at<std::uint64_t>(fields_of(event).find(2)->second, 0);
}

}  // namespace

TEST_CASE("events are written as TensorBoard reads them") {
  CHECK(srformer::program::detail::crc32c("123456789") == 0xE3069283u);  // RFC 3720's
  CHECK(srformer::program::detail::crc32c(std::string(32, '\0')) == 0x8A9136AAu);
  const TemporaryFolder folder;
  TensorBoardFile file(folder.path / "runs", 0);
  file.add({{"step", 5}, {"loss", 2.5}, {"lr", 0.001}, {"note", "text"}, {"leak", {0.5, 0.25}}});
  file.add({{"step", 300}, {"eval_rouge1", 31.5}, {"predict_loss", 2}});
  const auto records = records_of(file.path());
  REQUIRE(records.size() == 3);
  CHECK(fields_of(records[0]).find(3)->second == "brain.Event:2");
  CHECK(little_endian_at<double>(fields_of(records[1]).find(1)->second, 0) > 1.7e9);
  CHECK(step_of(records[1]) == 5);
  CHECK(scalars_of(records[1]) == std::map<std::string, float>{{"train/loss", 2.5f},
                                                               {"train/learning_rate", 0.001f},
                                                               {"train/leak/0", 0.5f},
                                                               {"train/leak/1", 0.25f}});
  CHECK(step_of(records[2]) == 300);
  CHECK(scalars_of(records[2]) ==
        std::map<std::string, float>{{"eval/rouge1", 31.5f}, {"predict/loss", 2.0f}});
}

TEST_CASE("a run that goes on says from which step its events count") {
  const TemporaryFolder folder;
  TensorBoardFile file(folder.path, 200);
  const auto records = records_of(file.path());
  REQUIRE(records.size() == 2);
  CHECK(step_of(records[1]) == 201);
  CHECK(fields_of(records[1]).find(7)->second == std::string("\x08\x01"));
  CHECK_THROWS_AS(TensorBoardFile(file.path(), 0), srformer::io_error);  // no folder
}
