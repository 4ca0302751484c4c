// SPDX-License-Identifier: Apache-2.0
// A model behind one interface, its backend and scalar chosen when the program runs. The programs are
// written once on this; device_of.hpp compiles it for each pair of backend and scalar.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <srformer/decode/search.hpp>
#include <srformer/train/trainer.hpp>

#include "../architectures.hpp"
#include "../ranks.hpp"

namespace srformer::program {

/// Bytes of a training in the memory of its backend.
struct MemoryUse {
  std::size_t parameters = 0, gradients = 0, optimizer_state = 0;
  std::size_t peak = 0;  ///< the most that was in use at one time, as the backend's pool counts
};

/// Training of a model: train/trainer.hpp and train/checkpoint.hpp.
class AnyTraining {
 public:
  virtual ~AnyTraining() = default;
  virtual StepReport step() = 0;
  virtual const TrainingState& state() const = 0;
  virtual index_t total_steps() const = 0;
  virtual index_t steps_per_epoch() const = 0;
  virtual double take_mean_loss() = 0;
  /// As EncoderDecoder::fit_recurrence, on the first batch, to initial_recurrence_share.
  virtual std::vector<double> fit_recurrence() = 0;
  /// The share of the states of the recurrence that are above their threshold, for each decoder layer, over the last
  /// micro-batch of the last step: EncoderDecoder::firing_shares.
  virtual std::vector<double> firing_shares() = 0;
  /// So far.
  virtual MemoryUse memory() = 0;
  /// As srformer::save_training.
  virtual std::filesystem::path save(
      const std::filesystem::path& output,
      const std::function<void(const std::filesystem::path&)>& save_model, index_t total_limit,
      const nlohmann::json& others, const std::filesystem::path& keep) = 0;
  /// As srformer::load_training.
  virtual std::vector<std::string> resume(const std::filesystem::path& checkpoint) = 0;

  bool done() const { return state().step >= total_steps(); }
};

class AnyModel {
 public:
  using Ids = std::vector<std::int32_t>;

  /// A parameter without its values.
  struct ParameterName {
    std::string name;
    std::vector<std::string> aliases;
    Role role;
  };

  virtual ~AnyModel() = default;
  virtual const CommonConfig& config() const = 0;
  virtual index_t size() const = 0;  ///< all parameters, in numbers
  virtual std::vector<ParameterName> parameters() const = 0;
  virtual double first_number(const std::string& parameter) = 0;
  /// Tells the values of all parameters from others. Reads them all.
  virtual std::string fingerprint() = 0;
  virtual void initialize_recurrence(const RandomStream& random, double scale) = 0;
  /// Returns the names of stored tensors that the model has no use for.
  virtual std::vector<std::string> load(const HfCheckpoint& checkpoint, bool new_variant) = 0;
  virtual void save(const std::filesystem::path& folder, const nlohmann::json& generation) = 0;
  /// The sum over the labels of a batch, without dropout.
  virtual double loss_sum(const Batch& batch, double label_smoothing) = 0;
  /// As srformer::generate.
  virtual Generation generate(std::span<const std::int32_t> ids, std::span<const index_t> lengths,
                              const GenerationConfig& options, std::uint64_t first_source = 0,
                              const OnToken& on_token = {}) = 0;
  /// Throws usage_error for weights that are too narrow to be trained.
  virtual std::unique_ptr<AnyTraining> train(const Examples& examples,
                                             const TrainingOptions& options, Ranks& ranks) = 0;
};

/// A backend and a scalar; models made of it must not outlive it.
class Device {
 public:
  virtual ~Device() = default;
  /// Models keep their weights in eight bits once they are loaded, for generation alone. Throws
  /// usage_error where they cannot.
  virtual void store_in_eight_bits() = 0;
  /// With parameters that are zero.
  virtual std::unique_ptr<AnyModel> model(const ModelConfig& config) = 0;
  /// Runs an attention file or a model folder of the reference values: see replay.cpp.
  virtual void replay(const std::filesystem::path& path, const std::filesystem::path& out) = 0;
};

}  // namespace srformer::program
