// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b, over rows.
//
//   dx += dy W,   dW += dy^T x,   db += sum over rows of dy
//
// Forward, W may be stored in eight bits: backend/quantized.hpp.
#pragma once

#include <optional>

#include <srformer/backend/quantized.hpp>
#include <srformer/backend/tensor.hpp>

namespace srformer {

namespace SRF_DETAIL {

template <class T>
struct AddRowVector {
  T* y;
  const T* bias;
  index_t row_stride, columns;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    using C = compute_t<T>;
    T* out = y + row * row_stride;
    const T* add = bias;
    team.for_each(columns, [=](index_t c) { out[c] = T(C(out[c]) + C(add[c])); });
  }
};

/// Sums rows_each rows at a time into partial [parts, columns].
template <class T>
struct ColumnPartials {
  const T* x;
  compute_t<T>* partial;
  index_t row_stride, rows, columns, rows_each;

  /// One part.
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t part, void*) const {
    using C = compute_t<T>;
    C* out = partial + part * columns;
    const index_t first = part * rows_each;
    const index_t last = first + rows_each < rows ? first + rows_each : rows;
    team.for_each(columns, [=](index_t c) { out[c] = C(0); });
    for (index_t r = first; r < last; ++r) {
      const T* in = x + r * row_stride;
      team.for_each(columns, [=](index_t c) { out[c] = out[c] + C(in[c]); });
    }
  }

  /// One column of one part.
  SRF_HD void operator()(index_t i) const {
    using C = compute_t<T>;
    const index_t first = i / columns * rows_each, c = i % columns;
    const index_t last = first + rows_each < rows ? first + rows_each : rows;
    C sum(0);
    for (index_t r = first; r < last; ++r) sum = sum + C(x[r * row_stride + c]);
    partial[i] = sum;
  }
};

/// The first of every 32 parts becomes their sum, in order.
template <class C>
struct GatherPartials {
  static constexpr index_t parts_each = 32;
  C* partial;
  index_t parts, columns, step;  ///< step: parts from one to the next that counts
  SRF_HD void operator()(index_t i) const {
    const index_t first = i / columns * parts_each, c = i % columns;
    const index_t end = first + parts_each < parts ? first + parts_each : parts;
    C sum = partial[first * step * columns + c];
    for (index_t part = first + 1; part < end; ++part) {
      sum = sum + partial[part * step * columns + c];
    }
    partial[first * step * columns + c] = sum;
  }
};

/// total[c] += sum over parts of partial[part * step, c], in order.
template <class T>
struct AddPartials {
  const compute_t<T>* partial;
  T* total;
  index_t parts, columns, step;
  SRF_HD void operator()(index_t c) const {
    compute_t<T> sum = compute_t<T>(total[c]);
    for (index_t part = 0; part < parts; ++part) sum = sum + partial[part * step * columns + c];
    total[c] = T(sum);
  }
};

/// total [columns] += the sum over parts of partial [parts, columns], which is used up. Order fixed by parts.
template <class B, class T>
void add_partials(B& be, std::type_identity_t<compute_t<T>>* partial, T* total, index_t parts,
                  index_t columns) {
  using Gather = GatherPartials<compute_t<T>>;
  index_t step = 1;
  for (; parts > 2 * Gather::parts_each; step *= Gather::parts_each) {
    const index_t gathered = (parts + Gather::parts_each - 1) / Gather::parts_each;
    be.for_each(gathered * columns, Gather{partial, parts, columns, step});
    parts = gathered;
  }
  be.for_each(columns, AddPartials<T>{partial, total, parts, columns, step});
}

}  // namespace SRF_DETAIL

/// total [C] += the sum over the rows of x [R,C] (row stride free). Order fixed by R.
template <class B, class T>
requires BackendFor<B, T>
void add_column_sums(B& be, In<B, T, 2> x, View<T, 1, typename B::space> total) {
  constexpr index_t each = 32;
  const index_t rows = x.extent(0), columns = x.extent(1);
  const index_t parts = (rows + each - 1) / each;
  Tensor<B, compute_t<T>, 2> partial(be, {parts, columns});
  const detail::ColumnPartials<T> sums{x.data, partial.data(), x.stride(0), rows, columns, each};
  if constexpr (ManyTeams<B>) {
    be.for_each(parts * columns, sums);
  } else {
    be.for_each_row(parts, 0, sums);
  }
  detail::add_partials(be, partial.data(), total.data, parts, columns);
}

/// Whether weights of T can be stored in eight bits on a backend: those of float, on the CPU.
template <class B, class T>
inline constexpr bool can_quantize =
    std::is_same_v<T, float>&& std::is_same_v<typename B::space, host_space>&& requires(B& be) {
  be.threads();
};

/// A weight [O,I] as it is stored: numbers, or eight bits each.
template <class B, class T>
struct WeightView {
  View<const T, 2, typename B::space> numbers;  ///< without data where they are quantized
  QuantizedView quantized{};
};

namespace SRF_DETAIL {

/// y = alpha x W^T + beta y, whichever way W is stored; y is not read where beta is 0.
template <class B, class T>
void multiply_by_weight(B& be, std::type_identity_t<compute_t<T>> alpha, In<B, T, 2> x,
                        const std::type_identity_t<WeightView<B, T>>& weight,
                        std::type_identity_t<compute_t<T>> beta, View<T, 2, typename B::space> y) {
  const index_t rows = x.extent(0), in = x.extent(1), out = weight.numbers.extent(0);
  if constexpr (can_quantize<B, T>) {
    if (weight.quantized) {
      Tensor<B, std::uint8_t, 1> values(be, {rows * in});
      Tensor<B, float, 1> scales(be, {rows});
      return quantized_gemm(be.threads(), rows, alpha, x.data, x.stride(0), weight.quantized, beta,
                            y.data, y.stride(0), values.data(), scales.data());
    }
  }
  be.gemm(Op::none, Op::transpose, rows, out, in, alpha, x.data, x.stride(0), weight.numbers.data,
          weight.numbers.stride(0), beta, y.data, y.stride(0));
}

}  // namespace SRF_DETAIL

struct LinearOptions {
  bool add_to_output = false;  ///< y += instead of y =, as for a residual stream
};

/// y = x W^T + b.
///   x [R,I], weight [O,I], bias [O] or none, y [R,O]; last axes contiguous
/// Cost 2 R I O.
template <class B, class T>
requires BackendFor<B, T>
void linear_forward(B& be, In<B, T, 2> x, const std::type_identity_t<WeightView<B, T>>& weight,
                    std::optional<In<B, T, 1>> bias, View<T, 2, typename B::space> y,
                    LinearOptions options = {}) {
  const index_t rows = x.extent(0), in = x.extent(1), out = weight.numbers.extent(0);
  check_shape("linear_forward", "weight", "[O,I]", weight.numbers.extents, std::array{out, in});
  check_shape("linear_forward", "y", "[R,O]", y.extents, std::array{rows, out});
  using C = compute_t<T>;
  detail::multiply_by_weight(be, C(1), x, weight, C(options.add_to_output ? 1 : 0), y);
  if (bias) {
    check_shape("linear_forward", "bias", "[O]", bias->extents, std::array{out});
    be.for_each_row(rows, 0, detail::AddRowVector<T>{y.data, bias->data, y.stride(0), out});
  }
}

template <class B, class T>
requires BackendFor<B, T>
void linear_forward(B& be, In<B, T, 2> x, In<B, T, 2> weight, std::optional<In<B, T, 1>> bias,
                    View<T, 2, typename B::space> y, LinearOptions options = {}) {
  linear_forward(be, x, WeightView<B, T>{weight}, bias, y, options);
}

/// Gradients of y = x W^T + b; each is added to; d_x and d_bias may be absent.
///   d_y [R,O], d_x [R,I], d_weight [O,I], d_bias [O]
/// Cost 4 R I O.
template <class B, class T>
requires BackendFor<B, T>
void linear_backward(B& be, In<B, T, 2> x, In<B, T, 2> weight, In<B, T, 2> d_y,
                     std::optional<Out<B, T, 2>> d_x, View<T, 2, typename B::space> d_weight,
                     std::optional<Out<B, T, 1>> d_bias = std::nullopt) {
  const index_t rows = d_y.extent(0), in = weight.extent(1), out = weight.extent(0);
  check_shape("linear_backward", "x", "[R,I]", x.extents, std::array{rows, in});
  check_shape("linear_backward", "d_y", "[R,O]", d_y.extents, std::array{rows, out});
  using C = compute_t<T>;
  if (d_x) {
    check_shape("linear_backward", "d_x", "[R,I]", d_x->extents, std::array{rows, in});
    be.gemm(Op::none, Op::none, rows, in, out, C(1), d_y.data, d_y.stride(0), weight.data,
            weight.stride(0), C(1), d_x->data, d_x->stride(0));
  }
  check_shape("linear_backward", "d_weight", "[O,I]", d_weight.extents, weight.extents);
  be.gemm(Op::transpose, Op::none, out, in, rows, C(1), d_y.data, d_y.stride(0), x.data,
          x.stride(0), C(1), d_weight.data, d_weight.stride(0));
  if (d_bias) {
    check_shape("linear_backward", "d_bias", "[O]", d_bias->extents, std::array{out});
    add_column_sums(be, d_y, *d_bias);
  }
}

}  // namespace srformer
