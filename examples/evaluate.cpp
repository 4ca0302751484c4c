// SPDX-License-Identifier: Apache-2.0
// ROUGE of predictions against references: the mean over pairs with its bootstrap interval.
//
//   evaluate --predictions generated.txt --references test.jsonl --reference_column summary
//
// A file of which a column is named holds JSON lines, any other one text a line.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <srformer/io/file.hpp>
#include <srformer/text/rouge.hpp>

namespace {

using srformer::RougeInterval;
using srformer::RougeScore;
using srformer::RougeScores;

const std::vector<std::pair<std::string, RougeScore RougeScores::*>> types{
    {"rouge1", &RougeScores::rouge1},
    {"rouge2", &RougeScores::rouge2},
    {"rougeL", &RougeScores::rougeL},
    {"rougeLsum", &RougeScores::rougeLsum}};

const std::vector<std::pair<std::string, double RougeScore::*>> statistics{
    {"precision", &RougeScore::precision},
    {"recall", &RougeScore::recall},
    {"fmeasure", &RougeScore::fmeasure}};

std::vector<std::string> read_texts(const std::filesystem::path& path, const std::string& column) {
  const srformer::MappedFile file(path);
  const std::string_view all = file.text();
  std::vector<std::string> texts;
  for (std::size_t begin = 0; begin < all.size();) {
    const std::size_t end = std::min(all.find('\n', begin), all.size());
    std::string_view line = all.substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (column.empty()) {
      texts.emplace_back(line);
    } else {
      const auto object = srformer::parse_json(line, path.string(), begin);
      if (!object.is_object() || !object.contains(column) || !object[column].is_string())
        throw srformer::io_error(path.string() + ": line " + std::to_string(texts.size() + 1) +
                                 " has no text \"" + column + "\"; name the column that holds it");
      texts.push_back(object[column].get<std::string>());
    }
    begin = end + 1;
  }
  return texts;
}

nlohmann::ordered_json as_json(const RougeInterval& rouge, std::size_t pairs) {
  nlohmann::ordered_json result{{"pairs", pairs}};
  for (const auto& [name, type] : types)
    for (const auto& [statistic, value] : statistics)
      result[name][statistic] = {{"low", rouge.low.*type.*value},
                                 {"mean", rouge.mean.*type.*value},
                                 {"high", rouge.high.*type.*value}};
  return result;
}

std::string as_table(const RougeInterval& rouge, std::size_t pairs) {
  std::ostringstream table;
  table << std::fixed << std::setprecision(2) << std::left << std::setw(10) << "" << std::right
        << std::setw(10) << "precision" << std::setw(10) << "recall" << std::setw(10) << "fmeasure"
        << "   95 % interval\n";
  for (const auto& [name, type] : types) {
    table << std::left << std::setw(10) << name << std::right;
    for (const auto& [statistic, value] : statistics)
      table << std::setw(10) << 100 * (rouge.mean.*type.*value);
    table << "   " << 100 * (rouge.low.*type).fmeasure << " - " << 100 * (rouge.high.*type).fmeasure
          << '\n';
  }
  table << pairs << (pairs == 1 ? " pair" : " pairs") << ", in percent\n";
  return table.str();
}

}  // namespace

int main(int argc, char** argv) {
  std::string predictions, references, prediction_column, reference_column;
  bool no_stemmer = false, json = false;
  srformer::RougeOptions options;
  srformer::BootstrapOptions resampling;

  CLI::App app("ROUGE-1, -2, -L and -Lsum of predictions against references, as rouge_score.");
  app.add_option("--predictions", predictions, "file of predictions")->required();
  app.add_option("--references", references, "file of references, in the same order")->required();
  app.add_option("--prediction_column", prediction_column, "predictions are JSON lines: their key");
  app.add_option("--reference_column", reference_column, "references are JSON lines: their key");
  app.add_flag("--no-stemmer,--no_stemmer", no_stemmer, "compare words as they are, not stems");
  app.add_flag("--split_sentences", options.split_sentences,
               "rougeLsum: find sentences by a rule, not at newlines alone");
  app.add_option("--bootstrap_samples", resampling.samples, "resamples for the interval")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000000));
  app.add_option("--seed", resampling.seed, "of the resampling")->capture_default_str();
  app.add_flag("--json", json, "print JSON, in fractions");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    std::cerr << "evaluate: " << error.what() << '\n';
    return 2;
  }
  options.stemmer = !no_stemmer;

  try {
    const auto predicted = read_texts(predictions, prediction_column);
    const auto expected = read_texts(references, reference_column);
    if (predicted.size() != expected.size())
      throw srformer::io_error(predictions + " has " + std::to_string(predicted.size()) +
                               " lines, " + references + " has " + std::to_string(expected.size()) +
                               "; give one prediction for each reference");
    if (predicted.empty()) throw srformer::io_error(predictions + ": has no lines to score");
    std::vector<RougeScores> scores;
    for (std::size_t i = 0; i < predicted.size(); ++i)
      scores.push_back(srformer::rouge(expected[i], predicted[i], options));
    const RougeInterval rouge = srformer::bootstrap(scores, resampling);
    std::cout << (json ? as_json(rouge, scores.size()).dump(2) + "\n"
                       : as_table(rouge, scores.size()));
    if (!std::cout.flush()) throw srformer::io_error("standard output cannot be written");
  } catch (const std::exception& error) {
    std::cerr << "evaluate: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
