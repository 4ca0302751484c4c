// SPDX-License-Identifier: Apache-2.0
// What a training program tells while it runs: a line that rewrites itself on a terminal, plain
// lines elsewhere, and metrics.jsonl, which goes on after a resumed run.
#pragma once

#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <srformer/io/file.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace srformer::program {

/// "1:02:03" or "2:03".
inline std::string duration_text(double seconds) {
  const long all = std::lround(std::max(seconds, 0.0));
  char text[32];
  if (all >= 3600) {
    std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", all / 3600, all / 60 % 60, all % 60);
  } else {
    std::snprintf(text, sizeof text, "%ld:%02ld", all / 60, all % 60);
  }
  return text;
}

inline std::string format(const char* pattern, double value) {
  char text[64];
  std::snprintf(text, sizeof text, pattern, value);
  return text;
}

/// Standard output: lines for good, and below them on a terminal one that is rewritten.
class Console {
 public:
  /// mpirun gives its processes a terminal even where its own output goes to a file; they write lines alone.
  explicit Console(bool rewrites = true) : terminal_(rewrites && ::isatty(STDOUT_FILENO) != 0) {}
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;
  ~Console() { clear(); }

  bool terminal() const { return terminal_; }

  void line(const std::string& text) {
    if (copy_ != nullptr) copy_->push_back(text);
    clear();
    std::printf("%s\n", text.c_str());
    std::fflush(stdout);
  }

  /// A bar with text behind it, at most ten times a second; nothing where there is no terminal.
  void progress(double share, const std::string& text) {
    const auto now = std::chrono::steady_clock::now();
    if (!terminal_ || now - shown_at_ < std::chrono::milliseconds(100)) return;
    shown_at_ = now;
    constexpr int cells = 20;
    const int full = static_cast<int>(std::lround(share * cells));
    std::string shown = "[" + std::string(static_cast<std::size_t>(full), '=') +
                        std::string(static_cast<std::size_t>(cells - full), ' ') + "] " + text;
    winsize size{};
    const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
    const std::size_t columns = known ? size.ws_col - std::size_t{1} : 79;
    shown.resize(std::min(shown.size(), columns));
    std::printf("\r\033[K%s", shown.c_str());
    std::fflush(stdout);
    open_ = true;
  }

  void clear() {
    if (!open_) return;
    std::printf("\r\033[K");
    std::fflush(stdout);
    open_ = false;
  }

 private:
  friend class ConsoleCopy;
  bool terminal_;
  bool open_ = false;
  std::vector<std::string>* copy_ = nullptr;
  std::chrono::steady_clock::time_point shown_at_{};
};

/// Keeps the lines that a console is given as long as it lives; one at a time.
class ConsoleCopy {
 public:
  explicit ConsoleCopy(Console& console) : console_(console) { console_.copy_ = &lines_; }
  ConsoleCopy(const ConsoleCopy&) = delete;
  ConsoleCopy& operator=(const ConsoleCopy&) = delete;
  ~ConsoleCopy() { console_.copy_ = nullptr; }

  const std::vector<std::string>& lines() const { return lines_; }

 private:
  Console& console_;
  std::vector<std::string> lines_;
};

/// A file of JSON lines, each written at once and for good.
class MetricsFile {
 public:
  /// Goes on after the lines that keep(entry) says yes to; others, which a run that is resumed will make again, are
  /// dropped.
  template <class Keep>
  MetricsFile(std::filesystem::path path, Keep keep) : path_(std::move(path)) {
    if (std::filesystem::exists(path_)) {
      const MappedFile file(path_);
      std::string kept;
      for (std::string_view rest = file.text(); !rest.empty();) {
        const std::size_t end = rest.find('\n');
        if (end == std::string_view::npos) break;  // cut off while it was written
        const auto entry = nlohmann::ordered_json::parse(rest.substr(0, end), nullptr, false);
        if (entry.is_object() && keep(entry)) {
          kept += rest.substr(0, end + 1);
          entries_.push_back(entry);
        }
        rest.remove_prefix(end + 1);
      }
      ReplacementFile replacement(path_);
      replacement.write(kept);
      replacement.commit();
    }
    file_ = std::fopen(path_.c_str(), "ae");
    if (file_ == nullptr)
      throw_system_error(path_.string(), "cannot open", errno, "check the folder's permissions");
  }
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;
  ~MetricsFile() { std::fclose(file_); }

  void add(const nlohmann::ordered_json& entry) {
    const std::string text = entry.dump() + "\n";
    if (std::fwrite(text.data(), 1, text.size(), file_) != text.size() || std::fflush(file_) != 0)
      throw_system_error(path_.string(), "cannot write", errno, "free space and resume");
    entries_.push_back(entry);
  }

  const std::vector<nlohmann::ordered_json>& entries() const { return entries_; }

 private:
  std::filesystem::path path_;
  std::FILE* file_ = nullptr;
  std::vector<nlohmann::ordered_json> entries_;
};

}  // namespace srformer::program
