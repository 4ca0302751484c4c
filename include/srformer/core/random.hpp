// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: a pure function of (key, stream, index), hence the same for every
// backend, thread count and order of evaluation. Philox 4x32-10, Salmon et al., SC 2011.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

#include <srformer/core/config.hpp>

namespace srformer {

/// Names one sequence of random numbers: `key` is the seed of the run, `stream` the use of it.
struct RandomStream {
  std::uint64_t key = 0;
  std::uint64_t stream = 0;

  /// Another, independent sequence of the same run.
  SRF_IN_LOOP constexpr RandomStream substream(std::uint64_t use) const {
    // splitmix64: neighbouring uses lead to unrelated streams.
    std::uint64_t z = stream * 0x9E3779B97F4A7C15ULL + use + 0x632BE59BD9B4E019ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return {key, z ^ (z >> 31)};
  }
};

/// Four independent 32-bit words.
struct RandomWords {
  std::uint32_t word[4];
};

inline namespace SRF_TARGET {

/// The four words at `index` of a stream.
SRF_HD constexpr RandomWords philox(const RandomStream& random, std::uint64_t index) {
  std::uint32_t c0 = static_cast<std::uint32_t>(index),
                c1 = static_cast<std::uint32_t>(index >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(random.stream),
                c3 = static_cast<std::uint32_t>(random.stream >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(random.key),
                k1 = static_cast<std::uint32_t>(random.key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c0, p1 = std::uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

/// The 32-bit word at `index`: four neighbours share one evaluation's counter.
SRF_HD constexpr std::uint32_t random_word(const RandomStream& random, std::uint64_t index) {
  return philox(random, index >> 2).word[index & 3];
}

/// Uniform in [0, 1), 53 bits.
SRF_HD constexpr double uniform(const RandomStream& random, std::uint64_t index) {
  const RandomWords w = philox(random, index);
  const std::uint64_t bits = (std::uint64_t{w.word[0]} << 32 | w.word[1]) >> 11;
  return static_cast<double>(bits) * 0x1.0p-53;
}

/// Normal with mean 0 and deviation 1 (Box and Muller).
inline double normal(const RandomStream& random, std::uint64_t index) {
  const RandomWords w = philox(random, index);
  const std::uint64_t a = (std::uint64_t{w.word[0]} << 32 | w.word[1]) >> 11;
  const std::uint64_t b = (std::uint64_t{w.word[2]} << 32 | w.word[3]) >> 11;
  const double u = (static_cast<double>(a) + 1) * 0x1.0p-53;  // in (0, 1]: its log is finite
  const double v = static_cast<double>(b) * 0x1.0p-53;
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
}

/// An integer in [0, bound), bound >= 1, without bias worth the name (64-bit multiply and shift).
SRF_HD constexpr std::uint64_t random_below(const RandomStream& random, std::uint64_t index,
                                            std::uint64_t bound) {
  const RandomWords w = philox(random, index);
  const std::uint64_t x = std::uint64_t{w.word[0]} << 32 | w.word[1];
  const std::uint64_t high = x >> 32, low = x & 0xFFFFFFFFu;
  return bound <= 0xFFFFFFFFu ? (high * bound + ((low * bound) >> 32)) >> 32 : x % bound;
}

}  // namespace SRF_TARGET

}  // namespace srformer
