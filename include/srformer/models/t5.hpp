// SPDX-License-Identifier: Apache-2.0
// T5 (Raffel et al. 2020), with any cross-attention in the decoder.
//
//   encoder   x += SelfAttention(norm(x));  x += FeedForward(norm(x));              out = norm(x)
//   decoder   x += SelfAttention(norm(x));  x += CrossAttention(norm(x), encoder);
//             x += FeedForward(norm(x));    logits = E^-1/2 norm(x) W^T
//
// No scaling of scores; a relative position bias shared by the layers of a stack; dropout where
// transformers has it: on embeddings, attention weights, hidden units, branches and outputs.
#pragma once

#include <limits>

#include <srformer/attention/decode.hpp>
#include <srformer/attention/position_bias.hpp>
#include <srformer/models/config.hpp>
#include <srformer/models/layers.hpp>
#include <srformer/models/output.hpp>
#include <srformer/models/seq2seq.hpp>
#include <srformer/ops/embedding.hpp>

namespace srformer {

template <class B, class T, class List = PaperVariants>
requires BackendFor<B, T>
class T5 {
 public:
  using Space = typename B::space;
  using C = compute_t<T>;
  using Matrix = Tensor<B, T, 2>;
  using scalar = T;
  using backend_type = B;
  using DecoderState = srformer::DecoderState<B, T, List>;
  using variants = List;

  /// Parameters are there, but zero: load them, or initialize(). io_error where the configuration's
  /// cross-attention is none of the list's.
  T5(B& be, T5Config config)
      : be_(be),
        config_(std::move(config)),
        cross_(cross_attention_options<List>(config_.cross_attention)),
        parameters_(be) {
    config_.cross_attention = CrossAttentionConfig(cross_);
    register_parameters();
    parameters_.allocate();
  }
  T5(const T5&) = delete;
  T5& operator=(const T5&) = delete;

  B& backend() { return be_; }
  const T5Config& config() const { return config_; }
  Parameters<B, T>& parameters() { return parameters_; }
  const Parameters<B, T>& parameters() const { return parameters_; }

  /// As transformers initialises T5; parameters that a variant adds as method and factor say:
  /// W uniform in +-D^-1/2 times recurrence_init_scale, threshold 0.1, leak 0.1, sigma 0.5, gate 0.
  void initialize(RandomStream random, double recurrence_init_scale) {
    parameters_.require_numbers("T5::initialize");
    const double f = config_.initializer_factor;
    const auto E = static_cast<double>(config_.d_model), D = static_cast<double>(config_.d_kv);
    const auto F = static_cast<double>(config_.d_ff), inner = static_cast<double>(config_.inner());
    for (auto& p : parameters_) {
      const auto ends = [&](const char* tail) { return p.name.ends_with(tail); };
      if (p.role == Role::norm) {
        be_.fill(p.value, p.count, T(f));
      } else if (p.role == Role::embedding) {
        fill_normal(be_, p, random, f);
      } else if (ends(".q.weight")) {
        fill_normal(be_, p, random, f / std::sqrt(E * D));
      } else if (ends(".k.weight") || ends(".v.weight") || ends(".wi.weight") ||
                 ends(".wi_0.weight") || ends(".wi_1.weight") ||
                 ends(".relative_attention_bias.weight")) {
        fill_normal(be_, p, random, f / std::sqrt(E));
      } else if (ends(".o.weight")) {
        fill_normal(be_, p, random, f / std::sqrt(inner));
      } else if (ends(".wo.weight")) {
        fill_normal(be_, p, random, f / std::sqrt(F));
      }
    }
    initialize_recurrence(random, recurrence_init_scale);
  }

  /// Only what the variant adds: for a checkpoint that was trained without it.
  void initialize_recurrence(RandomStream random, double scale) {
    const InitialValue values[] = {{"SNN_kv.weight", scale}, {"leak", 0.1}, {"threshold", 0.1}};
    for (const DecoderLayer& layer : decoder_)
      layer.cross.initialize_variant(be_, random, cross_, values);
  }

  /// Logits [B,M,V] with the labels, shifted right, as the decoder's input; no dropout.
  Tensor<B, T, 3> logits(const Batch& batch) {
    Run run = begin("T5::logits", batch, {});
    encode(run, nullptr);
    decode(run, nullptr);
    Tensor<B, T, 3> z(be_, {batch.rows, batch.target_width, config_.vocab_size});
    const index_t rows = batch.rows * batch.target_width;
    output().forward(be_, run.decoded, View<T, 2, Space>(z.data(), {rows, config_.vocab_size}));
    return z;
  }

  /// loss_sum[0] += the sum of the token losses of the batch, not divided; no dropout.
  void add_loss(const Batch& batch, double label_smoothing,
                View<accumulate_t<T>, 1, Space> loss_sum) {
    Run run = begin("T5::add_loss", batch, {.label_smoothing = label_smoothing});
    encode(run, nullptr);
    decode(run, nullptr);
    loss(run, loss_sum, nullptr);
  }

  /// loss_sum[0] += the sum of the token losses; the parameters' gradients += options.scale times
  /// those of that sum.
  void add_gradients(const Batch& batch, const LossOptions& options,
                     View<accumulate_t<T>, 1, Space> loss_sum) {
    parameters_.allocate_gradients();
    Run run = begin("T5::add_gradients", batch, options);
    EncoderSaved encoder;
    DecoderSaved decoder;
    encode(run, &encoder);
    decode(run, &decoder);
    Matrix d_decoded = zeros<T, 2>(be_, run.decoded.view().extents);
    loss(run, loss_sum, d_decoded.data());
    Matrix d_encoded = zeros<T, 2>(be_, run.encoded.view().extents);
    decode_backward(run, decoder, d_decoded, d_encoded);
    encode_backward(run, encoder, d_encoded);
  }

  /// Encodes sources and computes once what no decoder step changes: models/seq2seq.hpp.
  DecoderState start_decoding(std::span<const std::int32_t> ids, std::span<const index_t> lengths,
                              index_t max_steps, index_t horizon = 0, index_t rows_per_source = 1) {
    const Batch batch = detail::sources_alone("T5::start_decoding", ids, lengths, max_steps,
                                              rows_per_source, config_.eos_token_id);
    Run run = begin("T5::start_decoding", batch, {});
    encode(run, nullptr);

    auto state = DecoderState::before_steps(be_, batch, max_steps, horizon, rows_per_source);
    for (const DecoderLayer& layer : decoder_) {
      layer.cross.start_decoding(be_, decoder_shape(run), run.encoded, cross_context(run, 0),
                                 cross_, state);
    }
    state.relative = Tensor<B, C, 2>(be_, {config_.num_heads, 2 * max_steps - 1});
    position_bias_forward(be_, BucketTable<B>(be_, buckets(false), max_steps, max_steps),
                          decoder_bias_->matrix(), state.relative.view());
    state.lengths = std::move(run.lengths);
    state.padding_bias = std::move(run.padding_bias);
    return state;
  }

  /// Logits [R,V] that follow `ids` [R], the tokens of the rows at position state.step; then the step is
  /// the next one.
  Matrix decode_step(DecoderState& state, std::span<const std::int32_t> ids,
                     const NextRows& next = {}) {
    state.go_on("T5::decode_step", be_, ids, next);
    const index_t H = config_.num_heads, D = config_.d_kv, t = state.step, inner = config_.inner();
    const index_t R = state.rows.rows(), G = state.rows.groups();
    Matrix x(be_, {R, config_.d_model});
    embedding_forward(be_, ids, shared_->weight(), x.view());
    const AttentionShape groups{G, R / G, state.source_width, H, D};
    const Dropout none;
    ScoreMask<C, Space> self;
    self.relative = state.relative.view();
    self.relative_zero = state.rows.max_steps() - 1 - t;
    AttendContext<C, Space> cross;
    set_padding(cross, state.lengths, state.padding_bias);
    Matrix q(be_, {R, inner}), a(be_, {R, inner});
    for (std::size_t l = 0; l < decoder_.size(); ++l) {
      const DecoderLayer& layer = decoder_[l];
      auto& cache = state.layers[l];
      Matrix h = normed(*layer.self_norm, x);
      layer.self.project(be_, h, cache.qkv.view()[t].slice(0, 0, R));
      self_attention_step(be_, cache.qkv, state.rows, t, H, self, a.view());
      x = Residual<B, T>::forward(be_, *layer.self.o, x, a, none);

      h = normed(*layer.cross_norm, x);
      layer.cross.queries(be_, h, q.view());
      List::step(be_, layer.cross.heads(groups, q), cross, layer.cross.parameters(), cache.cross,
                 {t, state.rows.sources()}, layer.cross.heads(groups, a));
      x = Residual<B, T>::forward(be_, *layer.cross.o, x, a, none);

      h = normed(*layer.feed_norm, x);
      typename FeedForward<B, T>::Saved saved;
      x = Residual<B, T>::forward(be_, *layer.feed.wo, x, layer.feed.forward(be_, h, none, saved),
                                  none);
    }
    Matrix z(be_, {R, config_.vocab_size});
    output().forward(be_, normed(*decoder_norm_, x), z.view());
    ++state.step;
    return z;
  }

 private:
  struct EncoderLayer {
    Parameter<B, T>*self_norm, *feed_norm;
    SelfAttention<B, T> self;
    FeedForward<B, T> feed;
  };
  struct DecoderLayer {
    Parameter<B, T>*self_norm, *cross_norm, *feed_norm;
    SelfAttention<B, T> self;
    CrossAttention<B, T, List> cross;
    FeedForward<B, T> feed;
  };

  /// One pass over a batch: sizes, masks, and the outputs of both stacks.
  struct Run {
    const Batch& batch;
    LossOptions options;
    detail::DropoutSites dropout;
    Tensor<B, index_t, 1> lengths{};
    Tensor<B, C, 2> padding_bias{};
    BucketTable<B> encoder_buckets{}, decoder_buckets{};
    Tensor<B, C, 2> encoder_relative{}, decoder_relative{};
    std::vector<std::int32_t> decoder_ids{};
    Matrix encoded{}, decoded{};
  };

  /// Streams between sublayers, and what sublayers keep.
  struct EncoderSaved {
    struct Layer {
      Matrix x, x_feed;
      typename SelfAttention<B, T>::Saved self;
      typename FeedForward<B, T>::Saved feed;
    };
    std::vector<Layer> layers;
    Matrix x;
  };
  struct DecoderSaved {
    struct Layer {
      Matrix x, x_cross, x_feed;
      typename SelfAttention<B, T>::Saved self;
      typename CrossAttention<B, T, List>::Saved cross;
      typename FeedForward<B, T>::Saved feed;
    };
    std::vector<Layer> layers;
    Matrix x;
  };

  /// Places of dropout, eight to a layer.
  enum Site : index_t {
    attention = 0,
    branch = 1,
    cross_attention = 2,
    cross_branch = 3,
    hidden = 4,
    feed_branch = 5
  };
  static constexpr index_t embeddings = 0, outputs = 1, layers = 8, decoder_side = 1 << 20;
  static index_t site(index_t layer, Site place) { return layers + 8 * layer + place; }
  static index_t decoder_site(index_t layer, Site place) {
    return decoder_side + site(layer, place);
  }

  // ---- parameters ----------------------------------------------------------------------------

  void register_parameters() {
    const T5Config& c = config_;
    std::vector<std::string> tied{"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"};
    if (c.tie_word_embeddings) tied.push_back("lm_head.weight");
    const std::vector<index_t> shape{c.vocab_size, c.d_model};
    shared_ = &parameters_.add("shared.weight", Role::embedding, shape, tied);
    output_ = c.tie_word_embeddings ? shared_
                                    : &parameters_.add("lm_head.weight", Role::embedding, shape);
    shared_->quantizable = output_->quantizable = true;
    for (index_t l = 0; l < c.num_layers; ++l) {
      const std::string block = "encoder.block." + std::to_string(l) + ".layer.";
      EncoderLayer layer;
      layer.self = add_self_attention(block + "0.SelfAttention");
      if (l == 0) encoder_bias_ = add_position_bias(block + "0.SelfAttention");
      layer.self_norm = add_norm(block + "0.layer_norm");
      layer.feed = add_feed_forward(block + "1.DenseReluDense");
      layer.feed_norm = add_norm(block + "1.layer_norm");
      encoder_.push_back(layer);
    }
    encoder_norm_ = add_norm("encoder.final_layer_norm");
    for (index_t l = 0; l < c.num_decoder_layers; ++l) {
      const std::string block = "decoder.block." + std::to_string(l) + ".layer.";
      DecoderLayer layer;
      layer.self = add_self_attention(block + "0.SelfAttention");
      if (l == 0) decoder_bias_ = add_position_bias(block + "0.SelfAttention");
      layer.self_norm = add_norm(block + "0.layer_norm");
      layer.cross = add_cross_attention(block + "1.EncDecAttention");
      layer.cross_norm = add_norm(block + "1.layer_norm");
      layer.feed = add_feed_forward(block + "2.DenseReluDense");
      layer.feed_norm = add_norm(block + "2.layer_norm");
      decoder_.push_back(layer);
    }
    decoder_norm_ = add_norm("decoder.final_layer_norm");
  }

  SelfAttention<B, T> add_self_attention(const std::string& name) {
    const index_t E = config_.d_model, inner = config_.inner();
    return {add_weight(name + ".q", inner, E), add_weight(name + ".k", inner, E),
            add_weight(name + ".v", inner, E), add_weight(name + ".o", E, inner)};
  }
  /// The bias of the first layer, which the others of its stack share.
  Parameter<B, T>* add_position_bias(const std::string& name) {
    return &parameters_.add(name + ".relative_attention_bias.weight", Role::weight,
                            {config_.relative_attention_num_buckets, config_.num_heads});
  }
  CrossAttention<B, T, List> add_cross_attention(const std::string& name) {
    const index_t E = config_.d_model, inner = config_.inner();
    CrossAttention<B, T, List> a{
        add_weight(name + ".q", inner, E), add_weight(name + ".k", inner, E),
        add_weight(name + ".v", inner, E), add_weight(name + ".o", E, inner)};
    a.add_variant(parameters_, name, cross_, {config_.num_heads, config_.d_kv});
    return a;
  }
  FeedForward<B, T> add_feed_forward(const std::string& name) {
    const index_t E = config_.d_model, F = config_.d_ff;
    FeedForward<B, T> f;
    f.activation = config_.activation;
    f.wi_0 = add_weight(name + (config_.gated ? ".wi_0" : ".wi"), F, E);
    if (config_.gated) f.wi_1 = add_weight(name + ".wi_1", F, E);
    f.wo = add_weight(name + ".wo", E, F);
    return f;
  }

  Parameter<B, T>* add_weight(const std::string& name, index_t rows, index_t columns) {
    Parameter<B, T>* p = &parameters_.add(name + ".weight", Role::weight, {rows, columns});
    p->quantizable = true;
    return p;
  }
  Parameter<B, T>* add_norm(const std::string& name) {
    return &parameters_.add(name + ".weight", Role::norm, {config_.d_model});
  }

  // ---- one pass ------------------------------------------------------------------------------

  Run begin(const char* function, const Batch& batch, const LossOptions& options) {
    detail::check_batch(function, batch, config_.vocab_size);
    Run run{batch, options, {options.dropout_rate, options.random}};
    run.lengths = from_host<index_t, 1>(be_, {batch.rows}, batch.source_lengths);
    const index_t N = batch.source_width, M = batch.target_width, H = config_.num_heads;
    if (cross_.value_or("padding", Padding::masked) == Padding::upstream) {
      // The authors add the most negative number to the scores of padded keys.
      std::vector<C> bias(static_cast<std::size_t>(batch.rows * N), C(0));
      for (index_t b = 0; b < batch.rows; ++b) {
        for (index_t j = batch.source_lengths[static_cast<std::size_t>(b)]; j < N; ++j) {
          bias[static_cast<std::size_t>(b * N + j)] = most_negative();
        }
      }
      run.padding_bias = from_host<C, 2>(be_, {batch.rows, N}, bias);
    }
    run.encoder_relative = Tensor<B, C, 2>(be_, {H, 2 * N - 1});
    run.encoder_buckets = BucketTable<B>(be_, buckets(true), N, N);
    position_bias_forward(be_, run.encoder_buckets, encoder_bias_->matrix(),
                          run.encoder_relative.view());
    run.decoder_relative = Tensor<B, C, 2>(be_, {H, 2 * M - 1});
    run.decoder_buckets = BucketTable<B>(be_, buckets(false), M, M);
    position_bias_forward(be_, run.decoder_buckets, decoder_bias_->matrix(),
                          run.decoder_relative.view());
    run.decoder_ids =
        detail::shift_right(batch, config_.decoder_start_token_id, config_.pad_token_id);
    return run;
  }

  RelativeBuckets buckets(bool bidirectional) const {
    return {config_.relative_attention_num_buckets, config_.relative_attention_max_distance,
            bidirectional};
  }

  static C most_negative() {
    if constexpr (std::is_same_v<C, float>) {
      return std::numeric_limits<float>::lowest();
    } else {
      return C(std::numeric_limits<double>::lowest());
    }
  }

  AttendContext<C, Space> encoder_context(const Run& run, index_t layer) const {
    AttendContext<C, Space> context;
    context.mask.lengths = run.lengths.data();
    context.mask.relative = run.encoder_relative.view();
    context.mask.relative_zero = run.batch.source_width - 1;
    context.dropout = run.dropout.at(site(layer, attention));
    return context;
  }
  AttendContext<C, Space> decoder_context(const Run& run, index_t layer) const {
    AttendContext<C, Space> context;
    context.mask.causal = true;
    context.mask.relative = run.decoder_relative.view();
    context.mask.relative_zero = run.batch.target_width - 1;
    context.dropout = run.dropout.at(decoder_site(layer, attention));
    return context;
  }
  AttendContext<C, Space> cross_context(const Run& run, index_t layer) const {
    AttendContext<C, Space> context;
    set_padding(context, run.lengths, run.padding_bias);
    context.dropout = run.dropout.at(decoder_site(layer, cross_attention));
    return context;
  }

  void set_padding(AttendContext<C, Space>& context, const Tensor<B, index_t, 1>& lengths,
                   const Tensor<B, C, 2>& padding_bias) const {
    if (padding_bias.empty()) {
      context.mask.lengths = lengths.data();
    } else {
      const index_t N = padding_bias.extent(1);
      context.mask.dense = View<const C, 4, Space>(
          padding_bias.data(), {padding_bias.extent(0), config_.num_heads, 1, N}, {N, 0, 0, 1});
    }
  }

  AttentionShape encoder_shape(const Run& run) const {
    return {run.batch.rows, run.batch.source_width, run.batch.source_width, config_.num_heads,
            config_.d_kv};
  }
  AttentionShape decoder_shape(const Run& run) const {
    return {run.batch.rows, run.batch.target_width, run.batch.source_width, config_.num_heads,
            config_.d_kv};
  }

  RmsNormOptions norm_options() const {
    return {config_.layer_norm_epsilon, config_.transformers_statistics};
  }
  Matrix normed(const Parameter<B, T>& weight, In<B, T, 2> x) const {
    Matrix h(be_, x.extents);
    rms_norm_forward(be_, x, weight.vector(), h.view(), norm_options());
    return h;
  }
  void normed_backward(const Parameter<B, T>& weight, In<B, T, 2> x, In<B, T, 2> d_h,
                       View<T, 2, Space> d_x) const {
    rms_norm_backward(be_, x, weight.vector(), d_h, d_x, weight.d_vector(), norm_options());
  }

  Matrix embedded(std::span<const std::int32_t> ids, const Dropout& dropout) const {
    Matrix x(be_, {static_cast<index_t>(ids.size()), config_.d_model});
    embedding_forward(be_, ids, shared_->weight(), x.view());
    dropout_in_place(be_, x.view(), dropout);
    return x;
  }

  // ---- encoder -------------------------------------------------------------------------------

  void encode(Run& run, EncoderSaved* saved) const {
    const AttentionShape shape = encoder_shape(run);
    Matrix x = embedded(run.batch.source_ids, run.dropout.at(embeddings));
    for (index_t l = 0; l < config_.num_layers; ++l) {
      const EncoderLayer& layer = encoder_[static_cast<std::size_t>(l)];
      typename EncoderSaved::Layer s;
      layer.self.forward(be_, shape, normed(*layer.self_norm, x), encoder_context(run, l), s.self);
      s.x_feed =
          Residual<B, T>::forward(be_, *layer.self.o, x, s.self.a, run.dropout.at(site(l, branch)));
      s.x = std::move(x);
      const auto hidden_units = layer.feed.forward(be_, normed(*layer.feed_norm, s.x_feed),
                                                   run.dropout.at(site(l, hidden)), s.feed);
      x = Residual<B, T>::forward(be_, *layer.feed.wo, s.x_feed, hidden_units,
                                  run.dropout.at(site(l, feed_branch)));
      layer.feed.forget(s.feed);
      if (saved != nullptr) saved->layers.push_back(std::move(s));
    }
    run.encoded = normed(*encoder_norm_, x);
    dropout_in_place(be_, run.encoded.view(), run.dropout.at(outputs));
    if (saved != nullptr) saved->x = std::move(x);
  }

  void encode_backward(Run& run, EncoderSaved& saved, Matrix& d_encoded) const {
    const AttentionShape shape = encoder_shape(run);
    Tensor<B, C, 2> d_relative = zeros<C, 2>(be_, run.encoder_relative.view().extents);
    Matrix d_x = zeros<T, 2>(be_, saved.x.view().extents);
    // encoded = dropout(norm(x))
    dropout_in_place(be_, d_encoded.view(), run.dropout.at(outputs));
    normed_backward(*encoder_norm_, saved.x, d_encoded, d_x.view());
    for (index_t l = config_.num_layers - 1; l >= 0; --l) {
      const EncoderLayer& layer = encoder_[static_cast<std::size_t>(l)];
      auto& s = saved.layers[static_cast<std::size_t>(l)];
      feed_backward(layer.feed, *layer.feed_norm, s.x_feed, s.feed, run.dropout.at(site(l, hidden)),
                    run.dropout.at(site(l, feed_branch)), d_x);
      // x_feed = x + dropout(attention(norm(x)))
      const Matrix d_a = Residual<B, T>::backward(be_, *layer.self.o, s.self.a, d_x,
                                                  run.dropout.at(site(l, branch)));
      const Matrix h = normed(*layer.self_norm, s.x);
      Matrix d_h = zeros<T, 2>(be_, h.view().extents);
      layer.self.backward(be_, shape, h, encoder_context(run, l), s.self,
                          {d_a, d_h.view(), d_relative.data()});
      normed_backward(*layer.self_norm, s.x, d_h, d_x.view());
      saved.layers.pop_back();
    }
    position_bias_backward(be_, run.encoder_buckets, d_relative, encoder_bias_->d_matrix());
    // x = dropout(table[ids])
    dropout_in_place(be_, d_x.view(), run.dropout.at(embeddings));
    embedding_backward(be_, run.batch.source_ids, d_x, shared_->d_matrix());
  }

  /// d_x, the gradient of x + dropout(feed(norm(x))), becomes that of x.
  void feed_backward(const FeedForward<B, T>& feed, const Parameter<B, T>& norm, const Matrix& x,
                     typename FeedForward<B, T>::Saved& saved, const Dropout& hidden_dropout,
                     const Dropout& branch_dropout, Matrix& d_x) const {
    const auto hidden_units = feed.recall(be_, hidden_dropout, saved);
    Matrix d_hidden = Residual<B, T>::backward(be_, *feed.wo, hidden_units, d_x, branch_dropout);
    const Matrix h = normed(norm, x);
    Matrix d_h = zeros<T, 2>(be_, h.view().extents);
    feed.backward(be_, h, hidden_dropout, saved, d_hidden.view(), d_h.view());
    normed_backward(norm, x, d_h, d_x.view());
  }

  // ---- decoder -------------------------------------------------------------------------------

  void decode(Run& run, DecoderSaved* saved) const {
    const AttentionShape shape = decoder_shape(run);
    const auto dropout = [&](index_t l, Site place) {
      return run.dropout.at(decoder_site(l, place));
    };
    Matrix x = embedded(run.decoder_ids, run.dropout.at(decoder_side + embeddings));
    for (index_t l = 0; l < config_.num_decoder_layers; ++l) {
      const DecoderLayer& layer = decoder_[static_cast<std::size_t>(l)];
      typename DecoderSaved::Layer s;
      layer.self.forward(be_, shape, normed(*layer.self_norm, x), decoder_context(run, l), s.self);
      s.x_cross = Residual<B, T>::forward(be_, *layer.self.o, x, s.self.a, dropout(l, branch));
      s.x = std::move(x);
      layer.cross.forward(be_, shape, {normed(*layer.cross_norm, s.x_cross), run.encoded},
                          cross_context(run, l), cross_, s.cross);
      s.x_feed = Residual<B, T>::forward(be_, *layer.cross.o, s.x_cross, s.cross.a,
                                         dropout(l, cross_branch));
      const auto hidden_units =
          layer.feed.forward(be_, normed(*layer.feed_norm, s.x_feed), dropout(l, hidden), s.feed);
      x = Residual<B, T>::forward(be_, *layer.feed.wo, s.x_feed, hidden_units,
                                  dropout(l, feed_branch));
      layer.feed.forget(s.feed);
      if (saved != nullptr) saved->layers.push_back(std::move(s));
    }
    run.decoded = normed(*decoder_norm_, x);
    dropout_in_place(be_, run.decoded.view(), run.dropout.at(decoder_side + outputs));
    if (saved != nullptr) saved->x = std::move(x);
  }

  void decode_backward(Run& run, DecoderSaved& saved, Matrix& d_decoded, Matrix& d_encoded) const {
    const AttentionShape shape = decoder_shape(run);
    const auto dropout = [&](index_t l, Site place) {
      return run.dropout.at(decoder_site(l, place));
    };
    Tensor<B, C, 2> d_relative = zeros<C, 2>(be_, run.decoder_relative.view().extents);
    Matrix d_x = zeros<T, 2>(be_, saved.x.view().extents);
    // decoded = dropout(norm(x))
    dropout_in_place(be_, d_decoded.view(), run.dropout.at(decoder_side + outputs));
    normed_backward(*decoder_norm_, saved.x, d_decoded, d_x.view());
    for (index_t l = config_.num_decoder_layers - 1; l >= 0; --l) {
      const DecoderLayer& layer = decoder_[static_cast<std::size_t>(l)];
      auto& s = saved.layers[static_cast<std::size_t>(l)];
      feed_backward(layer.feed, *layer.feed_norm, s.x_feed, s.feed, dropout(l, hidden),
                    dropout(l, feed_branch), d_x);
      // x_feed = x_cross + dropout(cross(norm(x_cross), encoded))
      {
        const Matrix d_a =
            Residual<B, T>::backward(be_, *layer.cross.o, s.cross.a, d_x, dropout(l, cross_branch));
        const Matrix h = normed(*layer.cross_norm, s.x_cross);
        Matrix d_h = zeros<T, 2>(be_, h.view().extents);
        layer.cross.backward(be_, shape, {h, run.encoded}, cross_context(run, l), cross_, s.cross,
                             {d_a, d_h.view(), d_encoded.view()});
        normed_backward(*layer.cross_norm, s.x_cross, d_h, d_x.view());
      }
      // x_cross = x + dropout(attention(norm(x)))
      const Matrix d_a =
          Residual<B, T>::backward(be_, *layer.self.o, s.self.a, d_x, dropout(l, branch));
      const Matrix h = normed(*layer.self_norm, s.x);
      Matrix d_h = zeros<T, 2>(be_, h.view().extents);
      layer.self.backward(be_, shape, h, decoder_context(run, l), s.self,
                          {d_a, d_h.view(), d_relative.data()});
      normed_backward(*layer.self_norm, s.x, d_h, d_x.view());
      saved.layers.pop_back();
    }
    position_bias_backward(be_, run.decoder_buckets, d_relative, decoder_bias_->d_matrix());
    dropout_in_place(be_, d_x.view(), run.dropout.at(decoder_side + embeddings));
    embedding_backward(be_, run.decoder_ids, d_x, shared_->d_matrix());
  }

  void loss(Run& run, View<accumulate_t<T>, 1, Space> loss_sum, T* d_decoded) const {
    output().loss(be_, run.decoded, run.batch.labels, run.options.label_smoothing,
                  run.options.scale, loss_sum, d_decoded);
  }

  OutputProjection<B, T> output() const {
    const double scale = 1 / std::sqrt(static_cast<double>(config_.d_model));
    return {output_, config_.scale_decoder_outputs ? scale : 1};
  }

  B& be_;
  T5Config config_;
  typename List::Options cross_;
  Parameters<B, T> parameters_;
  Parameter<B, T>*shared_ = nullptr, *output_ = nullptr;
  Parameter<B, T>*encoder_bias_ = nullptr, *decoder_bias_ = nullptr;
  Parameter<B, T>*encoder_norm_ = nullptr, *decoder_norm_ = nullptr;
  std::vector<EncoderLayer> encoder_;
  std::vector<DecoderLayer> decoder_;
};

}  // namespace srformer
