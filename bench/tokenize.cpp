// SPDX-License-Identifier: Apache-2.0
// Times a tokenizer over the lines of a file, one after the other on one thread.
//
//   bench_tokenize MODEL TEXTS [ROUNDS]    MODEL has the tokenizer's files
//
// Prints one line of JSON: seconds of each round, and of the texts' ids how many there are and a sum that tells them from
// others.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <srformer/text/tokenizer.hpp>
#include <string>
#include <vector>

int main(int argc, char** argv) try {
  if (argc < 3) {
    std::fprintf(stderr, "bench_tokenize MODEL TEXTS [ROUNDS]\n");
    return 2;
  }
  const srformer::Tokenizer tokenizer(argv[1]);
  std::ifstream file(argv[2]);
  if (!file) throw srformer::io_error(std::string(argv[2]) + ": cannot be read");
  std::vector<std::string> texts;
  for (std::string line; std::getline(file, line);) texts.push_back(line);
  nlohmann::json result{{"texts", texts.size()}, {"seconds", nlohmann::json::array()}};
  for (int round = 0; round < (argc > 3 ? std::atoi(argv[3]) : 1); ++round) {
    std::size_t count = 0;
    std::uint64_t sum = 0;
    const auto start = std::chrono::steady_clock::now();
    for (const std::string& text : texts) {
      for (const std::int32_t id : tokenizer.encode(text))
        sum += ++count % 1000003 * static_cast<std::uint64_t>(id + 1);
    }
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    result["seconds"].push_back(taken.count());
    result["ids"] = count, result["sum"] = sum;
  }
  std::printf("%s\n", result.dump().c_str());
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
