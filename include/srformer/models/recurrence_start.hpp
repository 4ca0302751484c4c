// SPDX-License-Identifier: Apache-2.0
// How large the two parts of segmented recurrent attention are beside each other, O_i = A_i + C_i, and a start of the
// recurrence that knows it.
//
// P sums over all keys and n grows with their root alone, so what keys and values have in common makes C grow with the
// length of the source, by no more than its root, and a factor on W that is right for one length is wrong for another; with
// the option average_products it does not grow.
// Here the factor is found by measuring: R = max(U / threshold - 1, 0) is 0 where W is small and grows with it.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include <srformer/attention/segmented.hpp>
#include <srformer/attention/segmented_recurrent.hpp>

namespace srformer {

/// |C| / |A| with which the programs let a recurrence start that they measure.
inline constexpr double initial_recurrence_share = 0.1;

/// Root mean squares over sources, queries and features, [H] each.
struct PartSizes {
  std::vector<double> local, rest;  ///< of A and of C

  /// |C| / |A| of a head; 0 where both are 0.
  double share(std::size_t head) const { return rest[head] > 0 ? rest[head] / local[head] : 0; }
  /// That of the head where it is largest.
  double largest_share() const {
    double largest = 0;
    for (std::size_t h = 0; h < rest.size(); ++h) largest = std::max(largest, share(h));
    return largest;
  }
};

namespace detail {

/// Root mean squares of [B,H,M,D] by head, over the queries whose label is not below 0; labels [B,M], empty: all.
template <class B, class T>
std::vector<double> sizes_by_head(B& be, const Tensor<B, T, 4>& x,
                                  std::span<const std::int32_t> labels) {
  const index_t sources = x.extent(0), H = x.extent(1), M = x.extent(2), D = x.extent(3);
  const std::vector<T> host = to_host(be, x);
  std::vector<double> sums(static_cast<std::size_t>(H));
  index_t rows = 0;
  for (index_t b = 0; b < sources; ++b)
    for (index_t i = 0; i < M; ++i) {
      if (!labels.empty() && labels[static_cast<std::size_t>(b * M + i)] < 0) continue;
      ++rows;
      for (index_t h = 0; h < H; ++h)
        for (index_t c = 0; c < D; ++c) {
          const auto value =
              static_cast<double>(host[static_cast<std::size_t>(((b * H + h) * M + i) * D + c)]);
          sums[static_cast<std::size_t>(h)] += value * value;
        }
    }
  for (double& sum : sums)
    sum = std::sqrt(sum / static_cast<double>(std::max(rows * D, index_t{1})));
  return sums;
}

}  // namespace detail

/// The sizes of A, what the segment of a query gives, and of C, what the others give, without sigma, gate and dropout.
///   parameters  weight, leak and threshold count
///   labels      [B,M]: queries whose label is below 0 do not count; empty: all count
/// Errors as those of segmented_recurrent_forward. Cost that of it; A and C go to the host.
template <class B, class T>
requires BackendFor<B, T> PartSizes
part_sizes(B& be, AttentionInputs<B, T> in,
           const std::type_identity_t<RecurrentParameters<const T>>& parameters,
           SegmentedRecurrentOptions options, std::span<const std::int32_t> labels = {}) {
  in.context.dropout = {};
  const index_t D = in.q.extent(3);
  Tensor<B, T, 4> part(be, {in.q.extent(0), in.q.extent(1), in.q.extent(2), D});
  segmented_attention_forward(be, in, options.segments(), part.view());
  PartSizes sizes;
  sizes.local = detail::sizes_by_head(be, part, labels);
  options.local = options.sigma = options.gate = false;
  segmented_recurrent_forward(be, in, {parameters.weight, parameters.leak, parameters.threshold},
                              options, part.view());
  sizes.rest = detail::sizes_by_head(be, part, labels);
  return sizes;
}

/// The factor on W with which the largest share of a head is `share`, above 0, to 1 %. Nothing where no factor from 2^-40
/// to 2^40 has it: the sources have one segment, or what fires is 1 (binary_firing). Arguments as those of part_sizes; cost
/// that of about 20 of it.
template <class B, class T>
requires BackendFor<B, T> std::optional<double> fitted_recurrence(
    B& be, const AttentionInputs<B, T>& in,
    const std::type_identity_t<RecurrentParameters<const T>>& parameters,
    const SegmentedRecurrentOptions& options, double share,
    std::span<const std::int32_t> labels = {}) {
  require(share > 0 && std::isfinite(share), "fitted_recurrence", "share must be above 0");
  require(options.recurrence, "fitted_recurrence", "the options have no recurrence, and no W");
  const index_t D = in.q.extent(3);
  Tensor<B, T, 2> weight(be, {D, D});
  std::vector<T> values(static_cast<std::size_t>(D * D));
  be.to_host(values.data(), static_cast<const T*>(parameters.weight), D * D);
  const auto share_at = [&](double factor) {
    std::vector<T> scaled = values;
    for (T& w : scaled) w = T(compute_t<T>(factor) * compute_t<T>(w));
    be.from_host(weight.data(), scaled.data(), D * D);
    return part_sizes(be, in, {weight.data(), parameters.leak, parameters.threshold}, options,
                      labels)
        .largest_share();
  };
  constexpr double most = 1099511627776.0;  // 2^40
  double low = 1, high = 1;
  if (share_at(1) < share) {
    do low = high, high *= 4;
    while (high <= most && share_at(high) < share);
  } else {
    do high = low, low /= 4;
    while (low >= 1 / most && share_at(low) >= share);
  }
  if (high > most || low < 1 / most) return std::nullopt;
  while (high > 1.001 * low) {
    const double middle = std::sqrt(low * high), found = share_at(middle);
    if (std::abs(found - share) < 0.002 * share) return middle;
    (found < share ? low : high) = middle;
  }
  return high;
}

/// What a decoder layer's segmented recurrent attention has learned.
template <class Cross>
auto recurrent_parameters(const Cross& cross, const SegmentedRecurrentOptions& options) {
  using T = std::remove_pointer_t<decltype(cross.learned.front()->value)>;
  SegmentedRecurrent::Parameters<const T> found;
  auto next = cross.learned.begin();
  SegmentedRecurrent::Parameters<const T>::visit(found, options, HeadSizes{},
                                                 [&](const LearnedInfo& info, const T*& member) {
                                                   if (info.present) member = (*next++)->value;
                                                 });
  return found;
}

}  // namespace srformer
