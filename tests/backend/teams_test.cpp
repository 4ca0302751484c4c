// SPDX-License-Identifier: Apache-2.0
// Every row functor of ops/ and attention/ on teams of four threads, against teams of one.
#include <Eigen/Core>
#include <srformer/testing/thread_team.hpp>

#include "support/catch.hpp"
#include "support/traces.hpp"

using namespace srformer;

namespace {

template <class Trace>
void compare_teams(const char* what, double tolerance, Trace trace) {
  EigenBackend one(1);
  ThreadTeamBackend four;
  tests::compare(what, trace(four), trace(one), tolerance);
}

}  // namespace

TEST_CASE("row functors of ops agree on teams of one and four") {
  using namespace tests;
  compare_teams("linear", 1e-12, [](auto& be) { return trace_linear<double>(be); });
  compare_teams("rms_norm", 1e-12, [](auto& be) { return trace_rms_norm<double>(be); });
  compare_teams("softmax", 1e-12, [](auto& be) { return trace_softmax<double>(be); });
  compare_teams("cross_entropy", 1e-12, [](auto& be) { return trace_cross_entropy<double>(be); });
  compare_teams("embedding", 1e-12, [](auto& be) { return trace_embedding<double>(be); });
  compare_teams("raf", 1e-12, [](auto& be) { return trace_raf<double>(be); });
}

TEST_CASE("row functors of attention agree on teams of one and four") {
  using namespace tests;
  compare_teams("full", 1e-12, [](auto& be) { return trace_full_attention<double>(be); });
  compare_teams("segmented", 1e-12, [](auto& be) { return trace_segmented<double>(be); });
  compare_teams("kv_product", 1e-12, [](auto& be) { return trace_kv_product<double>(be); });
}

TEST_CASE("segmented recurrent attention agrees on teams of one and four") {
  for (const tests::RecurrentCase& c : tests::recurrent_cases()) {
    compare_teams(c.name, 1e-11,
                  [&](auto& be) { return tests::trace_segmented_recurrent<double>(be, c); });
  }
}

TEST_CASE("functors that store bfloat16 and compute in float agree on teams of one and four") {
  using namespace tests;
  using Narrow = Eigen::bfloat16;
  compare_teams("rms_norm", 0.02, [](auto& be) { return trace_rms_norm<Narrow>(be); });
  compare_teams("full", 0.02, [](auto& be) { return trace_full_attention<Narrow>(be); });
  const RecurrentCase folded = recurrent_cases().front();
  compare_teams("segmented recurrent", 0.05,
                [&](auto& be) { return trace_segmented_recurrent<Narrow>(be, folded); });
}
