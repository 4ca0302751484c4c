// SPDX-License-Identifier: Apache-2.0
// Times generation of exactly as many tokens as asked for, with the model of a checkpoint folder; an end
// token is never chosen.
//
//   generate MODEL SOURCES --new_tokens 128 --num_beams 4 --repetitions 3
//
// SOURCES is a JSON list of lists of token ids. Prints one line of JSON: seconds of each repetition, the
// encoder included; seconds from opening the folder until the first encoder step, of one token, is done;
// ids without the start token, scores, peak bytes. compare.py runs it beside its peers.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <srformer/decode/search.hpp>
#include <srformer/models/checkpoint.hpp>

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
  std::string model_path, sources_path, dtype = "float32";
  index_t new_tokens = 128, beams = 1, repetitions = 3;
  int threads = 0;
  CLI::App app("Time generation");
  app.add_option("model", model_path, "Checkpoint folder")->required();
  app.add_option("sources", sources_path, "JSON list of lists of token ids")->required();
  app.add_option("--new_tokens", new_tokens, "Tokens of each output");
  app.add_option("--num_beams", beams, "Hypotheses of beam search; 1: greedy");
  app.add_option("--repetitions", repetitions, "Timed ones, after one that is not");
  app.add_option("--threads", threads, "Threads; 0: all");
  app.add_option("--dtype", dtype, "Of the weights: float32 or int8")
      ->check(CLI::IsMember({"float32", "int8"}));
  CLI11_PARSE(app, argc, argv);

  const double start = now();
  EigenBackend be(threads);
  const HfCheckpoint checkpoint(model_path);
  std::visit(
      [&]<class Config>(const Config& config) {
        model_of_t<EigenBackend, float, Config> model(be, config);
        load_parameters(model, checkpoint);
        if (dtype == "int8") model.parameters().quantize_weights();
        model.start_decoding(std::vector{config.eos_token_id}, std::vector<index_t>{1}, 1, 0, 1);
        const double load_seconds = now() - start;

        const Sources sources(sources_path, config.pad_token_id);
        GenerationConfig options;
        options.num_beams = beams;
        options.max_new_tokens = options.min_new_tokens = new_tokens;
        Generation generation;
        std::vector<double> seconds;
        for (index_t i = 0; repetitions > 0 && i <= repetitions; ++i) {
          const double begin = now();
          generation = generate(model, sources.ids, sources.lengths, options);
          if (i > 0) seconds.push_back(now() - begin);
        }
        for (auto& row : generation.sequences) row.erase(row.begin());
        rusage usage{};
        getrusage(RUSAGE_SELF, &usage);
        const nlohmann::json line{{"seconds", seconds},
                                  {"load_seconds", load_seconds},
                                  {"ids", generation.sequences},
                                  {"scores", generation.scores},
                                  {"dtype", dtype},
                                  {"peak_bytes", usage.ru_maxrss * 1024L}};
        std::printf("%s\n", line.dump().c_str());
      },
      model_config(checkpoint));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
