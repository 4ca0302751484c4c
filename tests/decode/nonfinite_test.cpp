// SPDX-License-Identifier: Apache-2.0
#include <srformer/decode/nonfinite.hpp>

#include <limits>

#include "decode/formula_model.hpp"
#include "models/tiny_t5.hpp"

using namespace srformer;
using namespace srformer::testing;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

GenerationConfig searching(index_t beams, bool sample) {
  GenerationConfig config;
  config.max_length = 6, config.num_beams = beams, config.do_sample = sample;
  return config;
}

/// What generation says of a model whose logits are `score` at one token, from `step` on.
std::string said(index_t vocabulary, index_t token, double score, std::size_t step,
                 const GenerationConfig& config) {
  EigenBackend be(1);
  FormulaModel<> model{be, {vocabulary}, [=](std::int32_t source, const TokenIds& sequence) {
                         auto z = mixed_logits(vocabulary)(source, sequence);
                         z[1] = -9;  // nothing ends early
                         if (sequence.size() >= step) z[static_cast<std::size_t>(token)] = score;
                         return z;
                       }};
  return refusal_of<nonfinite_error>([&] { generate_for(model, {3, 4}, config); });
}

}  // namespace

TEST_CASE("NaN or infinity in a score stops generation, wherever it stands") {
  // 2048 scores are looked at together
  for (const index_t token : {0, 7, 2047, 2048, 2049, 4096, 4999}) {
    for (const double score : {not_a_number, infinity}) {
      CAPTURE(token, score);
      CHECK_THAT(said(5000, token, score, 1, searching(1, false)),
                 ContainsSubstring("the scores of a token are NaN or infinite"));
      CHECK_THAT(said(5000, token, score, 1, searching(3, false)), ContainsSubstring("NaN"));
    }
  }
  CHECK_THAT(said(20, 5, not_a_number, 3, searching(1, true)), ContainsSubstring("NaN"));
  CHECK_THAT(said(20, 5, not_a_number, 3, searching(2, true)), ContainsSubstring("NaN"));
  // minus infinity is a token that cannot come
  CHECK(said(5000, 2048, -infinity, 1, searching(1, false)) == "accepted");
  CHECK(said(20, 5, -infinity, 1, searching(3, false)) == "accepted");
}

TEST_CASE("what is no number is traced to a parameter, or to a layer where all are finite") {
  const T5Config config = tiny_config();
  EigenBackend be(1);
  T5<EigenBackend, double> model(be, config);
  randomize(model, 3);
  const std::vector<std::int32_t> ids{4, 5, 6, 7};
  const std::vector<index_t> lengths{4};
  const auto with = [&](const std::string& name, double value) {
    auto& p = model.parameters().at(name);
    const std::vector<double> before(p.value, p.value + p.count);
    if (std::isfinite(value))
      std::fill_n(p.value, p.count, value);
    else
      p.value[p.count - 1] = value;
    std::string message;
    for (const index_t beams : {1, 2}) {
      message = refusal_of<nonfinite_error>(
          [&] { generate(model, ids, lengths, searching(beams, false)); });
      CHECK(message != "accepted");
    }
    std::copy(before.begin(), before.end(), p.value);
    return message;
  };
  const std::string encoder = "encoder.block.0.layer.1.DenseReluDense.wo.weight",
                    first = "decoder.block.0.layer.2.DenseReluDense.wo.weight",
                    last = "decoder.block.1.layer.2.DenseReluDense.wo.weight";
  for (const std::string& name : {encoder, first, last}) {
    CHECK_THAT(with(name, not_a_number), ContainsSubstring("parameter \"" + name + "\" holds"));
    CHECK_THAT(with(name, infinity), ContainsSubstring("parameter \"" + name + "\" holds"));
  }
  constexpr double large = 1.5e308;
  CHECK_THAT(with(encoder, large),
             ContainsSubstring("no parameter is, but numbers overflow in the encoder or in decoder "
                               "layer 0; generate in a wider type"));
  CHECK_THAT(with(first, large), ContainsSubstring("in the encoder or in decoder layer 0;"));
  CHECK_THAT(with(last, large), ContainsSubstring("in the last decoder layer or in the output;"));
}
