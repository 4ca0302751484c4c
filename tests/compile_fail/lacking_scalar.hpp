// SPDX-License-Identifier: Apache-2.0
// A scalar of what docs/custom_scalar.md lists, except what a file removes.
#pragma once

#include <srformer/core/scalar.hpp>

class Number {
 public:
#if defined(SRF_CONTROL) || !defined(LACKS_DEFAULT)
  Number() = default;
#endif
#if defined(SRF_CONTROL) || !defined(LACKS_DOUBLE)
  explicit Number(double x) : x_(x) {}
#else
  explicit Number(const char* text) : x_(text[0]) {}
#endif
  friend Number operator+(Number a, Number b) { return a.with(a.x_ + b.x_); }
  friend Number operator-(Number a, Number b) { return a.with(a.x_ - b.x_); }
  friend Number operator*(Number a, Number b) { return a.with(a.x_ * b.x_); }
#if defined(SRF_CONTROL) || !defined(LACKS_QUOTIENT)
  friend Number operator/(Number a, Number b) { return a.with(a.x_ / b.x_); }
#endif
  friend Number operator-(Number a) { return a.with(-a.x_); }
  friend bool operator<(Number a, Number b) { return a.x_ < b.x_; }
#if defined(SRF_CONTROL) || !defined(LACKS_EXP)
  friend Number exp(Number a) { return a.with(a.x_ + 1); }
#endif

 private:
  Number with(double x) const {
    Number other = *this;
    other.x_ = x;
    return other;
  }
  double x_ = 0;
};

template <srformer::Scalar T>
T compute(T x) {
  return srformer::math::exp(x);
}

Number f(Number x) { return compute(x); }
