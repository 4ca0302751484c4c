// SPDX-License-Identifier: Apache-2.0
// Ranks that are threads of one process, and the communicator among them: what docs/training.md says that one of one's own
// must do, in its plainest form. All work is done within begin_...
#pragma once

#include <barrier>
#include <exception>
#include <srformer/backend/eigen.hpp>
#include <srformer/train/communicator.hpp>
#include <thread>
#include <vector>

class ThreadRank {
 public:
  struct Shared {
    explicit Shared(int ranks) : gate(ranks), arrays(static_cast<std::size_t>(ranks)) {}
    std::barrier<> gate;
    std::vector<void*> arrays;
  };

  ThreadRank(Shared& shared, int rank) : shared_(&shared), rank_(rank) {}

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(shared_->arrays.size()); }

  template <class B, class T>
  void begin_reduce_scatter(B&, T* x, std::span<const srformer::ArrayRange> shares) {
    ++begun;
    show(x);
    const auto [first, count] = shares[index(rank_)];
    std::vector<T> sum;
    for (srformer::index_t i = first; i < first + count; ++i) {
      using A = srformer::accumulate_t<T>;
      A total(0);
      for (int r = 0; r < size(); ++r) total = total + A(srformer::compute_t<T>(of<T>(r)[i]));
      sum.push_back(T(srformer::compute_t<T>(total)));
    }
    barrier();
    std::copy(sum.begin(), sum.end(), x + first);
  }
  template <class B, class T>
  void begin_all_gather(B&, T* x, std::span<const srformer::ArrayRange> shares) {
    show(x);
    for (int r = 0; r < size(); ++r) {
      const auto [first, count] = shares[index(r)];
      if (r != rank_) std::copy(of<T>(r) + first, of<T>(r) + first + count, x + first);
    }
    barrier();
  }
  template <class B, class T>
  void begin_all_reduce(B& be, T* x, std::span<const srformer::ArrayRange> shares) {
    begin_reduce_scatter(be, x, shares);
    begin_all_gather(be, x, shares);
  }
  void progress() { progress_calls += begun > 0 ? 1 : 0; }
  void finish() {}
  template <class B, class T>
  void broadcast(B&, T* x, srformer::index_t n, int root) {
    show(x);
    if (rank_ != root) std::copy(of<T>(root), of<T>(root) + n, x);
    barrier();
  }
  void barrier() { shared_->gate.arrive_and_wait(); }

  int begun = 0;           ///< reductions
  int progress_calls = 0;  ///< after the first of them

 private:
  static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }
  template <class T>
  const T* of(int rank) const {
    return static_cast<const T*>(shared_->arrays[index(rank)]);
  }
  void show(void* x) {
    shared_->arrays[index(rank_)] = x;
    barrier();
  }

  Shared* shared_;
  int rank_;
};

/// Calls f(communicator) on threads that are `ranks` ranks. What they throw is given by rank, null for nothing.
template <class F>
std::vector<std::exception_ptr> errors_of_ranks(int ranks, F f) {
  ThreadRank::Shared shared(ranks);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(ranks));
  std::vector<std::jthread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      try {
        ThreadRank rank(shared, r);
        f(rank);
      } catch (...) {
        errors[static_cast<std::size_t>(r)] = std::current_exception();
        shared.gate.arrive_and_drop();
      }
    });
  threads.clear();
  return errors;
}

/// The same, and throws what the first of them threw.
template <class F>
void on_ranks(int ranks, F f) {
  for (const std::exception_ptr& error : errors_of_ranks(ranks, f))
    if (error) std::rethrow_exception(error);
}
