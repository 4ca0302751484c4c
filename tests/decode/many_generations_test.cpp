// SPDX-License-Identifier: Apache-2.0
// Many short generations leave nothing behind: every block goes back to the pool, which asks for none after
// the first round, every round gives what the first gave, and the process does not grow.
// SRFORMER_GENERATIONS=10000 makes so many of them, else there are 400.
#include <cstdlib>
#include <fstream>

#include <unistd.h>

#include <srformer/decode/search.hpp>

#include "models/tiny_bart.hpp"
#include "models/tiny_t5.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool sanitized = true;
#elif defined(__has_feature)
constexpr bool sanitized = __has_feature(address_sanitizer);
#else
constexpr bool sanitized = false;
#endif

/// Bytes of the process in memory; 0 where the system does not say.
std::ptrdiff_t resident() {
  std::ifstream file("/proc/self/statm");
  std::ptrdiff_t all = 0, pages = 0;
  file >> all >> pages;
  return pages * ::sysconf(_SC_PAGESIZE);
}

constexpr std::uint64_t round_size = 100;

/// Call `number` of a round: greedy search, beams, sampling or beam sampling of one to three sources.
template <class Model>
Generation call(Model& model, std::uint64_t number) {
  const RandomStream random{number, 7};
  std::uint64_t use = 0;
  const auto below = [&](index_t n) {
    return static_cast<index_t>(random_below(random, use++, static_cast<std::uint64_t>(n)));
  };
  std::vector<index_t> lengths;
  for (index_t rows = 1 + below(3); rows > 0; --rows) lengths.push_back(1 + below(28));
  const Batch batch = random_batch(model.config(), lengths, std::vector<index_t>(lengths.size(), 1),
                                   number, below(2));
  GenerationConfig config;
  config.max_new_tokens = 1 + below(10);
  config.min_length = below(3);
  config.no_repeat_ngram_size = below(3);
  if (number % 2 != 0) config.num_beams = 2 + below(3), config.num_return_sequences = 1 + below(2);
  if (number % 4 >= 2) config.do_sample = true, config.top_k = below(9), config.seed = number;
  return generate(model, batch.source_ids, batch.source_lengths, config);
}

}  // namespace

TEST_CASE("thousands of short generations take no more memory than the first") {
  const char* asked = std::getenv("SRFORMER_GENERATIONS");
  const std::uint64_t rounds =
      (asked != nullptr ? std::strtoull(asked, nullptr, 10) : 400) / round_size;
  REQUIRE(rounds >= 2);

  EigenBackend be(1);
  const CrossAttentionOptions recurrent = cross_options(Variant::segmented_recurrent);
  T5<EigenBackend, float> t5(be, tiny_config()), recurrent_t5(be, tiny_config(recurrent));
  Bart<EigenBackend, float> bart(be, tiny_bart_config()),
      recurrent_bart(be, tiny_bart_config(recurrent));
  randomize(t5, 1), randomize(recurrent_t5, 2), randomize(bart, 3), randomize(recurrent_bart, 4);
  const std::size_t models_alone = be.pool().bytes_in_use();

  std::vector<Generation> first;
  std::size_t acquisitions = 0, peak = 0, tokens = 0;
  std::ptrdiff_t early = 0;
  for (std::uint64_t round = 0; round < rounds; ++round) {
    for (std::uint64_t i = 0; i < round_size; ++i) {
      Generation got = i / 4 % 4 == 0   ? call(t5, i)
                       : i / 4 % 4 == 1 ? call(bart, i)
                       : i / 4 % 4 == 2 ? call(recurrent_t5, i)
                                        : call(recurrent_bart, i);
      REQUIRE(be.pool().bytes_in_use() == models_alone);
      if (round == 0) {
        for (const auto& row : got.sequences) tokens += row.size();
        first.push_back(std::move(got));
      } else {
        REQUIRE(got.sequences == first[i].sequences);
        REQUIRE(got.scores == first[i].scores);
      }
    }
    if (round == 0) acquisitions = be.pool().acquisitions(), peak = be.pool().peak_bytes();
    if ((round + 1) * round_size == 1000) early = resident();
  }
  CHECK(tokens > 5 * round_size);
  CHECK(be.pool().acquisitions() == acquisitions);
  CHECK(be.pool().peak_bytes() == peak);
  if (early == 0 || rounds * round_size < 2000 || sanitized) return;
  const std::ptrdiff_t late = resident();
  CAPTURE(early, late);
  CHECK(late - early < 256 * 1024);
}
