// SPDX-License-Identifier: Apache-2.0
// Teams: who works on one row.
//
// A row functor is called as f(team, row) or f(team, row, scratch) and does its work through the
// team alone, so that the same text runs on a CPU core (SerialTeam, whose loops vectorise), on
// several threads in lockstep (testing/thread_team.hpp) and on a CUDA block. What a team offers:
//
//   for_each(n, f)        f(i) for i in [0,n), independent of each other; ends with a barrier
//   sum<A>(n, f)          the sum of f(i) in type A, the same value for every member
//   max(n, start, f)      the largest of start and f(i)
//   gemm(...)             C = alpha op(A) op(B) + beta C, row-major; ends with a barrier
//   leader()              true for one member: who writes what is written once
//   sync()                a barrier
#pragma once

#include <srformer/backend/gemm.hpp>
#include <srformer/core/scalar.hpp>

namespace srformer {

inline namespace SRF_TARGET {

/// Two sums at once: what f gives to team.sum<SumPair<A>>(n, f).
template <class A>
struct SumPair {
  A first{}, second{};
  SumPair() = default;
  SRF_HD explicit SumPair(int) : first(0), second(0) {}
  SRF_HD SumPair(const A& f, const A& s) : first(f), second(s) {}
  SRF_HD friend SumPair operator+(const SumPair& a, const SumPair& b) {
    return {a.first + b.first, a.second + b.second};
  }
};

}  // namespace SRF_TARGET

namespace SRF_DETAIL {
template <class A>
inline constexpr bool is_pair_of_floats = false;
template <class A>
inline constexpr bool is_pair_of_floats<SumPair<A>> = std::is_floating_point_v<A>;
}  // namespace SRF_DETAIL

inline namespace SRF_TARGET {

/// A team of one: a CPU core.
struct SerialTeam {
  template <class F>
  SRF_HD void for_each(index_t n, F f) const {
    SRF_INDEPENDENT
    for (index_t i = 0; i < n; ++i) f(i);
  }

  /// Sixteen partial sums, so that the loop vectorises and the result is the same on every CPU.
  template <class A, class F>
  SRF_HD A sum(index_t n, F f) const {
    if constexpr (std::is_floating_point_v<A>) {
      constexpr index_t lanes = 16;
      A part[lanes] = {};
      const index_t whole = n - n % lanes;
      for (index_t i = 0; i < whole; i += lanes) {
        for (index_t lane = 0; lane < lanes; ++lane) part[lane] += f(i + lane);
      }
      for (index_t i = whole; i < n; ++i) part[i - whole] += f(i);
      for (index_t step = lanes / 2; step > 0; step /= 2) {
        for (index_t lane = 0; lane < step; ++lane) part[lane] += part[lane + step];
      }
      return part[0];
    } else if constexpr (detail::is_pair_of_floats<A>) {
      constexpr index_t lanes = 16;
      decltype(A::first) first[lanes] = {}, second[lanes] = {};
      const index_t whole = n - n % lanes;
      for (index_t i = 0; i < whole; i += lanes) {
        SRF_INDEPENDENT
        for (index_t lane = 0; lane < lanes; ++lane) {
          const A x = f(i + lane);
          first[lane] += x.first;
          second[lane] += x.second;
        }
      }
      for (index_t i = whole; i < n; ++i) {
        const A x = f(i);
        first[i - whole] += x.first;
        second[i - whole] += x.second;
      }
      for (index_t step = lanes / 2; step > 0; step /= 2) {
        for (index_t lane = 0; lane < step; ++lane) {
          first[lane] += first[lane + step];
          second[lane] += second[lane + step];
        }
      }
      return {first[0], second[0]};
    } else {
      A total(0);
      for (index_t i = 0; i < n; ++i) total = total + f(i);
      return total;
    }
  }

  template <class A, class F>
  SRF_HD A max(index_t n, A start, F f) const {
    if constexpr (std::is_floating_point_v<A>) {
      constexpr index_t lanes = 16;
      A part[lanes];
      for (index_t lane = 0; lane < lanes; ++lane) part[lane] = start;
      const index_t whole = n - n % lanes;
      for (index_t i = 0; i < whole; i += lanes) {
        for (index_t lane = 0; lane < lanes; ++lane) {
          const A x = f(i + lane);
          part[lane] = part[lane] < x ? x : part[lane];
        }
      }
      for (index_t i = whole; i < n; ++i) part[0] = math::max(part[0], f(i));
      for (index_t lane = 1; lane < lanes; ++lane) part[0] = math::max(part[0], part[lane]);
      return part[0];
    } else {
      A top = start;
      for (index_t i = 0; i < n; ++i) top = math::max(top, A(f(i)));
      return top;
    }
  }

  template <class TA, class TB, class TC>
  SRF_HD void gemm(Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k,
                   std::type_identity_t<compute_t<TC>> alpha, const TA* a, index_t lda, const TB* b,
                   index_t ldb, std::type_identity_t<compute_t<TC>> beta, TC* c,
                   index_t ldc) const {
#if !defined(__CUDA_ARCH__)
    small_gemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
#endif
  }

  SRF_HD constexpr bool leader() const { return true; }
  SRF_HD void sync() const {}
};

}  // namespace SRF_TARGET

/// Asks for x[0..n), which will be read soon, where memory can be asked.
template <class Team, class T>
SRF_HD void ask_for([[maybe_unused]] const Team& team, [[maybe_unused]] const T* x,
                    [[maybe_unused]] index_t n) {
#if (defined(__GNUC__) || defined(__clang__)) && !defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<Team, SerialTeam>) {
    constexpr index_t line = std::max<index_t>(1, 64 / sizeof(T));
    for (index_t i = 0; i < n; i += line) __builtin_prefetch(x + i, 0, 2);
  }
#endif
}

namespace SRF_DETAIL {

/// Where the matrices of a batch are that follow each other, `size` elements apart.
template <class T>
struct Following {
  T* data;
  index_t size;
  SRF_HD T* operator()(index_t i) const { return data + i * size; }
};

template <class F>
inline constexpr bool follows = false;
template <class T>
inline constexpr bool follows<Following<T>> = true;

/// Product i of a batch, by a team: C_i = alpha op(A_i) op(B_i) + beta C_i. Each of a, b and c says where its
/// matrix i is.
template <class A, class B, class C>
struct GemmOfBatch {
  using Scalar = compute_t<std::remove_pointer_t<std::invoke_result_t<C, index_t>>>;
  Op transpose_a, transpose_b;
  index_t m, n, k;
  Scalar alpha;
  A a;
  index_t lda;
  B b;
  index_t ldb;
  Scalar beta;
  C c;
  index_t ldc;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t i, void*) const {
    team.gemm(transpose_a, transpose_b, m, n, k, alpha, a(i), lda, b(i), ldb, beta, c(i), ldc);
  }
};

/// C = alpha op(A) op(B) + beta C by a team of Across x Down members, of which `rank` is one: tiles of
/// A and B go through memory that the team shares, the next ones on their way from memory while a product
/// is summed. Ends with a barrier.
template <class C, int Across, int Down>
struct TiledGemm {
  static constexpr int rows = 32, columns = 64, members = Across * Down;
  static constexpr int depth = sizeof(C) <= 8 ? 16 : 8;
  static constexpr int high = rows / Down, wide = columns / Across;
  static_assert(rows * depth % members == 0);

  /// Rows of the tiles are one longer than they need be, so that columns fall on different banks.
  struct Tiles {
    C a[depth][rows + 1], b[depth][columns + 1];
  };

  /// What one member moves from op(X), `side` rows or columns of it, into a tile: neighbours read neighbouring
  /// elements, whichever way X lies, which is along its depth or across.
  template <class T, unsigned side>
  struct Mover {
    static constexpr int share = side * depth / members;
    const T* x;
    index_t stride, end, depth_end;  // of X; its rows and its depth that exist
    bool along;
    unsigned rank;
    C held[share] = {};

    // Unsigned, so that what does not depend on e is seen not to.
    SRF_HD unsigned at(int e) const { return rank + static_cast<unsigned>(e * members); }
    SRF_HD unsigned place(int e) const { return along ? at(e) / depth : at(e) % side; }
    SRF_HD unsigned level(int e) const { return along ? at(e) % depth : at(e) / side; }
    SRF_HD void fetch(index_t first, index_t p0) {
      const T* from = along ? x + first * stride + p0 : x + p0 * stride + first;
      const index_t places = end - first, levels = depth_end - p0;
      for (int e = 0; e < share; ++e) {
        const index_t i = place(e), p = level(e);
        held[e] =
            i < places && p < levels ? C(from[along ? i * stride + p : p * stride + i]) : C(0);
      }
    }
    SRF_HD void store(C (*tile)[side + 1]) const {
      for (int e = 0; e < share; ++e) tile[level(e)][place(e)] = held[e];
    }
  };

  template <class TA, class TB, class TC, class Sync>
  static SRF_HD void run(index_t rank, Tiles& tiles, Sync sync, Op transpose_a, Op transpose_b,
                         index_t m, index_t n, index_t k, C alpha, const TA* a, index_t lda,
                         const TB* b, index_t ldb, C beta, TC* c, index_t ldc) {
    const int member = static_cast<int>(rank), x = member % Across, y = member / Across;
    const auto first = static_cast<unsigned>(rank);
    Mover<TA, rows> from_a{a, lda, m, k, transpose_a == Op::none, first};
    Mover<TB, columns> from_b{b, ldb, n, k, transpose_b == Op::transpose, first};
    for (index_t i0 = 0; i0 < m; i0 += rows) {
      for (index_t j0 = 0; j0 < n; j0 += columns) {
        C sum[high][wide];
        for (int r = 0; r < high; ++r) {
          for (int q = 0; q < wide; ++q) sum[r][q] = C(0);
        }
        from_a.fetch(i0, 0), from_b.fetch(j0, 0);
        for (index_t p0 = 0; p0 < k; p0 += depth) {
          from_a.store(tiles.a), from_b.store(tiles.b);
          sync();
          if (p0 + depth < k) from_a.fetch(i0, p0 + depth), from_b.fetch(j0, p0 + depth);
          for (int s = 0; s < depth; ++s) {
            C right[wide];
            for (int q = 0; q < wide; ++q) right[q] = tiles.b[s][x + Across * q];
            for (int r = 0; r < high; ++r) {
              const C left = tiles.a[s][y + Down * r];
              for (int q = 0; q < wide; ++q) sum[r][q] = sum[r][q] + left * right[q];
            }
          }
          sync();
        }
        for (int r = 0; r < high; ++r) {
          for (int q = 0; q < wide; ++q) {
            const index_t i = i0 + y + Down * r, j = j0 + x + Across * q;
            if (i >= m || j >= n) continue;
            TC& out = c[i * ldc + j];
            const C product = alpha * sum[r][q];
            out = TC(math::zero(beta) ? product : product + beta * C(out));
          }
        }
      }
    }
    sync();
  }
};

}  // namespace SRF_DETAIL

}  // namespace srformer
