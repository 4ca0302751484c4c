// SPDX-License-Identifier: Apache-2.0
// expect: a view of another memory: use to_host or from_host
#include <srformer/attention/full.hpp>
#include <srformer/backend/eigen.hpp>

using namespace srformer;

#if defined(SRF_CONTROL)
using Space = host_space;
#else
using Space = cuda_space;
#endif

void attend(EigenBackend& be, View<const double, 4, Space> q, View<double, 4> out) {
  full_attention_forward(be, AttentionInputs<EigenBackend, double>{q, q, q}, out);
}
