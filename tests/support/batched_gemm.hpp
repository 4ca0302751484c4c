// SPDX-License-Identifier: Apache-2.0
// gemm_batched of a backend against the definition.
#pragma once

#include <srformer/backend/tensor.hpp>

#include "support/catch.hpp"
#include "support/plain_gemm.hpp"

namespace tests {

/// Matrices `apart` elements from each other, the last first.
template <class T>
struct FromTheEnd {
  T* data;
  index_t apart, count;
  SRF_HD T* operator()(index_t i) const { return data + (count - 1 - i) * apart; }
};

/// Three products at once of matrices of TA into matrices of TC.
template <class TA, class TC, class B>
void require_batched_gemm(B& be, double tolerance) {
  using C = srformer::compute_t<TC>;
  constexpr index_t count = 3;
  index_t compared = 0, wrong = 0;
  for (const GemmCase& p : gemm_cases(150)) {
    std::vector<std::vector<TA>> a, b;
    std::vector<std::vector<TC>> c;
    std::vector<TA> all_a, all_b;
    std::vector<TC> all_c, expected;
    for (index_t i = 0; i < count; ++i) {
      a.push_back(matrix<TA>(10 + i, p.ta() ? p.k : p.m, p.ta() ? p.m : p.k, p.lda()));
      b.push_back(matrix<TA>(20 + i, p.tb() ? p.n : p.k, p.tb() ? p.k : p.n, p.ldb()));
      c.push_back(p.c<TC>());
      all_a.insert(all_a.end(), a[i].begin(), a[i].end());
      all_b.insert(all_b.end(), b[i].begin(), b[i].end());
      all_c.insert(all_c.end(), c[i].begin(), c[i].end());
      const auto one = plain_gemm(p, a[i], b[i], c[i]);
      expected.insert(expected.end(), one.begin(), one.end());
    }
    const auto on = [&](const auto& values) {
      using T = typename std::remove_cvref_t<decltype(values)>::value_type;
      return srformer::from_host<T, 1>(be, {std::ssize(values)}, values);
    };
    const auto on_a = on(all_a), on_b = on(all_b);
    auto on_c = on(all_c);
    const auto from = [](const auto& x, const auto& part) {
      return FromTheEnd<const TA>{x.data(), std::ssize(part), count};
    };
    be.gemm_batched(p.transpose_a, p.transpose_b, count, p.m, p.n, p.k, C(p.alpha),
                    from(on_a, a[0]), p.lda(), from(on_b, b[0]), p.ldb(), C(p.beta),
                    FromTheEnd<TC>{on_c.data(), std::ssize(c[0]), count}, p.ldc());
    const auto got = srformer::to_host(be, on_c);
    for (std::size_t i = 0; i < got.size(); ++i, ++compared) {
      const C x = C(got[i]), y = C(expected[i]);
      wrong += std::isnan(y) ? !std::isnan(x) : !(std::abs(x - y) <= tolerance * (1 + std::abs(y)));
    }
  }
  REQUIRE(compared > 10000);
  REQUIRE(wrong == 0);
}

}  // namespace tests
