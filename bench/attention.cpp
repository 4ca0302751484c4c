// SPDX-License-Identifier: Apache-2.0
// Times one cross-attention on the CPU, forward and backward together, float32.
//
//   attention segmented_recurrent --batch 4 --keys 1024 --queries 128 --segment_size 64
//
// Prints one line of JSON: seconds of each repetition. compare.py runs it beside its peers.
#include <CLI/CLI.hpp>
#include <srformer/backend/eigen.hpp>

#include "attention_timing.hpp"

int main(int argc, char** argv) try {
  srformer::bench::AttentionSizes sizes;
  int threads = 0;
  CLI::App app("Time one cross-attention, forward and backward");
  sizes.add_to(app);
  app.add_option("--threads", threads, "Threads; 0: all");
  CLI11_PARSE(app, argc, argv);
  srformer::EigenBackend be(threads);
  srformer::bench::time_attention(be, sizes);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
