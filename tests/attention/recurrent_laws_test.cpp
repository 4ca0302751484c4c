// SPDX-License-Identifier: Apache-2.0
// What segmented recurrent attention must satisfy beyond its values: it is the sum of its parts, a
// source does not feel its batch, layouts, threads and scalars do not matter, and misuse is refused.
#include <limits>
#include <string>

#include <srformer/ops/linear.hpp>

#include "support/attention_case.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

void check_same(const Gradients<double>& got, const Gradients<double>& expected, double tolerance) {
  CHECK(relative_error(got.q, expected.q) < tolerance);
  CHECK(relative_error(got.k, expected.k) < tolerance);
  CHECK(relative_error(got.v, expected.v) < tolerance);
  CHECK(relative_error(got.weight, expected.weight) < tolerance);
  CHECK(relative_error(got.leak, expected.leak) < tolerance);
  CHECK(relative_error(got.threshold, expected.threshold) < tolerance);
  CHECK(relative_error(got.sigma, expected.sigma) < tolerance);
  CHECK(relative_error(got.gate, expected.gate) < tolerance);
}

Values output_gradient(const AttentionCase& c) { return draw(c.B * c.H * c.M * c.D, {c.seed, 99}); }

Values times(double factor, Values x) {
  for (double& value : x) value *= factor;
  return x;
}

/// Products and norms as averages, with a threshold that they reach.
void average(AttentionCase& c) { c.options.average_products = true, c.threshold = 0.1; }

/// The keys of a case, each of them `copies` times in a row, in segments as many times as long.
AttentionCase with_copies(AttentionCase c, index_t copies) {
  c.N *= copies, c.options.segment_size *= copies, c.options.clamp *= static_cast<double>(copies);
  for (index_t& length : c.lengths) length *= copies;
  return c;
}
Values with_copies(const Values& rows, index_t columns, index_t copies) {
  Values all;
  for (auto row = rows.begin(); row != rows.end(); row += columns)
    for (index_t copy = 0; copy < copies; ++copy) all.insert(all.end(), row, row + columns);
  return all;
}
/// The sums over the copies of each row.
Values sums_of_copies(const Values& rows, index_t columns, index_t copies) {
  Values sums(rows.size() / static_cast<std::size_t>(copies));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto at = static_cast<index_t>(i);
    sums[static_cast<std::size_t>(at / columns / copies * columns + at % columns)] += rows[i];
  }
  return sums;
}

}  // namespace

TEST_CASE(
    "segmented recurrent attention is segmented attention, products, linear and RAF in turn") {
  const index_t L = GENERATE(2, 5);  // folded and not
  const double clamp = GENERATE(0.0, 2.0);
  const bool binary = GENERATE(false, true);
  AttentionCase c = recurrent_case(2, 2, 9, 11, L, 4);
  if (GENERATE(false, true)) average(c);
  c.options.clamp = clamp, c.options.binary_firing = binary;
  const RafOptions firing{.binary_firing = binary};
  const index_t B = c.B, H = c.H, M = c.M, N = c.N, D = c.D, lanes = B * H, cells = D * D;
  plain::Trace trace;
  const AttentionValues x = sample(c, trace);
  const SegmentedOptions segments = c.options.segments();
  const SegmentRule rule{N, L, M};
  const index_t S = rule.count();
  REQUIRE(rule.visited(M) == S);
  EigenBackend be(1);
  const std::array<index_t, 4> shape_q{B, H, M, D}, shape_k{B, H, N, D};
  const View<const double, 4> q(x.q.data(), shape_q), k(x.k.data(), shape_k),
      v(x.v.data(), shape_k);
  const View<const double, 2> w(x.weight.data(), {D, D});
  const View<const double, 1> leak(x.leak.data(), {1}), threshold(x.threshold.data(), {1});

  // A, Z and X = Z W^T, then [S, lanes D D] for the recurrence and back.
  auto a = zeros<double, 4>(be, shape_q);
  const AttentionInputs<EigenBackend, double> in{q, k, v};
  segmented_attention_forward(be, in, segments, a.view());
  auto z = zeros<double, 5>(be, {B, H, S, D, D});
  const KvProductInputs<EigenBackend, double> products{k, v};
  kv_product_forward(be, products, segments, c.options.recurrent().products(), z.view());
  const double keys = c.options.average_products ? static_cast<double>(N) : 1;
  for (index_t i = 0; i < z.size(); ++i) z.data()[i] /= keys;
  const View<double, 2> z_rows = z.view().reshape<2>({lanes * S * D, D});
  auto x_rows = zeros<double, 2>(be, {lanes * S * D, D});
  linear_forward(be, z_rows, w, std::nullopt, x_rows.view());
  const auto turn = [&](const View<double, 2>& from, const View<double, 2>& to, bool steps_first) {
    for (index_t lane = 0; lane < lanes; ++lane) {
      for (index_t j = 0; j < S; ++j) {
        for (index_t e = 0; e < cells; ++e) {
          const index_t by_lane = (lane * S + j) * cells + e,
                        by_step = (j * lanes + lane) * cells + e;
          to.data[steps_first ? by_step : by_lane] = from.data[steps_first ? by_lane : by_step];
        }
      }
    }
  };
  auto steps = zeros<double, 2>(be, {S, lanes * cells}),
       r = zeros<double, 2>(be, {S, lanes * cells});
  auto u = zeros<double, 2>(be, {S, lanes * cells});
  turn(x_rows.view(), steps.view(), true);
  const RafParameters<EigenBackend, double> raf{leak, threshold};
  raf_forward(be, steps.view(), raf, firing, r.view(), u.view());

  // C_i = (q_i R_j) / n, with d_r, d_q, d_n for the given d_out
  const Values d_out = output_gradient(c);
  const View<const double, 4> d_o(d_out.data(), shape_q);
  Values out(x.q.size());
  Gradients<double> d{Values(x.q.size()),
                      Values(x.k.size()),
                      Values(x.v.size()),
                      Values(x.weight.size()),
                      {0},
                      {0},
                      {0},
                      Values(x.gate.size())};
  const View<double, 4> o(out.data(), shape_q), d_q(d.q.data(), shape_q), d_k(d.k.data(), shape_k);
  auto d_r = zeros<double, 2>(be, {S, lanes * cells});
  for (index_t lane = 0; lane < lanes; ++lane) {
    const index_t b = lane / H, h = lane % H;
    for (index_t e = 0; e < D; ++e) {
      double n = 0, d_n = 0;
      for (index_t t = 0; t < N; ++t) n += k(b, h, t, e) * k(b, h, t, e);
      n = std::sqrt(n / keys);
      for (index_t i = 0; i < M; ++i) {
        const double* r_j = r.data() + (rule.of(i) * lanes + lane) * cells;
        double* d_r_j = d_r.data() + (rule.of(i) * lanes + lane) * cells;
        double rest = 0;
        for (index_t f = 0; f < D; ++f) {
          rest += q(b, h, i, f) * r_j[f * D + e];
          d_r_j[f * D + e] += q(b, h, i, f) * d_o(b, h, i, e) / n;
          d_q(b, h, i, f) += r_j[f * D + e] * d_o(b, h, i, e) / n;
        }
        o(b, h, i, e) = a.view()(b, h, i, e) + rest / n;
        d_n -= d_o(b, h, i, e) * rest / n / n;
      }
      for (index_t t = 0; t < N; ++t) d_k(b, h, t, e) += d_n * k(b, h, t, e) / n / keys;
    }
  }
  CHECK(relative_error(library_output<double>(c, x), out) < 1e-12);

  auto d_steps = zeros<double, 2>(be, {S, lanes * cells});
  raf_backward(be, u.view(), raf, firing,
               {d_r.view(), d_steps.view(), {d.leak.data(), {1}}, {d.threshold.data(), {1}}});
  auto d_x_rows = zeros<double, 2>(be, {lanes * S * D, D}),
       d_z_rows = zeros<double, 2>(be, {lanes * S * D, D});
  turn(d_steps.view(), d_x_rows.view(), false);
  linear_backward(be, z_rows, w, d_x_rows.view(), d_z_rows.view(),
                  View<double, 2>(d.weight.data(), {D, D}));
  for (index_t i = 0; i < d_z_rows.size(); ++i) d_z_rows.data()[i] /= keys;
  const View<double, 4> d_v(d.v.data(), shape_k);
  kv_product_backward(be, products, segments, c.options.recurrent().products(),
                      {d_z_rows.view().reshape<5>({B, H, S, D, D}), d_k, d_v});
  segmented_attention_backward(be, in, segments, {d_o, d_q, d_k, d_v});
  check_same(library_gradients<double>(c, x, d_out), d, 1e-12);
}

TEST_CASE("a source in a masked batch behaves as if it stood alone, whatever its padding holds") {
  AttentionCase c = recurrent_case(4, 2, 7, 13, 3, 4);
  const bool folded = GENERATE(true, false);
  if (!folded) c.options.segment_size = 5;
  if (GENERATE(false, true)) average(c);
  c.options.sigma = c.options.gate = true;
  c.options.horizon = 6;
  c.lengths = {13, 6, 1, 8};
  plain::Trace trace;
  AttentionValues x = sample(c, trace);
  for (index_t b = 0; b < c.B; ++b) {
    for (index_t h = 0; h < c.H; ++h) {
      for (index_t i = ((b * c.H + h) * c.N + c.lengths[b]) * c.D;
           i < (b * c.H + h + 1) * c.N * c.D; ++i) {
        x.k[i] = x.v[i] = std::numeric_limits<double>::quiet_NaN();
      }
    }
  }
  const Values d_out = output_gradient(c);
  const Values together = library_output<double>(c, x);
  const Gradients<double> d_together = library_gradients<double>(c, x, d_out);

  const auto part = [](const Values& all, index_t first, index_t count) {
    return Values(all.begin() + first, all.begin() + first + count);
  };
  Gradients<double> sum{{}, {}, {}, Values(x.weight.size()), {0}, {0}, {0}, Values(x.gate.size())};
  const auto add = [](Values& to, const Values& from) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
  };
  for (index_t b = 0; b < c.B; ++b) {
    INFO("source " << b << " of length " << c.lengths[b]);
    AttentionCase alone = c;
    alone.B = 1, alone.N = c.lengths[b], alone.lengths.clear();
    const index_t queries = c.H * c.M * c.D;
    AttentionValues own = x;
    own.q = part(x.q, b * queries, queries);
    const auto real = [&](const Values& all) {
      Values rows;
      for (index_t h = 0; h < c.H; ++h) {
        const Values head = part(all, (b * c.H + h) * c.N * c.D, alone.N * c.D);
        rows.insert(rows.end(), head.begin(), head.end());
      }
      return rows;
    };
    own.k = real(x.k), own.v = real(x.v);
    CHECK(relative_error(part(together, b * queries, queries), library_output<double>(alone, own)) <
          1e-12);
    const Gradients<double> d =
        library_gradients<double>(alone, own, part(d_out, b * queries, queries));
    CHECK(relative_error(part(d_together.q, b * queries, queries), d.q) < 1e-12);
    CHECK(relative_error(real(d_together.k), d.k) < 1e-12);
    CHECK(relative_error(real(d_together.v), d.v) < 1e-12);
    for (index_t h = 0; h < c.H; ++h) {
      const index_t padding = (c.N - alone.N) * c.D, first = ((b * c.H + h) * c.N + alone.N) * c.D;
      CHECK(part(d_together.k, first, padding) == Values(static_cast<std::size_t>(padding), 0.0));
      CHECK(part(d_together.v, first, padding) == Values(static_cast<std::size_t>(padding), 0.0));
    }
    add(sum.weight, d.weight), add(sum.leak, d.leak), add(sum.threshold, d.threshold);
    add(sum.sigma, d.sigma), add(sum.gate, d.gate);
  }
  CHECK(relative_error(d_together.weight, sum.weight) < 1e-12);
  CHECK(relative_error(d_together.leak, sum.leak) < 1e-12);
  CHECK(relative_error(d_together.threshold, sum.threshold) < 1e-12);
  CHECK(relative_error(d_together.sigma, sum.sigma) < 1e-12);
  CHECK(relative_error(d_together.gate, sum.gate) < 1e-12);
}

TEST_CASE("averages are sums with N times the threshold, times a power of N") {
  const index_t L = GENERATE(2, 5), N = GENERATE(11, 40);  // folded and not
  AttentionCase c = recurrent_case(2, 2, 9, N, L, 4);
  c.options.local = false, c.options.gate = true;
  const auto number = static_cast<double>(N);
  double factor = std::sqrt(number);
  const std::string what =
      GENERATE(values<std::string>({"sums", "clamped", "product of the segment", "every query",
                                    "binary firing", "no recurrence", "no norms", "neither"}));
  CAPTURE(what);
  if (what == "clamped") c.options.clamp = 2;
  if (what == "product of the segment") c.options.product = Product::segment;
  if (what == "every query") c.options.advance = Advance::token;
  if (what == "binary firing") c.options.binary_firing = true;
  if (what == "no recurrence") c.options.recurrence = false, factor /= number;
  if (what == "no norms") c.options.normalize = false, factor = 1;
  if (what == "neither") c.options.recurrence = c.options.normalize = false, factor = 1 / number;
  AttentionCase averaged = c;
  average(averaged);
  plain::Trace trace;
  const AttentionValues x = sample(averaged, trace, c.options.recurrence);
  AttentionValues of_sums = x;
  of_sums.threshold = times(number, x.threshold);
  const Values d_out = output_gradient(c);
  CHECK(relative_error(library_output<double>(averaged, x),
                       times(factor, library_output<double>(c, of_sums))) < 1e-13);
  Gradients<double> d = library_gradients<double>(c, of_sums, d_out);
  for (Values* each : {&d.q, &d.k, &d.v, &d.weight, &d.leak, &d.threshold, &d.gate})
    *each = times(factor, *each);
  d.threshold = times(number, d.threshold);
  check_same(library_gradients<double>(averaged, x, d_out), d, 1e-12);
}

TEST_CASE("averages do not feel every key given several times in segments as many times as long") {
  const index_t copies = GENERATE(2, 3);
  AttentionCase c = recurrent_case(2, 2, 9, 11, GENERATE(3, 5), 4);
  average(c);
  c.options.gate = c.options.sigma = true;
  const std::string what = GENERATE(values<std::string>(
      {"averages", "lengths", "upstream padding", "clamped", "product of the segment",
       "every query", "binary firing", "no recurrence", "no norms"}));
  CAPTURE(what);
  if (what == "lengths" || what == "upstream padding") c.lengths = {11, 7};
  if (what == "upstream padding") c.options.padding = Padding::upstream;
  if (what == "clamped") c.options.clamp = 2;
  if (what == "product of the segment") c.options.product = Product::segment;
  if (what == "every query") c.options.advance = Advance::token;
  if (what == "binary firing") c.options.binary_firing = true;
  if (what == "no recurrence") c.options.recurrence = false;
  if (what == "no norms") c.options.normalize = false;
  plain::Trace trace;
  const AttentionValues x = sample(c, trace, c.options.recurrence);
  const AttentionCase more = with_copies(c, copies);
  AttentionValues y = x;
  y.k = with_copies(x.k, c.D, copies), y.v = with_copies(x.v, c.D, copies);
  const Values d_out = output_gradient(c), out = library_output<double>(c, x);
  CHECK(relative_error(library_output<double>(more, y), out) < 1e-12);
  Gradients<double> d = library_gradients<double>(more, y, d_out);
  d.k = sums_of_copies(d.k, c.D, copies), d.v = sums_of_copies(d.v, c.D, copies);
  check_same(d, library_gradients<double>(c, x, d_out), 1e-11);
  // Sums do.
  AttentionCase of_sums = c, more_of_sums = more;
  of_sums.options.average_products = more_of_sums.options.average_products = false;
  CHECK(relative_error(library_output<double>(more_of_sums, y),
                       library_output<double>(of_sums, x)) > 0.01);
}

TEST_CASE("heads may lie interleaved in rows, as projections leave them") {
  AttentionCase c = recurrent_case(2, 3, 7, 13, GENERATE(2, 5), 4);
  c.options.variant = GENERATE(Variant::full, Variant::segmented, Variant::segmented_recurrent);
  c.options.gate = c.options.sigma = true;
  c.dropout = {0.2, {8, 8}};
  INFO(c.text());
  const index_t B = c.B, H = c.H, M = c.M, N = c.N, D = c.D;
  plain::Trace trace;
  const AttentionValues x = sample(c, trace, false);
  const Values d_out = output_gradient(c);
  // [B*length, 2 + H*D] with two columns that are something else's.
  const index_t before = 2, columns = before + H * D;
  const auto rows_of = [&](const Values& contiguous, index_t length) {
    Values rows(static_cast<std::size_t>(B * length * columns), 7.0);
    const View<double, 4> heads =
        as_heads(View<double, 2>(rows.data(), {B * length, columns}), B, H, D, before);
    index_t next = 0;
    for (index_t b = 0; b < B; ++b) {
      for (index_t h = 0; h < H; ++h) {
        for (index_t i = 0; i < length; ++i) {
          for (index_t e = 0; e < D; ++e) heads(b, h, i, e) = contiguous[next++];
        }
      }
    }
    return rows;
  };
  const auto heads_of = [&](Values& rows, index_t length) {
    return as_heads(View<double, 2>(rows.data(), {B * length, columns}), B, H, D, before);
  };
  Values q = rows_of(x.q, M), k = rows_of(x.k, N), v = rows_of(x.v, N), given = rows_of(d_out, M);
  Values out = rows_of(Values(x.q.size()), M), d_q = out, d_k = rows_of(Values(x.k.size()), N),
         d_v = d_k;
  Gradients<double> d = library_gradients<double>(c, x, d_out), d_rows = d;
  for (Values* shared :
       {&d_rows.weight, &d_rows.leak, &d_rows.threshold, &d_rows.sigma, &d_rows.gate}) {
    std::fill(shared->begin(), shared->end(), 0.0);
  }
  EigenBackend be(1);
  const Biases<double> biases(c, x);
  const RecurrentParameters<const double> parameters{
      x.weight.data(), x.leak.data(), x.threshold.data(), x.sigma.data(), x.gate.data()};
  cross_attention_forward<EigenBackend, double>(be, heads_of(q, M), heads_of(k, N), heads_of(v, N),
                                                parameters, biases.context(c), c.options,
                                                heads_of(out, M));
  CHECK(out == rows_of(library_output<double>(c, x), M));
  cross_attention_backward<EigenBackend, double>(
      be, heads_of(q, M), heads_of(k, N), heads_of(v, N), parameters, biases.context(c), c.options,
      heads_of(given, M), heads_of(d_q, M), heads_of(d_k, N), heads_of(d_v, N),
      RecurrentParameters<double>{d_rows.weight.data(), d_rows.leak.data(), d_rows.threshold.data(),
                                  d_rows.sigma.data(), d_rows.gate.data()});
  CHECK(d_q == rows_of(d.q, M));
  CHECK(d_k == rows_of(d.k, N));
  CHECK(d_v == rows_of(d.v, N));
  CHECK(d_rows.weight == d.weight);
  CHECK(d_rows.sigma == d.sigma);
  CHECK(d_rows.gate == d.gate);
}

TEST_CASE("the number of threads and a second run change no bit") {
  AttentionCase c = recurrent_case(3, 3, 16, 61, GENERATE(4, 16), 8);
  c.lengths = {61, 20, 37};
  c.dropout = {0.3, {1, 5}};
  c.options.gate = c.options.sigma = true;
  plain::Trace trace;
  const AttentionValues x = sample(c, trace);
  const Values d_out = output_gradient(c), out = library_output<double>(c, x);
  const Gradients<double> d = library_gradients<double>(c, x, d_out);
  for (const int threads : {1, 2, 3, 7}) {
    CHECK(library_output<double>(c, x, threads) == out);
    const Gradients<double> other = library_gradients<double>(c, x, d_out, threads);
    CHECK(other.q == d.q);
    CHECK(other.k == d.k);
    CHECK(other.v == d.v);
    CHECK(other.weight == d.weight);
    CHECK(other.leak == d.leak);
    CHECK(other.threshold == d.threshold);
    CHECK(other.sigma == d.sigma);
    CHECK(other.gate == d.gate);
  }
  AttentionCase other_stream = c;
  other_stream.dropout.random.stream = 6;
  CHECK(relative_error(library_output<double>(other_stream, x), out) > 0.01);
}

TEST_CASE("float agrees with double") {
  AttentionCase c = recurrent_case(2, 2, 16, 32, GENERATE(4, 16), 8);
  c.options.variant = GENERATE(Variant::full, Variant::segmented, Variant::segmented_recurrent);
  c.options.gate = c.options.sigma = true;
  c.margin = 1e-4;
  INFO(c.text());
  plain::Trace trace;
  AttentionValues x = sample(c, trace, false);
  const Values d_out = output_gradient(c);
  CHECK(relative_error(library_output<float>(c, x), library_output<double>(c, x)) < 1e-4);
  const Gradients<double> d = library_gradients<double>(c, x, d_out);
  const Gradients<float> f = library_gradients<float>(c, x, d_out);
  CHECK(relative_error(f.q, d.q) < 1e-4);
  CHECK(relative_error(f.k, d.k) < 1e-4);
  CHECK(relative_error(f.v, d.v) < 1e-4);
  CHECK(relative_error(f.weight, d.weight) < 1e-4);
  CHECK(relative_error(f.leak, d.leak) < 1e-4);
  CHECK(relative_error(f.threshold, d.threshold) < 1e-4);
  CHECK(relative_error(f.sigma, d.sigma) < 1e-4);
  CHECK(relative_error(f.gate, d.gate) < 1e-4);
}

TEST_CASE("the first query alone, and the others, see what they see together") {
  // A horizon makes a prefix of the queries independent of those that follow.
  AttentionCase c = recurrent_case(1, 2, 9, 20, 4, 3);
  c.options.horizon = 12;
  plain::Trace trace;
  const AttentionValues x = sample(c, trace);
  const Values all = library_output<double>(c, x);
  for (const index_t M : {1, 4, 8}) {
    AttentionCase first = c;
    first.M = M;
    AttentionValues y = x;
    Values expected;
    y.q.clear();
    for (index_t h = 0; h < c.H; ++h) {
      const auto from = h * c.M * c.D, to = from + M * c.D;
      y.q.insert(y.q.end(), x.q.begin() + from, x.q.begin() + to);
      expected.insert(expected.end(), all.begin() + from, all.begin() + to);
    }
    CHECK(relative_error(library_output<double>(first, y), expected) < 1e-13);
  }
}

TEST_CASE("errors of segmented recurrent attention") {
  EigenBackend be(1);
  const auto q = zeros<double, 4>(be, {1, 2, 3, 4}), k = zeros<double, 4>(be, {1, 2, 5, 4});
  auto out = zeros<double, 4>(be, {1, 2, 3, 4});
  auto w = zeros<double, 2>(be, {4, 4});
  double leak = 0.5, threshold = 0.1;
  const RecurrentParameters<const double> parameters{w.data(), &leak, &threshold};
  AttentionInputs<EigenBackend, double> in{q, k, k};
  const auto forward = [&](const RecurrentParameters<const double>& p,
                           const SegmentedRecurrentOptions& options) {
    segmented_recurrent_forward(be, in, p, options, out.view());
  };
  const auto backward = [&](const RecurrentParameters<const double>& p,
                            const SegmentedRecurrentOptions& options) {
    segmented_recurrent_backward(be, in, p, options,
                                 {out.view(), out.view(), out.view(), out.view()}, {});
  };
  CHECK_NOTHROW(forward(parameters, {}));
  CHECK_THROWS_WITH(
      forward(parameters, {.segment_size = 0}),
      ContainsSubstring("segmented_recurrent_forward: segment size must be at least 1"));
  CHECK_THROWS_WITH(forward(parameters, {.clamp = -1}),
                    ContainsSubstring("clamp must be positive, or 0 for none"));
  CHECK_THROWS_WITH(forward({w.data(), &leak, nullptr}, {}),
                    ContainsSubstring("the recurrence needs weight, leak and threshold"));
  CHECK_NOTHROW(forward({}, {.recurrence = false}));
  const RecurrentParameters<const double> with_sigma{w.data(), &leak, &threshold, &leak};
  const RecurrentParameters<const double> with_gate{w.data(), &leak, &threshold, nullptr, &leak};
  CHECK_THROWS_WITH(forward(parameters, {.sigma = true}),
                    ContainsSubstring("the options have sigma, the parameters have none"));
  CHECK_THROWS_WITH(forward(with_sigma, {}),
                    ContainsSubstring("the parameters have sigma, the options have none"));
  CHECK_THROWS_WITH(forward(parameters, {.gate = true}),
                    ContainsSubstring("the options have gate, the parameters have none"));
  CHECK_THROWS_WITH(forward(with_gate, {}),
                    ContainsSubstring("the parameters have gate, the options have none"));
  CHECK_THROWS_WITH(
      backward(parameters, {}),
      ContainsSubstring(
          "segmented_recurrent_backward: d_k is [1,2,3,4], expected [B,H,N,D] = [1,2,5,4]"));
  in.context.dropout.rate = 1;
  CHECK_THROWS_WITH(forward(parameters, {}), ContainsSubstring("dropout rate must be in [0,1)"));
  in.context = {};
  in.context.mask.query_offset = 1;
  CHECK_THROWS_WITH(forward(parameters, {}),
                    ContainsSubstring("the recurrence starts at the first query"));
  in.context = {};
  threshold = 0;
  CHECK_THROWS_WITH(
      forward(parameters, {}),
      ContainsSubstring("segmented_recurrent_forward: the threshold is exactly zero"));
  CHECK_NOTHROW(forward(parameters, {.recurrence = false}));
}

TEST_CASE("variants have the names that configurations write") {
  using Options = PaperVariants::Options;
  for (const Variant variant : all_variants)
    CHECK(Options::named(variant_name(variant)).name() == variant_name(variant));
  CHECK_THROWS_WITH(
      Options::named("recurrent"),
      ContainsSubstring("\"recurrent\" is not one of full, segmented, segmented_recurrent"));
}
