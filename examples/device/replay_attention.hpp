// SPDX-License-Identifier: Apache-2.0
// One attention file of the reference values: forward and backward of its variant.
#pragma once

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <srformer/models/cross_attention_config.hpp>
#include <string>
#include <utility>

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

namespace detail {

/// The inputs of an attention file by name, and their gradients, zero at first.
template <class T, class B>
class ReplayInputs {
 public:
  using Heads = View<T, 4, typename B::space>;

  ReplayInputs(B& be, const SafetensorsFile& file) : file_(file) {
    for (const std::string& name : file.names()) {
      if (name == "bias" || name == "out" || name.starts_with("grad_")) continue;
      const index_t count = file.info(name).count;
      inputs_[name] = {from_host<T, 1>(be, {count}, file.read<T>(name)), zeros<T, 1>(be, {count})};
    }
  }

  /// io_error where the file has no such tensor of four axes.
  Heads value(const std::string& name) { return shaped(name, inputs_[name].value.data()); }
  Heads gradient(const std::string& name) { return shaped(name, inputs_[name].gradient.data()); }
  std::array<index_t, 4> shape(const std::string& name) const {
    return shaped(name, nullptr).extents;
  }

  /// The learned parameters of the options and their gradients; null for those that the file lacks.
  std::pair<LearnedPointers<T>, LearnedPointers<T>> learned(const PaperVariants::Options& options) {
    std::pair<LearnedPointers<T>, LearnedPointers<T>> pointers;
    PaperVariants::visit_learned(options, {}, [&](const LearnedInfo& info) {
      const auto found = inputs_.find(reference_name(info.name));
      const bool there = found != inputs_.end();
      pointers.first.add(there ? found->second.value.data() : nullptr);
      pointers.second.add(there ? found->second.gradient.data() : nullptr);
    });
    return pointers;
  }

  /// Adds grad_NAME for every input.
  void add_gradients(B& be, ReplayResults<T>& results) const {
    for (const auto& [name, input] : inputs_)
      results.add("grad_" + name, file_.info(name).shape, to_host(be, input.gradient));
  }

 private:
  struct Input {
    Tensor<B, T, 1> value, gradient;
  };

  Heads shaped(const std::string& name, T* data) const {
    if (!file_.contains(name) || file_.info(name).shape.size() != 4) {
      throw io_error(file_.path() + ": has no tensor \"" + name +
                     "\" of four axes; give an attention file of the reference values");
    }
    const auto& shape = file_.info(name).shape;
    return Heads(data, {shape[0], shape[1], shape[2], shape[3]});
  }

  const SafetensorsFile& file_;
  std::map<std::string, Input> inputs_;
};

}  // namespace detail

/// Runs the attention of `path` and writes out and the gradient of every input.
template <class T, class B>
void replay_attention(B& be, const std::filesystem::path& path,
                      const std::filesystem::path& out_path) {
  using C = compute_t<T>;
  const SafetensorsFile file(path);
  const PaperVariants::Options options = reference_options(file);
  detail::ReplayInputs<T, B> inputs(be, file);
  const auto [learned, d_learned] = inputs.learned(options);

  const auto q = inputs.value("q"), k = inputs.value("k"), v = inputs.value("v");
  AttendContext<C, typename B::space> context;
  Tensor<B, C, 4> bias;
  if (file.contains("bias")) {
    bias = from_host<C, 4>(be, inputs.shape("bias"), file.read<C>("bias"));
    context.mask.dense = bias.view().as_const();
    context.mask.dense.strides[0] = 0;  // [1,H,M,N] for every source
  }
  Tensor<B, T, 4> out(be, q.extents);
  const AttentionInputs<B, T> in{q, k, v, context};
  PaperVariants::Saved<B, T> saved;
  PaperVariants::forward(be, in, learned, options, saved, out.view());
  const auto d_out = from_host<T, 4>(be, q.extents, file.read<T>("grad_out"));
  PaperVariants::backward(be, in, learned, options, saved,
                          {d_out, inputs.gradient("q"), inputs.gradient("k"), inputs.gradient("v")},
                          d_learned);

  detail::ReplayResults<T> results;
  results.add("out", file.info("q").shape, to_host(be, out));
  inputs.add_gradients(be, results);
  results.write(out_path);
}

}  // namespace srformer
