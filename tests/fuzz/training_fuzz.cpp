// SPDX-License-Identifier: Apache-2.0
// Sections of any bytes as trainer_state.json and optimizer.safetensors of a run that goes on; a section
// "header.json" is the header of moments that are all zero, and the first RUN stands for what the run was.
#include <srformer/train/checkpoint.hpp>

#include "fuzz.hpp"
#include "train/bigram_model.hpp"

namespace {

using namespace srformer;

void run_training(std::string_view bytes) {
  static EigenBackend be(1);
  static BigramModel<float> model(be);
  static const std::vector<Example> examples = odd_examples(9);
  static Trainer<BigramModel<float>> trainer(model, examples, {.batch_size = 2, .epochs = 3});
  static constexpr const char* names[] = {"trainer_state.json", "optimizer.safetensors"};
  static const std::string identity = detail::run_identity(trainer).dump();
  std::string whole(bytes);
  if (const std::size_t at = whole.find("RUN"); at != whole.npos) whole.replace(at, 3, identity);
  const auto files = fuzz::sections(bytes);
  if (const auto header = files.find("header.json"); header != files.end()) {
    const std::uint64_t length = header->second.size();
    whole += "\n=== optimizer.safetensors\n" +
             std::string(reinterpret_cast<const char*>(&length), sizeof length);
    whole += std::string(header->second) +
             std::string(2 * sizeof(float) * std::size_t(model.parameters().size()), '\0');
  }
  fuzz::write_sections(whole, names);
  fuzz::tolerate([&] {
    load_training(fuzz::folder(), trainer);
    const TrainingState& state = trainer.state();
    fuzz::expect(state.step >= 0 && state.updates >= 0 && state.updates <= state.step &&
                     state.loss_steps >= 0 && state.loss_steps <= state.step,
                 "the steps contradict each other");
    if (!trainer.done()) trainer.batches(state.step);
    trainer.schedule().factor(state.step);
  });
}

const fuzz::Target training_target("training", run_training);

}  // namespace
