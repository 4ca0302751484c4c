// SPDX-License-Identifier: Apache-2.0
// Training over the processes of MPI is training in one process; tests/train has more cases, on threads.
#include <unistd.h>

#include <Eigen/Core>
#include <cmath>
#include <cstring>
#include <fstream>
#include <srformer/train/checkpoint.hpp>
#include <srformer/train/mpi_communicator.hpp>

#include "models/tiny_t5.hpp"
#include "mpi/world.hpp"
#include "support/catch.hpp"
#include "train/bigram_model.hpp"

using namespace srformer;

namespace {

TrainingOptions options_of_ranks(int zero) {
  TrainingOptions options;
  options.batch_size = 3, options.accumulation = 4, options.epochs = 2;
  options.learning_rate = 0.02, options.label_smoothing = 0.1;
  options.optimizer = AdamWOptions{.weight_decay = 0.1, .max_grad_norm = 0.5};
  options.dropout = DropoutRates{0.1, 0.1, 0.1};
  options.bucket_bytes = 3000, options.zero = zero;
  return options;
}

/// The model's parameters after all steps.
template <class Trainer>
auto values_after(Trainer&& trainer) {
  trainer.run([](const StepReport&) { return true; });
  return to_host(trainer.model().backend(), trainer.model().parameters().values());
}

template <class T>
bool same_bits_of(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && !a.empty() &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// Trains the model that make(be) gives alone and over MPI, where all ranks must come to the same bits, twice and with ZeRO.
template <class Make>
double check_training(MpiCommunicator& comm, Make make) {
  EigenBackend be(1);
  const auto examples = odd_examples(29);
  const auto on_ranks = [&](int zero) {
    auto model = make(be);
    auto values = values_after(Trainer(*model, Examples(examples), options_of_ranks(zero), comm));
    auto first = values;
    comm.broadcast(be, first.data(), std::ssize(first), 0);
    REQUIRE(same_bits_of(values, first));
    return values;
  };
  const auto whole = on_ranks(0);
  REQUIRE(same_bits_of(on_ranks(0), whole));
  REQUIRE(same_bits_of(on_ranks(1), whole));
  auto model = make(be);
  const auto alone = values_after(Trainer(*model, Examples(examples), options_of_ranks(0)));
  double most = 0;
  for (std::size_t i = 0; i < alone.size(); ++i)
    most = std::max(most, std::abs(math::to_double(alone[i]) - math::to_double(whole[i])));
  return most;
}

std::unique_ptr<T5<EigenBackend, double>> drawn_t5(EigenBackend& be) {
  auto model = std::make_unique<T5<EigenBackend, double>>(
      be, testing::tiny_config(testing::cross_options(Variant::segmented_recurrent)));
  model->initialize({1, 2}, 0.5);
  return model;
}

/// A folder whose name all ranks know, and which rank 0 removes.
struct FolderOfRanks {
  explicit FolderOfRanks(MpiCommunicator& comm) : comm_(comm) {
    EigenBackend be(1);
    double process = static_cast<double>(::getpid());
    comm.broadcast(be, &process, 1, 0);
    path = std::filesystem::temp_directory_path() /
           ("srformer-mpi-" + std::to_string(static_cast<long>(process)));
  }
  ~FolderOfRanks() {
    if (comm_.rank() == 0) std::filesystem::remove_all(path);
  }
  std::filesystem::path path;

 private:
  MpiCommunicator& comm_;
};

}  // namespace

TEST_CASE("processes train as one", "[training]") {
  MpiCommunicator comm = world();
  REQUIRE(check_training(comm, drawn_t5) < 1e-10);
  const auto bigram = [](auto scalar) {
    return [](EigenBackend& be) { return std::make_unique<BigramModel<decltype(scalar)>>(be); };
  };
  REQUIRE(check_training(comm, bigram(double{})) < 1e-10);
  // Narrow sums are rounded at other places: within some of their last bits.
  REQUIRE(check_training(comm, bigram(float{})) < 1e-3);
  REQUIRE(std::isfinite(check_training(comm, bigram(Eigen::bfloat16{}))));
}

TEST_CASE("processes write one checkpoint and go on from it", "[training]") {
  MpiCommunicator comm = world();
  EigenBackend be(1);
  const FolderOfRanks folder(comm);
  const auto examples = odd_examples(29);
  const auto file = [](const std::filesystem::path& path) {
    std::ifstream bytes(path / "optimizer.safetensors", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(bytes), {});
  };
  std::vector<std::string> states;
  for (const int zero : {0, 1}) {
    auto model = drawn_t5(be);
    Trainer trainer(*model, Examples(examples), options_of_ranks(zero), comm);
    trainer.step();
    const auto path =
        save_training(folder.path / std::to_string(zero), trainer, [](const auto&) {});
    states.push_back(file(path));
    // All values of the model are there on every rank; the state comes from the file.
    Trainer again(*model, Examples(examples), options_of_ranks(1 - zero), comm);
    REQUIRE(load_training(path, again).empty());
    REQUIRE(file(save_training(folder.path / "again", again, [](const auto&) {})) == states.back());
    const auto resumed = values_after(again);
    auto other = drawn_t5(be);
    const auto straight =
        values_after(Trainer(*other, Examples(examples), options_of_ranks(zero), comm));
    REQUIRE(same_bits_of(resumed, straight));
    comm.barrier();
  }
  REQUIRE(states[0].size() > 1000);
  REQUIRE(states[0] == states[1]);
}

TEST_CASE("processes with other settings are refused in the same words", "[training]") {
  MpiCommunicator comm = world();
  EigenBackend be(1);
  const std::string mine = comm.rank() + 1 == comm.size() ? "5e-5" : "1e-4";
  std::string refusal;
  try {
    require_same_settings(comm, be, {{"seed", "1"}, {"learning_rate", mine}});
  } catch (const shape_error& error) {
    refusal = error.what();
  }
  REQUIRE(refusal == (comm.size() == 1
                          ? ""
                          : "rank " + std::to_string(comm.size() - 1) +
                                ": learning_rate is \"5e-5\", and on rank 0 it is \"1e-4\"; start "
                                "all ranks with the same settings"));
}
