// SPDX-License-Identifier: Apache-2.0
// One attention file of the reference values: forward and backward of its variant.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <srformer/attention/cross_attention.hpp>
#include <srformer/io/hf_checkpoint.hpp>

#include "replay_results.hpp"

namespace srformer {

/// The options of an attention file: the keyword arguments of the reference functions.
inline CrossAttentionOptions reference_options(const SafetensorsFile& file) {
  const auto& metadata = file.metadata();
  if (!metadata.contains("variant") || !metadata.contains("options")) {
    throw io_error(file.path() +
                   ": has no \"variant\" and \"options\" in its metadata; give an attention "
                   "file of the reference values");
  }
  CrossAttentionOptions options;
  options.variant = variant_from_name(metadata.at("variant"));
  options.padding = Padding::upstream;
  const nlohmann::json stored = nlohmann::json::parse(metadata.at("options"));
  for (const auto& [key, value] : stored.items()) {
    if (key == "size") {
      options.segment_size = value.get<index_t>();
    } else if (key == "horizon") {
      options.horizon = value.get<index_t>();
    } else if (key == "mask_tail") {
      options.padding = value.get<bool>() ? Padding::masked : Padding::upstream;
    } else if (key == "clamp") {
      options.clamp = value.get<double>();
    } else if (key == "normalize") {
      options.normalize = value.get<bool>();
    } else if (key == "use_raf") {
      options.recurrence = value.get<bool>();
    } else if (key == "use_segment") {
      options.local = value.get<bool>();
    } else if (key == "product") {
      options.product = value == "segment" ? Product::segment : Product::complement;
    } else if (key == "advance") {
      options.advance = value == "token" ? Advance::token : Advance::segment;
    } else if (key == "sigma") {
      options.sigma = value.get<bool>();
    } else if (key == "gate") {
      options.gate = value.get<bool>();
    } else {
      throw io_error(file.path() + ": option \"" + key + "\" is not known; update this program");
    }
  }
  return options;
}

/// Runs the attention of `path` and writes out and the gradient of every input.
template <class T, class B>
void replay_attention(B& be, const std::filesystem::path& path,
                      const std::filesystem::path& out_path) {
  using Space = typename B::space;
  const SafetensorsFile file(path);
  const CrossAttentionOptions options = reference_options(file);

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
  const auto parameter = [&](const std::string& name, bool of_gradient) -> T* {
    const auto found = inputs.find(name);
    if (found == inputs.end()) return nullptr;
    return of_gradient ? found->second.gradient.data() : found->second.value.data();
  };
  const auto parameters = [&](bool of_gradient) {
    const auto rnn = [&](const std::string& name) {
      return RnnParameters<T>{
          parameter(name + ".weight_ih", of_gradient), parameter(name + ".weight_hh", of_gradient),
          parameter(name + ".bias_ih", of_gradient), parameter(name + ".bias_hh", of_gradient)};
    };
    return CrossAttentionParameters<T>(
        RecurrentParameters<T>{parameter("weight", of_gradient), parameter("leak", of_gradient),
                               parameter("threshold", of_gradient), parameter("sigma", of_gradient),
                               parameter("gate", of_gradient)},
        rnn("rnn_key"), rnn("rnn_value"));
  };

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
  cross_attention_forward(be, q, k, v, parameters(false), context, options, out.view());
  const auto d_out = from_host<T, 4>(be, q.extents, file.read<T>("grad_out"));
  cross_attention_backward(be, q, k, v, parameters(false), context, options, d_out, gradient("q"),
                           gradient("k"), gradient("v"), parameters(true));

  detail::ReplayResults<T> results;
  const auto shape = [&](const std::string& name) { return file.info(name).shape; };
  results.add("out", shape("q"), to_host(be, out));
  for (const auto& [name, input] : inputs) {
    results.add("grad_" + name, shape(name), to_host(be, input.gradient));
  }
  results.write(out_path);
}

}  // namespace srformer
