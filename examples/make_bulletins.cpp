// SPDX-License-Identifier: Apache-2.0
// Writes train.jsonl, validation.jsonl and test.jsonl of made-up bulletins and their headlines, and
// text.txt to train a tokenizer on.
//
//   make_bulletins --output DIR --train 16000 --validation 256 --test 256 --seed 1
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <srformer/io/folder_lock.hpp>
#include <string>
#include <vector>

#include "data/bulletins.hpp"
#include "data/pairs.hpp"
#include "program.hpp"

namespace {

void write_all(int argc, char** argv) {
  namespace ex = srformer::examples;
  std::string output;
  std::size_t train = 16000, validation = 256, test = 256, sentences = 11;
  std::uint64_t seed = 1;

  CLI::App app("Write made-up bulletins and their headlines as JSON lines.");
  app.add_option("--output", output, "folder for the files, made if it is not there")->required();
  app.add_option("--train", train, "pairs in train.jsonl")->capture_default_str();
  app.add_option("--validation", validation, "pairs in validation.jsonl")->capture_default_str();
  app.add_option("--test", test, "pairs in test.jsonl")->capture_default_str();
  app.add_option("--seed", seed, "the same seed gives the same bytes")->capture_default_str();
  app.add_option("--sentences", sentences, "sentences in a bulletin, 8 of which state a fact")
      ->capture_default_str()
      ->check(CLI::Range(8, 10000));
  srformer::program::parse(app, argc, argv);

  const std::filesystem::path folder(output);
  const srformer::FolderLock lock(folder);
  for (const std::string& notice : lock.notices()) std::cerr << notice << '\n';
  const auto pairs = ex::make_bulletins(seed, ex::Split::train, train, sentences);
  ex::write_pairs(folder / "train.jsonl", pairs);
  ex::write_pairs(folder / "validation.jsonl",
                  ex::make_bulletins(seed, ex::Split::validation, validation, sentences));
  ex::write_pairs(folder / "test.jsonl",
                  ex::make_bulletins(seed, ex::Split::test, test, sentences));

  std::vector<std::string> lines;
  for (std::size_t i = 0; i < std::min<std::size_t>(train, 4000); ++i) {
    lines.push_back(pairs[i].text);
    lines.push_back(pairs[i].summary);
  }
  ex::write_lines(folder / "text.txt", lines);
  std::cout << output << ": " << train << " train, " << validation << " validation, " << test
            << " test\n";
}

}  // namespace

int main(int argc, char** argv) {
  return srformer::program::run([&] { write_all(argc, argv); });
}
