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
