// SPDX-License-Identifier: Apache-2.0
// One attention problem with random inputs, run through the library and through the plain loops of
// plain_attention.hpp: values, and gradients through both forwards.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <srformer/testing/grad_check.hpp>

#include "support/backends.hpp"
#include "support/catch.hpp"
#include "support/plain_attention.hpp"
#include "support/tolerance.hpp"

namespace srformer::testing {

/// Shapes, options and what shapes the scores.
struct AttentionCase {
  index_t B = 1, H = 1, M = 5, N = 13, D = 3;
  CrossAttentionOptions options{};
  std::vector<index_t> lengths{};
  bool causal = false;
  index_t query_offset = 0;
  bool relative = false, dense = false;
  Dropout dropout{};
  index_t dead_feature = -1;  ///< a column of every K that is zero
  double margin = 1e-6;       ///< inputs are drawn again until no cell is nearer to its kink
  double threshold = 0.3, leak = 0.5;
  std::uint64_t seed = 1;

  std::string text() const {
    return std::string(variant_name(options.variant)) + " B" + std::to_string(B) + " H" +
           std::to_string(H) + " M" + std::to_string(M) + " N" + std::to_string(N) + " L" +
           std::to_string(options.segment_size) + " D" + std::to_string(D) + " horizon " +
           std::to_string(options.horizon);
  }
};

/// Segmented recurrent attention of segments of L keys.
inline AttentionCase recurrent_case(index_t B, index_t H, index_t M, index_t N, index_t L,
                                    index_t D) {
  AttentionCase c{.B = B, .H = H, .M = M, .N = N, .D = D};
  c.options.variant = Variant::segmented_recurrent;
  c.options.segment_size = L;
  return c;
}

using Values = std::vector<double>;

template <class T>
std::vector<T> copy_as(const Values& values) {
  return std::vector<T>(values.begin(), values.end());
}

/// The numbers of a case, row-major; gate and sigma are drawn whether or not they are used.
struct AttentionValues {
  Values q, k, v, weight, leak, threshold, sigma, gate, relative, dense;
};

inline Values draw(index_t count, RandomStream random, double scale = 1) {
  Values values(static_cast<std::size_t>(count));
  for (index_t i = 0; i < count; ++i)
    values[i] = scale * normal(random, static_cast<std::uint64_t>(i));
  return values;
}

inline AttentionValues draw_values(const AttentionCase& c, std::uint64_t attempt) {
  const RandomStream random = RandomStream{c.seed, 77}.substream(attempt);
  AttentionValues x{draw(c.B * c.H * c.M * c.D, random.substream(0)),
                    draw(c.B * c.H * c.N * c.D, random.substream(1)),
                    draw(c.B * c.H * c.N * c.D, random.substream(2)),
                    draw(c.D * c.D, random.substream(3), 1 / std::sqrt(double(c.D))),
                    {c.leak},
                    {c.threshold},
                    {0.6},
                    draw(c.H, random.substream(4)),
                    draw(c.H * (c.M + c.N - 1), random.substream(5)),
                    draw(c.B * c.H * c.M * c.N, random.substream(6))};
  for (index_t row = 0; c.dead_feature >= 0 && row < c.B * c.H * c.N; ++row) {
    x.k[row * c.D + c.dead_feature] = 0;
  }
  return x;
}

template <class T>
RecurrentParameters<const T> parameters_of(const AttentionCase& c, View<const T, 2> w,
                                           View<const T, 1> leak, View<const T, 1> threshold,
                                           View<const T, 1> sigma, View<const T, 1> gate) {
  return {w.data, leak.data, threshold.data, c.options.sigma ? sigma.data : nullptr,
          c.options.gate ? gate.data : nullptr};
}

/// Biases in the scalar at hand, alive as long as a context points to them.
template <class T>
struct Biases {
  std::vector<T> relative, dense;
  Biases(const AttentionCase& c, const AttentionValues& x)
      : relative(c.relative ? copy_as<T>(x.relative) : std::vector<T>()),
        dense(c.dense ? copy_as<T>(x.dense) : std::vector<T>()) {}

  AttendContext<T, host_space> context(const AttentionCase& c) const {
    AttendContext<T, host_space> context;
    context.dropout = c.dropout;
    context.mask.lengths = c.lengths.empty() ? nullptr : c.lengths.data();
    if (!relative.empty()) context.mask.relative = {relative.data(), {c.H, c.M + c.N - 1}};
    context.mask.relative_zero = c.M - 1;
    if (!dense.empty()) context.mask.dense = {dense.data(), {c.B, c.H, c.M, c.N}};
    context.mask.causal = c.causal;
    context.mask.query_offset = c.query_offset;
    return context;
  }
};

/// The library's forward, as grad_check calls it.
template <class T, class B = EigenBackend>
void library_forward(const AttentionCase& c, const AttentionValues& x, View<const T, 4> q,
                     View<const T, 4> k, View<const T, 4> v, View<const T, 2> w,
                     View<const T, 1> leak, View<const T, 1> threshold, View<const T, 1> sigma,
                     View<const T, 1> gate, View<T, 4> out, int threads = 1) {
  B be(threads);
  const Biases<T> biases(c, x);
  // What forward does not write must show.
  std::fill(out.data, out.data + out.size(), T(std::nan("")));
  cross_attention_forward<B, T>(be, q, k, v, parameters_of<T>(c, w, leak, threshold, sigma, gate),
                                biases.context(c), c.options, out);
}

/// The library's backward: adds to the gradients.
template <class T, class B = EigenBackend>
void library_backward(const AttentionCase& c, const AttentionValues& x, View<const T, 4> q,
                      View<const T, 4> k, View<const T, 4> v, View<const T, 2> w,
                      View<const T, 1> leak, View<const T, 1> threshold, View<const T, 1> sigma,
                      View<const T, 1> gate, View<const T, 4> d_out, View<T, 4> d_q, View<T, 4> d_k,
                      View<T, 4> d_v, View<T, 2> d_w, View<T, 1> d_leak, View<T, 1> d_threshold,
                      View<T, 1> d_sigma, View<T, 1> d_gate, int threads = 1) {
  B be(threads);
  const Biases<T> biases(c, x);
  const RecurrentParameters<T> d{d_w.data, d_leak.data, d_threshold.data,
                                 c.options.sigma ? d_sigma.data : nullptr,
                                 c.options.gate ? d_gate.data : nullptr};
  cross_attention_backward<B, T>(be, q, k, v, parameters_of<T>(c, w, leak, threshold, sigma, gate),
                                 biases.context(c), c.options, d_out, d_q, d_k, d_v, d);
}

/// The plain forward, as grad_check calls it.
template <class T>
plain::Trace plain_forward(const AttentionCase& c, const AttentionValues& x, View<const T, 4> q,
                           View<const T, 4> k, View<const T, 4> v, View<const T, 2> w,
                           View<const T, 1> leak, View<const T, 1> threshold,
                           View<const T, 1> sigma, View<const T, 1> gate, View<T, 4> out) {
  const Biases<T> biases(c, x);
  plain::Inputs<T> in{q, k, v, w, leak, threshold};
  if (c.options.sigma) in.sigma = sigma;
  if (c.options.gate) in.gate = gate;
  in.options = c.options;
  in.lengths = c.lengths;
  in.causal = c.causal;
  in.query_offset = c.query_offset;
  if (c.relative) in.relative = {biases.relative.data(), {c.H, c.M + c.N - 1}};
  if (c.dense) in.dense = biases.context(c).mask.dense;
  in.dropout = c.dropout;
  return plain::attention(in, out);
}

/// Runs forward(q, k, v, weight, leak, threshold, sigma, gate, out) on a case's numbers as T.
template <class T, class Forward>
std::vector<T> output_of(const AttentionCase& c, const AttentionValues& x, Forward forward) {
  const auto q = copy_as<T>(x.q), k = copy_as<T>(x.k), v = copy_as<T>(x.v),
             w = copy_as<T>(x.weight);
  const auto leak = copy_as<T>(x.leak), threshold = copy_as<T>(x.threshold);
  const auto sigma = copy_as<T>(x.sigma), gate = copy_as<T>(x.gate);
  std::vector<T> out(q.size(), T(0));
  forward(View<const T, 4>(q.data(), {c.B, c.H, c.M, c.D}),
          View<const T, 4>(k.data(), {c.B, c.H, c.N, c.D}),
          View<const T, 4>(v.data(), {c.B, c.H, c.N, c.D}), View<const T, 2>(w.data(), {c.D, c.D}),
          View<const T, 1>(leak.data(), {1}), View<const T, 1>(threshold.data(), {1}),
          View<const T, 1>(sigma.data(), {1}), View<const T, 1>(gate.data(), {c.H}),
          View<T, 4>(out.data(), {c.B, c.H, c.M, c.D}));
  return out;
}

template <class T>
std::vector<T> library_output(const AttentionCase& c, const AttentionValues& x, int threads = 1) {
  return output_of<T>(c, x, [&](auto... views) { library_forward<T>(c, x, views..., threads); });
}

/// The library's gradients, from zero, in scalar T.
template <class T>
struct Gradients {
  std::vector<T> q, k, v, weight, leak, threshold, sigma, gate;
};

template <class T>
Gradients<T> library_gradients(const AttentionCase& c, const AttentionValues& x,
                               const Values& d_out, int threads = 1) {
  Gradients<T> d{std::vector<T>(x.q.size()),     std::vector<T>(x.k.size()),
                 std::vector<T>(x.v.size()),     std::vector<T>(x.weight.size()),
                 std::vector<T>(x.leak.size()),  std::vector<T>(x.threshold.size()),
                 std::vector<T>(x.sigma.size()), std::vector<T>(x.gate.size())};
  const auto given = copy_as<T>(d_out);
  output_of<T>(
      c, x,
      [&](auto q, auto k, auto v, auto w, auto leak, auto threshold, auto sigma, auto gate, auto) {
        library_backward<T>(c, x, q, k, v, w, leak, threshold, sigma, gate,
                            View<const T, 4>(given.data(), q.extents),
                            View<T, 4>(d.q.data(), q.extents), View<T, 4>(d.k.data(), k.extents),
                            View<T, 4>(d.v.data(), v.extents),
                            View<T, 2>(d.weight.data(), w.extents), View<T, 1>(d.leak.data(), {1}),
                            View<T, 1>(d.threshold.data(), {1}), View<T, 1>(d.sigma.data(), {1}),
                            View<T, 1>(d.gate.data(), {c.H}), threads);
      });
  return d;
}

inline std::vector<double> plain_output(const AttentionCase& c, const AttentionValues& x,
                                        plain::Trace* trace = nullptr) {
  plain::Trace found;
  auto out = output_of<double>(
      c, x, [&](auto... views) { found = plain_forward<double>(c, x, views...); });
  if (trace != nullptr) *trace = found;
  return out;
}

/// Numbers of a case away from the kinks and, where there is more than one segment, such that cells
/// fire at a later step.
inline AttentionValues sample(const AttentionCase& c, plain::Trace& trace, bool fires = true) {
  for (std::uint64_t attempt = 0; attempt < 200; ++attempt) {
    AttentionValues x = draw_values(c, attempt);
    plain_output(c, x, &trace);
    if (trace.margin > c.margin && (!fires || trace.fired_later)) return x;
  }
  FAIL("no sample of " + c.text() + " keeps away from the kinks");
  return {};
}

/// Values against the plain loops to 1e-11, gradients through both forwards to 1e-10, on the CPU's backend
/// and on one that takes products over all heads.
///   fires  whether cells are to fire at a later step; false where there is no other segment
inline void check_attention_case(const AttentionCase& c, bool fires, GradOptions grad = {}) {
  INFO(c.text());
  plain::Trace trace;
  const bool recurrent = c.options.variant == Variant::segmented_recurrent;
  const AttentionValues x = sample(c, trace, recurrent && fires);
  CHECK(relative_error(library_output<double>(c, x), plain_output(c, x)) < 1e-11);
  const auto batched = [&](auto... views) {
    library_forward<double, tests::BatchedBackend>(c, x, views...);
  };
  CHECK(relative_error(output_of<double>(c, x, batched), plain_output(c, x)) < 1e-11);

  const auto zero_unless = [](auto input, bool used) { return used ? input : input.expect_zero(); };
  const bool rest = recurrent && trace.fired, learned = rest && c.options.recurrence;
  const bool one_key =
      c.options.variant == Variant::full ? c.N == 1 : std::min(c.options.segment_size, c.N) == 1;
  const bool scores_matter =
      !one_key || (c.options.padding == Padding::upstream && c.options.segment_size > 1 &&
                   c.options.variant != Variant::full);
  const bool used = rest || (c.options.local && scores_matter);
  const auto check = [&](const char* through, auto forward, auto backward) {
    const GradReport report =
        grad_check(grad, {c.B, c.H, c.M, c.D}, forward, backward,
                   zero_unless(GradInput("q", {c.B, c.H, c.M, c.D}, x.q), used),
                   zero_unless(GradInput("k", {c.B, c.H, c.N, c.D}, x.k), used),
                   zero_unless(GradInput("v", {c.B, c.H, c.N, c.D}, x.v),
                               rest || !recurrent || c.options.local),
                   zero_unless(GradInput("weight", {c.D, c.D}, x.weight), learned),
                   zero_unless(GradInput("leak", {1}, x.leak), learned && trace.fired_later),
                   zero_unless(GradInput("threshold", {1}, x.threshold), learned),
                   zero_unless(GradInput("sigma", {1}, x.sigma),
                               recurrent && c.options.sigma && c.options.local),
                   zero_unless(GradInput("gate", {c.H}, x.gate), rest && c.options.gate));
    INFO("gradients through the " << through << " forward\n" << report.text());
    CHECK(report.ok());
  };
  const auto plain = [&]<class T>(View<const T, 4> q, auto... more) {
    plain_forward<T>(c, x, q, more...);
  };
  const auto own = [&]<class B>(std::type_identity<B>) {
    return
        [&]<class T>(View<const T, 4> q, auto... more) { library_forward<T, B>(c, x, q, more...); };
  };
  const auto own_backward = [&]<class B>(std::type_identity<B>) {
    return [&](auto... views) { library_backward<double, B>(c, x, views...); };
  };
  constexpr std::type_identity<EigenBackend> eigen;
  constexpr std::type_identity<tests::BatchedBackend> over_all_heads;
  check("plain", plain, own_backward(eigen));
  check("library's own", own(eigen), own_backward(eigen));
  check("plain", plain, own_backward(over_all_heads));
  check("own in products over all heads", own(over_all_heads), own_backward(over_all_heads));
}

}  // namespace srformer::testing
