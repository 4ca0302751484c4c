// SPDX-License-Identifier: Apache-2.0
// Each processor against a plain loop over the whole vocabulary, and the best tokens against sorting.
#include <srformer/decode/logits.hpp>

#include <numeric>

#include "support/backends.hpp"
#include "support/catch.hpp"

#include <srformer/core/random.hpp>

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

using Ids = std::vector<std::int32_t>;
constexpr double ruled_out = -std::numeric_limits<double>::infinity();
constexpr std::size_t V = 11;

/// Some scores of both signs.
std::vector<double> some_scores(std::size_t count, std::uint64_t seed) {
  std::vector<double> scores(count);
  for (std::size_t i = 0; i < count; ++i) scores[i] = 2 * normal({seed, 1}, i);
  return scores;
}

/// The scores of one row after the processors of `config`.
std::vector<double> processed(const GenerationConfig& config, const Ids& sequence,
                              const std::vector<double>& scores, const Ids& eos = {1},
                              const Ids& source = {}) {
  EigenBackend be(1);
  const std::vector<index_t> lengths{std::ssize(source)};
  const LogitsProcessors processors(config, eos, source, lengths);
  const std::vector<ScoreChanges> changes{processors.changes(sequence, 0)};
  const auto logits = from_host<double, 2>(be, {1, std::ssize(scores)}, scores);
  const Candidates all =
      best_tokens<EigenBackend, double>(be, logits, changes, config.repetition_penalty, 0, false);
  std::vector<double> result(scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i)
    result[static_cast<std::size_t>(all.tokens[i])] = all.scores[i];
  return result;
}

bool holds(const Ids& ids, std::size_t token) {
  return std::ranges::find(ids, static_cast<std::int32_t>(token)) != ids.end();
}

/// `scores` with what `banned` says replaced by -inf.
template <class Banned>
std::vector<double> without(std::vector<double> scores, Banned banned) {
  for (std::size_t token = 0; token < scores.size(); ++token)
    if (banned(token)) scores[token] = ruled_out;
  return scores;
}

const Ids sequences[] = {{0},          {0, 4},          {0, 4, 4},          {0, 2, 3, 2},
                         {0, 2, 2, 2}, {0, 3, 5, 3, 5}, {0, 2, 3, 4, 2, 3}, {0, 0, 0, 7, 0, 0}};

}  // namespace

TEST_CASE("repetition_penalty divides what is above zero and multiplies what is below, once") {
  const auto scores = some_scores(V, 1);
  for (const double penalty : {1.7, 0.6}) {
    for (const Ids& sequence : sequences) {
      GenerationConfig config;
      config.repetition_penalty = penalty;
      auto expected = scores;
      for (std::size_t token = 0; token < V; ++token) {
        if (holds(sequence, token))
          expected[token] = scores[token] < 0 ? scores[token] * penalty : scores[token] / penalty;
      }
      CHECK(processed(config, sequence, scores) == expected);
    }
  }
}

TEST_CASE("no_repeat_ngram_size bans what would complete an n-gram a second time") {
  const auto scores = some_scores(V, 2);
  std::size_t banned = 0;
  for (const index_t n : {1, 2, 3, 4}) {
    for (const Ids& sequence : sequences) {
      CAPTURE(n, sequence);
      GenerationConfig config;
      config.no_repeat_ngram_size = n;
      const auto expected = without(scores, [&](std::size_t token) {
        Ids longer = sequence;
        longer.push_back(static_cast<std::int32_t>(token));
        if (std::ssize(longer) < n) return false;
        const Ids last(longer.end() - n, longer.end());
        const auto found = std::search(longer.begin(), longer.end() - 1, last.begin(), last.end());
        return found != longer.end() - 1;
      });
      banned += static_cast<std::size_t>(std::ranges::count(expected, ruled_out));
      CHECK(processed(config, sequence, scores) == expected);
    }
  }
  CHECK(banned > 20);
}

TEST_CASE("encoder_no_repeat_ngram_size bans n-grams of the source without its padding") {
  const auto scores = some_scores(V, 3);
  const Ids source{4, 2, 3, 5, 3, 0, 7, 1};
  std::size_t banned = 0;
  for (const index_t n : {1, 2, 3}) {
    for (const Ids& sequence : sequences) {
      CAPTURE(n, sequence);
      GenerationConfig config;
      config.encoder_no_repeat_ngram_size = n;
      const auto expected = without(scores, [&](std::size_t token) {
        Ids longer = sequence;
        longer.push_back(static_cast<std::int32_t>(token));
        if (std::ssize(longer) < n) return false;
        return std::search(source.begin(), source.end(), longer.end() - n, longer.end()) !=
               source.end();
      });
      banned += static_cast<std::size_t>(std::ranges::count(expected, ruled_out));
      CHECK(processed(config, sequence, scores, {1}, source) == expected);
    }
  }
  CHECK(banned > 20);
  // padded to ten
  GenerationConfig config;
  config.encoder_no_repeat_ngram_size = 1;
  Ids ids = source;
  ids.resize(10, 9);
  ids.insert(ids.end(), 10, 6);
  const std::vector<index_t> lengths{8, 3};
  const LogitsProcessors processors(config, Ids{1}, ids, lengths);
  CHECK_FALSE(holds(processors.changes(Ids{0}, 0).banned, 9));
  CHECK(processors.changes(Ids{0}, 1).banned == Ids{6, 6, 6});
}

TEST_CASE("bad words are banned where they would be complete, an end token alone is not") {
  const auto scores = some_scores(V, 4);
  GenerationConfig config;
  config.bad_words_ids = {{1}, {6}, {2, 3}, {4, 4, 8}, {5, 1}, {0, 2, 3, 4, 2, 3, 10, 9}};
  for (const Ids& sequence : sequences) {
    CAPTURE(sequence);
    const auto ends_with = [&](const Ids& last) {
      return sequence.size() >= last.size() &&
             std::equal(last.rbegin(), last.rend(), sequence.rbegin());
    };
    const auto expected = without(scores, [&](std::size_t token) {
      return token == 6 || (token == 3 && ends_with({2})) || (token == 8 && ends_with({4, 4})) ||
             (token == 1 && ends_with({5}));
    });
    CHECK(processed(config, sequence, scores) == expected);
  }
}

TEST_CASE("min_length and min_new_tokens keep every end token out until then") {
  const auto scores = some_scores(V, 5);
  const Ids eos{1, 7};
  for (const Ids& sequence : sequences) {
    const auto length = std::ssize(sequence);
    const auto expected = [&](index_t least) {
      return without(scores, [&](std::size_t t) { return length < least && holds(eos, t); });
    };
    GenerationConfig config;
    config.min_length = 4;
    CHECK(processed(config, sequence, scores, eos) == expected(4));
    config.min_new_tokens = 2;  // goes before min_length; the start token does not count
    CHECK(processed(config, sequence, scores, eos) == expected(3));
  }
}

TEST_CASE("forced tokens take all of the score at their place, whatever else is asked for") {
  const auto scores = some_scores(V, 6);
  GenerationConfig config;
  config.forced_bos_token_id = 4, config.forced_eos_token_id = {1, 3};
  config.max_length = 5;
  config.no_repeat_ngram_size = 1, config.repetition_penalty = 3, config.bad_words_ids = {{4}};
  const auto only = [](const Ids& ids) {
    std::vector<double> forced(V, ruled_out);
    for (const std::int32_t id : ids) forced[static_cast<std::size_t>(id)] = 0;
    return forced;
  };
  CHECK(processed(config, {0}, scores) == only({4}));
  CHECK(processed(config, {0, 4, 3, 3}, scores) == only({1, 3}));
  CHECK(processed(config, {0, 4, 3}, scores) != only({1, 3}));
  config.max_new_tokens = 1;
  CHECK(processed(config, {0}, scores) == only({1, 3}));  // both: the end goes last
  config.suppress_tokens = {3};                           // is later still
  CHECK(processed(config, {0}, scores) == only({1}));
}

TEST_CASE("suppressed tokens are out always, or at the beginning, after a forced token") {
  const auto scores = some_scores(V, 7);
  GenerationConfig config;
  config.suppress_tokens = {2, 5};
  config.begin_suppress_tokens = {6};
  const auto without_all = [&](const Ids& banned) {
    return without(scores, [&](std::size_t token) { return holds(banned, token); });
  };
  CHECK(processed(config, {0}, scores) == without_all({2, 5, 6}));
  CHECK(processed(config, {0, 3}, scores) == without_all({2, 5}));
  config.forced_bos_token_id = 3;
  CHECK(processed(config, {0, 3}, scores) == without_all({2, 5, 6}));
  CHECK(processed(config, {0, 3, 3}, scores) == without_all({2, 5}));
}

TEST_CASE("nothing is changed where nothing is asked for") {
  GenerationConfig config;
  const std::vector<index_t> lengths{1};
  CHECK_FALSE(LogitsProcessors(config, Ids{1}, Ids{3}, lengths).any());
  config.suppress_tokens = {2};
  CHECK(LogitsProcessors(config, Ids{1}, Ids{3}, lengths).any());
}

TEMPLATE_LIST_TEST_CASE("the best tokens are those of sorting, on every backend", "",
                        tests::HostBackends) {
  TestType be = tests::make_backend<TestType>(2);
  for (const index_t columns : {1, 2, 255, 256, 257, 1000, 2047, 2048, 2049, 6200}) {
    for (const index_t count : {index_t{1}, index_t{7}, columns}) {
      if (count > columns || (count > 1000 && columns > 2049)) continue;
      CAPTURE(columns, count);
      const index_t rows = 3;
      auto scores = some_scores(static_cast<std::size_t>(rows * columns), 8);
      for (double& s : scores) s = std::round(2 * s) / 2;  // many are equal
      const auto logits = from_host<double, 2>(be, {rows, columns}, scores);
      for (const bool log_softmax : {false, true}) {
        const Candidates best =
            best_tokens<TestType, double>(be, logits, {}, 1, count, log_softmax);
        REQUIRE(best.count == count);
        for (index_t r = 0; r < rows; ++r) {
          const double* row = scores.data() + r * columns;
          double total = 0;
          for (index_t c = 0; c < columns; ++c) total += std::exp(row[c]);
          std::vector<std::int32_t> order(static_cast<std::size_t>(columns));
          std::iota(order.begin(), order.end(), 0);
          std::ranges::stable_sort(order, [&](auto a, auto b) { return row[a] > row[b]; });
          for (index_t i = 0; i < count; ++i) {
            const auto at = static_cast<std::size_t>(r * count + i);
            CHECK(best.tokens[at] == order[static_cast<std::size_t>(i)]);
            CHECK(best.scores[at] == Approx(row[order[static_cast<std::size_t>(i)]] -
                                            (log_softmax ? std::log(total) : 0))
                                         .margin(1e-12));
          }
          CHECK(best.log_totals[static_cast<std::size_t>(r)] ==
                Approx(log_softmax ? 0 : std::log(total)).margin(1e-12));
        }
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("changes of rows are those of their own row, and -inf comes last", "",
                        tests::HostBackends) {
  TestType be = tests::make_backend<TestType>(2);
  const std::vector<float> scores{1, 2, 3, 4, -5, -6, -7, -8, 1, 2, 3, 4};
  const auto logits = from_host<float, 2>(be, {3, 4}, scores);
  const std::vector<ScoreChanges> changes{{{3, 0}, {2}, {}}, {{0, 1}, {}, {}}, {{}, {1}, {1, 2}}};
  const Candidates best = best_tokens<TestType, float>(be, logits, changes, 2, 4, false);
  CHECK(best.scores == std::vector<double>{2, 2, 0.5, ruled_out, -7, -8, -10, -12, 0, ruled_out,
                                           ruled_out, ruled_out});
  CHECK(Ids(best.tokens.begin(), best.tokens.begin() + 3) == Ids{1, 3, 0});
  CHECK(best.tokens[8] == 2);
  CHECK(best.log_totals[2] == Approx(0).margin(1e-6));
  CHECK(to_host(be, logits) == scores);
}

TEMPLATE_LIST_TEST_CASE("changes reach every part of a row, and parts may be left without scores",
                        "", tests::HostBackends) {
  TestType be = tests::make_backend<TestType>(2);
  constexpr index_t columns = 5000;
  std::vector<double> scores(2 * columns, -1);
  scores[4100] = 8, scores[columns + 2047] = 3, scores[columns + 2048] = 2;
  const auto logits = from_host<double, 2>(be, {2, columns}, scores);
  // the first row: all but two tokens of the last part are out; the second: penalties on both sides of a border
  const std::vector<ScoreChanges> changes{{{}, {4999}, {4100, 4999}}, {{2047, 2048, 4999}, {}, {}}};
  const Candidates best = best_tokens<TestType, double>(be, logits, changes, 4, 3, false);
  CHECK(best.tokens[0] == 4100);
  CHECK(best.scores[0] == 0);
  CHECK(best.scores[1] == ruled_out);
  CHECK(best.log_totals[0] == 0);
  CHECK(Ids(best.tokens.begin() + 3, best.tokens.end()) == Ids{2047, 2048, 0});
  CHECK(std::vector<double>(best.scores.begin() + 3, best.scores.end()) ==
        std::vector<double>{0.75, 0.5, -1});
  CHECK(best.log_totals[1] ==
        Approx(std::log(std::exp(0.75) + std::exp(0.5) + 4997 * std::exp(-1) + std::exp(-4))));
}

TEST_CASE("rows without changes, counts above the vocabulary and no rows are refused") {
  EigenBackend be(1);
  const auto logits = zeros<double, 2>(be, {2, 3});
  const std::vector<ScoreChanges> one(1);
  const auto best = [&](const auto& z, std::span<const ScoreChanges> changes, index_t count) {
    return best_tokens<EigenBackend, double>(be, z, changes, 1, count, false);
  };
  CHECK_THROWS_WITH(best(logits, one, 1), ContainsSubstring("changes for every row"));
  CHECK_THROWS_WITH(best(logits, {}, 4), ContainsSubstring("count must be"));
  CHECK_THROWS_WITH(best(zeros<double, 2>(be, {0, 3}), {}, 1), ContainsSubstring("not empty"));
}
