// SPDX-License-Identifier: Apache-2.0
// What is added to a score before the softmax, and which keys take part, without a stored matrix of
// minus infinities.
//
//   score(i, j) += relative[h, j - i + zero] + dense[b, h, i, j],   j < keys(b), j <= i + offset if causal
#pragma once

#include <srformer/core/scalar.hpp>
#include <srformer/core/view.hpp>

namespace srformer {

/// The additive and the absent part of attention scores. Everything is optional.
///   lengths   [B]          how many keys of each source exist, on the backend; null: all
///   relative  [H, distances]  bias by distance j - i, see attention/position_bias.hpp; null: none
///   dense     [B,H,M,N]    bias by position; stride 0 broadcasts an axis; null: none
template <class C, class Space>
struct ScoreMask {
  const index_t* lengths = nullptr;
  View<const C, 2, Space> relative{};
  index_t relative_zero = 0;  ///< the column of relative that holds distance 0
  View<const C, 4, Space> dense{};
  bool causal = false;
  index_t query_offset = 0;  ///< the decoder step of query 0, for decoding with a cache

  /// Keys that exist for source b, out of `keys`.
  SRF_HD index_t keys(index_t b, index_t keys) const {
    return lengths == nullptr || lengths[b] > keys ? keys : lengths[b];
  }

  /// Keys that query i of source b may see, out of `existing`.
  SRF_HD index_t visible(index_t i, index_t existing) const {
    if (!causal) return existing;
    const index_t last = i + query_offset + 1;
    return last < existing ? last : existing;
  }

  /// scores[c] += bias of query i and keys first_key + c.
  template <class Team>
  SRF_HD void add(const Team& team, index_t b, index_t h, index_t i, index_t first_key,
                  index_t count, C* scores) const {
    if (relative.data != nullptr) {
      const C* row = &relative(h, first_key - i + relative_zero);
      team.for_each(count, [=](index_t c) { scores[c] = scores[c] + row[c]; });
    }
    if (dense.data != nullptr) {
      const C* row = &dense(b, h, i, first_key);
      const index_t step = dense.stride(3);
      team.for_each(count, [=](index_t c) { scores[c] = scores[c] + row[c * step]; });
    }
  }
};

}  // namespace srformer
