// SPDX-License-Identifier: Apache-2.0
// Times whole training steps of a checkpoint folder on a backend: forward, backward, AdamW; float32,
// dropout 0.
#pragma once

#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <srformer/models/checkpoint.hpp>
#include <srformer/train/adamw.hpp>

#include "product_rate.hpp"

namespace srformer::bench {

/// Ids that compare.py makes alike: 3 + 7919 i mod (V - 103), the last of a row the end token.
inline std::vector<std::int32_t> made_ids(index_t rows, index_t width, index_t vocabulary,
                                          std::int32_t eos) {
  std::vector<std::int32_t> ids;
  for (index_t i = 0; i < rows * width; ++i) {
    ids.push_back(
        (i + 1) % width == 0 ? eos : static_cast<std::int32_t>(3 + i * 7919 % (vocabulary - 103)));
  }
  return ids;
}

/// What the products of a model are as wide as.
struct Widths {
  index_t encoder_layers, decoder_layers, E, H, D, F, feed_forward_products, V;

  explicit Widths(const T5Config& c)
      : encoder_layers(c.num_layers),
        decoder_layers(c.num_decoder_layers),
        E(c.d_model),
        H(c.num_heads),
        D(c.d_kv),
        F(c.d_ff),
        feed_forward_products(c.gated ? 3 : 2),
        V(c.vocab_size) {}
  explicit Widths(const BartConfig& c)
      : encoder_layers(c.encoder_layers),
        decoder_layers(c.decoder_layers),
        E(c.d_model),
        H(c.decoder_attention_heads),
        D(c.d_model / c.decoder_attention_heads),
        F(c.decoder_ffn_dim),
        feed_forward_products(2),
        V(c.vocab_size) {}
};

/// Multiply-adds of one head's cross-attention, forward, as docs/cost.md counts them; none for a variant
/// that is not counted there.
inline std::optional<index_t> cross_attention_products(const PaperVariants::Options& o, index_t D,
                                                       index_t N, index_t M) {
  const index_t L = std::min(o.value_or<index_t>("segment_size", N), N), S = (N + L - 1) / L;
  if (o.is<Full>()) return 2 * M * N * D;
  if (o.is<Segmented>()) return 2 * M * L * D;
  if (o.is<SegmentedRecurrent>())
    return 2 * M * L * D + M * D * D + N * D * D + (L < D ? N : std::min(M, S) * D) * D * D;
  return std::nullopt;
}

/// FLOP of forward and backward of one source, N and M tokens: products alone, nothing computed again.
template <class Config>
std::optional<double> step_flop(const Config& config, index_t N, index_t M) {
  const Widths w(config);
  const auto attention = cross_attention_products(
      cross_attention_options<PaperVariants>(config.cross_attention), w.D, N, M);
  if (!attention) return std::nullopt;
  const auto self = [&](index_t n) {
    return n * 4 * w.E * w.H * w.D + 2 * n * n * w.H * w.D +
           n * w.feed_forward_products * w.E * w.F;
  };
  const index_t cross = (2 * M + 2 * N) * w.E * w.H * w.D + w.H * *attention;
  return 3 * 2.0 *
         static_cast<double>(w.encoder_layers * self(N) + w.decoder_layers * (self(M) + cross) +
                             M * w.E * w.V);
}

struct TrainingSizes {
  std::string model;
  index_t source = 1024, target = 128, batch = 1, steps = 3;

  void add_to(CLI::App& app) {
    app.add_option("model", model, "Checkpoint folder of a T5 or BART")->required();
    app.add_option("--source", source, "Source tokens");
    app.add_option("--target", target, "Target tokens");
    app.add_option("--batch", batch, "Sources per step");
    app.add_option("--steps", steps, "Timed steps, after one that is not")
        ->check(CLI::PositiveNumber);
  }
};

template <class Backend, class Config>
nlohmann::json time_steps(Backend& be, const HfCheckpoint& checkpoint, const Config& config,
                          const TrainingSizes& s) {
  typename Config::template Model<Backend, float, PaperVariants> model(be, config);
  load_parameters(model, checkpoint);
  Batch batch;
  batch.rows = s.batch, batch.source_width = s.source, batch.target_width = s.target;
  batch.source_ids = made_ids(s.batch, s.source, config.vocab_size, config.eos_token_id);
  batch.labels = made_ids(s.batch, s.target, config.vocab_size, config.eos_token_id);
  batch.source_lengths.assign(static_cast<std::size_t>(s.batch), s.source);

  auto& parameters = model.parameters();
  parameters.allocate_gradients();
  AdamW<Backend, float> optimizer(be, parameters, {.decayed = all_roles()});
  const auto tokens = static_cast<double>(s.batch * s.target);
  std::vector<double> seconds, gradient_seconds, optimizer_seconds, losses;
  for (index_t step = 0; step <= s.steps; ++step) {
    const double start = now();
    parameters.zero_gradients();
    auto loss = zeros<double, 1>(be, {1});
    model.add_gradients(batch, {.scale = 1 / tokens}, loss.view());
    be.synchronize();
    const double middle = now();
    optimizer.update(be, parameters, 1e-4, step + 1);
    be.synchronize();
    const double end = now();
    losses.push_back(to_host(be, loss)[0] / tokens);
    if (step == 0) continue;
    seconds.push_back(end - start);
    gradient_seconds.push_back(middle - start);
    optimizer_seconds.push_back(end - middle);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const double rate = product_rate(be);
  nlohmann::json line{{"seconds", seconds},
                      {"gradient_seconds", gradient_seconds},
                      {"optimizer_seconds", optimizer_seconds},
                      {"losses", losses},
                      {"product_gflops", rate / 1e9},
                      {"peak_bytes", usage.ru_maxrss * 1024L}};
  if (const auto flop = step_flop(config, s.source, s.target)) {
    std::ranges::sort(gradient_seconds);
    const double at_peak = static_cast<double>(s.batch) * *flop / rate;
    line["gradient_seconds_at_product_rate"] = at_peak;
    line["product_share"] = at_peak / gradient_seconds[gradient_seconds.size() / 2];
  }
  return line;
}

/// Prints one line of JSON: seconds and losses per step, seconds of the optimiser alone, the rate of a
/// 1024x2048x512 product measured beside it, the share of it that forward and backward reach, peak bytes.
template <class Backend>
void time_training(Backend& be, const TrainingSizes& sizes) {
  const HfCheckpoint checkpoint(sizes.model);
  const nlohmann::json line =
      std::visit([&](const auto& config) { return time_steps(be, checkpoint, config, sizes); },
                 PaperArchitectures::read(checkpoint));
  std::printf("%s\n", line.dump().c_str());
}

}  // namespace srformer::bench
