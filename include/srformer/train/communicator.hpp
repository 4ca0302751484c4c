// SPDX-License-Identifier: Apache-2.0
// What training over many processes asks of whatever connects them: a communicator, whose processes ("ranks") have
// numbers 0, 1, ... size() - 1 and call the same operations in the same order. Arrays lie in the memory of a rank's backend.
//
//   rank(), size()
//   begin_reduce_scatter(be, x, shares)   share r of x on rank r becomes the sum of the share over all ranks; what is outside
//                                         of a rank's own share is left as it was, or not, but is of no use
//   begin_all_gather(be, x, shares)       share r of x on every rank becomes that of rank r
//   begin_all_reduce(be, x, shares)       the first and then the second, with the same bits
//   progress()                            gets on with what was begun as far as it can without waiting
//   finish()                              waits until all that was begun is done
//   broadcast(be, x, n, root)             x [n] on every rank becomes that of rank `root`
//   barrier()                             waits until every rank has called it
//
// Shares are one range of x for each rank, in any order, that do not overlap; some may be empty. A sum adds the elements of
// ranks 0, 1, 2, ... in this order in accumulate_t<T> and rounds once, so that it depends on neither time nor network:
// two runs over the same number of ranks have the same bits. From begin_... to finish() the elements of all shares, and the
// list of shares, must stay where they are and as they are. A `begin_` may do all of the work at once, and then
// progress() and finish() do nothing. Errors are thrown as backend_error.
//
// SingleProcess below is one; train/mpi_communicator.hpp has that of MPI.
#pragma once

#include <algorithm>
#include <concepts>
#include <span>
#include <vector>

#include <srformer/backend/concept.hpp>

namespace srformer {

/// Elements [first, first + count) of an array.
struct ArrayRange {
  index_t first = 0, count = 0;
  index_t end() const { return first + count; }
  bool operator==(const ArrayRange&) const = default;
};

/// A communicator for arrays of T on backend B: the operations at the head of this file.
template <class C, class B, class T>
concept Communicator = BackendFor<B, T> &&
    requires(C& comm, const C& seen, B& be, T* x, index_t n, std::span<const ArrayRange> shares) {
  { seen.rank() } -> std::convertible_to<int>;
  { seen.size() } -> std::convertible_to<int>;
  comm.begin_reduce_scatter(be, x, shares);
  comm.begin_all_gather(be, x, shares);
  comm.begin_all_reduce(be, x, shares);
  comm.progress();
  comm.finish();
  comm.broadcast(be, x, n, 0);
  comm.barrier();
};

/// The communicator of a process that is alone: every operation has nothing to do.
class SingleProcess {
 public:
  static constexpr int rank() { return 0; }
  static constexpr int size() { return 1; }

  template <class B, class T>
  void begin_reduce_scatter(B&, T*, std::span<const ArrayRange>) {}
  template <class B, class T>
  void begin_all_gather(B&, T*, std::span<const ArrayRange>) {}
  template <class B, class T>
  void begin_all_reduce(B&, T*, std::span<const ArrayRange>) {}
  void progress() {}
  void finish() {}
  template <class B, class T>
  void broadcast(B&, T*, index_t, int) {}
  void barrier() {}
};

/// n elements divided into one share for each rank: shares differ by `granule` elements at most, of which all borders but
/// the last are multiples.
inline std::vector<ArrayRange> even_shares(index_t n, int ranks, index_t granule = 1) {
  require(n >= 0 && ranks >= 1 && granule >= 1, "even_shares",
          "there must be no fewer than 0 elements, 1 rank and 1 element of a granule");
  const index_t granules = (n + granule - 1) / granule;
  const auto border = [&](int r) {
    return std::min(n, (granules / ranks * r + granules % ranks * r / ranks) * granule);
  };
  std::vector<ArrayRange> shares;
  for (int r = 0; r < ranks; ++r) shares.push_back({border(r), border(r + 1) - border(r)});
  return shares;
}

/// x [n] on every rank becomes the sum over all ranks.
template <class C, class B, class T>
requires Communicator<C, B, T>
void all_reduce(C& comm, B& be, T* x, index_t n) {
  const std::vector<ArrayRange> shares = even_shares(n, comm.size());
  comm.begin_all_reduce(be, x, shares);
  comm.finish();
}

/// This rank's share of x becomes the sum over all ranks.
template <class C, class B, class T>
requires Communicator<C, B, T>
void reduce_scatter(C& comm, B& be, T* x, std::span<const ArrayRange> shares) {
  comm.begin_reduce_scatter(be, x, shares);
  comm.finish();
}

/// Every share of x becomes that of the rank to which it belongs.
template <class C, class B, class T>
requires Communicator<C, B, T>
void all_gather(C& comm, B& be, T* x, std::span<const ArrayRange> shares) {
  comm.begin_all_gather(be, x, shares);
  comm.finish();
}

}  // namespace srformer
