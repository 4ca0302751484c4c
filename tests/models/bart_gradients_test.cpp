// SPDX-License-Identifier: Apache-2.0
// Gradients of a whole BART against dual numbers.
#include "models/model_gradients.hpp"
#include "models/tiny_bart.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

using BartModel = Bart<EigenBackend, double>;

/// Compares, and checks that just those parameters have no gradient that must not have one: the bias of
/// keys is the same for all keys of a query, which softmax takes off again. What a variant does with keys
/// other than softmax lets `cross_keys` learn.
GradientsFound check(const BartConfig& config, const Batch& batch, const LossOptions& options,
                     bool cross_keys) {
  const GradientsFound found =
      check_gradients<BartModel, Bart<EigenBackend, DualNumber>>(config, batch, options);
  CAPTURE(found.worst_name);
  CHECK(found.worst < 1e-10);
  std::vector<std::string> expected;
  const auto bias = [&](const char* stack, index_t layer, const char* attention) {
    expected.push_back(std::string("model.") + stack + ".layers." + std::to_string(layer) + "." +
                       attention + ".k_proj.bias");
  };
  for (index_t l = 0; l < config.encoder_layers; ++l) bias("encoder", l, "self_attn");
  for (index_t l = 0; l < config.decoder_layers; ++l) {
    bias("decoder", l, "self_attn");
    if (!cross_keys) bias("decoder", l, "encoder_attn");
  }
  if (!cross_of(config).recurrence) {
    for (index_t l = 0; l < config.decoder_layers; ++l) {
      for (const char* unused : {".SNN_kv.weight", ".leak", ".threshold"})
        expected.push_back("model.decoder.layers." + std::to_string(l) + ".encoder_attn" + unused);
    }
  }
  auto zero = found.zero;
  std::ranges::sort(zero);
  std::ranges::sort(expected);
  CHECK(zero == expected);
  CHECK(found.compared > 60);
  return found;
}

/// A batch whose padding is a word like others: the pad token would have no gradient there.
Batch padded_with_words(const BartConfig& config, const std::vector<index_t>& sources,
                        const std::vector<index_t>& targets, std::uint64_t seed) {
  return random_batch(config, sources, targets, seed, 0, 9);
}

}  // namespace

TEST_CASE("gradients of a whole BART agree with dual numbers in every variant") {
  for (const auto& [name, config] : bart_variant_configs()) {
    CAPTURE(name);
    const CrossAttentionOptions o = cross_of(config);
    // keys that the authors' code adds at the end are zero, without a bias
    const bool softmax_alone =
        o.variant == Variant::full ||
        (o.padding == Padding::masked &&
         (o.variant == Variant::segmented || o.variant == Variant::global_tokens));
    check(config, padded_with_words(config, {13, 6}, {5, 7}, 11),
          {.label_smoothing = 0.1, .scale = 0.25}, !softmax_alone);
  }
}

TEST_CASE("gradients of a BART agree with dropout of all three kinds") {
  for (const Variant variant : {Variant::full, Variant::segmented_recurrent}) {
    CAPTURE(variant_name(variant));
    const BartConfig config = tiny_bart_config(cross_options(variant));
    const Batch batch = random_batch(config, {9, 14}, {6, 6}, 12);
    const bool cross_keys = variant != Variant::full;
    const RandomStream random{8, 2};
    check(config, batch, {.dropout = {.dropout = 0.3}, .random = random}, cross_keys);
    check(config, batch, {.dropout = {.activation_dropout = 0.4}, .random = random}, cross_keys);
    check(config, batch, {.dropout = {0.1, 0.3, 0.2}, .random = random}, cross_keys);
  }
}

TEST_CASE(
    "gradients of a BART agree for every activation, heads of any number, scaled embeddings") {
  struct Choice {
    Activation activation;
    index_t encoder_heads, decoder_heads, encoder_layers;
    bool scale_embedding;
  };
  for (const Choice& c :
       {Choice{Activation::relu, 12, 1, 1, true}, Choice{Activation::gelu_new, 1, 4, 2, false},
        Choice{Activation::gelu, 3, 6, 1, true}}) {
    BartConfig config = tiny_bart_config(cross_options(Variant::segmented_recurrent));
    config.activation = c.activation;
    config.encoder_attention_heads = c.encoder_heads;
    config.decoder_attention_heads = c.decoder_heads;
    config.encoder_layers = c.encoder_layers;
    config.scale_embedding = c.scale_embedding;
    CAPTURE(static_cast<int>(c.activation));
    check(config, random_batch(config, {5, 11}, {4, 2}, 13),
          {.dropout = {.dropout = 0.1, .activation_dropout = 0.2}, .random = {8, 3}}, true);
  }
}

TEST_CASE("gradients of a BART agree for one token, one segment and a horizon of its own") {
  CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent, 4);
  const auto worst = [&](const std::vector<index_t>& sources, const std::vector<index_t>& targets) {
    const BartConfig config = tiny_bart_config(cross);
    const GradientsFound found = check_gradients<BartModel, Bart<EigenBackend, DualNumber>>(
        config, random_batch(config, sources, targets, 14), {});
    CHECK(found.compared > 40);
    return found.worst;
  };
  CHECK(worst({1}, {1}) < 1e-10);
  CHECK(worst({4, 2}, {3, 3}) < 1e-10);
  cross.horizon = 3;
  CHECK(worst({17, 9}, {5, 1}) < 1e-10);
}

TEST_CASE("BART's pad token has no gradient as a source, but its row of the output has") {
  EigenBackend be(1);
  CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent);
  cross.padding = Padding::upstream;  // what stands in the padding enters the loss
  const BartConfig config = tiny_bart_config(cross);
  const index_t E = config.d_model;
  const std::int32_t pad = config.pad_token_id, word = 20;
  const auto gradients = [&](std::int32_t filling) {
    BartModel model(be, config);
    randomize(model, 5);
    double* table = model.parameters().at("model.shared.weight").value;
    for (index_t i = 0; i < E; ++i)
      table[pad * E + i] = table[word * E + i] = 0.1 * double(i) - 0.3;
    const Batch batch = random_batch(config, {13, 6}, {5, 7}, 15, 2, filling);
    REQUIRE(std::ranges::count(batch.labels, word) == 0);
    train_loss_of(model, batch, {});
    return to_host(be, model.parameters().gradients());
  };
  const auto of_pad = gradients(pad), of_word = gradients(word);
  REQUIRE(of_pad.size() == of_word.size());
  double row_of_pad = 0, lost = 0;
  for (index_t i = 0; i < index_t(of_pad.size()); ++i) {
    const double a = of_pad[i], b = of_word[i];
    if (i / E == word) {
      lost = std::max(lost, std::abs(a - b));
    } else {
      CHECK(std::abs(a - b) <= 1e-12 * std::max(1.0, std::abs(b)));
    }
    if (i / E == pad) row_of_pad = std::max(row_of_pad, std::abs(a));
  }
  CHECK(row_of_pad > 1e-3);
  CHECK(lost > 1e-3);
}

TEST_CASE("gradients and losses of a BART are added, and scale is that of gradients alone") {
  EigenBackend be(1);
  const BartConfig config = tiny_bart_config(cross_options(Variant::segmented_recurrent));
  BartModel model(be, config);
  randomize(model, 5);
  const Batch batch = random_batch(config, {13, 6}, {5, 7}, 11);
  const double loss = train_loss_of(model, batch, {});
  auto expected = to_host(be, model.parameters().gradients());
  auto sum = from_host<double, 1>(be, {1}, std::vector<double>{2.5});
  model.add_gradients(batch, {.scale = 0.5}, sum.view());
  CHECK(to_host(be, sum)[0] == Approx(2.5 + loss).epsilon(1e-14));
  for (double& g : expected) g *= 1.5;
  CHECK(relative_difference(expected, to_host(be, model.parameters().gradients())) < 1e-13);
}
