// SPDX-License-Identifier: Apache-2.0
// A cross-attention of one's own, from its gradients to decoding: the sliding window of sliding_window.hpp is checked,
// trained in a small T5, and decoded with beams.
//
//   custom_variant [--steps 400]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <srformer/backend/eigen.hpp>
#include <srformer/decode/search.hpp>
#include <srformer/models/t5.hpp>
#include <srformer/testing/check_variant.hpp>
#include <srformer/train/trainer.hpp>
#include <vector>

#include "errors.hpp"
#include "sliding_window.hpp"

using namespace srformer;
using Mine = Variants<Full, SegmentedRecurrent, SlidingWindow>;
using Model = T5<EigenBackend, float, Mine>;

namespace {

constexpr index_t words = 60, every = 4, summary_words = 10;
constexpr std::int32_t first_word = 2, first_key_word = 32;

/// Of every four words one is a key word, at a random place; the summary lists them in order.
Example random_example(std::uint64_t number) {
  const RandomStream random = RandomStream{7}.substream(number);
  std::uint64_t drawn = 0;
  const auto below = [&](std::int32_t end) {
    return static_cast<std::int32_t>(uniform(random, drawn++) * end);
  };
  Example example;
  for (index_t i = 0; i < summary_words; ++i) {
    const std::int32_t place = below(every);
    for (std::int32_t j = 0; j < every; ++j) {
      const bool key = j == place;
      const std::int32_t word = key ? first_key_word + below(words - first_key_word)
                                    : first_word + below(first_key_word - first_word);
      example.source.push_back(word);
      if (key) example.target.push_back(word);
    }
  }
  return example;
}

T5Config small_config() {
  T5Config config;
  config.vocab_size = words, config.d_model = 32, config.d_kv = 16, config.d_ff = 64;
  config.num_layers = config.num_decoder_layers = 1, config.num_heads = 2;
  config.dropout_rate = 0;
  config.cross_attention = Mine::Options::of<SlidingWindow>(
      {.window = every, .horizon = summary_words, .generation_horizon = summary_words});
  return config;
}

void print(const char* what, std::span<const std::int32_t> ids) {
  std::printf("%s", what);
  for (const std::int32_t id : ids) std::printf(" %d", id);
  std::printf("\n");
}

int show(int argc, char** argv) {
  index_t steps = 400;
  if (argc == 3 && std::strcmp(argv[1], "--steps") == 0) {
    steps = std::atol(argv[2]);
  } else if (argc > 1) {
    std::printf("usage: custom_variant [--steps 400]\n");
    return std::strcmp(argv[1], "--help") == 0 ? 0 : 2;
  }

  const auto report =
      check_variant<Mine>(Mine::Options::of<SlidingWindow>({.window = 5}), {.lengths = {23, 9}});
  std::printf("%s\n", report.text().c_str());
  if (!report.ok()) return 1;

  EigenBackend be;
  Model model(be, small_config());
  model.initialize({1}, 1);
  std::vector<Example> examples;
  for (std::uint64_t i = 0; i < 512; ++i) examples.push_back(random_example(i));
  Trainer trainer(model, std::span<const Example>(examples),
                  {.batch_size = 16, .max_steps = steps, .learning_rate = 1e-2});
  trainer.run([&](const StepReport& step) {
    if (step.step % 50 == 0 || step.step == 1)
      std::printf("step %td, loss %.3f\n", step.step, step.loss);
    return true;
  });

  const Example test = random_example(1000);
  const std::vector<index_t> lengths{static_cast<index_t>(test.source.size())};
  GenerationConfig beams;
  beams.num_beams = 4, beams.max_new_tokens = summary_words, beams.min_new_tokens = summary_words;
  const Generation made = generate(model, test.source, lengths, beams);
  print("\nkey words of a new text:", test.target);
  print("four beams:             ", std::span(made.sequences.at(0)).subspan(1));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return srformer::program::run([&] { return show(argc, argv); });
}
