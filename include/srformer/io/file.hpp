// SPDX-License-Identifier: Apache-2.0
// Files as the rest of io/ uses them: read as one span of bytes, replaced as a whole or not at all,
// and JSON whose errors say where.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/core/utf8.hpp>

namespace srformer {

/// Throws io_error "path: what: reason of the system; advice".
[[noreturn]] inline void throw_system_error(const std::string& path, std::string_view what,
                                            int error, std::string_view advice) {
  throw io_error(path + ": " + std::string(what) + ": " + std::system_category().message(error) +
                 "; " + std::string(advice));
}

/// Makes a folder and those above it, as far as they are missing. Throws io_error.
inline void create_folder(const std::filesystem::path& folder,
                          std::string_view advice = "choose another folder") {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw_system_error(folder.string(), "cannot create the folder", error.value(), advice);
}

/// The bytes of a file, read-only: a regular file is mapped (no copy, paged in on use), a pipe is
/// read to its end. The file must not be shortened meanwhile; replacing it by rename, as this
/// library does, is safe.
class MappedFile {
 public:
  MappedFile() = default;

  /// Throws io_error when the file is missing, unreadable or a folder; with `regular` also when it is a pipe or a device,
  /// which may have no end: what a folder of others holds under a fixed name is a file, or a link to one.
  explicit MappedFile(const std::filesystem::path& path, bool regular = false) {
    const std::string shown = path.string();
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | (regular ? O_NONBLOCK : 0));
    if (file < 0)
      throw_system_error(shown, "cannot open", errno, "check the path and its permissions");
    struct stat status {};
    int error = ::fstat(file, &status) == 0 ? 0 : errno;
    if (error == 0 && S_ISDIR(status.st_mode)) error = EISDIR;
    if (error == 0 && regular && !S_ISREG(status.st_mode)) {
      ::close(file);
      throw io_error(shown + ": is a pipe or a device, expected a file; put the file in its place");
    }
    if (error == 0 && S_ISREG(status.st_mode)) {
      size_ = static_cast<std::size_t>(status.st_size);
      if (size_ > 0) {
        mapping_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
        if (mapping_ == MAP_FAILED) {
          mapping_ = nullptr;
          error = errno;
        }
      }
    } else if (error == 0) {
      error = read_to_end(file);
    }
    ::close(file);
    if (error != 0) throw_system_error(shown, "cannot read", error, "give a readable file");
  }

  MappedFile(MappedFile&& other) noexcept { swap(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    swap(other);
    return *this;
  }
  ~MappedFile() {
    if (mapping_ != nullptr) ::munmap(mapping_, size_);
  }

  std::span<const std::byte> bytes() const {
    if (mapping_ == nullptr) return read_;
    return {static_cast<const std::byte*>(mapping_), size_};
  }

  std::string_view text() const {
    return {reinterpret_cast<const char*>(bytes().data()), bytes().size()};
  }

  /// Takes the pages of `part`, which lies in bytes(), out of this process's memory; they are paged in
  /// again where they are read. Does nothing to what was not mapped.
  void forget(std::span<const std::byte> part) const {
    if (mapping_ == nullptr || part.empty()) return;
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const auto first = static_cast<std::size_t>(part.data() - bytes().data());
    const std::size_t begin = first / page * page;
    ::madvise(static_cast<std::byte*>(mapping_) + begin, first + part.size() - begin,
              MADV_DONTNEED);  // advice: may be refused
  }

 private:
  void swap(MappedFile& other) noexcept {
    std::swap(mapping_, other.mapping_);
    std::swap(size_, other.size_);
    std::swap(read_, other.read_);
  }

  int read_to_end(int file) {
    constexpr std::size_t step = std::size_t{1} << 16;
    std::size_t used = 0;
    for (;;) {
      read_.resize(used + step);
      const ssize_t got = ::read(file, read_.data() + used, step);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return errno;
      used += static_cast<std::size_t>(got);
      if (got == 0) break;
    }
    read_.resize(used);
    return 0;
  }

  void* mapping_ = nullptr;
  std::size_t size_ = 0;
  std::vector<std::byte> read_;
};

/// Writes `target` aside as target.tmp-<pid>; commit() flushes it to the disk and renames it over
/// the target, so that a reader sees the old file or the new one. Destroyed without commit(), it
/// leaves the target untouched and nothing aside.
class ReplacementFile {
 public:
  /// Throws io_error when the folder cannot be written or the target is a folder or device.
  explicit ReplacementFile(std::filesystem::path target)
      : target_(std::move(target)),
        aside_(target_.string() + ".tmp-" + std::to_string(::getpid())) {
    struct stat status {};
    if (::stat(target_.c_str(), &status) == 0 && !S_ISREG(status.st_mode))
      throw io_error(target_.string() +
                     ": is a folder or device, which a file cannot replace; choose another name");
    file_ = ::open(aside_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (file_ < 0)
      throw_system_error(target_.string(), "cannot create " + aside_, errno,
                         "check that the folder exists and is writable");
    exists_ = true;
  }

  ReplacementFile(ReplacementFile&& other) noexcept
      : target_(std::move(other.target_)),
        aside_(std::move(other.aside_)),
        file_(std::exchange(other.file_, -1)),
        exists_(std::exchange(other.exists_, false)),
        written_(other.written_) {}
  ReplacementFile& operator=(ReplacementFile&&) = delete;

  ~ReplacementFile() { discard(); }

  const std::filesystem::path& target() const { return target_; }

  /// Appends; throws io_error, and removes what is aside, when the disk is full or the file grows
  /// too large.
  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t done = ::write(file_, bytes.data(), bytes.size());
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) fail("cannot write", done < 0 ? errno : ENOSPC);
      bytes = bytes.subspan(static_cast<std::size_t>(done));
      written_ += static_cast<std::uint64_t>(done);
    }
  }

  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  /// Overwrites what was written at byte `first`; throws as write.
  void write_at(std::uint64_t first, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t done = ::pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(first));
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) fail("cannot write", done < 0 ? errno : ENOSPC);
      bytes = bytes.subspan(static_cast<std::size_t>(done));
      first += static_cast<std::uint64_t>(done);
    }
  }

  /// Brings every byte to the disk; after it, commit() needs no space.
  void flush() {
    if (file_ < 0) return;
    if (::fsync(file_) != 0) fail("cannot flush", errno);
    if (::close(std::exchange(file_, -1)) != 0) fail("cannot close", errno);
  }

  /// Replaces the target.
  void commit() {
    flush();
    if (::rename(aside_.c_str(), target_.c_str()) != 0) fail("cannot rename", errno);
    exists_ = false;
    const std::filesystem::path parent = target_.parent_path();
    const int folder = ::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_CLOEXEC);
    const int error = folder >= 0 && ::fsync(folder) == 0 ? 0 : errno;
    if (folder >= 0) ::close(folder);
    if (error != 0 && error != EINVAL && error != EACCES)
      throw_system_error(target_.string(), "was replaced, but its folder cannot be flushed", error,
                         "check the disk");
  }

 private:
  void discard() noexcept {
    if (file_ >= 0) ::close(std::exchange(file_, -1));
    if (std::exchange(exists_, false)) ::unlink(aside_.c_str());
  }

  [[noreturn]] void fail(std::string_view what, int error) {
    discard();
    throw_system_error(target_.string(),
                       std::string(what) + " " + aside_ + " at byte " + std::to_string(written_),
                       error, "nothing was overwritten; free space or choose another folder");
  }

  std::filesystem::path target_;
  std::string aside_;
  int file_ = -1;
  bool exists_ = false;
  std::uint64_t written_ = 0;
};

/// Replaces several files together: every one is on the disk before the first is renamed, so that a
/// full disk changes none, and an interruption between two renames leaves whole files only. They
/// are renamed in the order given.
inline void commit_together(std::span<ReplacementFile> files) {
  for (ReplacementFile& file : files) file.flush();
  for (ReplacementFile& file : files) file.commit();
}

/// Names on one line, as many as fit in `most` bytes, one at least, and how many more there are.
inline std::string listed(std::span<const std::string> names, std::size_t most = 200) {
  std::string list;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::string name = one_line(names[i], most);
    if (i > 0 && list.size() + name.size() > most)
      return list + " and " + std::to_string(names.size() - i) + " more";
    list += (i > 0 ? ", " : "") + name;
  }
  return list;
}

/// A parser's reason without its own prefix and without the text it had read, which may be the
/// whole line.
inline std::string json_reason(const nlohmann::json::exception& error) {
  std::string reason = error.what();
  reason.resize(std::min(reason.size(), reason.find("; last read")));
  if (const auto bracket = reason.find("] ");
      reason.starts_with("[json") && bracket != std::string::npos)
    reason.erase(0, bracket + 2);
  if (const auto colon = reason.find(": ");
      reason.starts_with("parse error") && colon != std::string::npos)
    reason.erase(0, colon + 2);
  if (reason.size() > 200) reason.resize(200);
  return reason;
}

namespace detail {

/// Byte at which brackets nest deeper than any file here has them, or the size: json::dump and its kin call themselves
/// for each.
inline std::size_t first_too_deep(std::string_view json) {
  constexpr int deepest = 100;
  int depth = 0;
  bool string = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (string) {
      if (c == '\\')
        ++i;
      else
        string = c != '"';
    } else if (c == '"') {
      string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > deepest) return i;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return json.size();
}

}  // namespace detail

/// Parses `text`, which stands at byte `offset` of `path`; throws io_error with path, byte and
/// reason. O(bytes): a callback of the parser would look at all members of an object after each of
/// them.
inline nlohmann::json parse_json(std::string_view text, const std::string& path,
                                 std::size_t offset = 0) {
  if (const std::size_t deep = detail::first_too_deep(text); deep < text.size())
    throw io_error(path + ": byte " + std::to_string(offset + deep) +
                   ": nests deeper than 100 brackets; correct it there or fetch the file again");
  if (const std::size_t nul = text.find('\0'); nul != text.npos)  // where the parser stops
    throw io_error(path + ": byte " + std::to_string(offset + nul) +
                   ": not valid JSON: a NUL; correct it there or fetch the file again");
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    const std::size_t byte = offset + (error.byte > 0 ? error.byte - 1 : 0);
    throw io_error(path + ": byte " + std::to_string(byte) + ": not valid JSON: " +
                   json_reason(error) + "; correct it there or fetch the file again");
  } catch (const nlohmann::json::out_of_range& error) {
    throw io_error(path + ": not valid JSON: " + json_reason(error) +
                   "; correct it or fetch the file again");
  }
}

}  // namespace srformer
