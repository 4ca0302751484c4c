// SPDX-License-Identifier: Apache-2.0
// Times steps of the trainer over the ranks of MPI: a T5 of random parameters and ids in float32, AdamW.
//
//   mpirun -n 2 bench_training_ranks --preset t5-small --source 512 --target 128 --batch 2 --micro_batches 4 --threads 1
//   bench_training_ranks --alone ...            the same step in one process, without a communicator
//
// Rank 0 prints one line of JSON: median seconds of a step, those of them in which each rank exchanged and did not
// compute, and the peak memory of each rank.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <srformer/backend/eigen.hpp>
#include <srformer/models/t5.hpp>
#include <srformer/train/mpi_communicator.hpp>
#include <srformer/train/trainer.hpp>

namespace {

using namespace srformer;

struct Sizes {
  std::string preset = "t5-small";
  index_t source = 512, target = 128, steps = 5;
  int threads = 1;
  TrainingOptions options;

  void add_to(CLI::App& app) {
    app.add_option("--preset", preset, "Sizes of the T5");
    app.add_option("--source", source, "Source tokens");
    app.add_option("--target", target, "Target tokens");
    app.add_option("--batch", options.batch_size, "Examples of a micro-batch");
    app.add_option("--micro_batches", options.accumulation, "Those of a step, of all ranks");
    app.add_option("--zero", options.zero, "Stage of ZeRO, 0 or 1");
    app.add_option("--bucket_bytes", options.bucket_bytes, "The most that ranks exchange at once");
    app.add_option("--steps", steps, "Timed steps, after one that is not");
    app.add_option("--threads", threads, "Threads of each rank");
  }
};

std::vector<std::int32_t> drawn_ids(index_t count, std::uint64_t stream) {
  std::vector<std::int32_t> ids;
  for (index_t i = 0; i < count; ++i)
    ids.push_back(static_cast<std::int32_t>(
        3 + random_below({7, stream}, static_cast<std::uint64_t>(i), 30000)));
  return ids;
}

double median(std::vector<double> x) {
  std::ranges::sort(x);
  return x[x.size() / 2];
}

template <class Comm>
void time_steps(Comm& comm, Sizes sizes) {
  EigenBackend be(sizes.threads);
  T5Config config;
  for (const auto& [name, preset] : T5Config::presets())
    if (name == sizes.preset) config = preset;
  T5<EigenBackend, float> model(be, config);
  model.initialize({1, 2}, 0.1);
  std::vector<Example> examples;
  const index_t of_step = sizes.options.batch_size * sizes.options.accumulation;
  for (index_t i = 0; i < of_step; ++i)
    examples.push_back({drawn_ids(sizes.source, static_cast<std::uint64_t>(2 * i)),
                        drawn_ids(sizes.target, static_cast<std::uint64_t>(2 * i + 1))});
  sizes.options.max_steps = sizes.steps + 1;
  Trainer trainer(model, Examples(examples), sizes.options, comm);
  std::vector<double> seconds, exchange;
  double loss = 0;
  while (!trainer.done()) {
    const StepReport report = trainer.step();
    loss = report.loss;
    if (report.step == 1) continue;
    seconds.push_back(report.seconds), exchange.push_back(report.exchange_seconds);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto all = zeros<double, 2>(be, {comm.size(), 2});
  all.view()(comm.rank(), 0) = median(exchange);
  all.view()(comm.rank(), 1) = static_cast<double>(usage.ru_maxrss) * 1024;
  all_gather(comm, be, all.data(), even_shares(2 * comm.size(), comm.size(), 2));
  nlohmann::json line{{"seconds", median(seconds)}, {"loss", loss}, {"ranks", comm.size()}};
  for (int r = 0; r < comm.size(); ++r) {
    line["exchange_seconds"].push_back(all.view()(r, 0));
    line["peak_bytes"].push_back(all.view()(r, 1));
  }
  if (comm.rank() == 0) std::printf("%s\n", line.dump().c_str());
}

}  // namespace

int main(int argc, char** argv) try {
  Sizes sizes;
  bool alone = false;
  std::optional<bool> own_thread;
  CLI::App app("Time steps over the ranks of MPI");
  sizes.add_to(app);
  app.add_flag("--alone", alone, "One process, without MPI");
  app.add_option("--own_thread", own_thread,
                 "Whether a thread of each rank moves data; else on several machines");
  CLI11_PARSE(app, argc, argv);
  if (alone) {
    SingleProcess process;
    time_steps(process, sizes);
    return 0;
  }
  const MpiSession mpi(MPI_THREAD_MULTIPLE);
  MpiCommunicator comm(MPI_COMM_WORLD, index_t{1} << 30, own_thread);
  time_steps(comm, sizes);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
