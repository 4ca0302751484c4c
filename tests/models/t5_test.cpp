// SPDX-License-Identifier: Apache-2.0
#include <set>

#include "models/tiny_t5.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

using Model = T5<EigenBackend, double>;

template <class Call>
std::string shape_refusal(Call call) {
  return refusal_of<shape_error>(call);
}

/// The configurations whose results do not depend on what else is in a batch.
std::vector<NamedConfig> masked_configs() { return with_masked_padding(variant_configs()); }

}  // namespace

TEST_CASE("with masked padding a source in a batch gives what it gives alone") {
  EigenBackend be(1);
  for (const auto& [name, config] : masked_configs()) {
    CAPTURE(name);
    Model model(be, config);
    randomize(model, 7);
    const Batch batch = random_batch(config, {17, 1, 24, 8, 5}, {6, 2, 4, 7, 1}, 21, 3, 5);
    const auto logits = logits_of(model, batch);
    double sum = 0, smoothed_sum = 0;
    for (index_t b = 0; b < batch.rows; ++b) {
      CAPTURE(b);
      const Batch alone = single(batch, b);
      const auto rows = rows_of(logits, batch, b, alone.target_width, config.vocab_size);
      CHECK(relative_difference(logits_of(model, alone), rows) < 1e-12);
      sum += loss_of(model, alone);
      smoothed_sum += loss_of(model, alone, 0.1);
    }
    CHECK(loss_of(model, batch) == Approx(sum).epsilon(1e-12));
    CHECK(loss_of(model, batch, 0.1) == Approx(smoothed_sum).epsilon(1e-12));
  }
}

TEST_CASE("with masked padding the gradients of a batch are the sum of those of its sources") {
  EigenBackend be(1);
  for (const auto& [name, config] : masked_configs()) {
    CAPTURE(name);
    Model model(be, config);
    randomize(model, 7);
    const Batch batch = random_batch(config, {17, 1, 24, 8}, {6, 2, 4, 7}, 22, 2, 5);
    train_loss_of(model, batch, {.label_smoothing = 0.1});
    const auto together = to_host(be, model.parameters().gradients());
    model.parameters().zero_gradients();
    for (index_t b = 0; b < batch.rows; ++b) {
      train_loss_of(model, single(batch, b), {.label_smoothing = 0.1});
    }
    CHECK(relative_difference(to_host(be, model.parameters().gradients()), together) < 1e-12);
  }
}

TEST_CASE(
    "without a horizon it is the width of the targets of a batch, in upstream padding all counts") {
  EigenBackend be(1);
  CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent);
  const auto differs = [&] {
    const T5Config config = tiny_config(cross);
    Model model(be, config);
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

TEST_CASE("what stands in the padding of a source does not matter") {
  EigenBackend be(1);
  for (const auto& [name, config] : masked_configs()) {
    CAPTURE(name);
    Model model(be, config);
    randomize(model, 7);
    const Batch zeros_there = random_batch(config, {9, 4}, {5, 3}, 23, 4, 0);
    const Batch others_there = random_batch(config, {9, 4}, {5, 3}, 23, 4, 19);
    REQUIRE(zeros_there.source_ids != others_there.source_ids);
    CHECK(logits_of(model, zeros_there) == logits_of(model, others_there));
  }
}

TEST_CASE("a decoder position sees no later label") {
  EigenBackend be(1);
  for (const auto& [name, config] : variant_configs()) {
    CAPTURE(name);
    Model model(be, config);
    randomize(model, 7);
    Batch batch = random_batch(config, {13}, {6}, 24);
    const auto before = logits_of(model, batch);
    batch.labels[3] = batch.labels[3] == 7 ? 8 : 7;  // read at position 4
    const auto after = logits_of(model, batch);
    const index_t V = config.vocab_size;
    const auto row = [V](const std::vector<double>& z, index_t i) {
      return std::vector<double>(z.begin() + i * V, z.begin() + (i + 1) * V);
    };
    for (index_t i = 0; i < 4; ++i) CHECK(row(before, i) == row(after, i));
    CHECK(row(before, 4) != row(after, 4));
    CHECK(row(before, 5) != row(after, 5));
  }
}

TEST_CASE("the loss is the mean negative log likelihood of the labels that count") {
  EigenBackend be(1);
  const T5Config config = tiny_config();
  Model model(be, config);
  randomize(model, 7);
  const Batch batch = random_batch(config, {6, 4}, {5, 2}, 25);
  const auto z = logits_of(model, batch);
  double expected = 0, smoothed = 0;
  for (std::size_t r = 0; r < batch.labels.size(); ++r) {
    if (batch.labels[r] < 0) continue;
    const auto first = z.begin() + static_cast<index_t>(r) * config.vocab_size;
    double sum = 0, total = 0;
    for (index_t c = 0; c < config.vocab_size; ++c) sum += std::exp(first[c]), total += first[c];
    const double lse = std::log(sum), nll = lse - first[batch.labels[r]];
    expected += nll;
    smoothed += 0.9 * nll + 0.1 * (lse - total / static_cast<double>(config.vocab_size));
  }
  CHECK(loss_of(model, batch) == Approx(expected).epsilon(1e-13));
  CHECK(loss_of(model, batch, 0.1) == Approx(smoothed).epsilon(1e-13));
  CHECK(train_loss_of(model, batch, {.label_smoothing = 0.1}) == loss_of(model, batch, 0.1));
}

TEST_CASE("dropout depends on its stream alone, not on the number of threads") {
  const T5Config config = tiny_config(cross_options(Variant::segmented_recurrent));
  const Batch batch = random_batch(config, {13, 6, 9}, {5, 7, 6}, 26);
  const auto run = [&](int threads, double rate, RandomStream random) {
    EigenBackend be(threads);
    Model model(be, config);
    randomize(model, 7);
    const double loss = train_loss_of(model, batch, {.dropout_rate = rate, .random = random});
    auto all = to_host(be, model.parameters().gradients());
    all.push_back(loss);
    return all;
  };
  const RandomStream random{4, 9};
  const auto one = run(1, 0.2, random);
  CHECK(one == run(1, 0.2, random));
  CHECK(one == run(2, 0.2, random));
  CHECK(one == run(3, 0.2, random));
  CHECK(one.back() != run(1, 0.2, RandomStream{4, 10}).back());
  CHECK(one.back() != run(1, 0.2, RandomStream{5, 9}).back());
  CHECK(one.back() != run(1, 0, random).back());
  CHECK(run(1, 0, random) == run(1, 0, RandomStream{77, 1}));
}

TEST_CASE("loss and logits know no dropout") {
  EigenBackend be(1);
  T5Config config = tiny_config();
  config.dropout_rate = 0.5;
  Model model(be, config);
  randomize(model, 7);
  const Batch batch = random_batch(config, {6, 4}, {5, 2}, 25);
  CHECK(loss_of(model, batch) == train_loss_of(model, batch, {.dropout_rate = 0}));
  CHECK(loss_of(model, batch) == loss_of(model, batch));
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
    Model model(be, config);
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
  Model plain(be, tiny_config());
  Model other(be, tiny_config(cross_options(Variant::segmented_recurrent)));
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

TEST_CASE("only what a variant adds is initialised for a checkpoint without it") {
  EigenBackend be(1);
  for (const Variant variant : {Variant::segmented_recurrent, Variant::transformer_xl}) {
    CrossAttentionOptions cross = cross_options(variant);
    cross.gate = cross.sigma = variant == Variant::segmented_recurrent;
    Model model(be, tiny_config(cross)), plain(be, tiny_config());
    for (auto& p : model.parameters()) be.fill(p.value, p.count, 7.0);
    model.initialize_recurrence(RandomStream{3, 1}, 1);
    std::set<std::string> known;
    for (const auto& p : plain.parameters()) known.insert(p.name);
    std::size_t added = 0;
    for (const auto& p : model.parameters()) {
      CAPTURE(p.name);
      const bool kept = std::all_of(p.value, p.value + p.count, [](double x) { return x == 7; });
      CHECK(kept == known.contains(p.name));
      added += !known.contains(p.name);
    }
    CHECK(added == (variant == Variant::transformer_xl ? 16u : 10u));
  }
}

TEST_CASE("names, order and shapes of the parameters are those of transformers") {
  EigenBackend be(1);
  CrossAttentionOptions cross = cross_options(Variant::segmented_recurrent);
  cross.gate = true;
  T5Config config = tiny_config(cross);
  config.num_layers = config.num_decoder_layers = 1;
  config.gated = true, config.tie_word_embeddings = false;
  Model model(be, config);
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

TEST_CASE("a token id out of range is refused with its value and place") {
  EigenBackend be(1);
  const T5Config config = tiny_config();
  Model model(be, config);
  randomize(model, 7);
  const Batch good = random_batch(config, {5, 3}, {4, 2}, 27);
  for (const std::int32_t id : {23, 1000, -1}) {
    CAPTURE(id);
    Batch batch = good;
    batch.source_ids[6] = id;
    for (const std::string& said :
         {shape_refusal([&] { logits_of(model, batch); }),
          shape_refusal([&] { train_loss_of(model, batch, {}); }), shape_refusal([&] {
            model.start_decoding(batch.source_ids, batch.source_lengths, 4);
          })}) {
      CHECK_THAT(said, ContainsSubstring(std::to_string(id)) && ContainsSubstring("6") &&
                           ContainsSubstring("23"));
    }
  }
  for (const std::int32_t label : {23, 1000}) {
    Batch batch = good;
    batch.labels[1] = label;
    CHECK_THAT(shape_refusal([&] { loss_of(model, batch); }),
               ContainsSubstring("label " + std::to_string(label)) &&
                   ContainsSubstring("vocabulary of 23"));
  }
}

TEST_CASE("a batch whose sizes contradict each other is refused") {
  EigenBackend be(1);
  const T5Config config = tiny_config();
  Model model(be, config);
  randomize(model, 7);
  const Batch good = random_batch(config, {5, 3}, {4, 2}, 28);
  const auto said = [&](auto change) {
    Batch batch = good;
    change(batch);
    return shape_refusal([&] { logits_of(model, batch); });
  };
  CHECK(said([](Batch&) {}) == "accepted");
  CHECK_THAT(said([](Batch& b) { b.source_ids.pop_back(); }), ContainsSubstring("T5::logits"));
  CHECK_THAT(said([](Batch& b) { b.labels.push_back(1); }), ContainsSubstring("T5::logits"));
  CHECK_THAT(said([](Batch& b) { b.source_lengths.pop_back(); }), ContainsSubstring("T5::logits"));
  CHECK_THAT(said([](Batch& b) { b = {}; }), ContainsSubstring("T5::logits"));
  CHECK_THAT(said([](Batch& b) { b.source_lengths[1] = 0; }), ContainsSubstring("length 0"));
  CHECK_THAT(said([](Batch& b) { b.source_lengths[1] = 6; }), ContainsSubstring("length 6"));
}

TEST_CASE("a batch without a label that counts has no loss and no gradient") {
  EigenBackend be(1);
  const T5Config config = tiny_config(cross_options(Variant::segmented_recurrent));
  Model model(be, config);
  randomize(model, 7);
  Batch batch = random_batch(config, {5, 3}, {4, 2}, 28);
  std::ranges::fill(batch.labels, Batch::ignored_label);
  CHECK(train_loss_of(model, batch, {.label_smoothing = 0.1}) == 0);
  for (const double g : to_host(be, model.parameters().gradients())) REQUIRE(g == 0);
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
