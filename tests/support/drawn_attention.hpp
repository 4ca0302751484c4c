// SPDX-License-Identifier: Apache-2.0
// Every variant of the cross-attention on random shapes with everything that shapes scores, forward, backward, prepared
// and step by step, so that one backend can be held against another.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <srformer/backend/eigen.hpp>
#include <srformer/core/random.hpp>

#include "support/catch.hpp"
#include "support/paper_options.hpp"

namespace tests {

using namespace srformer;

/// A shape with its options, drawn by its number.
struct Draw {
  std::uint64_t number, uses = 0;
  index_t B, H, M, N, D;
  CrossAttentionOptions options;
  std::vector<index_t> lengths;  ///< empty: no padding
  std::vector<std::int32_t>
      sources;          ///< of the groups of a decoder step; empty: group g has source g
  index_t rows, steps;  ///< of a group; of decoding
  bool dense, relative, dropout, absent;  ///< absent: what lies past a source's end is NaN
  index_t offset;                         ///< the decoder step of the first query

  explicit Draw(std::uint64_t n) : Draw(n, all_variants[n % 6]) {}
  Draw(std::uint64_t n, Variant variant) : number(n) {
    const index_t sizes[] = {1, 2, 3, 5, 8, 17};
    B = 1 + below(3), H = 1 + below(3), M = 1 + below(coin() ? 3 : 45),
    N = 1 + below(below(6) == 0 ? 2 : 45);
    D = sizes[below(6)];
    options.variant = variant;
    options.segment_size = 1 + below(coin() ? 2 : 20);
    options.horizon = coin() ? 0 : 1 + below(2 * M);
    options.generation_horizon = 1 + below(12);
    options.padding = coin() ? Padding::masked : Padding::upstream;
    options.advance = below(4) == 0 ? Advance::token : Advance::segment;
    options.clamp = below(4) == 0 ? 0.7 : 0;
    options.local = below(6) > 0, options.recurrence = below(6) > 0;
    options.normalize = below(6) > 0, options.binary_firing = below(6) == 0;
    options.product = below(6) == 0 ? Product::segment : Product::complement;
    options.sigma = coin(), options.gate = coin();
    for (index_t b = coin() ? B : 0; b > 0; --b) lengths.push_back(below(N + 1));
    for (index_t g = coin() ? 1 + below(4) : 0; g > 0; --g)
      sources.push_back(static_cast<std::int32_t>(below(B)));
    rows = 1 + below(4), steps = 1 + below(14);
    const bool scored = options.variant != Variant::linear;
    dense = scored && below(3) == 0, relative = scored && below(3) == 0;
    dropout = scored && below(3) == 0;
    const bool recurrent = options.variant == Variant::segmented_recurrent;
    offset = recurrent || coin() ? 0 : below(5);
    // Full attention in stages multiplies the values behind a source's end by zero.
    const bool reads =
        options.variant == Variant::full || (scored && options.padding == Padding::upstream);
    absent = !reads && !lengths.empty();
    options.average_products = coin();
    if (!options.average_products && coin()) options.soft_keys = 1.5;
  }

  index_t below(index_t bound) {
    const RandomStream random{4711, 8};
    return static_cast<index_t>(
        random_below(random.substream(number), ++uses, static_cast<std::uint64_t>(bound)));
  }
  bool coin() { return below(2) == 0; }
  index_t segments() const { return (N + options.segment_size - 1) / options.segment_size; }

  std::string text() const {
    const CrossAttentionOptions& o = options;
    std::string all = "draw " + std::to_string(number) + ": " + variant_name(o.variant);
    const auto add = [&](const char* name, auto value) {
      all += std::string(", ") + name + " " + std::to_string(value);
    };
    add("B", B), add("H", H), add("M", M), add("N", N), add("D", D);
    add("segment_size", o.segment_size), add("horizon", o.horizon);
    add("generation_horizon", o.generation_horizon), add("rows", rows), add("steps", steps);
    add("clamp", o.clamp), add("normalize", o.normalize), add("recurrence", o.recurrence);
    add("local", o.local), add("sigma", o.sigma), add("gate", o.gate);
    add("dense", dense), add("relative", relative), add("dropout", dropout), add("offset", offset);
    all += o.padding == Padding::masked ? ", masked" : ", upstream";
    all += o.product == Product::segment ? ", product of the segment" : "";
    all += o.advance == Advance::token ? ", a step per token" : "";
    all += o.binary_firing ? ", binary firing" : "";
    all += o.average_products ? ", averages" : "";
    all += o.soft_keys > 0 ? ", soft keys" : "";
    return all + ", lengths " + shape_text(lengths) + ", groups " + std::to_string(sources.size());
  }
};

struct Result {
  std::string name;
  std::vector<double> values;
};

/// What the variant of a draw writes on a backend: out over NaN, gradients over what is not zero.
template <class T, class B>
class DrawnRun {
 public:
  DrawnRun(B& backend, const Draw& draw) : be(backend), d(draw), options(draw.options.chosen()) {
    PaperVariants::visit_learned(options, {d.H, d.D}, [&](const LearnedInfo& info) {
      const index_t columns = std::max<index_t>(info.columns, 1);
      const double scale = info.role == Role::scalar ? 0.2 : 1 / std::sqrt(double(columns));
      const double center = info.role == Role::scalar ? 0.6 : 0;
      learned.push_back(random({info.rows, columns, 1, 1}, scale, center));
      d_learned.push_back(random({info.rows, columns, 1, 1}));
      pointers.add(learned.back().data()), d_pointers.add(d_learned.back().data());
    });
    lengths = from_host<index_t, 1>(be, {static_cast<index_t>(d.lengths.size())}, d.lengths);
    context.mask.lengths = d.lengths.empty() ? nullptr : lengths.data();
    dense = random({d.B, d.H, d.M, d.N}), relative = random({1, 1, d.H, d.M + d.N - 1});
    k = keys(), v = keys();
  }

  std::vector<Result> together() {
    const std::array<index_t, 4> queries{d.B, d.H, d.M, d.D};
    auto seen = context;
    if (d.dense) seen.mask.dense = dense.view();
    if (d.relative) {
      seen.mask.relative = {relative.data(), {d.H, d.M + d.N - 1}};
      seen.mask.relative_zero = d.M - 1;
    }
    if (d.dropout) seen.dropout = {0.3, RandomStream{5, d.number}};
    seen.mask.query_offset = d.offset;
    const auto q = by_rows(queries), d_out = by_rows(queries);
    auto out = by_rows(queries, true), d_q = by_rows(queries), d_k = by_rows(k.shape),
         d_v = by_rows(k.shape);
    typename PaperVariants::Saved<B, T> saved;
    const AttentionInputs<B, T> in{q.view(), k.view(), v.view(), seen};
    PaperVariants::forward<B, T>(be, in, pointers, options, saved, out.view());
    PaperVariants::backward<B, T>(be, in, pointers, options, saved,
                                  {d_out.view(), d_q.view(), d_k.view(), d_v.view()}, d_pointers);
    std::vector<Result> all{{"out", values(out.x)},
                            {"d_q", values(d_q.x)},
                            {"d_k", values(d_k.x)},
                            {"d_v", values(d_v.x)}};
    for (const auto& x : d_learned) all.push_back({"a learned parameter", values(x)});
    return all;
  }

  std::vector<Result> step_by_step() {
    const auto groups = static_cast<index_t>(d.sources.empty() ? d.B : d.sources.size());
    const auto sources =
        from_host<std::int32_t, 1>(be, {static_cast<index_t>(d.sources.size())}, d.sources);
    const std::array<index_t, 4> queries{groups, d.H, d.rows, d.D};
    const auto prepared = PaperVariants::prepare<B, T>(be, gather_heads<B, T>(be, k.view()),
                                                       gather_heads<B, T>(be, v.view()), context,
                                                       pointers, options, {.steps = d.steps});
    std::vector<Result> all;
    if constexpr (std::is_same_v<T, double>) all.push_back(firing());
    for (index_t step = 0; step < d.steps; ++step) {
      const auto q = by_rows(queries);
      auto out = by_rows(queries, true);
      PaperVariants::step<B, T>(be, q.view(), context, pointers, prepared,
                                {step, d.sources.empty() ? nullptr : sources.data()}, out.view());
      all.push_back({"step " + std::to_string(step), values(out.x)});
    }
    return all;
  }

  /// The states of the recurrence that fire, and all of them.
  Result firing() {
    const View<const T, 4, typename B::space> queries(nullptr, {d.B, d.H, d.M, d.D});
    const FiringCount count = PaperVariants::count_firing<B, T>(
        be, {queries, k.view(), v.view(), context}, pointers, options);
    return {"what fires", {double(count.fired), double(count.states), 1}};
  }

 private:
  /// [B,H,n,D] as the columns of a projection [B,n,H*D].
  struct ByRows {
    Tensor<B, T, 4> x;
    std::array<index_t, 4> shape;
    std::array<index_t, 4> strides() const {
      const index_t inner = shape[1] * shape[3];
      return {shape[2] * inner, shape[3], inner, 1};
    }
    View<const T, 4, typename B::space> view() const { return {x.data(), shape, strides()}; }
    View<T, 4, typename B::space> view() { return {x.data(), shape, strides()}; }
  };

  Tensor<B, T, 4> random(const std::array<index_t, 4>& shape, double scale = 1, double center = 0) {
    return from_host<T, 4>(be, shape, drawn(shape, scale, center));
  }
  std::vector<T> drawn(const std::array<index_t, 4>& shape, double scale, double center) {
    std::vector<T> made_values;
    const RandomStream stream = RandomStream{d.number, 1}.substream(++made);
    for (index_t i = 0; i < View<T, 4>(nullptr, shape).size(); ++i)
      made_values.push_back(T(center + scale * normal(stream, static_cast<std::uint64_t>(i))));
    return made_values;
  }
  ByRows by_rows(const std::array<index_t, 4>& shape, bool nothing = false) {
    const std::array<index_t, 4> rows{shape[0], shape[2], shape[1], shape[3]};
    auto x = drawn(rows, nothing ? std::nan("") : 0.8, 0);
    return {from_host<T, 4>(be, rows, x), shape};
  }
  ByRows keys() {
    const std::array<index_t, 4> rows{d.B, d.N, d.H, d.D};
    auto x = drawn(rows, 0.8, 0);
    const index_t inner = d.H * d.D;
    for (index_t b = 0; d.absent && b < d.B; ++b)
      std::fill(x.begin() + (b * d.N + d.lengths[b]) * inner, x.begin() + (b + 1) * d.N * inner,
                T(std::nan("")));
    return {from_host<T, 4>(be, rows, x), {d.B, d.H, d.N, d.D}};
  }
  std::vector<double> values(const Tensor<B, T, 4>& x) {
    const auto host = to_host(be, x);
    return {host.begin(), host.end()};
  }

  B& be;
  const Draw& d;
  PaperVariants::Options options;
  std::uint64_t made = 0;
  std::vector<Tensor<B, T, 4>> learned, d_learned;
  LearnedPointers<T> pointers, d_pointers;
  Tensor<B, index_t, 1> lengths;
  Tensor<B, T, 4> dense, relative;
  AttendContext<T, typename B::space> context;
  ByRows k, v;
};

/// The largest difference over the largest value, where that is above 1; NaN counts as wrong.
inline double difference(const std::vector<double>& got, const std::vector<double>& expected) {
  if (got.size() != expected.size() || got.empty()) return HUGE_VAL;
  double worst = 0, largest = 1;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double off = std::abs(got[i] - expected[i]);
    if (!(off <= worst)) worst = off;
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest;
}

/// One draw against one thread of the Eigen backend.
template <class T, class B>
void compare_draw(B& be, const Draw& draw, double tolerance) {
  EigenBackend eigen(1);
  INFO(draw.text());
  DrawnRun<T, B> run(be, draw);
  DrawnRun<T, EigenBackend> plain(eigen, draw);
  auto got = run.together(), expected = plain.together();
  for (Result& step : run.step_by_step()) got.push_back(std::move(step));
  for (Result& step : plain.step_by_step()) expected.push_back(std::move(step));
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    INFO(got[i].name);
    REQUIRE(difference(got[i].values, expected[i].values) <= tolerance);
  }
}

}  // namespace tests
