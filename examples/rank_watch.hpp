// SPDX-License-Identifier: Apache-2.0
// Which ranks of a run are lost or stuck, told from what they say of themselves: how often each has called the others.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace srformer::program {

/// How long a rank may be silent, and how long behind the others, in seconds.
struct WatchLimits {
  double silent = 60, behind = 1800;
  /// Once the run is interrupted: Slurm kills what has not ended 30 s after its SIGTERM.
  double silent_at_end = 10;
};

/// Ranks that are to be named.
struct LostRanks {
  std::vector<int> ranks;
  bool silent = false;  ///< else they are there, and the others wait for them
  double seconds = 0;

  /// "rank 1 (process 5 on a) has given no sign of life for 60 s"; `names` are those of all ranks.
  std::string text(const std::vector<std::string>& names) const {
    std::string text = ranks.size() > 1 ? "ranks " : "rank ";
    constexpr std::size_t most = 4;
    for (std::size_t i = 0; i < ranks.size() && i < most; ++i)
      text += (i > 0 ? ", " : "") + std::to_string(ranks[i]) + " (" +
              names.at(static_cast<std::size_t>(ranks[i])) + ")";
    if (ranks.size() > most) text += " and " + std::to_string(ranks.size() - most) + " more";
    const std::string time = std::to_string(static_cast<long>(seconds)) + " s";
    if (silent)
      return text + (ranks.size() > 1 ? " have" : " has") + " given no sign of life for " + time;
    return "the other ranks have waited " + time + " for " + text +
           "; give a higher --ddp_timeout where that is as it should be";
  }
};

/// Time is counted by the ticks of whoever watches, at most `longest_tick` each: where the whole run is suspended and goes
/// on, nobody has been silent.
class RankWatch {
 public:
  static constexpr double longest_tick = 2;

  RankWatch(int ranks, const WatchLimits& limits)
      : limits_(limits), ranks_(static_cast<std::size_t>(ranks)) {}

  /// A sign of life of a rank that has called the others `calls` times.
  void heard(int rank, std::uint64_t calls) {
    Rank& it = ranks_.at(static_cast<std::size_t>(rank));
    it.silence = 0;
    if (calls != it.calls) still_ = 0;
    it.calls = calls;
  }

  /// `seconds` have passed; `interrupted`: the run is to end. Returns whom to give up.
  std::optional<LostRanks> tick(double seconds, bool interrupted = false) {
    const double passed = std::clamp(seconds, 0.0, longest_tick);
    still_ += passed;
    const double silent =
        interrupted ? std::min(limits_.silent, limits_.silent_at_end) : limits_.silent;
    LostRanks lost{{}, true, silent};
    std::uint64_t most = 0;
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      ranks_[r].silence += passed;
      if (ranks_[r].silence > silent) lost.ranks.push_back(static_cast<int>(r));
      most = std::max(most, ranks_[r].calls);
    }
    if (!lost.ranks.empty()) return lost;
    if (still_ <= limits_.behind) return std::nullopt;
    lost = {{}, false, limits_.behind};
    for (std::size_t r = 0; r < ranks_.size(); ++r)
      if (ranks_[r].calls < most) lost.ranks.push_back(static_cast<int>(r));
    if (lost.ranks.empty()) return std::nullopt;  // all compute, or all wait for the network
    return lost;
  }

 private:
  struct Rank {
    std::uint64_t calls = 0;
    double silence = 0;
  };
  WatchLimits limits_;
  std::vector<Rank> ranks_;
  double still_ = 0;  ///< seconds since any rank has got on
};

}  // namespace srformer::program
