// SPDX-License-Identifier: Apache-2.0
#include <srformer/ops/embedding.hpp>

#include <srformer/backend/eigen.hpp>
#include <srformer/testing/grad_check.hpp>

#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;
using Ids = std::vector<std::int32_t>;
using Values = std::vector<double>;

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

TEST_CASE("the padding id gets no gradient, and the others theirs") {
  EigenBackend be(2);
  const std::vector<double> d_y{1, 2, 4, 8, 16, 32};
  const auto gradient = [&](const Ids& ids, std::int32_t padding_id) {
    std::vector<double> d_table{0.5, 0.25, 0.125, 7, 9};
    const auto R = static_cast<index_t>(ids.size());
    embedding_backward<EigenBackend, double>(be, ids, View<const double, 2>(d_y.data(), {R, 1}),
                                             View<double, 2>(d_table.data(), {5, 1}), padding_id);
    return d_table;
  };
  const Ids ids{1, 0, 1, 2, 0, 4};
  CHECK(gradient(ids, -1) == Values{18.5, 5.25, 8.125, 7, 41});
  CHECK(gradient(ids, 0) == Values{0.5, 5.25, 8.125, 7, 41});
  CHECK(gradient(ids, 1) == Values{18.5, 0.25, 8.125, 7, 41});
  CHECK(gradient(ids, 4) == Values{18.5, 5.25, 8.125, 7, 9});
  CHECK(gradient(ids, 3) == gradient(ids, -1));
  CHECK(gradient({2, 2, 2}, 2) == Values{0.5, 0.25, 0.125, 7, 9});
  CHECK_THROWS_WITH(gradient({1, 7}, 7), ContainsSubstring("id 7 at position 1"));
}

namespace {

void check_positions_of(EigenBackend& be, index_t sequences, index_t length, index_t E, index_t P,
                        index_t first, double scale) {
  CAPTURE(sequences, length, E, P, first, scale);
  const index_t R = sequences * length;
  std::vector<double> y(static_cast<std::size_t>(R * E)),
      positions(static_cast<std::size_t>(P * E));
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = std::sin(double(i));
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = std::cos(double(i));
  std::vector<double> expected(y.size());
  for (index_t b = 0; b < sequences; ++b) {
    for (index_t i = 0; i < length; ++i) {
      for (index_t c = 0; c < E; ++c) {
        const index_t at = (b * length + i) * E + c;
        expected[at] = scale * y[at] + positions[(first + i) * E + c];
      }
    }
  }
  add_positions_forward<EigenBackend, double>(be, length,
                                              View<const double, 2>(positions.data(), {P, E}),
                                              first, scale, View<double, 2>(y.data(), {R, E}));
  CHECK(y == expected);
  // as an op from x and positions to y; both work in place
  const GradReport report = grad_check(
      {R, E},
      [&](auto x, auto table, auto out) {
        std::copy_n(x.data, x.size(), out.data);
        add_positions_forward(be, length, table, first, scale, out);
      },
      [&](auto, auto, auto d_y, auto d_x, auto d_table) {
        std::vector<double> d(d_y.data, d_y.data + d_y.size());
        add_positions_backward<EigenBackend, double>(be, length, d_table, first, scale,
                                                     View<double, 2>(d.data(), {R, E}));
        for (index_t i = 0; i < d_x.size(); ++i) d_x.data[i] += d[i];
      },
      GradInput("x", {R, E}), GradInput("positions", {P, E}));
  INFO(report.text());
  CHECK(report.ok());
}

}  // namespace

TEST_CASE("positions are added row by row from the first on, to scaled rows of every sequence") {
  EigenBackend be(2);
  check_positions_of(be, 1, 1, 1, 1, 0, 1);
  check_positions_of(be, 1, 5, 3, 5, 0, 1);
  check_positions_of(be, 3, 5, 3, 9, 2, 1);
  check_positions_of(be, 4, 2, 7, 6, 4, 3.5);
  check_positions_of(be, 7, 1, 5, 12, 11, 0.25);  // one step of decoding
}

TEST_CASE("gradients of positions are summed in the order of the sequences, whatever the threads") {
  for (const int threads : {1, 2, 3}) {
    EigenBackend be(threads);
    std::vector<float> d_y{1e8f, 3.0f, 1.0f, 3.0f, -1e8f, 3.0f},
        d_positions{9.0f, 0.0f, 1.0f, 9.0f};
    add_positions_backward<EigenBackend, float>(be, 2, View<float, 2>(d_positions.data(), {4, 1}),
                                                1, 2.0, View<float, 2>(d_y.data(), {6, 1}));
    CHECK(d_positions == std::vector<float>{9.0f, (1e8f + 1.0f) - 1e8f, 10.0f, 9.0f});
    CHECK(d_y == std::vector<float>{2e8f, 6.0f, 2.0f, 6.0f, -2e8f, 6.0f});
  }
}

TEST_CASE("no sequences have no positions") {
  EigenBackend be(1);
  auto table = zeros<double, 2>(be, {5, 2}), y = zeros<double, 2>(be, {0, 2});
  CHECK_NOTHROW(add_positions_forward(be, 3, table.view(), 0, 1.0, y.view()));
  CHECK_NOTHROW(add_positions_backward(be, 3, table.view(), 0, 1.0, y.view()));
}

TEST_CASE("errors of positions") {
  EigenBackend be(1);
  auto table = zeros<double, 2>(be, {5, 2}), wide = zeros<double, 2>(be, {5, 3});
  auto y = zeros<double, 2>(be, {6, 2});
  const auto forward = [&](index_t length, index_t first) {
    add_positions_forward(be, length, table.view(), first, 1.0, y.view());
  };
  const auto backward = [&](index_t length, index_t first) {
    add_positions_backward(be, length, table.view(), first, 1.0, y.view());
  };
  CHECK_NOTHROW(forward(3, 2));
  CHECK_NOTHROW(backward(3, 2));
  CHECK_THROWS_WITH(forward(3, 3), "add_positions_forward: position 5 is beyond the table of 5");
  CHECK_THROWS_WITH(forward(6, 0), "add_positions_forward: position 5 is beyond the table of 5");
  CHECK_THROWS_WITH(backward(2, 4), "add_positions_backward: position 5 is beyond the table of 5");
  CHECK_THROWS_AS(forward(2, -1), shape_error);
  CHECK_THROWS_WITH(forward(4, 0), "add_positions_forward: 6 rows are not sequences of 4");
  CHECK_THROWS_WITH(backward(0, 0), "add_positions_backward: 6 rows are not sequences of 0");
  CHECK_THROWS_WITH(add_positions_forward(be, 3, wide.view(), 0, 1.0, y.view()),
                    ContainsSubstring("positions is [5,3], expected [P,E] = [5,2]"));
  CHECK_THROWS_WITH(add_positions_forward(be, 3, wide.view().slice(1, 0, 2), 0, 1.0, y.view()),
                    ContainsSubstring("y and positions must be contiguous"));
}
