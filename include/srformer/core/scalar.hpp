// SPDX-License-Identifier: Apache-2.0
// What a scalar is to this library: field operators, a few functions found by argument-dependent
// lookup, and three types: the one stored, the one computed in, and the one summed in.
//
// A user's own scalar works when it has + - * /, unary minus, construction from double, and an order,
// or a `primal(x)` that gives an ordered value. Only primal values are compared, and by < alone, so that dual
// numbers pass through softmax and the firing threshold. A scalar holds its value in itself: scratch memory is
// assigned to without being constructed. docs/custom_scalar.md has examples.
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

#include <srformer/core/config.hpp>

namespace Eigen {
struct half;
struct bfloat16;
}  // namespace Eigen

namespace srformer {

/// Types that go with a stored type T; specialise it for a scalar that needs others.
///   compute     in which elements are multiplied and added
///   accumulate  in which long sums (loss, norms, gradients of shared scalars) are kept
///   on_device   whether a CUDA device can hold T
template <class T>
struct scalar_traits {
  using compute = T;
  using accumulate = T;
  static constexpr bool on_device = false;
};

template <>
struct scalar_traits<float> {
  using compute = float;
  using accumulate = double;
  static constexpr bool on_device = true;
};

template <>
struct scalar_traits<double> {
  using compute = double;
  using accumulate = double;
  static constexpr bool on_device = true;
};

template <>
struct scalar_traits<Eigen::half> : scalar_traits<float> {};

template <>
struct scalar_traits<Eigen::bfloat16> : scalar_traits<float> {};

template <class T>
using compute_t = typename scalar_traits<std::remove_cv_t<T>>::compute;

template <class T>
using accumulate_t = typename scalar_traits<std::remove_cv_t<T>>::accumulate;

namespace SRF_DETAIL {
template <class T>
concept Ordered = requires(const T x) {
  { x < x } -> std::convertible_to<bool>;
};
}  // namespace SRF_DETAIL

inline namespace SRF_TARGET {

/// The ordered value of a scalar: itself where it is ordered. A scalar that is more than its value has
/// a `primal` of its own, found by argument-dependent lookup.
template <class T>
requires detail::Ordered<T> SRF_HD constexpr T primal(T x) { return x; }

}  // namespace SRF_TARGET

namespace SRF_DETAIL {
// What the compiler says of a type that is no scalar: it quotes the line that is not met.

template <class T>
concept HasPrimal = requires(const T x) {
  {primal(x)};  // a scalar needs operator<, or a primal(x) found beside it
  { primal(x) < primal(x) } -> std::convertible_to<bool>;
};

template <class T>
concept HoldsItself =
    std::is_trivially_destructible_v<T>;  // a scalar holds its value in itself, not on the heap

template <class T>
concept HasFractions = !std::integral<T>;  // an integer is no scalar, as it has no fractions

template <class T>
concept HasArithmetic = requires(T a, T b) {
  { a + b } -> std::convertible_to<T>;  // a scalar needs operator+ of two
  { a - b } -> std::convertible_to<T>;  // a scalar needs operator- of two
  { a* b } -> std::convertible_to<T>;   // a scalar needs operator* of two
  { a / b } -> std::convertible_to<T>;  // a scalar needs operator/ of two
  { -a } -> std::convertible_to<T>;     // a scalar needs unary minus
};

template <class T>
concept MadeFromDouble =
    std::is_constructible_v<T, double>;  // a scalar needs a constructor from double

template <class T>
concept MadeFromNothing =
    std::is_default_constructible_v<T>;  // a scalar needs a default constructor

template <class T>
concept Copied =
    std::is_copy_constructible_v<T> && std::is_copy_assignable_v<T>;  // a scalar needs copies

template <class T, class C>
concept ConvertsTo =
    std::is_constructible_v<C, T>;  // a scalar converts to scalar_traits::compute and back

/// Whether the value of an X can be had as a double: of itself, or of its primal, or of the primal of that.
template <class X>
constexpr bool has_double() {
  if constexpr (std::constructible_from<double, X>) {
    return true;
  } else if constexpr (requires(const X x) { primal(x); }) {
    using P = std::remove_cvref_t<decltype(primal(std::declval<const X&>()))>;
    if constexpr (!std::is_same_v<P, X>) return has_double<P>();
  }
  return false;
}
}  // namespace SRF_DETAIL

namespace SRF_DETAIL {

/// A stored scalar as float. half and bfloat16 without branches, so that loops vectorise.
template <class T>
SRF_IN_LOOP float widened(const T& x) {
  if constexpr (std::is_same_v<T, Eigen::bfloat16>) {
    return std::bit_cast<float>(std::uint32_t{std::bit_cast<std::uint16_t>(x)} << 16);
  } else if constexpr (std::is_same_v<T, Eigen::half>) {
    const std::uint32_t bits = std::bit_cast<std::uint16_t>(x), rest = (bits & 0x7FFFu) << 13;
    // The exponent is short of 112; a product puts that right for subnormal numbers as well.
    const auto value = std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest) * 0x1.0p112f);
    const std::uint32_t infinite = rest >= 0x0F800000u ? 0x7F800000u : 0u;
    return std::bit_cast<float>(value | infinite | (bits & 0x8000u) << 16);
  } else {
    return static_cast<float>(x);
  }
}

/// The nearest stored scalar, ties to even; the inverse of widened.
template <class T>
SRF_IN_LOOP T narrowed(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if constexpr (std::is_same_v<T, Eigen::bfloat16>) {
    const std::uint32_t nearest = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    return std::bit_cast<T>(static_cast<std::uint16_t>(x == x ? nearest : 0x7FC0u));
  } else if constexpr (std::is_same_v<T, Eigen::half>) {
    const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
    std::uint32_t nearest = (magnitude - 0x37FFF001u + (magnitude >> 13 & 1u)) >> 13;
    // Below 2^-14 a sum with 0.5 rounds at the last bit of subnormal numbers.
    const auto shifted = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f);
    nearest = magnitude < 0x38800000u ? shifted - 0x3F000000u : nearest;
    nearest = magnitude < 0x47800000u ? nearest : 0x7C00u;
    nearest = x == x ? nearest : 0x7E00u;
    return std::bit_cast<T>(static_cast<std::uint16_t>(nearest | (bits >> 16 & 0x8000u)));
  } else {
    return T(x);
  }
}

}  // namespace SRF_DETAIL

/// What an element type must offer (see the head of this file).
template <class T>
concept Scalar = detail::HasFractions<T> && detail::Copied<T> && detail::MadeFromNothing<T> &&
    detail::HoldsItself<T> && detail::MadeFromDouble<compute_t<T>> &&
    detail::ConvertsTo<T, compute_t<T>> && detail::ConvertsTo<compute_t<T>, T> &&
    detail::HasArithmetic<compute_t<T>> && detail::HasPrimal<compute_t<T>>;

/// Elementary functions of any scalar; float has forms of exp, tanh and erf that compilers vectorise.
namespace math {

inline namespace SRF_TARGET {

/// condition ? yes : no, where both are computed. Without AVX-512's masks compilers compute a side of `?:` only where it
/// is wanted, as it might trap, and a loop with such a branch is not vectorised.
template <class T>
SRF_IN_LOOP T select(bool condition, const T& yes, const T& no) {
#if !defined(__CUDA_ARCH__) && !defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    const Bits mask = Bits{0} - static_cast<Bits>(condition);
    return std::bit_cast<T>((std::bit_cast<Bits>(yes) & mask) | (std::bit_cast<Bits>(no) & ~mask));
  }
#endif
  return condition ? yes : no;
}

/// e^x to 1 ulp or so, without branches; 0 below -87.3, infinity above 88.7, NaN for NaN.
SRF_IN_LOOP float exp(float x) {
#if defined(__CUDA_ARCH__)
  return ::expf(x);
#else
  const float low = -87.33654f, high = 88.72283f;
  const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  const float shifted = x * 1.44269504f + shift, n = shifted - shift;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n by adding n to the exponent, which stays in its range between low and high.
  p = std::bit_cast<float>(std::bit_cast<std::uint32_t>(p) +
                           (std::bit_cast<std::uint32_t>(shifted) << 23));
  p = select(x < low, 0.0f, p);
  return select(x <= high, p, x * std::numeric_limits<float>::max());  // infinity, or NaN for NaN
#endif
}

SRF_IN_LOOP float tanh(float x) {
#if defined(__CUDA_ARCH__)
  return ::tanhf(x);
#else
  const float magnitude = select(x < 0, -x, x);
  const float e = math::exp(-2.0f * magnitude);
  const float far = (1.0f - e) / (1.0f + e);
  const float s = x * x;  // the quotient cancels near 0: its series there
  const float near = magnitude * (1.0f - s * (1.0f / 3 - s * (2.0f / 15 - s * (17.0f / 315))));
  const float y = select(magnitude < 0.1f, near, far);
  return select(x < 0, -y, y);
#endif
}

/// To 1 ulp or so, without branches: x + x P(x^2) up to 1, and 1 - exp(-x Q(x)) behind, where 1 at 4 is exact.
SRF_IN_LOOP float erf(float x) {
#if defined(__CUDA_ARCH__)
  return ::erff(x);
#else
  const float s = x * x;
  float p = 7.85386118e-5f;
  p = p * s - 8.010193569e-4f;
  p = p * s + 5.188327679e-3f;
  p = p * s - 2.685381193e-2f;
  p = p * s + 1.128358515e-1f;
  p = p * s - 3.761262582e-1f;
  p = p * s + 1.283791657e-1f;
  const float near = x + x * p;
  const float magnitude = select(x < 0, -x, x), t = select(magnitude < 4.0f, magnitude, 4.0f);
  float q = 1.396235647e-5f;
  q = q * t - 3.505912096e-4f;
  q = q * t + 3.75747366e-3f;
  q = q * t - 2.401006231e-2f;
  q = q * t + 1.065308586e-1f;
  q = q * t + 6.34969535e-1f;
  q = q * t + 1.128694336f;
  const float far = 1.0f - math::exp(-t * q);
  const float y = select(magnitude < 1.0f, near, select(x < 0, -far, far));
  return select(x == x, y, x);
#endif
}

#define SRF_MATH_FUNCTION(name)                                                            \
  template <class T>                                                                       \
  constexpr bool has_##name() {                                                            \
    using std::name;                                                                       \
    return requires(const T x) {                                                           \
      { name(x) } -> std::convertible_to<T>;                                               \
    };                                                                                     \
  }                                                                                        \
  template <class T>                                                                       \
  SRF_HD inline T name(const T& x) {                                                       \
    using std::name;                                                                       \
    static_assert(has_##name<T>(),                                                         \
                  "this op needs " #name "(x) of its scalar, found beside the type of x"); \
    return name(x);                                                                        \
  }
SRF_MATH_FUNCTION(exp)
SRF_MATH_FUNCTION(log)
SRF_MATH_FUNCTION(sqrt)
SRF_MATH_FUNCTION(tanh)
SRF_MATH_FUNCTION(erf)
#undef SRF_MATH_FUNCTION

// Comparisons, of primal values and by < alone.

template <class T>
SRF_HD inline T max(const T& a, const T& b) {
  return primal(a) < primal(b) ? b : a;
}

/// Whether a > b.
template <class A, class B>
SRF_IN_LOOP bool above(const A& a, const B& b) {
  return primal(b) < primal(a);
}
template <class T>
SRF_IN_LOOP bool positive(const T& x) {
  const auto value = primal(x);
  return decltype(value)(0) < value;
}
template <class T>
SRF_IN_LOOP bool negative(const T& x) {
  const auto value = primal(x);
  return value < decltype(value)(0);
}
template <class T>
SRF_IN_LOOP bool zero(const T& x) {
  const auto value = primal(x);
  if constexpr (std::is_floating_point_v<std::remove_cv_t<decltype(value)>>) {
    return value == 0;
  } else {
    return !positive(value) && !negative(value) && value < decltype(value)(1);  // NaN is not
  }
}

/// Whether x is neither infinite nor NaN.
template <class T>
SRF_HD inline bool finite(const T& x) {
  const auto difference = primal(x) - primal(x);
  return difference < decltype(difference)(1);  // otherwise it is NaN
}

/// The value of x as a double.
template <class T>
double to_double(const T& x) {
  static_assert(detail::has_double<T>(),
                "training, generation and files need the value of a scalar: give it a primal(x) of "
                "type double, "
                "or a conversion to double");
  if constexpr (std::constructible_from<double, T>) {
    return static_cast<double>(x);
  } else if constexpr (detail::has_double<T>()) {
    return to_double(primal(x));
  } else {
    return 0;
  }
}

}  // namespace SRF_TARGET

}  // namespace math

namespace SRF_DETAIL {
/// yes where x > bound, otherwise no. Packs of scalars have an overload of their own.
template <class V, class C>
SRF_IN_LOOP V where_above(const V& x, const C& bound, const V& yes, const V& no) {
  return math::select(math::above(x, bound), yes, no);
}

}  // namespace SRF_DETAIL

inline namespace SRF_TARGET {

/// Below every score: the start of a running maximum.
template <class T>
SRF_HD constexpr T lowest_score() {
  return T(-1e30);
}

}  // namespace SRF_TARGET

}  // namespace srformer
