// SPDX-License-Identifier: Apache-2.0
// An encoder or a decoder: an embedding, layers of sublayers, and a norm.
//
//   x = s table[ids] + positions;   x = sublayer(x) for each sublayer;   out = dropout(norm(x))
//
// An encoder's layer is self-attention and feed-forward; a decoder's has cross-attention between them.
#pragma once

#include <optional>
#include <vector>

#include <srformer/attention/position_bias.hpp>
#include <srformer/models/layers.hpp>
#include <srformer/models/seq2seq.hpp>
#include <srformer/ops/embedding.hpp>

namespace srformer {

/// The first x of a stack: rows of a table by token, and of positions where the architecture has them.
template <class B, class T>
struct Embedding {
  Parameter<B, T>* table = nullptr;      ///< [V,E]
  Parameter<B, T>* positions = nullptr;  ///< [P,E], or none; not learned where it is a constant
  index_t first_position = 0;            ///< the row of positions of a sequence's first token
  double scale = 1;                      ///< s

  /// For sequences of `length` tokens of which the first is at position `first`.
  Tensor<B, T, 2> forward(B& be, const DeviceTokens<B>& ids, index_t length,
                          index_t first = 0) const {
    const index_t E = table->shape.at(1);
    Tensor<B, T, 2> x(be, {ids.size(), E});
    embedding_forward(be, ids, table->weight(), x.view());
    if (positions != nullptr)
      add_positions_forward(be, length, positions->matrix(), first_position + first, scale,
                            x.view());
    else
      detail::scale_columns<B, T>(be, x.view(), E, scale);
    return x;
  }

  /// d, the gradient of x, becomes that of table[ids]; the parameters' gradients += theirs.
  void backward(B& be, const DeviceTokens<B>& ids, index_t length, Tensor<B, T, 2>& d) const {
    if (positions != nullptr && positions->role != Role::constant)
      add_positions_backward(be, length, positions->d_matrix(), first_position, scale, d.view());
    else
      detail::scale_columns<B, T>(be, d.view(), d.extent(1), scale);
    embedding_backward(be, ids, d, table->d_matrix());
  }
};

/// T5's bias of scores by distance, which the layers of a stack share.
template <class B, class T>
struct PositionBias {
  Parameter<B, T>* table = nullptr;  ///< [buckets,H]
  RelativeBuckets rule{};
};

/// The bias of a batch's scores, derived once from the table.
template <class B, class C>
struct RelativeScores {
  BucketTable<B> buckets{};
  Tensor<B, C, 2> bias{};  ///< [H,2W-1] for sequences of W tokens
};

/// Dropout at the places of a stack: each has a random stream of its own, eight to a layer.
struct StackDropout {
  DropoutRates rates{};
  RandomStream random{};
  std::uint64_t first = 0;  ///< of the stack's streams

  Dropout embeddings() const { return at(0, rates.dropout); }
  Dropout outputs() const { return at(1, rates.dropout); }
  Dropout self_weights(index_t layer) const { return of(layer, 0, rates.attention_dropout); }
  Dropout self_branch(index_t layer) const { return of(layer, 1, rates.dropout); }
  Dropout cross_weights(index_t layer) const { return of(layer, 2, rates.attention_dropout); }
  Dropout cross_branch(index_t layer) const { return of(layer, 3, rates.dropout); }
  Dropout hidden(index_t layer) const { return of(layer, 4, rates.activation_dropout); }
  Dropout feed_branch(index_t layer) const { return of(layer, 5, rates.dropout); }

 private:
  Dropout at(std::uint64_t place, double rate) const {
    return {rate, random.substream(first + place)};
  }
  Dropout of(index_t layer, std::uint64_t place, double rate) const {
    return at(8 + 8 * static_cast<std::uint64_t>(layer) + place, rate);
  }
};

/// What a stack reads of a batch.
template <class B, class T>
struct StackInput {
  using Mask = ScoreMask<compute_t<T>, typename B::space>;
  const DeviceTokens<B>& ids;
  index_t width;         ///< tokens of a sequence
  AttentionShape shape;  ///< of attention to the source; in an encoder of that within
  Mask mask;             ///< of attention within the stack, without its position bias
  std::optional<AttentionSource<B, T>> source{};  ///< of a decoder
  StackDropout dropout{};
};

template <class B, class T, class List>
struct Stack {
  using Space = typename B::space;
  using C = compute_t<T>;
  using Matrix = Tensor<B, T, 2>;
  using Context = AttendContext<C, Space>;
  using Cross = CrossAttention<B, T, List>;

  struct Layer {
    SelfAttention<B, T> self{};
    std::optional<Cross> cross{};
    FeedForward<B, T> feed{};
  };

  Embedding<B, T> embedding{};
  index_t heads = 0, head_size = 0;
  std::optional<PositionBias<B, T>> position_bias{};
  std::vector<Layer> layers{};
  Norm<B, T> last_norm{};
  bool output_dropout = false;  ///< T5 drops elements of what the last norm gives

  /// What backward reads.
  struct Saved {
    struct Layer {
      typename SelfAttention<B, T>::Saved self;
      typename Cross::Saved cross;
      typename FeedForward<B, T>::Saved feed;
    };
    std::vector<Layer> layers;
    Matrix x;  ///< before the last norm
    RelativeScores<B, C> relative;
  };

  /// The bias of scores between sequences of `width` tokens; empty where there is none.
  RelativeScores<B, C> relative_scores(B& be, index_t width) const {
    RelativeScores<B, C> scores;
    if (!position_bias) return scores;
    scores.buckets = BucketTable<B>(be, position_bias->rule, width, width);
    scores.bias = Tensor<B, C, 2>(be, {heads, 2 * width - 1});
    position_bias_forward(be, scores.buckets, position_bias->table->matrix(), scores.bias.view());
    return scores;
  }

  /// The output [R,E] for the tokens of a batch; saved may be null.
  Matrix forward(B& be, const StackInput<B, T>& in, Saved* saved) const {
    RelativeScores<B, C> relative = relative_scores(be, in.width);
    Matrix x = embedding.forward(be, in.ids, in.width);
    if (first_place() == NormPlace::before) dropout_in_place(be, x.view(), in.dropout.embeddings());
    for (index_t l = 0; l < count(); ++l) {
      const Layer& layer = at(l);
      typename Saved::Layer s;
      x = layer.self.forward(be, in.shape, std::move(x), within(in, relative, l), self(in, l),
                             s.self);
      if (layer.cross)
        x = layer.cross->forward(be, in.shape, std::move(x), source(in, l), cross(in, l), s.cross);
      x = layer.feed.forward(be, std::move(x), feed(in, l), s.feed);
      if (saved != nullptr) saved->layers.push_back(std::move(s));
    }
    Matrix out = last_norm.forward(be, x);
    if (output_dropout) dropout_in_place(be, out.view(), in.dropout.outputs());
    if (saved != nullptr) saved->x = std::move(x), saved->relative = std::move(relative);
    return out;
  }

  /// The gradients of the parameters += those from d_out, that of the output, and of a decoder's source
  /// d_encoded += its. `saved` is used up. Calls finished(l) after layer l for l > 0, when the gradients of that layer are
  /// complete; those of the first one are at the end.
  template <class Finished>
  void backward(B& be, const StackInput<B, T>& in, Saved& saved, Matrix d_out, Matrix* d_encoded,
                Finished finished) const {
    if (output_dropout) dropout_in_place(be, d_out.view(), in.dropout.outputs());
    Matrix d = zeros<T, 2>(be, saved.x.view().extents);
    last_norm.backward(be, saved.x, d_out, d.view());
    d_out = {}, saved.x = {};
    Tensor<B, C, 2> d_relative;
    if (position_bias) d_relative = zeros<C, 2>(be, saved.relative.bias.view().extents);
    for (index_t l = count() - 1; l >= 0; --l) {
      const Layer& layer = at(l);
      auto& s = saved.layers.back();
      layer.feed.backward(be, feed(in, l), s.feed, d);
      if (layer.cross)
        layer.cross->backward(be, in.shape, source(in, l), cross(in, l), s.cross, d,
                              d_encoded->view());
      layer.self.backward(be, in.shape, within(in, saved.relative, l), self(in, l), s.self, d,
                          d_relative.data());
      saved.layers.pop_back();
      if (l > 0) finished(l);
    }
    if (position_bias)
      position_bias_backward(be, saved.relative.buckets, d_relative,
                             position_bias->table->d_matrix());
    if (first_place() == NormPlace::before) dropout_in_place(be, d.view(), in.dropout.embeddings());
    embedding.backward(be, in.ids, in.width, d);
  }

  /// The output [R,E] for the rows of a decoder step, whose tokens are `ids`.
  ///   groups  the shape of attention to the source: R / G queries of each of G groups
  Matrix step(B& be, const DeviceTokens<B>& ids, const AttentionShape& groups, const Context& cross,
              DecoderState<B, T, List>& state) const {
    const index_t t = state.step;
    ScoreMask<C, Space> mask;
    if (position_bias) {
      mask.relative = std::as_const(state.relative).view();
      mask.relative_zero = state.rows.max_steps() - 1 - t;
    }
    Matrix x = embedding.forward(be, ids, 1, t);
    for (index_t l = 0; l < count(); ++l) {
      const Layer& layer = at(l);
      auto& cache = state.layers[static_cast<std::size_t>(l)];
      x = layer.self.step(be, x, heads, cache.qkv.view(), state.rows, t, mask);
      x = layer.cross->step(be, groups, x, cross, cache.cross, {t, state.rows.sources()});
      typename FeedForward<B, T>::Saved nothing;
      x = layer.feed.forward(be, std::move(x), {}, nothing);
    }
    return last_norm.forward(be, x);
  }

 private:
  index_t count() const { return static_cast<index_t>(layers.size()); }
  const Layer& at(index_t l) const { return layers[static_cast<std::size_t>(l)]; }
  NormPlace first_place() const { return layers.front().self.residual.place; }

  /// The mask, bias and dropout of attention within the stack.
  Context within(const StackInput<B, T>& in, const RelativeScores<B, C>& relative,
                 index_t l) const {
    Context context;
    context.mask = in.mask;
    if (position_bias) {
      context.mask.relative = relative.bias.view();
      context.mask.relative_zero = in.width - 1;
    }
    context.dropout = in.dropout.self_weights(l);
    return context;
  }
  static AttentionSource<B, T> source(const StackInput<B, T>& in, index_t l) {
    AttentionSource<B, T> source = *in.source;
    source.context.dropout = in.dropout.cross_weights(l);
    return source;
  }

  /// Dropout of the sublayers. Where norms come after the sums, that of the embedding is behind its norm.
  SublayerDropout self(const StackInput<B, T>& in, index_t l) const {
    SublayerDropout dropout{.branch = in.dropout.self_branch(l)};
    if (l == 0 && first_place() == NormPlace::after) dropout.input = in.dropout.embeddings();
    return dropout;
  }
  static SublayerDropout cross(const StackInput<B, T>& in, index_t l) {
    return {.branch = in.dropout.cross_branch(l)};
  }
  static SublayerDropout feed(const StackInput<B, T>& in, index_t l) {
    return {.hidden = in.dropout.hidden(l), .branch = in.dropout.feed_branch(l)};
  }
};

}  // namespace srformer
