// SPDX-License-Identifier: Apache-2.0
// Buckets of distances against T5Attention._relative_position_bucket of transformers 5.23 with torch
// 2.15. The table below was written by
//
//   bucket = T5Attention._relative_position_bucket
//   for buckets, far, both in cases:
//       b = bucket(-torch.arange(5 * far + 2), both, buckets, far).tolist()
//       print([(n, x) for n, x in enumerate(b) if n == 0 or x != b[n - 1]])
//
// which also found that the buckets never fall with the distance, and that keys after the query are
// buckets/2 higher where both sides count and in bucket 0 where not. The last four cases have distances
// whose bucket would be another if the logarithm were taken in double.
#include <srformer/attention/position_bias.hpp>
#include <srformer/backend/eigen.hpp>

#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

struct Golden {
  index_t buckets, max_distance;
  bool both_sides;
  std::vector<std::pair<index_t, index_t>> starts;  ///< (distance, the bucket that begins there)
};

const std::vector<Golden> golden{
    {32,
     128,
     true,
     {{0, 0},
      {1, 1},
      {2, 2},
      {3, 3},
      {4, 4},
      {5, 5},
      {6, 6},
      {7, 7},
      {8, 8},
      {12, 9},
      {16, 10},
      {23, 11},
      {32, 12},
      {46, 13},
      {64, 14},
      {91, 15}}},
    {32, 128, false, {{0, 0},   {1, 1},   {2, 2},   {3, 3},   {4, 4},   {5, 5},   {6, 6},
                      {7, 7},   {8, 8},   {9, 9},   {10, 10}, {11, 11}, {12, 12}, {13, 13},
                      {14, 14}, {15, 15}, {16, 16}, {19, 17}, {21, 18}, {24, 19}, {27, 20},
                      {31, 21}, {35, 22}, {40, 23}, {46, 24}, {52, 25}, {59, 26}, {67, 27},
                      {77, 28}, {87, 29}, {99, 30}, {113, 31}}},
    {8, 32, true, {{0, 0}, {1, 1}, {2, 2}, {8, 3}}},
    {8, 32, false, {{0, 0}, {1, 1}, {2, 2}, {3, 3}, {4, 4}, {7, 5}, {12, 6}, {20, 7}}},
    {32,
     1000,
     true,
     {{0, 0},
      {1, 1},
      {2, 2},
      {3, 3},
      {4, 4},
      {5, 5},
      {6, 6},
      {7, 7},
      {8, 8},
      {15, 9},
      {27, 10},
      {49, 11},
      {90, 12},
      {164, 13},
      {300, 14},
      {547, 15}}},
    {32, 1000, false, {{0, 0},    {1, 1},    {2, 2},    {3, 3},    {4, 4},    {5, 5},    {6, 6},
                       {7, 7},    {8, 8},    {9, 9},    {10, 10},  {11, 11},  {12, 12},  {13, 13},
                       {14, 14},  {15, 15},  {16, 16},  {21, 17},  {27, 18},  {35, 19},  {45, 20},
                       {59, 21},  {76, 22},  {98, 23},  {127, 24}, {164, 25}, {213, 26}, {275, 27},
                       {356, 28}, {461, 29}, {597, 30}, {773, 31}}},
    {20,
     243,
     true,
     {{0, 0}, {1, 1}, {2, 2}, {3, 3}, {4, 4}, {5, 5}, {11, 6}, {24, 7}, {52, 8}, {112, 9}}},
    {20, 243, false, {{0, 0},   {1, 1},   {2, 2},   {3, 3},   {4, 4},    {5, 5},   {6, 6},
                      {7, 7},   {8, 8},   {9, 9},   {10, 10}, {14, 11},  {19, 12}, {27, 13},
                      {36, 14}, {50, 15}, {68, 16}, {94, 17}, {129, 18}, {177, 19}}},
    {4, 3, true, {{0, 0}, {1, 1}}},
    {4, 3, false, {{0, 0}, {1, 1}, {2, 2}, {3, 3}}},
    {6, 9, true, {{0, 0}, {1, 1}, {3, 2}}},
    {6, 9, false, {{0, 0}, {1, 1}, {2, 2}, {3, 3}, {5, 4}, {7, 5}}},
    {32, 33, false, {{0, 0},   {1, 1},   {2, 2},   {3, 3},   {4, 4},   {5, 5},   {6, 6},   {7, 7},
                     {8, 8},   {9, 9},   {10, 10}, {11, 11}, {12, 12}, {13, 13}, {14, 14}, {15, 15},
                     {16, 16}, {17, 17}, {18, 18}, {19, 19}, {20, 20}, {21, 22}, {22, 23}, {23, 24},
                     {25, 25}, {26, 26}, {27, 27}, {28, 28}, {29, 29}, {31, 30}, {32, 31}}},
    {10,
     160,
     false,
     {{0, 0}, {1, 1}, {2, 2}, {3, 3}, {4, 4}, {5, 5}, {10, 6}, {20, 7}, {40, 8}, {80, 9}}},
    {20,
     160,
     true,
     {{0, 0}, {1, 1}, {2, 2}, {3, 3}, {4, 4}, {5, 5}, {10, 6}, {20, 7}, {40, 8}, {80, 9}}},
    {36, 32, false, {{0, 0},   {1, 1},   {2, 2},   {3, 3},   {4, 4},   {5, 5},   {6, 6},
                     {7, 7},   {8, 8},   {9, 9},   {10, 10}, {11, 11}, {12, 12}, {13, 13},
                     {14, 14}, {15, 15}, {16, 16}, {17, 17}, {18, 18}, {19, 19}, {20, 21},
                     {21, 22}, {22, 24}, {23, 25}, {24, 27}, {25, 28}, {26, 29}, {27, 30},
                     {28, 31}, {29, 32}, {30, 33}, {31, 35}}},
    {54, 64, false, {{0, 0},   {1, 1},   {2, 2},   {3, 3},   {4, 4},   {5, 5},   {6, 6},   {7, 7},
                     {8, 8},   {9, 9},   {10, 10}, {11, 11}, {12, 12}, {13, 13}, {14, 14}, {15, 15},
                     {16, 16}, {17, 17}, {18, 18}, {19, 19}, {20, 20}, {21, 21}, {22, 22}, {23, 23},
                     {24, 24}, {25, 25}, {26, 26}, {27, 27}, {28, 28}, {29, 29}, {30, 30}, {31, 31},
                     {32, 32}, {33, 33}, {34, 34}, {35, 35}, {36, 36}, {38, 37}, {39, 38}, {40, 39},
                     {41, 40}, {43, 41}, {44, 42}, {46, 43}, {47, 44}, {48, 45}, {50, 46}, {52, 47},
                     {53, 48}, {55, 49}, {57, 50}, {59, 51}, {61, 52}, {62, 53}}},
};

}  // namespace

TEST_CASE("distances fall into the buckets of transformers") {
  for (const Golden& g : golden) {
    CAPTURE(g.buckets, g.max_distance, g.both_sides);
    const RelativeBuckets rule{g.buckets, g.max_distance, g.both_sides};
    std::size_t at = 0;
    for (index_t n = 0; n < 5 * g.max_distance + 2; ++n) {
      if (at + 1 < g.starts.size() && g.starts[at + 1].first == n) ++at;
      CAPTURE(n);
      const index_t bucket = g.starts[at].second;
      REQUIRE(rule.of(-n) == bucket);
      if (n > 0) REQUIRE(rule.of(n) == (g.both_sides ? bucket + g.buckets / 2 : 0));
    }
    CHECK(at + 1 == g.starts.size());
  }
}

TEST_CASE("a relative bias is the table's entry of the bucket of key minus query") {
  EigenBackend be(1);
  const RelativeBuckets rule{8, 32, true};
  std::vector<double> values;
  for (int i = 0; i < 8 * 3; ++i) values.push_back(i);
  const auto table = from_host<double, 2>(be, {8, 3}, values);
  const index_t M = 5, N = 40;
  Tensor<EigenBackend, double, 2> relative(be, {3, M + N - 1});
  std::fill_n(relative.data(), relative.size(), std::nan(""));
  position_bias_forward<EigenBackend, double>(be, BucketTable(be, rule, M, N), table,
                                              relative.view());
  for (index_t i = 0; i < M; ++i) {
    for (index_t j = 0; j < N; ++j) {
      for (index_t h = 0; h < 3; ++h) {
        REQUIRE(relative.data()[h * (M + N - 1) + j - i + M - 1] == values[rule.of(j - i) * 3 + h]);
      }
    }
  }
}

TEST_CASE("buckets without room for a logarithm are refused") {
  EigenBackend be(1);
  const auto refusal = [&](const RelativeBuckets& rule) {
    const auto table = zeros<double, 2>(be, {rule.buckets, 1});
    Tensor<EigenBackend, double, 2> relative(be, {1, 3});
    position_bias_forward<EigenBackend, double>(be, BucketTable(be, rule, 2, 2), table,
                                                relative.view());
  };
  CHECK_THROWS_WITH(refusal({2, 8, true}), ContainsSubstring("at least 4 buckets"));
  CHECK_THROWS_WITH(refusal({1, 8, false}), ContainsSubstring("at least 2 buckets"));
  CHECK_THROWS_WITH(refusal({32, 8, true}), ContainsSubstring("larger max_distance"));
}
