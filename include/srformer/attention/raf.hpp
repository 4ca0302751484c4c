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
#pragma once

#include <srformer/attention/attend.hpp>
#include <srformer/backend/tensor.hpp>

namespace srformer {

/// The two learned scalars of a layer.
template <class C>
struct RafScalars {
  C leak, threshold;
};

namespace detail {

/// What U leaves in the membrane: U - threshold [U / threshold > 1].
template <class C>
SRF_HD C after_reset(const C& u, const RafScalars<C>& raf, const C& inverse) {
  return primal(u * inverse - C(1)) > 0 ? u - raf.threshold : u;
}

/// max(U / threshold - 1, 0).
template <class C>
SRF_HD C fired(const C& u, const C& inverse) {
  const C over = u * inverse - C(1);
  return primal(over) > 0 ? over : C(0);
}

/// One step of all cells: membrane is Mem_{j-1} and becomes Mem_j; u, where given, receives U_j.
template <class Team, class C>
SRF_HD void raf_step(const Team& team, index_t cells, const RafScalars<C>& raf, const C* x,
                     C* membrane, C* r, C* u) {
  const C inverse = C(1) / raf.threshold;
  const RafScalars<C> s = raf;
  if (u != nullptr) {
    team.for_each(cells, [=](index_t c) { u[c] = s.leak * membrane[c] + x[c]; });
  }
  team.for_each(cells, [=](index_t c) {
    const C now = s.leak * membrane[c] + x[c];
    r[c] = fired(now, inverse);
    membrane[c] = after_reset(now, s, inverse);
  });
}

/// Gradients of the two scalars.
template <class C>
struct RafGradients {
  C leak, threshold;
};

/// One step back: d_membrane is dMem_j and becomes dMem_{j-1}; d_x receives dX_j (may be u).
///   u, before   U_j and U_{j-1}, null for the first step;  d_r  dR_j
template <class Team, class C>
SRF_HD RafGradients<C> raf_step_backward(const Team& team, index_t cells, const RafScalars<C>& raf,
                                         const C* u, const C* before, const C* d_r, C* d_membrane,
                                         C* d_x) {
  const C inverse = C(1) / raf.threshold;
  const RafScalars<C> s = raf;
  RafGradients<C> d{C(0), C(0)};
  d.threshold = team.template sum<C>(cells, [=](index_t c) {
    const C pull = -(d_r[c] * u[c] * inverse * inverse) - d_membrane[c];
    return primal(u[c] * inverse - C(1)) > 0 ? pull : C(0);
  });
  team.for_each(cells, [=](index_t c) {
    const C through = primal(u[c] * inverse - C(1)) > 0 ? d_r[c] * inverse : C(0);
    const C d_u = through + d_membrane[c];
    d_x[c] = d_u;
    d_membrane[c] = s.leak * d_u;
  });
  if (before != nullptr) {
    d.leak = team.template sum<C>(
        cells, [=](index_t c) { return d_x[c] * after_reset(before[c], s, inverse); });
  }
  return d;
}

/// Cells that one row of the functors takes.
inline constexpr index_t raf_cells = 512;

template <class T>
struct RafForward {
  const T* x;
  T *r, *u;
  const T *leak, *threshold;
  index_t steps, cells;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void* scratch) const {
    const index_t first = row * raf_cells,
                  n = cells - first < raf_cells ? cells - first : raf_cells;
    const RafScalars<T> raf{leak[0], threshold[0]};
    T* membrane = static_cast<T*>(scratch);
    team.for_each(n, [=](index_t c) { membrane[c] = T(0); });
    for (index_t j = 0; j < steps; ++j) {
      const index_t at = j * cells + first;
      raf_step<Team, T>(team, n, raf, x + at, membrane, r + at, u + at);
    }
  }
};

template <class T>
struct RafBackward {
  const T *u, *leak, *threshold, *d_r;
  T *d_x, *partial;  // partial [rows, 2]
  index_t steps, cells;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void* scratch) const {
    const index_t first = row * raf_cells,
                  n = cells - first < raf_cells ? cells - first : raf_cells;
    const RafScalars<T> raf{leak[0], threshold[0]};
    T *d_membrane = static_cast<T*>(scratch), *d_now = d_membrane + raf_cells;
    team.for_each(n, [=](index_t c) { d_membrane[c] = T(0); });
    T d_leak(0), d_threshold(0);
    for (index_t j = steps - 1; j >= 0; --j) {
      const index_t at = j * cells + first;
      const auto d = raf_step_backward<Team, T>(
          team, n, raf, u + at, j > 0 ? u + at - cells : nullptr, d_r + at, d_membrane, d_now);
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
    require(primal(compute_t<T>(threshold[0])) != 0, function, "the threshold is exactly zero");
  }
}

}  // namespace detail

/// r = RAF(x), paper equations 4 to 6.
///   x, r, u [steps, cells] contiguous; u is U_j, saved for backward; leak, threshold [1]
/// T computes in itself: the state of the recurrence is never narrow.
/// Errors: a threshold of exactly zero. Cost O(steps cells); parallel over cells; deterministic.
template <class B, class T>
requires BackendFor<B, T>
void raf_forward(B& be, In<B, T, 2> x, In<B, T, 1> leak, In<B, T, 1> threshold,
                 View<T, 2, typename B::space> r, View<T, 2, typename B::space> u) {
  static_assert(std::is_same_v<T, compute_t<T>>,
                "the recurrence keeps its state in a wide type: use float for half and bfloat16");
  check_shape("raf_forward", "r", "[steps,cells]", r.extents, x.extents);
  check_shape("raf_forward", "u", "[steps,cells]", u.extents, x.extents);
  detail::check_threshold<typename B::space>("raf_forward", threshold.data);
  const index_t rows = (x.extent(1) + detail::raf_cells - 1) / detail::raf_cells;
  be.for_each_row(rows, detail::raf_cells * static_cast<index_t>(sizeof(T)),
                  detail::RafForward<T>{x.data, r.data, u.data, leak.data, threshold.data,
                                        x.extent(0), x.extent(1)});
}

/// d_x, d_leak, d_threshold += the gradients through raf_forward. The derivative at u = 0 is 0.
template <class B, class T>
requires BackendFor<B, T>
void raf_backward(B& be, In<B, T, 2> u, In<B, T, 1> leak, In<B, T, 1> threshold, In<B, T, 2> d_r,
                  View<T, 2, typename B::space> d_x, View<T, 1, typename B::space> d_leak,
                  View<T, 1, typename B::space> d_threshold) {
  check_shape("raf_backward", "d_r", "[steps,cells]", d_r.extents, u.extents);
  check_shape("raf_backward", "d_x", "[steps,cells]", d_x.extents, u.extents);
  detail::check_threshold<typename B::space>("raf_backward", threshold.data);
  const index_t rows = (u.extent(1) + detail::raf_cells - 1) / detail::raf_cells;
  Tensor<B, T, 2> partial(be, {rows, 2});
  be.for_each_row(rows, 2 * detail::raf_cells * static_cast<index_t>(sizeof(T)),
                  detail::RafBackward<T>{u.data, leak.data, threshold.data, d_r.data, d_x.data,
                                         partial.data(), u.extent(0), u.extent(1)});
  be.for_each(2, detail::AddPairs<T>{partial.data(), d_leak.data, d_threshold.data, rows});
}

}  // namespace srformer
