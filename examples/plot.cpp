// SPDX-License-Identifier: Apache-2.0
// What one or several runs of finetune have logged as one picture.
//
//   plot out                                       out/curves.svg
//   plot full segmented srformer --output all.png --panels loss rouge
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include <srformer/io/table.hpp>

#include "curves.hpp"
#include "program.hpp"

namespace {

namespace fs = std::filesystem;
using srformer::io_error;
using srformer::program::LoggedRun;
using srformer::program::Panel;

struct Options {
  std::vector<std::string> runs, panels;
  std::string output;

  void parse(int argc, char** argv) {
    CLI::App app("Draw what runs of finetune have logged");
    app.add_option("runs", runs, "Folders of runs, or their metrics.jsonl")->required();
    app.add_option("--output", output, "Picture to write, .svg or .png; else RUN/curves.svg");
    std::vector<std::string> names;
    for (const Panel& panel : srformer::program::panels) names.push_back(panel.name);
    app.add_option("--panels", panels, "What to draw; else all that was logged")
        ->check(CLI::IsMember(names));
    srformer::program::parse(app, argc, argv);
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
  for (const std::string& name : names) {
    const fs::path path = metrics_of(name);
    const srformer::MappedFile file(path);
    LoggedRun& run = runs.emplace_back();
    run.name = fs::absolute(path).parent_path().filename().string();
    srformer::for_each_json_line(
        file.text(), [&](std::string_view line, std::size_t number, std::size_t begin) {
          const std::string place = path.string() + ":" + std::to_string(number);
          if (!srformer::parse_json(line, place, begin).is_object())
            throw io_error(place + ": is no object; give the metrics.jsonl of a run");
          run.entries.push_back(nlohmann::ordered_json::parse(line));
          return true;
        });
  }
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
    const std::vector<LoggedRun> runs = read_runs(options.runs);
    std::vector<Panel> wanted;
    for (const Panel& panel : srformer::program::panels)
      if (options.panels.empty() ||
          std::ranges::find(options.panels, panel.name) != options.panels.end())
        wanted.push_back(panel);
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
