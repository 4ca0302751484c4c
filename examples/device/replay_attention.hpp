// SPDX-License-Identifier: Apache-2.0
// One attention file of the reference values: forward and backward of its variant.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <srformer/models/cross_attention_config.hpp>

#include "replay_results.hpp"

namespace srformer {

/// The options of an attention file: the keyword arguments of the reference functions, under our names.
inline PaperVariants::Options reference_options(const SafetensorsFile& file) {
  const auto& metadata = file.metadata();
  if (!metadata.contains("variant") || !metadata.contains("options")) {
    throw io_error(file.path() +
                   ": has no \"variant\" and \"options\" in its metadata; give an attention "
                   "file of the reference values");
  }
  const std::map<std::string, std::string> ours{
      {"size", "segment_size"}, {"use_raf", "recurrence"}, {"use_segment", "local"}};
  const nlohmann::json stored = nlohmann::json::parse(metadata.at("options"));
  nlohmann::json options{{"padding", "upstream"}};
  for (const auto& [key, value] : stored.items()) {
    if (key == "mask_tail") {
      options["padding"] = value.get<bool>() ? "masked" : "upstream";
    } else {
      options[ours.contains(key) ? ours.at(key) : key] = value;
    }
  }
  return cross_attention_options<PaperVariants>({metadata.at("variant"), options, file.path()});
}

/// What a reference file calls a learned parameter: "SNN_kv.weight" is "weight", "RNN_key.bias_ih_l0" is
/// "rnn_key.bias_ih".
inline std::string reference_name(std::string_view learned) {
  if (learned == "SNN_kv.weight") return "weight";
  std::string name(learned);
  if (name.starts_with("RNN_")) name = "rnn_" + name.substr(4, name.size() - 4 - 3);
  return name;
}

/// Runs the attention of `path` and writes out and the gradient of every input.
template <class T, class B>
void replay_attention(B& be, const std::filesystem::path& path,
                      const std::filesystem::path& out_path) {
  using Space = typename B::space;
  const SafetensorsFile file(path);
  const PaperVariants::Options options = reference_options(file);

  struct Input {
    Tensor<B, T, 1> value, gradient;
  };
  std::map<std::string, Input> inputs;
  for (const std::string& name : file.names()) {
    if (name == "bias" || name == "out" || name.starts_with("grad_")) continue;
    const index_t count = file.info(name).count;
    inputs[name] = {from_host<T, 1>(be, {count}, file.read<T>(name)), zeros<T, 1>(be, {count})};
  }
  const auto shaped = [&](const std::string& name, T* data) {
    if (!file.contains(name) || file.info(name).shape.size() != 4) {
      throw io_error(path.string() + ": has no tensor \"" + name +
                     "\" of four axes; give an attention file of the reference values");
    }
    const auto& shape = file.info(name).shape;
    return View<T, 4, Space>(data, {shape[0], shape[1], shape[2], shape[3]});
  };
  const auto value = [&](const std::string& name) {
    return shaped(name, inputs[name].value.data());
  };
  const auto gradient = [&](const std::string& name) {
    return shaped(name, inputs[name].gradient.data());
  };
  LearnedPointers<T> learned, d_learned;
  PaperVariants::visit_learned(options, {}, [&](const LearnedInfo& info) {
    const auto found = inputs.find(reference_name(info.name));
    const bool there = found != inputs.end();
    learned.add(there ? found->second.value.data() : nullptr);
    d_learned.add(there ? found->second.gradient.data() : nullptr);
  });

  const auto q = value("q"), k = value("k"), v = value("v");
  using C = compute_t<T>;
  AttendContext<C, Space> context;
  Tensor<B, C, 4> bias;
  if (file.contains("bias")) {
    bias =
        from_host<C, 4>(be, shaped("bias", static_cast<T*>(nullptr)).extents, file.read<C>("bias"));
    context.mask.dense = bias.view().as_const();
    context.mask.dense.strides[0] = 0;  // [1,H,M,N] for every source
  }
  Tensor<B, T, 4> out(be, q.extents);
  const AttentionInputs<B, T> in{q, k, v, context};
  PaperVariants::Saved<B, T> saved;
  PaperVariants::forward(be, in, learned, options, saved, out.view());
  const auto d_out = from_host<T, 4>(be, q.extents, file.read<T>("grad_out"));
  PaperVariants::backward(be, in, learned, options, saved,
                          {d_out, gradient("q"), gradient("k"), gradient("v")}, d_learned);

  detail::ReplayResults<T> results;
  const auto shape = [&](const std::string& name) { return file.info(name).shape; };
  results.add("out", shape("q"), to_host(be, out));
  for (const auto& [name, input] : inputs) {
    results.add("grad_" + name, shape(name), to_host(be, input.gradient));
  }
  results.write(out_path);
}

}  // namespace srformer
