// SPDX-License-Identifier: Apache-2.0
// The optimizers of data/optimizers, which optimizers_with_transformers.py has made.
#pragma once

#include <filesystem>
#include <string>

#include <srformer/io/hf_checkpoint.hpp>
#include <srformer/train/optimizers.hpp>

namespace tests {

inline nlohmann::json optimizer_data(const char* name) {
  return srformer::read_json_file(std::filesystem::path(SRF_TESTS_DIR) / "train/data/optimizers" /
                                  name);
}

/// The options that `json` says, with weight decay and clipping.
inline srformer::OptimizerOptions optimizer_options(const nlohmann::json& json, double weight_decay,
                                                    double max_grad_norm) {
  using namespace srformer;
  const auto set = [&](const char* name, auto& member) {
    if (json.contains(name)) member = json.at(name).get<std::remove_cvref_t<decltype(member)>>();
  };
  const auto finished = [&](auto options) -> OptimizerOptions {
    options.weight_decay = weight_decay, options.max_grad_norm = max_grad_norm;
    return options;
  };
  const std::string name = json.at("name");
  if (name == "adamw_torch") {
    AdamWOptions o;
    set("beta1", o.beta1), set("beta2", o.beta2), set("epsilon", o.epsilon);
    return finished(o);
  }
  if (name == "sgd") {
    SgdOptions o;
    set("momentum", o.momentum), set("dampening", o.dampening), set("nesterov", o.nesterov);
    return finished(o);
  }
  REQUIRE(name == "adafactor");
  AdafactorOptions o;
  if (json.contains("beta1")) o.beta1 = json.at("beta1").get<double>();
  set("epsilon1", o.epsilon1), set("epsilon2", o.epsilon2);
  set("clip_threshold", o.clip_threshold), set("decay_rate", o.decay_rate);
  set("scale_parameter", o.scale_parameter), set("relative_step", o.relative_step);
  set("warmup_init", o.warmup_init);
  return finished(o);
}

}  // namespace tests
