// SPDX-License-Identifier: Apache-2.0
#include <srformer/core/random.hpp>

#include <array>
#include <set>
#include <vector>

#include "support/catch.hpp"

using namespace srformer;

namespace {

std::array<std::uint32_t, 4> words(std::uint64_t key, std::uint64_t stream, std::uint64_t index) {
  const RandomWords w = philox({key, stream}, index);
  return {w.word[0], w.word[1], w.word[2], w.word[3]};
}

using Words = std::array<std::uint32_t, 4>;

}  // namespace

TEST_CASE("Philox 4x32-10 gives the known answers of Random123") {
  CHECK(words(0, 0, 0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(words(~0ULL, ~0ULL, ~0ULL) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  // Counter and key from the digits of pi.
  CHECK(words(0x299f31d0a4093822ULL, 0x0370734413198a2eULL, 0x85a308d3243f6a88ULL) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  static_assert(philox({0, 0}, 0).word[0] == 0x6627e8d5);
}

TEST_CASE("single words are the four words of an index in turn") {
  const RandomStream random{7, 8};
  for (std::uint64_t i = 0; i < 20; ++i) CHECK(random_word(random, i) == words(7, 8, i / 4)[i % 4]);
}

TEST_CASE("uniform numbers have the moments of the uniform distribution") {
  constexpr int count = 200000;
  double sum = 0, square = 0, along = 0, before = 0.5, low = 1, high = 0;
  for (int i = 0; i < count; ++i) {
    const double u = uniform({3, 4}, static_cast<std::uint64_t>(i));
    low = std::min(low, u), high = std::max(high, u);
    sum += u, square += u * u, along += (u - 0.5) * (before - 0.5);
    before = u;
  }
  // Five standard errors each.
  CHECK(sum / count == Approx(0.5).margin(5 * std::sqrt(1.0 / 12 / count)));
  CHECK(square / count == Approx(1.0 / 3).margin(5 * std::sqrt(4.0 / 45 / count)));
  CHECK(along / count == Approx(0).margin(5.0 / 12 / std::sqrt(count)));
  CHECK(low >= 0);
  CHECK(low < 1e-3);
  CHECK(high < 1);
  CHECK(high > 0.999);
}

TEST_CASE("normal numbers have the moments of the normal distribution") {
  constexpr int count = 200000;
  double sum = 0, square = 0, third = 0, fourth = 0;
  for (int i = 0; i < count; ++i) {
    const double x = normal({3, 5}, static_cast<std::uint64_t>(i));
    REQUIRE(std::isfinite(x));
    sum += x, square += x * x, third += x * x * x, fourth += x * x * x * x;
  }
  CHECK(sum / count == Approx(0).margin(5 / std::sqrt(count)));
  CHECK(square / count == Approx(1).margin(5 * std::sqrt(2.0 / count)));
  CHECK(third / count == Approx(0).margin(5 * std::sqrt(15.0 / count)));
  CHECK(fourth / count == Approx(3).margin(5 * std::sqrt(96.0 / count)));
}

TEST_CASE("integers below a bound are even and below it") {
  for (const std::uint64_t bound : {1ULL, 2ULL, 3ULL, 7ULL, 10ULL}) {
    std::vector<int> seen(bound);
    constexpr int count = 40000;
    for (int i = 0; i < count; ++i) {
      const std::uint64_t x = random_below({1, 2}, static_cast<std::uint64_t>(i), bound);
      REQUIRE(x < bound);
      ++seen[x];
    }
    const double expected = double(count) / double(bound);
    for (const int times : seen)
      CHECK(times == Approx(expected).margin(5 * std::sqrt(expected) + 1));
  }
  double mean = 0;
  const std::uint64_t large = 0xFFFFFFFFFULL;  // above 32 bits
  for (std::uint64_t i = 0; i < 10000; ++i) {
    const std::uint64_t x = random_below({1, 2}, i, large);
    REQUIRE(x < large);
    mean += double(x) / double(large) / 10000;
  }
  CHECK(mean == Approx(0.5).margin(0.02));
  for (std::uint64_t i = 0; i < 1000; ++i)
    REQUIRE(random_below({1, 2}, i, 0xFFFFFFFFULL) < 0xFFFFFFFFULL);
}

TEST_CASE("streams of a run are different, and the same when asked for again") {
  const RandomStream random{42, 0};
  std::set<std::uint64_t> streams{random.stream};
  for (std::uint64_t use = 0; use < 1000; ++use) {
    CHECK(random.substream(use).key == 42);
    streams.insert(random.substream(use).stream);
    for (std::uint64_t deeper = 0; deeper < 5; ++deeper) {
      streams.insert(random.substream(use).substream(deeper).stream);
    }
  }
  CHECK(streams.size() == 1 + 1000 + 5000);
  CHECK(random.substream(3).stream == random.substream(3).stream);
  CHECK(uniform(random.substream(1), 0) != uniform(random.substream(2), 0));
  CHECK(uniform({1, 0}, 0) != uniform({2, 0}, 0));
}
