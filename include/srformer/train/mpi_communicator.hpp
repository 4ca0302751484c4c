// SPDX-License-Identifier: Apache-2.0
// The communicator of MPI (train/communicator.hpp). Sums go by MPI_Ialltoallv, after which the rank that owns a share adds
// the parts of all ranks, and shares are gathered by MPI_Iallgatherv. Memory of a device is staged through the host.
//
// Most implementations of MPI move data over a network only within calls of MPI. Where MPI allows several threads
// (MPI_THREAD_MULTIPLE) and ranks are on several machines, a thread of the communicator calls it while operations are under
// way, so that they go on while the caller computes. Otherwise one thread calls MPI, for which MPI_THREAD_FUNNELED is
// enough, and data move when progress() is called.
#pragma once

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <srformer/backend/memory_pool.hpp>
#include <srformer/train/communicator.hpp>

namespace srformer {

namespace SRF_DETAIL {

/// Throws backend_error where a call of MPI has failed.
inline void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING + 1] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw backend_error(std::string(call) + " failed: " + std::string(text, text + length));
}

/// A type of MPI for elements of `bytes` bytes, which are moved and never computed with.
class MpiElement {
 public:
  explicit MpiElement(std::size_t bytes) {
    switch (bytes) {
      case 1:
        type_ = MPI_UINT8_T;
        return;
      case 2:
        type_ = MPI_UINT16_T;
        return;
      case 4:
        type_ = MPI_UINT32_T;
        return;
      case 8:
        type_ = MPI_UINT64_T;
        return;
      default:
        break;
    }
    check_mpi(MPI_Type_contiguous(static_cast<int>(bytes), MPI_BYTE, &type_),
              "MPI_Type_contiguous");
    own_ = true;
    check_mpi(MPI_Type_commit(&type_), "MPI_Type_commit");
  }
  MpiElement(const MpiElement&) = delete;
  MpiElement& operator=(const MpiElement&) = delete;
  ~MpiElement() {
    if (own_) MPI_Type_free(&type_);
  }

  MPI_Datatype type() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
  bool own_ = false;
};

/// A duplicate of a communicator, with messages of its own, that returns errors.
class MpiChannel {
 public:
  explicit MpiChannel(MPI_Comm of) {
    check_mpi(MPI_Comm_dup(of, &comm_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  MpiChannel(const MpiChannel&) = delete;
  MpiChannel& operator=(const MpiChannel&) = delete;
  ~MpiChannel() {
    int finalized = 0;
    MPI_Finalized(&finalized);
    // Freeing waits for other ranks, which may never come where an exception ends this one.
    if (finalized == 0 && std::uncaught_exceptions() == exceptions_) MPI_Comm_free(&comm_);
  }

  operator MPI_Comm() const { return comm_; }  // NOLINT: a channel is a communicator

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
  int exceptions_ = std::uncaught_exceptions();
};

/// Memory of the host that is kept for the next operation.
struct MpiMemory {
  MemoryPool<AlignedSource> pool;
};

class MpiBlock {
 public:
  MpiBlock() = default;
  MpiBlock(MpiMemory& memory, std::size_t bytes)
      : memory_(&memory), bytes_(bytes), data_(memory.pool.acquire(bytes)) {}
  MpiBlock(MpiBlock&& other) noexcept { *this = std::move(other); }
  MpiBlock& operator=(MpiBlock&& other) noexcept {
    std::swap(memory_, other.memory_), std::swap(bytes_, other.bytes_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~MpiBlock() {
    if (data_ != nullptr) memory_->pool.release(data_, bytes_);
  }
  void* data() const { return data_; }

 private:
  MpiMemory* memory_ = nullptr;
  std::size_t bytes_ = 0;
  void* data_ = nullptr;
};

/// A thread that calls MPI every few milliseconds between begin() and end(), which moves the data of all operations that are
/// under way. Looking for a message that nobody sends does that. Needs MPI_THREAD_MULTIPLE.
class MpiProgress {
  /// What a network of 1 Gbit/s moves in it fits into the buffers of a connection.
  static constexpr std::chrono::milliseconds interval{4};

 public:
  explicit MpiProgress(MPI_Comm all) : channel_(all), thread_([this] { run(); }) {}
  MpiProgress(const MpiProgress&) = delete;
  MpiProgress& operator=(const MpiProgress&) = delete;
  ~MpiProgress() {
    set(ended_, true);
    thread_.join();
  }

  void begin() { set(active_, true); }
  void end() { set(active_, false); }

 private:
  void set(bool& what, bool to) {
    {
      const std::lock_guard lock(mutex_);
      if (what == to) return;
      what = to;
    }
    changed_.notify_one();
  }

  void run() {
    std::unique_lock lock(mutex_);
    while (!ended_) {
      if (!active_) {
        changed_.wait(lock, [this] { return active_ || ended_; });
        continue;
      }
      lock.unlock();
      int there = 0;  // what fails here fails for the caller too, who says so
      MPI_Iprobe(MPI_ANY_SOURCE, 0, channel_, &there, MPI_STATUS_IGNORE);
      lock.lock();
      changed_.wait_for(lock, interval, [this] { return ended_ || !active_; });
    }
  }

  MpiChannel channel_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool active_ = false, ended_ = false;
  std::thread thread_;
};

/// Where a rank is among those of its machine, and how many machines there are.
struct MpiMachine {
  /// To be called by all ranks.
  explicit MpiMachine(MPI_Comm all) {
    MPI_Comm here = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split_type(all, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here),
              "MPI_Comm_split_type");
    check_mpi(MPI_Comm_rank(here, &rank), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(here, &size), "MPI_Comm_size");
    check_mpi(MPI_Comm_free(&here), "MPI_Comm_free");
    const int first = rank == 0 ? 1 : 0;
    check_mpi(MPI_Allreduce(&first, &machines, 1, MPI_INT, MPI_SUM, all), "MPI_Allreduce");
  }
  int rank = 0, size = 1, machines = 1;
};

/// Whether all ranks are to have an MpiProgress: as each wants, or where none says so as the constructor of MpiCommunicator
/// has it.
inline bool all_want_thread(MPI_Comm all, std::optional<bool> wanted) {
  int threads = MPI_THREAD_SINGLE;
  check_mpi(MPI_Query_thread(&threads), "MPI_Query_thread");
  if (wanted.value_or(false) && threads != MPI_THREAD_MULTIPLE)
    throw backend_error(
        "MpiCommunicator: a thread of its own needs MPI_THREAD_MULTIPLE; make MpiSession with it");
  const bool pays = MpiMachine(all).machines > 1 && threads == MPI_THREAD_MULTIPLE;
  int mine = wanted.value_or(pays) ? 1 : 0, least = 0;
  check_mpi(MPI_Allreduce(&mine, &least, 1, MPI_INT, MPI_MIN, all), "MPI_Allreduce");
  return least != 0;
}

/// The number and the channels of a rank. Sums and gathers have channels of their own, as a gather begins whenever its sum
/// is done, which may be before or after the next sum begins.
struct MpiRank {
  explicit MpiRank(MPI_Comm all) : sums(all), gathers(all), others(all) {
    check_mpi(MPI_Comm_rank(all, &rank), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(all, &size), "MPI_Comm_size");
  }
  MpiChannel sums, gathers, others;
  int rank = 0, size = 1;
  MpiMemory memory;
};

/// own [count] += the parts of the other ranks [ranks - 1, count], added in the order of the ranks; by rows.
template <class T>
struct SumInRankOrder {
  using A = accumulate_t<T>;
  static constexpr index_t row_size = 1024;
  T* own;
  const T* parts;
  index_t count;
  int ranks, rank;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void* scratch) const {
    const index_t start = row * row_size;
    const index_t length = count - start < row_size ? count - start : row_size;
    A* sum = static_cast<A*>(scratch);
    T* mine = own + start;
    for (int r = 0; r < ranks; ++r) {
      const T* of_rank = r == rank ? mine : parts + (r < rank ? r : r - 1) * count + start;
      if (r == 0) {
        team.for_each(length, [=](index_t i) { sum[i] = A(compute_t<T>(of_rank[i])); });
      } else {
        team.for_each(length, [=](index_t i) { sum[i] = sum[i] + A(compute_t<T>(of_rank[i])); });
      }
    }
    team.for_each(length, [=](index_t i) { mine[i] = T(compute_t<T>(sum[i])); });
  }
};

/// A sum, a gather, or a sum and then a gather, under way.
class MpiOperation {
 public:
  MpiOperation() = default;
  MpiOperation(const MpiOperation&) = delete;
  MpiOperation& operator=(const MpiOperation&) = delete;
  virtual ~MpiOperation() = default;

  bool may_gather_next() const { return phase_ != Phase::summing && phase_ != Phase::summed; }
  bool done() const { return phase_ == Phase::done; }

  /// Begins the gather where the sum is done.
  ///   may_gather   whether those of all earlier operations have begun
  ///   waits        for the sum
  void advance_sum(bool may_gather, bool waits) {
    if (phase_ == Phase::summing && complete(waits)) {
      add();
      phase_ = Phase::summed;
    }
    if (phase_ == Phase::summed && may_gather) phase_ = begin_gather();
  }
  void advance_gather(bool waits) {
    if (phase_ != Phase::gathering || !complete(waits)) return;
    take();
    phase_ = Phase::done;
  }

 protected:
  enum class Phase { summing, summed, gathering, done };

  virtual void add() = 0;
  virtual Phase begin_gather() = 0;
  virtual void take() = 0;

  Phase phase_ = Phase::summed;
  MPI_Request request_ = MPI_REQUEST_NULL;

 private:
  bool complete(bool waits) {
    int there = 1;
    if (waits) {
      check_mpi(MPI_Wait(&request_, MPI_STATUS_IGNORE), "MPI_Wait");
    } else {
      check_mpi(MPI_Test(&request_, &there, MPI_STATUS_IGNORE), "MPI_Test");
    }
    return there != 0;
  }
};

/// For shares that lie within `size` elements from x, which an int can count.
template <class B, class T>
class MpiExchange final : public MpiOperation {
 public:
  struct Wanted {
    bool sum, gather;
  };

  MpiExchange(MpiRank& on, B& be, T* x, std::vector<int> counts, std::vector<int> places,
              Wanted wanted)
      : on_(on),
        be_(be),
        x_(x),
        counts_(std::move(counts)),
        places_(std::move(places)),
        gathers_(wanted.gather),
        element_(sizeof(T)) {
    if constexpr (staged) {
      index_t size = 0;
      for (std::size_t r = 0; r < counts_.size(); ++r)
        size = std::max<index_t>(size, index_t{places_[r]} + counts_[r]);
      staging_ = MpiBlock(on.memory, static_cast<std::size_t>(size) * sizeof(T));
      for (int r = 0; r < on_.size; ++r)
        if (wanted.sum || r == on_.rank) be_.to_host(host() + place(r), x_ + place(r), count(r));
    }
    if (wanted.sum) begin_sum();
  }

 private:
  static constexpr bool staged = !std::is_same_v<typename B::space, host_space>;

  int count(int r) const { return counts_[static_cast<std::size_t>(r)]; }
  int place(int r) const { return places_[static_cast<std::size_t>(r)]; }
  T* host() const { return staged ? static_cast<T*>(staging_.data()) : x_; }
  T* own() const { return host() + place(on_.rank); }

  void begin_sum() {
    const int own_count = count(on_.rank);
    parts_ = MpiBlock(on_.memory, static_cast<std::size_t>(on_.size - 1) *
                                      static_cast<std::size_t>(own_count) * sizeof(T));
    sent_ = counts_;
    received_.assign(counts_.size(), own_count);
    received_places_.assign(counts_.size(), 0);
    for (int r = 0; r < on_.size; ++r)
      received_places_[static_cast<std::size_t>(r)] = (r < on_.rank ? r : r - 1) * own_count;
    const auto self = static_cast<std::size_t>(on_.rank);
    sent_[self] = received_[self] = received_places_[self] = 0;
    check_mpi(MPI_Ialltoallv(host(), sent_.data(), places_.data(), element_.type(), parts_.data(),
                             received_.data(), received_places_.data(), element_.type(), on_.sums,
                             &request_),
              "MPI_Ialltoallv");
    phase_ = Phase::summing;
  }

  void add() override {
    using Sum = SumInRankOrder<T>;
    using A = accumulate_t<T>;
    const Sum f{own(), static_cast<const T*>(parts_.data()), count(on_.rank), on_.size, on_.rank};
    const index_t rows = (f.count + Sum::row_size - 1) / Sum::row_size;
    if constexpr (staged) {
      std::vector<A> scratch(static_cast<std::size_t>(Sum::row_size));
      for (index_t row = 0; row < rows; ++row) f(SerialTeam{}, row, scratch.data());
    } else {
      be_.for_each_row(rows, Sum::row_size * static_cast<index_t>(sizeof(A)), f);
    }
    parts_ = {};
  }

  Phase begin_gather() override {
    if (!gathers_) {
      if constexpr (staged) be_.from_host(x_ + place(on_.rank), own(), count(on_.rank));
      return Phase::done;
    }
    check_mpi(MPI_Iallgatherv(MPI_IN_PLACE, 0, element_.type(), host(), counts_.data(),
                              places_.data(), element_.type(), on_.gathers, &request_),
              "MPI_Iallgatherv");
    return Phase::gathering;
  }

  void take() override {
    if constexpr (staged) {
      for (int r = 0; r < on_.size; ++r) be_.from_host(x_ + place(r), host() + place(r), count(r));
    }
  }

  MpiRank& on_;
  B& be_;
  T* x_;
  std::vector<int> counts_, places_, sent_, received_, received_places_;
  bool gathers_;
  MpiElement element_;
  MpiBlock staging_, parts_;
};

}  // namespace SRF_DETAIL

inline namespace SRF_TARGET {

/// Starts MPI for its lifetime. Only the thread that makes it may call MPI, unless threads() is MPI_THREAD_MULTIPLE. Must
/// outlive every MpiCommunicator. A process that an exception ends while it lives does not wait for the others: end them
/// with abort().
class MpiSession {
 public:
  ///   wanted  MPI_THREAD_FUNNELED or MPI_THREAD_MULTIPLE, which not every MPI gives
  /// Throws backend_error where MPI cannot be started, has been started already, or allows no threads beside it.
  explicit MpiSession(int wanted = MPI_THREAD_FUNNELED) {
    int started = 0;
    detail::check_mpi(MPI_Initialized(&started), "MPI_Initialized");
    if (started != 0) throw backend_error("MpiSession: MPI has been started already");
    detail::check_mpi(MPI_Init_thread(nullptr, nullptr, wanted, &threads_), "MPI_Init_thread");
    if (threads_ < MPI_THREAD_FUNNELED)
      throw backend_error(
          "this MPI allows no threads beside it (MPI_THREAD_FUNNELED); take another");
  }
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
  ~MpiSession() {
    if (std::uncaught_exceptions() == exceptions_) MPI_Finalize();
  }

  /// What MPI gave of what was wanted.
  int threads() const { return threads_; }

  /// Ends the processes of all ranks at once, this one with `status`.
  [[noreturn]] static void abort(int status) {
    MPI_Abort(MPI_COMM_WORLD, status);
    std::terminate();
  }

 private:
  int threads_ = MPI_THREAD_SINGLE, exceptions_ = std::uncaught_exceptions();
};

/// The ranks of a communicator of MPI, which must have been started. Operations of more than `most_elements` elements go
/// in several parts. A reduce-scatter works in memory of the size of its shares together; arrays of a device are copied to the
/// host and back beside.
class MpiCommunicator {
 public:
  /// All ranks make theirs at the same time. Throws backend_error.
  ///   own_thread  whether a thread moves data while the caller computes, which needs MPI_THREAD_MULTIPLE; none given: where
  ///               that is so and the ranks are on several machines
  explicit MpiCommunicator(MPI_Comm all = MPI_COMM_WORLD, index_t most_elements = index_t{1} << 30,
                           std::optional<bool> own_thread = {})
      : on_(std::make_unique<detail::MpiRank>(all)),
        window_(std::max<index_t>(
            1, std::min<index_t>(most_elements, INT_MAX) / std::max(1, on_->size - 1))) {
    if (detail::all_want_thread(all, own_thread))
      thread_ = std::make_unique<detail::MpiProgress>(all);
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;
  ~MpiCommunicator() {
    if (queue_.empty()) return;
    // Unfinished operations, as after an exception: MPI may still write to their memory, which is left to it.
    for (auto& operation : queue_) static_cast<void>(operation.release());
    static_cast<void>(on_.release());
  }

  int rank() const { return on_->rank; }
  int size() const { return on_->size; }

  template <class B, class T>
  void begin_reduce_scatter(B& be, T* x, std::span<const ArrayRange> shares) {
    begin(be, x, shares, true, false);
  }
  template <class B, class T>
  void begin_all_gather(B& be, T* x, std::span<const ArrayRange> shares) {
    begin(be, x, shares, false, true);
  }
  template <class B, class T>
  void begin_all_reduce(B& be, T* x, std::span<const ArrayRange> shares) {
    begin(be, x, shares, true, true);
  }

  void progress() {
    advance_sums(false);
    for (auto& operation : queue_) operation->advance_gather(false);
    while (!queue_.empty() && queue_.front()->done()) queue_.pop_front();
    if (thread_ && queue_.empty()) thread_->end();
  }

  void finish() {
    if (thread_) thread_->end();
    advance_sums(true);
    for (auto& operation : queue_) operation->advance_gather(true);
    queue_.clear();
  }

  template <class B, class T>
  void broadcast(B& be, T* x, index_t n, int root) {
    require(root >= 0 && root < size(), "MpiCommunicator::broadcast",
            "root is " + std::to_string(root) + " of " + std::to_string(size()) + " ranks");
    const detail::MpiElement element(sizeof(T));
    for (index_t first = 0; first < n; first += window_) {
      const index_t count = std::min(window_, n - first);
      const auto cast = [&](T* host) {
        detail::check_mpi(
            MPI_Bcast(host, static_cast<int>(count), element.type(), root, on_->others),
            "MPI_Bcast");
      };
      if constexpr (std::is_same_v<typename B::space, host_space>) {
        cast(x + first);
      } else {
        const detail::MpiBlock block(on_->memory, static_cast<std::size_t>(count) * sizeof(T));
        T* host = static_cast<T*>(block.data());
        if (rank() == root) be.to_host(host, x + first, count);
        cast(host);
        if (rank() != root) be.from_host(x + first, host, count);
      }
    }
  }

  void barrier() { detail::check_mpi(MPI_Barrier(on_->others), "MPI_Barrier"); }

 private:
  /// Queues the operation, divided into windows of elements that an int can count.
  template <class B, class T>
  void begin(B& be, T* x, std::span<const ArrayRange> shares, bool sum, bool gather) {
    static_assert(std::is_trivially_copyable_v<T>, "MPI moves scalars as bytes");
    require(std::ssize(shares) == size(), "MpiCommunicator",
            std::to_string(shares.size()) + " shares for " + std::to_string(size()) + " ranks");
    index_t first = 0, end = 0;
    for (const ArrayRange& share : shares) {
      if (share.count == 0) continue;
      first = end == 0 ? share.first : std::min(first, share.first);
      end = std::max(end, share.end());
    }
    for (; first < end; first += window_) {
      std::vector<int> counts, places;
      for (const ArrayRange& share : shares) {
        const index_t from = std::clamp(share.first, first, first + window_);
        const index_t to = std::clamp(share.end(), first, first + window_);
        counts.push_back(static_cast<int>(to - from));
        places.push_back(to > from ? static_cast<int>(from - first) : 0);
      }
      queue_.push_back(std::make_unique<detail::MpiExchange<B, T>>(
          *on_, be, x + first, std::move(counts), std::move(places),
          typename detail::MpiExchange<B, T>::Wanted{sum, gather}));
    }
    if (thread_ && !queue_.empty()) thread_->begin();
    progress();
  }

  /// In the order in which they were begun, which is the same on all ranks, so that gathers begin in it too.
  void advance_sums(bool waits) {
    bool may_gather = true;
    for (auto& operation : queue_) {
      operation->advance_sum(may_gather, waits);
      may_gather = may_gather && operation->may_gather_next();
    }
  }

  std::unique_ptr<detail::MpiRank> on_;
  index_t window_;
  std::deque<std::unique_ptr<detail::MpiOperation>> queue_;
  std::unique_ptr<detail::MpiProgress> thread_;
};

}  // namespace SRF_TARGET

}  // namespace srformer
