// SPDX-License-Identifier: Apache-2.0
// Weights stored in eight bits, and products of rows by them:
//
//   w_jp ~ s_j q_jp,   s_j = max_p |w_jp| / 127,   q_jp = round(w_jp / s_j)      once, when they are stored
//   x_ip ~ t_i u_ip,   t_i = max_p |x_ip| / 127,   u_ip = round(x_ip / t_i)      at every product
//   y_ij = alpha t_i s_j sum_p u_ip q_jp + beta y_ij
//
// The sums are of integers and exact, so that y does not depend on the processor but for the rounding of
// the three products at the end. |w - s q| <= s / 2, and of x alike.
//
// u is stored as u + 128, which is not negative, as processors multiply such numbers; 128 sum_p q_jp is
// taken off in the end. A row of x that is not finite makes its row of y NaN.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include <srformer/backend/few_rows.hpp>
#include <srformer/core/error.hpp>

namespace srformer {

/// The most columns of which no sum passes 32 bits.
inline constexpr index_t quantized_columns = 65536;

/// A matrix [rows,columns] in eight bits; null where there is none.
struct QuantizedView {
  const std::int8_t* values = nullptr;   ///< q, rows one after another
  const float* scales = nullptr;         ///< s, of every row
  const std::int32_t* totals = nullptr;  ///< sum_p q_jp of every row
  index_t rows = 0, columns = 0;

  explicit operator bool() const { return values != nullptr; }
  float at(index_t row, index_t column) const {
    return scales[row] * static_cast<float>(values[row * columns + column]);
  }
};

namespace SRF_DETAIL {

/// 1 / scale and scale of a row x [n]: 0 and 0 for zeros, 0 and NaN where x is not finite.
inline std::pair<float, float> quantization_scale(index_t n, const float* x) {
  std::uint32_t largest = 0;  // magnitudes have the order of their bits, NaN above infinity
  SRF_INDEPENDENT
  for (index_t p = 0; p < n; ++p) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(x[p]) & 0x7FFFFFFFu;
    largest = magnitude > largest ? magnitude : largest;
  }
  if (largest >= 0x7F800000u) return {0.0f, std::numeric_limits<float>::quiet_NaN()};
  const float scale = std::bit_cast<float>(largest) / 127.0f;
  // Where the reciprocal is infinite numbers are below 2^-126 and count as zero.
  const float inverse = scale >= 0x1.0p-126f ? 1.0f / scale : 0.0f;
  return {inverse, inverse == 0 ? 0.0f : scale};
}

/// The nearest integer, ties to even, in [-127,127] as x is within scale.
inline std::int32_t quantize(float x, float inverse) {
  const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float q = (x * inverse + shift) - shift;
  return static_cast<std::int32_t>(q);
}

/// u + 128 and t of the rows of x.
inline void quantize_rows(index_t rows, index_t columns, const float* x, index_t stride,
                          std::uint8_t* values, float* scales) {
  for (index_t r = 0; r < rows; ++r) {
    const float* from = x + r * stride;
    const auto [inverse, scale] = quantization_scale(columns, from);
    std::uint8_t* to = values + r * columns;
    scales[r] = scale;
    if (inverse == 0) {
      std::fill_n(to, columns, std::uint8_t{128});
      continue;
    }
    const float factor = inverse;
    SRF_INDEPENDENT
    for (index_t p = 0; p < columns; ++p)
      to[p] = static_cast<std::uint8_t>(quantize(from[p], factor) + 128);
  }
}

// IntegerSum: a sum of products of integers, split over the lanes of a register. `step` numbers are added at a time;
// load_left and load_right take `count` of them, and zeros in place of the others; `high` rows of four sums are in
// the registers at once.
#if !defined(__CUDACC__) && defined(__AVX512VNNI__) && defined(__AVX512BW__)
struct IntegerSum {
  static constexpr index_t step = 64;
  static constexpr int high = 4;
  __m512i lanes = _mm512_setzero_si512();

  static __m512i load_left(const void* x, index_t count) {
    const __mmask64 there = count >= step ? ~__mmask64{0} : (__mmask64{1} << count) - 1;
    return _mm512_maskz_loadu_epi8(there, x);
  }
  static __m512i load_right(const void* w, index_t count) { return load_left(w, count); }
  void add(const __m512i& x, const __m512i& w) { lanes = _mm512_dpbusd_epi32(lanes, x, w); }

  std::int32_t total() const { return _mm512_reduce_add_epi32(lanes); }
  /// The lanes of four sums side by side, then halves added while there are two.
  static void totals(const IntegerSum (&x)[4], std::int32_t* to) {
    const __m512i even = _mm512_add_epi32(_mm512_unpacklo_epi32(x[0].lanes, x[1].lanes),
                                          _mm512_unpackhi_epi32(x[0].lanes, x[1].lanes));
    const __m512i odd = _mm512_add_epi32(_mm512_unpacklo_epi32(x[2].lanes, x[3].lanes),
                                         _mm512_unpackhi_epi32(x[2].lanes, x[3].lanes));
    const __m512i four =
        _mm512_add_epi32(_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd));
    const __m256i two =
        _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64(four, 1));
    const __m128i one =
        _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), one);
  }
};
#elif !defined(__CUDACC__) && defined(__SSE2__)
/// Numbers widened to 16 bits, whose products in pairs are exact in 32.
struct IntegerSum {
  static constexpr index_t step = 16;
  static constexpr int high = 2;

  template <class T>
  static __m128i load(const T* x, index_t count) {
    if (count >= step) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
    T padded[step] = {};
    std::copy_n(x, count, padded);
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(padded));
  }
#if defined(__AVX2__)
  __m256i lanes = _mm256_setzero_si256();
  static __m256i load_left(const std::uint8_t* x, index_t count) {
    return _mm256_cvtepu8_epi16(load(x, count));
  }
  static __m256i load_right(const std::int8_t* w, index_t count) {
    return _mm256_cvtepi8_epi16(load(w, count));
  }
  void add(const __m256i& x, const __m256i& w) {
    lanes = _mm256_add_epi32(lanes, _mm256_madd_epi16(x, w));
  }
  __m128i quarter() const {
    return _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  }
#else
  struct Pair {
    __m128i low, high;
  };
  __m128i lanes = _mm_setzero_si128();
  static Pair load_left(const std::uint8_t* x, index_t count) {
    const __m128i bytes = load(x, count), zero = _mm_setzero_si128();
    return {_mm_unpacklo_epi8(bytes, zero), _mm_unpackhi_epi8(bytes, zero)};
  }
  static Pair load_right(const std::int8_t* w, index_t count) {
    const __m128i bytes = load(w, count);
    return {_mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8),
            _mm_srai_epi16(_mm_unpackhi_epi8(bytes, bytes), 8)};
  }
  void add(const Pair& x, const Pair& w) {
    lanes = _mm_add_epi32(lanes, _mm_madd_epi16(x.low, w.low));
    lanes = _mm_add_epi32(lanes, _mm_madd_epi16(x.high, w.high));
  }
  __m128i quarter() const { return lanes; }
#endif

  std::int32_t total() const {
    __m128i x = quarter();
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xB1)));
  }
  static void totals(const IntegerSum (&x)[4], std::int32_t* to) {
    const __m128i a = x[0].quarter(), b = x[1].quarter(), c = x[2].quarter(), d = x[3].quarter();
    const __m128i even = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
    const __m128i odd = _mm_add_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
    const __m128i all = _mm_add_epi32(_mm_unpacklo_epi64(even, odd), _mm_unpackhi_epi64(even, odd));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), all);
  }
};
#else
struct IntegerSum {
  static constexpr index_t step = 1;
  static constexpr int high = 4;
  std::int32_t lanes = 0;
  static std::int32_t load_left(const std::uint8_t* x, index_t) { return *x; }
  static std::int32_t load_right(const std::int8_t* w, index_t) { return *w; }
  void add(std::int32_t x, std::int32_t w) { lanes += x * w; }
  std::int32_t total() const { return lanes; }
  static void totals(const IntegerSum (&x)[4], std::int32_t* to) {
    for (int j = 0; j < 4; ++j) to[j] = x[j].lanes;
  }
};
#endif

inline constexpr int quantized_high = IntegerSum::high, quantized_wide = 4;

/// sums[i][j] = row i of x times row j of w, both of k integers.
template <int Rows, int Columns>
[[gnu::always_inline]] inline void integer_tile(
    index_t k, const std::uint8_t* x, const std::int8_t* w, [[maybe_unused]] Fetch fetch,
    std::int32_t (&sums)[quantized_high][quantized_wide]) {
  constexpr index_t step = IntegerSum::step;
  IntegerSum sum[Rows][Columns];
  const auto add = [&](index_t p, index_t count) __attribute__((always_inline)) {
    decltype(IntegerSum::load_left(x, count)) left[Rows];
#pragma GCC unroll 4
    for (int i = 0; i < Rows; ++i) left[i] = IntegerSum::load_left(x + i * k + p, count);
#pragma GCC unroll 4
    for (int j = 0; j < Columns; ++j) {
      const auto right = IntegerSum::load_right(w + j * k + p, count);
#pragma GCC unroll 4
      for (int i = 0; i < Rows; ++i) sum[i][j].add(left[i], right);
    }
  };
  const index_t whole = k - k % step;
  for (index_t p = 0; p < whole; p += step) {
    if (p % 64 == 0) fetch.step();
    add(p, step);
  }
  if (whole < k) add(whole, k - whole);
#pragma GCC unroll 4
  for (int i = 0; i < Rows; ++i) {
    if constexpr (Columns == 1) {
      sums[i][0] = sum[i][0].total();
    } else {
      IntegerSum::totals(sum[i], sums[i]);
    }
  }
}

/// Rows that were quantized, and where their products go.
struct QuantizedRows {
  index_t rows;
  const std::uint8_t* values;
  const float* scales;
  float alpha, beta;
  float* y;
  index_t ldy;
};

/// Rows of x times rows [j, j + Columns) of w.
template <int Columns>
inline void quantized_columns(const QuantizedRows& x, const QuantizedView& w, index_t j) {
  std::int32_t sums[quantized_high][quantized_wide];
  const index_t k = w.columns, tiles = (x.rows + quantized_high - 1) / quantized_high;
  const std::int8_t* right = w.values + j * k;
  for (index_t tile = 0, i = 0; tile < tiles; ++tile) {
    const index_t rows = (x.rows - i) / (tiles - tile);
    const std::uint8_t* left = x.values + i * k;
    const auto fetch = Fetch::share(right + 2 * Columns * k, tile, tiles, k / 64, Columns);
    if (rows == 1) {
      integer_tile<1, Columns>(k, left, right, fetch, sums);
    } else if (rows == 2) {
      integer_tile<2, Columns>(k, left, right, fetch, sums);
    } else {
      if constexpr (quantized_high == 4) {
        rows == 3 ? integer_tile<3, Columns>(k, left, right, fetch, sums)
                  : integer_tile<4, Columns>(k, left, right, fetch, sums);
      }
    }
    for (index_t r = 0; r < rows; ++r) {
      float* to = x.y + (i + r) * x.ldy + j;
      const float scale = x.alpha * x.scales[i + r];
      for (int c = 0; c < Columns; ++c) {
        const auto sum = static_cast<float>(sums[r][c] - 128 * w.totals[j + c]);
        const float product = scale * w.scales[j + c] * sum;
        to[c] = x.beta == 0 ? product : product + x.beta * to[c];
      }
    }
    i += rows;
  }
}

/// Rows of x times rows [first, last) of w, on one thread.
[[gnu::noinline]] inline void quantized_block(const QuantizedRows& x, const QuantizedView& w,
                                              index_t first, index_t last) {
  index_t j = first;
  for (; j + quantized_wide <= last; j += quantized_wide)
    quantized_columns<quantized_wide>(x, w, j);
  for (; j < last; ++j) quantized_columns<1>(x, w, j);
}

}  // namespace SRF_DETAIL

inline namespace SRF_TARGET {

/// Stores a matrix [rows,columns] in eight bits; `name` is for messages.
///   values [rows,columns], scales [rows], totals [rows] are written
/// Throws for numbers that are not finite and for more than quantized_columns columns.
inline QuantizedView quantize_matrix(const std::string& name, index_t rows, index_t columns,
                                     const float* from, std::int8_t* values, float* scales,
                                     std::int32_t* totals) {
  require(columns <= quantized_columns, "quantize_matrix",
          name + ": " + std::to_string(columns) + " columns are more than the " +
              std::to_string(quantized_columns) + " whose sums fit into 32 bits");
  for (index_t r = 0; r < rows; ++r) {
    const float* x = from + r * columns;
    const auto [inverse, scale] = detail::quantization_scale(columns, x);
    require(scale == scale, "quantize_matrix",
            name + ": row " + std::to_string(r) + " holds a number that is not finite");
    const float factor = inverse;
    std::int8_t* q = values + r * columns;
    std::int32_t total = 0;
    for (index_t p = 0; p < columns; ++p) {
      const std::int32_t rounded = detail::quantize(x[p], factor);
      q[p] = static_cast<std::int8_t>(rounded);
      total += rounded;
    }
    scales[r] = scale;
    totals[r] = total;
  }
  return {values, scales, totals, rows, columns};
}

/// y = alpha x w^T + beta y.
///   x [m,k] with rows ldx apart, w [n,k], y [m,n] with rows ldy apart; y is not read where beta is 0
///   values [m,k], row_scales [m]  scratch: x in eight bits
/// The same on any number of threads, and for every row whatever the others are. Cost 2 m n k operations
/// on integers.
inline void quantized_gemm([[maybe_unused]] int threads, index_t m, float alpha, const float* x,
                           index_t ldx, const QuantizedView& w, float beta, float* y, index_t ldy,
                           std::uint8_t* values, float* row_scales) {
  const index_t n = w.rows, k = w.columns;
  if (m == 0 || n == 0) return;
  const auto rows_from = [=](index_t i, index_t count) {
    return detail::QuantizedRows{count, values + i * k, row_scales + i, alpha, beta, y + i * ldy,
                                 ldy};
  };
#if defined(_OPENMP)
  // Few rows are in the nearest cache whole; of many a block, and a block of w.
  constexpr index_t together = 64;
  const index_t high = m <= together ? m : 128;
  const index_t wide = m <= together
                           ? std::max<index_t>(16, n / (threads * 8) / detail::quantized_wide *
                                                       detail::quantized_wide)
                           : 128;
  const index_t down = (m + high - 1) / high, across = (n + wide - 1) / wide;
  if (threads > 1 && down * across > 1 && m * n * k >= index_t{1} << 17) {
    const auto quantize_part = [=](index_t i) {
      const index_t count = std::min(high, m - i);
      detail::quantize_rows(count, k, x + i * ldx, ldx, values + i * k, row_scales + i);
    };
    if (down == 1) quantize_part(0);
#pragma omp parallel num_threads(threads)
    {
      if (down > 1) {
#pragma omp for schedule(dynamic)
        for (index_t part = 0; part < down; ++part) quantize_part(part * high);
      }
#pragma omp for schedule(dynamic)
      for (index_t block = 0; block < down * across; ++block) {
        const index_t i = block / across * high, j = block % across * wide;
        detail::quantized_block(rows_from(i, std::min(high, m - i)), w, j, std::min(n, j + wide));
      }
    }
    return;
  }
#endif
  detail::quantize_rows(m, k, x, ldx, values, row_scales);
  for (index_t i = 0; i < m; i += 128)
    detail::quantized_block(rows_from(i, std::min<index_t>(128, m - i)), w, 0, n);
}

}  // namespace SRF_TARGET

}  // namespace srformer
