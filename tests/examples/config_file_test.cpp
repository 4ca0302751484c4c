// SPDX-License-Identifier: Apache-2.0
// Flags from a file, JSON and TOML, and back.
#include "../../examples/config_file.hpp"

#include <fstream>

#include "../io/temporary_folder.hpp"
#include "support/catch.hpp"

using namespace srformer::program;
using Catch::Matchers::ContainsSubstring;
using Strings = std::vector<std::string>;

namespace {

/// The command line `words` with @ for a file of that text.
Strings expanded(const std::string& text, Strings words, const std::string& name = "flags.json") {
  const TemporaryFolder folder;
  const std::string path = (folder.path / name).string();
  std::ofstream(path) << text;
  for (std::string& word : words)
    if (const auto at = word.find('@'); at != std::string::npos) word.replace(at, 1, path);
  expand_config(words);
  return words;
}

}  // namespace

TEST_CASE("a file of flags stands where --config stood, before the other flags") {
  const std::string json = R"({"lr": 1e-3, "files": ["a b", "c"], "on": true, "off": false,
                               "none": null, "empty": [], "text": "x=y"})";
  const Strings words{"--lr=0.001", "--files",     "a b",     "c",
                      "--on=true",  "--off=false", "--empty", "--text=x=y"};
  CHECK(expanded(json, {"--config", "@"}) == words);
  CHECK(expanded(json, {"--config=@"}) == words);
  CHECK(expanded(json, {"@"}) == words);
  CHECK(expanded("\n lr = 1e-3\nfiles = [\"a b\", \"c\"]\non = true\ntext = \"x=y\"  # why\n",
                 {"@"}, "flags.toml") ==
        Strings{"--lr=1e-3", "--files", "a b", "c", "--on=true", "--text=x=y"});
  Strings more = words;
  more.insert(more.end(), {"--seed", "3"});
  CHECK(expanded(json, {"--seed", "3", "--config", "@"}) == more);
  CHECK(expanded("{}", {"--config", "@", "--seed=3"}) == Strings{"--seed=3"});
}

TEST_CASE("a flag of the command line goes before that of the file") {
  const std::string json = R"({"learning_rate": 1, "train_file": ["a", "b"], "seed": 5})";
  CHECK(expanded(json, {"--config", "@", "--learning-rate", "2", "--train_file=c"}) ==
        Strings{"--seed=5", "--learning-rate", "2", "--train_file=c"});
}

TEST_CASE("files that are none of flags are refused") {
  CHECK_THROWS_WITH(expanded("{\"a\": ", {"--config", "@"}), ContainsSubstring("not valid JSON"));
  CHECK_THROWS_WITH(expanded("{\"config\": \"b\"}", {"--config", "@"}),
                    ContainsSubstring("which a file of flags may not"));
  CHECK_THROWS_WITH(expanded("{}", {"--config", "absent.json"}),
                    ContainsSubstring("absent.json: cannot open"));
  CHECK(expanded("{}", {"data.json", "--seed", "1"}) == Strings{"data.json", "--seed", "1"});
  CHECK(expanded("{}", {"--config"}) == Strings{"--config"});
}

TEST_CASE("the flags that were given come back from what is written of them") {
  const auto parsed = [](Strings words) {
    CLI::App app;
    double rate = 5e-5;
    Strings files;
    std::vector<double> numbers;
    bool on = false, off = true;
    std::string text, untouched = "default";
    app.add_option("--rate", rate)->capture_default_str();
    app.add_option("--files", files);
    app.add_option("--numbers", numbers);
    app.add_flag("--on", on);
    app.add_flag("--off", off);
    app.add_option("--text", text);
    app.add_option("--untouched", untouched)->capture_default_str();
    std::ranges::reverse(words);
    app.parse(words);
    return given_flags_as_json(app);
  };
  const auto json = parsed({"--rate=1e-3", "--files", "a", "7", "--numbers", "2.5", "--on",
                            "--off=false", "--text", "03"});
  CHECK(json.dump() ==
        R"({"rate":"1e-3","files":["a",7],"numbers":[2.5],"on":true,"off":false,"text":"03"})");
  CHECK(parsed(expanded(json.dump(), {"@"})) == json);
  CHECK(parsed({}) == nlohmann::ordered_json::object());
}
