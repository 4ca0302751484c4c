// SPDX-License-Identifier: Apache-2.0
// The architectures that a program knows, as a list of their configurations. A folder says which one it is by the
// "model_type" of its config.json.
//
//   using Mine = Architectures<T5Config, BartConfig, PegasusConfig>;
//   auto model = Mine::make<float, PaperVariants>(be, Mine::read(checkpoint));
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <variant>

#include <srformer/models/bart.hpp>
#include <srformer/models/t5.hpp>

namespace srformer {

/// What the stored tensors say of a configuration beyond its config.json.
template <ModelConfiguration Config>
void complete_from(const HfCheckpoint& checkpoint, Config& config) {
  config.stored_numbers = checkpoint.stored_numbers();
  if constexpr (requires { config.complete_from(checkpoint); }) config.complete_from(checkpoint);
}

template <ModelConfiguration... Configs>
struct Architectures {
  /// The configuration of any of them.
  using Config = std::variant<Configs...>;

  /// f(std::type_identity<Config>) for each.
  template <class F>
  static void for_each(F f) {
    (f(std::type_identity<Configs>{}), ...);
  }

  /// "t5, bart"
  static std::string names() {
    std::string all;
    ((all += (all.empty() ? "" : ", ") + std::string(Configs::model_type)), ...);
    return all;
  }

  /// config.json by its "model_type"; io_error for one that the list lacks, and as config_from_json.
  static Config read(const nlohmann::json& json, const std::string& path) {
    const std::string type = json_field<std::string>(json, "model_type", path);
    std::optional<Config> found;
    const auto try_one = [&]<class C>(std::type_identity<C>) {
      if (plain_model_type(type) == C::model_type) found.emplace(config_from_json<C>(json, path));
    };
    for_each(try_one);
    if (!found)
      throw io_error(path + ": \"model_type\" is \"" + one_line(type) + "\", expected one of " +
                     names());
    return *std::move(found);
  }

  /// The same of a checkpoint, whose stored tensors may say more than its config.json.
  static Config read(const HfCheckpoint& checkpoint) {
    Config config = read(checkpoint.config(), checkpoint.config_path());
    std::visit([&](auto& c) { complete_from(checkpoint, c); }, config);
    return config;
  }

  /// A model with parameters of T that are still to be loaded or initialised.
  template <class T, class List, class B>
  static std::unique_ptr<EncoderDecoder<B, T, List>> make(B& be, const Config& config) {
    return std::visit(
        [&]<class C>(const C& c) -> std::unique_ptr<EncoderDecoder<B, T, List>> {
          return std::make_unique<typename C::template Model<B, T, List>>(be, c);
        },
        config);
  }
};

using PaperArchitectures = Architectures<T5Config, BartConfig>;

/// What every configuration has, of one whose architecture is told when the program runs.
template <class... Configs>
CommonConfig common(const std::variant<Configs...>& config) {
  return std::visit([](const auto& c) { return c.common(); }, config);
}

}  // namespace srformer
