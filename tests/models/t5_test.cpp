// SPDX-License-Identifier: Apache-2.0
#include "models/tiny_t5.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

using T5Model = T5<EigenBackend, double>;

}  // namespace

TEST_CASE(
    "without a horizon it is the width of the targets of a batch, in upstream padding all counts") {
  EigenBackend be(1);
  CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent);
  const auto differs = [&] {
    const T5Config config = tiny_config(cross);
    T5Model model(be, config);
    randomize(model, 7);
    const Batch batch = random_batch(config, {17, 9}, {3, 7}, 21, 3, 5);
    const Batch alone = single(batch, 0);
    return relative_difference(
        logits_of(model, alone),
        rows_of(logits_of(model, batch), batch, 0, alone.target_width, config.vocab_size));
  };
  CHECK(differs() > 1e-3);
  cross.horizon = 7;
  CHECK(differs() < 1e-12);
  cross.padding = Padding::upstream;
  CHECK(differs() > 1e-3);
}

TEST_CASE("parameters start as transformers starts them") {
  EigenBackend be(1);
  for (const bool gated : {false, true}) {
    CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent);
    cross.gate = cross.sigma = true;
    T5Config config = tiny_config(cross);
    config.vocab_size = 97, config.d_model = 60, config.d_kv = 10, config.d_ff = 110;
    config.num_heads = 8, config.relative_attention_num_buckets = 32;
    config.relative_attention_max_distance = 128;
    config.gated = gated, config.tie_word_embeddings = !gated, config.initializer_factor = 0.7;
    T5Model model(be, config);
    const double scale = 0.3;
    model.initialize(RandomStream{3, 1}, scale);
    const double E = 60, D = 10, F = 110, inner = 80, f = 0.7;
    std::vector<std::vector<double>> seen;
    for (const auto& p : model.parameters()) {
      CAPTURE(p.name);
      const std::vector<double> x(p.value, p.value + p.count);
      const auto is = [&](const char* tail) {
        return p.name.ends_with(std::string(tail) + ".weight");
      };
      const auto constant = [&](double value) { return x == std::vector<double>(x.size(), value); };
      double deviation = 0;
      if (is("norm")) {
        CHECK(constant(f));
        continue;
      }
      if (p.name.ends_with(".leak") || p.name.ends_with(".threshold")) {
        CHECK(constant(0.1));
        continue;
      }
      if (p.name.ends_with(".sigma") || p.name.ends_with(".gate")) {
        CHECK(constant(p.name.ends_with(".sigma") ? 0.5 : 0.0));
        continue;
      }
      const bool uniform_values = is("SNN_kv");
      if (is("shared") || is("lm_head")) deviation = f;
      if (is(".q")) deviation = f / std::sqrt(E * D);
      if (is(".k") || is(".v") || is(".wi") || is(".wi_0") || is(".wi_1") ||
          is(".relative_attention_bias"))
        deviation = f / std::sqrt(E);
      if (is(".o")) deviation = f / std::sqrt(inner);
      if (is(".wo")) deviation = f / std::sqrt(F);
      if (uniform_values) deviation = scale / std::sqrt(3 * D);
      REQUIRE(deviation > 0);  // each name is known
      const auto n = static_cast<double>(x.size());
      double mean = 0, square = 0, top = 0;
      for (const double v : x) {
        mean += v / n, square += v * v / n, top = std::max(top, std::abs(v));
      }
      CHECK(std::abs(mean) < 5 * deviation / std::sqrt(n));
      CHECK(std::sqrt(square) == Approx(deviation).epsilon(5 / std::sqrt(2 * n)));
      const double bound = scale / std::sqrt(D);
      if (uniform_values) {
        CHECK(top <= bound);
        CHECK(top > 0.9 * bound);
      } else {
        CHECK(top > 2 * deviation);  // not uniform
      }
      const std::vector<double> start(x.begin(), x.begin() + 3);
      CHECK(std::ranges::find(seen, start) == seen.end());
      seen.push_back(start);
    }
    CHECK(seen.size() > 20);
  }
}

TEST_CASE("initial values depend on the stream and not on what else the model has") {
  EigenBackend be(1);
  T5Model plain(be, tiny_config());
  T5Model other(be, tiny_config(cross_options(Variant::segmented_recurrent)));
  plain.initialize(RandomStream{3, 1}, 1);
  other.initialize(RandomStream{3, 1}, 1);
  for (auto& p : plain.parameters()) {
    CHECK(std::equal(p.value, p.value + p.count, other.parameters().at(p.name).value));
  }
  const auto before = to_host(be, other.parameters().values());
  other.initialize(RandomStream{3, 1}, 1);
  CHECK(to_host(be, other.parameters().values()) == before);
  other.initialize(RandomStream{4, 1}, 1);
  CHECK(to_host(be, other.parameters().values()) != before);
}

TEST_CASE("names, order and shapes of the parameters are those of transformers") {
  EigenBackend be(1);
  CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent);
  cross.gate = true;
  T5Config config = tiny_config(cross);
  config.num_layers = config.num_decoder_layers = 1;
  config.gated = true, config.tie_word_embeddings = false;
  T5Model model(be, config);
  std::string list;
  for (const auto& p : model.parameters()) list += p.name + shape_text(p.shape) + "\n";
  CHECK(list ==
        "shared.weight[23,12]\n"
        "lm_head.weight[23,12]\n"
        "encoder.block.0.layer.0.SelfAttention.q.weight[8,12]\n"
        "encoder.block.0.layer.0.SelfAttention.k.weight[8,12]\n"
        "encoder.block.0.layer.0.SelfAttention.v.weight[8,12]\n"
        "encoder.block.0.layer.0.SelfAttention.o.weight[12,8]\n"
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight[6,2]\n"
        "encoder.block.0.layer.0.layer_norm.weight[12]\n"
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight[10,12]\n"
        "encoder.block.0.layer.1.DenseReluDense.wi_1.weight[10,12]\n"
        "encoder.block.0.layer.1.DenseReluDense.wo.weight[12,10]\n"
        "encoder.block.0.layer.1.layer_norm.weight[12]\n"
        "encoder.final_layer_norm.weight[12]\n"
        "decoder.block.0.layer.0.SelfAttention.q.weight[8,12]\n"
        "decoder.block.0.layer.0.SelfAttention.k.weight[8,12]\n"
        "decoder.block.0.layer.0.SelfAttention.v.weight[8,12]\n"
        "decoder.block.0.layer.0.SelfAttention.o.weight[12,8]\n"
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight[6,2]\n"
        "decoder.block.0.layer.0.layer_norm.weight[12]\n"
        "decoder.block.0.layer.1.EncDecAttention.q.weight[8,12]\n"
        "decoder.block.0.layer.1.EncDecAttention.k.weight[8,12]\n"
        "decoder.block.0.layer.1.EncDecAttention.v.weight[8,12]\n"
        "decoder.block.0.layer.1.EncDecAttention.o.weight[12,8]\n"
        "decoder.block.0.layer.1.EncDecAttention.SNN_kv.weight[4,4]\n"
        "decoder.block.0.layer.1.EncDecAttention.leak[1]\n"
        "decoder.block.0.layer.1.EncDecAttention.threshold[1]\n"
        "decoder.block.0.layer.1.EncDecAttention.gate[2]\n"
        "decoder.block.0.layer.1.layer_norm.weight[12]\n"
        "decoder.block.0.layer.2.DenseReluDense.wi_0.weight[10,12]\n"
        "decoder.block.0.layer.2.DenseReluDense.wi_1.weight[10,12]\n"
        "decoder.block.0.layer.2.DenseReluDense.wo.weight[12,10]\n"
        "decoder.block.0.layer.2.layer_norm.weight[12]\n"
        "decoder.final_layer_norm.weight[12]\n");
}

TEST_CASE("norms may take their mean as torch does in float32, bit for bit") {
  // torch.rsqrt(x.to(torch.float32).pow(2).mean(-1, keepdim=True) + 1e-6) of x_i = sin(i) in float64
  const auto scale = [](index_t n) {
    std::vector<double> x;
    for (index_t i = 0; i < n; ++i) x.push_back(std::sin(static_cast<double>(i)));
    return static_cast<double>(detail::transformers_scale(x.data(), n, 1e-6));
  };
  CHECK(scale(1) == 0x1.f3fffe0000000p+9);
  CHECK(scale(7) == 0x1.7f228a0000000p+0);
  CHECK(scale(12) == 0x1.69feea0000000p+0);
  CHECK(scale(17) == 0x1.7648860000000p+0);
  CHECK(scale(24) == 0x1.6e71420000000p+0);
  CHECK(scale(26) == 0x1.7075820000000p+0);
  CHECK(scale(27) == 0x1.6f121e0000000p+0);
  CHECK(scale(32) == 0x1.6d7a480000000p+0);
  CHECK(scale(37) == 0x1.6a849e0000000p+0);
  CHECK(scale(41) == 0x1.6a983c0000000p+0);
  CHECK(scale(44) == 0x1.6a161e0000000p+0);
  CHECK(scale(46) == 0x1.6c46380000000p+0);
  CHECK(scale(96) == 0x1.6ba8920000000p+0);
  CHECK(scale(99) == 0x1.6bd4960000000p+0);
  CHECK(scale(105) == 0x1.6bef960000000p+0);
  CHECK(scale(108) == 0x1.6bddcc0000000p+0);
  CHECK(scale(500) == 0x1.6a36b80000000p+0);
}
