// SPDX-License-Identifier: Apache-2.0
// The host backends that this build has, for tests that are written once and run on each.
#pragma once

#include <concepts>
#include <tuple>

#include <srformer/attention/decode.hpp>
#include <srformer/attention/detail/full_batched.hpp>
#include <srformer/attention/detail/segmented_recurrent_batched.hpp>
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

/// As another backend, except for products in batches: attention goes through products over all heads, as on a device.
template <class Base>
class Batched : public Base {
 public:
  using Base::Base;

  template <class A, class B, class C>
  void gemm_batched(srformer::Op transpose_a, srformer::Op transpose_b, srformer::index_t count,
                    srformer::index_t m, srformer::index_t n, srformer::index_t k,
                    typename srformer::detail::GemmOfBatch<A, B, C>::Scalar alpha, A a,
                    srformer::index_t lda, B b, srformer::index_t ldb,
                    typename srformer::detail::GemmOfBatch<A, B, C>::Scalar beta, C c,
                    srformer::index_t ldc) {
    this->for_each_row(count, 0,
                       srformer::detail::GemmOfBatch<A, B, C>{transpose_a, transpose_b, m, n, k,
                                                              alpha, a, lda, b, ldb, beta, c, ldc});
  }
};

using BatchedBackend = Batched<srformer::EigenBackend>;

/// BatchedBackend with room for so little that scores and states are taken a few heads and queries at a time.
class CrampedBackend : public BatchedBackend {
 public:
  using BatchedBackend::BatchedBackend;
};

/// Teams of four with so little to do that a row of decoding goes to several of them.
class CrampedTeams : public srformer::ThreadTeamBackend {};

static_assert(srformer::HasBatchedGemm<BatchedBackend>);
static_assert(srformer::HasBatchedGemm<CrampedTeams> && srformer::ManyTeams<CrampedTeams>);
static_assert(!srformer::HasBatchedGemm<srformer::EigenBackend>);

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

template <>
inline constexpr srformer::index_t srformer::detail::scores_at_a_time<tests::CrampedBackend> = 100;
template <>
inline constexpr srformer::index_t srformer::detail::cells_at_a_time<tests::CrampedBackend> = 300;
template <>
inline constexpr srformer::index_t srformer::detail::steps_of_a_team<tests::CrampedTeams> = 2;
