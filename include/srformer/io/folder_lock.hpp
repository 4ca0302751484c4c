// SPDX-License-Identifier: Apache-2.0
// A folder that one process at a time writes into. The lock is the file srformer.lock in it, which says who holds it.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <srformer/io/file.hpp>

namespace srformer {

/// Who holds a lock, as its file says.
struct LockHolder {
  long process = 0;
  std::string host;
  std::string started;  ///< UTC, "2026-01-31T12:00:00Z"

  std::string text() const {
    return "process " + std::to_string(process) + " on " + one_line(host) + ", which started at " +
           one_line(started);
  }
};

namespace detail {

inline std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "an unknown host";
}

inline LockHolder this_process() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return {::getpid(), host_name(), text};
}

/// The holder that an open lock file names; nothing where it names none, as before the first write.
inline std::optional<LockHolder> read_holder(int file) {
  char text[1024];
  const ssize_t size = ::pread(file, text, sizeof text, 0);
  if (size <= 0) return std::nullopt;
  const auto json = nlohmann::json::parse(text, text + size, nullptr, false);
  const auto is_text = [&](const char* key) { return json.contains(key) && json[key].is_string(); };
  if (!json.is_object() || !json.contains("process") || !json["process"].is_number_integer() ||
      !is_text("host") || !is_text("started"))
    return std::nullopt;
  return LockHolder{json["process"].get<long>(), json["host"].get<std::string>(),
                    json["started"].get<std::string>()};
}

}  // namespace detail

/// Holds a folder, which it makes where there is none, from its construction to its destruction. The system lets go of
/// the lock (flock) when its process ends in any way; what a killed process leaves is the file, which the next one on
/// that host takes over. Destroyed, it removes the file, and the folders that it made if nothing was put there.
class FolderLock {
 public:
  static constexpr const char* file_name = "srformer.lock";

  /// Throws io_error, in one line that names folder and holder, where another process holds the folder, or a process of
  /// another host is said to; and where the folder cannot be made or written.
  explicit FolderLock(std::filesystem::path folder)
      : folder_(std::move(folder)), path_(folder_ / file_name) {
    try {
      while (!try_once()) close();
    } catch (...) {
      close();
      remove_made_folders();
      throw;
    }
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock() {
    ::unlink(path_.c_str());  // while it is held, so that it is this process's
    close();
    remove_made_folders();
  }

  const std::filesystem::path& folder() const { return folder_; }

  /// Whether the folder holds anything beside the lock.
  bool in_use() const {
    for (const auto& entry : std::filesystem::directory_iterator(folder_))
      if (entry.path().filename() != file_name) return true;
    return false;
  }

  /// One line for the user each: whose lock was taken over, and whether the file system has no locks. Empty as a rule.
  const std::vector<std::string>& notices() const { return notices_; }

 private:
  /// False where another process removed folder or file meanwhile.
  bool try_once() {
    notices_.clear();
    make_folder();
    file_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (file_ < 0 && errno == ENOENT) return false;
    if (file_ < 0)
      throw_system_error(folder_.string(), std::string("cannot create ") + file_name + " in it",
                         errno, "check that the folder is writable");
    const bool locked = lock();
    if (locked && !is_that_of_the_path()) return false;
    const auto holder = detail::read_holder(file_);
    if (!locked) refuse(holder);
    if (holder) take_over(*holder);
    write_holder();
    return true;
  }

  void make_folder() {
    namespace fs = std::filesystem;
    std::error_code error;
    if (fs::exists(folder_, error) && !fs::is_directory(folder_, error))
      throw io_error(folder_.string() + ": is not a folder; choose another name");
    std::vector<fs::path> missing;
    for (fs::path at = folder_; !at.empty() && !fs::exists(at, error); at = at.parent_path())
      missing.push_back(at);
    for (; !missing.empty(); missing.pop_back()) {
      if (fs::create_directory(missing.back(), error)) made_.push_back(missing.back());
      if (error)
        throw_system_error(folder_.string(), "cannot create the folder", error.value(),
                           "choose another folder");
    }
  }

  /// False where another process has the lock.
  bool lock() {
    while (::flock(file_, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno == EWOULDBLOCK) return false;
      unsupported_ = true;
      notices_.push_back("notice: " + folder_.string() + " is on a file system without locks (" +
                         std::system_category().message(errno) +
                         "); see to it that no other process writes there");
      return true;
    }
    return true;
  }

  /// Whether the locked file still has its name: its last holder removes it.
  bool is_that_of_the_path() const {
    struct stat open {};
    struct stat named {};
    return ::fstat(file_, &open) == 0 && ::stat(path_.c_str(), &named) == 0 &&
           open.st_dev == named.st_dev && open.st_ino == named.st_ino;
  }

  /// Refuses a holder of another host; one of this host has ended, as its lock was free.
  void take_over(const LockHolder& holder) {
    if (holder.host != detail::host_name()) {
      throw io_error(folder_.string() + ": is in use by " + holder.text() +
                     "; choose another folder, or remove " + path_.string() +
                     " if that process has ended");
    }
    const bool lives = ::kill(static_cast<pid_t>(holder.process), 0) == 0 || errno == EPERM;
    if (unsupported_ && lives) refuse(holder);
    notices_.push_back("notice: " + folder_.string() + " was locked by " + holder.text() +
                       " and ended without removing its lock; the lock is taken over");
  }

  [[noreturn]] void refuse(const std::optional<LockHolder>& holder) const {
    throw io_error(folder_.string() + ": is in use by " +
                   (holder ? holder->text() : "another process, which starts just now") +
                   "; wait for its end or choose another folder");
  }

  void write_holder() {
    const LockHolder self = detail::this_process();
    const std::string text =
        nlohmann::json{{"process", self.process}, {"host", self.host}, {"started", self.started}}
            .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) +
        "\n";
    if (::ftruncate(file_, 0) != 0 ||
        ::pwrite(file_, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
      const int error = errno;
      ::unlink(path_.c_str());
      throw_system_error(path_.string(), "cannot be written", error,
                         "free space or choose another folder");
    }
  }

  void close() noexcept {
    if (file_ >= 0) ::close(std::exchange(file_, -1));
  }

  void remove_made_folders() noexcept {
    std::error_code error;
    for (; !made_.empty(); made_.pop_back())
      if (!std::filesystem::remove(made_.back(), error)) return;
  }

  std::filesystem::path folder_, path_;
  std::vector<std::filesystem::path> made_;  ///< outermost first
  std::vector<std::string> notices_;
  int file_ = -1;
  bool unsupported_ = false;
};

}  // namespace srformer
