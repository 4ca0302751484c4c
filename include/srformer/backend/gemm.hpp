// SPDX-License-Identifier: Apache-2.0
// Matrix products on host memory, row-major:
//
//   C [m,n] = alpha op(A) [m,k] op(B) [k,n] + beta C
//
//   small_gemm   one thread, any scalar, operands in cache: a register-blocked kernel for float and
//                double, the same on blocks in float for half and bfloat16, plain loops for everything
//                else. Every element of C is one sum in the order of k (two, of even and odd steps, where
//                up to eight rows of float meet a transposed B), whatever the width of the vectors.
//   large_gemm   any number of threads: oneDNN for float where it is found, else Eigen; `small_gemm`
//                by blocks or rows for scalars that neither knows.
//
// A few rows times a transposed matrix are the kernels of backend/few_rows.hpp, or in cache `gemm_across`.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <srformer/backend/onednn.hpp>
#include <srformer/backend/vector_gemm.hpp>
#include <srformer/core/error.hpp>
#include <srformer/core/scalar.hpp>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace srformer {

namespace SRF_DETAIL {

/// Whether a product is computed in float while some of its operands are stored narrower.
template <class TA, class TB, class TC>
inline constexpr bool widens_to_float =
    std::is_same_v<compute_t<TA>, float>&& std::is_same_v<compute_t<TB>, float>&&
        std::is_same_v<compute_t<TC>, float> &&
    !(std::is_same_v<TA, float> && std::is_same_v<TB, float> && std::is_same_v<TC, float>);

/// Sides of the blocks that are float in the cache.
inline constexpr index_t widened_high = 96, widened_wide = 128, widened_deep = 128;

/// A block of an operand as float: itself where it is stored so, else a copy in `block`.
inline std::pair<const float*, index_t> widened_block(index_t, index_t, const float* x,
                                                      index_t stride, float*) {
  return {x, stride};
}
template <class T>
std::pair<const float*, index_t> widened_block(index_t rows, index_t columns, const T* x,
                                               index_t stride, float* block) {
  for (index_t i = 0; i < rows; ++i) {
    SRF_INDEPENDENT
    for (index_t j = 0; j < columns; ++j) block[i * columns + j] = widened(x[i * stride + j]);
  }
  return {block, columns};
}

/// A product of half and bfloat16 by the kernel of float, a block of C at a time, which is summed over
/// all of k before it is stored.
template <class TA, class TB, class TC>
[[gnu::noinline]] void widened_gemm(Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k,
                                    float alpha, const TA* a, index_t lda, const TB* b, index_t ldb,
                                    float beta, TC* c, index_t ldc) {
  constexpr index_t high = widened_high, wide = widened_wide, deep = widened_deep;
  constexpr bool direct = std::is_same_v<TC, float>;
  alignas(64) float left[high * deep], right[deep * wide], sums[high * wide];
  const bool ta = transpose_a == Op::transpose, tb = transpose_b == Op::transpose;
  for (index_t j = 0; j < n; j += wide) {
    const index_t columns = std::min(wide, n - j);
    for (index_t i = 0; i < m; i += high) {
      const index_t rows = std::min(high, m - i);
      TC* out = c + i * ldc + j;
      float* sum = sums;
      index_t stride = columns;
      if constexpr (direct) sum = out, stride = ldc;
      for (index_t p = 0; p < k || p == 0; p += deep) {
        const index_t part = std::min(deep, k - p);
        const auto [x, of_x] = ta ? widened_block(part, rows, a + p * lda + i, lda, left)
                                  : widened_block(rows, part, a + i * lda + p, lda, left);
        const auto [y, of_y] = tb ? widened_block(columns, part, b + j * ldb + p, ldb, right)
                                  : widened_block(part, columns, b + p * ldb + j, ldb, right);
        const float before = p > 0 ? 1.0f : direct ? beta : 0.0f;
        vector_gemm(transpose_b, rows, columns, part, direct ? alpha : 1.0f, x, ta ? 1 : of_x,
                    ta ? of_x : 1, y, of_y, before, sum, stride);
      }
      if constexpr (!direct) {
        for (index_t r = 0; r < rows; ++r) {
          TC* to = out + r * ldc;
          float* from = sum + r * stride;
          for (index_t q = 0; beta != 0 && q < columns; ++q) {
            from[q] = alpha * from[q] + beta * widened(to[q]);
          }
          const float scale = beta != 0 ? 1.0f : alpha;
          SRF_INDEPENDENT
          for (index_t q = 0; q < columns; ++q) to[q] = narrowed<TC>(scale * from[q]);
        }
      }
    }
  }
}

}  // namespace SRF_DETAIL

inline namespace SRF_TARGET {

/// One product on one thread; A, B and C may be of different scalars, C in the compute type.
template <class TA, class TB, class TC>
void small_gemm(Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k,
                std::type_identity_t<compute_t<TC>> alpha, const TA* a, index_t lda, const TB* b,
                index_t ldb, std::type_identity_t<compute_t<TC>> beta, TC* c, index_t ldc) {
  const index_t row = transpose_a == Op::none ? lda : 1;
  const index_t step = transpose_a == Op::none ? 1 : lda;
  if constexpr (detail::has_dots<TA, TB, TC>) {
    if (transpose_a == Op::none && transpose_b == Op::transpose &&
        detail::few_rows_in_cache<TB>(m, n)) {
      return detail::dots_gemm(m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    }
  }
  if constexpr (std::is_same_v<TA, TC> && std::is_same_v<TB, TC> && detail::has_vector_kernel<TC>) {
    detail::vector_gemm(transpose_b, m, n, k, alpha, a, row, step, b, ldb, beta, c, ldc);
  } else if constexpr (detail::widens_to_float<TA, TB, TC>) {
    detail::widened_gemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  } else {
    using C = compute_t<TC>;
    const index_t b_step = transpose_b == Op::none ? ldb : 1;
    const index_t b_column = transpose_b == Op::none ? 1 : ldb;
    for (index_t i = 0; i < m; ++i) {
      for (index_t j = 0; j < n; ++j) {
        C sum(0);
        for (index_t p = 0; p < k; ++p) {
          sum = sum + C(a[i * row + p * step]) * C(b[p * b_step + j * b_column]);
        }
        sum = alpha * sum;
        TC& out = c[i * ldc + j];
        out = TC(math::zero(beta) ? sum : sum + beta * C(out));
      }
    }
  }
}

}  // namespace SRF_TARGET

namespace SRF_DETAIL {

/// Sets the threads that oneDNN's and Eigen's own regions use, and puts them back.
class ThreadScope {
 public:
#if defined(_OPENMP)
  explicit ThreadScope(int threads) : before_(omp_get_max_threads()) {
    omp_set_num_threads(threads);
  }
  ~ThreadScope() { omp_set_num_threads(before_); }

 private:
  int before_;
#else
  explicit ThreadScope(int) {}
#endif
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;
};

/// Strides in a type of this target, which comes into the names of what Eigen makes of its maps.
struct RowStride : Eigen::OuterStride<> {
  using Eigen::OuterStride<>::OuterStride;
};

template <class T>
void eigen_gemm(Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k, T alpha,
                const T* a, index_t lda, const T* b, index_t ldb, T beta, T* c, index_t ldc) {
  using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Map = Eigen::Map<const Matrix, 0, RowStride>;
  const bool ta = transpose_a == Op::transpose, tb = transpose_b == Op::transpose;
  const Map left(a, ta ? k : m, ta ? m : k, RowStride(lda));
  const Map right(b, tb ? n : k, tb ? k : n, RowStride(ldb));
  Eigen::Map<Matrix, 0, RowStride> out(c, m, n, RowStride(ldc));
  if (beta == T(0)) {
    out.setZero();
  } else if (beta != T(1)) {
    out *= beta;
  }
  if (ta && tb) {
    out.noalias() += alpha * left.transpose() * right.transpose();
  } else if (ta) {
    out.noalias() += alpha * left.transpose() * right;
  } else if (tb) {
    out.noalias() += alpha * left * right.transpose();
  } else {
    out.noalias() += alpha * left * right;
  }
}

}  // namespace SRF_DETAIL

inline namespace SRF_TARGET {

template <class TA, class TB, class TC>
void large_gemm(int threads, Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k,
                std::type_identity_t<compute_t<TC>> alpha, const TA* a, index_t lda, const TB* b,
                index_t ldb, std::type_identity_t<compute_t<TC>> beta, TC* c, index_t ldc);

}  // namespace SRF_TARGET

#if defined(SRF_HAS_ONEDNN)
namespace SRF_DETAIL {

/// x [rows,columns] as float, on `threads` threads.
template <class T>
void widen_rows([[maybe_unused]] int threads, index_t rows, index_t columns, const T* x,
                index_t stride, float* to) {
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
#endif
  for (index_t i = 0; i < rows; ++i) {
    const T* from = x + i * stride;
    float* row = to + i * columns;
    SRF_INDEPENDENT
    for (index_t j = 0; j < columns; ++j) row[j] = widened(from[j]);
  }
}

/// A product of many rows of half and bfloat16 in float: some columns of C at a time, so that what is
/// widened stays small.
template <class TA, class TB, class TC>
void widened_large_gemm(int threads, Op transpose_b, index_t m, index_t n, index_t k, float alpha,
                        const TA* a, index_t lda, const TB* b, index_t ldb, float beta, TC* c,
                        index_t ldc) {
  constexpr index_t wide = 512;
  const index_t most = std::min(wide, n);
  const bool tb = transpose_b == Op::transpose;
  const std::unique_ptr<float[]> memory(
      new float[static_cast<std::size_t>(m * k + most * (k + m))]);
  float *left = memory.get(), *right = left + m * k, *sums = right + most * k;
  widen_rows(threads, m, k, a, lda, left);
  for (index_t j = 0; j < n; j += wide) {
    const index_t columns = std::min(wide, n - j);
    if (tb) {
      widen_rows(threads, columns, k, b + j * ldb, ldb, right);
    } else {
      widen_rows(threads, k, columns, b + j, ldb, right);
    }
    large_gemm(threads, Op::none, transpose_b, m, columns, k, alpha, left, k, right,
               tb ? k : columns, 0.0f, sums, columns);
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
#endif
    for (index_t i = 0; i < m; ++i) {
      float* from = sums + i * columns;
      TC* to = c + i * ldc + j;
      for (index_t q = 0; beta != 0 && q < columns; ++q) from[q] += beta * widened(to[q]);
      SRF_INDEPENDENT
      for (index_t q = 0; q < columns; ++q) to[q] = narrowed<TC>(from[q]);
    }
  }
}

}  // namespace SRF_DETAIL
#endif

inline namespace SRF_TARGET {

/// One product on `threads` threads. Deterministic for a given number of threads.
template <class TA, class TB, class TC>
void large_gemm(int threads, Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k,
                std::type_identity_t<compute_t<TC>> alpha, const TA* a, index_t lda, const TB* b,
                index_t ldb, std::type_identity_t<compute_t<TC>> beta, TC* c, index_t ldc) {
  if (m == 0 || n == 0) return;
  if constexpr (detail::has_dots<TA, TB, TC>) {
    if (transpose_a == Op::none && transpose_b == Op::transpose && m <= detail::few_rows<TB>()) {
      return detail::few_rows_gemm(threads, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    }
  }
  if constexpr (std::is_same_v<TA, TC> && std::is_same_v<TB, TC> && detail::has_vector_kernel<TC>) {
    if (k > 0) {
      const detail::ThreadScope scope(threads);
#if defined(SRF_HAS_ONEDNN)
      if constexpr (std::is_same_v<TC, float>) {
        return detail::onednn_gemm(transpose_a == Op::transpose, transpose_b == Op::transpose, m, n,
                                   k, alpha, a, lda, b, ldb, beta, c, ldc);
      }
#endif
      detail::eigen_gemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
      return;
    }
  }
  if constexpr (detail::widens_to_float<TA, TB, TC>) {
#if defined(SRF_HAS_ONEDNN)
    if (transpose_a == Op::none && m >= 64 && n >= 64 && k >= 64) {
      return detail::widened_large_gemm(threads, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta,
                                        c, ldc);
    }
#endif
    const index_t high = detail::widened_high, wide = detail::widened_wide;
    const index_t across = (n + wide - 1) / wide, blocks = (m + high - 1) / high * across;
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static) if (blocks > 1 && threads > 1)
#endif
    for (index_t block = 0; block < blocks; ++block) {
      const index_t i = block / across * high, j = block % across * wide;
      small_gemm(transpose_a, transpose_b, std::min(high, m - i), std::min(wide, n - j), k, alpha,
                 a + i * (transpose_a == Op::none ? lda : 1), lda,
                 b + j * (transpose_b == Op::none ? 1 : ldb), ldb, beta, c + i * ldc + j, ldc);
    }
    return;
  }
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static)
#endif
  for (index_t i = 0; i < m; ++i) {
    small_gemm(transpose_a, transpose_b, 1, n, k, alpha,
               a + i * (transpose_a == Op::none ? lda : 1), lda, b, ldb, beta, c + i * ldc, ldc);
  }
}

}  // namespace SRF_TARGET

}  // namespace srformer
