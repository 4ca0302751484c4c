// SPDX-License-Identifier: Apache-2.0
// Turns a folder of RFCs into train.jsonl, validation.jsonl and test.jsonl, the prose of a document as the text and its
// abstract as the summary, and pretraining.txt, the paragraphs of the training documents. data/rfc.sh fetches the
// documents and runs this.
//
//   rfc_pairs --input DIR --output DIR
#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <map>
#include <span>
#include <srformer/io/file.hpp>
#include <srformer/io/folder_lock.hpp>
#include <srformer/io/gzip.hpp>
#include <string>

#include "data/pairs.hpp"
#include "data/rfc.hpp"
#include "program.hpp"

namespace {

namespace ex = srformer::examples;
namespace fs = std::filesystem;

std::string text_of(const fs::path& path) {
  const srformer::MappedFile file(path, true);
  if (path.extension() == ".gz") return ex::rfc::as_utf8(srformer::gunzip(file.bytes(), path));
  return ex::rfc::as_utf8(file.text());
}

/// The documents below `folder` that have both files, whatever the folders beside are called.
std::map<int, ex::rfc::Document> read_documents(const std::string& folder) {
  std::map<int, fs::path> records, texts;
  std::error_code error;
  for (auto at = fs::recursive_directory_iterator(folder, error);
       at != fs::recursive_directory_iterator(); at.increment(error)) {
    if (!at->is_regular_file(error)) continue;
    const std::string name = at->path().filename();
    const int number = ex::rfc::number_of(name);
    if (number == 0) continue;
    if (name.ends_with(".json")) records[number] = at->path();
    if (name.ends_with(".txt") || name.ends_with(".txt.gz")) texts[number] = at->path();
  }
  if (error)
    srformer::throw_system_error(folder, "cannot read the folder", error.value(),
                                 "name a folder of rfcN.txt.gz and rfcN.json");
  std::map<int, ex::rfc::Document> documents;
  for (const auto& [number, path] : records) {
    const auto text = texts.find(number);
    if (text == texts.end()) continue;
    ex::rfc::Record record;
    try {
      record =
          ex::rfc::record_of(srformer::parse_json(srformer::MappedFile(path, true).text(), path));
    } catch (const nlohmann::json::exception&) {
      throw srformer::io_error(path.string() + ": is no record of an RFC; fetch it again");
    }
    documents[number] = {std::move(record), ex::rfc::paragraphs_of(text_of(text->second))};
  }
  return documents;
}

void write_all(int argc, char** argv) {
  std::string input, output;
  ex::rfc::Limits limits;
  CLI::App app("Turn RFCs into pairs of document and abstract, and text to pretrain on.");
  app.add_option("--input", input, "folder of rfcN.txt or rfcN.txt.gz and rfcN.json")->required();
  app.add_option("--output", output, "folder for the files, made if it is not there")->required();
  app.add_option("--min_abstract_words", limits.min_abstract_words, "leave out shorter abstracts")
      ->capture_default_str();
  app.add_option("--min_text_words", limits.min_text_words, "leave out shorter documents")
      ->capture_default_str();
  srformer::program::parse(app, argc, argv);

  const std::map<int, ex::rfc::Document> documents = read_documents(input);
  const ex::rfc::Corpus corpus = ex::rfc::corpus_of(documents, limits);
  for (const auto& pairs : corpus.pairs)
    if (pairs.empty())
      throw srformer::io_error(input +
                               ": gives no pairs for one of the splits; fetch the RFCs with "
                               "examples/data/rfc.sh");
  const fs::path folder(output);
  const srformer::FolderLock lock(folder);
  for (const std::string& notice : lock.notices()) std::cerr << notice << '\n';
  const auto& [train, validation, test] = corpus.pairs;
  ex::write_pairs(folder / "train.jsonl", train);
  ex::write_pairs(folder / "validation.jsonl", validation);
  ex::write_pairs(folder / "test.jsonl", test);
  ex::write_lines(folder / "pretraining.txt", corpus.paragraphs);
  std::cout << output << ": " << train.size() << " train, " << validation.size() << " validation, "
            << test.size() << " test, " << corpus.paragraphs.size()
            << " paragraphs to pretrain on; of " << corpus.counts.documents << " documents "
            << corpus.counts.without_abstract << " without an abstract, " << corpus.counts.too_short
            << " too short, " << corpus.counts.repeated << " repeated\n";
}

}  // namespace

int main(int argc, char** argv) {
  return srformer::program::run([&] { write_all(argc, argv); });
}
