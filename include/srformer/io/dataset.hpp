// SPDX-License-Identifier: Apache-2.0
// Examples as ids, the order of an epoch, and padded batches. What they are made of is read by io/pairs.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/core/random.hpp>

namespace srformer {

/// Ids of an example: `source` is read by the encoder, `target` is what the decoder must produce.
struct Example {
  std::vector<std::int32_t> source;
  std::vector<std::int32_t> target;
};

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
  index_t batch_size = 8;
  std::uint64_t seed = 0;
  std::uint64_t epoch = 0;
  bool shuffle = true;  ///< without it, examples come in the order of the file
  /// Batches of similar length, as group_by_length of transformers: after the shuffle, each run of
  /// up to 50 batches is sorted, longest first, and the longest example of all comes in step 0.
  bool group_by_length = false;
};

/// Which examples make up each step of an epoch: every one once, the last batch perhaps smaller. A
/// pure function of its arguments, the same with every compiler, so that a run resumes at
/// batch(step) without walking through the steps before. Cost O(n), O(n log n) when grouped.
class EpochOrder {
 public:
  /// Throws shape_error when there is no example or no batch size.
  EpochOrder(std::span<const index_t> lengths, const EpochOptions& options)
      : batch_size_(options.batch_size), order_(lengths.size()) {
    const index_t count = static_cast<index_t>(lengths.size());
    require(count >= 1, "EpochOrder", "there are no examples");
    require(batch_size_ >= 1, "EpochOrder",
            "batch_size is " + std::to_string(batch_size_) + ", expected at least 1");
    std::iota(order_.begin(), order_.end(), index_t{0});
    if (options.shuffle) {
      const RandomStream random = RandomStream{options.seed, 0}.substream(options.epoch);
      for (std::size_t i = order_.size() - 1; i > 0; --i)  // Fisher and Yates
        std::swap(order_[i], order_[random_below(random, i, i + 1)]);
    }
    if (options.group_by_length) group(lengths);
  }

  index_t steps() const {
    return (static_cast<index_t>(order_.size()) + batch_size_ - 1) / batch_size_;
  }

  /// The examples of a step; throws shape_error unless 0 <= step < steps().
  std::span<const index_t> batch(index_t step) const {
    require(step >= 0 && step < steps(), "EpochOrder::batch",
            "step is " + std::to_string(step) + " of " + std::to_string(steps()));
    const index_t first = step * batch_size_;
    const index_t size = std::min(batch_size_, static_cast<index_t>(order_.size()) - first);
    return std::span(order_).subspan(static_cast<std::size_t>(first),
                                     static_cast<std::size_t>(size));
  }

 private:
  void group(std::span<const index_t> lengths) {
    const auto length = [&](index_t example) { return lengths[static_cast<std::size_t>(example)]; };
    const index_t count = static_cast<index_t>(order_.size());
    const index_t run =
        batch_size_ * std::clamp(count / (4 * batch_size_), index_t{1}, index_t{50});
    for (index_t first = 0; first < count; first += run)
      std::stable_sort(order_.begin() + first, order_.begin() + std::min(first + run, count),
                       [&](index_t a, index_t b) { return length(a) > length(b); });
    const auto longest = std::max_element(
        order_.begin(), order_.end(), [&](index_t a, index_t b) { return length(a) < length(b); });
    std::iter_swap(order_.begin(), longest);
  }

  index_t batch_size_;
  std::vector<index_t> order_;
};

/// Source lengths of examples, to group them by.
inline std::vector<index_t> source_lengths(std::span<const Example> examples) {
  std::vector<index_t> lengths;
  for (const Example& example : examples)
    lengths.push_back(static_cast<index_t>(example.source.size()));
  return lengths;
}

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
inline Batch make_batch(std::span<const Example> examples, std::span<const index_t> indices,
                        std::int32_t pad_id) {
  require(!indices.empty(), "make_batch", "there are no indices");
  Batch batch;
  batch.rows = static_cast<index_t>(indices.size());
  const auto at = [&](index_t index) -> const Example& {
    return examples[static_cast<std::size_t>(index)];
  };
  for (const index_t index : indices) {
    require(
        index >= 0 && index < static_cast<index_t>(examples.size()), "make_batch",
        "index " + std::to_string(index) + " of " + std::to_string(examples.size()) + " examples");
    require(!at(index).source.empty() && !at(index).target.empty(), "make_batch",
            "example " + std::to_string(index) + " has no source or no target");
    batch.source_width =
        std::max(batch.source_width, static_cast<index_t>(at(index).source.size()));
    batch.target_width =
        std::max(batch.target_width, static_cast<index_t>(at(index).target.size()));
  }
  batch.source_ids.assign(static_cast<std::size_t>(batch.rows * batch.source_width), pad_id);
  batch.labels.assign(static_cast<std::size_t>(batch.rows * batch.target_width),
                      Batch::ignored_label);
  auto source = batch.source_ids.begin();
  auto label = batch.labels.begin();
  for (const index_t index : indices) {
    const Example& example = at(index);
    std::copy(example.source.begin(), example.source.end(), source);
    std::copy(example.target.begin(), example.target.end(), label);
    batch.source_lengths.push_back(static_cast<index_t>(example.source.size()));
    source += batch.source_width;
    label += batch.target_width;
  }
  return batch;
}

}  // namespace srformer
