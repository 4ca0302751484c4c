// SPDX-License-Identifier: Apache-2.0
// attention.cpp on a CUDA device; without one it says so and ends with 1.
#include <CLI/CLI.hpp>
#include <srformer/backend/thrust_cuda.hpp>

#include "attention_timing.hpp"

int main(int argc, char** argv) try {
  srformer::bench::AttentionSizes sizes;
  srformer::CudaOptions device;
  CLI::App app("Time one cross-attention on a CUDA device, forward and backward");
  sizes.add_to(app);
  app.add_flag("--tf32", device.tf32, "Products of 10 bits of mantissa");
  CLI11_PARSE(app, argc, argv);
  srformer::ThrustBackend<srformer::thrust_cuda> be(device);
  srformer::bench::time_attention(be, sizes);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
