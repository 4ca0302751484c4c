// SPDX-License-Identifier: Apache-2.0
// Examples as ids, the order of an epoch, and padded batches. What they are made of is read by io/pairs.hpp, or lies in
// a file already: io/token_cache.hpp.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/core/hash.hpp>
#include <srformer/core/random.hpp>

namespace srformer {

/// Ids of an example: `source` is read by the encoder, `target` is what the decoder must produce.
struct Example {
  std::vector<std::int32_t> source;
  std::vector<std::int32_t> target;
};

/// The ids of an example where they lie.
struct ExampleView {
  std::span<const std::int32_t> source, target;
};

/// How many ids an example has.
struct ExampleLengths {
  std::int32_t source, target;
};

/// What holds examples in a way of its own, as TokenCache does in a file.
template <class S>
concept ExampleStore = requires(const S& store, index_t i) {
  { store.size() } -> std::convertible_to<index_t>;
  { store[i] } -> std::same_as<ExampleView>;
  { store.fingerprint() } -> std::convertible_to<std::uint64_t>;
};

/// Any number of examples, in memory or elsewhere: a view, which what it is made of must outlive.
class Examples {
 public:
  Examples() = default;
  Examples(std::span<const Example> examples)  // NOLINT: as spans convert
      : store_(examples.data()), size_(std::ssize(examples)), at_(in_memory) {}
  Examples(const std::vector<Example>& examples)  // NOLINT: as spans convert
      : Examples(std::span<const Example>(examples)) {}
  template <ExampleStore S>
  Examples(const S& store)  // NOLINT: as spans convert
      : store_(&store),
        size_(store.size()),
        at_([](const void* s, index_t i) { return (*static_cast<const S*>(s))[i]; }),
        fingerprint_(store.fingerprint()) {}

  index_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  /// Example i, 0 <= i < size().
  ExampleView operator[](index_t i) const { return at_(store_, i); }

  /// Sums up the ids of all examples, to tell one data set from another (FNV-1a). Reads them all, unless the store
  /// knows it.
  std::uint64_t fingerprint() const;

 private:
  static ExampleView in_memory(const void* examples, index_t i) {
    const Example& example = static_cast<const Example*>(examples)[i];
    return {example.source, example.target};
  }

  const void* store_ = nullptr;
  index_t size_ = 0;
  ExampleView (*at_)(const void*, index_t) = in_memory;
  std::optional<std::uint64_t> fingerprint_;
};

/// Takes examples one by one.
class ExampleFingerprint {
 public:
  void add(const ExampleView& example) {
    for (const auto& ids : {example.source, example.target}) {
      hash_.add(ids.size());
      for (const std::int32_t id : ids) hash_.add(static_cast<std::uint32_t>(id));
    }
  }
  std::uint64_t value() const { return hash_.value(); }

 private:
  Fnv1a hash_;
};

inline std::uint64_t Examples::fingerprint() const {
  if (fingerprint_) return *fingerprint_;
  ExampleFingerprint all;
  for (index_t i = 0; i < size_; ++i) all.add((*this)[i]);
  return all.value();
}

/// How long the examples are, in their order: what batches are made by.
inline std::vector<ExampleLengths> example_lengths(const Examples& examples) {
  std::vector<ExampleLengths> lengths;
  lengths.reserve(static_cast<std::size_t>(examples.size()));
  for (index_t i = 0; i < examples.size(); ++i) {
    const ExampleView example = examples[i];
    lengths.push_back({static_cast<std::int32_t>(example.source.size()),
                       static_cast<std::int32_t>(example.target.size())});
  }
  return lengths;
}

/// Shortens `ids` to `max_length`, the last of which becomes `eos_id`; shorter ones stay as they
/// are.
inline void truncate(std::vector<std::int32_t>& ids, index_t max_length, std::int32_t eos_id) {
  require(max_length >= 1, "truncate",
          "max_length is " + std::to_string(max_length) + ", expected at least 1");
  if (static_cast<index_t>(ids.size()) <= max_length) return;
  ids.resize(static_cast<std::size_t>(max_length));
  ids.back() = eos_id;
}

struct EpochOptions {
  index_t batch_size = 8;  ///< examples of a batch, at most
  std::uint64_t seed = 0;
  std::uint64_t epoch = 0;
  bool shuffle = true;  ///< without it, examples come in the order of the file
  /// Batches of similar length, as group_by_length of transformers: after the shuffle, each run of
  /// up to 50 batches is sorted, longest first, and the longest example of all comes in step 0.
  bool group_by_length = false;
  /// Above 0: the most tokens of a batch, its padding included, which is rows times the longest source and the longest
  /// target. Batches are then runs of the examples sorted by length, as many in every epoch, and come in an order
  /// drawn by the epoch, the longest first.
  index_t max_tokens = 0;
};

/// Which examples make up each step of an epoch: every one once, the last batch perhaps smaller. A
/// pure function of its arguments, the same with every compiler, so that a run resumes at
/// batch(step) without walking through the steps before. Cost O(n), O(n log n) when grouped.
class EpochOrder {
 public:
  /// Throws shape_error when there is no example or no batch size, or an example has more tokens than a batch may.
  EpochOrder(std::span<const ExampleLengths> lengths, const EpochOptions& options)
      : order_(lengths.size()) {
    const index_t count = std::ssize(lengths);
    require(count >= 1, "EpochOrder", "there are no examples");
    require(options.batch_size >= 1, "EpochOrder",
            "batch_size is " + std::to_string(options.batch_size) + ", expected at least 1");
    std::iota(order_.begin(), order_.end(), index_t{0});
    const RandomStream random = RandomStream{options.seed, 0}.substream(options.epoch);
    if (options.shuffle) shuffle(order_, random);
    if (options.max_tokens > 0) {
      cut_by_tokens(lengths, options, random.substream(1));
    } else {
      if (options.group_by_length) group(lengths, options.batch_size);
      for (index_t first = 0; first < count; first += options.batch_size)
        batches_.push_back({first, std::min(first + options.batch_size, count)});
    }
  }

  index_t steps() const { return std::ssize(batches_); }

  /// The examples of a step; throws shape_error unless 0 <= step < steps().
  std::span<const index_t> batch(index_t step) const {
    require(step >= 0 && step < steps(), "EpochOrder::batch",
            "step is " + std::to_string(step) + " of " + std::to_string(steps()));
    const Part part = batches_[static_cast<std::size_t>(step)];
    return std::span(order_).subspan(static_cast<std::size_t>(part.first),
                                     static_cast<std::size_t>(part.end - part.first));
  }

 private:
  struct Part {
    index_t first, end;  ///< in order_
  };

  /// Fisher and Yates.
  template <class X>
  static void shuffle(std::vector<X>& x, const RandomStream& random) {
    for (std::size_t i = x.size(); i-- > 1;) std::swap(x[i], x[random_below(random, i, i + 1)]);
  }

  void group(std::span<const ExampleLengths> lengths, index_t batch_size) {
    const auto length = [&](index_t example) {
      return lengths[static_cast<std::size_t>(example)].source;
    };
    const index_t count = std::ssize(order_);
    const index_t run = batch_size * std::clamp(count / (4 * batch_size), index_t{1}, index_t{50});
    for (index_t first = 0; first < count; first += run)
      std::stable_sort(order_.begin() + first, order_.begin() + std::min(first + run, count),
                       [&](index_t a, index_t b) { return length(a) > length(b); });
    const auto longest = std::ranges::max_element(order_, {}, length);
    std::iter_swap(order_.begin(), longest);
  }

  void cut_by_tokens(std::span<const ExampleLengths> lengths, const EpochOptions& options,
                     const RandomStream& random) {
    const auto length = [&](index_t example) { return lengths[static_cast<std::size_t>(example)]; };
    const auto key = [&](index_t example) {
      return std::pair(length(example).source, length(example).target);
    };
    std::ranges::stable_sort(order_, std::greater{}, key);
    index_t source = 0, target = 0;
    for (index_t i = 0; i < std::ssize(order_); ++i) {
      const ExampleLengths its = length(order_[static_cast<std::size_t>(i)]);
      require(index_t{its.source} + its.target <= options.max_tokens, "EpochOrder",
              "example " + std::to_string(order_[static_cast<std::size_t>(i)]) + " has " +
                  std::to_string(its.source) + " + " + std::to_string(its.target) +
                  " tokens, more than the " + std::to_string(options.max_tokens) +
                  " of a batch; allow more, or cut it");
      source = std::max<index_t>(source, its.source),
      target = std::max<index_t>(target, its.target);
      const index_t rows = batches_.empty() ? 0 : i + 1 - batches_.back().first;
      if (rows == 0 || rows > options.batch_size || rows * (source + target) > options.max_tokens) {
        batches_.push_back({i, i});
        source = its.source, target = its.target;
      }
      batches_.back().end = i + 1;
    }
    if (!options.shuffle) return;
    const Part longest = batches_.front();
    shuffle(batches_, random);
    std::iter_swap(batches_.begin(), std::ranges::find(batches_, longest.first, &Part::first));
  }

  std::vector<index_t> order_;
  std::vector<Part> batches_;
};

/// Several examples of one step, row-major; B rows, N source_width, M target_width.
struct Batch {
  static constexpr std::int32_t ignored_label = -100;

  index_t rows = 0;
  index_t source_width = 0;
  index_t target_width = 0;
  std::vector<std::int32_t> source_ids;  ///< [B,N], padded with the tokenizer's pad id
  std::vector<index_t> source_lengths;   ///< [B], without padding
  std::vector<std::int32_t> labels;      ///< [B,M], padded with -100, which no loss counts
};

/// The examples at `indices`, padded to the longest among them. Throws shape_error when there is no
/// index, an index is out of range, or an example has no source or no target.
inline Batch make_batch(const Examples& examples, std::span<const index_t> indices,
                        std::int32_t pad_id) {
  require(!indices.empty(), "make_batch", "there are no indices");
  Batch batch;
  batch.rows = std::ssize(indices);
  std::vector<ExampleView> rows;
  for (const index_t index : indices) {
    require(
        index >= 0 && index < examples.size(), "make_batch",
        "index " + std::to_string(index) + " of " + std::to_string(examples.size()) + " examples");
    const ExampleView& row = rows.emplace_back(examples[index]);
    require(!row.source.empty() && !row.target.empty(), "make_batch",
            "example " + std::to_string(index) + " has no source or no target");
    batch.source_width = std::max(batch.source_width, std::ssize(row.source));
    batch.target_width = std::max(batch.target_width, std::ssize(row.target));
  }
  batch.source_ids.assign(static_cast<std::size_t>(batch.rows * batch.source_width), pad_id);
  batch.labels.assign(static_cast<std::size_t>(batch.rows * batch.target_width),
                      Batch::ignored_label);
  auto source = batch.source_ids.begin();
  auto label = batch.labels.begin();
  for (const ExampleView& row : rows) {
    std::ranges::copy(row.source, source);
    std::ranges::copy(row.target, label);
    batch.source_lengths.push_back(std::ssize(row.source));
    source += batch.source_width;
    label += batch.target_width;
  }
  return batch;
}

/// Rows first, first + 1, ... end - 1 of a batch, padded as it is: what a model whose segments depend on the widths makes of
/// a row stays the same. Throws shape_error unless 0 <= first <= end <= rows.
inline Batch batch_rows(const Batch& batch, index_t first, index_t end) {
  require(0 <= first && first <= end && end <= batch.rows, "batch_rows",
          "rows " + std::to_string(first) + " to " + std::to_string(end) + " of " +
              std::to_string(batch.rows));
  const auto part = [&](const auto& all, index_t width) {
    return std::remove_cvref_t<decltype(all)>(all.begin() + first * width,
                                              all.begin() + end * width);
  };
  return {end - first,
          batch.source_width,
          batch.target_width,
          part(batch.source_ids, batch.source_width),
          part(batch.source_lengths, 1),
          part(batch.labels, batch.target_width)};
}

}  // namespace srformer
