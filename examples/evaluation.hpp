// SPDX-License-Identifier: Apache-2.0
// The loss and the summaries of a model on a set of texts, and their ROUGE.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <srformer/text/rouge.hpp>

#include "device/any_model.hpp"
#include "text_set.hpp"

namespace srformer::program {

struct Evaluation {
  std::optional<double> loss;  ///< nothing where no text has a summary
  std::optional<RougeScores> rouge;
  double generated_length = 0;  ///< tokens without padding, as eval_gen_len of transformers
  std::vector<std::string> predictions;
  std::vector<double> rouge_l;  ///< of each prediction, a share; NaN where there is no summary

  /// Adds PREFIX_loss, PREFIX_rouge1, ... with ROUGE in percent.
  void add_to(nlohmann::ordered_json& entry, const std::string& prefix) const {
    const auto percent = [](const RougeScore& score) {
      return std::round(score.fmeasure * 1e6) / 1e4;
    };
    if (loss) entry[prefix + "_loss"] = *loss;
    if (!rouge) return;
    entry[prefix + "_rouge1"] = percent(rouge->rouge1);
    entry[prefix + "_rouge2"] = percent(rouge->rouge2);
    entry[prefix + "_rougeL"] = percent(rouge->rougeL);
    entry[prefix + "_rougeLsum"] = percent(rouge->rougeLsum);
    entry[prefix + "_gen_len"] = generated_length;
  }

  std::string text() const {
    std::string text = loss ? "loss " + format("%.4f", *loss) : "summarized";
    if (rouge)
      text += "  rouge1 " + format("%.2f", 100 * rouge->rouge1.fmeasure) + "  rouge2 " +
              format("%.2f", 100 * rouge->rouge2.fmeasure) + "  rougeL " +
              format("%.2f", 100 * rouge->rougeL.fmeasure) + "  rougeLsum " +
              format("%.2f", 100 * rouge->rougeLsum.fmeasure);
    return text;
  }
};

/// Nothing when it was interrupted.
inline std::optional<Evaluation> evaluate(AnyModel& model, const TextSet& set, bool generate,
                                          const GenerationConfig& generation,
                                          const FinetuneOptions& options,
                                          const Tokenizer& tokenizer, Console& console) {
  const std::span<const Example> examples = set.examples;
  const std::int32_t pad = model.config().pad_token_id;
  Evaluation evaluation;
  if (set.has_targets())
    evaluation.loss = model.mean_loss(set.with_summaries(), options.eval_batch,
                                      options.label_smoothing, keep_going);
  if (!keep_going()) return std::nullopt;
  if (!generate) return evaluation;

  evaluation.predictions.resize(examples.size());
  const EpochOrder order(
      example_lengths(examples),
      {.batch_size = options.eval_batch, .shuffle = false, .group_by_length = true});
  index_t tokens = 0;
  for (index_t i = 0; i < order.steps(); ++i) {
    const auto indices = order.batch(i);
    const Batch batch = make_batch(examples, indices, pad);
    const auto first = static_cast<std::uint64_t>(i * options.eval_batch);
    const auto outputs =
        model.generate(batch.source_ids, batch.source_lengths, generation, first).sequences;
    for (std::size_t row = 0; row < outputs.size(); ++row) {
      evaluation.predictions[static_cast<std::size_t>(indices[row])] =
          tokenizer.decode(outputs[row]);
      tokens += std::ranges::count_if(outputs[row], [&](std::int32_t id) { return id != pad; });
    }
    if (!keep_going()) return std::nullopt;
    console.progress(static_cast<double>(i + 1) / static_cast<double>(order.steps()),
                     "generating " + std::to_string(i + 1) + "/" + std::to_string(order.steps()));
  }
  std::vector<RougeScores> scores;
  evaluation.rouge_l.resize(examples.size(), std::nan(""));
  for (std::size_t i = 0; i < examples.size(); ++i) {
    if (set.summaries[i].empty()) continue;
    scores.push_back(rouge(set.summaries[i], evaluation.predictions[i],
                           {.stemmer = true, .split_sentences = true}));
    evaluation.rouge_l[i] = scores.back().rougeL.fmeasure;
  }
  if (!scores.empty()) evaluation.rouge = mean(scores);
  evaluation.generated_length = static_cast<double>(tokens) / static_cast<double>(examples.size());
  return evaluation;
}

inline void write_predictions(const std::filesystem::path& path,
                              const std::vector<std::string>& predictions) {
  ReplacementFile file(path);
  for (std::string text : predictions) {
    std::ranges::replace(text, '\n', ' ');
    file.write(text + "\n");
  }
  file.commit();
}

}  // namespace srformer::program
