// SPDX-License-Identifier: Apache-2.0
// Loops of a device: rows that are copied, and turns that go one to a member, on teams of one and of four.
#include <Eigen/Core>
#include <srformer/backend/device_loops.hpp>
#include <srformer/backend/tensor.hpp>

#include "support/backends.hpp"
#include "support/catch.hpp"

using namespace srformer;

namespace {

/// Row i of the copy is row `count - 1 - i` of what lies `stride` apart.
struct CopyBackwards {
  index_t count, width, stride;
  const float* from;
  float* to;
  template <class Team>
  void operator()(const Team& team, index_t, void*) const {
    const float* last = from + (count - 1) * stride;
    const index_t apart = stride;
    detail::copy_rows(
        team, count, width, [=](index_t i) { return last - i * apart; }, to);
  }
};

struct Count {
  int* times;
  void operator()(index_t i) const { ++times[i]; }
};

}  // namespace

TEMPLATE_TEST_CASE("rows are copied from where they lie, and nothing behind them is written", "",
                   EigenBackend, ThreadTeamBackend) {
  TestType be = tests::make_backend<TestType>(1);
  for (const index_t count : {0, 1, 3, 16, 33}) {
    for (const index_t width : {1, 5, 8, 64}) {
      CAPTURE(count, width);
      const index_t stride = width + 3;
      std::vector<float> from(static_cast<std::size_t>(count * stride + 1));
      for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<float>(i);
      std::vector<float> to(static_cast<std::size_t>(count * width + 1), -1.0f);
      be.for_each_row(1, 0, CopyBackwards{count, width, stride, from.data(), to.data()});
      index_t wrong = 0;
      for (index_t i = 0; i < count; ++i) {
        for (index_t c = 0; c < width; ++c)
          wrong += to[static_cast<std::size_t>(i * width + c)] !=
                   static_cast<float>((count - 1 - i) * stride + c);
      }
      CHECK(wrong == 0);
      CHECK(to.back() == -1.0f);
    }
  }
}

TEMPLATE_TEST_CASE("every long turn is taken once", "", EigenBackend, ThreadTeamBackend) {
  TestType be = tests::make_backend<TestType>(1);
  for (const index_t n : {0, 1, 127, 128, 129, 1000}) {
    std::vector<int> times(static_cast<std::size_t>(n + 1), 0);
    detail::for_each_long(be, n, Count{times.data()});
    CHECK(times.back() == 0);
    times.pop_back();
    CHECK(std::ranges::count(times, 1) == n);
  }
}
