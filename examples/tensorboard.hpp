// SPDX-License-Identifier: Apache-2.0
// A file of events as TensorBoard reads it: TFRecords that each hold an Event in protobuf's encoding.
// https://github.com/tensorflow/tensorboard/tree/master/tensorboard/compat/proto
#pragma once

#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <srformer/io/file.hpp>
#include <string>
#include <string_view>

namespace srformer::program {

namespace detail {

/// CRC-32C (Castagnoli) of some bytes.
inline std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = ~std::uint32_t{0};
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc % 2 == 1 ? 0x82F63B78u : 0u);
  }
  return ~crc;
}

/// A message in protobuf's encoding.
class Message {
 public:
  Message& varint(int field, std::uint64_t value) {
    key(field, 0);
    number(value);
    return *this;
  }
  Message& real(int field, double value) {
    key(field, 1);
    return append(std::bit_cast<std::array<char, 8>>(value));
  }
  Message& real32(int field, float value) {
    key(field, 5);
    return append(std::bit_cast<std::array<char, 4>>(value));
  }
  Message& text(int field, std::string_view value) {
    key(field, 2);
    number(value.size());
    bytes_ += value;
    return *this;
  }
  Message& message(int field, const Message& value) { return text(field, value.bytes_); }
  const std::string& bytes() const { return bytes_; }

 private:
  void key(int field, int wire) { number(static_cast<std::uint64_t>(field << 3 | wire)); }
  void number(std::uint64_t value) {
    for (; value >= 128; value >>= 7) bytes_ += static_cast<char>(value % 128 + 128);
    bytes_ += static_cast<char>(value);
  }
  template <std::size_t N>
  Message& append(const std::array<char, N>& little_endian) {
    bytes_.append(little_endian.data(), N);
    return *this;
  }

  std::string bytes_;
};

}  // namespace detail

/// The scalars of a run for TensorBoard, each event on the disk once it is added. Runs that go on write another file into
/// the same folder; TensorBoard then drops what an earlier file has of later steps.
class TensorBoardFile {
 public:
  /// Makes the folder. Throws io_error where it cannot be written.
  ///   step   of the run so far; above 0 where it goes on
  TensorBoardFile(const std::filesystem::path& folder, std::int64_t step) {
    create_folder(folder, "choose another --logging_dir");
    char host[256] = {};
    if (::gethostname(host, sizeof(host) - 1) != 0) host[0] = '\0';
    path_ = folder / ("events.out.tfevents." + std::to_string(static_cast<std::int64_t>(now())) +
                      "." + host + "." + std::to_string(::getpid()) + ".0");
    file_ = std::fopen(path_.c_str(), "ae");
    if (file_ == nullptr)
      throw_system_error(path_.string(), "cannot open", errno, "check the folder's permissions");
    write(detail::Message().real(wall_time, now()).text(file_version, "brain.Event:2"));
    if (step > 0) {
      const auto start = detail::Message().varint(1, 1);  // SessionLog.status = START
      write(event(step + 1).message(session_log, start));
    }
  }
  TensorBoardFile(const TensorBoardFile&) = delete;
  TensorBoardFile& operator=(const TensorBoardFile&) = delete;
  ~TensorBoardFile() { std::fclose(file_); }

  const std::filesystem::path& path() const { return path_; }

  /// The numbers of an entry of metrics.jsonl by the names that transformers gives them: "eval_loss" is eval/loss, "lr"
  /// train/learning_rate, and all others train/NAME; lists are NAME/0, NAME/1, ... Texts are passed over.
  void add(const nlohmann::ordered_json& entry) {
    detail::Message summary;
    const auto add = [&](const std::string& tag, double value) {
      summary.message(1, detail::Message().text(1, tag).real32(2, static_cast<float>(value)));
    };
    for (const auto& [name, value] : entry.items()) {
      if (name == "step") continue;
      if (value.is_number()) add(tag_of(name), value.get<double>());
      if (!value.is_array()) continue;
      for (std::size_t i = 0; i < value.size(); ++i)
        if (value[i].is_number())
          add(tag_of(name) + "/" + std::to_string(i), value[i].get<double>());
    }
    write(event(entry.value("step", std::int64_t{0})).message(summary_field, summary));
  }

 private:
  // Fields of Event.
  static constexpr int wall_time = 1, step_field = 2, file_version = 3, summary_field = 5,
                       session_log = 7;

  static double now() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  }
  static detail::Message event(std::int64_t step) {
    return detail::Message()
        .real(wall_time, now())
        .varint(step_field, static_cast<std::uint64_t>(step));
  }

  static std::string tag_of(const std::string& name) {
    for (const std::string part : {"eval", "predict"})
      if (name.starts_with(part + "_")) return part + "/" + name.substr(part.size() + 1);
    return "train/" + (name == "lr" ? "learning_rate" : name);
  }

  static std::string masked_crc(std::string_view bytes) {
    const std::uint32_t crc = detail::crc32c(bytes);
    return little_endian((crc >> 15 | crc << 17) + 0xA282EAD8u);
  }
  template <class X>
  static std::string little_endian(X x) {
    const auto bytes = std::bit_cast<std::array<char, sizeof(X)>>(x);
    return {bytes.data(), bytes.size()};
  }

  void write(const detail::Message& event) {
    const std::string& data = event.bytes();
    const std::string length = little_endian(std::uint64_t{data.size()});
    const std::string record = length + masked_crc(length) + data + masked_crc(data);
    if (std::fwrite(record.data(), 1, record.size(), file_) != record.size() ||
        std::fflush(file_) != 0)
      throw_system_error(path_.string(), "cannot write", errno, "free space and resume");
  }

  std::filesystem::path path_;
  std::FILE* file_ = nullptr;
};

}  // namespace srformer::program
