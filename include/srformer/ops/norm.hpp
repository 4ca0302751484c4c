// SPDX-License-Identifier: Apache-2.0
// Normalisation of rows.
//
// RMS norm, as T5 has it (no mean is taken off, no bias):
//   r = (mean_c x_c^2 + eps)^-1/2,  y_c = w_c r x_c
//   dx_c = r w_c dy_c - x_c r^3 / E sum_e w_e dy_e x_e,  dw_c = sum over rows of dy_c r x_c
// Backward recomputes r: nothing is saved but x.
//
// Layer norm, as BART has it:
//   m = mean_c x_c,  r = (mean_c (x_c - m)^2 + eps)^-1/2,  h_c = r (x_c - m),  y_c = w_c h_c + b_c
//   g_c = w_c dy_c,  dx_c = r (g_c - mean(g) - h_c mean(g h)),  dw_c = sum over rows of dy_c h_c,  db_c = of dy_c
//
// transformers takes the mean of squares in float32 whatever the type of x, and torch sums it in an
// order of its own. `transformers_statistics` does the same for double, digit for digit, so that
// results in double can be compared with it beyond seven digits (docs/differences.md).
#pragma once

#include <srformer/ops/linear.hpp>

namespace srformer {

struct RmsNormOptions {
  double epsilon = 1e-6;
  bool transformers_statistics = false;  ///< only matters for double
};

namespace SRF_DETAIL {

/// (mean of squares + eps)^-1/2 in float32 and in the order of torch's sum: 8 lanes, 4 vectors.
template <class T>
SRF_HD float transformers_scale(const T* x, index_t n, double epsilon) {
  constexpr index_t lanes = 8, vectors = 4;
  float part[vectors][lanes] = {};
  const auto square = [x](index_t i) {
    const float v = static_cast<float>(x[i]);
    volatile float rounded = v * v;  // or the compiler fuses it with the sum, and does not round
    return static_cast<float>(rounded);
  };
  const index_t whole = n / lanes, blocks = whole / vectors;
  for (index_t i = 0; i < blocks * vectors; ++i) {
    for (index_t l = 0; l < lanes; ++l) part[i % vectors][l] += square(i * lanes + l);
  }
  for (index_t i = blocks * vectors; i < whole; ++i) {
    for (index_t l = 0; l < lanes; ++l) part[0][l] += square(i * lanes + l);
  }
  float total = 0;
  for (index_t i = whole * lanes; i < n; ++i) total += square(i);
  for (index_t l = 0; l < lanes; ++l) {
    total += ((part[0][l] + part[1][l]) + part[2][l]) + part[3][l];
  }
  const float mean = total / static_cast<float>(n);
  return 1.0f / math::sqrt(mean + static_cast<float>(epsilon));
}

template <class T>
struct RmsNormForward {
  const T *x, *weight;
  T* y;
  index_t columns;
  RmsNormOptions options;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    using C = compute_t<T>;
    const T *in = x + row * columns, *w = weight;
    T* out = y + row * columns;
    const C square = team.template sum<C>(columns, [=](index_t c) { return C(in[c]) * C(in[c]); });
    C r = C(1) / math::sqrt(square / C(static_cast<double>(columns)) + C(options.epsilon));
    if constexpr (std::is_same_v<T, double>) {
      if (options.transformers_statistics) r = transformers_scale(in, columns, options.epsilon);
    }
    team.for_each(columns, [=](index_t c) { out[c] = T(C(w[c]) * (C(in[c]) * r)); });
  }
};

/// Rows that one team takes where gradients are summed over rows: few where teams are many.
template <class B>
inline constexpr index_t rows_of_a_part = ManyTeams<B> ? 4 : 32;

/// One chunk of rows: d_x of each, and the chunk's share of d_weight.
template <class T>
struct RmsNormBackward {
  const T *x, *weight, *d_y;
  T* d_x;
  compute_t<T>* d_weight_partial;
  index_t rows, columns, rows_each;
  RmsNormOptions options;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t part, void*) const {
    using C = compute_t<T>;
    const T* w = weight;
    C* d_w = d_weight_partial + part * columns;
    team.for_each(columns, [=](index_t c) { d_w[c] = C(0); });
    const index_t first = part * rows_each;
    const index_t last = first + rows_each < rows ? first + rows_each : rows;
    const C inverse_columns = C(1) / C(static_cast<double>(columns));
    for (index_t row = first; row < last; ++row) {
      const T *in = x + row * columns, *d_out = d_y + row * columns;
      T* d_in = d_x + row * columns;
      const C square =
          team.template sum<C>(columns, [=](index_t c) { return C(in[c]) * C(in[c]); });
      C r = C(1) / math::sqrt(square * inverse_columns + C(options.epsilon));
      const C dot = team.template sum<C>(
          columns, [=](index_t c) { return C(w[c]) * C(d_out[c]) * C(in[c]); });
      if constexpr (std::is_same_v<T, double>) {
        if (options.transformers_statistics) {
          const float s = transformers_scale(in, columns, options.epsilon);
          const float d_mean = -0.5f * static_cast<float>(dot) * (s * s * s);
          const float d_square = d_mean / static_cast<float>(columns);
          team.for_each(columns, [=](index_t c) {
            d_in[c] += w[c] * d_out[c] * double(s) +
                       static_cast<double>(d_square * (2.0f * static_cast<float>(in[c])));
            d_w[c] += d_out[c] * (in[c] * double(s));
          });
          continue;
        }
      }
      const C pull = dot * r * r * r * inverse_columns;
      team.for_each(columns, [=](index_t c) {
        d_in[c] = T(C(d_in[c]) + r * C(w[c]) * C(d_out[c]) - C(in[c]) * pull);
        d_w[c] = d_w[c] + C(d_out[c]) * r * C(in[c]);
      });
    }
  }
};

}  // namespace SRF_DETAIL

/// RMS norm of every row (T5; Zhang and Sennrich 2019).
///   x, y [R,E] contiguous, weight [E]; backward needs x
/// Cost O(RE).
template <class B, class T>
requires BackendFor<B, T>
void rms_norm_forward(B& be, In<B, T, 2> x, In<B, T, 1> weight, View<T, 2, typename B::space> y,
                      const RmsNormOptions& options = {}) {
  check_shape("rms_norm_forward", "weight", "[E]", weight.extents, std::array{x.extent(1)});
  check_shape("rms_norm_forward", "y", "[R,E]", y.extents, x.extents);
  require(x.contiguous() && y.contiguous(), "rms_norm_forward", "x and y must be contiguous");
  be.for_each_row(x.extent(0), 0,
                  detail::RmsNormForward<T>{x.data, weight.data, y.data, x.extent(1), options});
}

/// d_x, d_weight += the gradients through rms_norm_forward. Deterministic.
template <class B, class T>
requires BackendFor<B, T>
void rms_norm_backward(B& be, In<B, T, 2> x, In<B, T, 1> weight, In<B, T, 2> d_y,
                       View<T, 2, typename B::space> d_x, View<T, 1, typename B::space> d_weight,
                       const RmsNormOptions& options = {}) {
  check_shape("rms_norm_backward", "d_y", "[R,E]", d_y.extents, x.extents);
  check_shape("rms_norm_backward", "d_x", "[R,E]", d_x.extents, x.extents);
  check_shape("rms_norm_backward", "d_weight", "[E]", d_weight.extents, weight.extents);
  require(x.contiguous() && d_y.contiguous() && d_x.contiguous(), "rms_norm_backward",
          "x, d_y and d_x must be contiguous");
  constexpr index_t each = detail::rows_of_a_part<B>;
  const index_t rows = x.extent(0), columns = x.extent(1), parts = (rows + each - 1) / each;
  Tensor<B, compute_t<T>, 2> partial(be, {parts, columns});
  be.for_each_row(parts, 0,
                  detail::RmsNormBackward<T>{x.data, weight.data, d_y.data, d_x.data,
                                             partial.data(), rows, columns, each, options});
  detail::add_partials(be, partial.data(), d_weight.data, parts, columns);
}

namespace SRF_DETAIL {

/// m and r of one row; the mean is taken off before squares are summed.
template <class Team, class T, class C>
SRF_HD void row_statistics(const Team& team, const T* x, index_t n, double epsilon, C& mean,
                           C& inverse) {
  const C share = C(1) / C(static_cast<double>(n));
  const C m = share * team.template sum<C>(n, [=](index_t c) { return C(x[c]); });
  const C variance = share * team.template sum<C>(n, [=](index_t c) {
    const C d = C(x[c]) - m;
    return d * d;
  });
  mean = m;
  inverse = C(1) / math::sqrt(variance + C(epsilon));
}

template <class T>
struct LayerNormForward {
  const T *x, *weight, *bias;
  T* y;
  index_t columns;
  double epsilon;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    using C = compute_t<T>;
    const T *in = x + row * columns, *w = weight, *b = bias;
    T* out = y + row * columns;
    C m, r;
    row_statistics<Team, T, C>(team, in, columns, epsilon, m, r);
    team.for_each(columns,
                  [=](index_t c) { out[c] = T(C(w[c]) * ((C(in[c]) - m) * r) + C(b[c])); });
  }
};

/// One chunk of rows: d_x of each, and the chunk's share of d_weight and d_bias.
template <class T>
struct LayerNormBackward {
  const T *x, *weight, *d_y;
  T* d_x;
  compute_t<T>*d_weight_partial, *d_bias_partial;
  index_t rows, columns, rows_each;
  double epsilon;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t part, void*) const {
    using C = compute_t<T>;
    const T* w = weight;
    C *d_w = d_weight_partial + part * columns, *d_b = d_bias_partial + part * columns;
    team.for_each(columns, [=](index_t c) { d_w[c] = d_b[c] = C(0); });
    const index_t first = part * rows_each;
    const index_t last = first + rows_each < rows ? first + rows_each : rows;
    const C share = C(1) / C(static_cast<double>(columns));
    for (index_t row = first; row < last; ++row) {
      const T *in = x + row * columns, *d_out = d_y + row * columns;
      T* d_in = d_x + row * columns;
      C m, r;
      row_statistics<Team, T, C>(team, in, columns, epsilon, m, r);
      const C mean_g =
          share * team.template sum<C>(columns, [=](index_t c) { return C(w[c]) * C(d_out[c]); });
      const C mean_gh = share * team.template sum<C>(columns, [=](index_t c) {
        return C(w[c]) * C(d_out[c]) * ((C(in[c]) - m) * r);
      });
      team.for_each(columns, [=](index_t c) {
        const C h = (C(in[c]) - m) * r, dy = C(d_out[c]);
        d_in[c] = T(C(d_in[c]) + r * (C(w[c]) * dy - mean_g - h * mean_gh));
        d_w[c] = d_w[c] + dy * h;
        d_b[c] = d_b[c] + dy;
      });
    }
  }
};

}  // namespace SRF_DETAIL

/// Layer norm of every row (Ba et al. 2016).
///   x, y [R,E] contiguous, weight, bias [E]; backward needs x
/// Cost O(RE).
template <class B, class T>
requires BackendFor<B, T>
void layer_norm_forward(B& be, In<B, T, 2> x, In<B, T, 1> weight, In<B, T, 1> bias,
                        View<T, 2, typename B::space> y, double epsilon = 1e-5) {
  check_shape("layer_norm_forward", "weight", "[E]", weight.extents, std::array{x.extent(1)});
  check_shape("layer_norm_forward", "bias", "[E]", bias.extents, std::array{x.extent(1)});
  check_shape("layer_norm_forward", "y", "[R,E]", y.extents, x.extents);
  require(x.contiguous() && y.contiguous(), "layer_norm_forward", "x and y must be contiguous");
  be.for_each_row(
      x.extent(0), 0,
      detail::LayerNormForward<T>{x.data, weight.data, bias.data, y.data, x.extent(1), epsilon});
}

/// The gradient of y [R,E], and those to which layer_norm_backward adds: of x [R,E], weight and bias [E].
template <class B, class T>
struct LayerNormGradients {
  In<B, T, 2> d_y;
  Out<B, T, 2> d_x;
  Out<B, T, 1> d_weight, d_bias;
};

/// d_x, d_weight, d_bias += the gradients through layer_norm_forward. Deterministic.
template <class B, class T>
requires BackendFor<B, T>
void layer_norm_backward(B& be, In<B, T, 2> x, In<B, T, 1> weight,
                         const LayerNormGradients<B, T>& d, double epsilon = 1e-5) {
  check_shape("layer_norm_backward", "weight", "[E]", weight.extents, std::array{x.extent(1)});
  check_shape("layer_norm_backward", "d_y", "[R,E]", d.d_y.extents, x.extents);
  check_shape("layer_norm_backward", "d_x", "[R,E]", d.d_x.extents, x.extents);
  check_shape("layer_norm_backward", "d_weight", "[E]", d.d_weight.extents, weight.extents);
  check_shape("layer_norm_backward", "d_bias", "[E]", d.d_bias.extents, weight.extents);
  require(x.contiguous() && d.d_y.contiguous() && d.d_x.contiguous(), "layer_norm_backward",
          "x, d_y and d_x must be contiguous");
  constexpr index_t each = detail::rows_of_a_part<B>;
  const index_t rows = x.extent(0), columns = x.extent(1), parts = (rows + each - 1) / each;
  Tensor<B, compute_t<T>, 3> partial(be, {2, parts, columns});
  compute_t<T>*d_w = partial.data(), *d_b = d_w + parts * columns;
  be.for_each_row(parts, 0,
                  detail::LayerNormBackward<T>{x.data, weight.data, d.d_y.data, d.d_x.data, d_w,
                                               d_b, rows, columns, each, epsilon});
  detail::add_partials(be, d_w, d.d_weight.data, parts, columns);
  detail::add_partials(be, d_b, d.d_bias.data, parts, columns);
}

}  // namespace srformer
