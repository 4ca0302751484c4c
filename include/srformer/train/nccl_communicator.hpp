// SPDX-License-Identifier: Apache-2.0
// The communicator of NCCL (train/communicator.hpp), for CUDA devices, one for each rank. To be compiled by nvcc.
//
// Shares go from every rank to every other by grouped ncclSend and ncclRecv, and the rank that owns a share adds the parts in
// the order of the ranks. ncclReduceScatter would leave the order to NCCL's choice of algorithm, protocol and ring, so that the
// same bits twice needed NCCL_ALGO, NCCL_PROTO and the same topology; as it is no setting of NCCL changes a bit. Both move as
// many bytes out of each device; between machines of several devices each a ring moves fewer.
//
// Everything runs on a stream of its own beside that of the backend, which waits for it in finish(); the host waits in
// barrier() alone. A rank that is lost may leave the others waiting on their devices: whoever starts the ranks has to end them.
#pragma once

#include <cuda_runtime.h>
#include <nccl.h>
#include <thrust/for_each.h>
#include <thrust/iterator/counting_iterator.h>

#include <algorithm>
#include <exception>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <srformer/backend/eigen.hpp>
#include <srformer/backend/thrust_cuda.hpp>
#include <srformer/train/communicator.hpp>
#include <srformer/train/rank_sum.hpp>

#if NCCL_VERSION_CODE < NCCL_VERSION(2, 18, 0)
#error "srformer needs NCCL 2.18 or newer"
#endif

namespace srformer {

namespace SRF_DETAIL {

/// Throws backend_error where a call of NCCL has failed.
inline void check_nccl(ncclResult_t result, const char* call, ncclComm_t comm = nullptr) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  const char* detail = ncclGetLastError(comm);
  throw backend_error(std::string(call) + " failed: " + ncclGetErrorString(result) +
                      (detail != nullptr && *detail != '\0' ? std::string(", ") + detail : ""));
}

/// "2.28.9"
inline std::string nccl_version_text(int code) {
  return std::to_string(code / 10000) + "." + std::to_string(code / 100 % 100) + "." +
         std::to_string(code % 100);
}

/// Throws backend_error where the library that runs is older than what this needs, or another generation than its header.
inline void check_nccl_version(int running) {
  if (running >= NCCL_VERSION(2, 18, 0) && running / 10000 == NCCL_MAJOR) return;
  throw backend_error("NCCL is version " + nccl_version_text(running) +
                      ", expected 2.18 or newer of the generation " + std::to_string(NCCL_MAJOR) +
                      "; see which libnccl.so.2 the program loads");
}

}  // namespace SRF_DETAIL

inline namespace SRF_TARGET {

/// The ranks of a run, each with the device of its backend. Two ranks cannot share a device. A reduce-scatter works in
/// memory of the size of the rank's share times the other ranks, which the backend keeps for the next one.
class NcclCommunicator {
 public:
  using Backend = ThrustBackend<thrust_cuda>;

  /// What rank 0 makes and all ranks are given: the address of the run.
  static ncclUniqueId unique_id() {
    int version = 0;
    detail::check_nccl(ncclGetVersion(&version), "ncclGetVersion");
    detail::check_nccl_version(version);
    ncclUniqueId id;
    detail::check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
    return id;
  }

  /// All ranks make theirs at the same time. Throws backend_error. The backend must outlive it.
  NcclCommunicator(Backend& be, const ncclUniqueId& id, int rank, int size)
      : be_(&be), rank_(rank), size_(size) {
    require(size >= 1 && rank >= 0 && rank < size, "NcclCommunicator",
            "rank is " + std::to_string(rank) + " of " + std::to_string(size));
    try {
      detail::check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                         "cudaStreamCreate");
      for (cudaEvent_t* event : {&before_, &after_})
        detail::check_cuda(cudaEventCreateWithFlags(event, cudaEventDisableTiming),
                           "cudaEventCreate");
      flag_ = be.allocate<unsigned char>(1);
      detail::check_nccl(ncclCommInitRank(&comm_, size, id, rank), "ncclCommInitRank");
    } catch (...) {
      release();
      throw;
    }
  }

  /// The same ranks as another communicator, which tells them the address.
  template <class Other>
  static NcclCommunicator beside(Backend& be, Other& other) {
    ncclUniqueId id{};
    if (other.rank() == 0) id = unique_id();
    EigenBackend host(1);
    other.broadcast(host, reinterpret_cast<std::uint8_t*>(&id), static_cast<index_t>(sizeof id), 0);
    return NcclCommunicator(be, id, other.rank(), other.size());
  }

  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;
  NcclCommunicator(NcclCommunicator&& other) noexcept
      : be_(other.be_), rank_(other.rank_), size_(other.size_), exceptions_(other.exceptions_) {
    std::swap(comm_, other.comm_), std::swap(stream_, other.stream_);
    std::swap(before_, other.before_), std::swap(after_, other.after_);
    std::swap(flag_, other.flag_), std::swap(parts_, other.parts_);
  }
  NcclCommunicator& operator=(NcclCommunicator&&) = delete;
  ~NcclCommunicator() { release(); }

  int rank() const { return rank_; }
  int size() const { return size_; }

  template <class T>
  void begin_reduce_scatter(Backend&, T* x, std::span<const ArrayRange> shares) {
    start(shares);
    sum(x, shares);
  }
  template <class T>
  void begin_all_gather(Backend&, T* x, std::span<const ArrayRange> shares) {
    start(shares);
    gather(x, shares);
  }
  template <class T>
  void begin_all_reduce(Backend&, T* x, std::span<const ArrayRange> shares) {
    start(shares);
    sum(x, shares);
    gather(x, shares);
  }

  /// The device goes on by itself. Throws backend_error where NCCL has found that a rank or the network is lost.
  void progress() {
    ncclResult_t state = ncclSuccess;
    detail::check_nccl(ncclCommGetAsyncError(comm_, &state), "ncclCommGetAsyncError");
    detail::check_nccl(state, "an exchange of NCCL", comm_);
  }

  /// What the backend does from here on comes after what was begun.
  void finish() {
    progress();
    join();
    for (auto& [memory, bytes] : parts_) be_->deallocate(memory, bytes);
    parts_.clear();
  }

  template <class T>
  void broadcast(Backend&, T* x, index_t n, int root) {
    require(root >= 0 && root < size_, "NcclCommunicator::broadcast",
            "root is " + std::to_string(root) + " of " + std::to_string(size_) + " ranks");
    follow();
    detail::check_nccl(ncclBroadcast(x, x, bytes_of<T>(n), ncclUint8, root, comm_, stream_),
                       "ncclBroadcast", comm_);
    join();
  }

  void barrier() {
    follow();
    detail::check_nccl(ncclAllReduce(flag_, flag_, 1, ncclUint8, ncclMax, comm_, stream_),
                       "ncclAllReduce", comm_);
    join();
    detail::check_cuda(cudaStreamSynchronize(stream_), "NcclCommunicator::barrier");
  }

 private:
  template <class T>
  static std::size_t bytes_of(index_t count) {
    static_assert(std::is_trivially_copyable_v<T>, "NCCL moves scalars as bytes");
    return static_cast<std::size_t>(count) * sizeof(T);
  }

  void start(std::span<const ArrayRange> shares) {
    require(std::ssize(shares) == size_, "NcclCommunicator",
            std::to_string(shares.size()) + " shares for " + std::to_string(size_) + " ranks");
    follow();
  }
  /// This stream goes on after what the backend has been given so far, or the other way round.
  void follow() { wait(stream_, be_->stream(), before_); }
  void join() { wait(be_->stream(), stream_, after_); }
  static void wait(cudaStream_t later, cudaStream_t earlier, cudaEvent_t event) {
    detail::check_cuda(cudaEventRecord(event, earlier), "cudaEventRecord");
    detail::check_cuda(cudaStreamWaitEvent(later, event, 0), "cudaStreamWaitEvent");
  }

  /// Sends and receives that go on at the same time: each(peer) for all others.
  template <class Each>
  void exchange(Each each) {
    detail::check_nccl(ncclGroupStart(), "ncclGroupStart");
    for (int step = 1; step < size_; ++step) {
      each.send((rank_ + step) % size_);
      each.receive((rank_ + size_ - step) % size_);
    }
    detail::check_nccl(ncclGroupEnd(), "ncclGroupEnd", comm_);
  }
  template <class T>
  void send(const T* x, index_t count, int peer) {
    if (count > 0)
      detail::check_nccl(ncclSend(x, bytes_of<T>(count), ncclUint8, peer, comm_, stream_),
                         "ncclSend", comm_);
  }
  template <class T>
  void receive(T* x, index_t count, int peer) {
    if (count > 0)
      detail::check_nccl(ncclRecv(x, bytes_of<T>(count), ncclUint8, peer, comm_, stream_),
                         "ncclRecv", comm_);
  }

  /// Every share to the rank that owns it.
  template <class T>
  struct ToOwners {
    NcclCommunicator& of;
    const T* x;
    std::span<const ArrayRange> shares;
    T* parts;
    void send(int peer) const {
      const ArrayRange share = shares[static_cast<std::size_t>(peer)];
      of.send(x + share.first, share.count, peer);
    }
    void receive(int peer) const {
      const index_t count = shares[static_cast<std::size_t>(of.rank_)].count;
      of.receive(parts + (peer < of.rank_ ? peer : peer - 1) * count, count, peer);
    }
  };
  /// The own share to every rank.
  template <class T>
  struct FromOwners {
    NcclCommunicator& of;
    T* x;
    std::span<const ArrayRange> shares;
    void send(int peer) const {
      const ArrayRange share = shares[static_cast<std::size_t>(of.rank_)];
      of.send(x + share.first, share.count, peer);
    }
    void receive(int peer) const {
      const ArrayRange share = shares[static_cast<std::size_t>(peer)];
      of.receive(x + share.first, share.count, peer);
    }
  };

  template <class T>
  void sum(T* x, std::span<const ArrayRange> shares) {
    const ArrayRange own = shares[static_cast<std::size_t>(rank_)];
    T* parts = nullptr;
    if (const index_t bytes = static_cast<index_t>(bytes_of<T>((size_ - 1) * own.count));
        bytes > 0) {
      // Whoever had this memory before works on it on the backend's stream, which this one follows again.
      parts_.emplace_back(be_->allocate<unsigned char>(bytes), bytes);
      follow();
      parts = reinterpret_cast<T*>(parts_.back().first);
    }
    exchange(ToOwners<T>{*this, x, shares, parts});
    using Counter = thrust::counting_iterator<index_t>;
    if (own.count > 0 && size_ > 1)
      thrust::for_each(thrust::cuda::par_nosync.on(stream_), Counter(0), Counter(own.count),
                       detail::RankSum<T>{x + own.first, parts, own.count, size_, rank_});
  }
  template <class T>
  void gather(T* x, std::span<const ArrayRange> shares) {
    exchange(FromOwners<T>{*this, x, shares});
  }

  void release() noexcept {
    // After an exception other ranks may never come: what is under way is given up.
    const bool failed = std::uncaught_exceptions() != exceptions_;
    if (comm_ != nullptr) static_cast<void>(failed ? ncclCommAbort(comm_) : ncclCommDestroy(comm_));
    for (auto& [memory, bytes] : parts_) be_->deallocate(memory, bytes);
    if (flag_ != nullptr) be_->deallocate(flag_, 1);
    for (cudaEvent_t event : {before_, after_})
      if (event != nullptr) cudaEventDestroy(event);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  Backend* be_;
  int rank_, size_;
  int exceptions_ = std::uncaught_exceptions();
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t before_ = nullptr, after_ = nullptr;
  unsigned char* flag_ = nullptr;
  std::vector<std::pair<unsigned char*, index_t>> parts_;
};

}  // namespace SRF_TARGET

}  // namespace srformer
