// SPDX-License-Identifier: Apache-2.0
#include <srformer/ops/cross_entropy.hpp>

#include <srformer/backend/eigen.hpp>
#include <srformer/testing/grad_check.hpp>

#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;
using Values = std::vector<double>;
using Labels = std::vector<std::int32_t>;

namespace {

/// (1 - eps) (-log p_y) + eps mean_v (-log p_v), summed over the rows that count.
double plain(const Values& logits, const Labels& labels, index_t V, double smoothing) {
  double loss = 0;
  for (std::size_t r = 0; r < labels.size(); ++r) {
    if (labels[r] < 0) continue;
    double total = 0, mean = 0;
    const double* z = logits.data() + static_cast<index_t>(r) * V;
    for (index_t v = 0; v < V; ++v) total += std::exp(z[v]);
    for (index_t v = 0; v < V; ++v) mean -= std::log(std::exp(z[v]) / total) / double(V);
    loss += (1 - smoothing) * -std::log(std::exp(z[labels[r]]) / total) + smoothing * mean;
  }
  return loss;
}

Labels labels_for(index_t R, index_t V) {
  Labels labels;
  for (index_t r = 0; r < R; ++r)
    labels.push_back(r % 4 == 2 ? -100 : static_cast<std::int32_t>(r * 7 % V));
  return labels;
}

}  // namespace

TEST_CASE("cross-entropy over shapes, by loops and by dual numbers") {
  EigenBackend be(2);
  const double smoothing = GENERATE(0.0, 0.1);
  for (const index_t R : {1, 5, 33}) {
    for (const index_t V : {2, 17, 100}) {
      const Labels labels = labels_for(R, V);
      const View<const std::int32_t, 1> label_view(labels.data(), {R});
      const auto forward = [&]<class T>(View<const T, 2> logits, View<T, 1> loss) {
        auto lse = zeros<T, 1>(be, {R});
        loss(0) = T(0);
        cross_entropy_forward(be, logits, label_view, smoothing, lse.view(), loss);
      };
      const Values z = detail::normal_values(static_cast<std::size_t>(R * V), {1, 1});
      const View<const double, 2> logits(z.data(), {R, V});
      Values lse(static_cast<std::size_t>(R)), loss{3.0};
      cross_entropy_forward(be, logits, label_view, smoothing, View<double, 1>(lse.data(), {R}),
                            View<double, 1>(loss.data(), {1}));
      INFO("R" << R << " V" << V << " smoothing " << smoothing);
      CHECK(loss[0] == Approx(3 + plain(z, labels, V, smoothing)).epsilon(1e-13));

      const GradReport report = grad_check(
          GradOptions{.coordinates = 200, .directions = 4}, {1}, forward,
          [&](auto in, auto d_loss, auto d_logits) {
            cross_entropy_backward(be, in, label_view, smoothing,
                                   View<const double, 1>(lse.data(), {R}), d_loss(0), d_logits);
          },
          GradInput("logits", {R, V}, z));
      INFO(report.text());
      CHECK(report.ok());

      // In place: the same gradient, and nothing of the logits left.
      Values d(z.size()), in_place = z;
      cross_entropy_backward(be, logits, label_view, smoothing,
                             View<const double, 1>(lse.data(), {R}), 0.25,
                             View<double, 2>(d.data(), {R, V}));
      cross_entropy_backward_in_place(be, View<double, 2>(in_place.data(), {R, V}), label_view,
                                      smoothing, View<const double, 1>(lse.data(), {R}), 0.25);
      CHECK(relative_error(in_place, d) < 1e-14);
      for (index_t r = 2; r < R; r += 4) {
        for (index_t v = 0; v < V; ++v) CHECK(in_place[r * V + v] == 0);
      }
    }
  }
}

TEST_CASE("rows that are all ignored cost nothing and pull nowhere") {
  EigenBackend be(1);
  const Labels labels{-100, -1};
  const Values z{1, 2, 3, 4};
  Values lse(2), loss{0}, d(4, 7.0), in_place = z;
  const View<const std::int32_t, 1> label_view(labels.data(), {2});
  cross_entropy_forward(be, View<const double, 2>(z.data(), {2, 2}), label_view, 0.1,
                        View<double, 1>(lse.data(), {2}), View<double, 1>(loss.data(), {1}));
  CHECK(loss[0] == 0);
  cross_entropy_backward(be, View<const double, 2>(z.data(), {2, 2}), label_view, 0.1,
                         View<const double, 1>(lse.data(), {2}), 1.0,
                         View<double, 2>(d.data(), {2, 2}));
  CHECK(d == Values(4, 7.0));
  cross_entropy_backward_in_place(be, View<double, 2>(in_place.data(), {2, 2}), label_view, 0.1,
                                  View<const double, 1>(lse.data(), {2}), 1.0);
  CHECK(in_place == Values(4, 0.0));
}

TEST_CASE("an ignored row may hold anything") {
  EigenBackend be(1);
  const Labels labels{-100, 1};
  const Values z{NAN, HUGE_VAL, 0, 0};
  Values lse(2), loss{0}, d(4, 0.0);
  const View<const std::int32_t, 1> label_view(labels.data(), {2});
  cross_entropy_forward(be, View<const double, 2>(z.data(), {2, 2}), label_view, 0.1,
                        View<double, 1>(lse.data(), {2}), View<double, 1>(loss.data(), {1}));
  CHECK(loss[0] == Approx(std::log(2.0)));
  cross_entropy_backward(be, View<const double, 2>(z.data(), {2, 2}), label_view, 0.0,
                         View<const double, 1>(lse.data(), {2}), 1.0,
                         View<double, 2>(d.data(), {2, 2}));
  CHECK(relative_error(d, Values{0, 0, 0.5, -0.5}) < 1e-15);
}

TEST_CASE("large logits in float stay finite, and losses are summed in double") {
  EigenBackend be(1);
  const std::vector<float> z{1000, -1000, 0};
  const Labels labels{1};
  std::vector<float> lse(1);
  Values loss{0};
  cross_entropy_forward(be, View<const float, 2>(z.data(), {1, 3}),
                        View<const std::int32_t, 1>(labels.data(), {1}), 0.0,
                        View<float, 1>(lse.data(), {1}), View<double, 1>(loss.data(), {1}));
  CHECK(loss[0] == Approx(2000));
  CHECK(lse[0] == 1000);
}

TEST_CASE("errors of cross-entropy") {
  EigenBackend be(1);
  auto z = zeros<double, 2>(be, {2, 3}), other = zeros<double, 2>(be, {2, 2}),
       wide = zeros<double, 2>(be, {2, 6});
  auto lse = zeros<double, 1>(be, {2}), loss = zeros<double, 1>(be, {1});
  const Labels good{0, 2}, outside{0, 3};
  const auto view = [](const Labels& labels) {
    return View<const std::int32_t, 1>(labels.data(), {static_cast<index_t>(labels.size())});
  };
  CHECK_NOTHROW(
      cross_entropy_forward(be, z.view().as_const(), view(good), 0.0, lse.view(), loss.view()));
  CHECK_THROWS_WITH(
      cross_entropy_forward(be, z.view().as_const(), view({0}), 0.0, lse.view(), loss.view()),
      ContainsSubstring("cross_entropy_forward: labels is [1], expected [R] = [2]"));
  CHECK_THROWS_WITH(
      cross_entropy_forward(be, z.view().as_const(), view(good), 0.0, loss.view(), loss.view()),
      ContainsSubstring("lse is [1], expected [R] = [2]"));
  CHECK_THROWS_WITH(cross_entropy_forward(be, wide.view().slice(1, 0, 3).as_const(), view(good),
                                          0.0, lse.view(), loss.view()),
                    ContainsSubstring("logits must be contiguous"));
  CHECK_THROWS_WITH(
      cross_entropy_forward(be, z.view().as_const(), view(outside), 0.0, lse.view(), loss.view()),
      ContainsSubstring("label 3 of row 1 is outside the vocabulary of 3"));
  CHECK_THROWS_WITH(
      cross_entropy_backward(be, z.view(), view(good), 0.0, lse.view(), 1.0, other.view()),
      ContainsSubstring("cross_entropy_backward: d_logits is [2,2], expected [R,V] = [2,3]"));
  CHECK_THROWS_WITH(
      cross_entropy_backward_in_place(be, z.view(), view({1}), 0.0, lse.view(), 1.0),
      ContainsSubstring("cross_entropy_backward_in_place: labels is [1], expected [R] = [2]"));
}
