// SPDX-License-Identifier: Apache-2.0
#include <srformer/ops/embedding.hpp>

#include <srformer/backend/eigen.hpp>
#include <srformer/testing/grad_check.hpp>

#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;
using Ids = std::vector<std::int32_t>;

TEST_CASE("rows are looked up by id, and gradients of one id add up") {
  EigenBackend be(2);
  for (const Ids& ids : {Ids{0}, Ids{4, 0, 4, 2, 4, 0}, Ids{3, 3, 3}, Ids{4, 3, 2, 1, 0}}) {
    for (const index_t E : {1, 5}) {
      const auto R = static_cast<index_t>(ids.size());
      const GradReport report = grad_check(
          {R, E}, [&](auto table, auto y) { embedding_forward(be, ids, table, y); },
          [&](auto, auto d_y, auto d_table) { embedding_backward(be, ids, d_y, d_table); },
          GradInput("table", {5, E}));
      INFO(report.text());
      CHECK(report.ok());
      std::vector<double> table(static_cast<std::size_t>(5 * E)),
          y(static_cast<std::size_t>(R * E));
      std::iota(table.begin(), table.end(), 0.0);
      embedding_forward<EigenBackend, double>(be, ids, View<const double, 2>(table.data(), {5, E}),
                                              View<double, 2>(y.data(), {R, E}));
      for (index_t r = 0; r < R; ++r) {
        for (index_t c = 0; c < E; ++c) CHECK(y[r * E + c] == double(ids[r] * E + c));
      }
    }
  }
}

TEST_CASE("repeated ids are summed in the order of the rows, whatever the threads") {
  const Ids ids{1, 1, 1, 0, 1};
  const std::vector<float> d_y{1e8f, 1.0f, -1e8f, 7.0f, 0.5f};
  for (const int threads : {1, 2, 3}) {
    EigenBackend be(threads);
    std::vector<float> d_table(2, 0.0f);
    embedding_backward<EigenBackend, float>(be, ids, View<const float, 2>(d_y.data(), {5, 1}),
                                            View<float, 2>(d_table.data(), {2, 1}));
    CHECK(d_table == std::vector<float>{7.0f, ((1e8f + 1.0f) - 1e8f) + 0.5f});
  }
}

TEST_CASE("no ids look nothing up") {
  EigenBackend be(1);
  auto table = zeros<double, 2>(be, {5, 2}), y = zeros<double, 2>(be, {0, 2});
  CHECK_NOTHROW(embedding_forward(be, Ids{}, table.view(), y.view()));
  CHECK_NOTHROW(embedding_backward(be, Ids{}, y.view(), table.view()));
}

TEST_CASE("an id outside the vocabulary is named") {
  EigenBackend be(1);
  auto table = zeros<double, 2>(be, {5, 2}), y = zeros<double, 2>(be, {3, 2});
  CHECK_THROWS_WITH(
      embedding_forward(be, Ids{0, 4, 5}, table.view(), y.view()),
      ContainsSubstring("embedding_forward: id 5 at position 2 is outside the vocabulary of 5"));
  CHECK_THROWS_WITH(embedding_forward(be, Ids{0, -1, 4}, table.view(), y.view()),
                    ContainsSubstring("id -1 at position 1 is outside the vocabulary of 5"));
  CHECK_THROWS_WITH(
      embedding_backward(be, Ids{0, 9, 4}, y.view(), table.view()),
      ContainsSubstring("embedding_backward: id 9 at position 1 is outside the vocabulary of 5"));
  CHECK_THROWS_WITH(embedding_forward(be, Ids{0, 1}, table.view(), y.view()),
                    ContainsSubstring("y is [3,2], expected [R,E] = [2,2]"));
}
