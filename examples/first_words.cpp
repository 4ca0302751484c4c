// SPDX-License-Identifier: Apache-2.0
// The baseline: as many first words of every text as summaries have on average.
//
//   first_words --train_file train.jsonl --test_file test.jsonl --output_file first_words.txt
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <srformer/io/dataset.hpp>

#include "data/first_words.hpp"
#include "program.hpp"

int main(int argc, char** argv) {
  return srformer::program::run([&] {
    std::string train_file, test_file, output_file, text_column = "text",
                                                    summary_column = "summary";
    CLI::App app("The first words of every text as its summary");
    app.add_option("--train_file", train_file, "JSON lines whose summaries are measured")
        ->required();
    app.add_option("--test_file", test_file, "JSON lines whose texts are cut")->required();
    app.add_option("--output_file", output_file, "One summary a line")->required();
    app.add_option("--text_column", text_column, "Of JSON lines")->capture_default_str();
    app.add_option("--summary_column", summary_column, "Of JSON lines")->capture_default_str();
    srformer::program::parse(app, argc, argv);

    std::vector<std::string> summaries;
    for (auto& pair : srformer::read_json_lines(train_file, text_column, summary_column))
      summaries.push_back(std::move(pair.summary));
    const std::size_t words = srformer::examples::mean_words(summaries);
    std::string lines;
    for (const auto& pair : srformer::read_json_lines(test_file, text_column, ""))
      lines += srformer::examples::first_words(pair.text, words) + '\n';
    srformer::ReplacementFile file(output_file);
    file.write(lines);
    file.commit();
    std::printf("%s: the first %zu words of every text\n", output_file.c_str(), words);
  });
}
