// SPDX-License-Identifier: Apache-2.0
// The losses of a run as a picture, drawn by gnuplot.
#pragma once

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <srformer/io/file.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace srformer::program {

namespace detail {

/// One data block of gnuplot with the steps at which `key` is a number; empty when there is none.
inline std::string data_block(const std::vector<nlohmann::ordered_json>& entries,
                              const std::string& key) {
  std::string points;
  for (const auto& entry : entries)
    if (entry.contains(key) && entry[key].is_number())
      points += entry["step"].dump() + " " + entry[key].dump() + "\n";
  return points.empty() ? "" : "$" + key + " << END\n" + points + "END\n";
}

inline std::string gnuplot_quoted(std::string_view text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("''") : std::string(1, c);
  return quoted + "'";
}

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

/// Draws "loss" and "eval_loss" of the entries by their "step" into `svg`, and says in one line why
/// it could not; an empty string when it could or when there is nothing to draw.
inline std::string draw_loss_curve(const std::vector<nlohmann::ordered_json>& entries,
                                   const std::filesystem::path& svg) {
  const std::string train = detail::data_block(entries, "loss");
  const std::string validation = detail::data_block(entries, "eval_loss");
  if (train.empty() && validation.empty()) return "";
  const std::string aside = svg.string() + ".tmp-" + std::to_string(::getpid());
  std::string plots;
  if (!train.empty()) plots += "$loss with lines linewidth 2 title 'training'";
  if (!validation.empty())
    plots += std::string(plots.empty() ? "" : ", ") +
             "$eval_loss with linespoints linewidth 2 pointtype 7 title 'validation'";
  const std::filesystem::path script = svg.string() + ".gnuplot";
  {
    ReplacementFile file(script);
    file.write(train + validation +
               "set terminal svg size 800,500 background rgb 'white'\n"
               "set output " +
               detail::gnuplot_quoted(aside) +
               "\n"
               "set xlabel 'step'\nset ylabel 'loss per token'\nset grid\nset key top right\n"
               "plot " +
               plots + "\n");
    file.commit();
  }
  const int status = detail::run_gnuplot(script);
  std::error_code error;
  std::filesystem::remove(script, error);
  if (status == 0) std::filesystem::rename(aside, svg, error);
  if (status == 0 && !error) return "";
  std::filesystem::remove(aside, error);
  return status == 127 ? svg.string() + " is not drawn: gnuplot was not found"
                       : svg.string() + " is not drawn: gnuplot failed";
}

}  // namespace srformer::program
