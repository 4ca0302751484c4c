// SPDX-License-Identifier: Apache-2.0
// How the gradients of a step go from rank to rank while the backward pass still runs: in buckets of neighbouring
// parameters, each of which is sent when the stage of the pass is over after which its gradients are final
// (LossOptions::finished). Every rank has a share of each bucket, of which it alone adds up the gradients of all ranks.
//
//   without zero   begin_all_reduce of each bucket: every rank has all sums and updates all parameters
//   with zero      begin_reduce_scatter: a rank has the sums of its shares, updates the parameters of its shares, for which
//                  alone it has an optimizer's state, and then all values are gathered
//
// The norm of the gradients is added up by shares and then in the order of ranks either way, so that both have the same
// bits. The bytes that a rank sends are the same too: those of the parameters about twice.
#pragma once

#include <algorithm>
#include <chrono>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <srformer/train/optimizer.hpp>
#include <srformer/train/same_settings.hpp>

namespace srformer {

/// Neighbouring gradients that are exchanged at once.
struct GradientBucket {
  index_t stage = 0;               ///< of the backward pass, after which all of them are final
  std::vector<ArrayRange> shares;  ///< by rank, in elements of all gradients
};

namespace SRF_DETAIL {

/// Losses and squares of all ranks [ranks,2] -> the total loss, and the total squares behind the first loss.
template <class A>
struct AddTotals {
  A *totals, *loss;
  int ranks;
  SRF_HD void operator()(index_t) const {
    A losses = totals[0], squares = totals[1];
    for (int r = 1; r < ranks; ++r)
      losses = losses + totals[2 * r], squares = squares + totals[2 * r + 1];
    *loss = losses, totals[1] = squares;
  }
};

}  // namespace SRF_DETAIL

namespace detail {

/// Some neighbouring parameters, in memory and in the order in which gradients become final.
struct ParameterRun {
  index_t stage;
  std::vector<ArrayRange> parameters;  // in the order of memory
  index_t first() const { return parameters.front().first; }
  index_t end() const { return parameters.back().end(); }
  index_t count() const { return end() - first(); }
};

/// All parameters by the stage at which they are final, where neighbours of one stage are together, and those of
/// several as long as they have no more than `most` elements.
template <class B, class T>
std::vector<ParameterRun> parameter_runs(const Parameters<B, T>& parameters, index_t most) {
  std::vector<ParameterRun> ordered, runs;
  for (const auto& p : parameters)
    if (p.count > 0) ordered.push_back({p.final_stage, {{p.offset, p.count}}});
  std::ranges::stable_sort(ordered, {}, &ParameterRun::stage);
  for (ParameterRun& next : ordered) {
    const bool may = !runs.empty() && (runs.back().stage == next.stage ||
                                       runs.back().count() + next.count() <= most);
    if (may && runs.back().end() == next.first()) {
      runs.back().parameters.push_back(next.parameters.front());
    } else if (may && runs.back().first() == next.end()) {
      runs.back().parameters.insert(runs.back().parameters.begin(), next.parameters.front());
    } else {
      runs.push_back(std::move(next));
      continue;
    }
    runs.back().stage = next.stage;
  }
  return runs;
}

/// Divides buckets among ranks so that these come to own as much as each other.
class ShareDivision {
 public:
  /// Borders of shares are multiples of this in memory, or those of parameters.
  static constexpr index_t granule = 16;

  ShareDivision(index_t total, int ranks, bool whole_parameters)
      : whole_(whole_parameters),
        target_(static_cast<double>(total) / ranks),
        loads_(static_cast<std::size_t>(ranks)) {}

  /// Gives a parameter to the rank that owns least so far, and returns it.
  std::size_t give(index_t count) {
    const auto least = std::ranges::min_element(loads_);
    *least += static_cast<double>(count);
    return static_cast<std::size_t>(least - loads_.begin());
  }

  /// One share for each rank, in the order of memory: of a bucket [first, end) whose parameters are `parameters`.
  std::vector<ArrayRange> divide(index_t first, index_t end,
                                 std::span<const ArrayRange> parameters) {
    std::vector<double> room;
    for (const double load : loads_) room.push_back(std::max(0.0, target_ - load));
    double rest = std::accumulate(room.begin(), room.end(), 0.0);
    if (rest <= 0) room.assign(room.size(), 1.0), rest = static_cast<double>(room.size());
    std::vector<ArrayRange> shares;
    double before = 0;
    index_t from = first;
    for (std::size_t r = 0; r < room.size(); ++r) {
      before += room[r];
      const auto wanted = first + static_cast<index_t>(static_cast<double>(end - first) *
                                                       std::min(1.0, before / rest));
      const index_t to =
          r + 1 == room.size() ? end : std::clamp(border(wanted, parameters), from, end);
      shares.push_back({from, to - from});
      loads_[r] += static_cast<double>(to - from);
      from = to;
    }
    return shares;
  }

 private:
  index_t border(index_t wanted, std::span<const ArrayRange> parameters) const {
    if (!whole_) return (wanted + granule / 2) / granule * granule;
    index_t nearest = parameters.front().first;
    for (const ArrayRange& p : parameters)
      if (std::abs(p.end() - wanted) < std::abs(nearest - wanted)) nearest = p.end();
    return nearest;
  }

  bool whole_;
  double target_;
  std::vector<double> loads_;
};

/// The buckets of one run where a share may end anywhere.
inline void cut_run(const ParameterRun& run, index_t most, ShareDivision& division,
                    std::vector<GradientBucket>& buckets) {
  const auto pieces = static_cast<int>((run.count() + most - 1) / most);
  for (const ArrayRange& piece : even_shares(run.count(), pieces, ShareDivision::granule)) {
    const index_t first = run.first() + piece.first;
    if (piece.count > 0)
      buckets.push_back({run.stage, division.divide(first, first + piece.count, {})});
  }
}

/// The buckets of one run where shares are of whole parameters. One of more than `most` elements is given to one rank.
inline void cut_run_at_parameters(const ParameterRun& run, index_t most, int ranks,
                                  const std::vector<std::pair<ArrayRange, std::size_t>>& given,
                                  ShareDivision& division, std::vector<GradientBucket>& buckets) {
  const std::span<const ArrayRange> all(run.parameters);
  for (std::size_t i = 0; i < all.size();) {
    const auto owner = std::ranges::find(given, all[i], &std::pair<ArrayRange, std::size_t>::first);
    if (owner != given.end()) {
      for (index_t first = all[i].first; first < all[i].end(); first += most) {
        std::vector<ArrayRange> shares(static_cast<std::size_t>(ranks), ArrayRange{first, 0});
        shares[owner->second].count = std::min(most, all[i].end() - first);
        buckets.push_back({run.stage, std::move(shares)});
      }
      ++i;
      continue;
    }
    std::size_t end = i + 1;
    while (end < all.size() && all[end].count <= most && all[end].end() - all[i].first <= most)
      ++end;
    buckets.push_back(
        {run.stage, division.divide(all[i].first, all[end - 1].end(), all.subspan(i, end - i))});
    i = end;
  }
}

}  // namespace detail

/// The buckets of all gradients in the order in which they become final, of `most` elements at most.
///   whole_parameters   whether no parameter may be divided among ranks
template <class B, class T>
std::vector<GradientBucket> gradient_buckets(const Parameters<B, T>& parameters, int ranks,
                                             index_t most, bool whole_parameters) {
  require(most >= 1, "gradient_buckets", "a bucket has at least 1 element");
  const auto runs = detail::parameter_runs(parameters, most);
  detail::ShareDivision division(parameters.size(), ranks, whole_parameters);
  std::vector<GradientBucket> buckets;
  if (!whole_parameters) {
    for (const detail::ParameterRun& run : runs) detail::cut_run(run, most, division, buckets);
    return buckets;
  }
  std::vector<std::pair<ArrayRange, std::size_t>> given;
  for (const detail::ParameterRun& run : runs)
    for (const ArrayRange& p : run.parameters)
      if (p.count > most) given.push_back({p, 0});
  std::ranges::stable_sort(
      given, [](const auto& a, const auto& b) { return a.first.count > b.first.count; });
  for (auto& [parameter, owner] : given) owner = division.give(parameter.count);
  for (const detail::ParameterRun& run : runs)
    detail::cut_run_at_parameters(run, most, ranks, given, division, buckets);
  return buckets;
}

/// All that rank `rank` owns, in rising order.
inline std::vector<ArrayRange> owned_share(const std::vector<GradientBucket>& buckets, int rank) {
  std::vector<ArrayRange> all, joined;
  for (const GradientBucket& bucket : buckets)
    all.push_back(bucket.shares[static_cast<std::size_t>(rank)]);
  std::ranges::sort(all, {}, &ArrayRange::first);
  for (const ArrayRange& range : all) {
    if (range.count == 0) continue;
    if (!joined.empty() && joined.back().end() == range.first) {
      joined.back().count += range.count;
    } else {
      joined.push_back(range);
    }
  }
  return joined;
}

/// The exchange of gradients and values among the ranks of one communicator, which must outlive it. With one rank it has
/// nothing to do, and no memory.
template <class B, class T, class C>
requires Communicator<C, B, T> && Communicator<C, B, accumulate_t<T>> && Communicator<C, B, double>
class GradientExchange {
  using A = accumulate_t<T>;

 public:
  /// Throws shape_error for a bucket of no bytes.
  GradientExchange(C& comm, B& be, const Parameters<B, T>& parameters, index_t bucket_bytes,
                   bool zero, bool whole_parameters)
      : comm_(&comm), zero_(zero && comm.size() > 1) {
    require(bucket_bytes >= 1, "GradientExchange", "bucket_bytes must be at least 1");
    if (alone()) return;
    const index_t most = std::max<index_t>(1, bucket_bytes / static_cast<index_t>(sizeof(T)));
    buckets_ = gradient_buckets(parameters, comm.size(), most, whole_parameters);
    share_ = owned_share(buckets_, comm.rank());
    totals_ = zeros<A, 1>(be, {2 * comm.size()});
    for (int r = 0; r < comm.size(); ++r) total_shares_.push_back({2 * r, 2});
  }

  C& communicator() const { return *comm_; }
  bool alone() const { return comm_->size() == 1; }
  bool zero() const { return zero_; }
  const std::vector<GradientBucket>& buckets() const { return buckets_; }
  /// The elements of which this rank adds up the gradients, in rising order.
  const std::vector<ArrayRange>& share() const { return share_; }
  /// Seconds in calls of the communicator since begin(), in which this rank computed nothing else.
  double seconds() const { return seconds_; }

  /// Before the gradients of a step.
  void begin() { next_ = 0, seconds_ = 0; }

  /// Sends what is final after `stage`, and gets on with what has been sent.
  void stage_finished(B& be, T* gradients, index_t stage) {
    if (alone()) return;
    timed([&] {
      for (; next_ < buckets_.size() && buckets_[next_].stage <= stage; ++next_) {
        const std::vector<ArrayRange>& shares = buckets_[next_].shares;
        zero_ ? comm_->begin_reduce_scatter(be, gradients, shares)
              : comm_->begin_all_reduce(be, gradients, shares);
      }
      comm_->progress();
    });
  }

  /// Sends the rest and waits for all sums; then loss [1] and the squares of the gradients are those of all ranks.
  void finish(B& be, T* gradients, A* loss) {
    if (alone()) return;
    stage_finished(be, gradients, end_of_backward);
    timed([&] { comm_->finish(); });
    A* own = totals_.data() + 2 * comm_->rank();
    be.copy(own, static_cast<const A*>(loss), 1);
    be.fill(own + 1, 1, A(0));
    for (const ArrayRange& range : share_)
      be.reduce(range.count, detail::SquaredGradient<T>{gradients + range.first}, own + 1);
    timed([&] {
      comm_->begin_all_gather(be, totals_.data(), total_shares_);
      comm_->finish();
    });
    be.for_each(1, detail::AddTotals<A>{totals_.data(), loss, comm_->size()});
  }

  /// The sum of the squares of all gradients [1], in the backend's memory, after finish().
  const A* squares() const { return totals_.data() + 1; }

  /// Throws shape_error on every rank where not all have the same values [size], as far as their sum of squares tells.
  void require_same_values(B& be, const T* values, index_t size) {
    if (alone()) return;
    auto squares = zeros<A, 1>(be, {1});
    be.reduce(size, detail::SquaredGradient<T>{values}, squares.data());
    const auto all = detail::numbers_of_all(*comm_, be, {read_number(be, squares.data())});
    const auto ranks = detail::differing_ranks(all, 1, 0, 1);
    require(
        ranks.empty(), "Trainer",
        detail::ranks_text(ranks) +
            ": the parameters are not those of rank 0; load or initialize them alike on all ranks");
  }

  /// The least of the numbers of all ranks.
  double least(B& be, double number) {
    if (alone()) return number;
    return std::ranges::min(detail::numbers_of_all(*comm_, be, {number}));
  }

  /// After an update of the share: values of other shares become those of their owners. Without zero there is nothing to do.
  void spread(B& be, T* values) {
    if (!zero_) return;
    timed([&] {
      for (const GradientBucket& bucket : buckets_)
        comm_->begin_all_gather(be, values, bucket.shares);
      comm_->finish();
    });
  }

 private:
  template <class F>
  void timed(F f) {
    const auto start = std::chrono::steady_clock::now();
    f();
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  C* comm_;
  bool zero_;
  std::vector<GradientBucket> buckets_;
  std::vector<ArrayRange> share_, total_shares_;
  Tensor<B, A, 1> totals_;
  std::size_t next_ = 0;
  double seconds_ = 0;
};

}  // namespace srformer
