// SPDX-License-Identifier: Apache-2.0
// Turns apt's package lists into train.jsonl, validation.jsonl and test.jsonl: the description of a
// package as the text, its synopsis as the summary; and pretraining.txt, the training texts that hold nothing of the other
// two, a line each. data/debian.sh fetches the lists and runs this.
//
//   debian_descriptions --packages FILE... --translations FILE... --output DIR
#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <srformer/io/folder_lock.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/debian_descriptions.hpp"
#include "data/pairs.hpp"
#include "program.hpp"

namespace {

std::ifstream open(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw srformer::io_error(path + " cannot be read: name an uncompressed package list");
  return file;
}

void write_all(int argc, char** argv) {
  namespace ex = srformer::examples;
  std::vector<std::string> packages, translations;
  std::string output;
  std::size_t min_characters = 80;

  CLI::App app("Turn Debian's package lists into pairs of description and synopsis.");
  app.add_option("--packages", packages, "uncompressed Packages files")->required();
  app.add_option("--translations", translations, "uncompressed Translation-en files")->required();
  app.add_option("--output", output, "folder for the files, made if it is not there")->required();
  app.add_option("--min_characters", min_characters, "leave out shorter descriptions")
      ->capture_default_str();
  srformer::program::parse(app, argc, argv);

  std::unordered_map<std::string, std::string> source_of;
  for (const std::string& path : packages) {
    std::ifstream file = open(path);
    ex::debian::read_sources(file, source_of);
  }
  ex::debian::Collector collector(source_of, min_characters);
  for (const std::string& path : translations) {
    std::ifstream file = open(path);
    collector.read(file);
  }
  const auto& train = collector.pairs(ex::Split::train);
  const auto& validation = collector.pairs(ex::Split::validation);
  const auto& test = collector.pairs(ex::Split::test);
  if (train.empty() || validation.empty() || test.empty()) {
    throw srformer::io_error(translations.front() +
                             " gives no pairs for one of the splits: fetch the lists with "
                             "examples/data/debian.sh");
  }
  const std::filesystem::path folder(output);
  const srformer::FolderLock lock(folder);
  for (const std::string& notice : lock.notices()) std::cerr << notice << '\n';
  ex::write_pairs(folder / "train.jsonl", train);
  ex::write_pairs(folder / "validation.jsonl", validation);
  ex::write_pairs(folder / "test.jsonl", test);
  const auto texts = ex::pretraining_texts(train, {&validation, &test});
  ex::write_lines(folder / "pretraining.txt", texts);
  const ex::debian::Counts& counts = collector.counts();
  std::cout << output << ": " << train.size() << " train, " << validation.size() << " validation, "
            << test.size() << " test; of " << counts.packages << " descriptions "
            << counts.without_source << " without a source, " << counts.too_short << " too short, "
            << counts.repeated << " repeated; " << texts.size() << " texts to pretrain on\n";
}

}  // namespace

int main(int argc, char** argv) {
  return srformer::program::run([&] { write_all(argc, argv); });
}
