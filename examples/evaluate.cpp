// SPDX-License-Identifier: Apache-2.0
// ROUGE of predictions against references: the mean over pairs with its bootstrap interval.
//
//   evaluate --predictions generated.txt --references test.jsonl --reference_column summary
#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <srformer/text/rouge.hpp>

#include "data_flags.hpp"
#include "rouge_notice.hpp"

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

struct Options {
  std::vector<std::string> predictions, references;
  std::string prediction_column, reference_column;
  std::string prediction_format = "auto", reference_format = "auto";
  std::string scores_file;
  bool json = false;
  srformer::RougeOptions rouge;
  srformer::BootstrapOptions resampling;

  void parse(int argc, char** argv) {
    bool no_stemmer = false;
    CLI::App app("ROUGE-1, -2, -L and -Lsum of predictions against references, as rouge_score.");
    app.add_option("--predictions", predictions, "files of predictions")->required();
    app.add_option("--references", references, "files of references, in the same order")
        ->required();
    app.add_option("--prediction_column", prediction_column,
                   "their column; else found by its name");
    app.add_option("--reference_column", reference_column, "their column; else found by its name");
    srformer::program::add_format_flag(app, "--prediction_format", prediction_format);
    srformer::program::add_format_flag(app, "--reference_format", reference_format);
    app.add_flag("--no-stemmer,--no_stemmer", no_stemmer, "compare words as they are, not stems");
    app.add_flag("--split_sentences", rouge.split_sentences,
                 "rougeLsum: find sentences by a rule, not at newlines alone");
    app.add_option("--bootstrap_samples", resampling.samples, "resamples for the interval")
        ->capture_default_str()
        ->check(CLI::Range(1, 1000000));
    app.add_option("--seed", resampling.seed, "of the resampling")->capture_default_str();
    app.add_option("--scores_file", scores_file,
                   "file for the F-measures of each pair, a JSON object a line");
    app.add_flag("--json", json, "print JSON, in fractions");
    srformer::program::parse(app, argc, argv);
    rouge.stemmer = !no_stemmer;
  }
};

/// Predictions and the references they are scored against, and what is to be said of them.
struct Texts {
  std::vector<std::string> predictions, references, notices;
};

/// The texts of one column of some files, empty ones too.
srformer::DataRows<srformer::PlacedText> read_texts(const std::vector<std::string>& files,
                                                    const std::string& format,
                                                    const std::string& column,
                                                    std::vector<std::string_view> known) {
  return srformer::read_column(
      files, {.name = column, .known = std::move(known), .sole = true, .keep_empty = true},
      {.format = srformer::format_from_name(format),
       .decompress = srformer::program::decompressor()});
}

/// Passes over empty texts at the end of `longer` where `shorter` has none.
void even_out(srformer::DataRows<srformer::PlacedText>& longer, std::size_t shorter) {
  std::size_t passed = 0;
  for (; longer.rows.size() > shorter && srformer::detail::is_blank(longer.rows.back().text);
       ++passed)
    longer.rows.pop_back();
  if (passed > 0)
    longer.notices.push_back(longer.rows.back().place + ": " +
                             srformer::detail::counted(passed, "empty text") +
                             " after this one passed over");
}

/// The pairs to score: those that have a reference.
Texts read(const Options& options) {
  auto predicted = read_texts(
      options.predictions, options.prediction_format, options.prediction_column,
      {"prediction", "predictions", "generated_summary", "generated", "summary", "text"});
  auto expected = read_texts(options.references, options.reference_format, options.reference_column,
                             {"summary", "highlights", "abstract", "reference", "references",
                              "summary_text", "review_title", "news_title", "target"});
  even_out(predicted, expected.rows.size());
  even_out(expected, predicted.rows.size());
  if (predicted.rows.size() != expected.rows.size())
    throw srformer::io_error(
        options.predictions.front() + " has " + std::to_string(predicted.rows.size()) + " texts, " +
        options.references.front() + " has " + std::to_string(expected.rows.size()) +
        "; give one prediction for each reference");
  Texts texts;
  texts.notices = std::move(predicted.notices);
  texts.notices.insert(texts.notices.end(), expected.notices.begin(), expected.notices.end());
  std::string first;
  for (std::size_t i = 0; i < expected.rows.size(); ++i) {
    if (srformer::detail::is_blank(expected.rows[i].text)) {
      if (first.empty()) first = expected.rows[i].place;
      continue;
    }
    texts.predictions.push_back(std::move(predicted.rows[i].text));
    texts.references.push_back(std::move(expected.rows[i].text));
  }
  if (texts.references.empty())
    throw srformer::io_error(options.references.front() +
                             ": holds empty references alone; name the column that holds them");
  if (!first.empty())
    texts.notices.push_back(std::to_string(expected.rows.size() - texts.references.size()) +
                            " of " + srformer::detail::counted(expected.rows.size(), "pair") +
                            " not scored for want of a reference, the first at " + first);
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

/// One line {"rouge1": ..., "rouge2": ..., ...} for each pair.
void write_scores(const std::string& path, const std::vector<RougeScores>& scores) {
  std::string lines;
  for (const RougeScores& score : scores) {
    nlohmann::ordered_json line;
    for (const auto& [name, type] : types) line[name] = (score.*type).fmeasure;
    lines += line.dump() + '\n';
  }
  srformer::ReplacementFile file(path);
  file.write(lines);
  file.commit();
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
  return srformer::program::run([&] {
    Options options;
    options.parse(argc, argv);
    const Texts texts = read(options);
    std::vector<RougeScores> scores;
    for (std::size_t i = 0; i < texts.references.size(); ++i)
      scores.push_back(srformer::rouge(texts.references[i], texts.predictions[i], options.rouge));
    const RougeInterval rouge = srformer::bootstrap(scores, options.resampling);
    if (!options.scores_file.empty()) write_scores(options.scores_file, scores);
    srformer::program::tell(texts.notices);
    const std::string notice = srformer::program::rouge_notice(texts.references);
    if (!notice.empty()) srformer::program::tell({notice});
    std::cout << (options.json ? as_json(rouge, scores.size()).dump(2) + "\n"
                               : as_table(rouge, scores.size()));
    if (!std::cout.flush()) throw srformer::io_error("standard output cannot be written");
  });
}
