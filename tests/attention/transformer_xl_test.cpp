// SPDX-License-Identifier: Apache-2.0
#include <srformer/attention/transformer_xl.hpp>

#include "attention/variant_case.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

AttentionCase xl_case(index_t B, index_t H, index_t M, index_t N, index_t L, index_t D) {
  AttentionCase c{.B = B, .H = H, .M = M, .N = N, .D = D};
  c.options.variant = Variant::transformer_xl;
  c.options.segment_size = L;
  return c;
}

/// Whether some query sees a row of memory that another row came before.
bool memory_reaches_back(const AttentionCase& c) {
  const SegmentRule rule{c.N, c.options.segment_size,
                         c.options.horizon > 0 ? c.options.horizon : c.M};
  const index_t last = rule.of(c.M - 1), previous = last > 0 ? last - 1 : 0;
  return rule.first_key(previous) + rule.keys(previous) > 1;
}

/// The gradients of q, k, v and of both RNNs against dual numbers through memory and attention; `swapped` gives the
/// backward the RNN of values for that of keys.
GradReport report_of(const AttentionCase& c, const GradOptions& grad, bool swapped = false) {
  const AttentionValues x = draw_values(c, 0);
  const Learned<double> learned(c);
  const index_t F = c.H * c.D;
  const auto weight = [&](const char* name, std::size_t at) {
    return GradInput(name, {F, F}, learned.rnn[at]);
  };
  const auto bias = [&](const char* name, std::size_t at) {
    return GradInput(name, {F}, learned.rnn[at]);
  };
  const auto fed_back = [&](const char* name, std::size_t at) {
    return memory_reaches_back(c) ? weight(name, at) : weight(name, at).expect_zero();
  };
  const auto forward = [&]<class T>(View<const T, 4> q, auto k, auto v, auto ih_k, auto hh_k,
                                    auto b_ih_k, auto b_hh_k, auto ih_v, auto hh_v, auto b_ih_v,
                                    auto b_hh_v, auto out) {
    EigenBackend be(1);
    const Biases<T> biases(c, x);
    std::fill(out.data, out.data + out.size(), T(std::nan("")));
    const CrossAttentionParameters<const T> parameters(
        RecurrentParameters<const T>{},
        RnnParameters<const T>{ih_k.data, hh_k.data, b_ih_k.data, b_hh_k.data},
        RnnParameters<const T>{ih_v.data, hh_v.data, b_ih_v.data, b_hh_v.data});
    cross_attention_forward<EigenBackend, T>(be, q, k, v, parameters, biases.context(c), c.options,
                                             out);
  };
  const auto backward = [&](auto q, auto k, auto v, auto ih_k, auto hh_k, auto b_ih_k, auto b_hh_k,
                            auto ih_v, auto hh_v, auto b_ih_v, auto b_hh_v, auto d_out, auto d_q,
                            auto d_k, auto d_v, auto d_ih_k, auto d_hh_k, auto d_b_ih_k,
                            auto d_b_hh_k, auto d_ih_v, auto d_hh_v, auto d_b_ih_v, auto d_b_hh_v) {
    EigenBackend be(1);
    const Biases<double> biases(c, x);
    XlParameters<const double> rnns{{ih_k.data, hh_k.data, b_ih_k.data, b_hh_k.data},
                                    {ih_v.data, hh_v.data, b_ih_v.data, b_hh_v.data}};
    const AttentionInputs<EigenBackend, double> in{q, k, v, biases.context(c)};
    const SegmentedOptions options = c.options.segments();
    Tensor<EigenBackend, double, 4> memory(be, {2, c.B, memory_rows(options, c.N), c.H * c.D});
    transformer_xl_memory(be, in, rnns, options, memory.view());
    if (swapped) std::swap(rnns.key, rnns.value);
    transformer_xl_backward(be, in, memory, rnns, options, {d_out, d_q, d_k, d_v},
                            {{d_ih_k.data, d_hh_k.data, d_b_ih_k.data, d_b_hh_k.data},
                             {d_ih_v.data, d_hh_v.data, d_b_ih_v.data, d_b_hh_v.data}});
  };
  return grad_check(
      grad, {c.B, c.H, c.M, c.D}, forward, backward, GradInput("q", {c.B, c.H, c.M, c.D}, x.q),
      GradInput("k", {c.B, c.H, c.N, c.D}, x.k), GradInput("v", {c.B, c.H, c.N, c.D}, x.v),
      weight("weight_ih of keys", 0), fed_back("weight_hh of keys", 1), bias("bias_ih of keys", 2),
      bias("bias_hh of keys", 3), weight("weight_ih of values", 4),
      fed_back("weight_hh of values", 5), bias("bias_ih of values", 6),
      bias("bias_hh of values", 7));
}

void check(const AttentionCase& c, const GradOptions& grad = {}) {
  INFO(c.text());
  const GradReport report = report_of(c, grad);
  INFO(report.text());
  CHECK(report.ok());
}

}  // namespace

TEST_CASE("gradients of Transformer-XL attention over shapes") {
  const index_t sizes[] = {3, 4, 1};
  index_t turn = 0;
  for (const index_t M : {1, 5, 9}) {
    for (const index_t N : {1, 13, 32}) {
      for (const index_t L : {1, 4, 8, 64}) {
        ++turn;
        check(xl_case(1 + turn % 2, 1 + turn % 2, M, N, L, sizes[turn / 2 % 3]),
              {.coordinates = 4, .directions = 2});
      }
    }
  }
  check(xl_case(2, 2, 7, 13, 4, 2));  // every element
}

TEST_CASE("gradients through a memory of more than one block of rows") {
  REQUIRE(detail::rnn_rows < 65);
  check(xl_case(1, 1, 4, 131, 66, 2), {.coordinates = 4, .directions = 3});
  check(xl_case(1, 2, 3, 65, 8, 2), {.coordinates = 4, .directions = 3});
}

TEST_CASE("what shapes the scores of Transformer-XL attention") {
  AttentionCase c = xl_case(2, 2, 7, 13, 4, 2);
  const auto check_some = [&] { check(c, {.coordinates = 20, .directions = 3}); };
  SECTION("a short horizon") {
    c.options.horizon = 3;
    check_some();
  }
  SECTION("a long horizon") {
    c.options.horizon = 30;
    check_some();
  }
  SECTION("masked lengths") {
    c.lengths = {13, 6};
    check_some();
  }
  SECTION("upstream padding and lengths") {
    c.options.padding = Padding::upstream, c.lengths = {13, 6};
    check_some();
  }
  SECTION("biases") {
    c.relative = c.dense = true;
    check_some();
  }
  SECTION("dropout") {
    c.dropout = {0.3, {5, 6}};
    check_some();
  }
}

TEST_CASE("a query sees its segment and what the memory carried to the one before") {
  AttentionCase c = xl_case(1, 1, 7, 13, 3, 2);
  const SegmentRule rule{c.N, 3, c.M};
  // Without weight_hh a row of memory holds its own key alone; with this one it forgets slowly, so that every key
  // that was carried shows.
  const bool carried = GENERATE(true, false);
  Learned<double> learned(c);
  for (const std::size_t hh : {1u, 5u}) {
    learned.rnn[hh] = carried ? Values{0.9, 0.1, -0.1, 0.9} : Values(4, 0.0);
  }
  for (const bool of_value : {false, true}) {
    const auto changed = influence(c, of_value, learned);
    for (index_t t = 0; t < c.N; ++t) {
      for (index_t i = 0; i < c.M; ++i) {
        const index_t j = rule.of(i), first = carried ? 0 : rule.first_key(j > 0 ? j - 1 : 0);
        INFO((of_value ? "value " : "key ") << t << ", query " << i);
        CHECK(changed[t][i] == (t >= first && t < rule.first_key(j) + rule.keys(j)));
      }
    }
  }
}

TEST_CASE("memory that was saved gives the same bits as memory computed again") {
  AttentionCase c = xl_case(2, 2, 5, 13, 4, 2);
  c.lengths = {13, 6};
  c.options.padding = GENERATE(Padding::masked, Padding::upstream);
  const AttentionValues x = draw_values(c, 0);
  const Learned<double> learned(c);
  const Biases<double> biases(c, x);
  const CaseViews in(c, x);
  EigenBackend be(1);
  PaperSaved<EigenBackend, double> saved;
  Values out(x.q.size());
  cross_attention_forward<EigenBackend, double>(be, in.q, in.k, in.v, learned.parameters(),
                                                biases.context(c), c.options,
                                                View<double, 4>(out.data(), in.q.extents), &saved);
  CHECK(out == variant_output(c, x));
  const auto& memory =
      std::get<detail::Belonging<TransformerXl, TransformerXl::Saved<EigenBackend, double>>>(saved)
          .of.memory;
  CHECK(memory.extent(2) == (c.options.padding == Padding::masked ? 13 : 16));
  const Values d_out = draw(c.B * c.H * c.M * c.D, {1, 99});
  std::array<Values, 3> d{Values(x.q.size()), Values(x.k.size()), Values(x.v.size())};
  cross_attention_backward<EigenBackend, double>(
      be, in.q, in.k, in.v, learned.parameters(), biases.context(c), c.options,
      View<const double, 4>(d_out.data(), in.q.extents), View<double, 4>(d[0].data(), in.q.extents),
      View<double, 4>(d[1].data(), in.k.extents), View<double, 4>(d[2].data(), in.k.extents), {},
      &saved);
  CHECK(d == variant_gradients(c, x, d_out));
}

TEST_CASE("a source in a masked batch of Transformer-XL attention is what it is alone") {
  AttentionCase c = xl_case(4, 2, 7, 13, 4, 2);
  c.options.horizon = GENERATE(6, 30);
  c.lengths = {13, 6, 1, 12};
  check_sources_alone(c);
}

TEST_CASE("wrong gradients of Transformer-XL attention are refused") {
  const AttentionCase c = xl_case(1, 2, 7, 13, 4, 2);
  CHECK(report_of(c, {.coordinates = 20}).ok());
  const GradReport swapped = report_of(c, {.coordinates = 20}, true);
  CHECK_FALSE(swapped.ok());
  REQUIRE(swapped.inputs.size() == 11);
  CHECK(swapped.inputs[0].refusal.empty());  // q does not pass through an RNN
  CHECK_FALSE(swapped.inputs[1].refusal.empty());
  CHECK_FALSE(swapped.inputs[2].refusal.empty());
}

TEST_CASE("errors of Transformer-XL attention") {
  EigenBackend be(1);
  const auto q = zeros<double, 4>(be, {1, 2, 3, 4}), k = zeros<double, 4>(be, {1, 2, 5, 4});
  auto out = zeros<double, 4>(be, {1, 2, 3, 4}), memory = zeros<double, 4>(be, {2, 1, 5, 8});
  const auto w = zeros<double, 2>(be, {8, 8});
  const auto b = zeros<double, 1>(be, {8});
  const RnnParameters<const double> rnn{w.data(), w.data(), b.data(), b.data()};
  AttentionInputs<EigenBackend, double> in{q, k, k};
  const AttentionInputs<EigenBackend, double> wrong{q, k, q};
  const auto remember = [&](const RnnParameters<const double>& of_keys, SegmentedOptions options,
                            View<double, 4> to) {
    transformer_xl_memory(be, in, {of_keys, rnn}, options, to);
  };
  CHECK_NOTHROW(remember(rnn, {.segment_size = 2}, memory.view()));
  CHECK_THROWS_WITH(
      remember({w.data(), w.data(), b.data(), nullptr}, {.segment_size = 2}, memory.view()),
      ContainsSubstring("the RNN needs weight_ih, weight_hh, bias_ih and bias_hh"));
  CHECK_THROWS_WITH(remember(rnn, {.segment_size = 2, .padding = Padding::upstream}, memory.view()),
                    ContainsSubstring("memory is [2,1,5,8], expected [2,B,R,H*D] = [2,1,6,8]"));
  CHECK_THROWS_WITH(remember(rnn, {.segment_size = 0}, memory.view()),
                    ContainsSubstring("segment size must be at least 1"));
  CHECK_THROWS_WITH(transformer_xl_forward(be, wrong, memory, {.segment_size = 2}, out.view()),
                    ContainsSubstring("transformer_xl_forward: v is [1,2,3,4], expected"));
  in.context.dropout.rate = 1;
  CHECK_THROWS_WITH(transformer_xl_forward(be, in, memory, {.segment_size = 2}, out.view()),
                    ContainsSubstring("dropout rate must be in [0,1)"));
}
