// SPDX-License-Identifier: Apache-2.0
// Times generation of exactly as many tokens as asked for, with the model of a checkpoint folder; an end
// token is never chosen.
//
//   generate MODEL SOURCES --new_tokens 128 --num_beams 4 --repetitions 3
//
// SOURCES is a JSON list of lists of token ids. Prints one line of JSON: seconds of each repetition, the
// encoder included; seconds from opening the folder until a source of one token has given one token; ids
// without the start token, scores, peak bytes. compare.py runs it beside its peers.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <srformer/models/checkpoint.hpp>

#include "../examples/device/device.hpp"
#include "product_rate.hpp"

namespace {

using namespace srformer;

using bench::now;

/// Sources [B,N], padded at the end.
struct Sources {
  std::vector<std::int32_t> ids;
  std::vector<index_t> lengths;

  Sources(const std::string& path, std::int32_t pad) {
    const auto rows = read_json_file(path).get<std::vector<std::vector<std::int32_t>>>();
    std::size_t width = 0;
    for (const auto& row : rows) width = std::max(width, row.size());
    for (const auto& row : rows) {
      ids.insert(ids.end(), row.begin(), row.end());
      ids.insert(ids.end(), width - row.size(), pad);
      lengths.push_back(std::ssize(row));
    }
    if (lengths.empty()) throw io_error(path + ": holds no source");
  }
};

}  // namespace

int main(int argc, char** argv) try {
  std::string model_path, sources_path;
  index_t new_tokens = 128, beams = 1, repetitions = 3;
  program::DeviceFlags flags;
  CLI::App app("Time generation");
  app.add_option("model", model_path, "Checkpoint folder")->required();
  app.add_option("sources", sources_path, "JSON list of lists of token ids")->required();
  app.add_option("--new_tokens", new_tokens, "Tokens of each output");
  app.add_option("--num_beams", beams, "Hypotheses of beam search; 1: greedy");
  app.add_option("--repetitions", repetitions, "Timed ones, after one that is not");
  flags.add_to(app);
  CLI11_PARSE(app, argc, argv);

  const auto device = program::open_device(flags);
  GenerationConfig options;
  options.max_new_tokens = options.min_new_tokens = 1;
  const double start = now();
  const HfCheckpoint checkpoint(model_path);
  const auto model = device->model(program::ProgramArchitectures::read(checkpoint));
  model->load(checkpoint, false);
  model->generate(std::vector{model->config().eos_token_id}, std::vector<index_t>{1}, options);
  const double load_seconds = now() - start;

  const Sources sources(sources_path, model->config().pad_token_id);
  options.num_beams = beams;
  options.max_new_tokens = options.min_new_tokens = new_tokens;
  Generation generation;
  std::vector<double> seconds;
  for (index_t i = 0; repetitions > 0 && i <= repetitions; ++i) {
    const double begin = now();
    generation = model->generate(sources.ids, sources.lengths, options);
    if (i > 0) seconds.push_back(now() - begin);
  }
  for (auto& row : generation.sequences) row.erase(row.begin());
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const nlohmann::json line{{"seconds", seconds},          {"load_seconds", load_seconds},
                            {"ids", generation.sequences}, {"scores", generation.scores},
                            {"dtype", flags.dtype},        {"peak_bytes", usage.ru_maxrss * 1024L}};
  std::printf("%s\n", line.dump().c_str());
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
