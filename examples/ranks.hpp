// SPDX-License-Identifier: Apache-2.0
// The processes ("ranks") that run a program together. Every one of them has the same flags and makes the same calls in the
// same order; rank 0 alone writes and prints. mpi_ranks.hpp has those that mpirun or srun has started.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <srformer/train/communicator.hpp>
#include <string>
#include <utility>
#include <vector>

#include "interruption.hpp"
#include "launcher.hpp"

namespace srformer::program {

/// One process alone; of several, a class that is derived from it.
class Ranks {
 public:
  Ranks() = default;
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;
  virtual ~Ranks() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// The ranks of this machine, and which of them this is.
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }
  int machines() const { return machines_; }
  bool first() const { return rank_ == 0; }
  bool several() const { return size_ > 1; }

  /// `bytes` bytes of rank `root`, on every rank.
  virtual void broadcast(void*, std::size_t /*bytes*/, int /*root*/) {}
  /// The text of rank 0, on every rank.
  std::string broadcast(std::string text);
  /// The texts of all ranks in their order, on every rank.
  virtual std::vector<std::string> gather(const std::string& text) { return {text}; }
  /// Waits for all ranks.
  virtual void barrier() {}

  /// What rank 0 has decided, on every rank.
  bool decide(bool decision) {
    broadcast(&decision, sizeof decision, 0);
    return decision;
  }

  /// Makes an interruption of any rank that of all. From here to the next call going() says the same on every rank.
  virtual void agree() {}
  /// Whether the run goes on, as all ranks see it.
  virtual bool going() const { return keep_going(); }

  /// The exchange of gradients (train/communicator.hpp), in memory of the host.
  virtual void begin_reduce_scatter(float*, std::span<const ArrayRange>) {}
  virtual void begin_reduce_scatter(double*, std::span<const ArrayRange>) {}
  virtual void begin_all_gather(float*, std::span<const ArrayRange>) {}
  virtual void begin_all_gather(double*, std::span<const ArrayRange>) {}
  virtual void begin_all_reduce(float*, std::span<const ArrayRange>) {}
  virtual void begin_all_reduce(double*, std::span<const ArrayRange>) {}
  virtual void progress() {}
  virtual void finish() {}

  /// Counts a call that all ranks make, for those who watch them.
  virtual void called() {}
  /// From now on a rank that is `behind` seconds behind the others ends them all, as one does that is silent.
  virtual void watch(double /*behind*/) {}
  /// Threads for the sums of gradients.
  virtual void use_threads(int) {}

 protected:
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1, machines_ = 1;
};

inline std::string Ranks::broadcast(std::string text) {
  std::size_t size = text.size();
  broadcast(&size, sizeof size, 0);
  text.resize(size);
  broadcast(text.data(), size, 0);
  return text;
}

/// "4 ranks on 2 machines, 8 threads each"; nothing of a process that is alone.
inline std::string ranks_text(const Ranks& ranks, int threads) {
  if (!ranks.several()) return "";
  std::string text = std::to_string(ranks.size()) + " ranks on " +
                     std::to_string(ranks.machines()) +
                     (ranks.machines() > 1 ? " machines" : " machine");
  if (threads > 0)
    text += ", " + std::to_string(threads) + (threads > 1 ? " threads each" : " thread each");
  return text;
}

/// Threads for this rank: as the flag says, else as OMP_NUM_THREADS, else its share of the machine. Of a process that is
/// alone as the flag says.
///   notice   out: what the user should know of it, or nothing
inline int threads_of_rank(const Ranks& ranks, int flag, const Environment& variable,
                           std::string& notice) {
  if (flag > 0 || !ranks.several()) return flag;
  if (const auto text = variable("OMP_NUM_THREADS")) {
    const auto first = [&](const char*) { return text->substr(0, text->find(',')); };
    return *detail::launcher_number(first, "OMP_NUM_THREADS", 1);
  }
  const int processors = machine_processors(), allowed = allowed_processors();
  const ThreadShare share = thread_share(processors, allowed, ranks.local_size());
  if (share.bound)
    notice = "notice: each rank is bound to " + std::to_string(allowed) + " of the machine's " +
             std::to_string(processors) + " processors, less than its share among " +
             std::to_string(ranks.local_size()) +
             " ranks; with mpirun --bind-to none it has that share";
  return share.threads;
}

}  // namespace srformer::program
