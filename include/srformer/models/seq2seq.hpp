// SPDX-License-Identifier: Apache-2.0
// What training and decoding ask of an encoder-decoder model.
#pragma once

#include <srformer/io/dataset.hpp>
#include <srformer/models/parameters.hpp>
#include <srformer/ops/dropout.hpp>

namespace srformer {

/// How a batch enters the gradients.
struct LossOptions {
  double label_smoothing = 0;
  double scale = 1;  ///< gradients are those of scale times the sum of the token losses
  double dropout_rate = 0;
  double attention_dropout = 0;   ///< of BART's attention weights; T5 has one rate for all
  double activation_dropout = 0;  ///< of BART's hidden units
  RandomStream random{};  ///< of this step; every place of dropout takes its own stream of it
};

namespace detail {

/// Dropout at the numbered places of a model.
struct DropoutSites {
  double rate = 0;
  RandomStream random{};
  Dropout at(index_t site) const { return at(site, rate); }
  Dropout at(index_t site, double other_rate) const {
    return {other_rate, random.substream(static_cast<std::uint64_t>(site))};
  }
};

inline void check_batch(const char* function, const Batch& batch, index_t vocabulary) {
  const auto rows = static_cast<std::size_t>(batch.rows);
  require(batch.rows >= 1 && batch.source_width >= 1 && batch.target_width >= 1 &&
              batch.source_ids.size() == rows * static_cast<std::size_t>(batch.source_width) &&
              batch.labels.size() == rows * static_cast<std::size_t>(batch.target_width) &&
              batch.source_lengths.size() == rows,
          function, "the batch's ids, lengths and labels do not have its sizes");
  for (const index_t length : batch.source_lengths) {
    require(length >= 1 && length <= batch.source_width, function,
            "a source has length " + std::to_string(length) + ", expected 1 to " +
                std::to_string(batch.source_width));
  }
  for (const std::int32_t label : batch.labels) {
    require(label < vocabulary, function,
            "label " + std::to_string(label) + " is outside the vocabulary of " +
                std::to_string(vocabulary));
  }
}

/// Labels moved one to the right behind the start token, -100 as pad: what the decoder reads.
inline std::vector<std::int32_t> shift_right(const Batch& batch, std::int32_t start,
                                             std::int32_t pad) {
  std::vector<std::int32_t> ids(batch.labels.size());
  for (index_t b = 0; b < batch.rows; ++b) {
    for (index_t i = 0; i < batch.target_width; ++i) {
      const index_t at = b * batch.target_width + i;
      const std::int32_t before = i == 0 ? start : batch.labels[static_cast<std::size_t>(at - 1)];
      ids[static_cast<std::size_t>(at)] = before < 0 ? pad : before;
    }
  }
  return ids;
}

}  // namespace detail

}  // namespace srformer
