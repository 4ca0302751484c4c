// SPDX-License-Identifier: Apache-2.0
// The states of short segments in the registers of a core: a second schedule of some phases of
// attention/segmented_recurrent.hpp, which has the equations. A tile of the [D,D] states goes through all segments:
//
//   Z_s = sum of K_t^T Y_t over the keys before segment s, and over those after it
//   U_s = leak Mem_{s-1} + Z_s,   R_s and Mem_s of attention/raf.hpp,   rest_i += q_i R_s
//
//   in reverse   dR_s = sum_i q_i^T drest_i,   dq_i += drest_i R_s^T,   dX_s of attention/raf.hpp
//
// Suffix sums are made first, backwards, and prefix sums on the way. No product is ever in memory: where segments are
// short, passes over stored products take longer than computing them twice. For W folded into the values, a step for
// every segment and no clamp. Each function returns whether it did its work; otherwise the plain phases do.
#pragma once

#include <srformer/attention/detail/lane_executor.hpp>
#include <srformer/attention/recurrent_inputs.hpp>

namespace srformer::detail {

#if !defined(__CUDACC__)

/// Some rows and four vectors of columns of the states of one lane. Pointers are those of the tile's first row and column.
template <class T>
struct RecurrentTile {
  using V = Pack<T, Vector<T>::lanes>;
  static constexpr int lanes = Vector<T>::lanes, wide = 4;
  static constexpr int high = vector_bytes >= 64 ? 4 : 2;  // the sums are half of the registers
  static constexpr index_t columns = wide * lanes;

  const Lane& lane;
  RafScalars<T> raf;
  Rows<const T> k, y;

  static V load(const T* from) { return Cells<V>::load(from); }
  static void store(T* to, const V& v) { Cells<V>::store(to, v); }
  /// f(r, w) for every vector of the tile.
  template <class F>
  [[gnu::always_inline]] static void for_each(F f) {
#pragma GCC unroll 4
    for (int r = 0; r < high; ++r) {
#pragma GCC unroll 4
      for (int w = 0; w < wide; ++w) f(r, w);
    }
  }

  /// sum += K^T Y over the keys [first, end).
  [[gnu::always_inline]] void add_products(index_t first, index_t end, V (&sum)[high][wide]) const {
    for (index_t t = first; t < end; ++t) {
      V right[wide];
#pragma GCC unroll 4
      for (int w = 0; w < wide; ++w) right[w] = load(y.row(t) + w * lanes);
#pragma GCC unroll 4
      for (int r = 0; r < high; ++r) {
        const T left = k.row(t)[r];
#pragma GCC unroll 4
        for (int w = 0; w < wide; ++w) sum[r][w] = sum[r][w] + left * right[w];
      }
    }
  }

  /// Calls step(s, r, w, now) for every vector of U_s of the segments that are seen, in order, and done(s) after those
  /// of one.
  ///   suffix  [seen, high, wide] vectors of scratch
  template <class Step, class Done>
  [[gnu::always_inline]] void run(T* suffix, Step step, Done done) const {
    constexpr index_t tile = high * wide * lanes;
    V sum[high][wide];
    for_each([&](int r, int w) { sum[r][w] = V(T(0)); });
    index_t end = lane.keys;
    for (index_t s = lane.seen - 1; s >= 0; --s) {
      add_products(lane.segments[s].end_key, end, sum);
      end = lane.segments[s].end_key;
      T* to = suffix + s * tile;
      for_each([&](int r, int w) { store(to + (r * wide + w) * lanes, sum[r][w]); });
    }
    const T inverse = T(1) / raf.threshold;
    V membrane[high][wide];
    for_each([&](int r, int w) { sum[r][w] = membrane[r][w] = V(T(0)); });
    index_t first = 0;
    for (index_t s = 0; s < lane.seen; ++s) {
      add_products(first, lane.segments[s].first_key, sum);
      first = lane.segments[s].first_key;
      const T* from = suffix + s * tile;
      for_each([&](int r, int w) {
        const V others = sum[r][w] + load(from + (r * wide + w) * lanes);
        const V now = raf.leak * membrane[r][w] + others;
        step(s, r, w, now);
        membrane[r][w] = after_reset(now, raf, inverse);
      });
      done(s);
    }
  }

  /// rest_i += q_i R_s
  [[gnu::noinline, gnu::flatten]] void forward(Rows<const T> q, T* suffix, Rows<T> rest) const {
    const T inverse = T(1) / raf.threshold;
    V held[high][wide];
    run(
        suffix,
        [&](index_t, int r, int w, const V& now) { held[r][w] = fired<false>(now, inverse); },
        [&](index_t s) {
          for (index_t i = lane.segments[s].first_query; i < lane.segments[s].end_query; ++i)
            add_rest(q.row(i), held, rest.row(i));
        });
  }

  static void add_rest(const T* q, const V (&held)[high][wide], T* rest) {
#pragma GCC unroll 4
    for (int w = 0; w < wide; ++w) {
      V sum = load(rest + w * lanes);
#pragma GCC unroll 4
      for (int r = 0; r < high; ++r) sum = sum + q[r] * held[r][w];
      store(rest + w * lanes, sum);
    }
  }

  /// The tiles of a family of states.
  struct States {
    T* first;
    index_t row_stride, stride;
    T* at(index_t s, int r, int w) const { return first + s * stride + r * row_stride + w * lanes; }
  };

  /// u_s = U_s
  [[gnu::noinline, gnu::flatten]] void keep(T* suffix, const States& u) const {
    run(
        suffix, [&](index_t s, int r, int w, const V& now) { store(u.at(s, r, w), now); },
        [](index_t) {});
  }

  /// u_s becomes dX_s; rest as in forward, dq and the scalars' gradients are added to.
  [[gnu::noinline, gnu::flatten]] void backward(Rows<const T> q, Rows<const T> d_rest,
                                                const States& u, Rows<T> rest, Rows<T> d_q,
                                                RafGradients<T>& d_raf) const {
    const T inverse = T(1) / raf.threshold;
    const V none(T(0));
    V d_membrane[high][wide], leak = none, threshold = none;
    for_each([&](int r, int w) { d_membrane[r][w] = none; });
    for (index_t s = lane.seen - 1; s >= 0; --s) {
      V held[high][wide], d_r[high][wide];
      for_each([&](int r, int w) {
        held[r][w] = fired<false>(load(u.at(s, r, w)), inverse), d_r[r][w] = none;
      });
      for (index_t i = lane.segments[s].first_query; i < lane.segments[s].end_query; ++i) {
        add_rest(q.row(i), held, rest.row(i));
        add_gradients(q.row(i), d_rest.row(i), held, d_r, d_q.row(i));
      }
      for_each([&](int r, int w) {
        const V before = s > 0 ? load(u.at(s - 1, r, w)) : none;
        const auto d = raf_cell_backward<false>(raf, inverse, V(load(u.at(s, r, w)) * inverse),
                                                after_reset(before, raf, inverse), d_r[r][w],
                                                d_membrane[r][w]);
        leak = leak + d.leak, threshold = threshold - d.minus_threshold;
        d_membrane[r][w] = d.d_membrane;
        store(u.at(s, r, w), d.d_x);
      });
    }
    d_raf.leak += sum_of_lanes(leak.v[0]);
    d_raf.threshold += sum_of_lanes(threshold.v[0]);
  }

  /// dR_s += q_i^T drest_i,  dq_i += drest_i R_s^T
  static void add_gradients(const T* q, const T* d_rest, const V (&held)[high][wide],
                            V (&d_r)[high][wide], T* d_q) {
#pragma GCC unroll 4
    for (int r = 0; r < high; ++r) {
      V along(T(0));
#pragma GCC unroll 4
      for (int w = 0; w < wide; ++w) {
        const V d = load(d_rest + w * lanes);
        along = along + d * held[r][w];
        d_r[r][w] = d_r[r][w] + q[r] * d;
      }
      d_q[r] += sum_of_lanes(along.v[0]);
    }
  }
};

/// Up to so many keys for each segment that is seen tiles are faster.
inline constexpr index_t most_keys_of_tiles = 8;

/// Whether tiles have what `in` wants, in a block of `rows` rows.
template <class T, class Space>
bool suits_tiles(const RecurrentInputs<T, Space>& in, const Lane& lane, RowBlock rows) {
  return in.folded() && !in.stepwise() && !in.options.binary_firing &&
         in.options.product.product == Product::complement &&
         lane.keys <= most_keys_of_tiles * lane.seen &&
         in.head_size() % RecurrentTile<T>::columns == 0 &&
         rows.count % RecurrentTile<T>::high == 0;
}

/// f(tile, r, c) for the tiles of a block of rows; r and c are the tile's first row and column.
template <class T, class F>
void for_each_tile(const Lane& lane, const RafScalars<T>& raf, RowBlock rows,
                   const Family<const T>& k, const Family<const T>& y, F f) {
  for (index_t r = 0; r < rows.count; r += RecurrentTile<T>::high) {
    for (index_t c = 0; c < y.columns; c += RecurrentTile<T>::columns) {
      const index_t row = rows.first + r;
      const Rows<const T> keys{k.at(lane, 0, 0, row), k.row_stride},
          values{y.at(lane, 0, 0, c), y.row_stride};
      f(RecurrentTile<T>{lane, raf, keys, values}, row, c);
    }
  }
}

template <class T>
Rows<T> tile_rows(const Family<T>& f, const Lane& lane, index_t column) {
  return {f.at(lane, 0, 0, column), f.row_stride};
}

template <class On, class T, class Y>
inline constexpr bool has_tiles =
    std::is_same_v<On, LaneExecutor<T>>&& std::is_same_v<Y, Family<const T>>&& has_packs<T>;

#else
template <class On, class T, class Y>
inline constexpr bool has_tiles = false;
#endif

/// rest_i += q_i R_s for a block of rows of the states, of which none is stored.
///   suffix  scratch as large as a family of states
template <class On, class T, class Space, class Y, class C>
bool read_states_in_tiles(On& on, const RecurrentInputs<T, Space>& in, const Y& y,
                          const Family<C>& suffix, const Family<C>& rest, RowBlock rows) {
  if constexpr (has_tiles<On, T, Y>) {
    const Lane& lane = on.this_lane();
    if (!suits_tiles(in, lane, rows)) return false;
    const auto q = family(in.q, Cut::whole), k = family(in.k, Cut::whole);
    for_each_tile<T>(lane, in.raf(), rows, k, y, [&](const auto& tile, index_t r, index_t c) {
      tile.forward(tile_rows(q, lane, r), suffix.data, tile_rows(rest, lane, c));
    });
    return true;
  }
  return false;
}

/// What read_states_backward_in_tiles makes from drest: x_s = dX_s, dq, rest again, dleak and dthreshold.
template <class T, class C>
struct TileGradients {
  Family<C> d_rest, rest, x;
  Family<T> d_q;
  Family<C> d_leak, d_threshold;
};
template <class On, class T, class Space, class Y, class C>
bool read_states_backward_in_tiles(On& on, const RecurrentInputs<T, Space>& in, const Y& y,
                                   const Family<C>& suffix, const TileGradients<T, C>& d,
                                   RowBlock rows) {
  if constexpr (has_tiles<On, T, Y>) {
    const Lane& lane = on.this_lane();
    if (!suits_tiles(in, lane, rows)) return false;
    const auto q = family(in.q, Cut::whole), k = family(in.k, Cut::whole);
    const Family<const T> d_rest = d.d_rest;
    RafGradients<C> d_raf{C(0), C(0)};
    for_each_tile<T>(lane, in.raf(), rows, k, y, [&](const auto& tile, index_t r, index_t c) {
      const typename RecurrentTile<T>::States u{d.x.at(lane, 0, r - rows.first, c), d.x.row_stride,
                                                d.x.matrix_stride};
      tile.keep(suffix.data, u);
      tile.backward(tile_rows(q, lane, r), tile_rows(d_rest, lane, c), u,
                    tile_rows(d.rest, lane, c), tile_rows(d.d_q, lane, r), d_raf);
    });
    *d.d_leak.at(lane, 0, 0, 0) += d_raf.leak;
    *d.d_threshold.at(lane, 0, 0, 0) += d_raf.threshold;
    return true;
  }
  return false;
}

}  // namespace srformer::detail
