// SPDX-License-Identifier: Apache-2.0
// First-order dual numbers: run a forward with Dual<double> and its derivative along one direction
// comes out exact to rounding. The oracle of every hand-derived backward, and the model of a
// custom scalar.
#pragma once

#include <cmath>
#include <numbers>

#include <srformer/core/scalar.hpp>

namespace srformer {

inline namespace SRF_TARGET {

/// value + slope e with e^2 = 0.
template <class T>
struct Dual {
  T value{};
  T slope{};

  constexpr Dual() = default;
  SRF_HD constexpr Dual(double v) : value(v) {}  // NOLINT: constants mix with duals in formulas
  SRF_HD constexpr Dual(T v, T s) : value(v), slope(s) {}

  friend SRF_HD constexpr Dual operator+(Dual a, Dual b) {
    return {a.value + b.value, a.slope + b.slope};
  }
  friend SRF_HD constexpr Dual operator-(Dual a, Dual b) {
    return {a.value - b.value, a.slope - b.slope};
  }
  friend SRF_HD constexpr Dual operator*(Dual a, Dual b) {
    return {a.value * b.value, a.slope * b.value + a.value * b.slope};
  }
  friend SRF_HD constexpr Dual operator/(Dual a, Dual b) {
    const T quotient = a.value / b.value;
    return {quotient, (a.slope - quotient * b.slope) / b.value};
  }
  friend SRF_HD constexpr Dual operator-(Dual a) { return {-a.value, -a.slope}; }
  SRF_HD constexpr Dual& operator+=(Dual b) { return *this = *this + b; }
  SRF_HD constexpr Dual& operator-=(Dual b) { return *this = *this - b; }
  SRF_HD constexpr Dual& operator*=(Dual b) { return *this = *this * b; }
  SRF_HD constexpr Dual& operator/=(Dual b) { return *this = *this / b; }
  friend SRF_HD constexpr bool operator==(Dual a, Dual b) { return a.value == b.value; }
  friend SRF_HD constexpr bool operator<(Dual a, Dual b) { return a.value < b.value; }
  friend SRF_HD constexpr bool operator>(Dual a, Dual b) { return b < a; }

  friend SRF_HD constexpr T primal(Dual x) { return x.value; }

  friend SRF_HD Dual exp(Dual x) {
    const T y = math::exp(x.value);
    return {y, y * x.slope};
  }
  friend SRF_HD Dual log(Dual x) { return {math::log(x.value), x.slope / x.value}; }
  friend SRF_HD Dual sqrt(Dual x) {
    const T y = math::sqrt(x.value);
    return {y, math::positive(y) ? x.slope / (y + y) : T(0)};
  }
  friend SRF_HD Dual tanh(Dual x) {
    const T y = math::tanh(x.value);
    return {y, (T(1) - y * y) * x.slope};
  }
  friend SRF_HD Dual erf(Dual x) {
    const T bell = math::exp(-x.value * x.value) * T(2 / std::sqrt(std::numbers::pi));
    return {math::erf(x.value), bell * x.slope};
  }
};

}  // namespace SRF_TARGET

template <class T>
struct scalar_traits<Dual<T>> {
  using compute = Dual<T>;
  using accumulate = Dual<T>;
  static constexpr bool on_device = scalar_traits<T>::on_device;
};

}  // namespace srformer
