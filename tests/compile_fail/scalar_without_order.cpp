// SPDX-License-Identifier: Apache-2.0
// expect: a scalar needs operator<, or a primal\(x\) found beside it
#include <srformer/core/scalar.hpp>

struct Number {
  double x = 0;
  Number() = default;
  explicit Number(double value) : x(value) {}
  friend Number operator+(Number a, Number b) { return Number(a.x + b.x); }
  friend Number operator-(Number a, Number b) { return Number(a.x - b.x); }
  friend Number operator*(Number a, Number b) { return Number(a.x * b.x); }
  friend Number operator/(Number a, Number b) { return Number(a.x / b.x); }
  friend Number operator-(Number a) { return Number(-a.x); }
#if defined(SRF_CONTROL)
  friend double primal(Number a) { return a.x; }
#endif
};

template <srformer::Scalar T>
void compute(T) {}

void f() { compute(Number(1)); }
