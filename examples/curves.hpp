// SPDX-License-Identifier: Apache-2.0
// What runs have logged as pictures, drawn by gnuplot.
#pragma once

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <srformer/io/file.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace srformer::program {

/// A run as its metrics.jsonl tells it.
struct LoggedRun {
  std::string name;
  std::vector<nlohmann::ordered_json> entries;
};

/// Numbers that share a picture, by their keys in metrics.jsonl; lists have a line for each element.
struct Panel {
  std::string name, axis;
  std::vector<std::pair<std::string, std::string>> lines;  ///< key, and what the picture calls it
};

/// What finetune logs.
inline const std::array<Panel, 7> panels{{
    {"loss", "loss per token", {{"loss", "training"}, {"eval_loss", "validation"}}},
    {"rouge",
     "ROUGE in percent",
     {{"eval_rouge1", "ROUGE-1"}, {"eval_rouge2", "ROUGE-2"}, {"eval_rougeL", "ROUGE-L"}}},
    {"rate", "learning rate", {{"lr", "learning rate"}}},
    {"gradient", "norm of the gradient", {{"grad_norm", "norm"}}},
    {"leak", "leak of the recurrence", {{"leak", "layer"}}},
    {"threshold", "threshold of the recurrence", {{"threshold", "layer"}}},
    {"firing", "share of the states that fire", {{"firing", "layer"}}},
}};

/// How a picture looks: sizes are gnuplot's own unless given. An inlined one is part of a page: without a background, with
/// its key below, in colours that are seen on light and on
/// dark, and what it shows is said above it.
struct Canvas {
  int width = 0, height = 0;
  bool inlined = false;
};

/// What a run has logged without what was made again later: a run that went on from a checkpoint, and whose file has both,
/// drops what the earlier part has from that step on.
inline std::vector<nlohmann::ordered_json> without_overtaken(
    std::vector<nlohmann::ordered_json> entries) {
  const auto step_of = [](const nlohmann::ordered_json& entry) {
    return entry.contains("step") && entry["step"].is_number() ? entry["step"].get<double>() : 0;
  };
  std::vector<nlohmann::ordered_json> kept;
  for (nlohmann::ordered_json& entry : entries) {
    const double step = step_of(entry);
    if (!kept.empty() && step < step_of(kept.back()))
      std::erase_if(kept, [&](const auto& earlier) { return step_of(earlier) >= step; });
    kept.push_back(std::move(entry));
  }
  return kept;
}

namespace detail {

inline std::string gnuplot_quoted(std::string_view text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("''") : std::string(1, c);
  return quoted + "'";
}

/// Data blocks of gnuplot and the commands that draw them.
class PlotScript {
 public:
  /// Adds a panel; false where no run has a number for it.
  bool add(const std::vector<LoggedRun>& runs, const Panel& panel) {
    std::string lines;
    for (const LoggedRun& run : runs)
      for (const auto& [key, name] : panel.lines) {
        const bool listed = holds_list(run, key);
        const std::size_t count = listed ? longest_list(run, key) : 1;
        for (std::size_t i = 0; i < count; ++i) {
          const Points points = points_of(run, key, listed, i);
          if (points.text.empty()) continue;
          const std::string block = "$d" + std::to_string(blocks_++);
          data_ += block + " << END\n" + points.text + "END\n";
          std::string title = name + (listed ? " " + std::to_string(i) : "");
          if (runs.size() > 1) title = run.name + ", " + title;
          lines += (lines.empty() ? "" : ", ") + block + " " + style(key, points) + " title " +
                   gnuplot_quoted(title);
        }
      }
    if (lines.empty()) return false;
    ++panels_;
    plots_.emplace_back("set ylabel " + gnuplot_quoted(panel.axis) + " noenhanced\n",
                        "plot " + lines + "\n");
    return true;
  }

  bool empty() const { return panels_ == 0; }

  /// The whole script; the picture is as `terminal` of gnuplot makes it.
  std::string text(const std::string& terminal, const std::filesystem::path& output,
                   const Canvas& canvas = {}) const {
    const int columns = panels_ > 1 ? 2 : 1, rows = (panels_ + columns - 1) / columns;
    const int width = canvas.width > 0 ? canvas.width : columns == 1 ? 800 : 1200;
    const int height = canvas.height > 0 ? canvas.height : panels_ == 1 ? 500 : 380 * rows;
    std::string all = data_ + "set terminal " + terminal + " size " + std::to_string(width) + "," +
                      std::to_string(height) +
                      (canvas.inlined ? " font 'sans-serif,14'" : " background rgb 'white'") +
                      "\nset output " + gnuplot_quoted(output.string()) +
                      "\nset xlabel 'step'\nset grid\nset key " +
                      (canvas.inlined ? "below" : "top right opaque") + " noenhanced\n";
    if (canvas.inlined) {
      int line = 0;
      for (const char* colour :
           {"#3b82c4", "#e07b00", "#2a9d6f", "#c2559d", "#8a6fd1", "#b8860b", "#d64545", "#5b7f95"})
        all += "set linetype " + std::to_string(++line) + " linecolor rgb '" + colour + "'\n";
      all += "set linetype cycle 8\n";
    }
    if (panels_ > 1)
      all += "set multiplot layout " + std::to_string(rows) + "," + std::to_string(columns) + "\n";
    for (const auto& [axis, plot] : plots_) all += (canvas.inlined ? "" : axis) + plot;
    return all;
  }

 private:
  /// Lines of gnuplot's data, and whether a point has no neighbour that a line could lead to.
  struct Points {
    std::string text;
    bool alone = false;
  };

  static std::string style(const std::string& key, const Points& points) {
    if (key.starts_with("eval_")) return "with linespoints linewidth 2 pointtype 7";
    return points.alone ? "with linespoints linewidth 2 pointtype 7 pointsize 0.5"
                        : "with lines linewidth 2";
  }
  static bool holds_list(const LoggedRun& run, const std::string& key) {
    return longest_list(run, key) > 0;
  }
  static std::size_t longest_list(const LoggedRun& run, const std::string& key) {
    std::size_t longest = 0;
    for (const auto& entry : run.entries)
      if (entry.contains(key) && entry[key].is_array())
        longest = std::max(longest, entry[key].size());
    return longest;
  }
  /// A gap stands where a number was logged that is none: NaN and infinity are null in metrics.jsonl.
  static Points points_of(const LoggedRun& run, const std::string& key, bool listed,
                          std::size_t i) {
    Points points;
    std::size_t together = 0;
    const auto end = [&] {
      points.alone = points.alone || together == 1;
      together = 0;
    };
    for (const auto& entry : run.entries) {
      if (!entry.contains(key) || !entry.contains("step")) continue;
      nlohmann::ordered_json value = entry[key];
      if (listed)
        value = value.is_array() && i < value.size() ? value[i] : nlohmann::ordered_json();
      if (value.is_number() && std::isfinite(value.get<double>())) {
        points.text += entry["step"].dump() + " " + value.dump() + "\n", ++together;
      } else if (together > 0) {
        points.text += "\n", end();
      }
    }
    end();
    return points;
  }

  std::string data_;
  std::vector<std::pair<std::string, std::string>> plots_;  ///< what names the axis, and what draws
  int blocks_ = 0, panels_ = 0;
};

/// Runs gnuplot on a script; 127 when there is none.
inline int run_gnuplot(const std::filesystem::path& script) {
  std::string program = "gnuplot", file = script.string();
  char* const arguments[] = {program.data(), file.data(), nullptr};
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  for (const int stream : {STDOUT_FILENO, STDERR_FILENO})
    ::posix_spawn_file_actions_addopen(&actions, stream, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, "gnuplot", &actions, nullptr, arguments, environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return 127;
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace detail

/// Whether a run has a number for one of some panels.
inline bool has_numbers(const LoggedRun& run, std::span<const Panel> wanted) {
  detail::PlotScript script;
  for (const Panel& panel : wanted) script.add({run}, panel);
  return !script.empty();
}

/// Draws some panels of some runs into `picture`, .svg or .png, and says in one line why it could not; an empty string when
/// it could or when there is nothing to draw.
inline std::string draw_curves(const std::vector<LoggedRun>& runs, std::span<const Panel> wanted,
                               const std::filesystem::path& picture, const Canvas& canvas = {}) {
  detail::PlotScript script;
  for (const Panel& panel : wanted) script.add(runs, panel);
  if (script.empty()) return "";
  const std::string extension = picture.extension().string();
  if (extension != ".svg" && extension != ".png")
    return picture.string() + " is not drawn: a picture is .svg or .png";
  const std::string aside = picture.string() + ".tmp-" + std::to_string(::getpid());
  const std::filesystem::path file_of_script = picture.string() + ".gnuplot";
  {
    ReplacementFile file(file_of_script);
    file.write(script.text(extension == ".svg" ? "svg" : "pngcairo", aside, canvas));
    file.commit();
  }
  const int status = detail::run_gnuplot(file_of_script);
  std::error_code error;
  std::filesystem::remove(file_of_script, error);
  if (status == 0) std::filesystem::rename(aside, picture, error);
  if (status == 0 && !error) return "";
  std::filesystem::remove(aside, error);
  return status == 127 ? picture.string() + " is not drawn: gnuplot was not found"
                       : picture.string() + " is not drawn: gnuplot failed";
}

}  // namespace srformer::program
