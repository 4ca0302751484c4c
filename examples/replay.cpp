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
#include "device/device.hpp"

int main(int argc, char** argv) {
  return srformer::program::run([&] {
    std::string path, out;
    srformer::program::DeviceFlags device{.dtype = "float64"};
    CLI::App app("Run a reference file through this library and write what it computed");
    app.add_option("path", path, "Attention file or checkpoint folder")->required();
    app.add_option("out", out, "Safetensors file to write")->required();
    device.add_to(app);
    srformer::program::parse(app, argc, argv);
    srformer::program::open_device(device)->replay(path, out);
  });
}
