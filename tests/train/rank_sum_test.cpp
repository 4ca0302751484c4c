// SPDX-License-Identifier: Apache-2.0
// The sum over ranks that communicators of a device make, beside plain loops, bit for bit.
#include <srformer/train/rank_sum.hpp>

#include <Eigen/Core>
#include <cstring>
#include <srformer/core/random.hpp>
#include <vector>

#include "support/catch.hpp"

using namespace srformer;

TEMPLATE_TEST_CASE("ranks are added in their order and rounded once", "", float, double,
                   Eigen::bfloat16, Eigen::half) {
  using T = TestType;
  using A = accumulate_t<T>;
  for (const int ranks : {1, 2, 3, 8})
    for (const index_t count : {1, 5, 300}) {
      std::vector<std::vector<T>> of_rank(static_cast<std::size_t>(ranks));
      for (int r = 0; r < ranks; ++r)
        for (index_t i = 0; i < count; ++i)
          of_rank[static_cast<std::size_t>(r)].push_back(static_cast<T>(
              normal(RandomStream{3, static_cast<std::uint64_t>(r)}, std::uint64_t(i))));
      std::vector<T> expected;
      for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
        A sum(0);
        for (const std::vector<T>& x : of_rank) sum += A(compute_t<T>(x[i]));
        expected.push_back(T(compute_t<T>(sum)));
      }
      for (int rank = 0; rank < ranks; ++rank) {
        std::vector<T> own = of_rank[static_cast<std::size_t>(rank)], parts;
        for (int r = 0; r < ranks; ++r)
          if (const auto& x = of_rank[static_cast<std::size_t>(r)]; r != rank)
            parts.insert(parts.end(), x.begin(), x.end());
        const detail::RankSum<T> sum{own.data(), parts.data(), count, ranks, rank};
        for (index_t i = 0; i < count; ++i) sum(i);
        INFO("rank " << rank << " of " << ranks << ", " << count << " elements");
        REQUIRE(std::memcmp(own.data(), expected.data(), own.size() * sizeof(T)) == 0);
      }
    }
}
