// SPDX-License-Identifier: Apache-2.0
#include <srformer/attention/kv_product.hpp>

#include <cstdio>

#include <srformer/backend/eigen.hpp>

#include "support/attention_case.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

struct Setting {
  index_t B, H, N, L, D;
  KvProductOptions options{};
  std::vector<index_t> lengths{};
  Padding padding = Padding::masked;

  index_t S() const { return (N + L - 1) / L; }
  SegmentedOptions segments() const { return {.segment_size = L, .padding = padding}; }
  template <class T>
  ScoreMask<T, host_space> mask() const {
    ScoreMask<T, host_space> mask;
    mask.lengths = lengths.empty() ? nullptr : lengths.data();
    return mask;
  }
};

/// Z_j = clamp(P) - clamp(P_j), or clamp(P_j), in T throughout; zero past the end of a source.
template <class T>
void plain_products(const Setting& s, View<const T, 4> k, View<const T, 4> y, View<T, 5> z) {
  const double bound = s.options.clamp;
  for (index_t b = 0; b < s.B; ++b) {
    const index_t N = s.lengths.empty() || s.padding == Padding::upstream ? s.N : s.lengths[b];
    for (index_t h = 0; h < s.H; ++h) {
      for (index_t j = 0; j < s.S(); ++j) {
        for (index_t c = 0; c < s.D; ++c) {
          for (index_t e = 0; e < s.D; ++e) {
            T whole(0), own(0);
            for (index_t t = 0; t < N; ++t) {
              whole = whole + k(b, h, t, c) * y(b, h, t, e);
              if (t / s.L == j) own = own + k(b, h, t, c) * y(b, h, t, e);
            }
            const T other = plain::clamp(own, bound);
            z(b, h, j, c, e) = j * s.L >= N ? T(0)
                               : s.options.product == Product::segment
                                   ? other
                                   : plain::clamp(whole, bound) - other;
          }
        }
      }
    }
  }
}

void check_products(const Setting& s, GradOptions grad = {}) {
  INFO("B" << s.B << " H" << s.H << " N" << s.N << " L" << s.L << " D" << s.D << " clamp "
           << s.options.clamp);
  EigenBackend be(1);
  const auto forward = [&]<class T>(View<const T, 4> k, auto y, View<T, 5> z) {
    kv_product_forward<EigenBackend, T>(be, {k, y, s.mask<T>()}, s.segments(), s.options, z);
  };
  const auto slow = [&]<class T>(View<const T, 4> k, auto y, View<T, 5> z) {
    plain_products<T>(s, k, y, z);
  };
  const auto backward = [&](auto k, auto y, auto d_z, auto d_k, auto d_y) {
    kv_product_backward<EigenBackend, double>(be, {k, y, s.mask<double>()}, s.segments(), s.options,
                                              {d_z, d_k, d_y});
  };
  const Values k = draw(s.B * s.H * s.N * s.D, {11, 1}), y = draw(s.B * s.H * s.N * s.D, {11, 2});
  const std::array<index_t, 4> shape{s.B, s.H, s.N, s.D};
  const std::array<index_t, 5> shape_z{s.B, s.H, s.S(), s.D, s.D};
  Values got(static_cast<std::size_t>(s.B * s.H * s.S() * s.D * s.D), NAN), expected = got;
  forward(View<const double, 4>(k.data(), shape), View<const double, 4>(y.data(), shape),
          View<double, 5>(got.data(), shape_z));
  slow(View<const double, 4>(k.data(), shape), View<const double, 4>(y.data(), shape),
       View<double, 5>(expected.data(), shape_z));
  CHECK(relative_error(got, expected) < 1e-13);

  const bool alone = s.S() == 1 && s.options.product == Product::complement;
  const auto input = [&](const char* name, const Values& values) {
    const GradInput given(name, {s.B, s.H, s.N, s.D}, values);
    return alone ? given.expect_zero() : given;
  };
  const auto check = [&](auto run) {
    const GradReport report =
        grad_check(grad, {s.B, s.H, s.S(), s.D, s.D}, run, backward, input("k", k), input("y", y));
    INFO(report.text());
    CHECK(report.ok());
  };
  check(forward);
  check(slow);
}

}  // namespace

TEST_CASE("key-value products over shapes") {
  for (const Product product : {Product::complement, Product::segment}) {
    for (const double clamp : {0.0, 3.0}) {
      const KvProductOptions options{product, clamp};
      for (const index_t N : {1, 7, 12, 33}) {
        for (const index_t L : {1, 4, 50}) {
          for (const index_t D : {1, 3}) {
            check_products({1, 2, N, L, D, options}, {.coordinates = 10, .directions = 2});
          }
        }
      }
      check_products({2, 2, 9, 4, 3, options});
      check_products({3, 1, 9, 2, 3, options, {9, 4, 1}});
      check_products({2, 1, 9, 2, 3, options, {9, 4}, Padding::upstream});
    }
  }
}

TEST_CASE("products of many segments") {
  check_products({1, 1, 300, 1, 32}, {.coordinates = 1, .directions = 1});
}

TEST_CASE("rows of the states at a time are near their budget") {
  for (const index_t D : {1, 3, 8, 32, 64, 100, 128, 400}) {
    index_t wrong = 0, few = 0;
    for (const index_t L : {1, 7, 31, 32, 64}) {
      for (const index_t M : {1, 90, 128, 700}) {
        for (index_t N = 1; N < 2500; ++N) {
          const index_t visited = std::min(M, (N + L - 1) / L);
          const index_t rows = detail::rows_at_a_time(N, visited, D);
          wrong += rows < 1 || rows > D;
          few += rows < D;
          wrong +=
              N < 32 * visited && rows > 16 && 2 * visited * rows * D > 3 * detail::state_budget;
        }
      }
    }
    INFO("D " << D);
    CHECK(wrong == 0);
    CHECK((few > 0) == (D > 16));
  }
}

TEST_CASE("one dominating segment does not cost the others their digits") {
  constexpr index_t N = 64, L = 8, D = 8, S = N / L;
  Values k = draw(N * D, {21, 1}), y = draw(N * D, {21, 2});
  for (index_t i = 0; i < L * D; ++i) k[i] *= 100, y[i] *= 100;  // P_0 is 1e4 times the others
  const auto k_float = copy_as<float>(k), y_float = copy_as<float>(y);
  const Setting s{1, 1, N, L, D};
  // The float inputs are what both are given.
  const Values k_same(k_float.begin(), k_float.end()), y_same(y_float.begin(), y_float.end());
  const std::array<index_t, 4> shape{1, 1, N, D};
  Values exact(static_cast<std::size_t>(S * D * D));
  plain_products<double>(s, View<const double, 4>(k_same.data(), shape),
                         View<const double, 4>(y_same.data(), shape),
                         View<double, 5>(exact.data(), {1, 1, S, D, D}));
  std::vector<float> plain_float(exact.size()), library(exact.size());
  plain_products<float>(s, View<const float, 4>(k_float.data(), shape),
                        View<const float, 4>(y_float.data(), shape),
                        View<float, 5>(plain_float.data(), {1, 1, S, D, D}));
  EigenBackend be(1);
  const KvProductInputs<EigenBackend, float> in{
      {k_float.data(), shape}, {y_float.data(), shape}, s.mask<float>()};
  kv_product_forward(be, in, s.segments(), s.options,
                     View<float, 5>(library.data(), {1, 1, S, D, D}));
  // Z_0 holds the others alone.
  const auto first = [](const auto& z) {
    return std::vector<double>(z.begin(), z.begin() + D * D);
  };
  const double by_difference = relative_error(first(plain_float), first(exact));
  const double by_sums = relative_error(first(library), first(exact));
  char figures[120];
  std::snprintf(figures, sizeof figures,
                "error of Z_0 in float: P - P_0 %.1e, sums of the others %.1e", by_difference,
                by_sums);
  WARN(figures);
  CHECK(by_difference > 1e-5);
  CHECK(by_sums < 1e-6);
}

TEST_CASE("errors of the key-value product") {
  EigenBackend be(1);
  const auto k = zeros<double, 4>(be, {1, 2, 5, 3}), y = zeros<double, 4>(be, {1, 2, 4, 3});
  auto z = zeros<double, 5>(be, {1, 2, 3, 3, 3});
  const KvProductInputs<EigenBackend, double> in{k, k}, wrong{k, y};
  CHECK_NOTHROW(kv_product_forward(be, in, {.segment_size = 2}, {}, z.view()));
  CHECK_THROWS_WITH(kv_product_forward(be, in, {.segment_size = 0}, {}, z.view()),
                    ContainsSubstring("kv_product_forward: segment size must be at least 1"));
  CHECK_THROWS_WITH(kv_product_forward(be, wrong, {.segment_size = 2}, {}, z.view()),
                    ContainsSubstring("y is [1,2,4,3], expected [B,H,N,D] = [1,2,5,3]"));
  CHECK_THROWS_WITH(kv_product_forward(be, in, {.segment_size = 3}, {}, z.view()),
                    ContainsSubstring("z is [1,2,3,3,3], expected [B,H,S,D,D] = [1,2,2,3,3]"));
}
