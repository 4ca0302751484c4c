// SPDX-License-Identifier: Apache-2.0
// The CPU backend: loops on OpenMP threads (or on one), products by backend/gemm.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <type_traits>

#include <srformer/backend/concept.hpp>
#include <srformer/backend/memory_pool.hpp>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace srformer {

namespace SRF_DETAIL {

/// While it lives, its thread takes numbers below the least normal one for zero, where the processor is an x86. A
/// state that leaks away would else end in such numbers, each of which takes some processors a hundred times as
/// long as another.
class DenormalsAreZero {
#if defined(__SSE2__)
 public:
  DenormalsAreZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }  // results, operands
  ~DenormalsAreZero() { _mm_setcsr(before_); }
  DenormalsAreZero(const DenormalsAreZero&) = delete;
  DenormalsAreZero& operator=(const DenormalsAreZero&) = delete;

 private:
  unsigned before_;
#endif
};

/// Bytes from which on memory is filled past the caches, where the processor is an x86: what is filled would leave
/// them before it is read, and have been read into them first.
inline constexpr index_t streamed_bytes = index_t{1} << 26;

/// x[0..n) = value past the caches, but for what is left of the last 16 bytes.
template <class T>
void stream_fill(T* x, index_t n, const T& value) {
  index_t done = 0;
#if defined(__SSE2__)
  if constexpr (std::is_trivially_copyable_v<T> && 16 % sizeof(T) == 0) {
    constexpr index_t each = 16 / sizeof(T);
    if (reinterpret_cast<std::uintptr_t>(x) % 16 == 0) {
      T pattern[each];
      std::fill_n(pattern, each, value);
      __m128i bits;
      std::memcpy(&bits, pattern, sizeof(bits));
      for (; done + each <= n; done += each)
        _mm_stream_si128(reinterpret_cast<__m128i*>(x + done), bits);
      _mm_sfence();
    }
  }
#endif
  std::fill(x + done, x + n, value);
}

}  // namespace SRF_DETAIL

inline namespace SRF_TARGET {

/// Runs on the host with `threads` threads; 0 asks for as many as the machine has. Built without
/// OpenMP it has one thread. Results do not depend on the number of threads, but for the rounding
/// of large products. Rows are worked on with denormal numbers as zeros.
class EigenBackend {
 public:
  using space = host_space;
  using team_type = SerialTeam;

  explicit EigenBackend(int threads = 0) : threads_(usable(threads)) {}
  EigenBackend(const EigenBackend&) = delete;
  EigenBackend& operator=(const EigenBackend&) = delete;

  int threads() const { return threads_; }
  const MemoryPool<AlignedSource>& pool() const { return pool_; }

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
    const bool streamed = n * static_cast<index_t>(sizeof(T)) >= detail::streamed_bytes;
    for_each_chunk(n, [=](index_t first, index_t last) {
      if (streamed) return detail::stream_fill(p + first, last - first, value);
      std::fill(p + first, p + last, value);
    });
  }

  template <class To, class From>
  void copy(To* to, const From* from, index_t n) {
    for_each_chunk(n, [=](index_t first, index_t last) {
      if constexpr (std::is_same_v<To, From>) {
        std::copy(from + first, from + last, to + first);
      } else {
        for (index_t i = first; i < last; ++i) to[i] = To(compute_t<From>(from[i]));
      }
    });
  }

  template <class T>
  void to_host(T* host, const T* p, index_t n) {
    std::copy(p, p + n, host);
  }
  template <class T>
  void from_host(T* p, const T* host, index_t n) {
    std::copy(host, host + n, p);
  }

  template <class F>
  void for_each(index_t n, F f) {
    for_each_chunk(n, [&f](index_t first, index_t last) {
      const F local = f;
      SRF_INDEPENDENT
      for (index_t i = first; i < last; ++i) local(i);
    });
  }

  template <class F>
  void for_each_row(index_t rows, index_t scratch_bytes, F f) {
    const index_t stride = (scratch_bytes + 63) / 64 * 64;
    const int workers = static_cast<int>(std::min<index_t>(threads_, std::max<index_t>(rows, 1)));
    std::byte* scratch = allocate<std::byte>(stride * workers);
#if defined(_OPENMP)
#pragma omp parallel num_threads(workers) if (workers > 1)
    {
      [[maybe_unused]] const detail::DenormalsAreZero mode{};
#pragma omp for schedule(dynamic, chunk_of(rows))
      for (index_t row = 0; row < rows; ++row) {
        f(SerialTeam{}, row, static_cast<void*>(scratch + stride * omp_get_thread_num()));
      }
    }
#else
    [[maybe_unused]] const detail::DenormalsAreZero mode{};
    for (index_t row = 0; row < rows; ++row) f(SerialTeam{}, row, static_cast<void*>(scratch));
#endif
    deallocate(scratch, stride * workers);
  }

  template <class F, class A>
  void reduce(index_t n, F f, A* out) {
    const index_t parts = (n + chunk - 1) / chunk;
    A* part = allocate<A>(parts);
    for_each_part(parts, [=](index_t i) {
      const index_t first = i * chunk, count = std::min(chunk, n - first);
      part[i] = SerialTeam{}.template sum<A>(count, [&](index_t j) { return f(first + j); });
    });
    A total(0);
    for (index_t i = 0; i < parts; ++i) total = total + part[i];
    *out = *out + total;
    deallocate(part, parts);
  }

  template <class TA, class TB, class TC>
  void gemm(Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k,
            std::type_identity_t<compute_t<TC>> alpha, const TA* a, index_t lda, const TB* b,
            index_t ldb, std::type_identity_t<compute_t<TC>> beta, TC* c, index_t ldc) {
    large_gemm(threads_, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  }

  void synchronize() {}

  /// Gives memory that is kept for later back to the system.
  void trim() { pool_.trim(); }

 private:
  static constexpr index_t chunk = 4096;

  static int usable(int threads) {
#if defined(_OPENMP)
    const int most = static_cast<int>(std::thread::hardware_concurrency());
    return threads > 0 ? threads : std::max(1, most);
#else
    static_cast<void>(threads);
    return 1;
#endif
  }

  /// Rows a thread takes at a time: few enough to balance, many enough not to queue.
  index_t chunk_of(index_t rows) const { return std::max<index_t>(1, rows / (threads_ * 16)); }

  template <class F>
  void for_each_part(index_t parts, F f) {
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads_) schedule(static) if (parts > 1 && threads_ > 1)
#endif
    for (index_t i = 0; i < parts; ++i) f(i);
  }

  template <class F>
  void for_each_chunk(index_t n, F f) {
    for_each_part((n + chunk - 1) / chunk,
                  [=](index_t i) { f(i * chunk, std::min(n, (i + 1) * chunk)); });
  }

  int threads_;
  MemoryPool<AlignedSource> pool_;
};

}  // namespace SRF_TARGET

static_assert(BackendFor<EigenBackend, float>);

}  // namespace srformer
