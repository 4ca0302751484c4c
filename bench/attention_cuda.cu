// SPDX-License-Identifier: Apache-2.0
// attention.cpp on a CUDA device; without one it says so and ends with 1. With --team_a_head the attention of a source
// and head is left to one team, as on a processor, in place of stages over all heads.
#include <CLI/CLI.hpp>
#include <srformer/backend/thrust_cuda.hpp>

#include "attention_timing.hpp"

namespace {

using CudaBackend = srformer::ThrustBackend<srformer::thrust_cuda>;

/// The device without products in batches, which stages need.
class TeamAHead : public CudaBackend {
 public:
  using CudaBackend::CudaBackend;
  template <class... Arguments>
  void gemm_batched(Arguments...) = delete;
};
static_assert(!srformer::HasBatchedGemm<TeamAHead>);

/// Those that one team can do. Segmented recurrent attention is a program of a processor's core there.
using OfOneTeam = srformer::Variants<srformer::Full, srformer::Segmented, srformer::TransformerXl,
                                     srformer::GlobalTokens, srformer::Linear>;

}  // namespace

int main(int argc, char** argv) try {
  srformer::bench::AttentionSizes sizes;
  srformer::CudaOptions device;
  bool team_a_head = false;
  CLI::App app("Time one cross-attention on a CUDA device, forward and backward");
  sizes.add_to(app);
  app.add_flag("--tf32", device.tf32, "Products of 10 bits of mantissa");
  app.add_flag("--team_a_head", team_a_head,
               "One team for each source and head in place of stages over all; not for "
               "segmented_recurrent");
  CLI11_PARSE(app, argc, argv);
  if (team_a_head) {
    TeamAHead be(device);
    srformer::bench::time_attention<OfOneTeam>(be, sizes);
  } else {
    CudaBackend be(device);
    srformer::bench::time_attention(be, sizes);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
