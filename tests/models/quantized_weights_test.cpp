// SPDX-License-Identifier: Apache-2.0
// Models with weights in eight bits: what they compute, what they weigh, and what they refuse.
#include <srformer/decode/search.hpp>
#include <srformer/models/checkpoint.hpp>

#include "models/tiny_bart.hpp"
#include "models/tiny_t5.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

std::vector<double> doubles(const std::vector<float>& x) { return {x.begin(), x.end()}; }

/// What the weights of `from` are rounded to.
template <class Model>
void take_rounded_weights(Model& to, const Model& from) {
  auto source = from.parameters().begin();
  index_t rounded = 0;
  for (auto& p : to.parameters()) {
    const auto& q = *source++;
    REQUIRE(p.name == q.name);
    REQUIRE((q.value == nullptr) == static_cast<bool>(q.quantized));
    for (index_t i = 0; i < p.count; ++i) {
      const index_t columns = p.shape.back();
      p.value[i] = q.quantized ? q.quantized.at(i / columns, i % columns) : q.value[i];
      rounded += q.quantized ? 1 : 0;
    }
  }
  REQUIRE(rounded > 0);
}

/// Logits of all steps, one at a time, the labels given.
template <class Model>
std::vector<double> step_logits(Model& model, const Batch& batch) {
  const index_t M = batch.target_width, V = model.config().vocab_size;
  auto state = model.start_decoding(batch.source_ids, batch.source_lengths, M, M);
  const auto ids = detail::shift_right(batch, model.config().decoder_start_token_id,
                                       model.config().pad_token_id);
  std::vector<double> all(static_cast<std::size_t>(batch.rows * M * V));
  for (index_t t = 0; t < M; ++t) {
    std::vector<std::int32_t> now;
    for (index_t b = 0; b < batch.rows; ++b) now.push_back(ids[b * M + t]);
    const auto z = to_host(model.backend(), model.decode_step(state, now));
    for (index_t b = 0; b < batch.rows; ++b)
      std::copy_n(z.begin() + b * V, V, all.begin() + (b * M + t) * V);
  }
  return all;
}

template <class Model, class Config>
void check_model(const Config& config, const std::string& name) {
  CAPTURE(name);
  EigenBackend be(2);
  Model exact(be, config), model(be, config), rounded(be, config);
  randomize(exact, 5);
  randomize(model, 5);
  const std::size_t before = model.parameters().bytes();
  model.parameters().quantize_weights();
  take_rounded_weights(rounded, model);
  const Batch batch = random_batch(config, {9, 4, 12}, {6, 6, 6}, 3, 1);
  const auto got = doubles(logits_of(model, batch));
  // What is left is the rounding of activations to 1 / 254 of the largest of their row.
  const auto same_weights = doubles(logits_of(rounded, batch));
  REQUIRE(relative_difference(got, same_weights) < 0.1);
  REQUIRE(relative_difference(got, same_weights) > 0);
  REQUIRE(relative_difference(got, doubles(logits_of(exact, batch))) < 0.15);
  REQUIRE(model.parameters().bytes() < before);
  if (cross_of(config).padding == Padding::masked) {
    CrossAttentionOptions options = cross_of(config);
    options.horizon = batch.target_width;
    Config at_once = config;
    set_cross(at_once, options);
    Model same(be, at_once);
    randomize(same, 5);
    same.parameters().quantize_weights();
    REQUIRE(relative_difference(step_logits(same, batch), doubles(logits_of(same, batch))) < 0.03);
  }
}

}  // namespace

TEST_CASE(
    "A quantized model is the model of its rounded weights, but for the rounding of activations") {
  for (const auto& [name, config] : variant_configs()) {
    check_model<T5<EigenBackend, float>>(config, "T5, " + name);
  }
  for (const auto& [name, config] : bart_variant_configs()) {
    check_model<Bart<EigenBackend, float>>(config, "BART, " + name);
  }
  T5Config gated = tiny_config();
  gated.gated = true, gated.activation = Activation::gelu, gated.tie_word_embeddings = false;
  gated.scale_decoder_outputs = false;
  check_model<T5<EigenBackend, float>>(gated, "T5, gated and untied");
}

TEST_CASE("The weights of products and embeddings are in eight bits, and nothing else") {
  EigenBackend be(1);
  T5Config t5 = tiny_config(cross_options(Variant::segmented_recurrent));
  T5<EigenBackend, float> model(be, t5);
  randomize(model, 1);
  REQUIRE_FALSE(model.parameters().quantized());
  const std::size_t in_use = be.pool().bytes_in_use();
  model.parameters().quantize_weights();
  model.parameters().quantize_weights();  // does nothing
  REQUIRE(model.parameters().quantized());
  REQUIRE(be.pool().bytes_in_use() < in_use);
  for (const auto& p : model.parameters()) {
    CAPTURE(p.name);
    const auto ends = [&](const char* tail) { return p.name.ends_with(tail); };
    const bool narrow = ends(".q.weight") || ends(".k.weight") || ends(".v.weight") ||
                        ends(".o.weight") || ends(".wi.weight") || ends(".wo.weight") ||
                        p.name == "shared.weight";
    REQUIRE(static_cast<bool>(p.quantized) == narrow);
  }
  Bart<EigenBackend, float> bart(be, tiny_bart_config());
  randomize(bart, 1);
  bart.parameters().quantize_weights();
  for (const auto& p : bart.parameters()) {
    CAPTURE(p.name);
    const bool narrow = p.shape.size() == 2 && p.role != Role::constant &&
                        p.name.find("embed_positions") == std::string::npos;
    REQUIRE(static_cast<bool>(p.quantized) == narrow);
  }
}

TEST_CASE("A model large enough shrinks to three tenths and gives the memory back") {
  EigenBackend be(1);
  T5Config c = tiny_config();
  c.vocab_size = 4000, c.d_model = 128, c.d_kv = 64, c.d_ff = 256;
  T5<EigenBackend, float> model(be, c);
  randomize(model, 2);
  const std::size_t before = model.parameters().bytes();
  model.parameters().quantize_weights();
  REQUIRE(model.parameters().bytes() * 10 < before * 3);
  REQUIRE(be.pool().bytes_in_use() * 10 < before * 3 + (1 << 16));
}

TEST_CASE("Generation of a quantized model is the same on any number of threads") {
  T5Config c = tiny_config(cross_options(Variant::segmented_recurrent));
  const Batch batch = random_batch(c, {9, 4, 12}, {6, 6, 6}, 3);
  std::vector<std::vector<std::int32_t>> first;
  for (const int threads : {1, 2, 3}) {
    EigenBackend be(threads);
    T5<EigenBackend, float> model(be, c);
    randomize(model, 7);
    model.parameters().quantize_weights();
    for (const index_t beams : {1, 3}) {
      GenerationConfig g;
      g.num_beams = beams, g.max_length = 12;
      const auto out = generate(model, batch.source_ids, batch.source_lengths, g);
      REQUIRE(out.sequences.size() == 3);
      first.insert(first.end(), out.sequences.begin(), out.sequences.end());
    }
  }
  for (std::size_t i = 6; i < first.size(); ++i) REQUIRE(first[i] == first[i % 6]);
}

TEST_CASE("A quantized model is not trained, saved, loaded or initialized") {
  EigenBackend be(1);
  T5<EigenBackend, float> model(be, tiny_config());
  randomize(model, 1);
  const Batch batch = random_batch(model.config(), {3}, {3}, 1);
  T5<EigenBackend, float> trained(be, tiny_config());
  randomize(trained, 1);
  trained.parameters().allocate_gradients();
  REQUIRE_THROWS_WITH(trained.parameters().quantize_weights(),
                      ContainsSubstring("after they are loaded, in a model that is not trained"));
  model.parameters().quantize_weights();
  const auto sentence = ContainsSubstring(
      "the weights are stored in eight bits, which is for generation alone; load the model "
      "without");
  REQUIRE_THROWS_WITH(train_loss_of(model, batch, {}), sentence);
  REQUIRE_THROWS_WITH(model.initialize(RandomStream{1}, 1), sentence);
  REQUIRE_THROWS_WITH(save_model(model, "never_written", DType::f32, {}), sentence);
  REQUIRE_FALSE(std::filesystem::exists("never_written"));
  REQUIRE_THROWS_WITH(model.parameters().at("shared.weight").matrix(),
                      ContainsSubstring("a weight stored in eight bits has no numbers"));
  REQUIRE(std::isfinite(loss_of(model, batch)));

  T5<EigenBackend, float> broken(be, tiny_config());
  randomize(broken, 1);
  auto& wo = broken.parameters().at("encoder.block.0.layer.1.DenseReluDense.wo.weight");
  wo.value[12] = std::numeric_limits<float>::quiet_NaN();
  REQUIRE_THROWS_WITH(broken.parameters().quantize_weights(),
                      ContainsSubstring("DenseReluDense.wo.weight: row 1 holds a number that is"));
  REQUIRE(broken.parameters().at("shared.weight").value != nullptr);  // it is as it was
}
