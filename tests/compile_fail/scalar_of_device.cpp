// SPDX-License-Identifier: Apache-2.0
// expect: a device cannot hold this scalar: see scalar_traits::on_device
#include <srformer/attention/full.hpp>
#include <srformer/backend/eigen.hpp>

using namespace srformer;

/// A device, to the compiler.
struct Device : EigenBackend {
  using space = cuda_space;
};

#if defined(SRF_CONTROL)
using Element = double;
#else
using Element = long double;
#endif

void attend(Device& be, View<const Element, 4, cuda_space> q, View<Element, 4, cuda_space> out) {
  full_attention_forward(be, AttentionInputs<Device, Element>{q, q, q}, out);
}
