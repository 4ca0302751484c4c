// SPDX-License-Identifier: Apache-2.0
// Recurrent accumulate-and-fire (RAF): leak, threshold, soft reset, cell by cell.
//
//   U_j = leak Mem_{j-1} + X_j,   u = U_j / threshold - 1
//   R_j = max(u, 0),              Mem_j = U_j - threshold [u > 0],   Mem_{-1} = 0
//
// with g_j = [u > 0] at step j, which has no gradient of its own, in reverse:
//
//   dU_j        = g_j dR_j / threshold + dMem_j
//   dleak      += sum dU_j Mem_{j-1}
//   dthreshold += sum g_j (-dR_j U_j / threshold^2 - dMem_j)
//   dMem_{j-1}  = leak dU_j,   dX_j = dU_j
//
// Binary firing, an option: R_j = [u > 0]. What stands for dR/du is then 0.3 max(0, 1 - |u|) (Bellec et
// al. 2018), in the place of g_j before dR_j; the reset keeps no gradient.
#pragma once

#include <srformer/attention/attend.hpp>
#include <srformer/backend/tensor.hpp>

namespace srformer {

/// The two learned scalars of a layer.
template <class C>
struct RafScalars {
  C leak, threshold;
  bool binary_firing = false;
};

struct RafOptions {
  bool binary_firing = false;
};

namespace SRF_DETAIL {

// Of one cell. V is C, or a pack of neighbouring cells.

/// What U leaves in the membrane: U - threshold [u > 0], with u = over.
template <class V, class C>
SRF_HD V after_reset_where(const V& over, const V& u, const RafScalars<C>& raf) {
  return where_above(over, C(0), V(u - raf.threshold), u);
}
template <class V, class C>
SRF_HD V after_reset(const V& u, const RafScalars<C>& raf, const C& inverse) {
  return after_reset_where(V(u * inverse - C(1)), u, raf);
}

/// max(u, 0), or binary [u > 0], of u = U / threshold - 1.
template <bool binary, class V, class C>
SRF_HD V fired(const V& u, const C& inverse) {
  const V over = V(u * inverse - C(1));
  if constexpr (binary) return where_above(over, C(0), V(C(1)), V(C(0)));
  return where_above(over, C(0), over, V(C(0)));
}

/// d times what stands for the derivative of R at u = over: [u > 0], or binary 0.3 max(0, 1 - |u|).
template <class C, bool binary, class V>
SRF_HD V through_firing(const V& over, const V& d) {
  const V none(C(0));
  if constexpr (!binary) return where_above(over, C(0), d, none);
  const V below = V(C(1) - where_above(over, C(0), over, V(none - over)));
  return where_above(below, C(0), V(V(C(0.3) * below) * d), none);
}

/// Calls f(std::bool_constant<binary>{}) for the way of firing.
template <class C, class F>
SRF_HD auto with_firing(const RafScalars<C>& raf, F f) {
  return raf.binary_firing ? f(std::true_type{}) : f(std::false_type{});
}

/// One step of all cells: x(c) is X_j of a cell, membrane is Mem_{j-1} and becomes Mem_j; r receives R_j
/// and u receives U_j, each unless it is null.
template <class Team, class C, class X>
SRF_HD void raf_step(const Team& team, index_t cells, const RafScalars<C>& raf, X x, C* membrane,
                     C* r, C* u) {
  const C inverse = C(1) / raf.threshold;
  const RafScalars<C> s = raf;
  const auto step = [=](auto keep_r, auto keep_u) {
    with_firing(raf, [=](auto binary) {
      team.for_each(cells, [=](index_t c) {
        const C now = s.leak * membrane[c] + x(c);
        if constexpr (keep_u.value) u[c] = now;
        if constexpr (keep_r.value) r[c] = fired<binary.value>(now, inverse);
        membrane[c] = after_reset(now, s, inverse);
      });
    });
  };
  if (u == nullptr) return step(std::true_type{}, std::false_type{});
  if (r == nullptr) return step(std::false_type{}, std::true_type{});
  step(std::true_type{}, std::true_type{});
}

/// Gradients of the two scalars.
template <class C>
struct RafScalarGradients {
  C leak, threshold;
};

/// What one step of one cell gives to the step before it, to its input, to leak and, with a minus sign, to threshold.
template <class V>
struct RafCellGradients {
  V d_membrane, d_x, leak, minus_threshold;
};

/// One step of one cell back: relative is U_j / threshold, membrane is Mem_{j-1}, d_membrane is dMem_j.
template <bool binary, class V, class C>
SRF_HD RafCellGradients<V> raf_cell_backward(const RafScalars<C>& raf, const C& inverse,
                                             const V& relative, const V& membrane, const V& d_r,
                                             const V& d_membrane) {
  const V over = V(relative - C(1));
  const V through = through_firing<C, binary>(over, V(inverse * d_r));
  const V reset = where_above(over, C(0), d_membrane, V(C(0)));
  const V d_u = V(through + d_membrane);
  return {V(raf.leak * d_u), d_u, V(d_u * membrane), V(through * relative + reset)};
}

// Of one cell through all steps; `at` says which steps a segment has.

/// The recurrence as a place for X_s: what is set for the segments, in order, gives R_t of their steps, and U_t where
/// `keep_u`.
template <bool binary, class At, class U, class R>
struct RecurrenceOfCell {
  using V = typename At::Value;
  using C = typename At::C;
  const At& at;
  RafScalars<C> raf;
  U u;
  R r;
  bool keep_u;
  C inverse = C(1) / raf.threshold;
  V membrane = V(C(0));

  SRF_HD void set(index_t s, const V& x) {
    for (index_t t = at.first_step(s); t < at.end_step(s); ++t) {
      const V now = V(raf.leak * membrane + x);
      if (keep_u) u.set(t, now);
      r.set(t, fired<binary>(now, inverse));
      membrane = after_reset(now, raf, inverse);
    }
  }
};
template <bool binary, class At, class C, class U, class R>
SRF_HD RecurrenceOfCell<binary, At, U, R> recurrence(const At& at, const RafScalars<C>& raf,
                                                     const U& u, const R& r, bool keep_u) {
  return {at, raf, u, r, keep_u};
}

/// In reverse: calls give(s, dX_s) for the segments, the last first, from dR_t; dX_s is the sum over the steps of s.
/// Returns what the cell gives to leak and threshold.
template <bool binary, class At, class C, class U, class R, class Give>
SRF_HD SumPair<typename At::Value> recurrence_backward(const At& at, const RafScalars<C>& raf,
                                                       const U& u, const R& d_r, Give give) {
  using V = typename At::Value;
  const C inverse = C(1) / raf.threshold;
  const V none(C(0));
  V d_membrane = none, leak = none, threshold = none;
  V relative = at.steps() > 0 ? V(u[at.steps() - 1] * inverse) : none;
  for (index_t s = at.segments() - 1; s >= 0; --s) {
    V sum = none;
    for (index_t t = at.end_step(s) - 1; t >= at.first_step(s); --t) {
      const V before = t > 0 ? u[t - 1] : none;  // U of 0 leaves a membrane of 0
      const V relative_before = V(before * inverse);
      const V membrane = after_reset_where(V(relative_before - C(1)), before, raf);
      const auto d =
          raf_cell_backward<binary>(raf, inverse, relative, membrane, V(d_r[t]), d_membrane);
      d_membrane = d.d_membrane;
      leak = V(leak + d.leak), threshold = V(threshold - d.minus_threshold);
      sum = V(sum + d.d_x);
      relative = relative_before;
    }
    give(s, sum);
  }
  return {leak, threshold};
}

/// What one step back reads, of all cells: U_j, U_{j-1}, null for the first step, and dR_j.
template <class C>
struct RafStepBack {
  const C *u, *before, *d_r;
};

/// One step back: d_membrane is dMem_j and becomes dMem_{j-1}; d_x receives dX_j (may be u or d_r).
template <class Team, class C>
SRF_HD RafScalarGradients<C> raf_step_backward(const Team& team, index_t cells,
                                               const RafScalars<C>& raf, const RafStepBack<C>& step,
                                               C* d_membrane, C* d_x) {
  const C *u = step.u, *d_r = step.d_r, *previous = step.before != nullptr ? step.before : u;
  const C inverse = C(1) / raf.threshold, started(step.before != nullptr ? 1 : 0);
  const RafScalars<C> s = raf;
  const auto sums = with_firing(raf, [=](auto binary) {
    return team.template sum<SumPair<C>>(cells, [=](index_t c) {
      const auto d = raf_cell_backward<binary.value>(s, inverse, C(u[c] * inverse),
                                                     after_reset(previous[c], s, inverse), d_r[c],
                                                     d_membrane[c]);
      d_x[c] = d.d_x;
      d_membrane[c] = d.d_membrane;
      return SumPair<C>(d.leak, -d.minus_threshold);
    });
  });
  return {started * sums.first, sums.second};
}

/// Cells that one row of the functors takes.
inline constexpr index_t raf_cells = 512;

template <class T>
struct RafForward {
  const T* x;
  T *r, *u;
  const T *leak, *threshold;
  index_t steps, cells;
  RafOptions options;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void* scratch) const {
    const index_t first = row * raf_cells,
                  n = cells - first < raf_cells ? cells - first : raf_cells;
    const RafScalars<T> raf{leak[0], threshold[0], options.binary_firing};
    T* membrane = static_cast<T*>(scratch);
    team.for_each(n, [=](index_t c) { membrane[c] = T(0); });
    for (index_t j = 0; j < steps; ++j) {
      const index_t at = j * cells + first;
      const T* now = x + at;
      raf_step<Team, T>(
          team, n, raf, [=](index_t c) { return now[c]; }, membrane, r + at, u + at);
    }
  }
};

template <class T>
struct RafBackward {
  const T *u, *leak, *threshold, *d_r;
  T *d_x, *partial;  // partial [rows, 2]
  index_t steps, cells;
  RafOptions options;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void* scratch) const {
    const index_t first = row * raf_cells,
                  n = cells - first < raf_cells ? cells - first : raf_cells;
    const RafScalars<T> raf{leak[0], threshold[0], options.binary_firing};
    T *d_membrane = static_cast<T*>(scratch), *d_now = d_membrane + raf_cells;
    team.for_each(n, [=](index_t c) { d_membrane[c] = T(0); });
    T d_leak(0), d_threshold(0);
    for (index_t j = steps - 1; j >= 0; --j) {
      const index_t at = j * cells + first;
      const RafStepBack<T> step{u + at, j > 0 ? u + at - cells : nullptr, d_r + at};
      const auto d = raf_step_backward(team, n, raf, step, d_membrane, d_now);
      T* out = d_x + at;
      team.for_each(n, [=](index_t c) { out[c] = out[c] + d_now[c]; });
      d_leak = d_leak + d.leak;
      d_threshold = d_threshold + d.threshold;
    }
    if (team.leader()) partial[2 * row] = d_leak, partial[2 * row + 1] = d_threshold;
  }
};

/// total_0 += sum of partial[i, 0], total_1 += sum of partial[i, 1], in order.
template <class T>
struct AddPairs {
  const T* partial;
  T *total_0, *total_1;
  index_t count;
  SRF_HD void operator()(index_t which) const {
    T* total = which == 0 ? total_0 : total_1;
    for (index_t i = 0; i < count; ++i) total[0] = total[0] + partial[2 * i + which];
  }
};

/// Throws where a threshold in host memory is exactly zero.
template <class Space, class T>
void check_threshold(const char* function, const T* threshold) {
  if constexpr (std::is_same_v<Space, host_space>) {
    require(!math::zero(compute_t<T>(threshold[0])), function, "the threshold is exactly zero");
  }
}

}  // namespace SRF_DETAIL

/// The learned scalars, [1] each.
template <class B, class T>
struct RafParameters {
  In<B, T, 1> leak, threshold;
};

/// The gradient of r, and those to which backward adds.
template <class B, class T>
struct RafGradients {
  In<B, T, 2> d_r;
  Out<B, T, 2> d_x;
  Out<B, T, 1> d_leak, d_threshold;
};

/// r = RAF(x), paper equations 4 to 6.
///   x, r, u [steps, cells] contiguous; u is U_j, saved for backward
/// T computes in itself: the state of the recurrence is never narrow.
/// Errors: a threshold of exactly zero. Cost O(steps cells); parallel over cells; deterministic.
template <class B, class T>
requires BackendFor<B, T>
void raf_forward(B& be, In<B, T, 2> x, const RafParameters<B, T>& parameters,
                 const RafOptions& options, View<T, 2, typename B::space> r,
                 View<T, 2, typename B::space> u) {
  static_assert(std::is_same_v<T, compute_t<T>>,
                "the recurrence keeps its state in a wide type: use float for half and bfloat16");
  check_shape("raf_forward", "r", "[steps,cells]", r.extents, x.extents);
  check_shape("raf_forward", "u", "[steps,cells]", u.extents, x.extents);
  const T *leak = parameters.leak.data, *threshold = parameters.threshold.data;
  detail::check_threshold<typename B::space>("raf_forward", threshold);
  const index_t rows = (x.extent(1) + detail::raf_cells - 1) / detail::raf_cells;
  be.for_each_row(rows, detail::raf_cells * static_cast<index_t>(sizeof(T)),
                  detail::RafForward<T>{x.data, r.data, u.data, leak, threshold, x.extent(0),
                                        x.extent(1), options});
}

/// The gradients in d += those through raf_forward. The derivative at u = 0 is 0.
template <class B, class T>
requires BackendFor<B, T>
void raf_backward(B& be, In<B, T, 2> u, const RafParameters<B, T>& parameters,
                  const RafOptions& options, const RafGradients<B, T>& d) {
  check_shape("raf_backward", "d_r", "[steps,cells]", d.d_r.extents, u.extents);
  check_shape("raf_backward", "d_x", "[steps,cells]", d.d_x.extents, u.extents);
  const T *leak = parameters.leak.data, *threshold = parameters.threshold.data;
  detail::check_threshold<typename B::space>("raf_backward", threshold);
  const index_t rows = (u.extent(1) + detail::raf_cells - 1) / detail::raf_cells;
  Tensor<B, T, 2> partial(be, {rows, 2});
  be.for_each_row(rows, 2 * detail::raf_cells * static_cast<index_t>(sizeof(T)),
                  detail::RafBackward<T>{u.data, leak, threshold, d.d_r.data, d.d_x.data,
                                         partial.data(), u.extent(0), u.extent(1), options});
  be.for_each(2, detail::AddPairs<T>{partial.data(), d.d_leak.data, d.d_threshold.data, rows});
}

}  // namespace srformer
