// SPDX-License-Identifier: Apache-2.0
// Attention stored as half or bfloat16, computed and summed in float, against the same rounded inputs in
// double: forward, backward and decoding of every variant.
#if defined(SRF_HAS_THRUST)
#include <srformer/backend/thrust.hpp>
#endif

#include "support/attention_case.hpp"
#include "support/paper_options.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

template <class T>
constexpr double bound = 4e-3;
template <>
constexpr double bound<Eigen::bfloat16> = 3e-2;

struct NamedCase {
  const char* name;
  AttentionCase attention;
};

std::vector<NamedCase> narrow_cases() {
  AttentionCase c{.B = 2, .H = 2, .M = 7, .N = 21, .D = 5};
  c.margin = 1e-3;  // float, on the same inputs, is nearer than that
  c.options.segment_size = 8;
  std::vector<NamedCase> all;
  const auto add = [&](const char* name, Variant variant, auto change) {
    AttentionCase here = c;
    here.options.variant = variant;
    change(here);
    all.push_back({name, here});
  };
  using A = AttentionCase;
  constexpr Variant recurrent = Variant::segmented_recurrent;
  for (const Variant variant : all_variants) add("plain", variant, [](A&) {});
  for (const Variant variant : all_variants) {
    add("lengths", variant, [](A& a) { a.lengths = {21, 9}; });
  }
  add("many blocks of queries", Variant::full, [](A& a) { a.M = 300, a.B = 1; });
  add("biases", Variant::segmented, [](A& a) { a.relative = a.dense = true; });
  add("dropout", Variant::segmented, [](A& a) { a.dropout = {0.3, {5, 6}}; });
  add("upstream", Variant::transformer_xl, [](A& a) { a.options.padding = Padding::upstream; });
  add("folded", recurrent, [](A& a) { a.options.segment_size = 3; });
  add("clamp", recurrent, [](A& a) { a.options.clamp = 2; });
  add("gate", recurrent, [](A& a) { a.options.gate = true; });
  add("sigma", recurrent, [](A& a) { a.options.sigma = true; });
  add("gate, sigma and clamp", recurrent,
      [](A& a) { a.options.gate = a.options.sigma = true, a.options.clamp = 2; });
  add("upstream", recurrent, [](A& a) { a.options.padding = Padding::upstream; });
  add("token", recurrent, [](A& a) { a.options.advance = Advance::token; });
  add("horizon", recurrent, [](A& a) { a.options.horizon = 12; });
  add("segment product", recurrent, [](A& a) { a.options.product = Product::segment; });
  add("not normalized", recurrent, [](A& a) { a.options.normalize = false; });
  add("no recurrence", recurrent, [](A& a) { a.options.recurrence = false; });
  add("no local part", recurrent, [](A& a) { a.options.local = false; });
  return all;
}

/// Inputs, rounded to T, in the order q, k, v, weight, leak, threshold, sigma, gate, eight of RNNs, d_out.
template <class T>
std::vector<Values> inputs_of(const AttentionCase& c) {
  const auto rounded = [](Values& values) {
    for (double& x : values) x = static_cast<double>(compute_t<T>(T(x)));
  };
  for (std::uint64_t attempt = 0; attempt < 400; ++attempt) {
    AttentionValues x = draw_values(c, attempt);
    for (Values* values : {&x.q, &x.k, &x.v, &x.weight, &x.leak, &x.threshold, &x.sigma, &x.gate}) {
      rounded(*values);
    }
    if (c.options.variant == Variant::segmented_recurrent) {
      plain::Trace trace;
      plain_output(c, x, &trace);
      if (!(trace.margin > c.margin && trace.fired_later)) continue;
    }
    std::vector<Values> all{x.q, x.k, x.v, x.weight, x.leak, x.threshold, x.sigma, x.gate};
    const index_t F = c.H * c.D;
    for (std::uint64_t n = 0; n < 8; ++n) {
      all.push_back(draw(n % 4 < 2 ? F * F : F, {c.seed, 100 + n}, 1 / std::sqrt(double(F))));
    }
    all.push_back(draw(static_cast<index_t>(x.q.size()), {c.seed, 200}));
    for (Values& values : all) rounded(values);
    return all;
  }
  FAIL("no sample of " + c.text() + " keeps away from the kinks");
  return {};
}

template <class T>
CrossAttentionParameters<T> parameters_of(const CrossAttentionOptions& o,
                                          const std::vector<T*>& p) {
  return {
      RecurrentParameters<T>{p[3], p[4], p[5], o.sigma ? p[6] : nullptr, o.gate ? p[7] : nullptr},
      RnnParameters<T>{p[8], p[9], p[10], p[11]}, RnnParameters<T>{p[12], p[13], p[14], p[15]}};
}

/// out, the gradients in the order of the inputs, and the outputs of decoding step by step.
template <class B, class T>
std::vector<Values> run(const AttentionCase& c, const std::vector<Values>& inputs) {
  using C = compute_t<T>;
  B be(1);
  std::vector<std::vector<T>> at, d;
  std::vector<T*> p, d_p;
  for (const Values& x : inputs) {
    at.push_back(copy_as<T>(x)), d.emplace_back(x.size(), T(0.0));
    p.push_back(at.back().data()), d_p.push_back(d.back().data());
  }
  const std::array of_q{c.B, c.H, c.M, c.D}, of_k{c.B, c.H, c.N, c.D};
  const View<const T, 4> q(p[0], of_q), k(p[1], of_k), v(p[2], of_k), d_out(p[16], of_q);
  const auto parameters = parameters_of<T>(c.options, p);
  const RandomStream random{c.seed, 300};
  const auto relative = copy_as<C>(draw(c.H * (c.M + c.N - 1), random.substream(0)));
  const auto dense = copy_as<C>(draw(c.B * c.H * c.M * c.N, random.substream(1)));
  AttendContext<C, host_space> context;
  context.dropout = c.dropout;
  if (!c.lengths.empty()) context.mask.lengths = c.lengths.data();
  if (c.relative) context.mask.relative = {relative.data(), {c.H, c.M + c.N - 1}};
  context.mask.relative_zero = c.M - 1;
  if (c.dense) context.mask.dense = {dense.data(), {c.B, c.H, c.M, c.N}};

  std::vector<T> out(inputs[0].size(), T(std::nan(""))), steps = out;
  cross_attention_forward<B, T>(be, q, k, v, parameters, context, c.options,
                                View<T, 4>(out.data(), of_q));
  cross_attention_backward<B, T>(be, q, k, v, parameters, context, c.options, d_out,
                                 View<T, 4>(d_p[0], of_q), View<T, 4>(d_p[1], of_k),
                                 View<T, 4>(d_p[2], of_k), parameters_of<T>(c.options, d_p));
  const index_t horizon = c.options.horizon > 0 ? c.options.horizon : c.M;
  if (!c.relative && !c.dense && !c.dropout.active()) {
    const auto prepared =
        prepare_cross_attention<B, T>(be, k, v, parameters, context, c.options, horizon, c.M);
    for (index_t i = 0; i < c.M; ++i) {
      cross_attention_step<B, T>(be, q.slice(2, i, 1), parameters, context, c.options, i, prepared,
                                 View<T, 4>(steps.data(), of_q).slice(2, i, 1));
    }
  } else {
    steps = out;
  }
  std::vector<Values> results;
  d.back() = steps;
  d.push_back(out);
  for (const std::vector<T>& result : d) {
    results.emplace_back();
    for (const T& x : result) results.back().push_back(static_cast<double>(C(x)));
  }
  return results;
}

template <class B, class T>
void check() {
  for (const auto& [name, c] : narrow_cases()) {
    INFO(name << ", " << c.text());
    const auto inputs = inputs_of<T>(c);
    const auto got = run<B, T>(c, inputs);
    const auto expected = run<EigenBackend, double>(c, inputs);
    REQUIRE(got.size() == 18);
    for (std::size_t n = 0; n < got.size(); ++n) {
      CAPTURE(n);
      CHECK(relative_error(got[n], expected[n]) < bound<T>);
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("every variant in narrow scalars, on Eigen's backend", "", Eigen::half,
                   Eigen::bfloat16) {
  check<EigenBackend, TestType>();
}

#if defined(SRF_HAS_THRUST)
TEMPLATE_TEST_CASE("every variant in narrow scalars, on Thrust's", "", Eigen::half,
                   Eigen::bfloat16) {
  check<ThrustBackend<thrust_cpp>, TestType>();
}
#endif
