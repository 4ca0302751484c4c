// SPDX-License-Identifier: Apache-2.0
// Generation for any number of sources: batches of similar length, results in the order of the sources.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <span>
#include <vector>

#include <srformer/decode/search.hpp>

namespace srformer {

/// One sequence that was generated for a source, its start token first, and its score: Generation::scores.
struct Generated {
  std::vector<std::int32_t> ids;
  double score = 0;
};

/// Sequences for every source, `per_source` after each other.
///   generate_batch(ids, lengths, first)  a Generation for sources [B,N] padded by pad_id, `first` before them
///   after_batch(sources, tokens)         told how many were just made
template <class GenerateBatch, class AfterBatch>
std::vector<Generated> generate_in_batches(std::span<const std::vector<std::int32_t>> sources,
                                           index_t batch_size, std::int32_t pad_id,
                                           index_t per_source, GenerateBatch generate_batch,
                                           AfterBatch after_batch) {
  require(batch_size >= 1, "generate_in_batches", "batch_size must be at least 1");
  const auto each = static_cast<std::size_t>(per_source);
  std::vector<std::size_t> order(sources.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::greater{}, [&](std::size_t i) { return sources[i].size(); });
  std::vector<Generated> all(sources.size() * each);
  for (std::size_t first = 0; first < order.size();) {
    const std::size_t rows = std::min(static_cast<std::size_t>(batch_size), order.size() - first);
    const std::size_t width = sources[order[first]].size();
    std::vector<std::int32_t> ids(rows * width, pad_id);
    std::vector<index_t> lengths;
    for (std::size_t r = 0; r < rows; ++r) {
      const auto& source = sources[order[first + r]];
      std::ranges::copy(source, ids.begin() + static_cast<std::ptrdiff_t>(r * width));
      lengths.push_back(std::ssize(source));
    }
    Generation batch = generate_batch(ids, lengths, static_cast<std::uint64_t>(first));
    std::size_t tokens = 0;
    for (std::size_t i = 0; i < rows * each; ++i) {
      tokens += batch.sequences[i].size() - 1;
      all[order[first + i / each] * each + i % each] = {std::move(batch.sequences[i]),
                                                        batch.scores[i]};
    }
    first += rows;
    after_batch(rows, tokens);
  }
  return all;
}

}  // namespace srformer
