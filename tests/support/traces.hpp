// SPDX-License-Identifier: Apache-2.0
// Runs ops forward and backward on fixed inputs and records everything they write, so that one
// backend can be held against another. Gradients start from values other than zero, as they accumulate.
#pragma once

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include <srformer/ops/activation.hpp>
#include <srformer/ops/cross_entropy.hpp>
#include <srformer/ops/dropout.hpp>
#include <srformer/ops/embedding.hpp>
#include <srformer/ops/linear.hpp>
#include <srformer/ops/norm.hpp>
#include <srformer/ops/softmax.hpp>

#include "../../examples/sliding_window.hpp"
#include "support/catch.hpp"
#include "support/paper_options.hpp"

namespace tests {

using namespace srformer;

/// One run of an op on a backend, in T.
template <class B, class T>
class Run {
 public:
  using C = compute_t<T>;
  using Space = typename B::space;

  explicit Run(B& backend) : be(backend) {}

  B& be;

  /// Values in (center - spread, center + spread), different in every tensor of a run.
  template <class U = T, int Rank>
  Tensor<B, U, Rank> random(const index_t (&extents)[Rank], double spread = 1, double center = 0) {
    const std::array<index_t, Rank> shape = std::to_array(extents);
    std::vector<U> values(static_cast<std::size_t>(View<U, Rank>(nullptr, shape).size()));
    const RandomStream stream{11, ++made_};
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = U(compute_t<U>(center + spread * (2 * uniform(stream, i) - 1)));
    }
    return from_host<U, Rank>(be, shape, values);
  }

  template <class U>
  Tensor<B, U, 1> list(const std::vector<U>& values) {
    return from_host<U, 1>(be, {static_cast<index_t>(values.size())}, values);
  }

  template <class... Tensors>
  void record(const Tensors&... tensors) {
    (append(to_host(be, tensors)), ...);
  }

  std::vector<double> take() { return std::move(trace_); }

 private:
  template <class U>
  void append(const std::vector<U>& values) {
    for (const U& x : values) trace_.push_back(double(primal(compute_t<U>(x))));
  }

  std::uint64_t made_ = 0;
  std::vector<double> trace_;
};

/// Requires that two traces agree to `tolerance` relative to 1 and the value.
inline void compare(const std::string& what, const std::vector<double>& got,
                    const std::vector<double>& expected, double tolerance) {
  INFO(what);
  REQUIRE(!expected.empty());
  REQUIRE(got.size() == expected.size());
  double worst = 0, largest = 0;
  std::size_t at = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double off = std::abs(got[i] - expected[i]) / (1 + std::abs(expected[i]));
    if (!(off <= worst)) worst = off, at = i;  // NaN counts as wrong
    largest = std::max(largest, std::abs(expected[i]));
  }
  CAPTURE(at, got[at], expected[at]);
  REQUIRE(largest > 0.01);
  REQUIRE(worst <= tolerance);
}

template <class T, class B>
std::vector<double> trace_linear(B& be) {
  Run<B, T> run(be);
  const auto x = run.random({70, 13}), w = run.random({9, 13});
  const auto b = run.template random<T>({9});
  auto y = run.random({70, 9});
  linear_forward<B, T>(be, x, w, b.view(), y);
  linear_forward<B, T>(be, x, w, std::nullopt, y, {.add_to_output = true});
  run.record(y);
  const auto d_y = run.random({70, 9});
  auto d_x = run.random({70, 13}), d_w = run.random({9, 13});
  auto d_b = run.template random<T>({9});
  linear_backward<B, T>(be, x, w, d_y, d_x.view(), d_w, d_b.view());
  run.record(d_x, d_w, d_b);
  return run.take();
}

template <class T, class B>
std::vector<double> trace_rms_norm(B& be) {
  Run<B, T> run(be);
  const auto x = run.random({67, 37}), d_y = run.random({67, 37});
  const auto w = run.template random<T>({37});
  auto y = run.random({67, 37}), d_x = run.random({67, 37});
  auto d_w = run.template random<T>({37});
  rms_norm_forward<B, T>(be, x, w, y, {1e-6});
  rms_norm_backward<B, T>(be, x, w, d_y, d_x, d_w, {1e-6});
  run.record(y, d_x, d_w);
  return run.take();
}

template <class T, class B>
std::vector<double> trace_layer_norm(B& be) {
  Run<B, T> run(be);
  const auto x = run.random({67, 37}, 1, 3), d_y = run.random({67, 37});
  const auto w = run.template random<T>({37}), b = run.template random<T>({37});
  auto y = run.random({67, 37}), d_x = run.random({67, 37});
  auto d_w = run.template random<T>({37}), d_b = run.template random<T>({37});
  layer_norm_forward<B, T>(be, x, w, b, y);
  layer_norm_backward<B, T>(be, x, w, {d_y, d_x, d_w, d_b});
  run.record(y, d_x, d_w, d_b);
  return run.take();
}

template <class T, class B>
std::vector<double> trace_softmax(B& be) {
  Run<B, T> run(be);
  for (const index_t columns : {1, 5, 130}) {
    const auto x = run.random({11, columns}, 4), d_y = run.random({11, columns});
    auto y = run.random({11, columns}), d_x = run.random({11, columns});
    softmax_forward<B, T>(be, x, y);
    softmax_backward<B, T>(be, y, d_y, d_x);
    run.record(y, d_x);
  }
  return run.take();
}

template <class T, class B>
std::vector<double> trace_cross_entropy(B& be) {
  Run<B, T> run(be);
  const auto labels = run.template list<std::int32_t>({0, 40, -100, 7, 13});
  for (const double smoothing : {0.0, 0.1}) {
    auto logits = run.random({5, 41}, 3);
    auto d_logits = run.random({5, 41});
    auto lse = run.template random<compute_t<T>>({5});
    auto sum = run.template random<accumulate_t<T>>({1});
    cross_entropy_forward<B, T>(be, logits.view(), labels, smoothing, lse, sum);
    cross_entropy_backward<B, T>(be, logits, labels, smoothing, lse, 0.5, d_logits);
    cross_entropy_backward_in_place<B, T>(be, logits, labels, smoothing, lse, 0.5);
    run.record(lse, sum, d_logits, logits);
  }
  return run.take();
}

template <class T, class B>
std::vector<double> trace_embedding(B& be) {
  Run<B, T> run(be);
  const std::vector<std::int32_t> ids{3, 0, 3, 6, 3, 1};
  const auto table = run.random({7, 19}), d_y = run.random({6, 19});
  auto y = run.random({6, 19}), d_table = run.random({7, 19});
  embedding_forward<B, T>(be, ids, table, y);
  embedding_backward<B, T>(be, ids, d_y, d_table);
  run.record(y, d_table);
  embedding_backward<B, T>(be, ids, d_y, d_table, 3);
  run.record(d_table);
  return run.take();
}

template <class T, class B>
std::vector<double> trace_positions(B& be) {
  Run<B, T> run(be);
  const auto positions = run.random({9, 37});
  auto y = run.random({20, 37}), d_y = run.random({20, 37}), d_positions = run.random({9, 37});
  add_positions_forward<B, T>(be, 5, positions, 2, 3.5, y);
  add_positions_backward<B, T>(be, 5, d_positions, 2, 3.5, d_y);
  run.record(y, d_y, d_positions);
  return run.take();
}

template <class T, class B>
std::vector<double> trace_elementwise(B& be) {
  Run<B, T> run(be);
  const Dropout dropout{0.3, {5, 6}};
  for (const Activation kind : {Activation::relu, Activation::gelu, Activation::gelu_new,
                                Activation::silu, Activation::quick_gelu}) {
    const auto a = run.random({9, 11}, 2), b = run.random({9, 11}), d_y = run.random({9, 11});
    auto y = run.random({9, 11}), z = run.random({9, 11}), d_a = run.random({9, 11});
    auto d_b = run.random({9, 11});
    activation_forward<B, T>(be, kind, a, y);
    activation_backward<B, T>(be, kind, a, d_y, d_a);
    gated_forward<B, T>(be, kind, a, b, z);
    gated_backward<B, T>(be, kind, a, b, d_y, d_a, d_b);
    dropout_forward<B, T>(be, y, z, dropout);
    dropout_in_place<B, T>(be, y, dropout);
    run.record(y, z, d_a, d_b);
  }
  return run.take();
}

/// Queries, keys, values and their gradients, [B,H,M,D] and [B,H,N,D], inside wider rows.
template <class B, class T>
struct AttentionTensors {
  static constexpr index_t batch = 2, heads = 3;
  index_t M, N, D;
  Tensor<B, T, 2> q_rows, k_rows, v_rows, d_out_rows, out_rows, d_q_rows, d_k_rows, d_v_rows;
  Tensor<B, index_t, 1> lengths;

  AttentionTensors(Run<B, T>& run, index_t queries, index_t keys, index_t size)
      : M(queries),
        N(keys),
        D(size),
        q_rows(run.random({batch * M, heads * D})),
        k_rows(run.random({batch * N, heads * D})),
        v_rows(run.random({batch * N, heads * D})),
        d_out_rows(run.random({batch * M, heads * D})),
        out_rows(run.random({batch * M, heads * D})),
        d_q_rows(run.random({batch * M, heads * D})),
        d_k_rows(run.random({batch * N, heads * D})),
        d_v_rows(run.random({batch * N, heads * D})),
        lengths(run.template list<index_t>({keys, keys - 2})) {}

  auto heads_of(Tensor<B, T, 2>& rows) const { return as_heads(rows.view(), batch, heads, D); }
  auto q() { return heads_of(q_rows); }
  auto k() { return heads_of(k_rows); }
  auto v() { return heads_of(v_rows); }
  auto out() { return heads_of(out_rows); }
  auto d_out() { return heads_of(d_out_rows); }
  auto d_q() { return heads_of(d_q_rows); }
  auto d_k() { return heads_of(d_k_rows); }
  auto d_v() { return heads_of(d_v_rows); }
  AttentionInputs<B, T> inputs(const AttendContext<compute_t<T>, typename B::space>& context) {
    return {q(), k(), v(), context};
  }
  AttentionGradients<B, T> gradients() { return {d_out(), d_q(), d_k(), d_v()}; }
};

template <class T, class B>
std::vector<double> trace_full_attention(B& be) {
  Run<B, T> run(be);
  using C = compute_t<T>;
  for (const bool causal : {false, true}) {
    AttentionTensors<B, T> in(run, 37, 41, 8);
    const auto relative = run.template random<C>({in.heads, in.M + in.N - 1});
    const auto dense = run.template random<C>({in.batch, 1, in.M, in.N});
    AttendContext<C, typename B::space> context;
    context.mask.lengths = in.lengths.data();
    context.mask.causal = causal;
    context.mask.query_offset = 3;
    context.mask.relative = relative.view();
    context.mask.relative_zero = in.M - 1;
    context.mask.dense = dense.view();
    context.mask.dense.extents[1] = in.heads;
    context.mask.dense.strides[1] = 0;
    context.dropout = {0.2, {1, 2}};
    auto d_relative = run.template random<C>({in.heads, in.M + in.N - 1});
    full_attention_forward(be, in.inputs(context), in.out());
    full_attention_backward(be, in.inputs(context), in.gradients(), d_relative.data());
    run.record(in.out_rows, in.d_q_rows, in.d_k_rows, in.d_v_rows, d_relative);
  }
  return run.take();
}

template <class T, class B>
std::vector<double> trace_segmented(B& be) {
  Run<B, T> run(be);
  for (const Padding padding : {Padding::masked, Padding::upstream}) {
    AttentionTensors<B, T> in(run, 11, 23, 8);
    AttendContext<compute_t<T>, typename B::space> context;
    context.mask.lengths = in.lengths.data();
    context.dropout = {0.2, {1, 2}};
    const SegmentedOptions options{5, 13, padding};
    segmented_attention_forward(be, in.inputs(context), options, in.out());
    segmented_attention_backward(be, in.inputs(context), options, in.gradients());
    run.record(in.out_rows, in.d_q_rows, in.d_k_rows, in.d_v_rows);
  }
  return run.take();
}

template <class T, class B>
std::vector<double> trace_kv_product(B& be) {
  Run<B, T> run(be);
  for (const Product product : {Product::complement, Product::segment}) {
    for (const double clamp : {0.0, 1.0}) {
      AttentionTensors<B, T> in(run, 1, 23, 6);
      ScoreMask<compute_t<T>, typename B::space> mask;
      mask.lengths = in.lengths.data();
      const SegmentedOptions segments{5, 0, Padding::masked};
      const index_t shape[] = {in.batch, in.heads, 5, in.D, in.D};
      auto z = run.template random<compute_t<T>>(shape);
      const auto d_z = run.template random<compute_t<T>>(shape);
      const KvProductInputs<B, T> of{in.k(), in.v(), mask};
      kv_product_forward(be, of, segments, {product, clamp}, z);
      kv_product_backward(be, of, segments, {product, clamp}, {d_z, in.d_k(), in.d_v()});
      run.record(z, in.d_k_rows, in.d_v_rows);
    }
  }
  return run.take();
}

template <class T, class B>
std::vector<double> trace_raf(B& be) {
  Run<B, T> run(be);
  const index_t steps = 6, cells = 1100;
  const auto x = run.random({steps, cells}, 1, 0.4), d_r = run.random({steps, cells});
  const auto leak = run.template list<T>({T(0.9)}), threshold = run.template list<T>({T(0.7)});
  auto r = run.random({steps, cells}), u = run.random({steps, cells}),
       d_x = run.random({steps, cells});
  auto d_leak = run.template random<T>({1}), d_threshold = run.template random<T>({1});
  raf_forward<B, T>(be, x, {leak, threshold}, {}, r, u);
  raf_backward<B, T>(be, u, {leak, threshold}, {}, {d_r, d_x, d_leak, d_threshold});
  run.record(r, u, d_x, d_leak, d_threshold);
  return run.take();
}

/// One setting of the segmented recurrent attention, by name.
struct RecurrentCase {
  const char* name;
  index_t M, N, D;
  SegmentedRecurrentOptions options;
};

inline std::vector<RecurrentCase> recurrent_cases() {
  const auto with = [](auto change) {
    SegmentedRecurrentOptions options{.segment_size = 4};
    change(options);
    return options;
  };
  return {
      {"folded", 11, 23, 8, with([](auto&) {})},
      {"segments wider than a head", 11, 23, 3, with([](auto& o) { o.sigma = o.gate = true; })},
      {"clamped", 11, 23, 8, with([](auto& o) { o.clamp = 0.8, o.sigma = true; })},
      {"product of the segment", 9, 23, 8, with([](auto& o) { o.product = Product::segment; })},
      {"a step per token", 11, 23, 8,
       with([](auto& o) { o.advance = Advance::token, o.gate = true; })},
      {"no recurrence", 11, 23, 8, with([](auto& o) { o.recurrence = false; })},
      {"no recurrence, a step per token", 11, 23, 8, with([](auto& o) {
         o.recurrence = false;
         o.advance = Advance::token;
       })},
      {"no softmax", 11, 23, 8, with([](auto& o) { o.local = false, o.gate = true; })},
      {"no norms", 11, 23, 8, with([](auto& o) { o.normalize = false; })},
      {"padding as upstream", 11, 23, 8, with([](auto& o) { o.padding = Padding::upstream; })},
      {"binary firing", 11, 23, 8, with([](auto& o) { o.binary_firing = true; })},
      {"averages", 11, 23, 8, with([](auto& o) { o.average_products = o.gate = true; })},
      {"averages without recurrence", 11, 23, 8, with([](auto& o) {
         o.average_products = true;
         o.recurrence = false;
       })},
      {"fewer queries than segments", 3, 23, 8, with([](auto& o) { o.horizon = 5; })},
  };
}

template <class T, class B>
std::vector<double> trace_segmented_recurrent(B& be, const RecurrentCase& c) {
  Run<B, T> run(be);
  AttentionTensors<B, T> in(run, c.M, c.N, c.D);
  AttendContext<compute_t<T>, typename B::space> context;
  context.mask.lengths = in.lengths.data();
  context.dropout = {0.2, {1, 2}};
  const auto weight = run.random({c.D, c.D});
  const auto leak = run.template list<T>({T(0.9f)}), threshold = run.template list<T>({T(0.5f)});
  const auto sigma = run.template list<T>({T(0.6f)});
  const auto gate = run.template random<T>({in.heads}, 0.5, 1);
  const RecurrentParameters<const T> parameters{weight.data(), leak.data(), threshold.data(),
                                                c.options.sigma ? sigma.data() : nullptr,
                                                c.options.gate ? gate.data() : nullptr};
  auto d_weight = run.random({c.D, c.D});
  auto d_leak = run.template random<T>({1}), d_threshold = run.template random<T>({1});
  auto d_sigma = run.template random<T>({1}), d_gate = run.template random<T>({in.heads});
  const RecurrentParameters<T> d_parameters{d_weight.data(), d_leak.data(), d_threshold.data(),
                                            c.options.sigma ? d_sigma.data() : nullptr,
                                            c.options.gate ? d_gate.data() : nullptr};
  segmented_recurrent_forward(be, in.inputs(context), parameters, c.options, in.out());
  segmented_recurrent_backward(be, in.inputs(context), parameters, c.options, in.gradients(),
                               d_parameters);
  run.record(in.out_rows, in.d_q_rows, in.d_k_rows, in.d_v_rows, d_weight, d_leak, d_threshold,
             d_sigma, d_gate);
  return run.take();
}

/// Every variant by its options, teacher-forced forward and backward, then step by step.
inline std::vector<CrossAttentionOptions> variant_options() {
  std::vector<CrossAttentionOptions> all;
  for (const Variant variant : all_variants) {
    for (const Padding padding : {Padding::masked, Padding::upstream}) {
      CrossAttentionOptions options;
      options.variant = variant;
      options.segment_size = 5;
      options.generation_horizon = 6;
      options.padding = padding;
      all.push_back(options);
    }
  }
  return all;
}

template <class T, class B>
std::vector<double> trace_variant(B& be, const CrossAttentionOptions& options) {
  Run<B, T> run(be);
  const index_t D = 4, M = 9, F = D * AttentionTensors<B, T>::heads;
  AttentionTensors<B, T> in(run, M, 23, D), step(run, 1, 23, D);
  AttendContext<compute_t<T>, typename B::space> context;
  context.mask.lengths = in.lengths.data();
  const auto weight = run.random({D, D}), ih = run.random({F, F}, 0.3),
             hh = run.random({F, F}, 0.3);
  const auto leak = run.template list<T>({T(0.9f)}), threshold = run.template list<T>({T(0.5f)});
  const auto bias = run.template random<T>({F});
  auto d_weight = run.random({D, D}), d_ih = run.random({F, F}), d_hh = run.random({F, F});
  auto d_leak = run.template random<T>({1}), d_threshold = run.template random<T>({1});
  auto d_bias = run.template random<T>({F});
  const RnnParameters<const T> rnn{ih.data(), hh.data(), bias.data(), bias.data()};
  const RnnParameters<T> d_rnn{d_ih.data(), d_hh.data(), d_bias.data(), d_bias.data()};
  const CrossAttentionParameters<const T> parameters(
      RecurrentParameters<const T>{weight.data(), leak.data(), threshold.data(), nullptr, nullptr},
      rnn, rnn);
  const CrossAttentionParameters<T> d_parameters(
      RecurrentParameters<T>{d_weight.data(), d_leak.data(), d_threshold.data(), nullptr, nullptr},
      d_rnn, d_rnn);
  cross_attention_forward<B, T>(be, in.q(), in.k(), in.v(), parameters, context, options, in.out());
  cross_attention_backward<B, T>(be, in.q(), in.k(), in.v(), parameters, context, options,
                                 in.d_out(), in.d_q(), in.d_k(), in.d_v(), d_parameters);
  run.record(in.out_rows, in.d_q_rows, in.d_k_rows, in.d_v_rows, d_weight, d_ih, d_hh, d_leak,
             d_threshold, d_bias);
  const auto prepared =
      prepare_cross_attention<B, T>(be, step.k(), step.v(), parameters, context, options, 0, M);
  for (index_t i = 0; i < M; ++i) {
    cross_attention_step<B, T>(be, step.q(), parameters, context, options, i, prepared, step.out());
    run.record(step.out_rows);
  }
  return run.take();
}

/// A variant of somebody else's, that of examples/sliding_window.hpp.
template <class T, class B>
std::vector<double> trace_own_variant(B& be) {
  using List = Variants<SlidingWindow>;
  Run<B, T> run(be);
  const index_t D = 4, M = 9, H = AttentionTensors<B, T>::heads;
  AttentionTensors<B, T> in(run, M, 23, D), step(run, 1, 23, D);
  AttendContext<compute_t<T>, typename B::space> context;
  context.mask.lengths = in.lengths.data();
  const auto options = List::Options::of<SlidingWindow>({.window = 5, .generation_horizon = 6});
  auto scale = run.template random<T>({H}), d_scale = run.template random<T>({H});
  LearnedPointers<T> learned, d_learned;
  learned.add(scale.data()), d_learned.add(d_scale.data());
  typename List::Saved<B, T> saved;
  const srformer::AttentionInputs<B, T> inputs{in.q(), in.k(), in.v(), context};
  List::forward<B, T>(be, inputs, learned, options, saved, in.out());
  List::backward<B, T>(be, inputs, learned, options, saved,
                       {in.d_out(), in.d_q(), in.d_k(), in.d_v()}, d_learned);
  run.record(in.out_rows, in.d_q_rows, in.d_k_rows, in.d_v_rows, d_scale);
  const auto prepared =
      List::prepare<B, T>(be, gather_heads<B, T>(be, step.k()), gather_heads<B, T>(be, step.v()),
                          context, learned, options, {.steps = M});
  for (index_t i = 0; i < M; ++i) {
    List::step<B, T>(be, step.q(), context, learned, prepared, {.step = i}, step.out());
    run.record(step.out_rows);
  }
  return run.take();
}

}  // namespace tests
