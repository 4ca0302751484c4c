// SPDX-License-Identifier: Apache-2.0
// The host backends that this build has, for tests that are written once and run on each.
#pragma once

#include <concepts>
#include <tuple>

#include <srformer/backend/eigen.hpp>
#include <srformer/testing/thread_team.hpp>
#if defined(SRF_HAS_THRUST)
#include <srformer/backend/thrust.hpp>
#endif

namespace tests {

using HostBackends = std::tuple<srformer::EigenBackend, srformer::ThreadTeamBackend
#if defined(SRF_HAS_THRUST)
                                ,
                                srformer::ThrustBackend<srformer::thrust_cpp>
#if defined(_OPENMP)
                                ,
                                srformer::ThrustBackend<srformer::thrust_omp>
#endif
#if defined(SRF_HAS_TBB)
                                ,
                                srformer::ThrustBackend<srformer::thrust_tbb>
#endif
#endif
                                >;

/// A backend with so many threads, where that can be chosen.
template <class B>
B make_backend(int threads) {
  if constexpr (std::constructible_from<B, int>) {
    return B(threads);
  } else {
    return B();
  }
}

}  // namespace tests
