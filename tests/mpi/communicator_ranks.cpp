// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <srformer/backend/eigen.hpp>
#include <srformer/core/random.hpp>
#include <srformer/train/mpi_communicator.hpp>
#include <string>
#include <thread>
#include <vector>

#include "mpi/world.hpp"
#include "support/catch.hpp"

using namespace srformer;

namespace {

/// The host, taken for a device: what MPI sends is staged.
struct StagedBackend : EigenBackend {
  using space = cuda_space;
  using EigenBackend::EigenBackend;
};

template <class T>
std::vector<T> numbers_of(int rank, index_t n, std::uint64_t seed) {
  std::vector<T> x;
  const RandomStream random{seed, static_cast<std::uint64_t>(rank)};
  for (index_t i = 0; i < n; ++i)
    x.push_back(T(compute_t<T>(normal(random, static_cast<std::uint64_t>(i)))));
  return x;
}

/// The sum over all ranks as the contract says it: in the order of the ranks, rounded once.
template <class T>
std::vector<T> sum_of(int ranks, index_t n, std::uint64_t seed) {
  std::vector<accumulate_t<T>> sum;
  for (int r = 0; r < ranks; ++r) {
    const std::vector<T> x = numbers_of<T>(r, n, seed);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto number = accumulate_t<T>(compute_t<T>(x[i]));
      r == 0 ? sum.push_back(number) : void(sum[i] = sum[i] + number);
    }
  }
  std::vector<T> rounded;
  for (const auto& s : sum) rounded.push_back(T(compute_t<T>(s)));
  return rounded;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b, ArrayRange of) {
  if constexpr (std::is_same_v<T, long double>)  // which has bytes that mean nothing
    return std::equal(a.begin() + of.first, a.begin() + of.end(), b.begin() + of.first);
  const auto bytes = static_cast<std::size_t>(of.count) * sizeof(T);
  return bytes == 0 || std::memcmp(a.data() + of.first, b.data() + of.first, bytes) == 0;
}
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && same_bits(a, b, {0, std::ssize(a)});
}

/// Ways to share n elements: evenly, in lines of a cache, in the opposite order, all to one, and with gaps.
std::vector<std::vector<ArrayRange>> ways_to_share(index_t n, int ranks) {
  std::vector<std::vector<ArrayRange>> ways{even_shares(n, ranks), even_shares(n, ranks, 16)};
  std::vector<ArrayRange> backwards(ways[0].rbegin(), ways[0].rend());
  ways.push_back(backwards);
  std::vector<ArrayRange> one(static_cast<std::size_t>(ranks));
  one[static_cast<std::size_t>(ranks / 2)] = {0, n};
  ways.push_back(one);
  for (ArrayRange& share : backwards) share.count -= share.count / 3;
  ways.push_back(backwards);
  return ways;
}

constexpr index_t sizes[] = {0, 1, 2, 3, 17, 1000, 4099};

template <class T, class B>
void check_sums(MpiCommunicator& comm, B& be, index_t most) {
  const auto self = static_cast<std::size_t>(comm.rank());
  for (const index_t n : sizes) {
    if (n > most) continue;
    const std::vector<T> before = numbers_of<T>(comm.rank(), n, 3);
    const std::vector<T> sum = sum_of<T>(comm.size(), n, 3);
    std::vector<T> whole = before;
    all_reduce(comm, be, whole.data(), n);
    REQUIRE(same_bits(whole, sum));
    for (const std::vector<ArrayRange>& shares : ways_to_share(n, comm.size())) {
      std::vector<T> x = before, y = before;
      reduce_scatter(comm, be, x.data(), shares);
      REQUIRE(same_bits(x, sum, shares[self]));
      all_gather(comm, be, x.data(), shares);
      comm.begin_all_reduce(be, y.data(), shares);
      comm.finish();
      std::vector<bool> shared(static_cast<std::size_t>(n));
      for (const ArrayRange& share : shares) {
        REQUIRE(same_bits(x, sum, share));
        REQUIRE(same_bits(y, sum, share));
        for (index_t i = share.first; i < share.end(); ++i)
          shared[static_cast<std::size_t>(i)] = true;
      }
      for (index_t i = 0; i < n; ++i)
        if (!shared[static_cast<std::size_t>(i)]) REQUIRE(same_bits(y, before, {i, 1}));
    }
  }
}

template <class T>
void check_sums_on_backends(MpiCommunicator& comm, index_t most = 1000) {
  EigenBackend host(1);
  check_sums<T>(comm, host, most);
  if constexpr (scalar_traits<T>::on_device) {
    StagedBackend staged(1);
    check_sums<T>(comm, staged, most);
  }
}

}  // namespace

TEST_CASE("MPI adds in the order of ranks whatever the shares", "[communicator]") {
  MpiCommunicator comm = world();
  check_sums_on_backends<float>(comm, 4099);
  check_sums_on_backends<double>(comm);
  check_sums_on_backends<long double>(comm);
  check_sums_on_backends<Eigen::half>(comm);
  check_sums_on_backends<Eigen::bfloat16>(comm);
}

TEST_CASE("MPI divides what an int cannot count", "[communicator]") {
  for (const index_t most : {1, 5, 64, 1000}) {
    MpiCommunicator comm = world(most);
    check_sums_on_backends<float>(comm, most < 10 ? 17 : 10 * most);
  }
}

TEST_CASE("many operations of MPI are under way at once", "[communicator]") {
  MpiCommunicator comm = world();
  EigenBackend be(1);
  const auto self = static_cast<std::size_t>(comm.rank());
  for (std::uint64_t round = 0; round < 8; ++round) {
    constexpr std::uint64_t count = 12;
    std::vector<std::vector<float>> x;
    std::vector<std::vector<ArrayRange>> shares;
    for (std::uint64_t k = 0; k < count; ++k) {
      const auto n = static_cast<index_t>(random_below({1, round}, k, 200000));
      x.push_back(numbers_of<float>(comm.rank(), n, k));
      shares.push_back(even_shares(n, comm.size()));
    }
    // Ranks look after their operations at other times, and begin the next ones earlier or later.
    const RandomStream own{round + 1, self + 10};
    for (std::uint64_t k = 0; k < count; ++k) {
      if (k % 3 == 0) comm.begin_reduce_scatter(be, x[k].data(), shares[k]);
      if (k % 3 == 1) comm.begin_all_gather(be, x[k].data(), shares[k]);
      if (k % 3 == 2) comm.begin_all_reduce(be, x[k].data(), shares[k]);
      for (std::uint64_t i = random_below(own, k, 4); i > 0; --i) comm.progress();
      if (random_below(own, k + count, 3) == 0)
        std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
    comm.finish();
    for (std::uint64_t k = 0; k < count; ++k) {
      const index_t n = std::ssize(x[k]);
      const std::vector<float> sum = sum_of<float>(comm.size(), n, k);
      if (k % 3 == 0) REQUIRE(same_bits(x[k], sum, shares[k][self]));
      if (k % 3 == 2) REQUIRE(same_bits(x[k], sum));
      for (int r = 0; k % 3 == 1 && r < comm.size(); ++r)
        REQUIRE(
            same_bits(x[k], numbers_of<float>(r, n, k), shares[k][static_cast<std::size_t>(r)]));
    }
  }
}

TEST_CASE("MPI broadcasts from any rank", "[communicator]") {
  for (const index_t most : {index_t{7}, index_t{1} << 30}) {
    MpiCommunicator comm = world(most);
    EigenBackend host(1);
    StagedBackend staged(1);
    for (const index_t n : sizes) {
      for (int root = 0; root < comm.size(); ++root) {
        std::vector<double> x = numbers_of<double>(comm.rank(), n, 9), y = x;
        comm.broadcast(host, x.data(), n, root);
        comm.broadcast(staged, y.data(), n, root);
        REQUIRE(same_bits(x, numbers_of<double>(root, n, 9)));
        REQUIRE(same_bits(y, x));
      }
    }
    comm.barrier();
  }
}

TEST_CASE("what was begun goes on while a rank computes", "[communicator]") {
  MpiCommunicator comm = world();
  EigenBackend be(1);
  std::vector<float> x(std::size_t{1} << 20, 1.0f);
  comm.barrier();
  const auto start = std::chrono::steady_clock::now();
  comm.begin_reduce_scatter(be, x.data(), even_shares(std::ssize(x), comm.size(), 1));
  const bool computes = comm.rank() == comm.size() - 1;
  if (computes) std::this_thread::sleep_for(std::chrono::seconds(2));
  comm.finish();
  const auto taken = std::chrono::steady_clock::now() - start;
  REQUIRE(x[static_cast<std::size_t>(std::ssize(x) / comm.size() * comm.rank())] ==
          static_cast<float>(comm.size()));
  // The others need the parts of the one that computes, and it calls nothing of MPI in the meantime.
  if (allows_threads() && !computes) REQUIRE(taken < std::chrono::milliseconds(1800));
  comm.barrier();
}

TEST_CASE("MPI refuses shares and roots that do not fit", "[communicator]") {
  MpiCommunicator comm = world();
  EigenBackend be(1);
  double x = 0;
  const std::vector<ArrayRange> shares(static_cast<std::size_t>(comm.size()) + 1);
  REQUIRE_THROWS_AS(comm.begin_all_reduce(be, &x, shares), shape_error);
  REQUIRE_THROWS_AS(comm.broadcast(be, &x, 1, comm.size()), shape_error);
  REQUIRE_THROWS_AS(comm.broadcast(be, &x, 1, -1), shape_error);
  REQUIRE_THROWS_AS(MpiSession(), backend_error);
  if (!allows_threads()) REQUIRE_THROWS_AS(MpiCommunicator(MPI_COMM_WORLD, 1, true), backend_error);
  REQUIRE_NOTHROW(detail::check_mpi(MPI_SUCCESS, "MPI_Test"));
  std::string what;
  try {
    detail::check_mpi(MPI_ERR_COUNT, "MPI_Ialltoallv");
  } catch (const backend_error& error) {
    what = error.what();
  }
  REQUIRE(what.find("MPI_Ialltoallv failed: MPI_ERR_COUNT") == 0);
}

TEST_CASE("the communicators of MPI and of one process are models of the concept",
          "[communicator]") {
  STATIC_REQUIRE(Communicator<MpiCommunicator, EigenBackend, float>);
  STATIC_REQUIRE(Communicator<MpiCommunicator, EigenBackend, Eigen::bfloat16>);
  STATIC_REQUIRE(Communicator<SingleProcess, EigenBackend, float>);
  STATIC_REQUIRE(!Communicator<int, EigenBackend, float>);
}
