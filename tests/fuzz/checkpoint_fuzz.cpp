// SPDX-License-Identifier: Apache-2.0
// Any bytes as config.json, generation_config.json or the index of shards, or inside one, by the first byte.
#include <srformer/decode/generation_config.hpp>
#include <srformer/models/architectures.hpp>

#include "fuzz.hpp"

namespace {

using namespace srformer;

void check_config(std::string_view text) {
  const nlohmann::json json = parse_json(text, "config.json");
  if (!json.is_object()) return;
  fuzz::tolerate([&] { generation_config_from_json(json, "config.json"); });
  const PaperArchitectures::Config config = PaperArchitectures::read(json, "config.json");
  // what is saved is read, and saved the same again
  std::visit(
      [](const auto& c) {
        const nlohmann::json saved = to_json(c);
        const PaperArchitectures::Config again = PaperArchitectures::read(saved, "config.json");
        if (std::visit([](const auto& d) { return to_json(d); }, again) != saved) std::abort();
      },
      config);
}

void check_generation_config(std::string_view text) {
  const nlohmann::json json = parse_json(text, "generation_config.json");
  if (!json.is_object()) return;
  const GenerationConfig config = generation_config_from_json(json, "generation_config.json");
  check_generation(config, 100);
  nlohmann::json kept = json;
  drop_idle_options(kept, "generation_config.json");
  generation_config_from_json(kept, "generation_config.json");
}

void check_index(std::string_view text) {
  const std::filesystem::path& folder = fuzz::folder();
  static const bool prepared = [&] {
    fuzz::write(folder / "config.json", "{}");
    SafetensorsWriter writer;
    static const float one = 1;
    writer.add<float>("a", DType::f32, {1}, std::span(&one, 1));
    writer.write(folder / "one.safetensors");
    return true;
  }();
  (void)prepared;
  fuzz::write(folder / "model.safetensors.index.json", text);
  float a = 0;
  const HfCheckpoint checkpoint(folder);
  checkpoint.load(std::vector<TensorSlot>{host_slot("a", {"b"}, {1}, std::span(&a, 1))});
}

void run_checkpoint(std::string_view bytes) {
  if (bytes.empty()) return;
  const std::string text(bytes.substr(1));
  fuzz::tolerate([&] {
    switch (static_cast<std::uint8_t>(bytes[0]) % 8) {
      case 0:
        return check_config(text);
      case 1:
        return check_generation_config(text);
      case 2:
        return check_index(text);
      case 3:
        return check_index("{\"weight_map\":{" + text + "}}");
      case 4:
        return check_generation_config("{" + text + "}");
      case 5:
        return check_config("{\"model_type\":\"bart\"," + text + "}");
      default:
        return check_config("{\"model_type\":\"t5\"," + text + "}");
    }
  });
}

const fuzz::Target checkpoint_target("checkpoint", run_checkpoint);

}  // namespace
