// SPDX-License-Identifier: Apache-2.0
// Ops on half and bfloat16 against the same rounded numbers in double. They compute in float and round
// once, so that what they store is off by one rounding, however long the sums.
#include <srformer/backend/eigen.hpp>
#include <srformer/ops/activation.hpp>
#include <srformer/ops/cross_entropy.hpp>
#include <srformer/ops/dropout.hpp>
#include <srformer/ops/embedding.hpp>
#include <srformer/ops/linear.hpp>
#include <srformer/ops/norm.hpp>
#include <srformer/ops/softmax.hpp>

#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace srformer;
using srformer::testing::relative_error;
using Values = std::vector<double>;

namespace {

/// A little over the largest relative rounding.
template <class T>
constexpr double bound = 6e-4;
template <>
constexpr double bound<Eigen::bfloat16> = 5e-3;

/// A matrix in T and in double that hold the same.
template <class T>
struct Twin {
  std::vector<T> narrow;
  Values wide;
  index_t rows, columns;

  Twin(index_t r, index_t c, std::uint64_t seed, double scale = 1, double offset = 0)
      : rows(r), columns(c) {
    for (index_t i = 0; i < r * c; ++i) {
      const double x = scale == 0 ? 0 : offset + scale * normal({seed}, std::uint64_t(i));
      narrow.push_back(T(x)), wide.push_back(double(compute_t<T>(narrow.back())));
    }
  }
  template <class U>
  View<U, 2> as() {
    if constexpr (std::is_same_v<U, double>) {
      return {wide.data(), {rows, columns}};
    } else {
      return {narrow.data(), {rows, columns}};
    }
  }
  template <class U>
  View<U, 1> row() {
    return {as<U>().data, {columns}};
  }
  double error() const {
    Values got;
    for (const T& x : narrow) got.push_back(double(compute_t<T>(x)));
    return relative_error(got, wide);
  }
};

template <class T>
Twin<T> zero(index_t rows, index_t columns) {
  return Twin<T>(rows, columns, 0, 0);
}

/// Runs f with T and with double.
template <class T, class F>
void both(F f) {
  f(T());
  f(double());
}

}  // namespace

TEMPLATE_TEST_CASE("ops in narrow scalars", "", Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  EigenBackend be(1);
  // Rows enough for a sum that is stored on the way to stop growing.
  const index_t R = 1500, I = 7, O = 5;
  Twin<T> x(R, I, 1), y = zero<T>(R, O), d_y(R, O, 2, 0.1, 1), d_x = zero<T>(R, I);

  SECTION("linear") {
    Twin<T> weight(O, I, 3), bias(1, O, 4), d_weight = zero<T>(O, I), d_bias = zero<T>(1, O);
    both<T>([&]<class U>(U) {
      linear_forward<EigenBackend, U>(be, x.template as<U>(), weight.template as<U>(),
                                      bias.template row<U>(), y.template as<U>());
      linear_backward<EigenBackend, U>(be, x.template as<U>(), weight.template as<U>(),
                                       d_y.template as<U>(), d_x.template as<U>(),
                                       d_weight.template as<U>(), d_bias.template row<U>());
    });
    CHECK(y.error() < 2 * bound<T>);  // the bias is added to what was stored
    CHECK(d_x.error() < bound<T>);
    CHECK(d_weight.error() < bound<T>);
    CHECK(d_bias.error() < bound<T>);
  }
  SECTION("embedding") {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(R), 1);
    ids[3] = 0;
    Twin<T> table(3, O, 3), d_table = zero<T>(3, O);
    both<T>([&]<class U>(U) {
      embedding_forward<EigenBackend, U>(be, ids, table.template as<U>(), y.template as<U>());
      embedding_backward<EigenBackend, U>(be, ids, d_y.template as<U>(), d_table.template as<U>());
    });
    CHECK(y.error() < 1e-12);
    CHECK(d_table.error() < bound<T>);
  }
  SECTION("rms norm") {
    Twin<T> weight(1, I, 3), d_weight = zero<T>(1, I), normed = zero<T>(R, I), d(R, I, 5, 0.1, 1);
    both<T>([&]<class U>(U) {
      rms_norm_forward<EigenBackend, U>(be, x.template as<U>(), weight.template row<U>(),
                                        normed.template as<U>());
      rms_norm_backward<EigenBackend, U>(be, x.template as<U>(), weight.template row<U>(),
                                         d.template as<U>(), d_x.template as<U>(),
                                         d_weight.template row<U>());
    });
    CHECK(normed.error() < bound<T>);
    CHECK(d_x.error() < bound<T>);
    CHECK(d_weight.error() < bound<T>);
  }
  SECTION("layer norm") {
    Twin<T> weight(1, I, 3), bias(1, I, 4), normed = zero<T>(R, I), d(R, I, 5, 0.1, 1);
    Twin<T> d_weight = zero<T>(1, I), d_bias = zero<T>(1, I);
    both<T>([&]<class U>(U) {
      layer_norm_forward<EigenBackend, U>(be, x.template as<U>(), weight.template row<U>(),
                                          bias.template row<U>(), normed.template as<U>());
      layer_norm_backward<EigenBackend, U>(be, x.template as<U>(), weight.template row<U>(),
                                           {d.template as<U>(), d_x.template as<U>(),
                                            d_weight.template row<U>(), d_bias.template row<U>()});
    });
    for (const auto* found : {&normed, &d_x, &d_weight, &d_bias}) CHECK(found->error() < bound<T>);
  }
  SECTION("positions") {
    Twin<T> positions(5, I, 3), d_positions = zero<T>(5, I), d(R, I, 5, 0.1, 1);
    both<T>([&]<class U>(U) {
      add_positions_forward<EigenBackend, U>(be, 3, positions.template as<U>(), 2, 3.5,
                                             x.template as<U>());
      add_positions_backward<EigenBackend, U>(be, 3, d_positions.template as<U>(), 2, 3.5,
                                              d.template as<U>());
    });
    for (const auto* found : {&x, &d, &d_positions}) CHECK(found->error() < bound<T>);
  }
  SECTION("softmax over a long row") {
    Twin<T> scores(2, R, 3, 3), p = zero<T>(2, R), d_p(2, R, 5), d = zero<T>(2, R);
    both<T>([&]<class U>(U) {
      softmax_forward<EigenBackend, U>(be, scores.template as<U>(), p.template as<U>());
      softmax_backward<EigenBackend, U>(be, p.template as<U>(), d_p.template as<U>(),
                                        d.template as<U>());
    });
    CHECK(p.error() < bound<T>);
    CHECK(d.error() < 3 * bound<T>);  // backward reads what forward rounded
  }
  SECTION("activations") {
    for (const Activation kind : {Activation::relu, Activation::gelu, Activation::gelu_new,
                                  Activation::silu, Activation::quick_gelu}) {
      Twin<T> b(R, I, 3), h = zero<T>(R, I), g = zero<T>(R, I), d(R, I, 5), d_b = zero<T>(R, I);
      Twin<T> d_a = zero<T>(R, I), d_h = zero<T>(R, I);
      both<T>([&]<class U>(U) {
        const auto at = x.template as<U>();
        activation_forward<EigenBackend, U>(be, kind, at, h.template as<U>());
        activation_backward<EigenBackend, U>(be, kind, at, d.template as<U>(),
                                             d_h.template as<U>());
        gated_forward<EigenBackend, U>(be, kind, at, b.template as<U>(), g.template as<U>());
        gated_backward<EigenBackend, U>(be, kind, at, b.template as<U>(), d.template as<U>(),
                                        d_a.template as<U>(), d_b.template as<U>());
      });
      for (const auto* found : {&h, &g, &d_h, &d_a, &d_b}) CHECK(found->error() < bound<T>);
    }
  }
  SECTION("dropout") {
    Twin<T> dropped = zero<T>(R, I);
    both<T>([&]<class U>(U) {
      dropout_forward<EigenBackend, U>(be, x.template as<U>(), dropped.template as<U>(),
                                       {0.3, {5, 6}});
    });
    CHECK(dropped.error() < bound<T>);
  }
}

TEMPLATE_TEST_CASE("cross-entropy in narrow scalars, of labels that are all but certain too", "",
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  EigenBackend be(1);
  const index_t R = 4, V = 11;
  const std::vector<std::int32_t> labels{3, 0, -100, 10};
  const double smoothing = GENERATE(0.0, 0.1), certain = GENERATE(0.0, 9.0);
  Twin<T> z(R, V, 1), d_z = zero<T>(R, V);
  for (index_t r = 0; r < R; ++r) {
    if (labels[r] < 0) continue;
    const T raised(z.wide[r * V + labels[r]] + certain);
    z.narrow[r * V + labels[r]] = raised, z.wide[r * V + labels[r]] = double(compute_t<T>(raised));
  }
  Twin<T> in_place = z;
  Values loss;
  both<T>([&]<class U>(U) {
    using C = compute_t<U>;
    std::vector<C> lse(static_cast<std::size_t>(R));
    accumulate_t<U> sum(0);
    const View<const std::int32_t, 1> y(labels.data(), {R});
    const View<C, 1> l(lse.data(), {R});
    cross_entropy_forward<EigenBackend, U>(be, z.template as<U>(), y, smoothing, l,
                                           View<accumulate_t<U>, 1>(&sum, {1}));
    cross_entropy_backward<EigenBackend, U>(be, z.template as<U>(), y, smoothing, l, 0.5,
                                            d_z.template as<U>());
    cross_entropy_backward_in_place<EigenBackend, U>(be, in_place.template as<U>(), y, smoothing, l,
                                                     0.5);
    loss.push_back(double(sum));
  });
  CHECK(loss[0] == Approx(loss[1]).epsilon(1e-5).margin(1e-6));
  CHECK(d_z.error() < bound<T>);
  CHECK(in_place.error() < bound<T>);
}
