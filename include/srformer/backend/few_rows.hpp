// SPDX-License-Identifier: Apache-2.0
// Products of a few rows by a matrix that is read once, as it lies:
//
//   C [m,n] = alpha A [m,k] B^T + beta C,   B [n,k]
//
// A decoder step is made of them, and takes as long as its weights take to arrive. No row of B is packed,
// widened or copied; each meets all rows of A while it is in the registers. Every element of C is a sum in
// sixteen parts (eight of double), which depends neither on m, nor on the threads, nor on how wide the
// registers are.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include <srformer/backend/vector.hpp>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace srformer::SRF_DETAIL {

#if defined(__CUDACC__)
#pragma nv_diagnostic push
#pragma nv_diag_suppress 1675  // `GCC unroll` is for the host compiler, which reads this text after nvcc
#endif

/// Rows of A and of B that a tile multiplies, each pair in `line_vectors` registers: 16 of 32 accumulate, or 12 of 16.
/// Registers of 16 bytes hold one pair well, as products without a fused addition need some as well.
inline constexpr int dots_high = vector_bytes == 64 ? 4 : vector_bytes == 32 ? 3 : 1;
inline constexpr int dots_wide = vector_bytes == 64 ? 4 : vector_bytes == 32 ? 2 : 1;

/// The dots of a tile, of which some are used.
template <class C>
using DotsOfTile = C[4][4];

/// Whether the kernel knows a product: all double, or float and what is widened to it.
template <class TA, class TB, class TC>
inline constexpr bool has_dots = (std::is_same_v<TA, double> && std::is_same_v<TB, double> &&
                                  std::is_same_v<TC, double>) ||
                                 (std::is_same_v<compute_t<TA>, float> &&
                                  std::is_same_v<compute_t<TB>, float> &&
                                  std::is_same_v<compute_t<TC>, float>);

#if defined(SRF_HAS_ONEDNN)
inline constexpr bool has_onednn = true;
#else
inline constexpr bool has_onednn = false;
#endif

/// Up to so many rows by a B stored as TB the kernel is ahead of those that pack B, which each thread does for itself.
/// oneDNN's for float have the registers of the processor, whatever this file is compiled for.
template <class TB>
constexpr index_t few_rows() {
  if (vector_bytes == 64) return 64;
  if (std::is_same_v<TB, float> && has_onednn) return vector_bytes == 32 ? 16 : 2;
  return vector_bytes == 16 && !std::is_same_v<TB, compute_t<TB>> ? 8 : 32;
}

/// Whether it is where B is in the cache and stored as TB, and has n rows: up to two rows (four of float in registers of
/// 16 bytes), and where the packed kernel has no full vector. A single row has a kernel of its own. Narrow numbers are then widened for each tile,
/// which is better done once where that takes more than an instruction or two.
template <class TB>
constexpr bool few_rows_in_cache(index_t m, index_t n) {
  constexpr bool narrow = !std::is_same_v<TB, compute_t<TB>>;
  if constexpr (narrow) return m <= (widens_at_once<TB> ? 8 : 1);
  constexpr index_t most = vector_bytes == 16 && std::is_same_v<TB, float> ? 4 : 2;
  return m > 1 && m <= (n < 16 ? 16 : most);
}

/// What a tile asks of memory at each step: some lines of 64 bytes. Processors that fetch ahead by
/// themselves lose their way between rows that share a page.
struct Fetch {
  const char* at;
  int lines, apart = 64;

  /// The share of one of `tiles` tiles in what lies at `from`, so that memory is never idle: `lines` for
  /// each of `steps` steps are wanted of all together.
  static Fetch share(const void* from, index_t tile, index_t tiles, index_t steps, int lines) {
    const int each = tiles < lines ? lines / static_cast<int>(tiles) : 1;
    return {static_cast<const char*>(from) + tile * each * steps * 64,
            (tile + 1) * each <= lines ? each : 0};
  }
  /// What lies a page after a row that is read `bytes` a step.
  static Fetch behind(const void* row, int bytes) {
    return {static_cast<const char*>(row) + 4096, 1, bytes};
  }

  void step() {
    for (int line = 0; line < lines; ++line, at += apart) __builtin_prefetch(at, 0, 2);
  }
};

/// Lines of 64 bytes of B that a tile of some columns reads in a step.
template <int Columns, class TB>
inline constexpr int lines_of_step = static_cast<int>(Columns * sizeof(TB) / sizeof(compute_t<TB>));

/// dots[i][j] = row i of A times row j of B.
template <int Rows, int Columns, class TA, class TB, class C = compute_t<TB>>
[[gnu::always_inline]] inline void dots_tile(index_t k, const TA* a, index_t lda, const TB* b,
                                             index_t ldb, Fetch fetch, DotsOfTile<C>& dots) {
  using V = typename Vector<C>::type;
  constexpr int lanes = Vector<C>::lanes, parts = line_vectors, step = lanes * parts;
  V sum[Rows][Columns][parts] = {};
  const auto add = [&](const TA* x, index_t of_x, const TB* y, index_t of_y)
      __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int e = 0; e < parts; ++e) {
      V left[Rows];
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) {
        load_computed(left[i], x + i * of_x + e * lanes);
        if constexpr (Rows > 1) keep_in_register(left[i]);
      }
#pragma GCC unroll 8
      for (int j = 0; j < Columns; ++j) {
        V right;
        load_computed(right, y + j * of_y + e * lanes);
        if constexpr (Rows > 1) keep_in_register(right);
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i) sum[i][j][e] += left[i] * right;
      }
    }
  };
  const index_t whole = k - k % step;
  if (fetch.lines > 0) {
    for (index_t p = 0; p < whole; p += step) {
      fetch.step();
      add(a + p, lda, b + p, ldb);
    }
  } else {
    for (index_t p = 0; p < whole; p += step) add(a + p, lda, b + p, ldb);
  }
  if (whole < k) {  // with zeros behind
    TA left[Rows * step];
    TB right[Columns * step];
    const index_t rest = k - whole;
    for (int e = 0; e < Rows * step; ++e)
      left[e] = e % step < rest ? a[e / step * lda + whole + e % step] : TA(0);
    for (int e = 0; e < Columns * step; ++e)
      right[e] = e % step < rest ? b[e / step * ldb + whole + e % step] : TB(0);
    add(left, step, right, step);
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < Columns; ++j) {
      add_parts(sum[i][j]);
      dots[i][j] = sum_of_lanes(sum[i][j][0]);
    }
  }
}

/// c = alpha dots + beta c for a tile of C.
template <class TC, class C = compute_t<TC>>
[[gnu::always_inline]] inline void store_tile(index_t rows, int columns, C alpha,
                                              const DotsOfTile<C>& dots, C beta, TC* c,
                                              index_t ldc) {
  for (index_t r = 0; r < rows; ++r) {
    TC* to = c + r * ldc;
    for (int j = 0; j < columns; ++j) {
      const C sum = alpha * dots[r][j];
      to[j] = as_stored<TC>(beta == C(0) ? sum : sum + beta * as_computed(to[j]));
    }
  }
}

/// All rows of A, as even tiles, times `Columns` rows of B; what is asked for are the columns after next.
template <int Columns, class TA, class TB, class TC, class C = compute_t<TC>>
inline void dots_columns(index_t m, index_t k, C alpha, const TA* a, index_t lda, const TB* b,
                         index_t ldb, C beta, TC* c, index_t ldc) {
  DotsOfTile<C> dots;
  constexpr int step = 64 / sizeof(C), lines = lines_of_step<Columns, TB>;
  const index_t tiles = (m + dots_high - 1) / dots_high;
  const bool fetching = m > 1 && ldb == k && Columns == dots_wide;
  for (index_t tile = 0, i = 0; tile < tiles; ++tile) {
    const index_t rows = (m - i) / (tiles - tile);
    const auto fetch =
        Fetch::share(b + 2 * Columns * ldb, tile, tiles, k / step, fetching ? lines : 0);
    const TA* at = a + i * lda;
    if (rows == 1) {
      dots_tile<1, Columns>(k, at, lda, b, ldb, fetch, dots);
    } else if (rows == 2) {
      if constexpr (dots_high >= 2) dots_tile<2, Columns>(k, at, lda, b, ldb, fetch, dots);
    } else if (rows == 3) {
      if constexpr (dots_high >= 3) dots_tile<3, Columns>(k, at, lda, b, ldb, fetch, dots);
    } else {
      if constexpr (dots_high >= 4) dots_tile<4, Columns>(k, at, lda, b, ldb, fetch, dots);
    }
    store_tile(rows, Columns, alpha, dots, beta, c + i * ldc, ldc);
    i += rows;
  }
}

/// One or two rows of A times one row of B after another, as they lie: the order in which memory gives
/// most, where B has to come from there.
template <int Rows, class TA, class TB, class TC, class C = compute_t<TC>>
inline void streamed_dots(index_t n, index_t k, C alpha, const TA* a, index_t lda, const TB* b,
                          C beta, TC* c, index_t ldc) {
  DotsOfTile<C> dots;
  constexpr int step = 64 / sizeof(C) * sizeof(TB);
  for (index_t j = 0; j < n; ++j, b += k) {
    dots_tile<Rows, 1>(k, a, lda, b, k, Fetch::behind(b, step), dots);
    store_tile(Rows, 1, alpha, dots, beta, c + j, ldc);
  }
}

/// Whether a product is one for streamed_dots: of few enough rows, by a B that lies in one piece, too large to be
/// in a cache.
template <class TB>
constexpr bool streams(index_t m, index_t n, index_t k, index_t ldb) {
  return m <= 2 && ldb == k && n * k * static_cast<index_t>(sizeof(TB)) >= index_t{1} << 18;
}

/// The product on one thread; streamed as `streams` says of the whole of it.
template <class TA, class TB, class TC, class C = compute_t<TC>>
[[gnu::noinline]] void dots_gemm(index_t m, index_t n, index_t k, C alpha, const TA* a, index_t lda,
                                 const TB* b, index_t ldb, C beta, TC* c, index_t ldc,
                                 bool streamed = false) {
  if (streamed) {
    return m == 1 ? streamed_dots<1>(n, k, alpha, a, lda, b, beta, c, ldc)
                  : streamed_dots<2>(n, k, alpha, a, lda, b, beta, c, ldc);
  }
  index_t j = 0;
  for (; j + dots_wide <= n; j += dots_wide)
    dots_columns<dots_wide>(m, k, alpha, a, lda, b + j * ldb, ldb, beta, c + j, ldc);
  for (; j < n; ++j) dots_columns<1>(m, k, alpha, a, lda, b + j * ldb, ldb, beta, c + j, ldc);
}

/// The product on `threads` threads, each of which takes columns of C while there are any.
template <class TA, class TB, class TC, class C = compute_t<TC>>
void few_rows_gemm([[maybe_unused]] int threads, index_t m, index_t n, index_t k, C alpha,
                   const TA* a, index_t lda, const TB* b, index_t ldb, C beta, TC* c, index_t ldc) {
  if (m == 0) return;
  const bool streamed = streams<TB>(m, n, k, ldb);
#if defined(_OPENMP)
  constexpr index_t worth = 1 << 15;  // products that outweigh the start of a region
  const index_t each = std::max<index_t>(dots_wide * 4, n / (threads * 8) / dots_wide * dots_wide);
  const index_t blocks = (n + each - 1) / each;
  if (threads > 1 && blocks > 1 && m * n * k >= worth) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (index_t block = 0; block < blocks; ++block) {
      const index_t j = block * each;
      dots_gemm(m, std::min(each, n - j), k, alpha, a, lda, b + j * ldb, ldb, beta, c + j, ldc,
                streamed);
    }
    return;
  }
#endif
  dots_gemm(m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, streamed);
}

#if defined(__CUDACC__)
#pragma nv_diagnostic pop
#endif

}  // namespace srformer::SRF_DETAIL
