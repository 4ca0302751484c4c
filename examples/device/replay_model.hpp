// SPDX-License-Identifier: Apache-2.0
// One checkpoint folder of the reference values: logits, losses, gradients, the optimiser's steps and
// the token ids of generate, on the batch in reference.safetensors.
#pragma once

#include <filesystem>
#include <srformer/decode/search.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/train/adamw.hpp>
#include <srformer/train/schedule.hpp>
#include <srformer/train/trainer.hpp>

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

namespace detail {

/// What run(sum) adds to a sum, divided by the number of labels.
template <class T, class B, class Run>
T mean_over_labels(B& be, const Batch& batch, Run run) {
  auto sum = zeros<accumulate_t<T>, 1>(be, {1});
  run(sum.view());
  return T(compute_t<T>(to_host(be, sum)[0] / static_cast<double>(label_count(batch))));
}

/// The mean loss of a batch, whose gradient is added to those of the parameters.
template <class Model>
auto replay_gradients(Model& model, const Batch& batch) {
  const double share = 1 / static_cast<double>(label_count(batch));
  return mean_over_labels<typename Model::scalar>(
      model.backend(), batch, [&](auto sum) { model.add_gradients(batch, {.scale = share}, sum); });
}

/// Adds PREFIX/PARAM for every parameter; `member` is its value or its gradient.
template <class Model, class T, class Member>
void add_parameters(Model& model, const std::string& prefix, Member member,
                    ReplayResults<T>& results) {
  for (const auto& p : model.parameters()) {
    std::vector<T> values(static_cast<std::size_t>(p.count));
    model.backend().to_host(values.data(), p.*member, p.count);
    results.add(prefix + "/" + p.name, p.shape, values);
  }
}

/// logits, smoothed_loss, loss, grad/PARAM.
template <class Model, class T>
void replay_losses(Model& model, const Batch& batch, bool eight_bits, ReplayResults<T>& results) {
  auto& be = model.backend();
  const auto loss = [&](double smoothing) {
    return mean_over_labels<T>(be, batch, [&](auto sum) { model.add_loss(batch, smoothing, sum); });
  };
  results.add("logits", {batch.rows, batch.target_width, model.config().vocab_size},
              to_host(be, model.logits(batch)));
  results.add("smoothed_loss", {}, {loss(0.1)});
  if (eight_bits) return results.add("loss", {}, {loss(0)});
  results.add("loss", {}, {replay_gradients(model, batch)});
  add_parameters(model, "grad", &Parameter<typename Model::backend_type, T>::gradient, results);
}

/// generate/NAME for every set of options in the reference.
template <class Model, class T>
void replay_generation(Model& model, const Batch& batch, const HfCheckpoint& checkpoint,
                       const nlohmann::json& reference, const std::string& path,
                       ReplayResults<T>& results) {
  const index_t horizon = json_size(reference, "horizon", path);
  const nlohmann::json stored = generation_options(checkpoint);
  for (const auto& [name, options] : reference.at("generate").items()) {
    nlohmann::json asked = stored;
    asked["max_length"] = reference.at("max_length");
    asked.update(options);
    GenerationConfig call = generation_config_from_json(asked, path);
    call.horizon = horizon;
    const Generation generated = generate(model, batch.source_ids, batch.source_lengths, call);
    results.add_ids("generate/" + name, generated.sequences, generated.filling);
  }
}

/// losses and step/PARAM: the reference's steps of the optimizer `o`, all on the same batch.
template <class Model, class T>
void replay_steps(Model& model, const Batch& batch, const nlohmann::json& o,
                  const std::string& path, ReplayResults<T>& results) {
  using B = typename Model::backend_type;
  B& be = model.backend();
  AdamW<B, T> optimizer(be, model.parameters(),
                        {.beta1 = o.at("betas").at(0).get<double>(),
                         .beta2 = o.at("betas").at(1).get<double>(),
                         .epsilon = json_field<double>(o, "eps", path),
                         .weight_decay = json_field<double>(o, "weight_decay", path),
                         .decayed = all_roles(),
                         .max_grad_norm = json_field<double>(o, "max_grad_norm", path)});
  const index_t steps = json_size(o, "steps", path);
  const Schedule schedule{schedule_from_name(json_field<std::string>(o, "schedule", path)),
                          json_field<index_t>(o, "warmup", path), steps};
  const double rate = json_field<double>(o, "lr", path);
  std::vector<T> losses;
  for (index_t step = 0; step < steps; ++step) {
    model.parameters().zero_gradients();
    losses.push_back(replay_gradients(model, batch));
    optimizer.update(be, model.parameters(), rate * schedule.factor(step), step + 1);
  }
  results.add("losses", {steps}, losses);
  add_parameters(model, "step", &Parameter<B, T>::value, results);
}

}  // namespace detail

/// Runs `model` on its reference batch and writes what reference.safetensors holds of results: logits,
/// loss, smoothed_loss, grad/PARAM, losses, step/PARAM, generate/NAME. With weights in eight bits those
/// that need no gradient.
template <class Model>
void replay_model(Model& model, const HfCheckpoint& checkpoint,
                  const std::filesystem::path& out_path, bool eight_bits) {
  load_parameters(model, checkpoint);
  if (eight_bits) store_in_eight_bits(model);
  const std::filesystem::path folder = checkpoint.folder();
  const SafetensorsFile file(folder / "reference.safetensors");
  const std::string json_path = (folder / "reference.json").string();
  const nlohmann::json reference = read_json_file(json_path);
  const Batch batch = reference_batch(file);

  detail::ReplayResults<typename Model::scalar> results;
  detail::replay_losses(model, batch, eight_bits, results);
  detail::replay_generation(model, batch, checkpoint, reference, json_path, results);
  if (!eight_bits)
    detail::replay_steps(model, batch, reference.at("optimizer"), json_path, results);
  results.write(out_path);
}

/// The same for the model in `folder`, which config.json says.
template <class T, class B>
void replay_model(B& be, const std::filesystem::path& folder, const std::filesystem::path& out_path,
                  bool eight_bits) {
  const HfCheckpoint checkpoint(folder);
  program::ModelConfig config = program::ProgramArchitectures::read(checkpoint);
  const auto set = [](auto& c) {
    if constexpr (requires { c.transformers_statistics; })
      c.transformers_statistics = std::is_same_v<T, double>;
  };
  std::visit(set, config);
  const auto model = program::ProgramArchitectures::make<T, program::ProgramVariants>(be, config);
  replay_model(*model, checkpoint, out_path, eight_bits);
}

}  // namespace srformer
