// SPDX-License-Identifier: Apache-2.0
// What segmented recurrent attention is told and given: options, learned parameters, and what their gradients
// are added up from. attention/segmented_recurrent.hpp has the mathematics.
#pragma once

#include <srformer/attention/kv_product.hpp>
#include <srformer/attention/raf.hpp>

namespace srformer {

/// When the recurrence takes a step: as the segment changes, or at every query.
enum class Advance { segment, token };

constexpr std::array<std::string_view, 2> option_names(Advance) { return {"segment", "token"}; }

struct SegmentedRecurrentOptions {
  SegmentedOptions segments{};
  KvProductOptions product{};
  bool normalize = true;   ///< divide by the norms of the key features
  bool recurrence = true;  ///< pass the products through W and RAF; false: R_j = Z_j
  bool local = true;       ///< the softmax part; false: O = gate C
  Advance advance = Advance::segment;
  bool binary_firing = false;  ///< R_j = [u > 0] with a surrogate gradient, see attention/raf.hpp
};

/// The learned parameters of a layer; null where the options have none of them.
///   weight [D,D], leak [1], threshold [1], sigma [1], gate [H]
template <class T>
struct RecurrentParameters {
  T* weight = nullptr;
  T* leak = nullptr;
  T* threshold = nullptr;
  T* sigma = nullptr;
  T* gate = nullptr;

  template <class U>
  requires(std::is_same_v<U, const T>) SRF_HD operator RecurrentParameters<U>()
      const {  // NOLINT: as pointers convert
    return {weight, leak, threshold, sigma, gate};
  }
};

namespace detail {

/// Everything a lane reads.
template <class T, class Space>
struct RecurrentInputs {
  using C = compute_t<T>;
  View<const T, 4, Space> q, k, v;
  RecurrentParameters<const T> parameters;
  AttendContext<C, Space> context;
  SegmentedRecurrentOptions options;

  SRF_HD index_t heads() const { return k.extent(1); }
  SRF_HD index_t keys() const { return k.extent(2); }
  SRF_HD index_t head_size() const { return k.extent(3); }

  SRF_HD bool folded() const {
    return options.recurrence && options.product.clamp == 0 &&
           options.segments.segment_size < head_size();
  }
  SRF_HD RafScalars<C> raf() const {
    if (!options.recurrence) return {C(0), C(1)};
    return {C(parameters.leak[0]), C(parameters.threshold[0]), options.binary_firing};
  }
  /// Whether every query is a step of the recurrence.
  SRF_HD bool stepwise() const { return options.recurrence && options.advance == Advance::token; }
  /// Whether W multiplies the products themselves.
  SRF_HD bool multiplied() const { return options.recurrence && !folded(); }
  SRF_HD bool weighted() const { return options.local && parameters.sigma != nullptr; }
  /// What weighs the local part; null: nothing does.
  SRF_HD const T* sigma() const { return weighted() ? parameters.sigma : nullptr; }
  SegmentRows<C, Space> segment_rows() const {
    return detail::segment_rows<T, Space>(q, k, context, options.segments);
  }
  SRF_HD C share_of_local() const { return weighted() ? C(parameters.sigma[0]) : C(1); }
  SRF_HD C share_of_rest() const { return weighted() ? C(1) - C(parameters.sigma[0]) : C(1); }
  SRF_HD C gate(index_t h) const {
    return parameters.gate == nullptr ? C(1) : C(parameters.gate[h]);
  }
};

/// The gradients that lanes share, one entry per lane: [D*D] of W, then leak, threshold, sigma, gate.
template <class C>
struct LanePartials {
  C* data;
  index_t cells;
  SRF_HD C* weight(index_t lane) const { return data + lane * (cells + 4); }
  SRF_HD C* scalars(index_t lane) const { return weight(lane) + cells; }
};

/// Adds the lanes' shares of W, leak, threshold, sigma and gate, in order.
template <class T>
struct AddLanePartials {
  LanePartials<compute_t<T>> partials;
  RecurrentParameters<T> d;
  index_t batch, heads;

  SRF_HD void operator()(index_t c) const {
    using C = compute_t<T>;
    const index_t lanes = batch * heads, cells = partials.cells, scalar = c - cells;
    if (scalar >= 3) {
      const index_t h = scalar - 3;
      if (d.gate == nullptr) return;
      C sum = C(d.gate[h]);
      for (index_t b = 0; b < batch; ++b) sum = sum + partials.scalars(b * heads + h)[3];
      d.gate[h] = T(sum);
      return;
    }
    T* to = scalar < 0 ? d.weight : scalar == 0 ? d.leak : scalar == 1 ? d.threshold : d.sigma;
    if (to == nullptr) return;
    if (scalar < 0) to += c;
    C sum = C(to[0]);
    for (index_t lane = 0; lane < lanes; ++lane) sum = sum + partials.weight(lane)[c];
    to[0] = T(sum);
  }
};

template <class T, class Space>
void check_recurrent(const char* function, const RecurrentInputs<T, Space>& in) {
  check_segments(function, in.options.segments);
  check_dropout(function, in.context.dropout);
  require(in.context.mask.query_offset == 0, function,
          "the recurrence starts at the first query; decode with SegmentedRecurrent::step");
  require(in.options.product.clamp >= 0, function, "clamp must be positive, or 0 for none");
  if (!in.options.recurrence) return;
  require(in.parameters.weight != nullptr && in.parameters.leak != nullptr &&
              in.parameters.threshold != nullptr,
          function, "the recurrence needs weight, leak and threshold");
  check_threshold<Space>(function, in.parameters.threshold);
}

}  // namespace detail

}  // namespace srformer
