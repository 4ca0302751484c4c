// SPDX-License-Identifier: Apache-2.0
// Cross-entropy with label smoothing, as transformers' LabelSmoother has it:
//
//   lse_r = log sum_v exp(z_rv)
//   loss_r = (1 - eps)(lse_r - z_r,y) + eps (lse_r - mean_v z_rv)
//   dz_rv += s_r (exp(z_rv - lse_r) - (1 - eps)[v = y_r] - eps / V)
//
// Rows whose label is negative (-100) count for nothing. Sums are not divided: the caller divides by
// the tokens of the whole step, which makes accumulation over batches exact.
#pragma once

#include <cstdint>

#include <srformer/backend/tensor.hpp>

namespace srformer {

namespace SRF_DETAIL {

template <class T>
struct CrossEntropyForward {
  const T* logits;
  const std::int32_t* labels;
  compute_t<T>*lse, *loss;
  index_t columns;
  double smoothing;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    using C = compute_t<T>;
    const T* z = logits + row * columns;
    const std::int32_t label = labels[row];
    if (label < 0) {
      if (team.leader()) lse[row] = C(0), loss[row] = C(0);
      return;
    }
    const C top = team.max(columns, C(z[0]), [=](index_t v) { return C(z[v]); });
    const C total =
        team.template sum<C>(columns, [=](index_t v) { return math::exp(C(z[v]) - top); });
    const C log_sum = top + math::log(total);
    C value = (C(1) - C(smoothing)) * (log_sum - C(z[label]));
    if (smoothing > 0) {
      const C sum = team.template sum<C>(columns, [=](index_t v) { return C(z[v]); });
      value = value + C(smoothing) * (log_sum - sum / C(static_cast<double>(columns)));
    }
    if (team.leader()) lse[row] = log_sum, loss[row] = value;
  }
};

template <class T>
struct CrossEntropyBackward {
  const T* logits;
  const std::int32_t* labels;
  const compute_t<T>* lse;
  T* d_logits;
  index_t columns;
  double smoothing, scale;
  bool overwrite;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    using C = compute_t<T>;
    const T* z = logits + row * columns;
    T* d_z = d_logits + row * columns;
    const std::int32_t label = labels[row];
    const C s = label < 0 ? C(0) : C(scale), log_sum = lse[row];
    const C even = C(smoothing / static_cast<double>(columns));
    const bool over = overwrite;
    if (label < 0) {
      if (over) team.for_each(columns, [=](index_t v) { d_z[v] = T(C(0)); });
      return;
    }
    // Where the label is all but certain, 1 is taken off before anything is rounded to T.
    const C others = over ? C(0) : C(d_z[label]);
    const C at_label =
        others + s * (math::exp(C(z[label]) - log_sum) - even - (C(1) - C(smoothing)));
    team.sync();
    if (over) {
      team.for_each(columns,
                    [=](index_t v) { d_z[v] = T(s * (math::exp(C(z[v]) - log_sum) - even)); });
    } else {
      team.for_each(columns, [=](index_t v) {
        d_z[v] = T(C(d_z[v]) + s * (math::exp(C(z[v]) - log_sum) - even));
      });
    }
    if (team.leader()) d_z[label] = T(at_label);
  }
};

template <class C>
struct WidenedValue {
  const C* values;
  SRF_HD accumulate_t<C> operator()(index_t i) const { return accumulate_t<C>(values[i]); }
};

/// Throws where rows and sizes do not fit, or a label in host memory is outside the vocabulary.
template <class Space>
void check_cross_entropy(const char* function, const auto& logits,
                         View<const std::int32_t, 1, Space> labels, const auto& lse) {
  const index_t rows = logits.extent(0);
  check_shape(function, "labels", "[R]", labels.extents, std::array{rows});
  check_shape(function, "lse", "[R]", lse.extents, std::array{rows});
  require(logits.contiguous(), function, "logits must be contiguous");
  if constexpr (std::is_same_v<Space, host_space>) {
    for (index_t r = 0; r < rows; ++r) {
      if (labels(r) < logits.extent(1)) continue;
      throw shape_error(std::string(function) + ": label " + std::to_string(labels(r)) +
                        " of row " + std::to_string(r) + " is outside the vocabulary of " +
                        std::to_string(logits.extent(1)));
    }
  }
}

}  // namespace SRF_DETAIL

/// loss_sum[0] += the sum of the rows' losses, not divided.
///   logits [R,V] contiguous, labels [R] below V (negative: ignored), lse [R] saved for backward
/// Cost O(RV). Source: transformers, trainer_pt_utils.LabelSmoother.
template <class B, class T>
requires BackendFor<B, T>
void cross_entropy_forward(B& be, View<const T, 2, typename B::space> logits,
                           In<B, std::int32_t, 1> labels, double smoothing,
                           Out<B, compute_t<T>, 1> lse, Out<B, accumulate_t<T>, 1> loss_sum) {
  const index_t rows = logits.extent(0);
  detail::check_cross_entropy<typename B::space>("cross_entropy_forward", logits, labels, lse);
  Tensor<B, compute_t<T>, 1> loss(be, {rows});
  be.for_each_row(rows, 0,
                  detail::CrossEntropyForward<T>{logits.data, labels.data, lse.data, loss.data(),
                                                 logits.extent(1), smoothing});
  be.reduce(rows, detail::WidenedValue<compute_t<T>>{loss.data()}, loss_sum.data);
}

/// d_logits += scale times the gradient of the summed loss.
template <class B, class T>
requires BackendFor<B, T>
void cross_entropy_backward(B& be, In<B, T, 2> logits, In<B, std::int32_t, 1> labels,
                            double smoothing, In<B, compute_t<T>, 1> lse, double scale,
                            View<T, 2, typename B::space> d_logits) {
  detail::check_cross_entropy<typename B::space>("cross_entropy_backward", logits, labels, lse);
  check_shape("cross_entropy_backward", "d_logits", "[R,V]", d_logits.extents, logits.extents);
  require(d_logits.contiguous(), "cross_entropy_backward", "d_logits must be contiguous");
  be.for_each_row(logits.extent(0), 0,
                  detail::CrossEntropyBackward<T>{logits.data, labels.data, lse.data, d_logits.data,
                                                  logits.extent(1), smoothing, scale, false});
}

/// Replaces the logits by scale times the gradient of the summed loss with respect to them: the one
/// backward here that overwrites, so that logits and gradient never exist twice.
template <class B, class T>
requires BackendFor<B, T>
void cross_entropy_backward_in_place(B& be, View<T, 2, typename B::space> logits,
                                     In<B, std::int32_t, 1> labels, double smoothing,
                                     In<B, compute_t<T>, 1> lse, double scale) {
  detail::check_cross_entropy<typename B::space>("cross_entropy_backward_in_place", logits, labels,
                                                 lse);
  be.for_each_row(logits.extent(0), 0,
                  detail::CrossEntropyBackward<T>{logits.data, labels.data, lse.data, logits.data,
                                                  logits.extent(1), smoothing, scale, true});
}

}  // namespace srformer
