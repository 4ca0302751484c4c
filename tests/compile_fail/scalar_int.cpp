// SPDX-License-Identifier: Apache-2.0
// expect: an integer is no scalar
#include <srformer/attention/full.hpp>
#include <srformer/backend/eigen.hpp>

using namespace srformer;

#if defined(SRF_CONTROL)
using Element = float;
#else
using Element = int;
#endif

void attend(EigenBackend& be, View<const Element, 4> q, View<Element, 4> out) {
  full_attention_forward(be, AttentionInputs<EigenBackend, Element>{q, q, q}, out);
}
