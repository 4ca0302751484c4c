// SPDX-License-Identifier: Apache-2.0
// The ids of a data set in a file that is mapped, so that data larger than memory trains and a second start reads
// nothing anew. The file is a safetensors file:
//
//   ids      I32 [n]        source and target of every example, one after the other
//   lengths  I32 [count,2]  how many ids of each
//
// with the key in its metadata: all that the ids depend on, as JSON text. A cache whose key differs is another one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <srformer/core/hash.hpp>
#include <srformer/io/dataset.hpp>
#include <srformer/io/hf_checkpoint.hpp>
#include <srformer/io/safetensors.hpp>

namespace srformer {

/// What tells that a file is the one it was: its path, size and time of change. Throws io_error for what is no file.
inline nlohmann::json file_identity(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0)
    throw_system_error(path.string(), "cannot open", errno, "check the path and its permissions");
  if (!S_ISREG(status.st_mode))
    throw io_error(path.string() + ": is no regular file, which a cache can be kept of");
  return {{"path", std::filesystem::canonical(path).string()},
          {"bytes", status.st_size},
          {"seconds", status.st_mtim.tv_sec},
          {"nanoseconds", status.st_mtim.tv_nsec}};
}

/// A file of ids, mapped: an ExampleStore.
class TokenCache {
 public:
  /// Throws io_error when the file is missing, damaged or no such cache. Reads the lengths, 8 bytes an example, and
  /// keeps as many.
  explicit TokenCache(const std::filesystem::path& path) : file_(path) {
    const TensorInfo &ids = file_.info("ids"), &lengths = file_.info("lengths");
    if (ids.dtype != DType::i32 || lengths.dtype != DType::i32 || ids.shape.size() != 1 ||
        lengths.shape.size() != 2 || lengths.shape[1] != 2 || !aligned(ids.bytes) ||
        !aligned(lengths.bytes))
      fail("is no cache of ids");
    ids_ = {reinterpret_cast<const std::int32_t*>(ids.bytes.data()),
            static_cast<std::size_t>(ids.count)};
    lengths_ = {reinterpret_cast<const ExampleLengths*>(lengths.bytes.data()),
                static_cast<std::size_t>(lengths.shape[0])};
    std::uint64_t end = 0;
    for (const ExampleLengths& its : lengths_) {
      if (its.source < 0 || its.target < 0) fail("has a length below zero");
      begins_.push_back(end);
      end += static_cast<std::uint64_t>(its.source) + static_cast<std::uint64_t>(its.target);
    }
    if (end != ids_.size()) fail("has lengths that do not add up to its ids");
    read_metadata();
  }

  /// As it was given to the writer.
  const std::string& key() const { return key_; }
  const std::vector<std::string>& notices() const { return notices_; }
  std::int32_t smallest_id() const { return smallest_; }
  std::int32_t largest_id() const { return largest_; }

  index_t size() const { return std::ssize(lengths_); }
  ExampleView operator[](index_t i) const {
    const auto at = static_cast<std::size_t>(i);
    const auto source = static_cast<std::size_t>(lengths_[at].source);
    const auto target = static_cast<std::size_t>(lengths_[at].target);
    const auto all = ids_.subspan(begins_[at], source + target);
    return {all.first(source), all.subspan(source)};
  }
  std::uint64_t fingerprint() const { return fingerprint_; }

 private:
  static bool aligned(std::span<const std::byte> bytes) {
    return reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(std::int32_t) == 0;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw io_error(file_.path() + ": " + what + "; remove it, and it is made again");
  }

  void read_metadata() {
    const auto text = [&](const char* name) {
      const auto found = file_.metadata().find(name);
      if (found == file_.metadata().end()) fail(std::string("has no ") + name);
      return found->second;
    };
    key_ = text("key");
    const nlohmann::json about = parse_json(text("about"), file_.path());
    fingerprint_ = json_field<std::uint64_t>(about, "fingerprint", file_.path());
    smallest_ = json_field<std::int32_t>(about, "smallest_id", file_.path());
    largest_ = json_field<std::int32_t>(about, "largest_id", file_.path());
    std::istringstream lines(json_field<std::string>(about, "notices", file_.path()));
    for (std::string line; std::getline(lines, line);) notices_.push_back(std::move(line));
  }

  SafetensorsFile file_;
  std::span<const std::int32_t> ids_;
  std::span<const ExampleLengths> lengths_;
  std::vector<std::uint64_t> begins_;
  std::string key_;
  std::vector<std::string> notices_;
  std::uint64_t fingerprint_ = 0;
  std::int32_t smallest_ = 0, largest_ = 0;
};

/// Writes a cache example by example; the file is there once finish() returns. Memory: 8 bytes an example.
class TokenCacheWriter {
 public:
  /// Throws io_error when the folder cannot be written.
  TokenCacheWriter(const std::filesystem::path& path, std::string key)
      : file_(path), key_(std::move(key)), header_size_(room_for(key_)) {
    file_.write(std::string(header_size_, ' '));
  }

  /// Throws io_error when the disk is full, and shape_error for an example without a source. A text to denoise has no
  /// target.
  void add(const ExampleView& example) {
    require(!example.source.empty(), "TokenCacheWriter",
            "example " + std::to_string(lengths_.size()) + " has no source");
    for (const auto& ids : {example.source, example.target}) {
      if (ids.empty()) continue;
      const auto [least, most] = std::ranges::minmax(ids);
      smallest_ = std::min(smallest_, least), largest_ = std::max(largest_, most);
      waiting_.insert(waiting_.end(), ids.begin(), ids.end());
    }
    fingerprint_.add(example);
    lengths_.push_back({static_cast<std::int32_t>(example.source.size()),
                        static_cast<std::int32_t>(example.target.size())});
    if (waiting_.size() >= std::size_t{1} << 18) write_ids();
  }

  /// `notices` are kept for those who open the cache.
  void finish(std::vector<std::string> notices) {
    write_ids();
    file_.write(std::as_bytes(std::span(lengths_)));
    std::string header = this->header(notices);
    while (header.size() > header_size_ - 8 && !notices.empty()) {
      notices.pop_back();
      header = this->header(notices);
    }
    header.resize(header_size_ - 8, ' ');
    const std::uint64_t length = header.size();
    file_.write_at(0, std::as_bytes(std::span(&length, 1)));
    file_.write_at(8, std::as_bytes(std::span(header)));
    file_.commit();
  }

 private:
  /// The eight bytes of the header's length and the header, which is written last.
  static std::size_t room_for(const std::string& key) {
    return (2 * key.size() + (std::size_t{1} << 16)) / 4096 * 4096;
  }

  void write_ids() {
    file_.write(std::as_bytes(std::span(waiting_)));
    count_ += waiting_.size();
    waiting_.clear();
  }

  std::string header(const std::vector<std::string>& notices) const {
    const std::uint64_t ids = count_ * sizeof(std::int32_t);
    std::string lines;
    for (const std::string& notice : notices) lines += one_line(notice, notice.size()) + '\n';
    const nlohmann::json about{{"fingerprint", fingerprint_.value()},
                               {"smallest_id", smallest_},
                               {"largest_id", largest_},
                               {"notices", lines}};
    const auto entry = [](std::uint64_t begin, std::uint64_t end, nlohmann::json shape) {
      return nlohmann::json{{"dtype", "I32"}, {"shape", shape}, {"data_offsets", {begin, end}}};
    };
    constexpr auto replace = nlohmann::json::error_handler_t::replace;
    const nlohmann::json all{
        {"__metadata__", {{"key", key_}, {"about", about.dump(-1, ' ', false, replace)}}},
        {"ids", entry(0, ids, {count_})},
        {"lengths",
         entry(ids, ids + lengths_.size() * sizeof(ExampleLengths), {lengths_.size(), 2})}};
    return all.dump(-1, ' ', false, replace);
  }

  ReplacementFile file_;
  std::string key_;
  std::size_t header_size_;
  std::vector<std::int32_t> waiting_;
  std::vector<ExampleLengths> lengths_;
  ExampleFingerprint fingerprint_;
  std::uint64_t count_ = 0;
  std::int32_t smallest_ = std::numeric_limits<std::int32_t>::max(), largest_ = 0;
};

/// A cache, and a sentence about where it came from.
struct OpenedCache {
  TokenCache cache;
  std::string notice;
};

/// The cache of `key` in `folder`, made by fill(writer), which returns the notices, where it is not there, is damaged or
/// `renew` says so. Several processes may do so at once. Throws io_error when it cannot be written, and what fill throws.
template <class Fill>
OpenedCache open_token_cache(const std::filesystem::path& folder, const nlohmann::json& key,
                             bool renew, Fill fill) {
  const std::string text = key.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  char name[40];
  std::snprintf(name, sizeof name, "tokens-%016llx.safetensors",
                static_cast<unsigned long long>(text_hash(text)));
  const std::filesystem::path path = folder / name;
  std::string why = "made";
  if (!renew && std::filesystem::exists(path)) {
    try {
      TokenCache found(path);
      if (found.key() == text) return {std::move(found), path.string() + ": read"};
      why = "made in place of that of other data";
    } catch (const io_error&) {
      why = "made again, as it was damaged or incomplete";
    }
  }
  create_folder(folder);
  TokenCacheWriter writer(path, text);
  writer.finish(fill(writer));
  return {TokenCache(path), path.string() + ": " + why};
}

}  // namespace srformer
