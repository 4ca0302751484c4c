// SPDX-License-Identifier: Apache-2.0
// Compiled several times, as SRF_PART, with flags of its own each time.
#include "part.hpp"

#include <srformer/srformer.hpp>

using namespace srformer;

#define SRF_TEXT(x) #x
#define SRF_TEXT_OF(x) SRF_TEXT(x)

#if defined(__AVX__)
constexpr bool has_avx = true;
#else
constexpr bool has_avx = false;
#endif
#if defined(__FMA__)
constexpr bool has_fma = true;
#else
constexpr bool has_fma = false;
#endif

Part SRF_PART() {
  return {SRF_TEXT_OF(SRF_TARGET),
          has_avx,
          has_fma,
          [] { return detail::vector_bytes; },
          [] { return EigenBackend(3).threads(); },
          [](const PartInputs& x, View<float, 4> out) {
            EigenBackend be(2);
            segmented_recurrent_forward(be, AttentionInputs<EigenBackend, float>{x.q, x.k, x.v},
                                        {x.weight, x.leak, x.threshold}, {.segment_size = 8}, out);
          },
          [](index_t n, const float* a, const float* b, float* c) {
            EigenBackend be(2);
            be.gemm(Op::none, Op::none, n, n, n, 1.0f, a, n, b, n, 0.0f, c, n);
          },
          [](View<float, 4> x) { return x.slice(0, 0, x.extent(0) / 2); }};
}
