// SPDX-License-Identifier: Apache-2.0
// The library against the whole-array expressions of xtensor_reference.hpp: values to 1e-12, gradients to 1e-10.
#include <srformer/backend/eigen.hpp>
#include <srformer/core/random.hpp>
#include <srformer/interop/xtensor.hpp>

#include "attention/xtensor_reference.hpp"
#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace srformer;
using reference::Array;
using reference::Inputs;
using reference::Shape;
using srformer::testing::relative_error;

namespace {

struct ReferenceSizes {
  std::size_t B, H, M, N, L, D;
  std::string text() const {
    return "B" + std::to_string(B) + " H" + std::to_string(H) + " M" + std::to_string(M) + " N" +
           std::to_string(N) + " L" + std::to_string(L) + " D" + std::to_string(D);
  }
  std::size_t segments() const { return (N + L - 1) / L; }
};

const ReferenceSizes all_sizes[] = {
    {1, 1, 1, 1, 1, 1},  {2, 2, 7, 13, 4, 3},  // a last segment of one key
    {1, 3, 3, 23, 2, 5},                       // fewer queries than segments; W folded
    {2, 1, 9, 5, 2, 4},                        // more queries than keys
    {1, 2, 6, 12, 4, 6},                       // whole segments
    {2, 3, 4, 7, 9, 2},                        // one segment, not full
    {1, 1, 6, 6, 1, 3},                        // segments of one key
    {1, 2, 1, 9, 3, 4},                        // one query
};

Array normals(const Shape& shape, RandomStream random, double scale = 1) {
  Array x = reference::zeros(shape);
  std::uint64_t n = 0;
  for (double& value : x) value = scale * normal(random, n++);
  return x;
}

Inputs draw(const ReferenceSizes& c, RandomStream random) {
  const std::size_t F = c.H * c.D;
  const double spread = 1 / std::sqrt(static_cast<double>(c.D)), of_rnn = spread / 2;
  Inputs in;
  in.q = normals({c.B, c.H, c.M, c.D}, random.substream(0));
  in.k = normals({c.B, c.H, c.N, c.D}, random.substream(1));
  in.v = normals({c.B, c.H, c.N, c.D}, random.substream(2));
  in.bias = normals({c.B, c.H, c.M, c.N}, random.substream(3));
  in.weight = normals({c.D, c.D}, random.substream(4), spread);
  in.leak = 0.5, in.threshold = 0.3, in.sigma = 0.6;
  in.gate = normals({c.H}, random.substream(5));
  for (reference::Rnn* rnn : {&in.rnn_key, &in.rnn_value}) {
    const RandomStream own = random.substream(rnn == &in.rnn_key ? 6 : 7);
    *rnn = {normals({F, F}, own.substream(0), of_rnn), normals({F, F}, own.substream(1), of_rnn),
            normals({F}, own.substream(2)), normals({F}, own.substream(3))};
  }
  return in;
}

/// Numbers away from the kinks and, where more than one segment is visited, with cells that fire at a later step.
Inputs sample(const ReferenceSizes& c, const CrossAttentionOptions& options, std::uint64_t seed) {
  if (options.variant != Variant::segmented_recurrent) return draw(c, {seed, 0});
  const std::size_t steps = reference::Segments(options, c.M, c.N).step.shape(0);
  for (std::uint64_t attempt = 0; attempt < 200; ++attempt) {
    const Inputs in = draw(c, RandomStream{seed, 1}.substream(attempt));
    const reference::Kinks found = reference::kinks(in, options);
    const bool fires = c.segments() < 2 || steps < 2 || !options.recurrence || found.fires_later;
    if (found.margin > 1e-6 && fires) return in;
  }
  FAIL("no sample keeps away from the kinks");
  return {};
}

std::vector<double> flat(const Array& x) { return {x.begin(), x.end()}; }

double error(const Array& got, const Array& expected) {
  REQUIRE(got.size() > 0);
  REQUIRE(got.shape() == expected.shape());
  return relative_error(flat(got), flat(expected));
}
double error(double got, double expected) {
  return relative_error(std::vector<double>{got}, std::vector<double>{expected});
}

template <class Rnn>
auto rnn_parameters(Rnn& w) {
  using T = std::remove_pointer_t<decltype(w.ih.data())>;
  return RnnParameters<T>{w.ih.data(), w.hh.data(), w.b_ih.data(), w.b_hh.data()};
}

/// The learned numbers of `in`, const or gradients, as the library takes them.
template <class In, class T = std::conditional_t<std::is_const_v<In>, const double, double>>
CrossAttentionParameters<T> parameters_of(In& in, const CrossAttentionOptions& options) {
  return {RecurrentParameters<T>{in.weight.data(), &in.leak, &in.threshold,
                                 options.sigma ? &in.sigma : nullptr,
                                 options.gate ? in.gate.data() : nullptr},
          rnn_parameters(in.rnn_key), rnn_parameters(in.rnn_value)};
}

AttendContext<double, host_space> context_of(const Inputs& in) {
  AttendContext<double, host_space> context;
  context.mask.dense = as_view<4>(in.bias);
  return context;
}

Array zeros_like(const Array& x) { return xt::zeros_like(x); }

void check_rnn(const reference::Rnn& got, const reference::Rnn& expected) {
  CHECK(error(got.ih, expected.ih) < 1e-10);
  CHECK(error(got.hh, expected.hh) < 1e-10);
  CHECK(error(got.b_ih, expected.b_ih) < 1e-10);
  CHECK(error(got.b_hh, expected.b_hh) < 1e-10);
}

/// Forward and backward of the library against the reference on one sample.
void compare(const ReferenceSizes& c, const CrossAttentionOptions& options, std::uint64_t seed) {
  INFO(variant_name(options.variant)
       << " " << c.text() << " horizon " << options.horizon
       << (options.padding == Padding::masked ? "" : " upstream") << " seed " << seed);
  const Inputs in = sample(c, options, seed);
  EigenBackend be(1);
  const auto parameters = parameters_of(in, options);
  const auto context = context_of(in);

  Array out = xt::full_like(in.q, std::nan(""));
  cross_attention_forward<EigenBackend, double>(be, as_view<4>(in.q), as_view<4>(in.k),
                                                as_view<4>(in.v), parameters, context, options,
                                                as_view<4>(out));
  const Array expected = reference::forward(in, options);
  CHECK(xt::amax(xt::abs(expected))() > 1e-3);
  CHECK(error(out, expected) < 1e-12);

  const Array d_out = normals({c.B, c.H, c.M, c.D}, {seed, 2});
  Inputs d;
  d.q = zeros_like(in.q), d.k = zeros_like(in.k), d.v = zeros_like(in.v);
  d.weight = zeros_like(in.weight), d.gate = zeros_like(in.gate);
  for (reference::Rnn* rnn : {&d.rnn_key, &d.rnn_value}) {
    *rnn = {zeros_like(in.rnn_key.ih), zeros_like(in.rnn_key.hh), zeros_like(in.rnn_key.b_ih),
            zeros_like(in.rnn_key.b_hh)};
  }
  cross_attention_backward<EigenBackend, double>(
      be, as_view<4>(in.q), as_view<4>(in.k), as_view<4>(in.v), parameters, context, options,
      as_view<4>(d_out), as_view<4>(d.q), as_view<4>(d.k), as_view<4>(d.v),
      parameters_of(d, options));
  const Inputs g = reference::backward(in, options, d_out);
  // Linear attention to one key is v y / (y + 1e-6): six digits of dq and dk cancel.
  const double tolerance = options.variant == Variant::linear && c.N == 1 ? 1e-8 : 1e-10;
  CHECK(error(d.q, g.q) < tolerance);
  CHECK(error(d.k, g.k) < tolerance);
  CHECK(error(d.v, g.v) < 1e-10);
  if (options.variant == Variant::segmented_recurrent) {
    CHECK(error(d.weight, g.weight) < 1e-10);
    CHECK(error(d.leak, g.leak) < 1e-10);
    CHECK(error(d.threshold, g.threshold) < 1e-10);
    CHECK(error(d.sigma, g.sigma) < 1e-10);
    CHECK(error(d.gate, g.gate) < 1e-10);
  }
  if (options.variant == Variant::transformer_xl) {
    check_rnn(d.rnn_key, g.rnn_key);
    check_rnn(d.rnn_value, g.rnn_value);
  }
}

CrossAttentionOptions options_for(Variant variant, const ReferenceSizes& c, index_t horizon = 0,
                                  Padding padding = Padding::masked) {
  CrossAttentionOptions options;
  options.variant = variant;
  options.segment_size = static_cast<index_t>(c.L);
  options.horizon = horizon;
  options.padding = padding;
  return options;
}

}  // namespace

TEST_CASE("every variant is its whole-array expression, forward and backward") {
  std::uint64_t seed = 0;
  for (const Variant variant : all_variants) {
    for (const ReferenceSizes& c : all_sizes) {
      for (const index_t horizon : {0, 4, 11}) {
        for (const Padding padding : {Padding::masked, Padding::upstream}) {
          compare(c, options_for(variant, c, horizon, padding), ++seed);
        }
      }
    }
  }
}

TEST_CASE("every option of segmented recurrent attention is its whole-array expression") {
  const ReferenceSizes c =
      GENERATE(ReferenceSizes{2, 2, 7, 13, 4, 3}, ReferenceSizes{2, 2, 7, 13, 2, 5});
  const index_t horizon = GENERATE(0, 5);
  const auto with = [&](auto set) {
    CrossAttentionOptions options = options_for(Variant::segmented_recurrent, c, horizon);
    set(options);
    for (const std::uint64_t seed : {1, 2}) compare(c, options, seed);
  };
  using Options = CrossAttentionOptions&;
  SECTION("gate and sigma") {
    with([](Options o) { o.gate = o.sigma = true; });
  }
  SECTION("gate without the softmax part") {
    with([](Options o) { o.gate = o.sigma = true, o.local = false; });
  }
  SECTION("clamp") {
    with([](Options o) { o.clamp = 1.5; });
  }
  SECTION("product of the segment") {
    with([](Options o) { o.product = Product::segment; });
  }
  SECTION("clamped product of the segment") {
    with([](Options o) { o.product = Product::segment, o.clamp = 1.5; });
  }
  SECTION("no recurrence") {
    with([](Options o) { o.recurrence = false; });
  }
  SECTION("no normalisation") {
    with([](Options o) { o.normalize = false; });
  }
  SECTION("binary firing") {
    with([](Options o) { o.binary_firing = true; });
  }
  SECTION("averages") {
    with([](Options o) { o.average_products = o.gate = o.sigma = true; });
  }
  SECTION("averages, clamp and a step for every query") {
    with([](Options o) { o.average_products = true, o.clamp = 1.5, o.advance = Advance::token; });
  }
  SECTION("averages of binary firing") {
    with([](Options o) { o.average_products = o.binary_firing = true; });
  }
  SECTION("averages without recurrence") {
    with([](Options o) { o.average_products = true, o.recurrence = false; });
  }
  SECTION("soft keys") {
    with([](Options o) { o.soft_keys = 2, o.gate = o.sigma = true; });
  }
  SECTION("soft keys, clamp and a step for every query") {
    with([](Options o) { o.soft_keys = 2, o.clamp = 0.3, o.advance = Advance::token; });
  }
  SECTION("soft keys without recurrence") {
    with([](Options o) { o.soft_keys = 2, o.recurrence = false; });
  }
  SECTION("averages without normalisation") {
    with([](Options o) { o.average_products = true, o.normalize = false; });
  }
  SECTION("a step for every query") {
    with([](Options o) { o.advance = Advance::token; });
  }
  SECTION("a step for every query, clamp, gate, sigma") {
    with([](Options o) { o.advance = Advance::token, o.clamp = 1.5, o.gate = o.sigma = true; });
  }
}

TEST_CASE("the cumulative key-value product is its whole-array expression") {
  const double clamp = GENERATE(0.0, 1.5);
  const Product product = GENERATE(Product::complement, Product::segment);
  EigenBackend be(1);
  for (const ReferenceSizes& c : all_sizes) {
    INFO(c.text());
    CrossAttentionOptions options = options_for(Variant::segmented_recurrent, c);
    options.clamp = clamp, options.product = product;
    const Inputs in = draw(c, {5, 0});
    const reference::Segments seg(options, c.M, c.N);
    const Array k = seg.filled(in.k), v = seg.filled(in.v);
    Array z = reference::zeros({c.B, c.H, seg.S, c.D, c.D});
    const KvProductInputs<EigenBackend, double> of{as_view<4>(in.k), as_view<4>(in.v)};
    kv_product_forward(be, of, options.segments(), {product, clamp}, as_view<5>(z));
    CHECK(error(z, reference::kv_product(seg, options, k, v)) < 1e-12);
    const Array d_z = normals({c.B, c.H, seg.S, c.D, c.D}, {5, 1});
    Array d_k = zeros_like(in.k), d_v = zeros_like(in.v);
    kv_product_backward(be, of, options.segments(), {product, clamp},
                        {as_view<5>(d_z), as_view<4>(d_k), as_view<4>(d_v)});
    const Inputs g = reference::kv_product_backward(seg, options, k, v, d_z);
    CHECK(error(d_k, seg.cut(g.k)) < 1e-10);
    CHECK(error(d_v, seg.cut(g.v)) < 1e-10);
  }
}

TEST_CASE("RAF is its recurrence, and its gradient the sum over earlier steps") {
  const RafOptions options{.binary_firing = GENERATE(false, true)};
  EigenBackend be(1);
  for (const double leak : {0.5, 1.2, 0.0}) {
    for (const double threshold : {0.3, -0.4}) {
      for (const std::size_t steps : {1u, 2u, 9u}) {
        INFO("leak " << leak << " threshold " << threshold << " steps " << steps
                     << (options.binary_firing ? " binary" : ""));
        const std::size_t cells = 37;
        const Array x = normals({steps, cells}, {9, steps});
        const reference::Fired expected = reference::raf(x, leak, threshold, options.binary_firing);
        REQUIRE(xt::amin(xt::abs(expected.u / threshold - 1))() > 1e-6);
        REQUIRE(reference::total(expected.fires) > 0);
        const RafParameters<EigenBackend, double> parameters{{&leak, {1}}, {&threshold, {1}}};
        Array r = zeros_like(x), u = zeros_like(x), d_x = zeros_like(x);
        raf_forward(be, as_view<2>(x), parameters, options, as_view<2>(r), as_view<2>(u));
        CHECK(error(r, expected.r) < 1e-12);
        CHECK(error(u, expected.u) < 1e-12);
        const Array d_r = normals({steps, cells}, {10, steps});
        double d_leak = 0, d_threshold = 0;
        raf_backward(be, as_view<2>(u), parameters, options,
                     {as_view<2>(d_r), as_view<2>(d_x), {&d_leak, {1}}, {&d_threshold, {1}}});
        const reference::RafGradients g =
            reference::raf_backward(x, expected, leak, threshold, d_r);
        CHECK(error(d_x, g.x) < 1e-10);
        CHECK(error(d_leak, g.leak) < 1e-10);
        CHECK(error(d_threshold, g.threshold) < 1e-10);
      }
    }
  }
}
