// SPDX-License-Identifier: Apache-2.0
// What holds for every model: a source in a batch is treated as if it were alone, no position sees what
// comes later, the loss is its definition, dropout is a function of its stream, and what makes no sense
// is refused.
#include <srformer/models/checkpoint.hpp>

#include <set>

#include "models/tiny_bart.hpp"
#include "models/tiny_t5.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

struct OfT5 {
  using Model = T5<EigenBackend, double>;
  static constexpr auto name = "T5";
  static T5Config tiny(const CrossAttentionOptions& cross = {}) { return tiny_config(cross); }
  static auto variants() { return variant_configs(); }
  static T5Config dropping(T5Config config) {
    config.dropout_rate = 0.5;
    return config;
  }
  static std::vector<LossOptions> dropouts() { return {{.dropout = {0.2, 0.2, 0.2}}}; }
};

struct OfBart {
  using Model = Bart<EigenBackend, double>;
  static constexpr auto name = "Bart";
  static BartConfig tiny(const CrossAttentionOptions& cross = {}) {
    return tiny_bart_config(cross);
  }
  static auto variants() { return bart_variant_configs(); }
  static BartConfig dropping(BartConfig config) {
    config.dropout = config.attention_dropout = config.activation_dropout = 0.5;
    return config;
  }
  static std::vector<LossOptions> dropouts() {
    return {{.dropout = {.dropout = 0.2}},
            {.dropout = {.attention_dropout = 0.2}},
            {.dropout = {.activation_dropout = 0.2}}};
  }
};

template <class Model>
std::vector<double> gradients_of(Model& model) {
  return to_host(model.backend(), model.parameters().gradients());
}

/// A model of random numbers.
template <class Kind>
struct Randomized : Kind::Model {
  template <class Config>
  Randomized(EigenBackend& be, const Config& config) : Kind::Model(be, config) {
    randomize(*this, 7);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("with masked padding a source in a batch gives what it gives alone", "", OfT5,
                   OfBart) {
  EigenBackend be(1);
  for (const auto& [name, config] : with_masked_padding(TestType::variants())) {
    CAPTURE(name);
    Randomized<TestType> model(be, config);
    const Batch batch = random_batch(config, {17, 1, 24, 8, 5}, {6, 2, 4, 7, 1}, 21, 3, 5);
    const auto logits = logits_of(model, batch);
    train_loss_of(model, batch, {.label_smoothing = 0.1});
    const auto together = gradients_of(model);
    model.parameters().zero_gradients();
    double sum = 0, smoothed = 0;
    for (index_t b = 0; b < batch.rows; ++b) {
      CAPTURE(b);
      const Batch alone = single(batch, b);
      const auto rows = rows_of(logits, batch, b, alone.target_width, config.vocab_size);
      CHECK(relative_difference(logits_of(model, alone), rows) < 1e-12);
      sum += loss_of(model, alone);
      smoothed += train_loss_of(model, alone, {.label_smoothing = 0.1});
    }
    CHECK(loss_of(model, batch) == Approx(sum).epsilon(1e-12));
    CHECK(loss_of(model, batch, 0.1) == Approx(smoothed).epsilon(1e-12));
    CHECK(relative_difference(gradients_of(model), together) < 1e-12);
  }
}

TEMPLATE_TEST_CASE("what stands in the padding of a source matters in upstream padding alone", "",
                   OfT5, OfBart) {
  EigenBackend be(1);
  for (auto [name, config] : TestType::variants()) {
    CAPTURE(name);
    const bool upstream = cross_of(config).padding == Padding::upstream;
    Randomized<TestType> model(be, config);
    const Batch zeros_there = random_batch(config, {9, 4}, {5, 3}, 23, 4, 0);
    const Batch others_there = random_batch(config, {9, 4}, {5, 3}, 23, 4, 19);
    REQUIRE(zeros_there.source_ids != others_there.source_ids);
    const double difference =
        relative_difference(logits_of(model, zeros_there), logits_of(model, others_there));
    if (upstream) {
      CHECK(difference > 1e-4);
    } else {
      CHECK(difference == 0);
    }
  }
}

TEMPLATE_TEST_CASE("a decoder position sees no later label", "", OfT5, OfBart) {
  EigenBackend be(1);
  for (const auto& [name, config] : TestType::variants()) {
    CAPTURE(name);
    Randomized<TestType> model(be, config);
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

TEMPLATE_TEST_CASE("the loss is the mean negative log likelihood of the labels that count", "",
                   OfT5, OfBart) {
  EigenBackend be(1);
  const auto config = TestType::tiny();
  Randomized<TestType> model(be, config);
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

TEMPLATE_TEST_CASE("a batch without a label that counts has no loss and no gradient", "", OfT5,
                   OfBart) {
  EigenBackend be(1);
  const auto config = TestType::tiny(cross_options(Variant::segmented_recurrent));
  Randomized<TestType> model(be, config);
  Batch batch = random_batch(config, {5, 3}, {4, 2}, 28);
  std::ranges::fill(batch.labels, Batch::ignored_label);
  CHECK(train_loss_of(model, batch, {.label_smoothing = 0.1}) == 0);
  for (const double g : gradients_of(model)) REQUIRE(g == 0);
}

TEMPLATE_TEST_CASE("dropout depends on its stream alone, not on the number of threads", "", OfT5,
                   OfBart) {
  const auto config = TestType::tiny(cross_options(Variant::segmented_recurrent));
  const Batch batch = random_batch(config, {13, 6, 9}, {5, 7, 6}, 26);
  const auto run = [&](int threads, LossOptions options, RandomStream random) {
    EigenBackend be(threads);
    Randomized<TestType> model(be, config);
    options.random = random;
    const double loss = train_loss_of(model, batch, options);
    auto all = gradients_of(model);
    all.push_back(loss);
    return all;
  };
  const RandomStream random{4, 9};
  std::set<double> losses{run(1, {}, random).back()};
  for (const LossOptions& options : TestType::dropouts()) {
    const auto one = run(1, options, random);
    CHECK(one == run(1, options, random));
    CHECK(one == run(2, options, random));
    CHECK(one == run(3, options, random));
    CHECK(one.back() != run(1, options, {4, 10}).back());
    CHECK(one.back() != run(1, options, {5, 9}).back());
    losses.insert(one.back());
  }
  CHECK(losses.size() == 1 + TestType::dropouts().size());
  CHECK(run(1, {}, random) == run(2, {}, {77, 1}));
}

TEMPLATE_TEST_CASE("loss and logits know no dropout", "", OfT5, OfBart) {
  EigenBackend be(1);
  const auto config = TestType::dropping(TestType::tiny());
  Randomized<TestType> model(be, config);
  const Batch batch = random_batch(config, {6, 4}, {5, 2}, 25);
  CHECK(loss_of(model, batch) == train_loss_of(model, batch, {}));
  CHECK(loss_of(model, batch) == loss_of(model, batch));
}

TEMPLATE_TEST_CASE("only what a variant adds is initialised for a checkpoint without it", "", OfT5,
                   OfBart) {
  EigenBackend be(1);
  for (const Variant variant : {Variant::segmented_recurrent, Variant::transformer_xl}) {
    CrossAttentionOptions cross = cross_options(variant);
    cross.gate = cross.sigma = variant == Variant::segmented_recurrent;
    typename TestType::Model model(be, TestType::tiny(cross)), plain(be, TestType::tiny());
    for (auto& p : model.parameters()) be.fill(p.value, p.count, 7.0);
    model.initialize_recurrence(RandomStream{3, 1}, 1);
    std::set<std::string> known;
    for (const auto& p : plain.parameters()) known.insert(p.name);
    std::size_t added = 0;
    for (const auto& p : model.parameters()) {
      CAPTURE(p.name);
      const bool kept = std::all_of(p.value, p.value + p.count, [](double x) { return x == 7; });
      CHECK(kept == known.contains(p.name));
      CHECK(kept == !is_variant_parameter(p.name));
      added += !known.contains(p.name);
    }
    CHECK(added == (variant == Variant::transformer_xl ? 16u : 10u));
  }
}

TEMPLATE_TEST_CASE("a token id out of range is refused with its value and place", "", OfT5,
                   OfBart) {
  EigenBackend be(1);
  const auto config = TestType::tiny();
  Randomized<TestType> model(be, config);
  const Batch good = random_batch(config, {5, 3}, {4, 2}, 27);
  for (const std::int32_t id : {23, 1000, -1}) {
    CAPTURE(id);
    Batch batch = good;
    batch.source_ids[6] = id;
    for (const std::string& said :
         {refusal_of<shape_error>([&] { logits_of(model, batch); }),
          refusal_of<shape_error>([&] { train_loss_of(model, batch, {}); }),
          refusal_of<shape_error>(
              [&] { model.start_decoding(batch.source_ids, batch.source_lengths, 4); })}) {
      CHECK_THAT(said, ContainsSubstring("id " + std::to_string(id) + " at position 6") &&
                           ContainsSubstring("vocabulary of 23"));
    }
  }
  for (const std::int32_t label : {23, 1000}) {
    Batch batch = good;
    batch.labels[1] = label;
    CHECK_THAT(refusal_of<shape_error>([&] { loss_of(model, batch); }),
               ContainsSubstring("label " + std::to_string(label)) &&
                   ContainsSubstring("vocabulary of 23"));
  }
}

TEMPLATE_TEST_CASE("a batch whose sizes contradict each other is refused", "", OfT5, OfBart) {
  EigenBackend be(1);
  const auto config = TestType::tiny();
  Randomized<TestType> model(be, config);
  const Batch good = random_batch(config, {5, 3}, {4, 2}, 28);
  const std::string model_name = TestType::name;
  const auto said = [&](auto change) {
    Batch batch = good;
    change(batch);
    const auto logits = refusal_of<shape_error>([&] { logits_of(model, batch); });
    const auto trained = refusal_of<shape_error>([&] { train_loss_of(model, batch, {}); });
    return logits + "; " + trained;
  };
  CHECK(said([](Batch&) {}) == "accepted; accepted");
  for (const auto& change :
       {+[](Batch& b) { b.source_ids.pop_back(); }, +[](Batch& b) { b.labels.push_back(1); },
        +[](Batch& b) { b.source_lengths.pop_back(); }, +[](Batch& b) { b = {}; }}) {
    CHECK_THAT(said(change), ContainsSubstring(model_name + "::logits") &&
                                 ContainsSubstring("; " + model_name + "::add_gradients"));
  }
  CHECK_THAT(said([](Batch& b) { b.source_lengths[1] = 0; }), ContainsSubstring("length 0"));
  CHECK_THAT(said([](Batch& b) { b.source_lengths[1] = 6; }), ContainsSubstring("length 6"));
}
