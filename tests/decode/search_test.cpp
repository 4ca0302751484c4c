// SPDX-License-Identifier: Apache-2.0
// Decoding one step at a time, and greedy search, against teacher forcing, which computes the same in
// another way.
#include <srformer/decode/search.hpp>

#include "decode/formula_model.hpp"
#include "models/tiny_t5.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

using Model = T5<EigenBackend, double>;
using Ids = std::vector<std::int32_t>;

/// The batch whose labels are what a decoder that wrote `outputs` has to predict; -100 is padding.
Batch teacher(const Batch& sources, const std::vector<Ids>& outputs, std::int32_t pad) {
  Batch batch = sources;
  batch.target_width = 0;
  for (const Ids& row : outputs) {
    batch.target_width = std::max(batch.target_width, static_cast<index_t>(row.size()) - 1);
  }
  batch.labels.clear();
  for (const Ids& row : outputs) {
    batch.labels.insert(batch.labels.end(), row.begin() + 1, row.end());
    batch.labels.resize(batch.labels.size() + batch.target_width + 1 - row.size(), pad);
  }
  return batch;
}

std::int32_t argmax(const double* row, index_t columns) {
  return static_cast<std::int32_t>(std::max_element(row, row + columns) - row);
}

/// Greedy search by teacher forcing: the whole decoder again for every token.
std::vector<Ids> greedy_by_teacher_forcing(Model& model, const Batch& sources, index_t max_length) {
  const T5Config& c = model.config();
  std::vector<Ids> outputs(sources.source_lengths.size(), Ids{c.decoder_start_token_id});
  for (std::size_t b = 0; b < outputs.size(); ++b) {
    const Batch alone = single(sources, static_cast<index_t>(b));
    Ids& out = outputs[b];
    while (static_cast<index_t>(out.size()) < max_length &&
           (out.size() == 1 || out.back() != c.eos_token_id)) {
      Batch batch = alone;  // the label of the last step is not read
      batch.labels.assign(out.begin() + 1, out.end());
      batch.labels.push_back(c.eos_token_id);
      batch.target_width = static_cast<index_t>(batch.labels.size());
      const auto z = logits_of(model, batch);
      out.push_back(argmax(z.data() + (batch.target_width - 1) * c.vocab_size, c.vocab_size));
    }
  }
  return outputs;
}

GenerationConfig up_to(index_t max_length, index_t horizon = 0) {
  GenerationConfig config;
  config.max_length = max_length, config.horizon = horizon;
  return config;
}

std::vector<Ids> greedy(Model& model, const Batch& batch, const GenerationConfig& config) {
  return generate(model, batch.source_ids, batch.source_lengths, config).sequences;
}

/// Upstream padding makes a source see its padding: then only batches without any are comparable.
std::vector<index_t> lengths_for(const T5Config& config) {
  return cross_of(config).padding == Padding::upstream ? std::vector<index_t>{19, 19, 19}
                                                       : std::vector<index_t>{19, 1, 7, 12};
}

}  // namespace

TEST_CASE("step by step the logits are those of teacher forcing") {
  EigenBackend be(1);
  for (const auto& [name, base] : variant_configs()) {
    CAPTURE(name);
    for (const index_t horizon : {3, 9, 16, 50}) {
      CAPTURE(horizon);
      Model model(be, with_horizon(base, horizon));
      randomize(model, 9);
      const auto lengths = lengths_for(base);
      const Batch batch =
          random_batch(base, lengths, std::vector<index_t>(lengths.size(), 9), 31, 0, 4);
      const auto expected = logits_of(model, batch);
      auto state = model.start_decoding(batch.source_ids, batch.source_lengths, 9);
      Ids last(lengths.size(), base.decoder_start_token_id);
      std::vector<double> got(expected.size());
      for (index_t t = 0; t < 9; ++t) {
        const auto z = to_host(be, model.decode_step(state, last));
        REQUIRE(static_cast<index_t>(z.size()) == batch.rows * base.vocab_size);
        for (index_t b = 0; b < batch.rows; ++b) {
          std::copy_n(z.begin() + b * base.vocab_size, base.vocab_size,
                      got.begin() + (b * 9 + t) * base.vocab_size);
          last[static_cast<std::size_t>(b)] = batch.labels[static_cast<std::size_t>(b * 9 + t)];
        }
      }
      CHECK(relative_difference(expected, got) < 1e-12);
    }
  }
}

TEST_CASE("greedy search takes the best token of teacher forcing at every step") {
  EigenBackend be(1);
  std::size_t longest = 0, shortest = 1000;
  for (const auto& [name, base] : variant_configs()) {
    CAPTURE(name);
    for (const index_t horizon : {4, 12, 40}) {
      CAPTURE(horizon);
      Model model(be, with_horizon(base, horizon));
      randomize(model, 9);
      const auto lengths = lengths_for(base);
      const Batch batch = random_batch(base, lengths, std::vector<index_t>(lengths.size(), 1), 32,
                                       2 * (cross_of(base).padding == Padding::masked), 4);
      const auto expected = greedy_by_teacher_forcing(model, batch, 12);
      CHECK(greedy(model, batch, up_to(12)) == expected);
      for (const Ids& row : expected) {
        longest = std::max(longest, row.size()), shortest = std::min(shortest, row.size());
      }
    }
  }
  CHECK(longest == 12);  // some end at max_length, some at the end token
  CHECK(shortest < 12);
}

TEST_CASE("every token that search chose is the best after those before it") {
  EigenBackend be(1);
  const T5Config config =
      with_horizon(tiny_config(cross_options(Variant::segmented_recurrent)), 10);
  Model model(be, config);
  randomize(model, 10);
  const Batch sources = random_batch(config, {11, 4, 19}, {1, 1, 1}, 33);
  const auto outputs = greedy(model, sources, up_to(10));
  const Batch batch = teacher(sources, outputs, config.pad_token_id);
  const auto z = logits_of(model, batch);
  std::size_t tokens = 0;
  for (std::size_t b = 0; b < outputs.size(); ++b) {
    for (std::size_t t = 0; t + 1 < outputs[b].size(); ++t, ++tokens) {
      const auto at = (static_cast<index_t>(b) * batch.target_width + static_cast<index_t>(t)) *
                      config.vocab_size;
      CHECK(outputs[b][t + 1] == argmax(z.data() + at, config.vocab_size));
    }
  }
  CHECK(tokens >= 6);
}

TEST_CASE("a source in a batch is given the tokens that it is given alone") {
  EigenBackend be(1);
  for (const auto& [name, config] : variant_configs()) {
    if (cross_of(config).padding == Padding::upstream) continue;
    CAPTURE(name);
    Model model(be, config);
    randomize(model, 11);
    const Batch batch = random_batch(config, {17, 1, 24, 8}, {1, 1, 1, 1}, 34, 3, 6);
    const auto together = greedy(model, batch, up_to(9, 7));
    for (index_t b = 0; b < batch.rows; ++b) {
      CHECK(greedy(model, single(batch, b), up_to(9, 7)).front() ==
            together[static_cast<std::size_t>(b)]);
    }
  }
}

TEST_CASE(
    "a horizon that is given takes the place of the configuration's, which stands otherwise") {
  EigenBackend be(1);
  CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent);
  cross.generation_horizon = 5, cross.horizon = 30;
  Model five(be, tiny_config(cross));
  cross.generation_horizon = 12;
  Model twelve(be, tiny_config(cross));
  randomize(five, 12), randomize(twelve, 12);
  const Batch batch = random_batch(five.config(), {20, 9}, {1, 1}, 35);
  const auto logits = [&](Model& model, index_t horizon) {
    auto state = model.start_decoding(batch.source_ids, batch.source_lengths, 6, horizon);
    std::vector<double> all;
    for (int t = 0; t < 6; ++t) {
      const auto z = to_host(be, model.decode_step(state, Ids{0, 0}));
      all.insert(all.end(), z.begin(), z.end());
    }
    return all;
  };
  CHECK(logits(five, 0) == logits(five, 5));
  CHECK(logits(five, 12) == logits(twelve, 0));
  CHECK(logits(five, 0) != logits(twelve, 0));
}

TEST_CASE("search does not depend on the number of threads") {
  const T5Config config = tiny_config(cross_options(Variant::segmented_recurrent));
  const auto run = [&](int threads) {
    EigenBackend be(threads);
    Model model(be, config);
    randomize(model, 11);
    return greedy(model, random_batch(config, {17, 3, 24}, {1, 1, 1}, 34), up_to(9));
  };
  CHECK(run(1) == run(2));
}

TEST_CASE("more steps than were asked for, other counts of ids and unknown ids are refused") {
  EigenBackend be(1);
  const T5Config config = tiny_config(cross_options(Variant::segmented_recurrent));
  Model model(be, config);
  randomize(model, 11);
  const Batch batch = random_batch(config, {7, 3}, {1, 1}, 34);
  auto state = model.start_decoding(batch.source_ids, batch.source_lengths, 1);
  CHECK_THROWS_WITH(model.decode_step(state, Ids{0}), ContainsSubstring("1 ids for 2 rows"));
  CHECK_THROWS_WITH(model.decode_step(state, Ids{0, 23}), ContainsSubstring("23"));
  model.decode_step(state, Ids{0, 0});
  CHECK_THROWS_WITH(model.decode_step(state, Ids{0, 0}), ContainsSubstring("no more steps"));
  CHECK_THROWS_AS(model.start_decoding(batch.source_ids, batch.source_lengths, 0), shape_error);
  CHECK_THROWS_AS(model.start_decoding({}, {}, 4), shape_error);
  CHECK_THROWS_WITH(greedy(model, batch, up_to(1)),
                    ContainsSubstring("max_length must be at least 2"));
}

TEST_CASE("rows that go on are a state's own, with the sources that they are said to have") {
  EigenBackend be(1);
  for (const auto& [name, config] : variant_configs()) {
    CAPTURE(name);
    Model model(be, with_horizon(config, 6));
    randomize(model, 11);
    const bool upstream = cross_of(config).padding == Padding::upstream;
    const Batch batch =
        random_batch(config, {upstream ? 17 : 9, upstream ? 17 : 5, 17}, {1, 1, 1}, 36);
    auto state = model.start_decoding(batch.source_ids, batch.source_lengths, 4, 0, 2);
    const Ids start(3, config.decoder_start_token_id);
    model.decode_step(state, start);
    // two rows each for the last and the first source, then they change places, then one is left
    const Ids parents[] = {{2, 2, 0, 0}, {1, 0, 2, 3}, {0}}, sources[] = {{2, 0}, {2, 0}, {2}};
    const Ids tokens[] = {{5, 6, 7, 8}, {9, 10, 11, 12}, {13}};
    std::vector<double> z;
    for (int t = 0; t < 3; ++t) {
      z = to_host(be, model.decode_step(state, tokens[t], {parents[t], sources[t]}));
    }
    Batch alone = single(batch, 2);
    alone.labels = {6, 9, 13, 1}, alone.target_width = 4;
    const auto expected = logits_of(model, alone);
    CHECK(relative_difference({expected.end() - config.vocab_size, expected.end()}, z) < 1e-12);
  }
}

TEST_CASE("rows that cannot go on are refused") {
  EigenBackend be(1);
  const T5Config config = tiny_config();
  Model model(be, config);
  randomize(model, 11);
  const Batch batch = random_batch(config, {7, 3}, {1, 1}, 34);
  auto state = model.start_decoding(batch.source_ids, batch.source_lengths, 4, 0, 2);
  const Ids two{0, 0}, one{0}, three{0, 1, 1}, missing{2, 0}, five(5, 0), pair{0, 1};
  CHECK_THROWS_WITH(model.decode_step(state, two, {two, pair}), ContainsSubstring("first step"));
  model.decode_step(state, two);
  CHECK_THROWS_WITH(model.decode_step(state, two, {missing, pair}), ContainsSubstring("parent"));
  CHECK_THROWS_WITH(model.decode_step(state, two, {two, missing}), ContainsSubstring("source"));
  CHECK_THROWS_WITH(model.decode_step(state, three, {three, pair}),
                    ContainsSubstring("3 rows in 2 groups"));
  CHECK_THROWS_WITH(model.decode_step(state, five, {five, one}),
                    ContainsSubstring("4 rows at most"));
  CHECK_THROWS_WITH(model.start_decoding(batch.source_ids, batch.source_lengths, 4, 0, 0),
                    ContainsSubstring("rows_per_source"));
}

TEST_CASE("a row ends at the end token and is not asked again") {
  EigenBackend be(1);
  FormulaModel<> model{be, {4}, [](std::int32_t source, const TokenIds& sequence) {
                         std::vector<double> z(4, 0);
                         const bool over = std::ssize(sequence) > source;
                         z[over ? 1 : 2] = 9;
                         return z;
                       }};
  const auto out = generate_for(model, {3, 1, 2}, up_to(9, 4));
  CHECK(out.sequences == std::vector<Ids>{{0, 2, 2, 2, 1}, {0, 2, 1}, {0, 2, 2, 1}});
  CHECK(model.rows_asked == std::vector<index_t>{3, 3, 2, 1});
  CHECK(model.horizon == 4);
  CHECK(out.padded() == Ids{0, 2, 2, 2, 1, 0, 2, 1, 0, 0, 0, 2, 2, 1, 0});
}

TEST_CASE("a search of two tokens asks once, and one without an end goes on to the length") {
  EigenBackend be(1);
  FormulaModel<> model{be, {4}, [](std::int32_t, const TokenIds&) {
                         return std::vector<double>{0, 9, 0, 0};
                       }};
  GenerationConfig config = up_to(2);
  CHECK(generate_for(model, {5}, config).sequences == std::vector<Ids>{{0, 1}});
  CHECK(model.rows_asked.size() == 1);
  config = up_to(4), config.eos_token_id = Ids{};
  CHECK(generate_for(model, {5}, config).sequences == std::vector<Ids>{{0, 1, 1, 1}});
  config = {}, config.eos_token_id = Ids{};
  CHECK(generate_for(model, {5}, config).sequences.front().size() == 21);
}

TEST_CASE("of equal logits the first counts") {
  EigenBackend be(1);
  const std::vector<double> answers[] = {{2, 7, 7, 7}, {-5, -5, -5, -5}, {-3, -2, -9, -2}};
  FormulaModel<> model{
      be, {4}, [&](std::int32_t source, const TokenIds&) { return answers[source]; }};
  CHECK(generate_for(model, {0, 1, 2}, up_to(2)).sequences ==
        std::vector<Ids>{{0, 1}, {0, 0}, {0, 1}});
}

TEST_CASE("scores of greedy search are mean log-probabilities") {
  EigenBackend be(1);
  FormulaModel<> model{be, {9}, mixed_logits(9)};
  const Generation got = generate_for(model, {4}, up_to(5));
  const Ids& tokens = got.sequences.front();
  double sum = 0;
  for (std::size_t t = 1; t < tokens.size(); ++t) {
    const auto p = log_softmax(mixed_logits(9)(4, Ids(tokens.begin(), tokens.begin() + t)));
    CHECK(got.token_log_probs[0][t - 1] == Approx(p[static_cast<std::size_t>(tokens[t])]));
    sum += p[static_cast<std::size_t>(tokens[t])];
  }
  CHECK(got.scores[0] == Approx(sum / static_cast<double>(tokens.size() - 1)));
}

TEST_CASE("each token is told before the next step, with its sequence") {
  EigenBackend be(1);
  std::vector<Ids> told;
  const OnToken on_token = [&](index_t sequence, std::int32_t token) {
    if (sequence >= std::ssize(told)) told.resize(static_cast<std::size_t>(sequence) + 1);
    told[static_cast<std::size_t>(sequence)].push_back(token);
  };
  const Ids numbers{4, 1, 9};
  index_t asked = 0;
  FormulaModel<> model{be, {9}, [&](std::int32_t source, const TokenIds& sequence) {
                         ++asked;
                         CHECK(std::ranges::find(told, sequence) != told.end());
                         return mixed_logits(9)(source, sequence);
                       }};
  GenerationConfig config = up_to(7);
  for (const index_t each : {1, 3}) {
    CAPTURE(each);
    config.num_return_sequences = each, config.do_sample = each > 1, config.seed = 5;
    told.clear(), asked = 0;
    const auto out = generate(model, numbers, std::vector<index_t>(3, 1), config, 0, on_token);
    CHECK(told == out.sequences);
    CHECK(std::ssize(told) == 3 * each);
    CHECK(asked > 4);
  }
  config = up_to(7), config.num_beams = 2;
  CHECK_THROWS_WITH(generate(model, numbers, std::vector<index_t>(3, 1), config, 0, on_token),
                    ContainsSubstring("on_token needs num_beams 1"));
}
