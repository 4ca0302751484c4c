// SPDX-License-Identifier: Apache-2.0
// replay PATH OUT: run a reference file through this library and write what it computed.
//
//   replay values/attention/full.safetensors out.safetensors --dtype float64
//   replay values/models/t5_full out.safetensors --device cpu
//
// PATH is an attention file (q, k, v, ... and grad_out, the variant in its metadata) or a checkpoint
// folder with reference.safetensors and reference.json. OUT holds the results under the names that
// the reference has: out, grad_q, ...; logits, loss, grad/PARAM, step/PARAM, generate/NAME.
// Expected values in PATH are never read.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <srformer/backend/eigen.hpp>
#include <thread>

#include "program.hpp"
#include "replay_attention.hpp"
#include "replay_model.hpp"

int main(int argc, char** argv) {
  return srformer::program::run([&] {
    std::string path, out, device = "cpu", dtype = "float64";
    int threads = 0;
    CLI::App app("Run a reference file through this library and write what it computed");
    app.add_option("path", path, "Attention file or checkpoint folder")->required();
    app.add_option("out", out, "Safetensors file to write")->required();
    app.add_option("--device", device, "Where to run")->check(CLI::IsMember({"cpu"}));
    app.add_option("--dtype", dtype, "Scalar type")->check(CLI::IsMember({"float64", "float32"}));
    app.add_option("--threads", threads, "Threads; 0: as many as the machine has");
    srformer::program::parse(app, argc, argv);

    srformer::EigenBackend be(threads);
    srformer::program::with_dtype(dtype, [&](auto zero) {
      using T = decltype(zero);
      if (std::filesystem::is_directory(path)) {
        srformer::replay_model<T>(be, path, out);
      } else {
        srformer::replay_attention<T>(be, path, out);
      }
    });
  });
}
