// SPDX-License-Identifier: Apache-2.0
// ThrustBackend<thrust_cuda>: one CUDA device, one stream. Loops are Thrust's, rows are blocks of 128
// threads with cub's reductions, products are cuBLAS's. Memory is recycled by the pool, so that a
// step neither allocates nor waits. To be compiled by nvcc.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <thrust/system/cuda/execution_policy.h>
#include <thrust/system_error.h>

#include <cstdint>
#include <cub/block/block_reduce.cuh>
#include <string>

#include <srformer/backend/thrust.hpp>

namespace srformer {

using thrust_cuda = thrust::cuda::tag;

inline namespace SRF_TARGET {

/// A block of threads. Its functions do something on the device alone: on the host they only have to
/// exist, as row functors are compiled for both.
struct BlockTeam {
  static constexpr int width = 128;

  template <class F>
  SRF_HD void for_each([[maybe_unused]] index_t n, [[maybe_unused]] F f) const {
#if defined(__CUDA_ARCH__)
    for (index_t i = threadIdx.x; i < n; i += width) f(i);
    __syncthreads();
#endif
  }

  template <class A, class F>
  SRF_HD A sum([[maybe_unused]] index_t n, [[maybe_unused]] F f) const {
    A mine(0);
#if defined(__CUDA_ARCH__)
    for (index_t i = threadIdx.x; i < n; i += width) mine = mine + f(i);
    mine = reduce(mine, [](const A& a, const A& b) { return a + b; });
#endif
    return mine;
  }

  template <class A, class F>
  SRF_HD A max([[maybe_unused]] index_t n, A start, [[maybe_unused]] F f) const {
    A mine = start;
#if defined(__CUDA_ARCH__)
    for (index_t i = threadIdx.x; i < n; i += width) mine = math::max(mine, A(f(i)));
    mine = reduce(mine, [](const A& a, const A& b) { return math::max(a, b); });
#endif
    return mine;
  }

  /// Not inlined: a functor with three products would hold the addresses of all of them in registers.
  template <class TA, class TB, class TC>
  __noinline__ SRF_HD void gemm([[maybe_unused]] Op transpose_a, [[maybe_unused]] Op transpose_b,
                                [[maybe_unused]] index_t m, [[maybe_unused]] index_t n,
                                [[maybe_unused]] index_t k,
                                [[maybe_unused]] std::type_identity_t<compute_t<TC>> alpha,
                                [[maybe_unused]] const TA* a, [[maybe_unused]] index_t lda,
                                [[maybe_unused]] const TB* b, [[maybe_unused]] index_t ldb,
                                [[maybe_unused]] std::type_identity_t<compute_t<TC>> beta,
                                [[maybe_unused]] TC* c, [[maybe_unused]] index_t ldc) const {
#if defined(__CUDA_ARCH__)
    using Gemm = detail::TiledGemm<compute_t<TC>, 16, width / 16>;
    __shared__ alignas(16) unsigned char memory[sizeof(typename Gemm::Tiles)];
    Gemm::run(
        threadIdx.x, *reinterpret_cast<typename Gemm::Tiles*>(memory), [] { __syncthreads(); },
        transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
#endif
  }

  SRF_HD bool leader() const {
#if defined(__CUDA_ARCH__)
    return threadIdx.x == 0;
#else
    return true;
#endif
  }

  SRF_HD void sync() const {
#if defined(__CUDA_ARCH__)
    __syncthreads();
#endif
  }

 private:
#if defined(__CUDACC__)
  /// The reduction of what every thread has, for every thread.
  template <class A, class Combine>
  static __device__ A reduce(const A& mine, Combine combine) {
    using Reduce = cub::BlockReduce<A, width>;
    __shared__ typename Reduce::TempStorage memory;
    __shared__ alignas(16) unsigned char result[sizeof(A)];
    const A total = Reduce(memory).Reduce(mine, combine);
    if (threadIdx.x == 0) *reinterpret_cast<A*>(result) = total;
    __syncthreads();
    const A all = *reinterpret_cast<const A*>(result);
    __syncthreads();
    return all;
  }
#endif
};

}  // namespace SRF_TARGET

namespace SRF_DETAIL {

inline void check_cuda(cudaError_t status, const std::string& what) {
  if (status == cudaSuccess) return;
  throw backend_error("ThrustBackend<thrust_cuda>: " + what + ": " + cudaGetErrorString(status));
}

inline void check_cublas(cublasStatus_t status, const std::string& what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw backend_error("ThrustBackend<thrust_cuda>: " + what + ": " + cublasGetStatusString(status));
}

/// Device memory.
struct CudaSource {
  void* acquire(std::size_t bytes) {
    void* block = nullptr;
    check_cuda(cudaMalloc(&block, bytes),
               "no " + std::to_string(bytes) + " bytes of device memory; take a smaller batch");
    return block;
  }
  void release(void* block, std::size_t) { cudaFree(block); }
};

/// Blocks that are to share a processor at least: registers are held back where a functor says that its time
/// goes into the team's products.
template <class F>
inline constexpr int least_blocks = 0;  // as the compiler likes
template <class F>
requires(F::multiplies) inline constexpr int least_blocks<F> = 4;

/// Every block takes rows `gridDim.x` apart, with scratch of its own.
template <class F>
__global__ void __launch_bounds__(BlockTeam::width, least_blocks<F>)
    rows_kernel(F f, index_t rows, std::byte* scratch, index_t stride) {
  const BlockTeam team;
  for (index_t row = blockIdx.x; row < rows; row += gridDim.x) {
    f(team, row, static_cast<void*>(scratch + blockIdx.x * stride));
    __syncthreads();
  }
}

/// partial[part] = the sum of f over the 4096 elements of that part, by a team.
template <class F, class A>
struct ReducePartByTeam {
  static constexpr index_t elements = 4096;
  F f;
  A* partial;
  index_t n;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t part, void*) const {
    const index_t first = part * elements, count = n - first < elements ? n - first : elements;
    const F at = f;
    const A sum = team.template sum<A>(count, [=](index_t i) { return at(first + i); });
    if (team.leader()) partial[part] = sum;
  }
};

/// out += the sum of the parts, by a team.
template <class A>
struct AddPartsByTeam {
  const A* partial;
  A* out;
  index_t parts;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t, void*) const {
    const A* from = partial;
    const A total = team.template sum<A>(parts, [=](index_t i) { return from[i]; });
    if (team.leader()) *out = *out + total;
  }
};

/// Where the matrices of a batch of products are.
template <class A, class B, class C>
struct BatchPointers {
  A a;
  B b;
  C c;
  const void **to_a, **to_b;
  void** to_c;
  SRF_HD void operator()(index_t i) const { to_a[i] = a(i), to_b[i] = b(i), to_c[i] = c(i); }
};

/// One element of a product of scalars that cuBLAS does not have.
template <class TA, class TB, class TC>
struct GemmElement {
  bool ta, tb;
  index_t n, k;
  compute_t<TC> alpha;
  const TA* a;
  index_t lda;
  const TB* b;
  index_t ldb;
  compute_t<TC> beta;
  TC* c;
  index_t ldc;
  SRF_HD void operator()(index_t element) const {
    using C = compute_t<TC>;
    const index_t i = element / n, j = element % n;
    C sum(0);
    for (index_t p = 0; p < k; ++p) {
      sum = sum + C(a[ta ? p * lda + i : i * lda + p]) * C(b[tb ? j * ldb + p : p * ldb + j]);
    }
    TC& out = c[i * ldc + j];
    out = TC(math::zero(beta) ? alpha * sum : alpha * sum + beta * C(out));
  }
};

/// The scalars cuBLAS multiplies.
template <class T>
struct cublas_scalar : std::false_type {};
template <>
struct cublas_scalar<float> : std::true_type {
  static constexpr cudaDataType_t type = CUDA_R_32F;
};
template <>
struct cublas_scalar<double> : std::true_type {
  static constexpr cudaDataType_t type = CUDA_R_64F;
};
template <>
struct cublas_scalar<Eigen::half> : std::true_type {
  static constexpr cudaDataType_t type = CUDA_R_16F;
};
template <>
struct cublas_scalar<Eigen::bfloat16> : std::true_type {
  static constexpr cudaDataType_t type = CUDA_R_16BF;
};

}  // namespace SRF_DETAIL

struct CudaOptions {
  int device = 0;
  bool tf32 = false;  ///< float products of 10 bits of mantissa, several times as fast
};

inline namespace SRF_TARGET {

/// Runs on one CUDA device. Errors: backend_error where there is no driver or device, memory is
/// exhausted, or a kernel failed (which may be found at a later call).
template <>
class ThrustBackend<thrust_cuda> {
 public:
  using space = cuda_space;
  static constexpr bool many_teams = true;
  using team_type = BlockTeam;

  explicit ThrustBackend(CudaOptions options = {}) : options_(options) {
    int devices = 0;
    detail::check_cuda(cudaGetDeviceCount(&devices),
                       "no CUDA device can be used; install its driver or take a CPU backend");
    detail::check_cuda(cudaSetDevice(options.device), "device " + std::to_string(options.device) +
                                                          " of " + std::to_string(devices));
    detail::check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                       "cudaStreamCreate");
    int processors = 1;
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, options.device);
    most_blocks_ = 16 * processors;
    cublasStatus_t status = cublasCreate(&cublas_);
    if (status == CUBLAS_STATUS_SUCCESS) status = cublasSetStream(cublas_, stream_);
    if (status != CUBLAS_STATUS_SUCCESS) {
      release();
      detail::check_cublas(status, "cublasCreate");
    }
  }
  ThrustBackend(const ThrustBackend&) = delete;
  ThrustBackend& operator=(const ThrustBackend&) = delete;
  ~ThrustBackend() {
    cudaStreamSynchronize(stream_);
    release();
  }

  cudaStream_t stream() const { return stream_; }
  auto policy() const { return thrust::cuda::par_nosync.on(stream_); }
  const MemoryPool<detail::CudaSource>& pool() const { return pool_; }

  template <class T>
  T* allocate(index_t n) {
    static_assert(std::is_trivially_copyable_v<T>,
                  "a device holds trivially copyable scalars only");
    return static_cast<T*>(pool_.acquire(static_cast<std::size_t>(n) * sizeof(T)));
  }

  /// The block may be handed out again at once: whoever gets it works later on the same stream.
  template <class T>
  void deallocate(T* p, index_t n) {
    pool_.release(p, static_cast<std::size_t>(n) * sizeof(T));
  }

  template <class T>
  void fill(T* p, index_t n, const T& value) {
    run([&] { thrust::fill(policy(), p, p + n, value); });
  }

  template <class To, class From>
  void copy(To* to, const From* from, index_t n) {
    if constexpr (std::is_same_v<To, From>) {
      move(to, from, n, cudaMemcpyDeviceToDevice);
    } else {
      for_each(n, detail::ConvertElement<To, From>{to, from});
    }
  }

  template <class T>
  void to_host(T* host, const T* p, index_t n) {
    move(host, p, n, cudaMemcpyDeviceToHost);
    synchronize();
  }
  /// Returns when `host` was read, which for ordinary memory is before the copy has arrived; memory that
  /// is page-locked must stay as it is until synchronize().
  template <class T>
  void from_host(T* p, const T* host, index_t n) {
    move(p, host, n, cudaMemcpyHostToDevice);
  }

  template <class F>
  void for_each(index_t n, F f) {
    using Counter = thrust::counting_iterator<index_t>;
    run([&] { thrust::for_each(policy(), Counter(0), Counter(n), f); });
  }

  template <class F>
  void for_each_row(index_t rows, index_t scratch_bytes, F f) {
    if (rows <= 0) return;
    const index_t stride = (scratch_bytes + 255) / 256 * 256;
    const index_t fitting = stride > 0 ? std::max<index_t>(1, most_scratch / stride) : most_blocks_;
    const index_t blocks = std::min({rows, most_blocks_, fitting});
    std::byte* scratch = allocate<std::byte>(stride * blocks);
    detail::rows_kernel<<<static_cast<unsigned>(blocks), BlockTeam::width, 0, stream_>>>(
        f, rows, scratch, stride);
    detail::check_cuda(cudaGetLastError(), "a row kernel was not launched");
    deallocate(scratch, stride * blocks);
  }

  template <class F, class A>
  void reduce(index_t n, F f, A* out) {
    using Part = detail::ReducePartByTeam<F, A>;
    const index_t parts = (n + Part::elements - 1) / Part::elements;
    A* partial = allocate<A>(parts);
    for_each_row(parts, 0, Part{f, partial, n});
    for_each_row(1, 0, detail::AddPartsByTeam<A>{partial, out, parts});
    deallocate(partial, parts);
  }

  /// cuBLAS is column-major: C^T = op(B)^T op(A)^T.
  template <class TA, class TB, class TC>
  void gemm(Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k,
            std::type_identity_t<compute_t<TC>> alpha, const TA* a, index_t lda, const TB* b,
            index_t ldb, std::type_identity_t<compute_t<TC>> beta, TC* c, index_t ldc) {
    if (m <= 0 || n <= 0) return;
    const bool ta = transpose_a == Op::transpose, tb = transpose_b == Op::transpose;
    if constexpr (std::is_same_v<TA, TC> && std::is_same_v<TB, TC> &&
                  detail::cublas_scalar<TC>::value) {
      if (k > 0) {
        constexpr cudaDataType_t type = detail::cublas_scalar<TC>::type;
        detail::check_cublas(
            cublasGemmEx(cublas_, tb ? CUBLAS_OP_T : CUBLAS_OP_N, ta ? CUBLAS_OP_T : CUBLAS_OP_N,
                         size(n), size(m), size(k), &alpha, b, type, size(ldb), a, type, size(lda),
                         &beta, c, type, size(ldc), compute_type<TC>(), CUBLAS_GEMM_DEFAULT),
            "cublasGemmEx");
        return;
      }
    }
    for_each(m * n,
             detail::GemmElement<TA, TB, TC>{ta, tb, n, k, alpha, a, lda, b, ldb, beta, c, ldc});
  }

  template <class A, class B, class C>
  void gemm_batched(Op transpose_a, Op transpose_b, index_t count, index_t m, index_t n, index_t k,
                    typename detail::GemmOfBatch<A, B, C>::Scalar alpha, A a, index_t lda, B b,
                    index_t ldb, typename detail::GemmOfBatch<A, B, C>::Scalar beta, C c,
                    index_t ldc) {
    if (count <= 0 || m <= 0 || n <= 0) return;
    using TA = std::remove_cv_t<std::remove_pointer_t<std::invoke_result_t<A, index_t>>>;
    using TB = std::remove_cv_t<std::remove_pointer_t<std::invoke_result_t<B, index_t>>>;
    using TC = std::remove_pointer_t<std::invoke_result_t<C, index_t>>;
    if constexpr (detail::cublas_scalar<TA>::value && std::is_same_v<TA, TB> &&
                  (std::is_same_v<TC, TA> || std::is_same_v<TC, compute_t<TA>>)) {
      if (k > 0) {
        constexpr cudaDataType_t type = detail::cublas_scalar<TA>::type;
        constexpr cudaDataType_t type_c = detail::cublas_scalar<TC>::type;
        const cublasOperation_t op_a = transpose_a == Op::transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
        const cublasOperation_t op_b = transpose_b == Op::transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
        if constexpr (detail::follows<A> && detail::follows<B> && detail::follows<C>) {
          detail::check_cublas(
              cublasGemmStridedBatchedEx(cublas_, op_b, op_a, size(n), size(m), size(k), &alpha,
                                         b.data, type, size(ldb), b.size, a.data, type, size(lda),
                                         a.size, &beta, c.data, type_c, size(ldc), c.size,
                                         size(count), compute_type<TC>(), CUBLAS_GEMM_DEFAULT),
              "cublasGemmStridedBatchedEx");
          return;
        }
        Block<const void*> to_a(*this, count), to_b(*this, count);
        Block<void*> to_c(*this, count);
        for_each(count, detail::BatchPointers<A, B, C>{a, b, c, to_a.p, to_b.p, to_c.p});
        detail::check_cublas(
            cublasGemmBatchedEx(cublas_, op_b, op_a, size(n), size(m), size(k), &alpha, to_b.p,
                                type, size(ldb), to_a.p, type, size(lda), &beta, to_c.p, type_c,
                                size(ldc), size(count), compute_type<TC>(), CUBLAS_GEMM_DEFAULT),
            "cublasGemmBatchedEx");
        return;
      }
    }
    for_each_row(count, 0,
                 detail::GemmOfBatch<A, B, C>{transpose_a, transpose_b, m, n, k, alpha, a, lda, b,
                                              ldb, beta, c, ldc});
  }

  void synchronize() {
    detail::check_cuda(cudaStreamSynchronize(stream_), "an earlier kernel or copy failed");
  }

 private:
  /// Scratch of all blocks together; more rows than fit wait for a block.
  static constexpr index_t most_scratch = index_t{1} << 29;

  /// Memory for as long as a call lasts.
  template <class T>
  struct Block {
    Block(ThrustBackend& backend, index_t count)
        : be(backend), n(count), p(backend.allocate<T>(count)) {}
    Block(const Block&) = delete;
    ~Block() { be.deallocate(p, n); }
    ThrustBackend& be;
    index_t n;
    T* p;
  };

  static int size(index_t x) { return static_cast<int>(x); }

  /// What sums of products that are stored as T are computed in.
  template <class T>
  cublasComputeType_t compute_type() const {
    return std::is_same_v<T, double>                   ? CUBLAS_COMPUTE_64F
           : std::is_same_v<T, float> && options_.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                       : CUBLAS_COMPUTE_32F;
  }

  template <class F>
  static void run(F f) {
    try {
      f();
    } catch (const thrust::system_error& error) {
      throw backend_error(std::string("ThrustBackend<thrust_cuda>: ") + error.what());
    }
  }

  template <class T>
  void move(T* to, const T* from, index_t n, cudaMemcpyKind kind) {
    const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
    if (bytes > 0)
      detail::check_cuda(cudaMemcpyAsync(to, from, bytes, kind, stream_), "cudaMemcpy");
  }

  void release() {
    pool_.trim();
    if (cublas_ != nullptr) cublasDestroy(cublas_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  CudaOptions options_;
  cudaStream_t stream_ = nullptr;
  cublasHandle_t cublas_ = nullptr;
  index_t most_blocks_ = 1;
  MemoryPool<detail::CudaSource> pool_;
};

}  // namespace SRF_TARGET

static_assert(BackendFor<ThrustBackend<thrust_cuda>, float>);

}  // namespace srformer
