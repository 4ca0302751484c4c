// SPDX-License-Identifier: Apache-2.0
// Sections of any bytes as vocab.json and merges.txt with the small files beside them, and as a text. A section
// "more.json" holds the members of vocab.json behind the 256 bytes and BART's special tokens.
#include "tokenizer.hpp"

namespace {

using namespace srformer;

void run_byte_bpe(std::string_view bytes) {
  const auto files = fuzz::sections(bytes);
  const auto more = files.find("more.json");
  if (more == files.end()) return fuzz::run_tokenizer(bytes);
  nlohmann::ordered_json vocabulary{{"<s>", 0}, {"<pad>", 1}, {"</s>", 2}, {"<unk>", 3}};
  for (const std::string& token : detail::byte_tokens()) vocabulary[token] = vocabulary.size();
  std::string whole = vocabulary.dump();
  whole.back() = ',';
  whole += std::string(more->second) + "}";
  fuzz::run_tokenizer(std::string(bytes) + "\n=== vocab.json\n" + whole);
}

const fuzz::Target byte_bpe_target("byte_bpe", run_byte_bpe);

}  // namespace
