// SPDX-License-Identifier: Apache-2.0
// Loops for a device's memory, which gives much to many threads that each ask for several neighbouring
// elements, and little to one that waits for each. On a processor they are ordinary loops.
#pragma once

#include <algorithm>

#include <srformer/backend/tensor.hpp>

namespace srformer::SRF_DETAIL {

/// Elements that a member of a team reads before it uses the first of them: loads that wait for each other
/// leave a device's memory idle.
inline constexpr int read_ahead = 8;

/// use(i, load(i)) for i in [0,n), where a member loads several before it uses the first.
template <class Team, class Load, class Use>
SRF_HD void for_each_ahead(const Team& team, int n, Load load, Use use) {
  const int apart = (n + read_ahead - 1) / read_ahead;
  team.for_each(apart, [=](index_t first) {
    std::invoke_result_t<Load, int> held[read_ahead];
    for (int e = 0; e < read_ahead; ++e) {
      const int i = static_cast<int>(first) + e * apart;
      if (i < n) held[e] = load(i);
    }
    for (int e = 0; e < read_ahead; ++e) {
      const int i = static_cast<int>(first) + e * apart;
      if (i < n) use(i, held[e]);
    }
  });
}

/// to [rows,width] = rows that lie apart, row i at from(i). Neighbouring members of a team take neighbouring
/// elements; a team of one takes a row at a time.
template <class Team, class From, class T>
SRF_HD void copy_rows(const Team& team, index_t rows, index_t width, From from, T* to) {
  if constexpr (std::is_same_v<Team, SerialTeam>) {
    team.for_each(rows, [=](index_t i) {
      const T* row = from(i);
      for (index_t c = 0; c < width; ++c) to[i * width + c] = row[c];
    });
  } else {
    const int wide = static_cast<int>(width);
    for_each_ahead(
        team, static_cast<int>(rows) * wide, [=](int i) -> T { return from(i / wide)[i % wide]; },
        [=](int i, const T& x) { to[i] = x; });
  }
}

/// f(i) for i in [0,n) as rows of 128 elements, one for each member of a device's team: for loops whose
/// turns take long, of which Thrust gives a thread two.
template <class F>
struct LongTurns {
  static constexpr index_t size = 128;
  F f;
  index_t n;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t first = row * size, rest = n - first;
    const F turn = f;
    team.for_each(rest < size ? rest : size, [=](index_t i) { turn(first + i); });
  }
};
template <class B, class F>
void for_each_long(B& be, index_t n, F f) {
  be.for_each_row((n + LongTurns<F>::size - 1) / LongTurns<F>::size, 0, LongTurns<F>{f, n});
}

/// to[lane, c] = the sum of the lane's parts, [lane, parts, size]; lanes of `to` are `stride` apart.
template <class C>
struct SumParts {
  const C* partial;
  C* to;
  index_t parts, size, stride;
  SRF_HD void operator()(index_t i) const {
    const C* from = partial + i / size * parts * size + i % size;
    C sum(0);
    for (index_t part = 0; part < parts; ++part) sum = sum + from[part * size];
    to[i / size * stride + i % size] = sum;
  }
};

/// The rows of a lane in parts, as a few long sums would leave most of a device idle: `rows()` of them with rows of
/// zeros behind the last.
struct RowParts {
  index_t parts, each;
  explicit RowParts(index_t rows) {
    constexpr index_t most = 256;
    parts = std::max<index_t>(1, (rows + most - 1) / most);
    each = std::max<index_t>(1, (rows + parts - 1) / parts);
  }
  index_t rows() const { return parts * each; }
};

/// partial[lane, part, c] = the sum of from(lane * rows + row, c) over the rows of a part.
template <class C, class From>
struct SumRowsOfPart {
  static constexpr index_t rows_each = 64;
  From from;
  C* partial;
  index_t rows, parts, columns;
  SRF_HD void operator()(index_t at) const {
    const index_t c = at % columns, part = at / columns % parts, lane = at / columns / parts;
    const index_t first = part * rows_each;
    const index_t end = first + rows_each < rows ? first + rows_each : rows;
    C sum(0);
    for (index_t start = first; start < end; start += read_ahead) {
      C held[read_ahead];
      for (index_t e = 0; e < read_ahead; ++e)
        held[e] = start + e < end ? from(lane * rows + start + e, c) : C(0);
      for (index_t e = 0; e < read_ahead; ++e) sum = sum + held[e];
    }
    partial[at] = sum;
  }
};

/// to(lane)[c] = the sum of from(lane * rows + row, c) over the rows of a lane, part by part.
template <class B, class C, class From>
void sum_columns(B& be, index_t lanes, index_t rows, index_t columns, From from,
                 const Following<C>& to) {
  using Part = SumRowsOfPart<C, From>;
  const index_t parts = (rows + Part::rows_each - 1) / Part::rows_each;
  Tensor<B, C, 3> partial(be, {lanes, parts, columns});
  for_each_long(be, partial.size(), Part{from, partial.data(), rows, parts, columns});
  be.for_each(lanes * columns, SumParts<C>{partial.data(), to.data, parts, columns, to.size});
}

/// to(lane) [size,size] = sum over the rows of a lane of a_row^T b_row, of a, b [lane, rows, size], whose rows past
/// the last are zeros.
template <class B, class C>
void sum_products(B& be, index_t lanes, const RowParts& rows, index_t size, const C* a, const C* b,
                  const Following<C>& to) {
  const index_t cells = size * size;
  const Following<const C> left{a, rows.each * size}, right{b, rows.each * size};
  const auto multiply = [&](index_t count, const Following<C>& product) {
    be.gemm_batched(Op::transpose, Op::none, count, size, size, rows.each, C(1), left, size, right,
                    size, C(0), product, size);
  };
  if (rows.parts == 1) return multiply(lanes, to);
  Tensor<B, C, 3> partial(be, {lanes, rows.parts, cells});
  multiply(lanes * rows.parts, {partial.data(), cells});
  be.for_each(lanes * cells, SumParts<C>{partial.data(), to.data, rows.parts, cells, to.size});
}

}  // namespace srformer::SRF_DETAIL
