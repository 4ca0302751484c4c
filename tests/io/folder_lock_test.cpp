// SPDX-License-Identifier: Apache-2.0
#include <srformer/io/folder_lock.hpp>

#include <sched.h>
#include <sys/wait.h>

#include <fstream>

#include "support/catch.hpp"
#include "temporary_folder.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

namespace fs = std::filesystem;

std::string refusal_of_lock(const fs::path& folder) {
  try {
    const FolderLock lock(folder);
  } catch (const io_error& error) {
    return error.what();
  }
  return "";
}

void write_lock_file(const fs::path& folder, const std::string& text) {
  std::ofstream(folder / FolderLock::file_name) << text;
}

std::string lock_text(long process, const std::string& host) {
  return nlohmann::json{{"process", process}, {"host", host}, {"started", "2026-01-31T12:00:00Z"}}
      .dump();
}

/// The id of a process that has ended.
long ended_process() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  return child;
}

/// Runs `body` in `count` processes at once; the sum of what they return as their exit codes.
template <class Body>
int sum_over_processes(int count, Body body) {
  std::vector<pid_t> children;
  for (int i = 0; i < count; ++i) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(body());
    children.push_back(child);
  }
  int sum = 0;
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    sum += WIFEXITED(status) ? WEXITSTATUS(status) : 100;
  }
  return sum;
}

}  // namespace

TEST_CASE("a locked folder is refused in one line that names folder and holder") {
  const TemporaryFolder temporary;
  const fs::path folder = temporary.path / "out";
  {
    const FolderLock lock(folder);
    CHECK(lock.notices().empty());
    CHECK_FALSE(lock.in_use());
    const std::string text = refusal_of_lock(folder);
    CHECK_THAT(text, ContainsSubstring(folder.string() + ": is in use by process " +
                                       std::to_string(::getpid()) + " on "));
    CHECK_THAT(text, ContainsSubstring(detail::host_name()));
    CHECK(std::ranges::count(text, '\n') == 0);
    CHECK(fs::exists(folder / FolderLock::file_name));
    std::ofstream(folder / "file") << "x";
    CHECK(lock.in_use());
  }
  CHECK_FALSE(fs::exists(folder / FolderLock::file_name));
  CHECK(fs::exists(folder / "file"));
  CHECK(refusal_of_lock(folder).empty());
}

TEST_CASE("a lock removes the folders that it made where nothing was put there") {
  const TemporaryFolder temporary;
  for (const char* name : {"a", "a/b/c", "a/"}) {
    { const FolderLock lock(temporary.path / name); }
    CHECK(temporary.entries() == 0);
  }
  fs::create_directory(temporary.path / "kept");
  { const FolderLock lock(temporary.path / "kept/inner"); }
  CHECK(fs::exists(temporary.path / "kept"));
  CHECK_FALSE(fs::exists(temporary.path / "kept/inner"));
  { const FolderLock lock(temporary.path / "kept"); }
  CHECK(fs::exists(temporary.path / "kept"));
}

TEST_CASE("the lock of a process that has ended on this host is taken over with a notice") {
  const TemporaryFolder temporary;
  const long ended = ended_process();
  write_lock_file(temporary.path, lock_text(ended, detail::host_name()));
  const FolderLock lock(temporary.path);
  REQUIRE(lock.notices().size() == 1);
  CHECK_THAT(lock.notices()[0], ContainsSubstring("process " + std::to_string(ended) + " on "));
  CHECK_THAT(lock.notices()[0], ContainsSubstring("taken over"));
  CHECK_THAT(refusal_of_lock(temporary.path),
             ContainsSubstring("process " + std::to_string(::getpid()) + " on "));
}

TEST_CASE("an id that another process has since been given does not hold a lock") {
  const TemporaryFolder temporary;
  write_lock_file(temporary.path, lock_text(1, detail::host_name()));
  const FolderLock lock(temporary.path);
  CHECK(lock.notices().size() == 1);
}

TEST_CASE("the lock of another host is refused and named") {
  const TemporaryFolder temporary;
  write_lock_file(temporary.path, lock_text(77, "another.example"));
  const std::string text = refusal_of_lock(temporary.path);
  CHECK_THAT(text, ContainsSubstring("process 77 on another.example"));
  CHECK_THAT(text, ContainsSubstring("remove " + (temporary.path / "srformer.lock").string()));
  CHECK(fs::exists(temporary.path / FolderLock::file_name));
}

TEST_CASE("a lock file without a holder is no lock") {
  for (const char* text : {"", "{", "[]", "{\"process\": \"x\"}", "\xff\xfe", "{\"process\": 1}"}) {
    const TemporaryFolder temporary;
    write_lock_file(temporary.path, text);
    const FolderLock lock(temporary.path);
    CHECK(lock.notices().empty());
  }
}

TEST_CASE("a folder that cannot be locked is an error that names it") {
  const TemporaryFolder temporary;
  std::ofstream(temporary.path / "file") << "x";
  CHECK_THAT(refusal_of_lock(temporary.path / "file"), ContainsSubstring("is not a folder"));
  CHECK_THAT(refusal_of_lock(temporary.path / "file/inner"),
             ContainsSubstring("cannot create the folder"));
  fs::create_symlink("elsewhere", temporary.path / FolderLock::file_name);
  CHECK_THAT(refusal_of_lock(temporary.path), ContainsSubstring("cannot create srformer.lock"));
}

TEST_CASE("of processes that start together one at a time has the lock") {
  const TemporaryFolder temporary;
  const fs::path folder = temporary.path / "out", counter = temporary.path / "inside";
  for (const bool stale : {false, true}) {
    if (stale) {
      fs::create_directory(folder);
      write_lock_file(folder, lock_text(ended_process(), detail::host_name()));
    }
    // Each counts its holdings, and returns 100 where another was inside at the same time.
    const auto body = [&] {
      int held = 0;
      for (int i = 0; i < 1500; ++i) {
        try {
          const FolderLock lock(folder);
          const int file = ::open(counter.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
          if (file < 0) return 100;
          ::close(file);
          ::sched_yield();
          ::unlink(counter.c_str());
          ++held;
        } catch (const io_error&) {
          ::sched_yield();
        }
      }
      return held > 0 ? 1 : 0;
    };
    const int sum = sum_over_processes(8, body);
    CHECK(sum >= 1);
    CHECK(sum <= 8);
    CHECK_FALSE(fs::exists(folder / FolderLock::file_name));
    fs::remove_all(folder);
  }
}

TEST_CASE("a lock goes with its process, whatever ends it") {
  const TemporaryFolder temporary;
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const FolderLock lock(temporary.path);
    const char byte = 1;
    if (::write(ready[1], &byte, 1) == 1)
      for (;;) ::pause();
    ::_exit(1);
  }
  char byte = 0;
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  CHECK_THAT(refusal_of_lock(temporary.path),
             ContainsSubstring("process " + std::to_string(child) + " on "));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  const FolderLock lock(temporary.path);
  CHECK(lock.notices().size() == 1);
  ::close(ready[0]), ::close(ready[1]);
}
