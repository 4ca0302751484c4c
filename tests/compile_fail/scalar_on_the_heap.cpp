// SPDX-License-Identifier: Apache-2.0
// expect: a scalar holds its value in itself, not on the heap
#include <srformer/core/scalar.hpp>

struct Number {
  double x = 0;
  Number() = default;
  explicit Number(double value) : x(value) {}
#if !defined(SRF_CONTROL)
  Number(const Number&) = default;
  Number& operator=(const Number&) = default;
  ~Number() {}
#endif
  friend Number operator+(Number a, Number b) { return Number(a.x + b.x); }
  friend Number operator-(Number a, Number b) { return Number(a.x - b.x); }
  friend Number operator*(Number a, Number b) { return Number(a.x * b.x); }
  friend Number operator/(Number a, Number b) { return Number(a.x / b.x); }
  friend Number operator-(Number a) { return Number(-a.x); }
  friend bool operator<(Number a, Number b) { return a.x < b.x; }
};

template <srformer::Scalar T>
void compute(T) {}

void f() { compute(Number(1)); }
