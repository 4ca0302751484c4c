// SPDX-License-Identifier: Apache-2.0
// How an attention program runs on a processor.
//
// A lane is one source and head. Its queries see some of the segments of the source. A family is one matrix for
// each of these segments: their keys, their queries, or matrices that the program makes. A program is a series of
// phases, and each phase does something to all matrices of a family:
//
//     on.multiply(p, transposed(k), y);      // P_s = K_s^T Y_s for every segment s that is seen
//
// LaneExecutor is the `on` of that line: it has one lane, on one core, and a phase is a loop over its segments. What one
// phase leaves to the next is in scratch memory that stays in the cache. Lanes run in parallel.
//
//   1  lanes and families   which matrices there are
//   2  cells                one element of every matrix of a family, or a pack of neighbouring elements in registers
//   3  LaneExecutor         memory, products, loops over elements
//   4  run_lanes            one executor for every lane of a call
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include <srformer/attention/segments.hpp>

namespace srformer::SRF_DETAIL {

// ------------------------------------------------------------------------------- 1  lanes and families

/// A segment that some queries see: keys [first_key, end_key) and queries [first_query, end_query). No query sees the
/// keys [end_key, next_key).
struct SeenSegment {
  index_t first_key, end_key, next_key, first_query, end_query;
  index_t number;  ///< among all segments of the source
};

/// One source and head. The recurrence takes a step at every segment, or at every query.
struct Lane {
  index_t b = 0, h = 0, keys = 0, queries = 0, seen = 0;
  bool step_per_query = false;
  const SeenSegment* segments = nullptr;  ///< [seen]

  SRF_HD index_t steps() const { return step_per_query ? queries : seen; }
  SRF_HD index_t first_step(index_t s) const {
    return step_per_query ? segments[s].first_query : s;
  }
  SRF_HD index_t end_step(index_t s) const {
    return step_per_query ? segments[s].end_query : s + 1;
  }
  SRF_HD index_t first_query_of_step(index_t t) const {
    return step_per_query ? t : segments[t].first_query;
  }
  SRF_HD index_t end_query_of_step(index_t t) const {
    return step_per_query ? t + 1 : segments[t].end_query;
  }
  /// The place of step t among the prepared states of decoding.
  SRF_HD index_t state_of_step(index_t t) const { return step_per_query ? t : segments[t].number; }
};

/// Which matrices a family has, and which rows of memory they take.
enum class Cut {
  whole,         ///< one matrix for the lane
  keys,          ///< for each segment the rows of its keys
  unseen_keys,   ///< for each segment the rows of the keys after it that no query sees
  every_key,     ///< one matrix: the rows of all these keys
  queries,       ///< for each segment the rows of its queries
  scores,        ///< the same, with as many columns as the segment has keys
  step_queries,  ///< for each step the rows of its queries
  segments,      ///< for each segment a matrix of its own
  steps,         ///< for each step a matrix of its own
  states         ///< for each step its matrix among the states of decoding
};

/// The number of rows of a family that has as many rows as the lane has keys, or the executor's row block has rows.
inline constexpr index_t all_keys = -1, block_rows = -2;

/// Some consecutive rows of the [D,D] states, which are also columns of the keys and queries.
struct RowBlock {
  index_t first, count;
};

template <class T>
struct Matrix {
  T* data;
  index_t rows, columns, stride;
};

/// One matrix for each segment, or for each step, of every lane. Strides count elements.
template <class T>
struct Family {
  T* data = nullptr;
  index_t source_stride = 0, head_stride = 0, matrix_stride = 0, row_stride = 0;
  index_t rows = 0, columns = 0;
  Cut cut = Cut::whole;
  Op op = Op::none;

  SRF_HD T* at(const Lane& lane, index_t matrix, index_t row, index_t column) const {
    const index_t number = cut == Cut::states ? lane.state_of_step(matrix) : matrix;
    return data + lane.b * source_stride + lane.h * head_stride + number * matrix_stride +
           row * row_stride + column;
  }
  SRF_HD Family cut_by(Cut other) const {
    Family f = *this;
    f.cut = other;
    return f;
  }
  /// The rows of all keys of the lane, as one matrix.
  SRF_HD Family uncut() const {
    Family f = cut_by(Cut::whole);
    f.rows = all_keys;
    return f;
  }
  /// The columns of a row block.
  SRF_HD Family columns_of(RowBlock block) const {
    Family f = *this;
    f.data += block.first;
    f.columns = block.count;
    return f;
  }
  /// The rows of a row block.
  SRF_HD Family rows_of(RowBlock block) const {
    Family f = *this;
    f.data += block.first * row_stride;
    f.rows = block.count;
    return f;
  }
  template <class U>
  requires(std::is_same_v<U, const T>) SRF_HD operator Family<U>() const {  // NOLINT
    return {data, source_stride, head_stride, matrix_stride, row_stride, rows, columns, cut, op};
  }
};

template <class T>
SRF_HD Family<T> transposed(Family<T> f) {
  f.op = Op::transpose;
  return f;
}

/// [B,H,rows,D], cut by segments.
template <class T, class Space>
Family<T> family(const View<T, 4, Space>& x, Cut cut) {
  return {x.data, x.stride(0), x.stride(1), 0, x.stride(2), x.extent(2), x.extent(3), cut};
}

// ------------------------------------------------------------------------------- 2  cells

#if defined(__CUDACC__)
template <class T>
inline constexpr bool has_packs = false;
#else
template <class T>
inline constexpr bool has_packs = has_vector_kernel<T>;

/// N neighbouring elements in registers, with the arithmetic of one element.
template <class T, int N>
struct Pack {
  static constexpr int lanes = N < Vector<T>::lanes ? N : Vector<T>::lanes, vectors = N / lanes;
  static_assert(vectors == 1 || vectors == 2 || vectors == 4);
  typedef T V __attribute__((vector_size(lanes * sizeof(T))));
  V v[vectors];

  Pack() = default;
  [[gnu::always_inline]] explicit Pack(T x) { *this = all(x); }

  // Vector by vector: a loop over v, or a copy of all of it, would keep a pack out of the registers.
  template <class F>
  [[gnu::always_inline]] static Pack of(F f) {
    Pack p;
    for_each_vector([&](int i) { p.v[i] = f(i); });
    return p;
  }
  template <class F>
  [[gnu::always_inline]] static void for_each_vector(F f) {
    f(0);
    if constexpr (vectors >= 2) f(1);
    if constexpr (vectors == 4) f(2), f(3);
  }
  [[gnu::always_inline]] static Pack all(T x) {
    return of([=](int) { return V{} + x; });
  }
#define SRF_PACK_OPERATOR(o)                                                    \
  [[gnu::always_inline]] friend Pack operator o(const Pack& a, const Pack& b) { \
    return of([&](int i) { return a.v[i] o b.v[i]; });                          \
  }                                                                             \
  [[gnu::always_inline]] friend Pack operator o(const Pack& a, T b) {           \
    return of([&](int i) { return a.v[i] o b; });                               \
  }                                                                             \
  [[gnu::always_inline]] friend Pack operator o(T a, const Pack& b) {           \
    return of([&](int i) { return a o b.v[i]; });                               \
  }
  SRF_PACK_OPERATOR(+)
  SRF_PACK_OPERATOR(-)
  SRF_PACK_OPERATOR(*)
#undef SRF_PACK_OPERATOR
  [[gnu::always_inline]] friend Pack where_above(const Pack& x, T bound, const Pack& yes,
                                                 const Pack& no) {
    return of([&](int i) { return x.v[i] > bound ? yes.v[i] : no.v[i]; });
  }
};
#endif

/// Elements of a register.
template <class T>
inline constexpr index_t native_width = 1;
template <class T>
requires has_packs<T>
inline constexpr index_t native_width<T> = Vector<T>::lanes;

/// How elements stored as any type become a V and back. V is C or a pack of it.
template <class V>
struct Cells {
  using C = V;
  static constexpr index_t width = 1;
  SRF_HD static V all(const C& x) { return x; }
  template <class T>
  SRF_HD static V load(const T* from) {
    return C(*from);
  }
  template <class T>
  SRF_HD static void store(T* to, const V& x) {
    *to = T(x);
  }
};
#if !defined(__CUDACC__)
template <class T, int N>
struct Cells<Pack<T, N>> {
  using C = T;
  using V = Pack<T, N>;
  static constexpr index_t width = N;
  [[gnu::always_inline]] static V all(T x) { return V::all(x); }
  template <class S>
  [[gnu::always_inline]] static V load(const S* from) {
    return V::of([=](int i) { return load_vector(from + i * V::lanes); });
  }
  template <class S>
  [[gnu::always_inline]] static void store(S* to, const V& x) {
    V::for_each_vector([&](int i) { store_vector(to + i * V::lanes, x.v[i]); });
  }

 private:
  template <class S>
  [[gnu::always_inline]] static typename V::V load_vector(const S* from) {
    typename V::V v;
    if constexpr (std::is_same_v<S, T>) {
      std::memcpy(&v, from, sizeof(v));
    } else if constexpr (V::lanes == Vector<T>::lanes) {
      load_computed(v, from);
    } else {
      for (int e = 0; e < V::lanes; ++e) v[e] = widened(from[e]);
    }
    return v;
  }
  template <class S>
  [[gnu::always_inline]] static void store_vector(S* to, const typename V::V& v) {
    if constexpr (std::is_same_v<S, T>) {
      std::memcpy(to, &v, sizeof(v));
    } else {
      for (int e = 0; e < V::lanes; ++e) to[e] = narrowed<S>(v[e]);
    }
  }
};
#endif

/// One cell of every matrix of a family: x[s] is that of matrix s.
template <class V, class T>
struct CellSeries {
  T* first;
  index_t stride;
  SRF_HD V operator[](index_t s) const { return Cells<V>::load(first + s * stride); }
  SRF_HD void set(index_t s, const V& x) const { Cells<V>::store(first + s * stride, x); }
};

/// One cell of the [rows,D] states of all segments of a lane, or a pack of neighbouring cells.
template <class V>
struct StateCell {
  using Value = V;
  using C = typename Cells<V>::C;
  const Lane& lane;
  index_t cell;
  CellSeries<V, C> notes;  ///< scratch, one value for each segment

  SRF_HD index_t segments() const { return lane.seen; }
  SRF_HD index_t steps() const { return lane.steps(); }
  SRF_HD index_t first_step(index_t s) const { return lane.first_step(s); }
  SRF_HD index_t end_step(index_t s) const { return lane.end_step(s); }
  SRF_HD static V all(double x) { return Cells<V>::all(static_cast<C>(x)); }
  template <class T>
  SRF_HD CellSeries<V, T> operator()(const Family<T>& f) const {
    return {f.at(lane, 0, 0, cell), f.matrix_stride};
  }
};

/// One element of a matrix, or a pack of neighbouring elements of a row.
template <class V>
struct ElementCell {
  using C = typename Cells<V>::C;
  const Lane& lane;
  index_t matrix, row, column;

  template <class T>
  SRF_HD V operator()(const Family<T>& f) const {
    return Cells<V>::load(f.at(lane, matrix, row, column));
  }
  template <class T>
  SRF_HD void set(const Family<T>& f, const V& x) const {
    Cells<V>::store(f.at(lane, matrix, row, column), x);
  }
};

// ------------------------------------------------------------------------------- 3  LaneExecutor

/// About how many elements a family of states has at most where keys are few for each of its matrices.
inline constexpr index_t state_budget = 98304;

/// How many rows of the states are worked on at a time: where keys are few for each of the `count` states, about as many
/// as stay in the cache of a core through all of them, otherwise all. Blocks are of equal size and of whole registers.
constexpr index_t rows_at_a_time(index_t keys, index_t count, index_t head_size) {
  constexpr index_t whole = 16;
  if (keys >= 32 * count) return head_size;
  const index_t fitting =
      std::max(whole, (state_budget / (count * head_size) + whole / 2) / whole * whole);
  const index_t times = (head_size + fitting - 1) / fitting;
  const index_t rows = (head_size + whole * times - 1) / (whole * times) * whole;
  return std::min(rows, head_size);
}

/// What all lanes of a call have at most.
struct LaneLimits {
  index_t keys, queries, seen, steps, head_size;
};

/// Runs a program for one lane on one core. Team is SerialTeam, or what is derived from it.
template <class Scalar, class Team = SerialTeam>
class LaneExecutor {
 public:
  using C = Scalar;
  struct Range {
    index_t first, end;
  };

  /// Without scratch it only counts the elements that a program takes.
  explicit LaneExecutor(const LaneLimits& limits, C* scratch = nullptr, const Lane& lane = {},
                        const Team& team = {})
      : team_(team),
        limits_(limits),
        lane_(lane),
        scratch_(scratch),
        block_{0,
               rows_at_a_time(limits.keys, std::max<index_t>(1, limits.steps), limits.head_size)},
        segments_{0, lane.seen} {
    notes_ = take(limits.seen * widest);
  }
  index_t used() const { return used_; }
  const Lane& this_lane() const { return lane_; }

  // ---- memory
  /// A matrix of the lane.
  Family<C> room(index_t rows, index_t columns) {
    return {take(rows * columns), 0, 0, 0, columns, rows, columns};
  }
  /// A matrix for the rows of a block of the states.
  Family<C> block_room() {
    auto f = room(block_.count + spare_rows(), limits_.head_size);
    f.rows = block_rows;
    return f;
  }
  /// As many rows of the states as a block has, for every segment or for every step.
  Family<C> states(Cut cut) {
    const index_t D = limits_.head_size, pitch = (block_.count + spare_rows()) * D;
    const index_t count = cut == Cut::steps ? limits_.steps : limits_.seen;
    return {take(count * pitch), 0, 0, pitch, D, block_rows, D, cut};
  }
  /// Room for notes of a walk through all segments, `width` elements for each.
  template <index_t width>
  C* notes() const {
    static_assert(width <= widest);
    return notes_;
  }
  void clear(const Family<C>& f) { std::fill_n(f.at(lane_, 0, 0, 0), rows(f) * f.columns, C(0)); }

  // ---- row blocks
  /// Whether the states are worked on in more than one block of rows.
  bool blocked() const { return block_.count < limits_.head_size; }
  /// f(block) for consecutive blocks of rows of the states.
  template <class F>
  void row_blocks(F f) {
    const RowBlock whole = block_;
    for (index_t first = 0; first < limits_.head_size; first += whole.count) {
      block_ = {first, std::min(whole.count, limits_.head_size - first)};
      f(block_);
    }
    block_ = whole;
  }

  /// Runs the phases of f for a few segments at a time, each on what the phases before left in the cache.
  template <class F>
  void by_segments(F f) {
    const index_t keys_at_a_time = std::min<index_t>(64, 4096 / limits_.head_size);
    const Range all = segments_;
    const index_t some =
        std::max<index_t>(1, keys_at_a_time * lane_.seen / std::max<index_t>(1, lane_.keys));
    for (index_t s = all.first; s < all.end; s += some) {
      segments_ = {s, std::min(s + some, all.end)};
      f();
    }
    segments_ = all;
  }

  // ---- products, with op() as transposed() says
  /// C_s = A_s B_s
  template <class X, class A, class B>
  void multiply(const Family<X>& c, const Family<A>& a, const Family<B>& b) {
    if (multiply_states(c, a, b)) return;
    if (a.cut == Cut::keys && b.cut == Cut::keys && limits_.head_size >= 32) {
      return multiply_keys(c, a, b);
    }
    for_matrices(c, [&](index_t s) { product(s, c, a, b, false); });
  }
  /// C_s += A_s B_s
  template <class X, class A, class B>
  void add(const Family<X>& c, const Family<A>& a, const Family<B>& b) {
    for_matrices(c, [&](index_t s) { product(s, c, a, b, true); });
  }
  /// C += sum over the segments of A_s B_s
  template <class X, class A, class B>
  void add_sum(const Family<X>& c, const Family<A>& a, const Family<B>& b) {
    for_matrices(a, [&](index_t s) { product(s, c, a, b, true); });
  }

  /// to += the sum of all elements of x, whose rows are contiguous.
  void add_total(const Family<C>& to, const Family<C>& x) {
    const C* from = x.at(lane_, 0, 0, 0);
    C& sum = *to.at(lane_, 0, 0, 0);
    sum = sum + team_.template sum<C>(rows(x) * x.columns, [=](index_t i) { return from[i]; });
  }

  // ---- elements
  /// f(cell) for the cells of the states, which goes through all segments. The last pack of a matrix may reach into
  /// the spare rows after it. What is `rare` has packs of one register, which take less to compile.
  template <bool rare = false, class F>
  void cells(F f, std::bool_constant<rare> = {}) {
    constexpr index_t width = rare ? native : widest;
    inlined([&] {
      using V = PackOf<width>;
      const index_t count = block_.count * limits_.head_size;
      for (index_t c = 0; c < count; c += width) f(StateCell<V>{lane_, c, {notes_, width}});
    });
  }
  /// f(element) for the elements of a family.
  template <class X, class F>
  void elements(const Family<X>& over, F f) {
    for_matrices(over, [&](index_t s) {
      const Range range = row_range(over, s);
      inlined([&] {
        packs_of_row<widest>(s, 0, over.columns, [&](auto at) {
          for (index_t row = range.first; row < range.end; ++row) {
            at.row = row;
            f(at);
          }
        });
      });
    });
  }
  /// to[c] = the sum of f(element) over the rows of a family.
  template <class X, class F>
  void column_sums(const Family<C>& to, const Family<X>& over, F f) {
    inlined([&] {
      packs_of_row<widest>(0, 0, to.columns, [&](auto at) {
        using V = decltype(f(at));
        const index_t n = rows(over);
        V sum(C(0)), odd(C(0));  // two chains of additions, which do not wait for each other
        for (index_t row = 0; row + 1 < n; row += 2) {
          at.row = row;
          sum = V(sum + f(at));
          at.row = row + 1;
          odd = V(odd + f(at));
        }
        at.row = n - 1;
        if (n % 2 == 1) sum = V(sum + f(at));
        sum = V(sum + odd);
        at.set(to, sum);
      });
    });
  }
  /// x[c] = f(x[c]) for the elements of a row.
  template <class F>
  void row(const Family<C>& x, F f) {
    C* p = x.at(lane_, 0, 0, 0);
    for (index_t c = 0; c < x.columns; ++c) p[c] = f(p[c]);
  }
  /// f(team, lane, s, i) for every query i, which sees segment s.
  template <class F>
  void queries(F f) {
    for (index_t s = segments_.first; s < segments_.end; ++s) {
      const SeenSegment& x = lane_.segments[s];
      for (index_t i = x.first_query; i < x.end_query; ++i) f(team_, lane_, s, i);
    }
  }
  /// f(team, lane), once.
  template <class F>
  void lane(F f) {
    f(team_, lane_);
  }

 private:
  template <index_t width>
  static auto pack_of() {
    if constexpr (width == 1) {
      return std::type_identity<C>{};
    } else {
#if !defined(__CUDACC__)
      return std::type_identity<Pack<C, static_cast<int>(width)>>{};
#endif
    }
  }
  template <index_t width>
  using PackOf = typename decltype(pack_of<width>())::type;

  static constexpr index_t native = native_width<C>;
  static constexpr index_t widest = native == 1 ? 1 : 4 * native;
  /// The next narrower pack for what remains of a row: a register, then 16 bytes, then one element.
  static constexpr index_t narrower(index_t width) {
    constexpr index_t small = 16 / static_cast<index_t>(sizeof(C));
    return width > native ? native : width > small ? small : 1;
  }

  /// f(), with all that it calls inside where elements are packs: a call would move packs out of the registers.
  template <class F>
  static void inlined(F f) {
    if constexpr (has_packs<C>) {
      flattened(f);
    } else {
      f();
    }
  }
  template <class F>
  [[gnu::flatten]] static void flattened(F f) {
    f();
  }
  /// f(element) for packs of a row, the widest first.
  template <index_t width, class F>
  void packs_of_row(index_t matrix, index_t c, index_t columns, F f) const {
    for (; c + width <= columns; c += width) f(ElementCell<PackOf<width>>{lane_, matrix, 0, c});
    if constexpr (width > 1) {
      if (c < columns) packs_of_row<narrower(width)>(matrix, c, columns, f);
    }
  }

  template <class X>
  index_t rows(const Family<X>& f) const {
    return f.rows == all_keys ? lane_.keys : f.rows == block_rows ? block_.count : f.rows;
  }
  /// f(s) for the matrices of a family that belong to the segments at hand.
  template <class X, class F>
  void for_matrices(const Family<X>& x, F f) const {
    if (x.cut == Cut::whole || x.cut == Cut::every_key) return f(0);
    const bool steps = x.cut == Cut::steps || x.cut == Cut::step_queries || x.cut == Cut::states;
    for (index_t s = segments_.first; s < segments_.end; ++s) {
      const index_t first = steps ? lane_.first_step(s) : s,
                    end = steps ? lane_.end_step(s) : s + 1;
      for (index_t matrix = first; matrix < end; ++matrix) f(matrix);
    }
  }
  /// The rows of memory that a matrix takes.
  template <class X>
  Range row_range(const Family<X>& f, index_t s) const {
    const SeenSegment* x = lane_.segments;
    switch (f.cut) {
      case Cut::keys:
        return {x[s].first_key, x[s].end_key};
      case Cut::unseen_keys:
        return {x[s].end_key, x[s].next_key};
      case Cut::every_key:
        return {x[segments_.first].first_key, x[segments_.end - 1].next_key};
      case Cut::queries:
      case Cut::scores:
        return {x[s].first_query, x[s].end_query};
      case Cut::step_queries:
        return {lane_.first_query_of_step(s), lane_.end_query_of_step(s)};
      default:
        return {0, rows(f)};
    }
  }
  template <class X>
  Matrix<X> matrix(const Family<X>& f, index_t s) const {
    const Range range = row_range(f, s);
    const SeenSegment* x = lane_.segments;
    const index_t columns = f.cut == Cut::scores ? x[s].end_key - x[s].first_key : f.columns;
    return {f.at(lane_, s, range.first, 0), range.end - range.first, columns, f.row_stride};
  }

  template <class X, class A, class B>
  void product(index_t s, const Family<X>& c, const Family<A>& a, const Family<B>& b, bool add) {
    product(matrix(c, s), a.op, matrix(a, s), b.op, matrix(b, s), add);
  }
  template <class X, class A, class B>
  void product(const Matrix<X>& c, Op op_a, const Matrix<A>& a, Op op_b, const Matrix<B>& b,
               bool add) const {
    const index_t k = op_a == Op::none ? a.columns : a.rows;
    if (c.rows == 0 || c.columns == 0 || (add && k == 0)) return;
    team_.gemm(op_a, op_b, c.rows, c.columns, k, C(1), a.data, a.stride, b.data, b.stride,
               C(add ? 1 : 0), c.data, c.stride);
  }
  /// C_s = A_s^T B_s of keys and values. On the way it prefetches the keys after segment s.
  template <class X, class A, class B>
  void multiply_keys(const Family<X>& c, const Family<A>& a, const Family<B>& b) {
    constexpr index_t some = 16;  // rows of C at a time
    for_matrices(c, [&](index_t s) {
      const Matrix<X> all = matrix(c, s);
      const Matrix<A> x = matrix(a, s);
      const Matrix<B> y = matrix(b, s);
      const index_t share = (x.rows * some + all.rows - 1) / all.rows;
      index_t next = x.rows;
      const index_t end = std::min(2 * x.rows, lane_.keys - lane_.segments[s].first_key);
      for (index_t r = 0; r < all.rows; r += some) {
        for (const index_t stop = std::min(next + share, end); next < stop; ++next) {
          ask_for(team_, x.data + next * x.stride, x.columns);
          ask_for(team_, y.data + next * y.stride, y.columns);
        }
        const index_t rows = std::min(some, all.rows - r);
        product(Matrix<X>{all.data + r * all.stride, rows, all.columns, all.stride}, a.op,
                Matrix<A>{x.data + r, x.rows, rows, x.stride}, b.op, y, false);
      }
    });
  }
  /// All of X_s = A_s B as one product, spare rows included, where the matrices of A and X have the same pitch.
  template <class X, class A, class B>
  bool multiply_states(const Family<X>& c, const Family<A>& a, const Family<B>& b) {
    if (!has_vector_kernel<C> || c.cut != Cut::segments || a.cut != Cut::segments) return false;
    if (b.cut != Cut::whole || a.op != Op::none || lane_.seen == 0) return false;
    if (segments_.end - segments_.first < lane_.seen) return false;
    const index_t pitch = block_.count + spare_rows();
    if (c.matrix_stride != pitch * c.row_stride || a.matrix_stride != c.matrix_stride) return false;
    Family<X> all_c = c.cut_by(Cut::whole);
    Family<A> all_a = a.cut_by(Cut::whole);
    all_c.rows = all_a.rows = (lane_.seen - 1) * pitch + block_.count;
    product(0, all_c, all_a, b, false);
    return true;
  }

  /// Rows between one matrix of states and the next. The last pack of a matrix ends before the next matrix. Matrices
  /// begin where lines of the cache do, as far as their rows allow, and not a power of two from each other, which
  /// would put them all into a few sets of the cache.
  index_t spare_rows() const {
    constexpr index_t line = 64 / static_cast<index_t>(sizeof(C));
    const index_t D = limits_.head_size, count = block_.count * D;
    const index_t packed = (count + widest - 1) / widest * widest;
    index_t rows = (packed - count + D - 1) / D;
    if (rows == 0) rows = 1;
    if (line > 1 && D < line) {
      while ((block_.count + rows) * D % line != 0) ++rows;
    }
    return rows;
  }
  C* take(index_t n) {
    constexpr index_t line =
        widest == 1 ? 1 : std::max<index_t>(widest, 64 / static_cast<index_t>(sizeof(C)));
    C* here = scratch_ == nullptr ? nullptr : scratch_ + used_;
    used_ += (n + line - 1) / line * line;
    return here;
  }

  Team team_;
  LaneLimits limits_;
  Lane lane_;
  C* scratch_;
  index_t used_ = 0;
  RowBlock block_;  // the rows of the states at hand
  Range segments_;  // the segments at hand
  C* notes_;
};

// ------------------------------------------------------------------------------- 4  run_lanes

/// The lane of source b and head h; fills `segments` with those that some of `queries` queries see.
inline Lane make_lane(const SegmentRule& rule, index_t b, index_t h, index_t queries,
                      bool step_per_query, SeenSegment* segments) {
  const Lane lane{b, h, rule.length, queries, rule.visited(queries), step_per_query, segments};
  for (index_t s = 0, j = 0; s < lane.seen; ++s) {
    const index_t next = rule.next_visited(j, queries), next_key = rule.first_key(next);
    segments[s] = {rule.first_key(j),
                   rule.end_key(j),
                   std::min(next_key, rule.length),
                   rule.first_query(j),
                   rule.end_query(j, queries),
                   j};
    j = next;
  }
  return lane;
}

/// Runs a program for one lane. Of a team with several members the first does all the work.
template <class C, class Lanes, class Program>
struct RunLane {
  LaneLimits limits;
  Lanes lanes;
  Program program;
  index_t table_bytes;

  template <class Team>
  void operator()(const Team& team, index_t index, void* scratch) const {
    if constexpr (std::is_base_of_v<SerialTeam, Team>) {
      run(team, index, scratch);
    } else {
      if (team.leader()) run(SerialTeam{}, index, scratch);
      team.sync();
    }
  }

 private:
  template <class Team>
  void run(const Team& team, index_t index, void* scratch) const {
    const Lane lane = lanes(index, static_cast<SeenSegment*>(scratch));
    void* rest = static_cast<std::byte*>(scratch) + table_bytes;
    LaneExecutor<C, Team> on(limits, static_cast<C*>(rest), lane, team);
    program(on);
  }
};

/// Calls program(on) for every lane in parallel, with a LaneExecutor of it.
///   lanes(index, segments)  makes lane `index`
///   measure(on)             takes the memory that the program takes
template <class C, class B, class Lanes, class Measure, class Program>
void run_lanes(B& be, index_t count, const LaneLimits& limits, Lanes lanes, Measure measure,
               Program program) {
  LaneExecutor<C> counter(limits);
  measure(counter);
  const index_t table = (limits.seen * index_t{sizeof(SeenSegment)} + 63) / 64 * 64;
  be.for_each_row(count, table + counter.used() * index_t{sizeof(C)},
                  RunLane<C, Lanes, Program>{limits, lanes, program, table});
}

}  // namespace srformer::SRF_DETAIL
