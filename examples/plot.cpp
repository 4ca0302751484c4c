// SPDX-License-Identifier: Apache-2.0
// What one or several runs of finetune have logged as one picture.
//
//   plot out                                       out/curves.svg
//   plot full segmented srformer --output all.png --panels loss rouge
//   plot --report out                              out/report.html again
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "curves.hpp"
#include "program.hpp"
#include "report.hpp"

namespace {

namespace fs = std::filesystem;
using srformer::io_error;
using srformer::program::LoggedRun;
using srformer::program::Panel;

struct Options {
  std::vector<std::string> runs, panels;
  std::string output, report;

  void parse(int argc, char** argv) {
    CLI::App app("Draw what runs of finetune have logged");
    auto* drawn = app.add_option("runs", runs, "Folders of runs, or their metrics.jsonl");
    auto* picture =
        app.add_option("--output", output, "Picture to write, .svg or .png; else RUN/curves.svg");
    std::vector<std::string> names;
    for (const Panel& panel : srformer::program::panels) names.push_back(panel.name);
    auto* chosen = app.add_option("--panels", panels, "What to draw; else all that was logged")
                       ->check(CLI::IsMember(names));
    app.add_option("--report", report, "A run's folder, whose report.html is written again")
        ->excludes(drawn)
        ->excludes(picture)
        ->excludes(chosen);
    srformer::program::parse(app, argc, argv);
    if (runs.empty() && report.empty())
      throw srformer::program::usage_error("give the folders of runs, or --report and that of one");
    if (output.empty() && runs.size() > 1)
      throw srformer::program::usage_error("several runs need --output");
    const std::string extension = fs::path(output).extension().string();
    if (!output.empty() && extension != ".svg" && extension != ".png")
      throw srformer::program::usage_error("--output " + output + ": a picture is .svg or .png");
  }
};

fs::path metrics_of(const std::string& run) {
  return fs::is_directory(run) ? fs::path(run) / "metrics.jsonl" : fs::path(run);
}

/// A run is named by its folder, or by its whole path where two folders have the same name.
std::vector<LoggedRun> read_runs(const std::vector<std::string>& names) {
  std::vector<LoggedRun> runs;
  for (const std::string& name : names)
    runs.push_back(srformer::program::read_logged_run(metrics_of(name)));
  const auto same = [&](const LoggedRun& run) {
    return std::ranges::count(runs, run.name, &LoggedRun::name) > 1;
  };
  if (std::ranges::any_of(runs, same))
    for (std::size_t i = 0; i < runs.size(); ++i) runs[i].name = names[i];
  return runs;
}

}  // namespace

int main(int argc, char** argv) {
  return srformer::program::run([&] {
    Options options;
    options.parse(argc, argv);
    if (!options.report.empty()) {
      if (const auto notice = srformer::program::write_report(options.report); !notice.empty())
        std::fprintf(stderr, "notice: %s\n", notice.c_str());
      std::printf("%s\n", (fs::path(options.report) / "report.html").c_str());
      return;
    }
    const std::vector<LoggedRun> runs = read_runs(options.runs);
    std::vector<Panel> wanted;
    for (const Panel& panel : srformer::program::panels)
      if (options.panels.empty() ||
          std::ranges::find(options.panels, panel.name) != options.panels.end())
        wanted.push_back(panel);
    for (std::size_t i = 0; i < runs.size() && runs.size() > 1; ++i)
      if (!srformer::program::has_numbers(runs[i], wanted))
        std::fprintf(stderr, "notice: %s has logged nothing of what is to be drawn\n",
                     options.runs[i].c_str());
    fs::path output = options.output;
    if (output.empty()) output = metrics_of(options.runs.front()).replace_filename("curves.svg");
    std::error_code error;
    fs::remove(output, error);
    if (const std::string problem = srformer::program::draw_curves(runs, wanted, output);
        !problem.empty())
      throw io_error(problem);
    if (!fs::exists(output))
      throw io_error(options.runs.front() + ": has logged nothing of what is to be drawn");
    std::printf("%s\n", output.c_str());
  });
}
