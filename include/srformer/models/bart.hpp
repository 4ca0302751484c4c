// SPDX-License-Identifier: Apache-2.0
// BART (Lewis et al. 2020), with any cross-attention in the decoder.
//
//   embedding x = norm(s table[ids] + positions[2 + i])             s = 1, or E^1/2
//   encoder   x = norm(x + SelfAttention(x));  x = norm(x + FeedForward(x))
//   decoder   x = norm(x + SelfAttention(x));  x = norm(x + CrossAttention(x, encoder));
//             x = norm(x + FeedForward(x));    logits = x W^T + final_logits_bias
//
// Queries are scaled by D^-1/2; everything has a bias; the norm comes after the sum, so only the sums
// are kept and their norms computed again. Dropout where transformers has it.
#pragma once

#include <srformer/attention/decode.hpp>
#include <srformer/models/config.hpp>
#include <srformer/models/layers.hpp>
#include <srformer/models/output.hpp>
#include <srformer/models/seq2seq.hpp>
#include <srformer/ops/embedding.hpp>

namespace srformer {

template <class B, class T, class List = PaperVariants>
requires BackendFor<B, T>
class Bart {
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
  Bart(B& be, BartConfig config)
      : be_(be),
        config_(std::move(config)),
        cross_(cross_attention_options<List>(config_.cross_attention)),
        parameters_(be) {
    config_.cross_attention = CrossAttentionConfig(cross_);
    register_parameters();
    parameters_.allocate();
  }
  Bart(const Bart&) = delete;
  Bart& operator=(const Bart&) = delete;

  B& backend() { return be_; }
  const BartConfig& config() const { return config_; }
  Parameters<B, T>& parameters() { return parameters_; }
  const Parameters<B, T>& parameters() const { return parameters_; }

  /// As transformers initialises BART; parameters that a variant adds as method and factor say:
  /// W uniform in +-D^-1/2 times recurrence_init_scale, threshold 0.1, leak 0.5, sigma 0.5, gate 0.
  void initialize(RandomStream random, double recurrence_init_scale) {
    parameters_.require_numbers("Bart::initialize");
    for (auto& p : parameters_) {
      if (p.role == Role::norm && p.name.ends_with(".weight")) {
        be_.fill(p.value, p.count, T(C(1)));
      } else if (p.role == Role::weight || p.role == Role::embedding) {
        fill_normal(be_, p, random, config_.init_std);
      } else {
        be_.fill(p.value, p.count, T(C(0)));
      }
    }
    be_.fill(shared_->value + config_.pad_token_id * config_.d_model, config_.d_model, T(C(0)));
    initialize_recurrence(random, recurrence_init_scale);
  }

  /// Only what the variant adds: for a checkpoint that was trained without it.
  void initialize_recurrence(RandomStream random, double scale) {
    const InitialValue values[] = {{"SNN_kv.weight", scale}, {"leak", 0.5}, {"threshold", 0.1}};
    for (const DecoderLayer& layer : decoder_)
      layer.cross.initialize_variant(be_, random, cross_, values);
  }

  /// Logits [B,M,V] with the labels, shifted right, as the decoder's input; no dropout.
  Tensor<B, T, 3> logits(const Batch& batch) {
    Run run = begin("Bart::logits", batch, {});
    encode(run, nullptr);
    decode(run, nullptr);
    Tensor<B, T, 3> z(be_, {batch.rows, batch.target_width, config_.vocab_size});
    output().forward(
        be_, run.decoded,
        View<T, 2, Space>(z.data(), {batch.rows * batch.target_width, config_.vocab_size}));
    return z;
  }

  /// loss_sum[0] += the sum of the token losses of the batch, not divided; no dropout.
  void add_loss(const Batch& batch, double label_smoothing,
                View<accumulate_t<T>, 1, Space> loss_sum) {
    Run run = begin("Bart::add_loss", batch, {.label_smoothing = label_smoothing});
    encode(run, nullptr);
    decode(run, nullptr);
    loss(run, loss_sum, nullptr);
  }

  /// loss_sum[0] += the sum of the token losses; the parameters' gradients += options.scale times
  /// those of that sum.
  void add_gradients(const Batch& batch, const LossOptions& options,
                     View<accumulate_t<T>, 1, Space> loss_sum) {
    parameters_.allocate_gradients();
    Run run = begin("Bart::add_gradients", batch, options);
    EncoderSaved encoder;
    DecoderSaved decoder;
    encode(run, &encoder);
    decode(run, &decoder);
    Matrix d_decoded = zeros<T, 2>(be_, run.decoded.view().extents);
    loss(run, loss_sum, d_decoded.data());
    Matrix d_encoded = zeros<T, 2>(be_, run.encoded.view().extents);
    decode_backward(run, decoder, std::move(d_decoded), d_encoded);
    encode_backward(run, encoder, std::move(d_encoded));
  }

  /// Encodes sources and computes once what no decoder step changes: models/seq2seq.hpp.
  DecoderState start_decoding(std::span<const std::int32_t> ids, std::span<const index_t> lengths,
                              index_t max_steps, index_t horizon = 0, index_t rows_per_source = 1) {
    require(max_steps <= config_.max_position_embeddings, "Bart::start_decoding",
            std::to_string(max_steps) + " decoder steps are more than the model's " +
                std::to_string(config_.max_position_embeddings) + " positions");
    const Batch batch = detail::sources_alone("Bart::start_decoding", ids, lengths, max_steps,
                                              rows_per_source, config_.eos_token_id);
    Run run = begin("Bart::start_decoding", batch, {});
    encode(run, nullptr);
    auto state = DecoderState::before_steps(be_, batch, max_steps, horizon, rows_per_source);
    for (const DecoderLayer& layer : decoder_) {
      layer.cross.start_decoding(be_, decoder_shape(run), run.encoded, cross_context(run, 0),
                                 cross_, state);
    }
    state.lengths = std::move(run.lengths);
    return state;
  }

  /// Logits [R,V] that follow `ids` [R], the tokens of the rows at position state.step; then the step is
  /// the next one.
  Matrix decode_step(DecoderState& state, std::span<const std::int32_t> ids,
                     const NextRows& next = {}) {
    state.go_on("Bart::decode_step", be_, ids, next);
    const index_t H = config_.decoder_attention_heads, E = config_.d_model, t = state.step;
    const index_t R = state.rows.rows(), G = state.rows.groups();
    const AttentionShape groups{G, R / G, state.source_width, H, E / H};
    const Dropout none;
    AttendContext<C, Space> context;
    set_padding(context, state.lengths);
    Matrix x = first_x(decoder_embedding_, embedded(decoder_embedding_, ids, 1, t), none);
    Matrix q(be_, {R, E}), a(be_, {R, E});
    for (std::size_t l = 0; l < decoder_.size(); ++l) {
      const DecoderLayer& layer = decoder_[l];
      auto& cache = state.layers[l];
      layer.self.project(be_, x, cache.qkv.view()[t].slice(0, 0, R));
      self_attention_step(be_, cache.qkv, state.rows, t, H, {}, a.view());
      x = normed(layer.self_norm,
                 Residual<B, T>::forward(be_, *layer.self.o, x, a, none, layer.self.o_bias));
      layer.cross.queries(be_, x, q.view());
      List::step(be_, layer.cross.heads(groups, q), context, layer.cross.parameters(), cache.cross,
                 {t, state.rows.sources()}, layer.cross.heads(groups, a));
      x = normed(layer.cross_norm,
                 Residual<B, T>::forward(be_, *layer.cross.o, x, a, none, layer.cross.o_bias));
      typename FeedForward<B, T>::Saved saved;
      x = normed(layer.feed_norm, feed_sum(layer.feed, x, saved, none, none));
    }
    Matrix z(be_, {R, config_.vocab_size});
    output().forward(be_, x, z.view());
    ++state.step;
    return z;
  }

 private:
  struct Norm {
    Parameter<B, T>*weight, *bias;
  };
  /// What turns ids into the first x of a stack.
  struct Embedding {
    Parameter<B, T>* positions;
    Norm norm;
  };
  struct EncoderLayer {
    Norm self_norm, feed_norm;
    SelfAttention<B, T> self;
    FeedForward<B, T> feed;
  };
  struct DecoderLayer {
    Norm self_norm, cross_norm, feed_norm;
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
    std::vector<std::int32_t> decoder_ids{};
    Matrix encoded{}, decoded{};
  };

  /// The sums before each norm, and what sublayers keep.
  struct EncoderSaved {
    struct Layer {
      Matrix self_sum, feed_sum;
      typename SelfAttention<B, T>::Saved self;
      typename FeedForward<B, T>::Saved feed;
    };
    Matrix embedded;
    std::vector<Layer> layers;
  };
  struct DecoderSaved {
    struct Layer {
      Matrix self_sum, cross_sum, feed_sum;
      typename SelfAttention<B, T>::Saved self;
      typename CrossAttention<B, T, List>::Saved cross;
      typename FeedForward<B, T>::Saved feed;
    };
    Matrix embedded;
    std::vector<Layer> layers;
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
  static constexpr index_t embeddings = 0, layers = 8, decoder_side = 1 << 20;
  static constexpr index_t position_offset = 2;

  // ---- parameters ----------------------------------------------------------------------------

  void register_parameters() {
    const BartConfig& c = config_;
    shared_ = &parameters_.add("model.shared.weight", Role::embedding, {c.vocab_size, c.d_model},
                               {"model.encoder.embed_tokens.weight",
                                "model.decoder.embed_tokens.weight", "lm_head.weight"});
    shared_->quantizable = true;
    encoder_embedding_ = add_embedding("encoder");
    for (index_t l = 0; l < c.encoder_layers; ++l)
      encoder_.push_back(add_encoder_layer("encoder.layers." + std::to_string(l)));
    decoder_embedding_ = add_embedding("decoder");
    for (index_t l = 0; l < c.decoder_layers; ++l)
      decoder_.push_back(add_decoder_layer("decoder.layers." + std::to_string(l)));
    logits_bias_ = &parameters_.add("final_logits_bias", Role::constant, {1, c.vocab_size});
  }

  EncoderLayer add_encoder_layer(const std::string& name) {
    EncoderLayer layer;
    layer.self = add_self_attention(name + ".self_attn", config_.encoder_attention_heads);
    layer.self_norm = add_norm(name + ".self_attn_layer_norm");
    layer.feed = add_feed_forward(name, config_.encoder_ffn_dim);
    layer.feed_norm = add_norm(name + ".final_layer_norm");
    return layer;
  }
  DecoderLayer add_decoder_layer(const std::string& name) {
    DecoderLayer layer;
    layer.self = add_self_attention(name + ".self_attn", config_.decoder_attention_heads);
    layer.self_norm = add_norm(name + ".self_attn_layer_norm");
    layer.cross = add_cross_attention(name + ".encoder_attn");
    layer.cross_norm = add_norm(name + ".encoder_attn_layer_norm");
    layer.feed = add_feed_forward(name, config_.decoder_ffn_dim);
    layer.feed_norm = add_norm(name + ".final_layer_norm");
    return layer;
  }

  Embedding add_embedding(const std::string& stack) {
    const index_t positions = config_.max_position_embeddings + position_offset;
    return {add(stack + ".embed_positions.weight", Role::embedding, {positions, config_.d_model}),
            add_norm(stack + ".layernorm_embedding")};
  }
  /// q, k and v lie one after another, so that one product makes them all.
  SelfAttention<B, T> add_self_attention(const std::string& name, index_t heads) {
    const index_t E = config_.d_model;
    SelfAttention<B, T> a;
    a.q = add_weight(name + ".q_proj", E, E), a.k = add_weight(name + ".k_proj", E, E);
    a.v = add_weight(name + ".v_proj", E, E), a.o = add_weight(name + ".out_proj", E, E);
    a.q_bias = add_bias(name + ".q_proj", E);
    add_bias(name + ".k_proj", E), add_bias(name + ".v_proj", E);
    a.o_bias = add_bias(name + ".out_proj", E);
    a.query_scale = query_scale(heads);
    return a;
  }
  CrossAttention<B, T, List> add_cross_attention(const std::string& name) {
    const index_t E = config_.d_model, heads = config_.decoder_attention_heads;
    CrossAttention<B, T, List> a;
    a.q = add_weight(name + ".q_proj", E, E), a.k = add_weight(name + ".k_proj", E, E);
    a.v = add_weight(name + ".v_proj", E, E), a.o = add_weight(name + ".out_proj", E, E);
    a.q_bias = add_bias(name + ".q_proj", E), a.k_bias = add_bias(name + ".k_proj", E);
    add_bias(name + ".v_proj", E);
    a.o_bias = add_bias(name + ".out_proj", E);
    a.query_scale = query_scale(heads);
    a.add_variant(parameters_, "model." + name, cross_, {heads, E / heads});
    return a;
  }
  FeedForward<B, T> add_feed_forward(const std::string& name, index_t F) {
    const index_t E = config_.d_model;
    FeedForward<B, T> f;
    f.activation = config_.activation;
    f.wi_0 = add_weight(name + ".fc1", F, E), f.wi_bias = add_bias(name + ".fc1", F);
    f.wo = add_weight(name + ".fc2", E, F), f.wo_bias = add_bias(name + ".fc2", E);
    return f;
  }

  Parameter<B, T>* add(const std::string& name, Role role, std::vector<index_t> shape) {
    return &parameters_.add("model." + name, role, std::move(shape));
  }
  Parameter<B, T>* add_weight(const std::string& name, index_t rows, index_t columns) {
    Parameter<B, T>* p = add(name + ".weight", Role::weight, {rows, columns});
    p->quantizable = true;
    return p;
  }
  Parameter<B, T>* add_bias(const std::string& name, index_t count) {
    return add(name + ".bias", Role::bias, {count});
  }
  Norm add_norm(const std::string& name) {
    const index_t E = config_.d_model;
    return {add(name + ".weight", Role::norm, {E}), add(name + ".bias", Role::norm, {E})};
  }

  double query_scale(index_t heads) const {
    return 1 / std::sqrt(static_cast<double>(config_.d_model / heads));
  }
  double embedding_scale() const {
    return config_.scale_embedding ? std::sqrt(static_cast<double>(config_.d_model)) : 1;
  }

  // ---- one pass ------------------------------------------------------------------------------

  Run begin(const char* function, const Batch& batch, const LossOptions& options) {
    detail::check_batch(function, batch, config_.vocab_size);
    for (const auto& [what, width] :
         {std::pair{"source", batch.source_width}, std::pair{"target", batch.target_width}})
      require(width <= config_.max_position_embeddings, function,
              std::string("a ") + what + " of " + std::to_string(width) +
                  " tokens is longer than the model's " +
                  std::to_string(config_.max_position_embeddings) + " positions");
    Run run{batch, options, {options.dropout_rate, options.random}};
    run.lengths = from_host<index_t, 1>(be_, {batch.rows}, batch.source_lengths);
    run.decoder_ids =
        detail::shift_right(batch, config_.decoder_start_token_id, config_.pad_token_id);
    return run;
  }

  static index_t site(index_t layer, Site place) { return layers + 8 * layer + place; }
  static index_t decoder_site(index_t layer, Site place) {
    return decoder_side + site(layer, place);
  }

  AttendContext<C, Space> encoder_context(const Run& run, index_t layer) const {
    AttendContext<C, Space> context;
    context.mask.lengths = run.lengths.data();
    context.dropout = run.dropout.at(site(layer, attention), run.options.attention_dropout);
    return context;
  }
  AttendContext<C, Space> decoder_context(const Run& run, index_t layer) const {
    AttendContext<C, Space> context;
    context.mask.causal = true;
    context.dropout = run.dropout.at(decoder_site(layer, attention), run.options.attention_dropout);
    return context;
  }
  AttendContext<C, Space> cross_context(const Run& run, index_t layer) const {
    AttendContext<C, Space> context;
    set_padding(context, run.lengths);
    context.dropout =
        run.dropout.at(decoder_site(layer, cross_attention), run.options.attention_dropout);
    return context;
  }
  /// The authors' BART drops the mask: padded positions are keys like others.
  void set_padding(AttendContext<C, Space>& context, const Tensor<B, index_t, 1>& lengths) const {
    if (cross_.value_or("padding", Padding::masked) == Padding::masked)
      context.mask.lengths = lengths.data();
  }

  AttentionShape encoder_shape(const Run& run) const {
    const index_t heads = config_.encoder_attention_heads;
    return {run.batch.rows, run.batch.source_width, run.batch.source_width, heads,
            config_.d_model / heads};
  }
  AttentionShape decoder_shape(const Run& run) const {
    const index_t heads = config_.decoder_attention_heads;
    return {run.batch.rows, run.batch.target_width, run.batch.source_width, heads,
            config_.d_model / heads};
  }

  Matrix normed(const Norm& norm, In<B, T, 2> x) const {
    Matrix h(be_, x.extents);
    layer_norm_forward(be_, x, norm.weight->vector(), norm.bias->vector(), h.view());
    return h;
  }
  /// The gradient of x from d_h, that of its norm.
  Matrix normed_backward(const Norm& norm, const Matrix& x, const Matrix& d_h) const {
    Matrix d_x = zeros<T, 2>(be_, x.view().extents);
    layer_norm_backward<B, T>(be_, x, norm.weight->vector(),
                              {d_h, d_x.view(), norm.weight->d_vector(), norm.bias->d_vector()});
    return d_x;
  }

  /// s table[ids] + positions, for sequences of `length` tokens from position `first` on.
  Matrix embedded(const Embedding& e, std::span<const std::int32_t> ids, index_t length,
                  index_t first = 0) const {
    Matrix x(be_, {static_cast<index_t>(ids.size()), config_.d_model});
    embedding_forward(be_, ids, shared_->weight(), x.view());
    add_positions_forward(be_, length, e.positions->matrix(), position_offset + first,
                          embedding_scale(), x.view());
    return x;
  }
  /// x = dropout(norm(embedded))
  Matrix first_x(const Embedding& e, const Matrix& sum, const Dropout& dropout) const {
    Matrix x = normed(e.norm, sum);
    dropout_in_place(be_, x.view(), dropout);
    return x;
  }
  void first_x_backward(const Embedding& e, const Matrix& sum, std::span<const std::int32_t> ids,
                        index_t length, const Dropout& dropout, Matrix d_x) const {
    dropout_in_place(be_, d_x.view(), dropout);
    Matrix d_sum = normed_backward(e.norm, sum, d_x);
    add_positions_backward(be_, length, e.positions->d_matrix(), position_offset, embedding_scale(),
                           d_sum.view());
    embedding_backward(be_, ids, d_sum, shared_->d_matrix(), config_.pad_token_id);
  }

  // ---- encoder -------------------------------------------------------------------------------

  Dropout hidden_dropout(const Run& run, index_t at) const {
    return run.dropout.at(at, run.options.activation_dropout);
  }

  void encode(Run& run, EncoderSaved* saved) const {
    const AttentionShape shape = encoder_shape(run);
    Matrix sum = embedded(encoder_embedding_, run.batch.source_ids, run.batch.source_width);
    Matrix x = first_x(encoder_embedding_, sum, run.dropout.at(embeddings));
    if (saved != nullptr) saved->embedded = std::move(sum);
    for (index_t l = 0; l < config_.encoder_layers; ++l) {
      const EncoderLayer& layer = encoder_[static_cast<std::size_t>(l)];
      typename EncoderSaved::Layer s;
      layer.self.forward(be_, shape, x, encoder_context(run, l), s.self);
      s.self_sum = Residual<B, T>::forward(be_, *layer.self.o, x, s.self.a,
                                           run.dropout.at(site(l, branch)), layer.self.o_bias);
      x = normed(layer.self_norm, s.self_sum);
      s.feed_sum = feed_sum(layer.feed, x, s.feed, hidden_dropout(run, site(l, hidden)),
                            run.dropout.at(site(l, feed_branch)));
      x = normed(layer.feed_norm, s.feed_sum);
      if (saved != nullptr) saved->layers.push_back(std::move(s));
    }
    run.encoded = std::move(x);
  }

  void encode_backward(Run& run, EncoderSaved& saved, Matrix d_x) const {
    const AttentionShape shape = encoder_shape(run);
    const Dropout first = run.dropout.at(embeddings);
    for (index_t l = config_.encoder_layers - 1; l >= 0; --l) {
      const EncoderLayer& layer = encoder_[static_cast<std::size_t>(l)];
      auto& s = saved.layers[static_cast<std::size_t>(l)];
      d_x = feed_backward(layer.feed, {layer.self_norm, s.self_sum}, {layer.feed_norm, s.feed_sum},
                          s.feed, hidden_dropout(run, site(l, hidden)),
                          run.dropout.at(site(l, feed_branch)), d_x);
      // self_sum = x + dropout(attention(x))
      d_x = normed_backward(layer.self_norm, s.self_sum, d_x);
      const Matrix x = l == 0 ? first_x(encoder_embedding_, saved.embedded, first)
                              : normed(encoder_[static_cast<std::size_t>(l - 1)].feed_norm,
                                       saved.layers[static_cast<std::size_t>(l - 1)].feed_sum);
      const Matrix d_a = Residual<B, T>::backward(
          be_, *layer.self.o, s.self.a, d_x, run.dropout.at(site(l, branch)), layer.self.o_bias);
      layer.self.backward(be_, shape, x, encoder_context(run, l), s.self, {d_a, d_x.view()});
      saved.layers.pop_back();
    }
    first_x_backward(encoder_embedding_, saved.embedded, run.batch.source_ids,
                     run.batch.source_width, first, std::move(d_x));
  }

  /// x + dropout(feed(x))
  Matrix feed_sum(const FeedForward<B, T>& feed, const Matrix& x,
                  typename FeedForward<B, T>::Saved& saved, const Dropout& hidden_dropout,
                  const Dropout& branch_dropout) const {
    const auto hidden_units = feed.forward(be_, x, hidden_dropout, saved);
    Matrix sum =
        Residual<B, T>::forward(be_, *feed.wo, x, hidden_units, branch_dropout, feed.wo_bias);
    feed.forget(saved);
    return sum;
  }

  /// norm(sum), whose sum alone is kept.
  struct NormedSum {
    const Norm& norm;
    const Matrix& sum;
  };

  /// The gradient of x from d, that of y = norm(x + dropout(feed(x))).
  Matrix feed_backward(const FeedForward<B, T>& feed, const NormedSum& x, const NormedSum& y,
                       typename FeedForward<B, T>::Saved& saved, const Dropout& hidden_dropout,
                       const Dropout& branch_dropout, const Matrix& d) const {
    Matrix d_x = normed_backward(y.norm, y.sum, d);
    const auto hidden_units = feed.recall(be_, hidden_dropout, saved);
    Matrix d_hidden =
        Residual<B, T>::backward(be_, *feed.wo, hidden_units, d_x, branch_dropout, feed.wo_bias);
    feed.backward(be_, normed(x.norm, x.sum), hidden_dropout, saved, d_hidden.view(), d_x.view());
    return d_x;
  }

  // ---- decoder -------------------------------------------------------------------------------

  void decode(Run& run, DecoderSaved* saved) const {
    const AttentionShape shape = decoder_shape(run);
    const auto dropout = [&](index_t l, Site place) {
      return run.dropout.at(decoder_site(l, place));
    };
    Matrix sum = embedded(decoder_embedding_, run.decoder_ids, run.batch.target_width);
    Matrix x = first_x(decoder_embedding_, sum, run.dropout.at(decoder_side + embeddings));
    if (saved != nullptr) saved->embedded = std::move(sum);
    for (index_t l = 0; l < config_.decoder_layers; ++l) {
      const DecoderLayer& layer = decoder_[static_cast<std::size_t>(l)];
      typename DecoderSaved::Layer s;
      layer.self.forward(be_, shape, x, decoder_context(run, l), s.self);
      s.self_sum = Residual<B, T>::forward(be_, *layer.self.o, x, s.self.a, dropout(l, branch),
                                           layer.self.o_bias);
      x = normed(layer.self_norm, s.self_sum);
      layer.cross.forward(be_, shape, {x, run.encoded}, cross_context(run, l), cross_, s.cross);
      s.cross_sum = Residual<B, T>::forward(be_, *layer.cross.o, x, s.cross.a,
                                            dropout(l, cross_branch), layer.cross.o_bias);
      x = normed(layer.cross_norm, s.cross_sum);
      s.feed_sum = feed_sum(layer.feed, x, s.feed, hidden_dropout(run, decoder_site(l, hidden)),
                            dropout(l, feed_branch));
      x = normed(layer.feed_norm, s.feed_sum);
      if (saved != nullptr) saved->layers.push_back(std::move(s));
    }
    run.decoded = std::move(x);
  }

  void decode_backward(Run& run, DecoderSaved& saved, Matrix d_x, Matrix& d_encoded) const {
    const AttentionShape shape = decoder_shape(run);
    const auto dropout = [&](index_t l, Site place) {
      return run.dropout.at(decoder_site(l, place));
    };
    const Dropout first = run.dropout.at(decoder_side + embeddings);
    for (index_t l = config_.decoder_layers - 1; l >= 0; --l) {
      const DecoderLayer& layer = decoder_[static_cast<std::size_t>(l)];
      auto& s = saved.layers[static_cast<std::size_t>(l)];
      d_x = feed_backward(
          layer.feed, {layer.cross_norm, s.cross_sum}, {layer.feed_norm, s.feed_sum}, s.feed,
          hidden_dropout(run, decoder_site(l, hidden)), dropout(l, feed_branch), d_x);
      // cross_sum = x + dropout(cross(x, encoded)),  x = norm(self_sum)
      {
        d_x = normed_backward(layer.cross_norm, s.cross_sum, d_x);
        const Matrix d_a = Residual<B, T>::backward(be_, *layer.cross.o, s.cross.a, d_x,
                                                    dropout(l, cross_branch), layer.cross.o_bias);
        layer.cross.backward(be_, shape, {normed(layer.self_norm, s.self_sum), run.encoded},
                             cross_context(run, l), cross_, s.cross,
                             {d_a, d_x.view(), d_encoded.view()});
      }
      // self_sum = x + dropout(attention(x))
      d_x = normed_backward(layer.self_norm, s.self_sum, d_x);
      const Matrix x = l == 0 ? first_x(decoder_embedding_, saved.embedded, first)
                              : normed(decoder_[static_cast<std::size_t>(l - 1)].feed_norm,
                                       saved.layers[static_cast<std::size_t>(l - 1)].feed_sum);
      const Matrix d_a = Residual<B, T>::backward(be_, *layer.self.o, s.self.a, d_x,
                                                  dropout(l, branch), layer.self.o_bias);
      layer.self.backward(be_, shape, x, decoder_context(run, l), s.self, {d_a, d_x.view()});
      saved.layers.pop_back();
    }
    first_x_backward(decoder_embedding_, saved.embedded, run.decoder_ids, run.batch.target_width,
                     first, std::move(d_x));
  }

  // ---- output --------------------------------------------------------------------------------

  void loss(Run& run, View<accumulate_t<T>, 1, Space> loss_sum, T* d_decoded) const {
    output().loss(be_, run.decoded, run.batch.labels, run.options.label_smoothing,
                  run.options.scale, loss_sum, d_decoded);
  }

  OutputProjection<B, T> output() const { return {shared_, 1, logits_bias_}; }

  B& be_;
  BartConfig config_;
  typename List::Options cross_;
  Parameters<B, T> parameters_;
  Parameter<B, T>*shared_ = nullptr, *logits_bias_ = nullptr;
  Embedding encoder_embedding_{}, decoder_embedding_{};
  std::vector<EncoderLayer> encoder_;
  std::vector<DecoderLayer> decoder_;
};

}  // namespace srformer
