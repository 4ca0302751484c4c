// SPDX-License-Identifier: Apache-2.0
// An encoder-decoder of any architecture: what T5, BART and others have in common, which is all that runs.
//
//   encoded = encoder(source ids);   decoded = decoder(labels shifted right, encoded)
//   logits  = s decoded W^T + b;     loss = sum of the cross-entropies of logits and labels
//
// An architecture is a class derived from it whose constructor registers the parameters, with names, shapes and
// initial values, and so fills the two stacks; models/t5.hpp, models/bart.hpp, and for a user's own
// docs/custom_model.md.
#pragma once

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <srformer/models/config.hpp>
#include <srformer/models/output.hpp>
#include <srformer/models/recurrence_start.hpp>
#include <srformer/models/stack.hpp>

namespace srformer {

/// What the authors of the paper make of padded source positions in an architecture, for `padding: upstream`.
enum class UpstreamPadding {
  unknown,        ///< they have no such model: the option is refused
  most_negative,  ///< the most negative number is added to their scores
  not_masked      ///< they are keys like others
};

/// How an architecture names and initialises the parameters of a layer, and the choices its sublayers have.
struct LayerStyle {
  struct Weight {
    std::string name;
    Initial initial{};
  };
  Weight q, k, v, o;            ///< of an attention
  Weight inner, gate, outer;    ///< of a feed-forward; gate has no name where there is none
  bool biases = false;          ///< of all of them
  bool scaled_queries = false;  ///< by D^-1/2
  Activation activation = Activation::relu;
  NormPlace place = NormPlace::before;
  bool layer_norm = false;  ///< or RMS norm
  double norm_weight = 1;   ///< initial value
  double norm_epsilon = 1e-5;
  bool transformers_statistics = false;  ///< of RMS norm
};

template <class B, class T, class List = PaperVariants>
requires BackendFor<B, T>
class EncoderDecoder {
 public:
  using Space = typename B::space;
  using C = compute_t<T>;
  using Matrix = Tensor<B, T, 2>;
  using scalar = T;
  using backend_type = B;
  using DecoderState = srformer::DecoderState<B, T, List>;
  using variants = List;

  EncoderDecoder(const EncoderDecoder&) = delete;
  EncoderDecoder& operator=(const EncoderDecoder&) = delete;
  virtual ~EncoderDecoder() = default;

  B& backend() { return be_; }
  /// What every architecture's configuration has.
  const CommonConfig& config() const { return config_; }
  /// config.json, with the options of the cross-attention written out.
  virtual nlohmann::json config_json() const = 0;
  /// Those of the configuration, which training takes unless it is told others.
  DropoutRates dropout_rates() const { return config_.dropout; }
  /// What is peculiar to checkpoints of the architecture.
  const LoadOptions& load_options() const { return load_options_; }
  Parameters<B, T>& parameters() { return parameters_; }
  const Parameters<B, T>& parameters() const { return parameters_; }

  /// As transformers initialises the architecture; what a variant learns as its header says, where W is uniform in
  /// +-D^-1/2 times recurrence_init_scale.
  void initialize(RandomStream random, double recurrence_init_scale) {
    parameters_.require_numbers(function("initialize"));
    for (auto& p : parameters_) srformer::initialize(be_, p, random);
    initialize_constants();
    initialize_recurrence(random, recurrence_init_scale);
  }

  /// Only what the variant adds: for a checkpoint that was trained without it.
  void initialize_recurrence(RandomStream random, double scale) {
    std::vector<InitialValue> values = variant_values_;
    values.push_back({"SNN_kv.weight", scale});
    for (const auto& layer : decoder_.layers) layer.cross->initialize_variant(be_, random, values);
  }

  /// |A| and |C| of segmented recurrent attention for each decoder layer, over the targets of a batch: part_sizes. Empty where
  /// the cross-attention is another. Cost of a forward pass and that of part_sizes.
  std::vector<PartSizes> recurrence_sizes(const Batch& batch) {
    std::vector<PartSizes> sizes;
    visit_recurrences("recurrence_sizes", batch, [&](index_t, const auto& in, auto of) {
      sizes.push_back(part_sizes(be_, in, of.parameters, of.options, batch.labels));
    });
    return sizes;
  }

  /// Multiplies W of every decoder layer by the factor with which |C| is `share` of |A| in the head where it is most, for this
  /// batch, from the first layer to the last, and returns the factors; where there is none, W stays and it is 0. Empty where
  /// the cross-attention is another, or has no recurrence. Cost for each layer: a forward pass of the decoder and that of fitted_recurrence.
  std::vector<double> fit_recurrence(const Batch& batch, double share) {
    std::vector<double> factors;
    parameters_.require_numbers(function("fit_recurrence"));
    visit_recurrences("fit_recurrence", batch, [&](index_t l, const auto& in, auto of) {
      if (!of.options.recurrence) return;
      const auto found = fitted_recurrence(be_, in, of.parameters, of.options, share, batch.labels);
      factors.push_back(found.value_or(0));
      if (!found) return;
      for (Parameter<B, T>* p : decoder_.layers[static_cast<std::size_t>(l)].cross->learned) {
        if (p->value != of.parameters.weight) continue;
        std::vector<T> values(static_cast<std::size_t>(p->count));
        be_.to_host(values.data(), static_cast<const T*>(p->value), p->count);
        for (T& w : values) w = T(C(*found) * C(w));
        be_.from_host(p->value, values.data(), p->count);
      }
    });
    return factors;
  }

  /// Logits [B,M,V] with the labels, shifted right, as the decoder's input; no dropout.
  Tensor<B, T, 3> logits(const Batch& batch) {
    Pass pass = begin("logits", batch, {}, false);
    run(pass, nullptr);
    const index_t rows = batch.rows * batch.target_width, V = config_.vocab_size;
    Tensor<B, T, 3> z(be_, {batch.rows, batch.target_width, V});
    output_.forward(be_, pass.decoded, View<T, 2, Space>(z.data(), {rows, V}));
    return z;
  }

  /// loss_sum[0] += the sum of the token losses of the batch, not divided; no dropout.
  void add_loss(const Batch& batch, double label_smoothing,
                View<accumulate_t<T>, 1, Space> loss_sum) {
    Pass pass = begin("add_loss", batch, {.label_smoothing = label_smoothing}, false);
    run(pass, nullptr);
    loss(pass, loss_sum, nullptr);
  }

  /// loss_sum[0] += the sum of the token losses; the parameters' gradients += options.scale times
  /// those of that sum.
  void add_gradients(const Batch& batch, const LossOptions& options,
                     View<accumulate_t<T>, 1, Space> loss_sum) {
    parameters_.allocate_gradients();
    Pass pass = begin("add_gradients", batch, options, true);
    Saved saved;
    run(pass, &saved);
    Matrix d_decoded = zeros<T, 2>(be_, pass.decoded.view().extents);
    const auto finished = [&](index_t stage) {
      if (options.finished) options.finished(stage);
    };
    loss(pass, loss_sum, d_decoded.data());
    finished(0);
    Matrix d_encoded = zeros<T, 2>(be_, pass.encoded.view().extents);
    decoder_.backward(be_, decoder_input(pass), saved.decoder, std::move(d_decoded), &d_encoded,
                      [&](index_t l) { finished(decoder_stage(l)); });
    finished(decoder_stage(0));
    encoder_.backward(be_, encoder_input(pass), saved.encoder, std::move(d_encoded), nullptr,
                      [&](index_t l) { finished(encoder_stage(l)); });
  }

  /// The share of the states of the recurrence that are above their threshold, from 0 to 1, for each decoder layer, over the
  /// segments that the targets of the batch visit; no dropout. Empty where the cross-attention has no recurrence.
  /// Cost: the encoder's forward pass, and per layer the keys and values of the source and the states.
  std::vector<double> firing_shares(const Batch& batch) {
    std::vector<double> shares;
    if (!List::template fires<B, T>(cross_)) return shares;
    Pass pass = begin("firing_shares", batch, {}, false);
    pass.encoded = encoder_.forward(be_, encoder_input(pass), nullptr);
    const StackInput<B, T> in = decoder_input(pass);
    for (const auto& layer : decoder_.layers)
      shares.push_back(layer.cross->count_firing(be_, in.shape, *in.source).share());
    return shares;
  }

  /// Encodes sources and computes once what no decoder step changes: models/seq2seq.hpp.
  DecoderState start_decoding(std::span<const std::int32_t> ids, std::span<const index_t> lengths,
                              index_t max_steps, index_t horizon = 0, index_t rows_per_source = 1) {
    const std::string name = function("start_decoding");
    require(config_.max_positions == 0 || max_steps <= config_.max_positions, name,
            std::to_string(max_steps) + " decoder steps are more than the model's " +
                std::to_string(config_.max_positions) + " positions");
    const Batch batch =
        detail::sources_alone(name, ids, lengths, max_steps, rows_per_source, config_.eos_token_id);
    Pass pass = begin("start_decoding", batch, {}, false);
    pass.encoded = encoder_.forward(be_, encoder_input(pass), nullptr);

    auto state = DecoderState::before_steps(be_, batch, max_steps, horizon, rows_per_source);
    const StackInput<B, T> in = decoder_input(pass);
    for (const auto& layer : decoder_.layers) {
      auto& cache = state.layers.emplace_back();
      cache.qkv = Tensor<B, T, 3>(be_, {max_steps, state.rows.most_rows(), 3 * in.shape.inner()});
      cache.cross = layer.cross->prepare(be_, in.shape, *in.source, {max_steps, horizon});
    }
    state.relative = decoder_.relative_scores(be_, max_steps).bias;
    state.lengths = std::move(pass.batch.lengths);
    state.padding_bias = std::move(pass.batch.padding_bias);
    return state;
  }

  /// Logits [R,V] that follow `ids` [R], the tokens of the rows at position state.step; then the step is
  /// the next one.
  Matrix decode_step(DecoderState& state, std::span<const std::int32_t> ids,
                     const NextRows& next = {}) {
    const std::string name = function("decode_step");
    state.go_on(name, be_, ids, next);
    const index_t R = state.rows.rows(), G = state.rows.groups();
    const AttentionShape groups{G, R / G, state.source_width, decoder_.heads, decoder_.head_size};
    const Matrix x = decoder_.step(be_, DeviceTokens<B>(be_, name, ids, config_.vocab_size), groups,
                                   source_mask(state.lengths, state.padding_bias), state);
    Matrix z(be_, {R, config_.vocab_size});
    output_.forward(be_, x, z.view());
    ++state.step;
    return z;
  }

 protected:
  using Weights = Parameter<B, T>*;
  using StackType = Stack<B, T, List>;
  using Layer = typename StackType::Layer;

  /// `name` is that of errors. io_error where the configuration's cross-attention is none of the list's.
  EncoderDecoder(B& be, std::string name, CommonConfig config)
      : be_(be),
        name_(std::move(name)),
        config_(std::move(config)),
        cross_(cross_attention_options<List>(config_.cross_attention)),
        parameters_(be) {
    config_.cross_attention = CrossAttentionConfig(cross_);
  }

  /// At the end of an architecture's constructor: parameters have memory, zero except for constants.
  void finish(UpstreamPadding upstream, std::vector<InitialValue> variant_values) {
    upstream_ = upstream, variant_values_ = std::move(variant_values);
    require(upstream != UpstreamPadding::unknown || !pads_upstream(), name_,
            "the authors of the paper have no such model, so its cross-attention cannot have "
            "padding \"upstream\"; take \"masked\"");
    require_stored();
    set_final_stages();
    parameters_.allocate();
    initialize_constants();
  }

  /// Throws io_error where the model of config.json is far larger than the checkpoint beside it.
  void require_stored() const {
    constexpr index_t always = index_t{1} << 24;  // and what a variant adds
    const index_t size = parameters_.size();
    if (config_.stored_numbers && size / 4 > *config_.stored_numbers && size > always)
      throw io_error(name_ + ": config.json asks for a model of " + std::to_string(size) +
                     " numbers, and the weights beside it have " +
                     std::to_string(*config_.stored_numbers) +
                     "; check that config.json belongs to these weights");
  }

  // ---- stages of the backward pass: LossOptions::finished ------------------------------------

  index_t decoder_stage(index_t layer) const { return std::ssize(decoder_.layers) - layer; }
  index_t encoder_stage(index_t layer) const {
    return decoder_stage(0) + std::ssize(encoder_.layers) - layer;
  }

  /// Parameters from the first of a layer to that of the next one are final when the layer is, except those that others
  /// read: what a stack has beside its layers is when the stack is, and a table of tokens at the end.
  void set_final_stages() {
    const auto set = [](Weights p, index_t stage) {
      if (p != nullptr) p->final_stage = stage;
    };
    const auto no_earlier = [](Weights p, index_t stage) {
      if (p != nullptr) p->final_stage = std::max(p->final_stage, stage);
    };
    std::map<index_t, index_t> stage_from;  // by offset
    const auto each_layer = [&](auto f) {
      for (index_t l = 0; l < std::ssize(decoder_.layers); ++l)
        f(decoder_.layers[static_cast<std::size_t>(l)], decoder_stage(l));
      for (index_t l = 0; l < std::ssize(encoder_.layers); ++l)
        f(encoder_.layers[static_cast<std::size_t>(l)], l > 0 ? encoder_stage(l) : end_of_backward);
    };
    each_layer(
        [&](const Layer& layer, index_t stage) { stage_from[layer.self.q->offset] = stage; });
    for (auto& p : parameters_) {
      const auto next = stage_from.upper_bound(p.offset);
      if (next != stage_from.begin()) p.final_stage = std::prev(next)->second;
    }
    // A norm may be registered with another layer than the one that reads it.
    const auto norm = [&](const Norm<B, T>& read, index_t stage) {
      no_earlier(read.weight, stage), no_earlier(read.bias, stage);
    };
    each_layer([&](const Layer& layer, index_t stage) {
      norm(layer.self.residual.norm, stage), norm(layer.feed.residual.norm, stage);
      if (layer.cross) norm(layer.cross->residual.norm, stage);
    });
    for (const StackType* stack : {&decoder_, &encoder_}) {
      const index_t stage = stack == &decoder_ ? decoder_stage(0) : end_of_backward;
      norm(stack->last_norm, stage);
      if (stack->position_bias) set(stack->position_bias->table, stage);
      set(stack->embedding.positions, stage);
    }
    set(output_.weight, 0);
    for (const StackType* stack : {&decoder_, &encoder_})
      set(stack->embedding.table, end_of_backward);
  }

  // ---- registering parameters ----------------------------------------------------------------

  Weights add_weight(const std::string& name, index_t rows, index_t columns, Initial initial) {
    Weights p = &parameters_.add(name + ".weight", Role::weight, {rows, columns}, initial);
    p->quantizable = true;
    return p;
  }
  Weights add_bias(const std::string& name, index_t count) {
    return &parameters_.add(name + ".bias", Role::bias, {count});
  }
  /// A table of tokens, which an output may share.
  Weights add_table(const std::string& name, Initial initial,
                    std::vector<std::string> aliases = {}) {
    Weights p = &parameters_.add(name, Role::embedding, {config_.vocab_size, config_.width},
                                 initial, std::move(aliases));
    p->quantizable = true;
    return p;
  }
  /// A parameter that is stored but not learned. Without values it is zero until it is loaded.
  Weights add_constant(const std::string& name, std::vector<index_t> shape,
                       std::vector<T> values = {}) {
    Weights p = &parameters_.add(name, Role::constant, std::move(shape));
    if (!values.empty()) constants_.emplace_back(p, std::move(values));
    return p;
  }
  Norm<B, T> add_norm(const LayerStyle& style, const std::string& name) {
    const auto add = [&](const char* part, double value) {
      return &parameters_.add(name + part, Role::norm, {config_.width}, Initial::constant(value));
    };
    Norm<B, T> norm{add(".weight", style.norm_weight), nullptr, style.norm_epsilon,
                    style.transformers_statistics};
    if (style.layer_norm) norm.bias = add(".bias", 0);
    return norm;
  }

  /// The self-attention of a stack's layer: q, k and v one after another, and their biases.
  SelfAttention<B, T> add_self_attention(const LayerStyle& style, const StackType& stack,
                                         const std::string& name) {
    SelfAttention<B, T> a;
    add_attention(style, stack, name, a);
    return a;
  }
  CrossAttention<B, T, List> add_cross_attention(const LayerStyle& style, const StackType& stack,
                                                 const std::string& name) {
    CrossAttention<B, T, List> a;
    a.k_bias = add_attention(style, stack, name, a);
    a.options = &cross_;
    a.add_variant(parameters_, name, {stack.heads, stack.head_size});
    return a;
  }
  FeedForward<B, T> add_feed_forward(const LayerStyle& style, const std::string& name, index_t F) {
    const index_t E = config_.width;
    FeedForward<B, T> f;
    f.activation = style.activation, f.residual.place = style.place;
    f.inner = add_weight(name + style.inner.name, F, E, style.inner.initial);
    if (style.biases) f.inner_bias = add_bias(name + style.inner.name, F);
    if (!style.gate.name.empty())
      f.gate = add_weight(name + style.gate.name, F, E, style.gate.initial);
    f.residual.o = add_weight(name + style.outer.name, E, F, style.outer.initial);
    if (style.biases) f.residual.o_bias = add_bias(name + style.outer.name, E);
    return f;
  }

  B& be_;
  std::string name_;
  CommonConfig config_;
  typename List::Options cross_;
  Parameters<B, T> parameters_;
  StackType encoder_{}, decoder_{};
  OutputProjection<B, T> output_{};
  LoadOptions load_options_{};

 private:
  /// A batch on the backend, uploaded once, and what passes over it derive from it.
  struct DeviceBatch {
    index_t rows, source_width, target_width;
    Tensor<B, index_t, 1> lengths{};
    DeviceTokens<B> source{}, target{};
    Tensor<B, std::int32_t, 1> labels{};
    Tensor<B, C, 2> padding_bias{};  ///< [B,N] where padded keys have the most negative score
  };

  /// One pass over a batch, and the outputs of both stacks.
  struct Pass {
    DeviceBatch batch;
    LossOptions options;
    Matrix encoded{}, decoded{};
  };
  struct Saved {
    typename StackType::Saved encoder, decoder;
  };

  std::string function(const char* name) const { return name_ + "::" + name; }

  void initialize_constants() {
    for (const auto& [p, values] : constants_) be_.from_host(p->value, values.data(), p->count);
  }

  /// The parameters of an attention, behind `name`. Returns the bias of k.
  template <class Attention>
  Weights add_attention(const LayerStyle& style, const StackType& stack, const std::string& name,
                        Attention& a) {
    const index_t E = config_.width, inner = stack.heads * stack.head_size;
    const auto add = [&](const LayerStyle::Weight& w, index_t rows, index_t columns) {
      return add_weight(name + w.name, rows, columns, w.initial);
    };
    a.q = add(style.q, inner, E), a.k = add(style.k, inner, E), a.v = add(style.v, inner, E);
    a.residual.o = add(style.o, E, inner), a.residual.place = style.place;
    if (style.scaled_queries) a.query_scale = 1 / std::sqrt(static_cast<double>(stack.head_size));
    if (!style.biases) return nullptr;
    a.q_bias = add_bias(name + style.q.name, inner);
    Weights k_bias = add_bias(name + style.k.name, inner);
    add_bias(name + style.v.name, inner);
    a.residual.o_bias = add_bias(name + style.o.name, E);
    return k_bias;
  }

  // ---- one pass ------------------------------------------------------------------------------

  bool pads_upstream() const {
    return cross_.value_or("padding", Padding::masked) == Padding::upstream;
  }

  /// Checks a batch and puts it onto the backend.
  Pass begin(const char* called, const Batch& batch, const LossOptions& options, bool gradients) {
    const std::string name = function(called);
    detail::check_batch(name, batch, config_.vocab_size);
    check_positions(name, "source", batch.source_width);
    check_positions(name, "target", batch.target_width);
    const auto upload = [&](const std::vector<std::int32_t>& ids) {
      return gradients ? DeviceTokens<B>::with_gradients(be_, name, ids, config_.vocab_size,
                                                         config_.embedding_padding_id)
                       : DeviceTokens<B>(be_, name, ids, config_.vocab_size);
    };
    Pass pass{{batch.rows, batch.source_width, batch.target_width}, options};
    DeviceBatch& b = pass.batch;
    b.lengths = from_host<index_t, 1>(be_, {batch.rows}, batch.source_lengths);
    b.source = upload(batch.source_ids);
    b.target =
        upload(detail::shift_right(batch, config_.decoder_start_token_id, config_.pad_token_id));
    b.labels = from_host<std::int32_t, 1>(be_, {std::ssize(batch.labels)}, batch.labels);
    if (pads_upstream() && upstream_ == UpstreamPadding::most_negative)
      b.padding_bias = padding_bias(batch);
    return pass;
  }

  void check_positions(const std::string& name, const char* what, index_t width) const {
    require(config_.max_positions == 0 || width <= config_.max_positions, name,
            std::string("a ") + what + " of " + std::to_string(width) +
                " tokens is longer than the model's " + std::to_string(config_.max_positions) +
                " positions");
  }

  Tensor<B, C, 2> padding_bias(const Batch& batch) const {
    const index_t N = batch.source_width;
    std::vector<C> bias(static_cast<std::size_t>(batch.rows * N), C(0));
    for (index_t b = 0; b < batch.rows; ++b)
      for (index_t j = batch.source_lengths[static_cast<std::size_t>(b)]; j < N; ++j)
        bias[static_cast<std::size_t>(b * N + j)] = most_negative();
    return from_host<C, 2>(be_, {batch.rows, N}, bias);
  }
  static C most_negative() {
    if constexpr (std::is_same_v<C, float>)
      return std::numeric_limits<float>::lowest();
    else
      return C(std::numeric_limits<double>::lowest());
  }

  /// The mask of attention to the source.
  AttendContext<C, Space> source_mask(const Tensor<B, index_t, 1>& lengths,
                                      const Tensor<B, C, 2>& bias) const {
    AttendContext<C, Space> context;
    if (!pads_upstream()) {
      context.mask.lengths = lengths.data();
    } else if (!bias.empty()) {
      const index_t N = bias.extent(1);
      context.mask.dense = View<const C, 4, Space>(
          bias.data(), {bias.extent(0), decoder_.heads, 1, N}, {N, 0, 0, 1});
    }
    return context;
  }

  StackInput<B, T> encoder_input(const Pass& pass) const {
    const DeviceBatch& b = pass.batch;
    const AttentionShape shape{b.rows, b.source_width, b.source_width, encoder_.heads,
                               encoder_.head_size};
    StackInput<B, T> in{b.source, b.source_width, shape, {}};
    in.mask.lengths = b.lengths.data();
    in.dropout = {pass.options.dropout, pass.options.random, 0};
    return in;
  }
  StackInput<B, T> decoder_input(const Pass& pass) const {
    const DeviceBatch& b = pass.batch;
    const AttentionShape shape{b.rows, b.target_width, b.source_width, decoder_.heads,
                               decoder_.head_size};
    StackInput<B, T> in{b.target, b.target_width, shape, {}};
    in.mask.causal = true;
    in.source = {pass.encoded, source_mask(b.lengths, b.padding_bias)};
    in.dropout = {pass.options.dropout, pass.options.random, std::uint64_t{1} << 20};
    return in;
  }

  void run(Pass& pass, Saved* saved) const {
    pass.encoded =
        encoder_.forward(be_, encoder_input(pass), saved == nullptr ? nullptr : &saved->encoder);
    pass.decoded =
        decoder_.forward(be_, decoder_input(pass), saved == nullptr ? nullptr : &saved->decoder);
  }

  struct Recurrence {
    RecurrentParameters<const T> parameters;
    const SegmentedRecurrentOptions& options;
  };

  /// f(layer, q k v, recurrence) for each decoder layer, where it is segmented recurrent attention. The decoder runs anew for
  /// each, so that f may change what the next one sees.
  template <class F>
  void visit_recurrences(const char* called, const Batch& batch, F f) {
    if constexpr (List::template has<SegmentedRecurrent>) {
      const auto* options = cross_.template get_if<SegmentedRecurrent>();
      if (options == nullptr) return;
      Pass pass = begin(called, batch, {}, false);
      pass.encoded = encoder_.forward(be_, encoder_input(pass), nullptr);
      const StackInput<B, T> in = decoder_input(pass);
      for (std::size_t l = 0; l < decoder_.layers.size(); ++l) {
        typename StackType::Saved saved;
        decoder_.forward(be_, in, &saved);
        const auto& cross = *decoder_.layers[l].cross;
        const auto inputs = cross.inputs_of(in.shape, saved.layers[l].cross, *in.source);
        f(static_cast<index_t>(l), inputs,
          Recurrence{recurrent_parameters(cross, *options), *options});
      }
    }
  }

  void loss(const Pass& pass, View<accumulate_t<T>, 1, Space> loss_sum, T* d_decoded) const {
    output_.loss(be_, pass.decoded, pass.batch.labels, pass.options.label_smoothing,
                 pass.options.scale, loss_sum, d_decoded);
  }

  UpstreamPadding upstream_ = UpstreamPadding::unknown;
  std::vector<InitialValue> variant_values_{};
  std::vector<std::pair<Weights, std::vector<T>>> constants_{};
};

}  // namespace srformer
