// SPDX-License-Identifier: Apache-2.0
// One cross-attention of any variant on random numbers: its output, its gradients by hand against dual numbers
// through its forward, and what every variant must satisfy.
#pragma once

#include <array>
#include <limits>

#include "support/attention_case.hpp"

namespace srformer::testing {

/// The learned numbers of a case, in T; of each RNN weight_ih, weight_hh, bias_ih, bias_hh.
template <class T>
struct Learned {
  std::vector<T> weight, leak, threshold, sigma, gate;
  std::array<std::vector<T>, 8> rnn;  // of keys, then of values

  explicit Learned(const AttentionCase& c)
      : weight(copy_as<T>(draw_values(c, 0).weight)), leak{T(c.leak)}, threshold{T(c.threshold)} {
    if (c.options.sigma) sigma = {T(0.6)};
    if (c.options.gate) gate = copy_as<T>(draw_values(c, 0).gate);
    const index_t F = c.H * c.D;
    const double spread = 0.7 / std::sqrt(double(F));
    for (std::size_t i = 0; i < rnn.size(); ++i) {
      const bool bias = i % 4 > 1;
      rnn[i] = copy_as<T>(draw(bias ? F : F * F, {c.seed, 200 + i}, bias ? 0.5 : spread));
    }
  }

  CrossAttentionParameters<const T> parameters() const {
    return {RecurrentParameters<const T>{weight.data(), leak.data(), threshold.data(),
                                         sigma.empty() ? nullptr : sigma.data(),
                                         gate.empty() ? nullptr : gate.data()},
            RnnParameters<const T>{rnn[0].data(), rnn[1].data(), rnn[2].data(), rnn[3].data()},
            RnnParameters<const T>{rnn[4].data(), rnn[5].data(), rnn[6].data(), rnn[7].data()}};
  }
};

/// q, k and v of a case as the library takes them.
struct CaseViews {
  View<const double, 4> q, k, v;
  CaseViews(const AttentionCase& c, const AttentionValues& x)
      : q(x.q.data(), {c.B, c.H, c.M, c.D}),
        k(x.k.data(), {c.B, c.H, c.N, c.D}),
        v(x.v.data(), {c.B, c.H, c.N, c.D}) {}
};

inline Values variant_output(const AttentionCase& c, const AttentionValues& x,
                             const Learned<double>& learned) {
  EigenBackend be(1);
  const Biases<double> biases(c, x);
  const CaseViews in(c, x);
  Values out(x.q.size(), std::nan(""));
  cross_attention_forward<EigenBackend, double>(be, in.q, in.k, in.v, learned.parameters(),
                                                biases.context(c), c.options,
                                                View<double, 4>(out.data(), in.q.extents));
  return out;
}

inline Values variant_output(const AttentionCase& c, const AttentionValues& x) {
  return variant_output(c, x, Learned<double>(c));
}

/// Gradients of q, k and v.
inline std::array<Values, 3> variant_gradients(const AttentionCase& c, const AttentionValues& x,
                                               const Values& d_out) {
  EigenBackend be(1);
  const Biases<double> biases(c, x);
  const Learned<double> learned(c);
  const CaseViews in(c, x);
  std::array<Values, 3> d{Values(x.q.size()), Values(x.k.size()), Values(x.v.size())};
  cross_attention_backward<EigenBackend, double>(
      be, in.q, in.k, in.v, learned.parameters(), biases.context(c), c.options,
      View<const double, 4>(d_out.data(), in.q.extents), View<double, 4>(d[0].data(), in.q.extents),
      View<double, 4>(d[1].data(), in.k.extents), View<double, 4>(d[2].data(), in.k.extents),
      CrossAttentionParameters<double>{});
  return d;
}

/// The gradients of q, k and v by `backward(q, k, v, d_out, d_q, d_k, d_v)` against dual numbers through the
/// library's forward.
template <class Backward>
GradReport check_variant_gradients(const AttentionCase& c, const GradOptions& grad,
                                   Backward backward) {
  const AttentionValues x = draw_values(c, 0);
  return grad_check(
      grad, {c.B, c.H, c.M, c.D},
      [&]<class T>(View<const T, 4> q, View<const T, 4> k, View<const T, 4> v, View<T, 4> out) {
        EigenBackend be(1);
        const Biases<T> biases(c, x);
        const Learned<T> learned(c);
        std::fill(out.data, out.data + out.size(), T(std::nan("")));
        cross_attention_forward<EigenBackend, T>(be, q, k, v, learned.parameters(),
                                                 biases.context(c), c.options, out);
      },
      backward, GradInput("q", {c.B, c.H, c.M, c.D}, x.q),
      GradInput("k", {c.B, c.H, c.N, c.D}, x.k), GradInput("v", {c.B, c.H, c.N, c.D}, x.v));
}

inline void check_variant(const AttentionCase& c, const GradOptions& grad = {}) {
  INFO(c.text());
  const AttentionValues x = draw_values(c, 0);
  const GradReport report = check_variant_gradients(
      c, grad,
      [&](View<const double, 4> q, auto k, auto v, auto d_out, auto d_q, auto d_k, auto d_v) {
        EigenBackend be(1);
        const Biases<double> biases(c, x);
        const Learned<double> learned(c);
        cross_attention_backward<EigenBackend, double>(
            be, q, k, v, learned.parameters(), biases.context(c), c.options, d_out, d_q, d_k, d_v,
            CrossAttentionParameters<double>{});
      });
  INFO(report.text());
  CHECK(report.ok());
}

/// Values and gradients of each source of a batch are those of the source alone, whatever its padding holds.
inline void check_sources_alone(const AttentionCase& c) {
  INFO(c.text());
  REQUIRE(static_cast<index_t>(c.lengths.size()) == c.B);
  AttentionValues x = draw_values(c, 0);
  const index_t queries = c.H * c.M * c.D;
  const auto part = [](const Values& all, index_t first, index_t count) {
    return Values(all.begin() + first, all.begin() + first + count);
  };
  const auto key_rows = [&](const Values& all, index_t b, index_t first, index_t count) {
    Values rows;
    for (index_t h = 0; h < c.H; ++h) {
      const Values head = part(all, ((b * c.H + h) * c.N + first) * c.D, count * c.D);
      rows.insert(rows.end(), head.begin(), head.end());
    }
    return rows;
  };
  for (index_t row = 0; row < c.B * c.H * c.N; ++row) {
    if (row % c.N < c.lengths[static_cast<std::size_t>(row / c.N / c.H)]) continue;
    for (index_t e = row * c.D; e < (row + 1) * c.D; ++e) {
      x.k[e] = x.v[e] = std::numeric_limits<double>::quiet_NaN();
    }
  }
  const Values d_out = draw(c.B * queries, {c.seed, 99}), together = variant_output(c, x);
  const auto d_together = variant_gradients(c, x, d_out);
  for (index_t b = 0; b < c.B; ++b) {
    AttentionCase alone = c;
    alone.B = 1, alone.N = c.lengths[static_cast<std::size_t>(b)], alone.lengths.clear();
    INFO("source " << b << " of length " << alone.N);
    AttentionValues own = x;
    own.q = part(x.q, b * queries, queries);
    own.k = key_rows(x.k, b, 0, alone.N), own.v = key_rows(x.v, b, 0, alone.N);
    CHECK(relative_error(part(together, b * queries, queries), variant_output(alone, own)) < 1e-12);
    const auto d = variant_gradients(alone, own, part(d_out, b * queries, queries));
    CHECK(relative_error(part(d_together[0], b * queries, queries), d[0]) < 1e-11);
    for (std::size_t i : {1u, 2u}) {
      CHECK(relative_error(key_rows(d_together[i], b, 0, alone.N), d[i]) < 1e-11);
      const Values padding = key_rows(d_together[i], b, alone.N, c.N - alone.N);
      CHECK(padding == Values(padding.size(), 0.0));
    }
  }
}

/// Which queries of a case of one source and head a change of key t, or of its value, changes: [N][M].
inline std::vector<std::vector<bool>> influence(const AttentionCase& c, bool of_value,
                                                const Learned<double>& learned) {
  REQUIRE(c.B * c.H == 1);
  const AttentionValues x = draw_values(c, 0);
  const Values before = variant_output(c, x, learned);
  std::vector<std::vector<bool>> changed;
  for (index_t t = 0; t < c.N; ++t) {
    AttentionValues moved = x;
    for (index_t e = t * c.D; e < (t + 1) * c.D; ++e) (of_value ? moved.v : moved.k)[e] += 0.5;
    const Values after = variant_output(c, moved, learned);
    changed.emplace_back();
    for (index_t i = 0; i < c.M; ++i) {
      const auto from = i * c.D;
      changed.back().push_back(
          !std::equal(before.begin() + from, before.begin() + from + c.D, after.begin() + from));
    }
  }
  return changed;
}

}  // namespace srformer::testing
