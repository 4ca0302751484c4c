// SPDX-License-Identifier: Apache-2.0
// A model small enough to train within a test: the logits of a token come from the token before it
// and the mean of the source.
//
//   z_i = W dropout(e[y_{i-1}] + mean_t e[x_t]) + b
#pragma once

#include <srformer/backend/eigen.hpp>
#include <srformer/io/hf_checkpoint.hpp>
#include <srformer/models/seq2seq.hpp>
#include <srformer/ops/cross_entropy.hpp>
#include <srformer/ops/embedding.hpp>
#include <srformer/ops/linear.hpp>
#include <vector>

template <class T>
class BigramModel {
 public:
  using scalar = T;
  using backend_type = srformer::EigenBackend;
  using index_t = srformer::index_t;
  using Matrix = srformer::Tensor<backend_type, T, 2>;
  using LossSum = srformer::View<srformer::accumulate_t<T>, 1>;

  static constexpr index_t vocabulary = 11, width = 6;

  explicit BigramModel(backend_type& be) : be_(be), parameters_(be) {
    using srformer::Role;
    table_ = &parameters_.add("table", Role::embedding, {vocabulary, width});
    bias_ = &parameters_.add("bias", Role::bias, {vocabulary});
    weight_ = &parameters_.add("weight", Role::weight, {vocabulary, width});
    parameters_.allocate();
    const srformer::RandomStream random{7, 0};
    for (index_t i = 0; i < parameters_.size(); ++i)
      parameters_.values()(i) = T(srformer::normal(random, static_cast<std::uint64_t>(i)));
  }

  struct Config {
    std::int32_t pad_token_id = 0;
  };

  backend_type& backend() { return be_; }
  Config config() const { return {}; }
  srformer::DropoutRates dropout_rates() const { return {}; }
  srformer::Parameters<backend_type, T>& parameters() { return parameters_; }

  void add_loss(const srformer::Batch& batch, double label_smoothing, LossSum loss_sum) {
    run(batch, {.label_smoothing = label_smoothing}, loss_sum, false);
  }
  void add_gradients(const srformer::Batch& batch, const srformer::LossOptions& options,
                     LossSum loss_sum) {
    run(batch, options, loss_sum, true);
  }

 private:
  void run(const srformer::Batch& batch, const srformer::LossOptions& options, LossSum loss_sum,
           bool backward) {
    using namespace srformer;
    const index_t M = batch.target_width, rows = batch.rows * M;
    const auto before = detail::shift_right(batch, 0, 0);
    const Dropout dropout{options.dropout.dropout, options.random};
    Matrix x(be_, {rows, width}), z(be_, {rows, vocabulary});
    embedding_forward(be_, before, table_->matrix(), x.view());
    for_each_source(batch, [&](index_t b, std::int32_t id, T share) {
      for (index_t i = b * M; i < (b + 1) * M; ++i)
        for (index_t c = 0; c < width; ++c) x.view()(i, c) += share * table_->matrix()(id, c);
    });
    dropout_in_place(be_, x.view(), dropout);
    linear_forward(be_, x, weight_->matrix(), In<backend_type, T, 1>(bias_->vector()), z.view());

    const auto labels = from_host<std::int32_t, 1>(be_, {rows}, batch.labels);
    Tensor<backend_type, compute_t<T>, 1> lse(be_, {rows});
    cross_entropy_forward(be_, z.view().as_const(), labels, options.label_smoothing, lse, loss_sum);
    if (!backward) return;
    cross_entropy_backward_in_place(be_, z.view(), labels, options.label_smoothing, lse,
                                    options.scale);
    Matrix d_x = zeros<T, 2>(be_, {rows, width});
    linear_backward(be_, x, weight_->matrix(), z, Out<backend_type, T, 2>(d_x.view()),
                    weight_->d_matrix(), Out<backend_type, T, 1>(bias_->d_vector()));
    dropout_in_place(be_, d_x.view(), dropout);
    embedding_backward(be_, before, d_x, table_->d_matrix());
    for_each_source(batch, [&](index_t b, std::int32_t id, T share) {
      for (index_t i = b * M; i < (b + 1) * M; ++i)
        for (index_t c = 0; c < width; ++c) table_->d_matrix()(id, c) += share * d_x.view()(i, c);
    });
  }

  template <class F>
  static void for_each_source(const srformer::Batch& batch, F f) {
    for (index_t b = 0; b < batch.rows; ++b) {
      const index_t length = batch.source_lengths[static_cast<std::size_t>(b)];
      for (index_t t = 0; t < length; ++t)
        f(b, batch.source_ids[static_cast<std::size_t>(b * batch.source_width + t)],
          T(1 / static_cast<double>(length)));
    }
  }

  backend_type& be_;
  srformer::Parameters<backend_type, T> parameters_;
  srformer::Parameter<backend_type, T>*table_, *bias_, *weight_;
};

/// Examples of odd lengths with ids in [2,11).
inline std::vector<srformer::Example> odd_examples(std::size_t count, std::uint64_t seed = 5) {
  const srformer::RandomStream random{seed, 3};
  std::uint64_t at = 0;
  const auto ids = [&](std::uint64_t length) {
    std::vector<std::int32_t> drawn;
    for (std::uint64_t i = 0; i < length; ++i)
      drawn.push_back(static_cast<std::int32_t>(2 + srformer::random_below(random, at++, 9)));
    return drawn;
  };
  std::vector<srformer::Example> examples;
  for (std::size_t i = 0; i < count; ++i) {
    const auto source = ids(1 + srformer::random_below(random, at++, 13));
    examples.push_back({source, ids(1 + srformer::random_below(random, at++, 7))});
    examples.back().target.push_back(1);
  }
  return examples;
}

/// A T5 of one layer per stack over the same ids, in whose decoder sources of up to 13 make 4
/// segments.
inline nlohmann::json tiny_t5_config(const char* variant) {
  return {{"model_type", "t5"},
          {"vocab_size", 11},
          {"d_model", 8},
          {"d_kv", 4},
          {"d_ff", 12},
          {"num_layers", 1},
          {"num_heads", 2},
          {"dropout_rate", 0.1},
          {"feed_forward_proj", "relu"},
          {"pad_token_id", 0},
          {"eos_token_id", 1},
          {"decoder_start_token_id", 0},
          {"cross_attention", {{"variant", variant}, {"segment_size", 4}, {"horizon", 8}}}};
}
