// SPDX-License-Identifier: Apache-2.0
// Attention as its equations read: one query at a time, every product stored, P - P_j as a
// difference, no blocks, no folding. Slow, and what the library is compared with.
//
//   seg(i) = min(S - 1, floor(i S / horizon)),   S = ceil(N / L)
//   A_i = softmax(q_i K_j^T + b_i) V_j
//   X_j = (clamp(P) - clamp(P_j)) W^T,  P_j = K_j^T V_j
//   U_j = leak Mem + X_j,  u = U_j / threshold - 1,  R_j = max(u, 0),  Mem = U_j - threshold [u > 0]
//   C_i = (q_i R_j) / n,  n = sqrt(sum K^2)
//   O_i = A_i + gate C_i,  or  sigma A_i + (1 - sigma) gate C_i
//
// With average_products Z_j / N in place of Z_j = clamp(P) - clamp(P_j), and n the root of the mean of K^2 over N keys.
// With soft_keys P_j = F_j^T V_j,  F_t = exp(s K_t) / sum_u exp(s K_u) over the keys u of the source, and n = 1.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "support/paper_options.hpp"

namespace srformer::plain {

template <class T>
using Matrix = std::vector<std::vector<T>>;

template <class T>
Matrix<T> matrix(index_t rows, index_t columns) {
  return Matrix<T>(static_cast<std::size_t>(rows),
                   std::vector<T>(static_cast<std::size_t>(columns), T(0)));
}

/// What attention reads; what has no data is absent.
template <class T>
struct Inputs {
  View<const T, 4> q, k, v;
  View<const T, 2> weight{};
  View<const T, 1> leak{}, threshold{}, sigma{}, gate{};
  CrossAttentionOptions options{};
  std::vector<index_t> lengths{};
  bool causal = false;
  index_t query_offset = 0;
  View<const T, 2> relative{};
  View<const T, 4> dense{};
  Dropout dropout{};
};

/// What happened in the recurrence.
struct Trace {
  double margin = HUGE_VAL;  ///< how near a cell came to its kink, of firing or of the clamp
  bool fired = false;        ///< whether any R is not zero
  bool fired_later = false;  ///< whether any is at a step after the first
  index_t states = 0, fired_states = 0;  ///< of the recurrence, and those above the threshold
};

template <class T>
T clamp(const T& x, double bound) {
  if (bound == 0) return x;
  return primal(x) > bound ? T(bound) : primal(x) < -bound ? T(-bound) : x;
}

template <class T>
T dot(const std::vector<T>& a, const std::vector<T>& b) {
  T sum(0);
  for (std::size_t i = 0; i < a.size(); ++i) sum = sum + a[i] * b[i];
  return sum;
}

/// Softmax attention of query i to the keys [first, end), then to `zeros` keys of zero; zero where
/// none of them may be seen.
template <class T>
std::vector<T> attend(const Inputs<T>& in, index_t b, index_t h, index_t i, index_t first,
                      index_t end, index_t zeros) {
  const index_t H = in.q.extent(1), M = in.q.extent(2), N = in.k.extent(2), D = in.q.extent(3);
  std::vector<T> weights;
  T total(0);
  for (index_t t = first; t < end; ++t) {
    T score(0);
    for (index_t c = 0; c < D; ++c) score = score + in.q(b, h, i, c) * in.k(b, h, t, c);
    if (in.relative.data != nullptr) score = score + in.relative(h, t - i + M - 1);
    if (in.dense.data != nullptr) score = score + in.dense(b, h, i, t);
    const bool hidden = in.causal && t > i + in.query_offset;
    weights.push_back(hidden ? T(0) : math::exp(score));
    total = total + weights.back();
  }
  total = total + T(static_cast<double>(zeros));
  std::vector<T> a(static_cast<std::size_t>(D), T(0));
  for (index_t t = first; t < end; ++t) {
    T weight = weights[static_cast<std::size_t>(t - first)];
    if (primal(total) > 0) weight = weight / total;
    if (in.dropout.rate > 0) {
      const auto index = static_cast<std::uint64_t>(((b * H + h) * M + i) * N + t);
      weight = weight * in.dropout.template factor<T>(index);
    }
    for (index_t c = 0; c < D; ++c) {
      a[static_cast<std::size_t>(c)] = a[static_cast<std::size_t>(c)] + weight * in.v(b, h, t, c);
    }
  }
  return a;
}

/// The keys [0, length), or F.
template <class T>
Matrix<T> keys_of_products(const Inputs<T>& in, index_t b, index_t h, index_t length) {
  const index_t D = in.q.extent(3);
  Matrix<T> f = matrix<T>(length, D);
  const double s = in.options.soft_keys;
  for (index_t c = 0; c < D; ++c) {
    T total(0);
    for (index_t t = 0; t < length; ++t) {
      f[t][c] = s > 0 ? math::exp(T(s) * in.k(b, h, t, c)) : in.k(b, h, t, c);
      total = total + f[t][c];
    }
    for (index_t t = 0; t < length && s > 0; ++t) f[t][c] = f[t][c] / total;
  }
  return f;
}

/// K^T V, or F^T V, over the keys [first, end).
template <class T>
Matrix<T> product(const Inputs<T>& in, const Matrix<T>& k, index_t b, index_t h, index_t first,
                  index_t end) {
  const index_t D = in.q.extent(3);
  Matrix<T> p = matrix<T>(D, D);
  for (index_t t = first; t < end; ++t) {
    for (index_t c = 0; c < D; ++c) {
      for (index_t e = 0; e < D; ++e) p[c][e] = p[c][e] + k[t][c] * in.v(b, h, t, e);
    }
  }
  return p;
}

/// out of one source and head.
template <class T>
void attention_of_head(const Inputs<T>& in, index_t b, index_t h, View<T, 4> out, Trace& trace) {
  const CrossAttentionOptions& options = in.options;
  const index_t M = in.q.extent(2), N = in.k.extent(2), D = in.q.extent(3);
  const index_t own = in.lengths.empty() ? N : std::min(N, in.lengths[static_cast<std::size_t>(b)]);

  if (options.variant == Variant::full) {
    for (index_t i = 0; i < M; ++i) {
      const std::vector<T> a = attend(in, b, h, i, 0, own, 0);
      for (index_t c = 0; c < D; ++c) out(b, h, i, c) = a[c];
    }
    return;
  }

  const index_t L = options.segment_size;
  const index_t length = options.padding == Padding::masked ? own : N;
  const index_t S = (length + L - 1) / L;
  const index_t horizon = options.horizon > 0 ? options.horizon : M;
  // Segmented attention alone may start at a later decoder step; a recurrence starts at the first.
  const index_t step = options.variant == Variant::segmented ? in.query_offset : 0;
  const auto seg = [&](index_t i) { return std::min(S - 1, (step + i) * S / horizon); };
  const auto end_of = [&](index_t j) { return std::min(length, (j + 1) * L); };
  const auto local = [&](index_t i) {
    const index_t j = seg(i);
    const index_t zeros = options.padding == Padding::upstream ? (j + 1) * L - end_of(j) : 0;
    return attend(in, b, h, i, j * L, end_of(j), zeros);
  };

  if (options.variant == Variant::segmented) {
    for (index_t i = 0; i < M; ++i) {
      const std::vector<T> a = local(i);
      for (index_t c = 0; c < D; ++c) out(b, h, i, c) = a[c];
    }
    return;
  }

  const auto near = [&](const T& x, double kink) {
    trace.margin = std::min(trace.margin, std::abs(std::abs(double(primal(x))) - kink));
  };
  const T N_of_mean(options.average_products ? static_cast<double>(length) : 1.0);
  const Matrix<T> keys = keys_of_products(in, b, h, length);
  const Matrix<T> whole = product(in, keys, b, h, 0, length);
  Matrix<T> membrane = matrix<T>(D, D), r = matrix<T>(D, D);
  index_t before = -1;
  for (index_t i = 0; i < M; ++i) {
    const index_t j = seg(i);
    if (j != before || options.advance == Advance::token) {
      const Matrix<T> p = product(in, keys, b, h, j * L, end_of(j));
      Matrix<T> z = matrix<T>(D, D);
      for (index_t c = 0; c < D; ++c) {
        for (index_t e = 0; e < D; ++e) {
          if (options.clamp > 0) near(whole[c][e], options.clamp), near(p[c][e], options.clamp);
          const T other = clamp(p[c][e], options.clamp);
          z[c][e] = options.product == Product::complement
                        ? clamp(whole[c][e], options.clamp) - other
                        : other;
          z[c][e] = z[c][e] / N_of_mean;
        }
      }
      if (!options.recurrence) {
        r = z;
      } else {
        const T leak = in.leak(0), threshold = in.threshold(0);
        for (index_t c = 0; c < D; ++c) {
          for (index_t e = 0; e < D; ++e) {
            T x(0);
            for (index_t f = 0; f < D; ++f) x = x + z[c][f] * in.weight(e, f);
            const T u = leak * membrane[c][e] + x;
            const T over = u / threshold - T(1);
            trace.margin = std::min(trace.margin, std::abs(double(primal(over))));
            const bool fires = primal(over) > 0;
            ++trace.states, trace.fired_states += fires ? 1 : 0;
            r[c][e] = fires ? over : T(0);
            membrane[c][e] = fires ? u - threshold : u;
          }
        }
      }
      for (const auto& row : r) {
        for (const T& x : row) {
          if (primal(x) != 0)
            trace.fired = true, trace.fired_later = trace.fired_later || before >= 0;
        }
      }
      before = j;
    }
    const T gate = in.gate.data == nullptr ? T(1) : in.gate(h);
    const std::vector<T> a = local(i);
    for (index_t c = 0; c < D; ++c) {
      T n(0), rest(0);
      for (index_t t = 0; t < length; ++t) n = n + in.k(b, h, t, c) * in.k(b, h, t, c);
      for (index_t f = 0; f < D; ++f) rest = rest + in.q(b, h, i, f) * r[f][c];
      n = n / N_of_mean;
      if (options.normalize && options.soft_keys == 0)
        rest = primal(n) > 0 ? rest / math::sqrt(n) : T(0);
      const T g = gate * rest;
      if (!options.local) {
        out(b, h, i, c) = g;
      } else if (in.sigma.data == nullptr) {
        out(b, h, i, c) = a[c] + g;
      } else {
        out(b, h, i, c) = in.sigma(0) * a[c] + (T(1) - in.sigma(0)) * g;
      }
    }
  }
}

/// out [B,H,M,D] of the variant that the options name.
template <class T>
Trace attention(const Inputs<T>& in, View<T, 4> out) {
  Trace trace;
  for (index_t b = 0; b < in.q.extent(0); ++b) {
    for (index_t h = 0; h < in.q.extent(1); ++h) attention_of_head(in, b, h, out, trace);
  }
  return trace;
}

}  // namespace srformer::plain
