// SPDX-License-Identifier: Apache-2.0
// The vector registers of the processor that a file is compiled for, as its compiler is told (-march):
//
//   vector_bytes   how long a register is: 64 with AVX-512, 32 with AVX, else 16
//   Vector<T>      one register of float or double
//   line_vectors   registers that 64 bytes fill
//
// Kernels are written for registers of any of these widths, 64 bytes in one, two or four of them. A type of 64 bytes
// where registers are shorter would compile as well: g++ takes it apart into single elements in memory, some
// hundred times slower. Sums are split into as many parts as 64 bytes hold, whatever the width, so that a result
// depends on the processor only where it has no fused multiply-add.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include <srformer/core/scalar.hpp>

#if !defined(__CUDACC__) && defined(__SSE2__)
#include <immintrin.h>
#endif

namespace srformer::SRF_DETAIL {

#if defined(__CUDACC__)
#pragma nv_diagnostic push
#pragma nv_diag_suppress 1675  // `GCC unroll` is for the host compiler, which reads this text after nvcc
#endif

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
#elif defined(__AVX__)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif

/// Registers there are.
inline constexpr int vector_registers = vector_bytes == 64 ? 32 : 16;

/// Registers that 64 bytes fill.
inline constexpr int line_vectors = 64 / vector_bytes;

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

/// Whether kernels in registers know a scalar.
template <class T>
inline constexpr bool has_vector_kernel = std::is_same_v<T, float> || std::is_same_v<T, double>;

/// x in what is computed in, in a form that compilers vectorise.
template <class T>
inline compute_t<T> as_computed(const T& x) {
  if constexpr (std::is_same_v<T, compute_t<T>>) {
    return x;
  } else if constexpr (std::is_same_v<compute_t<T>, float>) {
    return widened(x);
  } else {
    return compute_t<T>(x);
  }
}
template <class T>
inline T as_stored(compute_t<T> x) {
  if constexpr (std::is_same_v<T, double>) {
    return x;
  } else {
    return narrowed<T>(x);
  }
}

/// Whether a register of T is widened in an instruction or two.
template <class T>
inline constexpr bool widens_at_once = true;
#if !defined(__AVX512F__) && !defined(__F16C__)
template <>
inline constexpr bool widens_at_once<Eigen::half> = false;
#endif

#if !defined(__CUDACC__)
typedef std::uint32_t BitsVector __attribute__((vector_size(vector_bytes)));

/// A register of numbers of 16 bits, each in 32.
[[gnu::always_inline]] inline BitsVector load_16_bits(const void* from) {
  BitsVector bits;
#if defined(__AVX512F__)
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(from)));
  std::memcpy(&bits, &wide, sizeof(bits));
#elif defined(__AVX2__)
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(from)));
  std::memcpy(&bits, &wide, sizeof(bits));
#elif defined(__SSE2__) && !defined(__AVX__)
  const __m128i narrow = _mm_loadl_epi64(static_cast<const __m128i*>(from));
  const __m128i wide = _mm_unpacklo_epi16(narrow, _mm_setzero_si128());
  std::memcpy(&bits, &wide, sizeof(bits));
#else
  std::uint16_t narrow[Vector<float>::lanes];
  std::memcpy(narrow, from, sizeof(narrow));
  for (int l = 0; l < Vector<float>::lanes; ++l) bits[l] = narrow[l];
#endif
  return bits;
}

/// A register of floats from as many of 16 bits.
[[gnu::always_inline]] inline Vector<float>::type load_widened(const Eigen::bfloat16* from) {
  return std::bit_cast<Vector<float>::type>(load_16_bits(from) << 16);
}
[[gnu::always_inline]] inline Vector<float>::type load_widened(const Eigen::half* from) {
  using V = Vector<float>::type;
#if defined(__AVX512F__)
  return std::bit_cast<V>(
      _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__)
  return std::bit_cast<V>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else  // as `widened` of one
  const BitsVector bits = load_16_bits(from), rest = (bits & 0x7FFFu) << 13;
  const auto value = std::bit_cast<BitsVector>(std::bit_cast<V>(rest) * 0x1.0p112f);
  const BitsVector none = {}, infinite = rest >= 0x0F800000u ? none + 0x7F800000u : none;
  return std::bit_cast<V>(value | infinite | (bits & 0x8000u) << 16);
#endif
}
#endif

/// v = the numbers at `from` as they are computed with.
template <class V, class T>
[[gnu::always_inline]] inline void load_computed(V& v, const T* from) {
  if constexpr (std::is_same_v<T, compute_t<T>>) {
    std::memcpy(&v, from, sizeof(V));
  } else {
#if defined(__CUDACC__)
    float wide[sizeof(V) / sizeof(float)];
    for (std::size_t l = 0; l < sizeof(V) / sizeof(float); ++l) wide[l] = widened(from[l]);
    std::memcpy(&v, wide, sizeof(V));
#else
    v = load_widened(from);
#endif
  }
}

/// v stays in a register: GCC would read it from memory again for each product that it enters, and
/// products would wait for loads.
template <class V>
[[gnu::always_inline]] inline void keep_in_register([[maybe_unused]] V& v) {
#if defined(__x86_64__) && !defined(__CUDACC__)
  asm("" : "+v"(v));
#endif
}

/// The sum of the lanes: halves are added while there are two.
template <class V>
[[gnu::always_inline]] inline auto sum_of_lanes(V& v) {
  constexpr int lanes = sizeof(V) / sizeof(v[0]);
#if defined(__CUDACC__)
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int e = 0; e < half; ++e) v[e] += v[e + half];
  }
#else
  if constexpr (lanes == 16) {
    v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  } else if constexpr (lanes == 8) {
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
    v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
  } else if constexpr (lanes == 4) {
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1);
    v += __builtin_shufflevector(v, v, 1, 0, 3, 2);
  } else {
    v += __builtin_shufflevector(v, v, 1, 0);
  }
#endif
  return v[0];
}

/// sum[0] += all the others: halves are added while there are two.
template <class V>
[[gnu::always_inline]] inline void add_parts(V (&sum)[line_vectors]) {
#pragma GCC unroll 2
  for (int half = line_vectors / 2; half > 0; half /= 2) {
#pragma GCC unroll 2
    for (int e = 0; e < half; ++e) sum[e] += sum[e + half];
  }
}

#if defined(__CUDACC__)
#pragma nv_diagnostic pop
#endif

}  // namespace srformer::SRF_DETAIL
