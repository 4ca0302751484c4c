// SPDX-License-Identifier: Apache-2.0
// Matrix products on host memory, row-major:
//
//   C [m,n] = alpha op(A) [m,k] op(B) [k,n] + beta C
//
//   small_gemm   one thread, any scalar, operands in cache: a register-blocked kernel for float and
//                double, plain loops for everything else. Every element of C is one sum in the order
//                of k, whatever the width of the vectors.
//   large_gemm   any number of threads: oneDNN for float where it is found, else Eigen; plain loops
//                over `small_gemm` for scalars that neither knows.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstring>
#include <string>
#include <type_traits>

#include <srformer/core/error.hpp>
#include <srformer/core/scalar.hpp>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(SRF_HAS_ONEDNN)
#include <dnnl.h>
#endif

namespace srformer {

/// Whether an operand is used as it lies or transposed.
enum class Op : bool { none = false, transpose = true };

namespace detail {

#if defined(__CUDACC__)
#pragma nv_diagnostic push
#pragma nv_diag_suppress 1675  // `GCC unroll` is for the host compiler, which reads this text after nvcc
#endif

template <class T>
inline constexpr bool has_vector_kernel = std::is_same_v<T, float> || std::is_same_v<T, double>;

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
inline constexpr int vectors_wide = 4, rows_high = 6;  // 24 of 32 registers accumulate
#elif defined(__AVX__)
inline constexpr int vector_bytes = 32;
inline constexpr int vectors_wide = 2, rows_high = 6;  // 12 of 16
#else
inline constexpr int vector_bytes = 16;
inline constexpr int vectors_wide = 2, rows_high = 6;
#endif

template <class T>
struct Vector;
template <>
struct Vector<float> {
  typedef float type __attribute__((vector_size(vector_bytes)));
  static constexpr int lanes = vector_bytes / sizeof(float);
};
template <>
struct Vector<double> {
  typedef double type __attribute__((vector_size(vector_bytes)));
  static constexpr int lanes = vector_bytes / sizeof(double);
};

/// C[0..Rows, 0..Wide*lanes] = alpha A B + beta C; a(i,p) = A[i*row + p*step], B rows ldb apart.
template <int Rows, int Wide, class T>
inline void gemm_tile(index_t k, T alpha, const T* a, index_t row, index_t step, const T* b,
                      index_t ldb, T beta, T* c, index_t ldc) {
  using V = typename Vector<T>::type;
  constexpr int lanes = Vector<T>::lanes;
  V sum[Rows][Wide] = {};
  for (index_t p = 0; p < k; ++p) {
    V right[Wide];
#pragma GCC unroll 8
    for (int w = 0; w < Wide; ++w) std::memcpy(&right[w], b + p * ldb + w * lanes, sizeof(V));
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const T left = a[i * row + p * step];
#pragma GCC unroll 8
      for (int w = 0; w < Wide; ++w) sum[i][w] += left * right[w];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
    for (int w = 0; w < Wide; ++w) {
      T* out = c + i * ldc + w * lanes;
      V result = alpha * sum[i][w];
      if (beta != T(0)) {
        V old;
        std::memcpy(&old, out, sizeof(V));
        result += beta * old;
      }
      std::memcpy(out, &result, sizeof(V));
    }
  }
}

template <int Wide, class T>
inline void gemm_rows(index_t m, index_t k, T alpha, const T* a, index_t row, index_t step,
                      const T* b, index_t ldb, T beta, T* c, index_t ldc) {
  index_t i = 0;
  for (; i + rows_high <= m; i += rows_high) {
    gemm_tile<rows_high, Wide>(k, alpha, a + i * row, row, step, b, ldb, beta, c + i * ldc, ldc);
  }
  const T* rest = a + i * row;
  T* out = c + i * ldc;
  switch (m - i) {
    case 5:
      gemm_tile<5, Wide>(k, alpha, rest, row, step, b, ldb, beta, out, ldc);
      break;
    case 4:
      gemm_tile<4, Wide>(k, alpha, rest, row, step, b, ldb, beta, out, ldc);
      break;
    case 3:
      gemm_tile<3, Wide>(k, alpha, rest, row, step, b, ldb, beta, out, ldc);
      break;
    case 2:
      gemm_tile<2, Wide>(k, alpha, rest, row, step, b, ldb, beta, out, ldc);
      break;
    case 1:
      gemm_tile<1, Wide>(k, alpha, rest, row, step, b, ldb, beta, out, ldc);
      break;
    default:
      break;
  }
}

/// The columns of C in panels as wide as the registers allow; a transposed or narrow B is packed.
/// Kept out of its callers, of which there are many: one copy of the kernels per type.
template <class T>
[[gnu::noinline]] void vector_gemm(Op transpose_b, index_t m, index_t n, index_t k, T alpha,
                                   const T* a, index_t row, index_t step, const T* b, index_t ldb,
                                   T beta, T* c, index_t ldc) {
  constexpr index_t lanes = Vector<T>::lanes, wide = lanes * vectors_wide, depth = 128;
  alignas(64) T packed[depth * wide];
  for (index_t first = 0; first < k || first == 0; first += depth) {
    const index_t part = std::min(depth, k - first);
    const T* left = a + first * step;
    const T scale = first == 0 ? beta : T(1);
    for (index_t j = 0; j < n;) {
      const index_t columns = std::min(wide, n - j);
      const T* panel;
      index_t stride;
      const index_t padded = columns > lanes ? wide : lanes;
      if (transpose_b == Op::transpose) {
        for (index_t q = 0; q < columns; ++q) {
          const T* source = b + (j + q) * ldb + first;
          for (index_t p = 0; p < part; ++p) packed[p * padded + q] = source[p];
        }
        panel = packed, stride = padded;
      } else if (columns < padded) {
        for (index_t p = 0; p < part; ++p) {
          std::copy_n(b + (first + p) * ldb + j, columns, packed + p * padded);
        }
        panel = packed, stride = padded;
      } else {
        panel = b + first * ldb + j, stride = ldb;
      }
      if (columns == wide) {
        gemm_rows<vectors_wide>(m, part, alpha, left, row, step, panel, stride, scale, c + j, ldc);
      } else if (columns == lanes) {
        gemm_rows<1>(m, part, alpha, left, row, step, panel, stride, scale, c + j, ldc);
      } else {  // a ragged panel: through a block that is wide enough
        for (index_t p = 0; p < part; ++p) {
          std::fill(packed + p * padded + columns, packed + (p + 1) * padded, T(0));
        }
        alignas(64) T block[rows_high * wide];
        for (index_t i = 0; i < m; i += rows_high) {
          const index_t rows = std::min<index_t>(rows_high, m - i);
          const T* start = left + i * row;
          if (padded == wide) {
            gemm_rows<vectors_wide>(rows, part, alpha, start, row, step, panel, stride, T(0), block,
                                    padded);
          } else {
            gemm_rows<1>(rows, part, alpha, start, row, step, panel, stride, T(0), block, padded);
          }
          for (index_t r = 0; r < rows; ++r) {
            T* out = c + (i + r) * ldc + j;
            for (index_t q = 0; q < columns; ++q) {
              out[q] = block[r * padded + q] + (scale == T(0) ? T(0) : scale * out[q]);
            }
          }
        }
      }
      j += columns;
    }
  }
}

#if defined(__CUDACC__)
#pragma nv_diagnostic pop
#endif

}  // namespace detail

/// One product on one thread; A, B and C may be of different scalars, C in the compute type.
template <class TA, class TB, class TC>
void small_gemm(Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k,
                std::type_identity_t<compute_t<TC>> alpha, const TA* a, index_t lda, const TB* b,
                index_t ldb, std::type_identity_t<compute_t<TC>> beta, TC* c, index_t ldc) {
  const index_t row = transpose_a == Op::none ? lda : 1;
  const index_t step = transpose_a == Op::none ? 1 : lda;
  if constexpr (std::is_same_v<TA, TC> && std::is_same_v<TB, TC> && detail::has_vector_kernel<TC>) {
    detail::vector_gemm(transpose_b, m, n, k, alpha, a, row, step, b, ldb, beta, c, ldc);
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
        out = TC(primal(beta) == 0 ? sum : sum + beta * C(out));
      }
    }
  }
}

namespace detail {

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

template <class T>
void eigen_gemm(Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k, T alpha,
                const T* a, index_t lda, const T* b, index_t ldb, T beta, T* c, index_t ldc) {
  using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Map = Eigen::Map<const Matrix, 0, Eigen::OuterStride<>>;
  const bool ta = transpose_a == Op::transpose, tb = transpose_b == Op::transpose;
  const Map left(a, ta ? k : m, ta ? m : k, Eigen::OuterStride<>(lda));
  const Map right(b, tb ? n : k, tb ? k : n, Eigen::OuterStride<>(ldb));
  Eigen::Map<Matrix, 0, Eigen::OuterStride<>> out(c, m, n, Eigen::OuterStride<>(ldc));
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

}  // namespace detail

/// One product on `threads` threads. Deterministic for a given number of threads.
template <class TA, class TB, class TC>
void large_gemm(int threads, Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k,
                std::type_identity_t<compute_t<TC>> alpha, const TA* a, index_t lda, const TB* b,
                index_t ldb, std::type_identity_t<compute_t<TC>> beta, TC* c, index_t ldc) {
  if (m == 0 || n == 0) return;
  if constexpr (std::is_same_v<TA, TC> && std::is_same_v<TB, TC> && detail::has_vector_kernel<TC>) {
    if (k > 0) {
      const detail::ThreadScope scope(threads);
#if defined(SRF_HAS_ONEDNN)
      if constexpr (std::is_same_v<TC, float>) {
        const dnnl_status_t status =
            dnnl_sgemm(transpose_a == Op::none ? 'N' : 'T', transpose_b == Op::none ? 'N' : 'T', m,
                       n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        if (status == dnnl_success) return;
        throw backend_error("large_gemm: oneDNN refused a product of " + std::to_string(m) + " x " +
                            std::to_string(n) + " x " + std::to_string(k) + " with status " +
                            std::to_string(static_cast<int>(status)));
      }
#endif
      detail::eigen_gemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
      return;
    }
  }
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static)
#endif
  for (index_t i = 0; i < m; ++i) {
    small_gemm(transpose_a, transpose_b, 1, n, k, alpha,
               a + i * (transpose_a == Op::none ? lda : 1), lda, b, ldb, beta, c + i * ldc, ldc);
  }
}

}  // namespace srformer
