// SPDX-License-Identifier: Apache-2.0
// Times whole training steps on the CPU.
//
//   training_step MODEL --source 1024 --target 128 --batch 1 --steps 3
//
// compare.py runs it beside its peers.
#include <srformer/backend/eigen.hpp>

#include "training_timing.hpp"

int main(int argc, char** argv) try {
  srformer::bench::TrainingSizes sizes;
  int threads = 0;
  CLI::App app("Time whole training steps");
  sizes.add_to(app);
  app.add_option("--threads", threads, "Threads; 0: all");
  CLI11_PARSE(app, argc, argv);
  srformer::EigenBackend be(threads);
  srformer::bench::time_training(be, sizes);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
