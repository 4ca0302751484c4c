// SPDX-License-Identifier: Apache-2.0
// An architecture of one's own: a Pegasus (pegasus.hpp) from a folder that transformers wrote, trained for a few steps
// and saved so that transformers reads it, or a new one. With its own list of architectures the rest of the
// library takes it as it takes T5 and BART.
//
//   custom_model                              a small Pegasus learns to copy
//   custom_model --model FOLDER --output OUT  ten steps of fine-tuning, to OUT
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include <srformer/backend/eigen.hpp>
#include <srformer/decode/search.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/train/trainer.hpp>

#include "errors.hpp"
#include "pegasus.hpp"

using namespace srformer;
using Known = Architectures<T5Config, BartConfig, PegasusConfig>;
using Model = EncoderDecoder<EigenBackend, float>;

namespace {

constexpr std::int32_t first_word = 2, words = 40;

PegasusConfig small_config() {
  PegasusConfig config;
  config.vocab_size = words, config.d_model = 32, config.max_position_embeddings = 64;
  config.encoder_layers = config.decoder_layers = 2;
  config.encoder_attention_heads = config.decoder_attention_heads = 4;
  config.encoder_ffn_dim = config.decoder_ffn_dim = 64;
  config.dropout = 0, config.init_std = 0.1, config.scale_embedding = true;
  return config;
}

/// A few random words, which the target repeats.
Example random_example(std::uint64_t number, index_t vocabulary) {
  const RandomStream random = RandomStream{5}.substream(number);
  const auto many = static_cast<std::uint64_t>(vocabulary - first_word);
  Example example;
  for (std::uint64_t i = 0; i < 6; ++i)
    example.source.push_back(first_word + static_cast<std::int32_t>(random_below(random, i, many)));
  example.source.push_back(1);
  example.target = example.source;
  return example;
}

void print(const char* what, std::span<const std::int32_t> ids) {
  std::printf("%s", what);
  for (const std::int32_t id : ids) std::printf(" %d", id);
  std::printf("\n");
}

int show(int argc, char** argv) {
  std::string folder, output;
  index_t steps = 0;
  bool understood = argc % 2 == 1;
  for (int i = 1; understood && i < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--model") folder = argv[i + 1];
    if (flag == "--output") output = argv[i + 1];
    if (flag == "--steps") steps = std::atol(argv[i + 1]);
    understood = flag == "--model" || flag == "--output" || flag == "--steps";
  }
  if (!understood) {
    std::printf("usage: custom_model [--model FOLDER] [--output FOLDER] [--steps 400]\n");
    return std::strcmp(argv[1], "--help") == 0 ? 0 : 2;
  }
  if (steps < 1) steps = folder.empty() ? 400 : 10;

  EigenBackend be;
  std::unique_ptr<Model> model;
  if (folder.empty()) {
    model = Known::make<float, PaperVariants>(be, small_config());
    model->initialize({1}, 1);
  } else {
    model = load_model<float, PaperVariants, Known>(be, folder);
  }
  std::vector<Example> examples;
  for (std::uint64_t i = 0; i < 512; ++i)
    examples.push_back(random_example(i, model->config().vocab_size));
  Trainer trainer(*model, std::span<const Example>(examples),
                  {.batch_size = 16, .max_steps = steps, .learning_rate = 3e-3});
  trainer.run([&](const StepReport& step) {
    if (step.step % 50 == 0 || step.step == 1 || step.step == steps)
      std::printf("step %td, loss %.3f\n", step.step, step.loss);
    return true;
  });

  const Example test = random_example(1000, model->config().vocab_size);
  const std::vector<index_t> lengths{std::ssize(test.source)};
  GenerationConfig beams;
  beams.num_beams = 4, beams.max_new_tokens = 8;
  print("\nsource:    ", test.source);
  print("four beams:",
        std::span(generate(*model, test.source, lengths, beams).sequences.at(0)).subspan(1));
  if (!output.empty()) save_model(*model, output, DType::f32, nlohmann::json::object());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return srformer::program::run([&] { return show(argc, argv); });
}
