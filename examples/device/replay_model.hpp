// SPDX-License-Identifier: Apache-2.0
// One checkpoint folder of the reference values: logits, losses, gradients, the optimiser's steps and
// the token ids of generate, on the batch in reference.safetensors.
#pragma once

#include <filesystem>
#include <srformer/decode/search.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/train/optimizer.hpp>
#include <srformer/train/schedule.hpp>

#include "../variants.hpp"
#include "replay_results.hpp"

namespace srformer {

/// The batch of a reference file.
inline Batch reference_batch(const SafetensorsFile& file) {
  const auto ids = file.read_ids("input_ids"), mask = file.read_ids("attention_mask"),
             labels = file.read_ids("labels");
  const auto& shape = file.info("input_ids").shape;
  Batch batch;
  batch.rows = shape.at(0), batch.source_width = shape.at(1);
  batch.target_width = file.info("labels").shape.at(1);
  batch.source_ids.assign(ids.begin(), ids.end());
  batch.labels.assign(labels.begin(), labels.end());
  for (index_t b = 0; b < batch.rows; ++b) {
    index_t length = 0;
    for (index_t i = 0; i < batch.source_width; ++i) {
      length += mask[static_cast<std::size_t>(b * batch.source_width + i)] != 0;
    }
    batch.source_lengths.push_back(length);
  }
  return batch;
}

/// Stores the weights of a loaded model in eight bits; only asked for where they can be.
template <class Model>
void store_in_eight_bits(Model& model) {
  if constexpr (can_quantize<typename Model::backend_type, typename Model::scalar>)
    model.parameters().quantize_weights();
}

/// Runs `model` on its reference batch and writes what reference.safetensors holds of results: logits,
/// loss, smoothed_loss, grad/PARAM, losses, step/PARAM, generate/NAME. With weights in eight bits those
/// that need no gradient.
template <class Model>
void replay_model(Model& model, const HfCheckpoint& checkpoint,
                  const std::filesystem::path& out_path, bool eight_bits) {
  using B = typename Model::backend_type;
  using T = typename Model::scalar;
  B& be = model.backend();
  load_parameters(model, checkpoint);
  if (eight_bits) store_in_eight_bits(model);
  const std::filesystem::path folder = checkpoint.folder();

  const SafetensorsFile file(folder / "reference.safetensors");
  const std::string json_path = (folder / "reference.json").string();
  const nlohmann::json reference = read_json_file(json_path);
  const Batch batch = reference_batch(file);
  detail::ReplayResults<T> results;

  const auto tokens = static_cast<double>(std::count_if(batch.labels.begin(), batch.labels.end(),
                                                        [](auto label) { return label >= 0; }));
  const auto loss_of = [&](auto run) {
    auto sum = zeros<accumulate_t<T>, 1>(be, {1});
    run(sum.view());
    return T(compute_t<T>(to_host(be, sum)[0] / tokens));
  };
  results.add("logits", {batch.rows, batch.target_width, model.config().vocab_size},
              to_host(be, model.logits(batch)));
  results.add("smoothed_loss", {}, {loss_of([&](auto sum) { model.add_loss(batch, 0.1, sum); })});
  results.add("loss", {}, {loss_of([&](auto sum) {
                if (eight_bits) return model.add_loss(batch, 0, sum);
                model.add_gradients(batch, {.scale = 1 / tokens}, sum);
              })});
  const auto host = [&](const Parameter<B, T>& p, const T* data) {
    std::vector<T> values(static_cast<std::size_t>(p.count));
    be.to_host(values.data(), data, p.count);
    return values;
  };
  for (const auto& p : model.parameters()) {
    if (!eight_bits) results.add("grad/" + p.name, p.shape, host(p, p.gradient));
  }

  const index_t horizon = json_size(reference, "horizon", json_path);
  const nlohmann::json stored = generation_options(checkpoint);
  for (const auto& [name, options] : reference.at("generate").items()) {
    nlohmann::json asked = stored;
    asked["max_length"] = reference.at("max_length");
    asked.update(options);
    GenerationConfig call = generation_config_from_json(asked, json_path);
    call.horizon = horizon;
    const Generation generated = generate(model, batch.source_ids, batch.source_lengths, call);
    results.add_ids("generate/" + name, generated.sequences, generated.filling);
  }

  if (eight_bits) return results.write(out_path);

  const nlohmann::json& o = reference.at("optimizer");
  AdamW<B, T> optimizer(be, model.parameters(),
                        {.beta1 = o.at("betas").at(0).get<double>(),
                         .beta2 = o.at("betas").at(1).get<double>(),
                         .epsilon = json_field<double>(o, "eps", json_path),
                         .weight_decay = json_field<double>(o, "weight_decay", json_path),
                         .decayed = all_roles(),
                         .max_grad_norm = json_field<double>(o, "max_grad_norm", json_path)});
  const index_t steps = json_size(o, "steps", json_path);
  const Schedule schedule{schedule_from_name(json_field<std::string>(o, "schedule", json_path)),
                          json_field<index_t>(o, "warmup", json_path), steps};
  const double rate = json_field<double>(o, "lr", json_path);
  std::vector<T> losses;
  for (index_t step = 0; step < steps; ++step) {
    model.parameters().zero_gradients();
    losses.push_back(
        loss_of([&](auto sum) { model.add_gradients(batch, {.scale = 1 / tokens}, sum); }));
    optimizer.update(be, model.parameters(), rate * schedule.factor(step), step + 1);
  }
  results.add("losses", {steps}, losses);
  for (const auto& p : model.parameters()) results.add("step/" + p.name, p.shape, host(p, p.value));
  results.write(out_path);
}

/// The same for the model in `folder`, which config.json says.
template <class T, class B>
void replay_model(B& be, const std::filesystem::path& folder, const std::filesystem::path& out_path,
                  bool eight_bits) {
  const HfCheckpoint checkpoint(folder);
  ModelConfig config = model_config(checkpoint);
  if (auto* t5 = std::get_if<T5Config>(&config))
    t5->transformers_statistics = std::is_same_v<T, double>;
  std::visit(
      [&](const auto& c) {
        model_of_t<B, T, std::remove_cvref_t<decltype(c)>, program::ProgramVariants> model(be, c);
        replay_model(model, checkpoint, out_path, eight_bits);
      },
      config);
}

}  // namespace srformer
