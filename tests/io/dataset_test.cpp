// SPDX-License-Identifier: Apache-2.0
#include <set>
#include <srformer/io/dataset.hpp>

#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

std::vector<index_t> flat(const EpochOrder& order) {
  std::vector<index_t> all;
  for (index_t step = 0; step < order.steps(); ++step)
    all.insert(all.end(), order.batch(step).begin(), order.batch(step).end());
  return all;
}

std::vector<index_t> sorted(std::vector<index_t> values) {
  std::sort(values.begin(), values.end());
  return values;
}

std::vector<index_t> first_integers(index_t count) {
  std::vector<index_t> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), index_t{0});
  return values;
}

/// Lengths that vary without order.
std::vector<ExampleLengths> some_lengths(index_t count) {
  std::vector<ExampleLengths> lengths;
  for (index_t i = 0; i < count; ++i)
    lengths.push_back({static_cast<std::int32_t>(1 + i * 7919 % 1013),
                       static_cast<std::int32_t>(1 + i * 31 % 50)});
  return lengths;
}

}  // namespace

TEST_CASE("an epoch holds every example once", "[dataset]") {
  for (const bool shuffle : {false, true})
    for (const bool grouped : {false, true})
      for (const index_t count : {1, 2, 7, 8, 9, 64, 1000})
        for (const index_t batch_size : {1, 4, 8, 2000}) {
          const EpochOrder order(some_lengths(count), {batch_size, 3, 1, shuffle, grouped});
          REQUIRE(order.steps() == (count + batch_size - 1) / batch_size);
          REQUIRE(sorted(flat(order)) == first_integers(count));
          for (index_t step = 0; step + 1 < order.steps(); ++step)
            REQUIRE(static_cast<index_t>(order.batch(step).size()) == batch_size);
          REQUIRE_THROWS_AS(order.batch(order.steps()), shape_error);
          REQUIRE_THROWS_AS(order.batch(-1), shape_error);
        }
}

TEST_CASE("without shuffle, examples come as in the file", "[dataset]") {
  CHECK(flat(EpochOrder(some_lengths(10), {.batch_size = 3, .shuffle = false})) ==
        first_integers(10));
}

TEST_CASE("the order is a function of seed and epoch", "[dataset]") {
  const auto lengths = some_lengths(100);
  const auto order = [&](std::uint64_t seed, std::uint64_t epoch) {
    return flat(EpochOrder(lengths, {.batch_size = 8, .seed = seed, .epoch = epoch}));
  };
  std::set<std::vector<index_t>> orders;
  for (std::uint64_t seed = 0; seed < 5; ++seed)
    for (std::uint64_t epoch = 0; epoch < 5; ++epoch) {
      CHECK(order(seed, epoch) == order(seed, epoch));
      orders.insert(order(seed, epoch));
    }
  CHECK(orders.size() == 25);
  // The batch size cuts the order and does not change it.
  CHECK(flat(EpochOrder(lengths, {.batch_size = 3, .seed = 1, .epoch = 2})) == order(1, 2));
  // Runs recorded with any compiler resume with any other: these numbers never change.
  CHECK(flat(EpochOrder(some_lengths(10), {.batch_size = 4, .seed = 42, .epoch = 3})) ==
        std::vector<index_t>{3, 7, 0, 4, 2, 5, 9, 8, 1, 6});
}

TEST_CASE("every example comes first equally often", "[dataset]") {
  const auto lengths = some_lengths(6);
  std::vector<int> first(6), last(6);
  for (std::uint64_t epoch = 0; epoch < 6000; ++epoch) {
    const auto order = flat(EpochOrder(lengths, {.batch_size = 6, .seed = 9, .epoch = epoch}));
    ++first[static_cast<std::size_t>(order.front())];
    ++last[static_cast<std::size_t>(order.back())];
  }
  // 1000 expected, deviation 29; five deviations are allowed.
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(std::abs(first[i] - 1000) < 145);
    CHECK(std::abs(last[i] - 1000) < 145);
  }
}

TEST_CASE("grouped batches hold similar lengths, longest first", "[dataset]") {
  const index_t count = 4000, batch_size = 4;
  auto lengths = some_lengths(count);
  lengths[1234].source = 1500;
  const auto length = [&](index_t i) -> index_t {
    return lengths[static_cast<std::size_t>(i)].source;
  };
  const auto padding = [&](const EpochOrder& order) {
    index_t total = 0;
    for (index_t step = 0; step < order.steps(); ++step) {
      const auto batch = order.batch(step);
      index_t longest = 0;
      for (const index_t i : batch) longest = std::max(longest, length(i));
      for (const index_t i : batch) total += longest - length(i);
    }
    return total;
  };
  EpochOptions options{.batch_size = batch_size, .seed = 5};
  const EpochOrder mixed(lengths, options);
  options.group_by_length = true;
  const EpochOrder grouped(lengths, options);
  CHECK(padding(grouped) * 10 < padding(mixed));
  for (std::uint64_t epoch = 0; epoch < 5; ++epoch) {
    options.epoch = epoch;
    CHECK(EpochOrder(lengths, options).batch(0)[0] == 1234);
  }
  options.epoch = 0;

  // Each run of 50 batches holds the examples of the shuffled order, sorted, but for the two swapped.
  const auto all = flat(grouped), shuffled = flat(mixed);
  const index_t run = 50 * batch_size;
  index_t foreign = 0, descents = 0;
  for (index_t first = 0; first < count; first += run) {
    const std::set<index_t> expected(shuffled.begin() + first, shuffled.begin() + first + run);
    for (index_t i = first; i < first + run; ++i) foreign += expected.contains(all[i]) ? 0 : 1;
    for (index_t i = first + 1; i < first + run; ++i)
      descents += length(all[i]) > length(all[i - 1]) ? 1 : 0;
  }
  CHECK(foreign <= 2);
  CHECK(descents <= 1);
  options.epoch = 1;
  CHECK(flat(EpochOrder(lengths, options)) != all);
}

TEST_CASE("batches by tokens hold every example once, as many batches in every epoch",
          "[dataset]") {
  for (const index_t count : {1, 2, 7, 64, 1000}) {
    const auto lengths = some_lengths(count);
    for (const index_t max_tokens : {1070, 2500, 20000})
      for (const index_t batch_size : {1, 3, 100000}) {
        std::set<index_t> steps;
        std::set<std::vector<index_t>> orders;
        for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
          const EpochOrder order(
              lengths,
              {.batch_size = batch_size, .seed = 3, .epoch = epoch, .max_tokens = max_tokens});
          steps.insert(order.steps()), orders.insert(flat(order));
          REQUIRE(sorted(flat(order)) == first_integers(count));
          std::int32_t longest = 0;
          for (index_t step = 0; step < order.steps(); ++step) {
            std::int32_t source = 0, target = 0;
            for (const index_t i : order.batch(step)) {
              const ExampleLengths its = lengths[static_cast<std::size_t>(i)];
              source = std::max(source, its.source), target = std::max(target, its.target);
            }
            const auto rows = std::ssize(order.batch(step));
            REQUIRE((rows >= 1 && rows <= batch_size));
            REQUIRE(rows * (source + target) <= max_tokens);
            if (step == 0) longest = source;
            REQUIRE(source <= longest);
          }
        }
        REQUIRE(steps.size() == 1);
        REQUIRE((orders.size() > 1 || *steps.begin() < 4));
      }
  }
}

TEST_CASE("batches by tokens are full", "[dataset]") {
  const std::vector<ExampleLengths> lengths(10, {30, 10});
  CHECK(EpochOrder(lengths, {.batch_size = 100, .max_tokens = 120}).steps() == 4);
  CHECK(EpochOrder(lengths, {.batch_size = 2, .max_tokens = 120}).steps() == 5);
  CHECK(EpochOrder(lengths, {.batch_size = 100, .max_tokens = 119}).steps() == 5);
  CHECK(EpochOrder(lengths, {.batch_size = 100, .max_tokens = 40}).steps() == 10);
  CHECK_THROWS_WITH(EpochOrder(lengths, {.batch_size = 100, .shuffle = false, .max_tokens = 39}),
                    ContainsSubstring("example 0 has 30 + 10 tokens, more than the 39 of a batch"));
  // Without shuffle, the longest come first and equals keep their order.
  CHECK(flat(EpochOrder(std::vector<ExampleLengths>{{1, 1}, {3, 1}, {3, 2}, {3, 1}},
                        {.shuffle = false, .max_tokens = 8})) == std::vector<index_t>{2, 1, 3, 0});
}

TEST_CASE("examples are seen alike wherever they lie", "[dataset]") {
  struct Store {
    std::vector<std::int32_t> ids{5, 6, 7, 8, 1, 2, 3};
    index_t size() const { return 2; }
    ExampleView operator[](index_t i) const {
      const std::span<const std::int32_t> all(ids);
      return i == 0 ? ExampleView{all.first(3), all.subspan(3, 1)}
                    : ExampleView{all.subspan(4, 1), all.subspan(5, 2)};
    }
    std::uint64_t fingerprint() const { return 77; }
  };
  const std::vector<Example> list{{{5, 6, 7}, {8}}, {{1}, {2, 3}}};
  const Store store;
  const std::vector<index_t> both{1, 0};
  const Batch expected = make_batch(list, both, 0), got = make_batch(store, both, 0);
  CHECK(got.source_ids == expected.source_ids);
  CHECK(got.labels == expected.labels);
  CHECK(Examples(store).fingerprint() == 77);
  CHECK(Examples(list).fingerprint() !=
        Examples(std::vector<Example>{{{5, 6}, {7, 8}}, {{1}, {2, 3}}}).fingerprint());
  CHECK(Examples().empty());
}

TEST_CASE("an order of nothing is refused", "[dataset]") {
  CHECK_THROWS_WITH(EpochOrder({}, {}), ContainsSubstring("no examples"));
  CHECK_THROWS_WITH(EpochOrder(some_lengths(3), {.batch_size = 0}),
                    ContainsSubstring("batch_size is 0"));
}

TEST_CASE("a batch is padded to its longest example", "[dataset]") {
  const std::vector<Example> examples{
      {{5, 6, 7}, {8}}, {{1}, {2, 3}}, {{9, 9, 9, 9, 9}, {9, 9, 9, 9}}};
  const std::vector<index_t> chosen{1, 0};
  const Batch batch = make_batch(examples, chosen, 0);
  CHECK(batch.rows == 2);
  CHECK(batch.source_width == 3);
  CHECK(batch.target_width == 2);
  CHECK(batch.source_ids == std::vector<std::int32_t>{1, 0, 0, 5, 6, 7});
  CHECK(batch.source_lengths == std::vector<index_t>{1, 3});
  CHECK(batch.labels == std::vector<std::int32_t>{2, 3, 8, -100});
  CHECK(make_batch(examples, chosen, 1).source_ids == std::vector<std::int32_t>{1, 1, 1, 5, 6, 7});
  const auto lengths = example_lengths(examples);
  REQUIRE(lengths.size() == 3);
  CHECK((lengths[2].source == 5 && lengths[2].target == 4));
}

TEST_CASE("a batch of what is not there is refused", "[dataset]") {
  const std::vector<Example> examples{{{5}, {8}}, {{}, {2}}, {{1}, {}}};
  const auto make = [&](std::vector<index_t> indices) { return make_batch(examples, indices, 0); };
  CHECK_THROWS_WITH(make({}), ContainsSubstring("no indices"));
  CHECK_THROWS_WITH(make({0, 3}), ContainsSubstring("index 3 of 3 examples"));
  CHECK_THROWS_AS(make({-1}), shape_error);
  CHECK_THROWS_WITH(make({0, 1}), ContainsSubstring("example 1 has no source"));
  CHECK_THROWS_WITH(make({2}), ContainsSubstring("example 2"));
}

TEST_CASE("truncation keeps the end of sequence last", "[dataset]") {
  std::vector<std::int32_t> ids{4, 5, 6, 1};
  truncate(ids, 4, 1);
  CHECK(ids == std::vector<std::int32_t>{4, 5, 6, 1});
  truncate(ids, 3, 1);
  CHECK(ids == std::vector<std::int32_t>{4, 5, 1});
  truncate(ids, 1, 1);
  CHECK(ids == std::vector<std::int32_t>{1});
  CHECK_THROWS_AS(truncate(ids, 0, 1), shape_error);
}

TEST_CASE("rows of a batch keep its widths", "[dataset]") {
  const std::vector<Example> examples{{{5, 6, 7}, {8}}, {{1}, {2, 3}}, {{4}, {9}}, {{2, 2}, {7}}};
  const std::vector<index_t> all{0, 1, 2, 3};
  const Batch batch = make_batch(examples, all, 0);
  std::vector<std::int32_t> ids, labels;
  std::vector<index_t> lengths;
  for (const auto& [first, end] : {std::pair{0, 1}, std::pair{1, 1}, std::pair{1, 4}}) {
    const Batch part = batch_rows(batch, first, end);
    CHECK(part.rows == end - first);
    CHECK(part.source_width == 3);
    CHECK(part.target_width == 2);
    ids.insert(ids.end(), part.source_ids.begin(), part.source_ids.end());
    labels.insert(labels.end(), part.labels.begin(), part.labels.end());
    lengths.insert(lengths.end(), part.source_lengths.begin(), part.source_lengths.end());
  }
  CHECK(ids == batch.source_ids);
  CHECK(labels == batch.labels);
  CHECK(lengths == batch.source_lengths);
  CHECK_THROWS_AS(batch_rows(batch, -1, 2), shape_error);
  CHECK_THROWS_AS(batch_rows(batch, 2, 1), shape_error);
  CHECK_THROWS_AS(batch_rows(batch, 0, 5), shape_error);
}
