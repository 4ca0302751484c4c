// SPDX-License-Identifier: Apache-2.0
// Matrix products as the definition has them, to compare with, and matrices to multiply.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include <srformer/backend/gemm.hpp>
#include <srformer/core/random.hpp>

namespace tests {

using srformer::index_t;
using srformer::Op;

/// A number in (-1, 1), the same everywhere.
inline double value(std::uint64_t seed, index_t i) {
  return 2 * srformer::uniform(srformer::RandomStream{seed}, static_cast<std::uint64_t>(i)) - 1;
}

/// An m by n matrix whose rows are `stride` apart, with NaN between them.
template <class T>
std::vector<T> matrix(std::uint64_t seed, index_t m, index_t n, index_t stride) {
  using C = srformer::compute_t<T>;
  std::vector<T> x(static_cast<std::size_t>(m * stride), T(C(std::nan(""))));
  for (index_t i = 0; i < m; ++i) {
    for (index_t j = 0; j < n; ++j) x[i * stride + j] = T(C(value(seed, i * n + j)));
  }
  return x;
}

/// One product to try: sizes, and how much longer than needed the rows of A, B and C are.
struct GemmCase {
  Op transpose_a, transpose_b;
  index_t m, n, k;
  double alpha, beta;
  index_t gap = 0;

  bool ta() const { return transpose_a == Op::transpose; }
  bool tb() const { return transpose_b == Op::transpose; }
  index_t lda() const { return (ta() ? m : k) + gap; }
  index_t ldb() const { return (tb() ? k : n) + gap; }
  index_t ldc() const { return n + gap; }
  template <class T>
  std::vector<T> a() const {
    return matrix<T>(1, ta() ? k : m, ta() ? m : k, lda());
  }
  template <class T>
  std::vector<T> b() const {
    return matrix<T>(2, tb() ? n : k, tb() ? k : n, ldb());
  }
  /// What C holds before: NaN where beta is 0, as it must not be read.
  template <class T>
  std::vector<T> c() const {
    std::vector<T> x = matrix<T>(3, m, n, ldc());
    if (beta == 0) x.assign(x.size(), T(srformer::compute_t<T>(std::nan(""))));
    return x;
  }
};

/// C by the definition, summed in the compute type of TC.
template <class TA, class TB, class TC>
std::vector<TC> plain_gemm(const GemmCase& p, const std::vector<TA>& a, const std::vector<TB>& b,
                           std::vector<TC> c) {
  using C = srformer::compute_t<TC>;
  for (index_t i = 0; i < p.m; ++i) {
    for (index_t j = 0; j < p.n; ++j) {
      C sum(0);
      for (index_t s = 0; s < p.k; ++s) {
        sum = sum + C(a[p.ta() ? s * p.lda() + i : i * p.lda() + s]) *
                        C(b[p.tb() ? j * p.ldb() + s : s * p.ldb() + j]);
      }
      TC& out = c[i * p.ldc() + j];
      out = TC(p.beta == 0 ? C(p.alpha) * sum : C(p.alpha) * sum + C(p.beta) * C(out));
    }
  }
  return c;
}

/// Every combination of transposes, scales and a few odd sizes; `most` bounds the sizes.
inline std::vector<GemmCase> gemm_cases(index_t most) {
  struct Size {
    index_t m, n, k;
  };
  std::vector<GemmCase> all;
  for (const Size s : {Size{1, 1, 1}, Size{7, 5, 3}, Size{6, 16, 64}, Size{13, 37, 129},
                       Size{1, 67, 300}, Size{70, 1, 9}, Size{33, 64, 31}, Size{131, 3, 70},
                       Size{5, 150, 17}, Size{4, 6, 0}, Size{0, 5, 4}, Size{5, 0, 4}}) {
    if (s.m > most || s.n > most || s.k > most) continue;
    for (const Op ta : {Op::none, Op::transpose}) {
      for (const Op tb : {Op::none, Op::transpose}) {
        for (const double beta : {0.0, 1.0, -0.5}) {
          all.push_back({ta, tb, s.m, s.n, s.k, beta == 1 ? 1.0 : 0.75, beta, beta == 1 ? 0 : 3});
        }
      }
    }
  }
  return all;
}

}  // namespace tests
