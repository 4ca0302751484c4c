// SPDX-License-Identifier: Apache-2.0
// Decoding: from a model's step logits to token ids.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <srformer/backend/tensor.hpp>

namespace srformer {

struct GenerationOptions {
  index_t max_length = 20;  ///< tokens of the output, the start token included, as in transformers
  index_t horizon = 0;      ///< decoder steps over the segments; 0: the configuration's
  bool stop_at_eos = true;  ///< false goes on to max_length, for timing
};

namespace detail {

/// The column of the largest value of every row, the first of equals.
template <class T>
struct ArgmaxRows {
  const T* x;
  std::int32_t* column;
  index_t columns;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    using C = compute_t<T>;
    const T* in = x + row * columns;
    const C top = team.max(columns, C(in[0]), [=](index_t c) { return C(in[c]); });
    const index_t n = columns;
    // the first column that holds the largest value: the greatest of n - c
    const double rest = team.max(n, 0.0, [=](index_t c) {
      return primal(C(in[c])) < primal(top) ? 0.0 : static_cast<double>(n - c);
    });
    if (team.leader()) column[row] = static_cast<std::int32_t>(n - static_cast<index_t>(rest));
  }
};

}  // namespace detail

/// The most likely token at every step (greedy search of transformers' generate).
///   ids [B,N] padded, lengths [B]
/// Returns for each source its tokens from the start token on, up to the end token or max_length.
template <class Model>
std::vector<std::vector<std::int32_t>> greedy_search(Model& model,
                                                     std::span<const std::int32_t> ids,
                                                     std::span<const index_t> lengths,
                                                     const GenerationOptions& options) {
  using T = typename Model::scalar;
  using B = typename Model::backend_type;
  require(options.max_length >= 2, "greedy_search", "max_length must be at least 2");
  B& be = model.backend();
  const auto rows = static_cast<index_t>(lengths.size());
  std::vector<std::int32_t> last(lengths.size(), model.config().decoder_start_token_id);
  std::vector<std::vector<std::int32_t>> outputs(lengths.size(), {last.front()});
  std::vector<bool> ended(lengths.size(), false);
  auto state = model.start_decoding(ids, lengths, options.max_length, options.horizon);
  Tensor<B, std::int32_t, 1> next(be, {rows});
  for (index_t length = 1; length < options.max_length; ++length) {
    const auto logits = model.decode_step(state, last);
    be.for_each_row(rows, 0, detail::ArgmaxRows<T>{logits.data(), next.data(), logits.extent(1)});
    be.to_host(last.data(), static_cast<const std::int32_t*>(next.data()), rows);
    bool all = true;
    for (std::size_t r = 0; r < last.size(); ++r) {
      if (ended[r]) {
        last[r] = model.config().pad_token_id;
        continue;
      }
      outputs[r].push_back(last[r]);
      ended[r] = options.stop_at_eos && last[r] == model.config().eos_token_id;
      all = all && ended[r];
    }
    if (all) break;
  }
  return outputs;
}

}  // namespace srformer
