// SPDX-License-Identifier: Apache-2.0
// What segmented recurrent attention is told and given: options, learned parameters, and what their gradients
// are added up from. attention/segmented_recurrent.hpp has the mathematics.
#pragma once

#include <srformer/attention/kv_product.hpp>
#include <srformer/attention/raf.hpp>
#include <srformer/attention/variant.hpp>

namespace srformer {

/// When the recurrence takes a step: as the segment changes, or at every query.
enum class Advance { segment, token };

constexpr std::array<std::string_view, 2> option_names(Advance) { return {"segment", "token"}; }

/// The options of segmented recurrent attention and its ablations.
struct SegmentedRecurrentOptions {
  index_t segment_size = 64;         ///< L
  index_t horizon = 0;               ///< decoder steps over the source; 0: as many as queries
  index_t generation_horizon = 128;  ///< the same in decoding
  double clamp = 0;                  ///< bound of the key-value products; 0: none
  bool normalize = true;             ///< divide by the norms of the key features
  bool recurrence = true;            ///< pass the products through W and RAF; false: R_j = Z_j
  bool local = true;                 ///< the softmax part; false: O = gate C
  Product product = Product::complement;
  Advance advance = Advance::segment;
  Padding padding = Padding::masked;  ///< what the tail of the last segment and padded keys do
  bool sigma = false;                 ///< a learned weighted sum of both parts
  bool gate = false;                  ///< a learned factor per head on the recurrent part
  bool binary_firing = false;  ///< R_j = [u > 0] with a surrogate gradient, see attention/raf.hpp
  bool average_products = false;  ///< Z_j / N in place of Z_j, and n_c the root of a mean
  double soft_keys = 0;  ///< s of the features F that stand for K in the products; 0: K itself

  static constexpr void visit(auto& o, auto&& f) {
    f(option::segment_size, o.segment_size);
    f(option::horizon, o.horizon);
    f(option::generation_horizon, o.generation_horizon);
    f(OptionInfo{"clamp", "Bound of the key-value products, or none",
                 OptionRange::positive_or_none},
      o.clamp);
    f(OptionInfo{"normalize", "Divide by the norms of the key features"}, o.normalize);
    f(OptionInfo{"recurrence", "Pass the products through the recurrence"}, o.recurrence);
    f(OptionInfo{"local", "Attend to the segment as well"}, o.local);
    f(OptionInfo{"product", "Products of the other segments, or of the segment"}, o.product);
    f(OptionInfo{"advance", "When the recurrence takes a step"}, o.advance);
    f(option::padding, o.padding);
    f(OptionInfo{"sigma", "A learned weighted sum of both parts"}, o.sigma);
    f(OptionInfo{"gate", "A learned factor per head on the recurrent part"}, o.gate);
    f(OptionInfo{"binary_firing", "What fires is 1, with a surrogate gradient", OptionRange::any,
                 false},
      o.binary_firing);
    f(OptionInfo{"average_products", "Products and squared norms are means over the keys",
                 OptionRange::any, false},
      o.average_products);
    f(OptionInfo{"soft_keys",
                 "Products of a softmax of so many times the keys over the source, or none",
                 OptionRange::positive_or_none, false},
      o.soft_keys);
  }
  SRF_HD SegmentedOptions segments() const {
    return {.segment_size = segment_size, .horizon = horizon, .padding = padding};
  }
  SRF_HD KvProductOptions products() const { return {.product = product, .clamp = clamp}; }
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

namespace SRF_DETAIL {

/// Everything a lane reads.
template <class T, class Space>
struct RecurrentInputs {
  using C = compute_t<T>;
  View<const T, 4, Space> q, k, v;
  RecurrentParameters<const T> parameters;
  AttendContext<C, Space> context;
  SegmentedRecurrentOptions options;
  View<const T, 4, Space> features{};  ///< F of attention/kv_product.hpp, where the options have it

  SRF_HD index_t heads() const { return k.extent(1); }
  SRF_HD index_t keys() const { return k.extent(2); }
  SRF_HD index_t head_size() const { return k.extent(3); }

  /// What the products are made of: the keys, or their features.
  SRF_HD const View<const T, 4, Space>& keys_of_products() const {
    return options.soft_keys > 0 ? features : k;
  }
  /// [B] how many keys of each source take part in the products; null: all. Padded keys do with upstream padding.
  SRF_HD const index_t* lengths_of_products() const {
    return options.padding == Padding::upstream ? nullptr : context.mask.lengths;
  }
  /// Whether n_c is a norm. That of soft keys, the sum of F_tc over t, is 1.
  SRF_HD bool normalizes() const { return options.normalize && !(options.soft_keys > 0); }
  SRF_HD bool folded() const {
    return options.recurrence && options.clamp == 0 && options.segment_size < head_size();
  }
  /// N of a source of `keys` keys, by which its products are divided; 1 where they are sums, or where there is no key.
  SRF_HD C averaged_keys(index_t keys) const {
    return C(static_cast<double>(options.average_products && keys > 0 ? keys : 1));
  }
  /// Those of the recurrence of Z_j, of a source of `keys` keys. R_j of Z_j / N with a threshold is that of Z_j with N times
  /// the threshold.
  SRF_HD RafScalars<C> raf(index_t keys) const {
    if (!options.recurrence) return {C(0), C(1)};
    return {C(parameters.leak[0]), averaged_keys(keys) * C(parameters.threshold[0]),
            options.binary_firing};
  }
  /// What 1 / n_c, of n_c the root of a sum, is multiplied by: N^1/2, as n_c is the root of a mean, and 1 / N where R_j is
  /// Z_j / N without a recurrence.
  SRF_HD C factor_of_rest(index_t keys) const {
    const C N = averaged_keys(keys), root = normalizes() ? C(math::sqrt(N)) : C(1);
    return options.recurrence ? root : C(root / N);
  }
  /// Whether every query is a step of the recurrence.
  SRF_HD bool stepwise() const { return options.recurrence && options.advance == Advance::token; }
  /// Whether W multiplies the products themselves.
  SRF_HD bool multiplied() const { return options.recurrence && !folded(); }
  SRF_HD bool weighted() const { return options.local && options.sigma; }
  /// What weighs the local part; null: nothing does.
  SRF_HD const T* sigma() const { return weighted() ? parameters.sigma : nullptr; }
  SegmentRows<C, Space> segment_rows() const {
    return detail::segment_rows<T, Space>(q, k, context, options.segments());
  }
  SRF_HD C share_of_local() const { return weighted() ? C(parameters.sigma[0]) : C(1); }
  SRF_HD C share_of_rest() const { return weighted() ? C(1) - C(parameters.sigma[0]) : C(1); }
  SRF_HD C gate(index_t h) const { return options.gate ? C(parameters.gate[h]) : C(1); }
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
  check_segments(function, in.options.segments());
  check_dropout(function, in.context.dropout);
  require(in.context.mask.query_offset == 0, function,
          "the recurrence starts at the first query; decode with SegmentedRecurrent::step");
  require(in.options.clamp >= 0, function, "clamp must be positive, or 0 for none");
  require(in.options.soft_keys >= 0, function, "soft_keys must be positive, or 0 for none");
  require(!(in.options.soft_keys > 0) || !in.options.average_products, function,
          "the products of soft_keys are averages already; leave average_products out");
  require(in.options.sigma == (in.parameters.sigma != nullptr), function,
          in.options.sigma ? "the options have sigma, the parameters have none"
                           : "the parameters have sigma, the options have none");
  require(in.options.gate == (in.parameters.gate != nullptr), function,
          in.options.gate ? "the options have gate, the parameters have none"
                          : "the parameters have gate, the options have none");
  if (!in.options.recurrence) return;
  require(in.parameters.weight != nullptr && in.parameters.leak != nullptr &&
              in.parameters.threshold != nullptr,
          function, "the recurrence needs weight, leak and threshold");
  check_threshold<Space>(function, in.parameters.threshold);
}

}  // namespace SRF_DETAIL

}  // namespace srformer
