// SPDX-License-Identifier: Apache-2.0
// Every variant of the cross-attention on a CUDA device, step by step too, against the Eigen backend.
#include "support/catch.hpp"
#include "support/device.hpp"
#include "support/traces.hpp"

using namespace srformer;

TEST_CASE("every variant on a device agrees with the host") {
  tests::on_device([](tests::CudaBackend& cuda) {
    for (const CrossAttentionOptions& options : tests::variant_options()) {
      tests::compare_device(cuda, variant_name(options.variant), 1e-2,
                            [&](auto& be) { return tests::trace_variant<float>(be, options); });
    }
  });
}
