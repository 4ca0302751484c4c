// SPDX-License-Identifier: Apache-2.0
// What a run records, and the page that is made of its files. tests/examples/check_report.py reads a page as a browser does.
#include "../../examples/report.hpp"

#include <fstream>

#include "../../examples/run_record.hpp"
#include "../io/temporary_folder.hpp"
#include "support/catch.hpp"

using namespace srformer::program;
using Catch::Matchers::ContainsSubstring;
using Json = nlohmann::ordered_json;
using srformer::program::detail::html;

namespace {

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path) << text;
}

std::string read(const std::filesystem::path& path) {
  return std::string(srformer::MappedFile(path).text());
}

/// The page of a folder that holds these files.
std::string page_of(const std::vector<std::pair<std::string, std::string>>& files) {
  const TemporaryFolder folder;
  for (const auto& [name, text] : files) write(folder.path / name, text);
  write_report(folder.path);
  for (const auto& entry : std::filesystem::directory_iterator(folder.path))
    CHECK_THAT(entry.path().string(), !ContainsSubstring("tmp-"));
  return read(folder.path / "report.html");
}

}  // namespace

TEST_CASE("texts are escaped") {
  CHECK(html("<a href=\"x\">&amp;'</a>") == "&lt;a href=&quot;x&quot;&gt;&amp;amp;&#39;&lt;/a&gt;");
  CHECK(html(std::string("\0\x01\x1b\x7f", 4)) ==
        "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  CHECK(html("a\tb\nc\rd") ==
        "a\tb\nc\xEF\xBF\xBD"
        "d");
  CHECK(html("\xEF\xBF\xBE|\xEF\xBF\xBF|\xEF\xBF\xBD") == "\xEF\xBF\xBD|\xEF\xBF\xBD|\xEF\xBF\xBD");
  CHECK(html("מודל 😀") == "מודל 😀");
}

TEST_CASE("an excerpt ends between characters, and says how long the text is") {
  CHECK(Excerpt("abc").json() == Json({{"text", "abc"}, {"characters", 3}}));
  std::string whole;
  for (std::size_t i = 0; i < Excerpt::most + 7; ++i) whole += i % 2 == 0 ? "😀" : "é";
  const Excerpt cut(whole);
  CHECK(cut.characters == Excerpt::most + 7);
  CHECK(cut.text.size() == Excerpt::most / 2 * 6);
  CHECK(whole.starts_with(cut.text));
  CHECK(Excerpt(whole.substr(0, Excerpt::most / 2 * 6)).text.size() == Excerpt::most / 2 * 6);
  CHECK(Excerpt("").text.empty());
}

TEST_CASE("rows to show go from the lowest score to the highest") {
  const double none = std::nan("");
  using Rows = std::vector<std::size_t>;
  CHECK(rows_to_show({0.5, 0.1, 0.9, 0.3, 0.7}, 3) == Rows{1, 0, 2});
  CHECK(rows_to_show({0.5, none, 0.9}, 6) == Rows{0, 2});
  CHECK(rows_to_show({none, none, none}, 2) == Rows{0, 2});
  CHECK(rows_to_show({0.2, 0.2, 0.2}, 2) == Rows{0, 2});
  CHECK(rows_to_show({0.4, 0.2}, 1) == Rows{1});
  CHECK(rows_to_show({}, 6).empty());
}

TEST_CASE("lengths of pairs") {
  CHECK(lengths_json({5, 1, 3}) ==
        Json({{"least", 1}, {"median", 3}, {"of_nine_tenths", 3}, {"most", 5}}));
  std::vector<srformer::index_t> many;
  for (int i = 100; i >= 0; --i) many.push_back(i);
  CHECK(lengths_json(many) ==
        Json({{"least", 0}, {"median", 50}, {"of_nine_tenths", 90}, {"most", 100}}));
  CHECK(lengths_json({}).empty());
}

TEST_CASE("settings are told apart by whether they are the defaults") {
  CLI::App app;
  double rate = 5e-5;
  std::string text, hidden;
  bool on = false, off = false;
  app.add_option("--rate", rate)->capture_default_str();
  app.add_option("--text", text);
  app.add_option("--same", rate)->default_str("3");
  app.add_flag("--on", on);
  app.add_flag("--off", off);
  app.add_option("--config", hidden)->configurable(false);
  std::vector<std::string> words{"--off=false", "--on", "--same=3", "--text=x", "--config=f"};
  app.parse(words);
  const Json settings = settings_of(app);
  CHECK(settings["given"].dump() == R"({"text":"x","on":true})");
  CHECK(settings["defaults"].dump() == R"({"rate":"5e-05","same":"3","off":"false"})");
}

TEST_CASE("a record is a file of JSON, whatever its texts hold") {
  const TemporaryFolder folder;
  RunRecord record;
  record.timed("saving", [] {});
  record.add_time("update", 2), record.add_time("update", 0.5);
  const std::vector<srformer::Example> examples{{{1, 2, 3}, {4}}, {{5}, {6, 7}}};
  record.add_data("train_file", {"a.jsonl"}, examples, {"a.jsonl: JSON lines"});
  record.set_examples("test_file", {Excerpt("<b>"), Excerpt("two")}, {"r\xff", "s"}, {"p", "q"},
                      {0.25, std::nan("")});
  record.write(folder.path);
  const Json json = Json::parse(read(folder.path / "report.json"));
  CHECK(json["time"]["update"] == 2.5);
  CHECK(json["time"]["saving"].get<double>() >= 0);
  CHECK(json["time"]["all"].get<double>() > 0);
  CHECK(json["memory"]["process_peak"].get<double>() > 1e6);
  CHECK(json["data"][0]["pairs"] == 2);
  CHECK(json["data"][0]["source_tokens"]["most"] == 3);
  CHECK(json["data"][0]["summary_tokens"]["least"] == 1);
  CHECK(json["examples"]["of"] == 2);
  REQUIRE(json["examples"]["rows"].size() == 1);
  CHECK(json["examples"]["rows"][0]["rougeL"] == 25);
  CHECK(json["examples"]["rows"][0]["reference"]["text"] == "r\xEF\xBF\xBD");
}

TEST_CASE("the page has the numbers of the run's files") {
  const Json record{
      {"model", {{"checkpoint", "base"}, {"model_type", "t5"}, {"parameters", 54340}}},
      {"steps", {{"first", 4}, {"last", 9}, {"of", 12}}},
      {"settings",
       {{"given", {{"seed", 7}, {"train_file", {"a", "b<"}}}}, {"defaults", {{"optim", "x"}}}}},
      {"time", {{"update", 2.0}, {"forward and backward", 5.0}, {"all", 10.0}}},
      {"memory",
       {{"parameters", 4000},
        {"gradients", 4000},
        {"optimizer_state", 8000},
        {"peak", 20000},
        {"process_peak", 3000000}}},
      {"examples",
       {{"flag", "test_file"},
        {"of", 9},
        {"rows",
         {{{"row", 3},
           {"rougeL", 12.5},
           {"source", {{"text", "<script>"}, {"characters", 1500}}},
           {"reference", {{"text", "שלום"}, {"characters", 4}}},
           {"prediction", {{"text", "p & q"}, {"characters", 5}}}}}}}}};
  const std::string page = page_of(
      {{"report.json", record.dump()},
       {"metrics.jsonl",
        "{\"step\":4,\"loss\":2.5,\"leak\":[0.5,0.25],\"threshold\":[1,2],\"firing\":[0.125,0.75]}"
        "\n"
        "{\"step\":9,\"loss\":1.5,\"leak\":[0.4375,0.25],\"threshold\":[1,2],\"firing\":[0.0625,0."
        "75]}\n"},
       {"all_results.json",
        R"({"eval_samples": 7, "eval_rouge1": 31.25, "predict_samples": 9, "predict_rouge1": 28.5})"},
       {"trainer_state.json",
        R"({"best_metric": 1.375, "best_global_step": 8, "best_model_checkpoint": "out/checkpoint-8"})"}});
  for (const char* text :
       {"base: t5, 54340 parameters", "9 of 12 steps, of which this start made those after step 4",
        "Best evaluation: 1.375 after step 8, saved as out/checkpoint-8",
        "<tr><td>ROUGE-1</td><td class=\"number\">31.25</td><td class=\"number\">28.5</td></tr>",
        "<tr><td>0</td><td class=\"number\">0.4375</td><td class=\"number\">1</td><td "
        "class=\"number\">0.0625</td></tr>",
        "Row 3, ROUGE-L 12.5", "&lt;script&gt;", "1492 more characters", "dir=\"auto\">שלום</div>",
        "p &amp; q", "1 of the 9 predictions for --test_file", "<tr><td>--seed</td><td>7</td></tr>",
        "<td>a, b&lt;</td>", "<td>--optim</td><td>x</td>",
        "<td>forward and backward</td><td class=\"number\">5.00</td><td class=\"number\">50.0 %",
        "<td>everything else</td><td class=\"number\">3.00</td><td class=\"number\">30.0 %",
        "<td>activations and scratch</td><td class=\"number\">4 kB</td><td class=\"number\">20.0 %",
        "had 3 MB in the machine&#39;s memory"})
    CHECK_THAT(page, ContainsSubstring(text));
  CHECK_THAT(page, !ContainsSubstring("<script"));
}

TEST_CASE("a page is made of what there is of a run") {
  CHECK_THAT(
      page_of({{"metrics.jsonl", "{\"step\":1,\"loss\":2}\n"}}),
      ContainsSubstring("the run has not come to its end") && !ContainsSubstring("Settings"));
  CHECK_THAT(page_of({{"all_results.json", R"({"eval_samples": 3, "eval_loss": 2.5})"}}),
             ContainsSubstring("Nothing was logged") && ContainsSubstring("2.5"));
  const TemporaryFolder folder;
  CHECK_THROWS_WITH(write_report(folder.path), ContainsSubstring("holds no run"));
  write(folder.path / "report.json", "[]");
  CHECK_THROWS_WITH(write_report(folder.path), ContainsSubstring("report.json: is no object"));
  write(folder.path / "report.json", "{\"a\": ");
  CHECK_THROWS_WITH(write_report(folder.path), ContainsSubstring("report.json"));
  CHECK(!std::filesystem::exists(folder.path / "report.html"));
  // What is of another type than a run writes is passed over.
  CHECK_THAT(
      page_of({{"report.json", R"({"data": 3, "time": {"all": "x"}, "examples": {"rows": [1]},
                        "memory": [], "settings": {"given": {}, "defaults": 2}, "model": {}})"}}),
      ContainsSubstring("</html>"));
}

TEST_CASE("a line of the log that was cut off is left out, others are refused") {
  const TemporaryFolder folder;
  const auto path = folder.path / "metrics.jsonl";
  write(path, "{\"step\":1}\n{\"step\":2}\n{\"step\":3,\"lo");
  CHECK(read_logged_run(path).entries.size() == 2);
  write(path, "{\"step\":1}\n{\"step\":2}");
  CHECK(read_logged_run(path).entries.size() == 2);
  write(path, "{\"step\":1}\n{\"step\":2,\"lo\n{\"step\":3}\n");
  CHECK_THROWS_WITH(read_logged_run(path), ContainsSubstring("metrics.jsonl:2"));
  write(path, "{\"step\":1}\n[1]\n");
  CHECK_THROWS_WITH(read_logged_run(path), ContainsSubstring("is no object"));
  write(path, "");
  CHECK(read_logged_run(path).entries.empty());
}

TEST_CASE("pictures on one page keep their names apart and take the colour of the text") {
  const std::string svg = srformer::program::detail::inline_svg(
      "<?xml version='1.0'?>\n<svg width='5'><g id=\"canvas\" color=\"black\" "
      "stroke=\"currentColor\"/>"
      "<path id='gpPt1' stroke='black' fill = 'white'/><use xlink:href='#gpPt1'/><text "
      "fill=\"black\">black</text></svg>",
      "loss");
  CHECK(svg ==
        "<svg role=\"img\" aria-label=\"loss\" width='5'><g id=\"loss-canvas\" "
        "color=\"currentColor\" "
        "stroke=\"currentColor\"/><path id='loss-gpPt1' stroke='currentColor' fill = 'white'/><use "
        "xlink:href='#loss-gpPt1'/><text fill=\"currentColor\">black</text></svg>");
}

TEST_CASE("bytes for people") {
  using srformer::program::detail::bytes_text;
  CHECK(bytes_text(0) == "0 bytes");
  CHECK(bytes_text(999) == "999 bytes");
  CHECK(bytes_text(12345678) == "12.3 MB");
  CHECK(bytes_text(999.6e9) == "1 TB");
}
