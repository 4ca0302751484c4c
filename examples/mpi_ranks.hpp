// SPDX-License-Identifier: Apache-2.0
// The ranks that mpirun or srun has started, connected by MPI, and what ends all of them when one fails, is lost or hangs.
#pragma once

#include <fcntl.h>
#include <mpi.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdio>
#include <memory>
#include <optional>
#include <srformer/backend/eigen.hpp>
#include <srformer/io/folder_lock.hpp>
#include <srformer/train/mpi_communicator.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "rank_watch.hpp"
#include "ranks.hpp"

namespace srformer::program {

/// A thread on each rank that tells rank 0 four times a second how often the rank has called the others, and is told that of
/// rank 0. Where a rank is given up, it names it and ends all ranks with exit code 1. Needs MPI_THREAD_MULTIPLE.
class RankWatcher {
 public:
  RankWatcher(MPI_Comm all, std::vector<std::string> names, const WatchLimits& limits,
              const std::atomic<std::uint64_t>& calls)
      : channel_(all), names_(std::move(names)), calls_(calls) {
    MPI_Comm_rank(channel_, &rank_), MPI_Comm_size(channel_, &size_);
    // Others than rank 0 watch rank 0 alone, and give it up later, the higher their number, so that one speaks.
    WatchLimits mine = limits;
    mine.silent += std::min(rank_, 20), mine.silent_at_end += std::min(rank_, 10);
    watch_.emplace(rank_ == 0 ? size_ : 1, mine);
    for (int r = 0; r < size_; ++r)
      if (r != rank_ && (rank_ == 0 || r == 0)) peers_.push_back({r, 0, 0, 0, MPI_REQUEST_NULL});
    thread_ = std::thread([this] { run(); });
  }
  RankWatcher(const RankWatcher&) = delete;
  RankWatcher& operator=(const RankWatcher&) = delete;
  ~RankWatcher() { stop(); }

  /// Ends the thread. What it has sent is received by drain() on the other ranks.
  void stop() {
    ended_ = true;
    if (thread_.joinable()) thread_.join();
  }
  /// How many messages went to each rank.
  std::vector<int> sent() const {
    std::vector<int> counts(static_cast<std::size_t>(size_), 0);
    for (const Peer& peer : peers_) counts[static_cast<std::size_t>(peer.rank)] = peer.sent;
    return counts;
  }
  /// Receives what is still on its way.
  ///   sent   by the rank of that place to this one
  void drain(const std::vector<int>& sent) {
    for (Peer& peer : peers_) {
      while (peer.received < sent[static_cast<std::size_t>(peer.rank)]) receive(peer);
      MPI_Wait(&peer.request, MPI_STATUS_IGNORE);
    }
  }

 private:
  struct Peer {
    int rank, sent, received;
    std::uint64_t beat;
    MPI_Request request;
  };

  void run() {
    using Clock = std::chrono::steady_clock;
    auto before = Clock::now();
    while (!ended_) {
      for (Peer& peer : peers_) exchange(peer);
      if (rank_ == 0) watch_->heard(0, calls_);
      const auto now = Clock::now();
      const std::chrono::duration<double> passed = now - before;
      const auto lost = watch_->tick(passed.count(), !keep_going());
      before = now;
      if (lost && !ended_) give_up(*lost);
      std::this_thread::sleep_for(std::chrono::milliseconds(250));
    }
  }

  void exchange(Peer& peer) {
    int free = 0, waiting = 1;
    MPI_Test(&peer.request, &free, MPI_STATUS_IGNORE);
    if (free != 0) {
      peer.beat = calls_;
      MPI_Isend(&peer.beat, 1, MPI_UINT64_T, peer.rank, 0, channel_, &peer.request);
      ++peer.sent;
    }
    while (MPI_Iprobe(peer.rank, 0, channel_, &waiting, MPI_STATUS_IGNORE) == MPI_SUCCESS &&
           waiting != 0)
      receive(peer);
  }

  void receive(Peer& peer) {
    std::uint64_t calls = 0;
    MPI_Recv(&calls, 1, MPI_UINT64_T, peer.rank, 0, channel_, MPI_STATUS_IGNORE);
    ++peer.received;
    watch_->heard(peer.rank, calls);
  }

  [[noreturn]] void give_up(const LostRanks& lost) {
    report_error(1, lost.text(names_));
    MPI_Abort(MPI_COMM_WORLD, 1);
    std::_Exit(1);
  }

  srformer::detail::MpiChannel channel_;
  std::vector<std::string> names_;
  const std::atomic<std::uint64_t>& calls_;
  int rank_ = 0, size_ = 1;
  std::optional<RankWatch> watch_;
  std::vector<Peer> peers_;
  std::atomic<bool> ended_ = false;
  std::thread thread_;
};

class MpiRanks final : public Ranks {
 public:
  /// Throws usage_error where this MPI is not that of the launcher.
  MpiRanks(const MpiSession& session, const Launch& launch)
      : session_(session), channel_(MPI_COMM_WORLD) {
    rank_ = communicator_.rank(), size_ = communicator_.size();
    if (launch.ranks > 0 && size_ != launch.ranks)
      throw usage_error(launch.by + " is " + std::to_string(launch.ranks) + ", but MPI finds " +
                        std::to_string(size_) +
                        "; start with the mpirun of the MPI that this program was built with");
    const srformer::detail::MpiMachine machine(channel_);
    local_rank_ = machine.rank, local_size_ = machine.size, machines_ = machine.machines;
    names_ =
        gather("process " + std::to_string(::getpid()) + " on " + srformer::detail::host_name());
  }

  /// To be called by all ranks, at the end of a run that has not failed.
  void close() {
    if (!watcher_) return barrier();
    watcher_->stop();
    const std::vector<int> sent = watcher_->sent();
    std::vector<int> to_here(sent.size());
    MPI_Alltoall(sent.data(), 1, MPI_INT, to_here.data(), 1, MPI_INT, channel_);
    watcher_->drain(to_here);
  }

  using Ranks::broadcast;
  void broadcast(void* bytes, std::size_t size, int root) override {
    called();
    communicator_.broadcast(host(), static_cast<std::uint8_t*>(bytes), static_cast<index_t>(size),
                            root);
  }
  std::vector<std::string> gather(const std::string& text) override {
    called();
    std::vector<std::uint64_t> sizes(static_cast<std::size_t>(size_));
    const std::uint64_t own = text.size();
    check(MPI_Allgather(&own, 1, MPI_UINT64_T, sizes.data(), 1, MPI_UINT64_T, channel_),
          "MPI_Allgather");
    std::vector<ArrayRange> shares;
    index_t all = 0;
    for (const std::uint64_t size : sizes) {
      shares.push_back({all, static_cast<index_t>(size)});
      all += static_cast<index_t>(size);
    }
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(all));
    std::copy(text.begin(), text.end(),
              bytes.begin() + shares[static_cast<std::size_t>(rank_)].first);
    communicator_.begin_all_gather(host(), bytes.data(), shares);
    communicator_.finish();
    std::vector<std::string> texts;
    for (const ArrayRange& share : shares)
      texts.emplace_back(bytes.begin() + share.first, bytes.begin() + share.end());
    return texts;
  }
  void barrier() override {
    called();
    communicator_.barrier();
  }

  void agree() override {
    called();
    const int mine = interruption;
    check(MPI_Allreduce(&mine, &agreed_, 1, MPI_INT, MPI_MAX, channel_), "MPI_Allreduce");
    if (agreed_ != 0) interruption = agreed_;
  }
  bool going() const override { return agreed_ == 0; }

  void begin_reduce_scatter(float* x, std::span<const ArrayRange> shares) override {
    called(), communicator_.begin_reduce_scatter(host(), x, shares);
  }
  void begin_reduce_scatter(double* x, std::span<const ArrayRange> shares) override {
    called(), communicator_.begin_reduce_scatter(host(), x, shares);
  }
  void begin_all_gather(float* x, std::span<const ArrayRange> shares) override {
    called(), communicator_.begin_all_gather(host(), x, shares);
  }
  void begin_all_gather(double* x, std::span<const ArrayRange> shares) override {
    called(), communicator_.begin_all_gather(host(), x, shares);
  }
  void begin_all_reduce(float* x, std::span<const ArrayRange> shares) override {
    called(), communicator_.begin_all_reduce(host(), x, shares);
  }
  void begin_all_reduce(double* x, std::span<const ArrayRange> shares) override {
    called(), communicator_.begin_all_reduce(host(), x, shares);
  }
  void progress() override { communicator_.progress(); }
  void finish() override {
    called();
    communicator_.finish();
  }

  void called() override { ++calls_; }
  void watch(double behind) override {
    if (!several()) return;
    if (session_.threads() == MPI_THREAD_MULTIPLE) {
      const WatchLimits limits{std::min(WatchLimits{}.silent, behind), behind};
      watcher_.emplace(channel_, names_, limits, calls_);
    } else if (first()) {
      print_notice(
          "notice: this MPI has no MPI_THREAD_MULTIPLE, so that a rank that hangs is not noticed");
    }
  }
  void use_threads(int threads) override { host_.emplace(threads); }

 private:
  static void check(int code, const char* call) { srformer::detail::check_mpi(code, call); }
  EigenBackend& host() { return *host_; }

  const MpiSession& session_;
  srformer::detail::MpiChannel channel_;
  MpiCommunicator communicator_;
  std::optional<EigenBackend> host_{1};
  std::vector<std::string> names_;
  std::atomic<std::uint64_t> calls_ = 0;
  int agreed_ = 0;
  std::optional<RankWatcher> watcher_;
};

/// What ranks other than the first print is nothing to see.
inline void silence(int descriptor) {
  const int nothing = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (nothing < 0) return;
  ::dup2(nothing, descriptor);
  ::close(nothing);
}

/// Reports what is being thrown and ends all ranks with its exit code. To be called while an exception is handled.
[[noreturn]] inline void end_all_ranks(int rank) {
  // What fails on every rank is told by the first, whose end is that of the others.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(rank == 0 ? 0 : 2);
  while (std::chrono::steady_clock::now() < until && keep_going())
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  if (rank != 0 && !keep_going()) silence(STDERR_FILENO);
  const int code = report_exception();
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

/// Runs body(ranks) on the ranks that a launcher has started, and returns its exit code.
template <class Body>
int run_with_mpi(const Launch& launch, Body& body) {
  const MpiSession session(MPI_THREAD_MULTIPLE);
  if (launch.rank != 0) speaker = "rank " + std::to_string(launch.rank) + ": ";
  int code = 0;
  try {
    MpiRanks ranks(session, launch);
    speaker = ranks.first() ? "" : "rank " + std::to_string(ranks.rank()) + ": ";
    quiet = !ranks.first();
    if (quiet) silence(STDOUT_FILENO);
    try {
      body(ranks);
    } catch (const Exit& exit) {
      if (exit.code != 0 && ranks.going()) throw;
      code = exit.code;  // of all ranks
    }
    ranks.close();
  } catch (...) {
    end_all_ranks(launch.rank);
  }
  return code;
}

}  // namespace srformer::program
