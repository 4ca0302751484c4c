// SPDX-License-Identifier: Apache-2.0
// Decoding one step at a time against teacher forcing, which computes the same in another way.
#include <srformer/decode/search.hpp>

#include <deque>

#include "models/tiny_t5.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

using Model = T5<EigenBackend, double>;
using Ids = std::vector<std::int32_t>;

/// The configuration of a model whose training sees the horizon that decoding has.
T5Config with_horizon(T5Config config, index_t horizon) {
  config.cross_attention.horizon = config.cross_attention.generation_horizon = horizon;
  return config;
}

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

std::vector<Ids> greedy(Model& model, const Batch& batch, const GenerationOptions& options) {
  return greedy_search(model, batch.source_ids, batch.source_lengths, options);
}

/// Upstream padding makes a source see its padding: then only batches without any are comparable.
std::vector<index_t> lengths_for(const T5Config& config) {
  return config.cross_attention.padding == Padding::upstream ? std::vector<index_t>{19, 19, 19}
                                                             : std::vector<index_t>{19, 1, 7, 12};
}

/// A model that answers with logits from a list.
struct Scripted {
  using scalar = float;
  using backend_type = EigenBackend;
  struct Config {
    std::int32_t decoder_start_token_id = 0, eos_token_id = 1, pad_token_id = 3;
  };
  struct State {
    index_t rows = 0;
  };

  EigenBackend& be;
  std::deque<std::vector<float>> answers;
  Config settings{};
  std::vector<Ids> asked{};
  index_t max_steps = 0, horizon = 0;

  EigenBackend& backend() { return be; }
  const Config& config() const { return settings; }
  State start_decoding(std::span<const std::int32_t>, std::span<const index_t> lengths,
                       index_t steps, index_t over) {
    max_steps = steps, horizon = over;
    return {static_cast<index_t>(lengths.size())};
  }
  Tensor<EigenBackend, float, 2> decode_step(State& state, std::span<const std::int32_t> ids) {
    asked.emplace_back(ids.begin(), ids.end());
    REQUIRE_FALSE(answers.empty());
    const auto answer = answers.front();
    answers.pop_front();
    return from_host<float, 2>(be, {state.rows, static_cast<index_t>(answer.size()) / state.rows},
                               answer);
  }
};

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
                                       2 * (base.cross_attention.padding == Padding::masked), 4);
      const auto expected = greedy_by_teacher_forcing(model, batch, 12);
      CHECK(greedy(model, batch, {.max_length = 12}) == expected);
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
  const auto outputs = greedy(model, sources, {.max_length = 10});
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
    if (config.cross_attention.padding == Padding::upstream) continue;
    CAPTURE(name);
    Model model(be, config);
    randomize(model, 11);
    const Batch batch = random_batch(config, {17, 1, 24, 8}, {1, 1, 1, 1}, 34, 3, 6);
    const auto together = greedy(model, batch, {.max_length = 9, .horizon = 7});
    for (index_t b = 0; b < batch.rows; ++b) {
      CHECK(greedy(model, single(batch, b), {.max_length = 9, .horizon = 7}).front() ==
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
    return greedy(model, random_batch(config, {17, 3, 24}, {1, 1, 1}, 34), {.max_length = 9});
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
  CHECK_THROWS_WITH(model.decode_step(state, Ids{0}), ContainsSubstring("1 ids for 2 sources"));
  CHECK_THROWS_WITH(model.decode_step(state, Ids{0, 23}), ContainsSubstring("23"));
  model.decode_step(state, Ids{0, 0});
  CHECK_THROWS_WITH(model.decode_step(state, Ids{0, 0}), ContainsSubstring("no more steps"));
  CHECK_THROWS_AS(model.start_decoding(batch.source_ids, batch.source_lengths, 0), shape_error);
  CHECK_THROWS_AS(model.start_decoding({}, {}, 4), shape_error);
  CHECK_THROWS_WITH(greedy(model, batch, {.max_length = 1}),
                    ContainsSubstring("max_length must be at least 2"));
}

TEST_CASE("a row ends at the end token and is asked with padding from then on") {
  EigenBackend be(1);
  Scripted model{be,
                 {{0, 9, 0, 0, 0, 0, 9, 0}, {0, 0, 9, 0, 0, 0, 9, 0}, {0, 0, 9, 0, 0, 9, 0, 0}}};
  const Ids ids{5, 6};
  const std::vector<index_t> lengths{1, 1};
  const auto out = greedy_search(model, ids, lengths, {.max_length = 9, .horizon = 4});
  CHECK(out == std::vector<Ids>{{0, 1}, {0, 2, 2, 1}});
  CHECK(model.asked == std::vector<Ids>{{0, 0}, {1, 2}, {3, 2}});
  CHECK(model.answers.empty());
  CHECK(model.max_steps >= 8);
  CHECK(model.horizon == 4);
}

TEST_CASE("a search of two tokens asks once, and one without an end goes on to the length") {
  EigenBackend be(1);
  const Ids ids{5};
  const std::vector<index_t> lengths{1};
  Scripted once{be, {{0, 0, 9, 0}}};
  CHECK(greedy_search(once, ids, lengths, {.max_length = 2}) == std::vector<Ids>{{0, 2}});
  Scripted endless{be, {{0, 9, 0, 0}, {0, 9, 0, 0}, {9, 0, 0, 0}}};
  CHECK(greedy_search(endless, ids, lengths, {.max_length = 4, .stop_at_eos = false}) ==
        std::vector<Ids>{{0, 1, 1, 0}});
}

TEST_CASE("of equal logits the first counts") {
  EigenBackend be(1);
  const Ids ids{5, 5, 5};
  const std::vector<index_t> lengths{1, 1, 1};
  Scripted model{be, {{2, 7, 7, 7, -5, -5, -5, -5, -3, -2, -9, -2}}};
  const auto out = greedy_search(model, ids, lengths, {.max_length = 2});
  CHECK(out == std::vector<Ids>{{0, 1}, {0, 0}, {0, 1}});
}
