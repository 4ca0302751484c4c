// SPDX-License-Identifier: Apache-2.0
// The baseline: as many first words of every text as summaries have on average.
//
//   first_words --train_file train.jsonl --test_file test.jsonl --output_file first_words.txt
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "data/first_words.hpp"
#include "data_flags.hpp"

int main(int argc, char** argv) {
  return srformer::program::run([&] {
    std::vector<std::string> train_file, test_file;
    std::string output_file;
    srformer::program::DataFlags data;
    CLI::App app("The first words of every text as its summary");
    app.add_option("--train_file", train_file, "Pairs whose summaries are measured")->required();
    app.add_option("--test_file", test_file, "Data whose texts are cut")->required();
    app.add_option("--output_file", output_file, "One summary a line")->required();
    data.add_pairs_to(app);
    srformer::program::parse(app, argc, argv);

    const auto train =
        srformer::read_pairs(train_file, data.options(srformer::SummaryColumn::required));
    std::vector<std::string> summaries;
    for (const auto& pair : train.rows) summaries.push_back(pair.summary);
    const std::size_t words = srformer::examples::mean_words(summaries);
    const auto test = srformer::read_pairs(test_file, data.options(srformer::SummaryColumn::none));
    std::string lines;
    for (const auto& pair : test.rows)
      lines += srformer::examples::first_words(pair.text, words) + '\n';
    srformer::ReplacementFile file(output_file);
    file.write(lines);
    file.commit();
    srformer::program::tell(train.notices);
    srformer::program::tell(test.notices);
    std::printf("%s: the first %zu words of every text\n", output_file.c_str(), words);
  });
}
