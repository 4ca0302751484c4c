// SPDX-License-Identifier: Apache-2.0
// Times whole training steps of a checkpoint folder: forward, backward, AdamW; dropout 0.
//
//   training_step MODEL --source 1024 --target 128 --batch 1 --steps 3
//
// Prints one line of JSON: seconds and losses per step, seconds of the optimiser alone, the rate of a
// 1024x2048x512 product measured beside it, peak bytes. compare.py runs it beside its peers.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <srformer/backend/eigen.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/train/optimizer.hpp>

namespace {

using namespace srformer;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Ids that compare.py makes alike: 3 + 7919 i mod (V - 103), the last of a row the end token.
std::vector<std::int32_t> made_ids(index_t rows, index_t width, index_t vocabulary,
                                   std::int32_t eos) {
  std::vector<std::int32_t> ids;
  for (index_t i = 0; i < rows * width; ++i) {
    ids.push_back(
        (i + 1) % width == 0 ? eos : static_cast<std::int32_t>(3 + i * 7919 % (vocabulary - 103)));
  }
  return ids;
}

/// GFLOP/s of y = x W^T at the sizes of T5-small's feed-forward.
double product_rate(EigenBackend& be) {
  const auto x = zeros<float, 2>(be, {1024, 512}), w = zeros<float, 2>(be, {2048, 512});
  auto y = zeros<float, 2>(be, {1024, 2048});
  double best = 1e9;
  for (int i = 0; i < 10; ++i) {
    const double start = now();
    linear_forward(be, x, w, std::nullopt, y.view());
    best = std::min(best, now() - start);
  }
  return 2.0 * 1024 * 2048 * 512 / best / 1e9;
}

}  // namespace

int main(int argc, char** argv) try {
  std::string model_path;
  index_t source = 1024, target = 128, batch_size = 1, steps = 3;
  int threads = 0;
  CLI::App app("Time whole training steps");
  app.add_option("model", model_path, "Checkpoint folder")->required();
  app.add_option("--source", source, "Source tokens");
  app.add_option("--target", target, "Target tokens");
  app.add_option("--batch", batch_size, "Sources per step");
  app.add_option("--steps", steps, "Timed steps, after one that is not");
  app.add_option("--threads", threads, "Threads; 0: all");
  CLI11_PARSE(app, argc, argv);

  EigenBackend be(threads);
  const auto model = load_t5<float>(be, model_path);
  const T5Config& config = model->config();
  Batch batch;
  batch.rows = batch_size, batch.source_width = source, batch.target_width = target;
  batch.source_ids = made_ids(batch_size, source, config.vocab_size, config.eos_token_id);
  batch.labels = made_ids(batch_size, target, config.vocab_size, config.eos_token_id);
  batch.source_lengths.assign(static_cast<std::size_t>(batch_size), source);

  auto& parameters = model->parameters();
  parameters.allocate_gradients();
  AdamW<EigenBackend, float> optimizer(be, parameters, {.decayed = all_roles()});
  const auto tokens = static_cast<double>(batch_size * target);
  std::string seconds, losses, optimizer_seconds;
  for (index_t step = 0; step <= steps; ++step) {
    const double start = now();
    parameters.zero_gradients();
    auto loss = zeros<double, 1>(be, {1});
    model->add_gradients(batch, {.scale = 1 / tokens}, loss.view());
    const double middle = now();
    optimizer.update(be, parameters, 1e-4, step + 1);
    const double end = now();
    const std::string comma = step > 1 ? ", " : "";
    if (step > 0) seconds += comma + std::to_string(end - start);
    if (step > 0) optimizer_seconds += comma + std::to_string(end - middle);
    losses += (step > 0 ? ", " : "") + std::to_string(to_host(be, loss)[0] / tokens);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf(
      "{\"seconds\": [%s], \"optimizer_seconds\": [%s], \"losses\": [%s], "
      "\"product_gflops\": %.1f, \"peak_bytes\": %ld}\n",
      seconds.c_str(), optimizer_seconds.c_str(), losses.c_str(), product_rate(be),
      usage.ru_maxrss * 1024L);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
