// SPDX-License-Identifier: Apache-2.0
// The rates of every op, forward and backward, at the sizes of T5-small: R tokens of width E, hidden units
// F, vocabulary V.
//
//   ops --threads 2 --benchmark_filter=norm
#include <srformer/ops/activation.hpp>
#include <srformer/ops/cross_entropy.hpp>
#include <srformer/ops/dropout.hpp>
#include <srformer/ops/embedding.hpp>
#include <srformer/ops/norm.hpp>
#include <srformer/ops/softmax.hpp>
#include <srformer/train/adamw.hpp>

#include <optional>
#include <string>

#include "benchmark_run.hpp"

namespace {

using namespace srformer;
using bench::Timing;

constexpr index_t R = 1024, E = 512, F = 2048, V = 32128;
constexpr double RE = R * E, RF = R * F, EF = E * F;

std::vector<std::int32_t> ids() {
  std::vector<std::int32_t> x;
  for (index_t i = 0; i < R; ++i) x.push_back(static_cast<std::int32_t>(i * 7919 % V));
  return x;
}

void add_activation(bench::BenchmarkRun& run, const std::string& name, Activation kind,
                    double forward_flop, double backward_flop) {
  run.add(name + " forward", [=](const Timing& t) {
    const auto x = t.made<2>({R, F});
    auto y = t.made<2>({R, F});
    t.of(forward_flop * RF, 8 * RF, [&] { activation_forward(t.be, kind, x, y.view()); });
  });
  run.add(name + " backward", [=](const Timing& t) {
    const auto x = t.made<2>({R, F}), d_y = t.made<2>({R, F});
    auto d_x = t.made<2>({R, F});
    t.of(backward_flop * RF, 16 * RF, [&] { activation_backward(t.be, kind, x, d_y, d_x.view()); });
  });
}

}  // namespace

int main(int argc, char** argv) {
  bench::BenchmarkRun run("The rates of every op", argc, argv);

  run.add("softmax forward", [](const Timing& t) {
    const auto x = t.made<2>({R, R});
    auto y = t.made<2>({R, R});
    t.of(5.0 * R * R, 8.0 * R * R, [&] { softmax_forward(t.be, x, y.view()); });
  });
  run.add("softmax backward", [](const Timing& t) {
    const auto y = t.made<2>({R, R}), d_y = t.made<2>({R, R});
    auto d_x = t.made<2>({R, R});
    t.of(5.0 * R * R, 16.0 * R * R, [&] { softmax_backward(t.be, y, d_y, d_x.view()); });
  });

  constexpr index_t M = 128;
  constexpr double MV = M * V;
  run.add("cross entropy forward", [](const Timing& t) {
    const auto logits = t.made<2>({M, V});
    const auto labels = from_host<std::int32_t, 1>(t.be, {M}, std::vector<std::int32_t>(M, 7));
    auto lse = t.made<1>({M});
    auto loss = zeros<double, 1>(t.be, {1});
    t.of(4 * MV, 4 * MV,
         [&] { cross_entropy_forward(t.be, logits.view(), labels, 0, lse.view(), loss.view()); });
  });
  run.add("cross entropy backward", [](const Timing& t) {
    const auto logits = t.made<2>({M, V});
    const auto lse = t.made<1>({M});
    const auto labels = from_host<std::int32_t, 1>(t.be, {M}, std::vector<std::int32_t>(M, 7));
    auto d_logits = t.made<2>({M, V});
    t.of(4 * MV, 12 * MV,
         [&] { cross_entropy_backward(t.be, logits, labels, 0, lse, 1e-9, d_logits.view()); });
  });

  run.add("RMS norm forward", [](const Timing& t) {
    const auto x = t.made<2>({R, E});
    const auto weight = t.made<1>({E});
    auto y = t.made<2>({R, E});
    t.of(4 * RE, 8 * RE, [&] { rms_norm_forward(t.be, x, weight, y.view()); });
  });
  run.add("RMS norm backward", [](const Timing& t) {
    const auto x = t.made<2>({R, E}), d_y = t.made<2>({R, E});
    const auto weight = t.made<1>({E});
    auto d_x = t.made<2>({R, E});
    auto d_weight = t.made<1>({E});
    t.of(13 * RE, 16 * RE,
         [&] { rms_norm_backward(t.be, x, weight, d_y, d_x.view(), d_weight.view()); });
  });
  run.add("layer norm forward", [](const Timing& t) {
    const auto x = t.made<2>({R, E});
    const auto weight = t.made<1>({E}), bias = t.made<1>({E});
    auto y = t.made<2>({R, E});
    t.of(8 * RE, 8 * RE, [&] { layer_norm_forward(t.be, x, weight, bias, y.view()); });
  });
  run.add("layer norm backward", [](const Timing& t) {
    const auto x = t.made<2>({R, E}), d_y = t.made<2>({R, E});
    const auto weight = t.made<1>({E});
    auto d_x = t.made<2>({R, E});
    auto d_weight = t.made<1>({E}), d_bias = t.made<1>({E});
    t.of(18 * RE, 16 * RE, [&] {
      layer_norm_backward<EigenBackend, float>(t.be, x, weight,
                                               {d_y, d_x.view(), d_weight.view(), d_bias.view()});
    });
  });

  run.add("linear forward", [](const Timing& t) {
    const auto x = t.made<2>({R, E}), weight = t.made<2>({F, E});
    const auto bias = t.made<1>({F});
    auto y = t.made<2>({R, F});
    t.of(2 * RE * F, 4 * (RE + EF + RF),
         [&] { linear_forward(t.be, x, weight, bias.view(), y.view()); });
  });
  run.add("linear backward", [](const Timing& t) {
    const auto x = t.made<2>({R, E}), weight = t.made<2>({F, E}), d_y = t.made<2>({R, F});
    auto d_x = t.made<2>({R, E}), d_weight = t.made<2>({F, E});
    auto d_bias = t.made<1>({F});
    t.of(4 * RE * F, 4 * (3 * RE + 3 * EF + RF), [&] {
      linear_backward(t.be, x, weight, d_y, d_x.view(), d_weight.view(), d_bias.view());
    });
  });

  // Weights of 66 MB, which no cache holds: a step of generation.
  for (const index_t rows : {1, 4, 16, 64, 128}) {
    run.add("linear forward to V, rows: " + std::to_string(rows), [=](const Timing& t) {
      const auto x = t.made<2>({rows, E}), weight = t.made<2>({V, E});
      auto y = t.made<2>({rows, V});
      const auto r = static_cast<double>(rows);
      t.of(2 * r * E * V, 4 * (r * E + V * E + r * V),
           [&] { linear_forward(t.be, x, weight, std::nullopt, y.view()); });
    });
  }
  run.add("linear forward to E", [](const Timing& t) {
    const auto x = t.made<2>({R, F}), weight = t.made<2>({E, F});
    auto y = t.made<2>({R, E});
    t.of(2 * RE * F, 4 * (RE + EF + RF),
         [&] { linear_forward(t.be, x, weight, std::nullopt, y.view()); });
  });

  add_activation(run, "relu", Activation::relu, 1, 3);
  add_activation(run, "gelu", Activation::gelu, 5, 11);

  run.add("embedding forward", [](const Timing& t) {
    const auto table = t.made<2>({V, E});
    auto y = t.made<2>({R, E});
    t.of(0, 8 * RE, [&, ids = ids()] { embedding_forward(t.be, ids, table, y.view()); });
  });
  run.add("embedding backward", [](const Timing& t) {
    const auto d_y = t.made<2>({R, E});
    auto d_table = t.made<2>({V, E});
    t.of(RE, 12 * RE, [&, ids = ids()] { embedding_backward(t.be, ids, d_y, d_table.view()); });
  });

  run.add("dropout forward", [](const Timing& t) {
    const auto x = t.made<2>({R, E});
    auto y = t.made<2>({R, E});
    const Dropout dropout{0.1, {1, 2}};
    t.of(2 * RE, 12 * RE, [&] { dropout_forward(t.be, x, y.view(), dropout); });
  });
  run.add("dropout backward", [](const Timing& t) {
    const auto d_y = t.made<2>({R, E});
    auto d_x = t.made<2>({R, E});
    const Dropout dropout{0.1, {1, 2}};
    t.of(2 * RE, 12 * RE, [&] { dropout_backward(t.be, d_y, d_x.view(), dropout); });
  });

  run.add("AdamW", [](const Timing& t) {
    Parameters<EigenBackend, float> parameters(t.be);
    auto& p = parameters.add("weight", Role::weight, {V, E});
    parameters.allocate();
    parameters.allocate_gradients();
    t.be.fill(p.gradient, p.count, 0.5f);
    AdamW<EigenBackend, float> optimizer(t.be, parameters, {.weight_decay = 0.01});
    index_t step = 0;
    const auto n = static_cast<double>(p.count);
    t.of(17 * n, 32 * n, [&] { optimizer.update(t.be, parameters, 1e-4, ++step); });
  });

  run.run();
}
