// SPDX-License-Identifier: Apache-2.0
// A folder opened as a whole against the parts that it is made of, whose values are held to transformers' elsewhere.
#include <srformer/models.hpp>

#include <cmath>
#include <string>
#include <vector>

#include "../io/temporary_folder.hpp"
#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

const std::string values = SRF_TESTS_DIR "/reference/values/models/";
const std::string text =
    "Scores are not scaled, and a source in a masked batch behaves as if alone.";

/// What a float32 model of the parts gives for the text.
struct Parts {
  EigenBackend be{1};
  std::unique_ptr<EncoderDecoder<EigenBackend, float>> model;
  Tokenizer tokenizer;
  GenerationConfig options;

  explicit Parts(const std::string& folder)
      : model(load_model<float>(be, folder)),
        tokenizer(folder),
        options(generation_config(HfCheckpoint(folder))) {}

  Generation generate(const std::string& source) {
    const auto ids = tokenizer.encode(source);
    const std::vector<index_t> lengths{std::ssize(ids)};
    return srformer::generate(*model, ids, lengths, options);
  }
};

}  // namespace

TEST_CASE("a T5 and a BART that are opened whole write what their parts write") {
  for (const char* name : {"t5_srformer", "bart_full"}) {
    CAPTURE(name);
    Parts parts(values + name);
    TextModel model(values + name);
    for (const index_t beams : {1, 3}) {
      GenerationConfig options = model.generation_config();
      options.num_beams = parts.options.num_beams = beams;
      options.max_new_tokens = parts.options.max_new_tokens = 12;
      const Generation expected = parts.generate(text);
      CHECK(model.generate(text, options) == parts.tokenizer.decode(expected.sequences.at(0)));
      options.num_return_sequences = parts.options.num_return_sequences = beams;
      const std::vector<std::string> texts{text, "Short.", text};
      const auto all = model.generate_all(texts, options, 2);
      REQUIRE(std::ssize(all) == 3 * beams);
      const Generation second = parts.generate("Short.");
      for (index_t i = 0; i < beams; ++i) {
        CHECK(all[static_cast<std::size_t>(beams + i)] ==
              parts.tokenizer.decode(second.sequences.at(static_cast<std::size_t>(i))));
        CHECK(all[static_cast<std::size_t>(i)] == all[static_cast<std::size_t>(2 * beams + i)]);
      }
      options.num_return_sequences = parts.options.num_return_sequences = 1;
    }
  }
}

TEST_CASE("what is streamed is what is generated, and beams are not streamed") {
  TextModel model(values + "bart_full");
  GenerationConfig options = model.generation_config();
  options.num_beams = 1, options.max_new_tokens = 15;
  std::string streamed;
  int parts = 0;
  model.stream(text, options, [&](const std::string& part) { streamed += part, ++parts; });
  CHECK(streamed == model.generate(text, options));
  CHECK(parts > 1);
  options.num_beams = 2;
  CHECK_THROWS_WITH(model.stream(text, options, [](const std::string&) {}),
                    ContainsSubstring("take num_beams 1"));
}

TEST_CASE("a score is the log-probability of a text") {
  Parts parts(values + "t5_full");
  TextModel model(values + "t5_full");
  const std::string target = "A masked batch.";
  const Example example{parts.tokenizer.encode(text), parts.tokenizer.encode(target)};
  const index_t first[] = {0};
  const auto logits =
      to_host(parts.be, parts.model->logits(make_batch(std::span(&example, 1), first, 0)));
  const std::size_t vocabulary = static_cast<std::size_t>(parts.model->config().vocab_size);
  double sum = 0;
  for (std::size_t i = 0; i < example.target.size(); ++i) {
    double total = 0;
    for (std::size_t v = 0; v < vocabulary; ++v)
      total += std::exp(static_cast<double>(logits[i * vocabulary + v]));
    const auto token = static_cast<std::size_t>(example.target[i]);
    sum += static_cast<double>(logits[i * vocabulary + token]) - std::log(total);
  }
  CHECK(model.score(text, target) == Approx(sum).epsilon(1e-4));
}

TEST_CASE("a folder is trained, saved and opened again in any scalar") {
  const std::vector<TextPair> pairs{{text, "A batch."}, {"Short.", "A source."}};
  TextModel model(values + "t5_srformer");
  const double before = model.score(text, "A batch.");
  std::vector<double> losses;
  model.train(pairs, {.batch_size = 2, .max_steps = 6, .learning_rate = 1e-2},
              [&](const StepReport& report) {
                losses.push_back(report.loss);
                return report.step < 5;
              });
  CHECK(losses.size() == 5);
  CHECK(losses.back() < losses.front());
  const double after = model.score(text, "A batch.");
  CHECK(after > before);

  const TemporaryFolder saved;
  model.save(saved.path);
  TextModel again(saved.path);
  CHECK(again.score(text, "A batch.") == after);
  CHECK(again.generate(text) == model.generate(text));
  CHECK_NOTHROW(again.save(saved.path / "."));  // over itself

  TextModel wide(saved.path, {.dtype = DType::f64}), narrow(saved.path, {.dtype = DType::bf16});
  CHECK(wide.score(text, "A batch.") == Approx(after).epsilon(1e-4));
  CHECK(narrow.score(text, "A batch.") == Approx(after).epsilon(0.1));
  CHECK_THROWS_WITH(narrow.train(pairs, {}), ContainsSubstring("{.dtype = DType::f32}"));
  const TemporaryFolder narrow_folder;
  narrow.save(narrow_folder.path);
  CHECK(stored_dtype(HfCheckpoint(narrow_folder.path)) == DType::bf16);
  TextModel from_narrow(narrow_folder.path);
  CHECK(from_narrow.score(text, "A batch.") == narrow.score(text, "A batch."));
}

TEST_CASE("a text beyond the positions of a BART is refused, or cut where that is asked for") {
  const TextModel model(values + "bart_full");
  std::string longer;
  while (std::ssize(model.tokenizer().encode(longer)) <= model.config().max_positions)
    longer += text + " ";
  CHECK_THROWS_WITH(model.encode(longer), ContainsSubstring("is longer than the model's"));
  CHECK(std::ssize(model.encode(longer, true)) == model.config().max_positions);
  CHECK(model.encode(longer, true).back() == model.config().eos_token_id);
  CHECK_THROWS_AS(TextModel(values + "absent"), io_error);
}
