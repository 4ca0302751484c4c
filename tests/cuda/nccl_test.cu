// SPDX-License-Identifier: Apache-2.0
// The communicator of NCCL: one rank on one device, and where a machine has several, a rank on each, as threads. Built where
// NCCL is found.
#include <srformer/train/nccl_communicator.hpp>

#include <exception>
#include <memory>
#include <thread>

#include "support/catch.hpp"
#include "support/device.hpp"

using namespace srformer;
using CudaRankBackend = ThrustBackend<thrust_cuda>;

static_assert(Communicator<NcclCommunicator, CudaRankBackend, float>);
static_assert(Communicator<NcclCommunicator, CudaRankBackend, double>);
static_assert(Communicator<NcclCommunicator, CudaRankBackend, Eigen::bfloat16>);
static_assert(Communicator<NcclCommunicator, CudaRankBackend, Eigen::half>);

namespace {

/// Calls each(be, comm) on a thread for each of `ranks` devices.
template <class Each>
void on_ranks(int ranks, Each each) {
  const ncclUniqueId id = NcclCommunicator::unique_id();
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      try {
        CudaRankBackend be(CudaOptions{.device = rank});
        NcclCommunicator comm(be, id, rank, ranks);
        each(be, comm);
      } catch (...) {
        errors[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

/// What rank `rank` has, not exact in any scalar.
template <class T>
std::vector<T> values_of_rank(int rank, index_t n) {
  std::vector<T> x;
  for (index_t i = 0; i < n; ++i)
    x.push_back(static_cast<T>(
        normal(RandomStream{7, static_cast<std::uint64_t>(rank)}, static_cast<std::uint64_t>(i))));
  return x;
}

/// The sum of all ranks as the contract says.
template <class T>
std::vector<T> sum_of_ranks(int ranks, index_t n) {
  std::vector<accumulate_t<T>> sum(static_cast<std::size_t>(n), 0);
  for (int r = 0; r < ranks; ++r) {
    const std::vector<T> x = values_of_rank<T>(r, n);
    for (std::size_t i = 0; i < x.size(); ++i) sum[i] += accumulate_t<T>(compute_t<T>(x[i]));
  }
  std::vector<T> rounded;
  for (const accumulate_t<T>& s : sum) rounded.push_back(T(compute_t<T>(s)));
  return rounded;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// Whether sums, gathers and broadcasts of n elements give what they must, twice, two of them under way together.
template <class T>
void check_exchange(CudaRankBackend& be, NcclCommunicator& comm, index_t n) {
  const int ranks = comm.size();
  const std::vector<T> expected = sum_of_ranks<T>(ranks, n);
  const std::vector<ArrayRange> shares = even_shares(n, ranks);
  T* x = be.template allocate<T>(n);
  T* y = be.template allocate<T>(n);
  std::vector<T> back(static_cast<std::size_t>(n));
  for (int round = 0; round < 2; ++round) {
    const std::vector<T> own = values_of_rank<T>(comm.rank(), n);
    be.from_host(x, own.data(), n);
    be.from_host(y, own.data(), n);
    comm.begin_all_reduce(be, x, shares);
    comm.begin_reduce_scatter(be, y, shares);
    comm.progress();
    comm.finish();
    be.to_host(back.data(), x, n);
    if (!same_bits(back, expected)) throw std::runtime_error("the sum is another");
    comm.begin_all_gather(be, y, shares);
    comm.finish();
    be.to_host(back.data(), y, n);
    if (!same_bits(back, expected)) throw std::runtime_error("the gathered sum is another");
    be.from_host(x, own.data(), n);
    comm.broadcast(be, x, n, ranks - 1);
    be.to_host(back.data(), x, n);
    if (!same_bits(back, values_of_rank<T>(ranks - 1, n)))
      throw std::runtime_error("the broadcast is another");
    comm.barrier();
  }
  be.deallocate(x, n);
  be.deallocate(y, n);
}

}  // namespace

TEST_CASE("a version of NCCL that is too old or of another generation is refused") {
  REQUIRE_NOTHROW(detail::check_nccl_version(NCCL_VERSION(2, 18, 0)));
  REQUIRE_NOTHROW(detail::check_nccl_version(NCCL_VERSION_CODE));
  REQUIRE(detail::nccl_version_text(22809) == "2.28.9");
  for (const int version : {NCCL_VERSION(2, 17, 8), 30000, 0})
    REQUIRE_THROWS_MATCHES(detail::check_nccl_version(version), backend_error,
                           Catch::Matchers::MessageMatches(
                               Catch::Matchers::ContainsSubstring("expected 2.18 or newer")));
}

TEST_CASE("NCCL sums in the order of the ranks") {
  if (!tests::has_device()) return;
  int devices = 0;
  REQUIRE(cudaGetDeviceCount(&devices) == cudaSuccess);
  for (int ranks = 1; ranks <= devices; ++ranks)
    for (const index_t n : {1, 2, 7, 4096, 100003})
      on_ranks(ranks, [&](CudaRankBackend& be, NcclCommunicator& comm) {
        check_exchange<float>(be, comm, n);
        check_exchange<double>(be, comm, n);
        check_exchange<Eigen::bfloat16>(be, comm, n);
        check_exchange<Eigen::half>(be, comm, n);
      });
}
