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

#include <srformer/backend/few_rows.hpp>
#include <srformer/backend/onednn.hpp>
#include <srformer/core/error.hpp>
#include <srformer/core/scalar.hpp>

#if defined(_OPENMP)
#include <omp.h>
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
inline constexpr int vectors_wide = 4, rows_high = 6;  // 24 of 32 registers accumulate
#else
inline constexpr int vectors_wide = 2, rows_high = 6;  // 12 of 16
#endif

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
  constexpr int high = Wide == 1 ? rows_high + 2 : rows_high;
  index_t i = 0;
  for (; i + high <= m; i += high) {
    gemm_tile<high, Wide>(k, alpha, a + i * row, row, step, b, ldb, beta, c + i * ldc, ldc);
  }
  const T* rest = a + i * row;
  T* out = c + i * ldc;
  switch (m - i) {
    case 7:
      gemm_tile<high - 1, Wide>(k, alpha, rest, row, step, b, ldb, beta, out, ldc);
      break;
    case 6:
      gemm_tile<high - 2, Wide>(k, alpha, rest, row, step, b, ldb, beta, out, ldc);
      break;
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

/// gemm_rows of 1, 2 or 4 vectors.
template <class T>
inline void gemm_panel(index_t vectors, index_t m, index_t k, T alpha, const T* a, index_t row,
                       index_t step, const T* b, index_t ldb, T beta, T* c, index_t ldc) {
  if (vectors == 4) {
    if constexpr (vectors_wide >= 4) gemm_rows<4>(m, k, alpha, a, row, step, b, ldb, beta, c, ldc);
  } else if (vectors == 2) {
    gemm_rows<2>(m, k, alpha, a, row, step, b, ldb, beta, c, ldc);
  } else {
    gemm_rows<1>(m, k, alpha, a, row, step, b, ldb, beta, c, ldc);
  }
}

#if (defined(__GNUC__) || defined(__clang__)) && !defined(__CUDACC__)
/// to[p * stride + q] = from[q * ld + p] for p, q < 8: pairs, then fours, then halves change places.
inline void transpose_block(const float* from, index_t ld, float* to, index_t stride) {
  typedef float V __attribute__((vector_size(32)));
  V x[8], y[8];
#pragma GCC unroll 8
  for (int q = 0; q < 8; ++q) std::memcpy(&x[q], from + q * ld, sizeof(V));
#pragma GCC unroll 4
  for (int q = 0; q < 8; q += 2) {
    y[q] = __builtin_shufflevector(x[q], x[q + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    y[q + 1] = __builtin_shufflevector(x[q], x[q + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
#pragma GCC unroll 2
  for (int q = 0; q < 8; q += 4) {
    x[q] = __builtin_shufflevector(y[q], y[q + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    x[q + 1] = __builtin_shufflevector(y[q], y[q + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    x[q + 2] = __builtin_shufflevector(y[q + 1], y[q + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    x[q + 3] = __builtin_shufflevector(y[q + 1], y[q + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    y[q] = __builtin_shufflevector(x[q], x[q + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    y[q + 4] = __builtin_shufflevector(x[q], x[q + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
#pragma GCC unroll 8
  for (int p = 0; p < 8; ++p) std::memcpy(to + p * stride, &y[p], sizeof(V));
}
inline constexpr bool has_transpose_block = vector_bytes >= 32;
#else
inline void transpose_block(const float*, index_t, float*, index_t) {}
inline constexpr bool has_transpose_block = false;
#endif

/// to[p * stride + q] = from[q * ld + p] for p < rows, q < columns.
template <class T>
inline void pack_transposed(index_t rows, index_t columns, const T* from, index_t ld, T* to,
                            index_t stride) {
  index_t q = 0;
  if constexpr (has_transpose_block && std::is_same_v<T, float>) {
    const index_t whole = rows / 8 * 8;
    for (; q + 8 <= columns; q += 8) {
      for (index_t p = 0; p < whole; p += 8) {
        transpose_block(from + q * ld + p, ld, to + p * stride + q, stride);
      }
      for (index_t p = whole; p < rows; ++p) {
        for (index_t e = q; e < q + 8; ++e) to[p * stride + e] = from[e * ld + p];
      }
    }
  }
  for (; q < columns; ++q) {
    for (index_t p = 0; p < rows; ++p) to[p * stride + q] = from[q * ld + p];
  }
}

#if (defined(__GNUC__) || defined(__clang__)) && !defined(__CUDACC__)
/// Dots of `a` with rows of B, in as many parts as 64 bytes hold, whatever the width of the vectors.
/// Sums of several rows share a vector, so that adding up the parts of one adds up those of all.
template <class T>
struct Dots {
  typedef T V __attribute__((vector_size(64)));
  static constexpr int lanes = 64 / sizeof(T);
  index_t k;
  const T* a;
  index_t ldb;

  /// Groups of 2 W parts of x, then of y, become groups of W parts in x.
  template <int W, int... Lane>
  static void halve(V& x, const V& y, std::integer_sequence<int, Lane...>) {
    x = __builtin_shufflevector(x, y, (Lane / W * 2 * W + Lane % W)...) +
        __builtin_shufflevector(x, y, (Lane / W * 2 * W + W + Lane % W)...);
  }

  /// W parts of each of lanes / W rows from b on.
  template <int W>
  void sums(const T* b, V& sum) const {
    if constexpr (W < lanes) {
      V more;
      sums<2 * W>(b, sum);
      sums<2 * W>(b + lanes / (2 * W) * ldb, more);
      halve<W>(sum, more, std::make_integer_sequence<int, lanes>{});
    } else {
      sum = V{};
      index_t p = 0;
      for (; p + lanes <= k; p += lanes) {
        V left, right;
        std::memcpy(&left, a + p, sizeof(V));
        std::memcpy(&right, b + p, sizeof(V));
        sum += left * right;
      }
      if (p < k) {
        V left = {}, right = {};
        std::memcpy(&left, a + p, static_cast<std::size_t>(k - p) * sizeof(T));
        std::memcpy(&right, b + p, static_cast<std::size_t>(k - p) * sizeof(T));
        sum += left * right;
      }
    }
  }

  /// c[j] = alpha a b_j + beta c[j] for n rows b_j of B.
  void run(index_t n, const T* b, T alpha, T beta, T* c) const {
    index_t j = 0;
    for (; j + lanes <= n; j += lanes) {
      V out;
      sums<1>(b + j * ldb, out);
      out *= alpha;
      if (beta != T(0)) {
        V old;
        std::memcpy(&old, c + j, sizeof(V));
        out += beta * old;
      }
      std::memcpy(c + j, &out, sizeof(V));
    }
    for (; j < n; ++j) {
      V part;
      sums<lanes>(b + j * ldb, part);
      const T sum = sum_of_lanes(part);
      c[j] = beta == T(0) ? alpha * sum : alpha * sum + beta * c[j];
    }
  }
};

inline constexpr index_t across_rows = 8;
typedef float SixteenFloats __attribute__((vector_size(64)));

/// to[p * 8 + 2 i], to[p * 8 + 2 i + 1] = A[i][p], A[i][p+1] for even p < steps and i < m <= 8; zero where there is none.
inline void pack_pairs(index_t steps, index_t m, const float* a, index_t row, index_t step,
                       float* to) {
  const index_t pairs = (steps + 1) / 2;
  if (m < across_rows || steps % 2 > 0) std::fill_n(to, 2 * pairs * across_rows, 0.0f);
  if (step == 1) {
    pack_transposed(steps, m, a, row, to, across_rows);
  } else {
    for (index_t p = 0; p < steps; ++p) {
      for (index_t i = 0; i < m; ++i) to[p * across_rows + i] = a[i * row + p * step];
    }
  }
  for (index_t pair = 0; pair < pairs; ++pair) {
    SixteenFloats x;
    std::memcpy(&x, to + pair * 16, sizeof(x));
    x = __builtin_shufflevector(x, x, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    std::memcpy(to + pair * 16, &x, sizeof(x));
  }
}

/// Up to eight rows of A by a transposed B: of B eight rows at a time times columns of A, so that it is A that is
/// packed, and the tiles of C that are turned. Two steps of k side by side fill a vector; the sum of the even ones
/// and that of the odd ones are added last.
inline void gemm_across(index_t m, index_t n, index_t k, float alpha, const float* a, index_t row,
                        index_t step, const float* b, index_t ldb, float beta, float* c,
                        index_t ldc) {
  using V = SixteenFloats;
  typedef std::int64_t Pairs __attribute__((vector_size(64)));  // of two floats as they lie
  typedef float Row __attribute__((vector_size(32)));
  constexpr index_t depth = 128, wide = 8;
  constexpr index_t at_once = vector_bytes >= 64 ? 8 : 4;  // sums that the registers hold
  alignas(64) float left[depth * across_rows], tile[wide * across_rows], turned[across_rows * wide];
  for (index_t first = 0; first < k; first += depth) {
    const index_t part = std::min(depth, k - first), even = part / 2 * 2;
    const float scale = first == 0 ? beta : 1.0f;
    pack_pairs(part, m, a + first * step, row, step, left);
    for (index_t j = 0; j < n; j += wide) {
      const index_t columns = std::min(wide, n - j);
      for (index_t group = 0; group < columns; group += at_once) {
        const float* right[at_once];
        for (index_t q = 0; q < at_once; ++q) {
          right[q] = b + std::min(j + group + q, n - 1) * ldb + first;
        }
        V sum[at_once] = {};
        for (index_t p = 0; p < even; p += 2) {
          V x, both;
          std::memcpy(&x, left + p * across_rows, sizeof(V));
#pragma GCC unroll 8
          for (index_t q = 0; q < at_once; ++q) {
            std::int64_t pair;
            std::memcpy(&pair, right[q] + p, sizeof(pair));
            const Pairs pairs = pair + Pairs{};
            std::memcpy(&both, &pairs, sizeof(V));
            sum[q] += x * both;
          }
        }
        if (even < part) {
          V x;
          std::memcpy(&x, left + even * across_rows, sizeof(V));
          for (index_t q = 0; q < at_once; ++q) sum[q] += x * right[q][even];
        }
#pragma GCC unroll 8
        for (index_t q = 0; q < at_once; q += 2) {
          const V x = sum[q], y = sum[q + 1];
          const V both = alpha * (__builtin_shufflevector(x, y, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18,
                                                          20, 22, 24, 26, 28, 30) +
                                  __builtin_shufflevector(x, y, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19,
                                                          21, 23, 25, 27, 29, 31));
          std::memcpy(tile + (group + q) * across_rows, &both, sizeof(V));
        }
      }
      pack_transposed(across_rows, wide, tile, across_rows, turned, wide);
      for (index_t i = 0; i < m; ++i) {
        float *out = c + i * ldc + j, *result = turned + i * wide;
        if (columns == wide) {
          Row now, old;
          std::memcpy(&now, result, sizeof(Row));
          if (scale != 0) std::memcpy(&old, out, sizeof(Row)), now += scale * old;
          std::memcpy(out, &now, sizeof(Row));
          continue;
        }
        for (index_t q = 0; q < columns; ++q) {
          out[q] = scale == 0 ? result[q] : result[q] + scale * out[q];
        }
      }
    }
  }
}
#else
inline constexpr index_t across_rows = 0;
inline void gemm_across(index_t, index_t, index_t, float, const float*, index_t, index_t,
                        const float*, index_t, float, float*, index_t) {}
template <class T>
struct Dots {
  index_t k;
  const T* a;
  index_t ldb;
  void run(index_t n, const T* b, T alpha, T beta, T* c) const {
    for (index_t j = 0; j < n; ++j) {
      T sum(0);
      for (index_t p = 0; p < k; ++p) sum += a[p] * b[j * ldb + p];
      c[j] = beta == T(0) ? alpha * sum : alpha * sum + beta * c[j];
    }
  }
};
#endif

/// The columns of C in panels as wide as the registers allow; a transposed or narrow B is packed, but
/// for a single row, which is dots. Kept out of its callers, of which there are many: one copy of the
/// kernels per type.
template <class T>
[[gnu::noinline]] void vector_gemm(Op transpose_b, index_t m, index_t n, index_t k, T alpha,
                                   const T* a, index_t row, index_t step, const T* b, index_t ldb,
                                   T beta, T* c, index_t ldc) {
  constexpr index_t lanes = Vector<T>::lanes, wide = lanes * vectors_wide, depth = 128;
  if (transpose_b == Op::transpose && m == 1 && step == 1) {
    return Dots<T>{k, a, ldb}.run(n, b, alpha, beta, c);
  }
  if constexpr (std::is_same_v<T, float>) {
    if (transpose_b == Op::transpose && m <= across_rows && k > 0) {
      return gemm_across(m, n, k, alpha, a, row, step, b, ldb, beta, c, ldc);
    }
  }
  alignas(64) T packed[depth * wide];
  for (index_t first = 0; first < k || first == 0; first += depth) {
    const index_t part = std::min(depth, k - first);
    const T* left = a + first * step;
    const T scale = first == 0 ? beta : T(1);
    for (index_t j = 0; j < n;) {
      index_t vectors = vectors_wide;
      while (vectors > 1 && vectors * lanes > n - j) vectors /= 2;
      const index_t width = vectors * lanes, columns = std::min(width, n - j);
      const T* panel = packed;
      index_t stride = width;
      if (transpose_b == Op::transpose) {
        pack_transposed(part, columns, b + j * ldb + first, ldb, packed, width);
      } else if (columns < width) {
        for (index_t p = 0; p < part; ++p) {
          std::copy_n(b + (first + p) * ldb + j, columns, packed + p * width);
        }
      } else {
        panel = b + first * ldb + j, stride = ldb;
      }
      if (columns == width) {
        gemm_panel(vectors, m, part, alpha, left, row, step, panel, stride, scale, c + j, ldc);
      } else {  // fewer columns than a vector has: through a block that is wide enough
        for (index_t p = 0; p < part; ++p) {
          std::fill(packed + p * width + columns, packed + (p + 1) * width, T(0));
        }
        alignas(64) T block[2 * rows_high * lanes];
        for (index_t i = 0; i < m; i += 2 * rows_high) {
          const index_t rows = std::min<index_t>(2 * rows_high, m - i);
          gemm_rows<1>(rows, part, alpha, left + i * row, row, step, panel, stride, T(0), block,
                       width);
          for (index_t r = 0; r < rows; ++r) {
            T* out = c + (i + r) * ldc + j;
            for (index_t q = 0; q < columns; ++q) {
              out[q] = block[r * width + q] + (scale == T(0) ? T(0) : scale * out[q]);
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

namespace detail {

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

}  // namespace detail

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

template <class TA, class TB, class TC>
void large_gemm(int threads, Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k,
                std::type_identity_t<compute_t<TC>> alpha, const TA* a, index_t lda, const TB* b,
                index_t ldb, std::type_identity_t<compute_t<TC>> beta, TC* c, index_t ldc);

#if defined(SRF_HAS_ONEDNN)
namespace detail {

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

}  // namespace detail
#endif

/// One product on `threads` threads. Deterministic for a given number of threads.
template <class TA, class TB, class TC>
void large_gemm(int threads, Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k,
                std::type_identity_t<compute_t<TC>> alpha, const TA* a, index_t lda, const TB* b,
                index_t ldb, std::type_identity_t<compute_t<TC>> beta, TC* c, index_t ldc) {
  if (m == 0 || n == 0) return;
  if constexpr (detail::has_dots<TA, TB, TC>) {
    if (transpose_a == Op::none && transpose_b == Op::transpose && m <= detail::few_rows) {
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

}  // namespace srformer
