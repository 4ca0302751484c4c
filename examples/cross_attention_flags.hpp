// SPDX-License-Identifier: Apache-2.0
// The flags that say which cross-attention a model has; they go over what config.json says.
#pragma once

#include <cmath>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include <srformer/models/config.hpp>

#include "program.hpp"

namespace srformer::program {

/// What the command line said; what it did not say stays as it was.
struct CrossAttentionFlags {
  std::optional<std::string> variant, clamp, padding;
  std::optional<index_t> segment_size, horizon, generation_horizon;
  std::optional<bool> gate, sigma, binary_firing;
  double recurrence_init_scale = 0.1;

  void add_to(CLI::App& app) {
    const auto at_least_one = CLI::Range(index_t{1}, index_t{1} << 40);
    std::vector<std::string> names;
    for (const Variant v : all_variants) names.emplace_back(variant_name(v));
    app.add_option("--cross_attention", variant, "Cross-attention of the decoder")
        ->check(CLI::IsMember(names));
    app.add_option("--segment_size", segment_size, "Keys in a segment")->check(at_least_one);
    app.add_option("--horizon", horizon, "Decoder steps over the source in training")
        ->check(at_least_one);
    app.add_option("--generation_horizon", generation_horizon, "The same in decoding")
        ->check(at_least_one);
    app.add_option("--clamp", clamp, "Bound of the key-value products, or none");
    app.add_option("--padding", padding, "How padded sources are treated")
        ->check(CLI::IsMember({"masked", "upstream"}));
    app.add_option("--gate", gate,
                   "A learned factor per head on the recurrent part: true or false");
    app.add_option("--sigma", sigma, "A learned weighted sum of both parts: true or false");
    app.add_option("--binary_firing", binary_firing,
                   "What fires is 1, with a surrogate gradient: true or false");
    app.add_option("--recurrence_init_scale", recurrence_init_scale,
                   "Factor on the initial weights of the recurrence; 1 is the authors'")
        ->capture_default_str();
  }

  /// Puts what was said into config.json's object "cross_attention", and checks it there.
  void apply(nlohmann::json& config) const {
    nlohmann::json o = to_json(cross_attention_from_json(config, "config.json"));
    if (variant) o["variant"] = *variant;
    if (segment_size) o["segment_size"] = *segment_size;
    if (horizon) o["horizon"] = *horizon;
    if (generation_horizon) o["generation_horizon"] = *generation_horizon;
    if (padding) o["padding"] = *padding;
    if (gate) o["gate"] = *gate;
    if (sigma) o["sigma"] = *sigma;
    if (binary_firing) o["binary_firing"] = *binary_firing;
    if (clamp) o["clamp"] = *clamp == "none" ? nlohmann::json() : nlohmann::json(number(*clamp));
    config["cross_attention"] = std::move(o);
    cross_attention_from_json(config, "the flags of the cross-attention");
  }

 private:
  static double number(const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(value > 0) || !std::isfinite(value))
      throw usage_error("--clamp " + text + " is neither a positive number nor none");
    return value;
  }
};

}  // namespace srformer::program
