// SPDX-License-Identifier: Apache-2.0
// The same ops give the same numbers on every backend of this build, whatever its threads. Attention is in
// random_shapes_test.cpp.
#include <Eigen/Core>

#include "support/backends.hpp"
#include "support/catch.hpp"
#include "support/traces.hpp"

using namespace srformer;
using tests::make_backend;

namespace {

/// Against one thread of the Eigen backend.
template <class B, class Trace>
void compare_backends(const char* what, double tolerance, Trace trace) {
  EigenBackend eigen(1);
  const std::vector<double> expected = trace(eigen);
  for (const int threads : {1, 2}) {
    B be = make_backend<B>(threads);
    tests::compare(what, trace(be), expected, tolerance);
  }
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("ops agree on all backends", "", tests::HostBackends) {
  using namespace tests;
  compare_backends<TestType>("linear", 1e-12, [](auto& be) { return trace_linear<double>(be); });
  compare_backends<TestType>("rms_norm", 1e-12,
                             [](auto& be) { return trace_rms_norm<double>(be); });
  compare_backends<TestType>("layer_norm", 1e-12,
                             [](auto& be) { return trace_layer_norm<double>(be); });
  compare_backends<TestType>("embedding", 1e-12,
                             [](auto& be) { return trace_embedding<double>(be); });
  compare_backends<TestType>("positions", 1e-12,
                             [](auto& be) { return trace_positions<double>(be); });
  compare_backends<TestType>("elementwise", 1e-12,
                             [](auto& be) { return trace_elementwise<double>(be); });
  compare_backends<TestType>("raf", 1e-12, [](auto& be) { return trace_raf<double>(be); });
  compare_backends<TestType>("sliding window", 1e-12,
                             [](auto& be) { return trace_own_variant<double>(be); });
}

TEMPLATE_LIST_TEST_CASE("float agrees on all backends to its rounding", "", tests::HostBackends) {
  using namespace tests;
  const RecurrentCase folded = recurrent_cases().front();
  compare_backends<TestType>("linear", 1e-5, [](auto& be) { return trace_linear<float>(be); });
  compare_backends<TestType>("segmented recurrent", 1e-3, [&](auto& be) {
    return trace_segmented_recurrent<float>(be, folded);
  });
}

TEMPLATE_TEST_CASE("attention in products over all heads agrees with that of one head at a time",
                   "", tests::BatchedBackend, tests::CrampedBackend) {
  using namespace tests;
  compare_backends<TestType>("full", 1e-12,
                             [](auto& be) { return trace_full_attention<double>(be); });
  compare_backends<TestType>("segmented", 1e-12,
                             [](auto& be) { return trace_segmented<double>(be); });
  for (const RecurrentCase& c : recurrent_cases()) {
    compare_backends<TestType>(c.name, 1e-11,
                               [&](auto& be) { return trace_segmented_recurrent<double>(be, c); });
  }
  // Weights go into 16 bits before they multiply.
  compare_backends<TestType>("full, bfloat16", 2e-2,
                             [](auto& be) { return trace_full_attention<Eigen::bfloat16>(be); });
  compare_backends<TestType>("segmented, bfloat16", 2e-2,
                             [](auto& be) { return trace_segmented<Eigen::bfloat16>(be); });
}
