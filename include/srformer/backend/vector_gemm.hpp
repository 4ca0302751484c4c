// SPDX-License-Identifier: Apache-2.0
// Products on one core of matrices that are in its cache, float and double, in the registers of backend/vector.hpp:
//
//   C [m,n] = alpha op(A) [m,k] op(B) [k,n] + beta C
//
//   vector_gemm   columns of C in panels as wide as the registers allow; a transposed or narrow B is packed
//   gemm_across   up to eight rows of float by a transposed B, which is not packed: A is
//   Dots          one row by a transposed B
//
// Every element of C is one sum in the order of k: two of gemm_across (even and odd steps), as many as 64 bytes hold
// of Dots, whatever the width of the registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include <srformer/backend/few_rows.hpp>

namespace srformer {

/// Whether an operand is used as it lies or transposed.
enum class Op : bool { none = false, transpose = true };

namespace SRF_DETAIL {

#if defined(__CUDACC__)
#pragma nv_diagnostic push
#pragma nv_diag_suppress 1675  // `GCC unroll` is for the host compiler, which reads this text after nvcc
#endif

/// Sums of a tile: 24 of 32 registers accumulate, or 12 of 16.
inline constexpr int vectors_wide = vector_registers == 32 ? 4 : 2, rows_high = 6;

/// The same where C has one or two rows: as many registers accumulate, so that they need not wait for each other.
constexpr int vectors_of_rows(index_t m) {
  return vector_registers == 32 ? vectors_wide : m == 1 ? 8 : m == 2 ? 4 : vectors_wide;
}

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

/// gemm_rows of 1, 2 or 4 vectors; of one or two rows up to as many as vectors_of_rows says.
template <class T>
inline void gemm_panel(index_t vectors, index_t m, index_t k, T alpha, const T* a, index_t row,
                       index_t step, const T* b, index_t ldb, T beta, T* c, index_t ldc) {
  if (vectors == 8) {
    if constexpr (vectors_wide < 4) gemm_tile<1, 8>(k, alpha, a, row, step, b, ldb, beta, c, ldc);
  } else if (vectors == 4) {
    if constexpr (vectors_wide >= 4) {
      gemm_rows<4>(m, k, alpha, a, row, step, b, ldb, beta, c, ldc);
    } else {
      m == 1 ? gemm_tile<1, 4>(k, alpha, a, row, step, b, ldb, beta, c, ldc)
             : gemm_tile<2, 4>(k, alpha, a, row, step, b, ldb, beta, c, ldc);
    }
  } else if (vectors == 2) {
    gemm_rows<2>(m, k, alpha, a, row, step, b, ldb, beta, c, ldc);
  } else {
    gemm_rows<1>(m, k, alpha, a, row, step, b, ldb, beta, c, ldc);
  }
}

#if !defined(__CUDACC__)
/// Transposes eight rows of eight: pairs, then fours, then halves change places.
template <class V>
[[gnu::always_inline]] inline void transpose_rows(V (&x)[8]) {
  V y[8];
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
  for (int q = 0; q < 8; ++q) x[q] = y[q];
}
/// Four rows of four.
template <class V>
[[gnu::always_inline]] inline void transpose_rows(V (&x)[4]) {
  const V a = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5),
          b = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7),
          c = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5),
          d = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);
  x[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
  x[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
  x[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
  x[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

/// Rows of a block that is transposed in registers, and numbers of each.
template <class T>
inline constexpr int transposed_rows = (vector_bytes >= 32 ? 32 : 16) / static_cast<int>(sizeof(T));
template <class T>
struct TransposedRow {
  typedef T type __attribute__((vector_size(vector_bytes >= 32 ? 32 : 16)));
};

/// to[p * stride + q] = from[q * ld + p] for p, q < transposed_rows.
template <class T>
inline void transpose_block(const T* from, index_t ld, T* to, index_t stride) {
  using V = typename TransposedRow<T>::type;
  V x[transposed_rows<T>];
#pragma GCC unroll 8
  for (int q = 0; q < transposed_rows<T>; ++q) std::memcpy(&x[q], from + q * ld, sizeof(V));
  transpose_rows(x);
#pragma GCC unroll 8
  for (int p = 0; p < transposed_rows<T>; ++p) std::memcpy(to + p * stride, &x[p], sizeof(V));
}
#else
template <class T>
inline constexpr int transposed_rows = 0;
template <class T>
inline void transpose_block(const T*, index_t, T*, index_t) {}
#endif

/// to[p * stride + q] = from[q * ld + p] for p < rows, q < columns.
template <class T>
inline void pack_transposed(index_t rows, index_t columns, const T* from, index_t ld, T* to,
                            index_t stride) {
  index_t q = 0;
  if constexpr (constexpr int each = transposed_rows<T>; each >= 4) {
    const index_t whole = rows / each * each;
    for (; q + each <= columns; q += each) {
      for (index_t p = 0; p < whole; p += each) {
        transpose_block(from + q * ld + p, ld, to + p * stride + q, stride);
      }
      for (index_t p = whole; p < rows; ++p) {
        for (index_t e = q; e < q + each; ++e) to[p * stride + e] = from[e * ld + p];
      }
    }
  }
  for (; q < columns; ++q) {
    for (index_t p = 0; p < rows; ++p) to[p * stride + q] = from[q * ld + p];
  }
}

#if !defined(__CUDACC__)
/// Dots of `a` with rows of B, in as many parts as 64 bytes hold, whatever the width of the registers.
/// Sums of several rows share a register, so that adding up the parts of one adds up those of all.
template <class T>
struct Dots {
  using V = typename Vector<T>::type;
  static constexpr int lanes = Vector<T>::lanes, line = 64 / sizeof(T);
  static constexpr int quarter = 16 / sizeof(T);  // shuffles within 16 bytes are the cheap ones
  index_t k;
  const T* a;
  index_t ldb;

  /// Rows from those of x to those of y where parts are to be halved to W.
  static constexpr int rows_apart(int W) { return W >= quarter ? W : quarter / (2 * W); }
  /// Which lane of x (or of y, `lanes` further) is the first of the two parts that add up to `lane`.
  static constexpr int first_of(int W, int lane) {
    if (W >= quarter) return lane / (2 * W) * (2 * W) + lane % W + (lane % (2 * W) < W ? 0 : lanes);
    const int half = quarter / 2, at = lane % half;
    return lane / quarter * quarter + at / W * 2 * W + at % W + (lane % quarter < half ? 0 : lanes);
  }

  /// Groups of 2 W parts of x, then of y, become groups of W parts in x.
  template <int W, int... Lane>
  [[gnu::always_inline]] static void halve(V& x, const V& y, std::integer_sequence<int, Lane...>) {
    x = __builtin_shufflevector(x, y, first_of(W, Lane)...) +
        __builtin_shufflevector(x, y, (first_of(W, Lane) + W)...);
  }

  /// The lanes' parts of the dot with the row at b.
  [[gnu::always_inline]] V parts_of_row(const T* b) const {
    V parts[line_vectors] = {};
    index_t p = 0;
    for (; p + line <= k; p += line) add(a + p, b + p, parts);
    if (p < k) {
      T left[line] = {}, right[line] = {};
      std::memcpy(left, a + p, static_cast<std::size_t>(k - p) * sizeof(T));
      std::memcpy(right, b + p, static_cast<std::size_t>(k - p) * sizeof(T));
      add(left, right, parts);
    }
    add_parts(parts);
    return parts[0];
  }

  /// W parts of each of lanes / W rows, of which `row` is the first.
  template <int W, int row = 0>
  [[gnu::always_inline]] static V sums(const V (&rows)[lanes]) {
    if constexpr (W == lanes) {
      return rows[row];
    } else {
      V sum = sums<2 * W, row>(rows);
      halve<W>(sum, sums<2 * W, row + rows_apart(W)>(rows),
               std::make_integer_sequence<int, lanes>{});
      return sum;
    }
  }

  [[gnu::always_inline]] static void add(const T* x, const T* y, V (&parts)[line_vectors]) {
#pragma GCC unroll 4
    for (int e = 0; e < line_vectors; ++e) {
      V left, right;
      std::memcpy(&left, x + e * lanes, sizeof(V));
      std::memcpy(&right, y + e * lanes, sizeof(V));
      parts[e] += left * right;
    }
  }

  /// c[j] = alpha a b_j + beta c[j] for n rows b_j of B.
  void run(index_t n, const T* b, T alpha, T beta, T* c) const {
    index_t j = 0;
    for (; j + lanes <= n; j += lanes) {
      V rows[lanes];  // in the order in which they are stored, as memory gives most so
#pragma GCC unroll 16
      for (int r = 0; r < lanes; ++r) rows[r] = parts_of_row(b + (j + r) * ldb);
      V out = sums<1>(rows);
      out *= alpha;
      if (beta != T(0)) {
        V old;
        std::memcpy(&old, c + j, sizeof(V));
        out += beta * old;
      }
      std::memcpy(c + j, &out, sizeof(V));
    }
    for (; j < n; ++j) {
      V part = parts_of_row(b + j * ldb);
      const T sum = sum_of_lanes(part);
      c[j] = beta == T(0) ? alpha * sum : alpha * sum + beta * c[j];
    }
  }
};

inline constexpr index_t across_rows = 8;

/// Up to eight rows of A by a transposed B: of B eight rows at a time times columns of A, so that it is A that is
/// packed, and the tiles of C that are turned. Pairs of steps of k are side by side in the registers; the sum of the
/// even ones and that of the odd ones are added last.
class Across {
 public:
  static constexpr index_t depth = 128, wide = 8;

  /// Packs A [m,steps]: left[p * 8 + 2 i], left[p * 8 + 2 i + 1] = A[i][p], A[i][p+1] for even p; zero where there is none.
  Across(index_t m, index_t steps, const float* a, index_t row, index_t step) : steps_(steps) {
    if (m < across_rows || steps % 2 > 0) {
      std::fill_n(left_, (steps + 1) / 2 * 2 * across_rows, 0.0f);
    }
    if (step == 1) {
      for (index_t p = 0; p + 2 <= steps; p += 2) {
        for (index_t i = 0; i < m; ++i) {
          std::memcpy(left_ + p * across_rows + 2 * i, a + i * row + p, 2 * sizeof(float));
        }
      }
      for (index_t i = 0; steps % 2 > 0 && i < m; ++i) {
        left_[(steps - 1) * across_rows + 2 * i] = a[i * row + steps - 1];
      }
    } else {
      for (index_t p = 0; p < steps; ++p) {
        float* to = left_ + p / 2 * 2 * across_rows + p % 2;
        for (index_t i = 0; i < m; ++i) to[2 * i] = a[i * row + p * step];
      }
    }
  }

  /// tile[q * 8 + i] = alpha A_i b_q for the rows b_q of B, of which there are `columns`; the others are not written to
  /// any purpose.
  void multiply(index_t columns, float alpha, const float* b, index_t ldb, float* tile) const {
    for (index_t group = 0; group < columns; group += at_once) {
      const float* right[at_once];
      for (index_t q = 0; q < at_once; ++q) {
        right[q] = b + std::min(group + q, columns - 1) * ldb;
      }
      V sum[at_once * line_vectors] = {};
      const index_t even = steps_ / 2 * 2;
      for (index_t p = 0; p < even; p += 2) add(p, right, sum);
      if (even < steps_) add_last(even, right, sum);
#pragma GCC unroll 8
      for (int e = 0; e < at_once * line_vectors; e += 2) {
        const V both = alpha * even_and_odd(sum[e], sum[e + 1], Lanes{});
        std::memcpy(tile + group * across_rows + e / 2 * lanes, &both, sizeof(V));
      }
    }
  }

 private:
  using V = Vector<float>::type;
  static constexpr int lanes = Vector<float>::lanes;
  using Lanes = std::make_integer_sequence<int, lanes>;
  static constexpr int at_once = 8 / line_vectors;  // columns, so that sums fill eight registers

  [[gnu::always_inline]] void load(index_t p, V (&x)[line_vectors]) const {
    std::memcpy(x, left_ + p * across_rows, sizeof(x));
  }
  [[gnu::always_inline]] void add(index_t p, const float* const (&right)[at_once],
                                  V (&sum)[at_once * line_vectors]) const {
    typedef std::int64_t Pairs
        __attribute__((vector_size(vector_bytes)));  // of two floats as they are
    V x[line_vectors];
    load(p, x);
#pragma GCC unroll 8
    for (int q = 0; q < at_once; ++q) {
      std::int64_t pair;
      std::memcpy(&pair, right[q] + p, sizeof(pair));
      const Pairs pairs = pair + Pairs{};
      V both;
      std::memcpy(&both, &pairs, sizeof(V));
#pragma GCC unroll 4
      for (int e = 0; e < line_vectors; ++e) sum[q * line_vectors + e] += x[e] * both;
    }
  }
  void add_last(index_t p, const float* const (&right)[at_once],
                V (&sum)[at_once * line_vectors]) const {
    V x[line_vectors];
    load(p, x);
    for (int q = 0; q < at_once; ++q) {
      for (int e = 0; e < line_vectors; ++e) sum[q * line_vectors + e] += x[e] * right[q][p];
    }
  }
  template <int... Lane>
  [[gnu::always_inline]] static V even_and_odd(const V& x, const V& y,
                                               std::integer_sequence<int, Lane...>) {
    return __builtin_shufflevector(x, y, (2 * Lane)...) +
           __builtin_shufflevector(x, y, (2 * Lane + 1)...);
  }

  index_t steps_;
  alignas(64) float left_[depth * across_rows];
};

/// to[0..columns) = row[0..columns) + beta to, where `columns` is at most 8.
inline void store_row(index_t columns, const float* row, float beta, float* to) {
  if (columns == Across::wide) {
#pragma GCC unroll 2
    for (index_t q = 0; q < Across::wide; q += transposed_rows<float>) {
      TransposedRow<float>::type now, old;
      std::memcpy(&now, row + q, sizeof(now));
      if (beta != 0) std::memcpy(&old, to + q, sizeof(old)), now += beta * old;
      std::memcpy(to + q, &now, sizeof(now));
    }
    return;
  }
  for (index_t q = 0; q < columns; ++q) to[q] = beta == 0 ? row[q] : row[q] + beta * to[q];
}

inline void gemm_across(index_t m, index_t n, index_t k, float alpha, const float* a, index_t row,
                        index_t step, const float* b, index_t ldb, float beta, float* c,
                        index_t ldc) {
  constexpr index_t wide = Across::wide;
  alignas(64) float tile[wide * across_rows], turned[across_rows * wide];
  for (index_t first = 0; first < k; first += Across::depth) {
    const Across left(m, std::min(Across::depth, k - first), a + first * step, row, step);
    const float scale = first == 0 ? beta : 1.0f;
    for (index_t j = 0; j < n; j += wide) {
      const index_t columns = std::min(wide, n - j);
      left.multiply(columns, alpha, b + j * ldb + first, ldb, tile);
      pack_transposed(across_rows, wide, tile, across_rows, turned, wide);
      for (index_t i = 0; i < m; ++i) {
        store_row(columns, turned + i * wide, scale, c + i * ldc + j);
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
      index_t vectors = transpose_b == Op::none ? vectors_of_rows(m) : vectors_wide;
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

}  // namespace SRF_DETAIL

}  // namespace srformer
