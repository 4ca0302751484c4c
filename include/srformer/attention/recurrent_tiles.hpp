// SPDX-License-Identifier: Apache-2.0
// A few rows of a lane's [D,D] states through all segments, in the registers of a processor's core:
//
//   Z_s = sum of K_t^T Y_t over the keys before segment s, and over those behind it
//   U_s = leak Mem_{s-1} + Z_s,   R_s and Mem_s of attention/raf.hpp,   rest_i += q_i R_s
//
//   in reverse   dR_s = sum_i q_i^T drest_i,   dq_i += drest_i R_s^T,   dX_s of attention/raf.hpp
//
// What lies behind each segment is summed first, backwards, and what lies before it on the way. No product is ever
// in memory: where segments are short, passes over products would take longer than the sums. For W folded into
// the values; attention/segmented_recurrent.hpp has the same for every team, scalar and option.
#pragma once

#include <srformer/attention/raf.hpp>
#include <srformer/attention/recurrent_inputs.hpp>

namespace srformer::detail {

/// A segment that is seen: its keys and its queries. Every tile goes through all of them, which a SegmentRule would
/// work out by divisions.
struct SeenSegment {
  index_t first_key, end_key, first_query, end_query;
};

/// What a table of the segments that are seen takes of a host's scratch, in elements of T and whole lines of the cache.
template <class T, class Space>
index_t seen_size(index_t visited) {
  if constexpr (!std::is_same_v<Space, host_space> || !has_vector_kernel<T>) return 0;
  static_assert(sizeof(SeenSegment) == 32);
  return (visited + 1) / 2 * static_cast<index_t>(64 / sizeof(T));
}

inline void fill_seen(const SegmentRule& rule, index_t queries, SeenSegment* seen) {
  for (index_t j = 0; j < rule.count(); j = rule.next_visited(j, queries)) {
    *seen++ = {rule.first_key(j), rule.end_key(j), rule.first_query(j), rule.end_query(j, queries)};
  }
}

/// Columns of a tile.
template <class T>
inline constexpr index_t tile_columns = 4 * Vector<T>::lanes;

/// Whether tiles know what is asked for.
template <class T, class Space>
bool by_tiles(const RecurrentInputs<T, Space>& in) {
  return in.folded() && !in.stepwise() && !in.options.binary_firing &&
         in.options.product.product == Product::complement && in.head_size() % tile_columns<T> == 0;
}

#if !defined(__CUDACC__)

/// Whether a team works with keys T and values Y in the registers of one core. In shorter or fewer registers tiles are
/// so small that the keys and values come from the cache too often: passes over products in memory are ahead.
template <class Team, class T, class Y>
inline constexpr bool has_recurrent_tiles =
    std::is_same_v<Team, SerialTeam>&& std::is_same_v<T, Y>&& has_vector_kernel<T>&&
        vector_registers == 32;

/// Some rows by tile_columns of the states of one lane. Pointers are those of the tile's first row and column.
template <class T>
struct RecurrentTile {
  using V = typename Vector<T>::type;
  static constexpr int lanes = Vector<T>::lanes, wide = 4;
  static constexpr int high = 4;  // the sums are half of the registers

  const SeenSegment* seen;
  index_t visited, length;
  RafScalars<T> raf;
  Rows<const T> k, y;

  static V load(const T* from) {
    V v;
    load_computed(v, from);
    return v;
  }
  static void store(T* to, const V& v) { std::memcpy(to, &v, sizeof(V)); }
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
        for (int w = 0; w < wide; ++w) sum[r][w] += left * right[w];
      }
    }
  }

  /// Calls step(s, r, w, now) for every vector of U_s of the segments that are seen, in order, and done(s) after those
  /// of one.
  ///   behind  [visited, high, wide] vectors of scratch
  template <class Step, class Done>
  [[gnu::always_inline]] void run(T* behind, Step step, Done done) const {
    constexpr index_t tile = high * wide * lanes;
    V sum[high][wide] = {};
    index_t end = length;
    for (index_t s = visited - 1; s >= 0; --s) {
      add_products(seen[s].end_key, end, sum);
      end = seen[s].end_key;
      T* to = behind + s * tile;
      for_each([&](int r, int w) { store(to + (r * wide + w) * lanes, sum[r][w]); });
    }
    const T inverse = T(1) / raf.threshold;
    V membrane[high][wide] = {};
    for_each([&](int r, int w) { sum[r][w] = V{}; });
    index_t first = 0;
    for (index_t s = 0; s < visited; ++s) {
      add_products(first, seen[s].first_key, sum);
      first = seen[s].first_key;
      const T* from = behind + s * tile;
      for_each([&](int r, int w) {
        const V others = sum[r][w] + load(from + (r * wide + w) * lanes);
        const V now = raf.leak * membrane[r][w] + others;
        step(s, r, w, now);
        membrane[r][w] = after_reset(now, inverse);
      });
      done(s);
    }
  }

  V after_reset(const V& u, T inverse) const {
    return u * inverse - T(1) > T(0) ? u - raf.threshold : u;
  }
  static V fired(const V& u, T inverse) {
    const V over = u * inverse - T(1);
    return over > T(0) ? over : V{};
  }

  /// rest_i += q_i R_s, rest rows `stride` apart.
  [[gnu::noinline]] void forward(Rows<const T> q, T* behind, Rows<T> rest) const {
    const T inverse = T(1) / raf.threshold;
    V held[high][wide];
    run(
        behind, [&](index_t, int r, int w, const V& now) { held[r][w] = fired(now, inverse); },
        [&](index_t s) {
          for (index_t i = seen[s].first_query; i < seen[s].end_query; ++i)
            add_rest(q.row(i), held, rest.row(i));
        });
  }

  static void add_rest(const T* q, const V (&held)[high][wide], T* rest) {
#pragma GCC unroll 4
    for (int w = 0; w < wide; ++w) {
      V sum = load(rest + w * lanes);
#pragma GCC unroll 4
      for (int r = 0; r < high; ++r) sum += q[r] * held[r][w];
      store(rest + w * lanes, sum);
    }
  }

  /// u_s = U_s, its rows `row` elements apart, and `step` from one s to the next.
  [[gnu::noinline]] void keep(T* behind, T* u, index_t row, index_t step) const {
    run(
        behind,
        [&](index_t s, int r, int w, const V& now) {
          store(u + s * step + r * row + w * lanes, now);
        },
        [](index_t) {});
  }

  /// u_s becomes dX_s; rest as in forward, dq and the scalars' gradients are added to.
  [[gnu::noinline]] void backward(Rows<const T> q, Rows<const T> d_rest, T* u, index_t row,
                                  index_t step, Rows<T> rest, Rows<T> d_q,
                                  RafGradients<T>& d_raf) const {
    const T inverse = T(1) / raf.threshold;
    V d_membrane[high][wide] = {}, leak{}, threshold{};
    for (index_t s = visited - 1; s >= 0; --s) {
      T* now = u + s * step;
      const T* before = s > 0 ? now - step : nullptr;
      V held[high][wide], d_r[high][wide] = {};
      for_each([&](int r, int w) { held[r][w] = fired(load(now + r * row + w * lanes), inverse); });
      for (index_t i = seen[s].first_query; i < seen[s].end_query; ++i) {
        const T *from = q.row(i), *d = d_rest.row(i);
        add_rest(from, held, rest.row(i));
#pragma GCC unroll 4
        for (int r = 0; r < high; ++r) {
          V along{};
#pragma GCC unroll 4
          for (int w = 0; w < wide; ++w) {
            const V d_w = load(d + w * lanes);
            along += d_w * held[r][w];
            d_r[r][w] += from[r] * d_w;
          }
          d_q.row(i)[r] += sum_of_lanes(along);
        }
      }
      for_each([&](int r, int w) {
        T* at = now + r * row + w * lanes;
        const V relative = load(at) * inverse, over = relative - T(1);
        const V through = over > T(0) ? inverse * d_r[r][w] : V{};
        const V d_u = through + d_membrane[r][w];
        const V reset = over > T(0) ? d_membrane[r][w] : V{};
        if (before != nullptr)
          leak += d_u * after_reset(load(before + r * row + w * lanes), inverse);
        threshold -= through * relative + reset;
        d_membrane[r][w] = raf.leak * d_u;
        store(at, d_u);
      });
    }
    d_raf.leak += sum_of_lanes(leak);
    d_raf.threshold += sum_of_lanes(threshold);
  }
};

/// Calls f(tile, r, c) for the tiles of some rows of the states of a lane: its place from the first of these rows on.
///   seen  [visited], and `length` keys that exist
template <class T, class F>
void for_each_tile(const SeenSegment* seen, index_t visited, index_t length,
                   const RafScalars<T>& raf, const ProductRows& rows, Rows<const T> k,
                   Rows<const T> y, F f) {
  for (index_t r = 0; r < rows.count; r += RecurrentTile<T>::high) {
    for (index_t c = 0; c < rows.head_size; c += tile_columns<T>) {
      const Rows<const T> keys{k.data + rows.first + r, k.stride}, values{y.data + c, y.stride};
      f(RecurrentTile<T>{seen, visited, length, raf, keys, values}, r, c);
    }
  }
}

#else
template <class Team, class T, class Y>
inline constexpr bool has_recurrent_tiles = false;
template <class T, class F>
void for_each_tile(const SeenSegment*, index_t, index_t, const RafScalars<T>&, const ProductRows&,
                   Rows<const T>, Rows<const T>, F) {}
#endif

}  // namespace srformer::detail
