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
#include "ranks.hpp"
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

/// What evaluations are made with, all but the texts. Batches are dealt out to the ranks and what comes of them is put
/// together in the order of the batches, so that the numbers do not depend on how many ranks there are.
struct Evaluator {
  AnyModel& model;
  const GenerationConfig& generation;
  const FinetuneOptions& options;
  const Tokenizer& tokenizer;
  Console& console;
  Ranks& ranks;

  /// The loss, and with `generate` the summaries and their ROUGE, which rank 0 alone has. Nothing when any rank was
  /// interrupted.
  std::optional<Evaluation> operator()(const TextSet& set, bool generate) const {
    Evaluation evaluation;
    if (set.has_targets()) evaluation.loss = mean_loss(set.with_summaries());
    ranks.agree();
    if (!ranks.going()) return std::nullopt;
    if (!generate) return evaluation;
    const auto outputs = sequences(set.examples);
    if (!outputs) return std::nullopt;
    if (ranks.first()) score(evaluation, set, *outputs);
    return evaluation;
  }

 private:
  using Sequence = std::vector<std::int32_t>;

  EpochOrder order(std::span<const Example> examples) const {
    return EpochOrder(
        example_lengths(examples),
        {.batch_size = options.eval_batch, .shuffle = false, .group_by_length = true});
  }

  /// `ours(i)` for the batches of this rank, until the run is interrupted. Returns what rank 0, 1, ... has made of batches
  /// rank, rank + size, ... as one list in the order of the batches.
  template <class Ours>
  std::vector<nlohmann::json> of_batches(index_t count, Ours ours) const {
    nlohmann::json made = nlohmann::json::array();
    for (index_t i = ranks.rank(); i < count && keep_going(); i += ranks.size())
      made.push_back(ours(i));
    std::vector<nlohmann::json> all(static_cast<std::size_t>(count));
    const std::vector<std::uint8_t> bytes = nlohmann::json::to_cbor(made);
    const auto gathered = ranks.gather(std::string(bytes.begin(), bytes.end()));
    for (std::size_t r = 0; r < gathered.size(); ++r) {
      nlohmann::json part = nlohmann::json::from_cbor(gathered[r]);
      for (std::size_t i = 0; i < part.size(); ++i)
        all.at(r + i * gathered.size()) = std::move(part[i]);
    }
    return all;
  }

  /// Over all labels; of no use when a rank was interrupted.
  double mean_loss(std::span<const Example> examples) const {
    const EpochOrder batches = order(examples);
    const auto sums = of_batches(batches.steps(), [&](index_t i) {
      const Batch batch = make_batch(examples, batches.batch(i), model.config().pad_token_id);
      return nlohmann::json{model.loss_sum(batch, options.label_smoothing), label_count(batch)};
    });
    double sum = 0;
    index_t labels = 0;
    for (const nlohmann::json& batch : sums)
      if (!batch.is_null()) sum += batch[0].get<double>(), labels += batch[1].get<index_t>();
    return sum / static_cast<double>(std::max<index_t>(labels, 1));
  }

  /// What the model makes of each example, in their order.
  std::optional<std::vector<Sequence>> sequences(std::span<const Example> examples) const {
    const EpochOrder batches = order(examples);
    const auto made = of_batches(batches.steps(), [&](index_t i) {
      const Batch batch = make_batch(examples, batches.batch(i), model.config().pad_token_id);
      const auto first = static_cast<std::uint64_t>(i * options.eval_batch);
      console.progress(
          static_cast<double>(i + 1) / static_cast<double>(batches.steps()),
          "generating " + std::to_string(i + 1) + "/" + std::to_string(batches.steps()));
      return nlohmann::json(
          model.generate(batch.source_ids, batch.source_lengths, generation, first).sequences);
    });
    ranks.agree();
    if (!ranks.going()) return std::nullopt;
    std::vector<Sequence> outputs(examples.size());
    for (index_t i = 0; i < batches.steps(); ++i) {
      const nlohmann::json& rows = made[static_cast<std::size_t>(i)];
      for (std::size_t row = 0; row < rows.size(); ++row)
        outputs[static_cast<std::size_t>(batches.batch(i)[row])] = rows[row].get<Sequence>();
    }
    return outputs;
  }

  void score(Evaluation& evaluation, const TextSet& set,
             const std::vector<Sequence>& outputs) const {
    const std::int32_t pad = model.config().pad_token_id;
    index_t tokens = 0;
    std::vector<RougeScores> scores;
    evaluation.rouge_l.resize(outputs.size(), std::nan(""));
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const std::string& text = evaluation.predictions.emplace_back(tokenizer.decode(outputs[i]));
      tokens += std::ranges::count_if(outputs[i], [&](std::int32_t id) { return id != pad; });
      if (set.summaries[i].empty()) continue;
      scores.push_back(rouge(set.summaries[i], text, {.stemmer = true, .split_sentences = true}));
      evaluation.rouge_l[i] = scores.back().rougeL.fmeasure;
    }
    if (!scores.empty()) evaluation.rouge = mean(scores);
    evaluation.generated_length = static_cast<double>(tokens) / static_cast<double>(outputs.size());
  }
};

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
