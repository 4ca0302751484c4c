// SPDX-License-Identifier: Apache-2.0
#include <srformer/core/random.hpp>
#include <srformer/testing/thread_team.hpp>
#include <srformer/train/adafactor.hpp>

#include "support/catch.hpp"

using namespace srformer;

namespace {

using Numbers = std::vector<double>;

/// The equations at the head of adafactor.hpp for one parameter, element by element.
struct PlainAdafactor {
  std::vector<index_t> shape;
  Numbers value, rows, columns, second;

  bool factored() const { return shape.size() > 1; }
  std::size_t width() const { return static_cast<std::size_t>(shape.back()); }
  std::size_t height() const { return static_cast<std::size_t>(shape[shape.size() - 2]); }

  Numbers directions(const Numbers& g, double b2) {
    Numbers u(g.size());
    if (!factored()) {
      second.resize(g.size());
      for (std::size_t i = 0; i < g.size(); ++i) {
        second[i] = b2 * second[i] + (1 - b2) * (g[i] * g[i] + 1e-30);
        u[i] = g[i] / std::sqrt(second[i]);
      }
      return u;
    }
    const std::size_t R = height(), C = width(), matrices = g.size() / (R * C);
    rows.resize(matrices * R), columns.resize(matrices * C);
    for (std::size_t m = 0; m < matrices; ++m) {
      Numbers of_row(R), of_column(C);
      const double* x = g.data() + m * R * C;
      for (std::size_t i = 0; i < R; ++i)
        for (std::size_t j = 0; j < C; ++j)
          of_row[i] += x[i * C + j] * x[i * C + j] + 1e-30,
              of_column[j] += x[i * C + j] * x[i * C + j] + 1e-30;
      double *r = rows.data() + m * R, *c = columns.data() + m * C, mean = 0;
      for (std::size_t i = 0; i < R; ++i)
        r[i] = b2 * r[i] + (1 - b2) * of_row[i] / static_cast<double>(C),
        mean += r[i] / static_cast<double>(R);
      for (std::size_t j = 0; j < C; ++j)
        c[j] = b2 * c[j] + (1 - b2) * of_column[j] / static_cast<double>(R);
      for (std::size_t i = 0; i < R * C; ++i)
        u[m * R * C + i] = x[i] / std::sqrt(r[i / C] / mean) / std::sqrt(c[i % C]);
    }
    return u;
  }

  static double root_mean_square(const Numbers& x) {
    double sum = 0;
    for (const double y : x) sum += y * y;
    return std::sqrt(sum / static_cast<double>(x.size()));
  }

  void update(const Numbers& g, double rate, int t) {
    Numbers u = directions(g, 1 - std::pow(t, -0.8));
    const double lr = rate * std::max(1e-3, root_mean_square(value));
    const double step = lr / std::max(1.0, root_mean_square(u));
    for (std::size_t i = 0; i < u.size(); ++i)
      value[i] = value[i] - 0.1 * lr * value[i] - step * u[i];
  }
};

template <class B>
void check_tasks() {
  using Plan = detail::AdafactorPlan;
  const std::vector<std::vector<index_t>> shapes{{700, 100}, {3, 401, 90}, {40'000}, {37, 33'000},
                                                 {1},        {2, 2, 3, 5}, {0, 4},   {1, 9}};
  B be;
  Parameters<B, double> p(be);
  Plan plan;
  std::vector<PlainAdafactor> plain;
  const RandomStream random{3, 0};
  for (const auto& shape : shapes) {
    const auto& added = p.add(std::to_string(p.size()), Role::weight, shape);
    plan.add(shape, added.offset, added.count, true);
    plain.push_back({shape, {}, {}, {}, {}});
    for (index_t i = 0; i < added.count; ++i)
      plain.back().value.push_back(normal(random, static_cast<std::uint64_t>(added.offset + i)));
  }
  CHECK(plan.tasks.size() == 3 + 6 + 2 + 3 + 1 + 4 + 1);
  p.allocate();
  p.allocate_gradients();
  for (std::size_t k = 0; const auto& q : p)
    be.from_host(q.value, plain[k++].value.data(), q.count);
  Adafactor<B, double> adafactor(be, p, {.scale_parameter = true, .weight_decay = 0.1});
  for (int t = 1; t <= 3; ++t) {
    for (std::size_t k = 0; const auto& q : p) {
      Numbers g;
      for (index_t i = 0; i < q.count; ++i)
        g.push_back(normal(random.substream(static_cast<std::uint64_t>(t)),
                           static_cast<std::uint64_t>(q.offset + i)) *
                    static_cast<double>(1 + i % 7));
      be.from_host(q.gradient, g.data(), q.count);
      if (q.count > 0) plain[k].update(g, 0.05, t);
      ++k;
    }
    adafactor.update(be, p, 0.05, t);
  }
  for (std::size_t k = 0; const auto& q : p) {
    double worst = 0;
    Numbers got(static_cast<std::size_t>(q.count));
    be.to_host(got.data(), static_cast<const double*>(q.value), q.count);
    for (std::size_t i = 0; i < got.size(); ++i)
      worst = std::max(worst, std::abs(got[i] - plain[k].value[i]));
    CAPTURE(k);
    CHECK(worst < 1e-12);
    ++k;
  }
}

}  // namespace

TEST_CASE("Adafactor in many tasks is its equations element by element") {
  check_tasks<EigenBackend>();
  check_tasks<ThreadTeamBackend>();
}

TEST_CASE("Adafactor keeps rows and columns of matrices alone") {
  EigenBackend be(1);
  Parameters<EigenBackend, float> p(be);
  p.add("matrix", Role::weight, {300, 20});
  p.add("vector", Role::bias, {17});
  p.add("cube", Role::weight, {4, 6, 5});
  p.add("number", Role::scalar, {1});
  p.allocate();
  const auto kept = [&](const AdafactorOptions& options) {
    Adafactor<EigenBackend, float> adafactor(be, p, options);
    std::map<std::string, std::vector<index_t>> shapes;
    index_t numbers = 0;
    adafactor.visit_state(p, [&](const std::string& name, const auto& shape, float*, index_t n) {
      index_t count = 1;
      for (const index_t extent : shape) count *= extent;
      CHECK(count == n);
      CHECK(shapes.emplace(name, shape).second);
      numbers += n;
    });
    return std::pair(shapes, numbers);
  };
  const auto [shapes, numbers] = kept({});
  CHECK(numbers == 300 + 20 + 17 + 4 * 6 + 4 * 5 + 1);
  CHECK(shapes.size() == 6);
  CHECK(shapes.at("exp_avg_sq_row/matrix") == std::vector<index_t>{300});
  CHECK(shapes.at("exp_avg_sq_col/matrix") == std::vector<index_t>{20});
  CHECK(shapes.at("exp_avg_sq_row/cube") == std::vector<index_t>{4, 6});
  CHECK(shapes.at("exp_avg_sq_col/cube") == std::vector<index_t>{4, 5});
  CHECK(shapes.at("exp_avg_sq/vector") == std::vector<index_t>{17});
  CHECK(shapes.at("exp_avg_sq/number") == std::vector<index_t>{1});
  const auto with_moment = kept({.beta1 = 0.9});
  CHECK(with_moment.second == numbers + p.size());
  CHECK(with_moment.first.at("exp_avg/matrix") == std::vector<index_t>{300, 20});
}
