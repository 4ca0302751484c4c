// SPDX-License-Identifier: Apache-2.0
// Beam search against hypotheses that are enumerated, and against teacher forcing on every variant.
#include <srformer/decode/search.hpp>

#include <map>

#include "decode/formula_model.hpp"
#include "models/tiny_t5.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

struct Scored {
  TokenIds tokens;
  double score;
};

/// Every sequence of `vocabulary` tokens that ends with token 1 or has max_length tokens, the best first.
std::vector<Scored> all_sequences(index_t vocabulary, std::int32_t source, index_t max_length,
                                  double length_penalty) {
  const auto formula = mixed_logits(vocabulary);
  std::vector<Scored> running{{{0}, 0}}, ended;
  while (!running.empty()) {
    std::vector<Scored> next;
    for (const Scored& s : running) {
      const auto log_probs = log_softmax(formula(source, s.tokens));
      for (index_t token = 0; token < vocabulary; ++token) {
        Scored longer{s.tokens, s.score + log_probs[static_cast<std::size_t>(token)]};
        longer.tokens.push_back(static_cast<std::int32_t>(token));
        const bool over = token == 1 || std::ssize(longer.tokens) == max_length;
        (over ? ended : next).push_back(longer);
      }
    }
    running = std::move(next);
  }
  for (Scored& s : ended)
    s.score /= std::pow(static_cast<double>(s.tokens.size() - 1), length_penalty);
  std::ranges::sort(ended, std::greater{}, &Scored::score);
  return ended;
}

GenerationConfig with_beams(index_t beams, index_t max_length) {
  GenerationConfig c;
  c.num_beams = beams, c.max_length = max_length;
  return c;
}

/// The log-probabilities that teacher forcing gives to the tokens after the start token.
template <class Model>
std::vector<double> forced_log_probs(Model& model, const Batch& source, const TokenIds& tokens) {
  Batch batch = source;
  batch.labels.assign(tokens.begin() + 1, tokens.end());
  batch.target_width = std::ssize(batch.labels);
  const auto z = logits_of(model, batch);
  const index_t V = model.config().vocab_size;
  std::vector<double> result;
  for (index_t t = 0; t < batch.target_width; ++t) {
    const auto log_probs = log_softmax({z.begin() + t * V, z.begin() + (t + 1) * V});
    result.push_back(log_probs[static_cast<std::size_t>(batch.labels[t])]);
  }
  return result;
}

}  // namespace

TEST_CASE("as many beams as there are hypotheses find the best of all sequences") {
  EigenBackend be(1);
  FormulaModel<> model{be, {5}, mixed_logits(5)};
  for (const double penalty : {0.0, 1.0, 2.0, -1.0}) {
    CAPTURE(penalty);
    GenerationConfig config = with_beams(64, 4);
    config.length_penalty = penalty, config.num_return_sequences = 64;
    config.early_stopping = EarlyStopping::never;
    for (const std::int32_t source : {3, 4, 5}) {
      const auto expected = all_sequences(5, source, 4, penalty);
      const Generation got = generate_for(model, {source}, config);
      // not all 85: those that end early with a small share are not among the first 64 of a step
      for (std::size_t i = 0; i < 8; ++i) {
        CHECK(got.sequences[i] == expected[i].tokens);
        CHECK(got.scores[i] == Approx(expected[i].score).epsilon(1e-12));
      }
    }
  }
}

TEST_CASE("early stopping decides when a source with enough finished hypotheses is over") {
  // Two hypotheses are finished after two steps, and longer ones become better by their length.
  EigenBackend be(1);
  const auto formula = [](std::int32_t, const TokenIds& sequence) {
    std::vector<double> p{0.01, 0.3, 0.67, 0.02};
    if (sequence.size() > 1) p = {0.005, 0.4, 0.59, 0.005};
    for (double& x : p) x = std::log(x);
    return p;
  };
  const auto run = [&](EarlyStopping stopping, double penalty) {
    FormulaModel<> model{be, {4}, formula};
    GenerationConfig config = with_beams(2, 9);
    config.early_stopping = stopping, config.length_penalty = penalty;
    const Generation got = generate_for(model, {7}, config);
    return std::pair(std::ssize(model.rows_asked), got.sequences.front());
  };
  const TokenIds longest{0, 2, 2, 2, 2, 2, 2, 2, 2};
  CHECK(run(EarlyStopping::yes, 2).first == 2);
  CHECK(run(EarlyStopping::never, 2) == std::pair<std::ptrdiff_t, TokenIds>(8, longest));
  // where length does not count, no running hypothesis can pass two finished ones of more probability
  CHECK(run(EarlyStopping::yes, 0).first == 2);
  CHECK(run(EarlyStopping::no, 0).first == 3);
  CHECK(run(EarlyStopping::never, 0).first == 3);
}

TEST_CASE("few beams follow the definition, with every way to stop") {
  // An independent search: all continuations of all beams sorted, written for one end token.
  const auto plain = [](std::int32_t source, index_t K, index_t max_length, double penalty,
                        EarlyStopping stopping) {
    const index_t V = 5;
    const auto formula = mixed_logits(V);
    std::vector<Scored> running{{{0}, 0}}, finished;
    for (index_t length = 1;; ++length) {
      std::vector<Scored> found;
      for (const Scored& s : running) {
        const auto p = log_softmax(formula(source, s.tokens));
        for (index_t t = 0; t < V; ++t) {
          found.push_back({s.tokens, s.score + p[static_cast<std::size_t>(t)]});
          found.back().tokens.push_back(static_cast<std::int32_t>(t));
        }
      }
      std::ranges::stable_sort(found, std::greater{}, &Scored::score);
      found.resize(std::min<std::size_t>(found.size(), 2 * static_cast<std::size_t>(K)));
      running.clear();
      for (std::size_t i = 0; i < found.size(); ++i) {
        const bool last = length + 1 == max_length;
        if (found[i].tokens.back() == 1 || last) {
          if (i < static_cast<std::size_t>(K))
            finished.push_back(
                {found[i].tokens, found[i].score / std::pow(double(length), penalty)});
        } else if (std::ssize(running) < K) {
          running.push_back(found[i]);
        }
      }
      std::ranges::stable_sort(finished, std::greater{}, &Scored::score);
      finished.resize(std::min<std::size_t>(finished.size(), static_cast<std::size_t>(K)));
      if (running.empty()) return finished;
      if (std::ssize(finished) < K) continue;
      if (stopping == EarlyStopping::yes) return finished;
      const index_t then =
          stopping == EarlyStopping::never && penalty > 0 ? max_length - 1 : length;
      if (running.front().score / std::pow(double(then), penalty) <= finished.back().score)
        return finished;
    }
  };
  EigenBackend be(1);
  FormulaModel<> model{be, {5}, mixed_logits(5)};
  std::map<std::size_t, int> lengths;
  for (const index_t K : {2, 3, 4}) {
    for (const double penalty : {1.0, 2.0, 0.0, -0.7}) {
      for (const auto stopping : {EarlyStopping::no, EarlyStopping::yes, EarlyStopping::never}) {
        for (std::int32_t source = 0; source < 12; ++source) {
          CAPTURE(K, penalty, source, int(stopping));
          GenerationConfig config = with_beams(K, 8);
          config.length_penalty = penalty, config.early_stopping = stopping;
          config.num_return_sequences = K;
          const auto expected = plain(source, K, 8, penalty, stopping);
          const Generation got = generate_for(model, {source}, config);
          REQUIRE(got.sequences.size() == expected.size());
          for (std::size_t i = 0; i < expected.size(); ++i) {
            CHECK(got.sequences[i] == expected[i].tokens);
            CHECK(got.scores[i] == Approx(expected[i].score).epsilon(1e-12));
            ++lengths[expected[i].tokens.size()];
          }
        }
      }
    }
  }
  CHECK(lengths.size() > 5);
}

TEST_CASE("beams of one source share its rows' places, and sources that are over leave the batch") {
  EigenBackend be(1);
  FormulaModel<> model{be, {9}, mixed_logits(9)};
  const GenerationConfig config = with_beams(3, 12);
  const TokenIds numbers{1, 2, 3, 4, 5, 6};
  const Generation together = generate_for(model, numbers, config);
  const std::vector<index_t> asked = model.rows_asked;
  CHECK(asked.front() == 6);  // one row a source before they differ
  CHECK(asked[1] == 18);
  CHECK(asked.back() < 18);
  index_t alone = 0;
  for (std::size_t b = 0; b < numbers.size(); ++b) {
    model.rows_asked.clear();
    const Generation single = generate_for(model, {numbers[b]}, config);
    CHECK(single.sequences.front() == together.sequences[b]);
    CHECK(single.scores.front() == together.scores[b]);
    for (const index_t rows : model.rows_asked) alone += rows;
  }
  index_t rows = 0;
  for (const index_t r : asked) rows += r;
  CHECK(rows == alone);
}

TEST_CASE("the scores of beams are those of teacher forcing, for every variant") {
  EigenBackend be(1);
  std::size_t compared = 0, moved = 0;
  for (const auto& [name, base] : variant_configs()) {
    CAPTURE(name);
    for (const index_t horizon : {4, 12}) {
      CAPTURE(horizon);
      T5<EigenBackend, double> model(be, with_horizon(base, horizon));
      randomize(model, 9);
      const bool upstream = cross_of(base).padding == Padding::upstream;
      const std::vector<index_t> lengths =
          upstream ? std::vector<index_t>{19, 19, 19} : std::vector<index_t>{19, 1, 7};
      const Batch batch = random_batch(base, lengths, {1, 1, 1}, 41, upstream ? 0 : 2, 4);
      GenerationConfig config = with_beams(4, 11);
      config.num_return_sequences = 4, config.length_penalty = 1.5;
      const Generation got = generate(model, batch.source_ids, batch.source_lengths, config);
      REQUIRE(got.sequences.size() == 12);
      for (std::size_t i = 0; i < 12; ++i) {
        const auto p =
            forced_log_probs(model, single(batch, static_cast<index_t>(i / 4)), got.sequences[i]);
        double sum = 0;
        for (std::size_t t = 0; t < p.size(); ++t) {
          CHECK(got.token_log_probs[i][t] == Approx(p[t]).margin(1e-10));
          sum += p[t];
        }
        CHECK(got.scores[i] ==
              Approx(sum / std::pow(static_cast<double>(p.size()), 1.5)).margin(1e-10));
        ++compared;
        moved += i % 4 > 0 && got.sequences[i][1] != got.sequences[i - 1][1];
      }
    }
  }
  CHECK(compared == 18 * 2 * 12);
  CHECK(moved > 20);  // hypotheses with different beginnings: rows were exchanged on the way
}

TEST_CASE("a batch gives with beams what each source gives alone") {
  EigenBackend be(1);
  for (const auto& [name, config] : variant_configs()) {
    if (cross_of(config).padding == Padding::upstream) continue;
    CAPTURE(name);
    T5<EigenBackend, double> model(be, config);
    randomize(model, 11);
    const Batch batch = random_batch(config, {17, 1, 24, 8}, {1, 1, 1, 1}, 34, 3, 6);
    GenerationConfig options = with_beams(3, 10);
    options.horizon = 7, options.num_return_sequences = 2;
    options.encoder_no_repeat_ngram_size = 1;
    const Generation together = generate(model, batch.source_ids, batch.source_lengths, options);
    for (index_t b = 0; b < batch.rows; ++b) {
      const Batch alone = single(batch, b);
      const Generation one = generate(model, alone.source_ids, alone.source_lengths, options);
      for (std::size_t i = 0; i < 2; ++i) {
        const std::size_t at = static_cast<std::size_t>(b) * 2 + i;
        CHECK(one.sequences[i] == together.sequences[at]);
        CHECK(one.scores[i] == Approx(together.scores[at]).epsilon(1e-12));
      }
    }
  }
}

TEST_CASE("one beam is greedy search") {
  EigenBackend be(1);
  for (const auto& [name, config] : variant_configs()) {
    CAPTURE(name);
    T5<EigenBackend, double> model(be, config);
    randomize(model, 12);
    const Batch batch = random_batch(config, {12, 12}, {1, 1}, 35);
    // the beam search itself with one beam, which generate gives to greedy search
    GenerationConfig options = with_beams(1, 10);
    detail::Search<T5<EigenBackend, double>> search(model, batch.source_ids, batch.source_lengths,
                                                    options);
    const Generation beam = search.beams(0);
    const Generation greedy = generate(model, batch.source_ids, batch.source_lengths, options);
    for (std::size_t b = 0; b < 2; ++b) {
      // a beam goes on past an end token that is not the best, and ends where greedy search does
      CHECK(beam.sequences[b] == greedy.sequences[b]);
      CHECK(beam.scores[b] == Approx(greedy.scores[b]).epsilon(1e-12));
    }
  }
}

TEST_CASE("more beams than there are continuations are refused") {
  EigenBackend be(1);
  FormulaModel<> model{be, {2}, mixed_logits(2)};
  GenerationConfig config = with_beams(3, 4);
  config.eos_token_id = TokenIds{0, 1};
  CHECK_THROWS_WITH(generate_for(model, {1}, config), ContainsSubstring("too small"));
}
