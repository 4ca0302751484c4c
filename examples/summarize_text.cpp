// SPDX-License-Identifier: Apache-2.0
// A model folder and a text in, its summary out:  summarize_text FOLDER "summarize: A long text."
#include <srformer/api/text_model.hpp>

#include <cstdio>
#include <exception>
#include <string>

#include "errors.hpp"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::printf("usage: summarize_text FOLDER TEXT\n");
    return argc == 2 && std::string(argv[1]) == "--help" ? 0 : 2;
  }
  return srformer::program::run([&] {
    srformer::TextModel model(argv[1]);
    srformer::GenerationConfig options = model.generation_config();
    options.num_beams = 4, options.max_new_tokens = 80;
    const std::string summary = model.generate(argv[2], options);
    std::printf("%s\n", summary.c_str());
    std::printf("log-probability %.3f\n", model.score(argv[2], summary));
  });
}
