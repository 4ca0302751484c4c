// SPDX-License-Identifier: Apache-2.0
// What a picture of some runs is made of: the script for gnuplot.
#include "../../examples/curves.hpp"

#include "../io/temporary_folder.hpp"
#include "support/catch.hpp"

using namespace srformer::program;
using Catch::Matchers::ContainsSubstring;

namespace {

LoggedRun logged_run(const std::string& name, double loss) {
  return {name,
          {{{"step", 10}, {"loss", loss}, {"leak", {0.5, 0.25}}},
           {{"step", 20}, {"loss", loss / 2}, {"eval_loss", nullptr}, {"note", "text"}},
           {{"step", 20}, {"eval_rouge1", 31.5}}}};
}

std::string script_of(const std::vector<LoggedRun>& runs, std::span<const Panel> wanted) {
  srformer::program::detail::PlotScript script;
  for (const Panel& panel : wanted) script.add(runs, panel);
  return script.empty() ? "" : script.text("svg", "it's.svg");
}

}  // namespace

TEST_CASE("a panel has the lines that were logged, and one for each element of a list") {
  const std::string one = script_of({logged_run("a", 4)}, std::span(panels).first(1));
  CHECK_THAT(one, ContainsSubstring("$d0 << END\n10 4.0\n20 2.0\nEND\n"));
  CHECK_THAT(one, ContainsSubstring("plot $d0 with lines linewidth 2 title 'training'\n"));
  CHECK_THAT(one, !ContainsSubstring("multiplot") && !ContainsSubstring("validation"));
  CHECK_THAT(one, ContainsSubstring("set output 'it''s.svg'"));
  const std::string all = script_of({logged_run("a", 4)}, panels);
  CHECK_THAT(all, ContainsSubstring("multiplot layout 2,2") && ContainsSubstring("'layer 0'") &&
                      ContainsSubstring("'layer 1'") && ContainsSubstring("'ROUGE-1'"));
  CHECK_THAT(all, !ContainsSubstring("threshold") && !ContainsSubstring("'learning rate'"));
}

TEST_CASE("several runs are told apart by their names") {
  const std::string two =
      script_of({logged_run("full", 4), logged_run("o'neill", 3)}, std::span(panels).first(1));
  CHECK_THAT(two, ContainsSubstring("'full, training'") &&
                      ContainsSubstring("$d1 << END\n10 3.0\n20 1.5\nEND\n") &&
                      ContainsSubstring("'o''neill, training'"));
  CHECK(script_of({{"a", {}}}, panels).empty());
}

TEST_CASE("a number that is none is a gap, and a point without neighbours is seen") {
  const LoggedRun run{"a",
                      {{{"step", 1}, {"loss", 3}, {"grad_norm", 5}},
                       {{"step", 2}, {"loss", nullptr}, {"grad_norm", 6}},
                       {{"step", 3}, {"loss", 1}, {"grad_norm", 7}},
                       {{"step", 4}, {"loss", std::nan("")}, {"firing", {nullptr, 0.5}}},
                       {{"step", 5}, {"loss", nullptr}, {"firing", {nullptr, 0.25}}}}};
  const std::string script = script_of({run}, panels);
  CHECK_THAT(script, ContainsSubstring("$d0 << END\n1 3\n\n3 1\n\nEND\n"));
  CHECK_THAT(script,
             ContainsSubstring("$d0 with linespoints linewidth 2 pointtype 7 pointsize 0.5"));
  CHECK_THAT(script, ContainsSubstring("$d1 << END\n1 5\n2 6\n3 7\nEND\n") &&
                         ContainsSubstring("$d1 with lines"));
  CHECK_THAT(script, ContainsSubstring("$d2 << END\n4 0.5\n5 0.25\nEND\n") &&
                         ContainsSubstring("'layer 1'") && !ContainsSubstring("'layer 0'"));
  CHECK_THAT(script_of({{"a", {{{"step", 1}, {"lr", 2}}}}}, panels),
             ContainsSubstring("with linespoints"));
}

TEST_CASE("what a run made again after a checkpoint takes the place of what it had made") {
  const auto steps = [](const std::vector<int>& given) {
    std::vector<nlohmann::ordered_json> entries;
    for (const int step : given) entries.push_back({{"step", step}, {"at", entries.size()}});
    std::vector<std::pair<int, int>> kept;
    for (const auto& entry : without_overtaken(entries))
      kept.emplace_back(entry["step"].get<int>(), entry["at"].get<int>());
    return kept;
  };
  using Kept = std::vector<std::pair<int, int>>;
  CHECK(steps({1, 2, 2, 3}) == Kept{{1, 0}, {2, 1}, {2, 2}, {3, 3}});
  CHECK(steps({1, 2, 3, 4, 3, 4, 4, 5}) == Kept{{1, 0}, {2, 1}, {3, 4}, {4, 5}, {4, 6}, {5, 7}});
  CHECK(steps({5, 6, 1, 2}) == Kept{{1, 2}, {2, 3}});
  CHECK(steps({}).empty());
}

TEST_CASE("a picture of a page has no background and its key below") {
  srformer::program::detail::PlotScript script;
  script.add({logged_run("a", 4)}, panels[0]);
  const std::string inlined = script.text("svg", "a.svg", {560, 340, true});
  CHECK_THAT(inlined, ContainsSubstring("size 560,340 font") &&
                          ContainsSubstring("set key below") && !ContainsSubstring("background"));
  CHECK_THAT(script.text("svg", "a.svg"),
             ContainsSubstring("size 800,500 background rgb 'white'") &&
                 ContainsSubstring("set key top right opaque"));
}

TEST_CASE("a picture is drawn, or one line says why not") {
  const TemporaryFolder folder;
  const std::vector<LoggedRun> runs{logged_run("a", 4)};
  CHECK(draw_curves({{"a", {}}}, panels, folder.path / "a.svg").empty());
  CHECK(!std::filesystem::exists(folder.path / "a.svg"));
  CHECK_THAT(draw_curves(runs, panels, folder.path / "a.gif"), ContainsSubstring(".svg or .png"));
  for (const char* name : {"a.svg", "b.png"}) {
    const std::string problem = draw_curves(runs, panels, folder.path / name);
    if (!problem.empty()) CHECK_THAT(problem, ContainsSubstring("gnuplot was not found"));
    CHECK(std::filesystem::exists(folder.path / name) == problem.empty());
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder.path))
    CHECK((entry.path().extension() == ".svg" || entry.path().extension() == ".png"));
}
