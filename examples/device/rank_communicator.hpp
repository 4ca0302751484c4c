// SPDX-License-Identifier: Apache-2.0
// The communicator (train/communicator.hpp) of the ranks of a program, for arrays of any backend.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <srformer/backend/tensor.hpp>
#include <srformer/train/communicator.hpp>
#include <type_traits>
#include <utility>
#include <vector>

#include "../ranks.hpp"

namespace srformer::program {

/// Arrays on a device go through the host, in memory of the size of what is under way.
class RankCommunicator {
 public:
  explicit RankCommunicator(Ranks& ranks) : ranks_(&ranks) {}

  int rank() const { return ranks_->rank(); }
  int size() const { return ranks_->size(); }

  template <class B, class T>
  void begin_reduce_scatter(B& be, T* x, std::span<const ArrayRange> shares) {
    const ArrayRange own = shares[static_cast<std::size_t>(rank())];
    ranks_->begin_reduce_scatter(on_host(be, x, shares, shares, {&own, 1}), shares);
  }
  template <class B, class T>
  void begin_all_gather(B& be, T* x, std::span<const ArrayRange> shares) {
    const ArrayRange own = shares[static_cast<std::size_t>(rank())];
    ranks_->begin_all_gather(on_host(be, x, shares, {&own, 1}, shares), shares);
  }
  template <class B, class T>
  void begin_all_reduce(B& be, T* x, std::span<const ArrayRange> shares) {
    ranks_->begin_all_reduce(on_host(be, x, shares, shares, shares), shares);
  }

  void progress() { ranks_->progress(); }
  void finish() {
    ranks_->finish();
    for (const auto& staged : staged_) staged->put_back();
    staged_.clear();
  }

  template <class B, class T>
  void broadcast(B& be, T* x, index_t n, int root) {
    const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
    if constexpr (std::is_same_v<typename B::space, host_space>) {
      ranks_->broadcast(x, bytes, root);
    } else {
      std::vector<T> host(static_cast<std::size_t>(n));
      if (rank() == root) be.to_host(host.data(), x, n);
      ranks_->broadcast(host.data(), bytes, root);
      if (rank() != root) be.from_host(x, host.data(), n);
    }
  }
  void barrier() { ranks_->barrier(); }

 private:
  struct Staged {
    virtual ~Staged() = default;
    virtual void put_back() = 0;
  };
  /// A copy on the host of an array of a device.
  template <class B, class T>
  struct StagedArray final : Staged {
    B& be;
    T* x;
    std::vector<T> host;
    std::vector<ArrayRange> back;

    StagedArray(B& backend, T* device) : be(backend), x(device) {}
    void put_back() override {
      for (const ArrayRange& range : back)
        be.from_host(x + range.first, host.data() + range.first, range.count);
      be.synchronize();
    }
  };

  /// x where the host can read and write it.
  ///   there, back   what the operation reads, and what it writes
  template <class B, class T>
  T* on_host(B& be, T* x, std::span<const ArrayRange> shares, std::span<const ArrayRange> there,
             std::span<const ArrayRange> back) {
    if constexpr (std::is_same_v<typename B::space, host_space>) {
      return x;
    } else {
      auto staged = std::make_unique<StagedArray<B, T>>(be, x);
      index_t size = 0;
      for (const ArrayRange& share : shares) size = std::max(size, share.end());
      staged->host.resize(static_cast<std::size_t>(size));
      for (const ArrayRange& range : there)
        be.to_host(staged->host.data() + range.first, x + range.first, range.count);
      staged->back.assign(back.begin(), back.end());
      T* host = staged->host.data();
      staged_.push_back(std::move(staged));
      return host;
    }
  }

  Ranks* ranks_;
  std::vector<std::unique_ptr<Staged>> staged_;
};

/// What connects the ranks on a backend; a header of a backend's own may name another and define the same for it.
template <class B>
struct CommunicatorOfBackend {
  using type = RankCommunicator;
  static RankCommunicator make(B&, Ranks& ranks) { return RankCommunicator(ranks); }
};

}  // namespace srformer::program
