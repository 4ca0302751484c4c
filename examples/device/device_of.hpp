// SPDX-License-Identifier: Apache-2.0
// Device, AnyModel and AnyTraining for one backend and scalar.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <srformer/core/hash.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/train/checkpoint.hpp>
#include <type_traits>
#include <utility>

#include "../program.hpp"
#include "../variants.hpp"
#include "any_model.hpp"
#include "rank_communicator.hpp"
#include "replay_attention.hpp"
#include "replay_model.hpp"

namespace srformer::program {

/// `C` is what connects the ranks.
template <class Model, class C>
class TrainingOf final : public AnyTraining {
 public:
  TrainingOf(Model& model, const Examples& examples, const TrainingOptions& options, C communicator)
      : communicator_(std::move(communicator)), trainer_(model, examples, options, communicator_) {}

  StepReport step() override { return trainer_.step(); }
  const TrainingState& state() const override { return trainer_.state(); }
  index_t total_steps() const override { return trainer_.total_steps(); }
  index_t steps_per_epoch() const override { return trainer_.steps_per_epoch(); }
  double take_mean_loss() override { return trainer_.take_mean_loss(); }
  std::vector<double> fit_recurrence() override {
    return trainer_.model().fit_recurrence(trainer_.batches(0).front(), initial_recurrence_share);
  }
  std::vector<double> firing_shares() override {
    const index_t last = std::max<index_t>(trainer_.state().step, 1) - 1;
    return trainer_.model().firing_shares(trainer_.batches(last).back());
  }
  MemoryUse memory() override {
    Model& model = trainer_.model();
    const std::size_t numbers = static_cast<std::size_t>(model.parameters().size());
    MemoryUse use{numbers * sizeof(typename Model::scalar),
                  numbers * sizeof(typename Model::scalar)};
    // With --zero 1 that of this rank.
    trainer_.optimizer().visit_share(model.parameters(), [&](const auto&, const auto&, index_t,
                                                             const auto* values, index_t count) {
      use.optimizer_state += static_cast<std::size_t>(count) * sizeof(*values);
    });
    use.peak = model.backend().pool().peak_bytes();
    return use;
  }
  std::filesystem::path save(const std::filesystem::path& output,
                             const std::function<void(const std::filesystem::path&)>& save_model,
                             index_t total_limit, const nlohmann::json& others,
                             const std::filesystem::path& keep) override {
    return save_training(output, trainer_, save_model, total_limit, others, keep);
  }
  std::vector<std::string> resume(const std::filesystem::path& checkpoint) override {
    return load_training(checkpoint, trainer_);
  }

 private:
  C communicator_;
  Trainer<Model, ChosenOptimizer<typename Model::backend_type, typename Model::scalar>, C> trainer_;
};

template <class B, class T>
class ModelOf final : public AnyModel {
 public:
  using Model = EncoderDecoder<B, T, ProgramVariants>;

  ModelOf(B& be, const ModelConfig& config, bool eight_bits)
      : made_(ProgramArchitectures::make<T, ProgramVariants>(be, config)),
        model_(*made_),
        eight_bits_(eight_bits) {}

  const CommonConfig& config() const override { return model_.config(); }
  index_t size() const override { return model_.parameters().size(); }
  std::vector<ParameterName> parameters() const override {
    std::vector<ParameterName> names;
    for (const auto& p : model_.parameters()) names.push_back({p.name, p.aliases, p.role});
    return names;
  }
  double first_number(const std::string& parameter) override {
    return read_number(model_.backend(), model_.parameters().at(parameter).value);
  }
  std::string fingerprint() override {
    Fnv1a hash;
    std::vector<T> part;
    const auto values = model_.parameters().values();
    for (index_t first = 0; first < model_.parameters().size(); first += std::ssize(part)) {
      part.resize(
          static_cast<std::size_t>(std::min<index_t>(1 << 20, model_.parameters().size() - first)));
      model_.backend().to_host(part.data(), values.data + first, std::ssize(part));
      for (const T& value : part) {
        std::uint64_t bits = 0;
        std::memcpy(&bits, &value, sizeof value);
        hash.add(bits);
      }
    }
    char text[40];
    std::snprintf(text, sizeof text, "a model with values %016llx",
                  static_cast<unsigned long long>(hash.value()));
    return text;
  }
  void initialize_recurrence(const RandomStream& random, double scale) override {
    model_.initialize_recurrence(random, scale);
  }
  std::vector<std::string> load(const HfCheckpoint& checkpoint, bool new_variant) override {
    std::vector<std::string> left_over = load_parameters(model_, checkpoint, new_variant);
    if (eight_bits_) srformer::store_in_eight_bits(model_);
    return left_over;
  }
  void save(const std::filesystem::path& folder, const nlohmann::json& generation) override {
    save_model(model_, folder, *dtype_of<T>, generation);
  }
  double loss_sum(const Batch& batch, double label_smoothing) override {
    auto& be = model_.backend();
    auto sum = zeros<accumulate_t<T>, 1>(be, {1});
    model_.add_loss(batch, label_smoothing, sum.view());
    return static_cast<double>(read_number(be, sum.data()));
  }
  Generation generate(std::span<const std::int32_t> ids, std::span<const index_t> lengths,
                      const GenerationConfig& options, std::uint64_t first_source,
                      const OnToken& on_token) override {
    return srformer::generate(model_, ids, lengths, options, first_source, on_token);
  }
  std::unique_ptr<AnyTraining> train(const Examples& examples, const TrainingOptions& options,
                                     [[maybe_unused]] Ranks& ranks) override {
    if (eight_bits_)
      throw usage_error(
          "weights stored in eight bits cannot be trained; train with --dtype float32");
    if constexpr (std::is_floating_point_v<T>) {
      if (!ranks.several())
        return std::make_unique<TrainingOf<Model, SingleProcess>>(model_, examples, options,
                                                                  SingleProcess());
      using Connection = CommunicatorOfBackend<B>;
      return std::make_unique<TrainingOf<Model, typename Connection::type>>(
          model_, examples, options, Connection::make(model_.backend(), ranks));
    } else {
      throw usage_error("parameters stored in " + srformer::detail::torch_dtype(*dtype_of<T>) +
                        " lose the small steps of the optimizer; train with --dtype float32");
    }
  }

 private:
  std::unique_ptr<Model> made_;
  Model& model_;
  bool eight_bits_;
};

template <class B, class T>
class DeviceOf final : public Device {
 public:
  template <class... Options>
  explicit DeviceOf(Options&&... options) : be_(std::forward<Options>(options)...) {}

  void store_in_eight_bits() override {
    if (!can_quantize<B, T>)
      throw usage_error("weights are stored in eight bits on the CPU and from float32 alone");
    eight_bits_ = true;
  }
  std::unique_ptr<AnyModel> model(const ModelConfig& config) override {
    return std::make_unique<ModelOf<B, T>>(be_, config, eight_bits_);
  }
  void replay(const std::filesystem::path& path, const std::filesystem::path& out) override {
    if (std::filesystem::is_directory(path)) {
      replay_model<T>(be_, path, out, eight_bits_);
    } else if (eight_bits_) {
      throw usage_error(
          "an attention file has no weights to store in eight bits; give a model folder");
    } else {
      replay_attention<T>(be_, path, out);
    }
  }

 private:
  B be_;
  bool eight_bits_ = false;
};

}  // namespace srformer::program
