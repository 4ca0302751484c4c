// SPDX-License-Identifier: Apache-2.0
// The sum of what several ranks have, as train/communicator.hpp wants it: in the order of the ranks, in accumulate_t, rounded
// once. Element by element, for communicators of a device.
#pragma once

#include <srformer/core/scalar.hpp>

namespace srformer::SRF_DETAIL {

/// own[i] becomes the sum over all ranks.
///   own     [count]             of this rank
///   parts   [ranks - 1, count]  of the other ranks, in their order
template <class T>
struct RankSum {
  T* own;
  const T* parts;
  index_t count;
  int ranks, rank;

  SRF_HD void operator()(index_t i) const {
    using A = accumulate_t<T>;
    const auto of_rank = [&](int r) {
      return A(compute_t<T>(r == rank ? own[i] : parts[(r < rank ? r : r - 1) * count + i]));
    };
    A sum = of_rank(0);
    for (int r = 1; r < ranks; ++r) sum = sum + of_rank(r);
    own[i] = T(compute_t<T>(sum));
  }
};

}  // namespace srformer::SRF_DETAIL
