// SPDX-License-Identifier: Apache-2.0
// What training and decoding ask of an encoder-decoder model.
#pragma once

#include <concepts>
#include <functional>

#include <srformer/attention/cross_attention.hpp>
#include <srformer/attention/decode.hpp>
#include <srformer/io/dataset.hpp>
#include <srformer/models/parameters.hpp>
#include <srformer/ops/dropout.hpp>

namespace srformer {

/// How a batch enters the gradients.
struct LossOptions {
  double label_smoothing = 0;
  double scale = 1;  ///< gradients are those of scale times the sum of the token losses
  DropoutRates dropout{};
  RandomStream random{};  ///< of this step; every place of dropout takes its own stream of it
  /// Where it is set, a model may call finished(stage), of rising stages, when the gradients of parameters whose
  /// final_stage is no later have been queued on the backend and nothing of this batch will be added to them.
  std::function<void(index_t)> finished{};
};

/// What decoding knows of a batch of sources: of every decoder layer the keys and values of the source
/// and what is prepared of them, which the rows of one source share, and the cache of self-attention.
template <class B, class T, class List = PaperVariants>
struct DecoderState {
  using C = compute_t<T>;
  struct Layer {
    Tensor<B, T, 3> qkv;  ///< [max_steps,R,3*H*D], filled up to `step`
    typename List::template Prepared<B, T> cross;
  };
  index_t sources = 0, source_width = 0, horizon = 0, step = 0;
  DecodeRows<B> rows;
  Tensor<B, index_t, 1> lengths;
  Tensor<B, C, 2> padding_bias;  ///< [B,N] for upstream padding, else empty
  Tensor<B, C, 2> relative;      ///< [H,2*max_steps-1] where scores are biased by distance
  std::vector<Layer> layers;

  /// The rows of a batch of sources before the first step; each layer is to be added.
  static DecoderState before_steps(B& be, const Batch& batch, index_t max_steps, index_t horizon,
                                   index_t rows_per_source) {
    DecoderState state;
    state.sources = batch.rows, state.source_width = batch.source_width, state.horizon = horizon;
    state.rows = DecodeRows<B>(be, batch.rows, batch.rows * rows_per_source, max_steps);
    return state;
  }

  /// Takes up the rows of the step to come, one for each of `ids`.
  void go_on(const std::string& function, B& be, std::span<const std::int32_t> ids,
             const NextRows& next) {
    require(step < rows.max_steps(), function, "the state holds no more steps");
    rows.go_on(be, step, next);
    require(static_cast<index_t>(ids.size()) == rows.rows(), function,
            std::to_string(ids.size()) + " ids for " + std::to_string(rows.rows()) + " rows");
  }
};

/// What search asks of a model, beside the type DecoderState:
///   start_decoding(ids, lengths, max_steps, horizon, rows_per_source)
///       encodes ids [B,N], padded, of the given lengths [B], for max_steps decoder steps at most, the
///       start token's included, of up to B * rows_per_source rows; horizon is the decoder steps over
///       the segments, 0 the configuration's generation_horizon. The first step has a row per source.
///   decode_step(state, ids, next)
///       the logits [R,V] that follow the tokens `ids` [R] of the rows; `next` says how these rows go on
///       from those of the step before
///   config()    with vocab_size, decoder_start_token_id, pad_token_id and eos_token_id
/// The state is the caller's, and the model keeps none. DecoderState, the rows and
/// the self-attention of attention/decode.hpp are there for models to use.
template <class M>
concept DecodesStepByStep = requires(M& model, const M& same, typename M::DecoderState& state,
                                     std::span<const std::int32_t> ids,
                                     std::span<const index_t> lengths, index_t n, NextRows next) {
  typename M::scalar;
  typename M::backend_type;
  { model.backend() } -> std::same_as<typename M::backend_type&>;
  { same.config().vocab_size } -> std::convertible_to<index_t>;
  { same.config().decoder_start_token_id } -> std::convertible_to<std::int32_t>;
  { same.config().pad_token_id } -> std::convertible_to<std::int32_t>;
  { same.config().eos_token_id } -> std::convertible_to<std::int32_t>;
  { model.start_decoding(ids, lengths, n, n, n) } -> std::same_as<typename M::DecoderState>;
  {
    model.decode_step(state, ids, next)
    } -> std::same_as<Tensor<typename M::backend_type, typename M::scalar, 2>>;
};

namespace detail {

/// Sources without targets, for decoding.
inline Batch sources_alone(const std::string& function, std::span<const std::int32_t> ids,
                           std::span<const index_t> lengths, index_t max_steps,
                           index_t rows_per_source, std::int32_t any_label) {
  require(max_steps >= 1, function, "max_steps must be at least 1");
  require(rows_per_source >= 1, function, "rows_per_source must be at least 1");
  Batch batch;
  batch.rows = static_cast<index_t>(lengths.size());
  batch.source_width = batch.rows > 0 ? static_cast<index_t>(ids.size()) / batch.rows : 0;
  batch.target_width = 1;
  batch.source_ids.assign(ids.begin(), ids.end());
  batch.source_lengths.assign(lengths.begin(), lengths.end());
  batch.labels.assign(lengths.size(), any_label);
  return batch;
}

inline void check_batch(const std::string& function, const Batch& batch, index_t vocabulary) {
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
