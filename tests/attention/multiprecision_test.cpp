// SPDX-License-Identifier: Apache-2.0
// Attention in fifty digits: what double rounds away, and central differences to twenty digits.
#include <boost/multiprecision/cpp_bin_float.hpp>

#include "support/attention_case.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

using Fifty = boost::multiprecision::number<boost::multiprecision::cpp_bin_float<50>,
                                            boost::multiprecision::et_off>;

static_assert(Scalar<Fifty>);

std::vector<AttentionCase> multiprecision_cases() {
  AttentionCase c{.B = 2, .H = 2, .M = 4, .N = 9, .D = 3};
  c.margin = 1e-4;
  c.options.segment_size = 3;
  std::vector<AttentionCase> all;
  for (const Variant variant :
       {Variant::full, Variant::global_tokens, Variant::linear, Variant::segmented_recurrent}) {
    c.options.variant = variant;
    all.push_back(c);
  }
  c.options.gate = c.options.sigma = true;
  all.push_back(c);
  c.options.segment_size = 2, c.options.gate = c.options.sigma = false;  // W is folded
  all.push_back(c);
  c.options.clamp = 2, c.lengths = {9, 5};
  all.push_back(c);
  return all;
}

AttentionValues values_of(const AttentionCase& c) {
  plain::Trace trace;
  return c.options.variant == Variant::segmented_recurrent ? sample(c, trace) : draw_values(c, 0);
}

template <class T>
std::vector<std::vector<T>*> parts(Gradients<T>& d) {
  return {&d.q, &d.k, &d.v, &d.weight, &d.leak, &d.threshold, &d.sigma, &d.gate};
}

Fifty magnitude(const Fifty& x) { return x < 0 ? Fifty(-x) : x; }

}  // namespace

TEST_CASE("double agrees with fifty digits, forward and backward") {
  for (const AttentionCase& c : multiprecision_cases()) {
    INFO(c.text());
    const AttentionValues x = values_of(c);
    CHECK(relative_error(library_output<double>(c, x), library_output<Fifty>(c, x)) < 1e-13);
    const Values d_out = draw(static_cast<index_t>(x.q.size()), {8, 1});
    auto got = library_gradients<double>(c, x, d_out);
    auto exact = library_gradients<Fifty>(c, x, d_out);
    const auto of_double = parts(got);
    const auto of_fifty = parts(exact);
    for (std::size_t i = 0; i < of_double.size(); ++i) {
      CAPTURE(i);
      CHECK(relative_error(*of_double[i], *of_fifty[i]) < 1e-12);
    }
  }
}

TEST_CASE("gradients agree with central differences to twenty digits") {
  for (const AttentionCase& c : multiprecision_cases()) {
    INFO(c.text());
    const AttentionValues x = values_of(c);
    const Values d_out = draw(static_cast<index_t>(x.q.size()), {8, 1});
    auto gradients = library_gradients<Fifty>(c, x, d_out);
    // The loss <d_out, out> with a step along all inputs at once, too small for double to hold.
    std::vector<Values> along;
    for (const auto* g : parts(gradients)) {
      along.push_back(draw(static_cast<index_t>(g->size()), {9, along.size()}));
    }
    const auto loss = [&](const Fifty& step) {
      std::size_t input = 0;
      const auto out = output_of<Fifty>(c, x, [&](auto... views) {
        const auto move = [&](auto& view) {
          auto* at = const_cast<Fifty*>(view.data);
          for (index_t i = 0; i < view.size(); ++i) at[i] = at[i] + step * Fifty(along[input][i]);
          ++input;
          return 0;
        };
        auto all = std::tie(views...);
        [&]<std::size_t... I>(std::index_sequence<I...>) { (move(std::get<I>(all)), ...); }
        (std::make_index_sequence<8>{});
        library_forward<Fifty>(c, x, views...);
      });
      Fifty sum(0);
      for (std::size_t i = 0; i < out.size(); ++i) sum = sum + out[i] * Fifty(d_out[i]);
      return sum;
    };
    const Fifty h("1e-15");
    const Fifty difference = (loss(h) - loss(Fifty(-h))) / (h + h);
    Fifty by_hand(0), scale(0);
    std::size_t input = 0;
    for (const auto* g : parts(gradients)) {
      for (std::size_t i = 0; i < g->size(); ++i) {
        const Fifty term = (*g)[i] * Fifty(along[input][i]);
        by_hand = by_hand + term;
        scale = scale + magnitude(term);
      }
      ++input;
    }
    REQUIRE(scale > 1);
    CHECK(double(magnitude(by_hand - difference) / scale) < 1e-24);
  }
}
