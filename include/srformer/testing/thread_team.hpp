// SPDX-License-Identifier: Apache-2.0
// A host backend whose row functors run on teams of four threads: it shows on any machine, and with
// a thread sanitizer proves, that a functor is right for teams of more than one, as on CUDA.
//
// New memory and the scratch of every row are filled with bytes that read as NaN, so that a functor
// which counts on zeros, or on what an earlier row left behind, is found too.
#pragma once

#include <array>
#include <barrier>
#include <cstring>
#include <thread>
#include <vector>

#include <srformer/backend/eigen.hpp>

namespace srformer {

inline namespace SRF_TARGET {

/// One of `width` threads that work on a row together.
class ThreadTeam {
 public:
  static constexpr int width = 4;

  /// What the members of a team have in common.
  struct Shared {
    std::barrier<> gate{width};
    std::array<std::array<std::byte, 64>, width> slots{};
    alignas(64) std::array<std::byte, 32768> tiles{};
  };

  ThreadTeam(int rank, Shared& shared) : rank_(rank), shared_(&shared) {}

  template <class F>
  void for_each(index_t n, F f) const {
    for (index_t i = rank_; i < n; i += width) f(i);
    sync();
  }

  template <class A, class F>
  A sum(index_t n, F f) const {
    A mine(0);
    for (index_t i = rank_; i < n; i += width) mine = mine + f(i);
    const std::array<A, width> all = exchange(mine);
    A total(0);
    for (const A& part : all) total = total + part;
    return total;
  }

  template <class A, class F>
  A max(index_t n, A start, F f) const {
    A mine = start;
    for (index_t i = rank_; i < n; i += width) mine = math::max(mine, A(f(i)));
    A top = start;
    for (const A& part : exchange(mine)) top = math::max(top, part);
    return top;
  }

  /// As a block of a device computes it.
  template <class TA, class TB, class TC>
  void gemm(Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k,
            std::type_identity_t<compute_t<TC>> alpha, const TA* a, index_t lda, const TB* b,
            index_t ldb, std::type_identity_t<compute_t<TC>> beta, TC* c, index_t ldc) const {
    using Gemm = detail::TiledGemm<compute_t<TC>, 2, width / 2>;
    static_assert(sizeof(typename Gemm::Tiles) <= sizeof(Shared::tiles));
    auto& tiles = *reinterpret_cast<typename Gemm::Tiles*>(shared_->tiles.data());
    Gemm::run(
        rank_, tiles, [this] { sync(); }, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb,
        beta, c, ldc);
  }

  bool leader() const { return rank_ == 0; }
  void sync() const { shared_->gate.arrive_and_wait(); }

 private:
  /// What every member has, for every member.
  template <class A>
  std::array<A, width> exchange(const A& mine) const {
    static_assert(std::is_trivially_copyable_v<A> && sizeof(A) <= 64);
    std::memcpy(shared_->slots[rank_].data(), &mine, sizeof(A));
    sync();
    std::array<A, width> all;
    for (int r = 0; r < width; ++r) std::memcpy(&all[r], shared_->slots[r].data(), sizeof(A));
    sync();
    return all;
  }

  int rank_;
  Shared* shared_;
};

/// As EigenBackend, but for the teams and the poisoned memory. For tests: each row costs many barriers.
class ThreadTeamBackend : public EigenBackend {
 public:
  using team_type = ThreadTeam;
  static constexpr bool many_teams = true;

  ThreadTeamBackend() : EigenBackend(1) {}

  template <class T>
  T* allocate(index_t n) {
    T* p = EigenBackend::allocate<T>(n);
    if constexpr (std::is_trivially_copyable_v<T>) poison(p, n * static_cast<index_t>(sizeof(T)));
    return p;
  }

  template <class F>
  void for_each_row(index_t rows, index_t scratch_bytes, F f) {
    std::byte* scratch = allocate<std::byte>(scratch_bytes);
    ThreadTeam::Shared shared;
    std::vector<std::jthread> members;
    for (int rank = 0; rank < ThreadTeam::width; ++rank) {
      members.emplace_back([=, &shared] {
        const ThreadTeam team(rank, shared);
        for (index_t row = 0; row < rows; ++row) {
          if (team.leader()) poison(scratch, scratch_bytes);
          team.sync();
          f(team, row, static_cast<void*>(scratch));
          team.sync();
        }
      });
    }
    members.clear();
    deallocate(scratch, scratch_bytes);
  }

  /// As a device has it, so that attention takes the same way as there.
  template <class A, class B, class C>
  void gemm_batched(Op transpose_a, Op transpose_b, index_t count, index_t m, index_t n, index_t k,
                    typename detail::GemmOfBatch<A, B, C>::Scalar alpha, A a, index_t lda, B b,
                    index_t ldb, typename detail::GemmOfBatch<A, B, C>::Scalar beta, C c,
                    index_t ldc) {
    for_each_row(count, 0,
                 detail::GemmOfBatch<A, B, C>{transpose_a, transpose_b, m, n, k, alpha, a, lda, b,
                                              ldb, beta, c, ldc});
  }

 private:
  static void poison(void* p, index_t bytes) {
    if (bytes > 0) std::memset(p, 0xFF, static_cast<std::size_t>(bytes));
  }
};

}  // namespace SRF_TARGET

static_assert(BackendFor<ThreadTeamBackend, float> && HasBatchedGemm<ThreadTeamBackend>);

}  // namespace srformer
