// SPDX-License-Identifier: Apache-2.0
// A model whose logits a formula gives, from the source, the position and the token before, or from the
// whole sequence. It keeps what search tells it of rows, and fails where that does not fit together.
#pragma once

#include <functional>

#include <srformer/backend/eigen.hpp>
#include <srformer/decode/search.hpp>

#include "support/catch.hpp"

namespace srformer::testing {

using TokenIds = std::vector<std::int32_t>;

template <class B = EigenBackend, class T = double>
struct FormulaModel {
  using scalar = T;
  using backend_type = B;
  /// The logits [V] after `sequence` of source number `source`, the first id of its ids.
  using Formula = std::function<std::vector<double>(std::int32_t source, const TokenIds& sequence)>;

  struct Config {
    index_t vocab_size;
    std::int32_t decoder_start_token_id = 0, pad_token_id = 0, eos_token_id = 1;
  };
  struct State {
    std::vector<std::int32_t> numbers;  // of the sources
    std::vector<TokenIds> rows;
    std::vector<std::size_t> source_of;
    index_t most_rows, steps_left;
  };
  using DecoderState = State;

  B& be;
  Config settings;
  Formula formula;
  std::vector<index_t> rows_asked{};  ///< of every step
  index_t horizon = 0;

  B& backend() { return be; }
  const Config& config() const { return settings; }

  State start_decoding(std::span<const std::int32_t> ids, std::span<const index_t> lengths,
                       index_t max_steps, index_t over, index_t rows_per_source) {
    State state{{}, {}, {}, std::ssize(lengths) * rows_per_source, max_steps};
    const std::size_t width = ids.size() / lengths.size();
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      state.numbers.push_back(ids[b * width]);
      state.rows.push_back({}), state.source_of.push_back(b);
    }
    horizon = over;
    return state;
  }

  Tensor<B, T, 2> decode_step(State& state, std::span<const std::int32_t> ids,
                              const NextRows& next) {
    REQUIRE(state.steps_left-- > 0);
    if (!next.parents.empty()) {
      const std::size_t each = next.parents.size() / next.sources.size();
      std::vector<TokenIds> rows;
      std::vector<std::size_t> source_of;
      for (std::size_t r = 0; r < next.parents.size(); ++r) {
        const auto parent = static_cast<std::size_t>(next.parents[r]);
        rows.push_back(state.rows.at(parent));
        source_of.push_back(static_cast<std::size_t>(next.sources[r / each]));
        REQUIRE(source_of.back() == state.source_of.at(parent));
      }
      state.rows = std::move(rows), state.source_of = std::move(source_of);
    }
    REQUIRE(ids.size() == state.rows.size());
    REQUIRE(std::ssize(ids) <= state.most_rows);
    rows_asked.push_back(std::ssize(ids));
    std::vector<T> logits;
    for (std::size_t r = 0; r < ids.size(); ++r) {
      state.rows[r].push_back(ids[r]);
      for (const double z : formula(state.numbers[state.source_of[r]], state.rows[r]))
        logits.push_back(T(z));
    }
    return from_host<T, 2>(be, {std::ssize(ids), settings.vocab_size}, logits);
  }
};

/// The formula of make_generation_values.py.
inline double mixed_logit(std::uint64_t source, std::uint64_t position, std::uint64_t last,
                          std::uint64_t token) {
  auto x = static_cast<std::uint32_t>(source * 7919 + position * 104729 + last * 1299709 +
                                      token * 15485863 + 12345);
  for (int round = 0; round < 3; ++round) x = (x ^ (x >> 16)) * 0x45D9F3Bu;
  x ^= x >> 16;
  return x / 4294967296.0 * 6 - 3 + (token == 1 ? 1.5 : 0);
}

/// That formula for a vocabulary.
inline auto mixed_logits(index_t vocabulary) {
  return [=](std::int32_t source, const TokenIds& sequence) {
    std::vector<double> z;
    for (index_t token = 0; token < vocabulary; ++token) {
      z.push_back(mixed_logit(static_cast<std::uint64_t>(source), sequence.size(),
                              static_cast<std::uint64_t>(sequence.back()),
                              static_cast<std::uint64_t>(token)));
    }
    return z;
  };
}

/// What is generated for sources that are a number each.
template <class Model>
Generation generate_for(Model& model, const TokenIds& numbers, const GenerationConfig& config) {
  return generate(model, numbers, std::vector<index_t>(numbers.size(), 1), config);
}

inline std::vector<double> log_softmax(std::vector<double> z) {
  double total = 0;
  for (const double x : z) total += std::exp(x);
  for (double& x : z) x -= std::log(total);
  return z;
}

}  // namespace srformer::testing
