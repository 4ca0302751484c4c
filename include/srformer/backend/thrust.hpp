// SPDX-License-Identifier: Apache-2.0
// Backends of Thrust's host systems, by type: sequential C++, OpenMP, TBB. Loops are
// thrust::for_each on counting iterators, memory is the system's, products are backend/gemm.hpp's.
//
//   ThrustBackend<thrust_cpp>   always
//   ThrustBackend<thrust_omp>   where the compiler has OpenMP on
//   ThrustBackend<thrust_tbb>   with SRF_HAS_TBB, which the target srformer::thrust_tbb defines
//
// backend/thrust_cuda.hpp has the device.
#pragma once

#include <thrust/fill.h>
#include <thrust/for_each.h>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/memory.h>
#include <thrust/system/cpp/execution_policy.h>
#include <thrust/system/cpp/memory.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>

#include <srformer/backend/concept.hpp>
#include <srformer/backend/memory_pool.hpp>

#if defined(_OPENMP)
#include <thrust/system/omp/execution_policy.h>
#include <thrust/system/omp/memory.h>
#endif
#if defined(SRF_HAS_TBB)
#include <tbb/task_arena.h>
#include <thrust/system/tbb/execution_policy.h>
#include <thrust/system/tbb/memory.h>
#endif

namespace srformer {

using thrust_cpp = thrust::cpp::tag;
#if defined(_OPENMP)
using thrust_omp = thrust::omp::tag;
#endif
#if defined(SRF_HAS_TBB)
using thrust_tbb = thrust::tbb::tag;
#endif

namespace SRF_DETAIL {

/// The threads of a system: how many, and a call within them.
template <class System>
class SystemThreads {
 public:
  explicit SystemThreads(int) {}
  int count() const { return 1; }
  template <class F>
  void run(F f) {
    f();
  }
};

inline int machine_threads() {
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

#if defined(_OPENMP)
template <>
class SystemThreads<thrust_omp> {
 public:
  explicit SystemThreads(int threads) : count_(threads > 0 ? threads : machine_threads()) {}
  int count() const { return count_; }
  template <class F>
  void run(F f) {
    const ThreadScope scope(count_);
    f();
  }

 private:
  int count_;
};
#endif

#if defined(SRF_HAS_TBB)
template <>
class SystemThreads<thrust_tbb> {
 public:
  explicit SystemThreads(int threads) : arena_(threads > 0 ? threads : machine_threads()) {}
  int count() const { return arena_.max_concurrency(); }
  template <class F>
  void run(F f) {
    arena_.execute(f);
  }

 private:
  tbb::task_arena arena_;
};
#endif

/// A system's own memory, moved up to 64-byte boundaries; the word before a block holds its origin.
template <class System>
struct ThrustSource {
  using Origin = decltype(thrust::malloc(std::declval<System&>(), std::size_t{}));
  static_assert(sizeof(Origin) <= alignof(std::max_align_t));

  void* acquire(std::size_t bytes) {
    System system;
    const Origin origin = thrust::malloc(system, bytes + 64);
    auto* start = static_cast<std::byte*>(thrust::raw_pointer_cast(origin));
    if (start == nullptr) throw std::bad_alloc();
    std::byte* block = start + (64 - reinterpret_cast<std::uintptr_t>(start) % 64);
    new (block - sizeof(Origin)) Origin(origin);
    return block;
  }

  void release(void* block, std::size_t) {
    System system;
    thrust::free(system,
                 *reinterpret_cast<Origin*>(static_cast<std::byte*>(block) - sizeof(Origin)));
  }
};

/// to[i] = from[i] in another type.
template <class To, class From>
struct ConvertElement {
  To* to;
  const From* from;
  SRF_HD void operator()(index_t i) const { to[i] = To(compute_t<From>(from[i])); }
};

/// Worker w of a row loop: takes the next rows until none is left, with scratch slot w to itself.
template <class F>
struct RowWorker {
  F f;
  index_t rows, each;
  std::atomic<index_t>* next;
  std::byte* scratch;
  index_t stride;
  void operator()(index_t worker) const {
    for (index_t first; (first = next->fetch_add(each)) < rows;) {
      const index_t last = std::min(rows, first + each);
      for (index_t row = first; row < last; ++row) {
        f(SerialTeam{}, row, static_cast<void*>(scratch + worker * stride));
      }
    }
  }
};

/// partial[part] = the sum of f over the 4096 elements of that part.
template <class F, class A>
struct ReducePart {
  static constexpr index_t elements = 4096;
  F f;
  A* partial;
  index_t n;
  void operator()(index_t part) const {
    const index_t first = part * elements, count = std::min(elements, n - first);
    const F& at = f;
    partial[part] = SerialTeam{}.template sum<A>(count, [&](index_t i) { return at(first + i); });
  }
};

/// A share of the rows or columns of C.
template <class TA, class TB, class TC>
struct GemmPart {
  Op transpose_a, transpose_b;
  index_t m, n, k;
  compute_t<TC> alpha;
  const TA* a;
  index_t lda;
  const TB* b;
  index_t ldb;
  compute_t<TC> beta;
  TC* c;
  index_t ldc, each;
  bool by_rows;
  void operator()(index_t part) const {
    const index_t first = part * each, count = std::min(each, (by_rows ? m : n) - first);
    if (by_rows) {
      large_gemm(1, transpose_a, transpose_b, count, n, k, alpha,
                 a + first * (transpose_a == Op::none ? lda : 1), lda, b, ldb, beta,
                 c + first * ldc, ldc);
    } else {
      large_gemm(1, transpose_a, transpose_b, m, count, k, alpha, a, lda,
                 b + first * (transpose_b == Op::none ? 1 : ldb), ldb, beta, c + first, ldc);
    }
  }
};

}  // namespace SRF_DETAIL

inline namespace SRF_TARGET {

/// Runs on the host through one of Thrust's systems with `threads` threads; 0 asks for as many as
/// the machine has. Results do not depend on the number of threads, but for the rounding of large
/// products.
template <class System>
class ThrustBackend {
 public:
  using space = host_space;
  using team_type = SerialTeam;

  explicit ThrustBackend(int threads = 0) : threads_(threads) {}
  ThrustBackend(const ThrustBackend&) = delete;
  ThrustBackend& operator=(const ThrustBackend&) = delete;

  int threads() const { return threads_.count(); }
  const MemoryPool<detail::ThrustSource<System>>& pool() const { return pool_; }

  template <class T>
  T* allocate(index_t n) {
    T* p = static_cast<T*>(pool_.acquire(static_cast<std::size_t>(n) * sizeof(T)));
    if constexpr (!std::is_trivially_copyable_v<T>) std::uninitialized_value_construct_n(p, n);
    return p;
  }

  template <class T>
  void deallocate(T* p, index_t n) {
    if constexpr (!std::is_trivially_copyable_v<T>) std::destroy_n(p, n);
    pool_.release(p, static_cast<std::size_t>(n) * sizeof(T));
  }

  template <class T>
  void fill(T* p, index_t n, const T& value) {
    threads_.run([&] { thrust::fill(System{}, p, p + n, value); });
  }

  template <class To, class From>
  void copy(To* to, const From* from, index_t n) {
    if constexpr (std::is_same_v<To, From>) {
      threads_.run([&] { thrust::copy(System{}, from, from + n, to); });
    } else {
      for_each(n, detail::ConvertElement<To, From>{to, from});
    }
  }

  template <class T>
  void to_host(T* host, const T* p, index_t n) {
    copy(host, p, n);
  }
  template <class T>
  void from_host(T* p, const T* host, index_t n) {
    copy(p, host, n);
  }

  template <class F>
  void for_each(index_t n, F f) {
    using Counter = thrust::counting_iterator<index_t>;
    threads_.run([&] { thrust::for_each(System{}, Counter(0), Counter(n), f); });
  }

  template <class F>
  void for_each_row(index_t rows, index_t scratch_bytes, F f) {
    if (rows <= 0) return;
    const index_t stride = (scratch_bytes + 63) / 64 * 64;
    const index_t workers = std::min<index_t>(threads(), rows);
    const index_t each = std::max<index_t>(1, rows / (workers * 16));
    std::byte* scratch = allocate<std::byte>(stride * workers);
    std::atomic<index_t> next{0};
    for_each(workers, detail::RowWorker<F>{f, rows, each, &next, scratch, stride});
    deallocate(scratch, stride * workers);
  }

  template <class F, class A>
  void reduce(index_t n, F f, A* out) {
    using Part = detail::ReducePart<F, A>;
    const index_t parts = (n + Part::elements - 1) / Part::elements;
    A* partial = allocate<A>(parts);
    for_each(parts, Part{f, partial, n});
    A total(0);
    for (index_t i = 0; i < parts; ++i) total = total + partial[i];
    *out = *out + total;
    deallocate(partial, parts);
  }

  template <class TA, class TB, class TC>
  void gemm(Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k,
            std::type_identity_t<compute_t<TC>> alpha, const TA* a, index_t lda, const TB* b,
            index_t ldb, std::type_identity_t<compute_t<TC>> beta, TC* c, index_t ldc) {
    if (m <= 0 || n <= 0) return;
    const bool by_rows = m >= n;
    const index_t extent = by_rows ? m : n;
    const index_t share = (extent + threads() - 1) / threads(), each = std::max<index_t>(32, share);
    for_each((extent + each - 1) / each,
             detail::GemmPart<TA, TB, TC>{transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb,
                                          beta, c, ldc, each, by_rows});
  }

  void synchronize() {}

 private:
  detail::SystemThreads<System> threads_;
  MemoryPool<detail::ThrustSource<System>> pool_;
};

}  // namespace SRF_TARGET

static_assert(BackendFor<ThrustBackend<thrust_cpp>, float>);

}  // namespace srformer
