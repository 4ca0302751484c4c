// SPDX-License-Identifier: Apache-2.0
// The backward of attention in dual numbers gives products with the Hessian, which is symmetric.
#include "support/attention_case.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

using Number = Dual<double>;

/// Numbers and gradients in the order q, k, v, weight, leak, threshold, sigma, gate.
struct Numbers {
  std::vector<Values> values;
  explicit Numbers(const AttentionValues& x)
      : values{x.q, x.k, x.v, x.weight, x.leak, x.threshold, x.sigma, x.gate} {}
};

std::vector<Values> directions(const Numbers& x, std::uint64_t seed) {
  std::vector<Values> all;
  for (const Values& input : x.values) {
    all.push_back(draw(static_cast<index_t>(input.size()), {seed, all.size()}));
  }
  return all;
}

/// H w for the loss <d_out, out>: the slopes of the gradient at inputs with slope w.
std::vector<Values> hessian_product(const AttentionCase& c, const AttentionValues& x,
                                    const Numbers& inputs, const std::vector<Values>& w,
                                    const Values& d_out) {
  std::vector<std::vector<Number>> at, d;
  for (std::size_t n = 0; n < w.size(); ++n) {
    at.emplace_back(), d.emplace_back(w[n].size());
    for (std::size_t i = 0; i < w[n].size(); ++i) at[n].emplace_back(inputs.values[n][i], w[n][i]);
  }
  const auto given = copy_as<Number>(d_out);
  const std::array q{c.B, c.H, c.M, c.D}, k{c.B, c.H, c.N, c.D};
  const auto in = [&]<int R>(std::size_t n, const std::array<index_t, R>& shape) {
    return View<const Number, R>(at[n].data(), shape);
  };
  const auto out = [&]<int R>(std::size_t n, const std::array<index_t, R>& shape) {
    return View<Number, R>(d[n].data(), shape);
  };
  using A1 = std::array<index_t, 1>;
  using A2 = std::array<index_t, 2>;
  library_backward<Number>(
      c, x, in.template operator()<4>(0, q), in.template operator()<4>(1, k),
      in.template operator()<4>(2, k), in.template operator()<2>(3, A2{c.D, c.D}),
      in.template operator()<1>(4, A1{1}), in.template operator()<1>(5, A1{1}),
      in.template operator()<1>(6, A1{1}), in.template operator()<1>(7, A1{c.H}),
      View<const Number, 4>(given.data(), q), out.template operator()<4>(0, q),
      out.template operator()<4>(1, k), out.template operator()<4>(2, k),
      out.template operator()<2>(3, A2{c.D, c.D}), out.template operator()<1>(4, A1{1}),
      out.template operator()<1>(5, A1{1}), out.template operator()<1>(6, A1{1}),
      out.template operator()<1>(7, A1{c.H}));
  std::vector<Values> product;
  for (const auto& gradient : d) {
    product.emplace_back();
    for (const Number& g : gradient) product.back().push_back(g.slope);
  }
  return product;
}

}  // namespace

TEST_CASE("the Hessian of attention is symmetric") {
  for (const Variant variant : {Variant::full, Variant::segmented, Variant::segmented_recurrent,
                                Variant::global_tokens, Variant::linear}) {
    for (const index_t L : {2, 4}) {  // with W folded into the values and not
      AttentionCase c{.B = 2, .H = 2, .M = 5, .N = 11, .D = 3};
      c.options.variant = variant, c.options.segment_size = L;
      c.options.gate = c.options.sigma = L == 4;
      INFO(c.text());
      plain::Trace trace;
      const AttentionValues x =
          variant == Variant::segmented_recurrent ? sample(c, trace) : draw_values(c, 0);
      const Numbers inputs(x);
      const Values d_out = draw(static_cast<index_t>(x.q.size()), {8, 1});
      const auto v = directions(inputs, 3), w = directions(inputs, 4);
      const auto hv = hessian_product(c, x, inputs, v, d_out),
                 hw = hessian_product(c, x, inputs, w, d_out);
      double left = 0, right = 0, scale = 0;
      for (std::size_t n = 0; n < v.size(); ++n) {
        for (std::size_t i = 0; i < v[n].size(); ++i) {
          left += v[n][i] * hw[n][i], right += w[n][i] * hv[n][i];
          scale += std::abs(v[n][i] * hw[n][i]);
        }
      }
      REQUIRE(scale > 1);
      CHECK(std::abs(left - right) < 1e-13 * scale);
    }
  }
}
