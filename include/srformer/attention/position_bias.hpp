// SPDX-License-Identifier: Apache-2.0
// T5's relative position bias: one learned number per head and bucket of distances.
//
//   bias[h, i, j] = table[bucket(j - i), h]
//   d_table[k, h] += sum over the distances in bucket k of the gradient by distance
//
// Half of the buckets are exact distances, the rest grow logarithmically up to max_distance; where
// attention looks both ways, one half of all buckets is for keys behind the query. The bias depends
// on the distance alone, so it is kept as [H, M+N-1], never as [H,M,N]. Source: Raffel et al. 2020,
// transformers T5Attention._relative_position_bucket, with its float32 arithmetic.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include <srformer/backend/tensor.hpp>

namespace srformer {

struct RelativeBuckets {
  index_t buckets = 32;
  index_t max_distance = 128;
  bool bidirectional = true;

  /// The bucket of the distance key - query.
  index_t of(index_t distance) const {
    index_t half = buckets, offset = 0, n = distance < 0 ? -distance : index_t{0};
    if (bidirectional) {
      half /= 2;
      offset = distance > 0 ? half : 0;
      n = distance < 0 ? -distance : distance;
    }
    const index_t exact = half / 2;
    if (n < exact) return offset + n;
    const float log_range = static_cast<float>(
        std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
    const float steps = std::log(static_cast<float>(n) / static_cast<float>(exact)) / log_range *
                        static_cast<float>(half - exact);
    const index_t grown = exact + static_cast<index_t>(steps);
    return offset + (grown < half - 1 ? grown : half - 1);
  }
};

namespace SRF_DETAIL {

template <class T>
struct GatherBias {
  const T* table;  // [buckets, H]
  const std::int32_t* bucket;
  compute_t<T>* relative;  // [H, distances]
  index_t heads, distances;
  SRF_HD void operator()(index_t i) const {
    relative[i] = compute_t<T>(table[bucket[i % distances] * heads + i / distances]);
  }
};

template <class T>
struct ScatterBias {
  const compute_t<T>* d_relative;
  const std::int32_t* bucket;
  T* d_table;
  index_t heads, distances;
  SRF_HD void operator()(index_t i) const {
    using C = compute_t<T>;
    const index_t k = i / heads, h = i % heads;
    C sum = C(d_table[i]);
    for (index_t d = 0; d < distances; ++d) {
      if (bucket[d] == k) sum = sum + d_relative[h * distances + d];
    }
    d_table[i] = T(sum);
  }
};

inline void check_buckets(const char* function, const RelativeBuckets& buckets) {
  const index_t half = buckets.bidirectional ? buckets.buckets / 2 : buckets.buckets;
  require(half >= 2 && buckets.max_distance > half / 2, function,
          "relative attention needs at least " + std::string(buckets.bidirectional ? "4" : "2") +
              " buckets and a larger max_distance");
}

}  // namespace SRF_DETAIL

/// The bucket of every distance key - query between M queries and N keys, on the backend. A batch needs one for each
/// stack; forward and backward share it.
template <class B>
struct BucketTable {
  index_t buckets = 0, distances = 0;
  Tensor<B, std::int32_t, 1> of{};  ///< [M+N-1], from distance -(M-1) on

  BucketTable() = default;
  BucketTable(B& be, const RelativeBuckets& rule, index_t queries, index_t keys)
      : buckets(rule.buckets), distances(queries + keys - 1) {
    detail::check_buckets("BucketTable", rule);
    std::vector<std::int32_t> table;
    for (index_t d = 0; d < distances; ++d)
      table.push_back(static_cast<std::int32_t>(rule.of(d - (queries - 1))));
    of = from_host<std::int32_t, 1>(be, {distances}, table);
  }
};

/// relative[h, j - i + M - 1] = the bias of head h between query i of M and key j of N.
///   table [buckets, H], relative [H, M+N-1], contiguous
template <class B, class T>
requires BackendFor<B, T>
void position_bias_forward(B& be, const BucketTable<B>& buckets,
                           View<const T, 2, typename B::space> table,
                           Out<B, compute_t<T>, 2> relative) {
  const index_t heads = table.extent(1), distances = buckets.distances;
  check_shape("position_bias_forward", "table", "[buckets,H]", table.extents,
              std::array{buckets.buckets, heads});
  check_shape("position_bias_forward", "relative", "[H,M+N-1]", relative.extents,
              std::array{heads, distances});
  be.for_each(heads * distances, detail::GatherBias<T>{table.data, buckets.of.data(), relative.data,
                                                       heads, distances});
}

/// d_table += the gradient through position_bias_forward.
template <class B, class T>
requires BackendFor<B, T>
void position_bias_backward(B& be, const BucketTable<B>& buckets, In<B, compute_t<T>, 2> d_relative,
                            View<T, 2, typename B::space> d_table) {
  const index_t heads = d_table.extent(1), distances = buckets.distances;
  check_shape("position_bias_backward", "d_relative", "[H,M+N-1]", d_relative.extents,
              std::array{heads, distances});
  be.for_each(d_table.size(), detail::ScatterBias<T>{d_relative.data, buckets.of.data(),
                                                     d_table.data, heads, distances});
}

}  // namespace srformer
