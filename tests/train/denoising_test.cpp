// SPDX-License-Identifier: Apache-2.0
// Training on texts alone: its batches against those that make_denoising_values.py states, and what a run is resumed by.
#include <fstream>
#include <set>
#include <srformer/io/text_windows.hpp>
#include <srformer/train/checkpoint.hpp>

#include "bigram_model.hpp"
#include "io/temporary_folder.hpp"
#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

/// Texts of the bigram model's tokens; 9 and below are sentinels or the mark.
std::vector<Example> texts_to_denoise(index_t count, index_t length) {
  std::vector<Example> texts;
  for (index_t i = 0; i < count; ++i) {
    Example& text = texts.emplace_back();
    for (index_t t = 0; t < length + i % 5; ++t)
      text.source.push_back(static_cast<std::int32_t>(2 + (i + t * t) % 5));
  }
  return texts;
}

const SpanCorruptionOptions few_spans{.density = 0.2, .first_sentinel = 10, .sentinels = 3};
const TextInfillingOptions with_mark{.mark = 10, .target_length = 4};

Denoising denoising_of_values(const nlohmann::json& o) {
  if (o.contains("first_sentinel"))
    return SpanCorruptionOptions{.density = o["density"],
                                 .mean_span_length = o["mean_span_length"],
                                 .first_sentinel = o["first_sentinel"]};
  return TextInfillingOptions{
      .density = o["density"],
      .span_length = o["uniform"] ? SpanLength::uniform : SpanLength::poisson,
      .mean_span_length = o["mean_span_length"],
      .mark = o["mark"],
      .target_length = o["target_length"],
      .permute_sentences = o["permute_sentences"],
      .sentence_ends = o["sentence_ends"],
      .prefix = o["prefix"]};
}

}  // namespace

TEST_CASE("a batch of texts is the one that Python makes of the same random numbers") {
  const nlohmann::json all = read_json_file(SRF_TESTS_DIR "/io/data/denoising.json");
  REQUIRE(all["batches"].size() == 12);
  for (const nlohmann::json& c : all["batches"]) {
    INFO(c["seed"] << " " << c["options"].dump());
    std::vector<Example> windows;
    TextWindows cut({.max_ids = c["max_ids"], .concatenate = c["concatenate"], .min_ids = 2},
                    [&](std::span<const std::int32_t> ids) {
                      windows.push_back({{ids.begin(), ids.end()}, {}});
                    });
    for (const nlohmann::json& text : c["texts"]) cut.add(text.get<std::vector<std::int32_t>>());
    cut.finish();
    EigenBackend be(1);
    BigramModel<double> model(be);
    Trainer trainer(model, windows,
                    {.batch_size = c["size"],
                     .max_steps = 100,
                     .seed = c["seed"],
                     .pad_id = 0,
                     .denoising = denoising_of_values(c["options"])});
    const index_t epoch = c["epoch"], number = c["number"];
    const Batch batch = trainer.batches(epoch * trainer.steps_per_epoch() + number).at(0);
    CHECK(batch.source_ids == c["source_ids"].get<std::vector<std::int32_t>>());
    CHECK(batch.source_lengths == c["source_lengths"].get<std::vector<index_t>>());
    CHECK(batch.labels == c["labels"].get<std::vector<std::int32_t>>());
  }
}

TEST_CASE("every epoch takes out other tokens, and the same again when it is asked") {
  EigenBackend be(1);
  BigramModel<double> model(be);
  const auto texts = texts_to_denoise(1, 45);
  Trainer trainer(model, texts, {.epochs = 20, .denoising = few_spans});
  std::set<std::vector<std::int32_t>> sources;
  for (index_t step = 0; step < 20; ++step) {
    const auto source = trainer.batches(step).at(0).source_ids;
    sources.insert(source);
    CHECK(trainer.batches(step).at(0).source_ids == source);
  }
  CHECK(sources.size() == 20);
}

TEST_CASE("batches of texts have no more tokens than they may once these are denoised") {
  EigenBackend be(1);
  BigramModel<double> model(be);
  const auto texts = texts_to_denoise(40, 12);
  for (const Denoising& denoising : {Denoising(few_spans), Denoising(with_mark)})
    for (const index_t most : {40, 77, 200}) {
      Trainer trainer(
          model, texts,
          {.batch_size = 100, .epochs = 3, .max_tokens_per_batch = most, .denoising = denoising});
      index_t rows = 0;
      for (index_t step = 0; step < trainer.total_steps(); ++step)
        for (const Batch& batch : trainer.batches(step)) {
          CHECK(batch.rows * (batch.source_width + batch.target_width) <= most);
          rows += batch.rows;
        }
      CHECK(rows == 3 * 40);
    }
}

TEST_CASE("a run on texts is resumed bit for bit, and not with another objective") {
  const TemporaryFolder folder;
  const auto texts = texts_to_denoise(9, 14);
  EigenBackend be(1);
  const auto options_with = [&](const std::optional<Denoising>& denoising) {
    TrainingOptions options{.batch_size = 2, .accumulation = 2, .epochs = 3, .learning_rate = 0.02};
    options.denoising = denoising;
    return options;
  };
  for (const Denoising& denoising : {Denoising(few_spans), Denoising(with_mark)}) {
    BigramModel<double> whole(be), half(be);
    Trainer to_the_end(whole, texts, options_with(denoising));
    std::vector<double> losses;
    for (index_t step = 0; step < 9; ++step) losses.push_back(to_the_end.step().loss);
    Trainer first(half, texts, options_with(denoising));
    for (index_t step = 0; step < 4; ++step) CHECK(first.step().loss == losses[std::size_t(step)]);
    const auto path = save_training(folder.path, first, [](const auto&) {});
    Trainer second(half, texts, options_with(denoising));
    CHECK(load_training(path, second).empty());
    for (index_t step = 4; step < 9; ++step) CHECK(second.step().loss == losses[std::size_t(step)]);

    const auto refused = [&](const std::optional<Denoising>& other, const char* why) {
      const auto pairs = odd_examples(9);
      Trainer trainer(half, other ? texts : pairs, options_with(other));
      CHECK_THROWS_WITH(load_training(path, trainer), ContainsSubstring(why));
    };
    const bool spans = denoising.index() == 0;
    refused(spans ? Denoising(with_mark) : Denoising(few_spans),
            spans ? "another objective (objective \"span_corruption\", now \"text_infilling\")"
                  : "another objective (objective \"text_infilling\", now \"span_corruption\")");
    refused(std::nullopt, "now \"pairs\")");
    SpanCorruptionOptions denser = few_spans;
    denser.density = 0.25;
    TextInfillingOptions longer = with_mark;
    longer.target_length = 5;
    refused(spans ? Denoising(denser) : Denoising(longer),
            spans ? "objective_density 0.2, now 0.25" : "objective_target_length 4, now 5");
  }
}

TEST_CASE("texts that cannot be denoised are refused before the first step") {
  EigenBackend be(1);
  BigramModel<double> model(be);
  const auto pairs = odd_examples(3);
  CHECK_THROWS_WITH(Trainer(model, pairs, {.denoising = few_spans}),
                    ContainsSubstring("example 0 has a target"));
  CHECK_THROWS_WITH(longest_text(few_spans, 2, 100), ContainsSubstring("leave no room"));
  CHECK_THROWS_WITH(longest_text(few_spans, 100, 2), ContainsSubstring("leave no room"));
}

TEST_CASE("the longest text is the one whose source and target fit") {
  for (const double density : {0.08, 0.15, 0.3, 0.5})
    for (const index_t source : {8, 64, 512})
      for (const index_t target : {8, 40, 1000}) {
        const SpanCorruptionOptions spans{.density = density};
        const index_t length = longest_text(spans, source, target);
        const auto its = denoised_lengths(length, spans),
                   next = denoised_lengths(length + 1, spans);
        CHECK((its.source <= source && its.target <= target));
        CHECK((next.source > source || next.target > target));
        if (target == 1000) CHECK(length == span_corruption_lengths(source, spans).text);
        const TextInfillingOptions infilling{.density = density, .prefix = {0}};
        CHECK(longest_text(infilling, source, target) == std::min(source - 3, target - 2));
      }
  // No example is longer than its bound.
  for (index_t length = 1; length < 60; ++length) {
    Example text;
    for (index_t t = 0; t < length; ++t) text.source.push_back(static_cast<std::int32_t>(t));
    for (const TextInfillingOptions& o :
         {TextInfillingOptions{.mean_span_length = 0.5},
          TextInfillingOptions{.density = 0.9, .mean_span_length = 1},
          TextInfillingOptions{.span_length = SpanLength::uniform, .mean_span_length = 1},
          TextInfillingOptions{.target_length = 7, .word_beginnings = WordBeginnings(40, 0)},
          TextInfillingOptions{.max_target_ids = 6, .prefix = {0}}})
      for (std::uint64_t n = 0; n < 30; ++n) {
        const auto bound = denoised_lengths(length, Denoising(o));
        const Example example = text_infilling(text.source, o, {n, 3});
        CHECK(std::ssize(example.source) <= bound.source);
        CHECK(std::ssize(example.target) <= bound.target);
      }
  }
}
